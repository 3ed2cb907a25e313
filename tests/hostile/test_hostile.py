"""A short round of tools/hostile.py; the long one is run by hand."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).resolve().parents[2] / "tools" / "hostile.py"


@pytest.mark.timeout(300)
def test_short_round() -> None:
    """Hostile frames and peers: a good client is served all the time and loses nothing, and the server logs no bug."""
    command = [sys.executable, str(TOOL), "--seed", "1", "--frames", "1500", "--crowd", "100"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
