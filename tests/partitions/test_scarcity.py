"""What the process or the machine lacks for a while is no fault of a disk: refused, told, and tried again."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio

from logd import node
from logd.cluster.store import StoreUnusable
from logd.config import Settings
from logd.errors import Refused, StorageFailed
from logd.jobs.retention import retain
from logd.log import flush as flushing
from logd.log import recovery
from logd.log.disk import RealDisk
from logd.log.log import LogConfig
from logd.log.reserve import RESERVE_NAME, Room
from logd.log.state import STATE_NAME, UNFLUSHED_NAME, parse_state
from logd.partitions.flusher import Flusher
from logd.partitions.housekeeping import RETENTION, Housekeeping
from logd.partitions.scrubber import Scrubber
from logd.partitions.table import PartitionTable
from logd.partitions.upkeep import Upkeep
from logd.testing import Broker
from tests.log.batches import batch, flush
from tests.partitions.test_table import NEW, OLD, Standing, image, table

SCARCE = [errno.EMFILE, errno.ENFILE]


def refuse(number: int, only: str = "") -> Any:
    """In place of a method of a disk."""

    def refusing(disk: RealDisk, at: Any, *rest: Any, **how: Any) -> Any:
        path = str(getattr(at, "path", at))
        raise StorageFailed(path, OSError(number, "scarce", path))

    return refusing


@pytest.mark.trio
@pytest.mark.parametrize("number", SCARCE)
async def test_a_directory_that_cannot_be_listed_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Without a descriptor to list a data directory at start, it is not given up, nor taken for empty."""
    before = table(tmp_path)
    await before.open_all(image(OLD))
    before.find("t", 0).append(batch(value=b"kept"))
    before.find("t", 0).log.close()
    with monkeypatch.context() as patched:
        patched.setattr(RealDisk, "entries", refuse(number))
        after = table(tmp_path)
        await after.open_all(image(OLD))
        with pytest.raises(Refused):
            after.find("t", 0).append(batch())
        await after.open_missing()
    assert [home.failure for home in after.homes] == [""]
    await after.open_missing()
    assert after.find("t", 0).append(batch()).base_offset == 1
    after.find("t", 0).log.close(clean=False)


@pytest.mark.trio
@pytest.mark.parametrize("number", [*SCARCE, errno.ENOSPC])
async def test_no_new_segment_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """What keeps upkeep or retention from beginning a segment for now takes no partition offline."""
    partitions: PartitionTable = table(tmp_path)
    await partitions.open_all(image(NEW))
    partition = partitions.find("t", 0)
    partition.append(batch(value=b"old", timestamp=1))
    partition.log.config = LogConfig(segment_ms=1, retention_ms=1)
    cluster: Any = SimpleNamespace(settings=Settings(log_retention_check_interval_ms=1), image=image(NEW))
    none: Any = None
    house = Housekeeping(partitions, retain, none, Late())
    with monkeypatch.context() as patched:
        patched.setattr(RealDisk, "open", refuse(number))
        await Upkeep(partitions, cluster, Late(), retain).look()
        run = house.prepared(RETENTION, None, dry_run=False)
        await house.carry_out(run)
        assert [one.refused is not None for one in run.done] == [True]
        with pytest.raises(Refused):
            await partition.advance_start(-1)
    assert partition.failure is None
    assert partition.append(batch()).base_offset == 1
    partition.log.close(clean=False)


class Late(Standing):
    """A clock that jumps, so that everything is due."""

    def __init__(self) -> None:
        self._now_ms = 2000

    def now_ms(self) -> int:
        self._now_ms += 10**6
        return self._now_ms


@pytest.mark.parametrize("number", [errno.ENOMEM, *SCARCE])
def test_no_memory_for_a_map(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Where no more of a file can be mapped (RLIMIT_AS, vm.max_map_count, no descriptor for it), it is read instead."""
    monkeypatch.setattr(RealDisk, "map", refuse(number))
    with Broker() as broker:
        broker.create_topic("t")
        broker.produce("t", "a", "b")
        assert [one.value for one in broker.messages("t")] == [b"a", b"b"]
        broker.restart()
        assert [one.value for one in broker.messages("t")] == [b"a", b"b"]


@pytest.mark.trio
@pytest.mark.parametrize("number", [errno.ENOSPC, *SCARCE])
async def test_no_room_for_a_flush_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """A partition whose flush found the disk full, or no descriptor for long, is opened anew when there is space.

    No flush is tried again, and where there was no room even for the word that it failed, that comes first.
    """
    monkeypatch.setattr(flushing, "DESCRIPTOR_WAIT_S", 0.0)
    written_again: list[str] = []
    write_again = recovery._write_again
    monkeypatch.setattr(recovery, "_write_again", lambda *args: [written_again.append(args[1]), write_again(*args)])
    flusher = Flusher(lambda: 1)
    partitions = table(tmp_path, flusher=flusher)
    there: list[bool] = []
    partitions.opened.append(lambda: there.append(partitions.find("t", 0).failure is None))
    async with trio.open_nursery() as nursery:
        await nursery.start(flusher.run)
        await partitions.follow(image(None), image(NEW))
        old = partitions.find("t", 0)
        old.append(batch(value=b"kept"))
        await old.committed.wait(1)
        with monkeypatch.context() as patched:
            patched.setattr(RealDisk, "sync", refuse(number))
            old.append(batch(value=b"of unknown fate"))
            with pytest.raises(Refused, match="free some space" if number == errno.ENOSPC else "allow more open files"):
                await old.committed.wait(2)
            if number == errno.ENOSPC:
                patched.setattr(Room, "ample", lambda room: False)
            partitions.put_aside(image(NEW))
            await partitions.open_missing()
            assert partitions.find("t", 0) is old
            patched.setattr(Room, "ample", lambda room: True)
            partitions.put_aside(image(NEW))
            await partitions.open_missing()
            assert partitions.find("t", 0) is old
        assert not written_again
        partitions.put_aside(image(NEW))
        await partitions.open_missing()
        assert written_again == [str(tmp_path / "t-0")]
        again = partitions.find("t", 0)
        assert there == [False, True]
        assert again.append(batch(value=b"after")).base_offset == 2
        await again.committed.wait(3)
        assert not (tmp_path / "t-0" / UNFLUSHED_NAME).exists()
        with pytest.raises(Refused):
            old.append(batch())
        again.log.close(clean=False)
        nursery.cancel_scope.cancel()


@pytest.mark.trio
@pytest.mark.parametrize("number", SCARCE)
async def test_no_descriptor_for_what_a_crash_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Where the file that is to be flushed after a start cannot be opened, that passes: it is no end for good."""
    before = table(tmp_path)
    await before.open_all(image(NEW))
    before.find("t", 0).append(batch())
    before.find("t", 0).log.close(clean=False)
    flusher = Flusher(lambda: 1)
    partitions = table(tmp_path, flusher=flusher)
    async with trio.open_nursery() as nursery:
        await nursery.start(flusher.run)
        await partitions.open_all(image(NEW, epoch=1))
        with monkeypatch.context() as patched:
            patched.setattr(RealDisk, "open", refuse(number))
            with pytest.raises(Refused, match="allow more open files"):
                await partitions.find("t", 0).committed.wait(1)
        partitions.put_aside(image(NEW, epoch=1))
        await partitions.open_missing()
        await partitions.find("t", 0).committed.wait(1)
        partitions.find("t", 0).log.close(clean=False)
        nursery.cancel_scope.cancel()


@pytest.mark.trio
async def test_records_that_a_failed_flush_has_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where what was readable is gone, the partition is not opened under readers who have seen it."""
    partitions = table(tmp_path)
    await partitions.open_all(image(NEW))
    old = partitions.find("t", 0)
    old.append(batch(value=b"read already"))
    old.fail(failure := StorageFailed("t-0", OSError(errno.ENOSPC, "No space left on device")))
    old.log.fail(failure)
    segment = next((tmp_path / "t-0").glob("*.log"))
    segment.write_bytes(bytes(segment.stat().st_size))
    partitions.put_aside(image(NEW))
    await partitions.open_missing()
    with pytest.raises(Refused, match="are gone"):
        partitions.find("t", 0).append(batch())
    damaged = partitions.find("t", 0)
    partitions.put_aside(image(NEW))
    await partitions.open_missing()
    assert partitions.find("t", 0) is damaged, "it is not tried again"


@pytest.mark.trio
async def test_no_room_for_the_bounds_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Records are told to be deleted once that is on the disk: a full one is told, and asked again it may say yes."""
    flusher = Flusher(lambda: 1)
    partitions = table(tmp_path, flusher=flusher)
    async with trio.open_nursery() as nursery:
        await nursery.start(flusher.run)
        await partitions.follow(image(None), image(NEW))
        partition = partitions.find("t", 0)
        for _ in range(3):
            partition.append(batch())
        await partition.committed.wait(3)
        with monkeypatch.context() as patched:
            patched.setattr(RealDisk, "replace", refuse(errno.ENOSPC))
            with pytest.raises(Refused, match="free some disk space"):
                await partition.advance_start(1)
        assert partition.failure is None
        assert await partition.advance_start(2) == 2
        assert parse_state((tmp_path / "t-0" / STATE_NAME).read_bytes()).start_offset == 2
        partition.log.close(clean=False)
        nursery.cancel_scope.cancel()


@pytest.mark.trio
@pytest.mark.parametrize("number", SCARCE)
async def test_what_cannot_be_scrubbed_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, number: int
) -> None:
    """A segment that no descriptor is left for is not called damaged, and is looked at the next time."""
    partitions = table(tmp_path)
    await partitions.open_all(image(NEW))
    log = partitions.find("t", 0).log
    partitions.find("t", 0).append(batch())
    log.roll(0)
    flush(log)
    log.segments[0].release()
    settings = Settings(log_scrub_interval_ms=0, log_scrub_bytes_per_second=2**40)
    cluster: Any = SimpleNamespace(settings=settings)
    scrubber = Scrubber(partitions, cluster, Late())
    with monkeypatch.context() as patched:
        patched.setattr(RealDisk, "open", refuse(number))
        await scrubber.look()
    assert (scrubber.found, scrubber.checked_bytes, "damaged" in caplog.text) == (0, 0, False)
    await scrubber.look()
    assert scrubber.checked_bytes == log.segments[0].size
    log.close(clean=False)


@pytest.mark.trio
async def test_a_start_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reserve is given away before the metadata is opened: a start has to write some."""
    (tmp_path / RESERVE_NAME).write_bytes(bytes(1000))
    monkeypatch.setattr(os, "statvfs", lambda path: os.statvfs_result((4096, 4096, 10**6, 0, 0, 0, 0, 0, 0, 255)))
    there: list[bool] = []

    async def open_store(directory: Path) -> None:
        there.append((directory / RESERVE_NAME).exists())
        raise StoreUnusable("the disk is full")

    monkeypatch.setattr(node, "open_store", open_store)
    with pytest.raises(node.CannotStart, match="full"):
        await node.run_node(Settings(log_dirs=(str(tmp_path),), listeners=("PLAINTEXT://127.0.0.1:0",)))
    assert there == [False]
