"""When logs are compacted: the dirtiest first, and what becomes of those that cannot be."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import trio
import trio.testing

from logd.config import Settings, TopicConfig
from logd.errors import Corrupt, StorageFailed, WorkerLost
from logd.partitions.compactor import Compactor


class Log:
    def __init__(self) -> None:
        self.segments = [1, 2]
        self.failure: StorageFailed | None = None
        self.looks = 0

    def roll_due(self, now_ms: int) -> bool:
        self.looks += 1
        return False


class Partition:
    """What the compactor looks at."""

    def __init__(self, dirtiness: float, policy: str = "compact") -> None:
        self.dirtiness = dirtiness
        self.config = TopicConfig(cleanup_policy=(policy,))
        self.failure: Any = None
        self.log = Log()
        self.problem: Exception | None = None
        self.unprepared: Exception | None = None

    def fail(self, failure: StorageFailed) -> None:
        self.failure = failure

    async def in_thread(self, work: Callable[[], None]) -> None:
        await trio.to_thread.run_sync(work)


class Clock:
    def now_ms(self) -> int:
        return 5


class Cluster:
    settings = Settings()


class Work:
    """A job and a worker that note what is asked of them."""

    def __init__(self) -> None:
        self.cleaned: list[Partition] = []
        self.rests = 0

    def prepare(self, held: Partition) -> Callable[[], None] | None:
        if held.unprepared is not None:
            raise held.unprepared
        return None

    def dirtiness(self, held: Partition, now_ms: int) -> float:
        return held.dirtiness

    def clean(self, held: Partition, now_ms: int) -> Iterator[Callable[[], None]]:
        self.cleaned.append(held)

        def run() -> None:
            if held.problem is not None:
                raise held.problem

        yield run

    def rest(self) -> None:
        self.rests += 1

    def take_on(self) -> None:
        """Nothing was interrupted."""

    end = interrupt = rest


def compactor(partitions: list[Partition], work: Work) -> Compactor:
    made: Any = Compactor
    built: Compactor = made(partitions, Cluster(), Clock(), lambda: (work, work))
    return built


@pytest.mark.trio
async def test_the_dirtiest_first() -> None:
    """Clean logs, logs of another policy and failed ones are left alone; the worker rests afterwards."""
    low, high, clean, other, failed = Partition(0.6), Partition(0.9), Partition(0), Partition(1, "delete"), Partition(1)
    failed.failure = StorageFailed("x", OSError(5, "x"))
    small = Partition(1)
    small.log.segments = [1]
    work = Work()
    await compactor([low, high, clean, other, failed, small], work).look()
    assert work.cleaned == [high, low]
    assert work.rests == 1


@pytest.mark.trio
async def test_damage_is_named_once(caplog: pytest.LogCaptureFixture) -> None:
    """A damaged log is left alone until the next start; others go on."""
    bad, good = Partition(0.9), Partition(0.5)
    bad.problem = Corrupt("p", 7, "bad")
    work = Work()
    looking = compactor([bad, good], work)
    await looking.look()
    await looking.look()
    assert work.cleaned == [bad, good, good]
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert bad.failure is None


@pytest.mark.trio
async def test_a_lost_worker_is_tried_again_a_few_times() -> None:
    """Three failures in a row are enough; a success in between begins the count anew."""
    partition = Partition(0.9)
    work = Work()
    looking = compactor([partition], work)
    for problem in (WorkerLost("x"), WorkerLost("x"), None, WorkerLost("x"), WorkerLost("x"), WorkerLost("x"), None):
        partition.problem = problem
        await looking.look()
    assert len(work.cleaned) == 6


@pytest.mark.trio
async def test_a_full_disk_is_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    """What the disk refused is tried at every look, and the partition serves on, unless its log has gone offline."""
    partition = Partition(0.9)
    partition.problem = StorageFailed("p", OSError(28, "No space left on device"))
    work = Work()
    looking = compactor([partition], work)
    for _ in range(5):
        await looking.look()
    assert len(work.cleaned) == 5
    assert partition.failure is None
    assert "No space left" in caplog.text
    partition.log.failure = partition.problem
    await looking.look()
    assert partition.failure is partition.problem


def test_an_index_that_cannot_be_read_ends_nothing(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that fails when it is asked whether to roll is named, and the other logs go on."""

    def refuse(now_ms: int) -> bool:
        raise StorageFailed("/data/t-0/0.timeindex", OSError(errno.EIO, "Input/output error"))

    first, second = Partition(0.0), Partition(0.0)
    monkeypatch.setattr(first.log, "roll_due", refuse)

    async def run() -> None:
        with trio.move_on_after(3.5):
            await compactor([first, second], Work()).run()

    trio.run(run, clock=trio.testing.MockClock(autojump_threshold=0))
    assert caplog.text.count("0.timeindex") == 1
    assert second.log.looks == 3


@pytest.mark.trio
async def test_a_lack_of_descriptors_is_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    """Where a log cannot even be looked at for want of a descriptor it is looked at again; another failure is final."""
    partition = Partition(0.9)
    work = Work()
    looking = compactor([partition], work)
    for number in (errno.EMFILE, errno.ENOSPC):
        partition.unprepared = StorageFailed("p", OSError(number, "scarce"))
        await looking.look()
    assert work.cleaned == []
    partition.unprepared = None
    await looking.look()
    assert work.cleaned == [partition]
    partition.unprepared = StorageFailed("p", OSError(errno.EIO, "broken"))
    await looking.look()
    partition.unprepared = None
    await looking.look()
    assert work.cleaned == [partition]
    assert "until the next start: p: broken" in caplog.text


@pytest.mark.trio
async def test_its_own_code_cannot_be_read_now(caplog: pytest.LogCaptureFixture) -> None:
    """The job is loaded when it is first needed: without a descriptor to read it with, that waits, and nothing ends."""
    partition, work = Partition(0.9), Work()
    scarce = [OSError(errno.EMFILE, "Too many open files", "compaction.py")]

    def hire() -> tuple[Work, Work]:
        if scarce:
            raise scarce.pop()
        return work, work

    made: Any = Compactor
    looking = made([partition], Cluster(), Clock(), hire)
    await looking.look()
    assert (work.cleaned, "Too many open files" in caplog.text) == ([], True)
    await looking.look()
    assert work.cleaned == [partition]
