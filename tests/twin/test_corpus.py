"""Every case of the corpus: logd answers what Kafka answers."""

from __future__ import annotations

import pytest

from . import corpus
from .compare import differences_of, served_keys
from .servers import Twins
from .tale import CASES, Case, Tale

assert corpus.__all__

TELLINGS_MAX = 3
"""Kafka's group coordinator hears of a new topic a moment after its creation was answered, on a busy machine too late
for the first request: what differs is told again, with new names, and only what differs each time is a difference."""


def told(case: Case, both: Twins, address: tuple[str, int], telling: int) -> Tale:
    """The case as one server answers it; what an earlier telling made is not in the way."""
    slug = f"{case.name}-{telling}" if telling else case.name
    tale = Tale(both.specs, lambda: both.connection(address), slug)
    try:
        case.run(tale)
    finally:
        tale.close()
    return tale


@pytest.mark.parametrize("name", CASES)
def test_logd_answers_as_kafka(name: str, both: Twins) -> None:
    """The same requests, the same answers, but for what `differences` allows."""
    case = CASES[name]
    lines: list[str] = []
    for telling in range(TELLINGS_MAX):
        kafka = told(case, both, both.kafka, telling)
        logd = told(case, both, both.logd, telling)
        lines = differences_of(case, kafka, logd, served_keys(both.specs.key))
        if not lines:
            return
    assert not lines, f"{len(lines)} differences\n" + "\n".join(lines[:20])
