"""aiokafka, on asyncio, produces and consumes in groups."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions

PATIENCE_S = 45.0


def run(work: Coroutine[Any, Any, None]) -> None:
    """Run one test's coroutine, with a limit."""
    asyncio.run(asyncio.wait_for(work, PATIENCE_S * 2))


async def take(reader: AIOKafkaConsumer, count: int) -> list[Any]:
    """The next ``count`` records."""
    return [await asyncio.wait_for(reader.getone(), PATIENCE_S) for _ in range(count)]


def consumer(bootstrap: str, *topics: str, **options: Any) -> AIOKafkaConsumer:
    """A consumer from the beginning that commits only when told."""
    settings = {"auto_offset_reset": "earliest", "enable_auto_commit": False, "fetch_max_wait_ms": 100}
    return AIOKafkaConsumer(*topics, bootstrap_servers=bootstrap, **(settings | options))


@pytest.mark.parametrize("codec", [None, "gzip", "snappy", "lz4", "zstd"])
@pytest.mark.parametrize("idempotent", [False, True])
def test_produce_and_consume(
    bootstrap: str, new_topic: Callable[..., str], codec: str | None, idempotent: bool
) -> None:
    """Records come back in order with key, headers and timestamp."""
    topic = new_topic()

    async def work() -> None:
        headers = [("h", b"\x00")]
        options = {"compression_type": codec, "enable_idempotence": idempotent}
        async with AIOKafkaProducer(bootstrap_servers=bootstrap, **options) as producer:
            for number in range(100):
                value = b"%d" % number * 100
                await producer.send(topic, value, key=b"k", headers=headers, timestamp_ms=1_600_000_000_000 + number)
            await producer.flush()
        async with consumer(bootstrap, topic) as reader:
            records = await take(reader, 100)
        assert [record.value for record in records] == [b"%d" % number * 100 for number in range(100)]
        assert [record.timestamp for record in records] == [1_600_000_000_000 + number for number in range(100)]
        assert {(record.key, tuple(record.headers)) for record in records} == {(b"k", tuple(headers))}

    run(work())


def test_group_commits_and_resumes(bootstrap: str, new_topic: Callable[..., str]) -> None:
    """A group's next member starts where the last one committed."""
    topic = new_topic()
    partition = TopicPartition(topic, 0)

    async def work() -> None:
        async with AIOKafkaProducer(bootstrap_servers=bootstrap) as producer:
            for number in range(10):
                await producer.send_and_wait(topic, b"%d" % number)
        async with consumer(bootstrap, topic, group_id=topic) as reader:
            await take(reader, 10)
            await reader.commit({partition: 7})
        async with consumer(bootstrap, topic, group_id=topic) as reader:
            assert [record.offset for record in await take(reader, 3)] == [7, 8, 9]
            assert await reader.committed(partition) == 7
            assert await reader.end_offsets([partition]) == {partition: 10}

    run(work())


def test_two_members_share(bootstrap: str, new_topic: Callable[..., str]) -> None:
    """Two members of a group get every record once between them."""
    topic = new_topic(partitions=4)
    options = {"group_id": topic, "heartbeat_interval_ms": 100, "metadata_max_age_ms": 1000}

    async def settled(first: AIOKafkaConsumer, second: AIOKafkaConsumer) -> None:
        while not len(first.assignment()) == len(second.assignment()) == 2:  # noqa: ASYNC110  (aiokafka has no event)
            await asyncio.sleep(0.01)

    async def work() -> None:
        async with consumer(bootstrap, topic, **options) as first, consumer(bootstrap, topic, **options) as second:
            await asyncio.wait_for(settled(first, second), PATIENCE_S)
            async with AIOKafkaProducer(bootstrap_servers=bootstrap) as producer:
                for number in range(40):
                    await producer.send_and_wait(topic, b"%d" % number, partition=number % 4)
            halves = await asyncio.gather(take(first, 20), take(second, 20))
        assert sorted(int(record.value) for half in halves for record in half) == list(range(40))

    run(work())


def test_seek_and_times(bootstrap: str, new_topic: Callable[..., str]) -> None:
    """Seeking goes back, and a time is turned into an offset."""
    topic = new_topic()
    partition = TopicPartition(topic, 0)

    async def work() -> None:
        async with AIOKafkaProducer(bootstrap_servers=bootstrap) as producer:
            for number in range(5):
                await producer.send_and_wait(topic, b"x", timestamp_ms=1_600_000_000_000 + 1000 * number)
        async with consumer(bootstrap, topic) as reader:
            await take(reader, 5)
            reader.seek(partition, 2)
            assert (await take(reader, 1))[0].offset == 2
            found = await reader.offsets_for_times({partition: 1_600_000_002_500})
            assert found[partition].offset == 3

    run(work())


def test_admin(bootstrap: str, new_topic: Callable[..., str]) -> None:
    """The admin client adds partitions and describes and deletes topics."""
    topic = new_topic()

    async def work() -> None:
        admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
        await admin.start()
        try:
            await admin.create_partitions({topic: NewPartitions(total_count=3)})
            (described,) = await admin.describe_topics([topic])
            assert len(described["partitions"]) == 3
            await admin.delete_topics([topic])
            assert topic not in await admin.list_topics()
        finally:
            await admin.close()

    run(work())
