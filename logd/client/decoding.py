"""The records of one batch, straight into the form in which a reader gets them.

The hot loop of consuming: numbers of one and two bytes, which nearly all are, are read in place, the others by
``logd.wire.records``. It checks what that module checks. Pure; called by ``chunks`` only.
"""

from __future__ import annotations

from codecs import utf_8_decode

import msgspec

from logd.errors import DecodeError
from logd.wire.batches import BatchHeader
from logd.wire.records import RECORD_BYTES_MIN, Header, varint


class Received(msgspec.Struct, frozen=True, gc=False):
    """One record as it was read; `timestamp_ms` was set by the server when `append_time` is true."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    append_time: bool
    key: bytes | None
    value: bytes | None
    headers: list[Header]


def decode_body(
    topic: str, partition: int, header: BatchHeader, body: bytes, low: int, high: int, found: list[Received]
) -> None:
    """Add the records of a batch whose offsets are in ``range(low, high)`` to `found`.

    :param body: what follows the batch's header, decompressed.
    :raises DecodeError: for anything that is not exactly the records that the header promises.
    """
    try:
        end = _decode(topic, partition, header, body, low, high, found)
    except IndexError as error:
        raise DecodeError("the bytes end inside a record") from error
    except UnicodeDecodeError as error:
        raise DecodeError("a record header's key is not UTF-8") from error
    if end != len(body):
        raise DecodeError(f"{len(body) - end} bytes left over after {header.count} records")


def _decode(
    topic: str, partition: int, batch: BatchHeader, body: bytes, low: int, high: int, found: list[Received]
) -> int:
    """See :func:`decode_body`; the position after the last record. Numbers are zigzag: 2n for n, 2n-1 for -n."""
    count, total, base, delta_max = batch.count, len(body), batch.base_offset, batch.last_offset_delta
    if count < 0 or count * RECORD_BYTES_MIN > total:
        raise DecodeError(f"{count} records in {total} bytes")
    append_time = batch.log_append_time
    stamp, base_time, add = batch.max_timestamp, batch.base_timestamp, found.append
    p, last = 0, -1
    for index in range(count):
        if (a := body[p]) < 128:
            size, p = (a >> 1) ^ -(a & 1), p + 1
        elif (b := body[p + 1]) < 128:
            size, p = (a >> 1 & 63 | b << 6) ^ -(a & 1), p + 2
        else:
            size, p = varint(body, p)
        end = p + size
        if size < RECORD_BYTES_MIN - 1 or end > total:
            raise DecodeError(f"record {index}: size {size}, {total - p} bytes remain")
        if (a := body[p + 1]) < 128:
            time_delta, p = (a >> 1) ^ -(a & 1), p + 2
        else:
            time_delta, p = varint(body, p + 1, 64)
        if (a := body[p]) < 128:
            delta, p = (a >> 1) ^ -(a & 1), p + 1
        elif (b := body[p + 1]) < 128:
            delta, p = (a >> 1 & 63 | b << 6) ^ -(a & 1), p + 2
        else:
            delta, p = varint(body, p)
        if not last < delta <= delta_max:
            raise DecodeError(f"record {index}: offset delta {delta} after {last}, the batch ends at {delta_max}")
        last = delta
        if (a := body[p]) == 1:
            key, p = None, p + 1
        else:
            key, p = _sized(body, p, end)
        if (a := body[p]) < 128 and not a & 1:
            value_size, p = a >> 1, p + 1
        elif a > 127 and (b := body[p + 1]) < 128 and not a & 1:
            value_size, p = a >> 1 & 63 | b << 6, p + 2
        else:
            value_size, p = varint(body, p)
        after = p + value_size
        if value_size < 0:
            if value_size != -1:
                raise DecodeError(f"record {index}: a value of {value_size} bytes")
            value, after = None, p
        else:
            value = body[p:after]
        headers, p = ([], after + 1) if body[after] == 0 else _headers(body, after, end)
        if p != end:
            raise DecodeError(f"record {index}: its fields end at byte {p}, its size says {end}")
        if low <= (offset := base + delta) < high:
            time_ms = stamp if append_time else base_time + time_delta
            add(Received(topic, partition, offset, time_ms, append_time, key, value, headers))
        p = end
    return p


def _sized(body: bytes, p: int, end: int) -> tuple[bytes | None, int]:
    """A size and as many bytes; None for the size -1."""
    size, p = varint(body, p)
    if size < 0:
        if size == -1:
            return None, p
        raise DecodeError(f"a field of {size} bytes")
    if size > end - p:
        raise DecodeError(f"a field of {size} bytes, {end - p} remain in the record")
    return body[p : p + size], p + size


def _headers(body: bytes, p: int, end: int) -> tuple[list[Header], int]:
    count, p = varint(body, p)
    if count < 0 or count * 2 > end - p:
        raise DecodeError(f"{count} headers in {end - p} bytes")
    headers: list[Header] = []
    for _ in range(count):
        name, p = _sized(body, p, end)
        if name is None:
            raise DecodeError("a header's key is null")
        data, p = _sized(body, p, end)
        headers.append((utf_8_decode(name, "strict", True)[0], data))
    return headers, p
