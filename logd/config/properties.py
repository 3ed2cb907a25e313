"""Kafka's form of a settings file: lines of `name=value`, as Java's `Properties` reads them.

A colon or a space may stand for the equals sign, `#` and `!` begin comments, a backslash at the end joins the next
line, and a backslash before a character takes its meaning from it. PURE; used by `load`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|.)", re.DOTALL)
_SPECIAL = {"n": "\n", "t": "\t", "r": "\r", "f": "\f"}
_PAIR = re.compile(r"((?:\\.|[^\\=:\s])*)\s*[=:]?\s*(.*)", re.DOTALL)


def parse_properties(text: str) -> dict[str, str]:
    """Names and values, the last one of a name; a name alone has an empty value."""
    found: dict[str, str] = {}
    for line in _logical_lines(text):
        pair = _PAIR.fullmatch(line)
        assert pair is not None
        name, value = map(_plain, pair.groups())
        found[name] = value
    return found


def _logical_lines(text: str) -> Iterator[str]:
    """Lines without comments and leading space, those that a backslash continues in one."""
    joined = ""
    for written in re.split(r"\r\n|\r|\n", text):
        line = written.lstrip()
        if not joined and (not line or line[0] in "#!"):
            continue
        ends = len(line) - len(line.rstrip("\\"))
        if ends % 2:
            joined += line[:-1]
            continue
        yield joined + line
        joined = ""
    if joined:
        yield joined


def _plain(text: str) -> str:
    return _ESCAPE.sub(lambda found: _character(found[1]), text)


def _character(escaped: str) -> str:
    if len(escaped) > 1:
        return chr(int(escaped[1:], 16))
    return _SPECIAL.get(escaped, escaped)
