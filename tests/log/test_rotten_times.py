"""Files that changed while nobody looked: no bit that is wrong changes which record is the first at or after a time."""

from __future__ import annotations

import random
from types import SimpleNamespace

import pytest

from logd.errors import Corrupt
from logd.jobs.retention import retain
from logd.log.log import Log, LogConfig
from logd.wire.batches import Record, build_batch
from tests.fakes.disks import MemoryDisk
from tests.log.batches import TOPIC_ID, append, flush

PATH = "/data/t-0"
CONFIG = LogConfig(segment_bytes=2600, index_interval_bytes=150, retention_ms=1000)
SEGMENTS = 3
Times = list[int]


def filled(disk: MemoryDisk, seed: int) -> tuple[Log, Times]:
    """Batches of two records in three segments, whose times rise with many repetitions and setbacks; and the times."""
    chance = random.Random(seed)
    log = Log.create(PATH, TOPIC_ID, CONFIG, now_ms=0, disk=disk)
    times: Times = []
    while len(log.segments) < SEGMENTS or log.segments[-1].size < CONFIG.segment_bytes // 2:
        reached = len(times) // 4
        pair = [max(0, reached + chance.choice((-3, -2, 0, 0, 1, 8))) for _ in range(2)]
        append(
            log, build_batch([Record(at, time, None, b"v" * chance.randrange(40), []) for at, time in enumerate(pair)])
        )
        times += pair
    return log, times


def first_at(times: Times, wanted: int) -> tuple[int, int] | None:
    """What is to be found: time and offset."""
    return next(((time, offset) for offset, time in enumerate(times) if time >= wanted), None)


def answers_are_right(log: Log, times: Times) -> bool:
    """Ask for every time there is; False when an error says that something is wrong. Fails on a wrong answer."""
    well = True
    for wanted in (*range(max(times) + 2), None):
        expected = first_at(times, max(times) if wanted is None else wanted)
        try:
            scan = log.max_timestamp(len(times)) if wanted is None else log.find_timestamp(wanted, len(times))
            found = scan.run() if scan is not None else None
        except Corrupt:
            well = False
            continue
        assert (found[:2] if found is not None else None) == expected, wanted
    return well


Saved = dict[str, bytes | None]


def saved(disk: MemoryDisk) -> Saved:
    """All that is on a disk."""
    return {name: None if file is None else bytes(file.data) for name, file in disk.names.items()}


def opened(files: Saved, name: str = "", at: int = 0, mask: int = 0) -> Log:
    """The log on a new disk with these files, bits of one byte turned over."""
    disk = MemoryDisk()
    for path, data in files.items():
        if data is None:
            disk.make_directory(path)
        else:
            file = disk.open(path, create=True)
            file.data[:] = data
    if name:
        file = disk.open(name)
        file.data[at] ^= mask
    return Log.open(PATH, CONFIG, clean=True, now_ms=0, disk=disk)


def flips(files: Saved, suffixes: tuple[str, ...], chance: random.Random, count: int) -> list[tuple[str, int, int]]:
    """Places to turn over a bit: a file, a byte, a mask."""
    places = [(name, at) for name, data in files.items() if name.endswith(suffixes) for at in range(len(data or b""))]
    return [(*chance.choice(places), 1 << chance.randrange(8)) for _ in range(count)]


def killed_or_stopped(seed: int, *, stopped: bool) -> tuple[Saved, Times]:
    """The files of a log that was closed, or whose process died after a recovery point and another batch."""
    disk = MemoryDisk()
    log, times = filled(disk, seed)
    if stopped:
        log.close()
    else:
        log.checkpoints.since_point_bytes = 1 << 30  # a point is due: the active segment's indexes are written, too
        flush(log)
        append(log, build_batch([Record(at, 1, None, b"", []) for at in range(2)]))
        times += [1, 1]
    return saved(disk), times


@pytest.mark.parametrize("stopped", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_index_files(seed: int, stopped: bool) -> None:
    """With any bit of an index file turned over all answers are the right ones."""
    files, times = killed_or_stopped(seed, stopped=stopped)
    assert answers_are_right(opened(files), times)
    for name, at, mask in flips(files, (".timeindex", ".index"), random.Random(seed), 200):
        assert answers_are_right(opened(files, name, at, mask), times), (name, at, mask)


@pytest.mark.parametrize("seed", range(3))
def test_batches(seed: int) -> None:
    """With any bit of a batch turned over an answer is right, or it is an error."""
    files, times = killed_or_stopped(seed, stopped=True)
    seen = [
        answers_are_right(opened(files, *place), times) for place in flips(files, (".log",), random.Random(seed), 200)
    ]
    assert not all(seen)


@pytest.mark.parametrize("seed", range(3))
def test_retention(seed: int) -> None:
    """A time index that was turned back does not make a segment old."""
    files, times = killed_or_stopped(seed, stopped=True)
    log = opened(files)
    newest = [max(times[one.base_offset : one.next_offset]) for one in log.segments[:-1]]
    for name, at, mask in flips(files, (".timeindex",), random.Random(seed), 100):
        log = opened(files, name, at, mask)
        held = SimpleNamespace(log=log, high_watermark=log.end_offset, last_stable_offset=log.end_offset)
        for now_ms, first in ((newest[0], 0), (newest[0] + 1, log.segments[1].base_offset)):
            for job in retain(held, log.config.retention_ms + now_ms, delete=True):
                job()
            assert log.start_offset == first, (name, at, mask)
