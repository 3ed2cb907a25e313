"""Requests that do not parse: where Kafka closes the connection, logd closes it too."""

from __future__ import annotations

import struct

from ..peer import Closed
from ..specs import Message
from ..tale import Tale, case

SAMPLES: tuple[tuple[str, int, Message], ...] = (
    ("Metadata", 4, {"topics": [{"name": "sample"}], "allow_auto_topic_creation": False}),
    ("Metadata", 12, {"topics": [{"name": "sample"}], "allow_auto_topic_creation": False}),
    ("ListOffsets", 6, {"topics": [{"name": "sample", "partitions": [{"partition_index": 0}]}]}),
    ("Heartbeat", 4, {"group_id": "g", "member_id": "m"}),
    ("FindCoordinator", 4, {"coordinator_keys": ["k"]}),
)


def outcome(t: Tale, frame: bytes) -> str:
    """'closed' or 'answered'."""
    connection = t.another()
    connection.send_frame(frame)
    try:
        connection.receive_frame()
    except Closed:
        return "closed"
    finally:
        connection.close()
    return "answered"


@case("cut-short")
def cut_short(t: Tale) -> None:
    """Each sample cut after every byte of its body."""
    for api, version, body in SAMPLES:
        whole = t.specs.request(api, version, 1, "twin", body)
        head = len(t.specs.request_header(t.specs.key(api), version, 1, "twin"))
        t.note(f"{api} v{version}", [outcome(t, whole[:size]) for size in range(head, len(whole) + 1)])


@case("trailing-bytes")
def trailing_bytes(t: Tale) -> None:
    for api, version, body in SAMPLES:
        whole = t.specs.request(api, version, 1, "twin", body)
        t.note(f"{api} v{version}", [outcome(t, whole + extra) for extra in (b"\0", b"\xff", bytes(100))])


@case("bad-headers")
def bad_headers(t: Tale) -> None:
    metadata = t.specs.encode("MetadataRequest", 4, {"topics": []})
    head = struct.pack(">hhi", 3, 4, 1)
    for title, frame in (
        ("no client id length", head),
        ("half of it", head + b"\0"),
        ("client id -2", head + struct.pack(">h", -2) + metadata),
        ("client id longer than the frame", head + struct.pack(">h", 500) + metadata),
        ("client id that is no UTF-8", head + struct.pack(">h", 2) + b"\xff\xfe" + metadata),
        ("null client id", head + struct.pack(">h", -1) + metadata),
        ("api key alone", struct.pack(">h", 3)),
        ("no correlation id", struct.pack(">hh", 3, 4)),
    ):
        t.note(title, outcome(t, frame))


def _metadata_12(topics: bytes, tail: bytes = b"\0\0\0") -> bytes:
    head = struct.pack(">hhi", 3, 12, 1) + struct.pack(">h", 1) + b"x" + b"\0"
    return head + topics + tail


@case("bad-fields")
def bad_fields(t: Tale) -> None:
    """Counts, lengths, tags and text that cannot be, in a Metadata v12."""
    zero_id = bytes(16)
    one = b"\x02" + zero_id
    for title, frame in (
        ("a good one", _metadata_12(one + b"\x02a\0")),
        ("null array", _metadata_12(b"\0")),
        ("more topics than bytes", _metadata_12(b"\xff\x01" + zero_id + b"\x02a\0")),
        ("a count of 2^31", _metadata_12(b"\x80\x80\x80\x80\x08")),
        ("a varint of 6 bytes", _metadata_12(b"\x80\x80\x80\x80\x80\x01")),
        ("name longer than the rest", _metadata_12(one + b"\x7fa\0")),
        ("name that is no UTF-8", _metadata_12(one + b"\x03\xff\xfe\0")),
        ("an unknown tag", _metadata_12(one + b"\x02a\0", b"\0\0\x01\x63\x02ab")),
        ("the same tag twice", _metadata_12(one + b"\x02a\0", b"\0\0\x02\x63\x00\x63\x00")),
        ("tags not sorted", _metadata_12(one + b"\x02a\0", b"\0\0\x02\x63\x00\x62\x00")),
        ("tag longer than the rest", _metadata_12(one + b"\x02a\0", b"\0\0\x01\x63\x7f")),
        ("many tags claimed", _metadata_12(one + b"\x02a\0", b"\0\0\xff\xff\xff\xff\x07")),
        ("boolean of 7", _metadata_12(one + b"\x02a\0", b"\x07\0\0")),
    ):
        t.note(title, outcome(t, frame))


@case("null-where-none-may-be")
def nulls(t: Tale) -> None:
    old = struct.pack(">h", 1) + b"x"
    for title, frame in (
        (
            "group id of Heartbeat v3",
            struct.pack(">hhi", 12, 3, 1) + old + struct.pack(">h", -1) + bytes(4) + b"\0\0\0\0",
        ),
        ("group id of Heartbeat v4", struct.pack(">hhi", 12, 4, 1) + old + b"\0" + b"\0" + bytes(4) + b"\1\1\0"),
        ("topics of ListOffsets v1", struct.pack(">hhi", 2, 1, 1) + old + struct.pack(">ii", -1, -1)),
        ("topics of CreateTopics v2", struct.pack(">hhi", 19, 2, 1) + old + struct.pack(">iib", -1, 1000, 0)),
        ("name of a topic in Metadata v4", struct.pack(">hhi", 3, 4, 1) + old + struct.pack(">ihb", 1, -1, 0)),
        ("array of -2 in Metadata v4", struct.pack(">hhi", 3, 4, 1) + old + struct.pack(">ib", -2, 0)),
    ):
        t.note(title, outcome(t, frame))
