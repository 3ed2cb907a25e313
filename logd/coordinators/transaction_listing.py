"""What DescribeTransactions and ListTransactions tell of a shard's transactions: PURE (KIP-664, KIP-994, KIP-1152).

Called by the machine in :mod:`transactions`; it only looks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from logd.coordinators.transaction import Transaction
from logd.errors import ErrorCode
from logd.expressions import Expression
from logd.wire.schemas import describe_transactions
from logd.wire.schemas import list_transactions as listing
from logd.wire.schemas.describe_transactions import DescribeTransactionsResponse, TopicData
from logd.wire.schemas.list_transactions import ListTransactionsRequest, ListTransactionsResponse
from logd.wire.transactions import NAMES

_STATES = {name: state for state, name in NAMES.items()}


def describe(transactions: Mapping[str, Transaction], transactional_ids: Iterable[str]) -> DescribeTransactionsResponse:
    """One row for each id asked for."""
    rows = [_described(transactional_id, transactions.get(transactional_id)) for transactional_id in transactional_ids]
    return DescribeTransactionsResponse(transaction_states=rows)


def _described(transactional_id: str, transaction: Transaction | None) -> describe_transactions.TransactionState:
    if transaction is None:
        return describe_transactions.TransactionState(int(ErrorCode.TRANSACTIONAL_ID_NOT_FOUND), transactional_id)
    topics: dict[str, list[int]] = {}
    for topic, index in sorted(transaction.partitions):
        topics.setdefault(topic, []).append(index)
    return describe_transactions.TransactionState(
        0,
        transactional_id,
        NAMES[transaction.state],
        transaction.timeout_ms,
        transaction.started_ms,
        transaction.producer_id,
        transaction.epoch,
        [TopicData(topic, indexes) for topic, indexes in topics.items()],
    )


def list_transactions(
    transactions: Mapping[str, Transaction], request: ListTransactionsRequest, now_ms: int
) -> ListTransactionsResponse:
    """The ids that pass every filter.

    :raises Refused: INVALID_REGULAR_EXPRESSION.
    """
    states = {_STATES[name] for name in request.state_filters if name in _STATES}
    unknown = [name for name in dict.fromkeys(request.state_filters) if name not in _STATES]
    producer_ids = set(request.producer_id_filters)
    text = request.transactional_id_pattern
    pattern = Expression(text, of_topics=False) if text else None
    rows = []
    for transactional_id, transaction in transactions.items():
        if producer_ids and transaction.producer_id not in producer_ids:
            continue
        if request.state_filters and transaction.state not in states:
            continue
        if 0 <= request.duration_filter >= now_ms - transaction.started_ms:
            continue
        if pattern is not None and not pattern.resolve((transactional_id,)):
            continue
        row = listing.TransactionState(transactional_id, transaction.producer_id, NAMES[transaction.state])
        rows.append(row)
    return ListTransactionsResponse(unknown_state_filters=unknown, transaction_states=rows)
