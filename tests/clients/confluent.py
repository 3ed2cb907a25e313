"""Short names for what the confluent-kafka tests do all the time: produce and wait, poll until it is there."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from time import monotonic
from typing import Any

from confluent_kafka import Consumer, Message, Producer, TopicPartition

PATIENCE_S = 45.0  # long, so that a busy machine fails no test; a passing test never waits for it

# What a consumer may be told on its way to a record.
PASSING = ("_PARTITION_EOF", "_TRANSPORT", "_ALL_BROKERS_DOWN", "COORDINATOR_NOT_AVAILABLE")


def producer(bootstrap: str, **options: Any) -> Producer:
    """A producer with short lingering; dots in option names are written as underscores."""
    return Producer({"bootstrap.servers": bootstrap, "linger.ms": 2, **dotted(options)})


def consumer(bootstrap: str, group: str = "unused", **options: Any) -> Consumer:
    """A consumer that starts at the beginning and commits only when told."""
    settings = {
        "bootstrap.servers": bootstrap,
        "group.id": group,
        "auto.offset.reset": "earliest",
        "enable.auto.commit": False,
        "session.timeout.ms": 10_000,
        "heartbeat.interval.ms": 200,
        "fetch.wait.max.ms": 100,
        "reconnect.backoff.ms": 10,
        "reconnect.backoff.max.ms": 200,
    }
    return Consumer(settings | dotted(options))


def dotted(options: dict[str, Any]) -> dict[str, Any]:
    """Turn ``enable_idempotence`` into ``enable.idempotence``."""
    return {name.replace("_", "."): value for name, value in options.items()}


def produce(target: Producer, topic: str, values: Iterable[bytes | None], **message: Any) -> list[Message]:
    """Produce all values, wait for every acknowledgement and return the delivery reports in their order."""
    reports: list[Message] = []
    errors: list[Any] = []

    def report(error: Any, delivered: Message) -> None:
        reports.append(delivered)
        if error is not None:
            errors.append(error)

    for value in values:
        target.produce(topic, value=value, on_delivery=report, **message)
        target.poll(0)
    left = target.flush(PATIENCE_S)
    assert not errors, f"{len(errors)} records refused, the first: {errors[0]}"
    assert left == 0, f"{left} records are still not acknowledged"
    return reports


def take(source: Consumer, count: int) -> list[Message]:
    """Poll until ``count`` records have come and return them; fail when they do not."""
    taken: list[Message] = []
    end = monotonic() + PATIENCE_S
    while len(taken) < count:
        assert monotonic() < end, f"only {len(taken)} of {count} records came"
        message = source.poll(0.2)
        if message is None:
            continue
        if error := message.error():
            assert error.name() in PASSING, error
            continue
        taken.append(message)
    return taken


def until(condition: Callable[[], bool], *polled: Consumer) -> list[Message]:
    """Poll the consumers in turn until the condition holds; return what records came meanwhile."""
    came: list[Message] = []
    end = monotonic() + PATIENCE_S
    while not condition():
        assert monotonic() < end, f"{condition} did not come true"
        for each in polled:
            message = each.poll(0.02)
            if message is not None and message.error() is None:
                came.append(message)
    return came


def assigned(source: Consumer, topic: str, partition: int = 0, offset: int = 0) -> Consumer:
    """Assign one partition from an offset on and return the consumer."""
    source.assign([TopicPartition(topic, partition, offset)])
    return source


def partitions_of(source: Consumer) -> set[int]:
    """The partitions that the consumer is assigned at the moment."""
    return {each.partition for each in source.assignment()}
