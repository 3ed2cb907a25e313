"""The flusher: jobs of many partitions side by side, flushes shared, failures kept to the partition they concern."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from logd import threads
from logd.config import Settings
from logd.config.topics import topic_defaults
from logd.errors import Refused
from logd.log.disk import Disk, File
from logd.log.log import Log, LogConfig
from logd.partitions import flusher as flusher_module
from logd.partitions.flusher import Flusher
from logd.partitions.partition import Partition
from logd.wire.batches import Record, build_batch
from tests.fakes.disks import FaultyDisk, MemoryDisk


class Standing:
    """A clock that stands."""

    def now_ms(self) -> int:
        return 2000


class Held(MemoryDisk):
    """Its syncs wait while ``go_on`` is not set; ``met`` is passed when so many are at it together."""

    def __init__(self, together: int = 1) -> None:
        super().__init__()
        self.go_on = threading.Event()
        self.go_on.set()
        self.met = threading.Barrier(together)
        self.synced: list[str] = []

    def sync(self, file: File) -> None:
        if not self.go_on.is_set():
            self.met.wait(30)
        assert self.go_on.wait(30)
        self.synced.append(file.path)
        super().sync(file)


def partition(disk: Disk, index: int, flusher: Flusher) -> Partition:
    log = Log.create(f"t-{index}", bytes(16), LogConfig(), now_ms=0, disk=disk)
    return Partition(
        "t",
        index,
        bytes(16),
        log,
        leader_epoch=1,
        config=topic_defaults(Settings()),
        internal=False,
        durable=True,
        flusher=flusher,
        clock=Standing(),
    )


def append(to: Partition) -> int:
    return to.append(build_batch([Record(0, 2000, None, b"x", [])])).next_offset


@asynccontextmanager
async def running(threads_max: Callable[[], int] = lambda: 2) -> AsyncIterator[Flusher]:
    flusher = Flusher(threads_max)
    async with trio.open_nursery() as nursery:
        await nursery.start(flusher.run)
        yield flusher
        nursery.cancel_scope.cancel()


@pytest.mark.trio
async def test_more_partitions_than_threads() -> None:
    """All are flushed."""
    disk = MemoryDisk()
    async with running() as flusher:
        all_of_them = [partition(disk, index, flusher) for index in range(20)]
        for _ in range(3):
            ends = [append(one) for one in all_of_them]
            for one, end in zip(all_of_them, ends, strict=True):
                await one.committed.wait(end)
                assert one.log.flushed_offset == end


@pytest.mark.trio
async def test_side_by_side() -> None:
    """Flushes of different partitions do not wait for one another."""
    disk = Held(together=3)
    async with running() as flusher:
        one, other = partition(disk, 0, flusher), partition(disk, 1, flusher)
        disk.go_on.clear()
        ends = append(one), append(other)
        await trio.to_thread.run_sync(disk.met.wait, 30)
        disk.go_on.set()
        await one.committed.wait(ends[0])
        await other.committed.wait(ends[1])


def flush_threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "logd flush"}


@pytest.mark.trio
async def test_threads_more_and_fewer() -> None:
    """The number of threads can change while flushes run: more with the next job, fewer as soon as they idle."""
    threads_max, others = 1, flush_threads()
    disk = Held(together=3)
    async with running(lambda: threads_max) as flusher:
        one, other = partition(disk, 0, flusher), partition(disk, 1, flusher)
        disk.go_on.clear()
        ends = [append(one)]
        await trio.testing.wait_all_tasks_blocked()
        threads_max = 2
        ends.append(append(other))
        await trio.to_thread.run_sync(disk.met.wait, 30)
        disk.go_on.set()
        await one.committed.wait(ends[0])
        await other.committed.wait(ends[1])
        both = flush_threads() - others
        assert len(both) == 2
        threads_max = 1
        for _ in range(2):
            await one.committed.wait(append(one))
        while len(flush_threads() & both) > 1:
            await trio.lowlevel.checkpoint()


@pytest.mark.trio
async def test_what_arrives_during_a_flush_shares_the_next() -> None:
    """Ten appends while one flush runs are one flush more."""
    disk = Held(together=2)
    async with running() as flusher:
        one = partition(disk, 0, flusher)
        disk.go_on.clear()
        first = append(one)
        await trio.to_thread.run_sync(disk.met.wait, 30)
        last = [append(one) for _ in range(10)][-1]
        assert one.high_watermark < first
        disk.synced.clear()
        disk.go_on.set()
        await one.committed.wait(last)
        assert len([path for path in disk.synced if path.endswith(".log")]) == 2


@pytest.mark.trio
async def test_failure() -> None:
    """A flush that failed takes its partition offline; the others go on, and nobody waits for ever."""
    disk = MemoryDisk()
    faulty = FaultyDisk(disk)
    async with running() as flusher:
        bad, good = partition(faulty, 0, flusher), partition(disk, 1, flusher)
        faulty.arm("sync")
        end = append(bad)
        with pytest.raises(Refused, match="offline"):
            await bad.committed.wait(end)
        with pytest.raises(Refused, match="offline"):
            append(bad)
        await good.committed.wait(append(good))


@pytest.mark.trio
async def test_end_waits_for_what_has_begun() -> None:
    """A cancelled flusher ends when its jobs have, so that nobody closes files under a thread."""
    disk = Held(together=2)
    async with trio.open_nursery() as nursery:
        flusher = Flusher(lambda: 2)
        scope = trio.CancelScope()
        ended = trio.Event()

        async def run(task_status: trio.TaskStatus[None]) -> None:
            with scope:
                await flusher.run(task_status)
            ended.set()

        await nursery.start(run)
        one = partition(disk, 0, flusher)
        disk.go_on.clear()
        end = append(one)
        await trio.to_thread.run_sync(disk.met.wait, 30)
        scope.cancel()
        await trio.testing.wait_all_tasks_blocked()
        assert not ended.is_set()
        disk.go_on.set()
        await ended.wait()
        assert one.log.flushed_offset == end


@pytest.mark.trio
async def test_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    """A job that ends in a way nobody thought of ends the flusher: nothing may look flushed that is not."""
    monkeypatch.setattr(threading, "excepthook", lambda _: None)

    async def append_to_a_broken_one() -> None:
        async with running() as flusher:
            one = partition(MemoryDisk(), 0, flusher)
            monkeypatch.setattr(one.log, "flush_job", lambda now_ms: object())
            await one.committed.wait(append(one))

    with pytest.raises(BaseExceptionGroup) as told:
        await append_to_a_broken_one()
    assert told.group_contains(RuntimeError, match="is a bug")


class Scarce(threading.Thread):
    """A thread that cannot be started the first few times."""

    refusals = 3

    def start(self) -> None:
        if Scarce.refusals:
            Scarce.refusals -= 1
            raise RuntimeError("can't start new thread")
        super().start()


@pytest.mark.trio
async def test_no_thread_to_be_had(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Flushes wait until there is one, and nothing ends; who has one already goes on with it."""
    monkeypatch.setattr(flusher_module, "Thread", Scarce)
    monkeypatch.setattr(threads._Lack, "told_s", float("-inf"))
    monkeypatch.setattr(Scarce, "refusals", 3)
    disk = MemoryDisk()
    async with running() as flusher:
        all_of_them = [partition(disk, index, flusher) for index in range(4)]
        for one, end in [(one, append(one)) for one in all_of_them]:
            await one.committed.wait(end)
        Scarce.refusals = 2**31
        for one, end in [(one, append(one)) for one in all_of_them]:
            await one.committed.wait(end)
    assert caplog.text.count("allow more processes") == 1
