"""Random sequences of members of both group protocols in one group: it moves between them, both ways, again and again.

Like :mod:`story`: what is chosen depends on the seed, and on what every right server must answer. Members of the
consumer protocol that are new, gone, static or late say what a client would say, and what it must not; classic members
join, sync and beat alone or while the group is a modern one. Expressions are left out: Kafka resolves them in the
background, and epochs go their own ways from then on. Partitions are shared out by `range`, in the order of the
members' ids: modern ones have ids that come after every other, so that both servers give the same to the same.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from random import Random
from typing import Any

from .corpus.consumer_groups import Member as Modern
from .corpus.consumer_groups import known, ready
from .corpus.groups import Member as Classic
from .corpus.groups import member
from .corpus.migration import assignment, commit, wishes
from .specs import Message
from .tale import Tale

MODERN_MAX = 3
WRONG: tuple[dict[str, Any], ...] = ({}, {"topic_partitions": []}, {"instance_id": "i9"})
DIFFERS = {
    "*.member_id": "a client's or an instance's name stands before the UUID here too; Kafka gives the bare UUID",
    "*.leader": "a member id",
}
INSTANCES = (None, None, "i1", "i2")


def _indexes(data: bytes) -> list[bytes]:
    """The partitions of a classic assignment of one topic, each in its four bytes."""
    (length,) = struct.unpack_from(">h", data, 6) if len(data) > 8 else (0,)
    rest = data[8 + length + 4 : -4]
    return [rest[at : at + 4] for at in range(0, len(rest), 4)]


class MigrationStory:
    """One seed's operations on one server: one group, at most one classic member, and a few modern ones."""

    def __init__(self, t: Tale, seed: int) -> None:
        self.t = t
        self.rng = Random(seed)
        self.topic = ready(t, 4)
        known(t, "b", 2)
        self.modern: list[Modern] = []
        self.classic: Classic | None = None
        self.made = 0
        self.away: set[str] = set()
        self.everything = [{"topic_id": self.topic, "partitions": [0, 1, 2, 3]}]
        self.has: dict[str, Any] = {}
        self.classic_has: list[int] = []

    def tell(self, length: int) -> None:
        """Do that many operations."""
        operations: tuple[tuple[Callable[[], None], int], ...] = (
            (self.modern_joins, 5),
            (self.modern_beats, 8),
            (self.modern_owns, 8),
            (self.modern_subscribes, 3),
            (self.modern_leaves, 3),
            (self.modern_comes_back, 2),
            (self.modern_errs, 3),
            (self.modern_commits, 3),
            (self.classic_joins, 4),
            (self.classic_goes_on, 8),
            (self.classic_leaves, 2),
            (self.classic_commits, 3),
            (self.look, 3),
        )
        chosen = self.rng.choices([one for one, _ in operations], [many for _, many in operations], k=length)
        for operation in chosen:
            operation()

    # The consumer protocol

    def modern_joins(self) -> None:
        if len(self.modern) >= MODERN_MAX:
            return
        instance = self.rng.choice(INSTANCES)
        self.made += 1
        one = Modern(self.t, f"~m{self.made}", instance=instance)
        if one.join(*self.rng.choice((("a",), ("a", "b"), ("b",))), server_assignor="range").get("error_code") == 0:
            self.modern = [other for other in self.modern if instance is None or other.instance != instance]
            self.modern.append(one)
            self.away.discard(instance or "")

    def one(self) -> Modern | None:
        return self.rng.choice(self.modern) if self.modern else None

    def modern_beats(self) -> None:
        if one := self.one():
            self.told(one, one.beat())

    def modern_owns(self) -> None:
        """It says that it has what it was told last, or nothing, or all."""
        if one := self.one():
            has = self.rng.choice((self.has.get(one.id, []), self.has.get(one.id, []), [], self.everything))
            self.told(one, one.beat(topic_partitions=has))

    def modern_subscribes(self) -> None:
        if one := self.one():
            name = self.t.name("a")
            more: tuple[dict[str, Any], ...] = (
                {"subscribed_topic_names": []},
                {"subscribed_topic_names": [name]},
                {"subscribed_topic_names": [name, self.t.name("b")]},
                {"subscribed_topic_regex": "("},
                {"server_assignor": self.rng.choice(("range", "mine"))},
            )
            self.told(one, one.beat(**self.rng.choice(more)))

    def modern_leaves(self) -> None:
        if one := self.one():
            goes = -2 if one.instance is not None and self.rng.random() < 0.5 else -1
            one.beat(goes)
            if goes == -2 and one.instance is not None:
                self.away.add(one.instance)
            self.modern.remove(one)
            self.modern_beats()  # Kafka shares out what was left behind with the next heartbeat, logd with a join too
            if not self.modern and self.classic is not None:  # what it counts as having until then is each server's own
                self.classic.join(wishes(self.t))
                self.classic.sync({self.classic.id: assignment(self.t.name("a"), 0, 1, 2, 3)})

    def modern_comes_back(self) -> None:
        """With its own id and epoch 0: it was started anew."""
        one = self.one()
        if one is not None and one.instance is None:
            self.told(one, one.join("a", server_assignor="range"))

    def modern_errs(self) -> None:
        one = self.one() or Modern(self.t, "nobody")
        epoch = self.rng.choice((one.epoch + 1, 99, -3))
        stranger = Modern(self.t, self.rng.choice((one.id, "nobody")), epoch=one.epoch, instance=one.instance)
        stranger.beat(epoch, **self.rng.choice(WRONG))

    def told(self, one: Modern, answer: Message) -> None:
        if answer.get("error_code") in (25, 69, 110) and one in self.modern:
            self.modern.remove(one)
        if answer.get("assignment") is not None:
            self.has[one.id] = answer["assignment"]["topic_partitions"]

    def modern_commits(self) -> None:
        if one := self.one():
            rows = [{"partition_index": 0, "committed_offset": self.rng.randint(0, 9), "committed_metadata": ""}]
            self.t.ask(
                "OffsetCommit",
                9,
                group_id=self.t.name("g"),
                member_id=one.id,
                generation_id_or_member_epoch=one.epoch + self.rng.choice((0, 0, -1, 1)),
                topics=[{"name": self.t.name("a"), "partitions": rows}],
            )

    # The classic protocol

    def classic_joins(self) -> None:
        """One at a time, as nobody waits for another here."""
        if self.classic is not None:
            return
        instance = self.rng.choice(INSTANCES)
        # in the place of an instance that is away Kafka lets it in with generation 0
        one = member(self.t, instance=None if instance in self.away else instance)
        if one.enter(wishes(self.t)).get("error_code") == 0:
            self.classic = one
            self.modern = [other for other in self.modern if one.instance is None or other.instance != one.instance]

    def classic_goes_on(self) -> None:
        one = self.classic
        if one is None:
            return
        step = self.rng.choice(("beat", "sync", "join", "late"))
        if step == "beat":
            answer = one.beat()
        elif step == "sync":
            answer = one.sync({one.id: assignment(self.t.name("a"), 0, 1, 2, 3)})
        elif step == "join":
            answer = one.join(wishes(self.t, *self.rng.choice((self.classic_has, self.classic_has, [], range(4)))))
        else:
            answer = one.beat(generation_id=one.generation + self.rng.choice((-1, 1)))
        if answer.get("error_code") in (25, 82):
            self.classic = None
        if step == "sync" and answer.get("error_code") == 0:
            self.classic_has = [
                index for index in range(4) if struct.pack(">i", index) in _indexes(answer["assignment"])
            ]

    def classic_leaves(self) -> None:
        if self.classic is not None:
            self.classic.leave(3)
            self.classic = None

    def classic_commits(self) -> None:
        if self.classic is not None:
            commit(self.t, self.classic, self.classic.generation + self.rng.choice((0, 0, -1, 1)))

    # Looks

    def look(self) -> None:
        (group,) = self.t.quiet("ConsumerGroupDescribe", 1, group_ids=[self.t.name("g")])["groups"]
        for one in group["members"]:
            one["subscribed_topic_names"].sort()
            one["member_id"] = one["member_id"] if one["member_id"].startswith("~") else "classic"
        self.t.note("ConsumerGroupDescribe v1", group)
        self.t.ask("OffsetFetch", 7, group_id=self.t.name("g"), topics=None)
        for kind in ("classic", "consumer"):
            groups = self.t.quiet("ListGroups", 5, states_filter=[], types_filter=[kind])["groups"]
            self.t.note(f"{kind} groups", [group for group in groups if group["group_id"] == self.t.name("g")])
