"""Jobs that take longer than a request may: `retention run` and `compaction run` against a server that is at it."""

from __future__ import annotations

import logging
import os
import pty
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from logd.errors import ErrorCode
from logd.partitions.compactor import Compactor
from logd.partitions.housekeeping import Run
from logd.partitions.runs import RUNS_MAX, Runs
from logd.testing import Broker
from logd.wire.schemas.run_job import RunJobRequest, RunJobResponse
from tests.cli.conftest import COMMAND, environment, eventually, run, start
from tests.raw import Peer

COMPACTED = {"cleanup.policy": "compact", "segment.ms": "1"}
PATIENCE_S = 30.0


class Slow:
    """A compaction that ends when it is told to, or when it is released."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.released = threading.Event()
        self.stopped = threading.Event()
        self.asked = 0

    async def clean(self, compactor: Compactor, partition: object, stop: Callable[[], bool]) -> None:
        self.begun.set()
        while not self.released.is_set() and not stop():
            await trio.to_thread.run_sync(self.released.wait, 0.001)
        if stop():
            self.stopped.set()


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Slow:
    slow = Slow()
    found = Runs.find

    def find(runs: Runs, number: int) -> Run:
        slow.asked += 1
        return found(runs, number)

    async def clean(compactor: Compactor, partition: object, stop: Callable[[], bool]) -> None:
        await slow.clean(compactor, partition, stop)

    monkeypatch.setattr(Compactor, "clean_now", clean)
    monkeypatch.setattr(Compactor, "passed_bytes", lambda compactor, partition: 7)
    monkeypatch.setattr(Runs, "find", find)
    return slow


@pytest.fixture
def broker(slow: Slow) -> Iterator[Broker]:
    """A broker with a log that has something to compact."""
    with Broker({"log.cleaner.enable": "false"}) as broker:
        broker.create_topic("keys", configs=COMPACTED)
        for number in range(4):
            broker.produce("keys", str(number), key="k", timestamp_ms=number * 1000)
        assert eventually(lambda: run(broker.bootstrap, "compaction", "run", "--dry-run").rows != [], PATIENCE_S)
        slow.asked = 0
        yield broker


def test_longer_than_a_request_may_take(broker: Broker, slow: Slow) -> None:
    """A job goes on, and is waited for, past the time limit of requests."""
    with start(broker.bootstrap, "compaction", "run", "--timeout", "1") as command:
        assert eventually(lambda: slow.asked >= 6, PATIENCE_S)  # each of them waits for half a second
        slow.released.set()
        out, err = command.communicate(timeout=PATIENCE_S)
    assert (command.returncode, out.split(b"\t")[:2]) == (0, [b"keys", b"0"]), err
    assert not slow.stopped.is_set()


def test_interrupted(broker: Broker, slow: Slow) -> None:
    """Ctrl-C ends the command at once, and the job where it can end."""
    with start(broker.bootstrap, "compaction", "run") as command:
        assert slow.begun.wait(PATIENCE_S)
        assert eventually(lambda: slow.asked >= 2, PATIENCE_S)  # the command knows its number
        command.send_signal(signal.SIGINT)
        _, err = command.communicate(timeout=PATIENCE_S)
    assert command.returncode == 130
    assert b"after the segment it is at" in err
    assert slow.stopped.wait(PATIENCE_S)


def ask(peer: Peer, **more: Any) -> RunJobResponse:
    answer: RunJobResponse = peer.ask(RunJobRequest("compaction", **more), 0)
    return answer


def test_left_behind(broker: Broker, slow: Slow) -> None:
    """A job whose client has gone goes on to its end, and tells who asks with its number what it did."""
    with Peer(broker.bootstrap) as peer:
        number = ask(peer).job_id
        assert slow.begun.wait(PATIENCE_S)
        peer.send(RunJobRequest("compaction", job_id=number, wait_ms=1000), 0)
    with Peer(broker.bootstrap) as peer:
        assert not ask(peer, job_id=number, wait_ms=1).finished
        slow.released.set()
        assert eventually(lambda: ask(peer, job_id=number, wait_ms=1000).finished, PATIENCE_S)
        assert [one.topic for one in ask(peer, job_id=number).partitions] == ["keys"]
    assert not slow.stopped.is_set()


def test_bar(broker: Broker, slow: Slow) -> None:
    """On a terminal a bar says how far a job is, once it has taken a second."""
    master, slave = pty.openpty()
    with subprocess.Popen(
        [*COMMAND, "compaction", "run"], stdout=subprocess.PIPE, stderr=slave, env=environment(broker.bootstrap)
    ) as command:
        os.close(slave)
        shown = b""
        while b"compaction" not in shown:
            shown += os.read(master, 1000)
        slow.released.set()
        assert command.wait(PATIENCE_S) == 0
    os.close(master)
    assert b"%" in shown


def test_too_many(broker: Broker, slow: Slow) -> None:
    """Jobs that run are bounded; those that have ended make room, and one that was forgotten is told."""
    with Peer(broker.bootstrap) as peer:
        first, *others = [ask(peer).job_id for _ in range(RUNS_MAX)]
        assert ask(peer).error_code == ErrorCode.THROTTLING_QUOTA_EXCEEDED
        assert ask(peer, job_id=first, stop=True, wait_ms=1000).finished
        assert ask(peer).job_id == others[-1] + 1
        forgotten = ask(peer, job_id=first)
        assert (forgotten.error_code, "no job" in (forgotten.error_message or "")) == (ErrorCode.INVALID_REQUEST, True)
        slow.released.set()


def test_data_directory_of_a_killed_server(tmp_path: Path) -> None:
    """No leader has come after the one that wrote what a crash has left: it is as sound as at a start."""
    with Broker({"log.cleaner.enable": "false"}, tmp_path) as broker:
        broker.create_topic("keys", configs=COMPACTED)
        for number in range(4):
            broker.produce("keys", str(number), key="k", timestamp_ms=number * 1000)
        broker.stop(kill=True)
        level = logging.getLogger("logd").level
        ran = run("", "compaction", "run", "--data-dir", str(tmp_path))
        assert logging.getLogger("logd").level == level
        assert (ran.code, ran.rows[0][:2]) == (0, ["keys", "0"]), ran.err
        broker.start()
        assert broker.messages("keys", at_least=1)[-1].value == b"3"
