"""Known bugs, put back one at a time into a copy of the tree: the kit, or a test of its kind, must go red on each."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BUGS = Path(__file__).with_name("bugs")
SKIPPED = 3

KIT = (sys.executable, "-m", "tools.faults", "--first")
TEST = (sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider")
SHOWN_BY: dict[str, tuple[str, ...]] = {
    "B1-torn-tail-kept": (*TEST, "tests/log/test_recovery.py"),
    "B2-flush-tried-again": (*KIT, "simulation", "--seed", "1", "--rounds", "20"),
    "B3-acknowledged-before-the-flush": (*KIT, "power", "--on", "ext4", "--seed", "1", "--rounds", "12"),
    "B4-corruption-taken-for-the-end": (*KIT, "flips", "--seed", "1", "--rounds", "50"),
    "B12-producers-forgotten": (*KIT, "simulation", "--seed", "1", "--rounds", "5"),
    "B13-sequences-outlive-their-epoch": (*TEST, "tests/log/test_producers.py", "tests/log/test_transactions.py"),
    "B14-read-committed-reads-all": (*KIT, "simulation", "--seed", "1", "--rounds", "4"),
    "B15-transactions-share-an-epoch": (*TEST, "tests/apis/test_late_transactions.py"),
    "B15-nobody-is-asked": (*TEST, "tests/log/test_transactions.py"),
    "B16-prepared-is-forgotten": (*TEST, "tests/coordinators/test_transaction_front.py"),
    "B16-late-answers-begin": (*TEST, "tests/log/test_transactions.py"),
    "B17-offsets-of-transactions-win": (*TEST, "tests/coordinators/test_pending_offsets.py"),
    "B18-read-before-it-is-safe": (*TEST, "tests/partitions/test_stability.py"),
    "B19-tombstones-too-early": (*KIT, "compaction", "--on", "rename:signal=SIGKILL", "--seed", "1", "--rounds", "3"),
    "B19-removed-too-early": (*KIT, "compaction", "--on", "fsync:signal=SIGKILL", "--seed", "1", "--rounds", "6"),
    "B20-full-disk-is-final": (*KIT, "full", "--seed", "1", "--rounds", "2"),
    "B21-no-descriptors-kept": (*KIT, "limits", "--on", "descriptors", "--seed", "1", "--rounds", "6"),
    "B22-answers-in-memory": (*TEST, "tests/process/test_slow_readers.py"),
    "B23-leaps-are-believed": (*KIT, "clock", "--seed", "1", "--rounds", "6"),
}
TESTS_FAILED = 1


def patched(name: str, copy: Path) -> None:
    """A copy of the tree with one bug in it."""
    for part in ("logd", "tools", "tests"):
        shutil.copytree(ROOT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
    for part in ("setup.cfg", "pyproject.toml"):
        shutil.copy(ROOT / part, copy / part)
    command = ["patch", "-p1", "--no-backup-if-mismatch", "-i", str(BUGS / f"{name}.patch")]
    done = subprocess.run(command, cwd=copy, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.fail(
            f"{name}.patch no longer applies; write it anew for the code of today:\n{done.stdout}", pytrace=False
        )


def test_every_bug_is_shown() -> None:
    """Each patch has something that shows it, and the other way round."""
    assert {path.stem for path in BUGS.glob("*.patch")} == set(SHOWN_BY)


@pytest.mark.skipif(shutil.which("patch") is None, reason="patch is not installed (Debian: apt install patch)")
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", SHOWN_BY)
def test_bug_is_found(name: str, tmp_path: Path) -> None:
    """With the bug in it the tree fails what the tree without it passes."""
    patched(name, tmp_path / "copy")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "copy")}
    done = subprocess.run(
        SHOWN_BY[name], cwd=tmp_path / "copy", env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode == SKIPPED:
        pytest.skip(done.stdout.strip())
    said = done.stdout + done.stderr
    assert done.returncode == TESTS_FAILED, f"{name} was not found: {said[-2000:]}"
    assert "anomalies=" in said or " failed" in said, f"something else broke: {said[-2000:]}"
