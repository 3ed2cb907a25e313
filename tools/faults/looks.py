"""Housekeeping that looks all the time, and tells how often it has looked at everything.

``main`` is the server's with a short pause between the rounds of upkeep. How many have come to their end is written to
the file named by ``FAULTS_LOOKS``, so that whoever waits for a round waits for just that.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

NAMED_BY = "FAULTS_LOOKS"
COMMAND = "from tools.faults.looks import main; main()"
LOOK_EVERY_S = 0.1
PATIENCE_S = 60.0


def looked(path: Path) -> int:
    """How many rounds have ended."""
    return int(path.read_text() or 0) if path.exists() else 0


def until_looked(path: Path, running: Callable[[], bool], times: int = 2) -> bool:
    """Wait for the end of so many rounds: the second one begins after the call. False when ``running`` says so."""
    begun, end = looked(path), time.monotonic() + PATIENCE_S
    while looked(path) < begun + times:
        if not running() or time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def main() -> None:
    """Serve, and look."""
    from logd.cli import server
    from logd.partitions import upkeep

    path, look = Path(os.environ[NAMED_BY]), upkeep.Upkeep.look

    def note() -> None:
        path.write_text(str(looked(path) + 1))

    async def noted(self: upkeep.Upkeep) -> None:
        await look(self)
        note()

    upkeep.Upkeep.look = noted  # type: ignore[method-assign]
    upkeep.LOOK_EVERY_S = LOOK_EVERY_S
    server.main()
