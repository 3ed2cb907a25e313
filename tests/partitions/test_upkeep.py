"""What is looked at once a second: a start after a crash never has too much to read, and damage ends nothing."""

from __future__ import annotations

import errno
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from logd.cluster.image import Image
from logd.config import Settings
from logd.errors import Corrupt, ErrorCode, Refused, StorageFailed
from logd.jobs.retention import retain
from logd.log.disk import File, RealDisk
from logd.log.index import Index
from logd.log.log import LogConfig
from logd.log.restoring import SNAPSHOT_SUFFIX
from logd.log.segment import Segment
from logd.log.state import STATE_NAME, State, parse_state
from logd.partitions import upkeep
from logd.partitions.partition import Partition
from logd.partitions.table import PartitionTable
from logd.partitions.upkeep import Upkeep
from tests.log.batches import batch
from tests.partitions.test_scarcity import Late
from tests.partitions.test_table import OLD, Standing, image, table


def recovery_points(partitions: PartitionTable) -> list[int]:
    """From where a start after a crash reads each of them."""
    paths = [Path(one.log.path) / STATE_NAME for one in partitions]
    states = [parse_state(path.read_bytes()) if path.exists() else State() for path in paths]
    return [one.recovery_point for one in states]


def work(partition: Partition) -> None:
    """Do what the flusher would do."""
    while (job := partition.next_job()) is not None:
        job.run()
        partition.job_done(job)


async def look(partitions: PartitionTable) -> None:
    """A second passes."""
    cluster: Any = SimpleNamespace(settings=Settings(), image=Image())
    await Upkeep(partitions, cluster, Standing(), retain).look()
    for partition in partitions:
        work(partition)


@pytest.mark.trio
@pytest.mark.parametrize("flushed", [False, True])
async def test_recovery_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flushed: bool) -> None:
    """The partitions that would take the longest get a recovery point, whether they are flushed already or not."""
    monkeypatch.setattr(upkeep, "RECOVERY_BYTES_MAX", 3500)
    partitions = table(tmp_path)
    await partitions.open_all(image(OLD, 3))
    for partition, size in zip(partitions, (1000, 2000, 3000), strict=True):
        partition.append(batch(value=b"v" * size))
        if flushed:
            partition.want_flush()
            work(partition)
    assert recovery_points(partitions) == [0, 0, 0]
    await look(partitions)
    assert recovery_points(partitions) == [0, 0, 1]
    partitions.find("t", 1).append(batch(value=b"v" * 2000))
    await look(partitions)
    assert recovery_points(partitions) == [0, 2, 1]


@pytest.mark.trio
async def test_what_a_crash_left_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What one start has read without a recovery point is not to be read by the next one again."""
    partitions = table(tmp_path)
    await partitions.open_all(image(OLD))
    partitions.find("t", 0).append(batch(value=b"v" * 5000))
    partitions.find("t", 0).log.close(clean=False)
    again = table(tmp_path)
    await again.open_all(image(OLD, epoch=1))
    await look(again)
    assert recovery_points(again) == [0]
    monkeypatch.setattr(upkeep, "RECOVERY_BYTES_MAX", 4000)
    await look(again)
    assert recovery_points(again) == [1]


@pytest.mark.trio
@pytest.mark.parametrize("what", [STATE_NAME, SNAPSHOT_SUFFIX])
async def test_a_recovery_point_that_found_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """It is made later, though nothing is appended: before it no segment behind the last one may be removed, and those
    that retention has taken may be what fills the disk."""
    partitions = table(tmp_path)
    await partitions.open_all(image(OLD))
    partition = partitions.find("t", 0)
    log, replace = partition.log, RealDisk.replace

    def full(disk: RealDisk, path: str, data: bytes, *, sync: bool) -> None:
        if path.endswith(what):
            raise StorageFailed(path, OSError(errno.ENOSPC, "No space left on device"))
        replace(disk, path, data, sync=sync)

    partition.append(batch(producer=1))
    with monkeypatch.context() as patched:
        patched.setattr(RealDisk, "replace", full)
        log.roll(0)
        partition.want_flush()
        work(partition)
        log.delete_segments(log.segments[:1], 0)
        partition.want_checkpoint()
        work(partition)
        assert (log.flushed_offset, partition.failure) == (1, None)
        assert log.removal(10**9) is None
    cluster: Any = SimpleNamespace(settings=Settings(log_flush_offset_checkpoint_interval_ms=1), image=Image())
    looking = Upkeep(partitions, cluster, Late(), retain)
    for _ in range(2):
        await looking.look()
        work(partition)
    assert not list((tmp_path / "t-0").glob("00000000000000000000.*"))
    log.close(clean=False)


@pytest.mark.trio
async def test_damage_of_the_last_segment_ends_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One wrong bit in a batch's length, in the segment that is to be written to: it is named, and others go on.

    The directory was closed clean, so nobody has read that segment at the start; upkeep is the first who asks.
    """
    partitions = table(tmp_path)
    await partitions.open_all(image(OLD, 2))
    for partition in partitions:
        for number in range(6):
            partition.append(batch(value=b"v" * 50, timestamp=1000 + number))
        partition.log.close()
    path = tmp_path / "t-0" / "00000000000000000000.log"
    data = bytearray(path.read_bytes())
    data[len(data) // 2 + 10] ^= 0x40
    path.write_bytes(data)
    again = table(tmp_path)
    await again.open_all(image(OLD, 2))
    cluster: Any = SimpleNamespace(settings=Settings(log_retention_check_interval_ms=1), image=Image())
    await Upkeep(again, cluster, Late(), retain).look()
    assert "00000000000000000000.log at byte 3" in caplog.text
    damaged, well = again
    for _ in range(2):
        with pytest.raises(Refused, match="is damaged") as refused:
            damaged.append(batch())
        assert refused.value.code == ErrorCode.KAFKA_STORAGE_ERROR
    with pytest.raises(Refused, match="is damaged"):
        await damaged.advance_start(-1)
    assert (damaged.failure, damaged.log.end_offset) == (None, 6)
    assert len(list((tmp_path / "t-0").glob("*.log"))) == 1
    assert well.append(batch()).base_offset == 6
    await again.close()


@pytest.mark.trio
@pytest.mark.parametrize("number", [errno.ENOSPC, 0])
async def test_retention_where_no_segment_can_be_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """On a full disk, and where the segment that is written to is damaged, those before it go: they may be what fills
    the disk."""
    partitions = table(tmp_path)
    await partitions.open_all(image(OLD))
    partition = partitions.find("t", 0)
    for _ in range(2):
        partition.append(batch(timestamp=1))
        partition.log.roll(0)
        partition.want_flush()
        work(partition)
    partition.append(batch(timestamp=1))
    partition.log.config = LogConfig(segment_ms=1, retention_ms=1)
    index, opened = Segment.index, RealDisk.open

    def damaged(segment: Segment) -> Index:
        if segment is partition.log.segments[-1] and not number:
            raise Corrupt(segment.log_path, 0, "damaged")
        return index.fget(segment)

    def full(disk: RealDisk, path: str, *, create: bool = False) -> File:
        if create and number and path.endswith(".log"):
            raise StorageFailed(path, OSError(number, "No space left on device"))
        return opened(disk, path, create=create)

    monkeypatch.setattr(Segment, "index", property(damaged))
    monkeypatch.setattr(RealDisk, "open", full)
    cluster: Any = SimpleNamespace(settings=Settings(log_retention_check_interval_ms=1), image=Image())
    await Upkeep(partitions, cluster, Late(), retain).look()
    assert (partition.failure, partition.log.start_offset, partition.log.end_offset) == (None, 2, 3)
    partition.log.close(clean=False)
