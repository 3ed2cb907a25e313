"""Housekeeping does not believe a time of day that leaps ahead."""

from __future__ import annotations

import pytest

from logd.partitions.steady import AWAY_MAX_MS, HOLD_MS, SteadyClock

DAY_MS = 24 * 3600 * 1000
YEAR_MS = 365 * DAY_MS


class Clocks:
    """Both clocks, turned by hand."""

    def __init__(self, noted_ms: int = 0) -> None:
        self.day_ms = 100 * YEAR_MS
        self.elapsed_ms = 5_000_000
        self.steady = SteadyClock(self, lambda: self.elapsed_ms / 1000, noted_ms)

    def now_ms(self) -> int:
        return self.day_ms

    def pass_(self, ms: int) -> int:
        """Let time pass on both; what the steady clock says of the time of day, as a difference."""
        self.day_ms += ms
        self.elapsed_ms += ms
        return self.steady.now_ms() - self.day_ms


@pytest.mark.parametrize("leap_ms", [10_000, 3600_000, DAY_MS, 10 * YEAR_MS])
def test_leap_ahead(leap_ms: int) -> None:
    """Time goes on from what it was until the leap is taken back."""
    clocks = Clocks()
    assert clocks.pass_(1000) == 0
    clocks.day_ms += leap_ms
    assert clocks.pass_(1000) == -leap_ms
    assert clocks.pass_(3600_000) == -leap_ms
    clocks.day_ms -= leap_ms
    assert clocks.pass_(1000) == 0


def test_leap_back() -> None:
    """Backward it is followed, and the way forth to where it was is no leap."""
    clocks = Clocks()
    clocks.day_ms -= YEAR_MS
    assert clocks.pass_(1000) == 0
    clocks.day_ms += YEAR_MS
    assert clocks.pass_(1000) == 0
    clocks.day_ms += YEAR_MS
    assert clocks.pass_(1000) == -YEAR_MS


def test_small_corrections() -> None:
    """A clock that is kept in step is followed, however long."""
    clocks = Clocks()
    for _ in range(100):
        clocks.day_ms += 400
        assert clocks.pass_(1000) == 0


def test_long_leap_is_believed() -> None:
    """After a day the new time counts."""
    clocks = Clocks()
    clocks.day_ms += YEAR_MS
    assert clocks.pass_(1000) == -YEAR_MS
    assert clocks.pass_(HOLD_MS - 1) == -YEAR_MS
    assert clocks.pass_(1) == 0
    assert clocks.pass_(1) == 0


def test_leap_before_the_start() -> None:
    """A start that finds years gone since the last one goes on from there, for a day; one that finds weeks does not."""
    for away_ms, lag_ms in ((10 * YEAR_MS, 10 * YEAR_MS), (AWAY_MAX_MS, 0), (-YEAR_MS, 0)):
        clocks = Clocks(100 * YEAR_MS - away_ms)
        assert clocks.pass_(1000) == -lag_ms
        assert clocks.pass_(HOLD_MS) == 0
