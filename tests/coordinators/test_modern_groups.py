"""The consumer protocol as a table: who may say what and when, and how partitions pass from one member to the next."""

from __future__ import annotations

from typing import Any

import pytest

from logd.coordinators.events import PendingAsked
from logd.coordinators.modern_group import GroupPhase
from logd.coordinators.modern_groups import ModernLimits
from logd.coordinators.modern_members import Phase
from logd.coordinators.rebalance import GroupLimits
from logd.errors import ErrorCode, Refused
from logd.wire.schemas.consumer_group_describe import ConsumerGroupDescribeRequest
from logd.wire.schemas.delete_groups import DeleteGroupsRequest
from logd.wire.schemas.describe_groups import DescribeGroupsRequest
from logd.wire.schemas.leave_group import LeaveGroupRequest, MemberIdentity
from logd.wire.schemas.list_groups import ListGroupsRequest
from logd.wire.schemas.offset_commit import (
    OffsetCommitRequest,
    OffsetCommitRequestPartition,
    OffsetCommitRequestTopic,
    OffsetCommitResponse,
)
from logd.wire.schemas.offset_delete import (
    OffsetDeleteRequest,
    OffsetDeleteRequestPartition,
    OffsetDeleteRequestTopic,
)
from logd.wire.schemas.offset_fetch import OffsetFetchRequestGroup, OffsetFetchRequestTopics
from logd.wire.schemas.seek_group import SeekGroupPartition, SeekGroupRequest, SeekGroupTopic
from tests.coordinators.modern_shard import Client, ModernShard, owned, settle, topic_id


def group_of(shard: ModernShard, group: str = "g") -> Any:
    return shard.machine.modern.groups[group]


def told(answer: Any) -> dict[str, list[int]] | None:
    """The assignment in an answer, by topic name."""
    if answer.assignment is None:
        return None
    return {each.topic_id.decode().rstrip("-"): each.partitions for each in answer.assignment.topic_partitions}


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"group": ""}, ErrorCode.INVALID_REQUEST),
        ({"member": ""}, ErrorCode.INVALID_REQUEST),
        ({"instance_id": ""}, ErrorCode.INVALID_REQUEST),
        ({"rack_id": ""}, ErrorCode.INVALID_REQUEST),
        ({"epoch": -3}, ErrorCode.INVALID_REQUEST),
        ({"epoch": -2}, ErrorCode.INVALID_REQUEST),
        ({"rebalance_timeout_ms": -1}, ErrorCode.INVALID_REQUEST),
        ({"topic_partitions": None}, ErrorCode.INVALID_REQUEST),
        ({"topic_partitions": owned(t=[0])}, ErrorCode.INVALID_REQUEST),
        ({"subscribed_topic_names": None}, ErrorCode.INVALID_REQUEST),
        ({"server_assignor": "sticky"}, ErrorCode.UNSUPPORTED_ASSIGNOR),
        ({"subscribed_topic_regex": "["}, ErrorCode.INVALID_REGULAR_EXPRESSION),
        ({"epoch": 1}, ErrorCode.GROUP_ID_NOT_FOUND),
        ({"epoch": -1}, ErrorCode.GROUP_ID_NOT_FOUND),
    ],
)
def test_bad_heartbeats(fields: dict[str, Any], code: ErrorCode) -> None:
    """A heartbeat that says something impossible is refused, and nothing is written."""
    shard = ModernShard(t=2)
    asked = {"member": "m1", "epoch": 0, **fields}
    assert shard.code(**asked) is code
    assert shard.log == []


def test_first_member_gets_all() -> None:
    """A member alone has everything with its first heartbeat; the version 0 one is told its new id."""
    shard = ModernShard(t=3)
    answer = shard.beat("", 0, version=0)
    assert (answer.member_id, answer.member_epoch, told(answer)) == ("made-1", 2, {"t": [0, 1, 2]})
    assert answer.heartbeat_interval_ms == 1_000
    assert group_of(shard).phase is GroupPhase.STABLE
    again = shard.beat("made-1", 2)
    assert (again.member_epoch, told(again)) == (2, None)


def test_partitions_pass_from_one_to_the_next() -> None:
    """The older member gives up first, the newer one waits; nobody else stops."""
    shard = ModernShard(t=4)
    shard.beat("m1", 0)
    second = shard.beat("m2", 0)
    assert (second.member_epoch, told(second)) == (3, {})
    assert group_of(shard).has("m2").phase is Phase.UNRELEASED_PARTITIONS
    first = shard.beat("m1", 2)
    assert (first.member_epoch, told(first)) == (2, {"t": [0, 1]})
    assert group_of(shard).has("m1").phase is Phase.UNREVOKED_PARTITIONS
    for still in (None, owned(t=[0, 1, 2, 3])):
        assert told(shard.beat("m1", 2, topic_partitions=still)) is None
        assert told(shard.beat("m2", 3)) is None
    assert shard.beat("m1", 2, topic_partitions=owned(t=[0, 1])).member_epoch == 3
    assert told(shard.beat("m2", 3)) == {"t": [2, 3]}
    assert group_of(shard).phase is GroupPhase.STABLE


def test_fencing() -> None:
    """An epoch that is not the member's fences, but for the one before with nothing too much."""
    shard = ModernShard(t=4)
    shard.beat("m1", 0)
    shard.beat("m2", 0)
    shard.beat("m1", 2)
    shard.beat("m1", 2, topic_partitions=owned(t=[0, 1]))
    assert shard.code("m1", 9) is ErrorCode.FENCED_MEMBER_EPOCH
    assert shard.code("m1", 2) is ErrorCode.FENCED_MEMBER_EPOCH
    assert shard.code("m1", 2, topic_partitions=owned(t=[0, 1, 2])) is ErrorCode.FENCED_MEMBER_EPOCH
    lost = shard.beat("m1", 2, topic_partitions=owned(t=[0]))
    assert (lost.member_epoch, told(lost)) == (3, {"t": [0, 1]})
    assert shard.code("mx", 3) is ErrorCode.UNKNOWN_MEMBER_ID
    joined = shard.beat("m1", 0)
    assert (joined.member_epoch, told(joined)) == (3, {"t": [0, 1]})


def test_what_is_not_wanted_any_more_is_given_up_at_once() -> None:
    """Also by a member that has something else to give up first and has not said that it did."""
    shard = ModernShard(t=4, u=2)
    shard.beat("m1", 0, subscribed_topic_names=["t", "u"], server_assignor="range")
    shard.beat("m2", 0, subscribed_topic_names=["t", "u"], server_assignor="range")
    assert set(told(shard.beat("m1", 2))) == {"t", "u"}
    assert told(shard.beat("m1", 2, subscribed_topic_names=["t"])) == {"t": [0, 1]}
    assert told(shard.beat("m1", 2, subscribed_topic_names=[])) == {}
    assert shard.code("m1", 2) is ErrorCode.NONE
    settled = shard.beat("m1", 2, topic_partitions=[])
    assert (settled.member_epoch, shard.replayed().modern.groups) == (5, shard.machine.modern.groups)


def test_the_form_of_a_heartbeat_is_checked_first() -> None:
    """Also where the group is a classic one, or none."""
    shard = ModernShard(t=1)
    shard.commit("c", "", -1, {("t", 0): 1})
    assert shard.code("m1", -3) is ErrorCode.INVALID_REQUEST
    assert shard.code("m1", -3, group="none") is ErrorCode.INVALID_REQUEST


def test_silence_ends_a_member() -> None:
    """After the session timeout a member is out, and the others get its partitions."""
    shard = ModernShard(t=2)
    one, two = Client(shard, "m1"), Client(shard, "m2")
    settle(one, two)
    shard.advance(9_000)
    one.beat()
    shard.advance(2_000)
    one.beat()
    assert one.places() == {(topic_id("t"), 0), (topic_id("t"), 1)}
    assert two.beat() is ErrorCode.UNKNOWN_MEMBER_ID


def test_who_does_not_give_up_in_time_is_out() -> None:
    """A member that beats but keeps what it should give up is expelled after its rebalance timeout."""
    shard = ModernShard(t=2)
    one, two = Client(shard, "m1"), Client(shard, "m2")
    one.beat()
    two.beat()
    one.slow = True
    for _ in range(5):
        assert one.beat() is ErrorCode.NONE
        two.beat()
        shard.advance(1_000)
    assert one.beat() is ErrorCode.UNKNOWN_MEMBER_ID
    two.beat()
    assert len(two.places()) == 2


def test_topics_grow_come_and_go() -> None:
    """New partitions and topics reach the members with their next heartbeat, also by an expression."""
    shard = ModernShard(t=1, a1=1)
    one = Client(shard, "m1", subscribed_topic_names=["t"], subscribed_topic_regex="a[0-9]")
    one.beat()
    assert one.places() == {(topic_id("t"), 0), (topic_id("a1"), 0)}
    epoch = one.epoch
    shard.tell(other=1)
    one.beat()
    assert one.epoch == epoch
    shard.tell(t=2, a2=1)
    one.beat()
    assert one.epoch == epoch + 1
    assert one.places() == {(topic_id("t"), 0), (topic_id("t"), 1), (topic_id("a1"), 0), (topic_id("a2"), 0)}
    shard.tell(a1=0)
    settle(one, rounds=3)
    assert (topic_id("a1"), 0) not in one.places()


def test_many_expressions_are_brought_up_to_date_in_turns() -> None:
    """What one heartbeat may write is bounded; the next ones go on until all members have the new topic."""
    names = {f"t{'o' * 200}{index}": 1 for index in range(300)}
    shard = ModernShard(modern=ModernLimits(size_max=20), **names)
    clients = [Client(shard, f"m{index}", subscribed_topic_regex=f"(t|x{index}).*") for index in range(12)]
    settle(*clients, rounds=4)
    shard.tell(tnew=1)
    group = shard.machine.modern.groups["g"]
    behind = []
    for _ in range(6):
        clients[0].beat()
        behind.append(sum("tnew" not in resolved.topics for resolved in group.regexes.values()))
    assert 0 < behind[0] < 12
    assert behind[-1] == 0
    assert shard.replayed().modern.groups["g"].regexes == group.regexes
    settle(*clients, rounds=6)
    assert sum((topic_id("tnew"), 0) in client.places() for client in clients) == 1


def test_a_heartbeat_that_repeats_what_is_known_looks_up_no_topics() -> None:
    """With an expression over thousands of topics that would cost more than all the rest of it."""
    shard = ModernShard(t=1, u=1)
    shard.beat("m", 0, subscribed_topic_regex="[tu]")

    class Counted(dict[str, Any]):
        looked = 0

        def __contains__(self, name: object) -> bool:
            Counted.looked += 1
            return super().__contains__(name)

    shard.machine.modern.topics.by_name = Counted(shard.machine.modern.topics.by_name)
    had = owned(t=[0], u=[0])
    assert shard.code("m", 2, subscribed_topic_regex="[tu]", topic_partitions=had) is ErrorCode.NONE
    assert Counted.looked == 0
    shard.beat("n", 0, subscribed_topic_names=["t"])
    shard.beat("m", 2, topic_partitions=had)
    assert Counted.looked > 0


def test_static_members() -> None:
    """An instance that left for a while comes back under another id to what it had; nobody else takes its place."""
    shard = ModernShard(t=4)
    one, two = Client(shard, "m1", instance="i1"), Client(shard, "m2", instance="i2")
    settle(one, two)
    had = one.places()
    assert shard.code("m9", 0, instance_id="i1") is ErrorCode.UNRELEASED_INSTANCE_ID
    assert shard.code("m9", one.epoch, instance_id="i1") is ErrorCode.FENCED_INSTANCE_ID
    assert shard.code("m1", one.epoch, instance_id="i9") is ErrorCode.UNKNOWN_MEMBER_ID
    assert shard.beat("m1", -2, instance_id="i1").member_epoch == -2
    two.beat()
    assert len(two.places()) == 2
    again = Client(shard, "m3", instance="i1")
    settle(again, two)
    assert again.places() == had
    assert set(group_of(shard).members) == {"m2", "m3"}
    assert shard.beat("m3", -1, instance_id="i1").member_epoch == -1
    two.beat()
    assert len(two.places()) == 4


def test_a_static_member_that_stays_away_is_out() -> None:
    """Its place is kept for the session timeout and no longer."""
    shard = ModernShard(t=1)
    shard.beat("m1", 0, instance_id="i1")
    shard.beat("m1", -2, instance_id="i1")
    shard.advance(11_000)
    assert group_of(shard).phase is GroupPhase.EMPTY


def test_group_is_full() -> None:
    """One more than group.consumer.max.size is refused; who is in may join again."""
    shard = ModernShard(modern=ModernLimits(size_max=1), t=1)
    shard.beat("m1", 0)
    assert shard.code("m2", 0) is ErrorCode.GROUP_MAX_SIZE_REACHED
    assert shard.code("m1", 0) is ErrorCode.NONE


def test_the_assignor_most_ask_for() -> None:
    """Members vote; without a vote the first of group.consumer.assignors is taken."""
    shard = ModernShard(t=1)
    shard.beat("m1", 0)
    assert _described(shard).assignor_name == "uniform"
    shard.beat("m2", 0, server_assignor="range")
    assert _described(shard).assignor_name == "range"


def _described(shard: ModernShard, group: str = "g") -> Any:
    return shard.request(ConsumerGroupDescribeRequest([group])).groups[0]


def commit(shard: ModernShard, member: str, epoch: int, partition: int = 0, version: int = 10) -> ErrorCode:
    topics = [OffsetCommitRequestTopic("t", topic_id("t"), [OffsetCommitRequestPartition(partition, 5)])]
    answer = shard.request(OffsetCommitRequest("g", epoch, member, None, -1, topics), version)
    return answer.code if isinstance(answer, Refused) else ErrorCode(answer.topics[0].partitions[0].error_code)


def test_commits_are_fenced_by_the_epoch() -> None:
    """A member commits with its epoch, or an older one for what it has had since; others only while there is nobody."""
    shard = ModernShard(t=4)
    one, two = Client(shard, "m1"), Client(shard, "m2")
    settle(one, two)
    assert commit(shard, "m1", one.epoch) is ErrorCode.NONE
    assert commit(shard, "m1", one.epoch - 1) is ErrorCode.NONE
    assert commit(shard, "m1", one.epoch - 1, 3) is ErrorCode.STALE_MEMBER_EPOCH
    assert commit(shard, "m2", two.epoch - 1, 3) is ErrorCode.STALE_MEMBER_EPOCH
    assert commit(shard, "m1", one.epoch + 1) is ErrorCode.STALE_MEMBER_EPOCH
    assert commit(shard, "m1", one.epoch, version=8) is ErrorCode.UNSUPPORTED_VERSION
    assert commit(shard, "mx", 1) is ErrorCode.UNKNOWN_MEMBER_ID
    assert commit(shard, "", -1) is ErrorCode.UNKNOWN_MEMBER_ID
    shard.beat("m1", -1)
    shard.beat("m2", -1)
    assert commit(shard, "", -1) is ErrorCode.NONE


@pytest.mark.parametrize(
    ("member", "ahead", "code"),
    [
        ("m1", 0, ErrorCode.NONE),
        ("m1", 1, ErrorCode.STALE_MEMBER_EPOCH),
        ("mx", 0, ErrorCode.UNKNOWN_MEMBER_ID),
        (None, -3, ErrorCode.NONE),
    ],
)
def test_fetches_are_fenced_by_the_epoch(member: str | None, ahead: int, code: ErrorCode) -> None:
    """A member asks for offsets with its epoch; a tool names no member."""
    shard = ModernShard(t=1)
    epoch = shard.beat("m1", 0).member_epoch
    shard.fetch("f", OffsetFetchRequestGroup("g", member, epoch + ahead, [OffsetFetchRequestTopics("t", b"", [0])]))
    answer = shard.answers["f"]
    assert (answer.code if isinstance(answer, Refused) else ErrorCode.NONE) is code


def test_both_protocols_are_listed() -> None:
    """ListGroups knows both types, each description only its own."""
    shard = ModernShard(t=1)
    shard.beat("m1", 0)
    shard.join("j", "old", version=3)
    assert {(each.group_id, each.group_type) for each in shard.request(ListGroupsRequest()).groups} == {
        ("g", "consumer"),
        ("old", "classic"),
    }
    for request, expected in (
        (ListGroupsRequest([], ["consumer"]), {"g"}),
        (ListGroupsRequest(["stable"], []), {"g"}),
        (ListGroupsRequest([], ["classic"]), {"old"}),
    ):
        assert {each.group_id for each in shard.request(request).groups} == expected
    assert _described(shard).group_state == "Stable"
    assert _described(shard, "old").error_code == ErrorCode.GROUP_ID_NOT_FOUND
    assert _described(shard, "none").error_code == ErrorCode.GROUP_ID_NOT_FOUND
    assert shard.request(DescribeGroupsRequest(["g"]), 6).groups[0].error_code == ErrorCode.GROUP_ID_NOT_FOUND


def test_an_empty_group_changes_its_protocol() -> None:
    """With nobody in it a group goes over with its offsets, there and back."""
    shard = ModernShard(t=1)
    assert commit(shard, "", -1) is ErrorCode.NONE
    assert shard.code("m1", 0) is ErrorCode.NONE
    shard.machine.check()
    shard.beat("m1", -1)
    shard.join("j", version=3)
    shard.advance(0)
    assert shard.answers["j"].error_code == 0  # type: ignore[union-attr]
    assert "g" not in shard.machine.modern.groups
    assert shard.machine.classic.offsets.get("g", "t", 0) is not None
    shard.reload()
    shard.machine.check()


def test_delete() -> None:
    """A group is deleted with its offsets once nobody is in it; offsets of what is subscribed to are kept."""
    shard = ModernShard(t=1)
    epoch = shard.beat("m1", 0).member_epoch
    assert commit(shard, "m1", epoch) is ErrorCode.NONE
    offsets = OffsetDeleteRequest("g", [OffsetDeleteRequestTopic("t", [OffsetDeleteRequestPartition(0)])])
    kept = shard.request(offsets).topics[0].partitions[0]
    assert kept.error_code == ErrorCode.GROUP_SUBSCRIBED_TO_TOPIC
    assert shard.request(DeleteGroupsRequest(["g"])).results[0].error_code == ErrorCode.NON_EMPTY_GROUP
    shard.beat("m1", -1)
    assert shard.request(DeleteGroupsRequest(["g"])).results[0].error_code == 0
    assert shard.request(DeleteGroupsRequest(["g"])).results[0].error_code == ErrorCode.GROUP_ID_NOT_FOUND
    assert not shard.machine.modern.groups
    assert not shard.machine.classic.offsets.groups


def test_what_nobody_needs_is_forgotten() -> None:
    """Offsets of topics that nobody subscribes to expire, and an empty group goes when it has none left."""
    shard = ModernShard(GroupLimits(retention_ms=50_000, sweep_every_ms=20_000), t=1)
    shard._carry_out(shard.machine.loaded(0))
    one = Client(shard, "m1")
    one.beat()
    assert commit(shard, "m1", one.epoch) is ErrorCode.NONE
    for _ in range(12):
        shard.advance(9_000)
        one.beat()
    assert shard.machine.classic.offsets.get("g", "t", 0) is not None
    shard.beat("m1", -1)
    shard.advance(40_000)
    assert not shard.machine.classic.offsets.groups
    shard.advance(40_000)
    assert not shard.machine.modern.groups


def test_members_come_back_after_a_reload() -> None:
    """After a restart everyone goes on at the same epoch, and who is gone is noticed."""
    shard = ModernShard(t=2)
    one, two = Client(shard, "m1"), Client(shard, "m2")
    settle(one, two)
    epochs = one.epoch, two.epoch
    shard.reload()
    assert one.beat() is ErrorCode.NONE
    assert (one.epoch, two.epoch) == epochs
    shard.advance(9_000)
    one.beat()
    shard.advance(2_000)
    assert set(group_of(shard).members) == {"m1"}


def test_a_refused_write_changes_nothing() -> None:
    """When the log takes no record the member hears it, and the group is what it was."""
    shard = ModernShard(t=2)
    one = Client(shard, "m1")
    one.beat()
    before = group_of(shard).copy()
    shard.failing = True
    assert shard.code("m2", 0) is ErrorCode.NOT_COORDINATOR
    shard.failing = False
    assert group_of(shard) == before
    assert shard.code("m2", 0) is ErrorCode.NONE


def test_a_refused_change_of_protocol_leaves_offsets_to_their_group() -> None:
    """A group that only has offsets is still there when its first member could not be written down."""
    shard = ModernShard(t=1)
    shard.commit("old", "", -1, {("t", 0): 5})
    shard.failing = True
    assert shard.code("m", 0) is ErrorCode.NOT_COORDINATOR
    shard.failing = False
    shard.machine.check()
    listed = shard.request(ListGroupsRequest(), 5)
    assert [group.group_id for group in listed.groups] == ["g"]


@pytest.mark.parametrize("modern", [False, True])
def test_no_late_offsets_of_a_transaction_undo_a_seek(modern: bool) -> None:
    """Nor those that come without a member, as of clients that name only the group; a while later they are taken."""
    shard = ModernShard(t=1)
    if modern:
        shard.beat("m", 0)
    else:
        shard.join("j", version=3)
    late = OffsetCommitRequest(
        "g", topics=[OffsetCommitRequestTopic("t", partitions=[OffsetCommitRequestPartition(0, 9)])]
    )
    shard.request(SeekGroupRequest("g", [SeekGroupTopic("t", [SeekGroupPartition(0, 4)])]), 0)
    shard.step(PendingAsked("soon", late, (1, 0)))
    refused = shard.answers["soon"]
    assert isinstance(refused, Refused)
    assert refused.code is ErrorCode.UNKNOWN_MEMBER_ID
    shard.now_ms += 10_000
    shard.step(PendingAsked("later", late, (1, 0)))
    assert isinstance(shard.answers["later"], OffsetCommitResponse)


def test_offsets_of_a_topic_that_was_there_before_are_not_told() -> None:
    """Whoever asks for a topic by its id is told nothing of an earlier one of that name."""
    shard = ModernShard(t=1)
    partition = OffsetCommitRequestPartition(0, 5)
    shard.request(OffsetCommitRequest("g", topics=[OffsetCommitRequestTopic("t", topic_id("t"), [partition])]), 9)

    def offset(asked: bytes) -> int:
        topics = [OffsetFetchRequestTopics("t", asked, [0])]
        (topic,) = shard.machine.classic.offsets.fetch(OffsetFetchRequestGroup("g", topics=topics), False).topics
        return int(topic.partitions[0].committed_offset)

    assert [offset(topic_id("t")), offset(bytes(16)), offset(topic_id("u"))] == [5, 5, -1]


def test_an_administrator_takes_members_out() -> None:
    """LeaveGroup takes members of this protocol out, by id or by instance, as it does those of the classic one."""
    shard = ModernShard(t=4)
    for member, instance in (("a", None), ("b", "i"), ("c", None)):
        shard.beat(member, 0, instance_id=instance)
    identities = [MemberIdentity("a"), MemberIdentity("", "i"), MemberIdentity("nobody")]
    answer = shard.request(LeaveGroupRequest("g", members=identities), 5)
    assert [row.error_code for row in answer.members] == [0, 0, ErrorCode.UNKNOWN_MEMBER_ID]
    assert list(shard.machine.modern.groups["g"].members) == ["c"]
    assert shard.code("a", 1) is ErrorCode.UNKNOWN_MEMBER_ID


def test_what_nobody_wants_is_not_given_back() -> None:
    """While the next assignment has to wait, a member that gave a topic up does not get it again from the last one."""
    shard = ModernShard(modern=ModernLimits(assignment_interval_ms=60_000), t=1, u=1)
    shard.now_ms = 1_000_000
    answer = shard.beat("a", 0, subscribed_topic_names=["t", "u"])
    epoch = answer.member_epoch
    shard.now_ms += 1_000
    answer = shard.beat("a", epoch, subscribed_topic_names=["t"], topic_partitions=owned(t=[0], u=[0]))
    assert [topic.topic_id for topic in answer.assignment.topic_partitions] == [topic_id("t")]
    answer = shard.beat("a", epoch, topic_partitions=owned(t=[0]))
    assert answer.assignment is None
    current = shard.machine.modern.groups["g"].has("a")
    assert (current.phase, list(current.owned)) == (Phase.STABLE, [topic_id("t")])
