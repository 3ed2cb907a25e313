"""Work that waits for the disk on behalf of one log: flush, finish sealed segments, write the state file.

:class:`~logd.log.log.Log` makes a :class:`FlushJob` out of values, a worker thread runs it, and the log is told with
:meth:`~logd.log.log.Log.flushed`. A job never looks at what the loop may change meanwhile, and one that failed has
taken its log offline: a flush is never tried again.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import msgspec

from logd.errors import StorageFailed
from logd.log.disk import NO_DESCRIPTORS, PASSING, Disk, File
from logd.log.segment import Segment
from logd.log.state import STATE_NAME, UNFLUSHED_NAME, State, pack_state

DESCRIPTOR_WAIT_S: Final = 0.1
DESCRIPTOR_WAITS_MAX: Final = 300


def mark_unflushed(disk: Disk, path: str) -> bool:
    """Leave word that a flush failed: the page cache may hold, and call clean, what is on no disk.

    Recovery then writes again what it finds above the flushed offset. Say whether the word is on the disk: on a full
    one there may be no room for it, and it is to be left before the log is opened again.
    """
    try:
        disk.replace(f"{path}/{UNFLUSHED_NAME}", b"", sync=True)
        disk.sync_directory(path)
    except StorageFailed:
        return False
    return True


class IndexTail(msgspec.Struct, frozen=True):
    """Entries of the active segment's index files to be written at a byte position, after which the files end."""

    path: str
    position: int
    data: bytes
    sync: bool = False


class RecoveryPoint(msgspec.Struct, frozen=True):
    """What makes the flushed end a place to start recovery from."""

    snapshot_path: str
    snapshot: bytes | None
    obsolete_paths: tuple[str, ...]
    index_tails: tuple[IndexTail, ...]


class FlushJob:
    """One flush of one log. ``next_offset`` counts as flushed when :meth:`run` has returned.

    ``state`` is what was written to the state file, None when nothing was. With ``sync_state`` a power cut does not
    bring the older one back.
    """

    __slots__ = (
        "_disk",
        "_fail",
        "_files",
        "_path",
        "_point",
        "_sync_directory",
        "_sync_state",
        "_unwritten",
        "next_offset",
        "sealed",
        "state",
    )

    def __init__(
        self,
        disk: Disk,
        path: str,
        fail: Callable[[StorageFailed, bool], None],
        *,
        next_offset: int,
        files: list[File],
        sealed: list[Segment],
        sync_directory: bool,
        state: State | None = None,
        point: RecoveryPoint | None = None,
        sync_state: bool = False,
    ) -> None:
        self._disk = disk
        self._path = path
        self._fail = fail
        self._files = files
        self._sync_directory = sync_directory
        self._sync_state = sync_state
        self._point = point
        self.next_offset = next_offset
        self.sealed = sealed
        self._unwritten = list(sealed)
        self.state = state

    @property
    def makes_point(self) -> bool:
        """Whether it is to make a recovery point."""
        return self._point is not None

    def run(self) -> None:
        """Do it, in a worker thread. When the disk is too full for the small files, they stay as they were.

        Where no file descriptor is left to open a file with, nothing was flushed yet, and it is begun again when others
        have had time to close theirs.

        :raises StorageFailed: the log is offline from now on.
        """
        try:
            for _ in range(DESCRIPTOR_WAITS_MAX):
                try:
                    return self._run()
                except StorageFailed as failure:
                    if failure.cause.errno not in NO_DESCRIPTORS:
                        raise
                time.sleep(DESCRIPTOR_WAIT_S)
            return self._run()
        except StorageFailed as failure:
            self._fail(failure, False)
            if not mark_unflushed(self._disk, self._path):
                self._fail(failure, True)
            raise

    def _run(self) -> None:
        while self._unwritten:
            self._unwritten[0].write_sealed()
            self._unwritten.pop(0)  # begun again, it would take the transaction index for an empty one
        for file in self._files:
            self._disk.sync(file)
        if self._sync_directory:
            self._disk.sync_directory(self._path)
        try:
            self._remember()
        except StorageFailed as failure:
            if failure.cause.errno not in PASSING:
                raise
            self.state = None

    def _remember(self) -> None:
        if self._point is not None:
            self._write_point(self._point)
        if self.state is not None:
            self._disk.replace(f"{self._path}/{STATE_NAME}", pack_state(self.state), sync=True)
            if self._sync_state:
                self._disk.sync_directory(self._path)
        for path in self._point.obsolete_paths if self._point is not None else ():
            self._disk.remove(path)

    def _write_point(self, point: RecoveryPoint) -> None:
        for tail in point.index_tails:
            file = self._disk.open(tail.path, create=True)
            self._disk.write(file, tail.data, tail.position)
            self._disk.resize(file, tail.position + len(tail.data))
            if tail.sync:
                self._disk.sync(file)
        if point.snapshot is not None:
            self._disk.replace(point.snapshot_path, point.snapshot, sync=True)
            self._disk.sync_directory(self._path)
