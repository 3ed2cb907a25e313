"""Kafka's own tools for the cluster itself: elections, reassignments, features, the quorum, registrations.

Skipped, with the reason, where Java or the jars are missing (``tools/apache_kafka.py fetch`` gets the jars).
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.clients.java import NEEDS_JAVA, java, run_java

pytestmark = NEEDS_JAVA

Tool = Callable[..., str]
REASSIGN = "reassign.ReassignPartitionsCommand"


@pytest.fixture
def tool(bootstrap: str) -> Tool:
    """Run a tool's class on the broker and return its stdout: ``tool("FeatureCommand", "describe")``."""
    return lambda name, *arguments: run_java(name, "--bootstrap-server", bootstrap, *arguments)


@pytest.fixture
def failing(bootstrap: str) -> Tool:
    """Run a tool that must fail, and return all that it says."""

    def run(name: str, *arguments: str) -> str:
        server = ["--bootstrap-server", bootstrap]
        done = java(name, *([*arguments, *server] if name == "ClusterTool" else [*server, *arguments]))
        assert done.code != 0, done.stdout
        return done.stdout + done.stderr

    return run


def test_leader_election(tool: Tool, new_topic: Callable[..., str]) -> None:
    """kafka-leader-election finds the right leader in place, for one partition and for all."""
    wanted = ["--topic", new_topic(partitions=2), "--partition", "1"]
    for kind in ("preferred", "unclean"):
        assert "Valid replica already elected" in tool("LeaderElectionCommand", "--election-type", kind, *wanted)
    tool("LeaderElectionCommand", "--election-type", "preferred", "--all-topic-partitions")


def test_reassign_partitions(
    tool: Tool, failing: Tool, bootstrap: str, new_topic: Callable[..., str], tmp_path: Path
) -> None:
    """kafka-reassign-partitions executes a move to where everything is, verifies it, lists nothing, cancels nothing."""
    topic = new_topic(partitions=2)
    printed = tool("LogDirsCommand", "--describe", "--topic-list", topic)
    found = json.loads(next(line for line in printed.splitlines() if line.startswith("{")))
    directory = found["brokers"][0]["logDirs"][0]["logDir"]
    file = tmp_path / "moves.json"

    def wish(log_dir: str, *replicas: int) -> list[str]:
        rows = [
            {"topic": topic, "partition": index, "replicas": replicas, "log_dirs": [log_dir] * len(replicas)}
            for index in (0, 1)
        ]
        file.write_text(json.dumps({"version": 1, "partitions": rows}))
        return ["--reassignment-json-file", str(file)]

    broker = found["brokers"][0]["broker"]
    wanted = wish(directory, broker)
    assert "Successfully started partition reassignments" in tool(REASSIGN, "--execute", *wanted)
    verified = tool(REASSIGN, "--verify", *wanted)
    assert verified.count("is completed") == 2
    assert f"Reassignment of replica {topic}-0-{broker} completed successfully" in verified
    assert "No partition reassignments found" in tool(REASSIGN, "--list")
    assert "None of the specified partition reassignments are active" in tool(REASSIGN, "--cancel", *wanted)
    assert "Unknown broker id" in failing(REASSIGN, "--execute", *wish("any", broker, 99))
    assert "LogDirNotFoundException" in failing(REASSIGN, "--execute", *wish("/elsewhere", broker))


def test_features(tool: Tool, failing: Tool) -> None:
    """kafka-features shows the level in force, and is refused another."""
    described = tool("FeatureCommand", "describe")
    assert re.search(r"Feature: metadata\.version\s.*FinalizedVersionLevel: 4\.3-IV0", described)
    refused = failing("FeatureCommand", "downgrade", "--feature", "metadata.version=29")
    assert "Could not downgrade metadata.version to 29" in refused


def test_metadata_quorum(tool: Tool) -> None:
    """kafka-metadata-quorum shows a quorum of one."""
    status = dict(line.split(":", 1) for line in tool("MetadataQuorumCommand", "describe", "--status").splitlines())
    leader = status["LeaderId"].strip()
    assert [voter["id"] for voter in json.loads(status["CurrentVoters"])] == [int(leader)]
    assert status["MaxFollowerLag"].strip() == "0"
    (row,) = tool("MetadataQuorumCommand", "describe", "--replication").splitlines()[1:]
    assert (row.split()[0], row.split()[-1]) == (leader, "Leader")


def test_cluster(bootstrap: str, failing: Tool) -> None:
    """kafka-cluster tells the cluster's id and its endpoints; a broker that is not there can't be unregistered."""
    assert re.search(r"Cluster ID: [\w-]{22}", run_java("ClusterTool", "cluster-id", "--bootstrap-server", bootstrap))
    endpoints = run_java("ClusterTool", "list-endpoints", "--bootstrap-server", bootstrap).splitlines()
    assert len(endpoints) == 2
    assert bootstrap.rpartition(":")[2] in endpoints[1].split()
    assert "BrokerIdNotRegisteredException" in failing("ClusterTool", "unregister", "--id", "99")


@pytest.mark.skipif("LOGD_TEST_BOOTSTRAP" in os.environ, reason="it would stop another's only broker for good")
def test_the_only_broker_stays(bootstrap: str, tool: Tool, failing: Tool, new_topic: Callable[..., str]) -> None:
    """kafka-cluster can't unregister the one node that there is, and all goes on as before."""
    topic = new_topic()
    assert "only node and alive" in failing("ClusterTool", "unregister", "--id", "0")
    assert re.search(r"Leader: \d", tool("TopicCommand", "--describe", "--topic", topic))


def test_api_versions(tool: Tool) -> None:
    """kafka-broker-api-versions finds every administrative API that one node can answer, in its newest version."""
    printed = tool("BrokerApiVersionsCommand")
    for name, newest in (
        ("AlterReplicaLogDirs(34)", 2),
        ("ElectLeaders(43)", 2),
        ("AlterPartitionReassignments(45)", 1),
        ("ListPartitionReassignments(46)", 0),
        ("DescribeQuorum(55)", 2),
        ("UpdateFeatures(57)", 2),
        ("UnregisterBroker(64)", 0),
    ):
        assert re.search(rf"{re.escape(name)}: .*\[usable: {newest}\]", printed), name
