"""The examples of docs/client.md run as they stand, one after the other, and print what they say."""

from __future__ import annotations

import ast
import re
from inspect import isawaitable
from typing import Any

import pytest
import trio

from logd.testing import Broker
from tests.sources import ROOT

PAGE = (ROOT / "docs/client.md").read_text()
EXAMPLES = re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


@pytest.mark.trio
async def test_examples(logd_broker: Broker, capsys: pytest.CaptureFixture[str]) -> None:
    """Every block of Python prints what its comments promise."""
    for number, text in enumerate(EXAMPLES):
        source = text.replace("127.0.0.1:9092", logd_broker.bootstrap)
        code = compile(source, f"example {number} of docs/client.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        scope: dict[str, Any] = {}
        with trio.fail_after(20):
            outcome = eval(code, scope)
            if isawaitable(outcome):
                await outcome
        assert capsys.readouterr().out.splitlines() == re.findall(r"# prints: (.*)", text)
