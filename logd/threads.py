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
TELL_EVERY_S: Final = 60.0
T = TypeVar("T")


class _Lack:
    """When it was told last that there is no thread: where some are to be had, one may be missing often in a second."""

    told_s = float("-inf")


def lacking(error: RuntimeError) -> bool:
    """Say whether an error means that no thread could be started; it is logged once a minute."""
    if "start new thread" not in str(error):
        return False
    now_s = trio.current_time()
    if not 0 <= now_s - _Lack.told_s < TELL_EVERY_S:  # each event loop has another zero
        _Lack.told_s = now_s
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
            return await trio.to_thread.run_sync(begin, limiter=limiter)
        except RuntimeError as error:
            if begun or not lacking(error):
                raise
        await trio.sleep(RETRY_S)
