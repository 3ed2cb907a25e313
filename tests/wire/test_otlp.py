"""Metrics as clients push them, from bytes made by hand after OpenTelemetry's protobuf definition."""

from __future__ import annotations

import struct
from contextlib import suppress

import pytest

from logd.errors import DecodeError
from logd.wire.otlp import Point, read_metrics


def field(number: int, data: bytes) -> bytes:
    """A length-delimited field."""
    return bytes([number << 3 | 2]) + varint(len(data)) + data


def varint(value: int) -> bytes:
    out = b""
    while value >= 0x80:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def label(name: str, value: str) -> bytes:
    return field(1, name.encode()) + field(2, field(1, value.encode()))


def double(number: int, value: float) -> bytes:
    return bytes([number << 3 | 1]) + struct.pack("<d", value)


def fixed(number: int, value: int) -> bytes:
    return bytes([number << 3 | 1]) + struct.pack("<q", value)


def push(*metrics: bytes) -> bytes:
    """MetricsData with one resource and one scope, with a resource attribute that nobody reads."""
    scope = b"".join(field(2, metric) for metric in metrics)
    return field(1, field(1, label("os", "linux")) + field(2, scope))


GAUGE = field(1, b"org.rtt") + field(5, field(1, field(7, label("node", "1")) + double(4, 2.5)))
SUM = field(1, b"org.sent") + field(7, field(1, fixed(6, -7)) + bytes([2 << 3, 1]))
HISTOGRAM = field(1, b"org.size") + field(9, field(1, fixed(4, 3) + double(5, 30.0) + field(9, label("a", "b"))))


def test_numbers_and_labels() -> None:
    """Gauges, sums of integers, and the count and sum of a histogram."""
    assert read_metrics(memoryview(push(GAUGE, SUM, HISTOGRAM))) == [
        Point("org.rtt", (("node", "1"),), 2.5),
        Point("org.sent", (), -7.0),
        Point("org.size.count", (("a", "b"),), 3.0),
        Point("org.size.sum", (("a", "b"),), 30.0),
    ]
    assert read_metrics(memoryview(b"")) == []


@pytest.mark.parametrize("cut", range(1, 60))
def test_what_is_cut_short_is_refused_or_read(cut: int) -> None:
    """Never anything but a list of points or a DecodeError."""
    data = push(GAUGE, SUM, HISTOGRAM)
    for hurt in (data[:cut], data[:cut] + b"\xff" * 12 + data[cut:], data[cut:]):
        with suppress(DecodeError):
            assert isinstance(read_metrics(memoryview(hurt)), list)
