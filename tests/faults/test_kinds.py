"""A short round of each kind of fault; the long ones are run with ``python -m tools.faults``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SKIPPED = 3
ROUNDS = {
    ("simulation", ""): 6,
    ("kill", "os"): 2,
    ("kill", "group"): 2,
    ("exactly-once", "os"): 3,
    ("late", ""): 4,
    ("hanging", ""): 2,
    ("flips", ""): 60,
    ("calls", ""): 8,
    ("compaction", "signal=SIGKILL"): 3,
    ("compaction", "error=EIO"): 2,
    ("full", "tmpfs"): 4,
    ("full", "ext4"): 2,
    ("full", "xfs"): 2,
    ("limits", "descriptors"): 3,
    ("calls", "pread64:error=EIO@recovery"): 3,
    ("calls", "fdatasync:error=EIO@recovery"): 3,
    ("power", "ext4"): 6,
    ("power", "xfs"): 4,
    ("clock", ""): 3,
    ("hostile", "memory"): 20,
    ("hostile", "live"): 6,
}


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("kind", "on"), ROUNDS)
def test_short_round(kind: str, on: str, tmp_path: Path) -> None:
    """No anomaly, and something was tried."""
    command = [sys.executable, "-m", "tools.faults", kind, "--rounds", str(ROUNDS[kind, on]), "--seed", "3"]
    command += ["--directory", str(tmp_path), *(["--on", on] if on else [])]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode == SKIPPED:
        pytest.skip(done.stdout.strip())
    assert done.returncode == 0, done.stdout + done.stderr


def test_simulation_is_repeatable() -> None:
    """Two processes tell the same story from one seed, event for event."""
    command = [sys.executable, "-m", "tools.faults", "simulation", "--seed", "9", "--rounds", "1"]
    told = {
        next(word for word in done.stdout.split() if word.startswith("digest="))
        for _ in range(2)
        for done in (subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True),)
    }
    assert len(told) == 1
