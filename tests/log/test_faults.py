"""A disk that fails: what was refused changed nothing, a failed flush is final, a full disk is not."""

from __future__ import annotations

import contextlib
import copy
import errno
import random
from collections.abc import Iterator

import pytest

from logd.errors import StorageFailed
from logd.log import flush as flushing
from logd.log.aborted import TXN_INDEX_SUFFIX
from logd.log.log import Log, LogConfig
from logd.log.state import META_NAME
from tests.fakes.disks import FaultyDisk, MemoryDisk
from tests.log.batches import TOPIC_ID, append, batch, checkpoint, content, flush, mark

PATH = "/data/t-0"
CONFIG = LogConfig(segment_bytes=2000, index_interval_bytes=100)


@pytest.fixture
def faulty(disk: MemoryDisk) -> FaultyDisk:
    return FaultyDisk(disk)


@pytest.fixture
def log(faulty: FaultyDisk) -> Log:
    return Log.create(PATH, TOPIC_ID, CONFIG, now_ms=0, disk=faulty)


def test_full_disk_refuses_and_goes_on(log: Log, faulty: FaultyDisk) -> None:
    """With no space for the next step an append fails, changes nothing, and a later one succeeds; reads are served."""
    faulty.arm("allocate", number=errno.ENOSPC)
    with pytest.raises(StorageFailed):
        append(log, batch(producer=1))
    assert (log.end_offset, len(log.producers), log.failure) == (0, 0, None)
    assert content(log) == []
    assert append(log, batch(producer=1)).base_offset == 0
    assert content(log) == [(0, b"v")]


def test_full_disk_at_a_roll(log: Log, faulty: FaultyDisk, disk: MemoryDisk) -> None:
    """Space that ends with a segment full leaves a log that still opens and takes the batch later."""
    for _ in range(5):
        append(log, batch(value=bytes(300)))
    faulty.arm("allocate", number=errno.ENOSPC)
    with pytest.raises(StorageFailed):
        append(log, batch(value=bytes(900)))
    assert log.failure is None
    assert append(log, batch(value=bytes(900))).base_offset == 5
    log.close()
    assert len(content(Log.open(PATH, CONFIG, clean=True, now_ms=0, disk=disk))) == 6


def test_failed_write_takes_the_log_offline(log: Log, faulty: FaultyDisk) -> None:
    """After EIO of a write every call raises, and nothing of the write counts."""
    append(log, batch())
    faulty.arm("write")
    with pytest.raises(StorageFailed):
        append(log, batch())
    assert log.end_offset == 1
    for call in (
        lambda: append(log, batch()),
        lambda: log.read(0, bytes_max=100, end=1),
        log.flush_job,
        lambda: log.checkpoint(0),
        lambda: log.truncate(0),
        lambda: log.roll(0),
        lambda: log.find_timestamp(0, 1),
    ):
        with pytest.raises(StorageFailed):
            call()


def test_failed_flush_is_final(log: Log, faulty: FaultyDisk) -> None:
    """A failed flush is not tried again: the flushed offset stays and the log is offline."""
    append(log, batch())
    faulty.arm("sync")
    job = log.flush_job()
    assert job is not None
    with pytest.raises(StorageFailed):
        job.run()
    assert log.flushed_offset == 0
    with pytest.raises(StorageFailed):
        log.flush_job()
    log.close()
    assert faulty.calls["sync"] == 1


@pytest.mark.parametrize("call", ["open", "replace", "sync_directory"])
def test_no_descriptor_for_a_flush(monkeypatch: pytest.MonkeyPatch, disk: MemoryDisk, call: str) -> None:
    """A flush that lacks a file descriptor is begun again, and takes nothing offline: it has flushed nothing yet."""
    monkeypatch.setattr(flushing, "DESCRIPTOR_WAIT_S", 0.0)
    faulty = FaultyDisk(disk)
    log = Log.create("/data/t-0", TOPIC_ID, LogConfig(segment_bytes=200), now_ms=0, disk=faulty)
    for _ in range(4):
        append(log, batch(value=b"v" * 60))
    log.segments[0].close()  # it has to be opened again
    faulty.arm(call, 1, errno.EMFILE)
    flush(log)
    assert faulty.fired(call)
    assert log.failure is None
    assert log.flushed_offset == log.end_offset == 4
    assert all(one.finished for one in log.segments[:-1])


def test_no_descriptor_behind_a_transaction_index(
    monkeypatch: pytest.MonkeyPatch, log: Log, faulty: FaultyDisk
) -> None:
    """A flush that is begun again leaves alone the index of aborted transactions that it has written before."""
    monkeypatch.setattr(flushing, "DESCRIPTOR_WAIT_S", 0.0)
    append(log, batch(producer=1, transactional=True))
    mark(log, 1, committed=False)
    log.roll(0)
    path = log.segments[0].path + TXN_INDEX_SUFFIX
    faulty.arm("sync_directory", 1, errno.EMFILE)
    flush(log)
    assert faulty.fired("sync_directory")
    assert faulty.load(path) == log.aborted.part(0, 2)


@pytest.mark.parametrize("sealed", [False, True])
def test_full_disk_for_a_transaction_index_at_an_open(log: Log, disk: MemoryDisk, sealed: bool) -> None:
    """After a crash with the disk full, a log is opened though its index of aborted transactions can't be put right."""
    append(log, batch(producer=1, transactional=True))
    mark(log, 1, committed=False)
    if sealed:
        log.roll(0)
    flush(log)
    disk.remove(log.segments[0].path + TXN_INDEX_SUFFIX)
    faulty = FaultyDisk(disk, "replace", 1, errno.ENOSPC)
    after = Log.open(PATH, CONFIG, clean=False, now_ms=0, disk=faulty)
    assert faulty.fired("replace")
    assert after.aborted.part(0, 2) == log.aborted.part(0, 2) != b""
    append(after, batch(producer=2))
    after.close()
    again = Log.open(PATH, CONFIG, clean=True, now_ms=0, disk=disk)
    assert again.aborted.part(0, 2) == log.aborted.part(0, 2)
    assert disk.load(log.segments[0].path + TXN_INDEX_SUFFIX) == log.aborted.part(0, 2)


@pytest.mark.parametrize("call", ["replace", "open", "write"])
def test_full_disk_for_small_files(call: str) -> None:
    """A disk too full for index, snapshot and state files is no reason to go offline: they are written later."""
    for nth in range(1, 6):
        disk = MemoryDisk()
        faulty = FaultyDisk(disk)
        log = Log.create(PATH, TOPIC_ID, CONFIG, now_ms=0, disk=faulty)
        for at in range(12):
            append(log, batch(value=bytes(200), producer=1, sequence=at, timestamp=at))
        faulty.arm(call, nth, errno.ENOSPC)
        flush(log)
        faulty.arm("nothing")
        assert (log.flushed_offset, log.failure) == (12, None)
        append(log, batch(value=bytes(1900), producer=1, sequence=12, timestamp=12))
        flush(log)
        checkpoint(log)
        after = Log.open(PATH, CONFIG, clean=False, now_ms=0, disk=disk)
        assert content(after) == content(log)
        assert after.producers.snapshot(0) == log.producers.snapshot(0)
        assert [one.max_timestamp for one in after.segments] == [one.max_timestamp for one in log.segments]


WORK = ("open", "write", "allocate", "resize", "sync", "replace", "sync_directory", "remove", "load", "read", "entries")


@pytest.mark.parametrize("name", WORK)
@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_every_call_fails_once(name: str, number: int) -> None:
    """Whichever call fails, for every n: StorageFailed and nothing else, and nothing flushed is lost."""
    for nth in range(1, 200):
        disk = MemoryDisk()
        faulty = FaultyDisk(disk, name, nth, number)
        flushed: list[int] = []
        with contextlib.suppress(StorageFailed):
            _work(faulty, flushed)
        if faulty.calls[name] < nth:
            return
        if f"{PATH}/partition.meta" in disk.names:
            after = Log.open(PATH, CONFIG, clean=False, now_ms=0, disk=disk)
            assert after.end_offset >= max(flushed, default=0), (name, nth)
            assert [offset for offset, _ in content(after)] == list(range(after.start_offset, after.end_offset))
    pytest.fail("the work has no end")


def _work(disk: FaultyDisk, flushed: list[int]) -> None:
    log = Log.create(PATH, TOPIC_ID, CONFIG, now_ms=0, disk=disk)
    for at in range(12):
        append(log, batch(value=bytes(200), producer=1, sequence=at), epoch=at // 4)
        if at % 3 == 0:
            flush(log)
            flushed.append(log.flushed_offset)
    log.advance_start(3)
    job = log.checkpoint(9)
    if job is not None:
        job.run()
        log.flushed(job)
    content(log)
    log.close()
    flushed.append(12)
    Log.open(PATH, CONFIG, clean=True, now_ms=0, disk=disk)


def test_pages_that_a_failed_flush_left_clean(disk: MemoryDisk) -> None:
    """After a failed flush and a new start the kernel calls clean what is on no disk: it is written again before that.

    Else the next flush says "ok", the batches are acknowledged, and a power cut takes them.
    """
    disk.make_directory("/data")
    faulty = FaultyDisk(disk)
    log = Log.create(PATH, TOPIC_ID, CONFIG, now_ms=0, disk=faulty)
    disk.sync_directory("/data")
    for _ in range(3):
        append(log, batch(value=bytes(900)))
    flush(log)
    append(log, batch())
    faulty.arm("sync")
    with pytest.raises(StorageFailed):
        flush(log)
    again = Log.open(PATH, CONFIG, clean=False, now_ms=0, disk=disk)
    flush(again)
    assert again.flushed_offset == 4
    for seed in range(20):
        after = Log.open(PATH, CONFIG, clean=False, now_ms=0, disk=copy.deepcopy(disk).lose_power(random.Random(seed)))
        assert after.end_offset == 4


def test_no_room_for_the_word_of_a_failed_flush(disk: MemoryDisk, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk too full for a flush is too full for the word of it, too: it is left before the log is opened again."""
    disk.make_directory("/data")
    faulty = FaultyDisk(disk)
    log = Log.create(PATH, TOPIC_ID, CONFIG, now_ms=0, disk=faulty)
    disk.sync_directory("/data")
    for _ in range(2):
        append(log, batch())
    flush(log)
    append(log, batch())

    def full(path: str, *rest: object, **how: object) -> None:
        raise StorageFailed(path, OSError(errno.ENOSPC, "full"))

    with monkeypatch.context() as patched:
        patched.setattr(disk, "replace", full)
        faulty.arm("sync", number=errno.ENOSPC)
        with pytest.raises(StorageFailed):
            flush(log)
        log.close(clean=False)
        assert log.unmarked
    log.close(clean=False)
    assert not log.unmarked
    again = Log.open(PATH, CONFIG, clean=False, now_ms=0, disk=disk)
    flush(again)
    for after in _power_cuts(disk):
        assert after.end_offset == 3


def _power_cuts(disk: MemoryDisk) -> Iterator[Log]:
    """The log as it may be found after a power cut, some times."""
    for seed in range(20):
        after = copy.deepcopy(disk).lose_power(random.Random(seed))
        yield Log.open(PATH, CONFIG, clean=False, now_ms=0, disk=after)


def test_cut_that_a_failed_flush_left_undone(disk: MemoryDisk) -> None:
    """The cut of a sealed file is lost with its failed flush, though all of its data was flushed before.

    The next start cuts it again: no tail of zeros comes back behind a recovery point, where it would be damage.
    """
    disk.make_directory("/data")
    faulty = FaultyDisk(disk)
    log = Log.create(PATH, TOPIC_ID, CONFIG, now_ms=0, disk=faulty)
    disk.sync_directory("/data")
    for _ in range(2):
        append(log, batch(value=bytes(900)))
    flush(log)
    checkpoint(log)
    append(log, batch(value=bytes(900)))  # the first file is sealed
    faulty.arm("sync")
    with pytest.raises(StorageFailed):
        flush(log)
    again = Log.open(PATH, CONFIG, clean=False, now_ms=0, disk=disk)
    append(again, batch(value=bytes(900)))
    flush(again)
    append(again, batch(value=bytes(900)))
    flush(again)
    checkpoint(again)
    for after in _power_cuts(disk):
        assert [offset for offset, _ in content(after)] == [0, 1, 2, 3, 4]


def test_failed_flush_of_a_recovery(disk: MemoryDisk) -> None:
    """A recovery that cuts a torn end, and whose flush of that fails, leaves word as other failed flushes do."""
    disk.make_directory("/data")
    log = Log.create(PATH, TOPIC_ID, CONFIG, now_ms=0, disk=disk)
    disk.sync_directory("/data")
    append(log, batch())
    flush(log)
    append(log, batch())
    file = disk.open(f"{PATH}/{0:020d}.log")
    disk.write(file, b"torn", log.segments[0].size)
    with pytest.raises(StorageFailed):
        Log.open(PATH, CONFIG, clean=False, now_ms=0, disk=FaultyDisk(disk, "sync", 1))
    again = Log.open(PATH, CONFIG, clean=False, now_ms=0, disk=disk)
    flush(again)
    for after in _power_cuts(disk):
        assert after.end_offset == 2


def test_failed_flush_of_a_truncation(disk: MemoryDisk) -> None:
    """A truncation whose flush fails leaves word as other failed flushes do."""
    disk.make_directory("/data")
    faulty = FaultyDisk(disk)
    log = Log.create(PATH, TOPIC_ID, CONFIG, now_ms=0, disk=faulty)
    disk.sync_directory("/data")
    for _ in range(4):
        append(log, batch())
    faulty.arm("sync")
    with pytest.raises(StorageFailed):
        log.truncate(2)
    again = Log.open(PATH, CONFIG, clean=False, now_ms=0, disk=disk)
    flush(again)
    for after in _power_cuts(disk):
        assert after.end_offset == again.end_offset >= 2


@pytest.mark.parametrize("nth", [1, 2])
def test_directory_whose_name_was_not_flushed(disk: MemoryDisk, nth: int) -> None:
    """A log whose making failed at a flush of names is on disk, name and all, once what is written to it is flushed."""
    disk.make_directory("/data")
    with pytest.raises(StorageFailed):
        Log.create(PATH, TOPIC_ID, CONFIG, now_ms=0, disk=FaultyDisk(disk, "sync_directory", nth, errno.ENOSPC))
    if disk.load(f"{PATH}/{META_NAME}") is None:  # as the table of partitions does
        log = Log.create(PATH, TOPIC_ID, CONFIG, now_ms=0, disk=disk)
    else:
        log = Log.open(PATH, CONFIG, clean=False, now_ms=0, disk=disk)
    append(log, batch())
    flush(log)
    for after in _power_cuts(disk):
        assert after.end_offset == 1
    for seed in range(20):
        assert PATH in copy.deepcopy(disk).lose_power(random.Random(seed)).names
