"""How the public objects of the client open and close: ``async with``, tasks inside, clean exceptions outside.

Router, producer, consumer and admin derive from :class:`Lifetime`. It starts nothing itself.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Self


class Lifetime(ABC):
    """An asynchronous context whose inside is :meth:`_live`.

    An exception of the body goes on as it is; it is not wrapped into the exception group of our own nursery.
    """

    _life: AbstractAsyncContextManager[None] | None = None

    @abstractmethod
    def _live(self) -> AbstractAsyncContextManager[None]:
        """What is there, tasks and connections, while the object is open."""

    async def _wind_up(self) -> None:
        """Called when the body ended well, before the tasks are cancelled."""

    async def _give_up(self) -> None:
        """Called when the body ended by an exception, a cancellation too, before the tasks are cancelled. What it
        waits for it must shield, and limit."""

    async def __aenter__(self) -> Self:
        assert self._life is None, "already open"
        self._life = self._live()
        await self._life.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._life is not None
        try:
            if error is None:
                await self._wind_up()
            else:
                await self._give_up()
        finally:
            await self._life.__aexit__(None, None, None)
