"""The README's examples run as they stand, and what it links to is there."""

from __future__ import annotations

import ast
import asyncio
import os
import re
import shutil
import subprocess
from codeop import CommandCompiler
from collections.abc import Callable
from inspect import CO_COROUTINE
from pathlib import Path
from typing import Any

import pytest

from logd.testing import Broker
from tests.sources import ROOT

README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
LINES_MAX = 80


def block(language: str, word: str) -> str:
    """The only block of this language that holds the word."""
    (found,) = [text for kind, text in BLOCKS if kind == language and word in text]
    return found


def here(text: str, broker: Broker) -> str:
    """The example, pointed at the test's broker."""
    return text.replace("127.0.0.1:9092", broker.bootstrap)


@pytest.mark.parametrize("client", ["from confluent_kafka", "from kafka import", "from aiokafka"])
def test_python_examples(logd_broker: Broker, capsys: pytest.CaptureFixture[str], client: str) -> None:
    """Each Python example produces a record and prints it."""
    source = here(block("python", client), logd_broker)
    code = compile(source, "README.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    scope: dict[str, Any] = {}
    if code.co_flags & CO_COROUTINE:
        asyncio.run(eval(code, scope))
    else:
        exec(code, scope)
    assert capsys.readouterr().out == "b'world'\n"


@pytest.mark.skipif(shutil.which("kcat") is None, reason="kcat is not installed (apt install kcat)")
def test_kcat_example(logd_broker: Broker) -> None:
    """The kcat example produces a line, prints it, and lists the topic."""
    script = here(block("sh", "kcat"), logd_broker)
    done = subprocess.run(["sh", "-e", "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("world\n")
    assert 'topic "hello"' in done.stdout


def test_fixture_example(logd_broker: Broker) -> None:
    """The example of the fixture is a test that passes."""
    scope: dict[str, Callable[[Broker], None]] = {}
    exec(compile(block("python", "logd_broker"), "README.md", "exec"), scope)
    scope["test_orders"](logd_broker)


def linked(page: Path) -> set[Path]:
    """The files that a page links to, or names by their path from the root of the repository."""
    text = page.read_text()
    links = {page.parent / link for link in re.findall(r"\]\(([^)#:]+)\)", text)}
    named = {ROOT / name for name in re.findall(r"\b(?:docs|config|tools|tests)/[\w/-]+\.\w+", text)}
    return links | named


@pytest.mark.parametrize("page", ["README.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md")))])
def test_links(page: str) -> None:
    """Every file that a page of the documentation links to, or names, is there."""
    missing = [str(file.relative_to(ROOT)) for file in linked(ROOT / page) if not file.exists()]
    assert not missing


def test_commands() -> None:
    """The commands that the README names are there, and can be run."""
    assert all(os.access(ROOT / command, os.X_OK) for command in ("tools/run", "tools/test", "tools/bench"))


def test_one_screen() -> None:
    """The README stays short, and no example is longer than five lines."""
    assert README.count("\n") <= LINES_MAX
    assert all(len([line for line in text.splitlines() if line]) <= 5 for _, text in BLOCKS)


@pytest.mark.parametrize("page", ["README.md", "docs/client.md"])
def test_python_can_be_pasted(page: str) -> None:
    """Every example of Python is understood line by line, as a console reads what is pasted into it."""
    for example in re.findall(r"^```python\n(.*?)^```$", (ROOT / page).read_text(), re.DOTALL | re.MULTILINE):
        reader = CommandCompiler()
        reader.compiler.flags |= ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        lines: list[str] = []
        for line in [*example.splitlines(), ""]:
            lines.append(line)
            if reader("\n".join(lines)) is not None:
                lines.clear()
        assert not lines, example
