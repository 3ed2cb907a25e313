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
from logd.wire.batches import HEADER_BYTES, RECORDS_BYTES_MAX, BatchHeader, check_crc, read_header
from logd.wire.compression import decompress
from logd.wire.message import Buffer

CHUNK_BYTES: Final = 4 * 1024 * 1024


class Batch(NamedTuple):
    """A batch of a chunk: its header, all its bytes, the file and where it stands in it."""

    header: BatchHeader
    data: memoryview
    path: str
    position: int


class Rows(NamedTuple):
    """The records of some batches. ``offsets`` are absolute; a record's bytes are in ``data``."""

    data: bytes
    columns: Columns
    offsets: Numbers

    def key(self, row: int) -> bytes:
        """Return the key of a record, empty where there is none."""
        start = int(self.columns.key_starts[row])
        return self.data[start : start + max(int(self.columns.key_sizes[row]), 0)]


def chunks(disk: Disk, path: str, size: int) -> Iterator[list[Batch]]:
    """Read the first ``size`` bytes of a segment's file.

    :raises Corrupt: a batch is damaged.
    """
    file = disk.open(path)
    position, wanted = 0, CHUNK_BYTES
    while position < size:
        data = memoryview(disk.read(file, min(wanted, size - position), position))
        batches, missing = _split(data, path, position)
        wanted = CHUNK_BYTES
        if batches:
            position = batches[-1].position + batches[-1].header.size
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
        size = header.size
        if size < HEADER_BYTES or header.magic != 2 or header.last_offset_delta < 0:
            raise Corrupt(path, position + at, "a batch header is damaged")
        if at + size > len(data):
            return batches, size
        if not check_crc(data, at, header):
            raise Corrupt(path, position + at, f"the batch at offset {header.base_offset} has a wrong checksum")
        batches.append(Batch(header, data[at : at + size], path, position + at))
        at += size
    return batches, HEADER_BYTES


def rows_of(batches: list[Batch]) -> Rows:
    """Open batches and find their records.

    :raises Corrupt: records that are not what their batch says.
    """
    bodies: list[Buffer] = []
    try:
        for batch in batches:
            bodies.append(decompress(batch.header.codec, batch.data[HEADER_BYTES:], RECORDS_BYTES_MAX))
        ends = np.cumsum([len(body) for body in bodies])
        data = b"".join([*bodies, PADDING])
        counts = [batch.header.count for batch in batches]
        columns = columns_of(data, [0, *ends[:-1].tolist()], ends.tolist(), counts)
        offsets = _offsets(batches, columns)
    except DecodeError as cause:
        if len(batches) > 1:
            for batch in batches:
                rows_of([batch])  # finds the one
        raise Corrupt(batches[0].path, batches[0].position, str(cause)) from cause
    return Rows(data, columns, offsets)


def _offsets(batches: list[Batch], columns: Columns) -> Numbers:
    """Return the records' offsets, which must rise and stay in their batches."""
    counts = np.diff(columns.firsts)
    bases = np.repeat([batch.header.base_offset for batch in batches], counts)
    lasts = np.repeat([batch.header.last_offset for batch in batches], counts)
    offsets: Numbers = bases + columns.offset_deltas
    if ((offsets < bases) | (offsets > lasts)).any() or (np.diff(offsets) <= 0).any():
        raise DecodeError("the offsets of a batch's records do not rise inside it")
    return offsets
