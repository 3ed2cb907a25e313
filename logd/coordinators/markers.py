"""Writes the markers that end transactions: the one way into the partitions' logs, and to the groups whose offsets
they decide.

Owns nothing. Called by the transaction coordinator and by WriteTxnMarkers; a marker of `__consumer_offsets` goes
through the group shard of that partition, so that what it decides counts at once, all others to the partition.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import msgspec
import trio

from logd.coordinators.front import TOPIC
from logd.errors import ErrorCode, Refused, StorageFailed

if TYPE_CHECKING:
    from logd.coordinators.front import GroupCoordinator
    from logd.partitions.partition import Partition
    from logd.partitions.table import PartitionTable

TopicPartition = tuple[str, int]

AT_ONCE = 50
"""How many markers are written between two checkpoints of the loop: a transaction may have any number of partitions."""


class Marker(msgspec.Struct, frozen=True):
    """The end of one producer's transaction.

    :param coordinator_epoch: of the coordinator that decided it; an older one is refused.
    :param transaction_version: transaction.version of the transaction.
    """

    producer_id: int
    producer_epoch: int
    committed: bool
    coordinator_epoch: int
    transaction_version: int = 0


class MarkerWriter:
    """Markers for the partitions that this node leads."""

    def __init__(self, partitions: PartitionTable, groups: GroupCoordinator) -> None:
        self._partitions = partitions
        self._groups = groups

    async def write_all(self, marker: Marker, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, ErrorCode]:
        """Append all, then wait until each is committed; a code for each."""
        codes: dict[TopicPartition, ErrorCode] = {}
        waiting: list[tuple[TopicPartition, Partition, int]] = []
        for number, place in enumerate(partitions, 1):
            if number % AT_ONCE == 0:
                await trio.lowlevel.checkpoint()
            codes[place] = ErrorCode.NONE
            try:
                partition, offset = self._write(marker, *place)
                waiting.append((place, partition, offset))
            except Refused as refused:
                codes[place] = refused.code
        for place, partition, offset in waiting:
            try:
                await partition.committed.wait(offset)
            except (Refused, StorageFailed) as why:
                codes[place] = why.code if isinstance(why, Refused) else ErrorCode.KAFKA_STORAGE_ERROR
        return codes

    def _write(self, marker: Marker, topic: str, index: int) -> tuple[Partition, int]:
        partition = self._partitions.get(topic, index)
        if partition is None:
            raise Refused(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, f"there is no partition {topic}-{index}")

        def append() -> int:
            return partition.append_marker(
                marker.producer_id,
                marker.producer_epoch,
                committed=marker.committed,
                coordinator_epoch=marker.coordinator_epoch,
                transaction_version=marker.transaction_version,
            ).next_offset

        if topic != TOPIC:
            return partition, append()
        offset = 0

        def append_here() -> int:
            nonlocal offset
            offset = append()
            return offset

        shard = self._groups.shard_at(index)
        shard.end_transaction((marker.producer_id, marker.producer_epoch), marker.committed, append_here)
        return partition, offset
