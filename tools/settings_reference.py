#!/usr/bin/env python3
"""Writes docs/settings.md, the reference of all settings, from the tables in `logd.config`.

Run by hand after a change of a setting: `.venv/bin/python tools/settings_reference.py`. A test fails when the file is
not what this would write. It owns the wording of the page and nothing of the settings.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from logd.config.foreign import REASONS  # noqa: E402
from logd.config.settings import ALIASES, DEFAULTS, DEFINITIONS, FIXED, shown  # noqa: E402
from logd.config.topics import SYNONYMS, TOPIC_DEFINITIONS, topic_defaults, topic_shown  # noqa: E402
from logd.config.values import Definition  # noqa: E402

PAGE = ROOT / "docs" / "settings.md"

INTRODUCTION = """# Settings

Written by `tools/settings_reference.py`: do not edit.

Names are Kafka's where Kafka has the setting. Give them in a TOML file (`logd serve --config FILE`, keys quoted:
`"log.retention.ms" = 60000`), as environment variables (`LOGD_LOG_RETENTION_MS=60000`) or as flags
(`--set log.retention.ms=60000`); a flag wins over the environment, the environment over the file. A file whose name
ends with `.properties` is read in Kafka's own form. What is wrong ends the start with one sentence; what is unknown is
told all at once, and what Kafka has with the reason why logd does not.
"""

TOPICS = """
## Topics

Set with CreateTopics or IncrementalAlterConfigs, for instance `kafka-configs` or `logd-cli topic alter`. A topic that
sets nothing gets the value of the broker's setting in the last column. A value that logd would not obey is refused.
"""

BROKER = """
## Broker

"while running" tells whether IncrementalAlterConfigs may change it, for one broker or for all.
"""


ABSENT = """
## Settings that only Kafka has

Each of them ends the start; take it out. A name that ends with a dot stands for all that begin so.

| name | why logd does not have it |
|---|---|
"""


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _default(value: str | None) -> str:
    if value is None:
        return "unset"
    return f"`{value}`" if value else "empty"


def _row(name: str, definition: Definition, value: str | None, last: str) -> str:
    unit = f", {definition.unit}" if definition.unit else ""
    kind = f"{definition.kind.name.lower()}{unit}"
    return f"| `{name}` | {_cell(definition.doc)} | {kind} | {_default(value)} | {last} |"


def _table(last: str, rows: Iterator[str]) -> str:
    return "\n".join((f"| name | meaning | type | default | {last} |", "|---|---|---|---|---|", *rows, ""))


def _broker_rows(definitions: Mapping[str, Definition]) -> Iterator[str]:
    for name in sorted(definitions):
        definition = definitions[name]
        yield _row(name, definition, shown(DEFAULTS, name), "no" if definition.scope == FIXED else "yes")


def _topic_rows() -> Iterator[str]:
    defaults = topic_defaults(DEFAULTS)
    for name in sorted(TOPIC_DEFINITIONS):
        brokers = ", ".join(f"`{broker}`" for broker, _ in SYNONYMS.get(name, ())) or "none"
        yield _row(name, TOPIC_DEFINITIONS[name], topic_shown(defaults, name), brokers)


def page() -> str:
    """The whole text of docs/settings.md."""
    aliases = "\n".join(f"* `{alias}` means `{name}`" for alias, name in sorted(ALIASES.items()))
    parts = (
        INTRODUCTION,
        BROKER,
        _table("while running", _broker_rows(DEFINITIONS)),
        f"Other names:\n\n{aliases}\n",
        TOPICS,
        _table("broker setting", _topic_rows()),
        ABSENT + "\n".join(f"| {', '.join(f'`{name}`' for name in names)} | {why} |" for why, names in REASONS.items()),
    )
    return "\n".join(part.strip("\n") + "\n" for part in parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
