"""Time, as the node hands it down.

This is the seam through which every part below :mod:`logd.node` learns the time, so that a test can turn it
forward. The real clock lives in the node; nothing here reads one. Callers: everyone who stamps or expires.
"""

from __future__ import annotations

from typing import Protocol


class Clock(Protocol):
    """What tells the time of day."""

    def now_ms(self) -> int:
        """Milliseconds since the Unix epoch, UTC."""
        ...
