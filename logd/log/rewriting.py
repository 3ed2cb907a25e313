"""One record batch with some of its records taken out.

Compaction keeps a batch's place and identity (base offset, last offset, leader epoch, producer, sequences, codec) and
drops records in between, so that offsets stay as they were, with gaps. ``cleaner`` decides which records stay; this
module writes the batch anew. Pure: bytes in, bytes out. Records that stay are copied.
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct
from typing import Final

from logd.wire.batches import CODEC_MASK, DELETE_HORIZON, HEADER_BYTES, LOG_OVERHEAD_BYTES, BatchHeader
from logd.wire.checksum import crc32c
from logd.wire.compression import compress
from logd.wire.records import varint, varint_bytes

_HEAD: Final = Struct(">qiibI")
_UNDER_CRC: Final = Struct(">hiqqqhii")
NO_TIMESTAMP: Final = -1


def delete_horizon_ms(header: BatchHeader) -> int | None:
    """Return when the tombstones or the marker of a batch may go (KIP-534), None when that is not yet set."""
    return header.base_timestamp if header.attributes & DELETE_HORIZON else None


def without(
    header: BatchHeader, kept: Sequence[bytes], count: int, newest_delta: int, horizon_ms: int | None
) -> bytearray:
    """Return the batch with only the records ``kept``, ``count`` and at least one.

    :param kept: their bytes: one each where a horizon is set, else neighbours may be in one piece.
    :param newest_delta: the largest time delta among them.
    :param horizon_ms: the delete horizon to be set, None to leave it as it is.
    """
    base_timestamp, attributes = header.base_timestamp, header.attributes
    if horizon_ms is not None:
        shift = base_timestamp - horizon_ms
        kept = [_shifted(record, shift) for record in kept]
        base_timestamp = horizon_ms
        attributes |= DELETE_HORIZON
    max_timestamp = header.max_timestamp
    if not header.log_append_time:
        max_timestamp = header.base_timestamp + newest_delta
    packed = compress(header.codec, b"".join(kept))
    return _batch(header, attributes, base_timestamp, max_timestamp, count, packed)


def emptied(header: BatchHeader) -> bytearray:
    """Return the batch with no records, which still tells its offsets and the producer's last sequence."""
    attributes = header.attributes & ~(CODEC_MASK | DELETE_HORIZON)
    return _batch(header, attributes, NO_TIMESTAMP, header.max_timestamp, 0, b"")


def _shifted(record: bytes, shift: int) -> bytes:
    """Return a record whose time delta is ``shift`` larger."""
    _, p = varint(record, 0)
    time_delta, rest = varint(record, p + 1, 64)
    changed = varint_bytes(time_delta + shift)
    return varint_bytes(1 + len(changed) + len(record) - rest) + record[p : p + 1] + changed + record[rest:]


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
