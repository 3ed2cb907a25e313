"""Known bugs, put back one at a time into a copy of the tree: the kit, or a test of its kind, must go red on each."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tools.faults.__main__ import KINDS

ROOT = Path(__file__).resolve().parents[2]
BUGS = Path(__file__).with_name("bugs")
SKIPPED = 3

# The first anomaly ends a run: many rounds cost only where nothing is found.
KIT = (sys.executable, "-m", "tools.faults", "--first")
LIVES_ENOUGH = "60"
"""Seeds of the simulation. One in five shows the rarest bug, which ones changes with the code."""
TEST = (sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider")
SHOWN_BY: dict[str, tuple[str, ...]] = {
    "B1-torn-tail-kept": (*KIT, "simulation", "--seed", "1", "--rounds", LIVES_ENOUGH),
    "B2-flush-tried-again": (*KIT, "simulation", "--seed", "1", "--rounds", LIVES_ENOUGH),
    "B3-acknowledged-before-the-flush": (*KIT, "power", "--on", "ext4", "--seed", "1", "--rounds", "36"),
    "B4-corruption-taken-for-the-end": (*KIT, "flips", "--seed", "1", "--rounds", "450"),
    "B4-damage-ends-housekeeping": (*KIT, "flips", "--seed", "1", "--rounds", "450"),
    "B6-a-restart-cuts-to-the-mark": (*KIT, "kill", "--on", "os", "--seed", "1", "--rounds", "3"),
    "B12-producers-forgotten": (*KIT, "simulation", "--seed", "1", "--rounds", LIVES_ENOUGH),
    "B13-sequences-outlive-their-epoch": (*TEST, "tests/log/test_producers.py", "tests/log/test_transactions.py"),
    "B14-read-committed-reads-all": (*KIT, "simulation", "--seed", "1", "--rounds", LIVES_ENOUGH),
    "B14-dead-producers-are-committed": (*TEST, "tests/coordinators/test_transaction_transcripts.py"),
    "B15-transactions-share-an-epoch": (*TEST, "tests/apis/test_late_transactions.py"),
    "B15-nobody-is-asked": (*TEST, "tests/log/test_transactions.py"),
    "B16-prepared-is-forgotten": (*TEST, "tests/coordinators/test_transaction_front.py"),
    "B16-late-answers-begin": (*TEST, "tests/log/test_transactions.py"),
    "B16-timeouts-end-with-the-process": (*KIT, "hanging", "--on", "8", "--seed", "1", "--rounds", "20"),
    "B17-offsets-of-transactions-win": (*TEST, "tests/coordinators/test_pending_offsets.py"),
    "B18-read-before-it-is-safe": (*KIT, "power", "--on", "ext4", "--seed", "1", "--rounds", "180"),
    "B19-tombstones-too-early": (*TEST, "tests/log/test_compaction.py"),
    "B19-removed-too-early": (*KIT, "compaction", "--on", "fsync:signal=SIGKILL", "--seed", "1", "--rounds", "20"),
    "B19-clean-too-early": (*KIT, "compaction", "--on", "unlink:signal=SIGKILL", "--seed", "1", "--rounds", "20"),
    "B20-full-disk-is-final": (*KIT, "full", "--seed", "1", "--rounds", "20"),
    "B21-no-descriptors-kept": (*KIT, "limits", "--on", "descriptors", "--seed", "1", "--rounds", "20"),
    "B21-no-worker-to-be-had": (*KIT, "limits", "--on", "descriptors", "--seed", "5", "--rounds", "20"),
    "B22-answers-in-memory": (*KIT, "limits", "--on", "memory", "--seed", "1", "--rounds", "20"),
    "B23-leaps-are-believed": (*KIT, "clock", "--seed", "1", "--rounds", "20"),
    "S1-bad-text-ends-in-a-traceback": (*KIT, "hostile", "--on", "memory", "--seed", "1", "--rounds", "20"),
}
SHOWN_TOO: dict[str, tuple[str, tuple[str, ...]]] = {
    "calls": (
        "B6-a-restart-cuts-to-the-mark",
        (*KIT, "calls", "--on", "rename:signal=SIGKILL", "--seed", "9", "--rounds", "20"),
    ),
    "exactly-once": (
        "B14-read-committed-reads-all",
        (*KIT, "exactly-once", "--seed", "1", "--rounds", "20"),
    ),
    "late": ("B15-transactions-share-an-epoch", (*KIT, "late", "--seed", "1", "--rounds", "6")),
}
"""Kinds that nothing above runs: a bug that each goes red on."""
TESTS_FAILED = 1


def patched(name: str, copy: Path) -> None:
    """A copy of the tree with one bug in it. What is compiled is copied too: only what is patched is compiled anew."""
    for part in ("logd", "tools", "tests"):
        shutil.copytree(ROOT / part, copy / part)
    for part in ("setup.cfg", "pyproject.toml"):
        shutil.copy(ROOT / part, copy / part)
    command = ["patch", "-p1", "--no-backup-if-mismatch", "-i", str(BUGS / f"{name}.patch")]
    done = subprocess.run(command, cwd=copy, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.fail(
            f"{name}.patch no longer applies; write it anew for the code of today:\n{done.stdout}", pytrace=False
        )
    for path in re.findall(r"^\+\+\+ b/(\S+)", (BUGS / f"{name}.patch").read_text(), re.MULTILINE):
        Path(importlib.util.cache_from_source(copy / path)).unlink(missing_ok=True)


def test_every_bug_is_shown() -> None:
    """Each patch has something that shows it, and the other way round."""
    assert {path.stem for path in BUGS.glob("*.patch")} == set(SHOWN_BY)


def test_every_kind_can_fail() -> None:
    """Each kind of the kit is seen to go red on something."""
    kinds = {word for command in SHOWN_BY.values() for word in command if word in KINDS}
    assert kinds | set(SHOWN_TOO) == set(KINDS)


@pytest.mark.skipif(shutil.which("patch") is None, reason="patch is not installed (Debian: apt install patch)")
@pytest.mark.timeout(450)
@pytest.mark.parametrize("name", SHOWN_BY)
def test_bug_is_found(name: str, tmp_path: Path) -> None:
    """With the bug in it the tree fails what the tree without it passes."""
    demand_red(name, SHOWN_BY[name], tmp_path / "copy")


@pytest.mark.skipif(shutil.which("patch") is None, reason="patch is not installed (Debian: apt install patch)")
@pytest.mark.timeout(450)
@pytest.mark.parametrize("kind", SHOWN_TOO)
def test_kind_can_fail(kind: str, tmp_path: Path) -> None:
    """The other kinds go red as well."""
    demand_red(*SHOWN_TOO[kind], tmp_path / "copy")


def demand_red(name: str, command: tuple[str, ...], copy: Path) -> None:
    """Put a bug back and run what has to find it."""
    patched(name, copy)
    environment = {**os.environ, "PYTHONPATH": str(copy)}
    done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, check=False)
    if done.returncode == SKIPPED:
        pytest.skip(done.stdout.strip())
    said = done.stdout + done.stderr
    assert done.returncode == TESTS_FAILED, f"{name} was not found: {said[-2000:]}"
    assert "anomalies=" in said or " failed" in said, f"something else broke: {said[-2000:]}"
