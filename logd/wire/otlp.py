"""Metrics in OpenTelemetry's protobuf form (``MetricsData``), as clients push them (KIP-714): bytes to numbers. PURE.

Only what a list of numbers needs is read: names, labels, and the values of gauges and sums; of histograms and summaries
count and sum. Everything else is passed over. Every length is checked against what is left. Called by the APIs when
somebody asks for what clients have pushed.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from logd.errors import DecodeError

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
POINTS_MAX = 5_000

_double = struct.Struct("<d").unpack_from
_signed = struct.Struct("<q").unpack_from


class Point(NamedTuple):
    """One number."""

    name: str
    labels: tuple[tuple[str, str], ...]
    value: float


Field = tuple[int, int, memoryview, int]
"""(number, wire type, its bytes where it has some, its number where it is a varint)."""


def read_metrics(data: memoryview) -> list[Point]:
    """All points of a push, at most POINTS_MAX.

    :raises DecodeError: it is no such message.
    """
    points: list[Point] = []
    for metric in _inside(data, 1, 2, 2):
        for point in _points(metric):
            points.append(point)
            if len(points) >= POINTS_MAX:
                return points
    return points


def _fields(data: memoryview) -> Iterator[Field]:
    position, end = 0, len(data)
    while position < end:
        key, position = _varint(data, position)
        number, kind = key >> 3, key & 7
        if kind == VARINT:
            value, position = _varint(data, position)
            yield number, kind, data[:0], value
            continue
        if kind == BYTES:
            size, position = _varint(data, position)
        elif kind in (FIXED64, FIXED32):
            size = 8 if kind == FIXED64 else 4
        else:
            raise DecodeError(f"wire type {kind} of field {number} is not known")
        if size > end - position:
            raise DecodeError(f"field {number} of {size} bytes, {end - position} remain")
        yield number, kind, data[position : position + size], 0
        position += size


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(data):
            raise DecodeError("a number that is cut short")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise DecodeError("a number of more than ten bytes")


def _inside(data: memoryview, *path: int) -> Iterator[memoryview]:
    """The messages that lie at a path of field numbers."""
    for number, kind, value, _ in _fields(data):
        if number == path[0] and kind == BYTES:
            if len(path) == 1:
                yield value
            else:
                yield from _inside(value, *path[1:])


def _points(metric: memoryview) -> Iterator[Point]:
    name = ""
    numbers: list[memoryview] = []
    distributions: list[memoryview] = []
    for number, kind, value, _ in _fields(metric):
        if kind != BYTES:
            continue
        if number == 1:
            name = _text(value)
        elif number in (5, 7):  # gauge, sum
            numbers += _inside(value, 1)
        elif number in (9, 10, 11):  # histogram, exponential histogram, summary
            distributions += _inside(value, 1)
    for point in numbers:
        yield from _number(name, point)
    for point in distributions:
        yield from _distribution(name, point)


def _number(name: str, point: memoryview) -> Iterator[Point]:
    labels, value = [], None
    for number, kind, data, _ in _fields(point):
        if number == 7 and kind == BYTES:
            labels.append(_label(data))
        elif number == 4 and kind == FIXED64:
            value = _double(data)[0]
        elif number == 6 and kind == FIXED64:
            value = float(_signed(data)[0])
    if value is not None:
        yield Point(name, tuple(labels), value)


def _distribution(name: str, point: memoryview) -> Iterator[Point]:
    found: list[tuple[str, float]] = []
    labels = []
    for number, kind, data, _ in _fields(point):
        if kind == BYTES and number in (1, 7, 9):  # attributes lie at 9, 1 and 7
            labels.append(_label(data))
        elif number == 4 and kind == FIXED64:
            found.append((".count", float(int.from_bytes(data, "little"))))
        elif number == 5 and kind == FIXED64:
            found.append((".sum", _double(data)[0]))
    for suffix, value in found:
        yield Point(name + suffix, tuple(labels), value)


def _label(data: memoryview) -> tuple[str, str]:
    name, value = "", ""
    for number, kind, inside, _ in _fields(data):
        if number == 1 and kind == BYTES:
            name = _text(inside)
        elif number == 2 and kind == BYTES:
            value = _any(inside)
    return name, value


def _any(data: memoryview) -> str:
    for number, kind, inside, value in _fields(data):
        if number == 1 and kind == BYTES:
            return _text(inside)
        if number == 4 and kind == FIXED64:
            return str(_double(inside)[0])
        if kind == VARINT:
            return str(bool(value)).lower() if number == 2 else str(value)
    return ""


def _text(data: memoryview) -> str:
    return bytes(data).decode("utf-8", "replace")
