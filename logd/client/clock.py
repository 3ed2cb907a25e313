"""The machine's clock, for a client that runs on its own.

A client inside a node is given the node's clock; one in a user's program is a root of its own and has this one.
Only default timestamps of records come from it.
"""

from __future__ import annotations

import time


class WallClock:
    """Tells the machine's time."""

    def now_ms(self) -> int:
        """Milliseconds since the Unix epoch, UTC."""
        return time.time_ns() // 1_000_000
