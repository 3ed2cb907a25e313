"""Where a transaction may stand: numbers in the records of ``__transaction_state``, names in answers about them.

Kafka's own (KIP-98, KIP-664, KIP-890). Its coordinator keeps them, and who asks it compares and offers them.
"""

from __future__ import annotations

from enum import IntEnum


class State(IntEnum):
    """Where a transaction stands; the numbers are those of the records. The last two are never stored."""

    EMPTY = 0
    ONGOING = 1
    PREPARE_COMMIT = 2
    PREPARE_ABORT = 3
    COMPLETE_COMMIT = 4
    COMPLETE_ABORT = 5
    DEAD = 6
    PREPARE_EPOCH_FENCE = 7


NAMES = {
    State.EMPTY: "Empty",
    State.ONGOING: "Ongoing",
    State.PREPARE_COMMIT: "PrepareCommit",
    State.PREPARE_ABORT: "PrepareAbort",
    State.COMPLETE_COMMIT: "CompleteCommit",
    State.COMPLETE_ABORT: "CompleteAbort",
    State.DEAD: "Dead",
    State.PREPARE_EPOCH_FENCE: "PrepareEpochFence",
}
"""As DescribeTransactions and ListTransactions show them, and as the latter takes them in a filter."""
