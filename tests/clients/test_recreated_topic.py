"""A topic that is deleted and made again while consumers read it: they find the new one and read it from its start.

Runs against a real Apache Kafka too (LOGD_TEST_BOOTSTRAP).
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from time import monotonic

import pytest
from confluent_kafka import Consumer
from confluent_kafka.admin import AdminClient, NewTopic

from tests.clients.confluent import PATIENCE_S, produce, producer
from tests.clients.java import JVM_OPTIONS, NEEDS_JAVA
from tools import apache_kafka

pytestmark = pytest.mark.timeout(240)

RECORDS = 20
NEW = 5
"""Fewer than before: who carries on from its old place is beyond the end, and begins anew."""
FRESH_MS = "500"
"""How often clients look at the metadata."""


def recreate(admin: AdminClient, bootstrap: str, topic: str) -> None:
    """Delete it, wait until it is gone, make it again, and fill it with other records."""
    admin.delete_topics([topic])[topic].result(timeout=30)
    end = monotonic() + PATIENCE_S
    while topic in admin.list_topics(timeout=30).topics:
        assert monotonic() < end, "the topic does not go"
    admin.create_topics([NewTopic(topic, 2, 1)])[topic].result(timeout=30)
    for index in range(2):
        produce(producer(bootstrap), topic, [b"new-%d" % number for number in range(NEW)], partition=index)


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_confluent(
    bootstrap: str, admin: AdminClient, new_topic: Callable[..., str], unique: Callable[[str], str], protocol: str
) -> None:
    """A member of a group reads all records of both topics, those of the second from offset 0 on."""
    topic = new_topic(2)
    for index in range(2):
        produce(producer(bootstrap), topic, [b"old-%d" % number for number in range(RECORDS)], partition=index)
    settings = {
        "bootstrap.servers": bootstrap,
        "group.id": unique("recreated"),
        "group.protocol": protocol,
        "auto.offset.reset": "earliest",
        "auto.commit.interval.ms": 200,
        "topic.metadata.refresh.interval.ms": int(FRESH_MS),
    }
    with closing(Consumer(settings)) as one:
        one.subscribe([topic])
        assert read(one, b"old", RECORDS) == {(index, number) for index in range(2) for number in range(RECORDS)}
        recreate(admin, bootstrap, topic)
        assert read(one, b"new", NEW) == {(index, number) for index in range(2) for number in range(NEW)}


def read(one: Consumer, kind: bytes, wanted: int) -> set[tuple[int, int]]:
    """Poll until all records of a kind are there; their places."""
    found: set[tuple[int, int]] = set()
    end = monotonic() + PATIENCE_S
    while len(found) < 2 * wanted:
        assert monotonic() < end, f"{len(found)} records of {kind!r} came"
        message = one.poll(0.1)
        if message is not None and message.error() is None and (message.value() or b"").startswith(kind):
            found.add((message.partition() or 0, message.offset() or 0))
    return found


@contextmanager
def java_reader(bootstrap: str, topic: str, group: str, protocol: str, directory: Path) -> Iterator[Callable[[], int]]:
    """Kafka's VerifiableConsumer as a member; gives how many records it has told of."""
    libs = apache_kafka.installed_libs()
    assert libs is not None
    file = directory / "consumer.properties"
    file.write_text(f"metadata.max.age.ms={FRESH_MS}\nallow.auto.create.topics=false\n")
    arguments = ["--bootstrap-server", bootstrap, "--topic", topic, "--group-id", group, "--verbose"]
    arguments += ["--reset-policy", "earliest", "--command-config", str(file), "--group-protocol", protocol]
    name = "org.apache.kafka.tools.VerifiableConsumer"
    said = directory / "said"
    with said.open("w") as out:
        process = subprocess.Popen(
            apache_kafka.java_command(name, arguments, libs=libs, options=JVM_OPTIONS),
            stdout=out,
            stderr=subprocess.STDOUT,
        )
        try:
            yield lambda: told(said)
        finally:
            process.kill()
            process.wait()


def told(said: Path) -> int:
    """Records that the consumer has printed, each once."""
    found = set()
    for line in said.read_text().splitlines():
        if line.startswith('{"timestamp"') and '"name":"record_data"' in line:
            row = json.loads(line)
            found.add((row["partition"], row["offset"], row["value"]))
    return len(found)


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
class TestJava:
    """The Java consumer, of both protocols."""

    pytestmark = NEEDS_JAVA

    def test_java(
        self,
        bootstrap: str,
        admin: AdminClient,
        new_topic: Callable[..., str],
        unique: Callable[[str], str],
        protocol: str,
        tmp_path: Path,
    ) -> None:
        """It reads what the topic made again has, from its start."""
        topic = new_topic(2)
        for index in range(2):
            produce(producer(bootstrap), topic, [b"old-%d" % number for number in range(RECORDS)], partition=index)
        with java_reader(bootstrap, topic, unique("recreated"), protocol, tmp_path) as count:
            wait(count, 2 * RECORDS)
            recreate(admin, bootstrap, topic)
            wait(count, 2 * (RECORDS + NEW))


def wait(count: Callable[[], int], wanted: int) -> None:
    end = monotonic() + 3 * PATIENCE_S
    while count() < wanted:
        assert monotonic() < end, f"{count()} of {wanted} records came"
