"""One partition's log: append, read, flush, roll, cut. The centre of ``logd.log``.

A :class:`Log` owns a directory of segments, the producer state, the leader epochs and the offsets that bound them. It
is synchronous: an append writes the data and moves index, producer state, epochs and end offset in one step, so that
under trio no reader sees half of it. Called by ``partitions`` on the event loop; what waits for the disk is handed out
as a job for a worker thread. It never reads a clock, never parses records, and after a failed write or flush it stays
offline: every later call raises that :class:`~logd.errors.StorageFailed`.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

import msgspec

from logd.errors import Corrupt, DecodeError, ErrorCode, Refused, StorageFailed
from logd.log import recovery, retention, truncation
from logd.log.admission import LOG_APPEND_TIME_CONFIG, LogConfig, admit
from logd.log.batch_file import LOG_SUFFIX, Cold
from logd.log.checkpoints import Checkpoints
from logd.log.disk import PASSING, Disk, RealDisk
from logd.log.epochs import EpochEnd, Epochs
from logd.log.flush import FlushJob, mark_unflushed
from logd.log.markers import build_marker, note_marker
from logd.log.producers import Kept, Producers, Verification
from logd.log.retention import Doomed, Removal
from logd.log.search import Scan, search
from logd.log.segment import NO_TIMESTAMP, Segment
from logd.log.segments import Segments, must_roll
from logd.log.slices import Slice, Wanted
from logd.log.state import META_NAME, STATE_NAME, State, pack_meta, pack_state
from logd.log.swap import ANYWHERE, Exchange, Swap, after, discard, remember_cleaned, unknown_below
from logd.log.transactions import NEVER
from logd.wire.batches import CONTROL, TRANSACTIONAL, BatchHeader, check_crc, read_headers, stamp, stamp_append_time

_KEEP_ALL: Final = LogConfig(retention_ms=-1, retention_bytes=-1)


class Appended(msgspec.Struct, frozen=True, gc=False):
    """What became of an append. ``log_append_time_ms`` is -1 where the records keep the time of their creation."""

    base_offset: int
    next_offset: int
    log_append_time_ms: int
    duplicate: bool
    start_offset: int


class Log:
    """The log in one directory; made by :meth:`create` or :meth:`open`."""

    def __init__(self, disk: Disk, path: str, config: LogConfig, found: recovery.Found) -> None:
        self._disk = disk
        self.path = path
        self.config = config
        self.topic_id = found.topic_id
        self.start_offset = found.state.start_offset
        self.end_offset = found.end_offset
        self.flushed_offset = min(found.state.flushed_offset, found.end_offset)
        self.high_watermark = min(found.state.high_watermark, found.end_offset)
        self.epochs: Epochs = found.epochs
        self.producers: Producers = found.producers
        self.transactions = found.producers.transactions
        self.aborted = found.aborted
        self.segments = Segments(found.segments)
        self.cleaned_offset = found.cleaned_offset
        """Below it the log is compacted."""
        self._sums = found.sums or {}
        self.has_gaps = found.has_gaps
        """Whether it was ever compacted, wherever."""
        self.failure: StorageFailed | None = None
        self.unmarked = False
        """Whether a flush failed and the word of it could not be left: see :func:`~logd.log.flush.mark_unflushed`."""
        self._active = found.segments[-1]
        self._active.written_from = self._active.size
        self._unfinished: list[Segment] = found.unfinished
        self._new_names = self.flushed_offset < self.end_offset or bool(found.unfinished)
        self.checkpoints = Checkpoints(disk, path, found.state, found.snapshots)
        point = max(found.state.recovery_point, found.state.clean_end_offset)
        self.checkpoints.since_point_bytes = sum(one.size for one in found.segments if one.next_offset > point)
        self._last_flush_ms = -1
        self._doomed: list[Doomed] = []

    @classmethod
    def create(
        cls,
        path: str,
        topic_id: bytes,
        config: LogConfig,
        *,
        now_ms: int,
        disk: Disk | None = None,
        start_offset: int = 0,
    ) -> Log:
        """Make the directory of a new, empty log.

        :raises StorageFailed: the disk refused.
        :raises Corrupt: segments are there already, and nothing says whose they are.
        """
        disk = disk or RealDisk()
        disk.make_directory(path)
        if any(entry.name.endswith(LOG_SUFFIX) for entry in disk.entries(path)):
            raise Corrupt(f"{path}/{META_NAME}", 0, "the file that names the topic id is missing beside old segments")
        disk.sync_directory(path.rpartition("/")[0] or ".")  # first: what has a topic id is opened, not made again
        disk.replace(f"{path}/{META_NAME}", pack_meta(topic_id), sync=True)
        state = State(start_offset, start_offset, start_offset, start_offset)
        if start_offset:
            disk.replace(f"{path}/{STATE_NAME}", pack_state(state), sync=True)
        disk.sync_directory(path)
        return cls(disk, path, config, recovery.empty(disk, path, topic_id, state, now_ms))

    @classmethod
    def open(
        cls,
        path: str,
        config: LogConfig,
        *,
        clean: bool,
        now_ms: int,
        disk: Disk | None = None,
        newest_epoch: int | None = None,
    ) -> Log:
        """Open what is there. Without a clean close, what is after the recovery point is read and checked.

        A torn end is cut off. After this :attr:`flushed_offset` may be below :attr:`end_offset`: flush.

        :param clean: whether the data directory was closed clean; when it was not, a log that was closed and not
            appended to since is known by its own state file and is not read either.
        :param newest_epoch: the highest leader epoch that a batch can have, where that is known.
        :raises Corrupt: flushed data is wrong, or the directory is no log's.
        :raises StorageFailed: the disk refused.
        """
        disk = disk or RealDisk()
        return cls(disk, path, config, recovery.recover(disk, path, config, now_ms=now_ms, newest_epoch=newest_epoch))

    @property
    def size_bytes(self) -> int:
        """The bytes of all batches."""
        return sum(segment.size for segment in self.segments)

    def _check(self) -> None:
        if self.failure is not None:
            raise self.failure

    def fail(self, failure: StorageFailed, unmarked: bool = False) -> None:
        """Take the log offline for good; the first failure stays."""
        self.unmarked = self.unmarked or unmarked
        if self.failure is None:
            self.failure = failure

    # Appending

    def append(
        self,
        batches: memoryview | bytes | bytearray,
        *,
        leader_epoch: int,
        now_ms: int,
        origin: str = "client",
        verified: Verification | None = None,
    ) -> Appended:
        """Append one batch (``client``, ``coordinator``), or those of a leader's answer as they are (``replica``).

        A writable buffer is stamped in place with base offset and leader epoch; it is not kept.

        :param verified: for a transactional batch that is the first of its transaction here.
        :raises Refused: what :func:`~logd.log.admission.admit` and the producer state refuse.
        :raises StorageFailed: the disk did; when it is only full, later appends may succeed.
        """
        if self.failure is not None:
            raise self.failure
        if origin == "replica":
            return self._append_replicated(memoryview(batches), now_ms)
        view = memoryview(batches)
        client = origin == "client"
        config = self.config
        header = admit(view, config, now_ms, client=client)
        producer_id = header.producer_id
        if producer_id >= 0:
            producers = self.producers
            if client and not header.attributes & TRANSACTIONAL:
                kept = producers.check(producer_id, header.producer_epoch, header.base_sequence, header.last_sequence)
                if kept is None and producers.transactions.first_unstable != NEVER:
                    producers.check_plain(producer_id)
            else:
                kept = self._check_transactional(header, client, verified)
            if kept is not None:
                return Appended(kept.base_offset, kept.last_offset + 1, kept.timestamp_ms, True, self.start_offset)
        append_time, max_timestamp = -1, header.max_timestamp
        if view.readonly:
            view = memoryview(bytearray(view))
        if config.timestamp_type == LOG_APPEND_TIME_CONFIG:
            append_time = max_timestamp = now_ms
            stamp_append_time(view, 0, header, now_ms)
        base = self.end_offset
        stamp(view, 0, base, leader_epoch)
        last = base + header.last_offset_delta
        self._write(view, base, last, max_timestamp, now_ms)
        if producer_id >= 0:
            if header.attributes & CONTROL:
                self._note_marker(header, view, base)
            else:
                self.producers.note(header, base, max_timestamp, now_ms)
        if leader_epoch > self.epochs.latest:
            self.epochs.assign(leader_epoch, base)
        self.end_offset = last + 1
        return Appended(base, last + 1, append_time, False, self.start_offset)

    def _check_transactional(self, header: BatchHeader, client: bool, verified: Verification | None) -> Kept | None:
        if client:
            return self.producers.check_transactional(header, verified)
        if not header.attributes & CONTROL:
            self.producers.check_coordinated(header.producer_id, header.producer_epoch)
        return None

    def append_marker(
        self,
        producer_id: int,
        epoch: int,
        *,
        committed: bool,
        coordinator_epoch: int,
        transaction_version: int,
        leader_epoch: int,
        now_ms: int,
    ) -> Appended:
        """End a producer's transaction, whether it has one here or not.

        :raises Refused: INVALID_PRODUCER_EPOCH, TRANSACTION_COORDINATOR_FENCED.
        :raises StorageFailed: see :meth:`append`.
        """
        self._check()
        self.producers.check_marker(producer_id, epoch, coordinator_epoch, transaction_version)
        batch = build_marker(
            producer_id, epoch, committed=committed, coordinator_epoch=coordinator_epoch, now_ms=now_ms
        )
        return self.append(batch, leader_epoch=leader_epoch, now_ms=now_ms, origin="coordinator")

    def _note_marker(self, header: BatchHeader, batch: memoryview, offset: int) -> None:
        note_marker(self.producers, self.aborted, header, batch, 0, offset)

    def _append_replicated(self, view: memoryview, now_ms: int) -> Appended:
        first = self.end_offset
        try:
            found = read_headers(view)
        except DecodeError as cause:
            raise Refused(ErrorCode.CORRUPT_MESSAGE, f"The leader sent {cause}") from cause
        for position, header in found:
            self._append_copy(view[position : position + header.size], header, now_ms)
        return Appended(first, self.end_offset, -1, False, self.start_offset)

    def _append_copy(self, batch: memoryview, header: BatchHeader, now_ms: int) -> None:
        base = header.base_offset
        if not check_crc(batch, 0, header):
            raise Refused(ErrorCode.CORRUPT_MESSAGE, f"The leader sent a damaged batch at offset {base}")
        if base < self.end_offset or (base != self.end_offset and not self.config.compacted):
            raise Refused(
                ErrorCode.OFFSET_OUT_OF_RANGE, f"The leader sent offset {base} where {self.end_offset} comes next"
            )
        if base != self.end_offset and not self.has_gaps:
            self.has_gaps = True
            remember_cleaned(self._disk, self.path, self.cleaned_offset, self._sums)  # so that recovery expects gaps
        self._write(batch, base, header.last_offset, header.max_timestamp, now_ms)
        if header.producer_id >= 0:
            if header.attributes & CONTROL:
                self._note_marker(header, batch, base)
            else:
                self.producers.note(header, base, header.max_timestamp, now_ms)
        if header.leader_epoch > self.epochs.latest:
            self.epochs.assign(header.leader_epoch, base)
        self.end_offset = header.next_offset

    def _write(self, data: memoryview, base: int, last: int, max_timestamp: int, now_ms: int) -> None:
        config = self.config
        segment = self._active
        size = len(data)
        try:
            if segment.size and (
                segment.size + size > config.segment_bytes or must_roll(segment, config, last, max_timestamp, now_ms)
            ):
                segment = self._roll(now_ms)
            if segment.size == 0:
                self._new_names = True
                segment.preallocated = config.segment_bytes if config.preallocate else 0
            segment.append(data, base, last, max_timestamp, now_ms, config.index_interval_bytes)
        except StorageFailed as failure:
            if failure.cause.errno not in PASSING:
                self.fail(failure)
            raise
        self.checkpoints.since_point_bytes += size

    def assign_epoch(self, epoch: int) -> None:
        """Begin a leader epoch at the end of the log, as a new leader does before its first append."""
        self.epochs.assign(epoch, self.end_offset)

    def roll_due(self, now_ms: int) -> bool:
        """Say whether ``segment.ms`` has passed for a segment that gets no appends."""
        segment = self._active
        return segment.size > 0 and must_roll(segment, self.config, self.end_offset - 1, NO_TIMESTAMP, now_ms)

    def roll(self, now_ms: int) -> None:
        """Seal the active segment and begin a new one at the end of the log."""
        self._check()
        self._roll(now_ms)

    def _roll(self, now_ms: int) -> Segment:
        sealed = self._active
        sealed.index  # what is damaged is found before a file is made  # noqa: B018
        segment = Segment(self._disk, self.path, self.end_offset, now_ms)
        segment.file  # made now: its name says where the log ends  # noqa: B018
        self._seal(sealed)
        self._unfinished.append(sealed)
        self._new_names = True
        self.segments.add(segment)
        self._active = segment
        self.checkpoints.forget_indexed()
        return segment

    def _seal(self, segment: Segment) -> None:
        segment.seal()
        segment.aborted = self.aborted.part(segment.base_offset, segment.next_offset)

    # Reading

    def read(self, offset: int, *, bytes_max: int, end: int, at_least_one: bool = True) -> list[Slice]:
        """Return whole batches from ``offset`` (or the batch that holds it) and below ``end``, of one segment.

        :param end: exclusive upper offset: the high watermark or the last stable offset.
        :param at_least_one: return the first batch even when it is larger than ``bytes_max``.
        :raises Refused: OFFSET_OUT_OF_RANGE.
        :raises Corrupt: batches are missing.
        """
        self._check()
        if offset < self.start_offset or offset > self.end_offset:
            raise Refused(
                ErrorCode.OFFSET_OUT_OF_RANGE,
                f"Offset {offset} is outside of the log, which holds {self.start_offset} to {self.end_offset}",
            )
        if offset >= end:
            return []
        active, segments = self._active, self.segments
        segment: Segment | None = segments.holding(offset)
        while segment is not None and segment.base_offset < end:
            wanted = Wanted(offset, end, bytes_max, at_least_one, dense := self.is_dense(segment))
            piece = Slice(self._disk, segment, wanted, self.epochs)
            if segment is not active:
                segments.touch(segment)
            try:
                piece.locate(wait=False)
            except Cold:
                return [piece]
            if piece.size:
                piece.map()
                return [piece]
            if piece.base_offset < end and piece.next_offset < segment.next_offset:
                return []  # not even one batch fits
            if not dense:
                offset = segment.next_offset  # it may end with a gap
            segment = segments.after(segment)
        return []

    def end_offset_for(self, epoch: int) -> EpochEnd:
        """Say where a leader epoch ends (OffsetForLeaderEpoch)."""
        return self.epochs.end_offset_for(epoch, self.end_offset)

    def find_timestamp(self, timestamp: int, end: int) -> Scan | None:
        """Return a search for the first record below offset ``end`` at or after a time; None when there is none.

        :param timestamp: milliseconds since 1970.
        """
        self._check()
        return search(self, self._disk, timestamp, end)

    def max_timestamp(self, end: int) -> Scan | None:
        """Return a search for the first record with the largest timestamp of all; None when there is none (KIP-734)."""
        self._check()
        return search(self, self._disk, None, end)

    def is_dense(self, segment: Segment) -> bool:
        """Say whether no offset is missing in a segment, since it was never compacted."""
        if not self.has_gaps:
            return True
        base = segment.base_offset
        if base in self._sums or base < unknown_below(self._sums):
            return False
        return 0 < self.cleaned_offset <= base  # a run may be under way, or have ended early

    # Forgetting

    def advance_start(self, offset: int) -> None:
        """Forget what is before ``offset`` (DeleteRecords, retention); whole segments below it can be deleted then.

        It survives a crash once a :meth:`checkpoint` made after it has run.
        """
        self._check()
        assert offset <= self.end_offset
        if offset > self.start_offset:
            self.start_offset = offset
            self.high_watermark = max(self.high_watermark, offset)
            self.epochs.truncate_start(offset)
            self.aborted.forget_before(offset)

    def expired(self, now_ms: int, high_watermark: int, *, delete: bool = True) -> list[Segment]:
        """Return the oldest segments that retention (if ``delete``) or DeleteRecords have released."""
        config = self.config if delete else _KEEP_ALL
        return retention.expired(self.segments, config, now_ms, high_watermark, self.start_offset)

    def delete_segments(self, segments: list[Segment], now_ms: int) -> None:
        """Take the oldest segments out of the log; :meth:`removal` removes their files later.

        A crash before the next :meth:`checkpoint` brings them back, to be released again.

        :raises StorageFailed, Corrupt: the active one cannot be sealed; those before it are out.
        """
        self._check()
        sealed = [one for one in segments if one is not self._active]
        self._drop(sealed, now_ms)
        if len(sealed) < len(segments):
            self._roll(now_ms)
            self._drop(segments[len(sealed) :], now_ms)

    def _drop(self, segments: list[Segment], now_ms: int) -> None:
        if not segments:
            return
        self.segments.drop(segments)
        self.advance_start(self.segments[0].base_offset)
        for segment in segments:
            segment.forgotten = True
        due_ms = now_ms + self.config.file_delete_delay_ms
        self._doomed.extend(Doomed(segment, due_ms) for segment in segments)

    def removal(self, now_ms: int) -> Removal | None:
        """Return a job that removes the files whose ``file.delete.delay.ms`` has passed, None when there are none.

        Only below the recovery point: before it, nothing but these files knows their producers.
        """
        written = self.checkpoints.state
        kept_from = min(written.start_offset, written.recovery_point)
        due = [one for one in self._doomed if one.segment.next_offset <= kept_from and not self._waits(one, now_ms)]
        if not due:
            return None
        self._doomed = [one for one in self._doomed if one not in due]
        return Removal([one.segment for one in due])

    def _waits(self, doomed: Doomed, now_ms: int) -> bool:
        """No longer than the delay, whatever the clock was when it was asked for."""
        return 0 < doomed.due_ms - now_ms <= self.config.file_delete_delay_ms

    def begin_swap(self, exchange: Exchange, dropped_markers: Sequence[int] = ()) -> Swap | None:
        """Return the exchange of sealed segments for a compacted one; None when they are not all there any more."""
        self._check()
        old = [one for one in self.segments if exchange.base_offset <= one.base_offset < exchange.next_offset]
        if not old or old[0].base_offset != exchange.base_offset or old[-1].next_offset != exchange.next_offset:
            return None
        if not all(one.finished for one in old):
            return None
        dropped = list(dropped_markers)
        return Swap(self._disk, self.path, exchange, old, self.cleaned_offset, self.fail, dropped, self._sums)

    def swap_segments(self, swap: Swap) -> bool:
        """Put compacted segments, whose swap is committed, in place of the old; False when those have changed.

        :raises StorageFailed: the log is offline; the next open carries the swap out.
        """
        self._check()
        if not self.segments.has_run(swap.old) or not all(one.finished for one in swap.old):
            return False  # one that was truncated is written to again
        try:
            new = swap.rename()
        except StorageFailed as failure:
            self.fail(failure)
            raise
        self.has_gaps = True
        self.aborted.forget(swap.dropped)
        new.aborted = self.aborted.part(new.base_offset, new.next_offset)
        self._sums = after(swap.sums, swap.exchange)
        self.segments.replace(swap.old, new)
        return True

    def discarding(self, base_offset: int) -> Callable[[], None]:
        """Return what removes a compacted segment that will not be put in place, for a worker thread."""
        return partial(discard, self._disk, self.path, base_offset)

    def remember_cleaned(self, offset: int) -> Callable[[], None]:
        """Count the log as compacted below ``offset``; return what writes that down, for a worker thread."""
        self.cleaned_offset = offset
        bases = {segment.base_offset for segment in self.segments}
        if offset < unknown_below(self._sums):
            bases.add(ANYWHERE)
        self._sums = {base: one for base, one in self._sums.items() if base in bases}
        return partial(remember_cleaned, self._disk, self.path, offset, self._sums)

    def truncate(self, offset: int) -> int:
        """Cut the log's end back to ``offset``, or to the start of the batch that holds it; waits for the disk.

        What was behind it is zeroed and flushed before the new end counts, so that no crash brings it back.

        :return: the new end offset.
        :raises StorageFailed: the log is offline.
        """
        self._check()
        if offset >= self.end_offset:
            return self.end_offset
        try:
            self.segments = Segments(truncation.cut_back(self, self._disk, max(offset, self.start_offset)))
        except StorageFailed as failure:
            self.fail(failure, not mark_unflushed(self._disk, self.path))
            raise
        self._active = self.segments[-1]
        self._unfinished = []
        return self.end_offset

    # Flushing

    def flush_due(self, now_ms: int) -> bool:
        """Say whether a flush is asked for by a roll, ``flush.messages`` or ``flush.ms``.

        A clock that went back must not keep it waiting until the time of the last one comes again.
        """
        if self._unfinished:
            return True
        unflushed = self.end_offset - self.flushed_offset
        if unflushed <= 0:
            return False
        config = self.config
        return unflushed >= config.flush_messages or abs(now_ms - self._last_flush_ms) >= config.flush_ms

    def flush_job(self, now_ms: int = -1) -> FlushJob | None:
        """Return a job that flushes all up to the end of the log, None when all is flushed."""
        self._check()
        if self.flushed_offset >= self.end_offset and not self._unfinished and not self.checkpoints.wanted:
            return None
        self._last_flush_ms = now_ms
        sealed, self._unfinished = self._unfinished, []
        active = self._active
        point = state = None
        checkpoints, end = self.checkpoints, self.end_offset
        if checkpoints.point_due(len(self.producers), sealed=bool(sealed)):
            point = checkpoints.recovery_point(self, active)
            state = checkpoints.state_of(self, point=end, flushed=end, has_snapshot=bool(point.snapshot))
        job = FlushJob(
            self._disk,
            self.path,
            self.fail,
            next_offset=end,
            files=[active.file] if active.size else [],
            sealed=sealed,
            sync_directory=self._new_names,
            state=state,
            point=point,
            sync_state=state is not None and state.start_offset != checkpoints.state.start_offset,
        )
        self._new_names = False
        if state is not None:
            checkpoints.job = job
        active.mark(end, active.size)
        return job

    def flushed(self, job: FlushJob) -> None:
        """Take note, on the loop, that a job's ``run`` has returned."""
        self.flushed_offset = max(self.flushed_offset, min(job.next_offset, self.end_offset))
        for segment in job.sealed:
            if segment is not self._active:
                segment.finished = True
                self.segments.let_go([segment])
        self.checkpoints.written(job)

    def note_flushed(self) -> None:
        """Write down, at once and without a flush, how far the log is flushed; called every second or so."""
        self.checkpoints.note_flushed(self.flushed_offset)

    def checkpoint(self, high_watermark: int) -> FlushJob | None:
        """Return a job that writes the state file, None when the file says it all already or is being written."""
        self._check()
        self.high_watermark = high_watermark
        return self.checkpoints.state_job(self)

    def close(self, *, clean: bool = True) -> None:
        """Flush all, cut the active segment to its data, and leave a directory that opens without reading data.

        :param clean: False lets go of the files and nothing more, but that a word which is owed is left
            (:attr:`unmarked`).
        :raises StorageFailed: the directory will be recovered when it is opened.
        """
        if clean and self.failure is None:
            try:
                self._close_clean()
            except StorageFailed as failure:
                self.fail(failure, not mark_unflushed(self._disk, self.path))
                raise
        if self.unmarked:
            self.unmarked = not mark_unflushed(self._disk, self.path)
        for segment in self.segments:
            segment.close()
        self.fail(StorageFailed(self.path, OSError(errno.EBADF, "the log is closed")))

    def _close_clean(self) -> None:
        active = self._active
        # not only those that no job has taken: a node that stops leaves jobs undone
        files = (*(one.segment for one in self._doomed), *self.segments)
        unfinished = [one for one in files if not one.finished and (one is not active or active.size)]
        for segment in unfinished:
            self._seal(segment)
            segment.write_sealed()
        self.checkpoints.write_closed(self, active.size)


__all__ = ["Appended", "FlushJob", "Log", "LogConfig", "Removal", "Scan", "Slice"]
