"""Random sequences of transactional operations by producers that compete for the same transactional ids.

Like :mod:`story`: what is chosen depends on the seed alone, so two servers that differ once differ in the step where it
happened. Each step begins when the coordinator has ended what it was told to end.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from .corpus.transactions import NEW, OLD, Actor, committed, read
from .tale import Tale

PARTITIONS = 2
TOPICS = ("a", "b")
IDS = ("x", "x", "x", "y")
GROUP = "g"


class TransactionStory:
    """One seed's operations on one server: three producers for one id, and one for another."""

    def __init__(self, t: Tale, seed: int) -> None:
        self.t = t
        self.rng = Random(seed)
        levels = self.rng.choice(((NEW,) * 4, (OLD,) * 4, (OLD, NEW, NEW, OLD)))
        self.actors = [Actor(t, t.name(tid), level=level) for tid, level in zip(IDS, levels, strict=True)]
        for short in TOPICS:
            t.create(short, PARTITIONS)

    def tell(self, length: int) -> None:
        """Do that many operations."""
        operations: tuple[tuple[Callable[[Actor], object], int], ...] = (
            (self.init, 3),
            (self.init_named, 2),
            (self.add, 5),
            (self.verify, 1),
            (self.produce, 8),
            (self.produce_wrong, 3),
            (self.add_offsets, 2),
            (self.offsets, 4),
            (self.end, 6),
            (self.end_wrong, 4),
            (self.look, 2),
            (self.read, 3),
        )
        for actor in self.actors[-2:]:
            actor.init()
        chosen = self.rng.choices([one for one, _ in operations], [many for _, many in operations], k=length)
        for operation in chosen:
            operation(self.rng.choice(self.actors))

    def who(self, actor: Actor) -> tuple[int, int]:
        """The producer itself mostly, sometimes one that it was or never will be."""
        strangers = (actor.earlier, actor.later, self.rng.choice(self.actors).producer)
        return self.rng.choice((actor.producer, *strangers))

    def place(self) -> tuple[str, int]:
        return self.t.name(self.rng.choice(TOPICS)), self.rng.choice((0, 0, 0, 1, 2))

    def init(self, actor: Actor) -> None:
        actor.init(self.rng.choice((1, 2, 3, 4, 5)), timeout_ms=self.rng.choice((60_000, 90_000)))

    def init_named(self, actor: Actor) -> None:
        actor.init(self.rng.choice((3, 4, 5)), named=self.who(actor))

    def add(self, actor: Actor) -> None:
        places = [self.place() for _ in range(self.rng.choice((1, 1, 2)))]
        actor.add(*dict.fromkeys(places), version=self.rng.randint(0, 3), who=self.rng.choice((None, self.who(actor))))

    def verify(self, actor: Actor) -> None:
        producer_id, epoch = self.who(actor)
        topic, index = self.place()
        row = {
            "transactional_id": actor.tid,
            "producer_id": producer_id,
            "producer_epoch": epoch,
            "verify_only": self.rng.choice((True, True, False)),
            "topics": [{"name": topic, "partitions": [index]}],
        }
        actor.settle()
        self.t.ask("AddPartitionsToTxn", self.rng.choice((4, 5)), transactions=[row])

    def produce(self, actor: Actor) -> None:
        topic, index = self.place()
        actor.produce(topic, index, *[b"r"] * self.rng.randint(1, 3))

    def produce_wrong(self, actor: Actor) -> None:
        topic, index = self.place()
        sequence = self.rng.choice((0, 0, 1, 5))
        actor.produce(topic, index, b"w", who=self.who(actor), sequence=sequence, version=self.rng.choice((9, 11, 12)))

    def add_offsets(self, actor: Actor) -> None:
        actor.add_offsets(self.t.name(GROUP), self.rng.randint(0, 4))

    def offsets(self, actor: Actor) -> None:
        version = self.rng.choice((3, 4)) if actor.level == OLD else 5
        who = self.rng.choice((None, None, self.who(actor)))
        actor.offsets(self.t.name(GROUP), self.t.name("a"), self.rng.randint(0, 99), version=version, who=who)

    def end(self, actor: Actor) -> None:
        actor.end(self.rng.choice((True, True, False)))

    def end_wrong(self, actor: Actor) -> None:
        kept = actor.producer, actor.sequences
        actor.end(self.rng.choice((True, False)), version=self.rng.choice((1, 3, 4, 5)), who=self.who(actor))
        actor.producer, actor.sequences = kept

    def look(self, actor: Actor) -> None:
        actor.where()
        committed(self.t, self.t.name(GROUP), stable=self.rng.choice((True, False)))

    def read(self, actor: Actor) -> None:
        actor.settle()
        offset = self.rng.choice((0, 0, 0, 1, 2))
        read(self.t, self.t.name(self.rng.choice(TOPICS)), self.rng.choice((0, 1)), offset=offset)
