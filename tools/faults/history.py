"""What clients did and saw, as a list of events, and the anomalies that can be told from it.

Pure: a history is recorded by the tools of this directory (or read from a file of JSON lines), :func:`check` looks
through it once everything has healed. Values are unique. What timed out is neither acknowledged nor failed: it may be
there or not, but once and in its place. It knows nothing of logd.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

COMMITTED, ABORTED, OPEN = "committed", "aborted", "open"

KINDS = (
    "lost",
    "duplicated",
    "reordered",
    "inconsistent-offset",
    "phantom",
    "aborted-read",
    "early-read",
    "torn-transaction",
    "non-monotonic-poll",
    "offset-regress",
)


@dataclass(frozen=True, slots=True)
class Sent:
    """A producer gave a record away, as its next one for that partition; ``transaction`` "" for none."""

    producer: str
    partition: str
    value: str
    transaction: str = ""


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """The record is promised to be at this offset (-1: the answer did not say)."""

    partition: str
    value: str
    offset: int = -1


@dataclass(frozen=True, slots=True)
class Failed:
    """The record was refused for certain, and must not be there."""

    partition: str
    value: str


@dataclass(frozen=True, slots=True)
class Ending:
    """The commit of a transaction is about to be asked for; it is told before, so that no reader can be quicker."""

    transaction: str


@dataclass(frozen=True, slots=True)
class Ended:
    """A transaction came to an end; one that never says so is unknown."""

    transaction: str
    outcome: str


@dataclass(frozen=True, slots=True)
class Polled:
    """A consumer was given a record. A consumer that seeks or is assigned anew is another ``reader``."""

    reader: str
    partition: str
    offset: int
    value: str
    committed_only: bool = False


@dataclass(frozen=True, slots=True)
class Read:
    """The last read, of all there is, in its order, after everything healed."""

    partition: str
    offset: int
    value: str
    committed_only: bool = False


@dataclass(frozen=True, slots=True)
class OffsetCommitted:
    """A group's commit was acknowledged."""

    group: str
    partition: str
    offset: int


@dataclass(frozen=True, slots=True)
class OffsetTried:
    """A group's commit was sent; if no acknowledgement follows it may count or not."""

    group: str
    partition: str
    offset: int


@dataclass(frozen=True, slots=True)
class OffsetFetched:
    """A group was told its committed offset (-1: none)."""

    group: str
    partition: str
    offset: int


Event = Sent | Acknowledged | Failed | Ending | Ended | Polled | Read | OffsetCommitted | OffsetTried | OffsetFetched
_TYPES: dict[str, Any] = {
    one.__name__: one
    for one in (Sent, Acknowledged, Failed, Ending, Ended, Polled, Read, OffsetCommitted, OffsetTried, OffsetFetched)
}


@dataclass(frozen=True, slots=True)
class Anomaly:
    """Something that must not be."""

    kind: str
    text: str


def number_of(value: str) -> int:
    """How manieth value of its writer it is."""
    return int(value.rpartition(":")[2])


def save(events: Iterable[Event], path: Path) -> None:
    """Keep a raw history."""
    with path.open("w") as file:
        for event in events:
            file.write(json.dumps([type(event).__name__, asdict(event)]) + "\n")


def load(path: Path) -> list[Event]:
    """Read a history back."""
    with path.open() as file:
        return [_TYPES[name](**fields) for name, fields in map(json.loads, file)]


@dataclass(slots=True)
class _Facts:
    """A history, sorted."""

    sent: dict[tuple[str, str], Sent] = field(default_factory=dict)
    orders: dict[tuple[str, str], dict[str, int]] = field(default_factory=lambda: defaultdict(dict))
    acknowledged: dict[tuple[str, str], int] = field(default_factory=dict)
    failed: set[tuple[str, str]] = field(default_factory=set)
    ending: set[str] = field(default_factory=set)
    early: list[tuple[str, Polled]] = field(default_factory=list)
    """Records that a reader of committed ones was given before the commit was asked for."""
    outcomes: dict[str, str] = field(default_factory=dict)
    read: dict[str, list[Read]] = field(default_factory=lambda: defaultdict(list))
    polled: dict[tuple[str, str], list[Polled]] = field(default_factory=lambda: defaultdict(list))
    offsets: list[Event] = field(default_factory=list)

    def take(self, event: Event) -> None:
        match event:
            case Sent():
                self.sent[event.partition, event.value] = event
                order = self.orders[event.producer, event.partition]
                order[event.value] = len(order)
            case Acknowledged():
                self.acknowledged[event.partition, event.value] = event.offset
            case Failed():
                self.failed.add((event.partition, event.value))
            case Ending():
                self.ending.add(event.transaction)
            case Ended():
                self.outcomes[event.transaction] = event.outcome
            case Read():
                self.read[event.partition].append(event)
            case Polled():
                self.polled[event.reader, event.partition].append(event)
                sent = self.sent.get((event.partition, event.value))
                if event.committed_only and sent is not None and sent.transaction not in self.ending:
                    self.early.append((sent.transaction, event))
            case _:
                self.offsets.append(event)

    def outcome(self, key: tuple[str, str]) -> str:
        """What became of a record's transaction; COMMITTED when it had none, "" when nobody knows."""
        sent = self.sent.get(key)
        return self.outcomes.get(sent.transaction, "") if sent is not None and sent.transaction else COMMITTED


def check(events: Iterable[Event]) -> list[Anomaly]:
    """Return all anomalies of a history."""
    facts = _Facts()
    for event in events:
        facts.take(event)
    found: list[Anomaly] = []
    for look in (_lost, _twice, _disorder, _two_values, _phantoms, _aborted, _early, _torn, _backward, _regress):
        found.extend(look(facts))
    return found


def _lost(facts: _Facts) -> Iterator[Anomaly]:
    there = {(one.partition, one.value) for reads in facts.read.values() for one in reads}
    for key, offset in facts.acknowledged.items():
        if facts.outcome(key) == COMMITTED and key not in there:
            yield Anomaly("lost", f"{key[1]} was acknowledged at {key[0]}@{offset} and is not there")


def _twice(facts: _Facts) -> Iterator[Anomaly]:
    for partition, reads in facts.read.items():
        for value, count in Counter(one.value for one in reads).items():
            if count > 1:
                places = [one.offset for one in reads if one.value == value]
                yield Anomaly("duplicated", f"{value} is {count} times in {partition}, at {places}")


def _disorder(facts: _Facts) -> Iterator[Anomaly]:
    for (producer, partition), order in facts.orders.items():
        last, last_value = -1, ""
        for one in facts.read.get(partition, ()):
            place = order.get(one.value, -1)
            if 0 <= place < last:
                yield Anomaly("reordered", f"{one.value} of {producer} stands behind {last_value} in {partition}")
            elif place >= 0:
                last, last_value = place, one.value


def _two_values(facts: _Facts) -> Iterator[Anomaly]:
    seen: dict[tuple[str, int], str] = {}
    places = [(partition, offset, value) for (partition, value), offset in facts.acknowledged.items() if offset >= 0]
    places += [(one.partition, one.offset, one.value) for some in facts.polled.values() for one in some]
    places += [(one.partition, one.offset, one.value) for some in facts.read.values() for one in some]
    for partition, offset, value in places:
        if seen.setdefault((partition, offset), value) != value:
            yield Anomaly("inconsistent-offset", f"{partition}@{offset} is {seen[partition, offset]} and {value}")
    for partition, reads in facts.read.items():
        for one in reads:
            told = facts.acknowledged.get((partition, one.value), -1)
            if told not in (-1, one.offset):
                yield Anomaly("inconsistent-offset", f"{one.value}: told {partition}@{told}, is at {one.offset}")


def _phantoms(facts: _Facts) -> Iterator[Anomaly]:
    seen = {(one.partition, one.value) for some in facts.read.values() for one in some}
    seen |= {(one.partition, one.value) for some in facts.polled.values() for one in some}
    for key in sorted(seen):
        if key not in facts.sent:
            yield Anomaly("phantom", f"{key[1]} in {key[0]} was never sent")
        elif key in facts.failed:
            yield Anomaly("phantom", f"{key[1]} in {key[0]} was refused and is there")


def _aborted(facts: _Facts) -> Iterator[Anomaly]:
    for some in (*facts.polled.values(), *facts.read.values()):
        for one in some:
            if one.committed_only and facts.outcome((one.partition, one.value)) == ABORTED:
                yield Anomaly("aborted-read", f"{one.value} at {one.partition}@{one.offset} was aborted")


def _early(facts: _Facts) -> Iterator[Anomaly]:
    for transaction, one in facts.early:
        if transaction in facts.ending:
            yield Anomaly("early-read", f"{one.value} at {one.partition}@{one.offset} was read before it was committed")


def _torn(facts: _Facts) -> Iterator[Anomaly]:
    there = {(one.partition, one.value) for some in facts.read.values() for one in some if one.committed_only}
    parts: dict[str, list[bool]] = defaultdict(list)
    for key, sent in facts.sent.items():
        if sent.transaction and key not in facts.failed:
            parts[sent.transaction].append(key in there)
    for transaction, seen in parts.items():
        if any(seen) and not all(seen):
            yield Anomaly("torn-transaction", f"{seen.count(True)} of {len(seen)} records of {transaction} are there")


def _backward(facts: _Facts) -> Iterator[Anomaly]:
    for (reader, partition), some in facts.polled.items():
        last = -1
        for one in some:
            if one.offset <= last:
                yield Anomaly("non-monotonic-poll", f"{reader} got {partition}@{one.offset} after {last}")
            last = max(last, one.offset)


def _regress(facts: _Facts) -> Iterator[Anomaly]:
    known: dict[tuple[str, str], int] = {}
    tried: dict[tuple[str, str], set[int]] = defaultdict(set)
    for event in facts.offsets:
        assert isinstance(event, (OffsetTried, OffsetCommitted, OffsetFetched))
        key = (event.group, event.partition)
        if isinstance(event, OffsetTried):
            tried[key].add(event.offset)
        elif isinstance(event, OffsetCommitted):
            known[key] = event.offset
            tried[key].clear()
        elif event.offset != known.get(key, -1) and event.offset not in tried[key]:
            yield Anomaly("offset-regress", f"group {key[0]} was told {key[1]}@{event.offset}, not {known.get(key)}")
        else:
            known[key] = event.offset
