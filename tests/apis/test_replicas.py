"""ElectLeaders and the reassignments in every version, answered as a single Apache Kafka 4.3.1 answers."""

from __future__ import annotations

import pytest

from logd.apis import replicas
from logd.apis.replicas import ALTER_REASSIGNMENTS, ELECT_LEADERS, LIST_REASSIGNMENTS, PREFERRED, UNCLEAN
from logd.cluster.controller import NewTopic
from logd.cluster.image import Broker
from logd.errors import ErrorCode
from logd.wire.schemas.alter_partition_reassignments import (
    AlterPartitionReassignmentsRequest,
    ReassignablePartition,
    ReassignableTopic,
)
from logd.wire.schemas.elect_leaders import ElectLeadersRequest, TopicPartitions
from logd.wire.schemas.list_partition_reassignments import (
    ListPartitionReassignmentsRequest,
    ListPartitionReassignmentsTopics,
)
from tests.apis.calls import Admin, admin, versions

pytestmark = pytest.mark.trio
assert replicas

NOT_NEEDED, UNKNOWN = ErrorCode.ELECTION_NOT_NEEDED, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
MOVED, WRONG = ErrorCode.NO_REASSIGNMENT_IN_PROGRESS, ErrorCode.INVALID_REPLICA_ASSIGNMENT


async def node_with(**topics: int) -> Admin:
    """A node with topics of so many partitions."""
    node = await admin()
    await node.cluster.create_topics([NewTopic(name, count, 1) for name, count in topics.items()])
    return node


# ElectLeaders


@pytest.mark.parametrize("version", versions(ELECT_LEADERS))
@pytest.mark.parametrize("kind", [PREFERRED, UNCLEAN])
async def test_elect(version: int, kind: int) -> None:
    """Whoever shall lead leads already; what is not there is unknown, each partition on its own."""
    node = await node_with(a=2)
    before = node.cluster.image
    wanted = [TopicPartitions("a", [1, 0, 2, -1, 0]), TopicPartitions("b", [0]), TopicPartitions("a", [])]
    answer = await node.ask(ELECT_LEADERS, version, ElectLeadersRequest(kind, wanted, 1000))
    assert answer.error_code == 0
    told = [
        (row.topic, [(one.partition_id, one.error_code) for one in row.partition_result])
        for row in answer.replica_election_results
    ]
    first = [(1, NOT_NEEDED), (0, NOT_NEEDED), (2, UNKNOWN), (-1, UNKNOWN), (0, NOT_NEEDED)]
    assert told == [("a", first), ("b", [(0, UNKNOWN)]), ("a", [])]
    assert node.cluster.image is before


@pytest.mark.parametrize("version", versions(ELECT_LEADERS))
async def test_elect_everywhere(version: int) -> None:
    """For all partitions every topic is told, with the partitions whose leader changed: none."""
    node = await node_with(a=2, b=1)
    answer = await node.ask(ELECT_LEADERS, version, ElectLeadersRequest(PREFERRED, None, 1000))
    told = {row.topic: row.partition_result for row in answer.replica_election_results}
    assert (answer.error_code, told) == (0, {"a": [], "b": []})


@pytest.mark.parametrize("version", versions(ELECT_LEADERS))
@pytest.mark.parametrize(
    ("kind", "timeout_ms", "code"),
    [
        (2, 1000, ErrorCode.INVALID_REQUEST),
        (-1, 1000, ErrorCode.INVALID_REQUEST),
        (PREFERRED, 0, ErrorCode.REQUEST_TIMED_OUT),
        (2, -1, ErrorCode.REQUEST_TIMED_OUT),
    ],
)
async def test_elect_refused(version: int, kind: int, timeout_ms: int, code: ErrorCode) -> None:
    """An unknown kind and a time that has passed are told for all and for each; version 0 knows one kind only."""
    node = await node_with(a=1)
    for wanted in ([TopicPartitions("a", [0])], None):
        answer = await node.ask(ELECT_LEADERS, version, ElectLeadersRequest(kind, wanted, timeout_ms))
        expected = NOT_NEEDED if version == 0 and timeout_ms > 0 else code
        rows = [one.error_code for row in answer.replica_election_results for one in row.partition_result]
        assert rows == ([] if wanted is None else [expected])
        assert answer.error_code == (code if version >= 1 else 0)
    nothing = await node.ask(ELECT_LEADERS, version, ElectLeadersRequest(kind, [], timeout_ms))
    assert (nothing.error_code, nothing.replica_election_results) == (0, [])


# AlterPartitionReassignments, ListPartitionReassignments


def move(name: str, **partitions: list[int] | None) -> ReassignableTopic:
    """A wish for a topic: ``move("a", p0=[0])``."""
    return ReassignableTopic(
        name, [ReassignablePartition(int(key[1:]), brokers) for key, brokers in partitions.items()]
    )


@pytest.mark.parametrize("version", versions(ALTER_REASSIGNMENTS))
@pytest.mark.parametrize("allowed", [True, False])
async def test_reassign(version: int, allowed: bool) -> None:
    """A partition may go to where it is; not to brokers that are not there, nor back from no move."""
    node = await node_with(a=7)
    before = node.cluster.image
    topics = [
        move("a", p0=[0], p1=None, p2=[], p3=[1], p4=[0, 0], p5=[0, 1], p6=[-1], p7=[0], p8=None),
        move("b", p0=[0], p1=None),
        move("a"),
    ]
    answer = await node.ask(ALTER_REASSIGNMENTS, version, AlterPartitionReassignmentsRequest(1000, allowed, topics))
    told = [(row.name, [one.error_code for one in row.partitions]) for row in answer.responses]
    first = [0, MOVED, WRONG, WRONG, WRONG, WRONG, WRONG, UNKNOWN, UNKNOWN]
    assert told == [("a", first), ("b", [UNKNOWN, UNKNOWN]), ("a", [])]
    assert [one.error_message is None for one in answer.responses[0].partitions] == [True] + [False] * 8
    assert (answer.error_code, answer.error_message) == (0, None)
    assert answer.allow_replication_factor_change is (allowed or version == 0)
    assert node.cluster.image is before


@pytest.mark.parametrize("version", versions(ALTER_REASSIGNMENTS))
async def test_reassign_too_late(version: int) -> None:
    """A time that has passed is told for all and for each, unless there is nothing to do."""
    node = await node_with(a=1)
    wanted = [move("a", p0=[0])]
    answer = await node.ask(ALTER_REASSIGNMENTS, version, AlterPartitionReassignmentsRequest(0, True, wanted))
    late = ErrorCode.REQUEST_TIMED_OUT
    assert (answer.error_code, answer.responses[0].partitions[0].error_code) == (late, late)
    nothing = await node.ask(ALTER_REASSIGNMENTS, version, AlterPartitionReassignmentsRequest(0, True, []))
    assert (nothing.error_code, nothing.error_message, nothing.responses) == (0, "", [])


@pytest.mark.parametrize(("allowed", "code"), [(True, WRONG), (False, ErrorCode.INVALID_REPLICATION_FACTOR)])
async def test_reassign_to_another_node(allowed: bool, code: ErrorCode) -> None:
    """With a second node registered a move is still refused: there is no replication, and nothing is promised."""
    node = await node_with(a=1)
    await node.cluster.start(Broker(1, "127.0.0.1", 9093))
    for brokers, expected in (([1], WRONG), ([0, 1], code), ([1, 0], code), ([0], 0)):
        request = AlterPartitionReassignmentsRequest(1000, allowed, [move("a", p0=brokers)])
        answer = await node.ask(ALTER_REASSIGNMENTS, 1, request)
        assert answer.responses[0].partitions[0].error_code == expected


async def test_reassign_a_hundred_thousand() -> None:
    """A request of that size is answered, each partition on its own."""
    node = await node_with(a=1)
    wanted = ReassignableTopic("a", [ReassignablePartition(index, [0]) for index in range(100_000)])
    answer = await node.ask(ALTER_REASSIGNMENTS, 1, AlterPartitionReassignmentsRequest(1000, True, [wanted]))
    codes = [one.error_code for one in answer.responses[0].partitions]
    assert (codes[0], set(codes[1:])) == (0, {UNKNOWN})


async def test_a_long_name_is_not_repeated() -> None:
    """What is said of each partition of a topic that can't be there does not carry the name: 32 KB a thousand times."""
    node, name, indexes = await admin(), "x" * 32_000, list(range(1000))
    elected = await node.ask(ELECT_LEADERS, 2, ElectLeadersRequest(PREFERRED, [TopicPartitions(name, indexes)], 1000))
    wanted = ReassignableTopic(name, [ReassignablePartition(index, [0]) for index in indexes])
    moved = await node.ask(ALTER_REASSIGNMENTS, 1, AlterPartitionReassignmentsRequest(1000, True, [wanted]))
    rows = [*elected.replica_election_results[0].partition_result, *moved.responses[0].partitions]
    assert len(rows) == 2000
    assert sum(len(row.error_message) for row in rows) < 100 * len(rows)


@pytest.mark.parametrize("version", versions(LIST_REASSIGNMENTS))
@pytest.mark.parametrize("timeout_ms", [1000, 0, -1])
async def test_list_reassignments(version: int, timeout_ms: int) -> None:
    """None, whatever is asked for and however little time there is."""
    node = await node_with(a=1)
    for topics in (None, [], [ListPartitionReassignmentsTopics(name, [0, 1]) for name in ("a", "nowhere", "")]):
        answer = await node.ask(LIST_REASSIGNMENTS, version, ListPartitionReassignmentsRequest(timeout_ms, topics))
        assert (answer.error_code, answer.error_message, answer.topics) == (0, None, [])
