"""Golden transcripts of transactions: each file in golden_transactions/ is a story, with every effect of each command.

A line that begins with ``>`` is a command, ``#`` a remark; what follows a command is what it did. Run with
``LOGD_REWRITE_GOLDEN=1`` to write the files anew, and review them as a diff.
"""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import pytest

from logd.coordinators.effects import Effect
from logd.coordinators.transactions import TransactionLimits
from tests.coordinators.transaction_story import ID, TIMEOUT_MS, Story, lines

LIMITS = TransactionLimits(expiration_ms=100_000, sweep_every_ms=50_000)
GOLDEN = Path(__file__).parent / "golden_transactions"


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.txt")), ids=lambda path: path.stem)
def test_transcript(path: Path) -> None:
    """The machine answers a story step by step as it is written down."""
    written = path.read_text()
    told = _tell(written)
    if os.environ.get("LOGD_REWRITE_GOLDEN"):
        path.write_text(told)
    assert told == written


def _tell(text: str) -> str:
    story = Story(LIMITS)
    told: list[str] = []
    for line in text.splitlines():
        if line.startswith("> "):
            told.append(line)
            told += lines(_run(story, line[2:]))
            assert story.replayed().transactions == story.machine.transactions
        elif not line or line.startswith("#"):
            told.append(line)
    return "\n".join(told) + "\n"


def _producer(word: str) -> tuple[int, int]:
    producer_id, _, epoch = word.partition(":")
    return int(producer_id), int(epoch)


def _run(story: Story, command: str) -> list[Effect]:
    verb, *words = shlex.split(command)
    named = dict(word.split("=", 1) for word in words if "=" in word)
    plain = [word for word in words if "=" not in word]
    version = int(named.get("version", 5))
    transactional_id = named.get("id", ID)
    match verb:
        case "init":
            producer = _producer(named.get("producer", "-1:-1"))
            return story.init(plain[0], transactional_id, producer, int(named.get("timeout", TIMEOUT_MS)), version)
        case "add" | "verify":
            places = [(topic, int(index)) for topic, _, index in (place.rpartition("-") for place in plain[2:])]
            producer = _producer(plain[1])
            return story.add(
                plain[0],
                producer,
                *places,
                transactional_id=transactional_id,
                verify=verb == "verify",
                version=version,
            )
        case "commit" | "abort":
            producer = _producer(plain[1])
            return story.end(plain[0], producer, verb == "commit", transactional_id=transactional_id, version=version)
        case "mark":
            return story.mark()
        case "wear-out":
            story.wear_out(transactional_id, int(plain[0]))
            return []
        case "take-id":
            return story.take_id()
        case "advance":
            return story.advance(int(plain[0]))
        case "reload":
            return story.reload()
        case "log":
            story.failing = plain[0] == "fails"
            return []
    raise AssertionError(f"no such command: {command}")
