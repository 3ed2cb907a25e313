"""Where groups stand: PURE. For each partition what is committed and who has it, of groups of both protocols.

The coordinator's half of GroupLag (key 30001); how far the logs go beyond, and of what time the next record is, the
API adds. Called by :mod:`machine`; it only looks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress

import msgspec

from logd.cluster.image import Topic
from logd.coordinators.group import Group, Phase
from logd.coordinators.migration import places_in, read_assignment
from logd.coordinators.modern_group import ModernGroup
from logd.coordinators.offsets import Offsets
from logd.errors import DecodeError
from logd.wire.schemas.group_lag import LaggingGroup, LaggingPartition, LaggingTopic

Place = tuple[str, int]
"""(topic, partition)."""


class Holder(msgspec.Struct, frozen=True):
    """The member that has a partition."""

    member_id: str
    instance_id: str | None
    client_id: str
    client_host: str


def classic_positions(group: Group, offsets: Offsets) -> LaggingGroup:
    return LaggingGroup(
        group.group_id,
        group_type="classic",
        state=group.phase.value,
        member_count=len(group.members),
        topics=_topics(group.group_id, offsets, dict(_classic_holders(group))),
    )


def modern_positions(group: ModernGroup, offsets: Offsets, topics: Mapping[bytes, Topic]) -> LaggingGroup:
    return LaggingGroup(
        group.group_id,
        group_type="consumer",
        state=group.phase.value,
        member_count=len(group.members),
        topics=_topics(group.group_id, offsets, dict(_modern_holders(group, topics))),
    )


def assigned_to(assignment: bytes) -> Iterator[Place]:
    """The partitions that an assignment of the classic consumer protocol names; none when it can't be read."""
    with suppress(DecodeError):
        yield from places_in(read_assignment(assignment))


def _classic_holders(group: Group) -> Iterator[tuple[Place, Holder]]:
    if not group.is_consumer() or group.phase is not Phase.STABLE:
        return
    for member in group.members.values():
        holder = Holder(member.member_id, member.instance_id, member.client_id, member.client_host)
        for place in assigned_to(member.assignment):
            yield place, holder


def _modern_holders(group: ModernGroup, topics: Mapping[bytes, Topic]) -> Iterator[tuple[Place, Holder]]:
    for (topic_id, index), member_id in group.holders.items():
        topic, member = topics.get(topic_id), group.members.get(member_id)
        if topic is not None and member is not None:
            yield (topic.name, index), Holder(member_id, member.instance_id, member.client_id, member.client_host)


def _topics(group_id: str, offsets: Offsets, holders: dict[Place, Holder]) -> list[LaggingTopic]:
    rows: dict[str, dict[int, LaggingPartition]] = {}
    for topic, partitions in offsets.groups.get(group_id, {}).items():
        for index, held in partitions.items():
            row = LaggingPartition(index, committed_offset=held.offset, committed_ms=held.committed_ms)
            rows.setdefault(topic, {})[index] = row
    for (topic, index), holder in holders.items():
        row = rows.setdefault(topic, {}).setdefault(index, LaggingPartition(index))
        row.member_id, row.instance_id = holder.member_id, holder.instance_id
        row.client_id, row.client_host = holder.client_id, holder.client_host
    return [LaggingTopic(topic, [rows[topic][index] for index in sorted(rows[topic])]) for topic in sorted(rows)]
