"""Churn: members of one group are killed, paused and started at random, of either protocol or of both at once.

    python tools/churn.py --bootstrap HOST:PORT [--seconds 60] [--protocols classic,cooperative,consumer] [--seed N]

Members are processes of confluent-kafka that write down what they read before they commit it. At the end every record
must have been read at least once, and no committed offset may ever have gone backward. Prints one line; exit status 1
when something was lost. The short run is a test (``tests/clients/test_churn.py``).
"""

from __future__ import annotations

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

ROOT = Path(__file__).resolve().parent.parent
PARTITIONS = 6
MEMBERS = 4
COMMIT_EVERY = 20
PATIENCE_S = 120.0
KINDS: Mapping[str, Mapping[str, str]] = {
    "classic": {"partition.assignment.strategy": "range"},
    "cooperative": {"partition.assignment.strategy": "cooperative-sticky"},
    "consumer": {"group.protocol": "consumer"},
}


def member(bootstrap: str, group: str, topic: str, kind: str, session_ms: int, read: Path) -> None:
    """One member: reads, writes down, commits; until SIGTERM."""
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    settings: dict[str, Any] = {
        "bootstrap.servers": bootstrap,
        "group.id": group,
        "auto.offset.reset": "earliest",
        "enable.auto.commit": False,
        **KINDS[kind],
    }
    if kind != "consumer":
        settings |= {"session.timeout.ms": session_ms, "heartbeat.interval.ms": max(session_ms // 10, 50)}
    consumer = Consumer(settings)
    consumer.subscribe([topic])
    with read.open("a", buffering=1) as target:
        taken = 0
        while not stopping.is_set():
            message = consumer.poll(0.1)
            if message is None or message.error() is not None:
                continue
            target.write(f"{message.partition()} {message.offset()}\n")
            taken += 1
            if taken % COMMIT_EVERY == 0:
                with suppress(KafkaException):  # fenced: somebody else reads it again
                    consumer.commit(asynchronous=False)
    with suppress(KafkaException):
        consumer.commit(asynchronous=False)
    consumer.close()


@dataclass
class Outcome:
    """What came of a run."""

    sent: int = 0
    read: int = 0
    twice: int = 0
    killed: int = 0
    paused: int = 0
    stopped: int = 0
    lost: list[tuple[int, int]] = field(default_factory=list)
    backward: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        return not self.lost and not self.backward


class Churn:
    """One run."""

    def __init__(self, bootstrap: str, kinds: Sequence[str], seed: int, session_ms: int, directory: Path) -> None:
        self.bootstrap = bootstrap
        self.kinds = kinds
        self.chance = random.Random(seed)
        self.session_ms = session_ms
        self.directory = directory
        self.topic = self.group = f"churn-{uuid.uuid4().hex[:8]}"
        self.members: list[subprocess.Popen[bytes]] = []
        self.resume: list[tuple[float, subprocess.Popen[bytes]]] = []
        self.outcome = Outcome()
        self.committed: dict[int, int] = {}
        self.admin = AdminClient({"bootstrap.servers": bootstrap})
        self.producer = Producer({"bootstrap.servers": bootstrap, "enable.idempotence": True})

    def run(self, seconds: float) -> Outcome:
        """Churn for so long, then let all be read."""
        self.admin.create_topics([NewTopic(self.topic, PARTITIONS, 1)])[self.topic].result(30)
        end = time.monotonic() + seconds
        next_act = 0.0
        try:
            while time.monotonic() < end:
                self._produce(20)
                self._look()
                if time.monotonic() >= next_act:
                    self._act()
                    next_act = time.monotonic() + self.chance.uniform(0.2, 1.0)
                time.sleep(0.05)
            self.producer.flush(30)
            self._read_the_rest()
        finally:
            for process in self.members:
                process.kill()
                process.wait()
        self._judge()
        return self.outcome

    def _produce(self, count: int) -> None:
        for _ in range(count):
            self.producer.produce(self.topic, value=b"x", partition=self.outcome.sent % PARTITIONS)
            self.outcome.sent += 1
        self.producer.poll(0)

    def _start(self) -> None:
        kind = self.chance.choice(list(self.kinds))
        file = self.directory / f"read-{uuid.uuid4().hex}"
        arguments = ["member", self.bootstrap, self.group, self.topic, kind, str(self.session_ms), str(file)]
        self.members.append(subprocess.Popen([sys.executable, __file__, *arguments], stderr=subprocess.DEVNULL))

    def _act(self) -> None:
        now = time.monotonic()
        for until, process in [each for each in self.resume if each[0] <= now]:
            self.resume.remove((until, process))
            process.send_signal(signal.SIGCONT)
        paused = [process for _, process in self.resume]
        if len(self.members) < MEMBERS:
            self._start()
            return
        victim = self.chance.choice([each for each in self.members if each not in paused] or self.members)
        deed = self.chance.choice(("kill", "pause", "stop"))
        if deed == "pause":
            victim.send_signal(signal.SIGSTOP)
            self.resume.append((now + self.chance.uniform(0.5, 3 * self.session_ms / 1000), victim))
            self.outcome.paused += 1
            return
        self.members.remove(victim)
        self.resume = [each for each in self.resume if each[1] is not victim]
        if deed == "stop":
            victim.terminate()
            victim.send_signal(signal.SIGCONT)
            self.outcome.stopped += 1
        else:
            victim.kill()
            self.outcome.killed += 1
        threading.Thread(target=victim.wait, daemon=True).start()

    def _look(self) -> None:
        """No committed offset may go backward."""
        wanted = [TopicPartition(self.topic, index) for index in range(PARTITIONS)]
        request = ConsumerGroupTopicPartitions(self.group, wanted)
        try:
            found = self.admin.list_consumer_group_offsets([request])[self.group].result(30)
        except KafkaException:
            return
        for place in found.topic_partitions:
            before = self.committed.get(place.partition, -1)
            if place.offset < 0:
                continue
            if place.offset < before:
                self.outcome.backward.append(f"partition {place.partition}: {before} -> {place.offset}")
            self.committed[place.partition] = place.offset

    def _read_the_rest(self) -> None:
        for _, process in self.resume:
            process.send_signal(signal.SIGCONT)
        while len(self.members) < MEMBERS:
            self._start()
        end = time.monotonic() + PATIENCE_S
        while len(self._read()) < self.outcome.sent and time.monotonic() < end:
            self._look()
            time.sleep(0.2)

    def _read(self) -> set[tuple[int, int]]:
        seen: set[tuple[int, int]] = set()
        lines = 0
        for file in self.directory.glob("read-*"):
            for line in file.read_text().splitlines():
                partition, _, offset = line.partition(" ")
                if offset.isdigit():
                    seen.add((int(partition), int(offset)))
                    lines += 1
        self.outcome.read, self.outcome.twice = len(seen), lines - len(seen)
        return seen

    def _judge(self) -> None:
        per = [
            self.outcome.sent // PARTITIONS + (index < self.outcome.sent % PARTITIONS) for index in range(PARTITIONS)
        ]
        every = {(index, offset) for index in range(PARTITIONS) for offset in range(per[index])}
        self.outcome.lost = sorted(every - self._read())


def churn(bootstrap: str, kinds: Sequence[str], *, seconds: float, seed: int, session_ms: int) -> Outcome:
    """Run once; see the module."""
    with tempfile.TemporaryDirectory() as directory:
        return Churn(bootstrap, kinds, seed, session_ms, Path(directory)).run(seconds)


def main() -> int:
    if sys.argv[1:2] == ["member"]:
        bootstrap, group, topic, kind, session_ms, read = sys.argv[2:]
        member(bootstrap, group, topic, kind, int(session_ms), Path(read))
        return 0
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--bootstrap", required=True)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--protocols", default=",".join(KINDS), help=f"some of {', '.join(KINDS)}")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    parser.add_argument("--session-ms", type=int, default=6_000)
    options = parser.parse_args()
    outcome = churn(
        options.bootstrap,
        options.protocols.split(","),
        seconds=options.seconds,
        seed=options.seed,
        session_ms=options.session_ms,
    )
    print(
        f"seed {options.seed}: {outcome.sent} records, {len(outcome.lost)} lost, {outcome.twice} read again; "
        f"{outcome.killed} members killed, {outcome.paused} paused, {outcome.stopped} stopped; "
        f"committed offsets that went backward: {len(outcome.backward)}"
    )
    for line in outcome.backward[:10]:
        print(line)
    return 0 if outcome.good else 1


if __name__ == "__main__":
    sys.exit(main())
