"""The records of many batches at once, as columns of numbers.

A batch's records can only be found one after the other, but those of many batches side by side: each step here finds
one record of every batch. So looking at a record costs a fraction of a microsecond, as long as there are many batches;
the last few of a crowd are done one by one. ``cleaner`` asks for what compaction needs: where a record and its key lie,
its deltas, whether it has a value. Pure; every position is checked against the end of its batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple, TypeAlias

import numpy as np

from logd.errors import DecodeError
from logd.wire.message import Buffer
from logd.wire.records import RECORD_BYTES_MIN, varint

PADDING: Final = bytes(64)
"""Must follow the bytes that are looked at, so that a number that is cut short is found out after it was read. Other
bytes do as well."""
CROWD_MIN: Final = 12
VARINT_BYTES_MAX: Final = 10
ONE_BYTE_MAX: Final = 127
_SEVEN: Final = np.uint8(ONE_BYTE_MAX)
_ZIGZAG: Final = np.array([at >> 1 ^ -(at & 1) for at in range(1 << 14)], np.int64)
"""What the varints of one and of two bytes mean."""

Numbers: TypeAlias = np.ndarray[tuple[int], np.dtype[np.int64]]
Bytes: TypeAlias = np.ndarray[tuple[int], np.dtype[np.uint8]]


class Columns(NamedTuple):
    """The records of all batches in their order, one row each; ``firsts`` has the first row of each batch and the end.

    ``key_sizes`` is -1 where there is no key, ``value_sizes`` where there is no value.
    """

    firsts: Numbers
    starts: Numbers
    ends: Numbers
    time_deltas: Numbers
    offset_deltas: Numbers
    key_starts: Numbers
    key_sizes: Numbers
    value_sizes: Numbers


def columns_of(data: Buffer, begins: Sequence[int], ends: Sequence[int], counts: Sequence[int]) -> Columns:
    """Find the records of batches whose bodies lie in ``data``, decompressed, from ``begins`` to ``ends``.

    :param data: with as many bytes after the last body as :data:`PADDING` has, whatever they are.
    :raises DecodeError: when the records do not fill their batches.
    """
    sizes = np.array(counts, np.int64)
    places, limits = np.array(begins, np.int64), np.array(ends, np.int64)
    if (sizes * RECORD_BYTES_MIN > limits - places).any() or (sizes < 0).any():
        raise DecodeError("a batch counts more records than it has room for")
    firsts = np.zeros(len(sizes) + 1, np.int64)
    np.cumsum(sizes, out=firsts[1:])
    found = Columns(firsts, *(np.empty(int(firsts[-1]), np.int64) for _ in range(7)))
    lanes = np.flatnonzero(sizes)
    p = places[lanes]
    number = 0
    octets = np.frombuffer(data, np.uint8)
    while len(lanes) >= CROWD_MIN:
        p = _step(octets, p, limits[lanes], firsts[lanes] + number, found)
        number += 1
        places[lanes] = p
        going = sizes[lanes] > number
        lanes, p = lanes[going], p[going]
    for lane in lanes.tolist():
        places[lane] = _one_by_one(data, lane, int(places[lane]), int(limits[lane]), number, found)
    if (places != limits).any():
        raise DecodeError("bytes are left over after the records of a batch")
    return found


def _step(octets: Bytes, start: Numbers, limits: Numbers, rows: Numbers, found: Columns) -> Numbers:
    """Find the record at ``start`` in each batch, note it in its row, and return where each ends."""
    size, p = _varints(octets, start)
    end = p + size
    time_delta, p = _varints(octets, np.minimum(p + 1, limits))
    offset_delta, p = _varints(octets, np.minimum(p, limits))
    key_size, key_start = _varints(octets, np.minimum(p, limits))
    p = key_start + np.maximum(key_size, 0)
    if ((size < 0) | (end > limits) | (key_size > size) | (p >= end)).any():
        raise DecodeError("a record does not fit into its batch")
    value_size, p = _varints(octets, p)
    if (p + np.maximum(value_size, 0) >= end).any() or (value_size > size).any():
        raise DecodeError("a record's value does not fit")
    for column, values in zip(
        found[1:], (start, end, time_delta, offset_delta, key_start, key_size, value_size), strict=True
    ):
        column[rows] = values
    return end


def _varints(octets: Bytes, p: Numbers) -> tuple[Numbers, Numbers]:
    """Read the zigzag varint at each position: (values, next positions)."""
    first = octets[p]
    following = p + 1
    longer = first > ONE_BYTE_MAX
    if not longer.any():
        return _ZIGZAG[first], following
    second = octets[following]
    if (longer & (second <= ONE_BYTE_MAX)).all():  # as sizes of records often are
        return _ZIGZAG[(first & _SEVEN) | (second.astype(np.int64) << 7)], p + 2
    raw = (first & _SEVEN).astype(np.uint64)
    more = np.flatnonzero(longer)
    shift = 7
    while len(more):
        if shift >= 7 * VARINT_BYTES_MAX:
            raise DecodeError("a varint is too long")
        octet = octets[following[more]].astype(np.uint64)
        raw[more] |= (octet & np.uint64(0x7F)) << np.uint64(shift)
        following[more] += 1
        more = more[octet > 127]
        shift += 7
    value = (raw >> np.uint64(1)).astype(np.int64) ^ -(raw & np.uint64(1)).astype(np.int64)
    return value, following


def _one_by_one(data: Buffer, lane: int, p: int, limit: int, number: int, found: Columns) -> int:
    """Find the records of one batch from the ``number``-th on; return where they end."""
    first, stop = int(found.firsts[lane]) + number, int(found.firsts[lane + 1])
    rows = []
    for _ in range(first, stop):
        start = p
        size, p = varint(data, p)
        end = p + size
        if size < 0 or end > limit:
            raise DecodeError("a record does not fit into its batch")
        time_delta, p = varint(data, p + 1, 64)
        offset_delta, p = varint(data, p)
        key_size, key_start = varint(data, p)
        p = key_start + max(key_size, 0)
        value_size, p = varint(data, p) if p < end else (0, end)
        if p + max(value_size, 0) >= end:
            raise DecodeError("a record's key and value do not fit")
        rows.append((start, end, time_delta, offset_delta, key_start, key_size, value_size))
        p = end
    for column, values in zip(found[1:], np.array(rows, np.int64).reshape(-1, 7).T, strict=True):
        column[first:stop] = values
    return p
