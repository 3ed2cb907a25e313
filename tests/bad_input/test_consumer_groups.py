"""Group calls of the consumer protocol (KIP-848) with ids, epochs, expressions and sizes that cannot be."""

from __future__ import annotations

from typing import Any

import pytest

from logd.errors import ErrorCode

from .conftest import TOPIC
from .wire import Peer

MIB = 1 << 20


def join(peer: Peer, **fields: Any) -> Any:
    body = {
        "group_id": "g",
        "member_id": "m",
        "member_epoch": 0,
        "rebalance_timeout_ms": 30000,
        "subscribed_topic_names": [TOPIC],
        "topic_partitions": [],
        **fields,
    }
    peer.ask("FindCoordinator", 4, key_type=0, coordinator_keys=[body["group_id"]])
    return peer.ask("ConsumerGroupHeartbeat", 1, **body)


def is_there(peer: Peer, group_id: str = "g") -> bool:
    return bool(peer.ask("ConsumerGroupDescribe", 1, group_ids=[group_id])["groups"][0]["members"])


@pytest.fixture
def member(peer: Peer) -> tuple[Peer, int]:
    """A group ("g") with one member ("m"); its connection and its epoch."""
    answer = join(peer)
    assert answer["error_code"] == 0
    return peer, answer["member_epoch"]


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"group_id": ""}, ErrorCode.INVALID_REQUEST),
        ({"member_id": ""}, ErrorCode.INVALID_REQUEST),
        ({"member_epoch": -3}, ErrorCode.INVALID_REQUEST),
        ({"member_epoch": 5}, ErrorCode.GROUP_ID_NOT_FOUND),
        ({"member_epoch": -1}, ErrorCode.GROUP_ID_NOT_FOUND),
        ({"rebalance_timeout_ms": -1}, ErrorCode.INVALID_REQUEST),
        ({"subscribed_topic_names": None}, ErrorCode.INVALID_REQUEST),
        ({"topic_partitions": None}, ErrorCode.INVALID_REQUEST),
        ({"topic_partitions": [{"topic_id": bytes(16), "partitions": [0]}]}, ErrorCode.INVALID_REQUEST),
        ({"server_assignor": "mine"}, ErrorCode.UNSUPPORTED_ASSIGNOR),
        ({"rack_id": ""}, ErrorCode.INVALID_REQUEST),
        ({"instance_id": ""}, ErrorCode.INVALID_REQUEST),
        ({"subscribed_topic_regex": "["}, ErrorCode.INVALID_REGULAR_EXPRESSION),
    ],
)
def test_join(peer: Peer, fields: dict[str, Any], code: ErrorCode) -> None:
    """A bad field is answered with its own error and a sentence, and nobody joins."""
    answer = join(peer, **fields)
    assert ErrorCode(answer["error_code"]).name == code.name
    assert answer["error_message"]
    assert not is_there(peer)


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"group_id": "other"}, ErrorCode.GROUP_ID_NOT_FOUND),
        ({"member_id": "nobody"}, ErrorCode.UNKNOWN_MEMBER_ID),
        ({"member_epoch": 99}, ErrorCode.FENCED_MEMBER_EPOCH),
    ],
)
def test_heartbeats(member: tuple[Peer, int], fields: dict[str, Any], code: ErrorCode) -> None:
    """By a stranger, in another epoch, in no group."""
    peer, epoch = member
    quiet = {"rebalance_timeout_ms": -1, "subscribed_topic_names": None, "topic_partitions": None}
    answer = join(peer, member_epoch=epoch, **quiet)
    assert answer["error_code"] == 0
    assert join(peer, **{"member_epoch": epoch, **quiet, **fields})["error_code"] == code


def test_commits(member: tuple[Peer, int]) -> None:
    """By one who is no member, or in another epoch."""
    peer, epoch = member

    def commit(**fields: Any) -> int:
        rows = [{"name": TOPIC, "partitions": [{"partition_index": 0, "committed_offset": 5}]}]
        body = {"group_id": "g", "member_id": "m", "generation_id_or_member_epoch": epoch, "topics": rows, **fields}
        code: int = peer.ask("OffsetCommit", 9, **body)["topics"][0]["partitions"][0]["error_code"]
        return code

    assert commit(member_id="nobody") == ErrorCode.UNKNOWN_MEMBER_ID
    assert commit(generation_id_or_member_epoch=epoch + 1) == ErrorCode.STALE_MEMBER_EPOCH
    assert commit(member_id="", generation_id_or_member_epoch=-1) == ErrorCode.UNKNOWN_MEMBER_ID
    assert commit() == 0


@pytest.mark.logd(settings={"group.consumer.max.size": 2})
def test_a_group_that_is_full(peer: Peer) -> None:
    """group.consumer.max.size."""
    codes = [join(peer, member_id=f"m{number}")["error_code"] for number in range(3)]
    assert codes == [0, 0, ErrorCode.GROUP_MAX_SIZE_REACHED]


EXPLODING = ("(a*)*b", "((((.+)+)+)+)+$", "(a|aa)+$", "(.*a){100}", ".{0,1000}", "(k|e|p|t|.)*(k|ke|kep)*x?")


@pytest.mark.parametrize("regex", EXPLODING)
def test_an_expression_that_explodes(peer: Peer, regex: str) -> None:
    """What keeps a backtracking engine busy for ever is matched like any other."""
    peer.ask("CreateTopics", 5, topics=[{"name": "a" * 200, "num_partitions": 1, "replication_factor": 1}])
    assert join(peer, subscribed_topic_names=None, subscribed_topic_regex=regex)["error_code"] == 0
    assert is_there(peer)


@pytest.mark.parametrize(
    "regex", ["((x{100}){100}){100}", "a" * 10_000, "(" * 900, "(.*a){40}.*(b|c){0,300}(.?x){200}|" * 9]
)
def test_an_expression_that_is_too_big(peer: Peer, regex: str) -> None:
    """One that would need too much room is refused, saying what to do."""
    answer = join(peer, subscribed_topic_names=None, subscribed_topic_regex=regex)
    assert answer["error_code"] == ErrorCode.INVALID_REGULAR_EXPRESSION
    assert "can't be used" in answer["error_message"]
    assert not is_there(peer)


def test_ten_mebibytes_of_subscription(peer: Peer) -> None:
    """More than a record may have: refused as Kafka refuses it, and nobody has joined."""
    names = ["x" * 240 + f"{number:06d}" for number in range(10 * MIB // 248)]
    answer = join(peer, subscribed_topic_names=names)
    assert answer["error_code"] == ErrorCode.UNKNOWN_SERVER_ERROR
    assert "one batch of __consumer_offsets" in answer["error_message"]
    assert not is_there(peer)
    assert join(peer)["error_code"] == 0
