"""Frames, headers and bodies that cannot be: the connection is closed, the log says why, others are served."""

from __future__ import annotations

import logging
import struct

import pytest

from logd.testing import Broker

from .wire import SPECS, Peer

MIB = 1 << 20
HEADER = struct.pack(">hhih", 3, 4, 1, 1) + b"x"
FLEXIBLE = struct.pack(">hhih", 3, 12, 1, 1) + b"x\0"
ONE_TOPIC = b"\x02" + bytes(16) + b"\x02a\0"


def closes_and_logs(peer: Peer, caplog: pytest.LogCaptureFixture, *words: str) -> None:
    """The server ends the connection, with one warning that has the words."""
    assert peer.is_closed_by_peer(), "the connection stays open"
    lines = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(lines) == 1, lines
    for word in words:
        assert word in lines[0]


@pytest.mark.parametrize(
    ("size", "words"),
    [
        (-1, ("-1",)),
        (0, ("0",)),
        (-(2**31), ("-2147483648",)),
        (2**31 - 1, ("2147483647",)),
        (101 * MIB, ("105906176",)),
    ],
)
def test_frame_size(peer: Peer, caplog: pytest.LogCaptureFixture, size: int, words: tuple[str, ...]) -> None:
    """A size that is negative, zero or over the limit."""
    peer.send_raw(struct.pack(">i", size))
    closes_and_logs(peer, caplog, *words)


def test_frame_size_before_anything_sensible(peer: Peer, caplog: pytest.LogCaptureFixture) -> None:
    """Who has not said anything sensible yet may not begin a big frame with rubbish."""
    peer.send_raw(struct.pack(">i", 50 * MIB) + b"\xff" * 10)
    closes_and_logs(peer, caplog, str(50 * MIB))


def test_big_frame_after_a_good_one(broker: Broker) -> None:
    """After one good request a frame may have what socket.request.max.bytes allows; it is not there, so it waits."""
    peer = Peer(broker)
    assert peer.ask("ApiVersions", 0)["error_code"] == 0
    peer.send_raw(struct.pack(">i", 50 * MIB) + b"\0" * 100)
    assert not peer.is_closed_by_peer(timeout_s=0.1)
    peer.close()


@pytest.mark.parametrize(
    ("greeting", "name"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP"),
        (b"POST /topics HTTP/1.1\r\n\r\n", "HTTP"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "HTTP"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200), "TLS"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "SSH"),
    ],
)
def test_other_protocols(peer: Peer, caplog: pytest.LogCaptureFixture, greeting: bytes, name: str) -> None:
    """A peer that speaks something else gets one log line that says what."""
    peer.send_raw(greeting)
    closes_and_logs(peer, caplog, name)


@pytest.mark.parametrize(
    ("key", "version", "words"),
    [(999, 0, ("999",)), (-1, 0, ("-1",)), (4, 0, ("4",)), (3, 99, ("v99",)), (0, 2, ("v2",)), (1, 3, ("v3",))],
)
def test_unknown_api_or_version(
    peer: Peer, caplog: pytest.LogCaptureFixture, key: int, version: int, words: tuple[str, ...]
) -> None:
    """Kafka closes the connection, so does logd, and says why."""
    peer.send_frame(struct.pack(">hhih", key, version, 1, 1) + b"x" + bytes(10))
    closes_and_logs(peer, caplog, *words)


def test_too_new_api_versions(peer: Peer) -> None:
    """It is answered in version 0, with the range that is served, and the connection goes on."""
    peer.send_frame(struct.pack(">hhih", 18, 77, 5, 1) + b"x\0\1\1\0")
    assert peer.receive_frame() == struct.pack(">ihihhh", 5, 35, 1, 18, 0, 4)
    assert peer.ask("ApiVersions", 3, client_software_name="a", client_software_version="1")["error_code"] == 0


BODIES = {
    "nothing": HEADER,
    "cut count": HEADER + b"\0\0",
    "count over what remains": HEADER + struct.pack(">i", 1000),
    "count of 2^31 - 1": HEADER + struct.pack(">i", 2**31 - 1),
    "count of -2": HEADER + struct.pack(">ib", -2, 0),
    "length of -2": HEADER + struct.pack(">ih", 1, -2),
    "length over what remains": HEADER + struct.pack(">ih", 1, 500),
    "null name": HEADER + struct.pack(">ihb", 1, -1, 0),
    "no UTF-8": HEADER + struct.pack(">ih", 1, 2) + b"\xff\xfe\0",
    "varint of 6 bytes": FLEXIBLE + b"\x80\x80\x80\x80\x80\x01",
    "varint without end": FLEXIBLE + b"\xff",
    "4.29e9 elements": FLEXIBLE + b"\xff\xff\xff\xff\x0f",
    "cut uuid": FLEXIBLE + b"\x02" + bytes(7),
    "doubled tag": FLEXIBLE + ONE_TOPIC + b"\0\0\x02\x63\x00\x63\x00",
    "unsorted tags": FLEXIBLE + ONE_TOPIC + b"\0\0\x02\x63\x00\x62\x00",
    "tag over what remains": FLEXIBLE + ONE_TOPIC + b"\0\0\x01\x63\x7f",
    "4.29e9 tags": FLEXIBLE + ONE_TOPIC + b"\0\0\xff\xff\xff\xff\x0f",
    "client id over what remains": struct.pack(">hhih", 3, 4, 1, 999) + b"x",
    "client id of -2": struct.pack(">hhih", 3, 4, 1, -2),
    "no client id": struct.pack(">hhi", 3, 4, 1),
    "half an api key": b"\0",
}


@pytest.mark.parametrize("name", BODIES)
def test_what_does_not_decode(peer: Peer, caplog: pytest.LogCaptureFixture, name: str) -> None:
    """As Kafka does: no answer, the connection is closed; one line in the log."""
    peer.send_frame(BODIES[name])
    closes_and_logs(peer, caplog, "127.0.0.1")


def test_long_string(peer: Peer, caplog: pytest.LogCaptureFixture) -> None:
    """No string is longer than 32,767 bytes, not in compact form either."""
    rows = [{"partition_index": 0, "committed_offset": 1, "committed_metadata": "y" * 40_000}]
    topics = [{"name": "kept", "partitions": rows}]
    peer.send("OffsetCommit", 9, group_id="g", generation_id_or_member_epoch=-1, topics=topics)
    closes_and_logs(peer, caplog, "40000")


def test_unknown_tags_are_skipped(peer: Peer) -> None:
    """A tagged field of a later Kafka is no mistake."""
    peer.send_frame(FLEXIBLE + ONE_TOPIC + b"\0\0\x01\x63\x03abc")
    assert peer.receive_frame()


def test_requests_before_a_bad_one_are_answered(peer: Peer) -> None:
    """What came whole and right before is answered before the connection is closed."""
    good = SPECS.request("ApiVersions", 0, 7, "x", {})
    bad = BODIES["count over what remains"]
    frames = b"".join(struct.pack(">i", len(frame)) + frame for frame in (good, good, bad))
    peer.send_raw(frames)
    assert [peer.receive_frame()[:4] for _ in range(2)] == [struct.pack(">i", 7)] * 2
    assert peer.is_closed_by_peer()
