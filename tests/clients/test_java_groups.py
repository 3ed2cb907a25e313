"""Java's consumers of both protocols in one group, carried along by a live seek; groups' settings and client metrics.

Skipped, with the reason, where Java or the jars are missing (``tools/apache_kafka.py fetch`` gets the jars).
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import pytest

from logd.testing import Broker
from logd.wire.schemas.client_metrics import ClientMetricsRequest
from logd.wire.schemas.group_lag import GroupLagRequest
from logd.wire.schemas.seek_group import SeekGroupPartition, SeekGroupRequest, SeekGroupTopic
from tests.clients.confluent import PATIENCE_S, consumer, partitions_of, produce, producer, until
from tests.clients.java import JVM_OPTIONS, NEEDS_JAVA, run_java
from tests.raw import Peer
from tools import apache_kafka

pytestmark = [
    *NEEDS_JAVA,
    pytest.mark.logd(
        settings={"group.consumer.min.heartbeat.interval.ms": 100, "group.consumer.heartbeat.interval.ms": 100}
    ),
]

CONFIGS = "kafka.admin.ConfigCommand"
METRICS = "ClientMetricsCommand"


@contextmanager
def console(bootstrap: str, topic: str, group: str, printed: Path, **options: str) -> Iterator[Path]:
    """A ConsoleConsumer that runs meanwhile; what it reads comes into a file."""
    libs = apache_kafka.installed_libs()
    assert libs is not None
    settings = {"auto.offset.reset": "earliest", "auto.commit.interval.ms": "100"}
    settings |= {name.replace("_", "."): value for name, value in options.items()}
    arguments = ["--bootstrap-server", bootstrap, "--topic", topic, "--group", group]
    for name, value in settings.items():
        arguments += ["--command-property", f"{name}={value}"]
    main = "org.apache.kafka.tools.consumer.ConsoleConsumer"
    command = apache_kafka.java_command(main, arguments, libs=libs, options=JVM_OPTIONS)
    with printed.open("wb") as target:
        process = subprocess.Popen(command, stdout=target, stderr=subprocess.DEVNULL)
        try:
            yield printed
        finally:
            process.terminate()
            process.wait(30)


def wait_for(condition: Callable[[], bool], what: str) -> None:
    """Look again and again, since nothing tells."""
    end = monotonic() + PATIENCE_S
    while not condition():
        assert monotonic() < end, what
        sleep(0.05)


def ask(bootstrap: str, request: Any) -> Any:
    with Peer(bootstrap) as peer:
        return peer.ask(request, 0)


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_a_live_seek_carries_java_along(
    logd_broker: Broker, new_topic: Callable[..., str], tmp_path: Path, protocol: str
) -> None:
    """A running console consumer that has read all reads the second half again, and commits from there."""
    bootstrap, topic = logd_broker.bootstrap, new_topic()
    produce(producer(bootstrap), topic, [b"%d" % number for number in range(20)])

    def committed() -> int:
        (found,) = ask(bootstrap, GroupLagRequest([topic])).groups
        return next((row.committed_offset for each in found.topics for row in each.partitions), -1)

    with console(bootstrap, topic, topic, tmp_path / "printed", group_protocol=protocol) as printed:
        wait_for(lambda: committed() == 20, "not all was read and committed")
        answer = ask(bootstrap, SeekGroupRequest(topic, [SeekGroupTopic(topic, [SeekGroupPartition(0, 10)])]))
        assert (answer.error_code, answer.members_fenced) == (0, 1)
        wait_for(lambda: len(_read(printed)) == 30, "the second half was not read again")
        wait_for(lambda: committed() == 20, "not all was committed again")
    assert _read(printed) == [str(number) for number in (*range(20), *range(10, 20))]


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_java_shares_a_group_with_members_of_the_other_protocol(
    bootstrap: str, new_topic: Callable[..., str], tmp_path: Path, protocol: str
) -> None:
    """It joins a group of confluent-kafka's that speaks the other protocol, takes its half, and gives it back."""
    topic = new_topic(partitions=4)
    other = {"classic": "consumer", "consumer": "classic"}[protocol]
    options: dict[str, Any] = {"group_protocol": other}
    with ExitStack() as stack:
        if other == "consumer":
            from confluent_kafka import Consumer

            settings = {"bootstrap.servers": bootstrap, "group.id": topic, "group.protocol": "consumer"}
            first = Consumer(settings | {"auto.offset.reset": "earliest"})
        else:
            first = consumer(bootstrap, topic, partition_assignment_strategy="range", **options)
        stack.callback(first.close)
        first.subscribe([topic])
        until(lambda: partitions_of(first) == {0, 1, 2, 3}, first)
        with console(bootstrap, topic, topic, tmp_path / "printed", group_protocol=protocol) as printed:
            until(lambda: len(partitions_of(first)) == 2, first)
            for index in range(4):
                produce(producer(bootstrap), topic, [b"%d" % index], partition=index)
            mine = sorted(int(message.value() or b"-1") for message in until(lambda: len(_read(printed)) == 2, first))
            assert sorted([*mine, *map(int, _read(printed))]) == [0, 1, 2, 3]
        until(lambda: partitions_of(first) == {0, 1, 2, 3}, first)


def _read(printed: Path) -> list[str]:
    """The records; what is logged beside them, commits that were refused, is left out."""
    return [line for line in printed.read_text().splitlines() if line.isdigit()]


def test_settings_of_a_group(bootstrap: str, unique: Callable[[str], str]) -> None:
    """kafka-configs sets a group's own session timeout, shows it, and takes it away."""
    entity = ["--entity-type", "groups", "--entity-name", unique("group")]
    at = ["--bootstrap-server", bootstrap]
    run_java(CONFIGS, *at, "--alter", *entity, "--add-config", "consumer.session.timeout.ms=50000")
    assert "consumer.session.timeout.ms=50000" in run_java(CONFIGS, *at, "--describe", *entity)
    run_java(CONFIGS, *at, "--alter", *entity, "--delete-config", "consumer.session.timeout.ms")
    assert "consumer.session.timeout.ms=50000" not in run_java(CONFIGS, *at, "--describe", *entity)


def test_client_metrics(logd_broker: Broker, new_topic: Callable[..., str], unique: Callable[[str], str]) -> None:
    """kafka-client-metrics subscribes; a Java producer pushes what was asked for; the subscription goes again."""
    bootstrap, name, topic = logd_broker.bootstrap, unique("subscription"), new_topic()
    at = ["--bootstrap-server", bootstrap]
    wanted = ["--metrics", "org.apache.kafka.producer.", "--interval", "100"]
    run_java(METRICS, *at, "--alter", "--name", name, *wanted)
    assert name in run_java(METRICS, *at, "--list").split()
    assert "interval.ms=100" in run_java(METRICS, *at, "--describe", "--name", name)
    for_3_s = ["--num-records", "60", "--record-size", "100", "--throughput", "20"]
    run_java("ProducerPerformance", "--topic", topic, *for_3_s, "--producer-props", f"bootstrap.servers={bootstrap}")
    clients = ask(bootstrap, ClientMetricsRequest(bytes(16), "org.apache.kafka.producer.")).clients
    assert any(client.software_name == "apache-kafka-java" and client.metrics for client in clients)
    run_java(METRICS, *at, "--delete", "--name", name)
    assert name not in run_java(METRICS, *at, "--list").split()
