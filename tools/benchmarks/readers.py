"""Two clients read from one server: logd.client against confluent-kafka, records of 1 KB, one Python process each turn.

Run by hand: ``python -m tools.benchmarks.readers --bootstrap HOST:PORT``. It makes a topic, fills it, reads it in turns
by each way, and prints records a second and the ratio to ``poll()``. Never starts a server.
"""

from __future__ import annotations

import argparse
import os
import time
import uuid
from collections.abc import Callable
from statistics import median

import trio
from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

from logd.client import Consumer as OwnConsumer
from logd.client import Producer, ProducerSettings
from logd.client import TopicPartition as OwnPartition
from tools.benchmarks import confluent

RECORD_BYTES = 1024
BATCH_BYTES = 128 << 10


async def fill(bootstrap: str, topic: str, records: int, codec: str) -> None:
    """Put as many records into the topic."""
    value = os.urandom(RECORD_BYTES // 2) + bytes(RECORD_BYTES // 2)
    async with Producer(bootstrap, ProducerSettings(batch_bytes=BATCH_BYTES, codec=codec)) as producer:
        for _ in range(records):
            try:
                producer.send_nowait(topic, value, partition=0)
            except trio.WouldBlock:
                await producer.send(topic, value, partition=0)


def polled(bootstrap: str, topic: str, records: int) -> float:
    """Records a second by ``poll()``, of all after the first."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": uuid.uuid4().hex, "enable.auto.commit": False})
    consumer.assign([TopicPartition(topic, 0, OFFSET_BEGINNING)])
    count, size = 0, 0
    began = 0.0
    while count < records:
        message = consumer.poll(1)
        if message is not None and (value := message.value()) is not None:
            size += len(value)
            began = began or time.perf_counter()
            count += 1
    elapsed_s = time.perf_counter() - began
    consumer.close()
    assert size == records * RECORD_BYTES
    return (records - 1) / elapsed_s


async def iterated(bootstrap: str, topic: str, records: int) -> float:
    """Records a second by ``async for``, of all after the first."""
    at = OwnPartition(topic, 0)
    size = 0
    async with OwnConsumer(bootstrap, positions={at: 0}, ends={at: records}) as consumer:
        size += len((await anext(consumer)).value or b"")
        began = time.perf_counter()
        async for record in consumer:
            size += len(record.value or b"")
        elapsed_s = time.perf_counter() - began
    assert size == records * RECORD_BYTES
    return (records - 1) / elapsed_s


async def read_in_lists(bootstrap: str, topic: str, records: int) -> float:
    """Records a second by ``read()``, of all after the first list."""
    at = OwnPartition(topic, 0)
    size = 0
    async with OwnConsumer(bootstrap, positions={at: 0}, ends={at: records}) as consumer:
        first = await consumer.read()
        began = time.perf_counter()
        while found := await consumer.read():
            for record in found:
                size += len(record.value or b"")
        elapsed_s = time.perf_counter() - began
    assert size == (records - len(first)) * RECORD_BYTES
    return (records - len(first)) / elapsed_s


WAYS: dict[str, Callable[[str, str, int], float]] = {
    "confluent-kafka poll()": polled,
    "logd.client async for": lambda bootstrap, topic, records: trio.run(iterated, bootstrap, topic, records),
    "logd.client read()": lambda bootstrap, topic, records: trio.run(read_in_lists, bootstrap, topic, records),
}


def main() -> None:
    """Read the options, run the turns, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bootstrap", default="127.0.0.1:9092")
    parser.add_argument("--records", type=int, default=300_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--codec", default="none")
    options = parser.parse_args()
    topic = f"readers-{uuid.uuid4().hex[:8]}"
    confluent.create_topic(options.bootstrap, topic, 1)
    try:
        trio.run(fill, options.bootstrap, topic, options.records, options.codec)
        rates: dict[str, list[float]] = {way: [] for way in WAYS}
        for _ in range(options.rounds):
            for way, measure in WAYS.items():
                rates[way].append(measure(options.bootstrap, topic, options.records))
    finally:
        confluent.delete_topic(options.bootstrap, topic)
    first = rates[next(iter(WAYS))]
    for way, found in rates.items():
        ratios = sorted(mine / other for mine, other in zip(found, first, strict=True))
        print(f"{way:24} {median(found):10,.0f} records/s   {median(ratios):.2f} ({ratios[0]:.2f}..{ratios[-1]:.2f})")


if __name__ == "__main__":
    main()
