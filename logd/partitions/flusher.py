"""Flushes and checkpoints: the jobs of all partitions that want them, run by threads of their own.

All appends that arrive while a flush runs share the next one (group commit), and so do those that one turn of the
event loop brings. The threads are the flusher's and not trio's, since a job is short and its hand-over would cost more
than the job. The flusher belongs to the node, partitions ask it with :meth:`Flusher.schedule`. It never decides when
data must be flushed, only does it.
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, NamedTuple

import trio

from logd import threads
from logd.errors import Corrupt, StorageFailed

if TYPE_CHECKING:
    from logd.log.flush import FlushJob
    from logd.partitions.partition import Partition


class Work(NamedTuple):
    """A job, and the partition that it is for."""

    partition: Partition
    job: FlushJob


class _Ended(NamedTuple):
    """What became of a job; ``well`` is False without a ``failure`` when there is a bug in it."""

    work: Work
    well: bool
    failure: StorageFailed | None


class Flusher:
    """Runs the flush jobs of all partitions of a node.

    :param threads_max: jobs that run side by side, so that the file system can join their flushes; asked again for
        each job, so that it can change (``background.threads``).
    """

    def __init__(self, threads_max: Callable[[], int]) -> None:
        self._threads_max = threads_max
        self._threads = 0
        self._short = False
        """Whether not all threads could be started."""
        self._running = 0
        self._busy: set[Partition] = set()
        self._wanted: deque[Partition] = deque()
        self._work: SimpleQueue[tuple[Work, trio.lowlevel.TrioToken] | None] = SimpleQueue()
        self._ended: deque[_Ended] = deque()
        self._wake = trio.Event()
        self._token: trio.lowlevel.TrioToken | None = None

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled; what has begun then ends first."""
        self._token = trio.lowlevel.current_trio_token()
        task_status.started()
        try:
            while True:
                await self._woken()
                self._take_in()
                self._hand_out(self._token)
        finally:
            self._token = None
            with trio.CancelScope(shield=True):
                while self._running:
                    await self._woken()
                    self._take_in()
            for _ in range(self._threads):
                self._work.put(None)

    async def _woken(self) -> None:
        """Wait until there is something to do, or threads may be had again that are missing."""
        if self._short:
            with trio.move_on_after(threads.RETRY_S):
                await self._wake.wait()
            self._staff()
        else:
            await self._wake.wait()
        self._wake = trio.Event()

    def schedule(self, partition: Partition) -> None:
        """See to it that everything appended so far reaches the disk."""
        if partition in self._busy or self._token is None:
            return
        self._busy.add(partition)
        self._wanted.append(partition)
        self._wake.set()

    def _hand_out(self, token: trio.lowlevel.TrioToken) -> None:
        threads_max = self._threads_max()
        while self._threads > max(threads_max, self._running):
            self._threads -= 1
            self._work.put(None)
        while self._wanted and self._running < threads_max:
            partition = self._wanted.popleft()
            job = self._next_job(partition)
            if job is None:
                self._busy.discard(partition)
                continue
            self._running += 1
            partition.thread_enters()
            self.begin(Work(partition, job), token)

    def _next_job(self, partition: Partition) -> FlushJob | None:
        try:
            return partition.next_job()
        except (StorageFailed, Corrupt) as why:
            failure = why if isinstance(why, StorageFailed) else StorageFailed(why.path, OSError(errno.EIO, str(why)))
            partition.log.fail(failure)  # what it was to flush is forgotten: the next open finds it
            partition.fail(failure)
            return None

    def begin(self, work: Work, token: trio.lowlevel.TrioToken) -> None:
        """Have :meth:`perform` called by a thread; the simulation puts its own in this place."""
        self._staff()
        self._work.put((work, token))

    def _staff(self) -> None:
        """Start the threads that are missing; where there are none to be had, what waits for them is tried again."""
        self._short = False
        while self._threads < self._running:
            try:
                Thread(target=self._serve, name="logd flush", daemon=True).start()
            except RuntimeError as error:
                if not threads.lacking(error):
                    raise
                self._short = True
                return
            self._threads += 1

    def _serve(self) -> None:
        """In a thread: run jobs until there are none for ever."""
        while (given := self._work.get()) is not None:
            self.perform(*given)

    def perform(self, work: Work, token: trio.lowlevel.TrioToken) -> None:
        """Run a job, and have the event loop told what became of it."""
        well, failed = False, None
        try:
            work.job.run()
            well = True
        except StorageFailed as failure:
            failed = failure
        finally:
            self._ended.append(_Ended(work, well, failed))
            with suppress(trio.RunFinishedError):  # another's word was enough for the loop to end
                token.run_sync_soon(self._wake_up, idempotent=True)

    def _wake_up(self) -> None:
        self._wake.set()

    def _take_in(self) -> None:
        """Tell the partitions what has been done for them; each may want more at once."""
        while self._ended:
            (partition, job), well, failure = self._ended.popleft()
            self._running -= 1
            partition.thread_leaves()
            if failure is not None:
                partition.fail(failure)
                self._busy.discard(partition)
            elif well:
                partition.job_done(job)
                self._wanted.append(partition)
            else:
                raise RuntimeError(f"the flush of {partition!r} ended with an error that is a bug")
