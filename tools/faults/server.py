"""A server under test: one data directory, one port, and the processes that serve it one after the other.

It is the logd of this very checkout, so that a copy of the tree with a bug put back tests that bug.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

ROOT = Path(__file__).resolve().parents[2]
READY = re.compile(r"logd ready kafka=(?P<kafka>\S+) http=\S+ data=.+\n")
START_S_MAX = 60.0
MAIN = "from logd.cli.server import main; main()"


class NotReady(Exception):
    """The process ended or was silent instead of serving; the text is the end of its log."""


class Server:
    """A context manager; what runs at its end is killed. ``before`` is put before the command, such as strace."""

    def __init__(
        self,
        data_dir: Path,
        *options: str,
        settings: dict[str, str] | None = None,
        before: Sequence[str] = (),
        environment: dict[str, str] | None = None,
        main: str = MAIN,
    ) -> None:
        self.data_dir = data_dir
        self.main = main
        self.log = data_dir.with_name(data_dir.name + ".log")
        self.bootstrap = "127.0.0.1:0"
        self.options = [*options]
        for name, value in (settings or {}).items():
            self.options += ["--set", f"{name}={value}"]
        self.before = list(before)
        self.environment = environment or {}
        self.process: subprocess.Popen[str] | None = None
        self.ready_s = 0.0

    def __enter__(self) -> Server:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def start(self, wait_s: float = START_S_MAX) -> float:
        """Start a process and wait for its ready line; the seconds that took.

        :raises NotReady: there was none.
        """
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("LOGD_")}
        environment = {**inherited, "PYTHONPATH": str(ROOT), **self.environment}
        command = [*self.before, sys.executable, "-c", self.main, "serve", "--data-dir", str(self.data_dir)]
        begun = time.monotonic()
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                [*command, "--listen", self.bootstrap, *self.options],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=environment,
                cwd="/",
                start_new_session=True,
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline() if select.select([self.process.stdout], [], [], wait_s)[0] else ""
        found = READY.fullmatch(line)
        if not found:
            self.kill()
            raise NotReady(f"no ready line but {line!r}: {self.log_end()}")
        self.bootstrap = found["kafka"]
        self.ready_s = time.monotonic() - begun
        return self.ready_s

    def log_end(self, size: int = 1500) -> str:
        """The last words of the server's log."""
        return self.log.read_text(errors="replace")[-size:]

    @property
    def running(self) -> bool:
        """Whether its process is there."""
        return self.process is not None and self.process.poll() is None

    def signal(self, number: int) -> None:
        """Send a signal to the process and its children."""
        assert self.process is not None
        os.killpg(self.process.pid, number)

    def stop(self, wait_s: float = 60.0) -> int:
        """SIGTERM and wait; the exit code, that of a kill if it does not end by itself."""
        process, self.process = self.process, None
        assert process is not None
        if self.before[:1] != ["strace"]:
            process.terminate()
        else:  # it passes the signal on to nobody
            for child in children(process.pid):
                os.kill(child, signal.SIGTERM)
        try:
            return process.wait(wait_s)
        except subprocess.TimeoutExpired:
            return -signal.SIGKILL
        finally:
            end_group(process)

    def kill(self) -> None:
        """SIGKILL to all of it, if it runs."""
        process, self.process = self.process, None
        if process is not None:
            end_group(process)


def end_group(process: subprocess.Popen[str]) -> None:
    """Kill a process and all that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdout is not None:
        process.stdout.close()


def children(pid: int) -> list[int]:
    """The processes that a process has started."""
    listed = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(one) for one in listed.read_text().split()] if listed.exists() else []
