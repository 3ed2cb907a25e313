"""The disk as the log sees it: the one place that opens, writes, maps, allocates, syncs and renames log files.

:class:`Disk` is the seam of a dozen calls that the rest of ``logd.log`` is written against; :class:`RealDisk` is the
operating system, and ``tests/fakes`` holds a memory twin and one whose calls fail on demand. Every failure of the
system leaves here as :class:`~logd.errors.StorageFailed`. This module knows nothing of batches, offsets or segments,
and it never retries a flush: after a failed one the kernel may say "ok" while the data is gone.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import mmap  # noqa: F401  (numpy imports it for its first map, when no file descriptor may be left to do so)
import os
import threading
import time
import weakref
from queue import SimpleQueue
from typing import Final, NamedTuple, Protocol, cast

import numpy as np

from logd.errors import StorageFailed
from logd.log.reserve import Room

PAGE_BYTES: Final = 4096
DISK_FULL: Final = (errno.ENOSPC, errno.EDQUOT)
NO_DESCRIPTORS: Final = (errno.EMFILE, errno.ENFILE)
PASSING: Final = (*DISK_FULL, *NO_DESCRIPTORS)
"""Refusals that go by themselves, before which nothing was changed: later calls may succeed."""
RESIDENCY_PAGES: Final = 4096
FORGET_BYTES: Final = 256 * 1024
OUTLIVE_S: Final = 1.0
"""Long enough to unmap what has just lost its last user, which happens a moment after that is known."""
TEMPORARY_SUFFIX: Final = ".tmp"

Buffer = bytes | bytearray | memoryview


class Entry(NamedTuple):
    """A file of a directory: name, size in bytes, time of the last change."""

    name: str
    size: int
    modified_ms: int
    is_directory: bool


class File:
    """An open file, closed when the last user lets go of it, so that a thread that syncs never meets a reused fd."""

    __slots__ = ("__weakref__", "fd", "path")

    def __init__(self, path: str, fd: int) -> None:
        self.path = path
        self.fd = fd

    def __del__(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)


class Mapping(Protocol):
    """The first bytes of a file, mapped for reading. Python must not read it where pages may be cold (SIGBUS)."""

    view: memoryview

    def resident(self, start: int, stop: int) -> bool:
        """Say whether the bytes ``start`` to ``stop`` are in the page cache, so that sending them does not wait."""


class Disk(Protocol):
    """What the log asks of a file system. All positions and sizes are bytes; all calls raise StorageFailed."""

    def open(self, path: str, *, create: bool = False) -> File:
        """Open a file for reading and writing, made when ``create``."""

    def write(self, file: File, data: Buffer, position: int) -> None:
        """Write all of ``data`` at ``position``."""

    def read(self, file: File, size: int, position: int) -> bytes:
        """Read up to ``size`` bytes at ``position``; fewer only at the end of the file."""

    def read_into(self, file: File, room: memoryview, position: int) -> int:
        """Fill ``room`` from ``position`` on; return how many bytes there were, fewer only at the end of the file."""

    def read_cached(self, file: File, size: int, position: int) -> bytes | None:
        """Read ``size`` bytes that the page cache holds all; None where the disk would be waited for, or tells more."""

    def allocate(self, file: File, start: int, size: int) -> None:
        """Grow the file from ``start`` by ``size`` bytes of zeros that exist on disk; cut back when that fails.

        In memory (tmpfs) they need not exist: :meth:`write` is refused there when no more is left.
        """

    def resize(self, file: File, size: int) -> None:
        """Set the end of the file."""

    def data_after(self, file: File, position: int) -> int | None:
        """Return where data may next stand at or after ``position``; None when only holes and zeros follow."""

    def sync(self, file: File) -> None:
        """Wait until what was written is on the disk."""

    def forget(self, file: File, size: int) -> None:
        """Let go of the cached pages of a file that is no longer needed, a few at a time; promises nothing."""

    def outlive(self, file: File, mapping: Mapping | None) -> None:
        """Let the end of a file that is removed, or soon will be, cost its last user nothing; promises nothing.

        :param mapping: one that somebody may still read from.
        """

    def map(self, file: File, size: int) -> Mapping:
        """Map the first ``size`` bytes for reading."""

    def load(self, path: str) -> bytes | None:
        """Return the content of a small file, None when it is not there."""

    def replace(self, path: str, data: Buffer, *, sync: bool) -> None:
        """Put a small file in place of an older one: whole or not at all."""

    def rename(self, path: str, new_path: str) -> None:
        """Give a file or directory another name."""

    def remove(self, path: str) -> None:
        """Remove a file or an empty directory; one that is not there is no failure."""

    def entries(self, path: str) -> list[Entry]:
        """List a directory; a name behind which there is no file, or no more, is left out."""

    def make_directory(self, path: str) -> None:
        """Make a directory; one that is there is no failure."""

    def sync_directory(self, path: str) -> None:
        """Wait until the names in a directory are on the disk."""


class Residency:
    """Room for what mincore(2) tells of pages. Each disk has its own: of two nodes in one process both may ask."""

    __slots__ = ("pages", "pointer")

    def __init__(self) -> None:
        self.pages = bytearray(RESIDENCY_PAGES)
        self.pointer = (ctypes.c_char * RESIDENCY_PAGES).from_buffer(self.pages)


class PageMapping:
    """A :class:`numpy.memmap` over the start of a file, and where its pages are."""

    __slots__ = ("__weakref__", "_address", "_residency", "view")

    def __init__(self, array: np.memmap[tuple[int], np.dtype[np.uint8]], residency: Residency) -> None:
        self.view = memoryview(cast(Buffer, array))
        self._address: int = array.__array_interface__["data"][0]
        self._residency = residency

    def resident(self, start: int, stop: int) -> bool:
        """See :meth:`Mapping.resident`; asks mincore(2), a microsecond for a megabyte. On the event loop only."""
        first = start & -PAGE_BYTES
        pages = (stop - first + PAGE_BYTES - 1) // PAGE_BYTES
        if pages > RESIDENCY_PAGES:
            told = first + RESIDENCY_PAGES * PAGE_BYTES
            return self.resident(start, told) and self.resident(told, stop)
        residency = self._residency
        if _MINCORE(self._address + first, pages * PAGE_BYTES, residency.pointer):
            return False
        return residency.pages.count(1, 0, pages) == pages


_MINCORE: Final = ctypes.CDLL(None, use_errno=True).mincore
_MINCORE.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p)
_MINCORE.restype = ctypes.c_int
_SYNC_FILE_RANGE: Final = getattr(ctypes.CDLL(None), "sync_file_range", None)
if _SYNC_FILE_RANGE is not None:
    _SYNC_FILE_RANGE.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
_RANGE_WRITE: Final = 2
_FSTATFS: Final = ctypes.CDLL(None, use_errno=True).fstatfs
_FSTATFS.argtypes = (ctypes.c_int, ctypes.c_void_p)
_FSTATFS.restype = ctypes.c_int
_TMPFS_MAGIC: Final = 0x01021994


def _is_tmpfs(fd: int) -> bool:
    """Say whether a file lives in memory: there a full one refuses ``pwrite``, and allocating costs twice."""
    found = (ctypes.c_long * 32)()
    return _FSTATFS(fd, found) == 0 and found[0] == _TMPFS_MAGIC


class Closer:
    """A thread that closes removed files a moment after their last users have gone.

    Who closes such a file last waits until its blocks are free, 0.2 s for 256 MiB where the disk is told of each
    (mounted with ``discard``). One thread for all of a process: retention may let go of thousands at once.
    """

    def __init__(self) -> None:
        self._owed: SimpleQueue[int] = SimpleQueue()
        self._guard = threading.Lock()
        self._thread: threading.Thread | None = None

    def outlive(self, fd: int, users: list[object]) -> None:
        """Close a descriptor after all of these have gone. Raises RuntimeError where no thread is to be had."""
        with self._guard:
            if self._thread is None:
                thread = threading.Thread(target=self._serve, name="logd close", daemon=True)
                thread.start()  # here, since a user may go anywhere
                self._thread = thread
        left = list(range(len(users)))

        def gone() -> None:
            if not left.pop():  # one of them gets the 0, in whichever threads they go
                self._owed.put(fd)

        for user in users:
            weakref.finalize(user, gone).atexit = False

    def _serve(self) -> None:
        while True:
            owed = [self._owed.get()]
            while not self._owed.empty():
                owed.append(self._owed.get())
            with contextlib.suppress(OSError):  # below libfaketime, when the clock is turned
                time.sleep(OUTLIVE_S)
            for fd in owed:
                with contextlib.suppress(OSError):  # it is closed all the same, and nobody needs the file
                    os.close(fd)


_CLOSER: Final = Closer()


class RealDisk:
    """The :class:`Disk` of the operating system.

    :param durable: False leaves out the syncs of small files and directories, for data that nobody will miss.
    :param spare_descriptors: so many are put by for the time when there are no others.
    :param room: refuses growth before the file system is full.
    """

    def __init__(self, *, durable: bool = True, spare_descriptors: int = 0, room: Room | None = None) -> None:
        self._durable = durable
        self._room = room
        self._residency = Residency()
        self._tells_cached = True
        self._spare_max = spare_descriptors
        self._spare: list[File] = []
        self._put_by()

    def _put_by(self) -> None:
        while len(self._spare) < self._spare_max:
            try:
                self._spare.append(File(os.devnull, os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)))
            except OSError:
                return

    def _descriptor(self, path: str, flags: int) -> int:
        """Open; when no descriptor is left, with one that was put by, so that no flush fails for want of one."""
        while True:
            try:
                fd = os.open(path, flags | os.O_CLOEXEC, 0o644)
            except OSError as cause:
                if cause.errno not in NO_DESCRIPTORS or not self._spare:
                    raise
                self._spare.pop()
                continue
            if len(self._spare) < self._spare_max:
                self._put_by()
            return fd

    def open(self, path: str, *, create: bool = False) -> File:
        """See :meth:`Disk.open`."""
        try:
            return File(path, self._descriptor(path, os.O_RDWR | (os.O_CREAT if create else 0)))
        except OSError as cause:
            raise StorageFailed(path, cause) from cause

    def write(self, file: File, data: Buffer, position: int) -> None:
        """See :meth:`Disk.write`."""
        try:
            written = os.pwrite(file.fd, data, position)
            if written != len(data):
                self._write_rest(file.fd, memoryview(data)[written:], position + written)
        except OSError as cause:
            raise StorageFailed(file.path, cause) from cause

    def _write_rest(self, fd: int, rest: memoryview, position: int) -> None:
        while rest:
            written = os.pwrite(fd, rest, position)
            position += written
            rest = rest[written:]

    def read(self, file: File, size: int, position: int) -> bytes:
        """See :meth:`Disk.read`."""
        try:
            data = os.pread(file.fd, size, position)
            while len(data) < size and (more := os.pread(file.fd, size - len(data), position + len(data))):
                data += more
        except OSError as cause:
            raise StorageFailed(file.path, cause) from cause
        return data

    def read_into(self, file: File, room: memoryview, position: int) -> int:
        """See :meth:`Disk.read_into`."""
        done = 0
        try:
            while done < len(room) and (count := os.preadv(file.fd, (room[done:],), position + done)):
                done += count
        except OSError as cause:
            raise StorageFailed(file.path, cause) from cause
        return done

    def read_cached(self, file: File, size: int, position: int) -> bytes | None:
        """See :meth:`Disk.read_cached`. A file system that cannot tell (tmpfs) keeps its data in memory."""
        if not self._tells_cached:
            return self.read(file, size, position)
        data = bytearray(size)
        try:
            count = os.preadv(file.fd, (data,), position, os.RWF_NOWAIT)
        except BlockingIOError:
            return None
        except OSError as cause:
            if cause.errno in (errno.EOPNOTSUPP, errno.EINVAL):
                self._tells_cached = False
                return self.read(file, size, position)
            raise StorageFailed(file.path, cause) from cause
        return bytes(data) if count == size else None  # the next page is not there, or the file has been cut

    def allocate(self, file: File, start: int, size: int) -> None:
        """See :meth:`Disk.allocate`."""
        if self._room is not None and not self._room.admits(size):
            raise StorageFailed(file.path, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), file.path))
        try:
            if _is_tmpfs(file.fd):
                os.ftruncate(file.fd, start + size)
            else:
                os.posix_fallocate(file.fd, start, size)
        except OSError as cause:
            self.resize(file, start)
            raise StorageFailed(file.path, cause) from cause

    def resize(self, file: File, size: int) -> None:
        """See :meth:`Disk.resize`."""
        try:
            os.ftruncate(file.fd, size)
        except OSError as cause:
            raise StorageFailed(file.path, cause) from cause

    def data_after(self, file: File, position: int) -> int | None:
        """See :meth:`Disk.data_after`."""
        try:
            return os.lseek(file.fd, position, os.SEEK_DATA)
        except OSError as cause:
            if cause.errno == errno.ENXIO:  # nothing but holes
                return None
            raise StorageFailed(file.path, cause) from cause

    def sync(self, file: File) -> None:
        """See :meth:`Disk.sync`."""
        if self._room is not None:
            self._room.ease()
        try:
            os.fdatasync(file.fd)
        except OSError as cause:
            raise StorageFailed(file.path, cause) from cause

    def forget(self, file: File, size: int) -> None:
        """See :meth:`Disk.forget`. When the last one closes the file, the kernel frees its pages in one go, and a
        kernel that is not preemptible lets nobody else have the core for milliseconds."""
        with contextlib.suppress(OSError):
            for start in range(0, size, FORGET_BYTES):
                os.posix_fadvise(file.fd, start, FORGET_BYTES, os.POSIX_FADV_DONTNEED)

    def outlive(self, file: File, mapping: Mapping | None) -> None:
        """See :meth:`Disk.outlive`."""
        users: list[object] = [file] if mapping is None else [file, mapping.view.obj]
        with contextlib.suppress(OSError):
            fd = os.dup(file.fd)
            try:
                _CLOSER.outlive(fd, users)
            except RuntimeError:
                os.close(fd)

    def map(self, file: File, size: int) -> Mapping:
        """See :meth:`Disk.map`."""
        try:
            with open(file.fd, "rb", closefd=False) as stream:
                return PageMapping(np.memmap(stream, np.uint8, "r", shape=(size,)), self._residency)
        except OSError as cause:
            raise StorageFailed(file.path, cause) from cause
        except ValueError as cause:  # of mmap
            raise StorageFailed(file.path, OSError(errno.EIO, "the file is shorter than it was")) from cause

    def load(self, path: str) -> bytes | None:
        """See :meth:`Disk.load`."""
        try:
            fd = self._descriptor(path, os.O_RDONLY)
        except FileNotFoundError:
            return None
        except OSError as cause:
            raise StorageFailed(path, cause) from cause
        file = File(path, fd)
        return self.read(file, os.fstat(fd).st_size, 0)

    def replace(self, path: str, data: Buffer, *, sync: bool) -> None:
        """See :meth:`Disk.replace`."""
        temporary = path + TEMPORARY_SUFFIX
        if self._room is not None:
            self._room.ease()  # before it is written: a full disk may have no block for it
        try:
            file = self.open(temporary, create=True)
            self.resize(file, 0)
            self.write(file, data, 0)
            if sync and self._durable:
                self.sync(file)
            self.rename(temporary, path)
        except StorageFailed:
            with contextlib.suppress(StorageFailed):  # the space is needed, and the first failure says more
                self.remove(temporary)
            raise

    def rename(self, path: str, new_path: str) -> None:
        """See :meth:`Disk.rename`."""
        try:
            os.rename(path, new_path)
        except OSError as cause:
            raise StorageFailed(path, cause) from cause

    def remove(self, path: str) -> None:
        """See :meth:`Disk.remove`."""
        try:
            try:
                os.unlink(path)
            except IsADirectoryError:
                os.rmdir(path)
        except FileNotFoundError:
            return
        except OSError as cause:
            raise StorageFailed(path, cause) from cause

    def entries(self, path: str) -> list[Entry]:
        """See :meth:`Disk.entries`."""
        while True:
            try:
                with os.scandir(path) as found:
                    return [entry for one in found if (entry := _entry(one)) is not None]
            except OSError as cause:
                if cause.errno not in NO_DESCRIPTORS or not self._spare:
                    raise StorageFailed(path, cause) from cause
                self._spare.pop()

    def make_directory(self, path: str) -> None:
        """See :meth:`Disk.make_directory`."""
        try:
            os.makedirs(path, exist_ok=True)
        except OSError as cause:
            raise StorageFailed(path, cause) from cause

    def sync_directory(self, path: str) -> None:
        """See :meth:`Disk.sync_directory`."""
        if not self._durable:
            return
        try:
            fd = self._descriptor(path, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
        except OSError as cause:
            raise StorageFailed(path, cause) from cause


def _entry(found: os.DirEntry[str]) -> Entry | None:
    """None for a link that leads nowhere, as editors leave them, and for what another thread has just removed."""
    try:
        status = found.stat()
    except OSError as cause:
        if cause.errno in (errno.ENOENT, errno.ELOOP):
            return None
        raise
    return Entry(found.name, status.st_size, status.st_mtime_ns // 1_000_000, found.is_dir())


def occupy(path: str, size: int) -> bool:
    """Make a file of ``size`` bytes that exist on disk; say whether it is there now, else there is none."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError:
        return False
    try:
        os.posix_fallocate(fd, 0, size)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(path)
        return False
    finally:
        os.close(fd)
    return True


def lock_file(path: str) -> File | None:
    """Take the exclusive lock of a file (made when absent), held until the File is let go; None if another has it."""
    try:
        file = File(path, os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644))
    except OSError as cause:
        raise StorageFailed(path, cause) from cause
    try:
        fcntl.flock(file.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return None
    return file


def start_writing(file: File, start: int, size: int) -> None:
    """Have the kernel begin to write a range of a file, so that a later sync has less to wait for; promises nothing.

    Errors stay for that sync to find (sync_file_range(2), SYNC_FILE_RANGE_WRITE). Without such a call nothing happens.
    """
    if _SYNC_FILE_RANGE is not None:
        _SYNC_FILE_RANGE(file.fd, start, size, _RANGE_WRITE)
