"""Live seek: real consumers that run while the offsets of their group are moved, and carry on from the new place."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, closing
from time import monotonic
from typing import Any

import pytest
from confluent_kafka import Consumer

from logd.testing import Broker
from logd.wire.schemas.group_lag import GroupLagRequest
from logd.wire.schemas.seek_group import SeekGroupPartition, SeekGroupRequest, SeekGroupTopic
from tests.clients.confluent import PATIENCE_S, consumer, produce, producer, until
from tests.raw import Peer

RECORDS = 100
PARTITIONS = 4

PROTOCOLS: dict[str, dict[str, Any]] = {
    "eager": {"partition_assignment_strategy": "range"},
    "cooperative": {"partition_assignment_strategy": "cooperative-sticky"},
    "consumer": {"group_protocol": "consumer"},
}


def member(bootstrap: str, group: str, **options: Any) -> Consumer:
    """A member that commits by itself all the time; the consumer protocol leaves timeouts to the broker."""
    settings = {"enable_auto_commit": True, "auto_commit_interval_ms": 50, **options}
    if "group_protocol" not in options:
        return consumer(bootstrap, group, **settings)
    plain = {name.replace("_", "."): value for name, value in settings.items()}
    return Consumer({"bootstrap.servers": bootstrap, "group.id": group, "auto.offset.reset": "earliest", **plain})


def seek(bootstrap: str, group: str, topic: str, offset: int) -> Any:
    partitions = [SeekGroupPartition(index, offset) for index in range(PARTITIONS)]
    with Peer(bootstrap) as peer:
        return peer.ask(SeekGroupRequest(group, [SeekGroupTopic(topic, partitions)]), 0)


def committed(bootstrap: str, group: str) -> list[int]:
    """What the group has committed, by partition."""
    with Peer(bootstrap) as peer:
        (found,) = peer.ask(GroupLagRequest([group]), 0).groups
    return [row.committed_offset for topic in found.topics for row in topic.partitions]


@pytest.mark.parametrize("instances", [False, True], ids=["dynamic", "static"])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_members_carry_on_from_the_new_place(
    logd_broker: Broker, new_topic: Callable[..., str], unique: Callable[[str], str], protocol: str, instances: bool
) -> None:
    """Two members have read and committed everything; sought back to the middle, they read the second half again.

    Nothing else is read twice, and no late commit of theirs undoes the seek.
    """
    bootstrap, group, topic = logd_broker.bootstrap, unique("sought"), new_topic(PARTITIONS)
    for index in range(PARTITIONS):
        produce(producer(bootstrap), topic, [str(n).encode() for n in range(RECORDS)], partition=index)
    with ExitStack() as stack:
        members = []
        for number in range(2):
            static = {"group_instance_id": f"instance-{number}"} if instances else {}
            one = stack.enter_context(closing(member(bootstrap, group, **PROTOCOLS[protocol], **static)))
            one.subscribe([topic])
            members.append(one)
        until(lambda: all(one.assignment() for one in members), *members)
        until(lambda: committed(bootstrap, group) == [RECORDS] * PARTITIONS, *members)

        answer = seek(bootstrap, group, topic, RECORDS // 2)
        assert (answer.error_code, answer.members_fenced) == (0, 2)
        assert [row.offset_before for row in answer.topics[0].partitions] == [RECORDS] * PARTITIONS

        again: set[tuple[int, int]] = set()
        wanted = {(index, offset) for index in range(PARTITIONS) for offset in range(RECORDS // 2, RECORDS)}
        end = monotonic() + PATIENCE_S
        while again != wanted:
            assert monotonic() < end, f"{len(again)} of {len(wanted)} records were read again"
            for one in members:
                message = one.poll(0.05)
                if message is not None and message.error() is None:
                    again.add((message.partition(), message.offset()))
                    assert message.offset() >= RECORDS // 2, "before the new place"
        until(lambda: committed(bootstrap, group) == [RECORDS] * PARTITIONS, *members)
