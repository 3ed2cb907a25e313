"""Looking for an offset by time, in two steps: the index at once, the batches in a worker thread.

:meth:`~logd.log.log.Log.find_timestamp` makes a :class:`Scan` on the event loop; :meth:`Scan.run` then reads headers
and one batch with ``pread`` and touches nothing that the loop may change.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from logd.errors import Corrupt, DecodeError
from logd.log.disk import Disk, File
from logd.log.index import Index, parse
from logd.log.segment import INDEX_SUFFIX, TIME_INDEX_SUFFIX, Segment
from logd.wire.batches import HEADER_BYTES, BatchHeader, read_header, read_records

WALK_BYTES: Final = 64 * 1024
RECORDS_BYTES_MAX: Final = 256 * 1024 * 1024


class Found(NamedTuple):
    """The first record at or after a time."""

    timestamp: int
    offset: int
    leader_epoch: int


class Piece(NamedTuple):
    """Where to look in one segment; ``position`` is -1 when the index must be read from its file first."""

    path: str
    file: File
    base_offset: int
    position: int
    stop: int


def piece_of(segment: Segment, timestamp: int, *, active: bool) -> Piece:
    """Return where in a segment records of a time may begin."""
    position = _start(segment.index, timestamp) if active else -1
    return Piece(segment.path, segment.file, segment.base_offset, position, segment.size)


def _start(index: Index, timestamp: int) -> int:
    return index.floor(index.before_time(timestamp))[1]


class Scan:
    """A search for the first record with a timestamp of at least ``timestamp``, between two offsets."""

    def __init__(self, disk: Disk, pieces: list[Piece], timestamp: int, start_offset: int, end_offset: int) -> None:
        self._disk = disk
        self._pieces = pieces
        self._timestamp = timestamp
        self._start_offset = start_offset
        self._end_offset = end_offset

    def run(self) -> Found | None:
        """Search; waits for the disk, so for a worker thread.

        :raises Corrupt: a batch is damaged.
        :raises StorageFailed: the disk failed.
        """
        for piece in self._pieces:
            found = self._search(piece)
            if found is not None:
                return found
        return None

    def _search(self, piece: Piece) -> Found | None:
        position = piece.position if piece.position >= 0 else self._indexed(piece)
        while position < piece.stop:
            chunk = self._disk.read(piece.file, min(WALK_BYTES, piece.stop - position), position)
            at = 0
            while at + HEADER_BYTES <= len(chunk):
                header = read_header(chunk, at)
                if header.size < HEADER_BYTES:
                    raise Corrupt(piece.file.path, position + at, f"a batch length of {header.length} cannot be")
                if header.base_offset >= self._end_offset:
                    return None
                if header.max_timestamp >= self._timestamp and header.last_offset >= self._start_offset:
                    found = self._record(piece, header, position + at)
                    if found is not None:
                        return found
                at += header.size
            if at == 0:
                raise Corrupt(piece.file.path, position, "the segment ends inside a batch")
            position += at
        return None

    def _indexed(self, piece: Piece) -> int:
        offsets = self._disk.load(piece.path + INDEX_SUFFIX)
        times = self._disk.load(piece.path + TIME_INDEX_SUFFIX)
        index = parse(offsets, times, piece.stop) if offsets is not None and times is not None else None
        if index is None:
            return 0
        last, position = index.floor(index.before_time(self._timestamp))
        head = self._disk.read(piece.file, HEADER_BYTES, position)
        if last >= 0 and (len(head) < HEADER_BYTES or read_header(head).last_offset != last + piece.base_offset):
            return 0  # the index lies
        return position

    def _record(self, piece: Piece, header: BatchHeader, position: int) -> Found | None:
        if header.log_append_time:
            offset = max(header.base_offset, self._start_offset)
            return Found(header.max_timestamp, offset, header.leader_epoch)
        batch = self._disk.read(piece.file, header.size, position)
        try:
            records = read_records(batch, 0, bytes_max=RECORDS_BYTES_MAX)
        except DecodeError as cause:
            raise Corrupt(piece.file.path, position, str(cause)) from cause
        for record in records:
            if record.timestamp >= self._timestamp and record.offset >= self._start_offset:
                return Found(record.timestamp, record.offset, header.leader_epoch)
        return None
