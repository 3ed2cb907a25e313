"""A piece of a segment that answers a read: whole batches, in the page cache or still on the disk.

:meth:`~logd.log.log.Log.read` makes them; a partition sends :meth:`Slice.view` when :meth:`Slice.resident` says that
this will not wait, and else runs :meth:`Slice.warm` in a worker thread. A slice stays readable when its segment is
deleted or released meanwhile. Python must not look into the view: it is for ``sendmsg``.

What this process did not write itself is checked when it is read for the first time, and so is all that comes from the
disk: a damaged batch is never sent.
"""

from __future__ import annotations

import errno
from typing import Final, NamedTuple

from logd.errors import Corrupt, StorageFailed
from logd.log.admission import MAGIC
from logd.log.disk import NO_DESCRIPTORS, Disk, File, Mapping
from logd.log.epochs import UNKNOWN, Epochs
from logd.log.segment import Segment
from logd.wire.batches import HEADER_BYTES, BatchHeader, check_crc, read_header

WARM_BYTES: Final = 1024 * 1024
_NOTHING = memoryview(b"")


class Wanted(NamedTuple):
    """What a read asked of one segment. ``dense``: the log was never compacted there, so that no offset is missing."""

    offset: int
    end: int
    bytes_max: int
    at_least_one: bool
    dense: bool


class Slice:
    """The batches from ``base_offset`` (or, in a compacted log, later) to ``next_offset``: ``size`` bytes of a segment.

    Where even finding them would have waited for the disk, all three are estimates until :meth:`load` has run.
    """

    __slots__ = (
        "_disk",
        "_epochs",
        "_file",
        "_mapping",
        "_segment",
        "_start",
        "_wanted",
        "base_offset",
        "next_offset",
        "size",
    )

    def __init__(self, disk: Disk, segment: Segment, wanted: Wanted, epochs: Epochs) -> None:
        self._disk = disk
        self._epochs = epochs
        self._segment = segment
        self._wanted = wanted
        self._file: File = segment.file
        self._mapping: Mapping | None = None
        self._start = 0
        self.base_offset = wanted.offset
        self.next_offset = segment.next_offset
        self.size = min(wanted.bytes_max, segment.size)

    def locate(self, *, wait: bool) -> None:
        """Find the bytes.

        :raises Cold: without ``wait``, when that would wait for the disk.
        :raises Corrupt: batches are missing.
        """
        offset, end, bytes_max, at_least_one, dense = self._wanted
        segment = self._segment
        start, base = 0, segment.base_offset
        if offset > base:
            start, base = segment.marked(offset), offset
            if start < 0:
                start = segment.locate(offset, wait=wait)
                base = segment.base_offset_at(start, wait=wait)
        if dense and base > offset:
            raise Corrupt(self._file.path, start, f"offset {offset} is missing, {base} comes next")
        stop = segment.size
        if end < segment.next_offset:
            stop = segment.locate(end, wait=wait) if end > segment.base_offset else 0
        stop = segment.cut(start, stop, bytes_max, at_least_one, wait=wait) if start < stop else start
        self.next_offset = segment.base_offset_at(stop, wait=wait)
        self.base_offset = base
        self._start = start
        self.size = stop - start
        if not wait:  # then it is the event loop that is here
            segment.mark(self.next_offset, stop)

    def map(self) -> None:
        """Map the bytes that were found; where no more can be mapped, for want of descriptors too, they are loaded."""
        try:
            self._mapping = self._segment.mapping(self._start + self.size)
        except StorageFailed as failure:
            if failure.cause.errno not in (errno.ENOMEM, *NO_DESCRIPTORS):
                raise

    def resident(self) -> bool:
        """Say whether all of it is in the page cache, and known to be what was appended."""
        start, stop = self._start, self._start + self.size
        return self._mapping is not None and self._segment.is_sure(start, stop) and self._mapping.resident(start, stop)

    def view(self) -> memoryview:
        """Return the mapped bytes, to be sent and never read; nothing for what must be loaded."""
        if self._mapping is None:
            return _NOTHING
        return self._mapping.view[self._start : self._start + self.size]

    def warm(self) -> None:
        """Bring the bytes into the page cache and check them, a little at a time; waits, so for a worker thread.

        :raises StorageFailed: the disk failed.
        :raises Corrupt: the file is not what was written.
        """
        self._locate_and_map()
        position, stop = self._start, self._start + self.size
        expected = self.base_offset
        while position < stop:
            data = self._disk.read(self._file, min(WARM_BYTES, stop - position), position)
            taken, expected = self._check(data, position, expected)
            if not taken:  # one batch that is larger
                data = self._disk.read(self._file, self._batch_bytes(data, position), position)
                taken, expected = self._check(data, position, expected)
            position += taken
        self._found_well(expected)

    def load(self) -> bytes:
        """Read the bytes from the disk and check them; waits, so for a worker thread.

        :raises StorageFailed: the disk failed.
        :raises Corrupt: the file is not what was written.
        """
        self._locate_and_map()
        data = self._disk.read(self._file, self.size, self._start)
        if len(data) != self.size:
            raise Corrupt(self._file.path, self._start + len(data), "the file is shorter than it was")
        taken, expected = self._check(data, self._start, self.base_offset)
        if taken != self.size:
            raise Corrupt(self._file.path, self._start + taken, "a batch is cut short")
        self._found_well(expected)
        return data

    def _locate_and_map(self) -> None:
        self._segment.check_whole()
        if self._mapping is None:
            self.locate(wait=True)
            if self.size:
                self.map()

    def _batch_bytes(self, data: bytes, position: int) -> int:
        """The size of the batch at the start of ``data``, which is too long for it."""
        size = read_header(data).size if len(data) >= HEADER_BYTES else 0
        if size <= len(data) or position + size > self._start + self.size:
            raise Corrupt(self._file.path, position, f"a batch of {size} bytes where {len(data)} are left")
        return size

    def _check(self, data: bytes, at: int, expected: int) -> tuple[int, int]:
        """Look at every whole batch: checksum, and what is not under it: offsets that rise, the epoch in force.

        :return: the bytes of whole batches, and the offset behind them.
        """
        position = 0
        while position + HEADER_BYTES <= len(data):
            header = read_header(data, position)
            if header.size > len(data) - position and header.magic == MAGIC:
                break
            why = what_is_wrong(header, expected, self._epochs, dense=self._wanted.dense)
            why = why or ("" if check_crc(data, position, header) else "a wrong checksum")
            if why:
                raise Corrupt(self._file.path, at + position, f"a batch with {why}")
            expected = header.next_offset
            position += header.size
        return position, expected

    def _found_well(self, end_offset: int) -> None:
        if end_offset > self.next_offset:
            why = f"batches that end at {end_offset} and not at {self.next_offset}"
            raise Corrupt(self._file.path, self._start, why)
        if self._wanted.dense:
            self.next_offset = end_offset  # what is missing behind it is found by the next read
        self._segment.make_sure(self._start, self._start + self.size)


def what_is_wrong(header: BatchHeader, expected: int, epochs: Epochs, *, dense: bool) -> str:
    """Say what of a stored batch's header cannot be, of what no checksum covers: "" for nothing.

    :param expected: the offset that comes next; in a log that is not ``dense`` a later one may.
    """
    base = header.base_offset
    if header.magic != MAGIC or header.size < HEADER_BYTES:
        return f"magic {header.magic} and length {header.length}"
    if base < expected or (dense and base != expected) or header.last_offset < base:
        return f"offset {base} where {expected} comes next"
    known = epochs.epoch_at(base)
    if known not in (UNKNOWN, header.leader_epoch):
        return f"leader epoch {header.leader_epoch} where {known} was in force"
    return ""
