"""``logd serve`` as a process of its own: started, asked, stopped and killed by the tests of this directory."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType

LOGD = str(Path(sys.executable).with_name("logd"))
READY = re.compile(r"logd ready kafka=(?P<kafka>\S+) http=off data=(?P<data>.+)\n")
PATIENCE_S = 60


def environment() -> dict[str, str]:
    """The environment without settings of logd."""
    return {name: value for name, value in os.environ.items() if not name.startswith("LOGD_")}


def refused(*options: str) -> tuple[int, str]:
    """Run ``logd serve`` with options that it must refuse; its exit code and what it said on stderr."""
    command = [LOGD, "serve", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, env=environment(), check=False)
    assert done.stdout == "", "stdout is for the ready line"
    return done.returncode, done.stderr


class Server:
    """One data directory and the processes that serve it, one after the other, on one port.

    A context manager: what still runs at the end is killed. ``files_max`` is the limit of its open files.
    """

    def __init__(self, data_dir: Path, *options: str, files_max: int | None = None) -> None:
        self.data_dir = data_dir
        self.log = data_dir.with_name(data_dir.name + ".log")
        self.bootstrap = "127.0.0.1:0"
        self.ready_line = ""
        self._options = options
        self._files_max = files_max
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Server:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def start(self) -> None:
        """Start a process and wait for its ready line."""
        limit = ["prlimit", f"--nofile={self._files_max}"] if self._files_max is not None else []
        command = [*limit, LOGD, "serve", "--data-dir", str(self.data_dir), *self._options]
        for address in self.bootstrap.split(","):
            command += ["--listen", address]
        with self.log.open("a") as log:
            self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment())
        assert self._process.stdout is not None
        self.ready_line = self._process.stdout.readline()
        found = READY.fullmatch(self.ready_line)
        if not found:
            self.kill()
            raise AssertionError(f"no ready line but {self.ready_line!r}; its log: {self.log.read_text()[-3000:]}")
        self.bootstrap = found["kafka"]

    @property
    def pid(self) -> int:
        """The process that runs."""
        assert self._process is not None, "it does not run"
        return self._process.pid

    def stop(self, number: signal.Signals = signal.SIGTERM) -> tuple[int, str]:
        """A signal; the exit code, and what it wrote to stdout after the ready line."""
        process = self._take()
        process.send_signal(number)
        return self._end(process)

    def kill(self) -> None:
        """SIGKILL, if it runs."""
        if self._process is not None:
            process = self._take()
            process.kill()
            self._end(process)

    def _take(self) -> subprocess.Popen[str]:
        process, self._process = self._process, None
        assert process is not None, "it does not run"
        return process

    def _end(self, process: subprocess.Popen[str]) -> tuple[int, str]:
        try:
            rest, _ = process.communicate(timeout=PATIENCE_S)
        finally:
            process.kill()
        return process.returncode, rest
