"""Which part of a log is dirty, when it is worth cleaning, and which segments are joined."""

from __future__ import annotations

import gc

import msgspec
import pytest

from logd.config import Settings, TopicConfig
from logd.jobs.compaction import Compaction, Rules, assess, compact, due, groups, rules_of, timestamps
from logd.log.batch_file import RETIRED_SUFFIX
from logd.log.log import Log, LogConfig
from logd.log.segment import Segment
from tests.fakes.disks import MemoryDisk
from tests.log.batches import TOPIC_ID, append, batch, checkpoint
from tests.log.compacting import RULES, Direct, Held, clean, pairs_of, put, roll

PATH = "/data/t-0"
CONFIG = LogConfig(compacted=True, timestamp_after_max_ms=2**62)


@pytest.fixture
def log(disk: MemoryDisk) -> Log:
    return Log.create(PATH, TOPIC_ID, CONFIG, now_ms=0, disk=disk)


def segment(log: Log, timestamp: int, size: int = 100) -> None:
    """One segment with one record of a key of its own."""
    put(log, (f"{log.end_offset}", "v" * size), timestamp=timestamp)
    roll(log)


def changed(**rules: float) -> Rules:
    return msgspec.structs.replace(RULES, **rules)


def test_nothing_sealed_is_nothing_dirty(log: Log) -> None:
    """The active segment is never dirty."""
    put(log, ("a", "1"), ("a", "2"))
    dirt = assess(Held(log), RULES, 0)
    assert (dirt.dirty_bytes, dirt.ratio) == (0, 0.0)
    assert not due(dirt, RULES)


def test_dirt_ends_where_nothing_is_certain(log: Log) -> None:
    """Segments at or beyond the last stable offset are left alone."""
    for _ in range(3):
        segment(log, 1000)
    assert assess(Held(log, 2), RULES, 0).end_offset == 2
    assert assess(Held(log, 0), RULES, 0).dirty_bytes == 0
    assert assess(Held(log), RULES, 0).end_offset == 3


def test_ratio(log: Log, disk: MemoryDisk) -> None:
    """A log is worth it when the dirty share is more than min.cleanable.dirty.ratio."""
    for _ in range(3):
        segment(log, 1000)
    clean(log, disk)
    assert not due(assess(Held(log), RULES, 0), RULES)
    segment(log, 1000)
    dirt = assess(Held(log), RULES, 0)
    assert dirt.first_dirty == 3
    assert dirt.ratio == pytest.approx(0.25, abs=0.01)
    assert due(dirt, changed(min_cleanable_dirty_ratio=0.2))
    assert not due(dirt, changed(min_cleanable_dirty_ratio=0.3))


def test_young_segments_wait(log: Log) -> None:
    """min.compaction.lag.ms counts from a segment's largest time, and what is behind a young one waits with it."""
    for timestamp in (1000, 9000, 1000):
        segment(log, timestamp)
    lagging = changed(min_compaction_lag_ms=5000)
    assert assess(Held(log), lagging, 10_000).end_offset == 1
    assert assess(Held(log), lagging, 14_000).end_offset == 3


def test_overdue(log: Log, disk: MemoryDisk) -> None:
    """After max.compaction.lag.ms any dirt is worth it; the time counts from the first batch, read if need be."""
    for timestamp in (1000, 2000):
        segment(log, timestamp)
    rules = changed(min_cleanable_dirty_ratio=1.0, max_compaction_lag_ms=5000)
    checkpoint(log)
    log.close()
    held = Held(Log.open(PATH, CONFIG, clean=True, now_ms=0, disk=disk))
    work = timestamps(held, rules)
    assert work is not None
    work()
    assert not due(assess(held, rules, 6000), rules)
    assert due(assess(held, rules, 6001), rules)
    assert timestamps(held, RULES) is None


def test_first_dirty_follows_the_start(log: Log) -> None:
    """What DeleteRecords took away is not dirty."""
    for _ in range(3):
        segment(log, 1000)
    log.advance_start(2)
    assert assess(Held(log), RULES, 0).first_dirty == 2


def test_groups(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neighbours are joined as long as they fit into one segment and its indexes, and are not too many to be open."""
    for size in (100, 100, 900, 100, 100, 100):
        segment(log, 1000, size)
    sealed = log.segments[:-1]

    def bases(segment_bytes: int, index_bytes: int = 10_000) -> list[list[int]]:
        return [[piece.base_offset for piece in one] for one in groups(sealed, segment_bytes, index_bytes, 100)]

    assert bases(10**6) == [[0, 1, 2, 3, 4, 5]]
    assert bases(600) == [[0, 1], [2], [3, 4, 5]]
    assert bases(100) == [[0], [1], [2], [3], [4], [5]]
    assert len(bases(10**6, 60)) > 2
    monkeypatch.setattr("logd.jobs.compaction.GROUP_SEGMENTS_MAX", 4)
    assert bases(10**6) == [[0, 1, 2, 3], [4, 5]]


def test_the_job_of_a_node(log: Log, disk: MemoryDisk) -> None:
    """The job takes its rules from topic and broker, and a cleaned log is not dirty."""
    config = TopicConfig(min_cleanable_dirty_ratio=0.3, min_compaction_lag_ms=7)
    settings = Settings(log_cleaner_dedupe_buffer_size=2_000_000)
    rules = rules_of(config, settings)
    assert (rules.min_cleanable_dirty_ratio, rules.min_compaction_lag_ms, rules.dedupe_buffer_size) == (
        0.3,
        7,
        2_000_000,
    )
    job = Compaction(Direct(disk), lambda: settings)
    held = Held(log, config=config)
    append(log, batch(value=b"no key"))
    segment(log, 1000)
    segment(log, 1000)
    assert job.dirtiness(held, 2000) == 1.0
    for work in job.clean(held, 2000):
        work()
    assert job.dirtiness(held, 2000) == 0.0
    assert log.cleaned_offset == 3


def test_stopped(log: Log, disk: MemoryDisk) -> None:
    """A run that is stopped ends between two segments: what is clean stays so, and the next run does all the rest."""
    for number in range(6):
        put(log, ("same", str(number)))
        roll(log)
    small = changed()
    log.config = msgspec.structs.replace(log.config, segment_bytes=1)
    looks = iter((False, False, False, True))
    held = Held(log)
    for work in compact(held, small, assess(held, small, 0), 0, Direct(disk), lambda: next(looks)):
        work()
    assert [one[2] for one in pairs_of(log)] == ["3", "4", "5"]
    assert log.cleaned_offset == 0
    checkpoint(log)
    log.close()
    log = Log.open(PATH, CONFIG, clean=True, now_ms=0, disk=disk)
    clean(log, disk)
    assert [one[2] for one in pairs_of(log)] == ["5"]
    assert log.cleaned_offset == 6


def test_what_is_replaced_is_let_go_of(log: Log, disk: MemoryDisk) -> None:
    """Nobody knows a replaced segment when its swap is done: until then it takes up room, however long the run is."""
    for number in range(6):
        put(log, ("same", str(number)))
        roll(log)
    log.config = msgspec.structs.replace(log.config, segment_bytes=1)
    gc.collect()
    before = _replaced()
    held = Held(log)
    known = []
    for work in compact(held, RULES, assess(held, RULES, 0), 0, Direct(disk)):
        work()
        known.append(_replaced() - before)
    assert len(pairs_of(log)) == 1
    assert max(known) == 1
    assert known[-1] == 0


def _replaced() -> int:
    return sum(isinstance(one, Segment) and one.path.endswith(RETIRED_SUFFIX) for one in gc.get_objects())
