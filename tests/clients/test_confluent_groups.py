"""confluent-kafka consumers share topics in groups of the classic protocol, eager and cooperative."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, TopicPartition
from confluent_kafka.admin import AdminClient

from tests.clients.confluent import PATIENCE_S, consumer, partitions_of, produce, producer, take, until

STRATEGIES = ["range", "roundrobin", "cooperative-sticky"]


def committed(reader: Consumer, topic: str, partitions: int) -> list[int]:
    """The committed offsets of the reader's group, -1001 where there is none."""
    asked = [TopicPartition(topic, partition) for partition in range(partitions)]
    return [each.offset for each in reader.committed(asked, timeout=PATIENCE_S)]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_one_member_gets_everything(bootstrap: str, new_topic: Callable[..., str], strategy: str) -> None:
    """The only member of a group is assigned all partitions and reads all records."""
    topic = new_topic(partitions=4)
    with producer(bootstrap) as source:
        for partition in range(4):
            produce(source, topic, [b"x"] * 10, partition=partition)
    with consumer(bootstrap, topic, partition_assignment_strategy=strategy) as reader:
        reader.subscribe([topic])
        assert len(take(reader, 40)) == 40
        assert partitions_of(reader) == {0, 1, 2, 3}


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_members_join_and_leave(bootstrap: str, new_topic: Callable[..., str], strategy: str) -> None:
    """A second member takes half of the partitions over, and gives them back when it leaves."""
    topic = new_topic(partitions=4)
    with consumer(bootstrap, topic, partition_assignment_strategy=strategy) as first:
        first.subscribe([topic])
        until(lambda: partitions_of(first) == {0, 1, 2, 3}, first)
        with consumer(bootstrap, topic, partition_assignment_strategy=strategy) as second:
            second.subscribe([topic])

            def shared() -> bool:
                mine, yours = partitions_of(first), partitions_of(second)
                return len(mine) == len(yours) == 2 and mine | yours == {0, 1, 2, 3}

            until(shared, first, second)
        until(lambda: partitions_of(first) == {0, 1, 2, 3}, first)


def test_cooperative_rebalance_keeps_what_stays(bootstrap: str, new_topic: Callable[..., str]) -> None:
    """When a member joins cooperatively, the other one is only revoked what moves."""
    topic = new_topic(partitions=4)
    revoked: list[int] = []
    options = {"partition_assignment_strategy": "cooperative-sticky"}
    with consumer(bootstrap, topic, **options) as first, consumer(bootstrap, topic, **options) as second:
        first.subscribe([topic], on_revoke=lambda _, gone: revoked.extend(each.partition for each in gone))
        until(lambda: partitions_of(first) == {0, 1, 2, 3}, first)
        second.subscribe([topic])
        until(lambda: len(partitions_of(first)) == len(partitions_of(second)) == 2, first, second)
        assert len(revoked) == 2
        assert set(revoked) == partitions_of(second)


def test_commit_and_resume(bootstrap: str, new_topic: Callable[..., str]) -> None:
    """A group goes on where it committed, with another member, and its metadata comes back."""
    topic = new_topic()
    with producer(bootstrap) as source:
        produce(source, topic, [b"%d" % number for number in range(20)])
    with consumer(bootstrap, topic) as reader:
        reader.subscribe([topic])
        take(reader, 20)
        kept = [TopicPartition(topic, 0, 12, metadata="a note")]
        reader.commit(offsets=kept, asynchronous=False)
        assert committed(reader, topic, 1) == [12]
    with consumer(bootstrap, topic) as reader:
        (found,) = reader.committed([TopicPartition(topic, 0)], timeout=PATIENCE_S)
        assert (found.offset, found.metadata) == (12, "a note")
        reader.subscribe([topic])
        assert [message.offset() for message in take(reader, 8)] == list(range(12, 20))


def test_auto_commit_on_close(bootstrap: str, new_topic: Callable[..., str]) -> None:
    """With automatic commits, closing a consumer commits what it was given."""
    topic = new_topic()
    with producer(bootstrap) as source:
        produce(source, topic, [b"x"] * 9)
    with consumer(bootstrap, topic, enable_auto_commit=True) as reader:
        reader.subscribe([topic])
        take(reader, 9)
    with consumer(bootstrap, topic) as reader:
        assert committed(reader, topic, 1) == [9]


def test_partitions_without_a_commit(bootstrap: str, new_topic: Callable[..., str]) -> None:
    """A partition that was never committed has no offset, beside one that has."""
    topic = new_topic(partitions=3)
    with consumer(bootstrap, topic) as reader:
        reader.commit(offsets=[TopicPartition(topic, 1, 5)], asynchronous=False)
        assert committed(reader, topic, 3) == [-1001, 5, -1001]


def test_groups_do_not_see_each_other(bootstrap: str, new_topic: Callable[..., str]) -> None:
    """Every group reads all records, with offsets of its own."""
    topic = new_topic()
    with producer(bootstrap) as source:
        produce(source, topic, [b"x"] * 5)
    for name in ("one", "two"):
        with consumer(bootstrap, f"{topic}-{name}") as reader:
            reader.subscribe([topic])
            assert len(take(reader, 5)) == 5
            reader.commit(asynchronous=False)


def test_static_member_comes_back_without_a_rebalance(bootstrap: str, new_topic: Callable[..., str]) -> None:
    """A static member that is closed and comes back within its session gets its partitions, the other keeps its own."""
    topic = new_topic(partitions=4)
    rebalances: list[object] = []

    def member(name: str) -> Consumer:
        options = {"group_instance_id": name, "session_timeout_ms": 30_000}
        return consumer(bootstrap, topic, partition_assignment_strategy="range", **options)

    with member("steady") as steady:
        steady.subscribe([topic], on_assign=lambda _, given: rebalances.append(given))
        with member("restarting") as restarting:
            restarting.subscribe([topic])
            until(lambda: len(partitions_of(steady)) == len(partitions_of(restarting)) == 2, steady, restarting)
            mine = partitions_of(restarting)
        seen = len(rebalances)
        with member("restarting") as again:
            again.subscribe([topic])
            until(lambda: len(partitions_of(again)) == 2, steady, again)
            assert partitions_of(again) == mine
            assert partitions_of(steady) == {0, 1, 2, 3} - mine
            assert len(rebalances) == seen


def test_new_partitions_are_taken_up(bootstrap: str, admin: AdminClient, new_topic: Callable[..., str]) -> None:
    """A member of a group is assigned the partitions that a topic gets later."""
    from confluent_kafka.admin import NewPartitions

    topic = new_topic(partitions=1)
    with consumer(bootstrap, topic, topic_metadata_refresh_interval_ms=200) as reader:
        reader.subscribe([topic])
        until(lambda: partitions_of(reader) == {0}, reader)
        admin.create_partitions([NewPartitions(topic, 3)])[topic].result(timeout=PATIENCE_S)
        until(lambda: partitions_of(reader) == {0, 1, 2}, reader)


def test_subscription_by_pattern(bootstrap: str, new_topic: Callable[..., str], unique: Callable[[str], str]) -> None:
    """A member that subscribes by pattern gets the topics that match, and no others."""
    prefix = unique("pattern")
    wanted = {new_topic(prefix=prefix + "-yes") for _ in range(2)}
    new_topic(prefix="other" + prefix)
    with consumer(bootstrap, prefix) as reader:
        reader.subscribe([f"^{prefix}-yes.*"])
        until(lambda: {each.topic for each in reader.assignment()} == wanted, reader)


def test_a_group_as_admin_sees_it(bootstrap: str, admin: AdminClient, new_topic: Callable[..., str]) -> None:
    """A living group is listed, described with its member and assignment, and cannot be deleted."""
    topic = new_topic(partitions=2)
    with consumer(bootstrap, topic, client_id="the-client") as reader:
        reader.subscribe([topic])
        until(lambda: partitions_of(reader) == {0, 1}, reader)
        reader.commit(offsets=[TopicPartition(topic, 0, 0)], asynchronous=False)
        listed = admin.list_consumer_groups(request_timeout=PATIENCE_S).result().valid
        assert topic in {group.group_id for group in listed}
        described = admin.describe_consumer_groups([topic], request_timeout=PATIENCE_S)[topic].result()
        assert described.state.name == "STABLE"
        assert described.partition_assignor == "range"
        (member,) = described.members
        assert member.client_id == "the-client"
        assert {each.partition for each in member.assignment.topic_partitions} == {0, 1}
        with pytest.raises(Exception, match="NON_EMPTY_GROUP"):
            admin.delete_consumer_groups([topic], request_timeout=PATIENCE_S)[topic].result()


def test_an_empty_group_is_altered_and_deleted(
    bootstrap: str, admin: AdminClient, new_topic: Callable[..., str]
) -> None:
    """The offsets of an empty group can be set; a deleted group is no longer listed and has no offsets."""
    topic = new_topic(partitions=2)
    wanted = ConsumerGroupTopicPartitions(topic, [TopicPartition(topic, 0, 3), TopicPartition(topic, 1, 4)])
    admin.alter_consumer_group_offsets([wanted], request_timeout=PATIENCE_S)[topic].result()
    asked = ConsumerGroupTopicPartitions(topic)
    found = admin.list_consumer_group_offsets([asked], request_timeout=PATIENCE_S)[topic].result()
    assert {each.partition: each.offset for each in found.topic_partitions} == {0: 3, 1: 4}
    described = admin.describe_consumer_groups([topic], request_timeout=PATIENCE_S)[topic].result()
    assert described.state.name == "EMPTY"
    admin.delete_consumer_groups([topic], request_timeout=PATIENCE_S)[topic].result()
    listed = admin.list_consumer_groups(request_timeout=PATIENCE_S).result().valid
    assert topic not in {group.group_id for group in listed}
    with consumer(bootstrap, topic) as reader:
        assert committed(reader, topic, 2) == [-1001, -1001]
