"""A disk for a process that reads and writes whole segments, one after the other.

:class:`BulkDisk` goes past the page cache where it can (``O_DIRECT``). So what compaction writes does not pile up as
dirty pages, which a flush would wait for, and with it all who wait for the file system's journal; it takes no pages
from those who serve; and it costs a tenth of the CPU. What is cached is read from the cache. Where a file system can't
do it, it is a :class:`~logd.log.disk.RealDisk` that writes in the background. Small files go through the cache.
"""

from __future__ import annotations

import errno
import mmap
import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final
from weakref import WeakKeyDictionary

from logd.errors import StorageFailed
from logd.log.disk import PAGE_BYTES, Buffer, File, RealDisk, start_writing
from logd.log.reserve import leave_room

STREAM_BYTES: Final = 4 * 1024 * 1024
"""What is written at once; less than that goes through the page cache."""
BUFFERS: Final = 3
"""One that is filled, the others on their way to the disk."""
COPY_BYTES: Final = 1024 * 1024
"""What is copied from the page cache at once. A kernel that is not preemptible lets nobody else have the core in that
time; 8 MB at once made the server wait for up to 4 ms."""
_UNFIT: Final = (errno.EINVAL, errno.EOPNOTSUPP)


class BulkDisk(RealDisk):
    """See the module. A file that is allocated is written from its start to its end, and :meth:`sync` ends it.

    A write that fails may be told by a later :meth:`write` or by :meth:`sync`.

    :param free_bytes_min: how much of a disk is left free, as :func:`~logd.log.reserve.leave_room` has it.
    :raises RuntimeError: no thread can be started.
    """

    def __init__(self, free_bytes_min: int = 0) -> None:
        super().__init__()
        self._free_bytes_min = free_bytes_min
        self._streams: WeakKeyDictionary[File, _Stream] = WeakKeyDictionary()
        self._direct: WeakKeyDictionary[File, File | None] = WeakKeyDictionary()
        self._pool = ThreadPoolExecutor(1, "writer")
        self._pool.submit(int).result()  # a thread that is not to be had is missed now
        self._buffers = [mmap.mmap(-1, STREAM_BYTES) for _ in range(BUFFERS)]

    def allocate(self, file: File, start: int, size: int) -> None:
        """See :meth:`Disk.allocate`; here writing does it."""
        if start == 0:
            direct = self._past_cache(file)
            self._streams[file] = _Stream(file, direct, self._pool.submit, self._buffers, self._free_bytes_min)

    def write(self, file: File, data: Buffer, position: int) -> None:
        """See :meth:`Disk.write`."""
        stream = self._streams.get(file)
        if stream is None:
            super().write(file, data, position)
        else:
            assert position == stream.size, "a stream has no gaps"
            stream.write(memoryview(data))

    def sync(self, file: File) -> None:
        """See :meth:`Disk.sync`."""
        stream = self._streams.pop(file, None)
        if stream is not None:
            position, rest = stream.end()
            try:
                leave_room(file.fd, len(rest), self._free_bytes_min)
            except OSError as cause:
                raise StorageFailed(file.path, cause) from cause
            super().write(file, rest, position)
        super().sync(file)

    def read_into(self, file: File, room: memoryview, position: int) -> int:
        """See :meth:`Disk.read_into`."""
        direct = self._past_cache(file)
        if direct is None or position % PAGE_BYTES or len(room) % PAGE_BYTES:
            return super().read_into(file, room, position)
        done = self._cached(file, room, position) & -PAGE_BYTES
        try:
            while done < len(room):
                count = os.preadv(direct.fd, (room[done:],), position + done)
                done += count
                if not count or done % PAGE_BYTES:
                    return done
        except OSError as cause:
            if cause.errno in _UNFIT:
                self._direct[file] = None
                return super().read_into(file, room, position)
            raise StorageFailed(file.path, cause) from cause
        return done

    def _cached(self, file: File, room: memoryview, position: int) -> int:
        """Read what the page cache holds, up to the first page that it does not."""
        done = 0
        try:
            while done < len(room):
                part = room[done : done + COPY_BYTES]
                count = os.preadv(file.fd, (part,), position + done, os.RWF_NOWAIT)
                done += count
                if count < len(part):
                    break
        except OSError:  # the rest is not there, or it cannot be told
            pass
        return done

    def _past_cache(self, file: File) -> File | None:
        """The file once more, opened to go past the page cache; None where that is not possible."""
        if file not in self._direct:
            try:
                fd = os.open(file.path, os.O_RDWR | os.O_DIRECT | os.O_CLOEXEC)
                self._direct[file] = File(file.path, fd)
            except OSError as cause:
                if cause.errno not in _UNFIT:
                    raise StorageFailed(file.path, cause) from cause
                self._direct[file] = None
        return self._direct[file]


class _Stream:
    """A file that is being written from its start on: one buffer is filled while others are written."""

    def __init__(
        self,
        file: File,
        direct: File | None,
        submit: Callable[..., Future[None]],
        buffers: list[mmap.mmap],
        free_bytes_min: int,
    ) -> None:
        self._free_bytes_min = free_bytes_min
        self._path = file.path
        self._file = File(file.path, os.dup(file.fd))
        self._direct = direct
        self._submit = submit
        self._buffers = [memoryview(buffer) for buffer in buffers]
        self._written = 0  # or being so
        self._filled = 0
        self._pending: deque[Future[None]] = deque()

    @property
    def size(self) -> int:
        """How much has come."""
        return self._written + self._filled

    def write(self, data: memoryview) -> None:
        """Take more."""
        while data:
            room = STREAM_BYTES - self._filled
            part = data[:room]
            self._buffers[0][self._filled : self._filled + len(part)] = part
            self._filled += len(part)
            data = data[room:]
            if self._filled == STREAM_BYTES:
                self._pending.append(self._submit(self._put, self._buffers[0], self._written))
                self._wait(len(self._buffers) - 1)
                self._buffers.append(self._buffers.pop(0))
                self._written += STREAM_BYTES
                self._filled = 0

    def _put(self, data: memoryview, position: int) -> None:
        """Write a full buffer; in the other thread."""
        leave_room(self._file.fd, len(data), self._free_bytes_min)
        while data:
            file = self._direct or self._file
            try:
                written = os.pwrite(file.fd, data, position)
            except OSError as cause:
                if cause.errno not in _UNFIT or self._direct is None:
                    raise
                self._direct = None  # the device wants it otherwise
                continue
            if file is self._file:
                start_writing(file, position, written)
            elif written % PAGE_BYTES:
                self._direct = None
            data, position = data[written:], position + written

    def _wait(self, pending_max: int) -> None:
        """Wait until so many writes at most are under way."""
        while len(self._pending) > pending_max:
            try:
                self._pending.popleft().result()
            except OSError as cause:
                raise StorageFailed(self._path, cause) from cause

    def end(self) -> tuple[int, memoryview]:
        """Wait until all full buffers are written; return what is left, and where it belongs."""
        self._wait(0)
        return self._written, self._buffers[0][: self._filled]
