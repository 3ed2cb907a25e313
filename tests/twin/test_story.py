"""Random sequences of operations: both servers tell the same story."""

from __future__ import annotations

import os

import pytest

from .compare import differences_of, served_keys
from .migration_story import DIFFERS, MigrationStory
from .servers import Twins
from .story import Story
from .tale import Case, Tale
from .transaction_story import TransactionStory

SEEDS = range(int(os.environ.get("LOGD_TWIN_SEEDS", "8")))
"""More of them by hand: LOGD_TWIN_SEEDS=500 pytest tests/twin/test_story.py."""
LENGTH = 60
Teller = type[Story] | type[TransactionStory] | type[MigrationStory]
NAMES: dict[Teller, str] = {Story: "story", TransactionStory: "transactions", MigrationStory: "migration"}


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("teller", NAMES)
def test_same_story(teller: Teller, seed: int, both: Twins) -> None:
    """From one seed, every answer is the same."""
    told = []
    name = f"{NAMES[teller]}-{seed}"
    for address in (both.kafka, both.logd):
        tale = Tale(both.specs, lambda address=address: both.connection(address), name)  # type: ignore[misc]
        try:
            teller(tale, seed).tell(LENGTH)
        finally:
            tale.close()
        told.append(tale)
    case = Case(name, lambda tale: None, DIFFERS if teller is MigrationStory else {})
    lines = differences_of(case, *told, served_keys(both.specs.key))
    assert not lines, f"{len(lines)} differences\n" + "\n".join(lines[:10])
