"""Groups that move between the two protocols while they have members (KIP-848)."""

from __future__ import annotations

import struct
import uuid

from ..tale import Tale, case
from .consumer_groups import Member as Modern
from .consumer_groups import describe, ready
from .groups import Member as Classic
from .groups import member
from .transactions import NEW, OLD, Actor, committed

OWN_NAMES = "a client's or an instance's name stands before the UUID here too; Kafka gives the bare UUID"


def _text(text: str) -> bytes:
    return struct.pack(">h", len(text)) + text.encode()


def subscription(topic: str, *owned: int) -> bytes:
    """Version 1: with what the member still has."""
    has = struct.pack(">i", 1) + _text(topic) + struct.pack(">i", len(owned)) if owned else struct.pack(">i", 0)
    numbers = b"".join(struct.pack(">i", index) for index in owned)
    return b"\0\1" + struct.pack(">i", 1) + _text(topic) + b"\xff\xff\xff\xff" + has + numbers


def assignment(topic: str, *partitions: int) -> bytes:
    numbers = b"".join(struct.pack(">i", index) for index in partitions)
    head = b"\0\1" + struct.pack(">i", 1) + _text(topic) + struct.pack(">i", len(partitions))
    return head + numbers + b"\xff\xff\xff\xff"


def stable(t: Tale, topic: uuid.UUID, **more: object) -> Classic:
    """A classic group of one member with all four partitions."""
    one = member(t, **more)  # type: ignore[arg-type]
    one.enter(wishes(t))
    one.sync({one.id: assignment(t.name("a"), 0, 1, 2, 3)})
    return one


def wishes(t: Tale, *owned: int) -> list[dict[str, object]]:
    return [{"name": "cooperative-sticky", "metadata": subscription(t.name("a"), *owned)}]


def commit(t: Tale, one: Classic, generation: int, version: int = 7) -> None:
    rows = [{"partition_index": 0, "committed_offset": 5, "committed_leader_epoch": -1, "committed_metadata": ""}]
    t.ask(
        "OffsetCommit",
        version,
        on=one.on,
        group_id=one.group,
        generation_id_or_member_epoch=generation,
        member_id=one.id,
        topics=[{"name": t.name("a"), "partitions": rows}],
    )


@case("migrate-up-and-down")
def up_and_down(t: Tale) -> None:
    """A modern member joins a classic one, takes its half, and leaves again."""
    topic = ready(t)
    one = stable(t, topic)
    commit(t, one, one.generation)
    two = Modern(t, "two")
    two.join()
    describe(t)
    commit(t, one, one.generation)
    commit(t, one, one.generation + 1)
    one.beat()
    one.sync()
    one.join(wishes(t, 0, 1, 2, 3))
    one.beat()
    one.sync()
    describe(t)
    one.join(wishes(t, 0, 1))
    one.sync()
    one.beat()
    two.beat()
    describe(t)
    two.owns(topic, 2, 3)
    one.beat()
    one.beat(generation_id=one.generation + 1)
    one.beat(member_id="nobody")
    commit(t, one, one.generation)
    two.beat(-1)
    t.ask("DescribeGroups", 5, groups=["nobody"])
    one.beat()
    one.join(wishes(t, 0, 1))
    one.sync({one.id: assignment(t.name("a"), 0, 1, 2, 3)})
    one.beat()
    two.beat()


@case("migrate-who-may-join", differs={"JoinGroup*.member_id": OWN_NAMES, "LeaveGroup*.member_id": OWN_NAMES})
def who_may_join(t: Tale) -> None:
    """Classic members that a modern group takes, and those that it does not."""
    ready(t)
    two = Modern(t, "two")
    two.join()
    for kind, protocols in (("connect", wishes(t)), ("consumer", [])):
        other = member(t)
        other.join(protocols, protocol_type=kind)
    one = member(t)
    one.enter(wishes(t))
    one.sync(version=5, protocol_type="consumer", protocol_name="range")
    one.sync(version=5, protocol_type="other", protocol_name="cooperative-sticky")
    one.sync(version=5, protocol_type="consumer", protocol_name="cooperative-sticky")
    third = member(t)
    third.enter([{"name": "range", "metadata": subscription(t.name("a"))}])
    unknown = member(t)
    unknown.id = "nobody"
    unknown.sync()
    unknown.beat()
    unknown.leave(3)
    one.leave(3)
    describe(t)


@case("migrate-what-is-no-consumer")
def what_is_no_consumer(t: Tale) -> None:
    """A classic group of another type does not move."""
    ready(t)
    one = member(t)
    one.enter(wishes(t), protocol_type="connect")
    one.sync({one.id: b"mine"})
    Modern(t, "two").join()
    one.beat()


@case("migrate-what-would-be-lost")
def what_would_be_lost(t: Tale) -> None:
    """A group whose members were given user data by their assignor, or what can't be read, stays classic."""
    ready(t)
    one = member(t)
    one.enter(wishes(t))
    whole = assignment(t.name("a"), 0, 1, 2, 3)
    for given in (whole[:-4] + struct.pack(">i", 4) + b"mine", whole[:1], whole[:-6], b"\xff\xff" + whole[2:], b"mine"):
        one.sync({one.id: given})
        Modern(t, "two").join()
        one.beat()
        one.join(wishes(t))


@case("migrate-static", differs={"JoinGroup*.member_id": OWN_NAMES})
def static(t: Tale) -> None:
    """An instance goes from one protocol to the other, and back, in its own place."""
    topic = ready(t)
    one = stable(t, topic, instance="i1")
    two = Modern(t, "two", instance="i1")
    two.join()
    describe(t)
    one.beat()
    two.beat()
    back = member(t, instance="i1")
    back.join(wishes(t))
    back.sync()
    back.beat()


@case("migrate-classic-offsets", versions=(9,), differs={"JoinGroup*.member_id": OWN_NAMES})
def classic_offsets(t: Tale, version: int) -> None:
    """A classic member of a modern group asks for offsets, and commits them, by its generation."""
    ready(t)
    one = Modern(t, "one")
    one.join()
    two = member(t)
    two.enter(wishes(t))
    two.sync()

    def fetch(who: str | None, epoch: int) -> None:
        topics = [{"name": t.name("a"), "partition_indexes": [0]}]
        asked = {"group_id": two.group, "member_id": who, "member_epoch": epoch, "topics": topics}
        t.ask("OffsetFetch", version, groups=[asked])

    for who in (two.id, "one"):
        for epoch in (two.generation, two.generation - 1, 99):
            fetch(who, epoch)
    for generation in (two.generation, two.generation - 1, 99, -1):
        commit(t, two, generation, version)
        commit(t, two, generation, 2)


@case("txn-offsets-modern-members", versions=(3, 4, 5))
def offsets_of_modern_members(t: Tale, version: int) -> None:
    """The fences of a group of the consumer protocol."""
    ready(t)
    member = Modern(t, "one")
    member.join()
    one = Actor(t, t.name("x"), level=NEW if version >= 5 else OLD)
    one.init()
    if version < 5:
        one.add_offsets(t.name("g"))
    group, a = t.name("g"), t.name("a")
    for who, epoch in (
        ("one", member.epoch),
        ("one", member.epoch + 1),
        ("one", member.epoch - 1),
        ("one", -1),
        ("", -1),
        ("", member.epoch),
        ("nobody", member.epoch),
    ):
        for instance in (None, "i"):
            fence = {"member_id": who, "generation_id": epoch, "group_instance_id": instance}
            one.offsets(group, a, 5, version=version, **fence)
    committed(t, group, stable=True)
    one.end()
    committed(t, group)
