"""The machine of one shard of `__transaction_state`: transactional ids and their transactions. PURE.

Turns events into effects (:meth:`TransactionMachine.handle`) and records into hard state (:meth:`replay`). Hard state
is the last record of each transactional id; soft is only the epoch that a producer had before its present one, by
which a repeated InitProducerId is known. A transaction that is prepared is in the log before its markers are asked
for, and complete only when they are committed; so whatever crashes in between, loading finds it prepared and asks
again. Called by :mod:`runtime` alone. Follows KIP-98, KIP-360 and KIP-890.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import Any

import msgspec

from logd.coordinators import transaction_findings, transaction_listing
from logd.coordinators.effects import (
    Append,
    Arm,
    Disarm,
    Effect,
    Record,
    Reply,
    SendMarkers,
    TakeProducerId,
    one_batch,
)
from logd.coordinators.journal import Producer
from logd.coordinators.transaction import (
    EPOCH_BUMP_VERSION,
    IDLE,
    NO_EPOCH,
    NO_PRODUCER_ID,
    PREPARED,
    Transaction,
    begun,
    check_end,
    check_end_old,
    check_instance,
    check_producer,
    completed,
    ending,
    fenced,
    initialised,
    prepared,
    wrong_id,
)
from logd.coordinators.transaction_events import (
    IdleSwept,
    MarkersWritten,
    TransactionAsked,
    TransactionExpired,
    VersionChosen,
)
from logd.coordinators.transaction_records import VALUE_VERSION
from logd.errors import ErrorCode, Refused
from logd.wire.schemas.add_partitions_to_txn import (
    AddPartitionsToTxnPartitionResult,
    AddPartitionsToTxnResult,
    AddPartitionsToTxnTopicResult,
    AddPartitionsToTxnTransaction,
)
from logd.wire.schemas.describe_transactions import DescribeTransactionsRequest
from logd.wire.schemas.end_txn import EndTxnRequest, EndTxnResponse
from logd.wire.schemas.init_producer_id import InitProducerIdRequest, InitProducerIdResponse
from logd.wire.schemas.list_transactions import ListTransactionsRequest
from logd.wire.schemas.transaction_records import TransactionLogKey
from logd.wire.transactions import State

END_BUMP_VERSION = 5
"""From this version of EndTxn on the client knows transaction.version 2."""
ADD_BROKERS_VERSION = 4
"""From this version of AddPartitionsToTxn on it is a broker that asks, for a client of transaction.version 2."""
SWEEP_KEY = ("sweep",)
SOON_MS = 100


class TransactionLimits(msgspec.Struct, frozen=True):
    """What the machine must obey.

    :param expiration_ms: an id that nobody used for so long is forgotten (transactional.id.expiration.ms).
    """

    expiration_ms: int = 604_800_000
    sweep_every_ms: int = 3_600_000
    sweep_records_max: int = 1000


class TransactionMachine:
    """Transactional ids of one shard. `transactions` is hard state, `before` and `level` are soft."""

    def __init__(self, limits: TransactionLimits, level: int = EPOCH_BUMP_VERSION) -> None:
        self.limits = limits
        self.level = level
        """The finalized transaction.version: for aborts that no client asked for."""
        self.transactions: dict[str, Transaction] = {}
        self.before: dict[str, int] = {}
        """The epoch before the present one, when the producer itself raised it (KIP-360)."""
        self._before_step: dict[str, int] = {}
        """Those that the present step has changed, as they were."""

    # The runtime's side

    def handle(self, event: Any, now_ms: int) -> list[Effect]:
        """What `event` asks for. A request that can't be served gets a ``Reply`` with the refusal."""
        kind = type(event.request) if type(event) is TransactionAsked else type(event)
        self._before_step.clear()
        try:
            return list(_HANDLERS[kind](self, event, now_ms))
        except Refused as refused:
            note = transaction_findings.refusal_note(event, refused)
            return [Reply(event.to, refused)] if note is None else [Reply(event.to, refused), note]

    def replay(self, offset: int, producer: Producer | None, record: Record) -> None:
        """Take one written record into the hard state."""
        key, value = record.key, record.value
        assert isinstance(key, TransactionLogKey)
        if value is None:
            self.transactions.pop(key.transactional_id, None)
            self.before.pop(key.transactional_id, None)
        else:
            known: Any = value
            self.transactions[key.transactional_id] = Transaction.restore(known)

    def at_once(self, event: object, now_ms: int) -> None:
        """Nothing that a transaction coordinator is asked is so simple."""

    def replay_marker(self, producer: Producer, committed: bool) -> None:
        """No transaction ever writes to this topic."""

    def loaded(self, now_ms: int) -> list[Effect]:
        """All records are in: finish what was begun, and watch what is open."""
        effects: list[Effect] = [Arm(SWEEP_KEY, self.limits.sweep_every_ms, IdleSwept(), steady=True)]
        for transactional_id, transaction in self.transactions.items():
            if transaction.state in PREPARED:
                effects.append(_markers(transactional_id, transaction))
            elif transaction.state is State.ONGOING:
                left_ms = transaction.started_ms + transaction.timeout_ms - now_ms
                effects.append(_watch(transactional_id, transaction, max(0, min(left_ms, transaction.timeout_ms))))
        return effects

    def unloaded(self) -> Sequence[Effect]:
        """Another node leads the shard now. Nobody waits inside the machine."""
        return ()

    def refused(self, records: Iterable[Record], why: Refused, now_ms: int) -> Sequence[Effect]:
        """These records were not written. What is asked for again later: markers, aborts."""
        again: list[Effect] = []
        self.before |= self._before_step
        for record in records:
            key = record.key
            assert isinstance(key, TransactionLogKey)
            transaction = self.transactions.get(key.transactional_id)
            if transaction is not None and transaction.state in PREPARED:
                again.append(Arm(_key(key.transactional_id), SOON_MS, _written(key.transactional_id, transaction)))
            elif transaction is not None and transaction.state is State.ONGOING:
                left_ms = max(SOON_MS, transaction.started_ms + transaction.timeout_ms - now_ms)
                again.append(_watch(key.transactional_id, transaction, min(left_ms, transaction.timeout_ms)))
        return again

    def check(self) -> None:
        """Assert what must always hold. For tests."""
        for transaction in self.transactions.values():
            assert transaction.state not in (State.DEAD, State.PREPARE_EPOCH_FENCE)
            assert transaction.epoch >= 0
            assert transaction.producer_id >= 0
            assert not transaction.partitions or transaction.state not in IDLE
            assert transaction.state in PREPARED or transaction.next_producer_id == NO_PRODUCER_ID

    # A producer begins

    def needs_id(self, request: object, version: int) -> bool:
        """Whether handling this may take a new producer id."""
        if isinstance(request, InitProducerIdRequest):
            transaction = self.transactions.get(request.transactional_id or "")
            return transaction is None or (transaction.exhausted and transaction.state not in PREPARED)
        if isinstance(request, EndTxnRequest) and version >= END_BUMP_VERSION:
            transaction = self.transactions.get(request.transactional_id)
            return transaction is not None and transaction.exhausted
        return False

    def _init(self, event: TransactionAsked, now_ms: int) -> Iterator[Effect]:
        request = event.request
        assert isinstance(request, InitProducerIdRequest)
        transactional_id = request.transactional_id or ""
        transaction = self.transactions.get(transactional_id) or Transaction(event.new_producer_id)
        if transaction.state in PREPARED:
            raise ending(transactional_id, transaction.state)
        named = request.producer_id != NO_PRODUCER_ID
        if named:
            check_instance(transaction, transactional_id, request.producer_id, request.producer_epoch)
        if transaction.state is State.ONGOING:
            yield from self._end(
                transactional_id, transaction, False, self.level, now_ms, event.new_producer_id, fence=True
            )
            yield Reply(event.to, ending(transactional_id, State.PREPARE_ABORT))
            yield transaction_findings.taken_over(transactional_id, transaction, event.client, now_ms)
            return
        expected = request.producer_epoch if named else None
        after = self._next_producer(transactional_id, transaction, expected, event, now_ms)
        yield _append(transactional_id, after)
        yield Reply(event.to, InitProducerIdResponse(0, 0, after.producer_id, after.epoch))
        if expected is None:
            yield transaction_findings.begins_anew(transactional_id, transaction, after, event.client)

    def _next_producer(
        self,
        transactional_id: str,
        transaction: Transaction,
        expected: int | None,
        event: TransactionAsked,
        now_ms: int,
    ) -> Transaction:
        """The producer with an epoch of its own: the next one, or the present one again for a repeated request."""
        request = event.request
        assert isinstance(request, InitProducerIdRequest)
        timeout_ms = request.transaction_timeout_ms
        epoch = transaction.epoch
        before = self.before.get(transactional_id, NO_EPOCH)
        if transaction.exhausted and expected in (None, epoch):
            assert event.new_producer_id != NO_PRODUCER_ID, "an id for a producer that has used up all its epochs"
            self._set_before(transactional_id, NO_EPOCH if expected is None else epoch)
            return initialised(transaction, timeout_ms, now_ms, epoch=0, producer_id=event.new_producer_id)
        if expected is None or epoch in (NO_EPOCH, expected):
            self._set_before(transactional_id, NO_EPOCH if expected is None else epoch)
            return initialised(transaction, timeout_ms, now_ms, epoch=epoch + 1)
        if expected != before:
            raise fenced(transactional_id, expected, epoch)
        return initialised(transaction, timeout_ms, now_ms, epoch=epoch)

    def _set_before(self, transactional_id: str, epoch: int) -> None:
        """Until the step's record is refused."""
        self._before_step[transactional_id] = self.before.get(transactional_id, NO_EPOCH)
        self.before[transactional_id] = epoch

    # A transaction

    def _add(self, event: TransactionAsked, now_ms: int) -> Iterator[Effect]:
        request = event.request
        assert isinstance(request, AddPartitionsToTxnTransaction)
        transactional_id = request.transactional_id
        transaction = self._find(transactional_id, request.producer_id)
        if transaction.state in PREPARED and not request.verify_only:
            raise ending(transactional_id, transaction.state)
        check_producer(transaction, transactional_id, request.producer_id, request.producer_epoch)
        if transaction.state in PREPARED:
            raise ending(transactional_id, transaction.state)
        asked = frozenset((topic.name, index) for topic in request.topics for index in topic.partitions)
        if request.verify_only:
            yield Reply(event.to, _verified(request, transaction))
            return
        if transaction.state is not State.ONGOING or not asked <= transaction.partitions:
            version = EPOCH_BUMP_VERSION if event.version >= ADD_BROKERS_VERSION else 0
            after = begun(transaction, asked, version, now_ms)
            yield _append(transactional_id, after)
            if transaction.state is not State.ONGOING:
                yield _watch(transactional_id, after, after.timeout_ms)
        yield Reply(event.to, _results(request, lambda place: ErrorCode.NONE))

    def _end_asked(self, event: TransactionAsked, now_ms: int) -> Iterator[Effect]:
        request = event.request
        assert isinstance(request, EndTxnRequest)
        transactional_id, commit = request.transactional_id, request.committed
        transaction = self._find(transactional_id, request.producer_id)
        if event.version >= END_BUMP_VERSION:
            version = EPOCH_BUMP_VERSION
            verdict = check_end(transaction, transactional_id, commit, request.producer_id, request.producer_epoch)
        else:
            version = 0
            if transaction.producer_id != request.producer_id:
                raise wrong_id(transactional_id, request.producer_id)
            verdict = check_end_old(transaction, transactional_id, commit, request.producer_epoch)
        after = transaction
        if not verdict.done:
            after = yield from self._end(transactional_id, transaction, commit, version, now_ms, event.new_producer_id)
        if after.next_producer_id == NO_PRODUCER_ID:
            yield Reply(event.to, EndTxnResponse(0, 0, after.producer_id, after.epoch))
        else:
            yield Reply(event.to, EndTxnResponse(0, 0, after.next_producer_id, 0))

    def _end(
        self,
        transactional_id: str,
        transaction: Transaction,
        commit: bool,
        version: int,
        now_ms: int,
        new_id: int,
        *,
        fence: bool = False,
    ) -> Generator[Effect, None, Transaction]:
        """Decide the end, then have the markers written."""
        after = prepared(transaction, commit, version, now_ms, fence=fence, new_id=new_id)
        if version >= EPOCH_BUMP_VERSION:
            self._set_before(transactional_id, transaction.epoch)
        elif fence:
            self._set_before(transactional_id, NO_EPOCH)
        yield _append(transactional_id, after)
        yield Disarm(_key(transactional_id))
        yield _markers(transactional_id, after)
        return after

    def _markers_written(self, event: MarkersWritten, now_ms: int) -> Iterator[Effect]:
        transaction = self.transactions.get(event.transactional_id)
        if transaction is None or transaction.state not in PREPARED:
            return
        if (transaction.producer_id, transaction.epoch) == (event.producer_id, event.epoch):
            yield _append(event.transactional_id, completed(transaction, now_ms))

    def _find(self, transactional_id: str, producer_id: int) -> Transaction:
        transaction = self.transactions.get(transactional_id)
        if transaction is None:
            raise wrong_id(transactional_id, producer_id)
        return transaction

    # Time

    def _expire(self, event: TransactionExpired, now_ms: int) -> Iterator[Effect]:
        """The producer took too long: abort, and shut it out."""
        transaction = self.transactions.get(event.transactional_id)
        if transaction is None or transaction.state is not State.ONGOING:
            return
        told = (event.producer_id, event.epoch, event.started_ms)
        if (transaction.producer_id, transaction.epoch, transaction.started_ms) != told:
            return
        new_id = event.new_producer_id
        if transaction.exhausted and self.level >= EPOCH_BUMP_VERSION and new_id == NO_PRODUCER_ID:
            yield TakeProducerId(event)
            return
        yield from self._end(event.transactional_id, transaction, False, self.level, now_ms, new_id, fence=True)
        yield transaction_findings.timed_out(event.transactional_id, transaction, now_ms)

    def _sweep(self, event: IdleSwept, now_ms: int) -> Iterator[Effect]:
        """Forget the ids that nobody used for long; what is more than one batch comes soon after."""
        limits = self.limits
        idle = (
            Record(TransactionLogKey(transactional_id))
            for transactional_id, transaction in self.transactions.items()
            if transaction.state in IDLE and transaction.updated_ms <= now_ms - limits.expiration_ms
        )
        records, whole = one_batch(idle, limits.sweep_records_max)
        if records:
            yield Append(records)
        yield Arm(SWEEP_KEY, limits.sweep_every_ms if whole else SOON_MS, IdleSwept(), steady=True)

    def _choose_version(self, event: VersionChosen, now_ms: int) -> Iterator[Effect]:
        self.level = event.level
        yield from ()

    # Looking

    def _describe(self, event: TransactionAsked, now_ms: int) -> Iterator[Effect]:
        request = event.request
        assert isinstance(request, DescribeTransactionsRequest)
        yield Reply(event.to, transaction_listing.describe(self.transactions, request.transactional_ids))

    def _list(self, event: TransactionAsked, now_ms: int) -> Iterator[Effect]:
        request = event.request
        assert isinstance(request, ListTransactionsRequest)
        yield Reply(event.to, transaction_listing.list_transactions(self.transactions, request, now_ms))


def _key(transactional_id: str) -> tuple[str, str]:
    return ("transaction", transactional_id)


def _append(transactional_id: str, after: Transaction) -> Append:
    return Append((Record(TransactionLogKey(transactional_id), after.stored(), VALUE_VERSION),))


def _watch(transactional_id: str, transaction: Transaction, after_ms: int) -> Arm:
    event = TransactionExpired(transactional_id, transaction.producer_id, transaction.epoch, transaction.started_ms)
    return Arm(_key(transactional_id), after_ms, event)


def _written(transactional_id: str, transaction: Transaction) -> MarkersWritten:
    return MarkersWritten(transactional_id, transaction.producer_id, transaction.epoch)


def _markers(transactional_id: str, transaction: Transaction) -> SendMarkers:
    return SendMarkers(
        (transaction.producer_id, transaction.epoch),
        transaction.committing,
        transaction.client_version,
        tuple(sorted(transaction.partitions)),
        _written(transactional_id, transaction),
    )


def _results(
    request: AddPartitionsToTxnTransaction, code_of: Callable[[tuple[str, int]], ErrorCode]
) -> AddPartitionsToTxnResult:
    topics = [
        AddPartitionsToTxnTopicResult(
            topic.name,
            [AddPartitionsToTxnPartitionResult(index, int(code_of((topic.name, index)))) for index in topic.partitions],
        )
        for topic in request.topics
    ]
    return AddPartitionsToTxnResult(request.transactional_id, topics)


def _verified(request: AddPartitionsToTxnTransaction, transaction: Transaction) -> AddPartitionsToTxnResult:
    there = transaction.partitions if transaction.state is State.ONGOING else frozenset()
    return _results(request, lambda place: ErrorCode.NONE if place in there else ErrorCode.TRANSACTION_ABORTABLE)


_HANDLERS: dict[type, Callable[[TransactionMachine, Any, int], Iterator[Effect]]] = {
    InitProducerIdRequest: TransactionMachine._init,
    AddPartitionsToTxnTransaction: TransactionMachine._add,
    EndTxnRequest: TransactionMachine._end_asked,
    DescribeTransactionsRequest: TransactionMachine._describe,
    ListTransactionsRequest: TransactionMachine._list,
    MarkersWritten: TransactionMachine._markers_written,
    TransactionExpired: TransactionMachine._expire,
    IdleSwept: TransactionMachine._sweep,
    VersionChosen: TransactionMachine._choose_version,
}
