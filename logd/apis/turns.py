"""Turns: a handler that does the same for each of many rows lets others run in between.

:func:`breathe` is called in the loop over the rows, by whoever spends more than a few microseconds on each. It owns
nothing, and costs a comparison where the rows are few.
"""

from __future__ import annotations

import trio

TURN_ROWS = 200
"""Rows between two turns: a few milliseconds of work."""


async def breathe(done: int) -> None:
    """Let others run, when `done` rows (counted from 0) make a turn."""
    if done % TURN_ROWS == TURN_ROWS - 1:
        await trio.lowlevel.checkpoint()
