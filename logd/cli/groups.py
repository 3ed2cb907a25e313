"""``logd-cli group``: list, describe, delete."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from logd.cli.completion import group_names
from logd.cli.failures import FAILED, NOT_FOUND, Failure, did_you_mean, typed
from logd.cli.lag import lags_of, partition_fields
from logd.cli.options import Settings, common_options, confirm
from logd.cli.outcomes import settle
from logd.cli.output import Thing, show_rows, show_things
from logd.cli.session import with_admin
from logd.errors import ErrorCode, Refused

if TYPE_CHECKING:
    from logd.client import Admin
    from logd.client.groups import Group


@click.command("list")
@common_options()
@click.pass_obj
def list_groups(settings: Settings) -> None:
    """List the groups of the whole cluster by name.

    In a pipe: one line for each, with group, type, state and protocol.
    """
    found = with_admin(settings, lambda admin: admin.groups.list())
    rows = [(item.group, item.type, item.state, item.protocol) for item in found]
    show_rows(settings.output, ("group", "type", "state", "protocol"), rows)


@click.command("describe")
@click.argument("names", metavar="GROUP...", nargs=-1, required=True, shell_complete=group_names)
@click.option("--members", is_flag=True, help="Show the members first: in a pipe, only them.")
@common_options()
@click.pass_obj
def describe(settings: Settings, names: tuple[str, ...], members: bool) -> None:
    """Show members, committed offsets and lag of groups.

    In a pipe: one line for each partition, with group, topic, partition, committed offset, next offset, lag, the age
    of the next record in seconds, and the member that reads it.
    """

    async def run(admin: Admin) -> list[dict[str, Any]]:
        return [await _described(admin, name) for name in dict.fromkeys(names)]

    show_things(settings.output, [_shown(fields, members) for fields in with_admin(settings, run)])


def _shown(fields: dict[str, Any], members_first: bool) -> Thing:
    columns = ("group", "topic", "partition", "committed", "end", "lag", "seconds", "member")
    lag = ("lag", columns, _rows(fields, "partitions"))
    who = ("members", ("group", "member", "instance", "client", "host", "partitions"), _rows(fields, "members"))
    return Thing(fields, [who, lag] if members_first else [lag, who])


def _rows(fields: dict[str, Any], key: str) -> list[tuple[Any, ...]]:
    return [(fields["group"], *item.values()) for item in fields[key]]


async def _described(admin: Admin, name: str) -> dict[str, Any]:
    found = await existing_group(admin, name)
    (behind,) = await lags_of(admin, [found])
    return {
        "group": found.group,
        "type": found.type,
        "state": found.state,
        "assignor": found.assignor,
        "coordinator": found.coordinator,
        "lag": behind.lag or 0,
        "seconds": None if behind.lag_ms is None else behind.lag_ms / 1000,
        "partitions": [partition_fields(item) for item in behind.partitions],
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


async def existing_group(admin: Admin, name: str) -> Group:
    """The group, or a failure that names the nearest ones."""
    try:
        return await admin.groups.describe(name)
    except Refused as error:
        if error.code != ErrorCode.GROUP_ID_NOT_FOUND:
            raise
    listed = await admin.groups.list()
    known = [item.group for item in listed]
    if kind := next((item.type or item.protocol for item in listed if item.group == name), None):
        why = f"it is of type {kind}: only consumer groups, and what they have committed, can be looked at and changed"
        raise Failure(f"group {name!r} is no consumer group", why, "logd-cli group list", FAILED)
    count = f"the cluster has {len(known)} group{'' if len(known) == 1 else 's'}, none of that name"
    hint = did_you_mean(name, known)
    why = f"{count}; {hint}" if hint else count
    raise Failure(f"group {name!r} does not exist", why, "logd-cli group list", NOT_FOUND)


@click.command("delete")
@click.argument("names", metavar="GROUP...", nargs=-1, required=True, shell_complete=group_names)
@click.option("--dry-run", is_flag=True, help="Show what would be deleted, but delete nothing.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask for the name.")
@common_options()
@click.pass_obj
def delete(settings: Settings, names: tuple[str, ...], dry_run: bool, yes: bool) -> int:
    """Delete groups that have no members, with their committed offsets."""
    unique = list(dict.fromkeys(names))

    async def look(admin: Admin) -> list[tuple[str, str, int, int]]:
        found = [await existing_group(admin, name) for name in unique] if dry_run or len(unique) == 1 else []
        return [
            (item.group, item.state, len(item.members), len(await admin.groups.committed(item.group))) for item in found
        ]

    rows = with_admin(settings, look)
    if dry_run:
        show_rows(settings.output, ("group", "state", "members", "offsets"), rows)
        return 0
    confirm("delete group" if len(unique) == 1 else "delete the groups", unique, yes)
    outcome = with_admin(settings, lambda admin: admin.groups.delete(unique))
    remedy = "logd-cli group list"
    busy = [name for name, error in outcome.items() if error is not None and error.code == ErrorCode.NON_EMPTY_GROUP]
    if busy:
        remedy = f"stop its members; logd-cli group describe {typed(busy[0])} --members tells who they are"
    return settle(settings, "group", "delete", outcome, "deleted", remedy)
