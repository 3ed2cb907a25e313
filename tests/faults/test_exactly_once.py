"""What the kind ``exactly-once`` makes of its last read."""

from __future__ import annotations

import pytest

from tools.faults.exactly_once import by_input, read_wrong, skipped
from tools.faults.history import ABORTED, Ended, Ending, Event, Polled, Read, Sent, check


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


def polled(events: list[Event], at: int) -> list[Event]:
    """The reader is given the record at this point of the history."""
    return [*events[:at], Polled("reader", "output-0", 0, "0:0@a", True), *events[at:]]


def test_the_reader_is_given_what_is_committed() -> None:
    """A record before its commit is asked for, or of a transaction that was aborted, is an anomaly before the end."""
    committed: list[Event] = [Sent("relay0", "output-0", "0:0@a", "a"), Ending("a")]
    aborted: list[Event] = [committed[0], Ended("a", ABORTED)]
    assert [read_wrong(polled(committed, at)) for at in (1, 2)] == [True, False]
    assert read_wrong(polled(aborted, 1))
    assert not read_wrong(aborted)


def test_the_reader_is_given_everything() -> None:
    """What the last read finds and the reader missed is an anomaly."""
    last = [(0, 0, "0:0@a"), (0, 3, "0:1@b")]
    seen: list[Event] = [Polled("reader", "output-0", offset, value, True) for _, offset, value in last]
    assert skipped(seen, last) == []
    assert [one.kind for one in skipped(seen[:1], last)] == ["skipped"]
