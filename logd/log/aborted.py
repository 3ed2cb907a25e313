"""The aborted transactions of a log: what consumers of ``read_committed`` must skip.

One :class:`AbortedIndex` belongs to one log and holds the entries of all its segments, in order of their markers, in
the bytes of Kafka's ``.txnindex`` files: each segment whose markers abort something has such a file, others have none.
The files are written like the other indexes, when a segment is sealed and at a recovery point; what they hold below
the recovery point is checked against a count and a checksum in the state file, so that a lost one is noticed and made
again from the data. This module never touches a file.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from struct import Struct
from typing import Final, NamedTuple

from logd.errors import DecodeError
from logd.wire.checksum import crc32c

TXN_INDEX_SUFFIX: Final = ".txnindex"
VERSION: Final = 0
_ENTRY: Final = Struct(">hqqqq")
ENTRY_BYTES: Final = _ENTRY.size


class AbortedTransaction(NamedTuple):
    """A producer's transaction, from its first record to its marker at ``last_offset``.

    ``last_stable_offset``: what was stable when the marker was written; no later entry begins below it.
    """

    producer_id: int
    first_offset: int
    last_offset: int
    last_stable_offset: int


class AbortedIndex:
    """Entries in the order of their markers."""

    __slots__ = ("_data", "_lasts")

    def __init__(self) -> None:
        self._data = bytearray()
        self._lasts = array("q")

    def __len__(self) -> int:
        return len(self._lasts)

    def add(self, entry: AbortedTransaction) -> None:
        """Add one whose marker is the newest."""
        assert not self._lasts or entry.last_offset > self._lasts[-1], "markers come in the order of their offsets"
        self._lasts.append(entry.last_offset)
        self._data += _ENTRY.pack(VERSION, *entry)

    def find(self, start: int, end: int) -> list[AbortedTransaction]:
        """Return those of which a record or the marker lies in the offsets from ``start`` to before ``end``."""
        found: list[AbortedTransaction] = []
        first = bisect_left(self._lasts, start)
        for position in range(first * ENTRY_BYTES, len(self._data), ENTRY_BYTES):
            _, *fields = _ENTRY.unpack_from(self._data, position)
            entry = AbortedTransaction(*fields)
            if entry.first_offset < end:
                found.append(entry)
            if entry.last_stable_offset >= end:
                break
        return found

    def part(self, start: int, end: int) -> bytes:
        """Return those with markers from ``start`` to before ``end``, as the content of a file."""
        low, high = bisect_left(self._lasts, start), bisect_left(self._lasts, end)
        return bytes(memoryview(self._data)[low * ENTRY_BYTES : high * ENTRY_BYTES])

    def sum(self, start: int, end: int) -> tuple[int, int]:
        """Return how many markers lie from ``start`` to before ``end``, and the checksum of their entries."""
        data = self.part(start, end)
        return len(data) // ENTRY_BYTES, crc32c(data)

    def load(self, data: bytes, start: int, end: int) -> None:
        """Add the entries of a file whose markers lie from ``start`` to before ``end``.

        :raises DecodeError: it is not what was written.
        """
        if len(data) % ENTRY_BYTES:
            raise DecodeError(f"a transaction index of {len(data)} bytes")
        for version, *fields in _ENTRY.iter_unpack(data):
            entry = AbortedTransaction(*fields)
            behind = self._lasts[-1] if self._lasts else -1
            if version != VERSION or not 0 <= entry.first_offset < entry.last_offset:
                raise DecodeError(f"an entry of version {version} for offset {entry.last_offset}")
            if start <= entry.last_offset < end:
                if entry.last_offset <= behind:
                    raise DecodeError(f"the entry for offset {entry.last_offset} comes after that for {behind}")
                self.add(entry)

    def forget_before(self, offset: int) -> None:
        """Drop those whose markers lie below the log's start."""
        gone = bisect_left(self._lasts, offset)
        if gone:
            del self._lasts[:gone], self._data[: gone * ENTRY_BYTES]

    def truncate(self, end: int) -> None:
        """Drop those whose markers lie at or beyond a new end of the log."""
        kept = bisect_left(self._lasts, end)
        del self._lasts[kept:], self._data[kept * ENTRY_BYTES :]

    def forget(self, markers: list[int]) -> None:
        """Drop the entries of these markers, which compaction has removed."""
        for marker in markers:
            at = bisect_left(self._lasts, marker)
            if at < len(self._lasts) and self._lasts[at] == marker:
                del self._lasts[at], self._data[at * ENTRY_BYTES : (at + 1) * ENTRY_BYTES]
