"""Real consumers roll from the classic protocol to the new one and back, one by one, while records keep coming."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from threading import Event, Thread
from time import monotonic
from typing import Any

import pytest
from confluent_kafka import Consumer, ConsumerGroupType
from confluent_kafka.admin import AdminClient

from tests.clients.confluent import PATIENCE_S, consumer, partitions_of, producer

pytestmark = pytest.mark.logd(
    settings={"group.consumer.min.heartbeat.interval.ms": 100, "group.consumer.heartbeat.interval.ms": 100}
)

PARTITIONS = 6


class Stream:
    """Produces records with rising numbers until told to stop."""

    def __init__(self, bootstrap: str, topic: str) -> None:
        self.sent = 0
        self._stop = Event()
        self._topic = topic
        self._target = producer(bootstrap)
        self._thread = Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(0.01):
            self._target.produce(self._topic, value=b"%d" % self.sent, partition=self.sent % PARTITIONS)
            self._target.poll(0)
            self.sent += 1

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        assert self._target.flush(PATIENCE_S) == 0


def member(bootstrap: str, group: str, kind: str) -> Consumer:
    if kind != "consumer":
        return consumer(bootstrap, group, partition_assignment_strategy=kind)
    settings = {
        "bootstrap.servers": bootstrap,
        "group.id": group,
        "group.protocol": "consumer",
        "auto.offset.reset": "earliest",
        "enable.auto.commit": False,
    }
    return Consumer(settings)


def read(members: list[Consumer], seen: dict[int, int], done: Callable[[], bool]) -> None:
    """Poll in turn, and commit what came, until `done`."""
    end = monotonic() + PATIENCE_S
    while not done():
        assert monotonic() < end, f"partitions: {[partitions_of(each) for each in members]}"
        for each in members:
            message = each.poll(0.02)
            if message is None or message.error() is not None:
                continue
            number = int(message.value())  # type: ignore[arg-type]
            seen[number] = seen.get(number, 0) + 1
            if number % 7 == 0:
                each.commit(message, asynchronous=True)


@pytest.mark.parametrize("classic", ["range", "cooperative-sticky"])
def test_rolling_there_and_back(
    bootstrap: str, new_topic: Callable[..., str], admin: AdminClient, classic: str
) -> None:
    """Three members are replaced one by one by members of the other protocol, and back: no record is lost."""
    topic = new_topic(partitions=PARTITIONS)
    group = topic
    seen: dict[int, int] = {}
    members: list[Any] = []
    with ExitStack() as stack:
        stream = Stream(bootstrap, topic)

        def everyone_reads() -> bool:
            mine = [partitions_of(each) for each in members]
            return sum(map(len, mine)) == PARTITIONS and all(mine)

        def add(kind: str) -> None:
            one = member(bootstrap, group, kind)
            stack.callback(one.close)
            one.subscribe([topic])
            members.append(one)

        for _ in range(3):
            add(classic)
        read(members, seen, everyone_reads)
        for kind in ("consumer", classic):
            for _ in range(3):
                members.pop(0).close()
                add(kind)
                read(members, seen, everyone_reads)
            (described,) = admin.describe_consumer_groups([group]).values()
            kinds = {"consumer": ConsumerGroupType.CONSUMER}
            assert described.result().type == kinds.get(kind, ConsumerGroupType.CLASSIC)
        stream.close()
        read(members, seen, lambda: len(seen) == stream.sent)
    assert set(seen) == set(range(stream.sent))
