"""The records of many batches at once, as columns of numbers.

A batch's records can only be found one after the other, but those of many batches side by side: each step here finds
where one record of every batch ends, and only then all are looked into at once. So a record costs a fraction of a
microsecond, as long as there are many batches; the last few of a crowd are done one by one. ``cleaner`` asks for what
compaction needs: where a record and its key lie, its deltas, whether it has a value. Pure; every position is checked
against the end of its batch.
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
    octets = np.frombuffer(data, np.uint8)
    starts, bodies, stops = (np.empty(int(firsts[-1]), np.int64) for _ in range(3))
    lanes = np.flatnonzero(sizes)
    p = places[lanes]
    rows = firsts[lanes]
    number = 0
    shortest = int(sizes[lanes].min()) if len(lanes) else 0
    while len(lanes) >= CROWD_MIN:
        limit = limits[lanes]
        while number < shortest:
            starts[rows] = p
            size, body = _varints(octets, p)
            bodies[rows] = body
            p = body + size
            if ((size < 0) | (p > limit)).any():
                raise DecodeError("a record does not fit into its batch")
            stops[rows] = p
            rows = rows + 1
            number += 1
        places[lanes] = p
        going = sizes[lanes] > number
        lanes, p, rows = lanes[going], p[going], rows[going]
        shortest = int(sizes[lanes].min()) if len(lanes) else 0
    for lane in lanes.tolist():
        row, stop = int(firsts[lane]) + number, int(firsts[lane + 1])
        places[lane] = _one_by_one(data, int(places[lane]), int(limits[lane]), row, stop, (starts, bodies, stops))
    if (places != limits).any():
        raise DecodeError("bytes are left over after the records of a batch")
    return Columns(firsts, starts, stops, *_fields(octets, bodies, stops))


def _fields(octets: Bytes, bodies: Numbers, ends: Numbers) -> tuple[Numbers, Numbers, Numbers, Numbers, Numbers]:
    """What stands in each record, after its size: time and offset deltas, where the key begins, sizes."""
    time_delta, p = _varints(octets, np.minimum(bodies + 1, ends))
    offset_delta, p = _varints(octets, np.minimum(p, ends))
    key_size, key_start = _varints(octets, np.minimum(p, ends))
    p = key_start + np.maximum(key_size, 0)
    if ((key_size > ends - bodies) | (p >= ends)).any():
        raise DecodeError("a record's key does not fit")
    value_size, p = _varints(octets, p)
    if ((value_size > ends - bodies) | (p + np.maximum(value_size, 0) >= ends)).any():
        raise DecodeError("a record's value does not fit")
    return time_delta, offset_delta, key_start, key_size, value_size


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


def _one_by_one(data: Buffer, p: int, limit: int, row: int, stop: int, found: tuple[Numbers, Numbers, Numbers]) -> int:
    """Find the records of one batch one after the other, for the rows from ``row`` on; return where they end."""
    places = []
    for _ in range(row, stop):
        size, body = varint(data, p)
        end = body + size
        if size < 0 or end > limit:
            raise DecodeError("a record does not fit into its batch")
        places.append((p, body, end))
        p = end
    for column, values in zip(found, np.array(places, np.int64).reshape(-1, 3).T, strict=True):
        column[row:stop] = values
    return p
