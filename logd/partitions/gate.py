"""An offset that only rises, and those who wait for it.

A gate holds one offset (the high watermark, or what has been flushed) and the tasks parked on it. A partition
owns two; produce requests and coordinators wait at them. Nothing here touches a log or a clock.
"""

from __future__ import annotations

from collections import deque

import trio

from logd.errors import Refused


class Gate:
    """A rising offset with waiters in order of arrival."""

    __slots__ = ("_parked", "_turned_away", "failure", "offset")

    def __init__(self, offset: int) -> None:
        self.offset = offset
        self.failure: Refused | None = None
        self._turned_away: Refused | None = None
        self._parked: deque[tuple[int, trio.Event]] = deque()

    def advance(self, offset: int) -> None:
        """Move to an offset and wake all who waited for no more than it."""
        self.offset = offset
        parked = self._parked
        while parked and parked[0][0] <= offset:
            parked.popleft()[1].set()

    def fail(self, failure: Refused) -> None:
        """Wake everybody with an error, now and from now on."""
        self.failure = failure
        while self._parked:
            self._parked.popleft()[1].set()

    def turn_away(self, refused: Refused) -> None:
        """Wake everybody who is there with an error; others may come."""
        self._turned_away = refused
        while self._parked:
            self._parked.popleft()[1].set()

    async def wait(self, offset: int) -> None:
        """Return when the gate has reached an offset; raise :class:`Refused` when it failed before, or turned away."""
        if self.offset < offset and self.failure is None:
            entry = (offset, trio.Event())
            self._park(entry)
            try:
                await entry[1].wait()
            finally:
                if not entry[1].is_set():
                    self._parked.remove(entry)
        refused = self.failure or self._turned_away
        if self.offset < offset and refused is not None:
            raise refused

    def _park(self, entry: tuple[int, trio.Event]) -> None:
        """Keep the queue sorted; nearly always the newest waits for the highest."""
        parked = self._parked
        if not parked or parked[-1][0] <= entry[0]:
            parked.append(entry)
            return
        place = next(i for i, (offset, _) in enumerate(parked) if offset > entry[0])
        parked.insert(place, entry)
