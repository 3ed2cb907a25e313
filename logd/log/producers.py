"""What a log remembers of its idempotent and transactional producers: epoch, last batches, open transaction.

The rules are Kafka's (KIP-98, KIP-360, KIP-890): a batch repeated within a producer's last five is a success with the
offset of the first; a gap in the sequence is refused, as is an older epoch; a producer that is not known may begin with
any sequence. A transaction may only begin once the coordinator has said that the partition belongs to it.
:class:`~logd.log.log.Log` asks :meth:`Producers.check` and its kin before it writes a batch and calls
:meth:`Producers.note` or :meth:`Producers.end` after. Snapshots are bytes; this module never touches a file.
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct
from struct import error as StructError
from typing import Final

import msgspec

from logd.errors import DecodeError, ErrorCode, Refused
from logd.log.transactions import OpenTransactions
from logd.wire.batches import TRANSACTIONAL, BatchHeader
from logd.wire.checksum import crc32c

BATCHES_KEPT: Final = 5
VERIFICATIONS_KEPT: Final = 1000
"""How many producers may be remembered that were refused and have stored nothing since, in one log."""
SEQUENCE_MAX: Final = 2**31 - 1
EPOCH_MAX: Final = 2**15 - 1
MARKERS_BUMP_FROM: Final = 2
"""The ``transaction.version`` from which on a marker carries a higher epoch than the transaction's records."""
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

    __slots__ = (
        "batches",
        "coordinator_epoch",
        "epoch",
        "heard_ms",
        "last_timestamp",
        "producer_id",
        "txn_first_offset",
    )

    def __init__(self, producer_id: int) -> None:
        self.producer_id = producer_id
        self.epoch = NO_EPOCH
        self.coordinator_epoch = -1
        self.last_timestamp = -1
        self.heard_ms = -1
        """When a batch of it was appended, by this process: its records may be much older, or have no time at all."""
        self.txn_first_offset = NO_OFFSET
        self.batches: list[Kept] = []

    @property
    def last_sequence(self) -> int:
        """The sequence of the last record, -1 when none is known."""
        return self.batches[-1].last_sequence if self.batches else NO_SEQUENCE


class Verification:
    """A question to the coordinator that is under way: may this producer begin a transaction here (KIP-890)?

    It is void once a marker was written, so that a late answer opens nothing. It outlives a refusal: what was refused
    comes again, and a batch that was sent after it must not get ahead of it.
    """

    __slots__ = ("askers", "epoch", "idle_since_ms", "lowest_sequence", "restarts", "settled", "void")

    def __init__(self, epoch: int, sequence: int, *, restarts: bool) -> None:
        self.epoch = epoch
        self.lowest_sequence = sequence
        self.restarts = restarts
        """The client begins each transaction with a new epoch, and so with sequence 0."""
        self.askers = 0
        self.idle_since_ms: int | None = None
        self.settled = False
        """A batch of the producer was stored: nothing is left to remember."""
        self.void = False


class Producers:
    """The producers of one log, by producer id."""

    __slots__ = ("_by_id", "_verifications", "_where", "transactions")

    def __init__(self, path: str) -> None:
        """:param path: of the log's directory. Clients are told its last part, which is topic and partition."""
        self._by_id: dict[int, Producer] = {}
        self._verifications: dict[int, Verification] = {}
        self._where = path.rpartition("/")[2]
        self.transactions = OpenTransactions()

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
            raise self._stale(producer, epoch)
        if sequence != 0 and producer.epoch != NO_EPOCH:
            raise self._out_of_order(producer_id, epoch, sequence, "a new epoch begins with 0")
        return None

    def _out_of_order(self, producer_id: int, epoch: int, sequence: int, why: str) -> Refused:
        return Refused(
            ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER,
            f"Producer {producer_id} epoch {epoch} sent sequence {sequence} to {self._where}: {why}",
        )

    def _stale(self, producer: Producer, epoch: int) -> Refused:
        return Refused(
            ErrorCode.INVALID_PRODUCER_EPOCH,
            f"Producer {producer.producer_id} sent epoch {epoch} to {self._where}, where {producer.epoch} is in force: "
            "a newer instance took over, or the transaction was ended",
        )

    # Transactions

    def begin_verification(self, producer_id: int, epoch: int, sequence: int, *, restarts: bool) -> Verification | None:
        """Say what must be asked of the coordinator before a transactional batch may be appended.

        :param restarts: the client gets a new epoch with each transaction (``transaction.version`` 2).
        :return: None when the transaction is open here: then nothing. Else it goes to :meth:`check_transactional`,
            and in any case to :meth:`end_verification`.
        :raises Refused: INVALID_PRODUCER_EPOCH.
        """
        producer = self._by_id.get(producer_id)
        if self._is_open(producer, epoch):
            return None
        found = self._verifications.get(producer_id)
        if found is None:
            found = self._verifications[producer_id] = Verification(epoch, sequence, restarts=restarts)
        elif epoch > found.epoch:
            found.epoch, found.lowest_sequence = epoch, sequence
        elif epoch == found.epoch:
            found.lowest_sequence = min(found.lowest_sequence, sequence)
        found.askers += 1
        found.idle_since_ms = None
        return found

    def end_verification(self, producer_id: int, verification: Verification) -> None:
        """Its answer has been used, or will not be. It is kept until the producer's next batch or marker is stored."""
        verification.askers -= 1
        if verification.settled and not verification.askers and self._verifications.get(producer_id) is verification:
            del self._verifications[producer_id]
        if len(self._verifications) > VERIFICATIONS_KEPT:
            oldest = next((one for one, known in self._verifications.items() if not known.askers), None)
            if oldest is not None:
                del self._verifications[oldest]

    def check_transactional(self, header: BatchHeader, verified: Verification | None) -> Kept | None:
        """Judge a client's transactional batch; see :meth:`check`.

        :param verified: with which the coordinator was asked, if it was.
        :raises Refused: INVALID_PRODUCER_EPOCH, INVALID_TXN_STATE, OUT_OF_ORDER_SEQUENCE_NUMBER.
        """
        producer_id, epoch, sequence = header.producer_id, header.producer_epoch, header.base_sequence
        producer = self._by_id.get(producer_id)
        if producer is not None and epoch == producer.epoch:
            for kept in producer.batches:
                if kept.first_sequence == sequence and kept.last_sequence == header.last_sequence:
                    return kept
        if not self._is_open(producer, epoch):
            if verified is None or verified.void:
                raise self._not_open(producer_id, epoch)
            if sequence and verified.restarts and (producer is None or not producer.batches):
                raise self._out_of_order(producer_id, epoch, sequence, "a transaction begins with 0")
            if sequence > verified.lowest_sequence and epoch == verified.epoch:
                why = f"sequence {verified.lowest_sequence} is to be stored first"
                raise self._out_of_order(producer_id, epoch, sequence, why)
        return self.check(producer_id, epoch, sequence, header.last_sequence)

    def check_coordinated(self, producer_id: int, epoch: int) -> None:
        """Judge a transactional batch of a coordinator on this node, which has no sequence and was verified.

        :raises Refused: INVALID_PRODUCER_EPOCH.
        """
        self._is_open(self._by_id.get(producer_id), epoch)

    def _is_open(self, producer: Producer | None, epoch: int) -> bool:
        if producer is None:
            return False
        if epoch < producer.epoch:
            raise self._stale(producer, epoch)
        return epoch == producer.epoch and producer.txn_first_offset != NO_OFFSET

    def _not_open(self, producer_id: int, epoch: int) -> Refused:
        return Refused(
            ErrorCode.INVALID_TXN_STATE,
            f"Producer {producer_id} epoch {epoch} has no open transaction on {self._where}",
        )

    def check_plain(self, producer_id: int) -> None:
        """Judge a batch outside of any transaction, after :meth:`check`, in a log that has open ones.

        :raises Refused: INVALID_TXN_STATE when its producer has one.
        """
        producer = self._by_id.get(producer_id)
        if producer is not None and producer.txn_first_offset != NO_OFFSET:
            raise Refused(
                ErrorCode.INVALID_TXN_STATE,
                f"Producer {producer_id} sent a batch without a transaction to {self._where}, "
                f"where its transaction is open from offset {producer.txn_first_offset} on",
            )

    def check_marker(self, producer_id: int, epoch: int, coordinator_epoch: int, transaction_version: int) -> None:
        """Judge the marker that is to end a producer's transaction (KIP-890, KAFKA-19999).

        :raises Refused: INVALID_PRODUCER_EPOCH, TRANSACTION_COORDINATOR_FENCED, INVALID_REQUEST.
        """
        if producer_id < 0 or epoch < 0:
            raise Refused(
                ErrorCode.INVALID_REQUEST, f"There is no producer {producer_id} with epoch {epoch}: neither is negative"
            )
        producer = self._by_id.get(producer_id)
        if producer is None:
            return
        if transaction_version >= MARKERS_BUMP_FROM:
            open_here = producer.txn_first_offset != NO_OFFSET
            again = epoch == producer.epoch and (not open_here or epoch == EPOCH_MAX)
            fenced = epoch <= producer.epoch and not again
        else:
            fenced = epoch < producer.epoch
        if fenced:
            raise Refused(
                ErrorCode.INVALID_PRODUCER_EPOCH,
                f"A marker of transaction version {transaction_version} for producer {producer_id} has epoch {epoch} "
                f"on {self._where}, where {producer.epoch} is in force",
            )
        if producer.coordinator_epoch > coordinator_epoch:
            raise Refused(
                ErrorCode.TRANSACTION_COORDINATOR_FENCED,
                f"A marker for producer {producer_id} has coordinator epoch {coordinator_epoch} on {self._where}, "
                f"where {producer.coordinator_epoch} has written: another coordinator took over",
            )

    # After the append

    def note(self, header: BatchHeader, base_offset: int, timestamp_ms: int, now_ms: int = -1) -> None:
        """Note a producer's batch of data that is in the log now; ``now_ms`` -1 where it has been for longer."""
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
        producer.heard_ms = now_ms
        if self._verifications:
            self._settle(header.producer_id)
        if header.attributes & TRANSACTIONAL and producer.txn_first_offset == NO_OFFSET and header.count:
            producer.txn_first_offset = base_offset
            self.transactions.begin(header.producer_id, base_offset)

    def _settle(self, producer_id: int) -> None:
        verification = self._verifications.get(producer_id)
        if verification is not None:
            verification.settled = True
            if not verification.askers:
                del self._verifications[producer_id]

    def end(
        self, producer_id: int, epoch: int, coordinator_epoch: int, timestamp_ms: int, offset: int
    ) -> tuple[int, int] | None:
        """Note the marker at ``offset``: the producer's transaction is over, a newer epoch counts from here on.

        :return: the first offset of the transaction, and the offset below which all are decided now; None when the
            producer had none.
        """
        producer = self._by_id.get(producer_id)
        if producer is None:
            producer = self._by_id[producer_id] = Producer(producer_id)
        if epoch != producer.epoch:
            producer.epoch = epoch
            producer.batches.clear()
        producer.coordinator_epoch = max(coordinator_epoch, producer.coordinator_epoch)
        producer.last_timestamp = timestamp_ms
        verification = self._verifications.pop(producer_id, None)
        if verification is not None:
            verification.void = True
        first_offset = producer.txn_first_offset
        if first_offset == NO_OFFSET:
            return None
        producer.txn_first_offset = NO_OFFSET
        return first_offset, self.transactions.end(first_offset, offset)

    def expire(self, now_ms: int, expiration_ms: int) -> int:
        """Forget producers that have no open transaction and have been silent for ``expiration_ms``; say how many."""
        gone = [
            producer_id
            for producer_id, producer in self._by_id.items()
            if producer.txn_first_offset == NO_OFFSET
            and now_ms - producer.last_timestamp >= expiration_ms
            and abs(now_ms - producer.heard_ms) >= expiration_ms
        ]
        for producer_id in gone:
            del self._by_id[producer_id]
        for producer_id, known in list(self._verifications.items()):
            if known.askers:
                continue
            if known.idle_since_ms is None:
                known.idle_since_ms = now_ms
            elif now_ms - known.idle_since_ms >= expiration_ms:
                del self._verifications[producer_id]
        return len(gone)

    def clear(self) -> None:
        """Forget all."""
        self._take({})

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
        self._take(by_id)
        return offset

    def _take(self, by_id: dict[int, Producer]) -> None:
        self._by_id = by_id
        for verification in self._verifications.values():
            verification.void = True
        self._verifications.clear()
        open_ones = [one for one in by_id.values() if one.txn_first_offset != NO_OFFSET]
        self.transactions.replace([(one.txn_first_offset, one.producer_id) for one in open_ones])


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
