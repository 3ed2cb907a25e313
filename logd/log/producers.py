"""What a log remembers of its idempotent and transactional producers: epoch, last batches, open transaction.

The rules are Kafka's (KIP-98, KIP-360): a batch repeated within a producer's last five is a success with the offset of
the first; a gap in the sequence is refused, as is an older epoch; a producer that is not known may begin with any
sequence. :class:`~logd.log.log.Log` asks :meth:`Producers.check` before it writes a batch and calls
:meth:`Producers.note` after. Snapshots are bytes; this module never touches a file.
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct
from struct import error as StructError
from typing import Final

import msgspec

from logd.errors import DecodeError, ErrorCode, Refused
from logd.wire.batches import CONTROL, TRANSACTIONAL, BatchHeader
from logd.wire.checksum import crc32c

BATCHES_KEPT: Final = 5
SEQUENCE_MAX: Final = 2**31 - 1
NO_EPOCH: Final = -1
NO_SEQUENCE: Final = -1
NO_OFFSET: Final = -1

SNAPSHOT_MAGIC: Final = b"LPS1"
_HEAD: Final = Struct(">4sIqi")  # magic, crc of all that follows it, offset, producers
_PRODUCER: Final = Struct(">qhiqqB")  # id, epoch, coordinator epoch, last timestamp, first offset of txn, batches
_BATCH: Final = Struct(">iiqqq")
_CRC_FROM: Final = 8


class Kept(msgspec.Struct, frozen=True, gc=False):
    """One of the last batches of a producer."""

    first_sequence: int
    last_sequence: int
    base_offset: int
    last_offset: int
    timestamp_ms: int


class Producer:
    """The state of one producer id."""

    __slots__ = ("batches", "coordinator_epoch", "epoch", "last_timestamp", "producer_id", "txn_first_offset")

    def __init__(self, producer_id: int) -> None:
        self.producer_id = producer_id
        self.epoch = NO_EPOCH
        self.coordinator_epoch = -1
        self.last_timestamp = -1
        self.txn_first_offset = NO_OFFSET
        self.batches: list[Kept] = []

    @property
    def last_sequence(self) -> int:
        """The sequence of the last record, -1 when none is known."""
        return self.batches[-1].last_sequence if self.batches else NO_SEQUENCE


class Producers:
    """The producers of one log, by producer id."""

    __slots__ = ("_by_id", "_where")

    def __init__(self, where: str) -> None:
        self._by_id: dict[int, Producer] = {}
        self._where = where

    def __len__(self) -> int:
        return len(self._by_id)

    def get(self, producer_id: int) -> Producer | None:
        """Return the state of a producer, None when it is not known."""
        return self._by_id.get(producer_id)

    def __iter__(self) -> Iterator[Producer]:
        return iter(self._by_id.values())

    def check(self, producer_id: int, epoch: int, sequence: int, last_sequence: int) -> Kept | None:
        """Judge a client's batch.

        :return: the batch that this one repeats, None when it is new.
        :raises Refused: INVALID_PRODUCER_EPOCH, OUT_OF_ORDER_SEQUENCE_NUMBER.
        """
        producer = self._by_id.get(producer_id)
        if producer is None:
            return None
        if epoch == producer.epoch:
            batches = producer.batches
            expected = NO_SEQUENCE
            if batches:
                expected = batches[-1].last_sequence
                if sequence == expected + 1:
                    return None
                for kept in batches:
                    if kept.first_sequence == sequence and kept.last_sequence == last_sequence:
                        return kept
            if sequence == expected + 1 or (sequence == 0 and expected == SEQUENCE_MAX):
                return None
            raise self._out_of_order(producer_id, epoch, sequence, f"the last one stored is {expected}")
        if epoch < producer.epoch:
            raise Refused(
                ErrorCode.INVALID_PRODUCER_EPOCH,
                f"Producer {producer_id} sent epoch {epoch} to {self._where}, where {producer.epoch} is in force: "
                "a newer instance took over",
            )
        if sequence != 0 and producer.epoch != NO_EPOCH:
            raise self._out_of_order(producer_id, epoch, sequence, "a new epoch begins with 0")
        return None

    def _out_of_order(self, producer_id: int, epoch: int, sequence: int, why: str) -> Refused:
        return Refused(
            ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER,
            f"Producer {producer_id} epoch {epoch} sent sequence {sequence} to {self._where}: {why}",
        )

    def note(self, header: BatchHeader, base_offset: int, timestamp_ms: int) -> None:
        """Note a batch that is in the log now: a producer's records, or the marker that ends its transaction."""
        if header.attributes & CONTROL:
            self.mark(header.producer_id, header.producer_epoch, -1, timestamp_ms)
            return
        producer = self._by_id.get(header.producer_id)
        if producer is None:
            producer = self._by_id[header.producer_id] = Producer(header.producer_id)
        batches = producer.batches
        if header.producer_epoch != producer.epoch:
            producer.epoch = header.producer_epoch
            batches.clear()
        elif len(batches) == BATCHES_KEPT:
            del batches[0]
        last_offset = base_offset + header.last_offset_delta
        batches.append(Kept(header.base_sequence, header.last_sequence, base_offset, last_offset, timestamp_ms))
        producer.last_timestamp = timestamp_ms
        if header.attributes & TRANSACTIONAL and producer.txn_first_offset == NO_OFFSET:
            producer.txn_first_offset = base_offset

    def mark(self, producer_id: int, epoch: int, coordinator_epoch: int, timestamp_ms: int) -> None:
        """Note a transaction marker: the producer's transaction is over, a newer epoch counts from here on."""
        producer = self._by_id.get(producer_id)
        if producer is None:
            producer = self._by_id[producer_id] = Producer(producer_id)
        if epoch != producer.epoch:
            producer.epoch = epoch
            producer.batches.clear()
        producer.txn_first_offset = NO_OFFSET
        producer.coordinator_epoch = max(coordinator_epoch, producer.coordinator_epoch)
        producer.last_timestamp = timestamp_ms

    def expire(self, now_ms: int, expiration_ms: int) -> int:
        """Forget producers that have no open transaction and have been silent for ``expiration_ms``; say how many."""
        gone = [
            producer_id
            for producer_id, producer in self._by_id.items()
            if producer.txn_first_offset == NO_OFFSET and now_ms - producer.last_timestamp >= expiration_ms
        ]
        for producer_id in gone:
            del self._by_id[producer_id]
        return len(gone)

    def clear(self) -> None:
        """Forget all."""
        self._by_id.clear()

    def snapshot(self, offset: int) -> bytes:
        """Return the state, which is that of the log before ``offset``, as the content of a snapshot file."""
        out = bytearray(_HEAD.pack(SNAPSHOT_MAGIC, 0, offset, len(self._by_id)))
        for producer_id, producer in self._by_id.items():
            out += _PRODUCER.pack(
                producer_id,
                producer.epoch,
                producer.coordinator_epoch,
                producer.last_timestamp,
                producer.txn_first_offset,
                len(producer.batches),
            )
            for kept in producer.batches:
                out += _BATCH.pack(
                    kept.first_sequence, kept.last_sequence, kept.base_offset, kept.last_offset, kept.timestamp_ms
                )
        out[4:8] = crc32c(memoryview(out)[_CRC_FROM:]).to_bytes(4, "big")
        return bytes(out)

    def restore(self, data: bytes) -> int:
        """Take the state from a snapshot.

        :return: the offset that it was taken at.
        :raises DecodeError: when the checksum or the shape is wrong; the state is unchanged.
        """
        offset, by_id = _parse(data)
        self._by_id = by_id
        return offset


def _parse(data: bytes) -> tuple[int, dict[int, Producer]]:
    try:
        magic, crc, offset, count = _HEAD.unpack_from(data, 0)
        if magic != SNAPSHOT_MAGIC or crc != crc32c(memoryview(data)[_CRC_FROM:]):
            raise DecodeError("a producer snapshot with a wrong checksum")
        position = _HEAD.size
        by_id: dict[int, Producer] = {}
        for _ in range(count):
            producer = Producer(0)
            (
                producer.producer_id,
                producer.epoch,
                producer.coordinator_epoch,
                producer.last_timestamp,
                producer.txn_first_offset,
                batches,
            ) = _PRODUCER.unpack_from(data, position)
            position += _PRODUCER.size
            for _ in range(batches):
                producer.batches.append(Kept(*_BATCH.unpack_from(data, position)))
                position += _BATCH.size
            by_id[producer.producer_id] = producer
    except StructError as cause:
        raise DecodeError(f"a producer snapshot cut short: {cause}") from cause
    return offset, by_id
