"""Members of the consumer protocol as values, and their records: PURE (KIP-848, KIP-1251).

A member has three parts with a record each: what it told of itself (:class:`Member`), what it is to have (a ``Share``)
and what it has (:class:`Current`). :mod:`modern_group` keeps them, :mod:`modern_reconciliation` moves the last towards
the second. Here is only their form, and the way to and from Kafka's records.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import IntEnum

import msgspec

from logd.coordinators.effects import Record
from logd.coordinators.modern_assignors import Share
from logd.wire.schemas.group_records import (
    ClassicMemberMetadata,
    ClassicProtocol,
    ConsumerGroupCurrentMemberAssignmentKey,
    ConsumerGroupCurrentMemberAssignmentValue,
    ConsumerGroupCurrentMemberAssignmentValueTopicPartitions,
    ConsumerGroupMemberMetadataKey,
    ConsumerGroupMemberMetadataValue,
    ConsumerGroupTargetAssignmentMemberKey,
    ConsumerGroupTargetAssignmentMemberValue,
    ConsumerGroupTargetAssignmentMemberValueTopicPartition,
)

JOIN_EPOCH = 0
LEAVE_EPOCH = -1
LEAVE_STATIC_EPOCH = -2

Owned = Mapping[bytes, Mapping[int, int]]
"""topic id -> partition -> member epoch at which it was given."""


class Phase(IntEnum):
    """Where a member stands between what it has and what it is to have; the values are those of its record."""

    STABLE = 0
    UNREVOKED_PARTITIONS = 1
    UNRELEASED_PARTITIONS = 2


class Classic(msgspec.Struct, frozen=True):
    """What a member that still speaks the classic protocol told beside the rest.

    :param protocols: (name, metadata) in order of its preference, at least one.
    """

    session_ms: int
    protocols: tuple[tuple[str, bytes], ...]


class Member(msgspec.Struct, frozen=True):
    """What a member told of itself."""

    instance_id: str | None = None
    rack_id: str | None = None
    client_id: str = ""
    client_host: str = ""
    names: tuple[str, ...] = ()
    regex: str | None = None
    rebalance_timeout_ms: int = -1
    assignor: str | None = None
    classic: Classic | None = None


class Current(msgspec.Struct, frozen=True):
    """What a member has.

    :param epoch: its member epoch; LEAVE_STATIC_EPOCH while a static member is away.
    :param before: the epoch before that one: its answer may have been lost.
    :param revoking: what the member must give up before it may go on.
    """

    epoch: int = 0
    before: int = 0
    phase: Phase = Phase.STABLE
    owned: Owned = {}
    revoking: Owned = {}


def member_record(group_id: str, member_id: str, member: Member | None) -> Record:
    """What a member told of itself; None forgets it."""
    key = ConsumerGroupMemberMetadataKey(group_id, member_id)
    if member is None:
        return Record(key)
    value = ConsumerGroupMemberMetadataValue(
        member.instance_id,
        member.rack_id,
        member.client_id,
        member.client_host,
        list(member.names),
        member.regex,
        member.rebalance_timeout_ms,
        member.assignor,
        _written(member.classic),
    )
    return Record(key, value)


def read_member(value: ConsumerGroupMemberMetadataValue) -> Member:
    return Member(
        value.instance_id,
        value.rack_id,
        value.client_id,
        value.client_host,
        tuple(value.subscribed_topic_names),
        value.subscribed_topic_regex or None,
        value.rebalance_timeout_ms,
        value.server_assignor,
        _read_classic(value.classic_member_metadata),
    )


def _written(classic: Classic | None) -> ClassicMemberMetadata | None:
    if classic is None:
        return None
    return ClassicMemberMetadata(classic.session_ms, [ClassicProtocol(*protocol) for protocol in classic.protocols])


def _read_classic(value: ClassicMemberMetadata | None) -> Classic | None:
    if value is None or not value.supported_protocols:
        return None
    protocols = tuple((protocol.name, protocol.metadata) for protocol in value.supported_protocols)
    return Classic(value.session_timeout_ms, protocols)


def target_record(group_id: str, member_id: str, share: Share | None) -> Record:
    """What a member is to have; None forgets it."""
    key = ConsumerGroupTargetAssignmentMemberKey(group_id, member_id)
    if share is None:
        return Record(key)
    topics = [
        ConsumerGroupTargetAssignmentMemberValueTopicPartition(topic_id, sorted(share[topic_id]))
        for topic_id in sorted(share)
    ]
    return Record(key, ConsumerGroupTargetAssignmentMemberValue(topics))


def read_target(value: ConsumerGroupTargetAssignmentMemberValue) -> Share:
    return {topic.topic_id: frozenset(topic.partitions) for topic in value.topic_partitions}


def current_record(group_id: str, member_id: str, current: Current | None) -> Record:
    """What a member has; None forgets it."""
    key = ConsumerGroupCurrentMemberAssignmentKey(group_id, member_id)
    if current is None:
        return Record(key)
    value = ConsumerGroupCurrentMemberAssignmentValue(
        current.epoch, current.before, int(current.phase), _topics(current.owned), _topics(current.revoking)
    )
    return Record(key, value)


def read_current(value: ConsumerGroupCurrentMemberAssignmentValue) -> Current:
    return Current(
        value.member_epoch,
        value.previous_member_epoch,
        Phase(value.state),
        _owned(value.assigned_partitions, value.member_epoch),
        _owned(value.partitions_pending_revocation, value.member_epoch),
    )


def _topics(owned: Owned) -> list[ConsumerGroupCurrentMemberAssignmentValueTopicPartitions]:
    return [
        ConsumerGroupCurrentMemberAssignmentValueTopicPartitions(
            topic_id, sorted(owned[topic_id]), [owned[topic_id][index] for index in sorted(owned[topic_id])]
        )
        for topic_id in sorted(owned)
    ]


def _owned(topics: Iterable[ConsumerGroupCurrentMemberAssignmentValueTopicPartitions], epoch: int) -> Owned:
    """Kafka before 4.3 wrote no epochs of partitions: then it is the member's."""
    owned: dict[bytes, dict[int, int]] = {}
    for topic in topics:
        epochs = topic.assignment_epochs or [epoch] * len(topic.partitions)
        owned[topic.topic_id] = dict(zip(topic.partitions, epochs, strict=True))
    return owned
