"""Retention and compaction when somebody asks: for which partitions, as a dry run or not, and what came of it.

The server answers ``RunJob`` with it, ``logd-cli`` runs it on the directory of a stopped server. The same jobs run by
themselves in :mod:`~logd.partitions.upkeep` and :mod:`~logd.partitions.compactor`. It decides nothing about what may
go; file work waits in worker threads.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

import msgspec

from logd.errors import Corrupt, ErrorCode, Refused, StorageFailed, WorkerLost

if TYPE_CHECKING:
    from logd.clock import Clock
    from logd.partitions.compactor import Compactor
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


class Housekeeping:
    """Both jobs of one node, on demand."""

    def __init__(self, partitions: PartitionTable, retain: Retain, compactor: Compactor, clock: Clock) -> None:
        self._partitions = partitions
        self._retain = retain
        self._compactor = compactor
        self._clock = clock

    async def run(
        self, job: str, topics: Sequence[str] | None, *, dry_run: bool, remove_now: bool = False
    ) -> list[Done]:
        """Run a job over topics (None: all); what it took, for those partitions where there was something to take.

        :param dry_run: change nothing, only say what would go.
        :param remove_now: do not wait for ``file.delete.delay.ms`` before files are removed: nobody reads.
        :raises Refused: an unknown job or topic.
        """
        if job not in (RETENTION, COMPACTION):
            raise Refused(ErrorCode.INVALID_REQUEST, f"there is no job {job!r}: it is {RETENTION} or {COMPACTION}")
        done = []
        for partition in self._chosen(topics):
            if partition.failure is not None:
                done.append(Done(partition.topic, partition.index, refused=partition.failure))
                continue
            one = await (
                self._retained(partition, dry_run, remove_now)
                if job == RETENTION
                else self._compacted(partition, dry_run)
            )
            if one is not None:
                done.append(one)
        return done

    def _chosen(self, topics: Sequence[str] | None) -> Iterator[Partition]:
        known = {partition.topic for partition in self._partitions}
        for topic in topics or ():
            if topic not in known:
                raise Refused(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, f"there is no topic {topic!r}")
        wanted = known if topics is None else set(topics)
        return (partition for partition in self._partitions if partition.topic in wanted)

    async def _retained(self, partition: Partition, dry_run: bool, remove_now: bool) -> Done | None:
        log, now_ms = partition.log, self._clock.now_ms()
        delete = "delete" in partition.config.cleanup_policy
        try:
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
            return Done(partition.topic, partition.index, refused=partition.fail(failure))
        except Refused as refused:
            return Done(partition.topic, partition.index, refused=refused)
        return done

    async def _compacted(self, partition: Partition, dry_run: bool) -> Done | None:
        if "compact" not in partition.config.cleanup_policy:
            return None
        log = partition.log
        try:
            dirt = await self._compactor.dirt(partition)
            if not dirt.dirty_bytes:
                return None
            before = log.size_bytes
            segments = sum(dirt.first_dirty < one.next_offset <= dirt.end_offset for one in log.segments)
            if not dry_run:
                await self._compactor.clean_now(partition)
        except (StorageFailed, Corrupt, WorkerLost) as failure:
            if log.failure is not None:
                return Done(partition.topic, partition.index, refused=partition.fail(log.failure))
            refused = Refused(ErrorCode.KAFKA_STORAGE_ERROR, f"{partition!r} can't be compacted: {failure}")
            return Done(partition.topic, partition.index, refused=refused)
        after = before if dry_run else log.size_bytes
        return Done(
            partition.topic, partition.index, dirt.first_dirty, dirt.end_offset, segments, before, bytes_after=after
        )
