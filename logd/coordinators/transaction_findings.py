"""What happened to a transactional id, in sentences: PURE. Called by the machine in :mod:`transactions`.

Only what is out of the ordinary: who took over from whom, what took too long, what was refused. The API `Why` adds how
things stand at the moment.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from logd.chronicle import Note, transaction_note
from logd.coordinators.transaction import NO_EPOCH, Transaction
from logd.errors import ErrorCode, Refused

if TYPE_CHECKING:
    from logd.coordinators.transaction_events import TransactionAsked

WAITED_FOR = frozenset({ErrorCode.CONCURRENT_TRANSACTIONS})
"""Told to every client that comes back while its last transaction is being ended, and tried again by all of them."""


def taken_over(transactional_id: str, was: Transaction, client: str, now_ms: int) -> Note:
    """A producer began while another one had a transaction open."""
    text = (
        f"a producer began ({_who(client)}) while {_producer(was)} had a transaction open for "
        f"{_seconds(now_ms - was.started_ms)}: that one is aborted, and whoever holds that epoch is shut out"
    )
    facts = {"producer": was.producer_id, "epoch": was.epoch, "client": client}
    return transaction_note(transactional_id, "taken-over", text, **facts, partitions=len(was.partitions))


def begins_anew(transactional_id: str, was: Transaction, now: Transaction, client: str) -> Note:
    """A producer began that does not go on from an epoch of its own."""
    text = f"a producer began ({_who(client)}) as {_producer(now)}"
    if was.epoch != NO_EPOCH:
        text += f"; whoever still is {_producer(was)} is shut out"
    return transaction_note(transactional_id, "began", text, producer=now.producer_id, epoch=now.epoch, client=client)


def timed_out(transactional_id: str, was: Transaction, now_ms: int) -> Note:
    """A transaction was open for longer than its producer had asked for."""
    text = (
        f"the transaction of {_producer(was)} was open for {_seconds(now_ms - was.started_ms)} and its producer had "
        f"asked for {_seconds(was.timeout_ms)} (transaction.timeout.ms): it is aborted, and that producer shut out"
    )
    facts = {"producer": was.producer_id, "epoch": was.epoch, "timeout_ms": was.timeout_ms}
    return transaction_note(transactional_id, "timed-out", text, **facts, partitions=len(was.partitions))


def refusal_note(event: TransactionAsked, refused: Refused) -> Note | None:
    """What was refused to whom, and why; None for what everybody meets, and for questions about many ids."""
    request: Any = event.request
    transactional_id = getattr(request, "transactional_id", None)
    if not transactional_id or refused.code in WAITED_FOR:
        return None
    what = type(request).__name__.removesuffix("Request").removesuffix("Transaction")
    text = f"{what} of {_who(event.client)} was refused: {refused.code.name}: {refused.message}"
    facts = {"request": what, "error": refused.code.name, "client": event.client}
    return transaction_note(transactional_id, "refused", text, **facts)


def _producer(one: Transaction) -> str:
    return f"producer {one.producer_id} with epoch {one.epoch}"


def _who(client: str) -> str:
    return client or "a client"


def _seconds(duration_ms: int) -> str:
    return f"{max(duration_ms, 0) / 1000:g} s"
