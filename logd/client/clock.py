"""The clock of a client that runs on its own.

A client inside a node is given the node's clock; one in a user's program is a root of its own and needs this one.
Only default timestamps of records come from it.
"""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """What the client asks of a clock."""

    def now_ms(self) -> int:
        """Milliseconds since 1970, UTC."""


class WallClock:
    """The machine's clock."""

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000
