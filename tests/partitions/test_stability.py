"""What a reader of committed data may see of a partition, and when one who waits for it is woken."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from logd.config import Settings
from logd.config.topics import topic_defaults
from logd.errors import ErrorCode, Refused
from logd.log.log import Log, LogConfig
from logd.partitions.flusher import Flusher
from logd.partitions.partition import Partition, Watcher
from tests.log.batches import batch


class FixedClock:
    def now_ms(self) -> int:
        return 1234


@asynccontextmanager
async def partition(directory: Path, *, durable: bool, flushes: bool = True) -> AsyncIterator[Partition]:
    """A partition on disk; without ``flushes`` nothing that it asks for reaches the disk."""
    flusher = Flusher(lambda: 1)
    path = str(directory / "t-0")
    if (directory / "t-0").exists():
        log = Log.open(path, LogConfig(), clean=False, now_ms=0)
    else:
        log = Log.create(path, bytes(range(16)), LogConfig(), now_ms=0)
    async with trio.open_nursery() as nursery:
        if flushes:
            await nursery.start(flusher.run)
        yield Partition(
            "t",
            0,
            bytes(range(16)),
            log,
            leader_epoch=3,
            config=topic_defaults(Settings()),
            internal=False,
            durable=durable,
            flusher=flusher,
            clock=FixedClock(),
        )
        nursery.cancel_scope.cancel()
    log.close(clean=False)


def write(one: Partition, producer: int = 1, sequence: int = 0) -> int:
    """Append a transactional record as if the coordinator had said yes; return the next offset."""
    data = batch(1, producer=producer, sequence=sequence, transactional=True)
    verified = one.log.producers.begin_verification(producer, 0, sequence, restarts=False)
    return one.append(data, verified=verified).next_offset


def end(one: Partition, producer: int = 1, *, committed: bool = True) -> int:
    return one.append_marker(producer, 0, committed=committed, coordinator_epoch=0).next_offset


@pytest.mark.trio
async def test_stable_in_the_page_cache(tmp_path: Path) -> None:
    """In flush mode os all counts at once: the last stable offset is where the first open transaction begins."""
    async with partition(tmp_path, durable=False) as one:
        one.append(batch(2))
        assert (one.high_watermark, one.last_stable_offset) == (2, 2)
        write(one, 1)
        write(one, 2)
        assert (one.high_watermark, one.last_stable_offset) == (4, 2)
        assert (one.readable_end(False), one.readable_end(True)) == (4, 2)
        end(one, 1)
        assert (one.high_watermark, one.last_stable_offset) == (5, 3)
        end(one, 2, committed=False)
        assert (one.high_watermark, one.last_stable_offset) == (6, 6)


@pytest.mark.trio
async def test_a_marker_counts_once_it_is_flushed(tmp_path: Path) -> None:
    """In flush mode group the last stable offset never runs ahead of a marker that a power cut could still take."""
    async with partition(tmp_path, durable=True) as one:
        await one.committed.wait(write(one))
        assert (one.high_watermark, one.last_stable_offset) == (1, 0)
        marker = end(one)
        assert (one.high_watermark, one.last_stable_offset) == (1, 0)
        await one.committed.wait(marker)
        assert (one.high_watermark, one.last_stable_offset) == (2, 2)


@pytest.mark.trio
async def test_after_a_crash(tmp_path: Path) -> None:
    """What recovery found open, or ended by a marker that is not flushed, is not stable from the first moment on."""
    async with partition(tmp_path, durable=True) as one:
        await one.committed.wait(write(one, 1))
        await one.committed.wait(write(one, 2))
        one.want_checkpoint()
        await one.checkpoints.wait(1)
    async with partition(tmp_path, durable=True, flushes=False) as one:
        end(one, 1)
    async with partition(tmp_path, durable=True) as one:
        assert (one.high_watermark, one.last_stable_offset) == (2, 0)
        one.begin()
        await one.committed.wait(3)
        assert (one.high_watermark, one.last_stable_offset) == (3, 1)


@pytest.mark.trio
@pytest.mark.parametrize("durable", [False, True])
async def test_who_waits_for_committed_data(tmp_path: Path, durable: bool) -> None:
    """Is woken by the marker, however small it is, and by nothing before; who reads all is woken by the data."""
    async with partition(tmp_path, durable=durable) as one:
        everything, stable = Watcher(100), Watcher(10_000, read_committed=True)
        one.watchers |= {everything, stable}
        for sequence in range(3):
            await one.committed.wait(write(one, sequence=sequence))
        assert everything.event.is_set()
        assert not stable.event.is_set()
        await one.committed.wait(end(one))
        assert stable.event.is_set()


@pytest.mark.trio
async def test_who_waits_for_committed_data_where_nothing_is_open(tmp_path: Path) -> None:
    """Waits for as many bytes as it asked for, as everybody."""
    async with partition(tmp_path, durable=False) as one:
        stable = Watcher(len(batch(1)) * 2, read_committed=True)
        one.watchers.add(stable)
        one.append(batch(1))
        assert not stable.event.is_set()
        one.append(batch(1))
        assert stable.event.is_set()


@pytest.mark.trio
async def test_deleting_what_is_not_stable(tmp_path: Path) -> None:
    """DeleteRecords may go to the high watermark; the last stable offset is never below the start of the log."""
    async with partition(tmp_path, durable=False) as one:
        write(one, sequence=0)
        write(one, sequence=1)
        one.want_checkpoint()
        assert one.last_stable_offset == 0
        assert await one.advance_start(1) == 1
        assert one.last_stable_offset == 1
        end(one)
        assert one.last_stable_offset == 3


@pytest.mark.trio
async def test_markers_of_an_offline_partition(tmp_path: Path) -> None:
    """Are refused like everything else."""
    async with partition(tmp_path, durable=False) as one:
        one.stop(Refused(ErrorCode.KAFKA_STORAGE_ERROR, "gone"))
        with pytest.raises(Refused) as refused:
            end(one)
        assert refused.value.code == ErrorCode.KAFKA_STORAGE_ERROR


@pytest.mark.trio
@pytest.mark.parametrize("read_committed", [False, True])
async def test_nobody_reads_what_is_not_on_the_disk(tmp_path: Path, read_committed: bool) -> None:
    """In flush mode group a consumer sees a record when a power cut can't take it any more (B18)."""
    async with partition(tmp_path, durable=True, flushes=False) as one:
        one.append(batch(2))
        assert one.log.end_offset == 2
        assert one.readable_end(read_committed) == 0
