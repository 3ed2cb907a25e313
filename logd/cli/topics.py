"""``logd-cli topic``: list, create, describe, alter, delete."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from logd.cli.failures import FAILED, PARTLY_FAILED, USAGE, Failure, from_refused, unknown_topic
from logd.cli.options import Settings, common_options, confirm
from logd.cli.output import Thing, note, show_rows, show_things
from logd.cli.session import existing_topic, with_admin
from logd.errors import ErrorCode, Refused

if TYPE_CHECKING:
    from logd.client import Admin, TopicPartition
    from logd.client.metadata import TopicInfo


@click.group()
def topic() -> None:
    """Make, show, change and delete topics."""


@topic.command("list")
@click.option("--internal", is_flag=True, help="Show the server's own topics too.")
@common_options()
@click.pass_obj
def list_topics(settings: Settings, internal: bool) -> None:
    """List the topics by name."""
    found = with_admin(settings, lambda admin: admin.topics.list(internal=internal))
    rows = [(item.name, len(item.partitions), _replicas(item), item.internal) for item in found.values()]
    show_rows(settings.output, ("topic", "partitions", "replicas", "internal"), rows)


def _replicas(item: TopicInfo) -> int:
    return max((len(part.replicas) for part in item.partitions.values()), default=0)


def parse_configs(values: Sequence[str]) -> dict[str, str]:
    """``key=value`` arguments as a mapping; a failure for one that is not of that form."""
    found: dict[str, str] = {}
    for text in values:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise Failure(f"--config {text!r} is wrong", "it must be KEY=VALUE", "--config retention.ms=3600000", USAGE)
        found[name.strip()] = value
    return found


@topic.command("create")
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@click.option("-p", "--partitions", type=click.IntRange(min=1), help="How many.  [default: the server's]")
@click.option("-r", "--replicas", type=click.IntRange(min=1), help="Of each partition.  [default: the server's]")
@click.option("-c", "--config", "configs", metavar="KEY=VALUE", multiple=True, help="A setting; may be repeated.")
@click.option("--if-not-exists", is_flag=True, help="A topic that exists already is no error.")
@click.option("--dry-run", is_flag=True, help="Let the server check it, but create nothing.")
@common_options()
@click.pass_obj
def create(
    settings: Settings,
    names: tuple[str, ...],
    partitions: int | None,
    replicas: int | None,
    configs: tuple[str, ...],
    if_not_exists: bool,
    dry_run: bool,
) -> int:
    """Create topics."""
    values = parse_configs(configs)
    unique = list(dict.fromkeys(names))

    async def run(admin: Admin) -> dict[str, Refused | None]:
        from logd.client import NewTopic

        wanted = [NewTopic(name, partitions or -1, replicas or -1, values) for name in unique]
        return await admin.topics.create(wanted, validate_only=dry_run)

    outcome = with_admin(settings, run)
    for name, error in outcome.items():
        if if_not_exists and error is not None and error.code == ErrorCode.TOPIC_ALREADY_EXISTS:
            note(f"topic {name!r} exists already")
            outcome[name] = None
    return settle("create", outcome, "could be created" if dry_run else "created", "logd-cli topic list")


def settle(verb: str, outcome: Mapping[str, Refused | None], done: str, remedy: str) -> int:
    """Tell what was done, then fail if something was not: partly, when something was."""
    failed = {name: error for name, error in outcome.items() if error is not None}
    for name in outcome:
        if name not in failed:
            note(f"topic {name!r} {done}")
    if not failed:
        return 0
    failures = [from_refused(error, f"cannot {verb} topic {name!r}", remedy) for name, error in failed.items()]
    if len(failed) == len(outcome) == 1:
        raise failures[0]
    codes = {failure.code for failure in failures}
    code = PARTLY_FAILED if len(failed) < len(outcome) else codes.pop() if len(codes) == 1 else FAILED
    why = "; ".join(f"{name}: {failure.why}" for name, failure in zip(failed, failures, strict=True))
    raise Failure(f"cannot {verb} {len(failed)} of {len(outcome)} topics", why, remedy, code)


@topic.command("describe")
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@click.option("--all-configs", is_flag=True, help="Show every setting, not only those that differ from the default.")
@common_options()
@click.pass_obj
def describe(settings: Settings, names: tuple[str, ...], all_configs: bool) -> None:
    """Show partitions, leaders, offsets and settings of topics.

    In a pipe: one line for each partition, with topic, partition, leader, epoch, replicas, in-sync replicas, first
    offset, next offset, and the number of offsets between.
    """

    async def run(admin: Admin) -> list[dict[str, Any]]:
        return [await _described(admin, await existing_topic(admin, name), all_configs) for name in names]

    show_things(settings.output, [_shown(fields) for fields in with_admin(settings, run)])


def _shown(fields: dict[str, Any]) -> Thing:
    columns = ("topic", "partition", "leader", "epoch", "replicas", "in_sync", "start", "end", "records")
    rows = [(fields["topic"], *part.values()) for part in fields["partitions"]]
    configs = [tuple(item.values()) for item in fields["configs"]]
    return Thing(fields, [("partitions", columns, rows), ("settings", ("name", "value", "source"), configs)])


async def _described(admin: Admin, info: TopicInfo, all_configs: bool) -> dict[str, Any]:
    starts, ends = await _bounds(admin, info)
    configs = await admin.configs.of_topic(info.name)
    return {
        "topic": info.name,
        "id": info.id.hex(),
        "internal": info.internal,
        "partitions": [
            {
                "partition": part.index,
                "leader": part.leader,
                "epoch": part.leader_epoch,
                "replicas": part.replicas,
                "in_sync": part.in_sync,
                "start": starts.get(part.index),
                "end": ends.get(part.index),
                "records": ends[part.index] - starts[part.index] if part.index in ends else None,
            }
            for part in info.partitions.values()
        ],
        "configs": [
            {"name": item.name, "value": item.value, "source": item.source}
            for item in configs.values()
            if all_configs or item.source == "topic"
        ],
    }


async def _bounds(admin: Admin, info: TopicInfo) -> tuple[dict[int, int], dict[int, int]]:
    """First and next offset of each partition that has a leader."""
    from logd.client import TopicPartition
    from logd.client.offsets import EARLIEST, LATEST

    led: list[TopicPartition] = [
        TopicPartition(info.name, part.index) for part in info.partitions.values() if part.leader >= 0
    ]
    starts = await admin.offsets(dict.fromkeys(led, EARLIEST))
    ends = await admin.offsets(dict.fromkeys(led, LATEST))
    return (
        {at.partition: found.offset for at, found in starts.items()},
        {at.partition: found.offset for at, found in ends.items()},
    )


@topic.command("alter")
@click.argument("name")
@click.option("-p", "--partitions", type=click.IntRange(min=1), help="The new number; it can only grow.")
@click.option("-c", "--config", "configs", metavar="KEY=VALUE", multiple=True, help="Set this; may be repeated.")
@click.option("--unset", metavar="KEY", multiple=True, help="Back to the server's default; may be repeated.")
@click.option("--dry-run", is_flag=True, help="Let the server check it, but change nothing.")
@common_options()
@click.pass_obj
def alter(
    settings: Settings,
    name: str,
    partitions: int | None,
    configs: tuple[str, ...],
    unset: tuple[str, ...],
    dry_run: bool,
) -> None:
    """Change settings of a topic, or give it more partitions."""
    values = parse_configs(configs)
    if partitions is None and not values and not unset:
        remedy = f"logd-cli topic alter {name} --config retention.ms=3600000"
        raise Failure("nothing to change", "neither --partitions nor --config nor --unset is given", remedy, USAGE)

    async def run(admin: Admin) -> None:
        await existing_topic(admin, name)
        remedy = f"logd-cli topic describe {name} --all-configs"
        try:
            if values or unset:
                await admin.configs.alter_topic(name, values, unset, validate_only=dry_run)
            if partitions is not None:
                error = (await admin.topics.grow({name: partitions}, validate_only=dry_run))[name]
                if error is not None:
                    raise error
        except Refused as error:
            raise from_refused(error, f"cannot alter topic {name!r}", remedy) from None

    with_admin(settings, run)
    note(f"topic {name!r} {'could be altered' if dry_run else 'altered'}")


@topic.command("delete")
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@click.option("--dry-run", is_flag=True, help="Show what would be deleted, but delete nothing.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask for the name.")
@common_options()
@click.pass_obj
def delete(settings: Settings, names: tuple[str, ...], dry_run: bool, yes: bool) -> int:
    """Delete topics with all records in them."""
    unique = list(dict.fromkeys(names))

    async def look(admin: Admin) -> list[tuple[str, int, int]]:
        found = []
        for name in unique:
            info = await _find(admin, name, len(unique) > 1)
            if info is not None:
                starts, ends = await _bounds(admin, info)
                found.append((name, len(info.partitions), sum(ends.values()) - sum(starts.values())))
        return found

    rows = with_admin(settings, look)
    if dry_run:
        show_rows(settings.output, ("topic", "partitions", "records"), rows)
        return 0
    confirm("delete topic" if len(unique) == 1 else "delete the topics", unique, yes)
    outcome = with_admin(settings, lambda admin: admin.topics.delete(unique))
    return settle("delete", outcome, "deleted", "logd-cli topic list")


async def _find(admin: Admin, name: str, one_of_many: bool) -> TopicInfo | None:
    """The topic; one of many that is missing is left to the server's answer, so that the others are still deleted."""
    found = (await admin.topics.describe([name]))[name]
    if isinstance(found, Refused):
        if not one_of_many and found.code == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION:
            raise unknown_topic(name, await admin.topics.list())
        return None
    return found
