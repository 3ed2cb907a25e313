"""The machine of one shard of `__consumer_offsets`: classic groups and committed offsets. PURE.

Turns events into effects (:meth:`GroupMachine.handle`) and records into hard state (:meth:`GroupMachine.replay`).
Hard state is what the log says: the last GroupMetadata value of each group, and its offsets. The live groups, with
who waits for what, are soft: they may change while an event is handled, are built from the hard state after loading,
and are thrown back to it when an append is refused. Called by :mod:`runtime` alone; it never waits, writes or reads a
clock. Events are looked up by class, so that a second kind of group can stand beside the classic one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import msgspec

from logd.coordinators import joining, listing, membership, rebalance
from logd.coordinators.effects import Append, Arm, Disarm, Effect, Record, Reply, one_batch
from logd.coordinators.events import (
    Asked,
    JoinDelayElapsed,
    JoinExpired,
    OffsetsAsked,
    PendingAsked,
    SessionExpired,
    SweepElapsed,
    SyncExpired,
    TopicsDeleted,
    TopicsFound,
)
from logd.coordinators.expiry import sweep
from logd.coordinators.group import Group, Phase
from logd.coordinators.offsets import Committed, Offsets, Producer
from logd.coordinators.rebalance import GroupLimits
from logd.coordinators.records import GROUP_METADATA_VALUE_VERSION
from logd.errors import ErrorCode, Refused
from logd.wire.message import ZERO_UUID
from logd.wire.schemas.delete_groups import DeletableGroupResult, DeleteGroupsRequest, DeleteGroupsResponse
from logd.wire.schemas.describe_groups import DescribeGroupsRequest
from logd.wire.schemas.group_records import GroupMetadataKey, GroupMetadataValue, OffsetCommitKey, OffsetCommitValue
from logd.wire.schemas.heartbeat import HeartbeatRequest
from logd.wire.schemas.join_group import JoinGroupRequest
from logd.wire.schemas.leave_group import LeaveGroupRequest
from logd.wire.schemas.list_groups import ListGroupsRequest
from logd.wire.schemas.offset_commit import OffsetCommitRequest
from logd.wire.schemas.offset_delete import OffsetDeleteRequest
from logd.wire.schemas.sync_group import SyncGroupRequest

GROUP_NOT_FOUND_ON_COMMIT_VERSION = 9
SWEEP_KEY = ("sweep",)
SOON_MS = 100
"""When to go on with what did not fit one batch."""
AGAIN_MS = 1_000
"""When to see whether what had to go is gone: the log may have been full."""


class GroupMachine:
    """Classic groups and offsets of one shard. `stored` and `offsets` are hard state, `groups` is soft.

    A group that only ever committed offsets has no record of its own: it is in `stored` as None ("simple group").
    """

    def __init__(self, limits: GroupLimits) -> None:
        self.limits = limits
        self.stored: dict[str, GroupMetadataValue | None] = {}
        self.offsets = Offsets()
        self.groups: dict[str, Group] = {}

    # Events

    def handle(self, event: Any, now_ms: int) -> list[Effect]:
        """What `event` asks for. A request that can't be served gets a ``Reply`` with the refusal."""
        handler = _REQUESTS[type(event.request)] if type(event) is Asked else _EVENTS[type(event)]
        try:
            return list(handler(self, event, now_ms))
        except Refused as refused:
            return [Reply(event.to, refused)]

    def loaded(self, now_ms: int) -> list[Effect]:
        """All records are in: serve from here. Every member gets its full session."""
        effects: list[Effect] = [Arm(SWEEP_KEY, self.limits.sweep_every_ms, SweepElapsed(), steady=True)]
        for group_id in self.stored:
            group = self.groups[group_id] = self._restore(group_id, now_ms)
            effects += [rebalance.heard_of(group, member) for member in group.members.values()]
            if len(group.members) > self.limits.size_max:
                effects += rebalance.prepare(group, self.limits, now_ms)
        return effects

    def unloaded(self) -> list[Effect]:
        """Another node leads the shard now: whoever waits shall look for it."""
        moved = Refused(
            ErrorCode.NOT_COORDINATOR, "another node coordinates this group now: find the coordinator again"
        )
        effects: list[Effect] = []
        for group in self.groups.values():
            effects += _dismiss(group, moved)
        self.groups = {}
        return effects

    def refused(self, records: Iterable[Record], why: Refused, now_ms: int) -> list[Effect]:
        """These records were not written: the groups that they were about go back to what is."""
        effects: list[Effect] = []
        told = {group_id for record in records if (group_id := _retold(record)) is not None}
        for group_id in sorted(told):
            group = self.groups.get(group_id)
            if group is not None:
                effects += _dismiss(group, why)
                effects += self._forget(group)
            if group_id in self.stored:
                group = self.groups[group_id] = self._restore(group_id, now_ms)
                effects += [rebalance.heard_of(group, member) for member in group.members.values()]
        for record in records:
            if isinstance(record.key, OffsetCommitKey):
                self._forget_unwritten(record.key.group)
        return effects

    def keep(self, group_ids: Iterable[str], now_ms: int) -> None:
        """Those of them that have nothing but offsets stay, since they did not change over after all."""
        for group_id in group_ids:
            if group_id not in self.groups and self.stored.get(group_id, group_id) is None:
                self.groups[group_id] = Group(group_id, now_ms)

    def _forget_unwritten(self, group_id: str) -> None:
        """A group that was to begin with a commit, which then was not written."""
        group = self.groups.get(group_id)
        if group is not None and group_id not in self.stored and group.phase is Phase.EMPTY and not group.pending:
            del self.groups[group_id]

    # Replay

    def replay(self, offset: int, producer: Producer | None, record: Record) -> None:
        """Take one written record into the hard state."""
        key, value = record.key, record.value
        if isinstance(key, OffsetCommitKey):
            assert value is None or isinstance(value, OffsetCommitValue)
            if value is not None:
                self.stored.setdefault(key.group, None)
            self.offsets.replay(offset, producer, key, value)
        elif isinstance(key, GroupMetadataKey):
            if value is None:
                self.stored.pop(key.group, None)
            else:
                assert isinstance(value, GroupMetadataValue)
                self.stored[key.group] = value

    def replay_marker(self, producer: Producer, committed: bool) -> None:
        """A transaction that touched this shard ended."""
        self.offsets.replay_marker(producer, committed)

    def _restore(self, group_id: str, now_ms: int) -> Group:
        value = self.stored[group_id]
        return Group(group_id, now_ms) if value is None else Group.restore(group_id, value)

    def check(self) -> None:
        """Assert what must always hold between hard and soft state. For tests."""
        for group_id, group in self.groups.items():
            group.check()
            value = self.stored.get(group_id)
            if group.phase is Phase.STABLE:
                assert value is not None
                assert value.generation == group.generation
                assert [each.member_id for each in value.members] == list(group.members)
        assert set(self.stored) <= set(self.groups), "a stored group that nobody serves"

    # Requests

    def find(self, group_id: str) -> Group:
        """:raises Refused: UNKNOWN_MEMBER_ID: whoever asks for a group that is not there must join first."""
        group = self.groups.get(group_id)
        if group is None:
            raise Refused(ErrorCode.UNKNOWN_MEMBER_ID, f"there is no group {group_id!r}: join first")
        return group

    def _join(self, event: Asked, now_ms: int) -> Iterator[Effect]:
        request = event.request
        assert isinstance(request, JoinGroupRequest)
        group = self.groups.get(request.group_id)
        if group is not None:
            yield from joining.join(group, request, event, self.limits, now_ms)
        elif request.member_id:
            yield Reply(event.to, rebalance.not_joined(ErrorCode.UNKNOWN_MEMBER_ID, request.member_id))
        else:
            group = self.groups[request.group_id] = Group(request.group_id, now_ms)
            effects = list(joining.join(group, request, event, self.limits, now_ms))
            yield from effects
            if not any(isinstance(effect, Append) for effect in effects):
                yield Append((_empty_record(group),))

    def _sync(self, event: Asked, now_ms: int) -> Iterator[Effect]:
        request = event.request
        assert isinstance(request, SyncGroupRequest)
        return membership.sync(self.find(request.group_id), request, event, now_ms)

    def _heartbeat(self, event: Asked, now_ms: int) -> Iterator[Effect]:
        request = event.request
        assert isinstance(request, HeartbeatRequest)
        return membership.heartbeat(self.find(request.group_id), request, event)

    def _leave(self, event: Asked, now_ms: int) -> Iterator[Effect]:
        request = event.request
        assert isinstance(request, LeaveGroupRequest)
        group = self.groups.get(request.group_id)
        if group is None:
            return membership.leave_nothing(request, event)
        return membership.leave(group, request, event, self.limits, now_ms)

    def commit(self, event: Asked, now_ms: int) -> Iterator[Effect]:
        """An OffsetCommit to a group of this protocol, or to one that is not there yet."""
        request = event.request
        assert isinstance(request, OffsetCommitRequest)
        group = self._group_to_commit(request, event.version, now_ms)
        membership.check_commit(group, request)
        member = group.members.get(request.member_id)
        if member is not None:
            yield rebalance.heard_of(group, member)
        response, records = self.offsets.commit(request, self.limits.metadata_bytes_max, now_ms)
        if records:
            yield Append(records)
        yield Reply(event.to, response)

    def _commit_pending(self, event: PendingAsked, now_ms: int) -> Iterator[Effect]:
        request = event.request
        group = self._group_to_commit(request, 0, now_ms)
        membership.check_commit(group, request, pending=True)
        yield from self.keep_pending(event, now_ms)

    def keep_pending(self, event: PendingAsked, now_ms: int) -> Iterator[Effect]:
        """Write offsets that are allowed, and count only when their transaction commits."""
        response, records = self.offsets.commit(event.request, self.limits.metadata_bytes_max, now_ms)
        if records:
            yield Append(records, event.producer)
        yield Reply(event.to, response)

    def _group_to_commit(self, request: OffsetCommitRequest, version: int, now_ms: int) -> Group:
        """The group, made if nobody manages it and the commit does not claim to be of a member."""
        group = self.groups.get(request.group_id)
        if group is not None:
            return group
        if request.generation_id_or_member_epoch >= 0:
            old = version < GROUP_NOT_FOUND_ON_COMMIT_VERSION
            code = ErrorCode.ILLEGAL_GENERATION if old else ErrorCode.GROUP_ID_NOT_FOUND
            raise Refused(code, f"there is no group {request.group_id!r}: join first")
        group = self.groups[request.group_id] = Group(request.group_id, now_ms)
        return group

    def _fetch(self, event: OffsetsAsked, now_ms: int) -> Iterator[Effect]:
        yield Reply(event.to, self.offsets.fetch(event.request, event.require_stable))

    def _delete_offsets(self, event: Asked, now_ms: int) -> Iterator[Effect]:
        request = event.request
        assert isinstance(request, OffsetDeleteRequest)
        group = self.groups.get(request.group_id)
        if group is None:
            raise _not_found(request.group_id)
        if group.phase is not Phase.EMPTY and not group.is_consumer():
            raise _not_empty(group)
        response, records = self.offsets.delete_asked(request, group.subscribes)
        if records:
            yield Append(records)
        yield Reply(event.to, response)

    def _list(self, event: Asked, now_ms: int) -> Iterator[Effect]:
        assert isinstance(event.request, ListGroupsRequest)
        yield Reply(event.to, listing.list_groups(self.groups.values(), event.request))

    def _describe(self, event: Asked, now_ms: int) -> Iterator[Effect]:
        assert isinstance(event.request, DescribeGroupsRequest)
        yield Reply(event.to, listing.describe_groups(self.groups, event.request, event.version))

    def _delete_groups(self, event: Asked, now_ms: int) -> Iterator[Effect]:
        request = event.request
        assert isinstance(request, DeleteGroupsRequest)
        results: list[DeletableGroupResult] = []
        for group_id in request.groups_names:
            code = ErrorCode.NONE
            try:
                yield from self._delete_group(group_id)
            except Refused as refused:
                code = refused.code
            results.append(DeletableGroupResult(group_id, int(code)))
        yield Reply(event.to, DeleteGroupsResponse(results=results))

    def _delete_group(self, group_id: str) -> Iterator[Effect]:
        group = self.groups.get(group_id)
        if group is None:
            raise _not_found(group_id)
        if group.phase is not Phase.EMPTY:
            raise _not_empty(group)
        yield Append((*self.offsets.delete_group(group_id), Record(GroupMetadataKey(group_id))))
        yield from self._forget(group)

    def give_away(self, group: Group) -> Iterator[Effect]:
        """Let an empty group go to another protocol: its offsets stay."""
        if self.stored.get(group.group_id) is not None:
            yield Append((Record(GroupMetadataKey(group.group_id)),))
        yield from self._forget(group)

    def _forget(self, group: Group) -> Iterator[Effect]:
        del self.groups[group.group_id]
        yield from _disarm(group)

    # Time and topics

    def _with_group(self, event: Any, now_ms: int) -> Iterator[Effect]:
        group = self.groups.get(event.group_id)
        if group is None:
            return
        match event:
            case SessionExpired(member_id=member_id):
                yield from rebalance.expire_session(group, member_id, self.limits, now_ms)
            case SyncExpired():
                yield from rebalance.expel_unsynced(group, event, self.limits, now_ms)
            case JoinDelayElapsed():
                yield from rebalance.after_delay(group, event, self.limits, now_ms)
            case JoinExpired():
                if group.phase is Phase.PREPARING:
                    yield from rebalance.complete(group, now_ms)

    def _sweep(self, event: SweepElapsed, now_ms: int) -> Iterator[Effect]:
        found = sweep(self.groups.values(), self.offsets, self.limits, now_ms)
        if found.records:
            yield Append(found.records)
        for group in found.groups:
            yield from self._forget(group)
        yield Arm(SWEEP_KEY, self.limits.sweep_every_ms if found.whole else SOON_MS, event, steady=True)

    def _drop_topics(self, event: TopicsDeleted, now_ms: int) -> Iterator[Effect]:
        yield from self._drop_some(event, lambda topic, held: topic in event.names)

    def _compare_topics(self, event: TopicsFound, now_ms: int) -> Iterator[Effect]:
        def gone(topic: str, topic_id: bytes) -> bool:
            found = event.ids.get(topic)
            return found is None or topic_id not in (ZERO_UUID, found)

        yield from self._drop_some(event, lambda topic, held: gone(topic, held.topic_id))

    def _drop_some(
        self, event: TopicsDeleted | TopicsFound, gone: Callable[[str, Committed], bool]
    ) -> Iterator[Effect]:
        up_to = self.offsets.newest if event.up_to < 0 else event.up_to
        tombstones = self.offsets.delete_where(lambda topic, held: held.written_at <= up_to and gone(topic, held))
        records, whole = one_batch(tombstones, self.limits.sweep_records_max)
        if not records:
            return
        yield Append(records)
        rest = msgspec.structs.replace(event, up_to=up_to)
        # looked at again even if these were all: they may not get written
        yield Arm(("topics", id(rest)), AGAIN_MS if whole else SOON_MS, rest)


def _retold(record: Record) -> str | None:
    """The group whose members a record is about."""
    return record.key.group if isinstance(record.key, GroupMetadataKey) else None


def _empty_record(group: Group) -> Record:
    value = GroupMetadataValue(
        protocol_type="", generation=0, protocol=None, leader=None, current_state_timestamp=group.since_ms
    )
    return Record(GroupMetadataKey(group.group_id), value, GROUP_METADATA_VALUE_VERSION)


def _dismiss(group: Group, why: Refused) -> Iterator[Effect]:
    """Answer every call that waits in the group."""
    for member in group.members.values():
        for call in (group.take_join(member), member.syncing):
            if call is not None:
                yield Reply(call, why)
        member.syncing = None


def _disarm(group: Group) -> Iterator[Effect]:
    yield Disarm(rebalance.join_key(group))
    yield Disarm(rebalance.sync_key(group))
    for member_id in (*group.members, *group.pending):
        yield Disarm(rebalance.session_key(group, member_id))


def _not_found(group_id: str) -> Refused:
    return Refused(ErrorCode.GROUP_ID_NOT_FOUND, f"Group {group_id} not found.")


def _not_empty(group: Group) -> Refused:
    return Refused(
        ErrorCode.NON_EMPTY_GROUP, f"group {group.group_id!r} has {len(group.members)} members: stop them first"
    )


_REQUESTS: dict[type, Callable[[GroupMachine, Any, int], Iterator[Effect]]] = {
    JoinGroupRequest: GroupMachine._join,
    SyncGroupRequest: GroupMachine._sync,
    HeartbeatRequest: GroupMachine._heartbeat,
    LeaveGroupRequest: GroupMachine._leave,
    OffsetCommitRequest: GroupMachine.commit,
    OffsetDeleteRequest: GroupMachine._delete_offsets,
    ListGroupsRequest: GroupMachine._list,
    DescribeGroupsRequest: GroupMachine._describe,
    DeleteGroupsRequest: GroupMachine._delete_groups,
}

_EVENTS: dict[type, Callable[[GroupMachine, Any, int], Iterator[Effect]]] = {
    OffsetsAsked: GroupMachine._fetch,
    PendingAsked: GroupMachine._commit_pending,
    SessionExpired: GroupMachine._with_group,
    JoinExpired: GroupMachine._with_group,
    JoinDelayElapsed: GroupMachine._with_group,
    SyncExpired: GroupMachine._with_group,
    SweepElapsed: GroupMachine._sweep,
    TopicsDeleted: GroupMachine._drop_topics,
    TopicsFound: GroupMachine._compare_topics,
}
