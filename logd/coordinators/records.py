"""Records of `__consumer_offsets` as bytes and back: PURE.

The forms are Apache Kafka's, so that its own tools and brokers can read the topic: a key is an int16 that names the
record's type and a body in version 0; a value is an int16 version and a body. Called by the runtime on the way to
the log and by the loader on the way back. It never decides what a record means.
"""

from __future__ import annotations

import struct

from logd.coordinators.effects import Record
from logd.coordinators.events import PlainOffset
from logd.errors import DecodeError
from logd.wire.codec import decode, encode
from logd.wire.message import Message
from logd.wire.schemas.group_records import (
    ConsumerGroupCurrentMemberAssignmentKey,
    ConsumerGroupCurrentMemberAssignmentValue,
    ConsumerGroupMemberMetadataKey,
    ConsumerGroupMemberMetadataValue,
    ConsumerGroupMetadataKey,
    ConsumerGroupMetadataValue,
    ConsumerGroupPartitionMetadataKey,
    ConsumerGroupPartitionMetadataValue,
    ConsumerGroupRegularExpressionKey,
    ConsumerGroupRegularExpressionValue,
    ConsumerGroupTargetAssignmentMemberKey,
    ConsumerGroupTargetAssignmentMemberValue,
    ConsumerGroupTargetAssignmentMetadataKey,
    ConsumerGroupTargetAssignmentMetadataValue,
    GroupMetadataKey,
    GroupMetadataValue,
    OffsetCommitKey,
    OffsetCommitValue,
)

OFFSET_COMMIT_VALUE_VERSION = 4
OFFSET_COMMIT_VALUE_VERSION_EXPIRING = 1
"""The only version that holds a time of expiry of its own: for OffsetCommit 2-4 with a retention time."""
GROUP_METADATA_VALUE_VERSION = 3

OFFSET_COMMIT_TYPE = 1
GROUP_METADATA_TYPE = 2

_KEY_VERSION = 0
_TYPES: dict[int, tuple[type[Message], type[Message]]] = {
    0: (OffsetCommitKey, OffsetCommitValue),  # written by Kafka before 0.9
    OFFSET_COMMIT_TYPE: (OffsetCommitKey, OffsetCommitValue),
    GROUP_METADATA_TYPE: (GroupMetadataKey, GroupMetadataValue),
    3: (ConsumerGroupMetadataKey, ConsumerGroupMetadataValue),
    4: (ConsumerGroupPartitionMetadataKey, ConsumerGroupPartitionMetadataValue),
    5: (ConsumerGroupMemberMetadataKey, ConsumerGroupMemberMetadataValue),
    6: (ConsumerGroupTargetAssignmentMetadataKey, ConsumerGroupTargetAssignmentMetadataValue),
    7: (ConsumerGroupTargetAssignmentMemberKey, ConsumerGroupTargetAssignmentMemberValue),
    8: (ConsumerGroupCurrentMemberAssignmentKey, ConsumerGroupCurrentMemberAssignmentValue),
    16: (ConsumerGroupRegularExpressionKey, ConsumerGroupRegularExpressionValue),
}
_head_of_name = struct.Struct(">hh").pack  # record type, length of the group's name
_length = struct.Struct(">h").pack
_index = struct.Struct(">i").pack
_head_of_offset = struct.Struct(">hqiB").pack  # version, offset, leader epoch, length of the metadata + 1
_tail_of_offset = struct.Struct(">qBBB16s").pack  # time, one tagged field: tag 0 of 16 bytes, the topic's id
PLAIN_METADATA_BYTES_MAX = 126
"""What :func:`offset_bytes` takes: its length is one byte there."""

_HEAD_OF_KEY: dict[type[Message], bytes] = {key: number.to_bytes(2, "big") for number, (key, _) in _TYPES.items()}


def to_bytes(record: Record) -> tuple[bytes, bytes | None]:
    """The key and value of one record, as the log keeps them."""
    key = encode(record.key, _KEY_VERSION, _HEAD_OF_KEY[type(record.key)])
    if record.value is None:
        return key, None
    version = record.value_version
    return key, encode(record.value, version, version.to_bytes(2, "big"))


def offset_bytes(group_id: str, plain: PlainOffset, now_ms: int) -> tuple[bytes, bytes]:
    """What :func:`to_bytes` gives for an offset committed now that has no time of expiry of its own."""
    group, topic, metadata = group_id.encode(), plain.topic.encode(), plain.metadata.encode()
    key = _head_of_name(OFFSET_COMMIT_TYPE, len(group)) + group + _length(len(topic)) + topic + _index(plain.partition)
    head = _head_of_offset(OFFSET_COMMIT_VALUE_VERSION, plain.offset, plain.leader_epoch, len(metadata) + 1)
    return key, head + metadata + _tail_of_offset(now_ms, 1, 0, 16, plain.topic_id)


def from_bytes(key: bytes, value: bytes | None) -> Record | None:
    """One record read back; None for a type that this version of logd does not know.

    :raises DecodeError: the bytes are not what they claim to be.
    """
    if len(key) < 2:
        raise DecodeError(f"a key of {len(key)} bytes has no record type")
    classes = _TYPES.get(int.from_bytes(key[:2], "big"))
    if classes is None:
        return None
    key_class, value_class = classes
    key_message, _ = decode(key_class, _KEY_VERSION, key, 2)
    if value is None:
        return Record(key_message)
    version = _value_version(value, value_class)
    value_message, _ = decode(value_class, version, value, 2)
    return Record(key_message, value_message, version)


def _value_version(value: bytes, value_class: type[Message]) -> int:
    version = int.from_bytes(value[:2], "big")
    lowest, highest = value_class.VERSIONS
    if len(value) < 2 or not lowest <= version <= highest:
        raise DecodeError(f"a {value_class.__name__} of version {version} is newer than this logd knows ({highest})")
    return version
