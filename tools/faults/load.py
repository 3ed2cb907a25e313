"""Writers whose every answer is noted in a history, for the tools that drive a server by themselves."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

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
from tools.faults.peer import DUPLICATE, OK, OUT_OF_ORDER, Peer, Stream, Told


@dataclass(slots=True)
class Writer:
    """An idempotent producer of one partition that sends a batch again until it is acknowledged."""

    stream: Stream
    events: list[Event]
    pending: list[str] = field(default_factory=list)
    acknowledged: int = 0
    told: list[tuple[int, int]] = field(default_factory=list)
    """Each answer: the error code, and how many records were acknowledged before it."""

    def step(self, peer: Peer, count: int) -> int:
        """Send the batch that is owed, or one of ``count`` new records; the error code. Raises Gone."""
        stream = self.stream
        if not self.pending:
            self.pending = stream.next_values(count)
            self.events += [Sent(stream.name, stream.place, value) for value in self.pending]
        code, base = peer.produce(stream.topic, stream.partition, stream.batch(self.pending))
        self.told.append((code, self.acknowledged))
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
        peer.create(topic, partitions, **configs)
        producer_id = peer.producer_id()
        for partition in range(partitions):
            self.add(topic, partition, producer_id)

    def add(self, topic: str, partition: int, producer_id: int) -> None:
        """Write to a partition that is there."""
        name = f"w{len(self.writers)}"
        stream = Stream(name, topic, partition, producer_id, self.record_bytes)
        self.writers.append(Writer(stream, self.events))
        self.places.append((topic, partition))

    @property
    def acknowledged(self) -> int:
        """Records that are promised."""
        return sum(one.acknowledged for one in self.writers)

    def commit(self, peer: Peer) -> int:
        """Have the group commit a higher offset; the error code."""
        topic, partition = self.places[0]
        if not self._offset:
            peer.find_group("group")
        self._offset += 1
        self.events.append(OffsetTried("group", f"{topic}-{partition}", self._offset))
        code = peer.commit("group", topic, partition, self._offset)
        if code == 0:
            self.events.append(OffsetCommitted("group", f"{topic}-{partition}", self._offset))
        return code

    def read_all(self, peer: Peer) -> None:
        """The last read. Raises Told where something cannot be read."""
        for topic, partition in self.places:
            self.events += [Read(f"{topic}-{partition}", *one) for one in peer.values(topic, partition)]
        if self._offset:
            topic, partition = self.places[0]
            found = peer.committed("group", topic, partition)
            self.events.append(OffsetFetched("group", f"{topic}-{partition}", found))

    def anomalies(self) -> list[Anomaly]:
        """What the history shows."""
        return check(self.events)
