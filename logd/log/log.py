"""One partition's log: append, read, flush, roll, cut. The centre of ``logd.log``.

A :class:`Log` owns a directory of segments, the producer state, the leader epochs and the offsets that bound them. It
is synchronous: an append writes the data and moves index, producer state, epochs and end offset in one step, so that
under trio no reader sees half of it. Called by ``partitions`` on the event loop; what waits for the disk is handed out
as a job for a worker thread. It never reads a clock, never parses records, and after a failed write or flush it stays
offline: every later call raises that :class:`~logd.errors.StorageFailed`.
"""

from __future__ import annotations

import errno
from bisect import bisect_right
from typing import Final

import msgspec

from logd.errors import DecodeError, ErrorCode, Refused, StorageFailed
from logd.log import recovery
from logd.log.admission import LOG_APPEND_TIME_CONFIG, LogConfig, admit
from logd.log.disk import Disk, RealDisk
from logd.log.epochs import EpochEnd, Epochs
from logd.log.flush import FlushJob, IndexTail, RecoveryPoint
from logd.log.index import OFFSET_ENTRY_BYTES, TIME_ENTRY_BYTES
from logd.log.producers import Producers
from logd.log.segment import INDEX_SUFFIX, NO_TIMESTAMP, RELATIVE_OFFSET_MAX, TIME_INDEX_SUFFIX, Segment
from logd.log.slices import Slice
from logd.log.state import META_NAME, STATE_NAME, State, pack_meta, pack_state
from logd.wire.batches import BatchHeader, check_crc, read_headers, stamp, stamp_append_time

RECOVERY_POINT_BYTES: Final = 32 * 1024 * 1024
SNAPSHOT_SUFFIX: Final = ".snapshot"

_DISK_FULL: Final = (errno.ENOSPC, errno.EDQUOT)


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
        self.segments: list[Segment] = found.segments
        self.failure: StorageFailed | None = None
        self._active = found.segments[-1]
        self._bases = [segment.base_offset for segment in found.segments]
        self._unfinished: list[Segment] = found.unfinished
        self._new_names = bool(found.unfinished)
        self._state = found.state
        self._state_job: FlushJob | None = None
        self._since_point_bytes = 0
        self._indexed = (0, 0)  # entries of the active segment's two index files that are on disk
        self._flush_mark = (self.end_offset, self._active.size)
        self._last_flush_ms = -1

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
        """
        disk = disk or RealDisk()
        disk.make_directory(path)
        disk.replace(f"{path}/{META_NAME}", pack_meta(topic_id), sync=True)
        state = State(start_offset, start_offset, start_offset, start_offset)
        if start_offset:
            disk.replace(f"{path}/{STATE_NAME}", pack_state(state), sync=True)
        disk.sync_directory(path)
        disk.sync_directory(path.rpartition("/")[0] or ".")
        return cls(disk, path, config, recovery.empty(disk, path, topic_id, state, now_ms))

    @classmethod
    def open(cls, path: str, config: LogConfig, *, clean: bool, now_ms: int, disk: Disk | None = None) -> Log:
        """Open what is there. Without a clean close, what is after the recovery point is read and checked.

        A torn end is cut off. After this :attr:`flushed_offset` may be below :attr:`end_offset`: flush.

        :raises Corrupt: flushed data is wrong, or the directory is no log's.
        :raises StorageFailed: the disk refused.
        """
        disk = disk or RealDisk()
        return cls(disk, path, config, recovery.recover(disk, path, config, clean=clean, now_ms=now_ms))

    @property
    def size_bytes(self) -> int:
        """The bytes of all batches."""
        return sum(segment.size for segment in self.segments)

    def _check(self) -> None:
        if self.failure is not None:
            raise self.failure

    def fail(self, failure: StorageFailed) -> None:
        """Take the log offline for good; the first failure stays."""
        if self.failure is None:
            self.failure = failure

    # Appending

    def append(
        self, batches: memoryview | bytes | bytearray, *, leader_epoch: int, now_ms: int, origin: str = "client"
    ) -> Appended:
        """Append one batch (``client``, ``coordinator``), or those of a leader's answer as they are (``replica``).

        A writable buffer is stamped in place with base offset and leader epoch; it is not kept.

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
        if producer_id >= 0 and client:
            kept = self.producers.check(producer_id, header.producer_epoch, header.base_sequence, header.last_sequence)
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
        self._write(view, last, max_timestamp, now_ms)
        if producer_id >= 0:
            self.producers.note(header, base, max_timestamp)
        if leader_epoch > self.epochs.latest:
            self.epochs.assign(leader_epoch, base)
        self.end_offset = last + 1
        return Appended(base, last + 1, append_time, False, self.start_offset)

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
        self._write(batch, header.last_offset, header.max_timestamp, now_ms)
        if header.producer_id >= 0:
            self.producers.note(header, base, header.max_timestamp)
        if header.leader_epoch > self.epochs.latest:
            self.epochs.assign(header.leader_epoch, base)
        self.end_offset = header.next_offset

    def _write(self, data: memoryview, last: int, max_timestamp: int, now_ms: int) -> None:
        config = self.config
        segment = self._active
        size = len(data)
        if segment.size and (
            segment.size + size > config.segment_bytes or self._must_roll(last, max_timestamp, now_ms)
        ):
            segment = self._roll(now_ms)
        if segment.size == 0:
            self._new_names = True
        try:
            segment.append(data, last, max_timestamp, now_ms, config.index_interval_bytes)
        except StorageFailed as failure:
            if failure.cause.errno not in _DISK_FULL:
                self.fail(failure)
            raise
        self._since_point_bytes += size

    def _must_roll(self, last: int, max_timestamp: int, now_ms: int) -> bool:
        segment, config = self._active, self.config
        if last - segment.base_offset > RELATIVE_OFFSET_MAX:
            return True
        index = segment.index
        if len(index.offsets) >= config.segment_index_bytes // OFFSET_ENTRY_BYTES:
            return True
        if len(index.times) >= config.segment_index_bytes // TIME_ENTRY_BYTES:
            return True
        first = segment.roll_timestamp()
        waited = max_timestamp - first if first >= 0 and max_timestamp >= 0 else now_ms - segment.created_ms
        return waited > config.segment_ms

    def assign_epoch(self, epoch: int) -> None:
        """Begin a leader epoch at the end of the log, as a new leader does before its first append."""
        self.epochs.assign(epoch, self.end_offset)

    def roll_due(self, now_ms: int) -> bool:
        """Say whether ``segment.ms`` has passed for a segment that gets no appends."""
        segment = self._active
        return segment.size > 0 and self._must_roll(self.end_offset - 1, NO_TIMESTAMP, now_ms)

    def roll(self, now_ms: int) -> None:
        """Seal the active segment and begin a new one at the end of the log."""
        self._check()
        self._roll(now_ms)

    def _roll(self, now_ms: int) -> Segment:
        sealed = self._active
        segment = Segment(self._disk, self.path, self.end_offset, now_ms)
        segment.file  # made now: its name says where the log ends  # noqa: B018
        sealed.seal()
        self._unfinished.append(sealed)
        self._new_names = True
        self.segments.append(segment)
        self._bases.append(segment.base_offset)
        self._active = segment
        self._indexed = (0, 0)
        return segment

    # Reading

    def read(self, offset: int, *, bytes_max: int, end: int, at_least_one: bool = True) -> list[Slice]:
        """Return whole batches from ``offset`` (or the batch that holds it) and below ``end``, of one segment.

        :param end: exclusive upper offset: the high watermark or the last stable offset.
        :param at_least_one: return the first batch even when it is larger than ``bytes_max``.
        :raises Refused: OFFSET_OUT_OF_RANGE.
        """
        self._check()
        if offset < self.start_offset or offset > self.end_offset:
            raise Refused(
                ErrorCode.OFFSET_OUT_OF_RANGE,
                f"Offset {offset} is outside of the log, which holds {self.start_offset} to {self.end_offset}",
            )
        if offset >= end:
            return []
        at = bisect_right(self._bases, offset) - 1
        while at < len(self.segments):
            segment = self.segments[at]
            start = segment.locate(offset) if offset > segment.base_offset else 0
            stop = self._stop(segment, end)
            if start < stop:
                stop = segment.cut(start, stop, bytes_max, at_least_one)
                base = offset if start == 0 and offset == segment.base_offset else segment.base_offset_at(start)
                return [Slice(self._disk, segment, base, start, stop)] if stop > start else []
            if start < segment.size:
                break
            at += 1
        return []

    def _stop(self, segment: Segment, end: int) -> int:
        if end >= segment.next_offset:
            return segment.size
        if segment is self._active and self._flush_mark[0] == end:
            return self._flush_mark[1]
        return segment.locate(end) if end > segment.base_offset else 0

    def end_offset_for(self, epoch: int) -> EpochEnd:
        """Say where a leader epoch ends (OffsetForLeaderEpoch)."""
        return self.epochs.end_offset_for(epoch, self.end_offset)

    # Flushing

    def flush_due(self, now_ms: int) -> bool:
        """Say whether a flush is asked for by a roll, ``flush.messages`` or ``flush.ms``."""
        if self._unfinished:
            return True
        unflushed = self.end_offset - self.flushed_offset
        if unflushed <= 0:
            return False
        config = self.config
        return unflushed >= config.flush_messages or now_ms - self._last_flush_ms >= config.flush_ms

    def flush_job(self, now_ms: int = -1) -> FlushJob | None:
        """Return a job that flushes all up to the end of the log, None when all is flushed."""
        self._check()
        if self.flushed_offset >= self.end_offset and not self._unfinished:
            return None
        self._last_flush_ms = now_ms
        sealed, self._unfinished = self._unfinished, []
        active = self._active
        point = state = None
        if self._state_job is None and (self._since_point_bytes >= RECOVERY_POINT_BYTES or sealed):
            point = self._recovery_point()
            state = self._current_state(self.end_offset, self.end_offset, bool(point.snapshot))
        job = FlushJob(
            self._disk,
            self.path,
            self.fail,
            next_offset=self.end_offset,
            files=[active.file] if active.size else [],
            sealed=sealed,
            sync_directory=self._new_names,
            state=state,
            point=point,
        )
        self._new_names = False
        if state is not None:
            self._state_job = job
        self._flush_mark = (self.end_offset, active.size)
        return job

    def flushed(self, job: FlushJob) -> None:
        """Take note, on the loop, that a job's ``run`` has returned."""
        self.flushed_offset = max(self.flushed_offset, min(job.next_offset, self.end_offset))
        for segment in job.sealed:
            if segment is not self._active:
                segment.release()
        if job is self._state_job:
            assert job.state is not None
            self._state = job.state
            self._state_job = None

    def checkpoint(self, high_watermark: int) -> FlushJob | None:
        """Return a job that writes the state file, None when the file says it all already or is being written."""
        self._check()
        self.high_watermark = high_watermark
        point = min(self._state.recovery_point, self.flushed_offset)
        state = self._current_state(point, self.flushed_offset, self._state.has_snapshot)
        if self._state_job is not None or state == self._state:
            return None
        self._state_job = FlushJob(
            self._disk,
            self.path,
            self.fail,
            next_offset=self.flushed_offset,
            files=[],
            sealed=[],
            sync_directory=False,
            state=state,
        )
        return self._state_job

    def _current_state(self, point: int, flushed: int, has_snapshot: bool, clean_end: int = -1) -> State:
        return State(
            self.start_offset,
            point,
            flushed,
            self.high_watermark,
            clean_end,
            has_snapshot,
            tuple(self.epochs.entries),
        )

    def _recovery_point(self) -> RecoveryPoint:
        offset, active = self.end_offset, self._active
        self._since_point_bytes = 0
        snapshot = self.producers.snapshot(offset) if len(self.producers) else None
        entries, times = self._indexed
        tails = (
            IndexTail(active.path + INDEX_SUFFIX, entries * OFFSET_ENTRY_BYTES, active.index.offset_bytes(entries)),
            IndexTail(active.path + TIME_INDEX_SUFFIX, times * TIME_ENTRY_BYTES, active.index.time_bytes(times)),
        )
        self._indexed = (len(active.index.offsets), len(active.index.times))
        return RecoveryPoint(f"{self.path}/{offset:020d}{SNAPSHOT_SUFFIX}", snapshot, tails)

    def close(self, *, clean: bool = True) -> None:
        """Flush all, cut the active segment to its data, and leave a directory that opens without reading data.

        :param clean: False lets go of the files and nothing more.
        :raises StorageFailed: the directory will be recovered when it is opened.
        """
        if clean and self.failure is None:
            try:
                self._close_clean()
            except StorageFailed as failure:
                self.fail(failure)
                raise
        for segment in self.segments:
            segment.sealed = True
            segment.release()
        self.fail(StorageFailed(self.path, OSError(errno.EBADF, "the log is closed")))

    def _close_clean(self) -> None:
        active = self._active
        if active.size:
            self._unfinished.append(active)
        for segment in self._unfinished:
            segment.seal()
            segment.write_sealed()
        end = self.end_offset
        if len(self.producers):
            path = f"{self.path}/{end:020d}{SNAPSHOT_SUFFIX}"
            self._disk.replace(path, self.producers.snapshot(end), sync=True)
        state = self._current_state(end, end, len(self.producers) > 0, clean_end=end)
        if state != self._state:
            self._disk.replace(f"{self.path}/{STATE_NAME}", pack_state(state), sync=True)
            self._disk.sync_directory(self.path)


__all__ = ["Appended", "Log", "LogConfig"]
