"""When logs are compacted: one task of the node that looks every ``log.cleaner.backoff.ms`` for the dirtiest.

What is dirty and how it is cleaned is the job's to say; here its steps are taken one after the other, on the event
loop and in worker threads, one log at a time. A log that cannot be cleaned is named once and left alone until the
next start. It never reads data.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from operator import itemgetter
from typing import TYPE_CHECKING, Protocol

import trio

from logd import threads
from logd.errors import Corrupt, StorageFailed, WorkerLost
from logd.log.disk import PASSING
from logd.partitions.partition import Partition

if TYPE_CHECKING:
    from logd.clock import Clock
    from logd.cluster.cluster import Cluster
    from logd.partitions.table import PartitionTable

logger = logging.getLogger("logd.compactor")

LOOK_EVERY_S = 1.0
SEGMENTS_MIN = 2
"""With only the active segment there is nothing to clean."""
TRIES_MAX = 3
"""So often in a row may the worker fail with one log."""


class Job(Protocol):
    """The compaction job; see :class:`logd.jobs.compaction.Compaction`."""

    def prepare(self, held: Partition) -> Callable[[], None] | None: ...

    def dirtiness(self, held: Partition, now_ms: int) -> float: ...

    def clean(
        self, held: Partition, now_ms: int, stop: Callable[[], bool] | None = None
    ) -> Iterator[Callable[[], None]]: ...

    def dirt(self, held: Partition, now_ms: int) -> Dirt: ...


class Dirt(Protocol):
    """What there is to clean in a log."""

    @property
    def first_dirty(self) -> int: ...

    @property
    def end_offset(self) -> int: ...

    @property
    def clean_bytes(self) -> int: ...

    @property
    def dirty_bytes(self) -> int: ...


class Worker(Protocol):
    """The worker process; see :class:`logd.jobs.process.WorkerProcess`."""

    @property
    def passed_bytes(self) -> int: ...

    def take_on(self) -> None: ...

    def interrupt(self) -> None: ...

    def rest(self) -> None: ...

    def end(self) -> None: ...


Hire = Callable[[], tuple[Job, Worker]]


class Compactor:
    """The compacting task of one node. ``hire`` makes job and worker when they are first needed."""

    def __init__(self, partitions: PartitionTable, cluster: Cluster, clock: Clock, hire: Hire) -> None:
        self._partitions = partitions
        self._cluster = cluster
        self._clock = clock
        self._hire = hire
        self._hired: tuple[Job, Worker] | None = None
        self._looked_ms = clock.now_ms()
        self._given_up: set[Partition] = set()
        self._unrolled: dict[Partition, str] = {}
        self._tries: Counter[Partition] = Counter()
        self._stopping = False
        self._turn = trio.Lock()  # one log at a time, whoever asks
        self._cleaning: Partition | None = None  # because somebody asked

    async def run(self) -> None:
        """Look every now and then, until cancelled; the worker ends first, so that nobody waits for it."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._end_worker)
            while True:
                await trio.sleep(LOOK_EVERY_S)
                settings = self._cluster.settings
                now_ms = self._clock.now_ms()
                self._roll(now_ms)
                if settings.log_cleaner_enable and not 0 <= now_ms - self._looked_ms < settings.log_cleaner_backoff_ms:
                    await self.look()
                    self._looked_ms = self._clock.now_ms()

    async def _end_worker(self) -> None:
        try:
            await trio.sleep_forever()
        finally:
            self._stopping = True
            self.end()

    def _compacted(self) -> Iterator[Partition]:
        for partition in self._partitions:
            if "compact" in partition.config.cleanup_policy and partition.failure is None:
                yield partition

    def _roll(self, now_ms: int) -> None:
        """Seal segments that are due (``max.compaction.lag.ms`` counts too), so that they can be compacted."""
        for partition in self._compacted():
            try:
                if not partition.log.roll_due(now_ms):  # it may have to read the index
                    continue
                partition.log.roll(now_ms)
            except (StorageFailed, Corrupt) as failure:
                if self._unrolled.get(partition) != str(failure):  # it is tried every second
                    logger.warning("%r: no new segment can be begun: %s", partition, failure)
                self._unrolled[partition] = str(failure)
                continue
            self._unrolled.pop(partition, None)
            partition.want_flush()

    async def look(self) -> None:
        """Clean what is dirty, the dirtiest log first."""
        async with self._turn:
            await self._look()

    async def _look(self) -> None:
        there = set(self._partitions)
        self._given_up &= there
        for gone in {*self._tries, *self._unrolled} - there:
            del self._tries[gone]
            self._unrolled.pop(gone, None)
        dirty = [
            (dirtiness, partition) for partition in self._compacted() if (dirtiness := await self._look_at(partition))
        ]
        dirty.sort(key=itemgetter(0), reverse=True)
        for _, partition in dirty:
            if not self._stopping and partition.failure is None:
                await self._clean(partition)
        if dirty and self._hired is not None:
            await threads.run(self._hired[1].rest)

    async def _look_at(self, partition: Partition) -> float:
        """Return how dirty a log is, 0 when it is not to be cleaned."""
        if partition in self._given_up or len(partition.log.segments) < SEGMENTS_MIN:
            return 0.0
        try:
            job, _ = self._job()
            work = job.prepare(partition)
            if work is not None:
                await partition.in_thread(work)
        except (StorageFailed, Corrupt) as failure:
            if isinstance(failure, StorageFailed) and failure.cause.errno in PASSING:
                logger.warning("%r is not compacted now, to be tried again: %s", partition, failure)
            else:
                self._give_up(partition, failure)
            return 0.0
        await trio.lowlevel.checkpoint()
        return job.dirtiness(partition, self._clock.now_ms()) if partition.failure is None else 0.0

    async def dirt(self, partition: Partition) -> Dirt:
        """Say what there is to clean in a log. Raises StorageFailed, Corrupt."""
        job, _ = self._job()
        work = job.prepare(partition)
        if work is not None:
            await partition.in_thread(work)
        return job.dirt(partition, self._clock.now_ms())

    async def clean_now(self, partition: Partition, stop: Callable[[], bool]) -> None:
        """Clean a log, however dirty it is, until ``stop``.

        To be cancelled only when the node ends: see the job's ``clean``.

        :raises StorageFailed, Corrupt, WorkerLost: it is not, or not wholly, cleaned.
        """
        async with self._turn:
            job, worker = self._job()
            now_ms = self._clock.now_ms()
            if stop() or not job.dirt(partition, now_ms).dirty_bytes:
                return
            self._cleaning = partition
            worker.take_on()
            partition.when_stopped = worker.interrupt
            try:
                for work in job.clean(partition, now_ms, stop):
                    await partition.in_thread(work)
                    if partition.failure is not None:
                        return
            except WorkerLost:
                if partition.failure is None:
                    raise
            finally:
                self._cleaning = partition.when_stopped = None
                with trio.CancelScope(shield=True):
                    await threads.run(worker.rest)

    def passed_bytes(self, partition: Partition) -> int:
        """How much of a log that :meth:`clean_now` works on has been read: at the end its clean part once, the dirty
        one twice."""
        return self._hired[1].passed_bytes if self._hired is not None and self._cleaning is partition else 0

    def end(self) -> None:
        """End the worker, when nobody runs :meth:`run`."""
        if self._hired is not None:
            self._hired[1].end()

    def _job(self) -> tuple[Job, Worker]:
        """Raises StorageFailed where not even the code of it can be read, for want of a file descriptor."""
        if self._hired is None:
            try:
                self._hired = self._hire()
            except OSError as cause:
                raise StorageFailed(cause.filename or "the code of compaction", cause) from cause
        return self._hired

    async def _clean(self, partition: Partition) -> None:
        job, worker = self._job()
        worker.take_on()
        partition.when_stopped = worker.interrupt  # a topic that is deleted must not wait for the end of a long step
        try:
            for work in job.clean(partition, self._clock.now_ms()):
                await partition.in_thread(work)
                if partition.failure is not None:
                    return  # deleted meanwhile: its paths may be another topic's by now
            del self._tries[partition]
        except (StorageFailed, Corrupt, WorkerLost) as failure:
            if partition.log.failure is not None:
                partition.fail(partition.log.failure)
            elif partition.failure is None and not self._stopping:
                self._not_cleaned(partition, failure)
        finally:
            partition.when_stopped = None

    def _not_cleaned(self, partition: Partition, failure: Exception) -> None:
        self._tries[partition] += 1
        if isinstance(failure, Corrupt) or (isinstance(failure, WorkerLost) and self._tries[partition] >= TRIES_MAX):
            self._give_up(partition, failure)
        else:
            logger.warning("%r was not compacted, to be tried again: %s", partition, failure)

    def _give_up(self, partition: Partition, failure: Exception) -> None:
        self._given_up.add(partition)
        logger.error("%r is not compacted until the next start: %s", partition, failure)
