"""How long the event loop of a server is busy without looking at anybody else, by its own CPU seconds.

``main`` is the server's, with an instrument of trio's that notes the longest turn of the loop (what runs between two
looks for news, which is what a client that asks for something small may have to wait for) and the task that took the
most of it. CPU seconds of the loop's thread, so that a busy machine does not count. Each new maximum is written to the
file named by ``FAULTS_TURNS``, so that a kill leaves what was known.
"""

from __future__ import annotations

import functools
import json
import os
import time
from pathlib import Path

import trio

NAMED_BY = "FAULTS_TURNS"
COMMAND = "from tools.faults.turns import main; main()"


class Turns(trio.abc.Instrument):
    """Notes the longest turn."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._began = float("inf")  # what comes before the first look is the start
        self._step_began = 0.0
        self._longest_s = self._step_s = 0.0
        self._name = ""

    def after_io_wait(self, timeout: float) -> None:
        """A turn begins."""
        self._began = time.thread_time()
        self._step_s = 0.0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        """A task goes on."""
        self._step_began = time.thread_time()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        """It waits for something."""
        took_s = time.thread_time() - self._step_began
        if took_s > self._step_s:
            self._step_s, self._name = took_s, task.name

    def before_io_wait(self, timeout: float) -> None:
        """The turn is over."""
        took_s = time.thread_time() - self._began
        if took_s > self._longest_s:
            self._longest_s = took_s
            found = {"turn_cpu_s": round(took_s, 4), "step_cpu_s": round(self._step_s, 4), "task": self._name}
            self._path.write_text(json.dumps(found))


def main() -> None:
    """Serve, and note."""
    from logd.cli import server

    trio.run = functools.partial(trio.run, instruments=[Turns(Path(os.environ[NAMED_BY]))])
    server.main()
