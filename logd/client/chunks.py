"""What one fetch brought for one partition: checksums, transactions, and records a few batches at a time.

Pure; filled by ``fetching``, emptied by the consumer when the reader asks, so that no more is decompressed than is
read. Never asks a server.
"""

from __future__ import annotations

from logd.client.decoding import Received, decode_body
from logd.client.metadata import TopicPartition
from logd.errors import DecodeError
from logd.wire.batches import HEADER_BYTES, BatchHeader, check_crc, read_header, read_records
from logd.wire.compression import decompress
from logd.wire.message import Buffer, Records
from logd.wire.schemas.fetch import AbortedTransaction, PartitionData

__all__ = ["Aborted", "Chunk", "Received"]

ABORT = b"\x00\x00\x00\x00"
"""Key of a control record that ends a transaction by aborting it: version 0, type 0."""
MARKER_BYTES_MAX = 1 << 20
RECORDS_PER_TAKE = 1000
"""Batches are opened until there are as many records as this."""
BYTES_PER_TAKE = 256 << 10
"""Or until they were as large as this. Records that are looked at one by one come in smaller portions: what is still
in the processor's cache is made, read and thrown away for half of the time."""


class Chunk:
    """The whole batches of one answer, in order; the last one may have been cut off and is left for the next fetch.

    :param committed_only: leave out what was aborted.
    :param batch_bytes_max: the biggest batch after decompression.
    :raises DecodeError: there is not one whole batch, or it has an old format.
    """

    __slots__ = ("_aborted", "_at", "_batch_bytes_max", "_batches", "_buffer", "_taken", "next_offset")

    def __init__(
        self, at: TopicPartition, data: PartitionData, *, committed_only: bool = False, batch_bytes_max: int = 256 << 20
    ) -> None:
        self._at = at
        self._buffer = _buffer(data.records)
        self._batches = _whole_batches(self._buffer)
        if not self._batches:
            raise DecodeError("there is not one whole batch in the answer")
        self._taken = 0
        self._batch_bytes_max = batch_bytes_max
        self._aborted = Aborted(data.aborted_transactions or []) if committed_only else None
        self.next_offset = self._batches[-1][1].next_offset

    @property
    def is_empty(self) -> bool:
        """Nothing is left to take."""
        return self._taken >= len(self._batches)

    def take(self, position: int, end: int, bytes_max: int = BYTES_PER_TAKE) -> tuple[list[Received], int]:
        """Some of the records from `position` (included) to `end` (excluded), and the position after them.

        :raises DecodeError: a checksum does not match, or a batch is malformed; the message names partition and
            offset. The batch is still there, the ones before it were given out.
        """
        found: list[Received] = []
        size = 0
        while self._taken < len(self._batches) and len(found) < RECORDS_PER_TAKE and size < bytes_max:
            start, header = self._batches[self._taken]
            try:
                self._open(start, header, position, end, found)
            except DecodeError as error:
                if found:
                    break
                raise DecodeError(f"batch at offset {header.base_offset} of {self._at}: {error}") from error
            position = max(position, header.next_offset)
            size += header.size
            self._taken += 1
        return found, position

    def _open(self, start: int, header: BatchHeader, low: int, high: int, found: list[Received]) -> None:
        buffer = self._buffer
        if not check_crc(buffer, start, header):
            raise DecodeError("its checksum does not match its bytes")
        if self._aborted is not None and self._aborted.hides(buffer, start, header):
            return
        if header.is_control or low >= header.next_offset or header.base_offset >= high:
            return
        packed = memoryview(buffer)[start + HEADER_BYTES : start + header.size]
        body = bytes(decompress(header.codec, packed, self._batch_bytes_max))
        count = len(found)
        try:
            decode_body(*self._at, header, body, low, high, found)
        except DecodeError:
            del found[count:]
            raise


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


class Aborted:
    """Which batches of one answer belong to aborted transactions (KIP-98)."""

    def __init__(self, listed: list[AbortedTransaction]) -> None:
        self._starts = sorted((item.first_offset, item.producer_id) for item in listed)
        self._open: set[int] = set()

    def hides(self, buffer: Buffer, start: int, header: BatchHeader) -> bool:
        """Whether a reader of committed records skips this batch; to be called for every batch in order."""
        while self._starts and self._starts[0][0] < header.next_offset:
            self._open.add(self._starts.pop(0)[1])
        if header.is_control:
            markers = read_records(buffer, start, bytes_max=MARKER_BYTES_MAX)
            if any(bytes(marker.key or b"")[:4] == ABORT for marker in markers):
                self._open.discard(header.producer_id)
            return True
        return header.is_transactional and header.producer_id in self._open
