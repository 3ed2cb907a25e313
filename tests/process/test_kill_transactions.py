"""kill -9 under transactions: all of each or nothing, and nothing aborted is read."""

from __future__ import annotations

import threading
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from tests.clients.confluent import PASSING, PATIENCE_S, consumer
from tests.process.server import Server

PARTITIONS = 3
KILLS = 4
QUICK = {"reconnect.backoff.ms": 5, "reconnect.backoff.max.ms": 50, "retry.backoff.ms": 10, "linger.ms": 1}


def again_while_retriable(step: Callable[[], Any]) -> None:
    """Do one step of a transaction until it is done; what is not retriable is raised."""
    end = monotonic() + PATIENCE_S
    while True:
        try:
            step()
            return
        except KafkaException as failed:
            if not failed.args[0].retriable() or monotonic() > end:
                raise


def transactional(bootstrap: str, transactional_id: str) -> Producer:
    """A producer that is ready for its first transaction."""
    made = Producer(
        {
            "bootstrap.servers": bootstrap,
            "transactional.id": transactional_id,
            "transaction.timeout.ms": 60_000,
            **QUICK,
        }
    )
    again_while_retriable(lambda: made.init_transactions(PATIENCE_S))
    return made


class Writer(threading.Thread):
    """Writes transactions one after the other, every third of which it aborts, and notes how each ended."""

    def __init__(self, bootstrap: str, name: str, stop: threading.Event) -> None:
        super().__init__(name=name)
        self.outcome: dict[str, str] = {}
        self.failure: BaseException | None = None
        self._address = bootstrap
        self._stopped = stop

    def run(self) -> None:
        try:
            source = transactional(self._address, self.name)
            number = 0
            while not self._stopped.is_set():
                source = self._one(source, f"{self.name}-{number}", commits=number % 3 != 2)
                number += 1
        except BaseException as failure:
            self.failure = failure

    def _one(self, source: Producer, transaction: str, *, commits: bool) -> Producer:
        self.outcome[transaction] = "unknown"
        try:
            source.begin_transaction()
            for at in range(2 * PARTITIONS):
                source.produce("out", f"{transaction}/{at}".encode(), partition=at % PARTITIONS)
            source.flush(PATIENCE_S)
            if commits:
                again_while_retriable(lambda: source.commit_transaction(PATIENCE_S))
                self.outcome[transaction] = "committed"
                return source
        except KafkaException as failed:
            error: KafkaError = failed.args[0]
            if not error.txn_requires_abort():
                return transactional(self._address, self.name)
        self.outcome[transaction] = "aborted"
        again_while_retriable(lambda: source.abort_transaction(PATIENCE_S))
        return source


def read_to_end(bootstrap: str, topic: str, partitions: int, isolation: str = "read_committed") -> list[bytes]:
    """All that there is of a topic."""
    values: list[bytes] = []
    with consumer(bootstrap, enable_partition_eof=True, isolation_level=isolation) as reader:
        reader.assign([TopicPartition(topic, index, 0) for index in range(partitions)])
        ended: set[int] = set()
        end = monotonic() + PATIENCE_S
        while len(ended) < partitions:
            assert monotonic() < end, f"only {sorted(ended)} ended"
            message = reader.poll(0.2)
            if message is None:
                continue
            if (error := message.error()) is None:
                values.append(message.value())
            elif error.name() == "_PARTITION_EOF":
                ended.add(message.partition())
            else:
                assert error.name() in PASSING, error
    return values


def killed_now_and_then(server: Server, goes_on: Callable[[int], bool]) -> None:
    """Kill and start the server, each time after some progress."""
    for kill in range(KILLS):
        end = monotonic() + PATIENCE_S
        while not goes_on(kill):
            assert monotonic() < end, "nothing goes on"
            threading.Event().wait(0.01)
        server.kill()
        server.start()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("mode", ["os", "group"])
def test_all_or_nothing(tmp_path: Path, mode: str) -> None:
    """Committed transactions are read whole and once, aborted ones never, and those of unknown end not in part."""
    with Server(tmp_path / "data", "--set", f"log.flush.mode={mode}") as server:
        new = NewTopic("out", PARTITIONS, 1, config={"segment.bytes": str(1 << 20)})
        admin = AdminClient({"bootstrap.servers": server.bootstrap})
        admin.create_topics([new])["out"].result(PATIENCE_S)
        stop = threading.Event()
        writers = [Writer(server.bootstrap, f"w{number}", stop) for number in range(3)]
        for writer in writers:
            writer.start()

        def done(kill: int) -> bool:
            return all(list(writer.outcome.values()).count("committed") > 5 * (kill + 1) for writer in writers)

        try:
            killed_now_and_then(server, done)
        finally:
            stop.set()
            for writer in writers:
                writer.join(PATIENCE_S)
        assert [writer.failure for writer in writers] == [None] * len(writers)
        read: dict[str, Counter[bytes]] = defaultdict(Counter)
        for value in read_to_end(server.bootstrap, "out", PARTITIONS):
            read[value.rpartition(b"/")[0].decode()][value] += 1
        for writer in writers:
            for transaction, outcome in writer.outcome.items():
                seen = read.pop(transaction, Counter())
                assert set(seen.values()) <= {1}, f"{transaction} ({outcome}) is there twice"
                wanted = {"committed": (2 * PARTITIONS,), "aborted": (0,), "unknown": (0, 2 * PARTITIONS)}[outcome]
                assert len(seen) in wanted, f"{len(seen)} records of {transaction}, which was {outcome}"
        assert not read
