"""Compaction that ends in the middle: after every single disk operation the log opens and says the same."""

from __future__ import annotations

import errno
import random
from collections.abc import Callable
from typing import Any

import pytest

from logd.errors import StorageFailed
from logd.log.log import Log, LogConfig
from tests.fakes.disks import FaultyDisk, MemoryDisk
from tests.log.batches import TOPIC_ID, append, batch, checkpoint, flush, mark
from tests.log.compacting import clean, last_values, put, roll, steps

CONFIG = LogConfig(segment_bytes=600, index_interval_bytes=100, compacted=True)
PATH = "/data/t-0"
FEW_KEYS = 24 * 6
CHANGES = ("write", "allocate", "resize", "sync", "replace", "rename", "remove", "sync_directory")


class Died(BaseException):
    """The process is dead."""


class Mortal:
    """Hands calls to a disk; the process dies before the ``last``-th that changes something."""

    def __init__(self, disk: MemoryDisk, last: int) -> None:
        self._disk = disk
        self.left = last

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._disk, name)
        if name not in CHANGES:
            return call

        def counted(*args: Any, **kwargs: Any) -> Any:
            self.left -= 1
            if self.left < 0:
                raise Died
            return call(*args, **kwargs)

        return counted


def filled() -> MemoryDisk:
    """A log of several segments with all that compaction knows: old values, tombstones, an idempotent producer."""
    disk = MemoryDisk()
    log = Log.create(PATH, TOPIC_ID, CONFIG, now_ms=0, disk=disk)
    for number in range(14):
        put(log, (f"k{number % 5}", str(number)), ("same", str(number)), (f"once{number}", "x" * 40))
        put(log, (f"p{number % 3}", "p"), producer_id=1, producer_epoch=0, base_sequence=number)
    put(log, ("k1", None), ("k2", None))
    roll(log)
    put(log, ("k3", "active"))
    flush(log)
    checkpoint(log)
    disk.sync_directory(PATH)
    disk.sync_directory("/data")
    log.close(clean=False)
    return disk


def opened(disk: Any) -> Log:
    log = Log.open(PATH, CONFIG, clean=False, now_ms=0, disk=disk)
    flush(log)
    return log


def seen(log: Log) -> object:
    producer = log.producers.get(1)
    assert producer is not None
    return last_values(log), log.start_offset, log.end_offset, producer.last_sequence


def run_until_death(disk: MemoryDisk, operations: int) -> bool:
    """Clean, with that many operations to live; say whether it came to its end."""
    mortal = Mortal(disk, 2**31)
    log = opened(mortal)
    mortal.left = operations
    try:
        clean(log, mortal, 50_000)
    except Died:
        return False
    return True


def lives(check: Callable[[MemoryDisk], None]) -> int:
    """Let a run die after each number of operations and look at what is left; return how many there are."""
    operations = 0
    while True:
        disk = filled()
        ended = run_until_death(disk, operations)
        check(disk)
        if ended:
            return operations
        operations += 1


def test_death_after_each_operation() -> None:
    """A process that dies anywhere in a run leaves the same last values, offsets and sequences; a later run ends it."""
    expected = seen(opened(filled()))

    def check(disk: MemoryDisk) -> None:
        log = opened(disk)
        assert seen(log) == expected
        assert not [name for name in disk.names if ".cleaned" in name]
        clean(log, disk, 60_000)
        assert seen(log) == expected
        assert len(log.segments) < 8
        log.close()
        assert seen(opened(disk)) == expected

    assert lives(check) > 40


@pytest.mark.parametrize("seed", range(4))
def test_power_cut_after_each_operation(seed: int) -> None:
    """A power cut, which keeps any part of what was not flushed, does not either; nor does a second one in recovery."""
    expected = seen(opened(filled()))
    chance = random.Random(seed)

    def check(disk: MemoryDisk) -> None:
        after = disk.lose_power(chance)
        mortal = Mortal(after, chance.randrange(12))
        try:
            opened(mortal)
        except Died:
            after = after.lose_power(chance)
        log = opened(after)
        assert seen(log) == expected
        clean(log, after, 60_000)
        assert seen(log) == expected

    lives(check)


def test_state_lost_with_a_swap_half_done() -> None:
    """Without the state file all is read again, and gaps of a log that was never finished are no corruption."""
    expected = last_values(opened(filled()))

    def check(disk: MemoryDisk) -> None:
        for name in [one for one in disk.names if one.endswith(("partition.state", ".snapshot", "index"))]:
            del disk.names[name]
        log = Log.open(PATH, LogConfig(segment_bytes=600), clean=False, now_ms=0, disk=disk)
        assert last_values(log) == expected
        assert log.end_offset == 59

    lives(check)


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EMFILE])
def test_failing_operations(name: str, number: int) -> None:
    """A disk that fails once leaves the log as it was or takes it offline; it opens again with the same values.

    Offline for the reason that there is: one that is only full, or lacks descriptors, is opened again by itself.
    """
    expected = seen(opened(filled()))
    for nth in range(1, 40):
        disk = filled()
        faulty = FaultyDisk(disk)
        log = opened(faulty)
        faulty.arm(name, nth, number)
        failed = False
        try:
            for work in steps(log, faulty, 50_000):
                work()
        except StorageFailed:
            failed = True
        if log.failure is None:
            assert seen(log) == expected
        else:
            assert log.failure.cause.errno == number
        assert seen(opened(disk)) == expected
        if not failed:
            return


@pytest.mark.parametrize(("name", "nth"), [("sync_directory", 1), ("load", 1), ("replace", 1), ("sync_directory", 2)])
def test_nothing_is_left_of_a_swap_that_is_refused(name: str, nth: int) -> None:
    """On a full disk the new segment, which may be as large as the old, does not stay until the next try."""
    disk = filled()
    faulty = FaultyDisk(disk)
    log = opened(faulty)
    run = steps(log, faulty, 50_000)
    for _ in range(2):  # survey, and the first group
        next(run)()
    assert [one for one in disk.names if ".cleaned" in one]
    commit = next(run)
    faulty.arm(name, nth, errno.ENOSPC)
    with pytest.raises(StorageFailed):
        commit()
    assert not [one for one in disk.names if ".cleaned" in one]
    assert seen(log) == seen(opened(disk)) == seen(opened(filled()))


@pytest.mark.parametrize("begun", [3, 4])
def test_a_swap_is_carried_out_on_a_full_disk(begun: int) -> None:
    """After a crash the log is there though that it was done can't be written; then the next run goes on from it."""
    disk = filled()
    log = opened(disk)
    run = steps(log, disk, 50_000)
    for _ in range(begun):  # survey, a segment, the decision for it, and its end
        next(run)()
    faulty = FaultyDisk(disk, "replace", 1, errno.ENOSPC)
    after = Log.open(PATH, CONFIG, clean=False, now_ms=0, disk=faulty)
    assert faulty.fired("replace") == (begun == 3)
    faulty.arm("nothing")
    assert seen(after) == seen(opened(filled()))
    clean(after, disk, 60_000)
    assert seen(after) == seen(opened(disk)) == seen(opened(filled()))


def opened_without_progress(disk: MemoryDisk, log: Log) -> Log:
    """The log after a kill, with one bit of the file wrong that tells how far compaction has come."""
    checkpoint(log)
    log.close(clean=False)
    progress = disk.names[f"{PATH}/partition.compaction"]
    assert progress is not None
    progress.data[9] ^= 1
    return opened(disk)


@pytest.mark.parametrize("lost", ["partition.state", "index"])
def test_gaps_are_lawful_where_nobody_knows_where_they_are(lost: str) -> None:
    """The file that tells them has rotted, and a run dies behind its first segment: what the others lost before is no
    damage, whether all is read again or only what was aborted."""
    disk = filled()
    log = opened(disk)
    for number in range(3):
        append(log, batch(producer=7 + number, transactional=True))
        mark(log, 7 + number, committed=False)
        put(log, ("same", str(number)))
    roll(log)
    clean(log, disk, 50_000)
    put(log, ("same", "last"))
    roll(log)
    log = opened_without_progress(disk, log)
    expected, aborted = last_values(log), log.aborted.part(0, log.end_offset)
    assert aborted
    run = steps(log, disk, 50_500)
    for _ in range(4):  # survey, a segment, the decision for it, and its end
        next(run)()
    for name in [one for one in disk.names if one.endswith(lost)]:
        del disk.names[name]
    again = Log.open(PATH, CONFIG, clean=False, now_ms=0, disk=disk)
    assert (last_values(again), again.end_offset) == (expected, log.end_offset)


@pytest.mark.parametrize("lost", ["partition.state", "index", ""])
def test_gaps_are_lawful_behind_the_end_of_a_run(lost: str) -> None:
    """The file that tells them has rotted, and there are more keys than the next run has room for: where it has not
    been, old gaps are no damage, neither at once nor after a crash."""
    disk = filled()
    log = opened(disk)
    clean(log, disk, 50_000)
    expected = last_values(log)
    log = opened_without_progress(disk, log)
    clean(log, disk, 50_500, dedupe_buffer_size=FEW_KEYS)
    assert 0 < log.cleaned_offset < log.segments[-2].base_offset
    assert last_values(log) == expected
    for name in [one for one in disk.names if lost and one.endswith(lost)]:
        del disk.names[name]
    log = Log.open(PATH, CONFIG, clean=False, now_ms=0, disk=disk)
    assert last_values(log) == expected
    put(log, ("same", "new"))
    roll(log)
    checkpoint(log)
    clean(log, disk, 50_500)
    put(log, ("same", "newer"))
    assert log.cleaned_offset == log.segments[-1].base_offset
    assert log.is_dense(log.segments[-1])
    assert last_values(log) == {**expected, b"same": b"newer"}
