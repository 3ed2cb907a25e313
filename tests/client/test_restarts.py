"""The client while the server dies and comes back: nothing lost, nothing twice, order kept."""

from __future__ import annotations

import pytest
import trio

from logd.client import Consumer, Producer, ProducerSettings, TopicPartition
from logd.testing import Broker
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
