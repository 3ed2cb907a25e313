"""A hundred thousand names in one request: each is answered, as Kafka answers it, and others are served meanwhile."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from logd.errors import ErrorCode

from .conftest import TOPIC
from .wire import Peer

MANY = 100_000
PATIENCE_S = 120
NAMES = [f"t{number:05d}" for number in range(MANY)]
UNKNOWN = {ErrorCode.UNKNOWN_TOPIC_OR_PARTITION: MANY}


def codes(rows: Any) -> dict[int, int]:
    return dict(Counter(row["error_code"] for row in rows))


def partitions(topics: Any, field: str = "partitions") -> list[Any]:
    return [row for topic in topics for row in topic[field]]


def ready(peer: Peer) -> None:
    """The coordinator serves, and the connection has been heard: it may send big requests."""
    peer.be_patient(PATIENCE_S)
    peer.ask("FindCoordinator", 4, key_type=0, coordinator_keys=["g"])


def commit(peer: Peer) -> dict[int, int]:
    rows = [{"name": name, "partitions": [{"partition_index": 0, "committed_offset": 1}]} for name in NAMES]
    body = {"group_id": "g", "generation_id_or_member_epoch": -1, "member_id": "", "topics": rows}
    return codes(partitions(peer.ask("OffsetCommit", 8, **body)["topics"]))


def fetch_offsets(peer: Peer) -> dict[int, int]:
    groups = [{"group_id": "g", "topics": [{"name": name, "partition_indexes": [0]} for name in NAMES]}]
    return codes(partitions(peer.ask("OffsetFetch", 8, groups=groups)["groups"][0]["topics"]))


def metadata(peer: Peer) -> dict[int, int]:
    rows = [{"name": name} for name in NAMES]
    return codes(peer.ask("Metadata", 9, topics=rows, allow_auto_topic_creation=False)["topics"])


def delete_topics(peer: Peer) -> dict[int, int]:
    return codes(peer.ask("DeleteTopics", 5, topic_names=NAMES, timeout_ms=60000)["responses"])


def describe_configs(peer: Peer) -> dict[int, int]:
    rows = [{"resource_type": 2, "resource_name": name, "configuration_keys": None} for name in NAMES]
    return codes(peer.ask("DescribeConfigs", 4, resources=rows)["results"])


def reassign(peer: Peer) -> dict[int, int]:
    rows = [{"name": name, "partitions": [{"partition_index": 0, "replicas": [9]}]} for name in NAMES]
    answer = peer.ask("AlterPartitionReassignments", 0, topics=rows, timeout_ms=60000)
    return codes(partitions(answer["responses"]))


def create_topics(peer: Peer) -> dict[int, int]:
    rows = [{"name": name, "num_partitions": 1, "replication_factor": 1} for name in NAMES]
    return codes(peer.ask("CreateTopics", 5, topics=rows, timeout_ms=60000)["topics"])


def describe_groups(peer: Peer) -> dict[int, int]:
    return codes(peer.ask("DescribeGroups", 6, groups=NAMES)["groups"])


def describe_consumer_groups(peer: Peer) -> dict[int, int]:
    return codes(peer.ask("ConsumerGroupDescribe", 1, group_ids=NAMES)["groups"])


@pytest.mark.parametrize(
    ("ask", "expected"),
    [
        (commit, UNKNOWN),
        (fetch_offsets, {0: MANY}),
        (metadata, UNKNOWN),
        (delete_topics, UNKNOWN),
        (describe_configs, UNKNOWN),
        (reassign, UNKNOWN),
        (create_topics, {ErrorCode.POLICY_VIOLATION: MANY}),
        (describe_groups, {ErrorCode.GROUP_ID_NOT_FOUND: MANY}),
        (describe_consumer_groups, {ErrorCode.GROUP_ID_NOT_FOUND: MANY}),
    ],
)
def test_a_hundred_thousand_names(peer: Peer, ask: Callable[[Peer], dict[int, int]], expected: dict[int, int]) -> None:
    """Every name has its answer, and the connection goes on."""
    ready(peer)
    assert ask(peer) == expected
    assert peer.ask("Metadata", 9, topics=[{"name": TOPIC}])["topics"][0]["error_code"] == 0


def test_a_subscription_to_a_hundred_thousand_topics(peer: Peer) -> None:
    """The consumer protocol takes it, shares out what there is, and says so to those who ask."""
    ready(peer)
    body = {"group_id": "g", "member_id": "m", "member_epoch": 0, "rebalance_timeout_ms": 30000}
    wanted = {"subscribed_topic_names": [*NAMES, TOPIC], "topic_partitions": []}
    answer = peer.ask("ConsumerGroupHeartbeat", 1, **body, **wanted)
    assert (answer["error_code"], len(answer["assignment"]["topic_partitions"])) == (0, 1)
    (group,) = peer.ask("ConsumerGroupDescribe", 1, group_ids=["g"])["groups"]
    assert len(group["members"][0]["subscribed_topic_names"]) == MANY + 1


def test_a_classic_subscription_to_a_hundred_thousand_topics(peer: Peer) -> None:
    """The classic protocol carries it to the leader and back."""
    ready(peer)
    names = b"".join(struct.pack(">h", len(name)) + name.encode() for name in NAMES)
    metadata = struct.pack(">hi", 0, MANY) + names + struct.pack(">i", -1)
    body = {
        "group_id": "g",
        "session_timeout_ms": 30000,
        "rebalance_timeout_ms": 30000,
        "protocol_type": "consumer",
        "protocols": [{"name": "range", "metadata": metadata}],
    }
    member_id = peer.ask("JoinGroup", 6, member_id="", **body)["member_id"]
    answer = peer.ask("JoinGroup", 6, member_id=member_id, **body)
    assert (answer["error_code"], len(answer["members"][0]["metadata"])) == (0, len(metadata))


def test_settings_of_a_thousand_topics(peer: Peer) -> None:
    """What a real administrator may ask in one go: all settings of each of a thousand topics."""
    ready(peer)
    rows = [{"name": name, "num_partitions": 1, "replication_factor": 1} for name in NAMES[:1000]]
    assert codes(peer.ask("CreateTopics", 5, topics=rows, timeout_ms=60000)["topics"]) == {0: 1000}
    rows = [{"resource_type": 2, "resource_name": name, "configuration_keys": None} for name in NAMES[:1000]]
    results = peer.ask("DescribeConfigs", 4, resources=rows)["results"]
    assert codes(results) == {0: 1000}
    assert {len(row["configs"]) for row in results} == {len(results[0]["configs"])}


def test_a_move_to_a_broker_that_is_not_there(peer: Peer) -> None:
    """AlterPartitionReassignments says which broker is not known."""
    rows = [{"name": TOPIC, "partitions": [{"partition_index": 0, "replicas": [9]}]}]
    answer = peer.ask("AlterPartitionReassignments", 0, topics=rows, timeout_ms=1000)
    (row,) = partitions(answer["responses"])
    assert row["error_code"] == ErrorCode.INVALID_REPLICA_ASSIGNMENT
    assert "broker 9" in row["error_message"]
