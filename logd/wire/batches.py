"""Record batches of version 2: what Produce carries, the log stores and Fetch returns.

The broker reads and stamps headers; it opens batches only where Kafka's rules need it (keys of compacted topics,
another codec, internal topics). Called by log, partitions, coordinators, client and cli. Never keeps a buffer.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import msgspec

from logd.errors import DecodeError
from logd.wire.checksum import crc32c
from logd.wire.compression import compress, decompress
from logd.wire.message import Buffer
from logd.wire.records import Record, decode_records, encode_records, varint_bytes

__all__ = [
    "HEADER_BYTES",
    "BatchHeader",
    "Record",
    "build_batch",
    "check_crc",
    "magic_of",
    "read_header",
    "read_headers",
    "read_records",
    "recompress",
    "stamp",
]

HEADER_BYTES = 61
LOG_OVERHEAD_BYTES = 12
"""Base offset and length: what `length` does not count."""
MAGIC_POSITION = 16
CRC_POSITION = 17
CRC_FROM = 21
"""The checksum covers the batch from here (attributes) to its end; base offset and leader epoch are not under it."""
LEADER_EPOCH_POSITION = 12

BASE_TIMESTAMP_POSITION = 27
MAX_TIMESTAMP_POSITION = 35

CODEC_MASK = 0x07
LOG_APPEND_TIME = 0x08
TRANSACTIONAL = 0x10
CONTROL = 0x20
DELETE_HORIZON = 0x40

RECORDS_BYTES_MAX = 100 * 1024 * 1024
"""The most that the records of one batch may be when decompressed, where the caller has no limit of its own."""

_read_times = struct.Struct(">qq").unpack_from
_HEADER = struct.Struct(">qiibIhiqqqhii")
_read_header = _HEADER.unpack_from
_over_crc = struct.Struct(">qiibI")
_under_crc = struct.Struct(">hiqqqhii")


class BatchHeader(msgspec.Struct, frozen=True, gc=False):
    """The fields of a batch before its records; `length` as on the wire, without base offset and itself."""

    base_offset: int
    length: int
    leader_epoch: int
    magic: int
    crc: int
    attributes: int
    last_offset_delta: int
    base_timestamp: int
    max_timestamp: int
    producer_id: int
    producer_epoch: int
    base_sequence: int
    count: int

    @property
    def size(self) -> int:
        """The whole batch in bytes."""
        return self.length + LOG_OVERHEAD_BYTES

    @property
    def last_offset(self) -> int:
        return self.base_offset + self.last_offset_delta

    @property
    def next_offset(self) -> int:
        return self.base_offset + self.last_offset_delta + 1

    @property
    def last_sequence(self) -> int:
        """The sequence of the last record, which wraps after 2^31-1; -1 when the producer is not idempotent."""
        if self.base_sequence < 0:
            return -1
        return (self.base_sequence + self.last_offset_delta) & 0x7FFFFFFF

    @property
    def codec(self) -> int:
        """0 none, 1 gzip, 2 snappy, 3 lz4, 4 zstd; 5-7 do not exist."""
        return self.attributes & CODEC_MASK

    @property
    def log_append_time(self) -> bool:
        return bool(self.attributes & LOG_APPEND_TIME)

    @property
    def is_transactional(self) -> bool:
        return bool(self.attributes & TRANSACTIONAL)

    @property
    def is_control(self) -> bool:
        return bool(self.attributes & CONTROL)


def magic_of(buffer: Buffer, position: int = 0) -> int:
    """The format version of the batch (or the old message) at `position`: 2 is the only one that logd stores.

    :raises DecodeError: when the bytes end before it.
    """
    if len(buffer) - position <= MAGIC_POSITION:
        raise DecodeError(f"a batch of {len(buffer) - position} bytes ends before its magic byte")
    return buffer[position + MAGIC_POSITION]


def read_header(buffer: Buffer, position: int = 0) -> BatchHeader:
    """The header at `position`; look at its magic before you trust the rest.

    :raises DecodeError: when fewer than 61 bytes are there.
    """
    try:
        return BatchHeader(*_read_header(buffer, position))
    except struct.error as error:
        raise DecodeError(f"a batch of {len(buffer) - position} bytes is shorter than its header") from error


def read_headers(buffer: Buffer, position: int = 0) -> list[tuple[int, BatchHeader]]:
    """(position, header) of every whole batch from `position` to the end of `buffer`.

    :raises DecodeError: for a length that cannot be, another magic than 2, or a last batch that is cut short.
    """
    found = []
    while position < len(buffer):
        header = read_header(buffer, position)
        _check_shape(header, len(buffer) - position)
        found.append((position, header))
        position += header.size
    return found


def _check_shape(header: BatchHeader, available: int) -> None:
    if header.magic != 2:
        raise DecodeError(f"batch at offset {header.base_offset}: magic {header.magic}, only 2 can be read")
    if not HEADER_BYTES <= header.size <= available:
        raise DecodeError(f"batch at offset {header.base_offset}: {header.size} bytes, {available} are there")


def check_crc(buffer: Buffer, position: int, header: BatchHeader) -> bool:
    """Whether the whole batch at `position` is what its checksum says. False too when it is cut short."""
    end = position + header.size
    if end > len(buffer) or header.size < HEADER_BYTES:
        return False
    return crc32c(memoryview(buffer)[position + CRC_FROM : end]) == header.crc


def stamp(buffer: bytearray | memoryview, position: int, base_offset: int, leader_epoch: int) -> None:
    """Writes what the leader decides, in place. Neither field is under the checksum."""
    struct.pack_into(">q", buffer, position, base_offset)
    struct.pack_into(">i", buffer, position + LEADER_EPOCH_POSITION, leader_epoch)


def stamp_append_time(buffer: bytearray | memoryview, position: int, header: BatchHeader, now_ms: int) -> None:
    """Makes the batch one of ``LogAppendTime``: attributes, max timestamp and checksum, in place."""
    struct.pack_into(">h", buffer, position + CRC_FROM, header.attributes | LOG_APPEND_TIME)
    _stamp_max_timestamp(buffer, position, header, now_ms)


def _stamp_max_timestamp(buffer: bytearray | memoryview, position: int, header: BatchHeader, time_ms: int) -> None:
    struct.pack_into(">q", buffer, position + MAX_TIMESTAMP_POSITION, time_ms)
    covered = memoryview(buffer)[position + CRC_FROM : position + header.size]
    struct.pack_into(">I", buffer, position + CRC_POSITION, crc32c(covered))


def max_is_before_base(buffer: Buffer, position: int = 0) -> bool:
    """Whether the greatest timestamp is before the first one: some clients leave it at -1."""
    base_ms, max_ms = _read_times(buffer, position + BASE_TIMESTAMP_POSITION)
    return bool(max_ms < base_ms)


def with_max_timestamp(batch: Buffer) -> bytearray:
    """The one batch that `batch` is, with its greatest timestamp worked out from its records.

    :raises DecodeError: when they can't be read.
    """
    header = read_header(batch)
    newest = max(record.timestamp for record in read_records(batch, bytes_max=RECORDS_BYTES_MAX))
    data = bytearray(batch)
    _stamp_max_timestamp(data, 0, header, newest)
    return data


def build_batch(
    records: Sequence[Record],
    *,
    base_offset: int = 0,
    leader_epoch: int = 0,
    codec: int = 0,
    level: int | None = None,
    producer_id: int = -1,
    producer_epoch: int = -1,
    base_sequence: int = -1,
    transactional: bool = False,
    control: bool = False,
    log_append_time: bool = False,
    last_offset_delta: int | None = None,
) -> bytearray:
    """A batch of `records`, checksum included.

    A record whose offset is -1 follows the one before it (the first has `base_offset`); else offsets must rise.
    With `log_append_time`, the timestamp of all is that of the latest. `last_offset_delta` may keep a batch longer
    than its last record, as compaction needs.

    :raises ValueError: for offsets that do not rise, or no records and no `last_offset_delta`.
    """
    numbered = _numbered(records, base_offset)
    if last_offset_delta is None:
        if not numbered:
            raise ValueError("a batch needs a record")
        last_offset_delta = numbered[-1].offset - base_offset
    base_timestamp = numbered[0].timestamp if numbered else -1
    max_timestamp = max((record.timestamp for record in numbered), default=-1)
    attributes = codec
    for flag, bit in ((log_append_time, LOG_APPEND_TIME), (transactional, TRANSACTIONAL), (control, CONTROL)):
        attributes |= bit if flag else 0
    body = compress(codec, encode_records(numbered, base_offset, base_timestamp), level)
    head = _under_crc.pack(
        attributes,
        last_offset_delta,
        base_timestamp,
        max_timestamp,
        producer_id,
        producer_epoch,
        base_sequence,
        len(numbered),
    )
    return _assemble(base_offset, leader_epoch, head, body)


def build_keyed_batch(
    records: Sequence[tuple[bytes, bytes | None]],
    timestamp_ms: int,
    *,
    producer_id: int = -1,
    producer_epoch: int = -1,
    transactional: bool = False,
) -> bytearray:
    """A batch of (key, value) pairs, at least one, that all have the same timestamp and no headers.

    What :func:`build_batch` makes of such records, without an object for each: coordinators write nothing else.
    """
    pieces: list[Buffer] = []
    for delta, (key, value) in enumerate(records):
        start = b"\0\0" + varint_bytes(delta) + varint_bytes(len(key))
        middle = b"\x01" if value is None else varint_bytes(len(value))
        size = len(start) + len(key) + len(middle) + (0 if value is None else len(value)) + 1
        pieces += (varint_bytes(size), start, key, middle, value or b"", b"\0")
    count = len(records)
    attributes = TRANSACTIONAL if transactional else 0
    head = _under_crc.pack(attributes, count - 1, timestamp_ms, timestamp_ms, producer_id, producer_epoch, -1, count)
    return _assemble(0, 0, head, b"".join(pieces))


def _numbered(records: Sequence[Record], base_offset: int) -> list[Record]:
    numbered = []
    following = base_offset
    for record in records:
        if record.offset == -1:
            record = msgspec.structs.replace(record, offset=following)  # noqa: PLW2901
        elif record.offset < following:
            raise ValueError(f"offset {record.offset} where at least {following} must come")
        numbered.append(record)
        following = record.offset + 1
    return numbered


def _assemble(base_offset: int, leader_epoch: int, head: bytes, body: Buffer) -> bytearray:
    length = HEADER_BYTES - LOG_OVERHEAD_BYTES + len(body)
    checksum = crc32c(body, crc32c(head))
    return bytearray().join((_over_crc.pack(base_offset, length, leader_epoch, 2, checksum), head, body))


def read_records(buffer: Buffer, position: int = 0, *, bytes_max: int) -> list[Record]:
    """The records of the batch at `position`, with absolute offsets and timestamps.

    :param bytes_max: the most that they may be when decompressed.
    :raises DecodeError: for a batch that is cut short, of another magic, that cannot be decompressed within
        `bytes_max`, or whose records are not exactly what its header says. The checksum is not looked at.
    """
    header = read_header(buffer, position)
    return records_of(header, read_body(buffer, position, header, bytes_max=bytes_max))


def read_body(buffer: Buffer, position: int, header: BatchHeader, *, bytes_max: int) -> bytes:
    """The bytes of the records of the batch at `position`, decompressed.

    :raises DecodeError: see :func:`read_records`; the records are not looked at.
    """
    _check_shape(header, len(buffer) - position)
    body = memoryview(buffer)[position + HEADER_BYTES : position + header.size]
    return bytes(decompress(header.codec, body, bytes_max))


def records_of(header: BatchHeader, body: bytes) -> list[Record]:
    """The records that are `body`, as :func:`read_records` gives them.

    :raises DecodeError: when they are not exactly what the header says.
    """
    records = decode_records(
        body,
        header.count,
        header.base_offset,
        header.base_timestamp,
        header.last_offset_delta,
        header.base_sequence,
    )
    if header.log_append_time:
        for record in records:
            record.timestamp = header.max_timestamp
    return records


def recompress(batch: Buffer, codec: int, level: int | None = None, *, bytes_max: int = RECORDS_BYTES_MAX) -> bytearray:
    """The one batch that `batch` is, with its records compressed by `codec`; all else stays.

    :raises DecodeError: when it cannot be decompressed within `bytes_max`.
    """
    header = read_header(batch)
    _check_shape(header, len(batch))
    view = memoryview(batch)
    body = decompress(header.codec, view[HEADER_BYTES : header.size], bytes_max)
    attributes = header.attributes & ~CODEC_MASK | codec
    head = struct.pack(">h", attributes) + view[CRC_FROM + 2 : HEADER_BYTES]
    return _assemble(header.base_offset, header.leader_epoch, head, compress(codec, body, level))
