"""A piece of a segment that answers a read: whole batches, in the page cache or still on the disk.

:meth:`~logd.log.log.Log.read` makes them; a partition sends :meth:`Slice.view` when :meth:`Slice.resident` says that
this will not wait, and else runs :meth:`Slice.load` in a worker thread. A slice stays readable when its segment is
deleted or released meanwhile. Python must not look into the view: it is for ``sendmsg``.
"""

from __future__ import annotations

from typing import NamedTuple

from logd.errors import Corrupt
from logd.log.disk import Disk, File, Mapping
from logd.log.segment import Segment

_NOTHING = memoryview(b"")


class Wanted(NamedTuple):
    """What a read asked of one segment."""

    offset: int
    end: int
    bytes_max: int
    at_least_one: bool


class Slice:
    """The batches from ``base_offset`` (or, in a compacted log, later) to ``next_offset``: ``size`` bytes of a segment.

    Where even finding them would have waited for the disk, all three are estimates until :meth:`load` has run.
    """

    __slots__ = ("_disk", "_file", "_mapping", "_segment", "_start", "_wanted", "base_offset", "next_offset", "size")

    def __init__(self, disk: Disk, segment: Segment, wanted: Wanted) -> None:
        self._disk = disk
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
        """
        offset, end, bytes_max, at_least_one = self._wanted
        segment = self._segment
        start, base = 0, segment.base_offset
        if offset > base:
            start, base = segment.marked(offset), offset
            if start < 0:
                start = segment.locate(offset, wait=wait)
                base = segment.base_offset_at(start, wait=wait)
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
        """Map the bytes that were found."""
        self._mapping = self._segment.mapping(self._start + self.size)

    def resident(self) -> bool:
        """Say whether all of it is in the page cache."""
        return self._mapping is not None and self._mapping.resident(self._start, self._start + self.size)

    def view(self) -> memoryview:
        """Return the mapped bytes, to be sent and never read; nothing for what must be loaded."""
        if self._mapping is None:
            return _NOTHING
        return self._mapping.view[self._start : self._start + self.size]

    def load(self) -> bytes:
        """Read the bytes from the disk; waits, so for a worker thread.

        :raises StorageFailed: the disk failed.
        :raises Corrupt: the file is not what it was.
        """
        if self._mapping is None:
            self.locate(wait=True)
        data = self._disk.read(self._file, self.size, self._start)
        if len(data) != self.size:
            raise Corrupt(self._file.path, self._start + len(data), "the file is shorter than it was")
        return data
