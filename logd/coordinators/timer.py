"""One timer task for all deadlines of a coordinator: the trio shell around :class:`Deadlines`.

Machines arm deadlines through their runtime; this hands the events back when their time has come. Time is trio's
own, so that a jump of the wall clock expires nobody's session and a test turns it forward with its mock clock. A step
that fails is logged and ends nothing: the deadlines of all other groups go on.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Hashable

import trio

from logd.coordinators.deadlines import Deadlines

logger = logging.getLogger("logd.groups")

AT_ONCE = 10
"""How many deadlines that have come are seen to before others have their turn: each may write to a log, or look
through all offsets of a shard."""


class Timer:
    """Deadlines of many owners. A key is unique within its owner."""

    def __init__(self) -> None:
        self._deadlines = Deadlines()
        self._waits_until_ms = math.inf
        self._earlier = trio.Event()

    def __len__(self) -> int:
        return len(self._deadlines)

    def arm(self, owner: Hashable, key: Hashable, after_ms: int, fire: Callable[[], None]) -> None:
        """Call `fire` in `after_ms` milliseconds, unless the key is armed again or disarmed before."""
        at_ms = trio.current_time() * 1000 + after_ms
        self._deadlines.arm((owner, key), at_ms, fire)
        if at_ms < self._waits_until_ms:
            self._earlier.set()

    def disarm(self, owner: Hashable, key: Hashable) -> None:
        self._deadlines.disarm((owner, key))

    def disarm_all(self, owner: Hashable) -> None:
        """Forget all deadlines of one owner."""
        self._deadlines.disarm_all(owner)

    async def run(self) -> None:
        """Fire what is due, for ever."""
        while True:
            next_ms = self._deadlines.next_ms()
            self._waits_until_ms = math.inf if next_ms is None else next_ms
            self._earlier = trio.Event()
            with trio.move_on_at(self._waits_until_ms / 1000) as waiting:
                await self._earlier.wait()
            now_ms = trio.current_time() * 1000
            if waiting.cancelled_caught:  # then it is due, whatever rounding between the two units says
                now_ms = max(now_ms, self._waits_until_ms)
            self._waits_until_ms = -math.inf
            self._fire(now_ms)
            await trio.lowlevel.checkpoint()

    def _fire(self, now_ms: float) -> None:
        for _ in range(AT_ONCE):
            due = self._deadlines.pop(now_ms)
            if due is None:
                return
            fire = due[1]
            assert callable(fire)
            try:
                fire()
            except Exception:
                logger.exception("what was to happen at a deadline failed, which is a bug")
