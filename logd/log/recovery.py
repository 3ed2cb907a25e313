"""What a log directory holds when it is opened: after a clean close as stated, after a crash as found by reading.

:func:`recover` returns a :class:`Found` for :class:`~logd.log.log.Log`. After a crash it reads from the recovery point
on, demands the expected base offset, epochs that never go down and good checksums, and cuts the torn end that a crash
leaves. What had been flushed is never cut: where that is wrong it raises Corrupt and changes nothing.
"""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from typing import Final, NamedTuple

import msgspec

from logd.errors import Corrupt, DecodeError, StorageFailed
from logd.log.aborted import AbortedIndex
from logd.log.admission import MAGIC, LogConfig
from logd.log.batch_file import LOG_SUFFIX, RELATIVE_OFFSET_MAX, SCAN_BYTES, BatchPlace
from logd.log.disk import PAGE_BYTES, TEMPORARY_SUFFIX, Disk, Entry
from logd.log.epochs import Epochs
from logd.log.flush import mark_unflushed
from logd.log.producers import Producers
from logd.log.restoring import SNAPSHOT_SUFFIX, note_batch, put_right, restore_aborted, restore_producers
from logd.log.segment import TIME_INDEX_SUFFIX, Segment
from logd.log.state import (
    FLUSHED_NAME,
    META_NAME,
    STATE_NAME,
    UNFLUSHED_NAME,
    State,
    parse_flushed,
    parse_meta,
    parse_state,
)
from logd.log.swap import ANYWHERE, Settled, Sums, settle, unknown_below
from logd.wire.batches import HEADER_BYTES, BatchHeader, check_crc, read_header

_NAME_DIGITS: Final = 20
_ZEROS: Final = "zeros follow"


class Found(NamedTuple):
    """A log as it is on disk. ``unfinished``: sealed segments that are not cut, indexed and flushed yet."""

    topic_id: bytes
    state: State
    end_offset: int
    segments: list[Segment]
    unfinished: list[Segment]
    epochs: Epochs
    producers: Producers
    aborted: AbortedIndex
    snapshots: list[int]
    cleaned_offset: int = 0
    has_gaps: bool = False
    sums: Sums | None = None


def empty(disk: Disk, path: str, topic_id: bytes, state: State, now_ms: int) -> Found:
    """Return the log of a directory without segments."""
    segment = Segment(disk, path, state.start_offset, now_ms)
    epochs = Epochs(list(state.epochs))
    return Found(topic_id, state, state.start_offset, [segment], [], epochs, Producers(path), AbortedIndex(), [])


def recover(disk: Disk, path: str, config: LogConfig, *, now_ms: int, newest_epoch: int | None = None) -> Found:
    """Read a log directory; see the module's words.

    :param newest_epoch: the highest leader epoch that a batch can have, where that is known.
    :raises Corrupt: flushed data or the partition.meta file is wrong.
    """
    entries = disk.entries(path)
    for entry in entries:
        if entry.name.endswith(TEMPORARY_SUFFIX) and not entry.is_directory:
            disk.remove(f"{path}/{entry.name}")
    topic_id = _topic_id(disk, path)
    settled = settle(disk, path, entries)
    if settled.changed:
        entries = disk.entries(path)
    state, damaged = _state(disk, path)
    segments = _segments(disk, path, entries)
    noted = parse_flushed(disk.load(f"{path}/{FLUSHED_NAME}"))
    if not segments:
        if max(state.flushed_offset, noted) > state.start_offset:
            raise Corrupt(path, 0, f"all segments from offset {state.start_offset} on are missing")
        return empty(disk, path, topic_id, state, now_ms)
    _demand_compacted(path, segments, settled.sums, state.start_offset)
    if state.start_offset < segments[0].base_offset:
        if state.flushed_offset > state.start_offset:
            raise Corrupt(segments[0].log_path, 0, f"the segments from offset {state.start_offset} on are missing")
        state = _replaced(state, start_offset=segments[0].base_offset)
    state = msgspec.structs.replace(state, flushed_offset=max(state.flushed_offset, noted))
    snapshots = [_number(entry.name) for entry in entries if _is(entry.name, SNAPSHOT_SUFFIX)]
    unflushed = any(entry.name == UNFLUSHED_NAME for entry in entries)
    trusted = not unflushed and _is_as_closed(state, noted, segments[-1])
    point = state.clean_end_offset if trusted else max(state.recovery_point, segments[0].base_offset)
    aborted = restore_aborted(disk, path, entries, state, segments, point, partial(_may_have_gaps, settled))
    recovery = _Recovery(disk, path, config, state, segments, sorted(snapshots), aborted, settled)
    recovery.whole_below = segments[-1].base_offset if damaged else 0
    recovery.newest_epoch = newest_epoch
    found = recovery.trust(topic_id) if trusted else recovery.scan(topic_id)
    put_right(disk, path, entries, found.segments, aborted)
    if unflushed:
        _write_again(disk, path, found.segments, state)
    if found.end_offset >= state.start_offset:
        for segment in segments:
            if settled.sums.get(segment.base_offset, (-1, 0))[0] == segment.size:
                segment.checksum = settled.sums[segment.base_offset][1]
        cleaned_offset = min(settled.cleaned_offset, found.end_offset)
        return found._replace(cleaned_offset=cleaned_offset, has_gaps=settled.compacted, sums=settled.sums)
    for segment in segments:  # all that was not deleted before is lost, and none of it was flushed
        segment.remove()
    return empty(disk, path, topic_id, state, now_ms)


def _demand_compacted(path: str, segments: list[Segment], sums: Sums, start_offset: int) -> None:
    """Raise Corrupt where compacted segments are missing or too short: their gaps are lawful, so no read would tell.

    Those below the start may have been removed, in any order; the last one may have been written to again.
    """
    first, last = max(start_offset, segments[0].base_offset), segments[-1].base_offset
    sizes = {one.base_offset: one.size for one in segments}
    for base, (size, _) in sums.items():
        if first <= base < last and sizes.get(base, -1) < size:
            found = f"has {sizes[base]} bytes of {size}" if base in sizes else "is missing"
            raise Corrupt(f"{path}/{base:020d}{LOG_SUFFIX}", sizes.get(base, 0), f"the compacted segment {found}")


def _may_have_gaps(settled: Settled, segment: Segment) -> bool:
    """Only where compaction has been: elsewhere a gap is a wrong base offset, which no batch's checksum covers."""
    base = segment.base_offset
    if not settled.sums and not settled.cleaned_offset:
        return settled.compacted  # a leader has compacted it
    if ANYWHERE in settled.sums and not settled.cleaned_offset:
        return True
    return base in settled.sums or base < max(settled.cleaned_offset, unknown_below(settled.sums))


def _is_as_closed(state: State, noted: int, last: Segment) -> bool:
    """Say whether the log is as a clean close left it: its last segment has that size, and nothing came after it."""
    end = state.clean_end_offset
    if state.clean_bytes != last.size or noted > end:
        return False
    return end > last.base_offset or (end == last.base_offset and not last.size)


def _write_again(disk: Disk, path: str, segments: list[Segment], state: State) -> None:
    """Write what is above the flushed offset over itself, state the files' ends again, and flush both.

    A flush has failed before: the kernel may take pages for clean that it never wrote, and another flush would not
    write them either, but say that all is well. So it may with the cut of a file that was sealed, all of whose data was
    flushed before: then its tail of zeros would come back, behind a recovery point from which nobody reads it again.
    """
    for segment in segments:
        if segment.next_offset < state.recovery_point or not segment.size:
            continue
        start = segment.locate(state.flushed_offset) if state.flushed_offset > segment.base_offset else 0
        for position in range(start, segment.size, SCAN_BYTES):
            data = disk.read(segment.file, min(SCAN_BYTES, segment.size - position), position)
            disk.write(segment.file, data, position)
        disk.resize(segment.file, segment.allocated)
        disk.sync(segment.file)
        segment.close()
    disk.remove(f"{path}/{UNFLUSHED_NAME}")
    disk.sync_directory(path)


def _topic_id(disk: Disk, path: str) -> bytes:
    meta = disk.load(f"{path}/{META_NAME}")
    if meta is None:
        raise Corrupt(f"{path}/{META_NAME}", 0, "the file that names the topic id is missing")
    try:
        return parse_meta(meta)
    except DecodeError as cause:
        raise Corrupt(f"{path}/{META_NAME}", 0, str(cause)) from cause


def _state(disk: Disk, path: str) -> tuple[State, bool]:
    """The state, and whether there was one that is damaged."""
    data = disk.load(f"{path}/{STATE_NAME}")
    if data is None:
        return State(), False
    try:
        return parse_state(data), False
    except DecodeError:
        return State(has_snapshot=True), True  # everything is read again


def _is(name: str, suffix: str) -> bool:
    return len(name) == _NAME_DIGITS + len(suffix) and name.endswith(suffix) and name[:_NAME_DIGITS].isdigit()


def _number(name: str) -> int:
    return int(name[:_NAME_DIGITS])


def _segments(disk: Disk, path: str, entries: list[Entry]) -> list[Segment]:
    found = sorted((entry for entry in entries if _is(entry.name, LOG_SUFFIX)), key=lambda entry: entry.name)
    segments = [Segment.found(disk, path, _number(entry.name), entry.size, entry.modified_ms) for entry in found]
    sizes = {entry.name: entry.size for entry in entries if _is(entry.name, TIME_INDEX_SUFFIX)}
    for segment, following in pairwise(segments):
        segment.read_max_timestamp(sizes.get(f"{segment.base_offset:020d}{TIME_INDEX_SUFFIX}", 0))
        segment.sealed = segment.finished = True
        segment.next_offset = following.base_offset
    return segments


def _replaced(state: State, *, start_offset: int) -> State:
    return State(
        start_offset,
        max(state.recovery_point, start_offset),
        max(state.flushed_offset, start_offset),
        max(state.high_watermark, start_offset),
        state.clean_end_offset,
        state.clean_bytes,
        state.has_snapshot,
        state.epochs,
    )


class _Recovery:
    """The work of :func:`recover` on a directory that has segments."""

    def __init__(
        self,
        disk: Disk,
        path: str,
        config: LogConfig,
        state: State,
        segments: list[Segment],
        snapshots: list[int],
        aborted: AbortedIndex,
        settled: Settled,
    ) -> None:
        self._disk = disk
        self._path = path
        self._config = config
        self._state = state
        self._segments = segments
        self._snapshots = snapshots
        self._aborted = aborted
        self._producers = Producers(path)
        self._epochs = Epochs(list(state.epochs))
        self._settled = settled
        self.whole_below = 0
        """Nothing is cut below it: nobody knows how far the log was flushed, but its last segment was the newest."""
        self.newest_epoch: int | None = None
        """No batch can have a higher leader epoch."""
        self._unfinished: list[Segment] = []
        self._expected = 0
        self._gaps = False  # whether offsets may be missing in the segment that is looked at, or behind it
        self._epoch = -1

    def trust(self, topic_id: bytes) -> Found:
        """Take the word of a clean close."""
        end = self._state.clean_end_offset
        self._segments[-1].next_offset = end
        if self._state.has_snapshot:
            self._restore(end)
        return self._found(topic_id, end, trusted=True)

    def scan(self, topic_id: bytes) -> Found:
        """Read everything from the recovery point on."""
        state, segments = self._state, self._segments
        point = max(state.recovery_point, segments[0].base_offset)
        if state.has_snapshot:
            self._restore(point)
        first = max((at for at, one in enumerate(segments) if one.base_offset < point), default=0)
        if point <= state.start_offset and any(one.base_offset == point for one in segments[first + 1 :]):
            first += 1  # what is before the point was deleted, and some of it may be removed
        self._expected = point
        self._epoch = self._epochs.epoch_at(point - 1)
        for at in range(first, len(segments)):
            if self._gaps:
                self._expected = max(self._expected, segments[at].base_offset)
                segments[at - 1].next_offset = segments[at].base_offset  # it may end with a gap
            self._gaps = _may_have_gaps(self._settled, segments[at])
            last = at == len(segments) - 1
            if not self._scan_segment(segments[at], point if at == first else segments[at].base_offset, last):
                self._drop_after(at)
                break
            if not last and self._expected != segments[at + 1].base_offset and not self._gaps:
                self._cut_or_corrupt(segments[at], segments[at].size, "the next segment does not begin where it ends")
                self._drop_after(at)
                break
        if self._expected < state.flushed_offset:
            why = f"the log ends at offset {self._expected} and was flushed up to {state.flushed_offset}"
            raise Corrupt(segments[-1].log_path, segments[-1].size, f"{why}: what came behind is missing")
        self._epochs.truncate_end(self._expected)
        return self._found(topic_id, self._expected, trusted=False)

    def _found(self, topic_id: bytes, end: int, *, trusted: bool) -> Found:
        found = (self._segments, self._unfinished, self._epochs, self._producers, self._aborted)
        known = end if trusted else self._state.recovery_point
        for stale in (one for one in self._snapshots if one > known):
            self._disk.remove(f"{self._path}/{stale:020d}{SNAPSHOT_SUFFIX}")
        return Found(topic_id, self._state, end, *found, [one for one in self._snapshots if one <= known])

    def _restore(self, offset: int) -> None:
        restore_producers(
            self._disk, self._path, self._producers, self._snapshots, self._segments, offset, committed=offset
        )

    def _scan_segment(self, segment: Segment, start_offset: int, last: bool) -> bool:
        """Check one segment from an offset on; say whether the log goes on behind it."""
        file_bytes = segment.size
        segment.sealed, segment.finished = not last, False
        position, reached = segment.resume(start_offset, self._config.index_interval_bytes)
        if reached < start_offset and (last or not self._gaps):  # the last one is never compacted
            why = f"the data ends at offset {reached} and was flushed up to {start_offset}"
            raise Corrupt(segment.log_path, position, why)
        if position:
            self._check_last(segment, position)
        segment.next_offset = start_offset
        why = "the file ends"
        while position < file_bytes:
            data = self._disk.read(segment.file, min(SCAN_BYTES, file_bytes - position), position)
            taken, why = self._take(segment, data, position, file_bytes)
            position += taken
            if why:
                break
        else:
            why = ""
        unfinished = not last and (position < file_bytes or self._expected > start_offset)
        segment.size = position
        if why:
            self._end_at(segment, position, file_bytes, why)
        segment.close()
        segment.finished = not last and not unfinished
        if unfinished:
            segment.seal()
            self._unfinished.append(segment)
        return not why or why == _ZEROS

    def _check_last(self, segment: Segment, stop: int) -> None:
        """Check the batch before the place where the scan begins: a wrong length there would look like a torn end."""
        start = segment.last_position
        data = self._disk.read(segment.file, stop - start, start)
        header = read_header(data) if len(data) >= HEADER_BYTES else None
        if header is None or header.size != len(data) or header.magic != MAGIC or not check_crc(data, 0, header):
            raise Corrupt(segment.log_path, start, "the last batch before the recovery point is damaged")

    def _take(self, segment: Segment, data: bytes, position: int, file_bytes: int) -> tuple[int, str]:
        """Take the batches of a piece read at ``position``; return how many bytes, and why no more, if so."""
        at = 0
        while at < len(data):
            if len(data) - at < HEADER_BYTES:
                if position + len(data) < file_bytes and at:
                    return at, ""
                return at, _ZEROS if _zero(data[at:]) else "a batch header is cut short"
            header = read_header(data, at)
            size = header.size
            why = self._wrong(segment, header, file_bytes - position - at)
            if why:
                return at, _ZEROS if _zero(data[at : at + HEADER_BYTES]) else why
            if len(data) - at < size:
                if at:
                    return at, ""
                data = self._disk.read(segment.file, size, position)
            if len(data) - at < size or not check_crc(data, at, header):
                return at, f"the batch at offset {header.base_offset} has a wrong checksum"
            self._check_epoch(segment, header, position + at)
            self._accept(segment, header, position + at, data, at)
            at += size
        return at, ""

    def _check_epoch(self, segment: Segment, header: BatchHeader, position: int) -> None:
        """No checksum covers the epoch, and of the last batch a higher one would be taken for a newer leader's."""
        if self.newest_epoch is not None and header.leader_epoch > self.newest_epoch:
            why = f"leader epoch {header.leader_epoch} at offset {header.base_offset}, and none above "
            why += f"{self.newest_epoch} was in force: it is damaged, or the metadata are older than this log"
            raise Corrupt(segment.log_path, position, why)

    def _wrong(self, segment: Segment, header: BatchHeader, rest_bytes: int) -> str:
        base = header.base_offset
        if header.size < HEADER_BYTES or header.size > rest_bytes:
            return f"a batch length of {header.length} cannot be"
        if header.magic != MAGIC or header.last_offset_delta < 0:
            return "a batch header is damaged"
        if base < self._expected or (base != self._expected and not self._gaps):
            return f"a batch begins at offset {base} where {self._expected} comes next"
        if header.last_offset - segment.base_offset > RELATIVE_OFFSET_MAX:
            return f"offsets {base} to {header.last_offset} cannot be in this segment"
        if header.leader_epoch < self._epoch:
            return f"leader epoch {header.leader_epoch} comes after {self._epoch}"
        return ""

    def _accept(self, segment: Segment, header: BatchHeader, position: int, data: bytes, at: int) -> None:
        place = BatchPlace(position, header.size, header.base_offset, header.last_offset, header.max_timestamp)
        segment.note_loaded(place, self._config.index_interval_bytes)
        if header.producer_id >= 0:
            note_batch(self._producers, self._aborted, header, data, at)
            self._producers.transactions.committed(self._state.flushed_offset)
        self._epoch = header.leader_epoch
        self._epochs.assign(header.leader_epoch, header.base_offset)
        self._expected = header.next_offset

    def _end_at(self, segment: Segment, position: int, file_bytes: int, why: str) -> None:
        """Make ``position`` the end of a segment; what follows must be zeros or an unflushed, torn end."""
        if why == _ZEROS and self._only_zeros(segment, position, file_bytes):
            segment.allocated = file_bytes
            return
        self._cut_or_corrupt(segment, position, "data stands behind a gap of zeros" if why == _ZEROS else why)

    def _cut_or_corrupt(self, segment: Segment, position: int, why: str) -> None:
        compacted = segment.base_offset in self._settled.sums and segment is not self._segments[-1]
        if self._expected < self._state.flushed_offset or compacted:
            raise Corrupt(segment.log_path, position, f"{why}, in data that had been flushed")
        if self._expected < self.whole_below:
            raise Corrupt(segment.log_path, position, f"{why}, and {STATE_NAME} is damaged: what is behind may be good")
        try:
            self._disk.resize(segment.file, position)
            self._disk.sync(segment.file)
        except StorageFailed:
            mark_unflushed(self._disk, self._path)
            raise
        segment.allocated = segment.size = position

    def _only_zeros(self, segment: Segment, position: int, file_bytes: int) -> bool:
        while position < file_bytes:
            data = self._disk.read(segment.file, min(SCAN_BYTES, file_bytes - position), position)
            if not _zero(data):
                return False
            position += len(data)
            found = self._disk.data_after(segment.file, position & -PAGE_BYTES) if position < file_bytes else None
            if found is None:
                return True
            position = max(position, found)
        return True

    def _drop_after(self, at: int) -> None:
        if self._expected < self._state.flushed_offset:
            segment = self._segments[at]
            raise Corrupt(segment.log_path, segment.size, "flushed data is missing")
        for segment in self._segments[at + 1 :]:
            segment.remove()
        del self._segments[at + 1 :]
        self._segments[-1].sealed = self._segments[-1].finished = False
        if self._segments[-1] in self._unfinished:
            self._unfinished.remove(self._segments[-1])


def _zero(data: bytes) -> bool:
    return data.count(0) == len(data)
