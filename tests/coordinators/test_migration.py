"""Groups that move from one protocol to the other while they have members, and back (KIP-848)."""

from __future__ import annotations

import random
from typing import Any

import pytest

from logd.coordinators.modern_groups import ModernLimits
from logd.errors import ErrorCode, Refused
from logd.wire.codec import decode, encode
from logd.wire.schemas.consumer_group_describe import ConsumerGroupDescribeRequest
from logd.wire.schemas.consumer_protocol import (
    ConsumerProtocolAssignment,
    ConsumerProtocolAssignmentTopicPartition,
    ConsumerProtocolSubscription,
    ConsumerProtocolSubscriptionTopicPartition,
)
from logd.wire.schemas.join_group import JoinGroupRequest, JoinGroupRequestProtocol
from logd.wire.schemas.offset_commit import (
    OffsetCommitRequest,
    OffsetCommitRequestPartition,
    OffsetCommitRequestTopic,
)
from logd.wire.schemas.sync_group import SyncGroupRequest
from tests.coordinators.modern_shard import Client, ModernShard, topic_id

LIMITS = ModernLimits(session_ms=10_000, heartbeat_ms=1_000, size_max=10)
REBALANCE_MS = 5_000


class ClassicClient:
    """A classic consumer that does as it is told; as a leader it shares topic t out in turn.

    :param cooperative: keeps what it has while it joins, and says so.
    """

    def __init__(self, shard: ModernShard, name: str, *, cooperative: bool = True, instance: str | None = None) -> None:
        self.shard = shard
        self.name = name
        self.cooperative = cooperative
        self.instance = instance
        self.member_id = ""
        self.generation = -1
        self.has: set[int] = set()
        self.calls = 0
        self.waits = ""
        self.syncs = False
        self.joined = False

    def _call(self) -> str:
        self.calls += 1
        return f"{self.name}-call-{self.calls}"

    def step(self) -> ErrorCode:
        """Whatever comes next: join, ask for the assignment, or a heartbeat."""
        if not self.joined:
            return self._join()
        self.shard.heartbeat(call := self._call(), self.member_id, self.generation, instance=self.instance)
        return self._heard(self.shard.answers[call])

    def _heard(self, answer: Any) -> ErrorCode:
        code = answer.code if isinstance(answer, Refused) else ErrorCode(answer.error_code)
        if code is ErrorCode.REBALANCE_IN_PROGRESS:
            self.joined = False
        elif code in (ErrorCode.UNKNOWN_MEMBER_ID, ErrorCode.ILLEGAL_GENERATION, ErrorCode.FENCED_INSTANCE_ID):
            self.joined, self.has, self.generation = False, set(), -1
            if code is not ErrorCode.ILLEGAL_GENERATION:
                self.member_id = ""
        return code

    def _join(self) -> ErrorCode:
        if not self.waits:
            if not self.cooperative:
                self.has = set()
            owned = [ConsumerProtocolSubscriptionTopicPartition("t", sorted(self.has))] if self.has else []
            metadata = b"\0\1" + encode(ConsumerProtocolSubscription(["t"], None, owned), 1)
            protocols = [JoinGroupRequestProtocol("cooperative-sticky" if self.cooperative else "range", metadata)]
            request = JoinGroupRequest("g", 10_000, REBALANCE_MS, self.member_id, self.instance, "consumer", protocols)
            self.waits = self._call()
            self.shard.ask(self.waits, request, 9, self.name)
        answer = self.shard.answers.get(self.waits)
        if answer is None:
            return ErrorCode.NONE
        self.waits = ""
        if isinstance(answer, Refused) or answer.error_code not in (0, ErrorCode.MEMBER_ID_REQUIRED):  # type: ignore[attr-defined]
            return self._heard(answer)
        self.member_id = answer.member_id  # type: ignore[attr-defined]
        if answer.error_code:  # type: ignore[attr-defined]
            return self._join()
        return self._sync(answer)

    def _sync(self, joined: Any) -> ErrorCode:
        self.generation = joined.generation_id
        given: dict[str, bytes] = {}
        for place, member in enumerate(joined.members):
            mine = [index for index in range(self.shard.topics["t"]) if index % len(joined.members) == place]
            parts = [ConsumerProtocolAssignmentTopicPartition("t", mine)]
            given[member.member_id] = b"\0\1" + encode(ConsumerProtocolAssignment(parts), 1)
        self.waits_sync = self._call()
        request = SyncGroupRequest("g", self.generation, self.member_id, self.instance)
        if given:
            self.shard.sync(self.waits_sync, self.member_id, self.generation, instance=self.instance, assignments=given)
        else:
            self.shard.ask(self.waits_sync, request, 3)
        self.joined = True
        return self.take()

    def take(self) -> ErrorCode:
        """Look whether the assignment has come."""
        answer = self.shard.answers.get(self.waits_sync)
        if answer is None:
            return ErrorCode.NONE
        if isinstance(answer, Refused) or answer.error_code:  # type: ignore[attr-defined]
            return self._heard(answer)
        told, _ = decode(ConsumerProtocolAssignment, 1, answer.assignment, 2)  # type: ignore[attr-defined]
        self.has = {index for topic in told.assigned_partitions for index in topic.partitions}
        return ErrorCode.NONE

    def leave(self) -> None:
        self.shard.leave(self._call(), (self.member_id, self.instance))
        self.joined, self.member_id, self.has = False, "", set()


def settle(*clients: Any, rounds: int = 30) -> None:
    """Everybody does what comes next until nothing changes any more."""
    for _ in range(rounds):
        for client in clients:
            if isinstance(client, Client):
                client.beat()
            else:
                client.step()
                client.take() if client.joined else None
        clients[0].shard.advance(1)
        check(clients[0].shard)


def check(shard: ModernShard) -> None:
    """What must always hold: the machine's own invariants, and that the log says what is."""
    shard.machine.check()
    assert shard.replayed().modern.groups == shard.machine.modern.groups
    assert shard.compacted().modern.groups == shard.machine.modern.groups
    assert shard.replayed().classic.stored == shard.machine.classic.stored


def places(*clients: Any) -> list[int]:
    """All partitions of t that somebody has; twice when two have it."""
    found: list[int] = []
    for client in clients:
        found += [index for _, index in client.places()] if isinstance(client, Client) else client.has
    return sorted(found)


def shard_of(**limits: Any) -> ModernShard:
    known = {"session_ms": 10_000, "heartbeat_ms": 1_000, "size_max": 10, **limits}
    return ModernShard(modern=ModernLimits(**known), t=6)


EAGER_OR_NOT = pytest.mark.parametrize("cooperative", [True, False], ids=["cooperative", "eager"])


@EAGER_OR_NOT
def test_up_and_down(cooperative: bool) -> None:
    """Two classic members are joined by a modern one and share with it; when it leaves they share among themselves."""
    shard = shard_of()
    one, two = (ClassicClient(shard, name, cooperative=cooperative) for name in ("one", "two"))
    settle(one, two)
    assert places(one, two) == [0, 1, 2, 3, 4, 5]
    assert "g" in shard.machine.classic.groups
    new = Client(shard, "new", subscribed_topic_names=["t"], topic_partitions=[])
    settle(one, two, new)
    assert "g" in shard.machine.modern.groups
    assert places(one, two, new) == [0, 1, 2, 3, 4, 5]
    assert [len(one.has), len(two.has), len(new.places())] == [2, 2, 2]
    (described,) = shard.request(ConsumerGroupDescribeRequest(["g"])).groups
    assert sorted(member.member_type for member in described.members) == [0, 0, 1]
    generation = one.generation
    shard.beat("new", -1)
    assert "g" in shard.machine.classic.groups
    settle(one, two)
    assert places(one, two) == [0, 1, 2, 3, 4, 5]
    assert one.generation > generation


@EAGER_OR_NOT
def test_rolling_from_one_to_the_other_and_back(cooperative: bool) -> None:
    """Members are replaced one by one; at each stop all partitions are read by exactly one."""
    shard = shard_of()
    members: list[Any] = [ClassicClient(shard, f"old{number}", cooperative=cooperative) for number in range(3)]
    settle(*members)
    for number in range(3):
        members.pop(0).leave()
        members.append(Client(shard, f"new{number}", subscribed_topic_names=["t"], topic_partitions=[]))
        settle(*members)
        assert places(*members) == [0, 1, 2, 3, 4, 5]
    assert all(isinstance(member, Client) for member in members)
    for number in range(3):
        gone = members.pop(0)
        shard.beat(gone.member_id, -1)
        members.append(ClassicClient(shard, f"back{number}", cooperative=cooperative))
        settle(*members)
        assert places(*members) == [0, 1, 2, 3, 4, 5]
    assert "g" in shard.machine.classic.groups


def test_nobody_is_fenced_by_the_move() -> None:
    """A classic member commits with its old generation right after the group has moved up."""
    shard = shard_of()
    one = ClassicClient(shard, "one")
    settle(one)
    new = Client(shard, "new", subscribed_topic_names=["t"], topic_partitions=[])
    new.beat()
    shard.commit("c", one.member_id, one.generation, {("t", 0): 7}, version=5)
    assert shard.answers["c"].topics[0].partitions[0].error_code == 0  # type: ignore[union-attr]
    shard.commit("d", one.member_id, one.generation + 1, {("t", 0): 7}, version=5)
    refused = shard.answers["d"]
    assert isinstance(refused, Refused)
    assert refused.code is ErrorCode.ILLEGAL_GENERATION


def test_a_classic_member_commits_what_it_has_had_since() -> None:
    """With the generation before, as members of the consumer protocol may (KIP-1251); not what it got later."""
    shard = shard_of()
    one = ClassicClient(shard, "one")
    settle(one)
    before = one.generation
    new = Client(shard, "new", subscribed_topic_names=["t"], topic_partitions=[])
    settle(one, new, one, new)
    assert one.generation > before
    (kept, *_), (lost, *_) = places(one), places(new)

    def commit(index: int, generation: int) -> ErrorCode:
        topic = OffsetCommitRequestTopic("t", topic_id("t"), [OffsetCommitRequestPartition(index, 7)])
        answer = shard.request(OffsetCommitRequest("g", generation, one.member_id, topics=[topic]), 9)
        return answer.code if isinstance(answer, Refused) else ErrorCode.NONE

    assert commit(kept, before) is ErrorCode.NONE
    assert commit(lost, before) is ErrorCode.ILLEGAL_GENERATION
    assert commit(kept, before - 1) is ErrorCode.ILLEGAL_GENERATION
    assert commit(kept, one.generation + 1) is ErrorCode.ILLEGAL_GENERATION


def test_where_it_is_not_allowed() -> None:
    """Without upgrades a modern member is refused; without downgrades the group stays what it is."""
    shard = shard_of(upgrades=False)
    one = ClassicClient(shard, "one")
    settle(one)
    assert shard.code("new", 0) is ErrorCode.GROUP_ID_NOT_FOUND
    shard = shard_of(downgrades=False)
    one = ClassicClient(shard, "one")
    settle(one)
    new = Client(shard, "new", subscribed_topic_names=["t"], topic_partitions=[])
    settle(one, new)
    shard.beat("new", -1)
    settle(one)
    assert "g" in shard.machine.modern.groups
    assert places(one) == [0, 1, 2, 3, 4, 5]


def test_classic_members_are_refused_where_no_group_may_change_over() -> None:
    """Neither upgrades nor downgrades: as Kafka 4.3 has it, no classic member gets into a group of the new protocol."""
    shard = shard_of(upgrades=False, downgrades=False)
    assert shard.code("new", 0, instance_id="here") is ErrorCode.NONE
    shard.join("dynamic", version=9, protocols=("range",))
    shard.join("dynamic-old", version=3, protocols=("range",))
    shard.join("static", version=9, protocols=("range",), instance="elsewhere")
    shard.join("replacing", version=9, protocols=("range",), instance="here")
    codes = {_code(shard, name) for name in ("dynamic", "dynamic-old", "static", "replacing")}
    assert codes == {ErrorCode.INCONSISTENT_GROUP_PROTOCOL}
    assert list(shard.machine.modern.groups["g"].members) == ["new"]


def test_what_is_no_consumer_stays_classic() -> None:
    """A group of another protocol type can't move; nor can such a member join a modern group."""
    shard = shard_of()
    shard.join("a", kind="connect", version=3)
    assert shard.code("new", 0) is ErrorCode.GROUP_ID_NOT_FOUND
    shard = shard_of()
    shard.beat("m1", 0)
    shard.join("b", kind="connect", version=3)
    assert _code(shard, "b") is ErrorCode.INCONSISTENT_GROUP_PROTOCOL
    shard.join("c", version=3, protocols=("range",))
    assert _code(shard, "c") is ErrorCode.NONE
    shard.join("d", version=3, protocols=("other",))
    assert _code(shard, "d") is ErrorCode.INCONSISTENT_GROUP_PROTOCOL


TAKEN_IN = encode(ConsumerProtocolAssignment([ConsumerProtocolAssignmentTopicPartition("t", [0, 1])]), 1)
OF_AN_ASSIGNOR = encode(ConsumerProtocolAssignment([], b"mine"), 1)


@pytest.mark.parametrize(
    ("assignment", "code"),
    [
        (b"", ErrorCode.NONE),
        (b"\0\1" + TAKEN_IN, ErrorCode.NONE),
        (b"\0\1" + OF_AN_ASSIGNOR, ErrorCode.GROUP_ID_NOT_FOUND),
        (b"\0", ErrorCode.GROUP_ID_NOT_FOUND),
        (b"\0\1" + TAKEN_IN[:-5], ErrorCode.GROUP_ID_NOT_FOUND),
        (b"\xff\xff" + TAKEN_IN, ErrorCode.GROUP_ID_NOT_FOUND),
    ],
    ids=["none", "partitions", "user-data", "no-version", "cut-short", "version-below-0"],
)
def test_a_group_moves_up_only_with_what_its_members_were_given(assignment: bytes, code: ErrorCode) -> None:
    """User data of an assignor of their own would be lost, and what can't be read was meant for somebody else."""
    shard = shard_of()
    shard.join("a", version=3)
    shard.advance(shard.limits.initial_delay_ms)
    joined: Any = shard.answers["a"]
    one = joined.member_id
    shard.sync("b", one, 1, assignments={one: assignment})
    assert shard.code("new", 0) is code
    assert ("g" in shard.machine.modern.groups) is (code is ErrorCode.NONE)


def _code(shard: ModernShard, call: str) -> ErrorCode:
    answer: Any = shard.answers[call]
    return answer.code if isinstance(answer, Refused) else ErrorCode(answer.error_code)


def test_a_classic_member_that_is_silent_or_does_not_rejoin() -> None:
    """Its own session timeout ends it, or the rebalance timeout from when it was told to join again."""
    shard = shard_of()
    one, two = ClassicClient(shard, "one"), ClassicClient(shard, "two")
    settle(one, two)
    new = Client(shard, "new", subscribed_topic_names=["t"], topic_partitions=[])
    settle(one, two, new)
    for _ in range(11):  # two is silent
        shard.advance(1_000)
        one.step()
        one.take()
        new.beat()
    assert two.member_id not in shard.machine.modern.groups["g"].members
    settle(one, new)
    assert places(one, new) == [0, 1, 2, 3, 4, 5]
    shard.tell(t=8)
    new.beat()
    for _ in range(6):  # one says that it lives, and does not join again
        shard.heartbeat(call := one._call(), one.member_id, one.generation)
        shard.advance(1_000)
        new.beat()
    assert call
    assert one.member_id not in shard.machine.modern.groups["g"].members


@pytest.mark.parametrize("back", [False, True], ids=["up", "down"])
def test_static_members_keep_their_place(back: bool) -> None:
    """An instance that comes back with the other protocol takes its place over without waiting for its session."""
    shard = shard_of()
    old = ClassicClient(shard, "old", instance="i1")
    other = ClassicClient(shard, "other", instance="i2")
    settle(old, other)
    had = set(old.has)
    new = Client(shard, "new", instance="i1", subscribed_topic_names=["t"], topic_partitions=[])
    settle(other, new)
    assert {index for _, index in new.places()} == had
    assert len(shard.machine.modern.groups["g"].members) == 2
    if back:
        again = ClassicClient(shard, "again", instance="i1")
        settle(again, other)
        assert "g" in shard.machine.classic.groups
        assert places(again, other) == [0, 1, 2, 3, 4, 5]


def test_nothing_is_left_of_who_was_replaced() -> None:
    """Nobody waits any more for the rejoin of a classic member whose place was taken, or that changed its protocol."""
    shard = shard_of()
    old = ClassicClient(shard, "old", instance="i1")
    other = ClassicClient(shard, "other")
    settle(old, other)
    new = Client(shard, "new", subscribed_topic_names=["t"], topic_partitions=[])
    new.beat()
    for one in (old, other):
        assert one.step() is ErrorCode.REBALANCE_IN_PROGRESS
    modern = shard.machine.modern
    assert modern.awaited == {("g", old.member_id), ("g", other.member_id)}
    again = ClassicClient(shard, "again", instance="i1")
    again.step()
    assert modern.awaited == {("g", other.member_id)}
    changed = Client(shard, other.member_id, subscribed_topic_names=["t"], topic_partitions=[])
    changed.beat()
    assert modern.awaited == set()
    settle(again, new, changed, rounds=60)
    for _ in range(REBALANCE_MS // 500):
        shard.advance(500)
        settle(again, new, changed, rounds=1)
    assert set(modern.groups["g"].members) == {again.member_id, "new", other.member_id}
    assert {key[2] for key in shard.deadlines._by_key if key[0] != "sweep"} == set(modern.groups["g"].members)


def test_a_refused_heartbeat_gives_nobody_more_time() -> None:
    """One that names the instance of a classic member which has to join again: that one's deadline stays."""
    shard = shard_of()
    old = ClassicClient(shard, "old", instance="i1")
    settle(old)
    new = Client(shard, "new", subscribed_topic_names=["t"], topic_partitions=[])
    new.beat()
    assert old.step() is ErrorCode.REBALANCE_IN_PROGRESS
    shard.advance(REBALANCE_MS - 1)
    assert shard.code("before", 7, instance_id="i1") is ErrorCode.FENCED_INSTANCE_ID
    shard.heartbeat("still", old.member_id, old.generation, instance="i1")
    assert _code(shard, "still") is ErrorCode.REBALANCE_IN_PROGRESS
    shard.advance(1)
    assert list(shard.machine.modern.groups["g"].members) == ["new"]


@EAGER_OR_NOT
def test_a_last_member_that_turns_classic_leaves_nothing_to_nobody(cooperative: bool) -> None:
    """While another waits for what it had: all of it is shared out anew, in the group that is a classic one now."""
    shard = shard_of()
    last = Client(shard, "last", instance="i1", subscribed_topic_names=["t"], topic_partitions=[])
    settle(last)
    other = ClassicClient(shard, "other", cooperative=cooperative)
    other.step()
    assert other.joined
    assert places(last, other) == [0, 1, 2, 3, 4, 5]
    again = ClassicClient(shard, "again", cooperative=cooperative, instance="i1")
    settle(again, other)
    assert "g" in shard.machine.classic.groups
    assert places(again, other) == [0, 1, 2, 3, 4, 5]


def test_a_refused_append_leaves_the_group_where_it_was() -> None:
    """Neither way up nor way down is gone half."""
    shard = shard_of()
    one = ClassicClient(shard, "one")
    settle(one)
    shard.failing = True
    assert shard.code("new", 0) is ErrorCode.NOT_COORDINATOR
    shard.failing = False
    assert "g" in shard.machine.classic.groups
    check(shard)
    settle(one)
    new = Client(shard, "new", subscribed_topic_names=["t"], topic_partitions=[])
    settle(one, new)
    shard.failing = True
    shard.beat("new", -1)
    shard.failing = False
    assert "g" in shard.machine.modern.groups
    assert "g" not in shard.machine.classic.groups
    check(shard)
    settle(one, new)
    assert places(one, new) == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("seed", range(12))
def test_members_of_both_kinds_come_and_go(seed: int) -> None:
    """Whatever the order, nothing is owned twice, the log says what is, and in the end everything is read."""
    chance = random.Random(seed)
    shard = shard_of()
    members: list[Any] = []
    for number in range(40):
        what = chance.choice(("classic", "eager", "modern", "leave", "step", "step", "reload", "time"))
        if what in ("classic", "eager") and len(members) < 5:
            members.append(ClassicClient(shard, f"c{number}", cooperative=what == "classic"))
        elif what == "modern" and len(members) < 5:
            members.append(Client(shard, f"m{number}", subscribed_topic_names=["t"], topic_partitions=[]))
        elif what == "leave" and members:
            gone = members.pop(chance.randrange(len(members)))
            if isinstance(gone, Client):
                shard.beat(gone.member_id, -1)
            elif gone.member_id:
                gone.leave()
        elif what == "reload" and chance.random() < 0.3:
            shard.reload()
        elif what == "time":
            shard.advance(chance.randrange(3_000))
        for member in members:
            if chance.random() < 0.7:
                member.beat() if isinstance(member, Client) else member.step()
        check(shard)
    if not members:
        return
    kinds = {type(member) for member in members} | {
        member.cooperative for member in members if isinstance(member, ClassicClient)
    }
    if {True, False} <= kinds:
        return  # cooperative and eager classic members share no assignor
    shard.advance(REBALANCE_MS)
    settle(*members, rounds=60)
    assert places(*members) == [0, 1, 2, 3, 4, 5]
    assert topic_id("t")
