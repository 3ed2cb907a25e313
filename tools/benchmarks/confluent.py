"""confluent-kafka as a load, in processes of its own: produce, consume, wait for a new group's first record, commit.

Run as `python -m tools.benchmarks.confluent produce|consume|first-record|commits`; prints one JSON object. Also the
home of the topic calls (create, delete) that the runner makes. Never knows which server it talks to.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import time
import uuid
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

CALL_TIMEOUT_S = 60.0
IDLE_LIMIT_S = 60.0


def _admin(bootstrap: str) -> AdminClient:
    return AdminClient({"bootstrap.servers": bootstrap, "log_level": 4})


def create_topic(bootstrap: str, topic: str, partitions: int) -> None:
    """Create it and wait until its partitions have leaders. Raises KafkaException."""
    admin = _admin(bootstrap)
    new = NewTopic(topic, num_partitions=partitions, replication_factor=1)
    admin.create_topics([new], operation_timeout=CALL_TIMEOUT_S)[topic].result(CALL_TIMEOUT_S)
    deadline = time.monotonic() + CALL_TIMEOUT_S
    while time.monotonic() < deadline:
        found = admin.list_topics(topic, timeout=CALL_TIMEOUT_S).topics[topic]
        if len(found.partitions) == partitions and all(each.leader >= 0 for each in found.partitions.values()):
            return
        time.sleep(0.02)
    raise KafkaException(KafkaError(KafkaError._TIMED_OUT, f"{topic} has no leaders"))


def delete_topic(bootstrap: str, topic: str) -> None:
    """Delete it. Raises KafkaException."""
    admin = _admin(bootstrap)
    admin.delete_topics([topic], operation_timeout=CALL_TIMEOUT_S)[topic].result(CALL_TIMEOUT_S)


def produce(bootstrap: str, topic: str, records: int, size: int) -> dict[str, float]:
    """Produce as fast as it goes, acks=1, 128 KiB batches; records a second until all are acknowledged."""
    settings = {"bootstrap.servers": bootstrap, "acks": 1, "batch.size": 131072, "linger.ms": 5}
    producer = Producer(settings)
    value = b"x" * size
    failed: list[KafkaError] = []

    def delivered(error: KafkaError | None, _message: Message) -> None:
        if error is not None:
            failed.append(error)

    producer.list_topics(topic, timeout=CALL_TIMEOUT_S)
    began = time.perf_counter()
    for _ in range(records):
        while True:
            try:
                producer.produce(topic, value, on_delivery=delivered)
                break
            except BufferError:
                producer.poll(0.01)
        producer.poll(0)
    left = producer.flush(CALL_TIMEOUT_S)
    elapsed_s = time.perf_counter() - began
    if left or failed:
        raise KafkaException(failed[0] if failed else KafkaError(KafkaError._TIMED_OUT, f"{left} not acknowledged"))
    return {"records_per_s": records / elapsed_s}


def _consumer(bootstrap: str, topic: str) -> Consumer:
    settings = {
        "bootstrap.servers": bootstrap,
        "group.id": f"bench-{uuid.uuid4().hex}",
        "auto.offset.reset": "earliest",
        "enable.auto.commit": False,
        "fetch.queue.backoff.ms": 5,  # by default a full queue stops fetching for a second, and a fast server waits
    }
    consumer = Consumer(settings)
    consumer.subscribe([topic])
    return consumer


def _next(consumer: Consumer, count: int) -> list[Message]:
    """Up to `count` messages, at least one. Raises KafkaException when none comes within IDLE_LIMIT_S."""
    deadline = time.monotonic() + IDLE_LIMIT_S
    while time.monotonic() < deadline:
        messages = consumer.consume(count, timeout=0.05)
        for message in messages:
            if (error := message.error()) is not None:
                raise KafkaException(error)
        if messages:
            return messages
    raise KafkaException(KafkaError(KafkaError._TIMED_OUT, "no record"))


def consume(bootstrap: str, topic: str, records: int) -> dict[str, float]:
    """Consume from the start with a new group; records a second from the first to the last."""
    consumer = _consumer(bootstrap, topic)
    first = len(_next(consumer, 1))
    began, count = time.perf_counter(), first
    while count < records:
        count += len(_next(consumer, 10_000))
    elapsed_s = time.perf_counter() - began
    consumer.close()
    return {"records_per_s": (count - first) / elapsed_s}


def first_record(bootstrap: str, topic: str) -> dict[str, float]:
    """Milliseconds from making a consumer of a new group until it has its first record."""
    began = time.perf_counter()
    consumer = _consumer(bootstrap, topic)
    while True:
        message = consumer.poll(0.01)
        if message is not None and message.error() is None:
            break
        if time.perf_counter() - began > IDLE_LIMIT_S:
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT, "no record"))
    elapsed_s = time.perf_counter() - began
    consumer.close()
    return {"first_record_ms": elapsed_s * 1000}


def commits(bootstrap: str, topic: str, clients: int, seconds: float) -> dict[str, float]:
    """Commits a second of so many processes with a group each, one partition a commit, each waited for."""
    context = multiprocessing.get_context("spawn")
    together, counts = context.Barrier(clients), context.Queue()
    arguments = (bootstrap, topic, seconds, together, counts)
    processes = [context.Process(target=_commit, args=arguments, daemon=True) for _ in range(clients)]
    for process in processes:
        process.start()
    made = sum(counts.get(timeout=CALL_TIMEOUT_S + seconds) for _ in processes)
    for process in processes:
        process.join()
    return {"rate": made / seconds}


def _commit(bootstrap: str, topic: str, seconds: float, together: Barrier, counts: Queue[int]) -> None:
    group = f"bench-{uuid.uuid4().hex}"
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": group, "enable.auto.commit": False})
    deadline = time.monotonic() + CALL_TIMEOUT_S
    while True:  # until the group has its coordinator
        try:
            consumer.commit(offsets=[TopicPartition(topic, 0, 0)], asynchronous=False)
            break
        except KafkaException:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
    together.wait(CALL_TIMEOUT_S)
    made, end = 0, time.monotonic() + seconds
    while time.monotonic() < end:
        made += 1
        consumer.commit(offsets=[TopicPartition(topic, 0, made)], asynchronous=False)
    counts.put(made)
    consumer.close()


def main() -> int:
    """The command line. Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("what", choices=["produce", "consume", "first-record", "commits"])
    parser.add_argument("--bootstrap", required=True)
    parser.add_argument("--topic", required=True)
    parser.add_argument("--records", type=int, default=1)
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--clients", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=1.0)
    options = parser.parse_args()
    if options.what == "produce":
        result = produce(options.bootstrap, options.topic, options.records, options.size)
    elif options.what == "consume":
        result = consume(options.bootstrap, options.topic, options.records)
    elif options.what == "commits":
        result = commits(options.bootstrap, options.topic, options.clients, options.seconds)
    else:
        result = first_record(options.bootstrap, options.topic)
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
