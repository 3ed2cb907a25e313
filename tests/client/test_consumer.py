"""The consumer against real brokers, and what it makes of batches that brokers seldom send."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import trio
import trio.testing

from logd.client import Admin, ClientError, Consumer, ConsumerSettings, Producer, ProducerSettings, TopicPartition
from logd.client.chunks import Chunk
from logd.client.offsets import EARLIEST, LATEST, MAX_TIMESTAMP
from logd.errors import DecodeError, ErrorCode, Refused
from logd.testing import Broker
from logd.wire.batches import Record, build_batch
from logd.wire.schemas.fetch import AbortedTransaction, PartitionData
from tests.client.test_producer import new_topic

Unique = Callable[[str], str]
AT = TopicPartition("t", 0)


async def filled(bootstrap: str, name: str, count: int = 10, partitions: int = 1) -> str:
    """A topic with records of values 0, 1, ..., and timestamps 1000, 2000, ..., in batches of one."""
    await new_topic(bootstrap, name, partitions, retention_ms="-1")
    async with Producer(bootstrap, ProducerSettings(batch_bytes=1)) as producer:
        for number in range(count):
            await producer.send(name, b"%d" % number, partition=number % partitions, timestamp_ms=(number + 1) * 1000)
    return name


@pytest.mark.trio
async def test_all_partitions_to_their_ends(bootstrap: str, unique: Unique) -> None:
    """Every record of every partition is read once; the iteration ends where it is told to."""
    topic = await filled(bootstrap, unique("all"), 30, 3)
    ends = {TopicPartition(topic, index): 10 for index in range(3)}
    async with Consumer(bootstrap, topic, ends=ends) as consumer:
        values = [int(record.value or b"") async for record in consumer]
        assert consumer.is_finished
        assert consumer.positions() == ends
    assert sorted(values) == list(range(30))


@pytest.mark.trio
@pytest.mark.parametrize(("start", "first"), [("start", 0), (5000, 4), (4500, 4)])
async def test_starts_by_place_and_by_time(bootstrap: str, unique: Unique, start: str | int, first: int) -> None:
    """From the start, or from the first record that is not older than a time."""
    topic = await filled(bootstrap, unique("from"))
    async with Consumer(bootstrap, topic, start=start, ends={TopicPartition(topic, 0): 10}) as consumer:
        assert [int(record.value or b"") async for record in consumer] == list(range(first, 10))


@pytest.mark.trio
@pytest.mark.parametrize("start", ["end", 99_000])
async def test_what_comes_after_the_end(bootstrap: str, unique: Unique, start: str | int) -> None:
    """From the end on (or a time that is not reached), only what comes later is read, and it is waited for."""
    topic = await filled(bootstrap, unique("tail"))
    async with Consumer(bootstrap, topic, start=start) as consumer, Producer(bootstrap) as producer:
        await producer.publish(topic, b"new")
        assert (await anext(consumer)).value == b"new"


@pytest.mark.trio
async def test_a_range_of_offsets(bootstrap: str, unique: Unique) -> None:
    """Positions are included and ends are not; what lies outside of a batch's range is left out."""
    topic = await new_topic(bootstrap, unique("range"))
    async with Producer(bootstrap, ProducerSettings(linger_ms=1000)) as producer:
        for number in range(10):
            await producer.send(topic, b"%d" % number)
    at = TopicPartition(topic, 0)
    async with Consumer(bootstrap, positions={at: 3}, ends={at: 6}) as consumer:
        assert [record.offset async for record in consumer] == [3, 4, 5]
    async with Consumer(bootstrap, positions={at: 6}, ends={at: 6}) as consumer:
        assert [record async for record in consumer] == []


@pytest.mark.trio
async def test_offsets_that_are_gone(bootstrap: str, unique: Unique) -> None:
    """Reading goes on where the setting says, or stops with the server's error."""
    topic = await filled(bootstrap, unique("gone"))
    at = TopicPartition(topic, 0)
    async with Admin(bootstrap) as admin:
        assert await admin.topics.trim({at: 4}) == {at: 4}
    for wanted in (0, 100):
        async with Consumer(bootstrap, positions={at: wanted}) as consumer:
            assert (await anext(consumer)).offset == 4
        async with Consumer(bootstrap, positions={at: wanted}, settings=ConsumerSettings(reset="error")) as consumer:
            with pytest.raises(Refused) as caught:
                await anext(consumer)
            assert caught.value.code == ErrorCode.OFFSET_OUT_OF_RANGE


@pytest.mark.trio
async def test_a_topic_that_is_made_anew(bootstrap: str, unique: Unique) -> None:
    """Its offsets are others: it is read from where the setting says, though the old one's offset is there too."""
    topic = await filled(bootstrap, unique("anew"), 2)
    async with Consumer(bootstrap, topic) as consumer, Admin(bootstrap) as admin:
        assert [int((await anext(consumer)).value or b"") for _ in range(2)] == [0, 1]
        assert await admin.topics.delete([topic]) == {topic: None}
        await filled(bootstrap, topic, 5)
        assert [int((await anext(consumer)).value or b"") for _ in range(5)] == [0, 1, 2, 3, 4]


@pytest.mark.trio
async def test_small_fetches_get_everything(bootstrap: str, unique: Unique) -> None:
    """A batch that is larger than the fetch still comes, and so do the others."""
    topic = await filled(bootstrap, unique("small"))
    settings = ConsumerSettings(partition_bytes_max=1, fetch_bytes_max=1)
    async with Consumer(bootstrap, topic, ends={TopicPartition(topic, 0): 10}, settings=settings) as consumer:
        assert len([record async for record in consumer]) == 10


@pytest.mark.trio
async def test_no_partition_waits_for_the_end_of_another(bootstrap: str, unique: Unique) -> None:
    """Where one answer has room for one batch only, partitions come in turns, and so do topics."""
    topics = [await filled(bootstrap, unique("turns"), 20, 2) for _ in range(2)]
    settings = ConsumerSettings(partition_bytes_max=1, fetch_bytes_max=1)
    async with Consumer(bootstrap, topics, settings=settings) as consumer:
        first = [await anext(consumer) for _ in range(12)]
    assert {(record.topic, record.partition) for record in first} == {
        (name, part) for name in topics for part in (0, 1)
    }


@pytest.mark.trio
async def test_a_cancelled_read_loses_nothing(bootstrap: str, unique: Unique) -> None:
    """Giving up while waiting leaves every record for the next call."""
    topic = await filled(bootstrap, unique("cancel"))
    values: list[bytes | None] = []
    async with Consumer(bootstrap, topic) as consumer:
        while len(values) < 10:
            with trio.move_on_after(0):
                values.append((await anext(consumer)).value)
            with trio.move_on_after(1):
                values.append((await anext(consumer)).value)
    assert values == [b"%d" % number for number in range(10)]


@pytest.mark.trio
async def test_a_closed_consumer_has_no_more(logd_broker: Broker, unique: Unique) -> None:
    """Whoever waits for a record when it is closed, or asks after that, is told so and does not hang."""
    topic = await new_topic(logd_broker.bootstrap, unique("closed"))
    consumer = Consumer(logd_broker.bootstrap, topic)

    async def read() -> None:
        with pytest.raises(ClientError, match="the consumer is closed"):
            await anext(consumer)

    async with trio.open_nursery() as nursery, consumer:
        nursery.start_soon(read)
        await trio.testing.wait_all_tasks_blocked()
    await read()


@pytest.mark.trio
async def test_a_topic_that_is_not_there(bootstrap: str, unique: Unique) -> None:
    """It is refused when the consumer is opened."""
    with pytest.raises(Refused) as caught:
        async with Consumer(bootstrap, unique("absent")):
            pass
    assert caught.value.code == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION


@pytest.mark.trio
async def test_offsets_by_time(bootstrap: str, unique: Unique) -> None:
    """First, next, by time, the youngest, and none for a time that is not reached."""
    topic = await filled(bootstrap, unique("times"))
    at = TopicPartition(topic, 0)
    async with Admin(bootstrap) as admin:
        found = [(await admin.offsets({at: wanted}))[at] for wanted in (EARLIEST, LATEST, 2500, MAX_TIMESTAMP, 99_000)]
    assert found == [(0, -1), (10, -1), (2, 3000), (9, 10_000), (-1, -1)]


def data(*batches: bytes, aborted: list[tuple[int, int]] | None = None) -> PartitionData:
    """What a fetch brings for one partition; `aborted` are (producer id, first offset)."""
    listed = [AbortedTransaction(producer_id=pid, first_offset=first) for pid, first in aborted or ()]
    return PartitionData(records=b"".join(batches), aborted_transactions=listed)


def batch(base: int, *values: bytes, producer_id: int = -1) -> bytes:
    records = [Record(base + index, 0, None, value) for index, value in enumerate(values)]
    transactional = producer_id >= 0
    return bytes(build_batch(records, base_offset=base, producer_id=producer_id, transactional=transactional))


def marker(base: int, producer_id: int, *, commit: bool) -> bytes:
    record = Record(base, 0, bytes([0, 0, 0, int(commit)]), bytes(6))
    return bytes(build_batch([record], base_offset=base, producer_id=producer_id, transactional=True, control=True))


@pytest.mark.parametrize(("committed_only", "offsets"), [(True, [0, 2, 6]), (False, [0, 1, 2, 3, 6])])
def test_aborted_transactions(committed_only: bool, offsets: list[int]) -> None:
    """A reader of committed records skips what was aborted and nothing else; markers are never records."""
    what = data(
        batch(0, b"plain"),
        batch(1, b"aborted", producer_id=7),
        batch(2, b"committed", producer_id=8),
        batch(3, b"aborted too", producer_id=7),
        marker(4, 7, commit=False),
        marker(5, 8, commit=True),
        batch(6, b"a later transaction", producer_id=7),
        aborted=[(7, 1)],
    )
    chunk = Chunk(AT, what, committed_only=committed_only)
    records, position = chunk.take(0, 100)
    assert [record.offset for record in records] == offsets
    assert (position, chunk.is_empty, chunk.next_offset) == (7, True, 7)


def test_a_damaged_batch_is_named() -> None:
    """A wrong checksum raises, with partition and offset, after what came before it; nothing of it is given out."""
    bad = bytearray(batch(5, b"value"))
    bad[-1] ^= 1
    chunk = Chunk(AT, data(batch(4, b"good"), bytes(bad)))
    records, position = chunk.take(0, 100)
    assert ([record.value for record in records], position) == ([b"good"], 5)
    with pytest.raises(DecodeError, match="batch at offset 5 of t/0"):
        chunk.take(position, 100)


def test_a_batch_that_is_cut_off_is_left_for_the_next_fetch() -> None:
    """The position ends before the last batch when that is not there whole; none at all is an error."""
    whole, cut = batch(0, b"a", b"b"), batch(2, b"c")[:-1]
    chunk = Chunk(AT, data(whole, cut))
    assert chunk.next_offset == 2
    records, position = chunk.take(0, 100)
    assert ([record.value for record in records], position) == ([b"a", b"b"], 2)
    with pytest.raises(DecodeError, match="not one whole batch"):
        Chunk(AT, data(cut))


def test_old_formats_are_refused() -> None:
    """Bytes that claim another magic are no batch."""
    old = bytearray(batch(0, b"a"))
    old[16] = 1
    with pytest.raises(DecodeError, match="magic 1"):
        Chunk(AT, data(bytes(old)))
