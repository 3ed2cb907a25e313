"""One group of the consumer protocol: PURE hard state, changed by its records alone (KIP-848).

Owns the group epoch, the members, what they are to have and what they have, and the topics that expressions stand for.
:class:`Draft` is such a group while an event is handled: every record that is to be written is taken into it at once,
so that the next decision sees it, while the real group waits for the replay. Made and read by :mod:`modern_groups` and
its parts; it decides nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from enum import StrEnum
from typing import Any

import msgspec

from logd.coordinators.effects import Record
from logd.coordinators.modern_assignors import Share
from logd.coordinators.modern_members import (
    Current,
    Member,
    Owned,
    Phase,
    current_record,
    member_record,
    read_current,
    read_member,
    read_target,
    target_record,
)
from logd.errors import ErrorCode, Refused
from logd.wire.schemas.group_records import (
    ConsumerGroupCurrentMemberAssignmentKey,
    ConsumerGroupMemberMetadataKey,
    ConsumerGroupMetadataKey,
    ConsumerGroupMetadataValue,
    ConsumerGroupPartitionMetadataKey,
    ConsumerGroupRegularExpressionKey,
    ConsumerGroupRegularExpressionValue,
    ConsumerGroupTargetAssignmentMemberKey,
    ConsumerGroupTargetAssignmentMetadataKey,
    ConsumerGroupTargetAssignmentMetadataValue,
)


class GroupPhase(StrEnum):
    """Where a group stands; the values are what ListGroups and ConsumerGroupDescribe show."""

    EMPTY = "Empty"
    ASSIGNING = "Assigning"
    RECONCILING = "Reconciling"
    STABLE = "Stable"


class Resolved(msgspec.Struct, frozen=True):
    """The topics that an expression stood for when `version` was the cluster's."""

    topics: tuple[str, ...]
    version: int
    since_ms: int


class ModernGroup:
    """All that is known of a group. `epoch` -1: there is no record of the group itself."""

    def __init__(self, group_id: str) -> None:
        self.group_id = group_id
        self.epoch = -1
        self.topics_hash = 0
        self.target_epoch = 0
        self.target_ms = -1
        self.members: dict[str, Member] = {}
        self.instances: dict[str, str] = {}
        """The member that holds each group.instance.id."""
        self.target: dict[str, Share] = {}
        self.current: dict[str, Current] = {}
        self.regexes: dict[str, Resolved] = {}
        self.holders: dict[tuple[bytes, int], str] = {}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ModernGroup) and vars(self) == vars(other)

    __hash__ = None  # type: ignore[assignment]

    def copy(self) -> ModernGroup:
        """Another group that is equal; the values inside never change."""
        twin = ModernGroup(self.group_id)
        twin.epoch, twin.topics_hash = self.epoch, self.topics_hash
        twin.target_epoch, twin.target_ms = self.target_epoch, self.target_ms
        twin.members, twin.instances = dict(self.members), dict(self.instances)
        twin.target, twin.current = dict(self.target), dict(self.current)
        twin.regexes, twin.holders = dict(self.regexes), dict(self.holders)
        return twin

    # Records

    def apply(self, record: Record) -> None:
        """Take one record in. They may come in any order that keeps the last one of each key last."""
        _APPLY[type(record.key)](self, record.key, record.value)

    def is_nothing(self) -> bool:
        """Nothing is left of it."""
        kept = self.members or self.current or self.target or self.regexes or self.target_epoch
        return self.epoch < 0 and not kept

    def _epoch(self, key: ConsumerGroupMetadataKey, value: ConsumerGroupMetadataValue | None) -> None:
        self.epoch, self.topics_hash = (-1, 0) if value is None else (value.epoch, value.metadata_hash)

    def _target_epoch(
        self,
        key: ConsumerGroupTargetAssignmentMetadataKey,
        value: ConsumerGroupTargetAssignmentMetadataValue | None,
    ) -> None:
        self.target_epoch, self.target_ms = (
            (0, -1) if value is None else (value.assignment_epoch, value.assignment_timestamp)
        )

    def _member(self, key: ConsumerGroupMemberMetadataKey, value: Any) -> None:
        member_id = key.member_id
        before = self.members.get(member_id)
        if before is not None and before.instance_id is not None and self.instance(before.instance_id) == member_id:
            del self.instances[before.instance_id]
        if value is None:
            self.members.pop(member_id, None)
            return
        member = self.members[member_id] = read_member(value)
        if member.instance_id is not None:
            self.instances[member.instance_id] = member_id

    def _share(self, key: ConsumerGroupTargetAssignmentMemberKey, value: Any) -> None:
        if value is None:
            self.target.pop(key.member_id, None)
        else:
            self.target[key.member_id] = read_target(value)

    def _current(self, key: ConsumerGroupCurrentMemberAssignmentKey, value: Any) -> None:
        member_id = key.member_id
        for place in _places(self.current.pop(member_id, None)):
            if self.holders.get(place) == member_id:
                del self.holders[place]
        if value is not None:
            current = self.current[member_id] = read_current(value)
            self.holders.update((place, member_id) for place in _places(current))

    def _regex(self, key: ConsumerGroupRegularExpressionKey, value: ConsumerGroupRegularExpressionValue | None) -> None:
        if value is None:
            self.regexes.pop(key.regular_expression, None)
        else:
            resolved = Resolved(tuple(value.topics), value.version, value.timestamp)
            self.regexes[key.regular_expression] = resolved

    def _ignored(self, key: ConsumerGroupPartitionMetadataKey, value: Any) -> None:
        """Kafka 4.0 kept the partitions of topics here; now their hash does."""

    # Views

    def has(self, member_id: str) -> Current:
        """What a member has; nothing at epoch 0 when it is new."""
        return self.current.get(member_id, _NOTHING)

    def find(self, member_id: str) -> Member:
        """:raises Refused: UNKNOWN_MEMBER_ID."""
        member = self.members.get(member_id)
        if member is None:
            raise Refused(
                ErrorCode.UNKNOWN_MEMBER_ID, f"member {member_id!r} is not in group {self.group_id!r}: join again"
            )
        return member

    def instance(self, instance_id: str) -> str | None:
        """The member that holds a group.instance.id."""
        return self.instances.get(instance_id)

    def topics_of(self, member: Member) -> frozenset[str]:
        """Names that a member subscribes to, those that its expression stands for among them."""
        resolved = self.regexes.get(member.regex) if member.regex is not None else None
        return frozenset(member.names) | frozenset(() if resolved is None else resolved.topics)

    def subscribed(self) -> frozenset[str]:
        """Names that any member subscribes to."""
        return frozenset[str]().union(*(self.topics_of(member) for member in self.members.values()))

    def is_reconciled(self, member_id: str) -> bool:
        current = self.has(member_id)
        return current.phase is Phase.STABLE and current.epoch == self.target_epoch

    @property
    def phase(self) -> GroupPhase:
        if not self.members:
            return GroupPhase.EMPTY
        if self.epoch > self.target_epoch:
            return GroupPhase.ASSIGNING
        if all(self.is_reconciled(member_id) for member_id in self.members):
            return GroupPhase.STABLE
        return GroupPhase.RECONCILING

    def assignor(self, preferred: str) -> str:
        """What most members ask for; `preferred` when nobody asks."""
        votes = Counter(member.assignor for member in self.members.values() if member.assignor)
        return max(sorted(votes), key=votes.__getitem__) if votes else preferred

    def check(self) -> None:
        """Assert what must always hold. For tests."""
        held: dict[tuple[bytes, int], str] = {}
        for member_id, current in self.current.items():
            assert member_id in self.members, "something is held by nobody"
            for place in _places(current):
                assert held.setdefault(place, member_id) == member_id, f"{place} has two owners"
        assert held == self.holders
        assert set(self.target) <= set(self.members)
        assert self.target_epoch <= max(self.epoch, 0)
        static = [
            (one.instance_id, member_id) for member_id, one in self.members.items() if one.instance_id is not None
        ]
        assert sorted(static) == sorted(self.instances.items()), "a group.instance.id has two members, or the wrong one"


_NOTHING = Current()


def _places(current: Current | None) -> Iterator[tuple[bytes, int]]:
    owners: tuple[Owned, ...] = () if current is None else (current.owned, current.revoking)
    for owned in owners:
        for topic_id, indexes in owned.items():
            for index in indexes:
                yield topic_id, index


class Draft:
    """A group while an event is handled: `group` as it will be when `records` are written."""

    def __init__(self, group: ModernGroup) -> None:
        self.group = group
        self.records: list[Record] = []

    def write(self, record: Record) -> None:
        if not self.records:
            self.group = self.group.copy()
        self.group.apply(record)
        self.records.append(record)

    def put_member(self, member_id: str, member: Member | None) -> None:
        self.write(member_record(self.group.group_id, member_id, member))

    def put_current(self, member_id: str, current: Current | None) -> None:
        self.write(current_record(self.group.group_id, member_id, current))

    def put_target(self, member_id: str, share: Share | None) -> None:
        self.write(target_record(self.group.group_id, member_id, share))

    def put_epoch(self, epoch: int, topics_hash: int) -> None:
        key = ConsumerGroupMetadataKey(self.group.group_id)
        self.write(Record(key, ConsumerGroupMetadataValue(epoch, topics_hash)))

    def put_target_epoch(self, epoch: int, now_ms: int) -> None:
        key = ConsumerGroupTargetAssignmentMetadataKey(self.group.group_id)
        self.write(Record(key, ConsumerGroupTargetAssignmentMetadataValue(epoch, now_ms)))

    def put_regex(self, regex: str, resolved: Resolved | None) -> None:
        key = ConsumerGroupRegularExpressionKey(self.group.group_id, regex)
        if resolved is None:
            self.write(Record(key))
            return
        topics = list(resolved.topics)
        self.write(Record(key, ConsumerGroupRegularExpressionValue(topics, resolved.version, resolved.since_ms)))

    def drop_member(self, member_id: str) -> None:
        """Forget a member, in the order that leaves no owner without a member."""
        if member_id in self.group.current:
            self.put_current(member_id, None)
        if member_id in self.group.target:
            self.put_target(member_id, None)
        self.put_member(member_id, None)

    def drop_group(self) -> None:
        """Forget all of the group."""
        group_id = self.group.group_id
        for member_id in tuple(self.group.members):
            self.drop_member(member_id)
        self.write(Record(ConsumerGroupTargetAssignmentMetadataKey(group_id)))
        for regex in tuple(self.group.regexes):
            self.put_regex(regex, None)
        self.write(Record(ConsumerGroupMetadataKey(group_id)))


_APPLY: dict[type, Callable[[ModernGroup, Any, Any], None]] = {
    ConsumerGroupMetadataKey: ModernGroup._epoch,
    ConsumerGroupPartitionMetadataKey: ModernGroup._ignored,
    ConsumerGroupMemberMetadataKey: ModernGroup._member,
    ConsumerGroupTargetAssignmentMetadataKey: ModernGroup._target_epoch,
    ConsumerGroupTargetAssignmentMemberKey: ModernGroup._share,
    ConsumerGroupCurrentMemberAssignmentKey: ModernGroup._current,
    ConsumerGroupRegularExpressionKey: ModernGroup._regex,
}
RECORD_KEYS = frozenset(_APPLY)
