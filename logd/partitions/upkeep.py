"""What partitions need while nobody asks: flushes by time, rolls by age, retention, checkpoints, files to remove.

One task of the node, in short steps with a checkpoint after each partition. The rules are the log's and the jobs'; here
is only when they are looked at. Whatever waits for the disk runs in a worker thread.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Protocol

import trio

from logd.errors import Corrupt, StorageFailed
from logd.partitions.partition import Partition

if TYPE_CHECKING:
    from logd.clock import Clock
    from logd.cluster.cluster import Cluster
    from logd.partitions.table import PartitionTable

logger = logging.getLogger("logd.upkeep")

LOOK_EVERY_S = 1.0
PARTITIONS_A_STEP = 32
"""Partitions that are looked at before others get their turn."""

RECOVERY_BYTES_MAX = 512 * 1024 * 1024
"""What a start after a crash has to read of all partitions together, beside what comes in while they are flushed.

A disk reads it in some seconds, a page cache gives it in less than one.
"""


class Retain(Protocol):
    """The retention job of one partition: yields what a worker thread has to run."""

    def __call__(self, held: Partition, now_ms: int, *, delete: bool) -> Iterator[Callable[[], None]]: ...


class Upkeep:
    """The housekeeping task of one node."""

    def __init__(self, partitions: PartitionTable, cluster: Cluster, clock: Clock, retain: Retain) -> None:
        self._partitions = partitions
        self._cluster = cluster
        self._clock = clock
        self._retain_job = retain
        now_ms = clock.now_ms()
        self._retained_ms = now_ms
        self._checkpointed_ms = now_ms

    async def run(self) -> None:
        """Look at everything once a second, until cancelled."""
        while True:
            await trio.sleep(LOOK_EVERY_S)
            await self.look()

    async def look(self) -> None:
        """One round over all partitions."""
        settings = self._cluster.settings
        now_ms = self._clock.now_ms()
        retain = not 0 <= now_ms - self._retained_ms < settings.log_retention_check_interval_ms
        checkpoint = not 0 <= now_ms - self._checkpointed_ms < settings.log_flush_offset_checkpoint_interval_ms
        if retain:
            self._retained_ms = now_ms
        if checkpoint:
            self._checkpointed_ms = now_ms
            await self._partitions.remember_known()
        await self._partitions.keep_room()
        self._partitions.put_aside(self._cluster.image)
        await self._partitions.open_missing()
        for number, partition in enumerate(self._partitions):
            if partition.failure is None:
                try:
                    await self._look_at(partition, now_ms, retain, checkpoint)
                except StorageFailed as failure:
                    partition.hindered(failure)
                except Corrupt as corrupt:
                    partition.unreadable(corrupt)
            if number % PARTITIONS_A_STEP == 0:
                await trio.lowlevel.checkpoint()
        self.bound_recovery()

    def bound_recovery(self) -> None:
        """Have recovery points made where they spare the next start the most, once it would have too much to read.

        A log makes its own each time so much was written to it; a thousand of them must not have to read a thousand
        times that.
        """
        sizes = {one: one.log.checkpoints.since_point_bytes for one in self._partitions if one.failure is None}
        excess_bytes = sum(sizes.values()) - RECOVERY_BYTES_MAX
        for partition in sorted(sizes, key=sizes.__getitem__, reverse=True) if excess_bytes > 0 else ():
            partition.want_recovery_point()
            excess_bytes -= sizes[partition]
            if excess_bytes <= 0:
                return

    async def _look_at(self, partition: Partition, now_ms: int, retain: bool, checkpoint: bool) -> None:
        log = partition.log
        if retain:
            self._roll(partition, now_ms)
            if partition.failure is None:
                await self._retain(partition, now_ms)
            if partition.failure is not None:
                return
        log.note_flushed()
        if log.flush_due(now_ms):
            partition.want_flush()
        if checkpoint:
            partition.want_checkpoint()
            if log.checkpoints.missed:  # deleted segments above the last one stay, and may be what fills the disk
                partition.want_recovery_point()
        removal = log.removal(now_ms)
        if removal is not None:
            await partition.in_thread(removal.run)

    def _roll(self, partition: Partition, now_ms: int) -> None:
        """Seal a segment that is old enough; where that cannot be, the old ones may go all the same."""
        try:
            if partition.log.roll_due(now_ms):
                partition.log.roll(now_ms)
        except StorageFailed as failure:
            partition.hindered(failure)
        except Corrupt as corrupt:
            partition.unreadable(corrupt)

    async def _retain(self, partition: Partition, now_ms: int) -> None:
        start_offset = partition.log.start_offset
        for work in self._retain_job(partition, now_ms, delete="delete" in partition.config.cleanup_policy):
            await partition.in_thread(work)
            if partition.failure is not None:
                return
        if partition.log.start_offset > start_offset:
            logger.info("%r: retention takes offsets %d to %d", partition, start_offset, partition.log.start_offset)
            partition.want_checkpoint()
