"""Group calls with ids, generations and sizes that cannot be."""

from __future__ import annotations

from typing import Any

import pytest

from logd.errors import ErrorCode

from .conftest import TOPIC
from .wire import Peer

PROTOCOLS = [{"name": "range", "metadata": b"\0\0\0\0\0\0\xff\xff\xff\xff"}]


@pytest.fixture
def member(peer: Peer) -> tuple[Peer, str]:
    """A group ("g") with one member in generation 1; its connection and its id."""
    first = join(peer)
    member_id = first["member_id"]
    assert first["error_code"] == ErrorCode.MEMBER_ID_REQUIRED
    assert join(peer, member_id=member_id)["error_code"] == 0
    rows = [{"member_id": member_id, "assignment": b"all"}]
    body = {"group_id": "g", "generation_id": 1, "member_id": member_id, "assignments": rows}
    assert peer.ask("SyncGroup", 3, **body)["error_code"] == 0
    return peer, member_id


def join(peer: Peer, **fields: Any) -> Any:
    body = {
        "group_id": "g",
        "session_timeout_ms": 30000,
        "rebalance_timeout_ms": 30000,
        "member_id": "",
        "protocol_type": "consumer",
        "protocols": PROTOCOLS,
        **fields,
    }
    peer.ask("FindCoordinator", 4, key_type=0, coordinator_keys=[body["group_id"]])
    return peer.ask("JoinGroup", 6, **body)


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"group_id": ""}, ErrorCode.INVALID_GROUP_ID),
        ({"session_timeout_ms": 5999}, ErrorCode.INVALID_SESSION_TIMEOUT),
        ({"session_timeout_ms": 1_800_001}, ErrorCode.INVALID_SESSION_TIMEOUT),
        ({"session_timeout_ms": -1}, ErrorCode.INVALID_SESSION_TIMEOUT),
        ({"member_id": "nobody"}, ErrorCode.UNKNOWN_MEMBER_ID),
        ({"protocols": []}, ErrorCode.INCONSISTENT_GROUP_PROTOCOL),
        ({"protocol_type": ""}, ErrorCode.INCONSISTENT_GROUP_PROTOCOL),
        ({"protocol_type": "connect"}, ErrorCode.INCONSISTENT_GROUP_PROTOCOL),
        ({"protocols": [{"name": "other", "metadata": b""}]}, ErrorCode.INCONSISTENT_GROUP_PROTOCOL),
    ],
)
def test_join(member: tuple[Peer, str], fields: dict[str, Any], code: ErrorCode) -> None:
    """A bad field of JoinGroup is answered with its own error, and nobody joins."""
    answer = join(member[0], **fields)
    assert (ErrorCode(answer["error_code"]).name, answer["members"]) == (code.name, [])


@pytest.mark.parametrize(
    "metadata", [b"", b"\xff", b"range-meta", b"\0\0\x7f\xff\xff\xff", bytes(1000), b"\0\3" + b"\xff" * 50]
)
def test_a_subscription_that_is_rubbish(peer: Peer, metadata: bytes) -> None:
    """It is the group's own business; reading it, where that is tried, costs no more than its bytes."""
    rows = [{"name": "range", "metadata": metadata}]
    first = join(peer, protocols=rows)
    answer = join(peer, protocols=rows, member_id=first["member_id"])
    assert answer["error_code"] == 0
    assert answer["members"][0]["metadata"] == metadata


def test_ten_mebibytes_of_metadata(peer: Peer) -> None:
    """It joins, but can't be written down: its SyncGroup is refused as Kafka refuses it, and others may join."""
    rows = [{"name": "range", "metadata": bytes(10 << 20)}]
    member_id = join(peer, protocols=rows)["member_id"]
    answer = join(peer, protocols=rows, member_id=member_id)
    assert (answer["error_code"], len(answer["members"])) == (0, 1)
    given = [{"member_id": member_id, "assignment": bytes(10 << 20)}]
    body = {"group_id": "g", "generation_id": 1, "member_id": member_id, "assignments": given}
    assert peer.ask("SyncGroup", 3, **body)["error_code"] == ErrorCode.UNKNOWN_SERVER_ERROR
    assert join(peer)["error_code"] == ErrorCode.MEMBER_ID_REQUIRED


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"group_id": ""}, ErrorCode.INVALID_GROUP_ID),
        ({"group_id": "other"}, ErrorCode.UNKNOWN_MEMBER_ID),
        ({"generation_id": 0}, ErrorCode.ILLEGAL_GENERATION),
        ({"generation_id": 2}, ErrorCode.ILLEGAL_GENERATION),
        ({"generation_id": -1}, ErrorCode.ILLEGAL_GENERATION),
        ({"member_id": "nobody"}, ErrorCode.UNKNOWN_MEMBER_ID),
        ({"member_id": ""}, ErrorCode.UNKNOWN_MEMBER_ID),
    ],
)
def test_members_calls(member: tuple[Peer, str], fields: dict[str, Any], code: ErrorCode) -> None:
    """Heartbeat and SyncGroup by a stranger, in another generation, in no group."""
    peer, member_id = member
    body = {"group_id": "g", "generation_id": 1, "member_id": member_id, **fields}
    assert peer.ask("Heartbeat", 3, **body)["error_code"] == code
    assert peer.ask("SyncGroup", 3, assignments=[], **body)["error_code"] == code


def commit(peer: Peer, offset: int = 5, metadata: str | None = "", **fields: Any) -> int:
    """Error of a commit by nobody."""
    rows = [{"partition_index": 0, "committed_offset": offset, "committed_metadata": metadata}]
    topics = [{"name": TOPIC, "partitions": rows}]
    body = {"group_id": "g", "generation_id_or_member_epoch": -1, "member_id": "", "topics": topics, **fields}
    peer.ask("FindCoordinator", 4, key_type=0, coordinator_keys=[body["group_id"]])
    code: int = peer.ask("OffsetCommit", 8, **body)["topics"][0]["partitions"][0]["error_code"]
    return code


def test_commits(member: tuple[Peer, str]) -> None:
    """By one who is no member, or no longer."""
    peer, member_id = member
    assert commit(peer) == ErrorCode.UNKNOWN_MEMBER_ID
    assert commit(peer, member_id="nobody", generation_id_or_member_epoch=1) == ErrorCode.UNKNOWN_MEMBER_ID
    for generation in (-1, 0, 2):
        code = commit(peer, member_id=member_id, generation_id_or_member_epoch=generation)
        assert code == ErrorCode.ILLEGAL_GENERATION
    assert commit(peer, member_id=member_id, generation_id_or_member_epoch=1) == 0


def test_metadata_of_a_commit(peer: Peer) -> None:
    """offset.metadata.max.bytes."""
    assert commit(peer, metadata="x" * 4096) == 0
    assert commit(peer, metadata="x" * 4097) == ErrorCode.OFFSET_METADATA_TOO_LARGE


def test_negative_offsets(peer: Peer) -> None:
    """They mean nothing to a consumer, and are kept as Kafka keeps them."""
    for offset in (-1, -2, -(2**63)):
        assert commit(peer, offset) == 0
        found = peer.ask("OffsetFetch", 7, group_id="g", topics=None)["topics"][0]["partitions"][0]
        assert found["committed_offset"] == offset


def test_commit_for_a_topic_that_is_not_there(peer: Peer) -> None:
    """Offsets of an unknown topic are not committed."""
    rows = [{"partition_index": 0, "committed_offset": 1}]
    assert commit(peer, topics=[{"name": "absent", "partitions": rows}]) == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION


def test_groups_that_are_not_there_or_not_empty(member: tuple[Peer, str]) -> None:
    """Deleting and leaving groups that cannot be says which and why."""
    peer, _ = member
    answer = peer.ask("DeleteGroups", 2, groups_names=["g", "never", ""])
    codes = {row["group_id"]: row["error_code"] for row in answer["results"]}
    assert codes == {
        "g": ErrorCode.NON_EMPTY_GROUP,
        "never": ErrorCode.GROUP_ID_NOT_FOUND,
        "": ErrorCode.GROUP_ID_NOT_FOUND,
    }
    assert peer.ask("OffsetDelete", 0, group_id="never", topics=[])["error_code"] == ErrorCode.GROUP_ID_NOT_FOUND
    assert peer.ask("OffsetDelete", 0, group_id="", topics=[])["error_code"] == ErrorCode.INVALID_GROUP_ID
    body = {"group_id": "g", "members": [{"member_id": "nobody", "group_instance_id": None}]}
    answer = peer.ask("LeaveGroup", 4, **body)
    assert (answer["error_code"], answer["members"][0]["error_code"]) == (0, ErrorCode.UNKNOWN_MEMBER_ID)


@pytest.mark.logd(settings={"group.max.size": 2})
def test_a_group_that_is_full(peer: Peer) -> None:
    """group.max.size counts those who have been given an id as well."""
    codes = [join(peer)["error_code"] for _ in range(3)]
    assert codes[:2] == [ErrorCode.MEMBER_ID_REQUIRED] * 2
    assert codes[2] in (ErrorCode.GROUP_MAX_SIZE_REACHED, ErrorCode.MEMBER_ID_REQUIRED)


@pytest.mark.parametrize("kind", [2, 3, -1, 127])
def test_coordinators_of_other_kinds(peer: Peer, kind: int) -> None:
    """No share groups yet; the rest is no kind at all."""
    answer = peer.ask("FindCoordinator", 4, key_type=kind, coordinator_keys=["x"])["coordinators"][0]
    assert (answer["error_code"], answer["node_id"]) == (ErrorCode.INVALID_REQUEST, -1)
