"""One record batch with some of its records taken out.

Compaction keeps a batch's place and identity (base offset, last offset, leader epoch, producer, sequences, codec) and
drops records in between, so that offsets stay as they were, with gaps. ``cleaner`` decides which records stay; this
module finds them in the bytes and writes the batch anew. Pure: bytes in, bytes out. Records that stay are copied and
never parsed further than their key.
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct
from typing import Final

import msgspec

from logd.errors import DecodeError
from logd.wire.batches import CODEC_MASK, DELETE_HORIZON, HEADER_BYTES, LOG_OVERHEAD_BYTES, BatchHeader
from logd.wire.checksum import crc32c
from logd.wire.compression import compress
from logd.wire.records import varint, varint_bytes

_HEAD: Final = Struct(">qiibI")
_UNDER_CRC: Final = Struct(">hiqqqhii")
NO_TIMESTAMP: Final = -1


class Columns(msgspec.Struct):
    """The records of a batch, a list for each fact: where each begins and ends, deltas, key, whether it has a value."""

    starts: list[int]
    offset_deltas: list[int]
    time_deltas: list[int]
    keys: list[bytes | None]
    valued: list[bool]


def columns_of(body: bytes, count: int) -> Columns:
    """Find the ``count`` records in the decompressed body of a batch; ``starts`` has one more entry, the end.

    :raises DecodeError: when they do not fill it.
    """
    found = Columns([], [], [], [], [])
    starts, deltas, times, keys, valued = (
        found.starts,
        found.offset_deltas,
        found.time_deltas,
        found.keys,
        found.valued,
    )
    p = 0
    try:
        for _ in range(count):
            starts.append(p)
            size, p = varint(body, p)
            end = p + size
            time_delta, p = varint(body, p + 1, 64)
            times.append(time_delta)
            delta, p = varint(body, p)
            deltas.append(delta)
            size, p = varint(body, p)
            if size >= 0:
                keys.append(body[p : p + size])
                p += size
            else:
                keys.append(None)
            valued.append(not body[p] & 1)  # a zigzag length is odd when it is negative: no value
            if not p < end <= len(body):
                raise DecodeError(f"record {len(starts) - 1} of a batch does not fit its size")
            p = end
    except IndexError as error:
        raise DecodeError(f"record {len(starts) - 1} of a batch is cut short") from error
    if p != len(body):
        raise DecodeError(f"{len(body) - p} bytes are left over after {count} records")
    starts.append(p)
    return found


def delete_horizon_ms(header: BatchHeader) -> int | None:
    """Return when the tombstones or the marker of a batch may go (KIP-534), None when that is not yet set."""
    return header.base_timestamp if header.attributes & DELETE_HORIZON else None


def without(
    header: BatchHeader, body: bytes, columns: Columns, kept: Sequence[int], horizon_ms: int | None
) -> bytearray:
    """Return the batch with only the records at the indexes ``kept``, at least one.

    :param horizon_ms: the delete horizon to be set, None to leave it as it is.
    """
    base_timestamp, attributes = header.base_timestamp, header.attributes
    starts = columns.starts
    if horizon_ms is None:
        pieces = [body[starts[at] : starts[at + 1]] for at in kept]
    else:
        shift = base_timestamp - horizon_ms
        pieces = [_shifted(body, starts[at], starts[at + 1], shift) for at in kept]
        base_timestamp = horizon_ms
        attributes |= DELETE_HORIZON
    max_timestamp = header.max_timestamp
    if not header.log_append_time:
        max_timestamp = header.base_timestamp + max(columns.time_deltas[at] for at in kept)
    packed = compress(header.codec, b"".join(pieces))
    return _batch(header, attributes, base_timestamp, max_timestamp, len(kept), packed)


def emptied(header: BatchHeader) -> bytearray:
    """Return the batch with no records, which still tells its offsets and the producer's last sequence."""
    attributes = header.attributes & ~(CODEC_MASK | DELETE_HORIZON)
    return _batch(header, attributes, NO_TIMESTAMP, header.max_timestamp, 0, b"")


def _shifted(body: bytes, start: int, end: int, shift: int) -> bytes:
    """Return a record whose time delta is ``shift`` larger."""
    _, p = varint(body, start)
    time_delta, rest = varint(body, p + 1, 64)
    changed = varint_bytes(time_delta + shift)
    size = 1 + len(changed) + end - rest
    return varint_bytes(size) + body[p : p + 1] + changed + body[rest:end]


def _batch(
    header: BatchHeader,
    attributes: int,
    base_timestamp: int,
    max_timestamp: int,
    count: int,
    body: bytes | bytearray | memoryview,
) -> bytearray:
    head = _UNDER_CRC.pack(
        attributes,
        header.last_offset_delta,
        base_timestamp,
        max_timestamp,
        header.producer_id,
        header.producer_epoch,
        header.base_sequence,
        count,
    )
    length = HEADER_BYTES - LOG_OVERHEAD_BYTES + len(body)
    checksum = crc32c(body, crc32c(head))
    batch = bytearray(_HEAD.pack(header.base_offset, length, header.leader_epoch, header.magic, checksum))
    batch += head
    batch += body
    return batch
