"""What can happen to transactions: PURE values, handed to the machine by its runtime, one at a time.

Requests come as :class:`TransactionAsked`; deadlines that the machine itself has set, and the end of its markers,
come as the others.
"""

from __future__ import annotations

import msgspec

from logd.wire.message import Message


class TransactionAsked(msgspec.Struct, frozen=True):
    """A client, or another part of this node, asks.

    :param to: the parked call, never looked into; the answer goes there.
    :param request: the decoded body; its class decides what is asked. AddPartitionsToTxn comes as one transaction.
    :param new_producer_id: an id that nobody ever had, for requests that may need one; -1 when none is given.
    :param client: who asks, for those who read what happened.
    """

    to: object
    request: Message
    version: int = 0
    new_producer_id: int = -1
    client: str = ""


class MarkersWritten(msgspec.Struct, frozen=True):
    """Every partition of a prepared transaction has its marker, or is gone."""

    transactional_id: str
    producer_id: int
    epoch: int


class TransactionExpired(msgspec.Struct, frozen=True):
    """A transaction is open for longer than its producer's transaction.timeout.ms.

    :param started_ms: when it began: with old clients the next one has the same producer and epoch.
    :param new_producer_id: an id that nobody ever had, once it was asked for; else -1.
    """

    transactional_id: str
    producer_id: int
    epoch: int
    started_ms: int
    new_producer_id: int = -1


class IdleSwept(msgspec.Struct, frozen=True):
    """Time to forget transactional ids that nobody has used for long (transactional.id.expiration.ms)."""


class VersionChosen(msgspec.Struct, frozen=True):
    """The finalized level of the feature transaction.version, whenever it changes: for what no client asked."""

    level: int
