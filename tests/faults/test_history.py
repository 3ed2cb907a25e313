"""The checker finds each kind of anomaly when it is put into a good history, and nothing in the good one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.faults import history
from tools.faults.history import (
    Acknowledged,
    Ended,
    Ending,
    Event,
    Failed,
    OffsetCommitted,
    OffsetFetched,
    OffsetTried,
    Polled,
    Read,
    Sent,
    check,
)


def good() -> list[Event]:
    """Two producers, a transaction of each outcome, a timeout, a refusal, a consumer and a group."""
    events: list[Event] = []
    for number in range(6):
        events.append(Sent("a", "t-0", f"a{number}"))
        events.append(Acknowledged("t-0", f"a{number}", number))
    events += [Sent("a", "t-0", "unknown"), Sent("a", "t-0", "refused"), Failed("t-0", "refused")]
    for name, outcome, base in (("x", history.COMMITTED, 6), ("y", history.ABORTED, 9)):
        for number in range(2):
            events += [Sent("b", "t-0", f"{name}{number}", name), Acknowledged("t-0", f"{name}{number}", base + number)]
        events += [Ending(name)] * (outcome == history.COMMITTED)
        events.append(Ended(name, outcome))
    seen = [(number, f"a{number}") for number in range(6)] + [(6, "x0"), (7, "x1")]
    for offset, value in seen:
        events.append(Polled("c", "t-0", offset, value, True))
        events.append(Read("t-0", offset, value, True))
    events += [OffsetTried("g", "t-0", 3), OffsetCommitted("g", "t-0", 3), OffsetFetched("g", "t-0", 3)]
    return [*events, OffsetTried("g", "t-0", 5), OffsetFetched("g", "t-0", 5), OffsetFetched("g", "t-0", 5)]


def swapped(events: list[Event]) -> list[Event]:
    """The last read finds two records in each other's place."""
    places = [at for at, one in enumerate(events) if isinstance(one, Read)][2:4]
    first, second = (events[at] for at in places)
    events[places[0]], events[places[1]] = second, first
    return events


def hasty(events: list[Event]) -> list[Event]:
    """A reader of committed records is given one before its commit is asked for."""
    at = events.index(Ending("x"))
    return [*events[:at], Polled("d", "t-0", 6, "x0", True), *events[at:]]


INJECTED = {
    "lost": lambda events: [one for one in events if one != Read("t-0", 3, "a3", True)],
    "duplicated": lambda events: [*events, Read("t-0", 12, "a3", True)],
    "reordered": swapped,
    "inconsistent-offset": lambda events: [*events, Polled("d", "t-0", 3, "a4", True)],
    "phantom": lambda events: [*events, Read("t-0", 13, "never", True)],
    "aborted-read": lambda events: [*events, Polled("d", "t-0", 9, "y0", True)],
    "early-read": hasty,
    "torn-transaction": lambda events: [one for one in events if one != Read("t-0", 7, "x1", True)],
    "non-monotonic-poll": lambda events: [*events, Polled("c", "t-0", 2, "a2", True)],
    "offset-regress": lambda events: [*events, OffsetFetched("g", "t-0", 3)],
}


def test_good_history() -> None:
    """Timeouts, refusals, aborts and unacknowledged commits are no anomalies."""
    assert check(good()) == []
    late = [*good(), Read("t-0", 20, "unknown")]
    assert [one.kind for one in check(late) if one.kind != "reordered"] == []


@pytest.mark.parametrize("kind", history.KINDS)
def test_injected(kind: str) -> None:
    """Each kind is found."""
    assert kind in {one.kind for one in check(INJECTED[kind](good()))}


def test_refused_record_that_is_there() -> None:
    """What was refused for certain must not be read."""
    assert "phantom" in {one.kind for one in check([*good(), Read("t-0", 14, "refused")])}


def test_told_another_offset() -> None:
    """A record that is not where its producer was told is inconsistent, and an offset that began anew a regress."""
    assert "inconsistent-offset" in {one.kind for one in check([*good(), Acknowledged("t-0", "a5", 4)])}
    assert "offset-regress" in {one.kind for one in check([*good(), OffsetFetched("g", "t-0", -1)])}


def test_saved_and_loaded(tmp_path: Path) -> None:
    """A history survives its file."""
    history.save(good(), tmp_path / "history")
    assert history.load(tmp_path / "history") == good()
