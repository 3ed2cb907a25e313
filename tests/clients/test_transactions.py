"""Transactions with clients that others wrote: what is committed is read once, what is aborted never.

librdkafka, kafka-python and aiokafka each read, process and write with their offsets in the transaction; Kafka's own
kafka-transactions tool looks at what they leave behind.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from time import monotonic
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka import TopicPartition as AioTopicPartition
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from kafka import KafkaConsumer, KafkaProducer, OffsetAndMetadata
from kafka import TopicPartition as PyTopicPartition

from tests.clients.confluent import PATIENCE_S
from tests.clients.java import NEEDS_JAVA, run_java
from tests.clients.test_aiokafka import run as run_asyncio

Names = Callable[..., str]


pytestmark = pytest.mark.usefixtures("nothing_held")


def transactional(bootstrap: str, transactional_id: str, **options: Any) -> Producer:
    """A producer of librdkafka that has begun."""
    made = Producer({"bootstrap.servers": bootstrap, "transactional.id": transactional_id, "linger.ms": 2, **options})
    made.init_transactions(PATIENCE_S)
    return made


def reader(bootstrap: str, group: str, isolation: str = "read_committed", **options: Any) -> Consumer:
    return Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": group,
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            "isolation.level": isolation,
            **options,
        }
    )


def values(
    bootstrap: str, topic: str, count: int, isolation: str = "read_committed", partitions: int = 1
) -> list[bytes]:
    """The first records of a topic, and whatever else is there up to the end."""
    consumer = reader(bootstrap, f"values-{topic}", isolation, **{"enable.partition.eof": True})
    consumer.assign([TopicPartition(topic, index, 0) for index in range(partitions)])
    found: list[bytes] = []
    ended: set[int] = set()
    until = monotonic() + PATIENCE_S
    while monotonic() < until and (len(found) < count or len(ended) < partitions):
        message = consumer.poll(1)
        if message is None:
            continue
        if message.error():
            ended.add(message.partition())
        else:
            found.append(message.value())
    consumer.close()
    return found


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_read_process_write(bootstrap: str, new_topic: Names, unique: Names, protocol: str) -> None:
    """Every input is counted once in the output, although every third transaction is aborted and done again."""
    source, target, group = new_topic(2), new_topic(2), unique("group")
    wanted = sorted(b"%d" % number for number in range(60))
    plain = Producer({"bootstrap.servers": bootstrap})
    for number, value in enumerate(wanted):
        plain.produce(source, value, partition=number % 2)
    assert plain.flush(PATIENCE_S) == 0
    consumer = reader(bootstrap, group, **{"group.protocol": protocol})
    consumer.subscribe([source])
    producer = transactional(bootstrap, unique("tx"))
    done = rounds = 0
    until = monotonic() + PATIENCE_S
    while done < len(wanted) and monotonic() < until:
        messages = [message for message in consumer.consume(7, 0.2) if not message.error()]
        if not messages:
            continue
        producer.begin_transaction()
        for message in messages:
            producer.produce(target, message.value())
        positions = consumer.position(consumer.assignment())
        producer.send_offsets_to_transaction(positions, consumer.consumer_group_metadata(), PATIENCE_S)
        rounds += 1
        if rounds % 3:
            producer.commit_transaction(PATIENCE_S)
            done += len(messages)
            continue
        producer.flush(PATIENCE_S)  # or it would forget what it has not sent yet
        producer.abort_transaction(PATIENCE_S)
        for place in consumer.committed(consumer.assignment(), PATIENCE_S):
            consumer.seek(TopicPartition(place.topic, place.partition, max(place.offset, 0)))
    consumer.close()
    assert sorted(values(bootstrap, target, len(wanted), partitions=2)) == wanted
    assert len(values(bootstrap, target, len(wanted), "read_uncommitted", partitions=2)) > len(wanted)


def test_zombie_is_fenced(bootstrap: str, new_topic: Names, unique: Names) -> None:
    """A second producer with the same transactional.id ends the first one's transaction, and the first one."""
    topic, transactional_id = new_topic(), unique("tx")
    first = transactional(bootstrap, transactional_id)
    first.begin_transaction()
    first.produce(topic, b"zombie")
    first.flush(PATIENCE_S)
    second = transactional(bootstrap, transactional_id)
    second.begin_transaction()
    second.produce(topic, b"heir")
    second.commit_transaction(PATIENCE_S)
    with pytest.raises(KafkaException) as caught:
        first.commit_transaction(PATIENCE_S)
    assert caught.value.args[0].fatal()
    assert values(bootstrap, topic, 1) == [b"heir"]


def test_timeout_aborts(bootstrap: str, new_topic: Names, unique: Names) -> None:
    """A transaction that stays open does not hold readers up for longer than its timeout."""
    topic = new_topic()
    stuck = transactional(bootstrap, unique("tx"), **{"transaction.timeout.ms": 1000})
    stuck.begin_transaction()
    stuck.produce(topic, b"never")
    stuck.flush(PATIENCE_S)
    plain = Producer({"bootstrap.servers": bootstrap})
    plain.produce(topic, b"behind")
    assert plain.flush(PATIENCE_S) == 0
    consumer = reader(bootstrap, unique("group"))
    consumer.assign([TopicPartition(topic, 0, 0)])
    message = consumer.poll(PATIENCE_S)
    consumer.close()
    assert message is not None
    assert message.value() == b"behind"
    with pytest.raises(KafkaException):
        stuck.commit_transaction(PATIENCE_S)


def test_kafka_python(bootstrap: str, new_topic: Names, unique: Names) -> None:
    """kafka-python commits and aborts, offsets included."""
    topic, group = new_topic(), unique("group")
    place = PyTopicPartition(topic, 0)
    producer = KafkaProducer(bootstrap_servers=bootstrap, transactional_id=unique("tx"))
    producer.init_transactions()
    for number in range(4):
        producer.begin_transaction()
        producer.send(topic, b"%d" % number)
        producer.send_offsets_to_transaction({place: OffsetAndMetadata(number, "", -1)}, group)
        if number % 2:
            producer.abort_transaction()
        else:
            producer.commit_transaction()
    producer.close()
    assert values(bootstrap, topic, 2) == [b"0", b"2"]
    consumer = KafkaConsumer(bootstrap_servers=bootstrap, group_id=group)
    assert consumer.committed(place) == 2
    consumer.close()


def test_aiokafka(bootstrap: str, new_topic: Names, unique: Names) -> None:
    """aiokafka commits and aborts, offsets included."""
    topic, group, transactional_id = new_topic(), unique("group"), unique("tx")
    place = AioTopicPartition(topic, 0)

    found: list[int] = []

    async def story() -> None:
        producer = AIOKafkaProducer(bootstrap_servers=bootstrap, transactional_id=transactional_id)
        await producer.start()
        for number in range(4):
            await producer.begin_transaction()
            await producer.send(topic, b"%d" % number)
            await producer.send_offsets_to_transaction({place: number}, group)
            await (producer.abort_transaction() if number % 2 else producer.commit_transaction())
        await producer.stop()
        consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, group_id=group)
        await consumer.start()
        found.append(await consumer.committed(place))
        await consumer.stop()

    run_asyncio(story())
    assert found == [2]
    assert values(bootstrap, topic, 2) == [b"0", b"2"]


class TestTool:
    """kafka-transactions, unchanged."""

    pytestmark = NEEDS_JAVA

    def tool(self, bootstrap: str, *arguments: str) -> str:
        return run_java("TransactionsCommand", "--bootstrap-server", bootstrap, *arguments)

    def test_list_and_describe(self, bootstrap: str, new_topic: Names, unique: Names) -> None:
        """What is open is listed, described, found by its producer, and aborted where it hangs."""
        topic, transactional_id = new_topic(), unique("tx")
        producer = transactional(bootstrap, transactional_id)
        producer.begin_transaction()
        producer.produce(topic, b"v")
        producer.flush(PATIENCE_S)
        listed = self.tool(bootstrap, "list")
        assert re.search(rf"{transactional_id}\s+\d+\s+\d+\s+Ongoing", listed), listed
        described = self.tool(bootstrap, "describe", "--transactional-id", transactional_id)
        assert f"{topic}-0" in described
        producers = self.tool(bootstrap, "describe-producers", "--topic", topic, "--partition", "0")
        assert re.search(r"^\d+\s+\d+\s+", producers.splitlines()[-1]), producers
        self.tool(bootstrap, "abort", "--topic", topic, "--partition", "0", "--start-offset", "0")
        assert values(bootstrap, topic, 0) == []
