"""May these batches begin a transaction in their partitions? What Produce asks the coordinator first (KIP-890).

A partition in which the producer's transaction is open already needs no question. For the others the coordinator of
the transactional id is asked, by old clients (Produce up to 11) only whether they were added, and by new ones to add
them. What was asked is remembered by the partition until the batch is appended, so that a marker which is written
meanwhile voids the answer. Called by ``apis.produce``, and :class:`Doubt` by ``apis.transaction_offsets`` too, whose
offsets go the same way; it appends nothing itself.
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
    from logd.log.producers import Producers, Verification
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


class Doubt:
    """Whether a producer's transaction may begin in one partition: from before the coordinator is asked until what is
    told of it has been used.

    :param restarts: as :meth:`Producers.begin_verification` has it.
    :raises Refused: INVALID_PRODUCER_EPOCH.
    """

    __slots__ = ("_about", "_producers", "_restarts", "verification")

    def __init__(self, producers: Producers, producer: tuple[int, int], sequence: int, *, restarts: bool) -> None:
        self._producers = producers
        self._about = (*producer, sequence)
        self._restarts = restarts
        self.verification: Verification | None = None
        """What the partition remembers; None when the transaction is open there, and nothing is to be asked."""
        self._begin()

    def _begin(self) -> None:
        self.verification = self._producers.begin_verification(*self._about, restarts=self._restarts)

    @property
    def void(self) -> bool:
        """Whether a marker was written since: what the coordinator told is of a transaction that is over."""
        return self.verification is not None and self.verification.void

    def begin_again(self) -> None:
        """Before it is asked again: markers of the transaction before, which was waited for, made it void.

        :raises Refused: INVALID_PRODUCER_EPOCH; then there is nothing left to close.
        """
        if self.void:
            self.close()
            self._begin()

    def close(self) -> None:
        """The answer has been used, or will not be."""
        verification, self.verification = self.verification, None
        if verification is not None:
            self._producers.end_verification(self._about[0], verification)


class Question:
    """What one Produce request asks of the coordinator, then what came of it for each of its batches."""

    __slots__ = ("_asked", "_refused", "_version", "producer")

    def __init__(self, version: int) -> None:
        self._version = version
        self._asked: dict[int, tuple[Partition, Doubt]] = {}
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
        try:
            doubt = Doubt(partition.log.producers, self.producer, sequence, restarts=self._version >= ADDS_FROM)
        except Refused as refused:
            self._refused[key] = refused
            return
        if doubt.verification is not None:
            self._asked[key] = partition, doubt

    def _begin_again(self) -> None:
        for key, (_, doubt) in list(self._asked.items()):
            try:
                doubt.begin_again()
            except Refused as refused:
                self._refused[key] = refused
            if doubt.verification is None:
                del self._asked[key]

    def ask(self, call: Call, transactional_id: str) -> Awaitable[Codes] | None:
        """Ask; what is to be waited for, None when the answer is there."""
        if not self._asked or self.producer is None:
            return None
        partitions = list({(partition.topic, partition.index) for partition, _ in self._asked.values()})
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
        for key, (partition, _) in self._asked.items():
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
        return asked[1].verification if asked is not None else None

    def refuses(self, data: PartitionProduceData) -> bool:
        """Whether the batch is refused already."""
        return id(data) in self._refused

    def close(self) -> None:
        """All has been appended, or will not be."""
        for _, doubt in self._asked.values():
            doubt.close()
        self._asked.clear()
