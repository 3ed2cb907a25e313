"""A node compacts: beside what it serves, for its internal topics too, and what is left outlives a crash."""

from __future__ import annotations

from time import monotonic

from logd.testing import Broker

SETTINGS = {"log.cleaner.backoff.ms": "0", "offsets.topic.num.partitions": "1"}
CONFIGS = {
    "cleanup.policy": "compact",
    "segment.ms": "1",
    "min.cleanable.dirty.ratio": "0",
    "max.compaction.lag.ms": "1",
}


def values(broker: Broker) -> list[tuple[int, bytes | None]]:
    return [(one.offset, one.value) for one in broker.messages("states")]


def test_a_compacted_topic() -> None:
    """Soon only the last value of each key can be read, also after kill and restart; new records follow on."""
    with Broker(SETTINGS) as broker:
        broker.create_topic("states", configs=CONFIGS)
        for number in range(20):
            broker.produce("states", f"a{number}", key="a")
            broker.produce("states", f"b{number}", key="b")
        deadline = monotonic() + 60
        while len(values(broker)) > 2 and monotonic() < deadline:
            pass
        assert values(broker) == [(38, b"a19"), (39, b"b19")]
        broker.restart(kill=True)
        assert values(broker) == [(38, b"a19"), (39, b"b19")]
        assert broker.produce("states", "a20", key="a") == 40


def test_committed_offsets_are_compacted() -> None:
    """The log of committed offsets is compacted too, and what is left says the same after a crash."""
    from confluent_kafka import Consumer, TopicPartition
    from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

    with Broker(SETTINGS) as broker:
        broker.create_topic("orders", partitions=2)
        reader = Consumer({"bootstrap.servers": broker.bootstrap, "group.id": "g"})
        for number in range(1, 31):
            reader.commit(offsets=[TopicPartition("orders", each, number) for each in (0, 1)], asynchronous=False)
        before = len(broker.messages("__consumer_offsets"))
        admin = AdminClient({"bootstrap.servers": broker.bootstrap})
        entries = [
            ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
            for name, value in {**CONFIGS, "segment.ms": "10"}.items()
        ]
        wanted = ConfigResource(ResourceType.TOPIC, "__consumer_offsets", incremental_configs=entries)
        for done in admin.incremental_alter_configs([wanted]).values():
            done.result(30)
        deadline = monotonic() + 60
        while len(broker.messages("__consumer_offsets")) > before / 2 and monotonic() < deadline:
            pass
        assert len(broker.messages("__consumer_offsets")) < before / 2
        broker.restart(kill=True)
        found = reader.committed([TopicPartition("orders", each) for each in (0, 1)], timeout=30)
        assert [each.offset for each in found] == [30, 30]
        reader.close()
