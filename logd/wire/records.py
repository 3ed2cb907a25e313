"""Single records inside a batch, as bytes and as values.

The body of a batch of version 2, decompressed, is records one after the other, each a length and fields with
variable-length numbers relative to the batch. Called by ``batches.py`` only. Every length is checked against the
record's own end, and the records must fill the body exactly.
"""

from __future__ import annotations

from codecs import utf_8_decode
from collections.abc import Iterable

import msgspec

from logd.errors import DecodeError
from logd.wire.message import Buffer

RECORD_BYTES_MIN = 7
"""Length, attributes, two deltas, no key, no value, no headers: a byte each."""

Header = tuple[str, bytes | None]


class Record(msgspec.Struct, gc=False):
    """One record. `offset` -1 is "the next one", for records on their way into a batch; `timestamp` in ms."""

    offset: int = -1
    timestamp: int = -1
    key: bytes | None = None
    value: bytes | None = None
    headers: list[Header] = []
    sequence: int = -1


_SMALL_VARINTS = tuple(bytes((value << 1,)) for value in range(64))


def varint_bytes(value: int) -> bytes:
    """`value` (signed, 64 bits) as a zigzag varint."""
    if 0 <= value < 64:
        return _SMALL_VARINTS[value]
    value = value << 1 if value >= 0 else (-value << 1) - 1
    if value < 128:
        return bytes((value,))
    out = bytearray()
    while value > 127:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def varint(b: Buffer, p: int, bits: int = 32) -> tuple[int, int]:
    """The zigzag varint of at most `bits` bits at `p`: (value, next position)."""
    raw = b[p]
    p += 1
    if raw > 127:
        raw &= 0x7F
        shift = 7
        while True:
            byte = b[p]
            p += 1
            raw |= (byte & 0x7F) << shift
            if byte < 128:
                break
            shift += 7
            if shift >= bits + 3:
                raise DecodeError(f"a varint before byte {p} is too long")
        if raw >> bits:
            raise DecodeError(f"a varint before byte {p} has more than {bits} bits")
    return (raw >> 1) ^ -(raw & 1), p


def encode_records(records: Iterable[Record], base_offset: int, base_timestamp: int) -> bytes:
    """The body of a batch; every record's offset must be set."""
    pieces = []
    for record in records:
        body = _record_body(record, record.offset - base_offset, record.timestamp - base_timestamp)
        pieces += [varint_bytes(len(body)), body]
    return b"".join(pieces)


def _record_body(record: Record, offset_delta: int, timestamp_delta: int) -> bytes:
    parts = [b"\0", varint_bytes(timestamp_delta), varint_bytes(offset_delta)]
    for data in (record.key, record.value):
        if data is None:
            parts.append(b"\x01")
        else:
            parts += [varint_bytes(len(data)), data]
    parts.append(varint_bytes(len(record.headers)))
    for name, value in record.headers:
        raw = name.encode()
        parts += [varint_bytes(len(raw)), raw]
        parts += [b"\x01"] if value is None else [varint_bytes(len(value)), value]
    return b"".join(parts)


def decode_records(
    body: bytes, count: int, base_offset: int, base_timestamp: int, last_offset_delta: int, base_sequence: int
) -> list[Record]:
    """The `count` records that fill `body`.

    :raises DecodeError: for anything that is not exactly that: sizes, counts, offset deltas that do not rise or
        leave the batch, bytes left over.
    """
    if count < 0 or count * RECORD_BYTES_MIN > len(body):
        raise DecodeError(f"{count} records in {len(body)} bytes")
    records: list[Record] = []
    p = 0
    last_delta = -1
    try:
        for index in range(count):
            size, p = varint(body, p)
            end = p + size
            if size < RECORD_BYTES_MIN - 1 or end > len(body):
                raise DecodeError(f"record {index}: size {size}, {len(body) - p} bytes remain")
            record, delta = _record(body, p, end)
            if not last_delta < delta <= last_offset_delta:
                raise DecodeError(
                    f"record {index}: offset delta {delta} after {last_delta}, the batch ends at {last_offset_delta}"
                )
            last_delta = delta
            record.offset = base_offset + delta
            record.timestamp += base_timestamp
            if base_sequence >= 0:
                record.sequence = (base_sequence + delta) & 0x7FFFFFFF
            records.append(record)
            p = end
    except IndexError as error:
        raise DecodeError(f"record {len(records)}: the bytes end inside it") from error
    except UnicodeDecodeError as error:
        raise DecodeError(f"record {len(records)}: a header's key is not UTF-8") from error
    if p != len(body):
        raise DecodeError(f"{len(body) - p} bytes left over after {count} records")
    return records


def are_plain(body: bytes, count: int, *, keys: bool, deltas_ms: tuple[int, int], headers_max: int) -> bool:
    """Whether `count` records without a gap fill `body` and are right at first sight; no object is made of any.

    For batches that :func:`decode_records` would have to be asked for otherwise, only to find nothing wrong: a
    third of its time. False says nothing but that it has to be.

    :param keys: whether each must have a key.
    :param deltas_ms: the least and the greatest time that one may have, counted from the batch's first.
    :param headers_max: how many headers there may be in all.
    """
    earliest, latest = deltas_ms
    p = 0
    try:
        for index in range(count):  # what most numbers are, one byte or two, is read right here
            size = body[p]
            p += 1
            if size > 127:
                size = size & 0x7F | body[p] << 7
                p += 1
                if size > 0x3FFF:
                    size, p = _raw_varint(body, p - 2)
            end = p + (size >> 1)
            time = body[p + 1]  # after the attributes
            p += 2
            if time > 127:
                time, p = _raw_varint(body, p - 1, 64)
            if not earliest <= (time >> 1) ^ -(time & 1) <= latest:
                return False
            offset = body[p]
            p += 1
            if offset > 127:
                offset = offset & 0x7F | body[p] << 7
                p += 1
                if offset > 0x3FFF:
                    offset, p = _raw_varint(body, p - 2)
            key = body[p]
            p += 1
            if key > 127:
                key, p = _raw_varint(body, p - 1)
            if key & 1 == 0:
                p += key >> 1
            elif keys or key != 1:
                return False
            value = body[p]
            p += 1
            if value > 127:
                value = value & 0x7F | body[p] << 7
                p += 1
                if value > 0x3FFF:
                    value, p = _raw_varint(body, p - 2)
            if value & 1 == 0:
                p += value >> 1
            elif value != 1:
                return False
            if p >= end or size & 1 or offset != index << 1:
                return False
            headers = body[p]
            p += 1
            if headers:
                headers_max -= headers >> 1
                p = _skip_headers(body, p, headers) if headers_max >= 0 else -1
            if p != end:
                return False
    except (IndexError, UnicodeDecodeError, DecodeError):
        return False
    return p == len(body)


def _raw_varint(b: bytes, p: int, bits: int = 32) -> tuple[int, int]:
    """As :func:`varint`, the number as it stands there."""
    value, p = varint(b, p, bits)
    return value << 1 if value >= 0 else (-value << 1) - 1, p


def _skip_headers(body: bytes, p: int, count: int) -> int:
    """The end of fewer than 64 headers, -1 if they are not as they should be or more."""
    if count & 1 or count > 127:
        return -1
    for _ in range(count >> 1):
        name, p = _raw_varint(body, p)
        if name & 1:
            return -1
        utf_8_decode(body[p : p + (name >> 1)], "strict", True)
        value, p = _raw_varint(body, p + (name >> 1))
        if value & 1 and value != 1:
            return -1
        p += 0 if value == 1 else value >> 1
    return p


def _record(body: bytes, p: int, end: int) -> tuple[Record, int]:
    """(record, offset delta) of the record at ``body[p:end]``; its timestamp is still relative to the batch."""
    timestamp_delta, p = varint(body, p + 1, 64)
    delta, p = varint(body, p)
    key, p = _nullable(body, p, end, "key")
    value, p = _nullable(body, p, end, "value")
    count, p = varint(body, p)
    headers: list[Header] = []
    if count:
        if count < 0 or count * 2 > end - p:
            raise DecodeError(f"{count} headers in {end - p} bytes")
        for _ in range(count):
            name, p = _nullable(body, p, end, "header key")
            if name is None:
                raise DecodeError("header key is null")
            data, p = _nullable(body, p, end, "header value")
            headers.append((utf_8_decode(name, "strict", True)[0], data))
    if p != end:
        raise DecodeError(f"a record's fields end at byte {p}, its size says {end}")
    return Record(0, timestamp_delta, key, value, headers), delta


def _nullable(body: bytes, p: int, end: int, what: str) -> tuple[bytes | None, int]:
    size, p = varint(body, p)
    if size < 0:
        if size == -1:
            return None, p
        raise DecodeError(f"{what} of {size} bytes")
    if size > end - p:
        raise DecodeError(f"{what} of {size} bytes, {end - p} remain in the record")
    return body[p : p + size], p + size
