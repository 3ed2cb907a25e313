"""``logd-cli group``: list, describe."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from logd.cli.failures import NOT_FOUND, Failure, did_you_mean
from logd.cli.options import Settings, common_options
from logd.cli.output import Thing, show_rows, show_things
from logd.cli.session import with_admin
from logd.errors import ErrorCode, Refused

if TYPE_CHECKING:
    from logd.client import Admin, TopicPartition
    from logd.client.groups import Group


@click.group()
def group() -> None:
    """Show consumer groups and how far behind they are."""


@group.command("list")
@common_options()
@click.pass_obj
def list_groups(settings: Settings) -> None:
    """List the groups of the whole cluster by name."""
    found = with_admin(settings, lambda admin: admin.groups.list())
    rows = [(item.group, item.type, item.state, item.protocol) for item in found]
    show_rows(settings.output, ("group", "type", "state", "protocol"), rows)


@group.command("describe")
@click.argument("names", metavar="GROUP...", nargs=-1, required=True)
@click.option("--members", is_flag=True, help="Show the members first: in a pipe, only them.")
@common_options()
@click.pass_obj
def describe(settings: Settings, names: tuple[str, ...], members: bool) -> None:
    """Show members, committed offsets and lag of groups.

    In a pipe: one line for each partition, with group, topic, partition, committed offset, next offset, lag, member.
    """

    async def run(admin: Admin) -> list[dict[str, Any]]:
        return [await _described(admin, name) for name in names]

    show_things(settings.output, [_shown(fields, members) for fields in with_admin(settings, run)])


def _shown(fields: dict[str, Any], members_first: bool) -> Thing:
    lag = ("lag", ("group", "topic", "partition", "committed", "end", "lag", "member"), _rows(fields, "partitions"))
    who = ("members", ("group", "member", "instance", "client", "host", "partitions"), _rows(fields, "members"))
    return Thing(fields, [who, lag] if members_first else [lag, who])


def _rows(fields: dict[str, Any], key: str) -> list[tuple[Any, ...]]:
    return [(fields["group"], *item.values()) for item in fields[key]]


async def _described(admin: Admin, name: str) -> dict[str, Any]:
    found = await _existing(admin, name)
    committed = await admin.groups.committed(name)
    owners = {at: member.member_id for member in found.members for at in member.partitions}
    partitions = sorted({*committed, *owners})
    ends = await _ends(admin, partitions)
    return {
        "group": found.group,
        "type": found.type,
        "state": found.state,
        "assignor": found.assignor,
        "coordinator": found.coordinator,
        "lag": sum(_lag(ends.get(at), committed.get(at)) or 0 for at in partitions),
        "partitions": [
            {
                "topic": at.topic,
                "partition": at.partition,
                "committed": committed.get(at),
                "end": ends.get(at),
                "lag": _lag(ends.get(at), committed.get(at)),
                "member": owners.get(at),
            }
            for at in partitions
        ],
        "members": [
            {
                "member": member.member_id,
                "instance": member.instance_id,
                "client": member.client_id,
                "host": member.host,
                "partitions": [str(at) for at in member.partitions],
            }
            for member in found.members
        ],
    }


def _lag(end: int | None, committed: int | None) -> int | None:
    return max(end - committed, 0) if end is not None and committed is not None else None


async def _existing(admin: Admin, name: str) -> Group:
    try:
        return await admin.groups.describe(name)
    except Refused as error:
        if error.code != ErrorCode.GROUP_ID_NOT_FOUND:
            raise
    known = [item.group for item in await admin.groups.list()]
    count = f"the cluster has {len(known)} group{'' if len(known) == 1 else 's'}, none of that name"
    hint = did_you_mean(name, known)
    why = f"{count}; {hint}" if hint else count
    raise Failure(f"group {name!r} does not exist", why, "logd-cli group list", NOT_FOUND)


async def _ends(admin: Admin, partitions: list[TopicPartition]) -> dict[TopicPartition, int]:
    """The next offset of each partition that still exists."""
    from logd.client.offsets import LATEST

    if not partitions:
        return {}
    topics = await admin.topics.describe(sorted({at.topic for at in partitions}))
    there = [
        at for at in partitions if not isinstance(info := topics[at.topic], Refused) and at.partition in info.partitions
    ]
    return {at: found.offset for at, found in (await admin.offsets(dict.fromkeys(there, LATEST))).items()}
