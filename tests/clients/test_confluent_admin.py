"""confluent-kafka's admin client makes, describes, alters and deletes topics, records and settings."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from confluent_kafka import KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    NewTopic,
    OffsetSpec,
)

from tests.clients.confluent import PATIENCE_S, assigned, consumer, produce, producer, take


def topic_settings(admin: AdminClient, topic: str) -> dict[str, ConfigEntry]:
    """The settings of a topic as DescribeConfigs answers them."""
    asked = ConfigResource(ConfigResource.Type.TOPIC, topic)
    found: dict[str, ConfigEntry] = admin.describe_configs([asked])[asked].result(timeout=PATIENCE_S)
    return found


def alter(admin: AdminClient, kind: ConfigResource.Type, name: str, *entries: ConfigEntry) -> None:
    """IncrementalAlterConfigs on one resource."""
    resource = ConfigResource(kind, name, incremental_configs=list(entries))
    admin.incremental_alter_configs([resource])[resource].result(timeout=PATIENCE_S)


def test_create_list_and_delete(admin: AdminClient, new_topic: Callable[..., str]) -> None:
    """A topic is listed with its partitions until it is deleted."""
    topic = new_topic(partitions=3)
    assert sorted(admin.list_topics(timeout=PATIENCE_S).topics[topic].partitions) == [0, 1, 2]
    admin.delete_topics([topic])[topic].result(timeout=PATIENCE_S)
    assert topic not in admin.list_topics(timeout=PATIENCE_S).topics


def test_a_topic_made_again_is_empty(bootstrap: str, admin: AdminClient, new_topic: Callable[..., str]) -> None:
    """A topic that is deleted and made again inherits no records, and has another id."""
    topic = new_topic()
    with producer(bootstrap) as source:
        produce(source, topic, [b"old"] * 3)
    first = admin.describe_topics(TopicCollection([topic]))[topic].result(timeout=PATIENCE_S)
    admin.delete_topics([topic])[topic].result(timeout=PATIENCE_S)
    admin.create_topics([NewTopic(topic, 1, 1)])[topic].result(timeout=PATIENCE_S)
    second = admin.describe_topics(TopicCollection([topic]))[topic].result(timeout=PATIENCE_S)
    assert str(first.topic_id) != str(second.topic_id)
    with producer(bootstrap) as source:
        produce(source, topic, [b"new"])
    with consumer(bootstrap) as reader:
        (message,) = take(assigned(reader, topic), 1)
    assert (message.offset(), message.value()) == (0, b"new")


@pytest.mark.parametrize(
    ("wanted", "error"),
    [
        (NewTopic("bad/name", 1, 1), "TOPIC_EXCEPTION"),
        (NewTopic("x" * 250, 1, 1), "TOPIC_EXCEPTION"),
        (NewTopic("some-topic", 0, 1), "INVALID_PARTITIONS"),
        (NewTopic("some-topic", 1, 3), "INVALID_REPLICATION_FACTOR"),
        (NewTopic("some-topic", 1, 1, config={"no.such.config": "1"}), "INVALID_CONFIG"),
        (NewTopic("some-topic", 1, 1, config={"retention.ms": "soon"}), "INVALID_CONFIG"),
    ],
)
def test_topics_that_cannot_be(admin: AdminClient, wanted: NewTopic, error: str) -> None:
    """A topic with a bad name, size or setting is refused with the error that says which."""
    with pytest.raises(KafkaException) as refusal:
        admin.create_topics([wanted])[wanted.topic].result(timeout=PATIENCE_S)
    assert error in refusal.value.args[0].name()


def test_a_topic_that_exists(admin: AdminClient, new_topic: Callable[..., str]) -> None:
    """Creating a topic twice is refused the second time."""
    topic = new_topic()
    with pytest.raises(KafkaException, match="TOPIC_ALREADY_EXISTS"):
        admin.create_topics([NewTopic(topic, 1, 1)])[topic].result(timeout=PATIENCE_S)


def test_validate_only_makes_nothing(admin: AdminClient, unique: Callable[[str], str]) -> None:
    """A validated topic is not made."""
    topic = unique("validated")
    admin.create_topics([NewTopic(topic, 1, 1)], validate_only=True)[topic].result(timeout=PATIENCE_S)
    assert topic not in admin.list_topics(timeout=PATIENCE_S).topics


def test_more_partitions_never_fewer(admin: AdminClient, new_topic: Callable[..., str]) -> None:
    """A topic can be given more partitions, and not fewer."""
    topic = new_topic(partitions=2)
    admin.create_partitions([NewPartitions(topic, 5)])[topic].result(timeout=PATIENCE_S)
    assert len(admin.list_topics(topic, timeout=PATIENCE_S).topics[topic].partitions) == 5
    with pytest.raises(KafkaException, match="INVALID_PARTITIONS"):
        admin.create_partitions([NewPartitions(topic, 3)])[topic].result(timeout=PATIENCE_S)


def test_topic_settings_are_described_and_altered(admin: AdminClient, new_topic: Callable[..., str]) -> None:
    """A setting given at creation is shown as the topic's own; altering and deleting it changes what is shown."""
    topic = new_topic(configs={"retention.ms": "3600000"})
    found = topic_settings(admin, topic)
    assert (found["retention.ms"].value, found["retention.ms"].is_default) == ("3600000", False)
    assert (found["cleanup.policy"].value, found["cleanup.policy"].is_default) == ("delete", True)
    alter(
        admin,
        ConfigResource.Type.TOPIC,
        topic,
        ConfigEntry("retention.ms", None, incremental_operation=AlterConfigOpType.DELETE),
        ConfigEntry("max.message.bytes", "12345", incremental_operation=AlterConfigOpType.SET),
    )
    found = topic_settings(admin, topic)
    assert (found["retention.ms"].value, found["retention.ms"].is_default) == ("604800000", True)
    assert (found["max.message.bytes"].value, found["max.message.bytes"].is_default) == ("12345", False)


def test_bad_settings_are_refused(admin: AdminClient, new_topic: Callable[..., str]) -> None:
    """A value that a setting cannot take is refused, and nothing changes."""
    topic = new_topic()
    bad = ConfigEntry("segment.bytes", "a lot", incremental_operation=AlterConfigOpType.SET)
    with pytest.raises(KafkaException, match="INVALID_CONFIG"):
        alter(admin, ConfigResource.Type.TOPIC, topic, bad)
    assert topic_settings(admin, topic)["segment.bytes"].is_default


def test_broker_settings_are_described(admin: AdminClient) -> None:
    """The broker describes its own settings, with the read-only ones marked."""
    broker = str(min(admin.list_topics(timeout=PATIENCE_S).brokers))
    asked = ConfigResource(ConfigResource.Type.BROKER, broker)
    found = admin.describe_configs([asked])[asked].result(timeout=PATIENCE_S)
    assert found["num.partitions"].value.isdigit()
    assert found["node.id"].value == broker
    assert found["node.id"].is_read_only


def test_delete_records(bootstrap: str, admin: AdminClient, new_topic: Callable[..., str]) -> None:
    """Records below the given offset are gone, and a consumer from the beginning starts behind them."""
    topic = new_topic()
    with producer(bootstrap) as source:
        produce(source, topic, [b"%d" % number for number in range(10)])
    below = TopicPartition(topic, 0, 6)
    answer = admin.delete_records([below])[below].result(timeout=PATIENCE_S)
    assert answer.low_watermark == 6
    with consumer(bootstrap) as reader:
        assert reader.get_watermark_offsets(TopicPartition(topic, 0), timeout=PATIENCE_S) == (6, 10)
        assert [message.offset() for message in take(assigned(reader, topic), 4)] == [6, 7, 8, 9]


def test_list_offsets(bootstrap: str, admin: AdminClient, new_topic: Callable[..., str]) -> None:
    """Earliest, latest, maximum-timestamp and by-time offsets are what was produced."""
    topic = new_topic()
    base_ms = 1_700_000_000_000
    with producer(bootstrap) as source:
        for offset_ms in (1000, 3000, 2000):
            produce(source, topic, [b"x"], timestamp=base_ms + offset_ms)
    partition = TopicPartition(topic, 0)
    cases = [
        (OffsetSpec.earliest(), 0),
        (OffsetSpec.latest(), 3),
        (OffsetSpec.max_timestamp(), 1),
        (OffsetSpec.for_timestamp(base_ms + 1500), 1),
    ]
    for spec, offset in cases:
        assert admin.list_offsets({partition: spec})[partition].result(timeout=PATIENCE_S).offset == offset


def test_describe_cluster_and_topics(admin: AdminClient, new_topic: Callable[..., str]) -> None:
    """The cluster names its nodes and its controller, a topic its leaders and replicas."""
    topic = new_topic(partitions=2)
    cluster = admin.describe_cluster(request_timeout=PATIENCE_S).result()
    ids = {node.id for node in cluster.nodes}
    assert cluster.cluster_id
    assert cluster.controller.id in ids
    described = admin.describe_topics(TopicCollection([topic]))[topic].result(timeout=PATIENCE_S)
    assert [each.id for each in described.partitions] == [0, 1]
    assert all(each.leader.id in ids and len(each.replicas) == len(each.isr) == 1 for each in described.partitions)


def test_many_topics(bootstrap: str, admin: AdminClient, unique: Callable[[str], str]) -> None:
    """A hundred topics are made with one request, written, read, and deleted with one request."""
    names = [unique("many") for _ in range(100)]
    for made in admin.create_topics([NewTopic(name, 2, 1) for name in names]).values():
        made.result(timeout=PATIENCE_S)
    with producer(bootstrap) as source:
        for name in names:
            source.produce(name, name, partition=1)
        assert source.flush(PATIENCE_S) == 0
    with consumer(bootstrap) as reader:
        reader.assign([TopicPartition(name, 1, 0) for name in names])
        assert {message.value().decode() for message in take(reader, 100)} == set(names)
    for deleted in admin.delete_topics(names).values():
        deleted.result(timeout=PATIENCE_S)
    assert not set(names) & set(admin.list_topics(timeout=PATIENCE_S).topics)
