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
