"""The node's end of the worker process: starts it when it is first needed, asks it, ends it.

Used by ``partitions.compactor`` through the jobs, from a worker thread: :meth:`WorkerProcess.ask` waits. The process
is a fresh interpreter, never a fork of this one, and is gone between runs, so that it holds no memory.
"""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO

from logd.errors import Corrupt, StorageFailed, WorkerLost
from logd.jobs.worker import Finish, Group, Outcome, Start, decode_outcome, encode_order, framed, read_frame

MODULE = "logd.jobs.worker"
FRUGAL = {
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(64 << 20),
    "OPENBLAS_NUM_THREADS": "1",
}
"""For glibc: blocks of a few megabytes, which the worker takes and gives back all the time, are used again. Else each
would be mapped anew, and zeroing its pages takes longer than filling it. For numpy: no threads for the algebra that
nobody asks for; they spin for a while when they are started."""


class WorkerProcess:
    """One worker process, at most. ``free_bytes_min``: how much of a disk it leaves free, 0 for nothing."""

    def __init__(self, free_bytes_min: int = 0) -> None:
        self._free_bytes_min = free_bytes_min
        self._process: subprocess.Popen[bytes] | None = None
        self._guard = threading.Lock()
        self._ended = False
        self._interrupted = False
        self._spoilt = False
        """Whether it was interrupted for a log before this one."""
        self.passed_bytes = 0
        """How much of the log it works on has been read, twice what is dirty and once what is clean when all is."""

    @property
    def process_id(self) -> int | None:
        """The process that is there now."""
        return self._process.pid if self._process is not None else None

    def ask(self, order: Start | Group | Finish) -> Outcome:
        """Have an order carried out and return the answer; waits, so for a worker thread.

        :raises Corrupt, StorageFailed: what the worker met, or why it cannot be started now.
        :raises WorkerLost: it ended, or has a bug.
        """
        if isinstance(order, Start):
            self.passed_bytes = 0
            if self._spoilt:
                self._spoilt = False
                self.rest()
        process = self._started()
        if self._interrupted:
            raise self._lost("it was interrupted")
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(framed(encode_order(order)))
            process.stdin.flush()
            outcome = self._answer(process.stdout)
        except (OSError, ValueError) as cause:
            raise self._lost(str(cause)) from cause
        failure = outcome.failure
        if failure is None:
            return outcome
        if failure.kind == "corrupt":
            raise Corrupt(failure.path, failure.position, failure.text)
        if failure.kind == "storage":
            raise StorageFailed(failure.path, OSError(failure.position, failure.text, failure.path))
        raise WorkerLost(failure.text)

    def _answer(self, stream: IO[bytes]) -> Outcome:
        while (data := read_frame(stream)) is not None:
            outcome = decode_outcome(data)
            if outcome.passed_bytes is None:
                return outcome
            self.passed_bytes = outcome.passed_bytes
        raise OSError("it ended without an answer")

    def _started(self) -> subprocess.Popen[bytes]:
        with self._guard:
            if self._ended:
                raise WorkerLost("the node is stopping")
            if self._process is None:
                package = str(Path(__file__).parents[2])
                paths = os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH"))))
                try:
                    self._process = subprocess.Popen(
                        [sys.executable, "-m", MODULE, str(self._free_bytes_min)],
                        stdin=subprocess.PIPE,
                        stdout=subprocess.PIPE,
                        env={**FRUGAL, **os.environ, "PYTHONPATH": paths},
                    )
                except OSError as cause:  # no descriptor, process or memory to be had
                    raise StorageFailed(sys.executable, cause) from cause
            return self._process

    def _lost(self, why: str) -> WorkerLost | StorageFailed:
        process = self._process
        self.rest()
        if process is not None and process.returncode == os.EX_TEMPFAIL:
            return StorageFailed(sys.executable, OSError(errno.EAGAIN, "it was given no threads"))
        return WorkerLost(f"the worker process is lost: {why}")

    def take_on(self) -> None:
        """Called on the event loop before a log's first order: from here on :meth:`interrupt` is about that log."""
        self._spoilt = self._spoilt or self._interrupted
        self._interrupted = False

    def interrupt(self) -> None:
        """Kill the process: who waits for its answer, or is about to ask, meets WorkerLost until :meth:`take_on`.

        Waits for nothing, so for the event loop too.
        """
        self._interrupted = True  # first: one that is being started now is not seen here, but sees this
        process = self._process
        if process is not None:
            process.kill()

    def rest(self) -> None:
        """End the process until it is needed again; what it is doing is left undone."""
        with self._guard:
            process, self._process = self._process, None
        if process is not None:
            process.kill()
            for stream in (process.stdin, process.stdout):
                with contextlib.suppress(OSError, ValueError):
                    if stream is not None:
                        stream.close()
            process.wait()

    def end(self) -> None:
        """End the process for good."""
        self._ended = True
        self.rest()
