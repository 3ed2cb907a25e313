"""A piece of a segment that answers a read: whole batches, in the page cache or still on the disk.

:meth:`~logd.log.log.Log.read` makes them; a partition sends :meth:`Slice.view` when :meth:`Slice.resident` says that
this will not wait, and else runs :meth:`Slice.load` in a worker thread. A slice stays readable when its segment is
deleted or released meanwhile. Python must not look into the view: it is for ``sendmsg``.
"""

from __future__ import annotations

from logd.errors import Corrupt
from logd.log.disk import Disk, File, Mapping
from logd.log.segment import Segment


class Slice:
    """The bytes ``start`` to ``stop`` of one segment's file: batches from ``base_offset`` to ``next_offset``."""

    __slots__ = ("_disk", "_file", "_mapping", "_next_offset", "_segment", "base_offset", "size", "start", "stop")

    def __init__(self, disk: Disk, segment: Segment, base_offset: int, start: int, stop: int) -> None:
        self._disk = disk
        self._segment = segment
        self._file: File = segment.file
        self._mapping: Mapping = segment.mapping(stop)
        self._next_offset = segment.next_offset if stop == segment.size else -1
        self.base_offset = base_offset
        self.start = start
        self.stop = stop
        self.size = stop - start

    @property
    def next_offset(self) -> int:
        """The offset after the last record."""
        if self._next_offset < 0:
            self._next_offset = self._segment.base_offset_at(self.stop)
        return self._next_offset

    def resident(self) -> bool:
        """Say whether all of it is in the page cache."""
        return self._mapping.resident(self.start, self.stop)

    def view(self) -> memoryview:
        """Return the mapped bytes, to be sent and never read."""
        return self._mapping.view[self.start : self.stop]

    def load(self) -> bytes:
        """Read the bytes from the disk; waits, so for a worker thread.

        :raises StorageFailed: the disk failed.
        :raises Corrupt: the file ends too early.
        """
        data = self._disk.read(self._file, self.size, self.start)
        if len(data) != self.size:
            raise Corrupt(self._file.path, self.start + len(data), "the file is shorter than it was")
        return data
