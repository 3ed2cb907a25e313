"""The writer of markers: a transaction with many partitions keeps nobody else waiting."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import trio

from logd.coordinators.markers import AT_ONCE, Marker, MarkerWriter
from logd.errors import ErrorCode

pytestmark = pytest.mark.trio

PARTITIONS = 20 * AT_ONCE


class Partitions:
    """Counts the markers; the last partition takes none."""

    def __init__(self) -> None:
        self.written = 0
        self.committed = self

    def get(self, topic: str, index: int) -> Any:
        return self if index < PARTITIONS else None

    def append_marker(self, *_: int, **__: object) -> Any:
        self.written += 1
        return SimpleNamespace(next_offset=self.written)

    async def wait(self, offset: int) -> None:
        """All is committed at once."""


async def test_many_markers_let_others_run() -> None:
    """Between any two turns of another task only so many markers are written; each partition has its code."""
    partitions: Any = Partitions()
    turns: list[int] = []

    async def other() -> None:
        while True:
            turns.append(partitions.written)
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(other)
        places = [("t", index) for index in range(PARTITIONS + 1)]
        codes = await MarkerWriter(partitions, partitions).write_all(Marker(1, 1, True, 0, 2), places)
        turns.append(partitions.written)
        nursery.cancel_scope.cancel()
    assert (
        max(after - before for before, after in zip([0, *turns], turns, strict=False)) <= 2 * AT_ONCE
    )  # tasks take turns in any order
    assert partitions.written == PARTITIONS
    assert codes.pop(("t", PARTITIONS)) is ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    assert set(codes.values()) == {ErrorCode.NONE}
