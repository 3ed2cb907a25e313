"""docs/testing.md is true: its examples run as they stand."""

from __future__ import annotations

import re
from pathlib import Path

from tests.sources import ROOT
from tests.testing.test_plugin import run_pytest

PAGE = (ROOT / "docs/testing.md").read_text()


def blocks(language: str) -> list[str]:
    """The examples in this language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


def test_examples(tmp_path: Path) -> None:
    """The examples with tests pass, in a project with the settings that the page shows."""
    tests = [text for text in blocks("python") if "def test_" in text]
    for number, text in enumerate(tests):
        (tmp_path / f"test_{number}.py").write_text(text)
    (settings,) = blocks("ini")
    (tmp_path / "pytest.ini").write_text(settings)
    done = run_pytest(tmp_path)
    assert "3 passed" in done.stdout, done.stdout + done.stderr


def test_without_pytest() -> None:
    """The example of the context manager runs."""
    (text,) = [text for text in blocks("python") if "with Broker" in text]
    exec(compile(text, "docs/testing.md", "exec"), {})
