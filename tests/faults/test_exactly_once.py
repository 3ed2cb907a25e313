"""What the kind ``exactly-once`` makes of its last read."""

from __future__ import annotations

import pytest

from tools.faults.exactly_once import by_input
from tools.faults.history import Event, Read, check


@pytest.mark.parametrize(
    ("values", "kinds"),
    [
        (["0:0@a", "0:1@a", "0:2@b"], []),
        (["0:0@a", "0:2@b"], ["lost"]),
        (["0:0@a", "0:1@a", "0:1@b", "0:2@b"], ["duplicated"]),
        (["0:0@a", "0:2@b", "0:1@c"], ["reordered"]),
        (["0:0@a", "0:1@a", "0:2@b", "0:3@b"], ["phantom"]),
    ],
)
def test_each_input_once(values: list[str], kinds: list[str]) -> None:
    """An input that is missing, there in two transactions or out of its order is an anomaly."""
    read: list[Event] = [Read("output-0", offset, value, True) for offset, value in enumerate(values)]
    assert [one.kind for one in check(by_input(read, [3]))] == kinds
