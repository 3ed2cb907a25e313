"""The source files of the repository, read and parsed once, for the tests that keep its style and its layers."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
SEEN = ("logd", "tests", "tools")


class Source(NamedTuple):
    """One Python file: its path relative to the repository, its dotted name, text and syntax tree."""

    path: str
    module: str
    text: str
    tree: ast.Module

    def imports(self) -> Iterator[str]:
        """Dotted names that the file imports, wherever it does; ``from a import b`` gives both a and a.b."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                base = self._base(node)
                yield base
                yield from (f"{base}.{alias.name}" for alias in node.names)

    def _base(self, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        parts = self.module.split(".")
        package = parts if self.path.endswith("__init__.py") else parts[:-1]
        kept = package[: len(package) - node.level + 1]
        return ".".join([*kept, *([node.module] if node.module else [])])


@cache
def sources() -> tuple[Source, ...]:
    """All Python files of the repository, in the order of their paths."""
    found = []
    for top in SEEN:
        for file in sorted((ROOT / top).rglob("*.py")):
            path = file.relative_to(ROOT)
            parts = path.with_suffix("").parts
            module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            text = file.read_text()
            found.append(Source(str(path), module, text, ast.parse(text)))
    return tuple(found)


def package() -> tuple[Source, ...]:
    """The files of logd itself."""
    return tuple(source for source in sources() if source.path.startswith("logd/"))


def generated(source: Source) -> bool:
    """True for what tools/schemas.py writes."""
    return source.path.startswith("logd/wire/schemas/")
