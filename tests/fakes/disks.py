"""Twins of :class:`logd.log.disk.Disk`: one in memory that can lose power, one whose calls fail on demand."""

from __future__ import annotations

import errno
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

from logd.errors import StorageFailed
from logd.log.disk import Buffer, Disk, Entry, File, Mapping


class MemoryFile(File):
    """A file in memory: what it holds now, what the disk is sure to hold, and the changes between the two."""

    def __init__(self, path: str) -> None:
        super().__init__(path, -1)
        self.data = bytearray()
        self.durable = bytearray()
        self.pending: list[Callable[[bytearray, random.Random | None], None]] = []


class MemoryMapping:
    """What a map of a memory file shows; like a map it follows later writes."""

    def __init__(self, file: MemoryFile, size: int) -> None:
        self._file = file
        self._size = size

    @property
    def view(self) -> memoryview:
        return memoryview(bytes(self._file.data[: self._size]))

    def resident(self, start: int, stop: int) -> bool:
        return True


class MemoryDisk:
    """Files and names in memory; :meth:`lose_power` keeps what was synced and a random part of the rest."""

    def __init__(self) -> None:
        self.names: dict[str, MemoryFile | None] = {}  # None for a directory
        self.durable_names: dict[str, MemoryFile | None] = {}
        self.capacity_bytes = 2**62

    def _fail(self, path: str, number: int) -> StorageFailed:
        return StorageFailed(path, OSError(number, errno.errorcode[number], path))

    def open(self, path: str, *, create: bool = False) -> MemoryFile:
        found = self.names.get(path)
        if found is None:
            if not create:
                failure = self._fail(path, errno.ENOENT)
                failure.cause = FileNotFoundError(errno.ENOENT, "absent")
                raise failure
            found = self.names[path] = MemoryFile(path)
        return found

    def write(self, file: File, data: Buffer, position: int) -> None:
        assert isinstance(file, MemoryFile)
        content = bytes(data)

        def tear(target: bytearray, chance: random.Random | None) -> None:
            whole = len(content)
            torn = whole if chance is None else chance.choice((whole, chance.randrange(whole + 1)))
            _put(target, content[:torn], position)

        _put(file.data, content, position)
        file.pending.append(tear)

    def read(self, file: File, size: int, position: int) -> bytes:
        assert isinstance(file, MemoryFile)
        return bytes(file.data[position : position + size])

    def read_into(self, file: File, room: memoryview, position: int) -> int:
        data = self.read(file, len(room), position)
        room[: len(data)] = data
        return len(data)

    def read_cached(self, file: File, size: int, position: int) -> bytes | None:
        return self.read(file, size, position)

    def allocate(self, file: File, start: int, size: int) -> None:
        assert isinstance(file, MemoryFile)
        used = sum(len(one.data) for one in self.names.values() if one is not None)
        if used + size > self.capacity_bytes:
            raise self._fail(file.path, errno.ENOSPC)
        self.resize(file, start + size)

    def resize(self, file: File, size: int) -> None:
        assert isinstance(file, MemoryFile)
        _resize(file.data, size)

        def change(target: bytearray, chance: random.Random | None) -> None:
            if chance is None or chance.random() < 0.7:
                _resize(target, size)

        file.pending.append(change)

    def data_after(self, file: File, position: int) -> int | None:
        return position

    def sync(self, file: File) -> None:
        assert isinstance(file, MemoryFile)
        for change in file.pending:
            change(file.durable, None)
        file.pending.clear()

    def fail_sync(self, file: File) -> None:
        """Do what a kernel does after a flush that failed: it believes the pages clean, and never writes them."""
        assert isinstance(file, MemoryFile)
        file.pending.clear()

    def forget(self, file: File, size: int) -> None:
        """Memory forgets nothing."""

    def outlive(self, file: File, mapping: Mapping | None) -> None:
        """Nobody waits for memory."""

    def map(self, file: File, size: int) -> Mapping:
        assert isinstance(file, MemoryFile)
        assert size <= len(file.data), "the kernel would not map beyond the end"
        return MemoryMapping(file, size)

    def load(self, path: str) -> bytes | None:
        found = self.names.get(path)
        return bytes(found.data) if found is not None else None

    def replace(self, path: str, data: Buffer, *, sync: bool) -> None:
        file = self.names[path] = MemoryFile(path)
        self.write(file, data, 0)
        if sync:
            self.sync(file)

    def rename(self, path: str, new_path: str) -> None:
        if path not in self.names:
            failure = self._fail(path, errno.ENOENT)
            failure.cause = FileNotFoundError(errno.ENOENT, "absent")
            raise failure
        for name in [one for one in self.names if one == path or one.startswith(path + "/")]:
            self.names[new_path + name[len(path) :]] = self.names.pop(name)

    def remove(self, path: str) -> None:
        self.names.pop(path, None)

    def entries(self, path: str) -> list[Entry]:
        inside = [name for name in self.names if name.startswith(path + "/") and "/" not in name[len(path) + 1 :]]
        return [
            Entry(name[len(path) + 1 :], len(file.data) if file else 0, 0, file is None)
            for name in inside
            for file in (self.names[name],)
        ]

    def make_directory(self, path: str) -> None:
        self.names.setdefault(path, None)

    def sync_directory(self, path: str) -> None:
        inside = [name for name in {*self.names, *self.durable_names} if name.rpartition("/")[0] == path]
        for name in inside:
            self._settle(name)

    def _settle(self, name: str) -> None:
        if name in self.names:
            self.durable_names[name] = self.names[name]
        else:
            self.durable_names.pop(name, None)

    def lose_power(self, chance: random.Random) -> MemoryDisk:
        """Return the disk as it may be found after a power cut: names and data that were not synced may be gone."""
        after = MemoryDisk()
        after.durable_names = dict(self.durable_names)
        for name in sorted({*self.names, *self.durable_names}):
            names = self.names if chance.random() < 0.5 else self.durable_names
            if name in names:
                after.names[name] = names[name]
        for file in {id(one): one for one in after.names.values() if one is not None}.values():
            kept = bytearray(file.durable)
            for change in file.pending[: chance.randrange(len(file.pending) + 1)]:
                change(kept, chance)
            file.data, file.durable, file.pending = kept, bytearray(kept), []
        after.durable_names = dict(after.names)
        return after


def _resize(data: bytearray, size: int) -> None:
    if size < len(data):
        del data[size:]
    else:
        data.extend(bytes(size - len(data)))


def _put(data: bytearray, content: bytes, position: int) -> None:
    if len(data) < position:
        data.extend(bytes(position - len(data)))
    data[position : position + len(content)] = content


class FaultyDisk:
    """Hands every call to another disk, but for the ``nth`` call of a name (from 1), which fails."""

    def __init__(self, disk: Disk, name: str = "", nth: int = 0, number: int = errno.EIO) -> None:
        self._disk = disk
        self._name = name
        self._nth = nth
        self._number = number
        self.calls: Counter[str] = Counter()

    def arm(self, name: str, nth: int = 1, number: int = errno.EIO) -> None:
        """Let the ``nth`` call of ``name`` from now on fail with an error number."""
        self._name, self._nth, self._number = name, self.calls[name] + nth, number

    def fired(self, name: str) -> bool:
        """Whether the call that was to fail is one of ``name``, and has failed."""
        return name == self._name and self.calls[name] >= self._nth > 0

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._disk, name)

        def counted(*args: Any, **kwargs: Any) -> Any:
            self.calls[name] += 1
            if name == self._name and self.calls[name] == self._nth:
                where = args[0].path if isinstance(args[0], File) else args[0]
                if name == "sync" and isinstance(args[0], MemoryFile) and isinstance(self._disk, MemoryDisk):
                    self._disk.fail_sync(args[0])
                raise StorageFailed(where, OSError(self._number, "injected", where))
            return call(*args, **kwargs)

        return counted
