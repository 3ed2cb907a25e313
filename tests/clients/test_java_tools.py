"""Kafka's own command-line tools, unchanged, from the jars of Apache Kafka: each must do its work on the broker.

Skipped, with the reason, where Java or the jars are missing (``tools/apache_kafka.py fetch`` gets the jars).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.clients.java import NEEDS_JAVA, run_java

pytestmark = NEEDS_JAVA

Tool = Callable[..., str]


@pytest.fixture
def tool(bootstrap: str) -> Tool:
    """Run a tool's class on the broker and return its stdout: ``tool("TopicCommand", "--list", stdin="")``."""

    def run(name: str, *arguments: str, stdin: str = "") -> str:
        return run_java(name, "--bootstrap-server", bootstrap, *arguments, stdin=stdin)

    return run


def test_topics(tool: Tool, unique: Callable[[str], str]) -> None:
    """kafka-topics creates, describes, alters, lists and deletes a topic."""
    topic = unique("java")
    settings = ["--partitions", "2", "--replication-factor", "1", "--config", "retention.ms=3600000"]
    assert f"Created topic {topic}" in tool("TopicCommand", "--create", "--topic", topic, *settings)
    tool("TopicCommand", "--alter", "--topic", topic, "--partitions", "3")
    described = tool("TopicCommand", "--describe", "--topic", topic)
    assert "PartitionCount: 3" in described
    assert "ReplicationFactor: 1" in described
    assert "retention.ms=3600000" in described
    assert topic in tool("TopicCommand", "--list").split()
    tool("TopicCommand", "--delete", "--topic", topic)
    assert topic not in tool("TopicCommand", "--list").split()


def test_configs_of_a_topic(tool: Tool, new_topic: Callable[..., str]) -> None:
    """kafka-configs sets a topic's setting, shows it, and takes it away."""
    entity = ["--entity-type", "topics", "--entity-name", new_topic()]
    tool("kafka.admin.ConfigCommand", "--alter", *entity, "--add-config", "max.message.bytes=54321")
    assert "max.message.bytes=54321" in tool("kafka.admin.ConfigCommand", "--describe", *entity)
    tool("kafka.admin.ConfigCommand", "--alter", *entity, "--delete-config", "max.message.bytes")
    assert "max.message.bytes=54321" not in tool("kafka.admin.ConfigCommand", "--describe", *entity)
    assert "cleanup.policy=delete" in tool("kafka.admin.ConfigCommand", "--describe", "--all", *entity)


def test_configs_of_the_broker(tool: Tool) -> None:
    """kafka-configs shows all settings of the broker, and changes a dynamic one."""
    entity = ["--entity-type", "brokers", "--entity-default"]
    tool("kafka.admin.ConfigCommand", "--alter", *entity, "--add-config", "log.retention.ms=7654321000")
    assert "log.retention.ms=7654321000" in tool("kafka.admin.ConfigCommand", "--describe", *entity)
    tool("kafka.admin.ConfigCommand", "--alter", *entity, "--delete-config", "log.retention.ms")
    assert "7654321000" not in tool("kafka.admin.ConfigCommand", "--describe", *entity)


def test_console_producer_and_consumer(tool: Tool, new_topic: Callable[..., str]) -> None:
    """What is typed into kafka-console-producer is printed by kafka-console-consumer, keys and headers too."""
    topic = new_topic()
    keyed = ["--reader-property", "parse.key=true", "--reader-property", "key.separator=:"]
    tool("ConsoleProducer", "--topic", topic, *keyed, stdin="k1:one\nk2:two\nk3:three\n")
    limits = ["--from-beginning", "--max-messages", "3", "--timeout-ms", "60000"]
    shown = ["--formatter-property", "print.key=true", "--formatter-property", "print.offset=true"]
    printed = tool("consumer.ConsoleConsumer", "--topic", topic, *limits, *shown)
    assert printed.splitlines() == ["Offset:0\tk1\tone", "Offset:1\tk2\ttwo", "Offset:2\tk3\tthree"]


def test_consumer_groups(tool: Tool, new_topic: Callable[..., str], unique: Callable[[str], str]) -> None:
    """kafka-consumer-groups shows a group's lag, resets its offsets, deletes some, and deletes the group."""
    topic, group = new_topic(), unique("group")
    tool("ConsoleProducer", "--topic", topic, stdin="".join(f"{number}\n" for number in range(10)))
    limits = ["--from-beginning", "--max-messages", "10", "--timeout-ms", "60000"]
    tool("consumer.ConsoleConsumer", "--topic", topic, "--group", group, *limits)
    command = "consumer.group.ConsumerGroupCommand"
    assert group in tool(command, "--list").split()

    def offsets() -> list[str]:
        rows = tool(command, "--describe", "--group", group).splitlines()
        return next(row for row in rows if row.startswith(group)).split()[3:6]  # committed, end, lag

    assert offsets() == ["10", "10", "0"]
    tool(command, "--reset-offsets", "--group", group, "--topic", topic, "--to-offset", "4", "--execute")
    assert offsets() == ["4", "10", "6"]
    state = tool(command, "--describe", "--group", group, "--state")
    assert re.search(rf"{group}\s.*Empty", state)
    tool(command, "--delete-offsets", "--group", group, "--topic", topic)
    tool(command, "--delete", "--group", group)
    assert group not in tool(command, "--list").split()


def test_get_offsets(tool: Tool, new_topic: Callable[..., str]) -> None:
    """kafka-get-offsets prints first and next offset of every partition, and that of the greatest timestamp."""
    topic = new_topic(partitions=2)
    tool("ConsoleProducer", "--topic", topic, stdin="one\n")
    latest = tool("GetOffsetShell", "--topic", topic).split()
    assert sorted(line.split(":")[1] for line in latest) == ["0", "1"]
    assert sum(int(line.split(":")[2]) for line in latest) == 1
    assert tool("GetOffsetShell", "--topic", topic, "--time", "earliest").split() == [f"{topic}:0:0", f"{topic}:1:0"]
    greatest = tool("GetOffsetShell", "--topic", topic, "--time", "max-timestamp").split()
    assert {f"{topic}:0:0", f"{topic}:1:0"} & set(greatest)


def test_delete_records(tool: Tool, new_topic: Callable[..., str], tmp_path: Path) -> None:
    """kafka-delete-records moves the start of a partition."""
    topic = new_topic()
    tool("ConsoleProducer", "--topic", topic, stdin="".join(f"{number}\n" for number in range(10)))
    wanted = {"version": 1, "partitions": [{"topic": topic, "partition": 0, "offset": 7}]}
    file = tmp_path / "offsets.json"
    file.write_text(json.dumps(wanted))
    assert "low_watermark: 7" in tool("DeleteRecordsCommand", "--offset-json-file", str(file))
    assert tool("GetOffsetShell", "--topic", topic, "--time", "earliest").strip() == f"{topic}:0:7"


def test_log_dirs(tool: Tool, new_topic: Callable[..., str]) -> None:
    """kafka-log-dirs shows the size of a topic's partitions."""
    topic = new_topic(partitions=2)
    tool("ConsoleProducer", "--topic", topic, stdin="something\n" * 50)
    printed = tool("LogDirsCommand", "--describe", "--topic-list", topic)
    found = json.loads(next(line for line in printed.splitlines() if line.startswith("{")))
    (directory,) = found["brokers"][0]["logDirs"]
    assert directory["error"] is None
    sizes = {each["partition"]: each["size"] for each in directory["partitions"]}
    assert sorted(sizes) == [f"{topic}-0", f"{topic}-1"]
    assert sum(sizes.values()) > 100


def events(printed: str, name: str) -> list[dict[str, object]]:
    """The events of one name that a verifiable client printed."""
    found = [json.loads(line) for line in printed.splitlines() if line.startswith("{")]
    return [event for event in found if event["name"] == name]


def test_verifiable_producer_and_consumer(
    tool: Tool, new_topic: Callable[..., str], unique: Callable[[str], str]
) -> None:
    """All that the verifiable producer was acknowledged is what the verifiable consumer gets."""
    topic = new_topic()
    produced = tool("VerifiableProducer", "--topic", topic, "--max-messages", "1000", "--acks", "-1")
    assert len(events(produced, "producer_send_success")) == 1000
    options = ["--topic", topic, "--group-id", unique("verifiable"), "--max-messages", "1000"]
    consumed = tool("VerifiableConsumer", *options, "--reset-policy", "earliest")
    counts = [event["count"] for event in events(consumed, "records_consumed")]
    assert sum(count for count in counts if isinstance(count, int)) == 1000
    assert events(consumed, "offsets_committed")[-1]["success"] is True


def test_performance_tools(tool: Tool, new_topic: Callable[..., str]) -> None:
    """kafka-producer-perf-test sends all its records, kafka-consumer-perf-test reads them."""
    topic = new_topic(partitions=4)
    size = ["--num-records", "20000", "--record-size", "200", "--throughput", "-1"]
    sent = tool("ProducerPerformance", "--topic", topic, *size)
    assert "20000 records sent" in sent
    rows = tool("ConsumerPerformance", "--topic", topic, "--num-records", "20000", "--timeout", "60000").splitlines()
    columns = dict(zip((name.strip() for name in rows[0].split(",")), rows[-1].split(","), strict=False))
    assert int(columns["data.consumed.in.nMsg"]) >= 20_000


def test_api_versions(tool: Tool) -> None:
    """kafka-broker-api-versions finds the broker usable: no API that a Java client needs is missing."""
    printed = tool("BrokerApiVersionsCommand")
    for name in ("Produce(0)", "Fetch(1)", "ListOffsets(2)", "Metadata(3)", "JoinGroup(11)", "InitProducerId(22)"):
        assert re.search(rf"{re.escape(name)}: \d+ to \d+ \[usable", printed), name
