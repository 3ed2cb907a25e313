"""Sealed segments read in chunks of whole batches, and the records of a chunk's batches.

How ``cleaner`` reads: with ``pread``, every checksum checked, a few megabytes at a time, so that a run over any log
needs the same little memory. It decides nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

import numpy as np

from logd.errors import Corrupt, DecodeError
from logd.log.columns import PADDING, Columns, Numbers, columns_of
from logd.log.disk import Disk
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


def chunks(disk: Disk, path: str, size: int) -> Iterator[list[Batch]]:
    """Read the first ``size`` bytes of a segment's file.

    :raises Corrupt: a batch is damaged.
    """
    file = disk.open(path)
    position, wanted = 0, CHUNK_BYTES
    while position < size:
        data = disk.read(file, min(wanted, size - position), position)
        batches, missing = _split(memoryview(data), path, position)
        wanted = CHUNK_BYTES
        if batches:
            used = batches[-1].start + batches[-1].header.size
            position += used
            if len(data) - used < len(PADDING):
                padded = memoryview(data + PADDING)
                batches = [one._replace(chunk=padded) for one in batches]
            yield batches
        elif position + missing <= size and missing > len(data):
            wanted = missing
        else:
            raise Corrupt(path, position, "the segment ends inside a batch")


def _split(data: memoryview, path: str, position: int) -> tuple[list[Batch], int]:
    """Return the whole batches of ``data``, and how many bytes the first needs if there is none."""
    batches: list[Batch] = []
    at = 0
    while at + HEADER_BYTES <= len(data):
        header = read_header(data, at)
        size = header.length + LOG_OVERHEAD_BYTES
        if size < HEADER_BYTES or header.magic != 2 or header.last_offset_delta < 0:
            raise Corrupt(path, position + at, "a batch header is damaged")
        if at + size > len(data):
            return batches, size
        if crc32c(data[at + CRC_FROM : at + size]) != header.crc:
            raise Corrupt(path, position + at, f"the batch at offset {header.base_offset} has a wrong checksum")
        batches.append(Batch(header, data, at, path, position + at))
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
