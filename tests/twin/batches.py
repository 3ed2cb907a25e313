"""Record batches (magic 2) and old message sets (magic 0 and 1), built by hand and, where a test wants it, wrong.

Independent of `logd.wire.batches`, which is what the twin is there to check.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import cramjam
import crc32c

BASE_TIMESTAMP_MS = 1_760_000_000_000
"""Fixed, so that what is compared does not depend on the day; topics that care set their own windows."""

Pair = tuple[bytes | None, bytes | None]


def varint(value: int) -> bytes:
    """Zigzag varint of a signed number."""
    value = (value << 1) ^ (value >> 63)
    out = bytearray()
    while value & ~0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value & 0x7F)
    return bytes(out)


def _sized(data: bytes | None) -> bytes:
    return varint(-1) if data is None else varint(len(data)) + data


def record(offset_delta: int, key: bytes | None, value: bytes | None, *, timestamp_delta: int = 0) -> bytes:
    """One record of a magic-2 batch, without headers."""
    body = b"\0" + varint(timestamp_delta) + varint(offset_delta) + _sized(key) + _sized(value) + varint(0)
    return varint(len(body)) + body


def _xerial(data: bytes) -> bytes:
    block = bytes(cramjam.snappy.compress_raw(data))
    return b"\x82SNAPPY\0" + struct.pack(">iii", 1, 1, len(block)) + block


def _lz4(data: bytes) -> bytes:
    """Kafka reads only frames of independent blocks."""
    compressor = cramjam.lz4.Compressor(block_linked=False)
    compressor.compress(data)
    return bytes(compressor.finish())


_COMPRESS: dict[int, Callable[[bytes], bytes]] = {
    0: bytes,
    1: lambda data: bytes(cramjam.gzip.compress(data)),
    2: _xerial,
    3: _lz4,
    4: lambda data: bytes(cramjam.zstd.compress(data)),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Every field of a batch header, right by default; `bytes()` of it is the batch."""

    records: Sequence[Pair] = ((None, b"v"),)
    base_offset: int = 0
    leader_epoch: int = -1
    magic: int = 2
    crc: int | None = None
    codec: int = 0
    attributes: int = 0
    last_offset_delta: int | None = None
    base_timestamp: int = BASE_TIMESTAMP_MS
    max_timestamp: int | None = None
    timestamp_step: int = 0
    producer_id: int = -1
    producer_epoch: int = -1
    base_sequence: int = -1
    count: int | None = None
    length: int | None = None
    offset_deltas: Sequence[int] | None = None
    body: bytes | None = None
    "The records' bytes as they shall stand in the batch: already compressed."

    def __bytes__(self) -> bytes:
        n = len(self.records)
        deltas = self.offset_deltas or range(n)
        plain = b"".join(
            record(delta, key, value, timestamp_delta=i * self.timestamp_step)
            for i, (delta, (key, value)) in enumerate(zip(deltas, self.records, strict=True))
        )
        body = _COMPRESS[self.codec & 7](plain) if self.body is None and self.codec in _COMPRESS else self.body or plain
        latest = self.base_timestamp + max(n - 1, 0) * self.timestamp_step
        under_crc = struct.pack(
            ">hiqqqhii",
            self.attributes | self.codec,
            max(n - 1, 0) if self.last_offset_delta is None else self.last_offset_delta,
            self.base_timestamp,
            latest if self.max_timestamp is None else self.max_timestamp,
            self.producer_id,
            self.producer_epoch,
            self.base_sequence,
            n if self.count is None else self.count,
        )
        under_crc += body
        crc = crc32c.crc32c(under_crc) if self.crc is None else self.crc
        rest = struct.pack(">ibI", self.leader_epoch, self.magic, crc) + under_crc
        return struct.pack(">qi", self.base_offset, len(rest) if self.length is None else self.length) + rest


def batch(*values: bytes, **fields: object) -> bytes:
    """A batch of records without keys."""
    return bytes(Batch(records=[(None, value) for value in values or (b"v",)], **fields))  # type: ignore[arg-type]


def control_batch(kind: int = 1, **fields: object) -> bytes:
    """A control batch (commit marker) as only a coordinator may write it."""
    pair = (struct.pack(">hh", 0, kind), struct.pack(">hi", 0, 0))
    return bytes(Batch(records=[pair], attributes=0x30, **fields))  # type: ignore[arg-type]


def old_message(magic: int, value: bytes, key: bytes | None = None) -> bytes:
    """One message of a magic 0 or 1 message set."""
    body = struct.pack(">bb", magic, 0) + (struct.pack(">q", BASE_TIMESTAMP_MS) if magic else b"")
    for part in (key, value):
        body += struct.pack(">i", -1) if part is None else struct.pack(">i", len(part)) + part
    message = struct.pack(">I", zlib.crc32(body)) + body
    return struct.pack(">qi", 0, len(message)) + message


_DECOMPRESS: dict[int, Callable[[bytes], object]] = {
    0: bytes,
    1: cramjam.gzip.decompress,
    2: lambda data: b"".join(_blocks(data)) if data[:8] == b"\x82SNAPPY\0" else cramjam.snappy.decompress_raw(data),
    3: cramjam.lz4.decompress,
    4: cramjam.zstd.decompress,
}


def _blocks(data: bytes) -> Iterator[bytes]:
    at = 16
    while at < len(data):
        (size,) = struct.unpack_from(">i", data, at)
        yield bytes(cramjam.snappy.decompress_raw(data[at + 4 : at + 4 + size]))
        at += 4 + size


def read_batches(data: bytes) -> list[dict[str, object]]:
    """The headers and plain bodies of the whole batches in a Fetch answer; a cut one at the end is left out."""
    found: list[dict[str, object]] = []
    at = 0
    while at + 61 <= len(data):
        (size,) = struct.unpack_from(">i", data, at + 8)
        if at + 12 + size > len(data):
            break
        found.append(_read_batch(data[at : at + 12 + size]))
        at += 12 + size
    return found


def _read_batch(data: bytes) -> dict[str, object]:
    names = "attributes last_offset_delta base_timestamp max_timestamp pid pid_epoch base_sequence count"
    values = struct.unpack_from(">hiqqqhii", data, 21)
    header: dict[str, object] = dict(zip(names.split(), values, strict=True))
    header["base_offset"], _, header["leader_epoch"], header["magic"], crc = struct.unpack_from(">qiibI", data)
    header["crc_right"] = crc == crc32c.crc32c(data[21:])
    try:
        header["body"] = bytes(_DECOMPRESS[values[0] & 7](data[61:]))  # type: ignore[call-overload]
    except (KeyError, ValueError, cramjam.DecompressionError) as broken:
        header["body"] = f"does not decompress: {type(broken).__name__}"
    return header
