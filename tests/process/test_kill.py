"""kill -9 under load: nothing acknowledged is lost, nothing is there twice, and order is kept."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigEntry, ConfigResource, NewTopic

from tests.clients.confluent import PATIENCE_S, consumer, produce, producer, take, until
from tests.process.server import Server

PARTITIONS = 3
KILLS = 4
RECORDS_BETWEEN_KILLS = 400


class Load:
    """An idempotent producer of numbered records, and what it was told of each."""

    def __init__(self, bootstrap: str, topic: str) -> None:
        self.topic = topic
        self.sent: dict[int, list[int]] = defaultdict(list)
        self.acknowledged: dict[int, dict[int, int]] = defaultdict(dict)
        self.errors: list[Any] = []
        self._producer = Producer(
            {
                "bootstrap.servers": bootstrap,
                "enable.idempotence": True,
                "linger.ms": 1,
                "batch.num.messages": 20,
                "reconnect.backoff.ms": 5,
                "reconnect.backoff.max.ms": 50,
                "retry.backoff.ms": 10,
            }
        )
        self._next = 0

    @property
    def count(self) -> int:
        """How many records are acknowledged."""
        return sum(map(len, self.acknowledged.values()))

    def run(self, records: int) -> None:
        """Send until so many more are acknowledged, with at most some hundred in flight."""
        goal, end = self.count + records, monotonic() + PATIENCE_S
        while self.count < goal:
            assert monotonic() < end, f"{self.count} acknowledged, {len(self._producer)} in flight"
            if len(self._producer) < 300:
                self._send()
            self._producer.poll(0 if len(self._producer) < 300 else 0.01)

    def finish(self) -> None:
        """Wait until every record is acknowledged."""
        assert self._producer.flush(PATIENCE_S) == 0
        assert not self.errors

    def _send(self) -> None:
        number, self._next = self._next, self._next + 1
        partition = number % PARTITIONS
        self.sent[partition].append(number)

        def report(error: Any, message: Any) -> None:
            if error is not None:
                self.errors.append(error)
            else:
                self.acknowledged[partition][number] = message.offset()

        self._producer.produce(self.topic, b"%d" % number, partition=partition, on_delivery=report)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("mode", ["os", "group"])
def test_idempotent_producer_over_kills(tmp_path: Path, mode: str) -> None:
    """Through four kills under load every record gets written once, in order, at the offset that was acknowledged."""
    with Server(tmp_path / "data", "--set", f"log.flush.mode={mode}") as server:
        new = NewTopic("load", PARTITIONS, 1, config={"segment.bytes": str(1 << 20)})
        admin = AdminClient({"bootstrap.servers": server.bootstrap})
        admin.create_topics([new])["load"].result(PATIENCE_S)
        load = Load(server.bootstrap, "load")
        for round_ in range(1, KILLS + 1):
            load.run(RECORDS_BETWEEN_KILLS * round_)
            server.kill()
            server.start()
        load.run(RECORDS_BETWEEN_KILLS)
        load.finish()
        check(server, load)


def check(server: Server, load: Load) -> None:
    """Read everything back and compare it with what was sent and acknowledged."""
    found: dict[int, dict[int, int]] = defaultdict(dict)
    with consumer(server.bootstrap) as reader:
        reader.assign([TopicPartition(load.topic, partition, 0) for partition in range(PARTITIONS)])
        for message in take(reader, load.count):
            found[message.partition()][message.offset()] = int(message.value())
        for partition in range(PARTITIONS):
            ends = reader.get_watermark_offsets(TopicPartition(load.topic, partition), timeout=PATIENCE_S)
            assert ends == (0, len(load.sent[partition])), "there is more, or less, than was sent"
    for partition in range(PARTITIONS):
        in_order = [number for _, number in sorted(found[partition].items())]
        assert in_order == load.sent[partition]
        for number, offset in load.acknowledged[partition].items():
            assert found[partition][offset] == number


def test_group_and_settings_survive(tmp_path: Path) -> None:
    """After kill -9 a group goes on at its committed offset; topics and their settings are as they were."""
    with Server(tmp_path / "data") as server:
        admin = AdminClient({"bootstrap.servers": server.bootstrap})
        new = NewTopic("work", 1, 1, config={"retention.ms": "123456789"})
        admin.create_topics([new])["work"].result(PATIENCE_S)
        with producer(server.bootstrap) as source:
            produce(source, "work", [b"%d" % number for number in range(20)])
        with consumer(server.bootstrap, "workers") as reader:
            reader.subscribe(["work"])
            take(reader, 20)
            reader.commit(offsets=[TopicPartition("work", 0, 15)], asynchronous=False)
            server.kill()
            server.start()
        with consumer(server.bootstrap, "workers") as reader:
            reader.subscribe(["work"])
            assert [message.offset() for message in take(reader, 5)] == [15, 16, 17, 18, 19]
        asked = ConfigResource(ConfigResource.Type.TOPIC, "work")
        settings: dict[str, ConfigEntry] = admin.describe_configs([asked])[asked].result(PATIENCE_S)
        assert settings["retention.ms"].value == "123456789"


def test_living_members_come_back(tmp_path: Path) -> None:
    """Members that live through a kill of the server go on reading, each with its partitions."""
    options = {"session_timeout_ms": 45_000, "reconnect_backoff_max_ms": 100}
    with Server(tmp_path / "data", "--set", "num.partitions=2") as server:
        with producer(server.bootstrap) as source:
            for partition in range(2):
                produce(source, "work", [b"before"], partition=partition)
        with consumer(server.bootstrap, "g", **options) as first, consumer(server.bootstrap, "g", **options) as second:
            for reader in (first, second):
                reader.subscribe(["work"])
            until(lambda: len(first.assignment()) == len(second.assignment()) == 1, first, second)
            server.kill()
            server.start()
            with producer(server.bootstrap) as source:
                for partition in range(2):
                    produce(source, "work", [b"after"], partition=partition)
            came: set[int] = set()

            def both() -> bool:
                for reader in (first, second):
                    message = reader.poll(0.05)
                    if message is not None and message.error() is None and message.value() == b"after":
                        came.add(message.partition())
                return came == {0, 1}

            until(both)


def test_all_is_readable_when_it_is_ready(tmp_path: Path) -> None:
    """The first question after a kill -9 and the ready line is answered with the end that was acknowledged."""
    with Server(tmp_path / "data", "--set", "num.partitions=8", "--set", "log.flush.mode=group") as server:
        with producer(server.bootstrap) as source:
            for partition in range(8):
                produce(source, "many", [b"%d" % number for number in range(50)], partition=partition)
        for _ in range(3):
            server.kill()
            server.start()
            with consumer(server.bootstrap) as reader:
                for partition in range(8):
                    asked = TopicPartition("many", partition)
                    assert reader.get_watermark_offsets(asked, timeout=PATIENCE_S) == (0, 50)
