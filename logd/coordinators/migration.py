"""Moving a group with members from one protocol to the other and back: PURE conversions (KIP-848).

Upwards when the first member of the consumer protocol comes to a classic group, downwards when the last one is gone.
Members keep what they have: a generation becomes a group epoch and an epoch a generation, so that nobody's commits are
refused on the way. Called by :mod:`machine`, which decides when; this only translates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

from logd.cluster.image import Topic
from logd.coordinators.effects import Effect, Reply
from logd.coordinators.group import CONSUMER, Group, Phase
from logd.coordinators.group import Member as ClassicMember
from logd.coordinators.modern_group import Draft, ModernGroup
from logd.coordinators.modern_members import Classic, Current, Member, Owned
from logd.coordinators.modern_members import Phase as MemberPhase
from logd.coordinators.rebalance import not_joined
from logd.errors import DecodeError, ErrorCode, Refused
from logd.wire.codec import decode, encode
from logd.wire.message import Message
from logd.wire.schemas.consumer_protocol import (
    ConsumerProtocolAssignment,
    ConsumerProtocolAssignmentTopicPartition,
    ConsumerProtocolSubscription,
)
from logd.wire.schemas.sync_group import SyncGroupResponse

EMBEDDED_VERSION_MAX = 3
"""Of subscriptions and of assignments."""

M = TypeVar("M", bound=Message)


def read_subscription(metadata: bytes) -> ConsumerProtocolSubscription:
    """What a classic consumer said when it joined.

    :raises Refused: INCONSISTENT_GROUP_PROTOCOL, when it is no consumer's subscription.
    """
    try:
        return _embedded(ConsumerProtocolSubscription, metadata)
    except DecodeError as error:
        raise Refused(
            ErrorCode.INCONSISTENT_GROUP_PROTOCOL, f"the member's subscription can't be read: {error}"
        ) from error


def read_assignment(assignment: bytes) -> ConsumerProtocolAssignment:
    """:raises DecodeError: it is none of the classic consumer protocol."""
    return _embedded(ConsumerProtocolAssignment, assignment)


def places_in(read: ConsumerProtocolAssignment) -> Iterator[tuple[str, int]]:
    """The partitions of an assignment: (topic, index) of each."""
    for topic in read.assigned_partitions:
        for index in topic.partitions:
            yield topic.topic, index


def _embedded(schema: type[M], data: bytes) -> M:
    """:raises DecodeError: it is no such message of the consumers' own protocol."""
    version = int.from_bytes(data[:2], "big", signed=True)
    if len(data) < 2 or version < 0:
        raise DecodeError("no version")
    return decode(schema, min(version, EMBEDDED_VERSION_MAX), data, 2)[0]


def assignment_bytes(owned: Owned, metadata: bytes, topics: Mapping[bytes, Topic]) -> bytes:
    """What a classic consumer is told to read, in the version that its subscription has."""
    version = max(min(int.from_bytes(metadata[:2], "big", signed=True), EMBEDDED_VERSION_MAX), 0)
    told = [
        ConsumerProtocolAssignmentTopicPartition(topics[topic_id].name, sorted(owned[topic_id]))
        for topic_id in sorted(owned)
        if topic_id in topics
    ]
    return version.to_bytes(2, "big") + encode(ConsumerProtocolAssignment(told), version)


# Upwards


def to_modern(group: Group, topics: Mapping[str, Topic], hash_of: Callable[[ModernGroup], int], now_ms: int) -> Draft:
    """The group of the consumer protocol that a classic one becomes, its members still being classic ones.

    :param hash_of: what the topics of a group are made of.
    :raises Refused: GROUP_ID_NOT_FOUND, when a member's metadata or assignment can't be read, or its assignor gave it
        user data: nobody would give it that again.
    """
    draft = Draft(ModernGroup(group.group_id))
    taken: set[tuple[bytes, int]] = set()
    owned: dict[str, dict[bytes, dict[int, int]]] = {}
    for member in group.members.values():
        draft.put_member(member.member_id, _risen(group, member))
        mine = owned.setdefault(member.member_id, {})
        for name, index in _given(group, member):
            topic = topics.get(name)
            if topic is not None and index < len(topic.partitions) and (topic.id, index) not in taken:
                taken.add((topic.id, index))
                mine.setdefault(topic.id, {})[index] = group.generation
    draft.put_epoch(group.generation, hash_of(draft.group))
    for member_id, mine in owned.items():
        draft.put_target(member_id, {topic_id: frozenset(indexes) for topic_id, indexes in mine.items()})
    draft.put_target_epoch(group.generation, now_ms)
    for member_id, mine in owned.items():
        draft.put_current(member_id, Current(group.generation, group.generation, MemberPhase.STABLE, mine, {}))
    return draft


def _risen(group: Group, member: ClassicMember) -> Member:
    metadata = member.metadata(group.protocol) or (member.protocols[0][1] if member.protocols else b"")
    try:
        subscription = read_subscription(metadata)
    except Refused as refused:
        raise _stays(group, refused.message) from refused
    return Member(
        member.instance_id,
        subscription.rack_id,
        member.client_id,
        member.client_host,
        tuple(sorted(set(subscription.topics))),
        None,
        member.rebalance_timeout_ms,
        None,
        Classic(member.session_timeout_ms, member.protocols),
    )


def _given(group: Group, member: ClassicMember) -> Iterator[tuple[str, int]]:
    if not member.assignment:
        return
    try:
        read = read_assignment(member.assignment)
    except DecodeError as error:
        raise _stays(group, f"the assignment of a member can't be read: {error}") from error
    if read.user_data:
        raise _stays(group, "its assignor gives members data of its own, which would be lost; change to another first")
    yield from places_in(read)


def _stays(group: Group, why: str) -> Refused:
    return Refused(
        ErrorCode.GROUP_ID_NOT_FOUND, f"Cannot upgrade the classic group {group.group_id} to consumer group: {why}"
    )


def dismissed(group: Group) -> Iterator[Effect]:
    """Tell members that wait in the classic group to join again."""
    again = ErrorCode.REBALANCE_IN_PROGRESS
    for member in group.members.values():
        joining, syncing = group.take_join(member), member.syncing
        member.syncing = None
        if joining is not None:
            yield Reply(joining, not_joined(again, member.member_id))
        if syncing is not None:
            yield Reply(syncing, SyncGroupResponse(error_code=int(again)))


# Downwards


def to_classic(group: ModernGroup, topics: Mapping[bytes, Topic], now_ms: int) -> Group:
    """The classic group that one of the consumer protocol becomes: stable, its generation being the group epoch."""
    classic = Group(group.group_id, now_ms)
    classic.phase = Phase.STABLE
    classic.generation = group.epoch
    for member_id, member in group.members.items():
        assert member.classic is not None, "a member of the consumer protocol can't come along"
        metadata = member.classic.protocols[0][1]
        assignment = assignment_bytes(group.has(member_id).owned, metadata, topics)
        timeouts_ms = member.classic.session_ms, member.rebalance_timeout_ms
        client = member.client_id, member.client_host
        protocols = member.classic.protocols
        classic.add(ClassicMember(member_id, member.instance_id, client, timeouts_ms, protocols, assignment), CONSUMER)
    classic.protocol = classic.vote()
    classic.subscribed = classic.read_subscriptions()
    return classic
