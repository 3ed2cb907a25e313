"""What all tests share: the line that repeats a failed gate of ``tools/test`` beside pytest's own result."""

from __future__ import annotations

import os

import pytest


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say just before the closing line which of the other checks failed, if ``tools/test`` ran them."""
    if failed := os.environ.get("LOGD_TEST_FAILED"):
        terminalreporter.section("other checks", red=True)
        terminalreporter.line(f"FAILED: {failed} (their output stands above the tests')", red=True)
