"""Retention and compaction when somebody asks: for which partitions, as a dry run or not, and what came of it.

The server runs it in :mod:`~logd.partitions.runs`, ``logd-cli`` on the directory of a stopped server. The same jobs
run by themselves in :mod:`~logd.partitions.upkeep` and :mod:`~logd.partitions.compactor`. It decides nothing about what
may go; file work waits in worker threads.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

import msgspec
import trio

from logd.errors import Corrupt, ErrorCode, Refused, StorageFailed, WorkerLost

if TYPE_CHECKING:
    from logd.clock import Clock
    from logd.partitions.compactor import Compactor, Dirt
    from logd.partitions.partition import Partition
    from logd.partitions.table import PartitionTable
    from logd.partitions.upkeep import Retain

RETENTION: Final = "retention"
COMPACTION: Final = "compaction"
LATER_MS: Final = 2**62


class Done(msgspec.Struct, frozen=True):
    """What a job takes from a partition, or has taken: the offsets from ``first_offset`` on and before ``next_offset``.

    ``size_bytes`` is what is looked at, ``bytes_after`` what is left of it; times are those of the oldest and the
    newest record in it, -1 where there is none. With ``refused`` nothing was done.
    """

    topic: str
    index: int
    first_offset: int = 0
    next_offset: int = 0
    segments: int = 0
    size_bytes: int = 0
    bytes_after: int = 0
    oldest_ms: int = -1
    newest_ms: int = -1
    refused: Refused | None = None


class Run:
    """A job that somebody asked for, over some partitions: how far it is, what it has done, when it has ended.

    :param dry_run: change nothing, only say what would go.
    :param remove_now: do not wait for ``file.delete.delay.ms`` before files are removed: nobody reads.
    """

    def __init__(self, job: str, partitions: list[Partition], *, dry_run: bool, remove_now: bool) -> None:
        self.job = job
        self.partitions = partitions
        self.dry_run = dry_run
        self.remove_now = remove_now
        self.at: Partition | None = None
        self.passed = 0
        self.total = 0
        """Bytes that are to be read, for a compaction; else partitions."""
        self.done: list[Done] = []
        self.failure: Refused | None = None
        """What ended it early."""
        self.ended = trio.Event()
        self.stopping = False

    def stop(self) -> None:
        """End it soon: after the partition, or the segment, that it is at. What is done stays done."""
        self.stopping = True


class Housekeeping:
    """Both jobs of one node, on demand."""

    def __init__(self, partitions: PartitionTable, retain: Retain, compactor: Compactor, clock: Clock) -> None:
        self._partitions = partitions
        self._retain = retain
        self._compactor = compactor
        self._clock = clock

    def prepared(self, job: str, topics: Sequence[str] | None, *, dry_run: bool, remove_now: bool = False) -> Run:
        """A job over topics (None: all), to be carried out.

        :raises Refused: an unknown job or topic.
        """
        if job not in (RETENTION, COMPACTION):
            raise Refused(ErrorCode.INVALID_REQUEST, f"there is no job {job!r}: it is {RETENTION} or {COMPACTION}")
        return Run(job, list(self._chosen(topics)), dry_run=dry_run, remove_now=remove_now)

    async def carry_out(self, run: Run) -> None:
        """Do what was prepared; :attr:`Run.done` says what it took, where there was something to take.

        To be cancelled only when the node ends.
        """
        try:
            if run.job == RETENTION:
                await self._retain_all(run)
            else:
                await self._compact_all(run)
        finally:
            run.at = None
            run.ended.set()

    def passed(self, run: Run) -> int:
        """How far it is, of :attr:`Run.total`."""
        under_way = self._compactor.passed_bytes(run.at) if run.at is not None else 0
        return min(run.passed + under_way, run.total)

    async def _retain_all(self, run: Run) -> None:
        run.total = len(run.partitions)
        for partition in run.partitions:
            if run.stopping:
                return
            run.at = partition
            run.done += filter(None, [await self._retained(partition, run.dry_run, run.remove_now)])
            run.passed += 1

    async def _compact_all(self, run: Run) -> None:
        dirty = []
        for partition in run.partitions:
            try:
                dirt = await self._dirt(partition)
            except Refused as refused:
                run.done.append(Done(partition.topic, partition.index, refused=refused))
                continue
            if dirt is not None:
                size_bytes = dirt.clean_bytes + 2 * dirt.dirty_bytes
                run.total += size_bytes
                dirty.append((partition, dirt, size_bytes))
        for partition, dirt, size_bytes in dirty:
            if run.stopping:
                return
            run.at = partition
            run.done.append(await self._compacted(partition, dirt, run))
            run.at = None
            run.passed += size_bytes

    def _chosen(self, topics: Sequence[str] | None) -> Iterator[Partition]:
        known = {partition.topic for partition in self._partitions}
        for topic in topics or ():
            if topic not in known:
                raise Refused(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, f"there is no topic {topic!r}")
        wanted = known if topics is None else set(topics)
        return (partition for partition in self._partitions if partition.topic in wanted)

    async def _retained(self, partition: Partition, dry_run: bool, remove_now: bool) -> Done | None:
        if partition.failure is not None:
            return Done(partition.topic, partition.index, refused=partition.failure)
        log, now_ms = partition.log, self._clock.now_ms()
        delete = "delete" in partition.config.cleanup_policy
        try:
            for segment in log.segments[:-1]:
                if not segment.max_is_known:
                    await partition.in_thread(segment.make_max_sure)
                    log.segments.let_go([segment])
            for segment in log.expired(now_ms, partition.last_stable_offset, delete=delete):
                await partition.in_thread(segment.make_max_sure)
                log.segments.let_go([segment])
            going = log.expired(now_ms, partition.last_stable_offset, delete=delete)
            done = None
            if going:
                oldest_ms = await partition.in_thread(going[0].find_first_timestamp)
                size_bytes = sum(one.size for one in going)
                newest_ms = max(one.max_timestamp for one in going)
                first, stop = max(log.start_offset, going[0].base_offset), going[-1].next_offset
                done = Done(
                    partition.topic,
                    partition.index,
                    first,
                    stop,
                    len(going),
                    size_bytes,
                    oldest_ms=oldest_ms,
                    newest_ms=newest_ms,
                )
            if dry_run or partition.failure is not None:
                return done
            for work in self._retain(partition, now_ms, delete=delete):
                await partition.in_thread(work)
            if done is not None:
                partition.want_checkpoint()
                await partition.checkpointed()
            removal = log.removal(LATER_MS) if remove_now else None
            if removal is not None:
                await partition.in_thread(removal.run)
        except StorageFailed as failure:
            return Done(partition.topic, partition.index, refused=partition.hindered(failure))
        except Corrupt as corrupt:
            return Done(partition.topic, partition.index, refused=partition.unreadable(corrupt))
        except Refused as refused:
            return Done(partition.topic, partition.index, refused=refused)
        return done

    async def _dirt(self, partition: Partition) -> Dirt | None:
        if partition.failure is not None:
            raise partition.failure
        if "compact" not in partition.config.cleanup_policy:
            return None
        try:
            dirt = await self._compactor.dirt(partition)
        except (StorageFailed, Corrupt) as failure:
            raise self._not_compacted(partition, failure) from failure
        return dirt if dirt.dirty_bytes else None

    async def _compacted(self, partition: Partition, dirt: Dirt, run: Run) -> Done:
        log = partition.log
        topic, index = partition.topic, partition.index
        before = after = log.size_bytes
        segments = sum(dirt.first_dirty < one.next_offset <= dirt.end_offset for one in log.segments)
        if not run.dry_run:
            try:
                if partition.failure is not None:
                    raise partition.failure
                await self._compactor.clean_now(partition, lambda: run.stopping)
            except (StorageFailed, Corrupt, WorkerLost) as failure:
                return Done(topic, index, refused=self._not_compacted(partition, failure))
            except Refused as refused:
                return Done(topic, index, refused=refused)
            after = log.size_bytes
        return Done(topic, index, dirt.first_dirty, dirt.end_offset, segments, before, bytes_after=after)

    def _not_compacted(self, partition: Partition, failure: Exception) -> Refused:
        if partition.log.failure is not None:
            return partition.fail(partition.log.failure)
        return Refused(ErrorCode.KAFKA_STORAGE_ERROR, f"{partition!r} can't be compacted: {failure}")
