"""The tool that lets system calls fail: its filter by path, and how it sees that a fault came."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tools.faults.calls import came, command, likely, opened

LINES = """\
7 openat(AT_FDCWD, "/usr/lib/python3/os.py", O_RDONLY|O_CLOEXEC) = 3
7 openat(AT_FDCWD, "/x/data/calls-0/00000000000000000010.log", O_RDWR|O_CREAT|O_CLOEXEC, 0666 <unfinished ...>
8 openat(AT_FDCWD</>, "/x/data", O_RDONLY|O_CLOEXEC) = 4
8 openat(AT_FDCWD, "/x/data.log", O_RDONLY|O_CLOEXEC) = 4
"""


def test_only_the_data_directory_counts() -> None:
    """The interpreter's files and neighbours of the directory are left out."""
    assert opened(LINES, Path("/x/data")) == {"/x/data", "/x/data/calls-0/00000000000000000010.log"}


def test_segments_that_another_life_may_have() -> None:
    """A log that rolls elsewhere is met, too."""
    paths = likely(["/x/a-0/00000000000000000010.log", "/x/.lock"])
    assert "/x/a-0/00000000000000000025.log" in paths
    assert "/x/.lock" in paths


def test_the_first_open_that_fails_is_one_of_ours(tmp_path: Path) -> None:
    """The interpreter opens its own files unharmed; the n-th of those that are named fails."""
    if (
        shutil.which("strace") is None
        or subprocess.run(["strace", "-qq", "-o", "/dev/null", "true"], check=False).returncode
    ):
        pytest.skip("strace is not there or may not trace")
    names = [str(tmp_path / name) for name in ("one", "other", "two")]
    told = "import os, sys\nfor name in sys.argv[1:]:\n    os.open(name, os.O_CREAT)"
    before = command("openat:error=EIO", 2, tmp_path / "trace", [names[0], names[2]])
    done = subprocess.run([*before, sys.executable, "-c", told, *names], capture_output=True, text=True, check=False)
    assert f"Input/output error: '{names[2]}'" in done.stderr
    assert (tmp_path / "other").exists()
    assert came(tmp_path / "trace", "error=EIO")


def test_a_kill_is_seen_when_threads_take_turns(tmp_path: Path) -> None:
    """The end of a call that killed may stand in another line than the call."""
    trace = tmp_path / "trace"
    trace.write_text('7 rename("a", "b" <unfinished ...>\n8 rename("c", "d") = 0\n7 <... rename resumed>) = ?\n')
    assert not came(trace, "signal=SIGKILL")
    trace.write_text(trace.read_text() + "7 +++ killed by SIGKILL +++\n")
    assert came(trace, "signal=SIGKILL")
    assert not came(trace, "error=EIO")


def test_a_worker_that_is_ended_is_no_fault(tmp_path: Path) -> None:
    """A process that its parent kills between two calls was not hit."""
    trace = tmp_path / "trace"
    trace.write_text('7 rename("a", "b") = 0\n7 +++ killed by SIGKILL +++\n8 +++ killed by SIGKILL +++\n')
    assert not came(trace, "signal=SIGKILL")
