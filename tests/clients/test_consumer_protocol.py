"""Real consumers share topics by the new consumer protocol (KIP-848): the server says who reads what."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from confluent_kafka import Consumer, ConsumerGroupState, ConsumerGroupType
from confluent_kafka.admin import AdminClient, NewPartitions  # type: ignore[attr-defined]

from tests.clients.confluent import PATIENCE_S, dotted, partitions_of, produce, producer, take, until

pytestmark = pytest.mark.logd(
    settings={"group.consumer.min.heartbeat.interval.ms": 100, "group.consumer.heartbeat.interval.ms": 100}
)


@contextmanager
def member(bootstrap: str, group: str, **options: Any) -> Iterator[Consumer]:
    """A consumer of the new protocol, closed at the end."""
    settings = {
        "bootstrap.servers": bootstrap,
        "group.id": group,
        "group.protocol": "consumer",
        "auto.offset.reset": "earliest",
        "enable.auto.commit": False,
        "topic.metadata.refresh.interval.ms": 500,
    }
    reader = Consumer(settings | dotted(options))
    try:
        yield reader
    finally:
        reader.close()


def test_members_join_and_leave(bootstrap: str, new_topic: Callable[..., str]) -> None:
    """A second member takes half of the partitions over, the first keeps the rest; back when it leaves."""
    topic = new_topic(partitions=4)
    revoked: list[int] = []
    with producer(bootstrap) as source:
        produce(source, topic, [b"x"] * 40)
    with member(bootstrap, topic) as first:
        first.subscribe([topic], on_revoke=lambda _, gone: revoked.extend(each.partition for each in gone))
        assert len(take(first, 40)) == 40
        with member(bootstrap, topic) as second:
            second.subscribe([topic])
            until(lambda: len(partitions_of(first)) == len(partitions_of(second)) == 2, first, second)
            assert partitions_of(first) | partitions_of(second) == {0, 1, 2, 3}
            assert len(revoked) == 2
        until(lambda: partitions_of(first) == {0, 1, 2, 3}, first)


def test_commits_and_descriptions(bootstrap: str, new_topic: Callable[..., str], admin: AdminClient) -> None:
    """A member's commits are where the next one begins; admin clients see the group and its type."""
    topic = new_topic(partitions=1)
    with producer(bootstrap) as source:
        produce(source, topic, [b"%d" % number for number in range(20)])
    with member(bootstrap, topic, group_remote_assignor="range") as first:
        first.subscribe([topic])
        (*_, last) = take(first, 10)[:10]
        first.commit(message=last, asynchronous=False)
        group = admin.describe_consumer_groups([topic])[topic].result(PATIENCE_S)
        assert (group.state, group.type) == (ConsumerGroupState.STABLE, ConsumerGroupType.CONSUMER)
        assert group.partition_assignor == "range"
    with member(bootstrap, topic) as second:
        second.subscribe([topic])
        assert take(second, 1)[0].value() == b"10"
    admin.delete_consumer_groups([topic])[topic].result(PATIENCE_S)


def test_new_partitions_and_topics_are_found(
    bootstrap: str, new_topic: Callable[..., str], admin: AdminClient, unique: Callable[[str], str]
) -> None:
    """What grows, and what a subscribed expression comes to match, is assigned without asking again."""
    topic = new_topic(partitions=1)
    with member(bootstrap, topic) as reader:
        reader.subscribe([f"^{topic}.*"])
        until(lambda: partitions_of(reader) == {0}, reader)
        admin.create_partitions([NewPartitions(topic, 3)])[topic].result(PATIENCE_S)
        until(lambda: partitions_of(reader) == {0, 1, 2}, reader)


def test_a_bad_expression_is_told(bootstrap: str, unique: Callable[[str], str]) -> None:
    """An expression that the client lets through and the server can't use comes back as an error that says so."""
    with member(bootstrap, unique("group")) as reader:
        reader.subscribe(["^(a)\\1"])
        message = reader.poll(PATIENCE_S)
        assert message is not None
        error = message.error()
        assert error is not None
        assert "regular expression is not valid" in error.str()
