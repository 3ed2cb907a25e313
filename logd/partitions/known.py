"""Which partitions a data directory is known to hold, so that one whose directory has vanished is told from a new one.

A small checksummed file, replaced whole: :class:`~logd.partitions.table.PartitionTable` reads it at start and writes
it now and then and when it closes. Without the file, or with a damaged one, nothing is known and nobody is alarmed.
"""

from __future__ import annotations

from collections.abc import Iterable
from struct import Struct
from typing import Final

from logd.errors import StorageFailed
from logd.log.disk import Disk
from logd.wire.checksum import crc32c

KNOWN_NAME: Final = "partitions.known"
_MAGIC: Final = b"LPK1"
_ENTRY: Final = Struct(">16sI")
_HEAD_BYTES: Final = 8

Place = tuple[bytes, int]
"""A topic's id and a partition's number."""


def pack_known(places: Iterable[Place]) -> bytes:
    """Return the content of the file."""
    body = b"".join(_ENTRY.pack(*place) for place in sorted(places))
    return _MAGIC + crc32c(body).to_bytes(4, "big") + body


def parse_known(data: bytes) -> frozenset[Place]:
    """Read the file; nothing for a damaged one."""
    body = data[_HEAD_BYTES:]
    if data[:4] != _MAGIC or int.from_bytes(data[4:_HEAD_BYTES], "big") != crc32c(body) or len(body) % _ENTRY.size:
        return frozenset()
    return frozenset(_ENTRY.iter_unpack(body))


class Known:
    """The partitions that were there when the file was written last."""

    def __init__(self, disk: Disk, directory: str) -> None:
        self._disk = disk
        self._directory = directory
        self._written: frozenset[Place] = frozenset()
        try:
            data = disk.load(f"{directory}/{KNOWN_NAME}")
        except StorageFailed:
            data = None
        if data is not None:
            self._written = parse_known(data)

    def __contains__(self, place: Place) -> bool:
        return place in self._written

    def differs(self, places: frozenset[Place]) -> bool:
        """Whether the file says something else."""
        return places != self._written

    def write(self, places: frozenset[Place]) -> None:
        """Replace the file; waits for the disk. Raises StorageFailed."""
        self._disk.replace(f"{self._directory}/{KNOWN_NAME}", pack_known(places), sync=True)
        self._disk.sync_directory(self._directory)
        self._written = places
