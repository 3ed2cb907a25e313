"""Writers whose every answer is noted in a history, for the tools that drive a server by themselves."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from tools.faults import conversation
from tools.faults.conversation import DUPLICATE, OK, OUT_OF_ORDER, Talk, Told
from tools.faults.history import (
    Acknowledged,
    Anomaly,
    Event,
    OffsetCommitted,
    OffsetFetched,
    OffsetTried,
    Read,
    Sent,
    check,
)
from tools.faults.peer import Peer, Stream, now_ms


@dataclass(slots=True)
class Writer:
    """An idempotent producer of one partition that sends a batch again until it is acknowledged."""

    stream: Stream
    events: list[Event]
    pending: list[str] = field(default_factory=list)
    acknowledged: int = 0
    told: list[int] = field(default_factory=list)
    """The error code of each answer."""

    def talk(self, count: int, timestamp: int) -> Talk:
        """Send the batch that is owed, or one of ``count`` new records; the error code."""
        stream = self.stream
        if not self.pending:
            self.pending = stream.next_values(count)
            self.events += [Sent(stream.name, stream.place, value) for value in self.pending]
        batch = stream.batch(self.pending, timestamp)
        code, base = yield from conversation.produce(stream.topic, stream.partition, batch)
        self.told.append(code)
        if code in (OK, DUPLICATE):
            for at, value in enumerate(self.pending):
                offset = base + at if code == OK and base >= 0 else -1
                self.events.append(Acknowledged(stream.place, value, offset))
            self.acknowledged += len(self.pending)
            stream.taken(len(self.pending))
            self.pending = []
        elif code == OUT_OF_ORDER:
            raise Told(code, f"{stream.place}: sequence {stream.sequence} is refused")
        return code

    def step(self, peer: Peer, count: int) -> int:
        """The same over a blocking connection. Raises Gone, Told."""
        code: int = peer.hold(self.talk(count, now_ms()))
        return code


class Load:
    """Writers for every partition of some topics, a group that commits what it likes, and their history."""

    def __init__(self, chance: random.Random, *, record_bytes: int = 100) -> None:
        self.chance = chance
        self.events: list[Event] = []
        self.writers: list[Writer] = []
        self.record_bytes = record_bytes
        self.places: list[tuple[str, int]] = []
        self._offset = 0

    def begin(self, peer: Peer, topic: str, partitions: int, **configs: str) -> None:
        """Make a topic and a writer for each of its partitions."""
        peer.hold(self.beginning(topic, partitions, **configs))

    def beginning(self, topic: str, partitions: int, **configs: str) -> Talk:
        """The conversation of :meth:`begin`."""
        yield from conversation.create(topic, partitions, **configs)
        producer_id = yield from conversation.producer_id()
        for partition in range(partitions):
            stream = Stream(f"w{len(self.writers)}", topic, partition, producer_id, self.record_bytes)
            self.writers.append(Writer(stream, self.events))
            self.places.append((topic, partition))

    @property
    def acknowledged(self) -> int:
        """Records that are promised."""
        return sum(one.acknowledged for one in self.writers)

    def commit(self, peer: Peer) -> int:
        """Have the group commit a higher offset; the error code."""
        code: int = peer.hold(self.committing())
        return code

    def committing(self) -> Talk:
        """The conversation of :meth:`commit`."""
        topic, partition = self.places[0]
        if not self._offset:
            yield from conversation.find_group("group")
        self._offset += 1
        offset = self._offset
        self.events.append(OffsetTried("group", f"{topic}-{partition}", offset))
        code = yield from conversation.commit("group", topic, partition, offset)
        if code == OK:
            self.events.append(OffsetCommitted("group", f"{topic}-{partition}", offset))
        return code

    def read_all(self, peer: Peer) -> None:
        """The last read. Raises Told where something cannot be read."""
        peer.hold(self.reading())

    def reading(self) -> Talk:
        """The conversation of :meth:`read_all`."""
        for topic, partition in self.places:
            found = yield from conversation.values(topic, partition)
            self.events += [Read(f"{topic}-{partition}", *one) for one in found]
        if self._offset:
            topic, partition = self.places[0]
            found = yield from conversation.committed("group", topic, partition)
            self.events.append(OffsetFetched("group", f"{topic}-{partition}", found))

    def anomalies(self) -> list[Anomaly]:
        """What the history shows; of partitions that are not among ``places`` nothing need be left."""
        kept = {f"{topic}-{partition}" for topic, partition in self.places}
        promised = (Acknowledged, OffsetCommitted)
        return check(one for one in self.events if not isinstance(one, promised) or one.partition in kept)
