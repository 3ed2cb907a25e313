"""Opening and closing partitions as the metadata says: files of one topic are never touched for another."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.testing

from logd.cluster.image import Image, PartitionState, Topic
from logd.config import Settings, TopicConfig
from logd.config.topics import topic_defaults
from logd.errors import ErrorCode, Refused, StorageFailed, WorkerLost
from logd.log.disk import RealDisk
from logd.log.log import Log
from logd.partitions.compactor import Compactor
from logd.partitions.flusher import Flusher
from logd.partitions.partition import Partition
from logd.partitions.table import PartitionTable, remove_directory
from logd.wire.batches import Record, build_batch
from tests.log.batches import batch

OLD, NEW = b"\1" * 16, b"\2" * 16


class Standing:
    """A clock that stands."""

    def now_ms(self) -> int:
        return 2000


def image(topic_id: bytes | None, partitions: int = 1, epoch: int = 0) -> Image:
    """One topic, or none. The controller raises the leader epoch with each start."""
    if topic_id is None:
        return Image()
    states = tuple(PartitionState(index, 0, epoch, (0,), (0,)) for index in range(partitions))
    return Image(topics={"t": Topic("t", topic_id, states)})


def table(
    directory: Path,
    flusher: Flusher | None = None,
    others: Mapping[Path, str] | None = None,
    config: TopicConfig | None = None,
) -> PartitionTable:
    """A table in a directory; with a flusher, records are committed when they are flushed."""
    return PartitionTable(
        directory,
        0,
        durable=flusher is not None,
        clean=False,
        config_of=lambda name: config or topic_defaults(Settings()),
        producer_id_expiration_ms=1000,
        flusher=flusher or Flusher(lambda: 1),
        clock=Standing(),
        others=others,
    )


@pytest.mark.trio
async def test_a_topic_made_again_waits_for_threads_of_the_old(tmp_path: Path) -> None:
    """While a thread works on the files of a deleted partition, they keep their names; then the new topic begins."""
    partitions = table(tmp_path)
    await partitions.open_all(image(OLD))
    old = partitions.find("t", 0)
    old.append(batch(value=b"old"))
    busy, go_on = trio.Event(), threading.Event()

    def flush() -> None:
        trio.from_thread.run_sync(busy.set)
        assert go_on.wait(30)
        (tmp_path / "t-0" / "partition.state").write_bytes(b"of the old topic")

    async def make_again() -> None:
        await partitions.follow(image(OLD), image(None))
        await partitions.follow(image(None), image(NEW))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(old.in_thread, flush)
        await busy.wait()
        nursery.start_soon(make_again)
        await trio.testing.wait_all_tasks_blocked()
        assert (tmp_path / "t-0" / "00000000000000000000.log").exists()
        go_on.set()
    assert partitions.find("t", 0).log.end_offset == 0
    assert not (tmp_path / "t-0" / "partition.state").exists()
    with pytest.raises(Refused):
        old.append(batch())


class Endless:
    """A job that is at one step until it is interrupted, and its worker."""

    def __init__(self) -> None:
        self.begun = trio.Event()
        self.interrupted = threading.Event()

    def prepare(self, held: Partition) -> None:
        return None

    def dirtiness(self, held: Partition, now_ms: int) -> float:
        return 1.0

    def clean(self, held: Partition, now_ms: int) -> Iterator[Callable[[], None]]:
        def work() -> None:
            trio.from_thread.run_sync(self.begun.set)
            assert self.interrupted.wait(10), "nobody interrupts it"
            raise WorkerLost("interrupted")

        yield work

    def take_on(self) -> None:
        pass

    def interrupt(self) -> None:
        self.interrupted.set()

    def rest(self) -> None:
        pass


@pytest.mark.trio
async def test_a_topic_is_deleted_while_it_is_compacted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It does not wait for the worker, which can be at one step for minutes; nor do topics that are made meanwhile."""
    partitions = table(tmp_path, config=TopicConfig(cleanup_policy=("compact",)))
    await partitions.open_all(image(OLD))
    partitions.find("t", 0).append(build_batch([Record(-1, 1000, b"k", b"v", [])]))
    partitions.find("t", 0).log.roll(0)
    job = Endless()
    cluster: Any = SimpleNamespace(settings=Settings())
    hired: Any = lambda: (job, job)  # noqa: E731
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Compactor(partitions, cluster, Standing(), hired).look)
        await job.begun.wait()
        await partitions.follow(image(OLD), image(NEW))
    assert partitions.find("t", 0).topic_id == NEW
    assert "was not compacted" not in caplog.text
    partitions.find("t", 0).log.close(clean=False)


@pytest.mark.trio
async def test_a_partition_that_is_being_opened_is_not_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Metadata names a topic before its logs are open: who asks then is to come again, and may not give up."""
    partitions = table(tmp_path)
    busy, go_on, make = trio.Event(), threading.Event(), Log.create

    def slow(*args: Any, **how: Any) -> Log:
        trio.from_thread.run_sync(busy.set)
        assert go_on.wait(30)
        return make(*args, **how)

    monkeypatch.setattr(Log, "create", slow)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partitions.follow, image(None), image(NEW))
        await busy.wait()
        assert partitions.knows_id(NEW)
        for key in ("t", NEW):
            assert partitions.absent(key, 0).code == ErrorCode.NOT_LEADER_OR_FOLLOWER
            assert partitions.absent(key, 1).code == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
        with pytest.raises(Refused, match="being opened"):
            partitions.find("t", 0)
        go_on.set()
    assert partitions.find("t", 0).topic_id == NEW
    assert partitions.absent("t", 1).code == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    partitions.find("t", 0).log.close(clean=False)


@pytest.mark.trio
async def test_a_log_that_cannot_be_made_is_made_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With no space for its directory a partition is offline; once there is some it opens by itself and says so."""
    partitions = table(tmp_path)
    told: list[str] = []
    partitions.opened.append(lambda: told.append("opened"))

    def full(*args: object, **how: object) -> Log:
        raise StorageFailed("t-0", OSError(28, "No space left on device"))

    with monkeypatch.context() as patched:
        patched.setattr(Log, "create", full)
        await partitions.follow(image(None), image(NEW))
        await partitions.open_missing()
        with pytest.raises(Refused) as refused:
            partitions.find("t", 0).append(batch())
        assert refused.value.code == ErrorCode.KAFKA_STORAGE_ERROR
    assert told == []
    await partitions.open_missing()
    assert told == ["opened"]
    assert partitions.find("t", 0).append(batch()).base_offset == 0
    partitions.find("t", 0).log.close(clean=False)


@pytest.mark.trio
async def test_many_topics_are_removed_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads share the files of topics that are deleted in one request, so that five thousand take seconds."""
    monkeypatch.setattr("logd.partitions.table.DISCARDED_AT_ONCE", 2)
    together = threading.Barrier(2)

    def remove(disk: RealDisk, path: str) -> None:
        if Path(path).name.startswith(("t0-", "t2-")):  # the first that each thread has
            together.wait(30)
        remove_directory(disk, path)

    monkeypatch.setattr("logd.partitions.table.remove_directory", remove)
    state = PartitionState(0, 0, 0, (0,), (0,))
    topics = {f"t{number}": Topic(f"t{number}", bytes([number + 1]) * 16, (state,)) for number in range(4)}
    partitions = table(tmp_path)
    await partitions.open_all(Image(topics=topics))
    await partitions.follow(Image(topics=topics), Image())
    assert not [name for name in os.listdir(tmp_path) if name.startswith("t")]


@pytest.mark.trio
async def test_what_cannot_be_removed_keeps_nothing_else(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Of what a crash left of deleted topics all goes that can, also where something strange is in one of them."""
    for number in range(5):
        left = tmp_path / f"t-{number}.{number:032x}-delete"
        left.mkdir()
        (left / "00000000000000000000.log").touch()
        if number in (1, 3):
            (left / "strange").mkdir()
            (left / "strange" / "file").touch()
    await table(tmp_path).remove_leftovers()
    assert sorted(name.split(".")[0] for name in os.listdir(tmp_path)) == ["t-1", "t-3"]
    assert caplog.text.count("can't be removed") == 2


@pytest.mark.trio
async def test_a_name_that_is_taken(tmp_path: Path) -> None:
    """Something else that has a partition's name in one data directory is no fault of it: others go there still."""
    homes = tmp_path / "first", tmp_path / "second"
    for home in homes:
        home.mkdir()
    (homes[0] / "t-0").touch()
    partitions = table(homes[0], others={homes[1]: ""})
    for count in range(1, 5):
        await partitions.follow(image(NEW, count - 1), image(NEW, count))
    assert [one.failure for one in partitions.homes] == ["", ""]
    assert [one.append(batch()).base_offset for one in partitions] == [0, 0, 0, 0]
    assert (homes[1] / "t-0").is_dir()
    assert [len([one for one in home.iterdir() if one.is_dir()]) for home in homes] == [2, 2]
    assert await partitions.close()


@pytest.mark.trio
async def test_deleted_topics_take_up_no_place(tmp_path: Path) -> None:
    """A new partition goes to the directory with the fewest that are there, not that ever were."""
    first, other = tmp_path / "first", tmp_path / "other"
    for directory in (first, other):
        directory.mkdir()
    partitions = table(first, others={other: ""})
    await partitions.follow(image(None), image(OLD, 5))
    assert sum(len(home.names) for home in partitions.homes) == 5
    await partitions.follow(image(OLD, 5), image(None))
    assert [len(home.names) for home in partitions.homes] == [0, 0]
