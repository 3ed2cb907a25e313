"""Transactions on the wire: AddPartitionsToTxn (24), AddOffsetsToTxn (25), EndTxn (26), DescribeTransactions (65),
ListTransactions (66).

Checks what can be checked without the transaction, puts the rest to the transaction coordinator, and gives refusals
the name that a version knows. Offsets of transactions are in :mod:`transaction_offsets`, producers begin in
:mod:`producers`, markers are written by :mod:`markers`. Follows KIP-98, KIP-664, KIP-890, KIP-994 and KIP-1152.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from logd.apis.registry import Call, api
from logd.apis.turns import breathe
from logd.coordinators.front import Waiter
from logd.errors import ErrorCode, Refused
from logd.wire.message import Message
from logd.wire.schemas.add_offsets_to_txn import AddOffsetsToTxnRequest, AddOffsetsToTxnResponse
from logd.wire.schemas.add_partitions_to_txn import (
    AddPartitionsToTxnPartitionResult,
    AddPartitionsToTxnRequest,
    AddPartitionsToTxnResponse,
    AddPartitionsToTxnResult,
    AddPartitionsToTxnTopicResult,
    AddPartitionsToTxnTransaction,
)
from logd.wire.schemas.describe_transactions import (
    DescribeTransactionsRequest,
    DescribeTransactionsResponse,
    TransactionState,
)
from logd.wire.schemas.end_txn import EndTxnRequest, EndTxnResponse
from logd.wire.schemas.list_transactions import ListTransactionsRequest, ListTransactionsResponse

FENCED_VERSION = 2
"""Before this version of 24, 25 and 26 a fenced producer hears INVALID_PRODUCER_EPOCH (KIP-588)."""
BATCHED_VERSION = 4
"""From this version of AddPartitionsToTxn on brokers ask, for any number of transactions."""

Codes = Callable[[tuple[str, int]], ErrorCode]


def known_to(version: int, code: ErrorCode) -> ErrorCode:
    """The name by which a version knows an error."""
    if version < FENCED_VERSION and code is ErrorCode.PRODUCER_FENCED:
        return ErrorCode.INVALID_PRODUCER_EPOCH
    return code


# AddPartitionsToTxn


@api(24)
async def add_partitions_to_txn(call: Call, request: AddPartitionsToTxnRequest) -> AddPartitionsToTxnResponse:
    """Versions 0-5: one transaction of a client before 4, any number from a broker since. All of one, or none."""
    if call.version >= BATCHED_VERSION:
        results = []
        for number, transaction in enumerate(request.transactions):
            results.append(await _added(call, transaction))
            await breathe(number)
        return AddPartitionsToTxnResponse(results_by_transaction=results)
    transaction = AddPartitionsToTxnTransaction(
        request.v3_and_below_transactional_id,
        request.v3_and_below_producer_id,
        request.v3_and_below_producer_epoch,
        False,
        request.v3_and_below_topics,
    )
    result = await _added(call, transaction)
    return AddPartitionsToTxnResponse(results_by_topic_v3_and_below=result.topic_results)


async def _added(call: Call, transaction: AddPartitionsToTxnTransaction) -> AddPartitionsToTxnResult:
    places = [(topic.name, index) for topic in transaction.topics for index in topic.partitions]
    topics = call.services.cluster.image.topics
    missing = {
        (name, index)
        for name, index in places
        if (topic := topics.get(name)) is None or not 0 <= index < len(topic.partitions)
    }
    if missing:
        return _result(
            transaction,
            lambda place: (
                ErrorCode.UNKNOWN_TOPIC_OR_PARTITION if place in missing else ErrorCode.OPERATION_NOT_ATTEMPTED
            ),
        )
    codes = call.services.transactions.add_partitions(
        transaction.transactional_id,
        transaction.producer_id,
        transaction.producer_epoch,
        places,
        verify_only=transaction.verify_only,
        version=call.version,
    )
    told = codes if isinstance(codes, dict) else await codes
    return _result(transaction, lambda place: known_to(call.version, told[place]))


def _result(transaction: AddPartitionsToTxnTransaction, code_of: Codes) -> AddPartitionsToTxnResult:
    topics = [
        AddPartitionsToTxnTopicResult(
            topic.name,
            [AddPartitionsToTxnPartitionResult(index, int(code_of((topic.name, index)))) for index in topic.partitions],
        )
        for topic in transaction.topics
    ]
    return AddPartitionsToTxnResult(transaction.transactional_id, topics)


# AddOffsetsToTxn


def _offsets_not_added(request: AddOffsetsToTxnRequest, version: int, refused: Refused) -> AddOffsetsToTxnResponse:
    return AddOffsetsToTxnResponse(error_code=int(known_to(version, refused.code)))


@api(25, refuse=_offsets_not_added)
async def add_offsets_to_txn(call: Call, request: AddOffsetsToTxnRequest) -> AddOffsetsToTxnResponse:
    """Versions 0-4: the partition that keeps a group's offsets becomes part of the transaction."""
    transactions = call.services.transactions
    await call.services.groups.ensure_topic()
    place = transactions.offsets_partition(request.group_id)
    codes = transactions.add_partitions(
        request.transactional_id,
        request.producer_id,
        request.producer_epoch,
        [place],
        verify_only=False,
        version=0,
    )
    told = codes if isinstance(codes, dict) else await codes
    return AddOffsetsToTxnResponse(error_code=int(known_to(call.version, told[place])))


# EndTxn


def _not_ended(request: EndTxnRequest, version: int, refused: Refused) -> EndTxnResponse:
    return EndTxnResponse(0, int(known_to(version, refused.code)))


@api(26, refuse=_not_ended)
def end_txn(call: Call, request: EndTxnRequest) -> Message | Awaitable[Message]:
    """Versions 0-5; 5 answers with the producer id and epoch of the next transaction (KIP-890)."""
    if not request.transactional_id:
        raise Refused(ErrorCode.INVALID_REQUEST, "The transactional id is empty.")
    return call.services.transactions.ask_with_id(request.transactional_id, request, call.version, call.client)


# DescribeTransactions and ListTransactions


@api(65)
async def describe_transactions(call: Call, request: DescribeTransactionsRequest) -> DescribeTransactionsResponse:
    """Version 0 (KIP-664): each id by itself."""
    rows: list[TransactionState] = []
    for number, transactional_id in enumerate(request.transactional_ids):
        await breathe(number)
        try:
            if not transactional_id:
                raise Refused(ErrorCode.INVALID_REQUEST, "The transactional id is empty.")
            waiter = call.services.transactions.ask(transactional_id, DescribeTransactionsRequest([transactional_id]))
            part = await waiter.wait()
            assert isinstance(part, DescribeTransactionsResponse)
            rows += part.transaction_states
        except Refused as refused:
            rows.append(TransactionState(int(refused.code), transactional_id))
    return DescribeTransactionsResponse(transaction_states=rows)


def _not_listed(request: ListTransactionsRequest, version: int, refused: Refused) -> ListTransactionsResponse:
    return ListTransactionsResponse(error_code=int(refused.code))


@api(66, refuse=_not_listed)
async def list_transactions(call: Call, request: ListTransactionsRequest) -> ListTransactionsResponse:
    """Versions 0-2: those of this node, filtered by state, producer, duration (KIP-994) and id (KIP-1152)."""
    from logd.coordinators import transaction_listing

    # filters are checked, and unknown states named, before there is anything to list
    answer = transaction_listing.list_transactions({}, request, 0)
    waiters: list[Waiter] = call.services.transactions.ask_all(request, call.version)
    for waiter in waiters:
        part = await waiter.wait()
        assert isinstance(part, ListTransactionsResponse)
        answer.transaction_states += part.transaction_states
    return answer
