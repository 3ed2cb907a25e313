"""Which segments go: by time, by size, below the start, never beyond the high watermark."""

from __future__ import annotations

from itertools import chain

import pytest

from logd.jobs.retention import remember, retain
from logd.log.log import Log, LogConfig
from tests.fakes.disks import FaultyDisk, MemoryDisk
from tests.log.batches import TOPIC_ID, append, batch, content, flush

PATH = "/data/t-0"


class Held:
    def __init__(self, log: Log, high_watermark: int) -> None:
        self.log = log
        self.high_watermark = self.last_stable_offset = high_watermark


def one_round(held: Held, now_ms: int) -> None:
    for work in chain(retain(held, now_ms, delete=True), remember(held)):
        work()


def filled(disk: MemoryDisk, config: LogConfig, times: list[int]) -> Log:
    """One batch, and so one offset, a segment."""
    log = Log.create(PATH, TOPIC_ID, LogConfig(timestamp_after_max_ms=2**62), now_ms=0, disk=disk)
    for time in times:
        append(log, batch(value=bytes(100), timestamp=time), now_ms=50_000)
        log.roll(50_000)
    log.config = config
    return log


@pytest.mark.parametrize(
    ("config", "times", "gone"),
    [
        (LogConfig(retention_ms=1000), [10_000, 20_000, 99_500], 2),
        (LogConfig(retention_ms=-1), [0, 0, 0], 0),
        (LogConfig(retention_ms=1000), [10_000, 10**15, 10_000], 1),  # the future keeps itself and what is behind it
        (LogConfig(retention_ms=49_000), [-1, -1], 2),  # no times: when the file was last written
        (LogConfig(retention_ms=50_000), [-1, -1], 0),
        (LogConfig(retention_ms=-1, retention_bytes=400), [0] * 5, 2),
        (LogConfig(retention_ms=-1, retention_bytes=0), [0] * 5, 5),
        (LogConfig(retention_ms=-1, retention_bytes=10_000), [0] * 5, 0),
    ],
)
def test_expired(disk: MemoryDisk, config: LogConfig, times: list[int], gone: int) -> None:
    """retention.ms by a segment's largest time, retention.bytes as long as enough is left."""
    log = filled(disk, config, times)
    assert len(log.expired(100_000, log.end_offset)) == gone


def test_not_beyond_the_high_watermark(disk: MemoryDisk) -> None:
    """What is not committed is not deleted."""
    log = filled(disk, LogConfig(retention_ms=0), [0] * 5)
    assert len(log.expired(10**9, 3)) == 3


def test_active_segment_expires_by_rolling(disk: MemoryDisk) -> None:
    """When even the newest records are too old, the log is empty and goes on where it was."""
    log = Log.create(PATH, TOPIC_ID, LogConfig(retention_ms=10), now_ms=0, disk=disk)
    append(log, batch(3, timestamp=0))
    log.delete_segments(log.expired(11, 3), 11)
    assert (log.start_offset, log.end_offset, log.size_bytes) == (3, 3, 0)
    after = Log.open(PATH, LogConfig(), clean=False, now_ms=0, disk=disk)
    assert after.end_offset == 3


def test_job(disk: MemoryDisk) -> None:
    """One round forgets, remembers the new start, and a later round removes the files, data last."""
    log = filled(disk, LogConfig(retention_ms=1000, file_delete_delay_ms=500), [0, 0, 99_900])
    flush(log)
    held = Held(log, log.end_offset)
    one_round(held, 100_000)
    assert log.start_offset == 2
    assert f"{PATH}/{0:020d}.log" in disk.names
    one_round(held, 100_600)
    assert sorted(name[-4:] for name in disk.names if f"/{1:020d}" in name) == []
    after = Log.open(PATH, LogConfig(), clean=False, now_ms=0, disk=disk)
    assert content(after) == content(log) == [(2, bytes(100))]


def test_kept_topic_still_forgets_what_delete_records_released(disk: MemoryDisk) -> None:
    """Without cleanup.policy=delete only segments below the log's start go."""
    log = filled(disk, LogConfig(retention_ms=0), [0, 0, 0])
    log.advance_start(1)
    for work in retain(Held(log, 3), 10**9, delete=False):
        work()
    assert [one.base_offset for one in log.segments] == [1, 2, 3]


def test_files_go_although_the_clock_was_ahead(disk: MemoryDisk) -> None:
    """What was deleted under a clock ten years ahead is not kept for ten years when that is put right."""
    log = filled(disk, LogConfig(file_delete_delay_ms=500), [0, 0, 0])
    flush(log)
    log.advance_start(2)
    ahead_ms = 10 * 365 * 24 * 3600 * 1000
    log.delete_segments(log.expired(ahead_ms, 3, delete=False), ahead_ms)
    for work in remember(Held(log, 3)):
        work()
    assert log.removal(ahead_ms + 499) is None
    removal = log.removal(100_000)
    assert removal is not None
    removal.run()
    assert not [name for name in disk.names if name.endswith((f"{0:020d}.log", f"{1:020d}.log"))]


def test_the_event_loop_reads_no_segment(disk: MemoryDisk) -> None:
    """Where a full disk had no room for an index, finding a segment's newest time is work for a thread."""
    log = filled(disk, LogConfig(), [0, 0, 99_500])
    flush(log)
    log.close()
    for name in [one for one in disk.names if one.endswith(".timeindex")]:
        del disk.names[name]
    faulty = FaultyDisk(disk)
    log = Log.open(PATH, LogConfig(retention_ms=1000), clean=False, now_ms=0, disk=faulty)
    waited = 0
    loop = faulty.calls["read"]
    for work in retain(Held(log, log.end_offset), 100_000, delete=True):
        assert faulty.calls["read"] == loop
        work()
        waited += 1
        loop = faulty.calls["read"]
    assert faulty.calls["read"] == loop
    assert (log.start_offset, waited) == (2, 3)


@pytest.mark.parametrize("indexed", [False, True])
def test_few_segments_are_open_at_once(disk: MemoryDisk, indexed: bool) -> None:
    """Finding the newest times of thousands, or making sure of those that go, takes no descriptor for each."""
    log = filled(disk, LogConfig(), [1] * 9)
    flush(log)
    log.close()
    for name in [one for one in disk.names if one.endswith(".timeindex") and not indexed]:
        del disk.names[name]
    log = Log.open(PATH, LogConfig(retention_ms=1000), clean=False, now_ms=0, disk=disk)
    sealed = log.segments[:-1]
    works = 0
    for work in retain(Held(log, log.end_offset), 100_000, delete=True):
        assert sum(one._file is not None for one in sealed) <= 1
        work()
        works += 1
    assert sum(one._file is not None for one in sealed) <= 1
    assert (log.start_offset, works) == (9, 9)
