"""Which committed offsets, and which groups, nobody needs any more: PURE (KIP-211).

Called by the machine when its sweep is due. It only looks; the machine writes the tombstones.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

import msgspec

from logd.coordinators.effects import Record, one_batch
from logd.coordinators.group import Group, Phase
from logd.coordinators.offsets import Committed, Offsets, expired, tombstone
from logd.coordinators.rebalance import GroupLimits
from logd.wire.schemas.group_records import GroupMetadataKey


class Swept(msgspec.Struct, frozen=True):
    """What a sweep found.

    :param groups: empty groups of which nothing is left.
    :param whole: False when there was more than fits one batch: sweep again soon.
    """

    records: tuple[Record, ...]
    groups: tuple[Group, ...]
    whole: bool


def sweep(groups: Collection[Group], offsets: Offsets, limits: GroupLimits, now_ms: int) -> Swept:
    """Tombstones for the offsets past their time, and for the groups that are then empty of both."""
    records, whole = one_batch(_gone(groups, offsets, limits, now_ms), limits.sweep_records_max)
    ended = {record.key.group for record in records if isinstance(record.key, GroupMetadataKey)}
    return Swept(records, tuple(group for group in groups if group.group_id in ended), whole)


def _gone(groups: Iterable[Group], offsets: Offsets, limits: GroupLimits, now_ms: int) -> Iterator[Record]:
    for group in groups:
        gone, kept = _offsets_of(group, offsets, limits, now_ms)
        yield from gone
        if not (kept or group.phase is not Phase.EMPTY or group.pending or offsets.has_open(group.group_id)):
            yield Record(GroupMetadataKey(group.group_id))


def _offsets_of(group: Group, offsets: Offsets, limits: GroupLimits, now_ms: int) -> tuple[list[Record], bool]:
    """Tombstones of the group's expired offsets, and whether any offset stays."""
    gone: list[Record] = []
    kept = False
    counts_from = _idle_since(group)
    for topic, partition, held in _held(group, offsets):
        stays = (
            counts_from is None
            or group.subscribes(topic)
            or not expired(held, counts_from if counts_from >= 0 else None, now_ms, limits.retention_ms)
            or offsets.unstable(group.group_id, topic, partition)
        )
        kept = kept or stays
        if not stays:
            gone.append(tombstone(group.group_id, topic, partition))
    return gone, kept


def _idle_since(group: Group) -> int | None:
    """From when its offsets age: since it is empty; -1: each since its commit; None: they do not age now."""
    if group.protocol_type is None:
        return -1
    if group.phase is Phase.EMPTY:
        return group.since_ms
    if group.phase is Phase.STABLE and group.is_consumer() and group.subscribed is not None:
        return -1
    return None


def _held(group: Group, offsets: Offsets) -> Iterator[tuple[str, int, Committed]]:
    for topic, partitions in offsets.groups.get(group.group_id, {}).items():
        for partition, held in partitions.items():
            yield topic, partition, held
