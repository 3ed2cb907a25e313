"""The jobs that somebody asked for, by number, while they run and for a while after.

A job can take hours, so that no request can wait for its end: it is begun by one request, runs as a task of the node,
and is asked for by others. It goes on when whoever began it has left. ``apis.jobs`` calls; what a job does is
:class:`~logd.partitions.housekeeping.Housekeeping`'s.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import trio

from logd.errors import ErrorCode, Refused

if TYPE_CHECKING:
    from logd.partitions.housekeeping import Housekeeping, Run

logger = logging.getLogger("logd.runs")

RUNS_MAX: Final = 16
"""So many are known; one that has ended is forgotten for a new one."""


class Runs:
    """The jobs of one node that were asked for. ``first`` is the number of the next."""

    def __init__(self, house: Housekeeping, first: int) -> None:
        self._house = house
        self._next = first
        self._known: dict[int, Run] = {}
        self._nursery: trio.Nursery | None = None

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Hold the tasks of jobs until cancelled."""
        async with trio.open_nursery() as self._nursery:
            task_status.started()
            await trio.sleep_forever()

    def begin(self, job: str, topics: Sequence[str] | None, *, dry_run: bool) -> int:
        """Begin a job over topics (None: all) and return its number.

        :raises Refused: an unknown job or topic; too many run already.
        """
        assert self._nursery is not None
        run = self._house.prepared(job, topics, dry_run=dry_run)
        while len(self._known) >= RUNS_MAX:
            ended = next((number for number, one in self._known.items() if one.ended.is_set()), None)
            if ended is None:
                raise Refused(
                    ErrorCode.THROTTLING_QUOTA_EXCEEDED, f"{RUNS_MAX} jobs run already: wait until one has ended"
                )
            del self._known[ended]
        number, self._next = self._next, self._next + 1
        self._known[number] = run
        self._nursery.start_soon(self._carry_out, number, run)
        return number

    async def _carry_out(self, number: int, run: Run) -> None:
        try:
            await self._house.carry_out(run)
        except Exception:
            logger.exception("%s, job %d: ended early: it failed here, which is a bug", run.job, number)
            run.failure = Refused(ErrorCode.UNKNOWN_SERVER_ERROR, f"{run.job} failed: see the server's log")

    def find(self, number: int) -> Run:
        """A job by its number.

        :raises Refused: there is none, or it ended long ago.
        """
        run = self._known.get(number)
        if run is None:
            raise Refused(
                ErrorCode.INVALID_REQUEST,
                f"no job {number} is known: the server was started anew, or others have followed; run it again",
            )
        return run

    def passed(self, run: Run) -> int:
        """How far a job is, of its ``total``."""
        return self._house.passed(run)
