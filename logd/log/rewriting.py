"""One record batch with some of its records taken out.

Compaction keeps a batch's place and identity (base offset, last offset, leader epoch, producer, sequences, codec) and
drops records in between, so that offsets stay as they were, with gaps. ``cleaner`` decides which records stay; this
module says what becomes of its header, and writes that. Pure: bytes in, bytes out.
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct
from typing import Final, NamedTuple

from logd.wire.batches import CODEC_MASK, CRC_FROM, DELETE_HORIZON, LOG_OVERHEAD_BYTES, BatchHeader
from logd.wire.checksum import crc32c
from logd.wire.records import varint, varint_bytes

_HEAD: Final = Struct(">qiibI")
_UNDER_CRC: Final = Struct(">hiqqqhii")
NO_TIMESTAMP: Final = -1


def delete_horizon_ms(header: BatchHeader) -> int | None:
    """Return when the tombstones or the marker of a batch may go (KIP-534), None when that is not yet set."""
    return header.base_timestamp if header.attributes & DELETE_HORIZON else None


class Change(NamedTuple):
    """What is new in the header of a batch that has lost records."""

    header: BatchHeader
    attributes: int
    base_timestamp: int
    max_timestamp: int
    left: int


def without(header: BatchHeader, count: int, newest_delta: int) -> Change:
    """Change a batch of which ``count`` records are left as they are, at least one.

    :param newest_delta: the largest time delta among them.
    """
    max_timestamp = header.max_timestamp
    if not header.log_append_time:
        max_timestamp = header.base_timestamp + newest_delta
    return Change(header, header.attributes, header.base_timestamp, max_timestamp, count)


def shifted(change: Change, kept: Sequence[bytes], horizon_ms: int) -> tuple[Change, list[bytes]]:
    """Set a delete horizon: the batch's base timestamp becomes it, and every record counts from there (KIP-534).

    :param kept: the records.
    """
    shift = change.base_timestamp - horizon_ms
    attributes = change.attributes | DELETE_HORIZON
    changed = change._replace(attributes=attributes, base_timestamp=horizon_ms)
    return changed, [_shifted(record, shift) for record in kept]


def emptied(header: BatchHeader) -> Change:
    """Change a batch to one with no records, which still tells its offsets and the producer's last sequence."""
    attributes = header.attributes & ~(CODEC_MASK | DELETE_HORIZON)
    return Change(header, attributes, NO_TIMESTAMP, header.max_timestamp, 0)


def write_head(batch: memoryview, change: Change) -> None:
    """Write the header of a batch in front of its body, which is there already, and its checksum."""
    header = change.header
    _UNDER_CRC.pack_into(
        batch,
        CRC_FROM,
        change.attributes,
        header.last_offset_delta,
        change.base_timestamp,
        change.max_timestamp,
        header.producer_id,
        header.producer_epoch,
        header.base_sequence,
        change.left,
    )
    length = len(batch) - LOG_OVERHEAD_BYTES
    _HEAD.pack_into(batch, 0, header.base_offset, length, header.leader_epoch, header.magic, crc32c(batch[CRC_FROM:]))


def _shifted(record: bytes, shift: int) -> bytes:
    """Return a record whose time delta is ``shift`` larger."""
    _, p = varint(record, 0)
    time_delta, rest = varint(record, p + 1, 64)
    changed = varint_bytes(time_delta + shift)
    return varint_bytes(1 + len(changed) + len(record) - rest) + record[p : p + 1] + changed + record[rest:]
