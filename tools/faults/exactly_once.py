"""kill -9 of the server and of workers that copy a topic in transactions: each input record is there exactly once.

The workers (:mod:`tools.faults.relay`) are processes of their own with confluent-kafka alone. Each round fills the
input up, waits a random moment, kills the server, a worker or both, starts what was killed and waits for the next
commit of every worker. A worker that commits nothing for STUCK_S while the server runs is counted as ``stuck``, one
that ends by itself as ``gave_up``; both are begun anew and named in the report. At the end all has been copied.
"""

from __future__ import annotations

import contextlib
import json
import random
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from tools.faults import history
from tools.faults.history import (
    ABORTED,
    COMMITTED,
    Acknowledged,
    Anomaly,
    Ended,
    Ending,
    Event,
    OffsetCommitted,
    OffsetFetched,
    OffsetTried,
    Polled,
    Read,
    Sent,
)
from tools.faults.peer import Peer
from tools.faults.report import Report, Skipped, late, only_first
from tools.faults.server import ROOT, Server

SOURCE, TARGET, GROUP = "input", "output", "relays"
PARTITIONS, WORKERS = 4, 2
AHEAD = 4000
"""Records of a partition that wait to be copied when a round begins."""
STUCK_S = 8.0
PATIENCE_S = 60.0
QUICK = {"log_level": 0, "reconnect.backoff.ms": 5, "reconnect.backoff.max.ms": 50, "retry.backoff.ms": 10}


class Worker:
    """One transactional id, and the processes that work under it one after the other."""

    def __init__(self, number: int, directory: Path, events: list[Event]) -> None:
        self.name = f"relay{number}"
        self.log = directory / f"{self.name}.log"
        self.copied = dict.fromkeys(range(number, PARTITIONS, WORKERS), 0)
        """How many records of each of its input partitions are known to be copied."""
        self.commits = 0
        self.lives = 0
        self.step = ""
        self.failure = ""
        self._events = events
        self._open: tuple[str, list[tuple[int, int, str]]] = ("", [])
        self._process: subprocess.Popen[str] | None = None
        self._thread = threading.Thread()

    def start(self, bootstrap: str) -> None:
        """Begin a process."""
        command = [sys.executable, "-m", "tools.faults.relay", bootstrap, self.name, json.dumps([*self.copied])]
        with self.log.open("a") as log:
            self._process = subprocess.Popen(
                command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
            )
        self.failure, self.step = "", "start"
        self.lives += 1
        self._thread = threading.Thread(target=self._listen, args=[self._process.stdout, self._process.stdin])
        self._thread.start()

    def kill(self) -> None:
        """SIGKILL; what was open and whose commit was not begun counts as aborted."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        self._thread.join()
        assert process.stdout is not None
        assert process.stdin is not None
        process.stdout.close()
        with contextlib.suppress(OSError):
            process.stdin.close()
        if self._open[0] and self.step != "committing":
            self._events.append(Ended(self._open[0], ABORTED))
        self._open = ("", [])

    @property
    def ended(self) -> bool:
        """Whether its process is gone by itself."""
        return self._process is not None and self._process.poll() is not None

    def _listen(self, lines: Any, answers: Any) -> None:
        for line in lines:
            if line.endswith("\n"):
                self._told(*json.loads(line))
                if self.step == "committing":
                    with contextlib.suppress(OSError):
                        answers.write("noted\n")
                        answers.flush()

    def _told(self, step: str, what: Any, taken: Any = ()) -> None:
        self.step = step
        match step:
            case "failed":
                self.failure = what
            case "from":
                for partition, offset in what.items():
                    self.copied[int(partition)] = offset
                    self._events.append(OffsetFetched(GROUP, f"{SOURCE}-{partition}", offset or -1))
            case "begin":
                self._open = (what, [tuple(one) for one in taken])
                self._events += [Sent(self.name, *self._named(one), what) for one in self._open[1]]
            case "committing":
                ends = self._ends().items()
                self._events += [OffsetTried(GROUP, f"{SOURCE}-{one}", offset) for one, offset in ends]
                self._events.append(Ending(what))
            case "committed":
                self._committed()
            case "aborted":
                self._events.append(Ended(what, ABORTED))
                self._open = ("", [])

    def _named(self, one: tuple[int, int, str]) -> tuple[str, str]:
        return f"{TARGET}-{one[0]}", f"{one[2]}@{self._open[0]}"

    def _ends(self) -> dict[int, int]:
        return {partition: offset + 1 for partition, offset, _ in self._open[1]}

    def _committed(self) -> None:
        self._events += [Acknowledged(*self._named(one)) for one in self._open[1]]
        self._events += [OffsetCommitted(GROUP, f"{SOURCE}-{one}", offset) for one, offset in self._ends().items()]
        self._events.append(Ended(self._open[0], COMMITTED))
        self.copied |= self._ends()
        self._open = ("", [])
        self.commits += 1


class Reader:
    """A thread that reads the output, committed records only, from the start and through all kills."""

    def __init__(self, bootstrap: str, events: list[Event]) -> None:
        self._consumer = consumer(bootstrap, "reader")
        self._events = events
        self._next = [0] * PARTITIONS
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.is_set():
            for message in self._consumer.consume(500, 0.05):
                if message.error() is None:
                    place = f"{TARGET}-{message.partition()}"
                    self._events.append(Polled("reader", place, message.offset(), message.value().decode(), True))
                    self._next[message.partition()] = message.offset() + 1

    def until(self, last: list[tuple[int, int, str]]) -> None:
        """Wait until it has come to the end of the last read; for PATIENCE_S at most."""
        ends = [max((offset + 1 for place, offset, _ in last if place == one), default=0) for one in range(PARTITIONS)]
        end = time.monotonic() + PATIENCE_S
        while any(at < wanted for at, wanted in zip(self._next, ends, strict=True)) and time.monotonic() < end:
            time.sleep(0.005)

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._consumer.close()


class Round:
    """What a run has at hand: the server, the workers, the input."""

    def __init__(self, server: Server, directory: Path, chance: random.Random, report: Report) -> None:
        from confluent_kafka import Producer

        self.server, self.chance, self.report = server, chance, report
        self.events: list[Event] = []
        self.workers = [Worker(number, directory, self.events) for number in range(WORKERS)]
        self.filled = [0] * PARTITIONS
        options = {"enable.idempotence": True, "linger.ms": 5}
        self._filler: Any = Producer({"bootstrap.servers": server.bootstrap, **QUICK, **options})

    def fill(self) -> None:
        """Have AHEAD records wait in each partition of the input."""
        failures: list[str] = []
        for worker in self.workers:
            for partition, copied in worker.copied.items():
                for number in range(self.filled[partition], copied + AHEAD):
                    self._filler.produce(
                        SOURCE,
                        f"{partition}:{number}".encode(),
                        partition=partition,
                        on_delivery=lambda error, _: failures.append(str(error)) if error is not None else None,
                    )
                self.filled[partition] = max(self.filled[partition], copied + AHEAD)
        if left := self._filler.flush(PATIENCE_S):
            failures.append(f"{left} in flight")
        if failures:
            raise TimeoutError(f"the input could not be written: {failures[:3]}")

    def kill(self) -> None:
        """Kill the server (at times again as soon as it is ready), a worker or both, and start them."""
        chosen = self.chance.choices(("server", "worker", "both"), (5, 3, 2))[0]
        worker = self.chance.choice(self.workers)
        time.sleep(self.chance.random() * 0.1)
        if chosen != "server":
            worker.kill()
            self.report.count("worker_kills")
        if chosen != "worker":
            for more in range(self.chance.choice((1, 1, 2, 3))):
                time.sleep(self.chance.random() * 0.1 if more else 0)
                self.server.kill()
                self.report.count("server_kills")
                self.report.longest("ready_s_max", self.server.start())
        if chosen != "server":
            worker.start(self.server.bootstrap)
        self.report.faults += 1

    def until_commit(self) -> None:
        """Wait until every worker has committed once more, or has nothing left."""
        before = [worker.commits for worker in self.workers]
        for worker, commits in zip(self.workers, before, strict=True):
            self._watch(worker, lambda worker=worker, commits=commits: worker.commits > commits)  # type: ignore[misc]

    def until_all(self) -> None:
        """Wait until all of the input is copied."""
        for worker in self.workers:
            self._watch(worker, lambda: False)

    def _watch(self, worker: Worker, enough: Any) -> None:
        commits, begun = worker.commits, time.monotonic()
        while not enough() and any(self.filled[one] > copied for one, copied in worker.copied.items()):
            if worker.commits > commits:
                commits, begun = worker.commits, time.monotonic()
            if worker.ended:
                self._anew(worker, "gave_up", worker.failure or "see its log")
            elif time.monotonic() - begun > STUCK_S:
                self._anew(worker, "stuck", f"no commit for {STUCK_S:g} s")
                begun = time.monotonic()
            time.sleep(0.005)
        self.report.longest("commit_s_max", time.monotonic() - begun)

    def _anew(self, worker: Worker, what: str, why: str) -> None:
        self.report.count(what)
        self.report.notes.append(f"{what}: {worker.name}, life {worker.lives}, at '{worker.step}': {why}")
        if self.report.figures[what] > 20:
            raise TimeoutError(f"{worker.name} comes to no end: {why}")
        worker.kill()
        worker.start(self.server.bootstrap)


def run(seed: int, rounds: int, directory: Path, on: str = "os") -> Report:
    """``rounds`` kills in one flush mode (``on``: os or group)."""
    try:
        import confluent_kafka  # noqa: F401
    except ImportError as error:
        raise Skipped("the package confluent-kafka is not installed") from error
    report = Report(f"exactly-once-{on}", seed)
    report.figures |= dict.fromkeys(("server_kills", "worker_kills", "stuck", "gave_up"), 0)
    with Server(directory / "data", settings={"log.flush.mode": on, "log.roll.ms": "3000"}) as server:
        server.start()
        with Peer(server.bootstrap) as peer:
            peer.create(SOURCE, PARTITIONS)
            peer.create(TARGET, PARTITIONS)
        task = Round(server, directory, random.Random(seed), report)
        with Reader(server.bootstrap, task.events) as reader:
            copy(task, rounds)
            last = read_to_end(server.bootstrap)
            reader.until(last)
        report.add(skipped(task.events, last))
        task.events += [Read(f"{TARGET}-{one[0]}", *one[1:], True) for one in last]
        with Peer(server.bootstrap) as peer:
            for one in range(PARTITIONS):
                task.events.append(OffsetFetched(GROUP, f"{SOURCE}-{one}", peer.committed(GROUP, SOURCE, one)))
        if server.stop():
            report.wrong("crashed", server.log_end())
    history.save(task.events, directory / "history.jsonl")
    report.figures["input"] = sum(task.filled)
    report.figures["polled"] = sum(isinstance(one, Polled) for one in task.events)
    report.figures["transactions"] = sum(worker.commits for worker in task.workers)
    report.figures["aborted"] = sum(isinstance(one, Ended) and one.outcome == ABORTED for one in task.events)
    begun = {one.transaction for one in task.events if isinstance(one, Sent)}
    report.figures["unknown"] = len(begun - {one.transaction for one in task.events if isinstance(one, Ended)})
    report.add(history.check(task.events))
    report.add(history.check(by_input(task.events, task.filled)), "input")
    return report


def copy(task: Round, rounds: int) -> None:
    """Have the workers copy everything, with so many kills on the way."""
    try:
        for worker in task.workers:
            worker.start(task.server.bootstrap)
        for _ in range(rounds):
            if late() or (only_first() and read_wrong(task.events)):
                break
            task.fill()
            task.kill()
            task.until_commit()
        task.until_all()
    except TimeoutError as failed:
        task.report.wrong("never-done", str(failed))
    finally:
        for worker in task.workers:
            worker.kill()


def read_wrong(events: list[Event]) -> bool:
    """Whether the reader was given what it must not be; what is missing may still come."""
    return any(one.kind in ("aborted-read", "early-read") for one in history.check(events))


def skipped(events: list[Event], last: list[tuple[int, int, str]]) -> list[Anomaly]:
    """What the last read finds and the reader that was there all the while was not given."""
    given = {(one.partition, one.offset) for one in events if isinstance(one, Polled)}
    missing = [one for one in last if (f"{TARGET}-{one[0]}", one[1]) not in given]
    return [Anomaly("skipped", f"the reader was not given {TARGET}-{one[0]}@{one[1]} ({one[2]})") for one in missing]


def by_input(events: list[Event], filled: list[int]) -> list[Event]:
    """The same last read with the inputs for values: each was promised, once and in its order."""
    seen: list[Event] = []
    for partition, count in enumerate(filled):
        place = f"{TARGET}-{partition}"
        for number in range(count):
            seen += [Sent("input", place, f"{partition}:{number}"), Acknowledged(place, f"{partition}:{number}")]
    for one in events:
        if isinstance(one, Read):
            seen.append(Read(one.partition, one.offset, one.value.partition("@")[0], True))
    return seen


def consumer(bootstrap: str, group: str) -> Any:
    """A consumer of the whole output from its start, of committed records."""
    from confluent_kafka import Consumer, TopicPartition

    from tools.faults.relay import STAYS

    options = {"group.id": group, "enable.partition.eof": True, "isolation.level": "read_committed"}
    options |= {"enable.auto.commit": False, "auto.offset.reset": "error"}
    found: Any = Consumer({"bootstrap.servers": bootstrap, **QUICK, **STAYS, **options})
    found.assign([TopicPartition(TARGET, one, 0) for one in range(PARTITIONS)])
    return found


def read_to_end(bootstrap: str) -> list[tuple[int, int, str]]:
    """Partition, offset and value of all that a read_committed consumer is given of the output."""
    reader = consumer(bootstrap, "last")
    found: list[tuple[int, int, str]] = []
    ended: set[int] = set()
    end = time.monotonic() + PATIENCE_S
    while len(ended) < PARTITIONS and time.monotonic() < end:
        message = reader.poll(0.2)
        if message is None:
            continue
        if message.error() is None:
            found.append((message.partition(), message.offset(), message.value().decode()))
        elif message.error().name() == "_PARTITION_EOF":
            ended.add(message.partition())
    reader.close()
    if len(ended) < PARTITIONS:
        raise TimeoutError(f"the last read came to the end of {sorted(ended)} only")
    return found
