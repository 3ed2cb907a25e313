"""Fetches and look-ups of what is not there, in sessions that do not exist, by those who are too late or too early."""

from __future__ import annotations

from typing import Any

import pytest

from logd.errors import ErrorCode

from .conftest import TOPIC
from .wire import Peer


@pytest.mark.parametrize("offset", [-1, -2, 2, 2**62, -(2**63)])
def test_offset_out_of_range(peer: Peer, offset: int) -> None:
    """Before the start and after the end; the end itself is none."""
    assert peer.fetch(TOPIC, offset)["error_code"] == ErrorCode.OFFSET_OUT_OF_RANGE
    assert peer.fetch(TOPIC, 1)["error_code"] == 0


def test_an_error_is_told_at_once(peer: Peer) -> None:
    """Nobody waits for max_wait_ms to learn of a mistake."""
    answer = peer.fetch(TOPIC, 99, request={"max_wait_ms": 2**31 - 1, "min_bytes": 1})
    assert answer["error_code"] == ErrorCode.OFFSET_OUT_OF_RANGE


@pytest.mark.parametrize("limit", [0, 1])
def test_small_limits(peer: Peer, limit: int) -> None:
    """One batch is given at least, or a consumer would never get on."""
    assert peer.fetch(TOPIC, 0, partition_max_bytes=limit)["records"]
    assert peer.fetch(TOPIC, 0, request={"max_bytes": limit})["records"]


@pytest.mark.parametrize("limit", [-1, -(2**31)])
def test_negative_limits(peer: Peer, limit: int) -> None:
    """A negative size is refused, of a partition and of the request."""
    assert peer.fetch(TOPIC, 0, partition_max_bytes=limit)["error_code"] == ErrorCode.INVALID_REQUEST
    assert peer.fetch(TOPIC, 0, request={"max_bytes": limit})["error_code"] == ErrorCode.INVALID_REQUEST


def test_isolation_level(peer: Peer) -> None:
    """An isolation level that does not exist is refused."""
    answer = peer.fetch(TOPIC, 0, request={"isolation_level": 7})
    assert answer["error_code"] == ErrorCode.INVALID_REQUEST


def test_leader_epochs(peer: Peer) -> None:
    """Newer than ours, and a fetched epoch that we know nothing of."""
    answer = peer.fetch(TOPIC, 0, current_leader_epoch=1000)
    assert answer["error_code"] == ErrorCode.UNKNOWN_LEADER_EPOCH
    answer = peer.fetch(TOPIC, 0, last_fetched_epoch=1000)
    assert answer["error_code"] == ErrorCode.OFFSET_OUT_OF_RANGE
    rows = [{"partition": 0, "current_leader_epoch": 1000, "leader_epoch": 0}]
    found = peer.ask("OffsetForLeaderEpoch", 4, replica_id=-1, topics=[{"topic": TOPIC, "partitions": rows}])
    assert found["topics"][0]["partitions"][0]["error_code"] == ErrorCode.UNKNOWN_LEADER_EPOCH


def test_a_replica_that_is_none(peer: Peer) -> None:
    """A consumer cannot pose as a broker."""
    answer = peer.fetch(TOPIC, 0, version=11, request={"replica_id": 5})
    assert answer["error_code"] == ErrorCode.NOT_LEADER_OR_FOLLOWER


def _session(peer: Peer, session_id: int, epoch: int, *partitions: dict[str, Any]) -> Any:
    topics = [{"topic": TOPIC, "partitions": list(partitions)}] if partitions else []
    body = {"max_wait_ms": 0, "min_bytes": 0, "max_bytes": 1 << 20, "topics": topics}
    return peer.ask("Fetch", 12, session_id=session_id, session_epoch=epoch, **body)


def test_fetch_sessions(peer: Peer) -> None:
    """An unknown id, a wrong epoch; the session outlives the mistake."""
    part = {"partition": 0, "fetch_offset": 0, "partition_max_bytes": 1000}
    session_id = _session(peer, 0, 0, part)["session_id"]
    assert session_id > 0
    for wrong, epoch, code in (
        (session_id + 1, 1, ErrorCode.FETCH_SESSION_ID_NOT_FOUND),
        (0, 1, ErrorCode.FETCH_SESSION_ID_NOT_FOUND),
        (session_id, 7, ErrorCode.INVALID_FETCH_SESSION_EPOCH),
        (session_id, -7, ErrorCode.INVALID_FETCH_SESSION_EPOCH),
    ):
        answer = _session(peer, wrong, epoch)
        assert (answer["error_code"], answer["session_id"], answer["responses"]) == (code, 0, [])
    assert _session(peer, session_id, 1)["session_id"] == session_id


@pytest.mark.parametrize(
    ("version", "timestamp"), [(6, -3), (7, -4), (8, -5), (10, -6), (11, -7), (11, -(2**63)), (1, -(2**31))]
)
def test_special_offsets_of_other_versions(peer: Peer, version: int, timestamp: int) -> None:
    """A special offset that a version does not know is refused in that version."""
    rows = [{"partition_index": 0, "timestamp": timestamp}]
    answer = peer.ask("ListOffsets", version, replica_id=-1, topics=[{"name": TOPIC, "partitions": rows}])
    assert answer["topics"][0]["partitions"][0]["error_code"] == ErrorCode.UNSUPPORTED_VERSION


@pytest.mark.parametrize("offset", [-2, 2, 2**62, -(2**63)])
def test_delete_records_out_of_range(peer: Peer, offset: int) -> None:
    """Records can be deleted up to offsets that the log has, and no others."""
    rows = [{"partition_index": 0, "offset": offset}]
    answer = peer.ask("DeleteRecords", 2, topics=[{"name": TOPIC, "partitions": rows}], timeout_ms=1000)
    row = answer["topics"][0]["partitions"][0]
    assert (row["error_code"], row["low_watermark"]) == (ErrorCode.OFFSET_OUT_OF_RANGE, -1)
