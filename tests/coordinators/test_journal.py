"""The journal in memory and the one over a partition keep the same promises."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from logd.config import Settings
from logd.config.topics import topic_defaults
from logd.coordinators.journal import Batch, Journal, MemoryJournal, PartitionJournal
from logd.errors import ErrorCode, Refused
from logd.log.log import Log, LogConfig
from logd.partitions.flusher import Flusher
from logd.partitions.partition import Partition
from logd.wire.batches import build_batch
from logd.wire.records import Record

Opener = Callable[[], AbstractAsyncContextManager[Journal]]


class FixedClock:
    def now_ms(self) -> int:
        return 1234


@asynccontextmanager
async def in_memory() -> AsyncIterator[Journal]:
    yield MemoryJournal()


@asynccontextmanager
async def partition(directory: Path, *, durable: bool = False) -> AsyncIterator[Partition]:
    flusher = Flusher(lambda: 1)
    log = Log.create(str(directory / "t-0"), bytes(range(16)), LogConfig(segment_bytes=1 << 16), now_ms=0)
    async with trio.open_nursery() as nursery:
        await nursery.start(flusher.run)
        one = Partition(
            "t",
            0,
            bytes(range(16)),
            log,
            leader_epoch=3,
            config=topic_defaults(Settings()),
            internal=True,
            durable=durable,
            flusher=flusher,
            clock=FixedClock(),
        )
        yield one
        nursery.cancel_scope.cancel()
    log.close(clean=False)


@pytest.fixture(params=["memory", "partition", "flushed partition"])
def opener(request: pytest.FixtureRequest, tmp_path: Path) -> Opener:
    """Opens an empty journal of each kind."""

    @asynccontextmanager
    async def on_disk() -> AsyncIterator[Journal]:
        async with partition(tmp_path, durable=request.param.startswith("flushed")) as one:
            yield PartitionJournal(one)

    return in_memory if request.param == "memory" else on_disk


async def read_all(journal: Journal) -> list[Batch]:
    return [
        Batch(list(batch.offsets), list(batch.records), batch.producer, batch.committed)
        async for batch in journal.read_all()
    ]


@pytest.mark.trio
async def test_what_is_appended_is_read(opener: Opener) -> None:
    """Batches come back whole and in order, with their offsets, tombstones too."""
    async with opener() as journal:
        assert (journal.start_offset, journal.end_offset, journal.high_watermark) == (0, 0, 0)
        assert await read_all(journal) == []
        assert journal.append([(b"a", b"1"), (b"b", None)], 5) == 2
        assert journal.append([(b"c", b"")], 6) == 3
        assert journal.end_offset == 3
        assert await read_all(journal) == [Batch([0, 1], [(b"a", b"1"), (b"b", None)]), Batch([2], [(b"c", b"")])]


@pytest.mark.trio
async def test_waiting_for_the_commit(opener: Opener) -> None:
    """Once the wait is over the high watermark has passed; below it there is nothing to wait for."""
    async with opener() as journal:
        end = journal.append([(b"a", b"1")], 5)
        await journal.wait_committed(end)
        assert journal.high_watermark >= end
        await journal.wait_committed(0)


@pytest.mark.trio
async def test_many_batches_over_many_segments(opener: Opener) -> None:
    """Reading goes through all segments and all reads."""
    async with opener() as journal:
        for number in range(300):
            journal.append([(b"%d" % number, bytes(1000))], 5)
        batches = await read_all(journal)
        assert [offset for batch in batches for offset in batch.offsets] == list(range(300))
        assert [batch.records[0][0] for batch in batches] == [b"%d" % number for number in range(300)]


@pytest.mark.trio
async def test_a_batch_that_is_too_large(tmp_path: Path) -> None:
    """A partition refuses more than its largest message, and takes the next batch."""
    async with partition(tmp_path) as one:
        journal = PartitionJournal(one)
        with pytest.raises(Refused) as caught:
            journal.append([(b"a", bytes(2 << 20))], 5)
        assert caught.value.code in (ErrorCode.MESSAGE_TOO_LARGE, ErrorCode.RECORD_LIST_TOO_LARGE)
        assert journal.append([(b"a", b"1")], 5) == 1


@pytest.mark.trio
async def test_transactions_are_told_apart(tmp_path: Path) -> None:
    """Records of a transaction come with its producer, its end as a marker."""
    async with partition(tmp_path) as one:
        record = Record(timestamp=1, key=b"a", value=b"1")
        batch = build_batch([record], producer_id=7, producer_epoch=2, base_sequence=0, transactional=True)
        one.append(batch, origin="coordinator")
        for kind in (1, 0):
            key = b"\x00\x00" + kind.to_bytes(2, "big")
            marker = [Record(timestamp=1, key=key, value=bytes(6))]
            ends = build_batch(marker, producer_id=7, producer_epoch=2, transactional=True, control=True)
            one.append(ends, origin="coordinator")
        assert await read_all(PartitionJournal(one)) == [
            Batch([0], [(b"a", b"1")], (7, 2)),
            Batch([1], [], (7, 2), True),
            Batch([2], [], (7, 2), False),
        ]


@pytest.mark.trio
async def test_a_partition_that_goes_offline(tmp_path: Path) -> None:
    """Who waits for a commit hears that the partition is gone; appending is refused from then on."""
    async with partition(tmp_path, durable=True) as one:
        journal = PartitionJournal(one)
        gone = Refused(ErrorCode.KAFKA_STORAGE_ERROR, "gone")
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def waits() -> None:
                with pytest.raises(Refused):
                    await journal.wait_committed(99)

            await trio.testing.wait_all_tasks_blocked()
            one.stop(gone)
        with pytest.raises(Refused):
            journal.append([(b"a", b"1")], 5)
