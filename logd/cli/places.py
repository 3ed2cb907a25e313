"""From where `--offset` says to offsets of partitions: asks the server for first and last offsets and for times.

Used by every command that takes `--offset` (consume, tail, trim, seek); the language itself is in ``where``.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from logd.cli.failures import NOT_FOUND, USAGE, Failure
from logd.cli.output import note
from logd.cli.where import END, RANGE, START, TAIL, TIME, Where, meant, parse_where

if TYPE_CHECKING:
    from logd.client import Admin, TopicPartition
    from logd.client.metadata import TopicInfo

Offsets = dict["TopicPartition", int]

NUMBER = re.compile(r"[0-9]{1,18}")
"""A partition or an offset; what is longer fits into no request."""


def now_ms() -> int:
    """The time of this machine, in milliseconds since 1970."""
    return time.time_ns() // 1_000_000


def where_option(text: str, *, ranges: bool = False) -> Where:
    """What `--offset` says. :raises Failure: it says nothing that is known, or a range where none is meant."""
    try:
        return parse_where(text, now_ms(), ranges=ranges)
    except ValueError as error:
        raise Failure("the command line is wrong", str(error), f"--offset {meant(text) or '@-1h'}", USAGE) from None


def chosen_partitions(info: TopicInfo, wanted: Sequence[int]) -> list[TopicPartition]:
    """These partitions of the topic, or all. :raises Failure: it has no such partition."""
    from logd.client import TopicPartition

    for index in wanted:
        if index not in info.partitions:
            why = f"it has {len(info.partitions)}, numbered from 0"
            what = f"topic {info.name!r} has no partition {index}"
            raise Failure(what, why, f"logd-cli topic describe {info.name}", NOT_FOUND)
    return [TopicPartition(info.name, index) for index in dict.fromkeys(wanted or info.partitions)]


def topic_or_partition(text: str) -> tuple[str, int | None]:
    """What TOPIC or TOPIC/PARTITION names. :raises Failure: what stands behind the stroke is no number."""
    topic, slash, index = text.rpartition("/")
    if not slash:
        return text, None
    if NUMBER.fullmatch(index) is None:
        why = "what stands behind the / is no number"
        raise Failure(f"{text!r} names no partition", why, f"write TOPIC/PARTITION, as in {topic}/0", USAGE)
    return topic, int(index)


async def bounds_of(
    admin: Admin, partitions: Iterable[TopicPartition], *, committed_only: bool = False
) -> tuple[Offsets, Offsets]:
    """First and next offset of each partition."""
    from logd.client.offsets import EARLIEST, LATEST

    asked = list(partitions)
    if not asked:
        return {}, {}
    starts = await admin.offsets(dict.fromkeys(asked, EARLIEST))
    ends = await admin.offsets(dict.fromkeys(asked, LATEST), committed_only=committed_only)
    return (
        {at: found.offset for at, found in starts.items()},
        {at: found.offset for at, found in ends.items()},
    )


async def resolve(
    admin: Admin,
    where: Where,
    first: Mapping[TopicPartition, int],
    last: Mapping[TopicPartition, int],
    tell: Callable[[str], None] = note,
) -> Offsets:
    """The offset that `where` means in each partition whose first and next offsets are given.

    An offset that is not there becomes the nearest that is, which `tell` is told.
    """
    if where.kind == START:
        return dict(first)
    if where.kind == END:
        return dict(last)
    if where.kind == TAIL:
        return {at: max(end - where.value, first[at]) for at, end in last.items()}
    if where.kind == TIME:
        return await _at(admin, where.value, last)
    return {at: within(at, where, first[at], last[at], tell) for at in first}


async def stop_before(admin: Admin, where: Where, last: Mapping[TopicPartition, int]) -> Offsets | None:
    """Where a range ends in each partition: it is what is there of it now. None where it has no end."""
    if where.end is None:
        return None
    if where.kind == TIME:
        return await _at(admin, where.end, last)
    return {at: min(where.end, end) for at, end in last.items()}


async def _at(admin: Admin, time_ms: int, last: Mapping[TopicPartition, int]) -> Offsets:
    """The first offset of that time or later, the next one where there is none."""
    found = await admin.offsets(dict.fromkeys(last, time_ms))
    return {at: min(answer.offset, last[at]) if answer.offset >= 0 else last[at] for at, answer in found.items()}


def within(at: TopicPartition, where: Where, first: int, last: int, tell: Callable[[str], None] = note) -> int:
    """The wanted offset, or the nearest that is there."""
    wanted = where.value
    if wanted < first and (wanted or where.kind != RANGE):
        tell(f"{at}: offset {wanted} is gone, the first one is {first}")
    if wanted > last:
        tell(f"{at}: offset {wanted} is not there yet, the next one is {last}")
    return min(max(wanted, first), last)
