"""Records of `__consumer_offsets` have Kafka's bytes."""

from __future__ import annotations

import pytest

from logd.coordinators.effects import Record
from logd.coordinators.records import from_bytes, to_bytes
from logd.errors import DecodeError
from logd.wire.schemas.group_records import (
    GroupMetadataKey,
    GroupMetadataValue,
    MemberMetadata,
    OffsetCommitKey,
    OffsetCommitValue,
)

OFFSET = Record(OffsetCommitKey("g", "t", 3), OffsetCommitValue(5, -1, "m", 1000, -1, bytes(range(16))), 4)
GROUP = Record(
    GroupMetadataKey("g"),
    GroupMetadataValue("consumer", 2, "range", "m1", 7, [MemberMetadata("m1", "i", "c", "/h", 3, 4, b"s", b"a")]),
    3,
)


def test_offset_commit_bytes() -> None:
    """Key: type 1, group, topic, partition. Value: version 4, flexible, the topic id in tag 0."""
    key, value = to_bytes(OFFSET)
    assert key.hex() == "0001" + "000167" + "000174" + "00000003"
    assert value is not None
    assert value.hex() == (
        "0004" + "0000000000000005" + "ffffffff" + "026d" + "00000000000003e8" + "01" + "0010" + bytes(range(16)).hex()
    )


def test_group_metadata_bytes() -> None:
    """Key: type 2, group. Value: version 3, with the state's time and static members."""
    key, value = to_bytes(GROUP)
    assert key.hex() == "0002" + "000167"
    assert value is not None
    assert value.hex() == (
        "0003" + "0008" + b"consumer".hex() + "00000002" + "0005" + b"range".hex() + "00026d31" + "0000000000000007"
        "00000001"
        + "00026d31"
        + "000169"
        + "000163"
        + "00022f68"
        + "00000003"
        + "00000004"
        + "0000000173"
        + "0000000161"
    )


@pytest.mark.parametrize("record", [OFFSET, GROUP, Record(OFFSET.key), Record(GROUP.key)], ids=repr)
def test_round_trip(record: Record) -> None:
    """What is written reads as the same record, tombstones too."""
    assert from_bytes(*to_bytes(record)) == record


def test_older_versions_are_read() -> None:
    """A value of every older version is read, as a log that an old Kafka wrote may hold it."""
    for version in range(5):
        value = OffsetCommitValue(5, metadata="m", commit_timestamp=9)
        read = from_bytes(*to_bytes(Record(OffsetCommitKey("g", "t", 0), value, version)))
        assert read is not None
        assert isinstance(read.value, OffsetCommitValue)
        assert (read.value.offset, read.value.metadata, read.value.commit_timestamp) == (5, "m", 9)


def test_unknown_types_are_passed_over() -> None:
    """A record of a type that this logd does not know is skipped, whatever it holds."""
    assert from_bytes(b"\x00\x63whatever", b"") is None


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (b"", b""),
        (b"\x00", b""),
        (b"\x00\x02\x00\x09x", None),
        (b"\x00\x02\x00\x01g", b""),
        (b"\x00\x02\x00\x01g", b"\x00\x09"),
        (b"\x00\x02\x00\x01g", b"\x00\x03\x00"),
    ],
)
def test_damage_is_a_decode_error(key: bytes, value: bytes | None) -> None:
    """Bytes that are no record raise the one decode error."""
    with pytest.raises(DecodeError):
        from_bytes(key, value)
