"""Bytes that Kafka's own classes wrote, for what the oracles do not cover: the records of its group coordinator."""

from __future__ import annotations

import struct
from typing import Any

import pytest

from logd.wire.codec import decode_exact, encode
from logd.wire.schemas.group_records import (
    ClassicMemberMetadata,
    ClassicProtocol,
    ConsumerGroupCurrentMemberAssignmentValue,
    ConsumerGroupCurrentMemberAssignmentValueTopicPartitions,
    ConsumerGroupMemberMetadataValue,
    StreamsGroupMetadataValue,
)

GOLDEN = [
    ("010101010101ffffffff0100", ConsumerGroupMemberMetadataValue()),
    ("010101010101ffffffff0101000100", ConsumerGroupMemberMetadataValue(classic_member_metadata=None)),
    (
        "0269010263026803026102620100000007010100110100000009020672616e67650301020000",
        ConsumerGroupMemberMetadataValue(
            instance_id="i",
            client_id="c",
            client_host="h",
            subscribed_topic_names=["a", "b"],
            rebalance_timeout_ms=7,
            classic_member_metadata=ClassicMemberMetadata(9, [ClassicProtocol("range", b"\1\2")]),
        ),
    ),
    (
        "00000001000000000002000000000000000100000000000000020300000001000000020100090300000003000000040100",
        ConsumerGroupCurrentMemberAssignmentValue(
            member_epoch=1,
            assigned_partitions=[
                ConsumerGroupCurrentMemberAssignmentValueTopicPartitions(struct.pack(">qq", 1, 2), [1, 2], [3, 4])
            ],
        ),
    ),
    ("00000000000000000000000000", StreamsGroupMetadataValue()),
    ("00000000000000000000000001010100", StreamsGroupMetadataValue(last_assignment_configs=None)),
]


@pytest.mark.parametrize(("golden", "message"), GOLDEN)
def test_group_records_are_kafkas(golden: str, message: Any) -> None:
    """Nulls in tagged fields and defaults are written, and read, as Kafka's coordinator does."""
    assert encode(message, 0).hex() == golden
    assert decode_exact(type(message), 0, bytes.fromhex(golden)) == message
