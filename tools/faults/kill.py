"""kill -9 under load: an idempotent librdkafka producer and librdkafka consumers, a server that dies again and again.

Each round lets the load run for a random moment, kills the server, starts it, and takes the time until it is ready
and until the first new acknowledgement. At the end everything is read once more and the history is looked through.
"""

from __future__ import annotations

import random
import threading
import time
from pathlib import Path
from typing import Any

from tools.faults import history
from tools.faults.history import Acknowledged, Event, OffsetCommitted, OffsetFetched, OffsetTried, Polled, Read, Sent
from tools.faults.peer import Peer
from tools.faults.report import Report, Skipped, late
from tools.faults.server import Server

TOPIC, PARTITIONS = "kills", 3
IN_FLIGHT_MAX = 400
PATIENCE_S = 60.0
QUICK = {"log_level": 0, "reconnect.backoff.ms": 5, "reconnect.backoff.max.ms": 50, "retry.backoff.ms": 10}


class Producer:
    """A thread that sends numbered records with confluent-kafka and notes what it is told."""

    def __init__(self, bootstrap: str, events: list[Event], linger_ms: int) -> None:
        from confluent_kafka import Producer as Idempotent

        self.events = events
        self.acknowledged = 0
        self.failures: list[str] = []
        self._stop = threading.Event()
        options = {"enable.idempotence": True, "acks": "all", "linger.ms": linger_ms, "batch.num.messages": 20}
        self._producer: Any = Idempotent({"bootstrap.servers": bootstrap, **QUICK, **options})
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        number = 0
        while not self._stop.is_set():
            if len(self._producer) < IN_FLIGHT_MAX:
                self._send(number)
                number += 1
                self._producer.poll(0)
                if number % 25 == 0:
                    time.sleep(0.002)  # leaves the server some of the machine
            else:
                self._producer.poll(0.01)

    def _send(self, number: int) -> None:
        place = number % PARTITIONS
        value = f"p:{number}"
        self.events.append(Sent("p", f"{TOPIC}-{place}", value))

        def told(error: Any, message: Any) -> None:
            if error is not None:
                self.failures.append(str(error))
                return
            self.events.append(Acknowledged(f"{TOPIC}-{place}", value, message.offset()))
            self.acknowledged += 1

        self._producer.produce(TOPIC, value.encode(), partition=place, on_delivery=told)

    def until(self, acknowledged: int) -> None:
        """Wait for so many acknowledgements in all."""
        end = time.monotonic() + PATIENCE_S
        while self.acknowledged < acknowledged:
            if time.monotonic() > end:
                raise TimeoutError(f"{self.acknowledged} of {acknowledged} acknowledged")
            time.sleep(0.002)

    def finish(self) -> int:
        """Stop sending and wait for what is in flight; how many were left."""
        self._stop.set()
        self._thread.join()
        return int(self._producer.flush(PATIENCE_S))


class Consumer:
    """A thread that reads all partitions from the start with confluent-kafka, and commits now and then."""

    def __init__(self, bootstrap: str, events: list[Event]) -> None:
        from confluent_kafka import Consumer as Reader
        from confluent_kafka import TopicPartition

        self.events = events
        self.failures: list[str] = []
        """Offsets that were read up to and are beyond the end."""
        self._stop = threading.Event()
        options = {"group.id": "readers", "enable.auto.commit": False, "auto.offset.reset": "error"}
        self._consumer: Any = Reader({"bootstrap.servers": bootstrap, **QUICK, **options})
        self._consumer.assign([TopicPartition(TOPIC, place, 0) for place in range(PARTITIONS)])
        self._place = TopicPartition
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        from confluent_kafka import KafkaError, KafkaException

        gone = (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE)
        seen = 0
        while not self._stop.is_set():
            message = self._consumer.poll(0.02)
            if message is None:
                continue
            if (error := message.error()) is not None:
                if error.code() in gone:
                    self.failures.append(str(error))
                continue
            where = f"{TOPIC}-{message.partition()}"
            self.events.append(Polled("c", where, message.offset(), message.value().decode()))
            seen += 1
            if seen % 200 == 0:
                self.events.append(OffsetTried("readers", where, message.offset() + 1))
                try:
                    self._consumer.commit(message, asynchronous=False)
                except KafkaException:
                    continue
                self.events.append(OffsetCommitted("readers", where, message.offset() + 1))

    def finish(self) -> None:
        """Stop reading."""
        self._stop.set()
        self._thread.join()
        self._consumer.close()


def run(seed: int, rounds: int, directory: Path, on: str = "os") -> Report:
    """``rounds`` kills in one flush mode (``on``: os or group)."""
    try:
        import confluent_kafka  # noqa: F401
    except ImportError as error:
        raise Skipped("the package confluent-kafka is not installed") from error
    chance, report, events = random.Random(seed), Report(f"kill-{on}", seed), []
    with Server(directory / "data", settings={"log.flush.mode": on, "log.roll.ms": "3000"}) as server:
        server.start()
        with Peer(server.bootstrap) as peer:
            peer.create(TOPIC, PARTITIONS)
        producer = Producer(server.bootstrap, events, chance.choice((0, 1, 5)))
        consumer = Consumer(server.bootstrap, events)
        try:
            for _ in range(rounds):
                if late():
                    break
                one_kill(server, producer, chance, report)
        finally:
            left = producer.finish()
            consumer.finish()
        with Peer(server.bootstrap) as peer:
            last_read(peer, events)
        if server.stop():
            report.wrong("crashed", server.log_end())
    history.save(events, directory / "history.jsonl")
    if left or producer.failures:
        report.wrong("never-answered", f"{left} in flight, {producer.failures[:3]}")
    report.figures["acknowledged"] = producer.acknowledged
    report.figures["polled"] = sum(isinstance(one, Polled) for one in events)
    if consumer.failures or not report.figures["polled"]:
        report.wrong("not-read", f"the consumer read {report.figures['polled']} records: {consumer.failures[:3]}")
    report.add(history.check(events))
    return report


def one_kill(server: Server, producer: Producer, chance: random.Random, report: Report) -> None:
    """Let the load run, kill, start, wait for the next acknowledgement."""
    producer.until(producer.acknowledged + 20)
    time.sleep(chance.random() * 0.3)
    server.kill()
    before, begun = producer.acknowledged, time.monotonic()
    report.longest("ready_s_max", server.start())
    producer.until(before + 1)
    report.longest("first_acknowledgement_s_max", time.monotonic() - begun)
    report.faults += 1


def last_read(peer: Peer, events: list[Event]) -> None:
    """Everything that is there, and what the group has committed."""
    for place in range(PARTITIONS):
        events += [Read(f"{TOPIC}-{place}", *one) for one in peer.values(TOPIC, place)]
        found = peer.committed("readers", TOPIC, place)
        events.append(OffsetFetched("readers", f"{TOPIC}-{place}", found))
