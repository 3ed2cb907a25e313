"""What librdkafka and kafka-python ask of the cluster itself: elections, reassignments, log directories, the quorum."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from confluent_kafka import ElectionType
from confluent_kafka import TopicPartition as ConfluentPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.error import KafkaError
from kafka import KafkaAdminClient, TopicPartition
from kafka.structs import TopicPartitionReplica

NewTopicName = Callable[..., str]


@pytest.fixture
def python_admin(bootstrap: str) -> Iterator[KafkaAdminClient]:
    """An admin client of kafka-python."""
    client = KafkaAdminClient(bootstrap_servers=bootstrap)
    yield client
    client.close()


@pytest.mark.parametrize("kind", [ElectionType.PREFERRED, ElectionType.UNCLEAN])
def test_confluent_elects(admin: AdminClient, new_topic: NewTopicName, kind: ElectionType) -> None:
    """The right leader is in place; a partition that is not there is unknown; for all, nothing is to be told."""
    topic = new_topic(partitions=2)
    wanted = [ConfluentPartition(topic, index) for index in (0, 1, 2)]
    found = admin.elect_leaders(kind, wanted).result(timeout=30)
    codes = {(partition.topic, partition.partition): error.code() for partition, error in found.items()}
    needless, unknown = KafkaError.ELECTION_NOT_NEEDED, KafkaError.UNKNOWN_TOPIC_OR_PART
    assert codes == {(topic, 0): needless, (topic, 1): needless, (topic, 2): unknown}
    assert admin.elect_leaders(kind, None).result(timeout=30) == {}


def test_kafka_python_elects(python_admin: KafkaAdminClient, new_topic: NewTopicName) -> None:
    """Nothing is to be elected."""
    topic = new_topic(partitions=2)
    (answer,) = python_admin.elect_leaders(0, {topic: [0, 1]}).replica_election_results
    assert (answer[0], sorted(row[:2] for row in answer[1])) == (topic, [[0, 84], [1, 84]])


def test_kafka_python_reassigns(python_admin: KafkaAdminClient, new_topic: NewTopicName) -> None:
    """A partition is moved to where it is, at once, so that none is on its way."""
    partition = TopicPartition(new_topic(), 0)
    brokers = [broker["broker_id"] for broker in python_admin.describe_cluster()["brokers"]]
    assert python_admin.alter_partition_reassignments({partition: brokers}) == {partition: None}
    assert python_admin.list_partition_reassignments() == {}
    assert python_admin.list_partition_reassignments([partition]) == {}


def test_kafka_python_moves_to_the_same_directory(python_admin: KafkaAdminClient, new_topic: NewTopicName) -> None:
    """To the directory that it lies in: done; to another one: there is none."""
    (node,) = python_admin.describe_log_dirs()
    replica = TopicPartitionReplica(new_topic(), 0, node["broker"])
    here = node["log_dirs"][0]["log_dir"]
    assert python_admin.alter_replica_log_dirs({replica: here})[replica].__name__ == "NoError"
    moved = python_admin.alter_replica_log_dirs({replica: f"{here}-elsewhere"})
    assert moved[replica].__name__ == "LogDirNotFoundError"


def test_kafka_python_describes_the_quorum(python_admin: KafkaAdminClient) -> None:
    """One voter, which leads and has all of the metadata."""
    (topic,) = python_admin.describe_metadata_quorum()["topics"]
    (partition,) = topic["partitions"]
    (voter,) = partition["current_voters"]
    assert (topic["topic_name"], partition["error"], partition["observers"]) == ("__cluster_metadata", None, [])
    assert (voter["replica_id"], voter["log_end_offset"]) == (partition["leader_id"], partition["high_watermark"])
