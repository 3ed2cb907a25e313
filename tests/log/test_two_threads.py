"""A segment under two threads: a worker that reads it, and the event loop that lets go of it or reads it further."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any

import pytest

from logd.log.epochs import Epochs
from logd.log.log import Log, LogConfig
from logd.log.segment import Segment
from tests.fakes.disks import MemoryDisk
from tests.log.batches import TOPIC_ID, append, batch, flush

PATH = "/data/t-0"
LINES_MAX = 12


def interrupted(code: CodeType, line: int, work: Callable[[], object], other: Callable[[], object]) -> Any:
    """Run ``work``, and ``other`` in the middle of it: when ``code`` comes to its ``line``-th line."""
    seen = 0

    def at_line(frame: FrameType, event: str, _: object) -> Any:
        nonlocal seen
        if event == "line":
            seen += 1
            if seen == line:
                sys.settrace(None)
                other()
        return at_line

    def at_call(frame: FrameType, event: str, _: object) -> Any:
        return at_line if frame.f_code is code else None

    before = sys.gettrace()
    sys.settrace(at_call)
    try:
        return work()
    finally:
        sys.settrace(before)


def sealed(disk: MemoryDisk) -> tuple[Log, Segment]:
    log = Log.create(PATH, TOPIC_ID, LogConfig(segment_bytes=1000), now_ms=0, disk=disk)
    for _ in range(20):
        append(log, batch(2, value=b"x" * 20))
    flush(log)
    segment = log.segments[0]
    assert segment.finished
    return log, segment


@pytest.mark.parametrize("line", range(1, LINES_MAX))
def test_an_index_that_is_let_go_of_meanwhile(disk: MemoryDisk, line: int) -> None:
    """Who has asked for the index gets one, whenever the loop releases the segment."""
    _, segment = sealed(disk)
    code = Segment.index.fget.__code__  # type: ignore[attr-defined]
    assert segment.index is not None
    found = interrupted(code, line, lambda: segment.index, segment.release)
    assert found is not None


@pytest.mark.parametrize("line", range(1, LINES_MAX))
def test_a_map_is_as_long_as_it_is_said_to_be(disk: MemoryDisk, line: int) -> None:
    """The loop maps more of a segment that grows while a worker thread asks for less of it."""
    log = Log.create(PATH, TOPIC_ID, LogConfig(), now_ms=0, disk=disk)
    append(log, batch(1))
    segment = log.segments[0]
    early = segment.size
    segment.mapping(early)

    def grow() -> None:
        append(log, batch(1, value=bytes(200_000)))
        segment.mapping(segment.size)

    interrupted(Segment.mapping.__code__, line, lambda: segment.mapping(early), grow)
    assert len(segment.mapping(segment.size).view) >= segment.size


@pytest.mark.parametrize("line", range(1, 2 * LINES_MAX))
def test_epochs_that_are_forgotten_meanwhile(line: int) -> None:
    """A worker thread that checks a batch knows the epoch that was in force there, though retention takes some."""
    epochs = Epochs([(epoch, 10 * epoch) for epoch in range(6)])
    found = interrupted(Epochs.epoch_at.__code__, line, lambda: epochs.epoch_at(45), lambda: epochs.truncate_start(35))
    assert found == 4
