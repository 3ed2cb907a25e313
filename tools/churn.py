"""Churn: members of one group are killed, paused and started at random, of either protocol or of both at once.

    python -m tools.churn [--bootstrap HOST:PORT] [--seconds 60] [--members classic,java-consumer,...] [--seed N]

Members are processes of confluent-kafka, of ``logd.client`` and of Kafka's VerifiableConsumer in Java that write down
what they read before they commit it. At the end every record must have been read at least once, and no committed offset
may ever have gone backward. Without ``--bootstrap`` a server of this checkout is started, which ``--kill-server``
kills with SIGKILL now and then. Prints one line; exit status 1 when something was lost. The short run is a test
(``tests/clients/test_churn.py``).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

from tools import apache_kafka
from tools.faults.server import Server

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
JAVA: Mapping[str, Sequence[str]] = {
    "java-classic": (),
    "java-cooperative": (
        "--assignment-strategy",
        "org.apache.kafka.clients.consumer.CooperativeStickyAssignor",
    ),
    "java-consumer": ("--group-protocol", "CONSUMER"),
}
OWN = {"logd-classic": "classic", "logd-consumer": "consumer"}
EVERY = (*KINDS, *JAVA, *OWN)
JVM_OPTIONS = ("-Xmx128m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xshare:auto")
DOWN_S_MAX = 3.0
SERVER_KILLED = 0.08  # of all acts


def settings_for(session_ms: int) -> dict[str, str]:
    """Settings of a server whose groups notice soon that a member has gone."""
    return {
        "group.min.session.timeout.ms": "1000",
        "group.consumer.min.session.timeout.ms": str(session_ms),
        "group.consumer.session.timeout.ms": str(session_ms),
        "group.consumer.min.heartbeat.interval.ms": "100",
        "group.consumer.heartbeat.interval.ms": str(max(session_ms // 10, 100)),
    }


def java_member(bootstrap: str, group: str, topic: str, kind: str, session_ms: int) -> list[str]:
    """The command line of a member in Java."""
    libs = apache_kafka.installed_libs()
    assert libs is not None, "Kafka's jars are not here (python tools/apache_kafka.py fetch)"
    arguments = ["--bootstrap-server", bootstrap, "--group-id", group, "--topic", topic, *JAVA[kind]]
    if kind != "java-consumer":
        arguments += ["--session-timeout", str(session_ms)]
    main_class = "org.apache.kafka.tools.VerifiableConsumer"
    return apache_kafka.java_command(main_class, arguments, libs=libs, options=JVM_OPTIONS)


async def own_member(bootstrap: str, group: str, topic: str, kind: str, session_ms: int, read: Path) -> None:
    """One member of logd's own client; until SIGTERM."""
    import trio

    from logd import client
    from logd.errors import Refused

    membership = client.GroupSettings(
        protocol=OWN[kind],
        session_timeout_ms=session_ms,
        heartbeat_ms=max(session_ms // 10, 50),
        auto_commit_ms=0,
    )
    with trio.open_signal_receiver(signal.SIGTERM) as signals, read.open("a", buffering=1) as target:
        async with trio.open_nursery() as nursery:

            async def consume() -> None:
                async with client.Consumer(bootstrap, topic, group=group, membership=membership) as consumer:
                    taken = 0
                    async for record in consumer:
                        target.write(f"{record.partition} {record.offset}\n")
                        taken += 1
                        if taken % COMMIT_EVERY == 0:
                            with suppress(client.ClientError, Refused):
                                await consumer.commit()

            nursery.start_soon(consume)
            async for _ in signals:
                nursery.cancel_scope.cancel()


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


def _places(line: str) -> Iterator[tuple[int, int]]:
    """What a member wrote down: "partition offset", or in Java a JSON object with ranges; half a line says nothing."""
    partition, _, offset = line.partition(" ")
    if offset.isdigit():
        yield int(partition), int(offset)
    elif line.endswith("}") and '"records_consumed"' in line:
        for each in json.loads(line)["partitions"]:
            for number in range(each["minOffset"], each["maxOffset"] + 1):
                yield each["partition"], number


@dataclass
class Outcome:
    """What came of a run."""

    sent: int = 0
    read: int = 0
    twice: int = 0
    killed: int = 0
    paused: int = 0
    stopped: int = 0
    servers_killed: int = 0
    unanswered: int = 0
    lost: list[tuple[int, int]] = field(default_factory=list)
    backward: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        return not self.lost and not self.backward


class Churn:
    """One run."""

    def __init__(
        self,
        bootstrap: str,
        kinds: Sequence[str],
        seed: int,
        session_ms: int,
        directory: Path,
        server: Server | None = None,
    ) -> None:
        self.bootstrap = bootstrap
        self.kinds = kinds
        self.chance = random.Random(seed)
        self.session_ms = session_ms
        self.directory = directory
        self.server = server
        self.topic = self.group = f"churn-{uuid.uuid4().hex[:8]}"
        self.members: list[subprocess.Popen[bytes]] = []
        self.resume: list[tuple[float, subprocess.Popen[bytes]]] = []
        self.outcome = Outcome()
        self.committed: dict[int, int] = {}
        self.admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
        self.producer = Producer({"bootstrap.servers": bootstrap, "log_level": 0, "enable.idempotence": True})

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
                    if self.server is not None and self.chance.random() < SERVER_KILLED:
                        self._kill_server()
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
        if kind in JAVA:
            command = java_member(self.bootstrap, self.group, self.topic, kind, self.session_ms)
        else:
            arguments = [self.bootstrap, self.group, self.topic, kind, str(self.session_ms), str(file)]
            command = [sys.executable, "-m", "tools.churn", "member", *arguments]
        errors = self.directory / f"said-{file.name}-{kind}"
        with (file if kind in JAVA else errors).open("a") as out, errors.open("a") as said:
            self.members.append(subprocess.Popen(command, stdout=out, stderr=said, cwd=ROOT))

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

    def _kill_server(self) -> None:
        assert self.server is not None
        self.server.kill()
        time.sleep(self.chance.uniform(0, DOWN_S_MAX))
        self.server.start()
        self.outcome.servers_killed += 1
        self.admin = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})  # librdkafka's may stay cut off

    def _look(self) -> None:
        """No committed offset may go backward."""
        wanted = [TopicPartition(self.topic, index) for index in range(PARTITIONS)]
        request = ConsumerGroupTopicPartitions(self.group, wanted)
        try:
            found = self.admin.list_consumer_group_offsets([request])[self.group].result(30)
        except (KafkaException, TimeoutError):
            self.outcome.unanswered += 1
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
                for place in _places(line):
                    seen.add(place)
                    lines += 1
        self.outcome.read, self.outcome.twice = len(seen), lines - len(seen)
        return seen

    def _judge(self) -> None:
        per = [
            self.outcome.sent // PARTITIONS + (index < self.outcome.sent % PARTITIONS) for index in range(PARTITIONS)
        ]
        every = {(index, offset) for index in range(PARTITIONS) for offset in range(per[index])}
        self.outcome.lost = sorted(every - self._read())


def churn(
    bootstrap: str,
    kinds: Sequence[str],
    *,
    seconds: float,
    seed: int,
    session_ms: int,
    server: Server | None = None,
    keep: Path | None = None,
) -> Outcome:
    """Run once; see the module. `server` is killed in between; `keep` is where to leave what was said."""
    with contextlib.ExitStack() as stack:
        directory = keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        return Churn(bootstrap, kinds, seed, session_ms, directory, server).run(seconds)


def _be_member(bootstrap: str, group: str, topic: str, kind: str, session_ms: str, read: str) -> int:
    if kind in OWN:
        import trio

        trio.run(own_member, bootstrap, group, topic, kind, int(session_ms), Path(read))
    else:
        member(bootstrap, group, topic, kind, int(session_ms), Path(read))
    return 0


def main() -> int:
    if sys.argv[1:2] == ["member"]:
        return _be_member(*sys.argv[2:])
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--bootstrap", help="a server that runs; else one of this checkout is started")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--members", default=",".join(KINDS), help=f"some of {', '.join(EVERY)}")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    parser.add_argument("--session-ms", type=int, default=6_000)
    parser.add_argument("--kill-server", action="store_true", help="SIGKILL the server that was started, now and then")
    parser.add_argument("--keep", type=Path, help="an empty directory for what members read and said")
    options = parser.parse_args()
    kinds = options.members.split(",")
    if unknown := set(kinds) - set(EVERY):
        parser.error(f"no such members: {', '.join(sorted(unknown))}; there are {', '.join(EVERY)}")
    with contextlib.ExitStack() as stack:
        server, bootstrap = None, options.bootstrap
        if bootstrap is None:
            data = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "data"
            server = stack.enter_context(Server(data, settings=settings_for(options.session_ms)))
            server.start()
            bootstrap = server.bootstrap
        outcome = churn(
            bootstrap,
            kinds,
            seconds=options.seconds,
            seed=options.seed,
            session_ms=options.session_ms,
            server=server if options.kill_server else None,
            keep=options.keep,
        )
    print(
        f"seed {options.seed}: {outcome.sent} records, {len(outcome.lost)} lost, {outcome.twice} read again; "
        f"{outcome.killed} members killed, {outcome.paused} paused, {outcome.stopped} stopped; "
        f"server killed {outcome.servers_killed} times; committed offsets that went backward: {len(outcome.backward)}"
    )
    for line in [*outcome.backward[:10], *map(str, outcome.lost[:10])]:
        print(line)
    return 0 if outcome.good else 1


if __name__ == "__main__":
    sys.exit(main())
