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


@case("consumer-group-behind")
def behind(t: Tale) -> None:
    """A member that is still giving up for one target when the next ones come."""
    topic = ready(t, 6)
    one, two, three = (Member(t, f"m{number}") for number in (1, 2, 3))
    one.join(server_assignor="range")
    one.owns(topic, 0, 1, 2, 3, 4, 5)
    two.join(server_assignor="range")
    one.beat()
    describe(t)
    three.join(server_assignor="range")
    one.owns(topic, 0, 1, 2)
    describe(t)
    one.beat()
    two.beat()
    one.owns(topic, 0, 1)
    two.beat()
    three.beat()
    describe(t)
    two.owns(topic, 2, 3)
    three.owns(topic, 4, 5)
    describe(t)
    two.beat(-1)
    one.owns(topic, 0, 1)
    three.owns(topic, 4, 5)
    three.owns(topic, 3, 4, 5)
    one.beat(0, rebalance_timeout_ms=60000, subscribed_topic_names=[t.name("a")], topic_partitions=[])
    describe(t)


@case("consumer-group-odd-reports")
def odd_reports(t: Tale) -> None:
    """What a member says it has that nobody gave it, and wishes in every form."""
    topic = ready(t)
    known(t, "b")
    one = Member(t, "one")
    one.join()
    stranger = uuid.UUID(int=7)
    one.beat(topic_partitions=[{"topic_id": stranger, "partitions": [0]}])
    one.beat(topic_partitions=[{"topic_id": topic, "partitions": [0, 0, 9, -1]}] * 2)
    one.owns(topic, 0, 1, 2, 3)
    one.beat(subscribed_topic_names=[t.name("a"), t.name("a"), t.name("b")])
    one.beat(subscribed_topic_names=[])
    describe(t)
    one.owns(topic)
    one.beat(topic_partitions=[], subscribed_topic_names=[t.name("b")], rebalance_timeout_ms=1000)
    describe(t)
    one.beat(rebalance_timeout_ms=0)
    one.beat(server_assignor="")
    one.beat(server_assignor="range", rack_id="r1")
    describe(t)
    one.join("a", rack_id="r2")
    describe(t)


@case("consumer-group-static-odd")
def static_odd(t: Tale) -> None:
    """Instances that leave for a while and come back in other ways, beside members without one."""
    topic = ready(t)
    one, two = Member(t, "one", instance="i"), Member(t, "two")
    one.join(server_assignor="range")
    two.join(server_assignor="range")
    one.owns(topic, 0, 1)
    two.owns(topic, 2, 3)
    describe(t)
    one.beat(-2)
    two.beat()
    one.beat(-2)
    one.beat(one.epoch)
    again = Member(t, "again", instance="i")
    again.join("a", server_assignor="range")
    again.beat(-2)
    again.beat(-1)
    describe(t)
    two.beat()
    two.owns(topic, 0, 1, 2, 3)
    third = Member(t, "third", instance="i")
    third.join("a")
    third.beat(third.epoch, instance_id=None)
    third.beat(third.epoch, instance_id="other")
    two.beat(two.epoch, instance_id="i")
    two.beat(-1, instance_id="i")
    third.beat(-1, instance_id=None)
    describe(t)


@case("consumer-group-fetch-odd", versions=(9, 10))
def fetch_odd(t: Tale, version: int) -> None:
    """OffsetFetch by members and by what is none, of groups of every kind."""
    topic = ready(t)
    one = Member(t, "one")
    one.join()

    def fetch(group: str, member: str | None, epoch: int, *, every: bool = False) -> None:
        named: Message = {"topic_id": topic} if version >= 10 else {"name": t.name("a")}
        topics = None if every else [{**named, "partition_indexes": [0]}]
        asked = {"group_id": t.name(group), "member_id": member, "member_epoch": epoch, "topics": topics}
        t.ask("OffsetFetch", version, groups=[asked])

    for member in (None, "", "one", "nobody"):
        for epoch in (-2, -1, 0, one.epoch, one.epoch + 1):
            fetch("g", member, epoch)
    fetch("none", "one", 3)
    fetch("none", "one", 3, every=True)
    fetch("g", "nobody", 1, every=True)


@case("consumer-group-old-commits")
def old_commits(t: Tale) -> None:
    """Commits of versions that know no member epochs."""
    ready(t)
    one = Member(t, "one")
    one.join()
    rows = [{"partition_index": 0, "committed_offset": 5, "committed_metadata": ""}]
    topics = [{"name": t.name("a"), "partitions": rows}]
    for version in (2, 5, 8, 9):
        for member, epoch in (("one", one.epoch), ("one", 9), ("", -1), ("nobody", 1), ("one", -1)):
            fields = {"group_id": t.name("g"), "member_id": member, "generation_id_or_member_epoch": epoch}
            t.ask("OffsetCommit", version, topics=topics, **fields)


@case("consumer-group-and-classic-requests")
def classic_requests(t: Tale) -> None:
    """What the APIs of the classic protocol say of a group of the other, and these of a classic one."""
    ready(t)
    one = Member(t, "one")
    one.join()
    for version in (0, 5, 6):
        t.ask("DescribeGroups", version, groups=[t.name("g")])
    group = {"group_id": t.name("g")}
    t.ask("Heartbeat", 4, generation_id=one.epoch, member_id="one", **group)
    t.ask("SyncGroup", 3, generation_id=one.epoch, member_id="one", assignments=[], **group)
    t.ask("LeaveGroup", 2, member_id="one", **group)
    t.ask("LeaveGroup", 4, members=[{"member_id": "one", "group_instance_id": None}], **group)
    names = (("three", "i-3"), ("four", None), ("five", "i-5"), ("six", None))
    others = [Member(t, name, instance=instance) for name, instance in names]
    for each in others:
        each.join()
    rows = [("", "i-3"), ("", "i-9"), ("five", "i-3"), ("four", None), ("four", None), ("nobody", None), ("", None)]
    asked = [{"member_id": name, "group_instance_id": instance} for name, instance in rows]
    t.ask("LeaveGroup", 5, members=asked, **group)
    describe(t, "g")
    for each in others:
        each.beat()
    t.ask("OffsetDelete", 0, topics=[{"name": t.name("b"), "partitions": [{"partition_index": 0}]}], **group)
    rows = [{"partition_index": 0, "committed_offset": 5, "committed_metadata": ""}]
    simple = {"group_id": t.name("s"), "member_id": "", "generation_id_or_member_epoch": -1}
    t.ask("OffsetCommit", 8, topics=[{"name": t.name("a"), "partitions": rows}], **simple)
    two = Member(t, "two", group="s")
    two.beat(3)
    two.beat(-1)
    describe(t, "s", "g")
    two.join()
    describe(t, "s")
    t.ask("OffsetFetch", 8, groups=[{"group_id": t.name("s"), "topics": None}])
    two.beat(-1)
    t.ask("DescribeGroups", 6, groups=[t.name("s")])
