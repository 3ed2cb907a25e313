"""One transactional id and where its transaction stands: PURE values and the steps between them.

A :class:`Transaction` is what one record of `__transaction_state` says. The functions here are its transitions: each
gives the next value, or raises :class:`Refused` with what Kafka answers. The machine in :mod:`transactions` appends
what comes out and owns nothing of these rules. Follows KIP-98, KIP-360, KIP-447 and KIP-890.
"""

from __future__ import annotations

import msgspec

from logd.errors import ErrorCode, Refused
from logd.wire.schemas.transaction_records import PartitionsSchema, TransactionLogValue
from logd.wire.transactions import NAMES, State

NO_PRODUCER_ID = -1
NO_EPOCH = -1
EPOCH_MAX = 2**15 - 1
"""Only ever on a marker: no producer is given it, so that every producer can be fenced."""
EPOCH_LAST = EPOCH_MAX - 1
"""The last epoch that a producer may have; after it a new producer id begins."""
NOT_STARTED = -1
EPOCH_BUMP_VERSION = 2
"""The transaction.version in which every transaction raises the producer's epoch (KIP-890)."""

TopicPartition = tuple[str, int]

PREPARED = (State.PREPARE_COMMIT, State.PREPARE_ABORT)
COMPLETE = (State.COMPLETE_COMMIT, State.COMPLETE_ABORT)
IDLE = (State.EMPTY, *COMPLETE)
"""No transaction is open or ending: a new one may begin, and the id may be forgotten."""


class Transaction(msgspec.Struct, frozen=True, gc=False):
    """A transactional id, its producer and its latest transaction.

    :param epoch: of the producer; raised when a transaction of version 2 is prepared, so that its markers carry it.
    :param previous_producer_id: the producer id before this one.
    :param next_producer_id: takes effect when the transaction is complete; -1 when the id stays.
    :param client_version: transaction.version that the client used for its latest step.
    """

    producer_id: int
    epoch: int = NO_EPOCH
    state: State = State.EMPTY
    timeout_ms: int = 0
    partitions: frozenset[TopicPartition] = frozenset()
    started_ms: int = NOT_STARTED
    updated_ms: int = 0
    previous_producer_id: int = NO_PRODUCER_ID
    next_producer_id: int = NO_PRODUCER_ID
    client_version: int = 0

    @classmethod
    def restore(cls, value: TransactionLogValue) -> Transaction:
        """What a record says."""
        return cls(
            producer_id=value.producer_id,
            epoch=value.producer_epoch,
            state=State(value.transaction_status),
            timeout_ms=value.transaction_timeout_ms,
            partitions=frozenset(
                (schema.topic, index) for schema in value.transaction_partitions or () for index in schema.partition_ids
            ),
            started_ms=value.transaction_start_timestamp_ms,
            updated_ms=value.transaction_last_update_timestamp_ms,
            previous_producer_id=value.previous_producer_id,
            next_producer_id=value.next_producer_id,
            client_version=value.client_transaction_version,
        )

    def stored(self) -> TransactionLogValue:
        """The record that says so."""
        topics: dict[str, list[int]] = {}
        for topic, index in sorted(self.partitions):
            topics.setdefault(topic, []).append(index)
        partitions = [PartitionsSchema(topic, indexes) for topic, indexes in topics.items()]
        return TransactionLogValue(
            producer_id=self.producer_id,
            previous_producer_id=self.previous_producer_id,
            next_producer_id=self.next_producer_id,
            producer_epoch=self.epoch,
            transaction_timeout_ms=self.timeout_ms,
            transaction_status=int(self.state),
            transaction_partitions=None if self.state is State.EMPTY else partitions,
            transaction_last_update_timestamp_ms=self.updated_ms,
            transaction_start_timestamp_ms=self.started_ms,
            client_transaction_version=self.client_version,
        )

    @property
    def exhausted(self) -> bool:
        """Whether the producer id has no epoch left that a producer may have."""
        return self.epoch >= EPOCH_LAST

    @property
    def committing(self) -> bool:
        """For a transaction that is ending: whether it commits."""
        return self.state is State.PREPARE_COMMIT


def begun(transaction: Transaction, partitions: frozenset[TopicPartition], version: int, now_ms: int) -> Transaction:
    """The transaction with these partitions too, open."""
    return msgspec.structs.replace(
        transaction,
        state=State.ONGOING,
        partitions=transaction.partitions | partitions,
        started_ms=now_ms if transaction.state in IDLE else transaction.started_ms,
        updated_ms=now_ms,
        client_version=version,
    )


def prepared(
    transaction: Transaction, commit: bool, version: int, now_ms: int, *, fence: bool = False, new_id: int = -1
) -> Transaction:
    """The transaction about to end: from here on nothing can change how.

    With version 2 its epoch is raised, once, also when a fence is what ends it (KAFKA-19367).

    :param fence: the producer is to be shut out, whatever its version.
    :param new_id: a producer id to go on with when this one has no epoch left.
    """
    bumps = fence or version >= EPOCH_BUMP_VERSION
    exhausted = version >= EPOCH_BUMP_VERSION and transaction.exhausted
    return msgspec.structs.replace(
        transaction,
        state=State.PREPARE_COMMIT if commit else State.PREPARE_ABORT,
        epoch=min(transaction.epoch + 1, EPOCH_MAX) if bumps else transaction.epoch,
        started_ms=now_ms if transaction.state in IDLE else transaction.started_ms,
        updated_ms=now_ms,
        next_producer_id=new_id if exhausted else NO_PRODUCER_ID,
        client_version=version,
    )


def completed(transaction: Transaction, now_ms: int) -> Transaction:
    """The transaction after all its markers are written; an exhausted producer id is exchanged now."""
    assert transaction.state in PREPARED, f"{transaction.state!r} does not lead to an end"
    state = State.COMPLETE_COMMIT if transaction.committing else State.COMPLETE_ABORT
    ended = msgspec.structs.replace(
        transaction, state=state, partitions=frozenset(), updated_ms=now_ms, next_producer_id=NO_PRODUCER_ID
    )
    if transaction.next_producer_id == NO_PRODUCER_ID:
        return msgspec.structs.replace(ended, previous_producer_id=transaction.producer_id)
    return msgspec.structs.replace(
        ended, producer_id=transaction.next_producer_id, epoch=0, previous_producer_id=transaction.producer_id
    )


def initialised(
    transaction: Transaction, timeout_ms: int, now_ms: int, *, epoch: int, producer_id: int | None = None
) -> Transaction:
    """The id with no transaction, its producer at `epoch`, of another producer id if one is given."""
    return Transaction(
        producer_id=transaction.producer_id if producer_id is None else producer_id,
        epoch=epoch,
        timeout_ms=timeout_ms,
        updated_ms=now_ms,
        previous_producer_id=transaction.producer_id,
    )


# What may be asked


def check_producer(transaction: Transaction, transactional_id: str, producer_id: int, epoch: int) -> None:
    """Whether this producer is the one in force.

    :raises Refused: INVALID_PRODUCER_ID_MAPPING, PRODUCER_FENCED.
    """
    if transaction.producer_id != producer_id:
        raise wrong_id(transactional_id, producer_id)
    if transaction.epoch != epoch:
        raise fenced(transactional_id, epoch, transaction.epoch)


def check_instance(transaction: Transaction, transactional_id: str, producer_id: int, epoch: int) -> None:
    """Whether a producer that names itself may go on under this id (KIP-360).

    :raises Refused: PRODUCER_FENCED.
    """
    if transaction.epoch == NO_EPOCH or producer_id == transaction.producer_id:
        return
    if producer_id == transaction.previous_producer_id and epoch >= EPOCH_LAST:
        return
    raise fenced(transactional_id, epoch, transaction.epoch)


class Ending(msgspec.Struct, frozen=True):
    """What EndTxn may do: end the transaction, or only hear again how it ended."""

    done: bool


def check_end_old(transaction: Transaction, transactional_id: str, commit: bool, epoch: int) -> Ending:
    """EndTxn before version 5: the epoch is the producer's own, and the state alone tells a retry.

    :raises Refused: PRODUCER_FENCED, INVALID_TXN_STATE, CONCURRENT_TRANSACTIONS.
    """
    if epoch != transaction.epoch:
        raise fenced(transactional_id, epoch, transaction.epoch)
    state = transaction.state
    if state is State.ONGOING:
        return Ending(False)
    if state is (State.COMPLETE_COMMIT if commit else State.COMPLETE_ABORT):
        return Ending(True)
    if state in PREPARED:
        raise ending(transactional_id, state)
    raise wrong_state(transactional_id, state, commit)


def check_end(transaction: Transaction, transactional_id: str, commit: bool, producer_id: int, epoch: int) -> Ending:
    """EndTxn from version 5 on: each transaction has its own epoch, which tells a retry from the next one (KIP-890).

    An abort is always possible, also of a transaction that has not begun: the producer may not know. It may come while
    the one before is still being ended, with the epoch that is to follow, so that must be told from being fenced.

    :raises Refused: INVALID_PRODUCER_ID_MAPPING, PRODUCER_FENCED, INVALID_TXN_STATE, CONCURRENT_TRANSACTIONS.
    """
    overflowed = transaction.previous_producer_id == producer_id and epoch == EPOCH_LAST and transaction.epoch == 0
    bumped = transaction.epoch == epoch + 1
    state = transaction.state
    if state in PREPARED:
        raise ending(transactional_id, state)
    if transaction.producer_id != producer_id and not overflowed:
        raise wrong_id(transactional_id, producer_id)
    valid = epoch == transaction.epoch or (state in COMPLETE and (bumped or overflowed))
    if not valid or transaction.epoch == EPOCH_MAX:
        raise fenced(transactional_id, epoch, transaction.epoch)
    if state is State.ONGOING:
        return Ending(False)
    if state in COMPLETE and (bumped or overflowed):
        if commit == (state is State.COMPLETE_COMMIT):
            return Ending(True)
        raise wrong_state(transactional_id, state, commit)
    if commit:
        raise wrong_state(transactional_id, state, commit)
    return Ending(False)


# Refusals


def wrong_id(transactional_id: str, producer_id: int) -> Refused:
    return Refused(
        ErrorCode.INVALID_PRODUCER_ID_MAPPING,
        f"producer id {producer_id} is not the one of transactional.id {transactional_id!r}: initialise the producer",
    )


def fenced(transactional_id: str, epoch: int, current: int) -> Refused:
    return Refused(
        ErrorCode.PRODUCER_FENCED,
        f"epoch {epoch} of transactional.id {transactional_id!r} is not the current {current}: "
        "another producer with the same transactional.id took over, or the transaction timed out",
    )


def ending(transactional_id: str, state: State) -> Refused:
    return Refused(
        ErrorCode.CONCURRENT_TRANSACTIONS,
        f"the last transaction of {transactional_id!r} is still being ended ({NAMES[state]}): try again",
    )


def wrong_state(transactional_id: str, state: State, commit: bool) -> Refused:
    wish = "committed" if commit else "aborted"
    return Refused(
        ErrorCode.INVALID_TXN_STATE,
        f"the transaction of {transactional_id!r} is {NAMES[state]} and can't be {wish}",
    )
