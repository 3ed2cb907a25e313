"""The consumer group protocol (KIP-848): heartbeats by the book and out of order, offsets by member epoch."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from itertools import count
from time import sleep
from typing import Any

from logd.coordinators.shards import shard_of

from ..servers import OFFSETS_PARTITIONS
from ..specs import Message
from ..tale import POLL_PAUSE_S, Tale, case


@dataclass(slots=True)
class Member:
    """One member of a group; all share the case's connection, as nothing here waits."""

    t: Tale
    id: str
    version: int = 1
    group: str = "g"
    epoch: int = 0
    instance: str | None = None
    quiet: bool = False

    def beat(self, epoch: int | None = None, **more: Any) -> Message:
        fields = {
            "group_id": self.t.name(self.group),
            "member_id": self.id,
            "member_epoch": self.epoch if epoch is None else epoch,
            "instance_id": self.instance,
            "rebalance_timeout_ms": -1,
            "subscribed_topic_names": None,
            "topic_partitions": None,
            **more,
        }
        ask = self.t.quiet if self.quiet else self.t.ask
        answer = ask("ConsumerGroupHeartbeat", self.version, **fields)
        if answer.get("error_code") == 0:
            self.epoch = answer["member_epoch"]
        return answer

    def join(self, *topics: str, **more: Any) -> Message:
        names = [self.t.name(topic) for topic in topics or ("a",)]
        return self.beat(
            0, **{"rebalance_timeout_ms": 60000, "subscribed_topic_names": names, "topic_partitions": [], **more}
        )

    def owns(self, topic_id: uuid.UUID, *partitions: int, **more: Any) -> Message:
        return self.beat(topic_partitions=[{"topic_id": topic_id, "partitions": list(partitions)}], **more)


def ready(t: Tale, partitions: int = 4) -> uuid.UUID:
    """A topic, and a coordinator that answers."""
    while t.quiet("FindCoordinator", 4, key_type=0, coordinator_keys=[t.name("g")])["coordinators"][0]["error_code"]:
        pass
    while t.quiet("ListGroups", 5)["error_code"]:
        pass
    return known(t, "a", partitions)


def known(t: Tale, short: str, partitions: int = 1) -> uuid.UUID:
    """A topic that the coordinator of the case's group has heard of.

    Kafka tells each partition of its offsets topic on its own, after the creation was answered, and a group that
    begins before that has other epochs. So a group of the same partition waits until it is given the topic.
    """
    topic = t.create(short, partitions)
    shard = shard_of(t.name("g"), OFFSETS_PARTITIONS)
    name = next(name for name in map("probe{}".format, count()) if shard_of(t.name(name), OFFSETS_PARTITIONS) == shard)
    probe = Member(t, "probe", group=name, quiet=True)
    answer = probe.join(short)
    while not (answer["assignment"] or {}).get("topic_partitions"):
        sleep(POLL_PAUSE_S)
        answer = probe.beat()
    probe.beat(-1)
    while t.quiet("DeleteGroups", 2, groups_names=[t.name(name)])["results"][0]["error_code"]:
        sleep(POLL_PAUSE_S)
    return topic


def describe(t: Tale, *groups: str, version: int = 1) -> None:
    t.ask("ConsumerGroupDescribe", version, group_ids=[t.name(group) for group in groups or ("g",)])


@case("consumer-group-heartbeat", versions=(0, 1))
def heartbeat(t: Tale, version: int) -> None:
    """Two members share a topic: the first gives up half, the second waits for it; both leave."""
    topic = ready(t)
    one, two = Member(t, "one", version), Member(t, "two", version)
    one.join()
    one.beat()
    one.owns(topic, 0, 1, 2, 3)
    two.join()
    describe(t, version=version)
    one.beat()
    describe(t, version=version)
    two.beat()
    one.owns(topic, 0, 1, 2, 3)
    one.owns(topic, 0, 1)
    two.beat()
    two.owns(topic, 2, 3)
    describe(t, version=version)
    two.beat(-1)
    one.beat()
    one.beat()
    describe(t, version=version)
    one.beat(-1)
    describe(t, version=version)
    one.beat(-1)
    one.beat(3)


@case("consumer-group-heartbeat-bad", versions=(0, 1))
def heartbeat_bad(t: Tale, version: int) -> None:
    """What no heartbeat may say, and groups that are not there."""
    topic = ready(t)
    owned = [{"topic_id": topic, "partitions": [0]}]
    for more in (
        {"rebalance_timeout_ms": -1},
        {"topic_partitions": None},
        {"topic_partitions": owned},
        {"subscribed_topic_names": None},
        {"instance_id": ""},
        {"rack_id": ""},
        {"group_id": ""},
        {"server_assignor": "sticky"},
    ):
        Member(t, "one", version).join(**more)
    if version >= 1:
        Member(t, "", version).join()
    for epoch in (-3, -2, -1, 1):
        Member(t, "one", version).beat(epoch)
    describe(t, "g", "h", version=version)


@case("consumer-group-fencing")
def fencing(t: Tale) -> None:
    """Epochs that are not the member's, and the one before after a lost answer."""
    topic = ready(t)
    one, two = Member(t, "one"), Member(t, "two")
    one.join()
    two.join()
    before = one.epoch
    one.beat()
    one.owns(topic, 0, 1)
    now = one.epoch
    for epoch in (now + 1, 99, before, before - 1):
        one.beat(epoch)
        one.epoch = now
    one.beat(before, topic_partitions=[{"topic_id": topic, "partitions": [0, 1, 2]}])
    Member(t, "nobody").beat(now)
    Member(t, "nobody").beat(-1)


@case("consumer-group-static")
def static(t: Tale) -> None:
    """An instance leaves for a while and comes back under another id."""
    ready(t)
    one, other = Member(t, "one", instance="i"), Member(t, "other", instance="i")
    one.join()
    other.join()
    other.beat(one.epoch)
    Member(t, "one", instance="j").beat(one.epoch)
    one.beat(-2)
    describe(t)
    other.join()
    other.beat()
    describe(t)
    one.beat(2)
    other.beat(-1)
    describe(t)


@case("consumer-group-assignors")
def assignors(t: Tale) -> None:
    """The range assignor, and what a change of the subscription does."""
    ready(t, 3)
    known(t, "b", 3)
    one, two = Member(t, "m1"), Member(t, "m2")
    one.join("a", "b", server_assignor="range")
    describe(t)
    one.beat(subscribed_topic_names=[t.name("a")])
    describe(t)
    one.beat(-1)
    two.join("nothing")
    describe(t)


@case("consumer-group-offsets", versions=(9, 10))
def offsets(t: Tale, version: int) -> None:
    """Who may commit and fetch with which epoch."""
    topic = ready(t)
    one, two = Member(t, "one"), Member(t, "two")

    def named(rows: Message) -> Message:
        return {"topic_id": topic, **rows} if version >= 10 else {"name": t.name("a"), **rows}

    def commit(member: str, epoch: int, partition: int = 0) -> None:
        row = {"partition_index": partition, "committed_offset": 5, "committed_metadata": ""}
        fields: Message = {"group_id": t.name("g"), "member_id": member, "generation_id_or_member_epoch": epoch}
        t.ask("OffsetCommit", version, topics=[named({"partitions": [row]})], **fields)

    def fetch(member: str | None, epoch: int) -> None:
        asked = {"group_id": t.name("g"), "member_id": member, "member_epoch": epoch}
        t.ask("OffsetFetch", version, groups=[{**asked, "topics": [named({"partition_indexes": [0, 1]})]}])

    commit("one", 1)
    commit("", -1)
    one.join()
    two.join()
    one.beat()
    one.owns(topic, 0, 1)
    two.beat()
    for member, epoch in (("one", one.epoch), ("one", one.epoch - 1), ("one", 99), ("nobody", 1), ("", -1)):
        commit(member, epoch)
        fetch(member, epoch)
    commit("two", two.epoch - 1, 2)
    commit("two", two.epoch, 2)
    fetch(None, -1)
    rows = [{"name": t.name("a"), "partitions": [{"partition_index": 0}]}]
    t.ask("OffsetDelete", 0, group_id=t.name("g"), topics=rows)
    t.ask("DeleteGroups", 2, groups_names=[t.name("g")])
    one.beat(-1)
    two.beat(-1)
    commit("", -1)
    t.ask("OffsetDelete", 0, group_id=t.name("g"), topics=rows)
    t.ask("DeleteGroups", 2, groups_names=[t.name("g")])
    describe(t)


@case("consumer-group-and-classic")
def and_classic(t: Tale) -> None:
    """The classic requests about a group of the new protocol, and an empty group that changes over."""
    ready(t)
    one = Member(t, "one")
    one.join()
    for version in (5, 6):
        t.ask("DescribeGroups", version, groups=[t.name("g")])
    t.ask("Heartbeat", 4, group_id=t.name("g"), generation_id=1, member_id="one")
    t.ask("LeaveGroup", 5, group_id=t.name("g"), members=[{"member_id": "nobody"}])
    fields: Message = {
        "group_id": t.name("g"),
        "session_timeout_ms": 30000,
        "rebalance_timeout_ms": 30000,
        "member_id": "",
    }
    foreign: Message = {"protocol_type": "connect", "protocols": [{"name": "x", "metadata": b""}]}
    t.ask("JoinGroup", 9, **fields, **foreign)
    one.beat(-1)
    row = {"partition_index": 0, "committed_offset": 5, "committed_metadata": ""}
    topics = [{"name": t.name("a"), "partitions": [row]}]
    t.ask("OffsetCommit", 9, group_id=t.name("h"), generation_id_or_member_epoch=-1, member_id="", topics=topics)
    Member(t, "one", group="h").join()
    describe(t, "g", "h")
    t.ask("JoinGroup", 3, **fields, **foreign)
    describe(t)
    Member(t, "one").beat(0, rebalance_timeout_ms=1, subscribed_topic_names=[], topic_partitions=[])


@case("consumer-group-expressions")
def expressions(t: Tale) -> None:
    """Expressions that RE2 does not take."""
    ready(t)
    for text in ("[", "(", "a)", "*a", "a**", "(a)\\1", "x(?=a)", "(?<!a)b", "a{1001}", "[z-a]", "[[:none:]]", "\\"):
        Member(t, "one").join(subscribed_topic_names=None, subscribed_topic_regex=text)
