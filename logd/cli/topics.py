"""``logd-cli topic``: list, create, describe, alter, delete, trim."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from logd.cli.completion import topic_names
from logd.cli.configs import check_unset, parse_configs, unknown_setting
from logd.cli.failures import USAGE, Failure, did_you_mean, from_refused, unknown_topic
from logd.cli.options import PARTITIONS_MAX, REPLICAS_MAX, Settings, common_options, confirm, examples
from logd.cli.outcomes import settle, tell
from logd.cli.output import Thing, note, show_rows, show_things
from logd.cli.places import bounds_of, chosen_partitions, resolve, where_option
from logd.cli.session import existing_topic, with_admin
from logd.cli.where import PLACES
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
    """List the topics by name.

    In a pipe: one line for each, with topic, partitions, replicas, and whether it is the server's own.
    """
    rows = [row for row in _listed(settings) if internal or not row[-1]]
    show_rows(settings.output, ("topic", "partitions", "replicas", "internal"), rows)


def _listed(settings: Settings) -> list[tuple[str, int, int, bool]]:
    """Name, partitions, replicas and internal of every topic, without trio where the server answers at once."""
    from logd.cli.quick import LIMIT_S, NoAnswer, metadata

    try:
        answer = metadata(settings.bootstrap, min(LIMIT_S, settings.timeout_s))
    except NoAnswer:  # asked again by the client that knows what is wrong
        found = with_admin(settings, lambda admin: admin.topics.list(internal=True))
        return [(item.name, len(item.partitions), _replicas(item), item.internal) for item in found.values()]
    return sorted(
        (
            item.name or "",
            len(item.partitions),
            max((len(part.replica_nodes) for part in item.partitions), default=0),
            item.is_internal,
        )
        for item in answer.topics
    )


def _replicas(item: TopicInfo) -> int:
    return max((len(part.replicas) for part in item.partitions.values()), default=0)


@topic.command("create", epilog=examples("logd-cli topic create orders -p 6 -c retention.ms=604800000"))
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@click.option("-p", "--partitions", type=click.IntRange(1, PARTITIONS_MAX), help="How many.  [default: the server's]")
@click.option(
    "-r", "--replicas", type=click.IntRange(1, REPLICAS_MAX), help="Of each partition.  [default: the server's]"
)
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
    remedy = _remedy(outcome, values)
    return settle(settings, "topic", "create", outcome, "could be created" if dry_run else "created", remedy)


def _remedy(outcome: Mapping[str, Refused | None], values: Mapping[str, str]) -> str:
    """What to do about the first topic that was not made."""
    from logd.config.topics import TOPIC_DEFINITIONS

    name, error = next(((name, error) for name, error in outcome.items() if error is not None), ("", None))
    if error is None:
        return ""
    if error.code == ErrorCode.TOPIC_ALREADY_EXISTS:
        return f"logd-cli topic describe {name}; --if-not-exists makes it no error"
    if error.code == ErrorCode.INVALID_CONFIG:
        meant = [did_you_mean(key, TOPIC_DEFINITIONS) for key in values if key not in TOPIC_DEFINITIONS]
        return " ".join(filter(None, meant)) or "logd-cli config get topic NAME --doc tells what settings there are"
    return {
        ErrorCode.INVALID_TOPIC_EXCEPTION: "use letters, digits, '.', '_' and '-', at most 249 of them",
        ErrorCode.INVALID_REPLICATION_FACTOR: "logd-cli cluster info tells how many brokers there are",
    }.get(error.code, "logd-cli topic create --help")


@topic.command("describe")
@click.argument("names", metavar="NAME...", nargs=-1, required=True, shell_complete=topic_names)
@click.option("--all-configs", is_flag=True, help="Show every setting, not only those that differ from the default.")
@common_options()
@click.pass_obj
def describe(settings: Settings, names: tuple[str, ...], all_configs: bool) -> None:
    """Show partitions, leaders, offsets and settings of topics.

    In a pipe: one line for each partition, with topic, partition, leader, epoch, replicas, in-sync replicas, first
    offset, next offset, and the number of offsets between.
    """

    async def run(admin: Admin) -> list[dict[str, Any]]:
        found = [await existing_topic(admin, name) for name in dict.fromkeys(names)]
        return [await _described(admin, info, all_configs) for info in found]

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
    """First and next offset of each partition that has a leader, by its number."""
    led = [index for index, part in info.partitions.items() if part.leader >= 0]
    starts, ends = await bounds_of(admin, chosen_partitions(info, led) if led else ())
    return {at.partition: offset for at, offset in starts.items()}, {at.partition: end for at, end in ends.items()}


@topic.command(
    "alter",
    epilog=examples(
        "logd-cli topic alter orders -p 12 -c retention.ms=86400000", "logd-cli topic alter orders --unset retention.ms"
    ),
)
@click.argument("name", shell_complete=topic_names)
@click.option("-p", "--partitions", type=click.IntRange(1, PARTITIONS_MAX), help="The new number; it can only grow.")
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
        from logd.client.configs import Resource

        await existing_topic(admin, name)
        await check_unset(admin, Resource("topic", name), unset)
        if partitions is not None:  # before anything is changed: it is done whole, or not at all
            await _grow(admin, name, partitions, validate_only=True)
        if values or unset:
            try:
                await admin.configs.alter_topic(name, values, unset, validate_only=dry_run)
            except Refused as error:
                raise await unknown_setting(admin, Resource("topic", name), [*values, *unset], error) from None
        if partitions is not None and not dry_run:
            await _grow(admin, name, partitions, validate_only=False)

    with_admin(settings, run)
    done = "could be altered" if dry_run else "altered"
    note(f"topic {name!r} {done}")
    tell(settings, "topic", {name: done})


async def _grow(admin: Admin, name: str, partitions: int, *, validate_only: bool) -> None:
    """Give a topic so many partitions. :raises Failure: the server refuses it."""
    refusal = (await admin.topics.grow({name: partitions}, validate_only=validate_only))[name]
    if refusal is not None:
        raise from_refused(refusal, f"cannot alter topic {name!r}", f"logd-cli topic describe {name}")


@topic.command("delete", epilog=examples("logd-cli topic delete orders --dry-run"))
@click.argument("names", metavar="NAME...", nargs=-1, required=True, shell_complete=topic_names)
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
            info = await _find(admin, name, len(unique) > 1 and not dry_run)
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
    return settle(settings, "topic", "delete", outcome, "deleted", "logd-cli topic list")


async def _find(admin: Admin, name: str, one_of_many: bool) -> TopicInfo | None:
    """The topic; one of many that is missing is left to the server's answer, so that the others are still deleted."""
    found = (await admin.topics.describe([name]))[name]
    if isinstance(found, Refused):
        if not one_of_many and found.code == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION:
            raise unknown_topic(name, await admin.topics.list())
        return None
    return found


@topic.command("trim", epilog=examples("logd-cli topic trim orders --offset @-7d --dry-run"))
@click.argument("name", shell_complete=topic_names)
@click.option("--offset", "where", required=True, metavar="WHERE", help=f"What lies before is deleted: {PLACES}.")
@click.option("-p", "--partition", "partitions", type=click.IntRange(min=0), multiple=True, help="Only these.")
@click.option("--dry-run", is_flag=True, help="Show what would be deleted, but delete nothing.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask for the name.")
@common_options()
@click.pass_obj
def trim(settings: Settings, name: str, where: str, partitions: tuple[int, ...], dry_run: bool, yes: bool) -> int:
    """Delete the oldest records of a topic, up to an offset or a time.

    In a pipe: one line for each partition, with topic, partition, first offset before and after, records deleted.
    """
    place = where_option(where)

    async def look(admin: Admin) -> list[tuple[TopicPartition, int, int]]:
        info = await existing_topic(admin, name)
        wanted = chosen_partitions(info, partitions)
        first, last = await bounds_of(admin, wanted)
        targets = await resolve(admin, place, first, last)
        return [(at, first[at], min(max(targets[at], first[at]), last[at])) for at in wanted]

    found = with_admin(settings, look)
    columns = ("topic", "partition", "start", "new_start", "records")
    rows = [(name, at.partition, start, target, target - start) for at, start, target in found]
    if not dry_run and any(target > start for _, start, target in found):
        confirm("delete the oldest records of topic", [name], yes, inside=False)
        before = {at: target for at, start, target in found if target > start}
        outcome = with_admin(settings, lambda admin: admin.topics.trim(before))
        failed = {str(at): error for at, error in outcome.items() if isinstance(error, Refused)}
        if failed:
            all_of_them: dict[str, Refused | None] = {str(at): failed.get(str(at)) for at in outcome}
            return settle(settings, "partition", "trim", all_of_them, "trimmed", f"logd-cli topic describe {name}")
    show_rows(settings.output, columns, rows)
    return 0
