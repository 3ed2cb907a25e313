"""The client while the server dies and comes back: nothing lost, nothing twice, order kept."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import trio

from logd.client import (
    Admin,
    ClientError,
    ClientSettings,
    Consumer,
    ConsumerSettings,
    GroupSettings,
    Producer,
    ProducerSettings,
    TopicPartition,
)
from logd.client.calls import METADATA
from logd.client.offsets import LATEST
from logd.testing import Broker
from tests.client.proxy import behind_proxy
from tests.client.test_producer import everything, new_topic

COUNT = 200


async def restart_often(broker: Broker, times: int) -> None:
    for _ in range(times):
        await trio.to_thread.run_sync(lambda: broker.restart(kill=True))


@pytest.mark.trio
async def test_a_producer_outlives_the_server(logd_broker: Broker) -> None:
    """Records that are sent while the server is killed three times are there once each, in order."""
    topic = await new_topic(logd_broker.bootstrap, "outlives")
    async with Producer(logd_broker.bootstrap, ProducerSettings(batch_bytes=300)) as producer:
        await producer.publish(topic, b"0")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(restart_often, logd_broker, 3)
            deliveries = [await producer.send(topic, b"%d" % number) for number in range(1, COUNT)]
        for delivery in deliveries:
            await delivery.wait()
    records = await everything(logd_broker.bootstrap, topic)
    assert [record.value for record in records] == [b"%d" % number for number in range(COUNT)]


@pytest.mark.trio
async def test_a_consumer_outlives_the_server(logd_broker: Broker) -> None:
    """A consumer goes on where it was: each record once, in order, before and after the server was killed."""
    topic = await new_topic(logd_broker.bootstrap, "reads-on")
    ends = {TopicPartition(topic, 0): COUNT}
    values: list[bytes | None] = []
    async with (
        Consumer(logd_broker.bootstrap, topic, ends=ends) as consumer,
        Producer(logd_broker.bootstrap) as producer,
    ):
        for half in range(2):
            for number in range(COUNT // 2):
                await producer.send(topic, b"%d" % (half * COUNT // 2 + number))
            await producer.flush()
            while len(values) < (half + 1) * COUNT // 2:
                values.append((await anext(consumer)).value)
            if half == 0:
                await restart_often(logd_broker, 1)
    assert values == [b"%d" % number for number in range(COUNT)]


@pytest.mark.trio
@pytest.mark.parametrize("protocol", ["classic", "consumer"])
async def test_a_group_outlives_the_server(logd_broker: Broker, protocol: str) -> None:
    """A member goes on in its group where it was after the server was killed: in order, nothing left out."""
    topic = await new_topic(logd_broker.bootstrap, f"outlives-{protocol}", 2)
    settings = GroupSettings(protocol=protocol, heartbeat_ms=50, auto_commit_ms=50)
    seen: dict[int, list[int]] = {0: [], 1: []}
    async with (
        Consumer(logd_broker.bootstrap, topic, group="g", membership=settings) as consumer,
        Producer(logd_broker.bootstrap) as producer,
    ):
        for half in range(2):
            for number in range(COUNT // 2):
                await producer.send(topic, b"%d" % (half * COUNT // 2 + number), partition=number % 2)
            await producer.flush()
            while sum(len(set(values)) for values in seen.values()) < (half + 1) * COUNT // 2:
                record = await anext(consumer)
                seen[record.partition].append(int(record.value or b""))
            if half == 0:
                await restart_often(logd_broker, 1)
    for index, values in seen.items():
        first_time = list(dict.fromkeys(values))
        assert first_time == [number for number in range(COUNT) if number % (COUNT // 2) % 2 == index]


@pytest.mark.trio
async def test_transactions_outlive_the_server(logd_broker: Broker) -> None:
    """Each record is processed once although the server is killed in the middle, whatever was under way then."""
    source = await new_topic(logd_broker.bootstrap, "source")
    target = await new_topic(logd_broker.bootstrap, "target")
    async with Producer(logd_broker.bootstrap) as producer:
        for number in range(COUNT // 4):
            await producer.send(source, b"%d" % number)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(restart_often, logd_broker, 2)
        done = 0
        while done < COUNT // 4:
            with suppress(ClientError):
                done = await process(logd_broker.bootstrap, source, target, COUNT // 4)
    at = TopicPartition(target, 0)
    async with Admin(logd_broker.bootstrap) as admin:
        ends = {at: (await admin.offsets({at: LATEST}, committed_only=True))[at].offset}
    settings = ConsumerSettings(committed_only=True)
    async with Consumer(logd_broker.bootstrap, target, ends=ends, settings=settings) as consumer:
        values = [record.value async for record in consumer]
    assert values == [b"%d" % number for number in range(COUNT // 4)]


async def process(bootstrap: str, source: str, target: str, end: int) -> int:
    """Copy the topic from where the group is, in transactions of up to ten records; where it is then."""
    at = TopicPartition(source, 0)
    client = ClientSettings(request_timeout_ms=2_000, retry_timeout_ms=5_000)
    async with (
        Producer(bootstrap, ProducerSettings(transactional_id="copy"), client=client) as producer,
        Consumer(
            bootstrap, source, group="copy", membership=GroupSettings(auto_commit_ms=0), client=client
        ) as consumer,
    ):
        while (await consumer.committed(at)).get(at, 0) < end:
            async with producer.transaction(consumer) as txn:
                for record in (await consumer.read())[:10]:
                    await txn.send(target, record.value)
                    await consumer.seek(at, record.offset + 1)
                await txn.commit_offsets(consumer)
        return end


@pytest.mark.trio
@pytest.mark.parametrize("kind", ["classic", "consumer", "pattern"])
async def test_a_member_outlives_any_lost_metadata(bootstrap: str, unique: Callable[[str], str], kind: str) -> None:
    """Whichever answer about the cluster is the one that is lost, a member finds its place in the group and reads."""
    topic = await new_topic(bootstrap, unique("lost"))
    async with Producer(bootstrap) as producer:
        await producer.publish(topic, b"found")
    settings = GroupSettings(protocol="classic" if kind == "classic" else "consumer", heartbeat_ms=50)
    for lost in itertools.count():
        async with behind_proxy(bootstrap, lost.__eq__, METADATA.key) as router:
            names: dict[str, Any] = {"pattern": f"{topic}.*"} if kind == "pattern" else {"topics": topic}
            async with Consumer(router, group=unique("g"), membership=settings, **names) as consumer:
                assert (await anext(consumer)).value == b"found"
            if not router.proxy.lost:
                break
    assert lost > 1, "no answer was lost while it was a member"


@pytest.mark.trio
async def test_a_transaction_begins_when_the_server_is_back(logd_broker: Broker) -> None:
    """After a transaction that the server did not outlive, the next one waits for it."""
    topic = await new_topic(logd_broker.bootstrap, "back")
    settings = ProducerSettings(transactional_id="back", abort_timeout_ms=100)
    async with Producer(logd_broker.bootstrap, settings) as producer, trio.open_nursery() as nursery:
        with suppress(ZeroDivisionError):
            async with producer.transaction() as one:
                await one.publish(topic, b"lost")
                await trio.to_thread.run_sync(lambda: logd_broker.stop(kill=True))
                raise ZeroDivisionError
        nursery.start_soon(trio.to_thread.run_sync, logd_broker.start)
        async with producer.transaction() as one:
            await one.publish(topic, b"kept")
    settings_of_reader = ConsumerSettings(committed_only=True)
    at = TopicPartition(topic, 0)
    async with Admin(logd_broker.bootstrap) as admin:
        ends = {at: (await admin.offsets({at: LATEST}, committed_only=True))[at].offset}
    async with Consumer(logd_broker.bootstrap, positions={at: 0}, ends=ends, settings=settings_of_reader) as consumer:
        assert [record.value async for record in consumer] == [b"kept"]
