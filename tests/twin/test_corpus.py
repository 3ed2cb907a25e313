"""Every case of the corpus: logd answers what Kafka answers."""

from __future__ import annotations

import pytest

from . import corpus
from .compare import differences_of, served_keys
from .servers import Twins
from .tale import CASES, Case, Tale

assert corpus.__all__


def told(case: Case, both: Twins, address: tuple[str, int]) -> Tale:
    """The case as one server answers it."""
    tale = Tale(both.specs, lambda: both.connection(address), case.name)
    try:
        case.run(tale)
    finally:
        tale.close()
    return tale


@pytest.mark.parametrize("name", CASES)
def test_logd_answers_as_kafka(name: str, both: Twins) -> None:
    """The same requests, the same answers, but for what `differences` allows."""
    case = CASES[name]
    kafka = told(case, both, both.kafka)
    logd = told(case, both, both.logd)
    lines = differences_of(case, kafka, logd, served_keys(both.specs.key))
    assert not lines, f"{len(lines)} differences\n" + "\n".join(lines[:20])
