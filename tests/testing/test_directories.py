"""Directories of test brokers: what a dead process left is removed, what a living one uses is not."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from logd.testing.directories import LOCK_NAME, PREFIX, memory_directory, sweep

NO_SUCH_PROCESS = 2**22 + 1  # above the greatest process id that Linux gives


def left(parent: Path, pid: int) -> Path:
    """A directory as the broker of a process has it."""
    path = parent / f"{PREFIX}{pid}-abcdef"
    path.mkdir()
    (path / LOCK_NAME).touch()
    return path


def test_what_dead_processes_left_is_removed(tmp_path: Path) -> None:
    """A directory whose process is dead goes; one of a living process, a locked one and a stranger's stay."""
    dead, living = left(tmp_path, NO_SUCH_PROCESS), left(tmp_path, os.getpid())
    locked, strange = left(tmp_path, NO_SUCH_PROCESS + 1), tmp_path / f"{PREFIX}something"
    strange.mkdir()
    with (locked / LOCK_NAME).open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        sweep(tmp_path)
    assert not dead.exists()
    assert living.exists()
    assert locked.exists()
    assert strange.exists()


def test_a_new_directory_names_its_process() -> None:
    """A directory is new, empty and named after the process that uses it."""
    path = memory_directory()
    try:
        assert path.name.startswith(f"{PREFIX}{os.getpid()}-")
        assert list(path.iterdir()) == []
    finally:
        path.rmdir()
