"""The time that housekeeping goes by: the time of day, but never ahead of a clock that nobody can set.

Retention, the expiry of producers, of tombstones, of committed offsets and of transactional ids cannot be taken back,
so a time of day that leaps forward (a wrong server of time, a hand) is not believed: until it is back, or a day has
passed, time goes on from what it was. So it is at a start that finds a month or more gone since the data directory was
in use. Backward the time of day is followed at once, since that deletes nothing. The node makes one for upkeep,
compaction and the sweeps of the coordinators; everything else keeps the plain clock.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from logd.clock import Clock

logger = logging.getLogger("logd.upkeep")

TOLERANCE_MS: Final = 5_000
"""So far may the time of day be corrected between two looks, as it is where clocks are kept in step."""

HOLD_MS: Final = 24 * 3600 * 1000
"""After so long a leap is believed."""

AWAY_MAX_MS: Final = 30 * 24 * 3600 * 1000
"""So long may a node have been away before the time of day that its start finds counts as a leap."""


class SteadyClock:
    """A :class:`~logd.clock.Clock`. ``elapsed_s`` tells seconds that only ever go on.

    ``noted_ms`` is the time that an earlier one believed last, 0 where nobody knows.
    """

    def __init__(self, clock: Clock, elapsed_s: Callable[[], float], noted_ms: int = 0) -> None:
        self._clock = clock
        self._elapsed_s = elapsed_s
        now_ms = clock.now_ms()
        believed_ms = noted_ms if noted_ms and now_ms - noted_ms > AWAY_MAX_MS else now_ms
        self._ahead_ms = believed_ms - self._elapsed_ms()
        """What is believed of the difference between the two clocks."""
        self._leapt_ms: int | None = None

    def _elapsed_ms(self) -> int:
        return int(self._elapsed_s() * 1000)

    def now_ms(self) -> int:
        """Milliseconds since the Unix epoch, as far as they are believed."""
        now_ms, elapsed_ms = self._clock.now_ms(), self._elapsed_ms()
        leap_ms = now_ms - elapsed_ms - self._ahead_ms
        if leap_ms <= TOLERANCE_MS:
            self._ahead_ms += max(leap_ms, 0)
            self._leapt_ms = None
            return now_ms
        if self._leapt_ms is None:
            self._leapt_ms = elapsed_ms
            logger.warning(
                "the time of day leapt %d s ahead: retention and compaction go by the old one until it is back, or for "
                "a day",
                leap_ms // 1000,
            )
        if elapsed_ms - self._leapt_ms >= HOLD_MS:
            self._ahead_ms += leap_ms
            self._leapt_ms = None
            return now_ms
        return self._ahead_ms + elapsed_ms
