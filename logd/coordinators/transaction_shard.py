"""Puts one shard of transactions together: machine, record form and limits over a journal.

Called by :mod:`transaction_front`, and imported only when there is a shard to open: a node without transactions starts
without this and all that hangs on it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from logd.coordinators.runtime import RecordForm, Runtime
from logd.coordinators.transaction_records import from_bytes, to_bytes
from logd.coordinators.transactions import TransactionLimits, TransactionMachine

if TYPE_CHECKING:
    from collections.abc import Callable

    from logd.chronicle import Note
    from logd.clock import Clock
    from logd.config import Settings
    from logd.coordinators.effects import SendMarkers, TakeProducerId
    from logd.coordinators.journal import Journal
    from logd.coordinators.timer import Timer

_FORM = RecordForm(to_bytes, from_bytes)


def open_shard(
    name: str,
    journal: Journal,
    settings: Settings,
    level: int,
    timer: Timer,
    clock: Clock,
    send: Callable[[SendMarkers | TakeProducerId, int], None],
    tell: Callable[[Note, int], None] | None = None,
    steady: Clock | None = None,
) -> Runtime:
    """A runtime of transactions that is not loaded yet."""
    limits = TransactionLimits(
        expiration_ms=settings.transactional_id_expiration_ms,
        sweep_every_ms=settings.transaction_remove_expired_transaction_cleanup_interval_ms,
    )
    machine = TransactionMachine(limits, level)
    limit_ms = settings.offsets_commit_timeout_ms
    return Runtime(name, machine, journal, _FORM, timer, clock, limit_ms, send, tell, steady)
