"""kafka-python, written in Python by others, produces, consumes in groups and administers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from time import monotonic
from typing import Any

import pytest
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, OffsetAndMetadata, TopicPartition

PATIENCE_S = 45.0


@pytest.fixture
def produce(bootstrap: str) -> Iterator[Callable[..., list[Any]]]:
    """Send values and wait for their acknowledgements: ``produce(topic, values, partition=0, **options)``."""

    def send(topic: str, values: list[bytes | None], partition: int = 0, **options: Any) -> list[Any]:
        record = {name: options.pop(name) for name in ("key", "headers", "timestamp_ms") if name in options}
        producer = KafkaProducer(bootstrap_servers=bootstrap, linger_ms=2, **options)
        try:
            sent = [producer.send(topic, value, partition=partition, **record) for value in values]
            return [future.get(timeout=PATIENCE_S) for future in sent]
        finally:
            producer.close()

    return send


@pytest.fixture
def consumer(bootstrap: str) -> Iterator[Callable[..., KafkaConsumer]]:
    """Make consumers that are closed when the test ends."""
    opened: list[KafkaConsumer] = []

    def make(*topics: str, **options: Any) -> KafkaConsumer:
        settings = {"auto_offset_reset": "earliest", "enable_auto_commit": False, "fetch_max_wait_ms": 100}
        reader = KafkaConsumer(*topics, bootstrap_servers=bootstrap, **(settings | options))
        opened.append(reader)
        return reader

    yield make
    for reader in opened:
        reader.close()


def take(reader: KafkaConsumer, count: int) -> list[Any]:
    """Poll until ``count`` records have come, in the order of their partitions."""
    taken: list[Any] = []
    end = monotonic() + PATIENCE_S
    while len(taken) < count:
        assert monotonic() < end, f"only {len(taken)} of {count} records came"
        for records in reader.poll(timeout_ms=200).values():
            taken.extend(records)
    return taken


@pytest.mark.parametrize("codec", [None, "gzip", "snappy", "lz4", "zstd"])
def test_every_codec_is_read_back(
    new_topic: Callable[..., str],
    produce: Callable[..., list[Any]],
    consumer: Callable[..., KafkaConsumer],
    codec: str | None,
) -> None:
    """Records come back in order, whatever compressed them."""
    topic = new_topic()
    values = [f"{number:04d}".encode() * 50 for number in range(200)]
    sent = produce(topic, values, compression_type=codec)
    assert [report.offset for report in sent] == list(range(200))
    reader = consumer()
    reader.assign([TopicPartition(topic, 0)])
    assert [record.value for record in take(reader, 200)] == values


def test_keys_headers_and_timestamps(
    new_topic: Callable[..., str], produce: Callable[..., list[Any]], consumer: Callable[..., KafkaConsumer]
) -> None:
    """A record keeps key, headers and timestamp; a null value stays null."""
    topic = new_topic()
    headers = [("a", b"1"), ("a", b"2"), ("ü", b"")]
    produce(topic, [b"value", None], key=b"key", headers=headers, timestamp_ms=1_600_000_000_000)
    reader = consumer()
    reader.assign([TopicPartition(topic, 0)])
    first, second = take(reader, 2)
    assert (first.key, first.value, first.timestamp) == (b"key", b"value", 1_600_000_000_000)
    assert list(first.headers) == headers
    assert second.value is None


@pytest.mark.parametrize("options", [{"acks": 0}, {"acks": 1}, {"acks": "all"}, {"enable_idempotence": True}])
def test_every_kind_of_acknowledgement(
    new_topic: Callable[..., str],
    produce: Callable[..., list[Any]],
    consumer: Callable[..., KafkaConsumer],
    options: dict[str, Any],
) -> None:
    """Records are in the log once and in order, for every acks and for an idempotent producer."""
    topic = new_topic()
    values = [b"%d" % number for number in range(300)]
    produce(topic, values, **options)
    reader = consumer()
    reader.assign([TopicPartition(topic, 0)])
    assert [record.value for record in take(reader, 300)] == values


def test_group_commits_and_resumes(
    new_topic: Callable[..., str], produce: Callable[..., list[Any]], consumer: Callable[..., KafkaConsumer]
) -> None:
    """A group's next member starts where the last one committed."""
    topic = new_topic()
    partition = TopicPartition(topic, 0)
    produce(topic, [b"%d" % number for number in range(10)])
    first = consumer(topic, group_id=topic)
    take(first, 10)
    first.commit({partition: OffsetAndMetadata(6, "note", -1)})
    assert first.committed(partition) == 6
    first.close()
    second = consumer(topic, group_id=topic)
    assert [record.offset for record in take(second, 4)] == [6, 7, 8, 9]
    assert second.committed(partition, metadata=True).metadata == "note"


def test_two_members_share(
    new_topic: Callable[..., str], produce: Callable[..., list[Any]], consumer: Callable[..., KafkaConsumer]
) -> None:
    """Two members get half of the partitions each; when one closes, the other gets all."""
    topic = new_topic(partitions=4)
    everything = {TopicPartition(topic, partition) for partition in range(4)}
    options = {"group_id": topic, "heartbeat_interval_ms": 100}

    def poll_until(condition: Callable[[], bool], *readers: KafkaConsumer) -> None:
        end = monotonic() + PATIENCE_S
        while not condition():
            assert monotonic() < end, "the group did not settle"
            for reader in readers:
                reader.poll(timeout_ms=100)

    first = consumer(topic, **options)
    poll_until(lambda: first.assignment() == everything, first)
    second = consumer(topic, **options)

    def halves() -> bool:
        mine, yours = first.assignment(), second.assignment()
        return len(mine) == len(yours) == 2 and mine | yours == everything

    poll_until(halves, first, second)
    second.close()
    poll_until(lambda: first.assignment() == everything, first)


def test_offsets_of_a_partition(
    new_topic: Callable[..., str], produce: Callable[..., list[Any]], consumer: Callable[..., KafkaConsumer]
) -> None:
    """Beginning, end and time give the offsets that were produced; seek reads from there."""
    topic = new_topic()
    partition = TopicPartition(topic, 0)
    for number in range(5):
        produce(topic, [b"%d" % number], timestamp_ms=1_600_000_000_000 + number * 1000)
    reader = consumer()
    reader.assign([partition])
    assert reader.beginning_offsets([partition]) == {partition: 0}
    assert reader.end_offsets([partition]) == {partition: 5}
    found = reader.offsets_for_times({partition: 1_600_000_000_000 + 1500})[partition]
    assert (found.offset, found.timestamp) == (2, 1_600_000_002_000)
    reader.seek(partition, 3)
    assert [record.offset for record in take(reader, 2)] == [3, 4]
    reader.seek_to_beginning(partition)
    assert take(reader, 5)[0].offset == 0


def test_admin(bootstrap: str, new_topic: Callable[..., str], produce: Callable[..., list[Any]]) -> None:
    """The admin client describes the cluster, its topics, groups and settings, and deletes a topic."""
    topic = new_topic(partitions=2, configs={"retention.ms": "1000000"})
    produce(topic, [b"x"])
    admin = KafkaAdminClient(bootstrap_servers=bootstrap)
    try:
        assert len(admin.describe_cluster()["brokers"]) == 1
        assert topic in admin.list_topics()
        (described,) = admin.describe_topics([topic])
        assert len(described["partitions"]) == 2
        admin.delete_topics([topic])
        assert topic not in admin.list_topics()
    finally:
        admin.close()
