"""Requests of transactions that come when their transaction is over: they have no effect (KIP-890).

Kafka's Java producers (:mod:`Late.java`) commit and abort through a proxy (:mod:`tools.faults.holding`) that holds some
of their requests back and delivers each several times in later transactions. What is written is then read with both
isolation levels: each record at most once and in its order, those of committed transactions whole, of aborted ones
none, no transaction open; and the offsets of the groups never go back. ``--on`` is the transaction.version that the
server has finalized: with 2, the default, nothing late counts; below that some does: Kafka's known limit.
"""

from __future__ import annotations

import json
import random
import shutil
import subprocess
from pathlib import Path
from typing import Any

from logd.wire.batches import read_headers, read_records
from logd.wire.schemas.update_features import FeatureUpdateKey, UpdateFeaturesRequest
from tools.apache_kafka import KafkaUnavailable, fetch_libs, free_ports, java_command
from tools.faults import history
from tools.faults.conversation import Told
from tools.faults.history import (
    ABORTED,
    COMMITTED,
    Acknowledged,
    Ended,
    Event,
    OffsetCommitted,
    OffsetFetched,
    OffsetTried,
    Read,
    Sent,
)
from tools.faults.holding import Proxy
from tools.faults.peer import Peer
from tools.faults.report import Report, Skipped, late
from tools.faults.server import Server
from tools.faults.transactions import Transactor, committed_values

TOPIC, PARTITIONS, PRODUCERS = "late", 2, 4
HERE = Path(__file__).parent
TRANSACTIONS_MAX = 1_000_000
HEAP = ("-Xmx256m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")
NEWEST = "2"


class Writers:
    """The Java process, and the history that it tells."""

    def __init__(self, bootstrap: str, seed: int, directory: Path) -> None:
        libs = fetch_libs()
        arguments = [bootstrap, TOPIC, str(PARTITIONS), str(PRODUCERS), str(TRANSACTIONS_MAX), str(seed)]
        command = java_command(str(HERE / "Late.java"), arguments, libs=libs, options=HEAP)
        self.events: list[Event] = []
        self.transactions = 0
        self.anew: list[str] = []
        self._begun: dict[str, list[tuple[str, str]]] = {}
        self._commits: set[str] = set()
        self._log = (directory / "writers.log").open("w")
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self._log, text=True)

    def listen(self, until: Any) -> None:
        """Take in what they tell until ``until`` says so; raises TimeoutError when they are silent or gone."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._take(*json.loads(line))
            if until():
                return
        raise TimeoutError(f"the producers ended by themselves, exit code {self.process.wait()}")

    def kill(self) -> None:
        """End them; what they told before counts."""
        self.process.kill()
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.endswith("\n"):
                self._take(*json.loads(line))
        self.process.stdout.close()
        self.process.wait()
        self._log.close()
        self._close_all()

    def _take(self, step: str, name: str, what: Any, more: Any = None) -> None:
        match step:
            case "begin":
                self._begun[what] = [(f"{TOPIC}-{partition}", value) for partition, value in more]
                self.events += [Sent(name, place, value, what) for place, value in self._begun[what]]
            case "committing":
                self._commits.add(what)
                self.events += [OffsetTried(name, f"{TOPIC}-0", more)] if more >= 0 else []
            case "committed":
                self.events += [Acknowledged(place, value) for place, value in self._begun.pop(what)]
                self.events += [OffsetCommitted(name, f"{TOPIC}-0", more)] if more >= 0 else []
                self._end(what, COMMITTED)
            case "aborted":
                del self._begun[what]
                self._end(what, ABORTED)
            case "anew":
                self.anew.append(f"{what}: {more}")
                del self._begun[what]
                if what not in self._commits:
                    self._end(what, ABORTED)
            case "offset":
                self.events.append(OffsetFetched(name, f"{TOPIC}-0", what))

    def _end(self, transaction: str, outcome: str) -> None:
        self.transactions += 1
        self.events.append(Ended(transaction, outcome))

    def _close_all(self) -> None:
        """What was open when they were killed, and whose commit was not begun, is aborted."""
        for transaction in self._begun:
            if transaction not in self._commits:
                self.events.append(Ended(transaction, ABORTED))


def run(seed: int, rounds: int, directory: Path, on: str = NEWEST) -> Report:
    """``rounds`` times 25 late requests."""
    if shutil.which("java") is None:
        raise Skipped("java is not installed")
    try:
        fetch_libs()
    except KafkaUnavailable as why:
        raise Skipped(str(why)) from why
    report = Report(f"late-{on}", seed)
    proxy = Proxy(TOPIC, random.Random(seed), adds=on == NEWEST)
    settings = {"advertised.listeners": f"PLAINTEXT://127.0.0.1:{proxy.port}", "log.flush.mode": "os"}
    (port,) = free_ports(1)
    with Server(directory / "data", settings=settings) as server:
        server.bootstrap = f"127.0.0.1:{port}"
        server.start()
        with Peer(f"127.0.0.1:{port}") as peer:
            peer.create(TOPIC, PARTITIONS)
            if on != NEWEST:
                _choose(peer, int(on))
        proxy.start(port)
        writers = Writers(f"127.0.0.1:{proxy.port}", seed, directory)
        try:
            writers.listen(lambda: proxy.late.total() >= rounds * 25 or late())
        except TimeoutError as why:
            report.wrong("never-done", str(why))
        writers.kill()
        proxy.stop()
        _read(f"127.0.0.1:{port}", writers.events, report)
        if server.stop():
            report.wrong("crashed", server.log_end())
    history.save(writers.events, directory / "history.jsonl")
    for failure in proxy.failures:
        report.wrong("unanswered", failure)
    report.faults = proxy.late.total()
    report.figures |= {f"held_{kind}": count for kind, count in sorted(proxy.held.items())}
    report.figures |= {f"late_{kind}": count for kind, count in sorted(proxy.late.items())}
    report.figures |= {"transactions": writers.transactions, "producers_anew": len(writers.anew)}
    report.notes += [f"anew: {one}" for one in writers.anew[:5]]
    return report


def _choose(peer: Peer, level: int) -> None:
    """Finalize another transaction.version."""
    answer = peer.ask(
        UpdateFeaturesRequest(10_000, [FeatureUpdateKey("transaction.version", level, upgrade_type=2)]), 1
    )
    if answer.error_code:
        raise Told(answer.error_code, f"transaction.version {level}")


def _read(bootstrap: str, events: list[Event], report: Report) -> None:
    """Read all of it with both isolation levels once what was open is aborted, and look through the history."""
    with Peer(bootstrap) as peer:
        for number in range(PRODUCERS):
            peer.hold(Transactor(f"late{number}", [], []).begin())
        everything: list[Event] = [
            Sent(one.producer, one.partition, one.value) if isinstance(one, Sent) else one
            for one in events
            if isinstance(one, (Sent, Acknowledged))
        ]
        for index in range(PARTITIONS):
            found, beyond = peer.hold(committed_values(TOPIC, index))
            if beyond:
                report.wrong("hanging-transaction", f"{TOPIC}-{index}: {beyond} records")
            events += [Read(f"{TOPIC}-{index}", *one, True) for one in found]
            everything += [Read(f"{TOPIC}-{index}", *one) for one in _uncommitted(peer, index)]
    report.add(history.check(events), "read_committed")
    report.add(history.check(everything), "read_uncommitted")


def _uncommitted(peer: Peer, index: int) -> list[tuple[int, str]]:
    """Offset and value of all records, of markers none."""
    found: list[tuple[int, str]] = []
    for data in peer.batches(TOPIC, index).values():
        for position, header in read_headers(data):
            if not header.is_control:
                records = read_records(data[position : position + header.size], 0, bytes_max=1 << 22)
                found += [(one.offset, (one.value or b"").decode()) for one in records]
    return found
