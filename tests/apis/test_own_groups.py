"""SeekGroup, GroupLag and Why over a whole broker, with a member of each protocol made by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from logd.apis.why import _owners, of_repeat
from logd.coordinators.front import Waiter
from logd.errors import ErrorCode, Refused
from logd.testing import Broker
from logd.wire.schemas.api_versions import ApiVersionsRequest
from logd.wire.schemas.consumer_group_heartbeat import ConsumerGroupHeartbeatRequest
from logd.wire.schemas.delete_groups import DeleteGroupsRequest
from logd.wire.schemas.find_coordinator import FindCoordinatorRequest
from logd.wire.schemas.group_lag import GroupLagRequest, LaggingPartition
from logd.wire.schemas.heartbeat import HeartbeatRequest
from logd.wire.schemas.incremental_alter_configs import (
    AlterableConfig,
    AlterConfigsResource,
    IncrementalAlterConfigsRequest,
)
from logd.wire.schemas.join_group import JoinGroupRequest, JoinGroupRequestProtocol
from logd.wire.schemas.offset_commit import (
    OffsetCommitRequest,
    OffsetCommitRequestPartition,
    OffsetCommitRequestTopic,
)
from logd.wire.schemas.seek_group import SeekGroupPartition, SeekGroupRequest, SeekGroupTopic
from logd.wire.schemas.sync_group import SyncGroupRequest, SyncGroupRequestAssignment
from logd.wire.schemas.why import Finding, FindingFact, WhyRequest
from tests.coordinators.shard import subscription
from tests.raw import NOW_MS, Peer, batch, produce_request

ASSIGNMENT = b"\x00\x00" + b"\x00\x00\x00\x01" + b"\x00\x01t" + b"\x00\x00\x00\x01" + b"\x00\x00\x00\x00" + b"\xff" * 4
"""Partition 0 of topic t."""


@pytest.fixture
def peer(logd_broker: Broker) -> Iterator[Peer]:
    """A connection to a broker that has a topic t with ten records, a second apart."""
    logd_broker.create_topic("t")
    with Peer(logd_broker.bootstrap) as found:
        found.ask(FindCoordinatorRequest("g"), 3)
        for number in range(10):
            records = batch(b"%d" % number, timestamp=NOW_MS + number * 1000)
            assert found.ask(produce_request("t", records), 9).responses[0].partition_responses[0].error_code == 0
        yield found


class Member:
    """One member with partition 0 of t, in group g."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.member_id = ""
        self.epoch = 0

    def commit(self, offset: int) -> int:
        topics = [OffsetCommitRequestTopic("t", partitions=[OffsetCommitRequestPartition(0, offset)])]
        answer = self.peer.ask(OffsetCommitRequest("g", self.epoch, self.member_id, topics=topics), 9)
        code: int = answer.topics[0].partitions[0].error_code
        return code


class Classic(Member):
    def join(self) -> None:
        protocols = [JoinGroupRequestProtocol("range", subscription("t"))]
        answer = self.peer.ask(JoinGroupRequest("g", 10_000, 10_000, "", None, "consumer", protocols), 3)
        self.member_id, self.epoch = answer.member_id, answer.generation_id
        given = [SyncGroupRequestAssignment(self.member_id, ASSIGNMENT)]
        self.peer.ask(SyncGroupRequest("g", self.epoch, self.member_id, assignments=given), 3)

    def heartbeat(self) -> int:
        code: int = self.peer.ask(HeartbeatRequest("g", self.epoch, self.member_id), 3).error_code
        return code


class Modern(Member):
    def join(self) -> None:
        answer = self.peer.ask(
            ConsumerGroupHeartbeatRequest(
                "g", "modern-1", 0, rebalance_timeout_ms=10_000, subscribed_topic_names=["t"], topic_partitions=[]
            ),
            1,
        )
        self.member_id, self.epoch = answer.member_id, answer.member_epoch

    def heartbeat(self) -> int:
        code: int = self.peer.ask(ConsumerGroupHeartbeatRequest("g", self.member_id, self.epoch), 1).error_code
        return code


BOTH = pytest.mark.parametrize("kind", [Classic, Modern])


def seek(peer: Peer, offset: int, *, validate_only: bool = False, topic: str = "t", index: int = 0) -> Any:
    topics = [SeekGroupTopic(topic, [SeekGroupPartition(index, offset)])]
    return peer.ask(SeekGroupRequest("g", topics, validate_only), 0)


def test_settings_take_effect_on_a_live_group(peer: Peer) -> None:
    """A member hears of a new heartbeat interval with its next heartbeat."""
    member = Modern(peer)
    member.join()
    wanted = [AlterableConfig("consumer.heartbeat.interval.ms", 0, "7000")]
    answer = peer.ask(IncrementalAlterConfigsRequest([AlterConfigsResource(32, "g", wanted)]), 1)
    assert answer.responses[0].error_code == 0
    told = peer.ask(ConsumerGroupHeartbeatRequest("g", member.member_id, member.epoch), 1)
    assert told.heartbeat_interval_ms == 7000


def test_announced_but_not_listed(peer: Peer) -> None:
    """ApiVersions names the feature, its level in force as well, and none of the keys."""
    answer = peer.ask(ApiVersionsRequest("raw", "1"), 4)
    assert "logd.version" in [feature.name for feature in answer.supported_features]
    assert {row.name: row.max_version_level for row in answer.finalized_features}["logd.version"] == 1
    assert all(key.api_key < 30_000 for key in answer.api_keys)


@BOTH
def test_no_late_commit_undoes_a_seek(peer: Peer, kind: Callable[[Peer], Any]) -> None:
    """Also not of a client that was put out, has forgotten who it was, and commits as nobody to a group of nobody."""
    member = kind(peer)
    member.join()
    assert member.commit(9) == 0
    assert seek(peer, 4).members_fenced == 1
    assert member.commit(9) == ErrorCode.UNKNOWN_MEMBER_ID
    member.member_id, member.epoch = "", -1
    assert member.commit(9) == ErrorCode.UNKNOWN_MEMBER_ID
    assert seek(peer, 5).topics[0].partitions[0].offset_before == 4
    assert peer.ask(DeleteGroupsRequest(["g"]), 2).results[0].error_code == 0
    assert member.commit(9) == 0, "a group that is deleted has no seek to be undone"


def test_a_seek_of_a_group_of_both_protocols(peer: Peer) -> None:
    """A classic member is the first to come back, so the group is a classic one; the modern one is told to join again.

    GROUP_ID_NOT_FOUND, as from Kafka for any classic group, would be its end.
    """
    modern, classic = Modern(peer), Classic(peer)
    modern.join()
    classic.join()
    assert seek(peer, 4).members_fenced == 2
    classic.join()
    assert modern.heartbeat() == ErrorCode.UNKNOWN_MEMBER_ID
    modern.join()
    assert modern.heartbeat() == 0
    assert Modern(peer).heartbeat() != ErrorCode.NONE


@BOTH
def test_a_seek_fences_the_members(peer: Peer, kind: Callable[[Peer], Any]) -> None:
    """Heartbeats and late commits of whoever was there are refused; who joins again starts from the new place."""
    member = kind(peer)
    member.join()
    assert member.commit(10) == 0
    answer = seek(peer, 4)
    assert (answer.error_code, answer.members_fenced) == (0, 1)
    (row,) = answer.topics[0].partitions
    assert (row.offset_before, row.offset) == (10, 4)
    assert member.commit(9) == ErrorCode.UNKNOWN_MEMBER_ID
    assert member.heartbeat() == ErrorCode.UNKNOWN_MEMBER_ID
    before = member.epoch
    member.join()
    assert member.epoch > before
    assert member.heartbeat() == 0
    assert lag(peer).topics[0].partitions[0].committed_offset == 4


@BOTH
def test_a_dry_run_changes_nothing(peer: Peer, kind: Callable[[Peer], Any]) -> None:
    """It tells what would be, and the member goes on."""
    member = kind(peer)
    member.join()
    assert member.commit(10) == 0
    answer = seek(peer, 4, validate_only=True)
    assert (answer.error_code, answer.members_fenced) == (0, 1)
    assert member.heartbeat() == 0
    assert lag(peer).topics[0].partitions[0].committed_offset == 10


def test_a_group_without_members_is_only_moved(peer: Peer) -> None:
    """One that is not there yet is made, as by a commit."""
    answer = seek(peer, 3)
    assert (answer.error_code, answer.members_fenced, answer.group_type) == (0, 0, "classic")
    found = lag(peer)
    assert (found.state, found.lag) == ("Empty", 7)


@pytest.mark.parametrize(
    ("topic", "index", "offset", "code"),
    [
        ("nowhere", 0, 0, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION),
        ("t", 7, 0, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION),
        ("t", 0, 11, ErrorCode.OFFSET_OUT_OF_RANGE),
        ("t", 0, -1, ErrorCode.OFFSET_OUT_OF_RANGE),
    ],
)
def test_a_place_that_is_not_there(peer: Peer, topic: str, index: int, offset: int, code: ErrorCode) -> None:
    """It is refused with a sentence, and nothing is moved."""
    answer = seek(peer, offset, topic=topic, index=index)
    assert answer.error_code == code
    assert answer.topics[0].partitions[0].error_message
    assert lag(peer).error_code == ErrorCode.GROUP_ID_NOT_FOUND


def test_bad_seeks(peer: Peer) -> None:
    """No group, no partition, one twice."""
    twice = [SeekGroupTopic("t", [SeekGroupPartition(0, 1), SeekGroupPartition(0, 2)])]
    assert peer.ask(SeekGroupRequest("", twice), 0).error_code == ErrorCode.INVALID_GROUP_ID
    assert peer.ask(SeekGroupRequest("g", []), 0).error_code == ErrorCode.INVALID_REQUEST
    assert peer.ask(SeekGroupRequest("g", twice), 0).error_code == ErrorCode.INVALID_REQUEST


def lag(peer: Peer) -> Any:
    (found,) = peer.ask(GroupLagRequest(["g"]), 0).groups
    return found


@BOTH
def test_lag(peer: Peer, kind: Callable[[Peer], Any]) -> None:
    """In messages, and in milliseconds since the next record was written; nothing remains at the end."""
    member = kind(peer)
    member.join()
    member.commit(4)
    found = lag(peer)
    assert (found.state, found.member_count, found.lag) == ("Stable", 1, 6)
    (row,) = found.topics[0].partitions
    assert (row.committed_offset, row.start_offset, row.end_offset, row.lag) == (4, 0, 10, 6)
    assert row.member_id == member.member_id
    assert found.lag_ms == row.lag_ms >= 0
    member.commit(10)
    assert (lag(peer).lag, lag(peer).lag_ms) == (0, 0)
    assert [group.group_id for group in peer.ask(GroupLagRequest(None), 0).groups] == ["g"]


def why(peer: Peer, subject_type: int, subject: str) -> Any:
    answer = peer.ask(WhyRequest(subject_type, subject), 0)
    assert answer.error_code == 0
    return answer


@BOTH
def test_why_a_group(peer: Peer, kind: Callable[[Peer], Any]) -> None:
    """Who joined, what was moved, and what was refused to whom; and what is so now."""
    member = kind(peer)
    member.join()
    seek(peer, 4)
    member.commit(9)
    answer = why(peer, 1, "g")
    kinds = [event.kind for event in answer.events]
    assert "member-joined" in kinds
    assert "sought" in kinds
    assert kinds[-1] == "refused"
    assert "UNKNOWN_MEMBER_ID" in answer.events[-1].text
    assert answer.findings[0].kind == "empty"
    assert [finding.kind for finding in why(peer, 1, "nobody").findings] == ["unknown"]


@BOTH
def test_why_a_member_is_stuck(peer: Peer, kind: Callable[[Peer], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """One that commits the same offset again and again is told with it, as long as there is more to read."""
    monkeypatch.setattr("logd.apis.why.STILL_MS", 0)
    member = kind(peer)
    member.join()

    def found() -> list[Any]:
        return [each for each in why(peer, 1, "g").findings if each.kind in ("stuck", "still", "repeats")]

    member.commit(4)
    assert [each.kind for each in found()] == ["still"]
    member.commit(4)
    member.commit(4)
    (stuck,) = found()
    assert stuck.kind == "stuck"
    assert "committed offset 4 3 times" in stuck.text
    assert f"member {member.member_id}" in stuck.text
    member.commit(5)
    assert [each.kind for each in found()] == ["still"]
    member.commit(10)
    member.commit(10)
    assert found() == []


@pytest.mark.parametrize(("apart_ms", "told"), [(30_000, True), (29_999, False), (3, False)])
def test_who_left_is_not_stuck(apart_ms: int, told: bool) -> None:
    """A consumer that commits twice as it closes is no reader that can't get on, however long ago that was."""
    row = LaggingPartition(0, committed_offset=4, committed_ms=NOW_MS + apart_ms, lag=6)
    repeat = Finding("repeats", "", [FindingFact("since_ms", str(NOW_MS)), FindingFact("times", "2")])
    assert (of_repeat("t-0", row, repeat, NOW_MS + 3_600_000) is not None) == told


def test_why_a_topic_and_a_connection(peer: Peer) -> None:
    """What was refused for a topic is told under its name, and under that of the connection."""
    damaged = bytearray(batch(b"x"))
    damaged[20] ^= 1
    for _ in range(3):
        peer.ask(produce_request("t", bytes(damaged)), 9)
    (event,) = why(peer, 2, "t").events
    assert "CORRUPT_MESSAGE" in event.text
    assert event.text.endswith("(3 times)")
    host, port = peer.sock.getsockname()
    (event,) = why(peer, 3, f"{host}:{port}").events
    assert "CORRUPT_MESSAGE" in event.text
    assert [finding.kind for finding in why(peer, 2, "nowhere").findings] == ["unknown"]
    assert peer.ask(WhyRequest(9, ""), 0).error_code == ErrorCode.INVALID_REQUEST


@pytest.mark.trio
async def test_owners_that_cannot_be_told_now() -> None:
    """A coordinator that has just moved is no reason to say nothing of the rest."""
    moved = Waiter()
    moved.answer(Refused(ErrorCode.NOT_COORDINATOR, "another node coordinates this now"))
    transactions = SimpleNamespace(ask_all=lambda *_: [moved])
    call: Any = SimpleNamespace(services=SimpleNamespace(transactions=transactions))
    assert await _owners(call, {1}) is None
