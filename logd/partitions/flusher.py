"""Flushes and checkpoints: one loop for each partition that wants them, the waiting done by worker threads.

All appends that arrive while a flush runs share the next one (group commit). The flusher belongs to the node,
partitions ask it with :meth:`Flusher.schedule`. It never decides when data must be flushed, only does it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from logd.errors import StorageFailed

if TYPE_CHECKING:
    from logd.partitions.partition import Partition


class Flusher:
    """Runs the flush jobs of all partitions of a node."""

    def __init__(self, threads_max: int) -> None:
        self._limiter = trio.CapacityLimiter(threads_max)
        self._busy: set[Partition] = set()
        self._nursery: trio.Nursery | None = None

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            await trio.sleep_forever()

    def schedule(self, partition: Partition) -> None:
        """See to it that everything appended so far reaches the disk."""
        if partition in self._busy or self._nursery is None:
            return
        self._busy.add(partition)
        self._nursery.start_soon(self._flush, partition)

    async def _flush(self, partition: Partition) -> None:
        try:
            while (job := partition.next_job()) is not None:
                await partition.in_thread(job.run, self._limiter)
                partition.job_done(job)
        except StorageFailed as failure:
            partition.fail(failure)
        finally:
            self._busy.discard(partition)
