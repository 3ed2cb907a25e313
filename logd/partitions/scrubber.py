"""A slow look at all that is stored: reads sealed segments from the disk and checks every batch, so that rot is found.

One task of the node. Each segment is read once in ``log.scrub.interval.ms``, at no more than
``log.scrub.bytes.per.second``, in a worker thread. What is wrong is named by file and position, once, and repaired by
nobody here: a read refuses damaged batches by itself. The segment that is written to is left alone.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING

import trio

from logd.errors import Corrupt, StorageFailed
from logd.log.disk import PASSING
from logd.log.segment import Segment

if TYPE_CHECKING:
    from logd.clock import Clock
    from logd.cluster.cluster import Cluster
    from logd.partitions.partition import Partition
    from logd.partitions.table import PartitionTable

logger = logging.getLogger("logd.scrubber")

LOOK_EVERY_S = 5.0
PIECE_BYTES = 1024 * 1024


class Scrubber:
    """The scrubbing task of one node. ``found`` counts the damaged segments."""

    def __init__(self, partitions: PartitionTable, cluster: Cluster, clock: Clock) -> None:
        self._partitions = partitions
        self._cluster = cluster
        self._clock = clock
        self._looked_ms: dict[str, int] = {}
        """When each segment was begun with, by path; before that the time counts since it was written last."""
        self._damaged: set[str] = set()
        self.checked_bytes = 0

    @property
    def found(self) -> int:
        """How many segments are damaged, of those that are there."""
        return len(self._damaged)

    async def run(self) -> None:
        """Look every now and then, until cancelled."""
        while True:
            await trio.sleep(LOOK_EVERY_S)
            await self.look()

    async def look(self) -> None:
        """Read all that is due."""
        there: set[str] = set()
        for partition in self._partitions:
            for segment in self._sealed(partition):
                there.add(segment.log_path)
                if self._due(segment) and partition.failure is None:
                    self._looked_ms[segment.log_path] = self._clock.now_ms()
                    await self._scrub(partition, segment)
            await trio.lowlevel.checkpoint()
        self._damaged &= there
        self._looked_ms = {path: at for path, at in self._looked_ms.items() if path in there}

    def _sealed(self, partition: Partition) -> Iterator[Segment]:
        return (one for one in partition.log.segments[:-1] if one.finished and one.size)

    def _due(self, segment: Segment) -> bool:
        interval_ms = self._cluster.settings.log_scrub_interval_ms
        looked_ms = self._looked_ms.get(segment.log_path, segment.changed_ms)
        return 0 <= interval_ms <= abs(self._clock.now_ms() - looked_ms)  # written under a clock that was wrong, say

    async def _scrub(self, partition: Partition, segment: Segment) -> None:
        log, path = partition.log, segment.log_path
        offset = segment.base_offset
        try:
            while segment in log.segments and partition.failure is None:
                offset = max(offset, log.start_offset)  # which DeleteRecords may move at any time
                if offset >= segment.next_offset:
                    break
                pieces = log.read(offset, bytes_max=PIECE_BYTES, end=segment.next_offset)
                if not pieces or not pieces[0].size:
                    break
                piece = pieces[0]
                await partition.in_thread(piece.load)
                self.checked_bytes += piece.size
                if piece.next_offset <= offset:
                    break
                offset = piece.next_offset
                await trio.sleep(piece.size / self._cluster.settings.log_scrub_bytes_per_second)
        except (Corrupt, StorageFailed) as why:
            if isinstance(why, StorageFailed) and why.cause.errno in PASSING:  # no descriptor, say
                del self._looked_ms[path]
            elif segment in log.segments and partition.failure is None and path not in self._damaged:
                self._damaged.add(path)
                logger.error("partition %r: stored data is damaged: %s", partition, why)
        else:
            self._damaged.discard(path)
