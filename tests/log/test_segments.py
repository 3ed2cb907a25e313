"""The segments of a log: which of them holds an offset, what comes and goes, when the next begins, which stay open."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from logd.log.admission import LogConfig
from logd.log.batch_file import RELATIVE_OFFSET_MAX
from logd.log.disk import RealDisk
from logd.log.segment import NO_TIMESTAMP, Segment
from logd.log.segments import Segments, must_roll
from tests.fakes.disks import MemoryDisk

BASES = [10, 20, 30, 40, 50, 60, 70]


@pytest.fixture
def segments(tmp_path: Path) -> Segments:
    made = [Segment(RealDisk(), str(tmp_path), base, 0) for base in BASES]
    for segment in made:
        _ = segment.file
        segment.sealed = segment.finished = segment is not made[-1]
    return Segments(made)


def opened(segments: Iterable[Segment]) -> list[int]:
    return [segment.base_offset for segment in segments if segment.open_file is not None]


def bases(segments: Segments) -> list[int]:
    """Where they begin, as iteration and as a search by offset tell it."""
    found = [segment.base_offset for segment in segments]
    assert [segments.holding(base).base_offset for base in found] == found
    return found


def read(segments: Segments, at: int) -> None:
    """Open a segment as a read does."""
    _ = segments[at].file
    segments.touch(segments[at])


def test_which_holds_an_offset(segments: Segments) -> None:
    """A segment holds from its base offset to before the next one's; the last holds the log's end too."""
    assert [segments.holding(offset).base_offset for offset in (10, 19, 20, 69, 70, 1000)] == [10, 10, 20, 60, 70, 70]
    assert segments.after(segments[0]) is segments[1]
    assert segments.after(segments[-1]) is None
    assert not segments.lie_apart(10, 19)
    assert segments.lie_apart(19, 20)
    assert not segments.lie_apart(75, 90)


def test_they_come_and_go(segments: Segments, disk: MemoryDisk) -> None:
    """A new one comes behind the others, the oldest go, and several make room for one."""
    segments.add(Segment(disk, "/data/t-0", 80, 0))
    segments.drop(segments[:2])
    assert bases(segments) == [30, 40, 50, 60, 70, 80]
    run = segments[1:4]
    assert segments.has_run(run)
    new = Segment(disk, "/data/t-0", 40, 0)
    segments.replace(run, new)
    assert bases(segments) == [30, 40, 70, 80]
    assert new in segments
    assert not segments.has_run(run)


def test_what_goes_is_there(segments: Segments) -> None:
    """Only the oldest can go, and never all; only what is there makes room."""
    for wrong in (segments[1:2], segments[:]):
        with pytest.raises(AssertionError):
            segments.drop(wrong)
    with pytest.raises(AssertionError):
        segments.replace([segments[0], segments[2]], segments[0])
    assert bases(segments) == BASES


def test_few_stay_open(segments: Segments) -> None:
    """Those that were read last; by and by, those only that are still read, and the active one."""
    segments.let_go(segments[:-1])
    assert opened(segments) == [70]
    for at in (0, 1, 2, 3, 4, 5, 2, 0):
        read(segments, at)
    assert opened(segments) == [10, 30, 50, 60, 70]
    segments.release_unused()
    read(segments, 2)
    segments.release_unused()
    assert opened(segments) == [30, 70]


def test_what_is_replaced_is_not_kept_open(segments: Segments, disk: MemoryDisk) -> None:
    """A segment that was read and then compacted away does not take the place of one that is read."""
    run = segments[:2]
    read(segments, 0)
    read(segments, 1)
    segments.replace(run, Segment(disk, "/data/t-0", 10, 0))
    segments.let_go(run)
    assert opened(run) == []


@pytest.mark.parametrize(
    ("config", "last_offset", "max_timestamp", "now_ms", "wanted"),
    [
        (LogConfig(), 11, 1000, 0, False),
        (LogConfig(), 10 + RELATIVE_OFFSET_MAX, 1000, 0, False),
        (LogConfig(), 11 + RELATIVE_OFFSET_MAX, 1000, 0, True),
        (LogConfig(segment_ms=100), 11, 1100, 10_000, False),
        (LogConfig(segment_ms=100), 11, 1101, 0, True),
        (LogConfig(segment_ms=100), 11, NO_TIMESTAMP, 107, False),
        (LogConfig(segment_ms=100), 11, NO_TIMESTAMP, 108, True),
        (LogConfig(segment_index_bytes=24), 11, 1000, 0, False),
        (LogConfig(segment_index_bytes=16), 11, 1000, 0, True),
    ],
)
def test_when_the_next_begins(
    disk: MemoryDisk, config: LogConfig, last_offset: int, max_timestamp: int, now_ms: int, wanted: bool
) -> None:
    """At the last offset that an index can tell, at a full index, and by ``segment.ms`` of the records or the clock."""
    segment = Segment(disk, "/data/t-0", 10, 7)
    for base in (10, 11, 12):
        segment.append(b"x" * 100, base, base, 1000, 7, 0)
    assert len(segment.index) == 2
    assert must_roll(segment, config, last_offset, max_timestamp, now_ms) is wanted
