"""The consumers' own messages inside of the classic group protocol: what a member wants, what it gets.

The server carries them unread. Pure; called by ``classic`` and ``groups``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from logd.client.assignors import Subscriber
from logd.client.metadata import TopicPartition
from logd.errors import DecodeError
from logd.wire.codec import decode, encode
from logd.wire.schemas.consumer_protocol import (
    ConsumerProtocolAssignment,
    ConsumerProtocolAssignmentTopicPartition,
    ConsumerProtocolSubscription,
    ConsumerProtocolSubscriptionTopicPartition,
)

VERSION = 3


def subscription_bytes(
    topics: Sequence[str], owned: Iterable[TopicPartition], generation: int, rack: str | None
) -> bytes:
    """What a member says when it joins."""
    held: dict[str, ConsumerProtocolSubscriptionTopicPartition] = {}
    for at in owned:
        held.setdefault(at.topic, ConsumerProtocolSubscriptionTopicPartition(at.topic)).partitions.append(at.partition)
    message = ConsumerProtocolSubscription(sorted(topics), None, list(held.values()), generation, rack)
    return VERSION.to_bytes(2, "big") + encode(message, VERSION)


def subscriber_in(member_id: str, instance: str | None, data: bytes) -> Subscriber:
    """What a member said; one whose words can't be read gets nothing."""
    try:
        said, _ = decode(ConsumerProtocolSubscription, _version(data), data, 2)
    except DecodeError:
        return Subscriber(member_id, frozenset(), instance=instance)
    owned = tuple(TopicPartition(item.topic, index) for item in said.owned_partitions for index in item.partitions)
    generation = said.generation_id
    if generation < 0 and said.user_data is not None and len(said.user_data) == 4:  # as cooperative members said before
        generation = int.from_bytes(said.user_data, "big", signed=True)
    return Subscriber(member_id, frozenset(said.topics), owned, generation, instance)


def assignment_bytes(share: Iterable[TopicPartition]) -> bytes:
    """What the leader gives a member."""
    topics: dict[str, ConsumerProtocolAssignmentTopicPartition] = {}
    for at in share:
        topics.setdefault(at.topic, ConsumerProtocolAssignmentTopicPartition(at.topic)).partitions.append(at.partition)
    return VERSION.to_bytes(2, "big") + encode(ConsumerProtocolAssignment(list(topics.values()), None), VERSION)


def assignment_in(data: bytes) -> tuple[TopicPartition, ...]:
    """The partitions of a member's assignment; none when it is not in the form that consumers use."""
    try:
        said, _ = decode(ConsumerProtocolAssignment, _version(data), data, 2)
    except DecodeError:
        return ()
    return tuple(TopicPartition(item.topic, index) for item in said.assigned_partitions for index in item.partitions)


def _version(data: bytes) -> int:
    if len(data) < 2:
        raise DecodeError("the message has no version")
    return min(max(int.from_bytes(data[:2], "big", signed=True), 0), VERSION)
