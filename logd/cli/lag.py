"""``logd-cli group lag``: how far groups are behind, in records and in seconds.

logd tells both itself. Another server is asked for offsets, and for the records at them: their age is the lag in
seconds. Used by ``group describe`` and ``top`` too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from logd.cli.completion import group_names
from logd.cli.failures import FAILED, Failure, typed
from logd.cli.options import Amount, Settings, common_options, examples
from logd.cli.output import show_rows
from logd.cli.places import bounds_of, now_ms
from logd.cli.session import with_admin
from logd.errors import ErrorCode, Refused

if TYPE_CHECKING:
    from logd.client import Admin, TopicPartition
    from logd.client.groups import Group
    from logd.client.own import GroupLag, Lagging

AGES_LIMIT_S = 5.0
"""How long the records at the committed offsets are read for; those that did not come have no age."""

PARTITION_COLUMNS = ("group", "topic", "partition", "committed", "end", "lag", "seconds", "member")
TOTAL_COLUMNS = ("group", "state", "members", "lag", "seconds")


@click.command(
    "lag", epilog=examples("logd-cli group lag --total", "logd-cli group lag billing --max-lag 1000 --max-seconds 60")
)
@click.argument("names", metavar="[GROUP]...", nargs=-1, shell_complete=group_names)
@click.option("--total", is_flag=True, help="One line for each group: the sum of the lag, the longest of the times.")
@click.option("--max-lag", type=click.IntRange(min=0), metavar="RECORDS", help="Fail when a group is further behind.")
@click.option("--max-seconds", type=Amount(min=0), metavar="SECONDS", help="Fail when a group is later.")
@common_options()
@click.pass_obj
def lag(
    settings: Settings, names: tuple[str, ...], total: bool, max_lag: int | None, max_seconds: float | None
) -> None:
    """Show how far groups are behind: all groups, or those that are named.

    In a pipe: one line for each partition, with group, topic, partition, committed offset, next offset, lag in
    records, the age of the next record in seconds, and the member that reads it; with --total one line for each
    group, with group, state, members, lag and seconds. With --max-lag or --max-seconds it is a check: exit code 1
    when a group is over the limit.
    """
    found = with_admin(settings, lambda admin: lags(admin, names or None))
    if total:
        rows = [(item.group, item.state, item.members, item.lag, _seconds(item.lag_ms)) for item in found]
        show_rows(settings.output, TOTAL_COLUMNS, rows)
    else:
        parts = [(item.group, *partition_fields(part).values()) for item in found for part in item.partitions]
        nothing = "no groups" if not found else "nothing is committed, and no member has a partition"
        show_rows(settings.output, PARTITION_COLUMNS, parts, nothing=nothing)
    _judge(found, max_lag, max_seconds)


def _judge(found: Sequence[GroupLag], max_lag: int | None, max_seconds: float | None) -> None:
    over = [item for item in found if max_lag is not None and (item.lag or 0) > max_lag]
    late = [item for item in found if max_seconds is not None and (item.lag_ms or 0) > max_seconds * 1000]
    if over or late:
        told = [f"{item.group} is {item.lag} records behind" for item in over]
        told += [f"{item.group} is {_seconds(item.lag_ms)} s behind" for item in late]
        names = dict.fromkeys(item.group for item in over + late)
        what = f"{len(names)} of {len(found)} group{'' if len(found) == 1 else 's'} over the limit"
        raise Failure(what, "; ".join(told), f"logd-cli why group {typed(next(iter(names)))}", FAILED)


def _seconds(time_ms: int | None) -> float | None:
    return None if time_ms is None else time_ms / 1000


def partition_fields(item: Lagging) -> dict[str, Any]:
    """One partition of a group as it is shown."""
    return {
        "topic": item.at.topic,
        "partition": item.at.partition,
        "committed": item.committed,
        "end": item.end,
        "lag": item.lag,
        "seconds": _seconds(item.lag_ms),
        "member": item.member or None,
    }


async def lags(admin: Admin, names: Sequence[str] | None) -> list[GroupLag]:
    """The lag of these groups, or of all, by name. :raises Failure: one of them does not exist."""
    from logd.cli.groups import existing_group

    if await admin.own.offered():
        found = await admin.own.lag(names)
        for name, item in found.items():
            if isinstance(item, Refused):
                if item.code == ErrorCode.GROUP_ID_NOT_FOUND:
                    await existing_group(admin, name)
                raise item
        return [item for item in found.values() if not isinstance(item, Refused)]
    if names is None:
        consumers = [item.group for item in await admin.groups.list() if item.protocol in ("consumer", "")]
        return await lags_of(admin, [await admin.groups.describe(name) for name in consumers])
    return await lags_of(admin, [await existing_group(admin, name) for name in dict.fromkeys(names)])


async def lags_of(admin: Admin, groups: Iterable[Group]) -> list[GroupLag]:
    """The lag of groups that are known to exist."""
    described = list(groups)
    if await admin.own.offered():
        found = await admin.own.lag([group.group for group in described])
        return [_there(found[group.group]) for group in described]
    return [await _computed(admin, group) for group in described]


def _there(item: GroupLag | Refused) -> GroupLag:
    if isinstance(item, Refused):
        raise item
    return item


async def _computed(admin: Admin, group: Group) -> GroupLag:
    """The lag of a group at a server that does not tell it."""
    from logd.client.own import GroupLag, Lagging

    committed = await admin.groups.committed(group.group)
    owners = {at: member for member in group.members for at in member.partitions}
    partitions = sorted({*committed, *owners})
    first, last = await bounds_of(admin, await there(admin, partitions))
    behind = {at: offset for at, offset in committed.items() if at in last and last[at] > offset}
    ages = await _ages(admin, {at: max(offset, first[at]) for at, offset in behind.items()}, last)
    found = []
    for at in partitions:
        owner = owners.get(at)
        distance = max(last[at] - committed[at], 0) if at in last and at in committed else None
        found.append(
            Lagging(
                at,
                committed.get(at),
                None,
                first.get(at),
                last.get(at),
                distance,
                0 if distance == 0 else ages.get(at),
                owner.member_id if owner is not None else "",
                owner.client_id if owner is not None else "",
                owner.host if owner is not None else "",
            )
        )
    known = [item.lag for item in found if item.lag is not None]
    times = [item.lag_ms for item in found if item.lag_ms is not None]
    return GroupLag(
        group.group,
        group.type,
        group.state,
        len(group.members),
        sum(known) if known else None,
        max(times, default=None),
        tuple(found),
    )


async def there(admin: Admin, partitions: Sequence[TopicPartition]) -> list[TopicPartition]:
    """Those of the partitions that still exist and have a leader."""
    if not partitions:
        return []
    topics = await admin.topics.describe(sorted({at.topic for at in partitions}))
    found = []
    for at in partitions:
        info = topics[at.topic]
        if (
            not isinstance(info, Refused)
            and at.partition in info.partitions
            and info.partitions[at.partition].leader >= 0
        ):
            found.append(at)
    return found


async def _ages(
    admin: Admin, positions: Mapping[TopicPartition, int], last: Mapping[TopicPartition, int]
) -> dict[TopicPartition, int]:
    """How old the record at each position is, in milliseconds."""
    import trio

    from logd.client import Consumer, ConsumerSettings, TopicPartition

    if not positions:
        return {}
    found: dict[TopicPartition, int] = {}
    ends = {at: min(position + 1, last[at]) for at, position in positions.items()}
    settings = ConsumerSettings(partition_bytes_max=16 << 10, fetch_bytes_max=4 << 20)
    now = now_ms()
    with trio.move_on_after(AGES_LIMIT_S):
        async with Consumer(admin.router, positions=positions, ends=ends, settings=settings) as consumer:
            async for record in consumer:
                found.setdefault(TopicPartition(record.topic, record.partition), max(now - record.timestamp_ms, 0))
    return found
