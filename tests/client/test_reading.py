"""The reader between what was fetched and the program: nothing is skipped and nothing is given out twice."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing

from logd.client.chunks import Chunk
from logd.client.decoding import Received
from logd.client.errors import ClientError, ConnectionLost
from logd.client.fetching import Arrival, Fetcher
from logd.client.metadata import Metadata, PartitionInfo, TopicInfo, TopicPartition
from logd.client.reading import Reader
from logd.client.routing import Router
from logd.client.settings import ConsumerSettings
from logd.errors import ErrorCode, Refused
from logd.wire.schemas.fetch import FetchableTopicResponse, FetchRequest, FetchResponse, PartitionData
from tests.client.test_consumer import batch, data

pytestmark = pytest.mark.trio

A, B = TopicPartition("t", 0), TopicPartition("t", 1)
ID = b"t" * 16


class Stage:
    """A reader of two partitions, and fetches that bring what the test says."""

    def __init__(self) -> None:
        self.fetcher = Fetcher(Router("127.0.0.1:1"), ConsumerSettings())
        self.reader = Reader(self.fetcher, endless=True)
        for at in (A, B):
            self.fetcher.add(at, 0)

    def fetched(self, base: int) -> None:
        """One answer, with a batch of two records of each partition from `base` on."""
        arrivals = [
            Arrival(one, one.epoch, Chunk(one.at, data(batch(base, b"x", b"y"))))
            for one in self.fetcher.assigned.values()
        ]
        self.fetcher._send.send_nowait(arrivals)

    async def read(self) -> list[tuple[int, int]]:
        return [(record.partition, record.offset) for record in await self.reader.several()]


async def test_what_came_for_a_paused_partition_is_read_before_what_came_later() -> None:
    """Two answers were there when the partition was paused; it is resumed when the first one has been put by, and the
    second one is at hand already."""
    on = Stage()
    on.fetched(0)
    on.fetched(2)
    on.reader.pause(on.fetcher.assigned[B])
    assert await on.read() == [(0, 0), (0, 1)]
    assert await on.read() == [(0, 2), (0, 3)]
    on.reader.resume(on.fetcher.assigned[B])
    assert await on.read() == [(1, 0), (1, 1)]
    assert await on.read() == [(1, 2), (1, 3)]


async def test_what_was_handed_out_is_the_programs() -> None:
    """Whatever it does with the list, what it has in work is known by its offset."""
    on = Stage()
    on.fetched(0)
    records = await on.reader.several()
    records.clear()
    assert on.reader.done(on.fetcher.assigned[A]) == 0


class Broker(Router):
    """A router to one broker that is no more than this: it holds a fetch that finds nothing, as a real one does.

    `logs` are the records of each partition, in batches of so many; `errors` the codes that are answered before it is
    well.
    """

    def __init__(self, *logs: list[int]) -> None:
        super().__init__("127.0.0.1:1")
        self.logs = [_batches(sizes) for sizes in logs]
        self.errors: dict[int, list[ErrorCode]] = {}
        self.delay_s: Callable[[], float] = lambda: 0.001
        self.breaks: Callable[[], bool] = lambda: False
        self.lost: ClientError | None = None
        self.address = "broker"
        partitions = {index: PartitionInfo(index, 0, 0, (0,), (0,), (), 0) for index in range(len(logs))}
        self.metadata = Metadata(topics={"t": TopicInfo("t", ID, False, partitions, 0)})

    async def connection(self, node: int = -1, purpose: str = "ask") -> Any:
        await trio.lowlevel.checkpoint()
        self.lost = None
        return self

    async def try_refresh(self, topics: Iterable[str]) -> None:
        await trio.lowlevel.checkpoint()

    def version_for(self, _call: object, _highest: int | None = None) -> int:
        return 13

    def close(self) -> None:
        self.lost = ConnectionLost("fetch", "it was closed")

    async def ask(self, _call: object, request: Any, _kind: object, **_more: object) -> Any:
        assert isinstance(request, FetchRequest)
        await trio.sleep(self.delay_s())
        if self.breaks():
            raise ConnectionLost("fetch", "the connection broke")
        parts = [self._part(asked.partition, asked.fetch_offset) for asked in request.topics[0].partitions]
        if not any(part.records or part.error_code for part in parts):
            await trio.sleep(request.max_wait_ms / 1000)
        return FetchResponse(responses=[FetchableTopicResponse(topic_id=ID, partitions=parts)])

    def _part(self, index: int, offset: int) -> PartitionData:
        """One batch: the next one."""
        if self.errors.get(index):
            return PartitionData(partition_index=index, error_code=self.errors[index].pop(), records=None)
        found = next((records for next_offset, records in self.logs[index] if next_offset > offset), None)
        return PartitionData(partition_index=index, records=found)


def _batches(sizes: list[int]) -> list[tuple[int, bytes]]:
    found, base = [], 0
    for size in sizes:
        found.append((base + size, batch(base, *[b"x"] * size)))
        base += size
    return found


@asynccontextmanager
async def reading(broker: Broker, **settings: Any) -> AsyncIterator[Reader]:
    """A reader of all that a broker has, from the start."""
    fetcher = Fetcher(broker, ConsumerSettings(**settings))
    for index in range(len(broker.logs)):
        fetcher.add(TopicPartition("t", index), 0)
    async with trio.open_nursery() as nursery:
        fetcher.open(nursery)
        yield Reader(fetcher, endless=True)
        nursery.cancel_scope.cancel()


async def test_one_that_is_ill_does_not_hold_the_others_up(autojump_clock: trio.testing.MockClock) -> None:
    """A partition that can't be read for a while is tried again in its own time."""
    broker = Broker([1] * 10, [1] * 100)
    broker.errors[0] = [ErrorCode.KAFKA_STORAGE_ERROR] * 20
    async with reading(broker) as reader:
        for _ in range(100):
            assert (await anext(reader)).partition == 1
        assert trio.current_time() < 1
        assert [(await anext(reader)).offset for _ in range(10)] == list(range(10))


async def test_who_reads_on_after_an_error(autojump_clock: trio.testing.MockClock) -> None:
    """Hears of it each time that it is so still, and then gets the records."""
    broker = Broker([1])
    broker.errors[0] = [ErrorCode.TOPIC_AUTHORIZATION_FAILED] * 2
    with trio.fail_after(60):
        async with reading(broker) as reader:
            for _ in range(2):
                with pytest.raises(Refused, match="TOPIC_AUTHORIZATION_FAILED"):
                    await anext(reader)
            assert (await anext(reader)).offset == 0


async def test_an_error_is_no_news_for_a_reader_that_went_elsewhere(autojump_clock: trio.testing.MockClock) -> None:
    """It is not told of what was the matter there."""
    broker = Broker([1] * 3)
    broker.errors[0] = [ErrorCode.OFFSET_OUT_OF_RANGE]
    with trio.fail_after(60):
        async with reading(broker, reset="error") as reader:
            await trio.sleep(1)
            reader.move(reader._fetcher.assigned[A], 2)
            assert (await anext(reader)).offset == 2


@pytest.mark.parametrize("seed", range(8))
async def test_whatever_the_program_does_it_reads_every_record(
    autojump_clock: trio.testing.MockClock, seed: int
) -> None:
    """Once and in order, but for where it seeks to, over answers that come late and connections that break."""
    chance = random.Random(seed)
    broker = Broker(*[[chance.randrange(1, 7) for _ in range(20)] for _ in range(3)])
    broker.delay_s = lambda: chance.choice((0.0, 0.001, 0.005, 0.03))
    broker.breaks = lambda: chance.random() < 0.02
    ends = [log[-1][0] for log in broker.logs]
    next_offsets = [0] * 3
    async with reading(broker, chunks_max=chance.randrange(1, 4), wait_ms=100) as reader:
        assigned = list(reader._fetcher.assigned.values())

        def take(records: Iterable[Received]) -> None:
            for record in records:
                assert not assigned[record.partition].paused
                assert record.offset == next_offsets[record.partition]
                next_offsets[record.partition] += 1

        async def read_one() -> None:
            take([await anext(reader)])

        async def read_several() -> None:
            take(await reader.several())

        reads: tuple[Callable[[], Awaitable[None]], ...] = (read_one, read_several)
        for _ in range(200):
            one = chance.choice(assigned)
            deed = chance.choice(("read", "read", "read", "pause", "resume", "resume", "seek"))
            if deed == "read":
                with trio.move_on_after(chance.choice((0, 0.01, 1))):
                    await chance.choice(reads)()
            elif deed == "seek":
                next_offsets[one.at.partition] = chance.randrange(ends[one.at.partition])
                reader.move(one, next_offsets[one.at.partition])
            else:
                getattr(reader, deed)(one)
            assert [reader.position(one) for one in assigned] == next_offsets
        for one in assigned:
            reader.resume(one)
        with trio.fail_after(600):
            while next_offsets != ends:
                await read_several()
