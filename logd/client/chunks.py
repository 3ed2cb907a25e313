"""From what a fetch brought to records: checksums, transactions, the reader's range.

Pure; called by the consumer when the reader asks, and by nobody else.
"""

from __future__ import annotations

import msgspec

from logd.client.metadata import TopicPartition
from logd.client.settings import ConsumerSettings
from logd.errors import DecodeError
from logd.wire.batches import HEADER_BYTES, BatchHeader, check_crc, read_header, read_records
from logd.wire.message import Buffer, Records
from logd.wire.schemas.fetch import PartitionData

ABORT = b"\x00\x00\x00\x00"
"""Key of a control record that ends a transaction by aborting it: version 0, type 0."""


class Received(msgspec.Struct, frozen=True, gc=False):
    """One record as it was read; `timestamp_ms` was set by the server when `append_time` is true."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    append_time: bool
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]


def _whole_batches(data: Buffer) -> list[tuple[int, BatchHeader]]:
    """Position and header of each batch that is there to its end; a fetch may cut the last one off."""
    found = []
    position = 0
    while len(data) - position >= HEADER_BYTES:
        header = read_header(data, position)
        if header.magic != 2 or header.size < HEADER_BYTES:
            raise DecodeError(f"batch at offset {header.base_offset}: magic {header.magic}, {header.size} bytes")
        if position + header.size > len(data):
            break
        found.append((position, header))
        position += header.size
    return found


def _buffer(records: Records | None) -> Buffer:
    if records is None:
        return b""
    assert isinstance(records, bytes | bytearray | memoryview), "decoded records are one buffer"
    return records


def end_of_chunk(records: Records | None) -> int:
    """The offset after the last whole batch. DecodeError when the bytes hold none."""
    batches = _whole_batches(_buffer(records))
    if not batches:
        raise DecodeError("there is not one whole batch in the answer")
    return batches[-1][1].next_offset


def decode_chunk(
    at: TopicPartition, data: PartitionData, position: int, end: int, settings: ConsumerSettings
) -> tuple[list[Received], int]:
    """The records from `position` (included) to `end` (excluded), and the position after them.

    :raises DecodeError: a checksum does not match, or a batch is malformed; the message names partition and offset.
    """
    found: list[Received] = []
    buffer = _buffer(data.records)
    aborted = Aborted(data) if settings.committed_only else None
    for start, header in _whole_batches(buffer):
        try:
            if not check_crc(buffer, start, header):
                raise DecodeError("its checksum does not match its bytes")
            wanted = position < header.next_offset and header.base_offset < end
            if aborted is not None and aborted.hides(buffer, start, header):
                wanted = False
            if wanted and not header.is_control:
                _read_batch(at, buffer, start, header, position, end, settings, found)
        except DecodeError as error:
            raise DecodeError(f"batch at offset {header.base_offset} of {at}: {error}") from error
        position = max(position, header.next_offset)
    return found, position


def _read_batch(
    at: TopicPartition,
    buffer: Buffer,
    start: int,
    header: BatchHeader,
    position: int,
    end: int,
    settings: ConsumerSettings,
    found: list[Received],
) -> None:
    topic, partition = at
    for record in read_records(buffer, start, bytes_max=settings.batch_bytes_max):
        if position <= record.offset < end:
            found.append(
                Received(
                    topic,
                    partition,
                    record.offset,
                    record.timestamp,
                    header.log_append_time,
                    record.key,
                    record.value,
                    record.headers,
                )
            )


class Aborted:
    """Which batches of one answer belong to aborted transactions (KIP-98)."""

    def __init__(self, data: PartitionData) -> None:
        self._starts = sorted((item.first_offset, item.producer_id) for item in data.aborted_transactions or ())
        self._open: set[int] = set()

    def hides(self, buffer: Buffer, start: int, header: BatchHeader) -> bool:
        """Whether a reader of committed records skips this batch; to be called for every batch in order."""
        while self._starts and self._starts[0][0] < header.next_offset:
            self._open.add(self._starts.pop(0)[1])
        if header.is_control:
            markers = read_records(buffer, start, bytes_max=1 << 20)
            if any(bytes(marker.key or b"")[:4] == ABORT for marker in markers):
                self._open.discard(header.producer_id)
            return True
        return header.is_transactional and header.producer_id in self._open
