"""A node in a thread of this process.

:class:`NodeThread` runs :func:`logd.node.run_node` under a trio of its own and hands over its address once it serves.
Owns the thread; :class:`logd.testing.broker.Broker` starts and stops it. The thread is a daemon, so that a test run
that is broken off ends. It knows nothing of topics and records.
"""

from __future__ import annotations

import threading
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

import trio

from logd.node import Node, run_node
from logd.testing.errors import BrokerFailed

if TYPE_CHECKING:
    from logd.config import Settings

START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 30.0


class NodeThread:
    """One run of a node, from its start to its end; a restart is another ``NodeThread``."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._ready: Future[tuple[Node, trio.lowlevel.TrioToken]] = Future()
        self._thread = threading.Thread(target=self._run, name="logd", daemon=True)
        self.failure: BaseException | None = None
        """Why the node ended, when it was not asked to."""

    @property
    def running(self) -> bool:
        """True from the start to the end of the node."""
        return self._thread.is_alive()

    def start(self) -> Node:
        """Start it and return the node when it serves.

        :raises BrokerFailed: when it does not come up; the node's exception is the cause.
        """
        self._thread.start()
        try:
            node, _ = self._ready.result(START_TIMEOUT_S)
        except TimeoutError:
            raise BrokerFailed(f"logd is not ready after {START_TIMEOUT_S:.0f} s") from None
        except BaseException as error:
            raise BrokerFailed(f"logd did not start: {error}") from error
        return node

    def stop(self, *, kill: bool = False) -> None:
        """End the node and wait for it; ``kill`` does it as a crash would.

        :raises BrokerFailed: when it does not end, or ended by an exception before.
        """
        if self.running:
            node, token = self._ready.result(0)
            with suppress(trio.RunFinishedError):  # it ended by itself at this moment; the failure below says why
                token.run_sync_soon(node.kill if kill else node.stop)
        self._thread.join(STOP_TIMEOUT_S)
        if self.running:
            raise BrokerFailed(f"logd did not stop within {STOP_TIMEOUT_S:.0f} s")
        self.check()

    def check(self) -> None:
        """Raise :class:`BrokerFailed` when the node ended by an exception."""
        if self.failure is not None:
            raise BrokerFailed(f"logd ended: {self.failure!r}") from self.failure

    def _run(self) -> None:
        try:
            trio.run(self._main)
        except BaseException as error:
            if self._ready.done():
                self.failure = error
            else:
                self._ready.set_exception(error)

    async def _main(self) -> None:
        async with trio.open_nursery() as nursery:
            node = await nursery.start(partial(run_node, self._settings))
            self._ready.set_result((node, trio.lowlevel.current_trio_token()))
