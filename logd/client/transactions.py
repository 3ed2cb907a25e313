"""Transactions of a producer: all of what is sent in one and the offsets committed in it, or nothing (KIP-98, KIP-890).

:class:`Transactions` speaks with the coordinator for one transactional id; :class:`Transaction` is what the program has
within ``async with producer.transaction() as txn``. Where the server has transaction version 2, partitions join by the
first batch that is sent to them and every end raises the producer's epoch, so that what comes late is fenced; with
older servers they are announced before. Owned by the producer, which sends the records.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Protocol

import trio

from logd.client.accumulator import Acknowledged, Delivery, Header
from logd.client.calls import (
    ADD_OFFSETS_TO_TXN,
    ADD_PARTITIONS_TO_TXN,
    END_TXN,
    INIT_PRODUCER_ID,
    TXN_OFFSET_COMMIT,
    Call,
)
from logd.client.commits import Identity, at_coordinator, not_committed
from logd.client.connection import M
from logd.client.errors import ClientError, ProducerFenced, check
from logd.client.metadata import TopicPartition
from logd.client.routing import TRANSACTION, Router
from logd.client.sequences import Sequences
from logd.errors import ErrorCode, Refused
from logd.wire.message import Message
from logd.wire.schemas.add_offsets_to_txn import AddOffsetsToTxnRequest, AddOffsetsToTxnResponse
from logd.wire.schemas.add_partitions_to_txn import (
    AddPartitionsToTxnRequest,
    AddPartitionsToTxnResponse,
    AddPartitionsToTxnTopic,
)
from logd.wire.schemas.end_txn import EndTxnRequest, EndTxnResponse
from logd.wire.schemas.init_producer_id import InitProducerIdRequest, InitProducerIdResponse
from logd.wire.schemas.txn_offset_commit import (
    TxnOffsetCommitRequest,
    TxnOffsetCommitRequestPartition,
    TxnOffsetCommitRequestTopic,
    TxnOffsetCommitResponse,
)

if TYPE_CHECKING:
    from logd.client.producer import Producer

FEATURE = "transaction.version"
IMPLICIT_LEVEL = 2
END_HIGHEST_BEFORE = 4
OFFSETS_HIGHEST_BEFORE = 4
"""The highest versions of EndTxn and TxnOffsetCommit that mean transaction version 1."""
FENCED = (ErrorCode.PRODUCER_FENCED, ErrorCode.INVALID_PRODUCER_EPOCH)
FORGOTTEN = (ErrorCode.INVALID_PRODUCER_ID_MAPPING, ErrorCode.UNKNOWN_PRODUCER_ID)


class Reading(Protocol):
    """A consumer."""

    @property
    def share(self) -> Source:
        """What its offsets are committed by."""


class Source(Protocol):
    """What a transaction asks of a consumer whose offsets it commits."""

    @property
    def identity(self) -> Identity:
        """Who it is in its group."""

    def work(self) -> dict[TopicPartition, int]:
        """Where it stands after all that the program was given since the last commit."""

    def committed_up_to(self, offsets: Mapping[TopicPartition, int]) -> None:
        """These have been committed."""

    def rewind(self) -> None:
        """Go back to what was committed."""


class Transactions:
    """The transactions of one transactional id, one after the other.

    `error` is what went wrong in the present one: it can only be aborted. `fatal` ends the producer.
    """

    PRODUCE_HIGHEST_BEFORE = 11
    """The highest version of Produce that means transaction version 1."""

    def __init__(self, router: Router, name: str, timeout_ms: int, sequences: Sequences) -> None:
        self.name = name
        self.is_open = False
        self.is_implicit = False
        self.error: Exception | None = None
        self.fatal: ClientError | None = None
        self.lock = trio.Lock()
        self._router = router
        self._timeout_ms = timeout_ms
        self._sequences = sequences
        self._is_known = False
        """The coordinator may have heard of the present transaction."""
        self._must_begin_anew = True
        self._has_gaps = False
        self._is_forgotten = False
        self._added: set[TopicPartition] = set()
        self._groups: set[str] = set()
        self._adding = trio.Lock()

    # -- beginning

    async def begin(self) -> None:
        """Open one; asks the server only for the first and after trouble."""
        if self.fatal is not None:
            raise self.fatal.copy()
        if self._must_begin_anew:
            await self.open()
        self.is_open = True

    def transaction(self, producer: Producer, sources: list[Source]) -> Transaction:
        """What the program has of the present one."""
        return Transaction(producer, self, sources)

    async def open(self) -> None:
        """Take the id: whoever had it is fenced, what it left open is aborted."""
        await self._choose_version()
        before = self._sequences.shared
        # who was fenced meanwhile must not take the id back: so the identity is told when there is one (KIP-360)
        identity = (-1, -1) if before is None or self._is_forgotten else before
        request = InitProducerIdRequest(self.name, self._timeout_ms, *identity)
        answer = await self._ask(self._router, INIT_PRODUCER_ID, request, InitProducerIdResponse)
        self._sequences.restart((answer.producer_id, answer.producer_epoch))
        self._must_begin_anew = self._has_gaps = self._is_forgotten = False

    async def _choose_version(self) -> None:
        connection = await self._router.retry(self._router.connection)
        level = connection.finalized.get(FEATURE, (0, 0))[1]
        offered = connection.versions.get(END_TXN.key, (0, 0))[1]
        self.is_implicit = level >= IMPLICIT_LEVEL and offered > END_HIGHEST_BEFORE

    # -- what belongs to it

    async def enlist(self, partitions: Collection[TopicPartition]) -> None:
        """Called before batches are sent to these: announce those that are new."""
        if self.is_implicit:
            self._is_known = True
            return await trio.lowlevel.checkpoint()
        async with self._adding:
            new = [at for at in partitions if at not in self._added]
            if new:
                self._is_known = True
                await self._add(new)
                self._added.update(new)

    async def _add(self, partitions: Iterable[TopicPartition]) -> None:
        topics: dict[str, AddPartitionsToTxnTopic] = {}
        for at in partitions:
            topics.setdefault(at.topic, AddPartitionsToTxnTopic(at.topic)).partitions.append(at.partition)
        request = AddPartitionsToTxnRequest([], self.name, *self._who(), list(topics.values()))

        async def attempt(node: int) -> None:
            answer = await self._router.ask(ADD_PARTITIONS_TO_TXN, request, AddPartitionsToTxnResponse, node=node)
            numbers = {
                part.partition_error_code
                for topic in answer.results_by_topic_v3_and_below
                for part in topic.results_by_partition
            }
            for number in sorted(numbers - {ErrorCode.NONE, ErrorCode.OPERATION_NOT_ATTEMPTED}):
                self._check(number)

        await at_coordinator(self._router, self.name, attempt, TRANSACTION)

    async def commit_offsets(self, who: Identity, offsets: Mapping[TopicPartition, int]) -> None:
        """Let these offsets become the group's when the transaction commits.

        :raises CommitFailed: the consumer is no member of its group any more.
        """
        self._is_known = True
        if not self.is_implicit and who.group not in self._groups:
            add = AddOffsetsToTxnRequest(self.name, *self._who(), who.group)
            await self._ask(self._router, ADD_OFFSETS_TO_TXN, add, AddOffsetsToTxnResponse)
            self._groups.add(who.group)
        topics: dict[str, TxnOffsetCommitRequestTopic] = {}
        for at, offset in offsets.items():
            topic = topics.setdefault(at.topic, TxnOffsetCommitRequestTopic(at.topic))
            topic.partitions.append(TxnOffsetCommitRequestPartition(at.partition, offset))
        request = TxnOffsetCommitRequest(
            self.name, who.group, *self._who(), who.epoch, who.member_id, who.instance, list(topics.values())
        )

        async def attempt(node: int) -> None:
            connection = await self._router.connection(node)
            version = connection.version_for(TXN_OFFSET_COMMIT, None if self.is_implicit else OFFSETS_HIGHEST_BEFORE)
            answer = await connection.ask(TXN_OFFSET_COMMIT, request, TxnOffsetCommitResponse, version=version)
            for topic in answer.topics:
                for part in topic.partitions:
                    if part.error_code:
                        self._raise_if_ours(part.error_code)
                        raise not_committed(who, part.error_code, f"{topic.name}/{part.partition_index}")

        await at_coordinator(self._router, who.group, attempt)

    def failed(self, error: Exception, *, sent: bool) -> Exception:
        """A batch was given up; `sent` if the server may have it. What is to be told of it."""
        if isinstance(error, Refused) and error.code in FENCED:
            error = self._fenced(error.code)
        self._has_gaps = self._has_gaps or sent
        if self.error is None:
            self.error = error
        return error

    # -- the end

    async def end(self, router: Router, *, committed: bool) -> None:
        """Commit or abort what the coordinator knows of; nothing of it is open here after this.

        :raises ClientError: the server can't be asked: it decides at the next :meth:`begin`, or by its timeout.
        """
        try:
            if self._is_known and self.fatal is None:
                self._must_begin_anew = True
                await self._end(router, committed)
                self._must_begin_anew = self._has_gaps and not self.is_implicit
            self._is_known = False
        finally:
            self.close()

    def close(self) -> None:
        """Nothing of it is open here any more. What the coordinator may still have of it ends at the next
        :meth:`begin`."""
        self._must_begin_anew = self._must_begin_anew or self._is_known
        self._is_known = self.is_open = False
        self.error = None
        self._added.clear()
        self._groups.clear()

    async def _end(self, router: Router, committed: bool) -> None:
        request = EndTxnRequest(self.name, *self._who(), committed)
        highest = None if self.is_implicit else END_HIGHEST_BEFORE
        answer = await self._ask(router, END_TXN, request, EndTxnResponse, highest)
        if answer.producer_id >= 0:
            self._sequences.restart((answer.producer_id, answer.producer_epoch))
            self._has_gaps = False

    def _who(self) -> tuple[int, int]:
        assert self._sequences.shared is not None
        return self._sequences.shared

    async def _ask(self, router: Router, call: Call, request: Message, kind: type[M], highest: int | None = None) -> M:
        async def attempt(node: int) -> M:
            connection = await router.connection(node)
            answer = await connection.ask(call, request, kind, version=connection.version_for(call, highest))
            self._check(getattr(answer, "error_code", 0))
            return answer

        return await at_coordinator(router, self.name, attempt, TRANSACTION)

    def _check(self, number: int) -> None:
        self._raise_if_ours(number)
        check(number, None, f"transactional id {self.name!r}")

    def _raise_if_ours(self, number: int) -> None:
        if number in FENCED:
            raise self._fenced(ErrorCode(number))
        if number in FORGOTTEN:
            self._must_begin_anew = self._is_forgotten = True
        if number == ErrorCode.INVALID_TRANSACTION_TIMEOUT:
            message = (
                f"transaction_timeout_ms is {self._timeout_ms}: more than transaction.max.timeout.ms of the server"
            )
            raise Refused(ErrorCode.INVALID_TRANSACTION_TIMEOUT, message)

    def _fenced(self, code: ErrorCode) -> ClientError:
        if self.fatal is None:
            why = (
                f"another producer has taken the id since, or it was open for over {self._timeout_ms} ms ({code.name})"
            )
            remedy = "one producer for each transactional id; shorter transactions or a longer transaction_timeout_ms"
            self.fatal = ProducerFenced(f"the transaction of {self.name!r} was aborted by the server", why, remedy)
        return self.fatal.copy()

    def unknown_outcome(self, why: str) -> ClientError:
        """The commit was asked for and not answered: the error, and the end of this producer."""
        what = f"whether the transaction of {self.name!r} was committed is not known"
        remedy = "open producer and consumer anew: the group's committed offsets tell where to go on"
        self.fatal = ClientError(what, why, remedy)
        return self.fatal.copy()


class Transaction:
    """One open transaction, as the program has it. When its block ends, it is committed; by an exception, aborted."""

    def __init__(self, producer: Producer, transactions: Transactions, sources: list[Source]) -> None:
        self._producer = producer
        self._transactions = transactions
        self._sources = sources
        self._offsets: list[tuple[Source, dict[TopicPartition, int]]] = []
        self.is_aborted = False

    async def send(
        self,
        topic: str,
        value: bytes | None,
        *,
        key: bytes | None = None,
        partition: int | None = None,
        headers: Iterable[Header] = (),
        timestamp_ms: int | None = None,
    ) -> Delivery:
        """As :meth:`Producer.send`."""
        return await self._producer.send(
            topic, value, key=key, partition=partition, headers=headers, timestamp_ms=timestamp_ms
        )

    async def publish(
        self,
        topic: str,
        value: bytes | None,
        *,
        key: bytes | None = None,
        partition: int | None = None,
        headers: Iterable[Header] = (),
        timestamp_ms: int | None = None,
    ) -> Acknowledged:
        """As :meth:`Producer.publish`."""
        return await self._producer.publish(
            topic, value, key=key, partition=partition, headers=headers, timestamp_ms=timestamp_ms
        )

    async def commit_offsets(self, consumer: Reading, offsets: Mapping[TopicPartition, int] | None = None) -> None:
        """Let a consumer's offsets become its group's with this transaction: these, or all of which the program was
        given records. The consumer must not commit by itself (``GroupSettings(auto_commit_ms=0)``).

        :raises CommitFailed: the consumer's partitions were given to another member: abort, by letting it out.
        """
        source = consumer.share
        if source not in self._sources:
            self._sources.append(source)
        chosen = source.work() if offsets is None else dict(offsets)
        if chosen:
            await self._transactions.commit_offsets(source.identity, chosen)
            self._offsets.append((source, chosen))

    def abort(self) -> None:
        """Abort when the block ends, instead of committing."""
        self.is_aborted = True

    def committed(self) -> None:
        """Called by the producer."""
        for source, offsets in self._offsets:
            source.committed_up_to(offsets)

    def undone(self) -> None:
        """Called by the producer: consumers go back to what was committed."""
        for source in self._sources:
            source.rewind()
