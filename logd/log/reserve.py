"""Room on a disk for what must not fail: logs stop growing before it is full, and a file holds some against others.

Appends ask :meth:`Room.admits` before a file grows, so they are refused while flushes, indexes and metadata still find
space. When another program fills the disk, :meth:`Room.ease` gives the file ``.reserve`` away: a flush for which a file
system has no block left would be final. Used by :class:`~logd.log.disk.RealDisk` for one data directory; filled again
by upkeep. It never touches anything but its file.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable
from typing import Final

RESERVE_NAME: Final = ".reserve"
SHARE_MAX: Final = 40
"""At most this part of the disk, as its inverse, is kept free, and as much held: small disks are for data too."""

AMPLE_BYTES_MIN: Final = 1 << 20
"""A file system needs some blocks for itself when it flushes."""


def least_free(found: os.statvfs_result, free_bytes_min: int) -> int:
    """What is to be left free of a file system: so many bytes, or its share where it is small."""
    return min(free_bytes_min, found.f_blocks * found.f_frsize // SHARE_MAX)


def leave_room(fd: int, size: int, free_bytes_min: int) -> None:
    """Refuse a compacted segment ``size`` more bytes when they would leave too little; waits for nothing.

    It may go down to half of what logs leave, since it makes room in the end, and no further: flushes need some.

    :param fd: an open file of the file system.
    :raises OSError: ENOSPC.
    """
    if free_bytes_min:
        found = os.statvfs(fd)
        if found.f_bavail * found.f_frsize - size < least_free(found, free_bytes_min) // 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class Room:
    """The room of the file system below a directory. ``free_bytes_min``: what logs leave free, 0 for nothing."""

    def __init__(self, directory: str, free_bytes_min: int) -> None:
        self._directory = directory
        self._path = f"{directory}/{RESERVE_NAME}"
        self.free_bytes_min = 0
        if free_bytes_min:
            with contextlib.suppress(OSError):
                self.free_bytes_min = least_free(os.statvfs(directory), free_bytes_min)
        self._held_bytes = _size(self._path)  # a start may find the file half made

    @property
    def held(self) -> bool:
        """Whether there is anything to give away."""
        return self._held_bytes > 0

    def free_bytes(self) -> int:
        """What the file system has left for us."""
        found = os.statvfs(self._directory)
        return found.f_bavail * found.f_frsize

    def admits(self, size: int) -> bool:
        """Say whether a log may grow by ``size`` bytes; gives the reserve away when the disk is all but full."""
        if not self.free_bytes_min:
            return True
        try:
            free = self.free_bytes()
        except OSError:
            return True  # the disk says what is wrong when it is written to
        if free - size >= self.free_bytes_min:
            return True
        self._ease(free)
        return False

    def ease(self) -> None:
        """Give the reserve away when the disk is all but full; before a flush, which needs some room."""
        if self.held and self.free_bytes_min:
            with contextlib.suppress(OSError):
                self._ease(self.free_bytes())

    def _ease(self, free: int) -> None:
        if self.held and free < self.free_bytes_min // 2:
            with contextlib.suppress(OSError):
                os.unlink(self._path)
            self._held_bytes = 0

    def ample(self) -> bool:
        """Say whether the disk is not nearly full any more."""
        return self._has(max(2 * self.free_bytes_min, AMPLE_BYTES_MIN))

    def wants(self) -> bool:
        """Say whether the reserve is to be made and the disk will not be nearly full with it."""
        return self._held_bytes < self.free_bytes_min and self._has(3 * self.free_bytes_min)

    def _has(self, size: int) -> bool:
        try:
            return self.free_bytes() >= size
        except OSError:
            return False

    def hold(self, occupy: Callable[[str, int], bool]) -> None:
        """Make the reserve with :func:`~logd.log.disk.occupy`; waits for the disk. What fails is left for later."""
        self._held_bytes = self.free_bytes_min if occupy(self._path, self.free_bytes_min) else 0


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0
