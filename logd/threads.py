"""Work in another thread, also while the machine has no thread to give.

Everything of a node that waits for a disk, or computes for long, goes through :func:`run`. A limit of processes
(``ulimit -u``, a control group's ``pids.max``) that others have used up is no reason to end: what needs a thread waits
until there is one, and everything else goes on. The flusher has threads of its own.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final, TypeVar

import trio

logger = logging.getLogger("logd.threads")

RETRY_S: Final = 0.05
T = TypeVar("T")


class _Lack:
    """Whether there was no thread the last time that one was wanted, so that it is told once."""

    told = False


def lacking(error: RuntimeError) -> bool:
    """Say whether an error means that no thread could be started; it is logged when that is news."""
    if "start new thread" not in str(error):
        return False
    if not _Lack.told:
        _Lack.told = True
        logger.warning("no thread can be started now, so that some work has to wait: allow more processes")
    return True


async def run(work: Callable[..., T], *args: object, limiter: trio.CapacityLimiter | None = None) -> T:
    """Call ``work(*args)`` in a worker thread, once; see :func:`trio.to_thread.run_sync`.

    It is not begun before there is a thread for it; until then it can be cancelled.
    """
    begun = False

    def begin() -> T:
        nonlocal begun
        begun = True
        return work(*args)

    while True:
        try:
            result = await trio.to_thread.run_sync(begin, limiter=limiter)
        except RuntimeError as error:
            if begun or not lacking(error):
                raise
        else:
            _Lack.told = False
            return result
        await trio.sleep(RETRY_S)
