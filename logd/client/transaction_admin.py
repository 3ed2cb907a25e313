"""Transactions from the administrator's side: list, describe, find those that hang, end them.

A part of :class:`logd.client.admin.Admin`. A transaction hangs when a partition holds it open and its coordinator
does not know of it any more (KIP-664): readers of committed records wait behind it for ever.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial

import msgspec

from logd.client.calls import DESCRIBE_PRODUCERS, DESCRIBE_TRANSACTIONS, LIST_TRANSACTIONS, WRITE_TXN_MARKERS
from logd.client.errors import ClientError, check
from logd.client.metadata import TopicPartition
from logd.client.routing import TRANSACTION, Router
from logd.errors import Refused
from logd.wire.schemas import describe_producers, describe_transactions, list_transactions, write_txn_markers
from logd.wire.transactions import NAMES, State

UNDER_WAY = {NAMES[state] for state in (State.ONGOING, State.PREPARE_COMMIT, State.PREPARE_ABORT)}


class ListedTransaction(msgspec.Struct, frozen=True):
    """A transactional id and the state of its latest transaction."""

    transactional_id: str
    producer_id: int
    state: str
    coordinator: int


class Transaction(msgspec.Struct, frozen=True):
    """A transactional id in full; `started_ms` is -1 when no transaction is open."""

    transactional_id: str
    producer_id: int
    producer_epoch: int
    state: str
    timeout_ms: int
    started_ms: int
    coordinator: int
    partitions: tuple[TopicPartition, ...]


class OpenTransaction(msgspec.Struct, frozen=True):
    """What one partition knows of a producer whose transaction it holds open; `written_ms` is its last write."""

    at: TopicPartition
    producer_id: int
    producer_epoch: int
    coordinator_epoch: int
    first_offset: int
    written_ms: int


class Transactions:
    """What an administrator does to transactions."""

    def __init__(self, router: Router) -> None:
        self._router = router

    async def list(self, *, states: Iterable[str] = (), producer_ids: Iterable[int] = ()) -> list[ListedTransaction]:
        """The transactional ids of all brokers, by name; only those in these states or of these producers."""
        metadata = await self._router.refresh([])
        found = []
        for node in metadata.brokers:
            request = list_transactions.ListTransactionsRequest(list(states), list(producer_ids))
            answer = await self._router.retry(partial(self._list, request, node))
            found += [
                ListedTransaction(item.transactional_id, item.producer_id, item.transaction_state, node)
                for item in answer.transaction_states
            ]
        return sorted(found, key=lambda item: item.transactional_id)

    async def _list(
        self, request: list_transactions.ListTransactionsRequest, node: int
    ) -> list_transactions.ListTransactionsResponse:
        kind = list_transactions.ListTransactionsResponse
        answer = await self._router.ask(LIST_TRANSACTIONS, request, kind, node=node)
        check(answer.error_code, None, "list of transactions")
        return answer

    async def describe(self, transactional_id: str) -> Transaction:
        """One transactional id. :raises Refused: TRANSACTIONAL_ID_NOT_FOUND when nobody has used it."""

        async def attempt() -> Transaction:
            try:
                node = await self._router.coordinator(transactional_id, TRANSACTION)
                request = describe_transactions.DescribeTransactionsRequest([transactional_id])
                kind = describe_transactions.DescribeTransactionsResponse
                answer = await self._router.ask(DESCRIBE_TRANSACTIONS, request, kind, node=node)
                item = answer.transaction_states[0]
                check(item.error_code, None, f"transactional id {transactional_id!r}")
            except (Refused, ClientError):
                self._router.forget_coordinator(transactional_id, TRANSACTION)
                raise
            return Transaction(
                transactional_id,
                item.producer_id,
                item.producer_epoch,
                item.transaction_state,
                item.transaction_timeout_ms,
                item.transaction_start_time_ms,
                node,
                tuple(TopicPartition(topic.topic, index) for topic in item.topics for index in topic.partitions),
            )

        return await self._router.retry(attempt)

    async def open_in(self, partitions: Iterable[TopicPartition]) -> Sequence[OpenTransaction]:
        """The transactions that these partitions hold open, by partition."""
        found: list[OpenTransaction] = []
        wanted = list(partitions)
        await self._router.refresh(sorted({at.topic for at in wanted}))
        for node, ats in (await self._router.by_leader(wanted)).items():
            topics: dict[str, describe_producers.TopicRequest] = {}
            for at in ats:
                topic = topics.setdefault(at.topic, describe_producers.TopicRequest(name=at.topic))
                topic.partition_indexes.append(at.partition)
            request = describe_producers.DescribeProducersRequest(list(topics.values()))
            kind = describe_producers.DescribeProducersResponse
            answer = await self._router.ask(DESCRIBE_PRODUCERS, request, kind, node=node)
            for item in answer.topics:
                for part in item.partitions:
                    at = TopicPartition(item.name, part.partition_index)
                    check(part.error_code, part.error_message, f"producers of {at}")
                    found += [_open(at, one) for one in part.active_producers if one.current_txn_start_offset >= 0]
        return sorted(found, key=lambda item: (item.at, item.first_offset))

    async def hanging(self, partitions: Iterable[TopicPartition]) -> Sequence[OpenTransaction]:
        """Those that are open in a partition while no coordinator counts it among an open transaction's."""
        held = await self.open_in(partitions)
        if not held:
            return []
        known: dict[int, Transaction] = {}
        for item in await self.list(producer_ids=sorted({one.producer_id for one in held})):
            known[item.producer_id] = await self.describe(item.transactional_id)
        unknown = [one for one in held if not _is_known(one, known.get(one.producer_id))]
        if not unknown:
            return []
        # what ended between the two questions does not hang: it is not open any more
        still = {_identity(one) for one in await self.open_in(dict.fromkeys(one.at for one in unknown))}
        return [one for one in unknown if _identity(one) in still]

    async def abort(self, one: OpenTransaction) -> None:
        """Write the mark of an abort for a transaction that hangs. :raises Refused: the partition does not take it."""
        node = (await self._router.leader(one.at)).leader
        marker = write_txn_markers.WritableTxnMarker(
            producer_id=one.producer_id,
            producer_epoch=one.producer_epoch,
            transaction_result=False,
            topics=[write_txn_markers.WritableTxnMarkerTopic(one.at.topic, [one.at.partition])],
            coordinator_epoch=max(one.coordinator_epoch, 0),
        )
        request = write_txn_markers.WriteTxnMarkersRequest([marker])
        answer = await self._router.ask(
            WRITE_TXN_MARKERS, request, write_txn_markers.WriteTxnMarkersResponse, node=node
        )
        for item in answer.markers:
            for topic in item.topics:
                for part in topic.partitions:
                    check(part.error_code, None, f"abort of the transaction of producer {one.producer_id} in {one.at}")


def _identity(one: OpenTransaction) -> tuple[TopicPartition, int, int, int]:
    return one.at, one.producer_id, one.producer_epoch, one.first_offset


def _open(at: TopicPartition, one: describe_producers.ProducerState) -> OpenTransaction:
    return OpenTransaction(
        at,
        one.producer_id,
        one.producer_epoch,
        one.coordinator_epoch,
        one.current_txn_start_offset,
        one.last_timestamp,
    )


def _is_known(one: OpenTransaction, found: Transaction | None) -> bool:
    """Whether the coordinator has the partition in a transaction that it will end itself."""
    if found is None or found.producer_epoch < one.producer_epoch:
        return False
    if found.state in UNDER_WAY:
        return one.at in found.partitions
    return False
