"""ListGroups and ConsumerGroupDescribe for groups of the consumer protocol: PURE views. They change nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from logd.cluster.image import Topic
from logd.coordinators.modern_group import ModernGroup
from logd.coordinators.modern_members import Current
from logd.wire.schemas.consumer_group_describe import Assignment, DescribedGroup, Member, TopicPartitions
from logd.wire.schemas.list_groups import ListedGroup, ListGroupsRequest

CONSUMER = "consumer"
"""The name of the group type, and of the protocol type."""

MEMBER_TYPE_CLASSIC, MEMBER_TYPE_CONSUMER = 0, 1
"""In ConsumerGroupDescribe 1: which protocol a member speaks."""


def list_groups(groups: Iterable[ModernGroup], request: ListGroupsRequest) -> list[ListedGroup]:
    """The groups whose state and type the filters name; an empty filter names all (KIP-518, KIP-848)."""
    states = {state.strip().lower() for state in request.states_filter}
    types = {kind.strip().lower() for kind in request.types_filter}
    if types and CONSUMER not in types:
        return []
    return [
        ListedGroup(group.group_id, CONSUMER, group.phase.value, CONSUMER)
        for group in groups
        if not states or group.phase.value.lower() in states
    ]


def describe(group: ModernGroup, assignor: str, topics: Mapping[bytes, Topic]) -> DescribedGroup:
    """All of one group; topics that are gone have no name and are left out."""
    return DescribedGroup(
        group_id=group.group_id,
        group_state=group.phase.value,
        group_epoch=group.epoch,
        assignment_epoch=group.target_epoch,
        assignor_name=assignor,
        members=[_member(group, member_id, topics) for member_id in group.members],
    )


def _member(group: ModernGroup, member_id: str, topics: Mapping[bytes, Topic]) -> Member:
    member, current = group.members[member_id], group.has(member_id)
    return Member(
        member_id=member_id,
        instance_id=member.instance_id,
        rack_id=member.rack_id,
        member_epoch=current.epoch,
        client_id=member.client_id,
        client_host=member.client_host,
        subscribed_topic_names=list(member.names),
        subscribed_topic_regex=member.regex or "",
        assignment=_assignment(_held(current), topics),
        target_assignment=_assignment(group.target.get(member_id, {}), topics),
        member_type=MEMBER_TYPE_CONSUMER if member.classic is None else MEMBER_TYPE_CLASSIC,
    )


def _held(current: Current) -> dict[bytes, set[int]]:
    """What a member has, what it still has to give up included."""
    held: dict[bytes, set[int]] = {}
    for owned in (current.owned, current.revoking):
        for topic_id, indexes in owned.items():
            held.setdefault(topic_id, set()).update(indexes)
    return held


def _assignment(shares: Mapping[bytes, Iterable[int]], topics: Mapping[bytes, Topic]) -> Assignment:
    return Assignment(
        [
            TopicPartitions(topic_id, topics[topic_id].name, sorted(shares[topic_id]))
            for topic_id in sorted(shares)
            if topic_id in topics
        ]
    )
