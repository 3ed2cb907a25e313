"""Sealed segments read in chunks of whole batches, and the records of a chunk's batches.

How ``cleaner`` reads: never mapped, every checksum checked, a few megabytes at a time, so that a run over any log
needs the same little memory. It decides nothing.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple, Protocol, TypeVar

import numpy as np

from logd.errors import Corrupt, DecodeError
from logd.log.columns import PADDING, Columns, Numbers, columns_of
from logd.log.disk import PAGE_BYTES, Disk, File
from logd.wire.batches import (
    CRC_FROM,
    HEADER_BYTES,
    LOG_OVERHEAD_BYTES,
    RECORDS_BYTES_MAX,
    BatchHeader,
    read_header,
)
from logd.wire.checksum import crc32c
from logd.wire.compression import decompress
from logd.wire.message import Buffer

CHUNK_BYTES: Final = 8 * 1024 * 1024
"""Much for each step over all its batches at once, and little beside the map of keys."""


_T = TypeVar("_T")


class Background(Protocol):
    """Begins something and returns what waits for it and gives its result, or raises what it raised."""

    def __call__(self, work: Callable[[], _T], /) -> Callable[[], _T]: ...


def at_once(work: Callable[[], _T]) -> Callable[[], _T]:
    """No background: the result is there already."""
    result = work()
    return lambda: result


class Batch(NamedTuple):
    """A batch of a chunk: its header, where it begins in the chunk's bytes, the file and where it stands in it."""

    header: BatchHeader
    chunk: memoryview
    start: int
    path: str
    position: int

    @property
    def data(self) -> memoryview:
        """All its bytes."""
        return self.chunk[self.start : self.start + self.header.size]


class Rows(NamedTuple):
    """The records of some batches. ``offsets`` are absolute; a record's bytes are in ``data``."""

    data: memoryview
    columns: Columns
    offsets: Numbers

    def key(self, row: int) -> bytes:
        """Return the key of a record, empty where there is none."""
        start = int(self.columns.key_starts[row])
        return bytes(self.data[start : start + max(int(self.columns.key_sizes[row]), 0)])


class Reader:
    """Reads the files of a log, with two buffers: one is filled while the batches of the other are looked at.

    :param background: begins a read; the reads that it was given are carried out one after the other.
    """

    def __init__(self, disk: Disk, background: Background = at_once) -> None:
        self._disk = disk
        self._background = background
        self._buffers = [_buffer(CHUNK_BYTES) for _ in range(2)]

    def chunks(self, path: str, size: int) -> Iterator[list[Batch]]:
        """Read the first ``size`` bytes of a segment's file. The bytes of batches last until the next are asked for.

        :raises Corrupt: a batch is damaged.
        """
        file = self._disk.open(path)
        position = 0
        coming = self._begin(file, position, size, self._buffers[0])
        while position < size:
            chunk, count = coming()
            self._buffers.reverse()
            batches, missing = _split(chunk, position % PAGE_BYTES, count, path, position)
            if batches:
                position += batches[-1].start + batches[-1].header.size - batches[0].start
                if position < size:
                    coming = self._begin(file, position, size, self._buffers[0])
                yield batches
            elif position + missing <= size and position % PAGE_BYTES + missing > count:
                coming = self._begin(file, position, size, _buffer(PAGE_BYTES + missing))
            else:
                raise Corrupt(path, position, "the segment ends inside a batch")

    def _begin(self, file: File, position: int, size: int, buffer: memoryview) -> Callable[[], tuple[memoryview, int]]:
        """Begin to read from the page of ``position`` on; what is returned waits for the buffer and its bytes."""
        start = position & -PAGE_BYTES
        wanted = min(len(buffer) - PAGE_BYTES, (size - start + PAGE_BYTES - 1) & -PAGE_BYTES)

        def read() -> tuple[memoryview, int]:
            return buffer, min(self._disk.read_into(file, buffer[:wanted], start), size - start)

        return self._background(read)


def _buffer(size: int) -> memoryview:
    """Whole pages for so many bytes, and one more, which stands for :data:`PADDING`."""
    return memoryview(mmap.mmap(-1, (size + 2 * PAGE_BYTES - 1) & -PAGE_BYTES))


def _split(data: memoryview, at: int, stop: int, path: str, position: int) -> tuple[list[Batch], int]:
    """Return the whole batches of ``data`` from ``at`` to ``stop``, and how many bytes the first needs if none.

    :param position: of the first in its file.
    """
    batches: list[Batch] = []
    moved = position - at
    while at + HEADER_BYTES <= stop:
        header = read_header(data, at)
        size = header.length + LOG_OVERHEAD_BYTES
        if size < HEADER_BYTES or header.magic != 2 or header.last_offset_delta < 0:
            raise Corrupt(path, moved + at, "a batch header is damaged")
        if at + size > stop:
            return batches, size
        if crc32c(data[at + CRC_FROM : at + size]) != header.crc:
            raise Corrupt(path, moved + at, f"the batch at offset {header.base_offset} has a wrong checksum")
        batches.append(Batch(header, data, at, path, moved + at))
        at += size
    return batches, HEADER_BYTES


def rows_of(batches: list[Batch]) -> Rows:
    """Open batches and find their records.

    :raises Corrupt: records that are not what their batch says.
    """
    try:
        data, begins, ends = _bodies(batches)
        columns = columns_of(data, begins, ends, [batch.header.count for batch in batches])
        offsets = _offsets(batches, columns)
    except DecodeError as cause:
        if len(batches) > 1:
            for batch in batches:
                rows_of([batch])  # finds the one
        raise Corrupt(batches[0].path, batches[0].position, str(cause)) from cause
    return Rows(data, columns, offsets)


def _bodies(batches: list[Batch]) -> tuple[memoryview, list[int], list[int]]:
    """The records' bytes, padded, and where those of each batch lie: in the chunk itself if none is compressed."""
    chunk = batches[0].chunk
    if all(one.chunk is chunk and not one.header.codec for one in batches):
        starts = [one.start + HEADER_BYTES for one in batches]
        return chunk, starts, [one.start + one.header.size for one in batches]
    bodies: list[Buffer] = [decompress(one.header.codec, one.data[HEADER_BYTES:], RECORDS_BYTES_MAX) for one in batches]
    ends = np.cumsum([len(body) for body in bodies]).tolist()
    return memoryview(b"".join([*bodies, PADDING])), [0, *ends[:-1]], ends


def _offsets(batches: list[Batch], columns: Columns) -> Numbers:
    """Return the records' offsets, which must rise and stay in their batches."""
    counts = np.diff(columns.firsts)
    bases = np.repeat([batch.header.base_offset for batch in batches], counts)
    lasts = np.repeat([batch.header.last_offset for batch in batches], counts)
    offsets: Numbers = bases + columns.offset_deltas
    if ((offsets < bases) | (offsets > lasts)).any() or (np.diff(offsets) <= 0).any():
        raise DecodeError("the offsets of a batch's records do not rise inside it")
    return offsets
