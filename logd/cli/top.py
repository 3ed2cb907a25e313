"""``logd-cli top``: a live screen of a cluster: rates by topic, the slowest groups.

Asks what any Kafka server answers: next offsets and sizes twice, and the rates are the difference. The lag in seconds
comes from logd, or from the records at the committed offsets.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click
import msgspec

from logd.cli.lag import lags
from logd.cli.options import Amount, Settings, common_options, examples
from logd.cli.output import Thing, chosen, show_things
from logd.cli.places import bounds_of, chosen_partitions
from logd.cli.session import with_admin

if TYPE_CHECKING:
    from logd.client import Admin
    from logd.client.own import GroupLag

TOPIC_COLUMNS = ("topic", "partitions", "records_s", "bytes_s", "records", "bytes")
GROUP_COLUMNS = ("group", "state", "members", "lag", "seconds", "records_s")
ROWS_MAX = 200
"""In the output that is not a screen."""


class Sample(msgspec.Struct):
    """What was seen at one moment (seconds of a clock that only goes on)."""

    at_s: float
    cluster: str
    brokers: int
    partitions: dict[str, int]
    starts: dict[str, int]
    ends: dict[str, int]
    sizes: dict[str, int]
    groups: dict[str, Any]


@click.command(epilog=examples("logd-cli top", "logd-cli top --once -o json | jq '.groups[0]'"))
@click.option("--every", type=Amount(min=0.1), default=2.0, show_default=True, help="Seconds between looks.")
@click.option("--once", is_flag=True, help="Two looks, one answer; what a pipe or a dumb terminal gets.")
@click.option("-n", "--rows", type=click.IntRange(min=1), help="Topics and groups to show.  [default: what fits]")
@common_options()
@click.pass_obj
def top(settings: Settings, every: float, once: bool, rows: int | None) -> None:
    """Watch topics and groups: records and bytes per second, lag, the slowest groups first. q ends it.

    In a pipe, or with --once: one line for each topic, with topic, partitions, records per second, bytes per second,
    records, bytes; -o json has the groups too.
    """
    if not once and chosen(settings.output) == "table" and _has_a_screen():
        with_admin(settings, lambda admin: _watch(admin, every, rows))
        return
    fields = with_admin(settings, lambda admin: _once(admin, every))
    shown = rows or ROWS_MAX
    topics = [tuple(item.values()) for item in fields["topics"][:shown]]
    groups = [tuple(item.values()) for item in fields["groups"][:shown]]
    tables = [("topics", TOPIC_COLUMNS, topics), ("groups", GROUP_COLUMNS, groups)]
    show_things(settings.output, [Thing(fields, tables)])


def _has_a_screen() -> bool:
    """Whether stdout is a terminal that can draw one picture over another."""
    return sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"


async def _once(admin: Admin, every_s: float) -> dict[str, Any]:
    import trio

    before = await look(admin)
    await trio.sleep(every_s)
    return compared(before, await look(admin))


async def look(admin: Admin) -> Sample:
    """One look at everything."""
    from logd.client import NotSupported
    from logd.errors import Refused

    topics = await admin.topics.list(internal=True)
    led = [
        at
        for info in topics.values()
        if any(part.leader >= 0 for part in info.partitions.values())
        for at in chosen_partitions(info, [index for index, part in info.partitions.items() if part.leader >= 0])
    ]
    first, last = await bounds_of(admin, led)
    at_s = time.monotonic()
    sizes: dict[str, int] = {}
    try:
        for at, size in (await admin.sizes_bytes()).items():
            sizes[at.topic] = sizes.get(at.topic, 0) + size
    except (NotSupported, Refused):
        sizes = {}
    groups = await lags(admin, None)
    metadata = admin.router.metadata
    starts, ends = dict.fromkeys(topics, 0), dict.fromkeys(topics, 0)
    for at in led:
        starts[at.topic] += first[at]
        ends[at.topic] += last[at]
    counts = {name: len(info.partitions) for name, info in topics.items()}
    by_name: dict[str, Any] = {item.group: item for item in groups}
    return Sample(at_s, metadata.cluster_id or "", len(metadata.brokers), counts, starts, ends, sizes, by_name)


def compared(before: Sample, after: Sample) -> dict[str, Any]:
    """The rates between two looks: busiest topics first, slowest groups first."""
    elapsed_s = max(after.at_s - before.at_s, 0.001)

    def rate(new: Mapping[str, int], old: Mapping[str, int], name: str) -> float:
        return round(max(new.get(name, 0) - old.get(name, new.get(name, 0)), 0) / elapsed_s, 1)

    topics: list[dict[str, Any]] = [
        {
            "topic": name,
            "partitions": count,
            "records_s": rate(after.ends, before.ends, name),
            "bytes_s": rate(after.sizes, before.sizes, name),
            "records": after.ends[name] - after.starts[name],
            "bytes": after.sizes.get(name),
        }
        for name, count in after.partitions.items()
    ]
    topics.sort(key=lambda item: (-item["records_s"], -item["records"], item["topic"]))
    groups: list[dict[str, Any]] = [
        {
            "group": name,
            "state": item.state,
            "members": item.members,
            "lag": item.lag,
            "seconds": None if item.lag_ms is None else item.lag_ms / 1000,
            "records_s": round(_consumed(before.groups.get(name), item) / elapsed_s, 1),
        }
        for name, item in after.groups.items()
    ]
    groups.sort(key=lambda item: (-(item["seconds"] or 0), -(item["lag"] or 0), item["group"]))
    return {
        "cluster": after.cluster,
        "brokers": after.brokers,
        "records_s": round(sum(item["records_s"] for item in topics), 1),
        "bytes_s": round(sum(item["bytes_s"] for item in topics), 1),
        "topics": topics,
        "groups": groups,
    }


def _consumed(before: GroupLag | None, after: GroupLag) -> int:
    """By how much the committed offsets went on."""
    if before is None:
        return 0
    old = {item.at: item.committed for item in before.partitions if item.committed is not None}
    now = {item.at: item.committed for item in after.partitions if item.committed is not None}
    return max(sum(offset - old.get(at, offset) for at, offset in now.items()), 0)


class Looker:
    """Looks again and again: each answer has the rates since the one before."""

    def __init__(self, admin: Admin) -> None:
        self._admin = admin
        self._before: Sample | None = None

    async def look(self) -> Mapping[str, Any]:
        """What there is now. :raises ClientError, Refused: the server does not say."""
        before, self._before = self._before, await look(self._admin)
        return compared(before or self._before, self._before)


async def _watch(admin: Admin, every_s: float, rows: int | None) -> None:
    """The screen, until a key ends it."""
    from logd.cli.screen import Watch

    await Watch(Looker(admin).look, every_s, rows).run()
