"""The data directory of a node: one process at a time, one format, owner and cluster, and whether it was left clean.

A node opens it before anything else and closes it last. It owns the lock, the file that names format and cluster, the
note of the time and the clean-shutdown marker; the directories of the partitions inside belong to
:class:`~logd.log.log.Log`.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec

from logd.errors import StorageFailed
from logd.log.disk import TEMPORARY_SUFFIX, Disk, File, RealDisk, lock_file
from logd.log.note import pack_note, parse_note
from logd.log.state import FORMAT_VERSION

logger = logging.getLogger("logd.directory")

LOCK_NAME: Final = ".lock"
CLEAN_NAME: Final = ".clean-shutdown"
FORMAT_NAME: Final = "format.json"
CLOCK_NAME: Final = ".clock"

CLOCK_BEHIND_MAX_MS: Final = 24 * 3600 * 1000
"""So far may the time of day be behind what it was; less does no harm but that retention comes later."""

_CLOCK_MAGIC: Final = b"LCK1"


class DirectoryUnusable(Exception):
    """A node must not use this directory; the text says why and what to do."""


class _Format(msgspec.Struct, omit_defaults=True):
    logd_format: int
    cluster_id: str = ""


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

        :raises DirectoryUnusable: another process or user has it, a newer logd wrote it, or it cannot be written.
        """
        disk = disk or RealDisk()
        try:
            _make(disk, path)
            _check_owner(path)
            lock = lock_file(f"{path}/{LOCK_NAME}")
            if lock is None:
                raise DirectoryUnusable(
                    f"The data directory {path} is in use by another logd: stop it, or choose another --data-dir"
                )
            _check_format(disk, path)
            clean = disk.load(f"{path}/{CLEAN_NAME}") is not None
        except StorageFailed as failure:
            in_the_way = failure.cause.errno in (errno.EEXIST, errno.ENOTDIR)
            remedy = (
                "a file is in the way, choose another --data-dir"
                if in_the_way
                else "check its owner and mode, or choose another --data-dir"
            )
            raise DirectoryUnusable(f"The data directory {path} cannot be used ({failure}): {remedy}") from failure
        return cls(disk, path, lock, clean)

    def belong_to(self, cluster_id: str) -> None:
        """Be one of a cluster's directories from now on.

        :raises DirectoryUnusable: it is of another cluster.
        """
        name = f"{self.path}/{FORMAT_NAME}"
        found = _format(self._disk, self.path)
        if found.cluster_id and found.cluster_id != cluster_id:
            raise DirectoryUnusable(
                f"The data directory {self.path} belongs to cluster {found.cluster_id} and the metadata to cluster "
                f"{cluster_id}: put back the metadata.db or the directory that was there before"
            )
        if not found.cluster_id:
            found.cluster_id = cluster_id
            with contextlib.suppress(StorageFailed):  # a full disk, say: then the next start writes it down
                self._disk.replace(name, msgspec.json.encode(found), sync=True)
                self._disk.sync_directory(self.path)

    def check_clock(self, now_ms: int) -> None:
        """Compare the time of day with what it was when the directory was in use.

        :raises DirectoryUnusable: it has gone back by more than :data:`CLOCK_BEHIND_MAX_MS`.
        """
        noted_ms = self.noted_clock()
        if noted_ms - now_ms > CLOCK_BEHIND_MAX_MS:
            raise DirectoryUnusable(
                f"The time of day is {_time(now_ms)} and the data directory {self.path} was in use at "
                f"{_time(noted_ms)}: set the clock, or remove {self.path}/{CLOCK_NAME} if it was wrong then"
            )

    def noted_clock(self) -> int:
        """The time of day that was noted last, in milliseconds; 0 where none is."""
        return parse_note(_CLOCK_MAGIC, self._disk.load(f"{self.path}/{CLOCK_NAME}"))

    def note_clock(self, now_ms: int) -> None:
        """Write down what time it is, in place; where that fails less is known, and that is all."""
        with contextlib.suppress(StorageFailed):
            file = self._disk.open(f"{self.path}/{CLOCK_NAME}", create=True)
            self._disk.write(file, pack_note(_CLOCK_MAGIC, now_ms), 0)

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
        self.first = first
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

    def belong_to(self, cluster_id: str) -> None:
        """See :meth:`DataDirectory.belong_to`."""
        for one in self._usable:
            one.belong_to(cluster_id)

    def mark_dirty(self) -> None:
        """Take the markers away; see :meth:`DataDirectory.mark_dirty`.

        :raises StorageFailed: the first directory is at fault. Another one may fail: its partitions say so.
        """
        self._each(DataDirectory.mark_dirty)

    def mark_clean(self) -> None:
        """Leave the markers; see :meth:`DataDirectory.mark_clean`.

        :raises StorageFailed: the first directory is at fault.
        """
        self._each(DataDirectory.mark_clean)

    def _each(self, mark: Callable[[DataDirectory], None]) -> None:
        for one in self._usable:
            try:
                mark(one)
            except StorageFailed as failure:
                if one is self.first:
                    raise
                logger.error("the data directory %s fails: %s", one.path, failure)

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


def _check_owner(path: str) -> None:
    """Refuse what another user has begun: files that both make would shut out one of them."""
    try:
        owner = os.stat(f"{path}/{FORMAT_NAME}").st_uid
    except OSError:  # there is none yet, or the next step says what is wrong with it
        return
    if owner not in (os.geteuid(), _uid_of_new_files(path)):
        raise DirectoryUnusable(
            f"The data directory {path} belongs to user {owner} and this process to user {os.geteuid()}: start logd "
            f"as that user, or run chown -R {os.geteuid()} {path}"
        )


def _uid_of_new_files(path: str) -> int:
    """Who owns what we make: not always we, on a file system of another machine."""
    probe = f"{path}/.owner{TEMPORARY_SUFFIX}"
    try:
        file = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            return os.fstat(file).st_uid
        finally:
            os.close(file)
            os.unlink(probe)
    except OSError:
        return os.geteuid()


def _time(ms: int) -> str:
    try:
        return datetime.fromtimestamp(ms / 1000, UTC).isoformat(" ", "seconds")
    except (OverflowError, ValueError):
        return f"{ms} ms"


def _check_format(disk: Disk, path: str) -> None:
    found = _format(disk, path).logd_format
    if found > FORMAT_VERSION:
        raise DirectoryUnusable(
            f"The data directory {path} has format {found}, this logd knows up to {FORMAT_VERSION}: use the newer one"
        )


def _format(disk: Disk, path: str) -> _Format:
    """The file that names the format; made when it is not there."""
    name = f"{path}/{FORMAT_NAME}"
    data = disk.load(name)
    if data is None:
        found = _Format(FORMAT_VERSION)
        disk.replace(name, msgspec.json.encode(found), sync=True)
        return found
    try:
        return msgspec.json.decode(data, type=_Format)
    except msgspec.DecodeError as cause:
        raise DirectoryUnusable(f"{name} is damaged ({cause}): is {path} a data directory of logd?") from cause
