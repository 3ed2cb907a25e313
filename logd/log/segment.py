"""One segment of a log: a file of record batches from a base offset on, with its index and its times.

The last segment of a log is appended to; all others are sealed. Owned by :class:`~logd.log.log.Log`. It says where an
offset lies and when its records were made, and keeps both index files; the bytes are those of a
:class:`~logd.log.batch_file.BatchFile`. It decides nothing about what may be appended.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from struct import Struct
from typing import Final

from logd.errors import Corrupt, StorageFailed
from logd.log.aborted import TXN_INDEX_SUFFIX
from logd.log.batch_file import LAST_DELTA, LOG_SUFFIX, PLACE, TIMES, WALK_BYTES, BatchFile, BatchPlace, Cold
from logd.log.disk import DISK_FULL, Buffer, Disk
from logd.log.index import TIME_ENTRY_BYTES, Index, parse
from logd.wire.batches import HEADER_BYTES

INDEX_SUFFIX: Final = ".index"
TIME_INDEX_SUFFIX: Final = ".timeindex"
SUFFIXES: Final = (LOG_SUFFIX, INDEX_SUFFIX, TIME_INDEX_SUFFIX, TXN_INDEX_SUFFIX)
"""Of all files that a segment may have."""

MARKS_MAX: Final = 64
NO_TIMESTAMP: Final = -1
_TIME_ENTRY: Final = Struct(">qi")


class Segment(BatchFile):
    """Batches from ``base_offset`` to ``next_offset`` in the first ``size`` bytes of one file."""

    __slots__ = (
        "_index",
        "_last_base",
        "_last_position",
        "_marks",
        "_max_is_claimed",
        "_max_timestamp",
        "_max_timestamp_offset",
        "_since_index_bytes",
        "aborted",
        "changed_ms",
        "created_ms",
        "damage",
        "first_timestamp",
        "forgotten",
        "next_offset",
        "touched",
    )

    def __init__(self, disk: Disk, directory: str, base_offset: int, now_ms: int) -> None:
        super().__init__(disk, directory, base_offset)
        self.next_offset = base_offset
        self.changed_ms = now_ms
        self.created_ms = now_ms
        self.first_timestamp: int | None = None  # the largest of the first batch; None when not known yet
        self.aborted = b""  # what its transaction index is to hold, once it is sealed
        self.damage: Corrupt | None = None  # why no index can be made, so that nobody reads all of it to hear so again
        self.forgotten = False  # no part of the log any more, and its file may be gone
        self.touched = False  # read since the last look for unused ones
        self._max_timestamp: int | None = NO_TIMESTAMP
        self._max_timestamp_offset = base_offset
        self._max_is_claimed = False  # by a file that has no checksum, and nobody has looked
        self._since_index_bytes = 0
        self._last_base = -1  # of the batch appended last, and where it is
        self._last_position = 0
        self._marks: dict[int, int] = {}  # offsets at which a batch begins, and where; a few that are asked for again
        self._index: Index | None = Index()

    @classmethod
    def found(cls, disk: Disk, directory: str, base_offset: int, size: int, changed_ms: int) -> Segment:
        """Return a segment whose file is there already, of ``size`` bytes, with nothing read yet."""
        segment = cls(disk, directory, base_offset, changed_ms)
        segment.size = segment.allocated = segment.written_from = size
        if size:
            segment._index = None
            segment._max_timestamp = None
        return segment

    @property
    def index(self) -> Index:
        """The index, read or rebuilt on first use.

        :raises Corrupt: it cannot be rebuilt; batches are damaged.
        """
        index = self._index
        if index is None:  # looked at once: it may be let go on the loop while a worker thread is here
            if self.damage is not None:
                raise self.damage.with_traceback(None)
            try:
                index = self._index = self._load_index()
            except Corrupt as corrupt:
                self.damage = corrupt
                raise
        return index

    @property
    def max_timestamp(self) -> int:
        """The largest timestamp of any record, -1 when there is none."""
        if self._max_timestamp is None:
            index = self.index  # rebuilding it finds the timestamp too
            if self._max_timestamp is None:
                self._load_max_timestamp(index)
        assert self._max_timestamp is not None
        return self._max_timestamp

    @property
    def max_is_known(self) -> bool:
        """Whether :attr:`max_timestamp` can be told without waiting for the disk."""
        return self._max_timestamp is not None

    @property
    def max_is_sure(self) -> bool:
        """Whether :attr:`max_timestamp` is known, and not only by the word of the ``.timeindex`` file."""
        return self._max_timestamp is not None and not self._max_is_claimed

    def make_max_sure(self) -> None:
        """Compare :attr:`max_timestamp` with the batch that is said to hold it; waits for the disk.

        Where that is wrong, it is found again from all batches; where those cannot be read, the segment counts as one
        that was changed when its file was.

        :raises StorageFailed: the disk failed.
        """
        if self.max_is_sure:
            return
        path, index = self.path, self._index if self._index is not None else self._parse_index()
        if index is not None and index.times and self._max_timestamp is None:
            self._load_max_timestamp(index)
        newest, offset = self._max_timestamp, self._max_timestamp_offset - self.base_offset
        try:
            if path != self.path or index is None or newest is None or not self._holds(index, newest, offset):
                self.rebuild_index()
        except Corrupt:
            self._max_timestamp = max(NO_TIMESTAMP if newest is None else newest, self.changed_ms)
        self._max_is_claimed = False

    @property
    def max_timestamp_offset(self) -> int:
        """The last offset of the first batch that holds :attr:`max_timestamp`."""
        _ = self.max_timestamp
        return self._max_timestamp_offset

    def append(
        self, data: Buffer, base_offset: int, last_offset: int, max_timestamp: int, now_ms: int, interval_bytes: int
    ) -> None:
        """Write one batch at the end, index it, move the end.

        :raises StorageFailed: and nothing has changed.
        """
        position = self.size
        size = len(data)
        if position + size > self.allocated:
            self.grow(size)
        self._disk.write(self.file, data, position)
        self.size = position + size
        self._last_base = base_offset
        self._last_position = position
        self.next_offset = last_offset + 1
        self.changed_ms = now_ms
        self._note(position, size, last_offset, max_timestamp, interval_bytes)

    def append_all(self, data: Buffer, places: Sequence[BatchPlace], interval_bytes: int) -> None:
        """Write several batches at the end in one go; their positions count from the start of ``data``.

        :raises StorageFailed: and nothing has changed.
        """
        position = self.size
        if position + len(data) > self.allocated:
            self.grow(len(data))
        self._disk.write(self.file, data, position)
        for at, size, base_offset, last_offset, max_timestamp in places:
            self._note(position + at, size, last_offset, max_timestamp, interval_bytes)
            self._last_base, self._last_position = base_offset, position + at
        self.next_offset = places[-1].last_offset + 1
        self.size = position + len(data)

    def start_again(self) -> None:
        """Forget index and times, before recovery reads the segment from its start."""
        self._index = Index()
        self._marks = {}
        self._last_base = -1
        self._max_timestamp = NO_TIMESTAMP
        self._max_timestamp_offset = self.base_offset
        self._since_index_bytes = 0
        self.next_offset = self.base_offset
        self.first_timestamp = None

    def note_loaded(self, place: BatchPlace, interval_bytes: int) -> None:
        """Index a batch that recovery found in the file."""
        self.next_offset = place.last_offset + 1
        self._note(place.position, place.size, place.last_offset, place.max_timestamp, interval_bytes)

    def _note(self, position: int, size: int, last_offset: int, max_timestamp: int, interval_bytes: int) -> None:
        if position == 0:
            self.first_timestamp = max_timestamp
        self._note_time(max_timestamp, last_offset)
        if self._since_index_bytes > interval_bytes:
            index = self.index
            index.add(last_offset - self.base_offset, position)
            index.add_time(self.max_timestamp, self._max_timestamp_offset - self.base_offset)
            self._since_index_bytes = 0
        self._since_index_bytes += size

    def _note_time(self, max_timestamp: int, last_offset: int) -> None:
        if self._max_timestamp is None:
            self._load_max_timestamp(self.index)
        if self._max_timestamp is None or max_timestamp > self._max_timestamp:
            self._max_timestamp = max_timestamp
            self._max_timestamp_offset = last_offset

    def find_first_timestamp(self) -> int:
        """Read what ``segment.ms`` counts from, the first batch's largest timestamp; -1 when it has none."""
        head = self._disk.read(self.file, HEADER_BYTES, 0) if self.size else b""
        self.first_timestamp = TIMES.unpack_from(head, 27)[1] if len(head) == HEADER_BYTES else NO_TIMESTAMP
        return self.first_timestamp

    def mark(self, offset: int, position: int) -> None:
        """Remember that the batch at ``offset`` begins at ``position``: a reader will ask for it soon."""
        marks = self._marks
        marks[offset] = position
        if len(marks) > MARKS_MAX:
            marks.pop(next(iter(marks)), None)

    def marked(self, offset: int) -> int:
        """Return where the batch at ``offset`` begins if that is remembered, else -1."""
        if offset == self._last_base:
            return self._last_position
        return self._marks.get(offset, -1)

    def locate(self, offset: int, *, wait: bool = True) -> int:
        """Return the position of the first batch that ends at or after ``offset``; the size when there is none.

        :raises Cold: without ``wait``, when the disk would have to be waited for.
        """
        position = self.marked(offset)
        if position >= 0:
            return position
        if not self.size:
            return 0
        if self._index is None and not wait:
            raise Cold
        last, position = self.index.floor(offset - self.base_offset)
        while position < self.size:
            chunk = self._read(min(WALK_BYTES, self.size - position), position, wait)
            at = 0
            while at + HEADER_BYTES <= len(chunk):
                base, length = PLACE.unpack_from(chunk, at)
                last_offset = base + LAST_DELTA.unpack_from(chunk, at + 23)[0]
                if last >= 0 and last_offset - self.base_offset != last:
                    if not wait:
                        raise Cold
                    self.rebuild_index()  # it lies
                    return self.locate(offset)
                last = -1
                if last_offset >= offset:
                    return position + at
                at += self._checked(length, position + at)
            if at == 0 and last >= 0:
                if not wait:
                    raise Cold
                self.rebuild_index()  # no header has room there
                return self.locate(offset)
            if at == 0:
                raise self._ends_early(position)
            position += at
        return self.size

    def cut(self, start: int, stop: int, bytes_max: int, at_least_one: bool, *, wait: bool = True) -> int:
        """Return the end, between ``start`` and ``stop``, of the whole batches that fit into ``bytes_max``.

        :raises Cold: without ``wait``, when the disk would have to be waited for.
        """
        if stop - start <= bytes_max:
            return stop
        if self._index is None and not wait:
            raise Cold
        last, end = self.index.batch_start(start + bytes_max)
        if end > start:
            if end >= self.written_from or self._ends_at(end, last, wait):
                return end
            if not wait:
                raise Cold  # it lies: to be looked for from the start on
        end = start
        while end < stop:
            chunk = self._read(min(WALK_BYTES, stop - end), end, wait)
            at = 0
            while at + HEADER_BYTES <= len(chunk):
                size = self._checked(PLACE.unpack_from(chunk, at)[1], end + at)
                if end + at + size - start > bytes_max:
                    first = end + at == start
                    return start + size if first and at_least_one else end + at
                at += size
            if at == 0:
                raise self._ends_early(end)
            end += at
        return min(end, stop)

    def _ends_at(self, position: int, last: int, wait: bool) -> bool:
        """Say whether a batch begins at ``position`` that ends at relative offset ``last``, as an index file says."""
        if position + HEADER_BYTES > self.size:
            return False
        head = self._read(HEADER_BYTES, position, wait)
        base, delta = PLACE.unpack_from(head)[0], LAST_DELTA.unpack_from(head, 23)[0]
        return bool(base + delta - self.base_offset == last)

    def base_offset_at(self, position: int, *, wait: bool = True) -> int:
        """Return the base offset of the batch at ``position``, or the next offset at the end.

        :raises Cold: without ``wait``, when the disk would have to be waited for.
        """
        if position >= self.size:
            return self.next_offset
        base: int = PLACE.unpack_from(self._read(PLACE.size, position, wait))[0]
        return base

    def seal(self) -> None:
        """End appending. The file is still to be cut and its index written: see :meth:`write_sealed`."""
        index = self.index
        if self.max_timestamp != NO_TIMESTAMP:
            index.add_time(self.max_timestamp, self.max_timestamp_offset - self.base_offset)
        self.sealed = True

    def write_sealed(self) -> None:
        """Cut the file to its data and write its index, and flush both. Waits for the disk: off the loop."""
        self.trim()
        self._write_index()

    def truncate(self, position: int, next_offset: int) -> None:
        """Make ``position`` the end, after :meth:`cut_back`, and make the index again. Waits for the disk."""
        self.cut_back(position)
        self._marks = {}
        self._last_base = -1
        self.next_offset = next_offset
        self.rebuild_index()

    def _write_index(self) -> None:
        """Write both index files, flushed: an old one that looks right would hide the newest timestamps."""
        index = self.index
        try:
            self._disk.replace(self.path + INDEX_SUFFIX, index.offset_bytes(), sync=True)
            self._disk.replace(self.path + TIME_INDEX_SUFFIX, index.time_bytes(), sync=True)
            self.write_aborted(self.aborted)
        except StorageFailed as failure:
            if failure.cause.errno not in DISK_FULL:
                raise
            self._disk.remove(self.path + INDEX_SUFFIX)  # to be made again from the data
            self._disk.remove(self.path + TIME_INDEX_SUFFIX)
            self._disk.remove(self.path + TXN_INDEX_SUFFIX)

    def write_aborted(self, entries: bytes) -> None:
        """Write the transaction index, flushed; where there are no entries, there is no file. Waits for the disk."""
        if entries:
            self._disk.replace(self.path + TXN_INDEX_SUFFIX, entries, sync=True)
        else:
            self._disk.remove(self.path + TXN_INDEX_SUFFIX)
        self.aborted = b""

    def release(self) -> None:
        """Close, unmap and forget what can be read again, unless the segment is still to be written."""
        if self.finished:
            self.close()
            self._index = None

    def _load_index(self) -> Index:
        path = self.path
        index = self._parse_index()
        if self.path != path:  # retired meanwhile: what was read may be of the segment that has the name now
            return self.rebuild_index()
        if index is None or not self._is_well(index, len(index.times) - 1):
            return self.rebuild_index()
        return index

    def _is_well(self, index: Index, at: int) -> bool:
        """Say whether an entry of the time index is of a batch that there is; -1: whether it rightly has none."""
        return self._holds(index, index.times[at], index.time_offsets[at]) if at >= 0 else self.size == 0

    def _holds(self, index: Index, timestamp: int, offset: int) -> bool:
        """Say whether the batch that ends at a relative offset has this largest timestamp."""
        last, position = index.floor(offset - 1)
        try:
            for place in self.walk(position, self.size):
                reached = place.last_offset - self.base_offset
                if last not in (-1, reached):
                    return False
                last = -1
                if reached >= offset:
                    return reached == offset and place.max_timestamp == timestamp
        except Corrupt:
            return False
        return False

    def _parse_index(self) -> Index | None:
        offsets = self._disk.load(self.path + INDEX_SUFFIX)
        times = self._disk.load(self.path + TIME_INDEX_SUFFIX)
        return parse(offsets, times, self.size) if offsets is not None and times is not None else None

    def resume(self, offset: int, interval_bytes: int) -> tuple[int, int]:
        """Find where ``offset`` begins or would begin, in a file whose end may be torn; index what is before it.

        :return: the position, and the offset that was reached, which is lower when the data ends too early.
        """
        index = self._parse_index()
        self.start_again()
        if index is not None and len(index) and index.times:
            last, position = index.floor(offset - 1 - self.base_offset)
            times = bisect_left(index.time_offsets, last + 1)
            well = times and all(self._is_well(index, at) for at in (times - 1, times) if at < len(index.times))
            if well and (last < 0 or self.last_offset_at(position) == last + self.base_offset):
                index.cut(position + 1, last + 1)
                self._index = index
                self._load_max_timestamp(index)
        return self._walk_to(offset, interval_bytes)

    def _walk_to(self, offset: int, interval_bytes: int) -> tuple[int, int]:
        assert self._index is not None
        indexed = len(self._index) > 0
        position = self._index.positions[-1] if indexed else 0
        reached = self.base_offset
        try:
            for place in self.walk(position, self.size):
                if place.base_offset >= offset:
                    return place.position, reached
                if indexed:
                    self._note_time(place.max_timestamp, place.last_offset)
                else:
                    self.note_loaded(place, interval_bytes)
                self._last_base, self._last_position = place.base_offset, place.position
                position, reached = place.position + place.size, place.last_offset + 1
        except Corrupt as end:
            position = end.position
        return position, reached

    @property
    def last_position(self) -> int:
        """Where the batch that was appended or walked over last begins."""
        return self._last_position

    def rebuild_index(self, interval_bytes: int = 4096) -> Index:
        """Make the index again from the headers of all batches."""
        again = Segment.found(self._disk, self.path.rpartition("/")[0], self.base_offset, self.size, self.changed_ms)
        again._file = self.file
        again.start_again()
        for place in again.walk(0, self.size):
            again.note_loaded(place, interval_bytes)
        if self.sealed:
            again.seal()
        index = again.index
        self._max_timestamp, self._max_timestamp_offset = again.max_timestamp, again.max_timestamp_offset
        self._max_is_claimed = False
        self._since_index_bytes = again._since_index_bytes
        self._index = index  # in one step: a worker thread may be here while the loop looks
        self.damage = None
        return index

    def read_max_timestamp(self, time_index_bytes: int) -> None:
        """Take the largest timestamp from the end of the ``.timeindex`` file of a sealed segment, if it is there."""
        if time_index_bytes < TIME_ENTRY_BYTES or time_index_bytes % TIME_ENTRY_BYTES or not self.size:
            return
        file = self._disk.open(self.path + TIME_INDEX_SUFFIX)
        entry = self._disk.read(file, TIME_ENTRY_BYTES, time_index_bytes - TIME_ENTRY_BYTES)
        timestamp, offset = _TIME_ENTRY.unpack(entry)
        if timestamp > 0 and offset >= 0:
            self._max_timestamp, self._max_timestamp_offset = timestamp, self.base_offset + offset
            self._max_is_claimed = True

    def _load_max_timestamp(self, index: Index) -> None:
        self._max_timestamp = index.times[-1] if index.times else NO_TIMESTAMP
        self._max_timestamp_offset = self.base_offset + (index.time_offsets[-1] if index.times else 0)

    def paths(self) -> list[str]:
        """Return the files that belong to the segment, there or not."""
        return [self.path + suffix for suffix in SUFFIXES]

    def remove(self) -> None:
        """Remove its files; the data goes last, so that no index is ever left alone. Waits for the disk.

        :raises StorageFailed: some are left.
        """
        for path in reversed(self.paths()):
            self._disk.remove(path)
