"""The worker process: it does what the same code does here, it can be lost, and it says what went wrong."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

import pytest

from logd.errors import Corrupt, StorageFailed, WorkerLost
from logd.jobs import process
from logd.jobs.compaction import assess, compact, task_of
from logd.jobs.process import WorkerProcess
from logd.jobs.worker import Finish, Group, Outcome, Start
from logd.log.cleaner import Piece
from logd.log.log import Log, LogConfig
from tests.log.batches import TOPIC_ID
from tests.log.compacting import RULES, Held, pairs_of, put, roll

CONFIG = LogConfig(compacted=True)


@pytest.fixture
def worker() -> Iterator[WorkerProcess]:
    worker = WorkerProcess()
    yield worker
    worker.end()


@pytest.fixture
def log(tmp_path: Path) -> Log:
    log = Log.create(str(tmp_path / "t-0"), TOPIC_ID, CONFIG, now_ms=0)
    for number in range(50):
        put(log, (f"k{number % 7}", str(number)), ("same", str(number)))
    roll(log)
    return log


def start(log: Log) -> Start:
    return Start(task_of(log, assess(Held(log), RULES, 0), RULES, 0))


def test_compacts_in_another_process(log: Log, worker: WorkerProcess) -> None:
    """A log is cleaned through the process, which is started again after a rest."""
    for _ in range(2):
        held = Held(log)
        for work in compact(held, RULES, assess(held, RULES, 0), 0, worker):
            work()
        worker.rest()
        assert len(pairs_of(log)) == 8
        put(log, ("k0", "again"))
        roll(log)
    assert log.end_offset == 102


def test_what_is_wrong_arrives(log: Log, worker: WorkerProcess) -> None:
    """Damage and a disk that fails come back as the errors they are."""
    path = Path(log.segments[0].log_path)
    data = bytearray(path.read_bytes())
    data[200] ^= 1
    path.write_bytes(data)
    with pytest.raises(Corrupt) as corrupt:
        worker.ask(start(log))
    assert corrupt.value.path == str(path)
    path.unlink()
    with pytest.raises(StorageFailed):
        worker.ask(start(log))


def test_a_bug_arrives(worker: WorkerProcess) -> None:
    """An order that makes no sense is answered with what happened; the process lives."""
    with pytest.raises(WorkerLost, match="a group before its log"):
        worker.ask(Group([Piece(0, 1, 1)]))
    assert worker.ask(Finish()).failure is None


def test_lost_and_started_again(log: Log, worker: WorkerProcess) -> None:
    """A process that was killed is an error of what it did; the next order starts another one."""
    worker.ask(Finish())
    assert worker.process_id is not None
    os.kill(worker.process_id, 9)
    with pytest.raises(WorkerLost):
        worker.ask(start(log))
    assert worker.ask(start(log)).surveyed is not None


def test_interrupted_at_work(log: Log, worker: WorkerProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits for it is free at once; it is no fault of the next log's, also where nobody waited."""
    worker.interrupt()  # there is none
    worker.take_on()
    worker.ask(Finish())
    assert worker.process_id is not None
    os.kill(worker.process_id, signal.SIGSTOP)
    waits, answer = threading.Event(), worker._answer

    def answering(stream: IO[bytes]) -> Outcome:
        waits.set()
        return answer(stream)

    monkeypatch.setattr(worker, "_answer", answering)
    with ThreadPoolExecutor(1) as threads:
        asking = threads.submit(worker.ask, start(log))
        waits.wait()
        worker.interrupt()
        with pytest.raises(WorkerLost):
            asking.result()
    worker.take_on()
    assert worker.ask(start(log)).surveyed is not None
    worker.interrupt()
    worker.take_on()
    assert worker.ask(start(log)).surveyed is not None


def test_interrupted_before_the_first_order(log: Log, worker: WorkerProcess) -> None:
    """The word is not lost that comes before the thread which is to ask has begun; nor is it left to the next log."""
    worker.take_on()
    worker.interrupt()
    with pytest.raises(WorkerLost):
        worker.ask(start(log))
    assert worker.process_id is None
    worker.take_on()
    assert worker.ask(start(log)).surveyed is not None


def test_interrupted_as_it_is_started(log: Log, worker: WorkerProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    """The word is not lost that comes before the process can be killed: no survey is made that nobody wants."""
    popen = subprocess.Popen

    def starting(*args: Any, **how: Any) -> subprocess.Popen[bytes]:
        begun: subprocess.Popen[bytes] = popen(*args, **how)
        worker.interrupt()
        return begun

    with monkeypatch.context() as patched:
        patched.setattr(subprocess, "Popen", starting)
        with pytest.raises(WorkerLost):
            worker.ask(start(log))
    assert worker.process_id is None
    worker.take_on()
    assert worker.ask(start(log)).surveyed is not None


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EAGAIN, errno.ENOMEM])
def test_cannot_be_started_now(worker: WorkerProcess, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Without descriptors, processes or memory for it, that is told as the system's refusal; later it is started."""

    def refuse(*args: object, **how: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patched:
        patched.setattr(subprocess, "Popen", refuse)
        with pytest.raises(StorageFailed) as refused:
            worker.ask(Finish())
    assert refused.value.cause.errno == number
    assert worker.ask(Finish()).failure is None


def test_no_threads_now(worker: WorkerProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the process gets no threads that is no fault of the log's, to be given up: later there are some."""
    with monkeypatch.context() as patched:
        patched.setattr(process, "MODULE", "tests.jobs.threadless")
        with pytest.raises(StorageFailed, match="no threads") as refused:
            worker.ask(Finish())
    assert refused.value.cause.errno == errno.EAGAIN
    assert worker.ask(Finish()).failure is None


def test_is_told_what_to_leave_free() -> None:
    """The process knows what the node was set to leave free of its disks."""
    worker = WorkerProcess(4321)
    try:
        worker.ask(Finish())
        assert Path(f"/proc/{worker.process_id}/cmdline").read_bytes().rstrip(b"\0").endswith(b"\x004321")
    finally:
        worker.end()


def test_ended(worker: WorkerProcess) -> None:
    """After the end nothing is started any more."""
    worker.end()
    with pytest.raises(WorkerLost, match="stopping"):
        worker.ask(Finish())


def test_says_how_far_it_is(log: Log, worker: WorkerProcess) -> None:
    """While it works it says how much it has read; the next log begins at nothing."""
    for _ in range(40):
        put(log, ("large", "v" * 1_000_000))
    roll(log)
    held = Held(log)
    dirt = assess(held, RULES, 0)
    seen = []
    for work in compact(held, RULES, dirt, 0, worker):
        work()
        seen.append(worker.passed_bytes)
    assert dirt.dirty_bytes // 2 < seen[0] <= dirt.dirty_bytes
    assert dirt.dirty_bytes * 3 // 2 < seen[-1] <= dirt.dirty_bytes * 2
    assert seen == sorted(seen)
    worker.ask(start(log))
    assert worker.passed_bytes < seen[0]


def test_interrupted(worker: WorkerProcess, capfd: pytest.CaptureFixture[str]) -> None:
    """Ctrl-C on a terminal reaches the process too: it ends without a word, and who waits for it need not."""
    worker.ask(Finish())
    assert worker.process_id is not None
    os.kill(worker.process_id, signal.SIGINT)
    with pytest.raises(WorkerLost):
        worker.ask(Finish())
    assert capfd.readouterr().err == ""
