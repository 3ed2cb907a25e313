"""A shard of transactions without loop, clock or disk: steps the machine as the runtime does, and prints what it asks.

Used by the golden transcripts, the tables and the stateful test. Calls are names; their answers are kept. Markers that
are asked for wait in `unsent` until :meth:`Story.mark` writes them, ids in `untaken` until :meth:`Story.take_id`.
"""

from __future__ import annotations

from collections import deque

import msgspec

from logd.coordinators.deadlines import Deadlines
from logd.coordinators.effects import Append, Arm, Disarm, Effect, Record, Reply, SendMarkers, TakeProducerId
from logd.coordinators.transaction import Transaction
from logd.coordinators.transaction_events import TransactionAsked, TransactionExpired
from logd.coordinators.transaction_records import from_bytes, to_bytes
from logd.coordinators.transactions import TransactionLimits, TransactionMachine
from logd.errors import ErrorCode, Refused
from logd.wire.message import Message
from logd.wire.schemas.add_partitions_to_txn import (
    AddPartitionsToTxnResult,
    AddPartitionsToTxnTopic,
    AddPartitionsToTxnTransaction,
)
from logd.wire.schemas.end_txn import EndTxnRequest, EndTxnResponse
from logd.wire.schemas.init_producer_id import InitProducerIdRequest, InitProducerIdResponse
from logd.wire.schemas.transaction_records import TransactionLogKey, TransactionLogValue
from logd.wire.transactions import NAMES

ID = "x"
TIMEOUT_MS = 60_000


class Story:
    """One machine, its log, its deadlines, and the markers and producer ids that it wants."""

    def __init__(self, limits: TransactionLimits | None = None, level: int = 2) -> None:
        self.limits = limits or TransactionLimits()
        self.level = level
        self.machine = TransactionMachine(self.limits, level)
        self.log: list[tuple[bytes, bytes | None]] = []
        self.now_ms = 1_000
        self.failing = False
        self.answers: dict[str, Message | Refused] = {}
        self.deadlines = Deadlines()
        self.unsent: deque[SendMarkers] = deque()
        self.untaken: deque[TransactionExpired] = deque()
        self.ids = 100

    # Steps

    def step(self, event: object) -> list[Effect]:
        """Handle one event as the runtime does; returns all effects."""
        effects = self._carry_out(self.machine.handle(event, self.now_ms))
        self.machine.check()
        return effects

    def _carry_out(self, effects: list[Effect]) -> list[Effect]:
        records = [record for effect in effects if isinstance(effect, Append) for record in effect.records]
        if records and self.failing:
            return self._take_back(effects, records)
        for record in records:
            self.log.append(to_bytes(record))
            self.machine.replay(len(self.log) - 1, None, record)
        for effect in effects:
            self._do(effect)
        return effects

    def _take_back(self, effects: list[Effect], records: list[Record]) -> list[Effect]:
        why = Refused(ErrorCode.NOT_COORDINATOR, "the log failed")
        told = [Reply(effect.to, why) if isinstance(effect, Reply) else effect for effect in effects]
        for effect in told:
            if not isinstance(effect, SendMarkers):
                self._do(effect)
        return told + self._carry_out(list(self.machine.refused(records, why, self.now_ms)))

    def _do(self, effect: Effect) -> None:
        match effect:
            case Reply():
                assert isinstance(effect.to, str)
                assert effect.to not in self.answers, f"{effect.to} was answered twice"
                self.answers[effect.to] = effect.message
            case Arm():
                self.deadlines.arm(effect.key, self.now_ms + effect.after_ms, effect.event)
            case Disarm():
                self.deadlines.disarm(effect.key)
            case SendMarkers():
                self.unsent.append(effect)
            case TakeProducerId():
                assert isinstance(effect.event, TransactionExpired)
                self.untaken.append(effect.event)

    def mark(self) -> list[Effect]:
        """Write the markers that have waited longest, and say so."""
        return self.step(self.unsent.popleft().written)

    def take_id(self) -> list[Effect]:
        """Get the producer id that was asked for first, and say so."""
        self.ids += 1
        return self.step(msgspec.structs.replace(self.untaken.popleft(), new_producer_id=self.ids))

    def advance(self, ms: int) -> list[Effect]:
        """Let time pass and deadlines come, each at its own moment."""
        effects: list[Effect] = []
        end_ms = self.now_ms + ms
        while (next_ms := self.deadlines.next_ms()) is not None and next_ms <= end_ms:
            self.now_ms = max(self.now_ms, int(next_ms))
            due = self.deadlines.pop(self.now_ms)
            if due is not None:
                effects += self.step(due[1])
        self.now_ms = end_ms
        return effects

    def replayed(self) -> TransactionMachine:
        """A machine that has seen nothing but the log."""
        machine = TransactionMachine(self.limits, self.level)
        for offset, (key, value) in enumerate(self.log):
            record = from_bytes(key, value)
            assert record is not None
            machine.replay(offset, None, record)
        return machine

    def reload(self) -> list[Effect]:
        """Die, with markers half sent, and come back from the log."""
        self.unsent.clear()
        self.untaken.clear()
        self.deadlines = Deadlines()
        self.machine = self.replayed()
        return self._carry_out(self.machine.loaded(self.now_ms))

    def wear_out(self, transactional_id: str, epoch: int) -> None:
        """Write a record by which an idle producer has come to a late epoch."""
        found = msgspec.structs.replace(self.machine.transactions[transactional_id], epoch=epoch)
        record = Record(TransactionLogKey(transactional_id), found.stored(), 1)
        self.machine.replay(len(self.log), None, record)
        self.log.append(to_bytes(record))

    # Requests

    def ask(self, to: str, request: Message, version: int) -> list[Effect]:
        """Put a request to the machine; the call is called `to`."""
        new_id = -1
        if self.machine.needs_id(request, version):
            self.ids += 1
            new_id = self.ids
        return self.step(TransactionAsked(to, request, version, new_id))

    def init(
        self,
        to: str,
        transactional_id: str = ID,
        producer: tuple[int, int] = (-1, -1),
        timeout_ms: int = TIMEOUT_MS,
        version: int = 5,
    ) -> list[Effect]:
        return self.ask(to, InitProducerIdRequest(transactional_id, timeout_ms, *producer), version)

    def add(
        self,
        to: str,
        producer: tuple[int, int],
        *partitions: tuple[str, int],
        transactional_id: str = ID,
        verify: bool = False,
        version: int = 5,
    ) -> list[Effect]:
        topics = [AddPartitionsToTxnTopic(topic, [index]) for topic, index in partitions]
        return self.ask(to, AddPartitionsToTxnTransaction(transactional_id, *producer, verify, topics), version)

    def end(
        self, to: str, producer: tuple[int, int], commit: bool = True, *, transactional_id: str = ID, version: int = 5
    ) -> list[Effect]:
        return self.ask(to, EndTxnRequest(transactional_id, *producer, commit), version)

    # What came of it

    def outcome(self, to: str) -> object:
        """(id, epoch) of an answer, or the code by which it was refused, or the codes of partitions."""
        answer = self.answers[to]
        match answer:
            case Refused():
                return answer.code
            case InitProducerIdResponse() | EndTxnResponse():
                return answer.producer_id, answer.producer_epoch
            case AddPartitionsToTxnResult():
                codes = {
                    ErrorCode(result.partition_error_code)
                    for topic in answer.topic_results
                    for result in topic.results_by_partition
                }
                return codes.pop() if len(codes) == 1 else codes
        return answer

    @property
    def transaction(self) -> Transaction:
        return self.machine.transactions[ID]

    @property
    def where(self) -> tuple[str, int, int]:
        """Name of the state, producer id, epoch."""
        found = self.transaction
        return NAMES[found.state], found.producer_id, found.epoch


def lines(effects: list[Effect]) -> list[str]:
    """Effects as one line each."""
    return [_line(effect) for effect in effects]


def _line(effect: Effect) -> str:
    match effect:
        case Append():
            return "append " + "; ".join(_record(record) for record in effect.records)
        case Reply():
            return f"reply {effect.to}: {_answer(effect.message)}"
        case Arm():
            return f"arm {_key(effect.key)} in {effect.after_ms} ms: {type(effect.event).__name__}"
        case Disarm():
            return f"disarm {_key(effect.key)}"
        case SendMarkers():
            how = "commit" if effect.committed else "abort"
            return f"markers {how} {effect.producer} v{effect.version} to {_places(effect.partitions)}"
        case TakeProducerId():
            return f"take a producer id for {type(effect.event).__name__}"
    return repr(effect)


def _key(key: object) -> str:
    return " ".join(map(str, key)) if isinstance(key, tuple) else str(key)


def _places(places: tuple[tuple[str, int], ...]) -> str:
    return ",".join(f"{topic}-{index}" for topic, index in places) or "nobody"


def _record(record: Record) -> str:
    key, value = record.key, record.value
    assert isinstance(key, TransactionLogKey)
    if value is None:
        return f"{key.transactional_id}: gone"
    assert isinstance(value, TransactionLogValue)
    found = Transaction.restore(value)
    ids = f"{found.producer_id}:{found.epoch} before {found.previous_producer_id}"
    if found.next_producer_id != -1:
        ids += f" next {found.next_producer_id}"
    places = _places(tuple(sorted(found.partitions)))
    return (
        f"{key.transactional_id}: {NAMES[found.state]} {ids} v{found.client_version} since {found.started_ms} {places}"
    )


def _answer(message: Message | Refused) -> str:
    if isinstance(message, Refused):
        return message.code.name
    match message:
        case InitProducerIdResponse() | EndTxnResponse():
            return f"{message.producer_id}:{message.producer_epoch}"
        case AddPartitionsToTxnResult():
            return " ".join(
                f"{topic.name}-{result.partition_index} {ErrorCode(result.partition_error_code).name}"
                for topic in message.topic_results
                for result in topic.results_by_partition
            )
    return repr(message)
