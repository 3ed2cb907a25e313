"""The control batches that end transactions: one record that says commit or abort, and whose word that is (KIP-98).

Built for ``Log.append_marker``, read by everything that goes over stored batches again. Pure bytes and values:
it decides nothing.
"""

from __future__ import annotations

from struct import Struct
from typing import Final, NamedTuple

from logd.errors import DecodeError
from logd.log.aborted import AbortedIndex, AbortedTransaction
from logd.log.producers import Producers
from logd.wire.batches import (
    CONTROL,
    CRC_FROM,
    CRC_POSITION,
    HEADER_BYTES,
    LOG_OVERHEAD_BYTES,
    TRANSACTIONAL,
    BatchHeader,
    read_records,
)
from logd.wire.checksum import crc32c
from logd.wire.message import Buffer

ABORT: Final = 0
COMMIT: Final = 1
"""Types of control records; others (of Kafka's own consensus) end no transaction."""

_HEADER: Final = Struct(">qiibIhiqqqhii")
_RECORD: Final = Struct(">5bhhbhib")
_RECORD_BYTES: Final = 16
_KEY_BYTES: Final = 4
_VALUE_BYTES: Final = 6
MARKER_BYTES: Final = HEADER_BYTES + _RECORD.size
_KEY: Final = Struct(">hh")
_VALUE: Final = Struct(">hi")


class Marker(NamedTuple):
    """What ends a transaction. ``coordinator_epoch``: of the partition of ``__transaction_state`` that decided."""

    committed: bool
    coordinator_epoch: int


def build_marker(producer_id: int, epoch: int, *, committed: bool, coordinator_epoch: int, now_ms: int) -> bytearray:
    """Return the control batch of one marker, at base offset 0."""
    length = MARKER_BYTES - LOG_OVERHEAD_BYTES
    identity = (producer_id, epoch, -1)
    batch = bytearray(_HEADER.pack(0, length, 0, 2, 0, TRANSACTIONAL | CONTROL, 0, now_ms, now_ms, *identity, 1))
    kind = COMMIT if committed else ABORT
    batch += _RECORD.pack(
        _RECORD_BYTES << 1, 0, 0, 0, _KEY_BYTES << 1, 0, kind, _VALUE_BYTES << 1, 0, coordinator_epoch, 0
    )
    batch[CRC_POSITION:CRC_FROM] = crc32c(memoryview(batch)[CRC_FROM:]).to_bytes(4, "big")
    return batch


def read_marker(data: Buffer, position: int, header: BatchHeader) -> Marker | None:
    """Return what a control batch says; None when it ends no transaction, or its record was compacted away."""
    if not header.count:
        return None
    try:
        records = read_records(data, position, bytes_max=header.size)
    except DecodeError:
        return None
    for record in records:
        _, kind = _KEY.unpack_from(record.key) if record.key and len(record.key) >= _KEY_BYTES else (0, -1)
        if kind in (ABORT, COMMIT):
            value = record.value or b""
            epoch = _VALUE.unpack_from(value)[1] if len(value) >= _VALUE_BYTES else -1
            return Marker(kind == COMMIT, epoch)
    return None


def note_marker(
    producers: Producers, aborted: AbortedIndex | None, header: BatchHeader, data: Buffer, position: int, offset: int
) -> None:
    """Take a control batch of a producer, which is in the log at ``offset``, into the state of its producers.

    :param aborted: None where it is known already.
    """
    marker = read_marker(data, position, header)
    if marker is None and header.count:
        return
    coordinator_epoch = marker.coordinator_epoch if marker is not None else -1
    ended = producers.end(header.producer_id, header.producer_epoch, coordinator_epoch, header.max_timestamp, offset)
    if aborted is not None and ended is not None and marker is not None and not marker.committed:
        first_offset, stable_offset = ended
        aborted.add(AbortedTransaction(header.producer_id, first_offset, offset, stable_offset))
