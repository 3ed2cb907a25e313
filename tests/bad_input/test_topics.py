"""Topics, partitions and configs that cannot be: an error with a message that names field and value."""

from __future__ import annotations

from typing import Any

import pytest

from logd.errors import ErrorCode

from .conftest import TOPIC
from .wire import Peer

NAMES = ("", ".", "..", "a/b", "a b", "nul\0", "ü", "x" * 250, "a\n")


def create(peer: Peer, name: str, **fields: Any) -> tuple[ErrorCode, str]:
    """Error and message of the one topic."""
    topic = {"name": name, "num_partitions": 1, "replication_factor": 1, **fields}
    answer = peer.ask("CreateTopics", 5, topics=[topic], timeout_ms=10000)["topics"][0]
    return ErrorCode(answer["error_code"]), answer["error_message"] or ""


@pytest.mark.parametrize("name", NAMES)
def test_names(peer: Peer, name: str) -> None:
    """No topic can have them, in CreateTopics or in Metadata."""
    code, message = create(peer, name)
    assert code == ErrorCode.INVALID_TOPIC_EXCEPTION
    assert "name" in message
    found = peer.ask("Metadata", 9, topics=[{"name": name}], allow_auto_topic_creation=True)["topics"][0]
    assert found["error_code"] == ErrorCode.INVALID_TOPIC_EXCEPTION


def test_names_that_collide(peer: Peer) -> None:
    """a.b and a_b would share a metric's name."""
    assert create(peer, "a.b")[0] == 0
    code, message = create(peer, "a_b")
    assert code == ErrorCode.INVALID_TOPIC_EXCEPTION
    assert "a.b" in message


def test_topics_that_are_there(peer: Peer) -> None:
    """A topic that exists is not made again, and is named."""
    code, message = create(peer, TOPIC)
    assert code == ErrorCode.TOPIC_ALREADY_EXISTS
    assert TOPIC in message


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"num_partitions": 0}, ErrorCode.INVALID_PARTITIONS),
        ({"num_partitions": -5}, ErrorCode.INVALID_PARTITIONS),
        ({"num_partitions": 10**9}, ErrorCode.POLICY_VIOLATION),
        ({"num_partitions": 2**31 - 1}, ErrorCode.POLICY_VIOLATION),
        ({"replication_factor": 0}, ErrorCode.INVALID_REPLICATION_FACTOR),
        ({"replication_factor": -2}, ErrorCode.INVALID_REPLICATION_FACTOR),
        ({"replication_factor": 2}, ErrorCode.INVALID_REPLICATION_FACTOR),
        ({"replication_factor": 32767}, ErrorCode.INVALID_REPLICATION_FACTOR),
        ({"configs": [{"name": "no.such", "value": "1"}]}, ErrorCode.INVALID_CONFIG),
        ({"configs": [{"name": "retention.ms", "value": "soon"}]}, ErrorCode.INVALID_CONFIG),
        ({"configs": [{"name": "retention.ms", "value": None}]}, ErrorCode.INVALID_CONFIG),
        ({"configs": [{"name": "segment.bytes", "value": "1"}]}, ErrorCode.INVALID_CONFIG),
        ({"configs": [{"name": "cleanup.policy", "value": "burn"}]}, ErrorCode.INVALID_CONFIG),
        ({"assignments": [{"partition_index": 0, "broker_ids": [9]}]}, ErrorCode.INVALID_REQUEST),
    ],
)
def test_numbers_and_configs(peer: Peer, fields: dict[str, Any], code: ErrorCode) -> None:
    """Nothing is made, and the message says what was wrong."""
    got, message = create(peer, "never", **fields)
    assert got == code
    assert message
    found = peer.ask("Metadata", 9, topics=[{"name": "never"}], allow_auto_topic_creation=False)["topics"][0]
    assert found["error_code"] == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION


@pytest.mark.parametrize(
    ("brokers", "first"), [([[9]], 0), ([[-1]], 0), ([[0, 0]], 0), ([[]], 0), ([[0]], 1), ([[0], [0, 0]], 0)]
)
def test_assignments(peer: Peer, brokers: list[list[int]], first: int) -> None:
    """An assignment with unknown, repeated or missing replicas or partitions is refused."""
    rows = [{"partition_index": first + i, "broker_ids": ids} for i, ids in enumerate(brokers)]
    code, message = create(peer, "never", num_partitions=-1, replication_factor=-1, assignments=rows)
    assert code == ErrorCode.INVALID_REPLICA_ASSIGNMENT
    assert message


@pytest.mark.parametrize("count", [1, 0, -1, 10**9])
def test_more_partitions(peer: Peer, count: int) -> None:
    """Fewer, as many, none, and more than anyone can have."""
    rows = [{"name": TOPIC, "count": count, "assignments": None}]
    answer = peer.ask("CreatePartitions", 3, topics=rows, timeout_ms=1000)["results"][0]
    assert answer["error_code"] in (ErrorCode.INVALID_PARTITIONS, ErrorCode.POLICY_VIOLATION)
    assert answer["error_message"]


def test_absent_topics(peer: Peer) -> None:
    """Delete, grow, alter and describe what is not there."""
    unknown = ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    assert peer.ask("DeleteTopics", 5, topic_names=["no"], timeout_ms=1000)["responses"][0]["error_code"] == unknown
    rows = [{"name": "no", "count": 3, "assignments": None}]
    assert peer.ask("CreatePartitions", 3, topics=rows, timeout_ms=1000)["results"][0]["error_code"] == unknown
    resource = {"resource_type": 2, "resource_name": "no", "configs": []}
    assert peer.ask("IncrementalAlterConfigs", 1, resources=[resource])["responses"][0]["error_code"] == unknown
    resource = {"resource_type": 2, "resource_name": "no", "configuration_keys": None}
    assert peer.ask("DescribeConfigs", 4, resources=[resource])["results"][0]["error_code"] == unknown


@pytest.mark.parametrize(
    ("key", "operation", "value", "code"),
    [
        ("no.such", 0, "1", ErrorCode.INVALID_CONFIG),
        ("retention.ms", 0, "soon", ErrorCode.INVALID_CONFIG),
        ("retention.ms", 0, None, ErrorCode.INVALID_REQUEST),
        ("retention.ms", 2, "1", ErrorCode.INVALID_CONFIG),
        ("retention.ms", 9, "1", ErrorCode.INVALID_REQUEST),
        ("cleanup.policy", 2, "burn", ErrorCode.INVALID_CONFIG),
    ],
)
def test_alterations(peer: Peer, key: str, operation: int, value: str | None, code: ErrorCode) -> None:
    """A setting, operation or value that cannot be is refused with a message."""
    rows = [{"name": key, "config_operation": operation, "value": value}]
    resource = {"resource_type": 2, "resource_name": TOPIC, "configs": rows}
    answer = peer.ask("IncrementalAlterConfigs", 1, resources=[resource])["responses"][0]
    assert answer["error_code"] == code
    assert answer["error_message"]


ARRAYS: tuple[tuple[str, int, dict[str, Any]], ...] = (
    ("Produce", 9, {"acks": -1, "timeout_ms": 10, "topic_data": []}),
    ("Fetch", 12, {"max_wait_ms": 0, "topics": []}),
    ("ListOffsets", 6, {"topics": []}),
    ("Metadata", 12, {"topics": []}),
    ("OffsetCommit", 8, {"group_id": "g", "generation_id_or_member_epoch": -1, "topics": []}),
    ("OffsetFetch", 8, {"groups": []}),
    ("FindCoordinator", 4, {"coordinator_keys": []}),
    ("DescribeGroups", 5, {"groups": []}),
    ("DeleteGroups", 2, {"groups_names": []}),
    ("CreateTopics", 7, {"topics": []}),
    ("DeleteTopics", 6, {"topics": []}),
    ("CreatePartitions", 3, {"topics": []}),
    ("DeleteRecords", 2, {"topics": []}),
    ("DescribeConfigs", 4, {"resources": []}),
    ("AlterConfigs", 2, {"resources": []}),
    ("IncrementalAlterConfigs", 1, {"resources": []}),
    ("DescribeLogDirs", 4, {"topics": []}),
    ("DescribeProducers", 0, {"topics": []}),
    ("OffsetForLeaderEpoch", 4, {"topics": []}),
    ("DescribeTopicPartitions", 0, {"topics": [], "cursor": None}),
    ("ListConfigResources", 1, {"resource_types": []}),
    ("ListGroups", 5, {"states_filter": [], "types_filter": []}),
)


@pytest.mark.parametrize(("api", "version", "body"), ARRAYS, ids=[row[0] for row in ARRAYS])
def test_empty_arrays(peer: Peer, api: str, version: int, body: dict[str, Any]) -> None:
    """Nothing asked, nothing answered, and nobody falls over."""
    answer = peer.ask(api, version, **body)
    assert answer.get("error_code", 0) == 0
