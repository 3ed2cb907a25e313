"""The few Kafka requests that the raw generator sends, built by hand so that the bench does not trust logd's codecs.

Owns the bytes of Produce v9 with one record, ApiVersions v0 and ListOffsets v1. PURE. Called by the generator and by
the start-up measurement. Never used by the server.
"""

from __future__ import annotations

import struct

from crc32c import crc32c

PRODUCE, LIST_OFFSETS, API_VERSIONS = 0, 2, 18
PRODUCE_VERSION = 9
CLIENT_ID = b"logd-bench"


def _varint(value: int) -> bytes:
    """Zigzag, seven bits a byte, as inside records."""
    return _unsigned((value << 1) ^ (value >> 63))


def _unsigned(value: int) -> bytes:
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def record_batch(value: bytes, timestamp_ms: int) -> bytes:
    """One batch (v2, no compression, no producer id) with one record that has no key."""
    record = b"\x00" + _varint(0) + _varint(0) + _varint(-1) + _varint(len(value)) + value + _varint(0)
    records = _varint(len(record)) + record
    body = struct.pack(">hiqqqhii", 0, 0, timestamp_ms, timestamp_ms, -1, -1, -1, 1) + records
    return struct.pack(">qiibI", 0, 9 + len(body), -1, 2, crc32c(body)) + body


def _framed(request: bytes) -> bytes:
    return struct.pack(">i", len(request)) + request


def _header(key: int, version: int) -> bytes:
    return struct.pack(">hhih", key, version, 1, len(CLIENT_ID)) + CLIENT_ID


def produce(topic: str, partition: int, batch: bytes, *, acks: int = 1, timeout_ms: int = 30_000) -> bytes:
    """A framed Produce v9 of one batch to one partition."""
    name = topic.encode()
    partitions = _unsigned(2) + struct.pack(">i", partition) + _unsigned(len(batch) + 1) + batch + b"\x00"
    topics = _unsigned(2) + _unsigned(len(name) + 1) + name + partitions + b"\x00"
    body = b"\x00" + struct.pack(">hi", acks, timeout_ms) + topics + b"\x00"
    return _framed(_header(PRODUCE, PRODUCE_VERSION) + b"\x00" + body)


def produce_error(topic: str, frame: bytes) -> int:
    """The error code in the answer (without its size) to `produce`. Raises ValueError when it is something else."""
    position = 4 + 1 + 1 + 1 + len(topic.encode()) + 1 + 4  # correlation, tags, topics, name, partitions, index
    if len(frame) < position + 2:
        raise ValueError(f"an answer of {len(frame)} bytes to Produce v{PRODUCE_VERSION}")
    return int(struct.unpack_from(">h", frame, position)[0])


def end_offset(topic: str, partition: int) -> bytes:
    """A framed ListOffsets v1 that asks for the end of one partition."""
    name = topic.encode()
    topics = struct.pack(">ih", 1, len(name)) + name + struct.pack(">iiq", 1, partition, -1)
    return _framed(_header(LIST_OFFSETS, 1) + struct.pack(">i", -1) + topics)


def offset_in(topic: str, frame: bytes) -> int | None:
    """The offset in the answer to `end_offset`, None when it is an error."""
    position = 4 + 4 + 2 + len(topic.encode()) + 4 + 4
    error, _, offset = struct.unpack_from(">hqq", frame, position)
    return None if error else int(offset)


def api_versions() -> bytes:
    """A framed ApiVersions v0, the cheapest thing a client can say."""
    return _framed(_header(API_VERSIONS, 0))
