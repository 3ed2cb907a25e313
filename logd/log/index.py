"""The sparse index of one segment: where batches start, and by when which offset had been reached.

Kept in memory as flat arrays while the segment is written or read; written beside the segment in Kafka's two formats
(``.index`` and ``.timeindex``), from which a sealed segment's index is read back. It can always be rebuilt from the
data, so it is checked when read and never trusted when it looks wrong. Called by ``segment``; touches no file itself.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from typing import Final

import numpy as np

OFFSET_ENTRY_BYTES: Final = 8
TIME_ENTRY_BYTES: Final = 12
_TIME_ENTRY: Final = np.dtype([("timestamp", ">i8"), ("offset", ">i4")])


class Index:
    """Entries of one segment; offsets are relative to the segment's base offset, positions are bytes in its file."""

    __slots__ = ("offsets", "positions", "time_offsets", "times")

    def __init__(self) -> None:
        self.offsets = array("i")
        self.positions = array("i")
        self.times = array("q")
        self.time_offsets = array("i")

    def __len__(self) -> int:
        return len(self.offsets)

    def add(self, last_offset: int, position: int) -> None:
        """Note a batch: the relative offset of its last record and where it starts."""
        self.offsets.append(last_offset)
        self.positions.append(position)

    def add_time(self, timestamp_ms: int, offset: int) -> None:
        """Note that ``timestamp_ms`` is the largest so far, at relative ``offset``; ignored when it is no news."""
        if not self.times or timestamp_ms > self.times[-1]:
            self.times.append(timestamp_ms)
            self.time_offsets.append(offset)

    def floor(self, offset: int) -> tuple[int, int]:
        """Return the last indexed batch that ends at or before relative ``offset``: its last offset and position.

        Without one, (-1, 0).
        """
        at = bisect_right(self.offsets, offset)
        return (self.offsets[at - 1], self.positions[at - 1]) if at else (-1, 0)

    def batch_start(self, position: int) -> tuple[int, int]:
        """Return the last indexed batch that begins at or before ``position``: its last offset and position.

        Without one, (-1, 0).
        """
        at = bisect_right(self.positions, position)
        return (self.offsets[at - 1], self.positions[at - 1]) if at else (-1, 0)

    def last_before(self, timestamp_ms: int) -> tuple[int, int]:
        """Return the last entry of a time before ``timestamp_ms``: that time, and the relative offset with its batch.

        Up to there all timestamps are smaller. Without one, (-1, -1).
        """
        at = bisect_left(self.times, timestamp_ms)
        return (self.times[at - 1], self.time_offsets[at - 1]) if at else (-1, -1)

    def cut(self, position: int, offset: int) -> None:
        """Forget what is at or after a position and a relative offset."""
        keep = bisect_left(self.positions, position)
        del self.offsets[keep:], self.positions[keep:]
        keep = bisect_left(self.time_offsets, offset)
        del self.times[keep:], self.time_offsets[keep:]

    def offset_bytes(self, start: int = 0) -> bytes:
        """Return the content of the ``.index`` file, from an entry on."""
        entries = np.empty((len(self.offsets) - start, 2), ">i4")
        entries[:, 0] = self.offsets[start:]
        entries[:, 1] = self.positions[start:]
        return entries.tobytes()

    def time_bytes(self, start: int = 0) -> bytes:
        """Return the content of the ``.timeindex`` file, from an entry on."""
        entries = np.empty(len(self.times) - start, _TIME_ENTRY)
        entries["timestamp"] = self.times[start:]
        entries["offset"] = self.time_offsets[start:]
        return entries.tobytes()


def parse(offset_data: bytes, time_data: bytes, segment_bytes: int) -> Index | None:
    """Read the two files of a segment of ``segment_bytes``; None when they cannot be right and must be rebuilt."""
    if len(offset_data) % OFFSET_ENTRY_BYTES or len(time_data) % TIME_ENTRY_BYTES:
        return None
    pairs = np.frombuffer(offset_data, ">i4").reshape(-1, 2).astype("i4")
    times = np.frombuffer(time_data, _TIME_ENTRY)
    offsets, positions = pairs[:, 0], pairs[:, 1]
    stamps, stamp_offsets = times["timestamp"].astype("i8"), times["offset"].astype("i4")
    if not (_rising(offsets) and _rising(positions) and _rising(stamps) and _not_falling(stamp_offsets)):
        return None
    if len(positions) and (positions[-1] >= segment_bytes or positions[0] <= 0 or offsets[0] < 0):
        return None
    index = Index()
    index.offsets.frombytes(offsets.tobytes())
    index.positions.frombytes(positions.tobytes())
    index.times.frombytes(stamps.tobytes())
    index.time_offsets.frombytes(stamp_offsets.tobytes())
    return index


def _rising(values: np.ndarray[tuple[int], np.dtype[np.signedinteger]]) -> bool:
    return bool((values[1:] > values[:-1]).all())


def _not_falling(values: np.ndarray[tuple[int], np.dtype[np.signedinteger]]) -> bool:
    return bool((values[1:] >= values[:-1]).all())
