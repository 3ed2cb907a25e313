"""The data directory of a node: one process at a time, one format version, and whether it was left clean.

A node opens it before anything else and closes it last. It owns the lock, the file that names the format and the
clean-shutdown marker; the directories of the partitions inside belong to :class:`~logd.log.log.Log`.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from logd.errors import StorageFailed
from logd.log.disk import Disk, File, RealDisk, lock_file
from logd.log.state import FORMAT_VERSION

LOCK_NAME: Final = ".lock"
CLEAN_NAME: Final = ".clean-shutdown"
FORMAT_NAME: Final = "format.json"


class DirectoryUnusable(Exception):
    """A node must not use this directory; the text says why and what to do."""


class _Format(msgspec.Struct):
    logd_format: int


class DataDirectory:
    """A locked data directory. ``was_clean``: the last process closed every log."""

    def __init__(self, disk: Disk, path: str, lock: File | None, was_clean: bool) -> None:
        self._disk = disk
        self._lock = lock
        self.path = path
        self.was_clean = was_clean

    @classmethod
    def open(cls, path: str, *, disk: Disk | None = None) -> DataDirectory:
        """Make the directory when it is not there, lock it, and check its format.

        :raises DirectoryUnusable: another process has it, a newer logd wrote it, or it cannot be written.
        """
        disk = disk or RealDisk()
        try:
            _make(disk, path)
            lock = lock_file(f"{path}/{LOCK_NAME}")
            if lock is None:
                raise DirectoryUnusable(
                    f"The data directory {path} is in use by another logd: stop it, or choose another --data-dir"
                )
            _check_format(disk, path)
            clean = disk.load(f"{path}/{CLEAN_NAME}") is not None
        except StorageFailed as failure:
            raise DirectoryUnusable(
                f"The data directory {path} cannot be used ({failure}): check its owner and mode, or choose another "
                "--data-dir"
            ) from failure
        return cls(disk, path, lock, clean)

    def mark_dirty(self) -> None:
        """Take the clean-shutdown marker away, before the first append."""
        if self.was_clean:
            self._disk.remove(f"{self.path}/{CLEAN_NAME}")
            self._disk.sync_directory(self.path)

    def mark_clean(self) -> None:
        """Leave the marker, after every log was closed."""
        self._disk.replace(f"{self.path}/{CLEAN_NAME}", b"", sync=True)
        self._disk.sync_directory(self.path)

    def close(self) -> None:
        """Let go of the lock."""
        self._lock = None


class DataDirectories:
    """All data directories of a node. The first one holds the metadata and must work; of the others one may fail.

    ``others`` maps the path of each to what is wrong with it, "" for nothing.
    """

    def __init__(self, first: DataDirectory, others: dict[str, DataDirectory | str]) -> None:
        self._usable = [first, *(one for one in others.values() if isinstance(one, DataDirectory))]
        self.path = first.path
        self.others = {path: one if isinstance(one, str) else "" for path, one in others.items()}

    @classmethod
    def open(cls, paths: Sequence[str]) -> DataDirectories:
        """Open them all.

        :raises DirectoryUnusable: the first cannot be used, or another one is in use or not of this format.
        """
        first = DataDirectory.open(paths[0])
        others: dict[str, DataDirectory | str] = {}
        for path in paths[1:]:
            try:
                others[path] = DataDirectory.open(path)
            except DirectoryUnusable as unusable:
                if not isinstance(unusable.__cause__, StorageFailed):
                    raise
                others[path] = str(unusable)
        return cls(first, others)

    @property
    def was_clean(self) -> bool:
        """Whether every one was left by a process that closed all its logs."""
        return all(one.was_clean for one in self._usable)

    def mark_dirty(self) -> None:
        """Take the markers away; see :meth:`DataDirectory.mark_dirty`."""
        for one in self._usable:
            one.mark_dirty()

    def mark_clean(self) -> None:
        """Leave the markers; see :meth:`DataDirectory.mark_clean`."""
        for one in self._usable:
            one.mark_clean()

    def close(self) -> None:
        """Let go of the locks."""
        for one in self._usable:
            one.close()


def _make(disk: Disk, path: str) -> None:
    """Make a directory and those above it, and flush the names of the new ones, so that no power cut takes them."""
    whole = Path(path)
    made = [one for one in (whole, *whole.parents) if not one.exists()]
    disk.make_directory(path)
    for one in made:
        try:
            disk.sync_directory(str(one.parent))
        except StorageFailed as failure:
            if failure.cause.errno != errno.EACCES:  # a parent that may not be read cannot be flushed by us
                raise


def _check_format(disk: Disk, path: str) -> None:
    name = f"{path}/{FORMAT_NAME}"
    data = disk.load(name)
    if data is None:
        disk.replace(name, msgspec.json.encode(_Format(FORMAT_VERSION)), sync=True)
        return
    try:
        found = msgspec.json.decode(data, type=_Format).logd_format
    except msgspec.DecodeError as cause:
        raise DirectoryUnusable(f"{name} is damaged ({cause}): is {path} a data directory of logd?") from cause
    if found > FORMAT_VERSION:
        raise DirectoryUnusable(
            f"The data directory {path} has format {found}, this logd knows up to {FORMAT_VERSION}: use the newer one"
        )
