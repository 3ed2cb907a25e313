"""confluent-kafka (librdkafka) produces records and reads them back, in every shape that a record has."""

from __future__ import annotations

from collections.abc import Callable
from time import time

import pytest
from confluent_kafka import OFFSET_END, TIMESTAMP_CREATE_TIME, TIMESTAMP_LOG_APPEND_TIME, KafkaError, TopicPartition

from tests.clients.confluent import PATIENCE_S, assigned, consumer, produce, producer, take, until


@pytest.mark.parametrize("codec", ["none", "gzip", "snappy", "lz4", "zstd"])
def test_every_codec_is_read_back(bootstrap: str, new_topic: Callable[..., str], codec: str) -> None:
    """Batches compressed by the client come back as they were, in order, whatever the codec."""
    topic = new_topic()
    values = [f"{number:06d}".encode() * 40 for number in range(500)]
    with producer(bootstrap, compression_type=codec) as source:
        produce(source, topic, values)
    with consumer(bootstrap) as reader:
        assigned(reader, topic)
        came = take(reader, len(values))
    assert [message.value() for message in came] == values
    assert [message.offset() for message in came] == list(range(len(values)))


@pytest.mark.parametrize("acks", ["0", "1", "all"])
def test_every_kind_of_acknowledgement(bootstrap: str, new_topic: Callable[..., str], acks: str) -> None:
    """Records produced with acks 0, 1 and all are in the log; the latter two report their offsets."""
    topic = new_topic()
    with producer(bootstrap, acks=acks) as source:
        reports = produce(source, topic, [b"a", b"b", b"c"])
    if acks != "0":
        assert [report.offset() for report in reports] == [0, 1, 2]
    with consumer(bootstrap) as reader:
        assert [message.value() for message in take(assigned(reader, topic), 3)] == [b"a", b"b", b"c"]


def test_keys_headers_and_nulls(bootstrap: str, new_topic: Callable[..., str]) -> None:
    """Keys, null keys, null and empty values, repeated headers and null headers survive unchanged."""
    topic = new_topic()
    headers = [("trace", b"\x00\xff"), ("trace", b"again"), ("empty", b""), ("null", None), ("ключ", "знач".encode())]
    with producer(bootstrap) as source:
        produce(source, topic, [b"value"], key=b"key", headers=headers)
        produce(source, topic, [None], key=b"tombstone")
        produce(source, topic, [b""], key=b"")
        produce(source, topic, [b"only a value"])
    with consumer(bootstrap) as reader:
        first, tombstone, empty, plain = take(assigned(reader, topic), 4)
    assert (first.key(), first.value(), first.headers()) == (b"key", b"value", headers)
    assert (tombstone.key(), tombstone.value()) == (b"tombstone", None)
    assert (empty.key(), empty.value()) == (b"", b"")
    assert (plain.key(), plain.value(), plain.headers()) == (None, b"only a value", None)


def test_create_time_is_the_producers(bootstrap: str, new_topic: Callable[..., str]) -> None:
    """With CreateTime, the default, a record keeps the timestamp that its producer gave it."""
    topic = new_topic()
    stamp = 1_600_000_000_123
    with producer(bootstrap) as source:
        produce(source, topic, [b"old"], timestamp=stamp)
    with consumer(bootstrap) as reader:
        (message,) = take(assigned(reader, topic), 1)
    assert message.timestamp() == (TIMESTAMP_CREATE_TIME, stamp)


def test_log_append_time_is_the_brokers(bootstrap: str, new_topic: Callable[..., str]) -> None:
    """With LogAppendTime the broker's time replaces the producer's, and the acknowledgement carries it."""
    topic = new_topic(configs={"message.timestamp.type": "LogAppendTime"})
    before_ms = int(time() * 1000)
    with producer(bootstrap) as source:
        (report,) = produce(source, topic, [b"old"], timestamp=1_600_000_000_123)
    with consumer(bootstrap) as reader:
        (message,) = take(assigned(reader, topic), 1)
    kind, stamp = message.timestamp()
    assert kind == TIMESTAMP_LOG_APPEND_TIME
    assert stamp >= before_ms
    assert report.timestamp() == (TIMESTAMP_LOG_APPEND_TIME, stamp)


def test_keys_choose_partitions(bootstrap: str, new_topic: Callable[..., str]) -> None:
    """Records with one key share one partition and keep their order in it."""
    topic = new_topic(partitions=4)
    with producer(bootstrap) as source:
        for number in range(200):
            source.produce(topic, key=f"key-{number % 10}", value=str(number))
        assert source.flush(PATIENCE_S) == 0
    with consumer(bootstrap) as reader:
        reader.assign([TopicPartition(topic, partition, 0) for partition in range(4)])
        came = take(reader, 200)
    for key in {message.key() for message in came}:
        mine = [message for message in came if message.key() == key]
        assert len({message.partition() for message in mine}) == 1
        assert [int(message.value()) for message in mine] == sorted(int(message.value()) for message in mine)


def test_idempotent_producer(bootstrap: str, new_topic: Callable[..., str]) -> None:
    """An idempotent producer gets its id and writes every record once, in order."""
    topic = new_topic(partitions=2)
    values = [str(number).encode() for number in range(2000)]
    with producer(bootstrap, enable_idempotence=True, batch_num_messages=50) as source:
        produce(source, topic, values, partition=1)
    with consumer(bootstrap) as reader:
        assert [message.value() for message in take(assigned(reader, topic, 1), 2000)] == values


def test_large_records(bootstrap: str, new_topic: Callable[..., str]) -> None:
    """A topic with a raised max.message.bytes takes an 8 MiB record, and a consumer with small fetches gets it."""
    topic = new_topic(configs={"max.message.bytes": str(10 << 20)})
    value = bytes(range(256)) * (8 << 12)
    with producer(bootstrap, message_max_bytes=10 << 20) as source:
        produce(source, topic, [b"small", value, b"small again"])
    with consumer(bootstrap, fetch_message_max_bytes=10_000) as reader:
        came = [message.value() for message in take(assigned(reader, topic), 3)]
    assert came == [b"small", value, b"small again"]


def test_too_large_a_record_is_refused(bootstrap: str, new_topic: Callable[..., str]) -> None:
    """A record over the topic's max.message.bytes is refused as such, and the next one is taken."""
    topic = new_topic(configs={"max.message.bytes": "10000"})
    errors: list[KafkaError | None] = []
    with producer(bootstrap) as source:
        source.produce(topic, b"x" * 20_000, on_delivery=lambda error, _: errors.append(error))
        assert source.flush(PATIENCE_S) == 0
        produce(source, topic, [b"fits"])
    assert [error.code() for error in errors if error] == [KafkaError.MSG_SIZE_TOO_LARGE]


def test_watermarks(bootstrap: str, new_topic: Callable[..., str]) -> None:
    """The watermarks of a partition are the offset of its first record and the one that comes next."""
    topic = new_topic()
    with consumer(bootstrap) as reader:
        assert reader.get_watermark_offsets(TopicPartition(topic, 0), timeout=PATIENCE_S) == (0, 0)
        with producer(bootstrap) as source:
            produce(source, topic, [b"x"] * 7)
        assert reader.get_watermark_offsets(TopicPartition(topic, 0), timeout=PATIENCE_S) == (0, 7)


def test_offsets_for_times(bootstrap: str, new_topic: Callable[..., str]) -> None:
    """A time maps to the first record at or after it, and to the end where there is none."""
    topic = new_topic()
    base_ms = 1_700_000_000_000
    with producer(bootstrap) as source:
        for number in range(10):
            produce(source, topic, [b"x"], timestamp=base_ms + number * 1000)
    wanted = [(base_ms - 5, 0), (base_ms, 0), (base_ms + 1, 1), (base_ms + 8500, 9), (base_ms + 9001, OFFSET_END)]
    with consumer(bootstrap) as reader:
        for stamp, offset in wanted:
            (found,) = reader.offsets_for_times([TopicPartition(topic, 0, stamp)], timeout=PATIENCE_S)
            assert (found.error, found.offset) == (None, offset)


def test_consume_from_the_end(bootstrap: str, new_topic: Callable[..., str]) -> None:
    """A consumer that starts at the end gets only what is produced later."""
    topic = new_topic()
    with producer(bootstrap) as source, consumer(bootstrap, enable_partition_eof=True) as reader:
        produce(source, topic, [b"before"] * 5)
        at_end: list[int] = []

        def end_reached() -> bool:
            message = reader.poll(0.1)
            if message is not None and message.error() and message.error().code() == KafkaError._PARTITION_EOF:
                at_end.append(message.offset())
            return bool(at_end)

        assigned(reader, topic, offset=OFFSET_END)
        until(end_reached)
        assert at_end == [5]
        produce(source, topic, [b"after"])
        (came,) = take(reader, 1)
    assert (came.value(), came.offset()) == (b"after", 5)


def test_seek_and_pause(bootstrap: str, new_topic: Callable[..., str]) -> None:
    """A consumer may go back and read again, and a paused partition is silent while another one flows."""
    topic = new_topic(partitions=2)
    with producer(bootstrap) as source:
        produce(source, topic, [b"%d" % number for number in range(10)], partition=0)
        produce(source, topic, [b"other"] * 5, partition=1)
    with consumer(bootstrap) as reader:
        assigned(reader, topic)
        take(reader, 10)
        reader.seek(TopicPartition(topic, 0, 4))
        assert [message.offset() for message in take(reader, 6)] == [4, 5, 6, 7, 8, 9]
        reader.assign([TopicPartition(topic, 0, 0), TopicPartition(topic, 1, 0)])
        reader.pause([TopicPartition(topic, 0)])
        assert {message.partition() for message in take(reader, 5)} == {1}
        reader.resume([TopicPartition(topic, 0)])
        assert [message.offset() for message in take(reader, 10)] == list(range(10))


def test_auto_create_on_produce(bootstrap: str, unique: Callable[[str], str]) -> None:
    """Producing to a topic that does not exist makes it, as auto.create.topics.enable says by default."""
    topic = unique("auto")
    with producer(bootstrap) as source:
        produce(source, topic, [b"first"])
    with consumer(bootstrap) as reader:
        assert topic in reader.list_topics(topic, timeout=PATIENCE_S).topics
