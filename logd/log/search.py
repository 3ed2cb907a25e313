"""Looking for an offset by time, in two steps: the index at once, the batches in a worker thread.

:func:`search` makes a :class:`Scan` on the event loop; :meth:`Scan.run` then reads batches with ``pread`` and touches
nothing that the loop may change.

Theory of operation. A time index has no checksum, and believing a wrong one would leave records out. So an entry (a
time, and the batch that reached it first) is looked up: the walk begins at the indexed batch before it and must meet
that very batch with that very time, else it begins again at the start of the segment. An entry that was moved to
another batch of the same time is found out or does no harm: entries never fall, there is one between any two indexed
batches where the time has risen, and what lies between the batch before it and the batch it names is walked over. The
largest time of a segment comes from such an entry, too, and is looked up once. Every batch on the way is checked.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, NamedTuple

from logd.errors import Corrupt, DecodeError, StorageFailed
from logd.log.batch_file import LOG_SUFFIX
from logd.log.disk import Disk, File
from logd.log.epochs import Epochs
from logd.log.index import Index, parse
from logd.log.segment import INDEX_SUFFIX, NO_TIMESTAMP, TIME_INDEX_SUFFIX, Segment
from logd.log.slices import what_is_wrong
from logd.wire.batches import HEADER_BYTES, BatchHeader, check_crc, read_header, read_records

if TYPE_CHECKING:
    from logd.log.log import Log

WALK_BYTES: Final = 64 * 1024
RECORDS_BYTES_MAX: Final = 256 * 1024 * 1024


class Found(NamedTuple):
    """The first record at or after a time."""

    timestamp: int
    offset: int
    leader_epoch: int


class Hint(NamedTuple):
    """What an index says: at ``position`` begins the batch that ends at ``last`` (-1: the first one of the segment).

    And the batch that ends at ``claimed_offset`` (-1: there is none) has ``claimed_time``, and no time up to it is
    larger.
    """

    position: int = 0
    last: int = -1
    claimed_time: int = -1
    claimed_offset: int = -1


class Piece(NamedTuple):
    """A segment to look in, as it was when asked. ``newest`` and ``hint`` are None until the disk has been asked.

    So is ``file``, of a segment that was not open: a thousand of them must not be open at once.
    """

    segment: Segment
    path: str
    file: File | None
    stop: int
    dense: bool
    newest: int | None
    hint: Hint | None


class _IndexLies(Exception):
    """What the index says is not so."""


def search(log: Log, disk: Disk, timestamp: int | None, end: int) -> Scan | None:
    """See :meth:`~logd.log.log.Log.find_timestamp`; None looks for the largest timestamp of all."""
    active = log.segments[-1]
    least = timestamp if timestamp is not None else 0
    live = [one for one in log.segments if one.size and one.next_offset > log.start_offset]
    live = [one for one in live if (one is not active and not one.max_is_sure) or one.max_timestamp >= least]
    pieces = []
    for one in live:
        newest = one.max_timestamp if one is active else None
        hint = _hint(one.index, one.base_offset, timestamp or newest or 0) if one is active else None
        pieces.append(Piece(one, one.path, one.open_file, one.size, log.is_dense(one), newest, hint))
    return Scan(disk, pieces, timestamp, log.start_offset, end, log.epochs) if pieces else None


def _hint(index: Index, base_offset: int, timestamp: int) -> Hint:
    time, offset = index.last_before(timestamp)
    if offset < 0:
        return Hint()
    last, position = index.floor(offset - 1)
    return Hint(position, last + base_offset if last >= 0 else -1, time, offset + base_offset)


class Scan:
    """A search for the first record with a timestamp of at least ``timestamp`` (None: the largest), between offsets."""

    def __init__(
        self,
        disk: Disk,
        pieces: list[Piece],
        timestamp: int | None,
        start_offset: int,
        end_offset: int,
        epochs: Epochs,
    ) -> None:
        self._disk = disk
        self._pieces = pieces
        self._wanted = timestamp
        self._timestamp = -1 if timestamp is None else timestamp
        self._start_offset = start_offset
        self._end_offset = end_offset
        self._epochs = epochs

    @property
    def segments(self) -> list[Segment]:
        """The segments that it looks into, open from now on: see :meth:`~logd.log.segments.Segments.let_go`."""
        return [piece.segment for piece in self._pieces]

    def run(self) -> Found | None:
        """Search; waits for the disk, so for a worker thread.

        :raises Corrupt: a batch is damaged.
        :raises StorageFailed: the disk failed.
        """
        if self._wanted is None:
            self._timestamp = max(map(_newest, self._pieces))
            if self._timestamp < 0:
                return None
        for piece in self._pieces:
            if _newest(piece) < self._timestamp:
                continue
            found = self._search(piece)
            if found is not None:
                return found
        return None

    def _search(self, piece: Piece) -> Found | None:
        try:
            piece.segment.check_whole()
            file = self._file(piece)
        except StorageFailed:
            if not piece.segment.forgotten:
                raise
            return None
        hint = piece.hint or self._indexed(piece)
        try:
            return self._walk(piece, file, hint)
        except (_IndexLies, Corrupt):  # a position that is wrong looks like a damaged batch
            return self._walk(piece, file, Hint())

    def _file(self, piece: Piece) -> File:
        if piece.file is not None:
            return piece.file
        file = self._disk.open(piece.path + LOG_SUFFIX)
        return file if piece.segment.path == piece.path else piece.segment.file  # retired: another may have its name

    def _indexed(self, piece: Piece) -> Hint:
        offsets = self._disk.load(piece.path + INDEX_SUFFIX)
        times = self._disk.load(piece.path + TIME_INDEX_SUFFIX)
        index = parse(offsets, times, piece.stop) if offsets is not None and times is not None else None
        return _hint(index, piece.segment.base_offset, self._timestamp) if index is not None else Hint()

    def _walk(self, piece: Piece, file: File, hint: Hint) -> Found | None:
        expected = piece.segment.base_offset
        met = hint.claimed_offset < 0
        last = hint.last
        for header, batch, position in self._batches(piece, file, hint.position):
            if last >= 0:
                if header.last_offset != last:
                    raise _IndexLies
                last, expected = -1, header.base_offset
            why = what_is_wrong(header, expected, self._epochs, dense=piece.dense)
            if why or not check_crc(batch, 0, header):
                raise Corrupt(file.path, position, f"a batch with {why or 'a wrong checksum'}")
            expected = header.next_offset
            late = header.max_timestamp >= self._timestamp
            if not met and (late or header.last_offset >= hint.claimed_offset):
                if (header.max_timestamp, header.last_offset) != (hint.claimed_time, hint.claimed_offset):
                    raise _IndexLies
                met = True
            if header.base_offset >= self._end_offset:
                if met:
                    return None
            elif late and header.last_offset >= self._start_offset:
                found = self._record(file, header, batch, position)
                if found is not None:
                    return found
        if not met:
            raise _IndexLies
        return None

    def _batches(self, piece: Piece, file: File, position: int) -> Iterator[tuple[BatchHeader, bytes, int]]:
        """Yield whole batches, as far as their lengths can be believed, and where they begin."""
        size = WALK_BYTES
        while position < piece.stop:
            data = self._disk.read(file, min(size, piece.stop - position), position)
            at = 0
            while at + HEADER_BYTES <= len(data):
                header = read_header(data, at)
                size = header.size
                if size < HEADER_BYTES:
                    raise Corrupt(file.path, position + at, f"a batch length of {header.length} cannot be")
                if size > len(data) - at:
                    break
                yield header, data[at : at + size], position + at
                at += size
            if at == 0 and (len(data) < HEADER_BYTES or size > piece.stop - position):
                raise Corrupt(file.path, position, "the segment ends inside a batch")
            size = max(size, WALK_BYTES)
            position += at

    def _record(self, file: File, header: BatchHeader, batch: bytes, position: int) -> Found | None:
        if header.log_append_time and header.count == header.last_offset_delta + 1:  # compaction took none of it
            offset = max(header.base_offset, self._start_offset)
            return Found(header.max_timestamp, offset, header.leader_epoch)
        try:
            records = read_records(batch, 0, bytes_max=RECORDS_BYTES_MAX)
        except DecodeError as cause:
            raise Corrupt(file.path, position, str(cause)) from cause
        for record in records:
            if record.timestamp >= self._timestamp and record.offset >= self._start_offset:
                return Found(record.timestamp, record.offset, header.leader_epoch)
        return None


def _newest(piece: Piece) -> int:
    if piece.newest is not None:
        return piece.newest
    try:
        piece.segment.make_max_sure()
    except StorageFailed:
        if not piece.segment.forgotten:
            raise
        return NO_TIMESTAMP
    return piece.segment.max_timestamp
