"""One replica of one partition: its log, its high watermark, and those who wait for either.

It owns the :class:`~logd.log.log.Log` below it and says what is committed: with ``log.flush.mode=group`` that is
what has been flushed, with ``os`` what has been appended. Handlers and coordinators append and read here. All
state changes are synchronous; only waiting is async. It never parses records.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

import trio

from logd import threads
from logd.errors import Corrupt, ErrorCode, Refused, StorageFailed
from logd.log.disk import DISK_FULL, PASSING
from logd.log.markers import MARKER_BYTES
from logd.log.transactions import NEVER
from logd.partitions.gate import Gate

if TYPE_CHECKING:
    from logd.clock import Clock
    from logd.config import TopicConfig
    from logd.log.log import Appended, FlushJob, Log, Scan, Slice
    from logd.log.producers import Verification
    from logd.partitions.flusher import Flusher

logger = logging.getLogger("logd.partition")

T = TypeVar("T")

FLUSH_NEVER = 2**63 - 1
"""``flush.messages`` when it asks for nothing."""
COMMIT_WAIT_S_MAX = 1.0
"""A disk that takes longer for a flush keeps no reader waiting: then what is committed is told."""
ANY_AGE = 2**63 - 1
"""``message.timestamp.before.max.ms`` when records may be as old as they like."""


class Watcher:
    """A fetch that waits until enough bytes became readable in any of its partitions."""

    __slots__ = ("event", "missing_bytes", "read_committed")

    def __init__(self, missing_bytes: int, *, read_committed: bool = False) -> None:
        self.missing_bytes = missing_bytes
        self.read_committed = read_committed
        self.event = trio.Event()

    def readable(self, size_bytes: int) -> None:
        """Count what became readable."""
        self.missing_bytes -= size_bytes
        if self.missing_bytes <= 0:
            self.event.set()


class Partition:
    """The leader's side of one partition on this node."""

    __slots__ = (
        "_checkpoint_target",
        "_checkpointing",
        "_clock",
        "_flush_target",
        "_flusher",
        "_left_alone",
        "_seal_wanted",
        "_threads",
        "_unread_bytes",
        "acknowledged",
        "checkpoints",
        "committed",
        "config",
        "durable",
        "failure",
        "flushes",
        "index",
        "internal",
        "leader_epoch",
        "log",
        "topic",
        "topic_id",
        "watchers",
        "when_stopped",
    )

    def __init__(
        self,
        topic: str,
        index: int,
        topic_id: bytes,
        log: Log,
        *,
        leader_epoch: int,
        config: TopicConfig,
        internal: bool,
        durable: bool,
        flusher: Flusher,
        clock: Clock,
    ) -> None:
        self.topic = topic
        self.index = index
        self.topic_id = topic_id
        self.log = log
        self.leader_epoch = leader_epoch
        self.config = config
        self.internal = internal
        self.durable = durable
        self.failure: Refused | None = None
        self.watchers: set[Watcher] = set()
        self.when_stopped: Callable[[], None] | None = None
        """Ends what a thread may be at for long, so that nobody has to wait for it; called by :meth:`stop`."""
        self.flushes = Gate(log.flushed_offset)
        self.committed = Gate(log.flushed_offset if durable else log.end_offset)
        self.acknowledged = 0
        """The end of what a producer was told is in the log before a flush had committed it (acks=1 in mode group)."""
        log.transactions.committed(self.committed.offset)
        self._flusher = flusher
        self._clock = clock
        self._unread_bytes = 0
        self._flush_target = 0
        self._seal_wanted = False
        self._checkpoint_target = 0
        self._checkpointing = 0
        self._threads = 0
        self._left_alone = trio.Event()
        self.checkpoints = Gate(0)
        """Counts the checkpoints that have been written."""

    def __repr__(self) -> str:
        return f"{self.topic}-{self.index}"

    def begin(self) -> None:
        """Called on the event loop once the partition is in use: what recovery found is flushed before it is served."""
        self.log.assign_epoch(self.leader_epoch)
        if self.durable and self.log.flushed_offset < self.log.end_offset:
            self.want_flush()

    @property
    def opens_batches(self) -> bool:
        """Whether this topic's rules need the records of a batch: for their keys, another codec or how old they are."""
        config = self.config
        return (
            config.compression_type != "producer"
            or "compact" in config.cleanup_policy
            or config.message_timestamp_before_max_ms != ANY_AGE
        )

    @property
    def plain(self) -> bool:
        """Whether clients may write to it, and an acks=1 append never waits for the disk (``flush.messages``)."""
        return not self.internal and self.config.flush_messages == FLUSH_NEVER

    @property
    def high_watermark(self) -> int:
        """The offset below which everything is committed and may be read."""
        return self.committed.offset

    @property
    def caught_up(self) -> bool:
        """Whether all that has been appended is committed: always in flush mode os, else once a flush has ended."""
        return self.committed.offset >= self.log.end_offset

    @property
    def last_stable_offset(self) -> int:
        """The offset below which no transaction is open, nor ended by a marker that is not committed yet (KIP-98)."""
        committed = self.committed.offset
        first_unstable = self.log.transactions.first_unstable
        if first_unstable >= committed:
            return committed
        return max(first_unstable, self.log.start_offset)

    def readable_end(self, read_committed: bool) -> int:
        """The exclusive end of what a consumer may read."""
        return self.last_stable_offset if read_committed else self.high_watermark

    def append(
        self,
        batches: bytes | bytearray | memoryview,
        *,
        origin: str = "client",
        verified: Verification | None = None,
    ) -> Appended:
        """Append batches in one step and wake the readers.

        :param batches: one record batch of a client, or several of a coordinator; not kept.
        :param verified: for a transactional batch that is the first of its transaction here.
        :raises Refused: for anything wrong with the batches, or KAFKA_STORAGE_ERROR.
        """
        if self.failure is not None:
            raise self.failure
        try:
            appended = self.log.append(
                batches,
                leader_epoch=self.leader_epoch,
                now_ms=self._clock.now_ms(),
                origin=origin,
                verified=verified,
            )
        except (StorageFailed, Corrupt) as failure:
            raise self._append_failed(failure) from failure
        if not appended.duplicate:
            self._appended(appended, len(batches))
        return appended

    def append_marker(
        self, producer_id: int, epoch: int, *, committed: bool, coordinator_epoch: int, transaction_version: int = 0
    ) -> Appended:
        """End a producer's transaction; wait for :attr:`committed` to know that it is as safe as it will be.

        :param coordinator_epoch: the leader epoch of the partition of ``__transaction_state`` that decided it.
        :param transaction_version: 2 when the marker carries a higher epoch than the transaction's records (KIP-890).
        :raises Refused: INVALID_PRODUCER_EPOCH, TRANSACTION_COORDINATOR_FENCED, KAFKA_STORAGE_ERROR.
        """
        if self.failure is not None:
            raise self.failure
        try:
            appended = self.log.append_marker(
                producer_id,
                epoch,
                committed=committed,
                coordinator_epoch=coordinator_epoch,
                transaction_version=transaction_version,
                leader_epoch=self.leader_epoch,
                now_ms=self._clock.now_ms(),
            )
        except (StorageFailed, Corrupt) as failure:
            raise self._append_failed(failure) from failure
        self._appended(appended, MARKER_BYTES)
        return appended

    def _appended(self, appended: Appended, size_bytes: int) -> None:
        if self.durable:
            self._unread_bytes += size_bytes
            self.want_flush()
        else:
            self._commit(appended.next_offset, size_bytes)
            if self._flush_due(appended):
                self.want_flush()

    def _append_failed(self, failure: StorageFailed | Corrupt) -> Refused:
        if isinstance(failure, Corrupt):  # of the segment that would be written to
            return self.unreadable(failure)
        if self.log.failure is not None:
            return self.fail(failure)
        return Refused(ErrorCode.KAFKA_STORAGE_ERROR, f"{self!r} can't grow: {failure}: free some disk space")

    def _commit(self, offset: int, size_bytes: int) -> None:
        if self.log.transactions.first_unstable != NEVER:
            self._commit_unstable(offset, size_bytes)
            return
        self.committed.advance(offset)
        for watcher in self.watchers:
            watcher.readable(size_bytes)

    def _commit_unstable(self, offset: int, size_bytes: int) -> None:
        """As :meth:`_commit` where transactions are open: who reads committed data is only woken by what is stable."""
        stable_before = self.last_stable_offset
        self.committed.advance(offset)
        self.log.transactions.committed(offset)
        moved = self.last_stable_offset > stable_before
        for watcher in self.watchers:
            if not watcher.read_committed:
                watcher.readable(size_bytes)
            elif moved:
                watcher.event.set()

    def acknowledge(self, appended: Appended) -> None:
        """Note that an append is answered now: whoever fetches after that answer waits for its flush."""
        if self.durable:
            self.acknowledged = max(self.acknowledged, appended.next_offset)

    def must_wait_for(self, appended: Appended, acks: int) -> bool:
        """Whether an answer for this append has to wait: all of acks=all, and ``flush.messages`` come due."""
        if acks == -1 and self.committed.offset < appended.next_offset:
            return True
        return not self.durable and self._flush_due(appended)

    def _flush_due(self, appended: Appended) -> bool:
        """Whether the topic's ``flush.messages`` asks for a flush before this append is answered."""
        return appended.next_offset - self.flushes.offset >= self.config.flush_messages

    async def settled(self, appended: Appended, acks: int) -> None:
        """Wait for what :meth:`must_wait_for` asked. Raises :class:`Refused` when the disk failed meanwhile."""
        if acks == -1:
            await self.committed.wait(appended.next_offset)
        if not self.durable and self._flush_due(appended):
            await self.flushes.wait(appended.next_offset)

    def want_flush(self) -> None:
        """Flush everything appended so far, soon."""
        self._flush_target = self.log.end_offset
        self._seal_wanted = True
        self._flusher.schedule(self)

    def want_recovery_point(self) -> None:
        """Have the next start after a crash read nothing of what is here now, soon."""
        self.log.checkpoints.wanted = True
        self.want_flush()

    def want_checkpoint(self) -> None:
        """Write down the log's bounds, soon."""
        self._checkpoint_target += 1
        self._flusher.schedule(self)

    def next_job(self) -> FlushJob | None:
        """What a worker thread is to do for this partition now; None when there is nothing."""
        if self.failure is not None:
            return None
        if self._flush_target > self.log.flushed_offset or self._seal_wanted:
            self._seal_wanted = False
            job = self.log.flush_job(self._clock.now_ms())
            if job is not None:
                return job
        if self._checkpoint_target > self.checkpoints.offset:
            self._checkpointing = self._checkpoint_target
            job = self.log.checkpoint(self.high_watermark)
            if job is not None:
                return job
            self.checkpoints.advance(self._checkpointing)
            self._checkpointing = 0
        return None

    def job_done(self, job: FlushJob) -> None:
        """A job has ended well: what it covered is durable."""
        self.log.flushed(job)
        self.flushes.advance(self.log.flushed_offset)
        if self.durable and self.committed.offset < self.log.flushed_offset:
            size_bytes, self._unread_bytes = self._unread_bytes, 0
            self._commit(self.log.flushed_offset, size_bytes)
        if self._checkpointing and job.state is not None:
            self.checkpoints.advance(self._checkpointing)
        elif self._checkpointing:  # it found the disk full, say; who wants it asks again
            self._checkpoint_target = self.checkpoints.offset
            why = f"the bounds of {self!r} cannot be written down now: free some disk space, and try again"
            self.checkpoints.turn_away(Refused(ErrorCode.KAFKA_STORAGE_ERROR, why))
        self._checkpointing = 0

    def read(self, offset: int, *, bytes_max: int, end: int, at_least_one: bool) -> list[Slice]:
        """Whole batches from an offset on; see :meth:`logd.log.log.Log.read`.

        :raises Refused: OFFSET_OUT_OF_RANGE, KAFKA_STORAGE_ERROR.
        """
        if self.failure is not None:
            raise self.failure
        try:
            return self.log.read(offset, bytes_max=bytes_max, end=end, at_least_one=at_least_one)
        except (Corrupt, StorageFailed) as why:
            raise self.unreadable(why) from why

    def find(self, timestamp: int | None, end: int) -> Scan | None:
        """A search for a time, or (None) for the newest record; see :meth:`logd.log.log.Log.find_timestamp`.

        :raises Refused: KAFKA_STORAGE_ERROR.
        """
        try:
            return self.log.max_timestamp(end) if timestamp is None else self.log.find_timestamp(timestamp, end)
        except (Corrupt, StorageFailed) as why:
            raise self.unreadable(why) from why

    def check_epoch(self, epoch: int) -> None:
        """Compare the leader epoch that a client believes in (-1: none) with ours (KIP-320).

        :raises Refused: FENCED_LEADER_EPOCH when it is older, UNKNOWN_LEADER_EPOCH when it is newer.
        """
        if epoch < 0 or epoch == self.leader_epoch:
            return
        if epoch < self.leader_epoch:
            raise Refused(
                ErrorCode.FENCED_LEADER_EPOCH,
                f"leader epoch {epoch} of {self!r} is over, it is {self.leader_epoch}: ask for Metadata",
            )
        raise Refused(
            ErrorCode.UNKNOWN_LEADER_EPOCH, f"leader epoch {epoch} of {self!r} has not begun, it is {self.leader_epoch}"
        )

    def end_of_epoch(self, epoch: int) -> tuple[int, int]:
        """The last epoch not after one, and where it ends (KIP-101, KIP-279); (-1, -1) when unknown."""
        if epoch == self.leader_epoch:
            return epoch, self.log.end_offset
        return self.log.epochs.end_offset_for(epoch, self.log.end_offset)

    def unreadable(self, why: Corrupt | StorageFailed) -> Refused:
        """Stored bytes are wrong or cannot be read: say where, and serve the rest."""
        logger.error("partition %r: %s", self, why)
        what = "is damaged" if isinstance(why, Corrupt) else "can't be read"
        return Refused(ErrorCode.KAFKA_STORAGE_ERROR, f"stored data of {self!r} {what}: {why}")

    def hindered(self, failure: StorageFailed) -> Refused:
        """The disk refused something beside appends: offline for good, unless it is only full or no file descriptor
        is left. Then what was refused is tried again by whoever wanted it."""
        if self.log.failure is None and failure.cause.errno in PASSING:
            logger.warning("partition %r: for now, %s", self, failure)
            return Refused(ErrorCode.KAFKA_STORAGE_ERROR, f"{self!r} can't be changed now: {failure}: try again later")
        return self.fail(failure)

    def fail(self, failure: StorageFailed) -> Refused:
        """The disk failed: take the partition offline, and tell all who wait.

        For good, unless the disk was only full, or no file descriptor was left: then the table opens it anew once
        there is space.
        """
        remedy = "repair the disk and restart logd"
        if failure.cause.errno in PASSING:
            full = failure.cause.errno in DISK_FULL
            remedy = f"{'free some space' if full else 'allow more open files'}, and it is opened again"
        refused = Refused(
            ErrorCode.KAFKA_STORAGE_ERROR, f"partition {self!r} is offline since its disk failed ({failure}); {remedy}"
        )
        if self.failure is None:
            logger.error("partition %r goes offline: %s", self, failure)
        self.stop(refused)
        return refused

    def stop(self, refused: Refused) -> None:
        """Refuse everything from now on with one error, and wake all who wait."""
        self.failure = refused
        self.flushes.fail(refused)
        self.committed.fail(refused)
        self.checkpoints.fail(refused)
        for watcher in self.watchers:
            watcher.event.set()
        if self.when_stopped is not None:
            self.when_stopped()

    async def in_thread(self, work: Callable[[], T], limiter: trio.CapacityLimiter | None = None) -> T:
        """Run what changes files of this partition in a worker thread; :meth:`left_alone` waits for it."""
        self.thread_enters()
        try:
            return await threads.run(work, limiter=limiter)
        finally:
            self.thread_leaves()

    def thread_enters(self) -> None:
        """Count a thread that changes files of this partition; called on the event loop."""
        self._threads += 1

    def thread_leaves(self) -> None:
        """It has done so."""
        self._threads -= 1
        if not self._threads:
            self._left_alone.set()

    @property
    def is_alone(self) -> bool:
        """Whether no thread works on the files of this partition."""
        return not self._threads

    async def left_alone(self) -> None:
        """Wait until no thread works on the files of this partition, which has been stopped.

        Their paths may then be given to another topic of the same name.
        """
        while self._threads:
            self._left_alone = trio.Event()
            await self._left_alone.wait()

    async def advance_start(self, offset: int) -> int:
        """DeleteRecords: forget all before an offset (-1: all that has been appended by now).

        What is appended but not committed is waited for, so that acks=1 and then DeleteRecords works as in Kafka.

        :returns: the new log start offset.
        :raises Refused: OFFSET_OUT_OF_RANGE beyond the high watermark; KAFKA_STORAGE_ERROR.
        """
        if self.failure is not None:
            raise self.failure
        target = self.log.end_offset if offset == -1 else offset
        if self.high_watermark < target <= self.log.end_offset:
            await self.committed.wait(target)
        if target < 0 or target > self.high_watermark:
            raise Refused(
                ErrorCode.OFFSET_OUT_OF_RANGE,
                f"offset {offset} of {self!r} is not between 0 and the high watermark {self.high_watermark}",
            )
        try:
            self.log.advance_start(target)
            now_ms = self._clock.now_ms()
            self.log.delete_segments(self.log.expired(now_ms, self.high_watermark, delete=False), now_ms)
        except StorageFailed as failure:
            raise self.hindered(failure) from failure
        except Corrupt as corrupt:
            raise self.unreadable(corrupt) from corrupt
        self.want_checkpoint()
        await self.checkpointed()
        return self.log.start_offset

    async def checkpointed(self) -> None:
        """Wait until the checkpoint that was wanted last is written. Raises :class:`Refused` when it cannot be."""
        await self.checkpoints.wait(self._checkpoint_target)


async def until_committed(late: Iterable[tuple[Partition, int]]) -> None:
    """Wait until each partition has committed up to its offset, or failed, which it tells who asks it next.

    No longer than COMMIT_WAIT_S_MAX for all of them.
    """
    with trio.move_on_after(COMMIT_WAIT_S_MAX):
        for partition, end in late:
            with suppress(Refused):
                await partition.committed.wait(end)
