"""Bars: on a terminal, as wide as it is, for what takes a while; never where data is written or a pipe reads."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
from pathlib import Path
from typing import TextIO

import pytest

from logd.cli.progress import Progress
from logd.testing import Broker
from tests.cli.conftest import environment

AT_ONCE = (
    "import logd.cli.progress as progress; progress.QUIET_S = progress.EVERY_S = 0; "
    "from logd.cli.main import main; main()"
)


class Terminal:
    """A terminal of some width, and what was written to it."""

    def __init__(self, columns: int) -> None:
        self._master, self.descriptor = pty.openpty()
        fcntl.ioctl(self.descriptor, termios.TIOCSWINSZ, struct.pack("HHHH", 30, columns, 0, 0))

    def text(self) -> str:
        """All of it; the terminal is closed."""
        os.close(self.descriptor)
        found = b""
        try:
            while more := os.read(self._master, 65536):
                found += more
        except OSError:
            pass
        os.close(self._master)
        return found.decode()


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that bars see."""
    seconds = [0.0]
    monkeypatch.setattr("logd.cli.progress.time.monotonic", lambda: seconds[0])
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "999")  # of another terminal than the bar's
    return seconds


def drawn(now: list[float], columns: int, total: int | None, *, wanted: bool = True) -> list[str]:
    """The lines of a bar that is half done after two seconds."""
    terminal = Terminal(columns)
    with (
        os.fdopen(os.dup(terminal.descriptor), "w") as stream,
        Progress("restore", total, "B", to=stream, wanted=wanted) as progress,
    ):
        for _ in range(4):
            now[0] += 0.5
            progress.advance(1_000_000)
    return [line.removesuffix("\x1b[K") for line in terminal.text().split("\r") if line]


@pytest.mark.parametrize(
    ("columns", "total", "line"),
    [
        (200, 8_000_000, "restore    [############            ]  50%  0:02 left  4.0 MB  2.0 MB/s"),
        (60, 8_000_000, "restore    [#####     ]  50%  0:02 left  4.0 MB  2.0 MB/s"),
        (40, 8_000_000, "restore  50%  0:02 left  4.0 MB  2.0 "),
        (20, 8_000_000, "restore  50%  0:0"),
        (60, None, "restore    4.0 MB  2.0 MB/s"),
    ],
)
def test_a_bar_fits_its_terminal(now: list[float], columns: int, total: int | None, line: str) -> None:
    """It is drawn after a second, is never wider than the terminal, and leaves nothing behind."""
    lines = drawn(now, columns, total)
    assert len(lines) == 4  # after 1, 1.5 and 2 s, and nothing at the end
    assert (lines[2], lines[3]) == (line, "")
    assert all(len(each) <= columns - len("^C ") for each in lines)


def test_no_bar(now: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it is not wanted, and where a terminal can't take a line back."""
    assert drawn(now, 80, 8_000_000, wanted=False) == []
    monkeypatch.setenv("TERM", "dumb")
    assert drawn(now, 80, 8_000_000) == []


def ran(broker: Broker, *arguments: str, stdin: TextIO | int, stdout: TextIO | int) -> str:
    """What a command writes to its terminal, with bars from the first moment on."""
    terminal = Terminal(100)
    command = [sys.executable, "-c", AT_ONCE, *arguments]
    variables = environment(broker.bootstrap) | {"TERM": "xterm"}
    done = subprocess.run(command, stdin=stdin, stdout=stdout, stderr=terminal.descriptor, env=variables, check=False)
    assert done.returncode == 0
    return terminal.text()


def test_produce_and_consume_with_files(logd_broker: Broker, tmp_path: Path) -> None:
    """Bytes of the file that is sent, records of the one that is written; the pipe between two commands has one bar."""
    logd_broker.create_topic("orders")
    source, target = tmp_path / "in", tmp_path / "out"
    source.write_bytes(b"a line\n" * 30_000)
    with source.open() as lines:
        sending = ran(logd_broker, "produce", "orders", stdin=lines, stdout=subprocess.DEVNULL)
    assert "sending    [########################] 100%  0:00 left  210.0 kB" in sending
    assert sending.endswith("\r\x1b[K30000 records sent to topic 'orders'\r\n")
    with target.open("w") as records:
        reading = ran(logd_broker, "consume", "orders", "-e", "-o", "raw", stdin=subprocess.DEVNULL, stdout=records)
    assert "reading    [########################] 100%  0:00 left  30,000 records" in reading
    assert reading.endswith("\r\x1b[K")
    assert target.read_bytes().count(b"a line\n") == 30_000
    assert ran(logd_broker, "consume", "orders", "-e", stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL) == ""


def test_verify_has_one(logd_broker: Broker) -> None:
    """Of the bytes of all files."""
    logd_broker.create_topic("orders")
    logd_broker.produce("orders", *["x" * 1000] * 50)
    where = str(logd_broker.data_dir / "orders-0")
    told = ran(logd_broker, "log", "verify", where, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    assert told.startswith("\rchecking   [")
    assert told.endswith("1 segment verified: every batch is good\r\n")


def test_no_time_is_told_before_anything_is_done(now: list[float]) -> None:
    """What stands at nothing has no rate, and nobody knows how long it will take."""
    terminal = Terminal(200)
    with open(terminal.descriptor, "w", closefd=False) as stream, Progress("compaction", 10, "B", to=stream) as bar:
        now[0] = 2.0
        bar.advance(0)
    shown = terminal.text()
    assert "0%" in shown
    assert "left" not in shown
