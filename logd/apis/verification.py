"""May these batches begin a transaction in their partitions? What Produce asks the coordinator first (KIP-890).

A partition in which the producer's transaction is open already needs no question. For the others the coordinator of
the transactional id is asked, by old clients (Produce up to 11) only whether they were added, and by new ones to add
them. What was asked is remembered by the partition until the batch is appended, so that a marker which is written
meanwhile voids the answer. Called by ``apis.produce``; it appends nothing itself.
"""

from __future__ import annotations

from collections.abc import Awaitable, Iterable
from typing import TYPE_CHECKING

from logd.apis.registry import Call
from logd.errors import ErrorCode, Refused
from logd.log.admission import MAGIC
from logd.wire.batches import HEADER_BYTES, read_header
from logd.wire.message import Buffer

if TYPE_CHECKING:
    from logd.log.producers import Verification
    from logd.partitions.partition import Partition
    from logd.wire.schemas.produce import PartitionProduceData

ADDS_FROM = 12
"""The Produce version from which on partitions are added without AddPartitionsToTxn, and epochs rise with each end."""
ABORTABLE_FROM = 11
"""Older clients do not know TRANSACTION_ABORTABLE."""

LATER = frozenset(
    {
        ErrorCode.NETWORK_EXCEPTION,
        ErrorCode.COORDINATOR_LOAD_IN_PROGRESS,
        ErrorCode.COORDINATOR_NOT_AVAILABLE,
        ErrorCode.NOT_COORDINATOR,
    }
)
"""Clients do not expect these of Produce: they are told NOT_ENOUGH_REPLICAS, and try again."""

Codes = dict[tuple[str, int], ErrorCode]
Batches = Iterable["tuple[Partition | None, PartitionProduceData]"]


class Question:
    """What one Produce request asks of the coordinator, then what came of it for each of its batches."""

    __slots__ = ("_asked", "_refused", "_version", "producer")

    def __init__(self, version: int) -> None:
        self._version = version
        self._asked: dict[int, tuple[Partition, Verification, int]] = {}
        self._refused: dict[int, Refused] = {}
        self.producer: tuple[int, int] | None = None
        """Id and epoch, once a batch was found that is transactional."""

    def put(self, batches: Batches) -> None:
        """Look which batches have to be asked for.

        :raises Refused: INVALID_PRODUCER_ID_MAPPING for the whole request when they are of several producers.
        """
        found = []
        for partition, data in batches:
            if partition is None or not isinstance(data.records, Buffer) or len(data.records) < HEADER_BYTES:
                continue
            header = read_header(data.records)
            if header.magic == MAGIC and header.is_transactional and header.producer_id >= 0:
                found.append((partition, data, header))
        producers = {(header.producer_id, header.producer_epoch) for _, _, header in found}
        if len(producers) > 1:
            raise Refused(
                ErrorCode.INVALID_PRODUCER_ID_MAPPING, "the transactional batches are of several producer ids or epochs"
            )
        for partition, data, header in found:
            self.producer = header.producer_id, header.producer_epoch
            self._begin(id(data), partition, header.base_sequence)

    def _begin(self, key: int, partition: Partition, sequence: int) -> None:
        assert self.producer is not None
        known, restarts = partition.log.producers, self._version >= ADDS_FROM
        try:
            verification = known.begin_verification(*self.producer, sequence, restarts=restarts)
        except Refused as refused:
            self._refused[key] = refused
            return
        if verification is not None:
            self._asked[key] = partition, verification, sequence

    def _begin_again(self) -> None:
        """Before it is asked again: markers of the transaction before, which was waited for, voided the question."""
        assert self.producer is not None
        for key, (partition, verification, sequence) in list(self._asked.items()):
            if verification.void:
                del self._asked[key]
                partition.log.producers.end_verification(self.producer[0], verification)
                self._begin(key, partition, sequence)

    def ask(self, call: Call, transactional_id: str) -> Awaitable[Codes] | None:
        """Ask; what is to be waited for, None when the answer is there."""
        if not self._asked or self.producer is None:
            return None
        partitions = list({(partition.topic, partition.index) for partition, _, _ in self._asked.values()})
        codes = call.services.transactions.add_partitions(
            transactional_id,
            *self.producer,
            partitions,
            verify_only=self._version < ADDS_FROM,
            before_again=self._begin_again,
        )
        if not isinstance(codes, dict):
            return codes
        self.answered(codes)
        return None

    def answered(self, codes: Codes) -> None:
        """Take the coordinator's answer."""
        for key, (partition, _, _) in self._asked.items():
            code = codes.get((partition.topic, partition.index), ErrorCode.NONE)
            if code:
                self._refused[key] = self._told(code, partition)

    def _told(self, code: ErrorCode, partition: Partition) -> Refused:
        """What a producer is told of a coordinator's error: each version what its clients know."""
        if code is ErrorCode.PRODUCER_FENCED:
            code = ErrorCode.INVALID_PRODUCER_EPOCH
        elif code is ErrorCode.TRANSACTION_ABORTABLE and self._version < ABORTABLE_FROM:
            code = ErrorCode.INVALID_TXN_STATE
        if code in LATER or (code is ErrorCode.CONCURRENT_TRANSACTIONS and self._version < ADDS_FROM):
            return Refused(
                ErrorCode.NOT_ENOUGH_REPLICAS,
                f"whether {partition!r} belongs to the transaction can't be told now ({code.name}): try again",
            )
        if code in (ErrorCode.INVALID_TXN_STATE, ErrorCode.TRANSACTION_ABORTABLE):
            return Refused(code, f"{partition!r} was not added to the transaction: abort it")
        return Refused(code, f"{partition!r} can't be added to the transaction: {code.name}")

    def answer_for(self, data: PartitionProduceData) -> Verification | None:
        """What goes with a batch to its partition.

        :raises Refused: the coordinator, or the partition before it was asked, said no.
        """
        refused = self._refused.get(id(data))
        if refused is not None:
            raise refused
        asked = self._asked.get(id(data))
        return asked[1] if asked is not None else None

    def refuses(self, data: PartitionProduceData) -> bool:
        """Whether the batch is refused already."""
        return id(data) in self._refused

    def close(self) -> None:
        """All has been appended, or will not be."""
        producer_id = self.producer[0] if self.producer is not None else -1
        for partition, verification, _ in self._asked.values():
            partition.log.producers.end_verification(producer_id, verification)
        self._asked.clear()
