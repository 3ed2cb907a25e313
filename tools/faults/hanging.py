"""Transactions whose producers die, and a server that is killed: how long the last stable offset stays behind them.

In each round producers begin transactions with short timeouts, write to all partitions and are never heard of again;
in every second round the server is killed meanwhile and started. A watcher asks for the last stable offsets all the
time. What counts is how long after a transaction's timeout its records are still not passed, or after the server is
ready, where it was away when the timeout came. What is not passed in PATIENCE_S is an anomaly; ``on`` gives other
seconds than these.
"""

from __future__ import annotations

import contextlib
import random
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path

from logd.wire.schemas.list_offsets import ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic
from tools.faults.conversation import Gone, Told
from tools.faults.history import Acknowledged
from tools.faults.peer import Peer, now_ms
from tools.faults.report import Report, late
from tools.faults.server import Server
from tools.faults.transactions import Transactor

TOPIC, PARTITIONS = "hanging", 4
PRODUCERS = 25
TIMEOUTS_MS = (300, 700, 1500)
PATIENCE_S = 30.0
PAUSE_S = 0.01
READ_COMMITTED, LATEST = 1, -1


@dataclass(frozen=True, slots=True)
class Left:
    """A record of a transaction that nobody will end, and when its timeout has passed at the latest."""

    transaction: str
    partition: str
    offset: int
    due_s: float


class Watcher:
    """A thread that asks for the last stable offsets, and when each was first seen."""

    def __init__(self, server: Server) -> None:
        self.seen: dict[str, list[tuple[float, int]]] = {f"{TOPIC}-{index}": [] for index in range(PARTITIONS)}
        self.server = server
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._done.is_set():
            with contextlib.suppress(Gone), Peer(self.server.bootstrap) as peer:
                while not self._done.wait(PAUSE_S):
                    self._look(peer)
            self._done.wait(PAUSE_S)

    def _look(self, peer: Peer) -> None:
        rows = [ListOffsetsPartition(index, -1, LATEST) for index in range(PARTITIONS)]
        answer = peer.ask(ListOffsetsRequest(-1, READ_COMMITTED, [ListOffsetsTopic(TOPIC, rows)]), 2)
        for row in answer.topics[0].partitions:
            seen = self.seen[f"{TOPIC}-{row.partition_index}"]
            if not row.error_code and (not seen or row.offset > seen[-1][1]):
                seen.append((time.monotonic(), row.offset))

    def passed(self, left: Left) -> float | None:
        """When the last stable offset was seen beyond a record; None for not yet."""
        return next((at for at, offset in [*self.seen[left.partition]] if offset > left.offset), None)

    def stop(self) -> None:
        self._done.set()
        self._thread.join()


def run(seed: int, rounds: int, directory: Path, on: str = f"{PATIENCE_S:g}") -> Report:
    """``rounds`` times 25 producers that die, with a kill of the server in every second round."""
    chance = random.Random(seed)
    report = Report("hanging", seed)
    report.figures |= {"server_kills": 0, "past_s_max": 0.0, "past_s_max_with_kills": 0.0}
    with Server(directory / "data") as server:
        server.start()
        with Peer(server.bootstrap) as peer:
            peer.create(TOPIC, PARTITIONS)
        watcher = Watcher(server)
        try:
            for number in range(rounds):
                if late():
                    break
                kills = number % 2 == 1
                left = _leave(watcher, chance, f"{seed}.{number}", chance.randrange(PRODUCERS) if kills else -1, report)
                report.faults += len({one.transaction for one in left})
                _wait(watcher, left, float(on), "past_s_max_with_kills" if kills else "past_s_max", report)
        finally:
            watcher.stop()
        if server.stop():
            report.wrong("crashed", server.log_end())
    return report


def _leave(watcher: Watcher, chance: random.Random, name: str, killed_at: int, report: Report) -> list[Left]:
    """Begin transactions and leave them; the server is killed after one of them, and started a moment later."""
    server = watcher.server
    left: list[Left] = []
    for number in range(PRODUCERS):
        timeout_ms = chance.choice(TIMEOUTS_MS)
        events: list[object] = []
        places = [(TOPIC, index) for index in range(PARTITIONS)]
        producer = Transactor(f"{name}.{number}", places, events, timeout_ms)  # type: ignore[arg-type]
        try:
            with Peer(server.bootstrap) as peer:
                peer.hold(producer.begin())
                peer.hold(producer.open(2, now_ms()))
        except (Gone, Told) as why:
            report.notes.append(f"{producer.name}: {why!r}")
        due_s = time.monotonic() + timeout_ms / 1000
        left += [
            Left(producer.name, one.partition, one.offset, due_s) for one in events if isinstance(one, Acknowledged)
        ]
        if number == killed_at:
            server.kill()
            report.count("server_kills")
            time.sleep(chance.random() * 0.5)
            report.longest("ready_s_max", server.start())
            ready_s = time.monotonic()
            left = [one if watcher.passed(one) else replace(one, due_s=max(one.due_s, ready_s)) for one in left]
    return left


def _wait(watcher: Watcher, left: list[Left], patience_s: float, figure: str, report: Report) -> None:
    """Until all is passed; how long that took after the timeouts."""
    end = max(one.due_s for one in left) + patience_s
    for one in left:
        while (at := watcher.passed(one)) is None and time.monotonic() < end:
            time.sleep(PAUSE_S)
        past_s = (time.monotonic() if at is None else at) - one.due_s
        report.longest(figure, max(0.0, past_s))
        if at is None:
            report.wrong("stuck-stable-offset", f"{one.partition}@{one.offset}: {past_s:.2f} s past the timeout")
