"""What happened to each group, topic, connection and transactional id of late: the memory that `why` is answered from.

A bounded ring of structured events, each with a whole sentence in it. The coordinators' runtime, the dispatcher and the
Kafka door write into it when something out of the ordinary happens (a member was put out, a request was refused), never
for what goes well a thousand times a second; the API `Why` reads it. It is soft: it dies with the process.
It never decides anything and knows no clock; the time is handed in.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from enum import IntEnum

import msgspec

SUBJECT_EVENTS_MAX = 200
"""Of one group, topic, connection or transactional id, so that a noisy one does not push out the others."""

EVENT_BYTES = 400
"""What an event takes beside its texts, about."""

TEXT_MAX = 1000
"""Longer texts come from peers, and are cut."""


class Subject(IntEnum):
    """What an event is about, numbered as on the wire."""

    ANY = 0
    GROUP = 1
    TOPIC = 2
    CONNECTION = 3
    TRANSACTION = 4


Facts = tuple[tuple[str, str], ...]


class Note(msgspec.Struct, frozen=True):
    """One event without its time. `kind` is a stable word, `text` a sentence to print."""

    subject: Subject
    name: str
    kind: str
    text: str
    facts: Facts = ()


def group_note(group_id: str, kind: str, text: str, **facts: object) -> Note:
    """A note about a group."""
    return Note(Subject.GROUP, group_id, kind, text, _facts(facts))


def topic_note(topic: str, kind: str, text: str, **facts: object) -> Note:
    """A note about a topic."""
    return Note(Subject.TOPIC, topic, kind, text, _facts(facts))


def connection_note(peer: str, kind: str, text: str, **facts: object) -> Note:
    """A note about a connection, which is called by its peer's address."""
    return Note(Subject.CONNECTION, peer, kind, text, _facts(facts))


def transaction_note(transactional_id: str, kind: str, text: str, **facts: object) -> Note:
    """A note about the transactions of one transactional id."""
    return Note(Subject.TRANSACTION, transactional_id, kind, text, _facts(facts))


def _facts(facts: dict[str, object]) -> Facts:
    return tuple((name, str(value)) for name, value in facts.items())


class Event:
    """A note with its time; `times` counts it when it came again and again, `time_ms` is then the last one."""

    __slots__ = ("note", "number", "size_bytes", "time_ms", "times")

    def __init__(self, number: int, time_ms: int, note: Note) -> None:
        self.number = number
        self.time_ms = time_ms
        self.note = note
        self.times = 1
        said = sum(len(name) + len(value) for name, value in note.facts)
        self.size_bytes = EVENT_BYTES + 2 * (len(note.text) + len(note.name) + said)


class Chronicle:
    """Events by subject, oldest first.

    :param bytes_max: what all of them may take in memory, about (``why.events.max.bytes``); 0 keeps nothing.
    """

    def __init__(self, bytes_max: int) -> None:
        self.bytes_max = bytes_max
        self.size_bytes = 0
        self.forgotten = 0
        self._count = 0
        self._of: dict[tuple[Subject, str], deque[Event]] = {}

    def add(self, note: Note, now_ms: int) -> None:
        """Remember one event; the same one again at once only counts."""
        if len(note.text) > TEXT_MAX or len(note.name) > TEXT_MAX:
            note = msgspec.structs.replace(note, text=note.text[:TEXT_MAX], name=note.name[:TEXT_MAX])
        key = note.subject, note.name
        events = self._of.pop(key, None)
        if events is None:
            events = deque()
        self._of[key] = events  # the subject that was heard of last is at the end
        if events and events[-1].note == note:
            events[-1].times += 1
            events[-1].time_ms = now_ms
            return
        self._count += 1
        event = Event(self._count, now_ms, note)
        events.append(event)
        self.size_bytes += event.size_bytes
        if len(events) > SUBJECT_EVENTS_MAX:
            self._drop(events)
        while self.size_bytes > self.bytes_max and self._of:
            self._drop_oldest()

    def _drop(self, events: deque[Event]) -> None:
        self.size_bytes -= events.popleft().size_bytes
        self.forgotten += 1

    def _drop_oldest(self) -> None:
        """The oldest event of the subject that was silent longest."""
        key = next(iter(self._of))
        self._drop(self._of[key])
        if not self._of[key]:
            del self._of[key]

    def find(self, subject: Subject, name: str, since_ms: int, events_max: int) -> list[Event]:
        """The newest events that fit, oldest first.

        :param subject: ANY for all kinds. :param name: "" for all of them.
        """
        found = [
            event
            for (kind, called), events in self._of.items()
            if subject in (Subject.ANY, kind) and name in ("", called)
            for event in events
            if event.time_ms >= since_ms
        ]
        found.sort(key=lambda event: (event.time_ms, event.number))
        return found[-events_max:] if events_max > 0 else []

    def names(self, subject: Subject) -> Iterable[str]:
        """What it knows something of."""
        return [name for kind, name in self._of if kind is subject]
