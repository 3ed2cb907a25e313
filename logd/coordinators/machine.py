"""The machine of one shard of `__consumer_offsets`: groups of both protocols, side by side. PURE.

Hands every event to the classic machine or to the modern one, by its kind and by which of them has the group; what
both share, the committed offsets and their sweep, is decided here for modern groups. A group is of one protocol at a
time: an empty one may change over, one with members may not. Called by :mod:`runtime` alone.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from functools import partial
from typing import Any

from logd.chronicle import Note, group_note
from logd.coordinators import (
    findings,
    membership,
    migration,
    modern_groups,
    modern_listing,
    positions,
    rebalance,
    seeking,
)
from logd.coordinators.effects import Append, Arm, AtOnce, Effect, Record, Reply, one_batch
from logd.coordinators.events import (
    Asked,
    OffsetsAsked,
    PendingAsked,
    PlainCommit,
    RejoinExpired,
    SettingsSeen,
    SweepElapsed,
)
from logd.coordinators.group import Group, Phase
from logd.coordinators.groups import SOON_MS, SWEEP_KEY, GroupMachine
from logd.coordinators.modern_classic import ClassicMembers
from logd.coordinators.modern_fencing import (
    EPOCH_IN_COMMIT_VERSION,
    check_commit,
    check_fetch,
    check_pending,
    check_request,
)
from logd.coordinators.modern_group import RECORD_KEYS, ModernGroup
from logd.coordinators.modern_groups import ModernGroups, ModernLimits
from logd.coordinators.offsets import Producer, expired, tombstone
from logd.coordinators.rebalance import GroupLimits
from logd.coordinators.records import PLAIN_METADATA_BYTES_MAX, offset_bytes
from logd.errors import ErrorCode, Refused
from logd.wire.schemas.consumer_group_describe import (
    ConsumerGroupDescribeRequest,
    ConsumerGroupDescribeResponse,
    DescribedGroup,
)
from logd.wire.schemas.consumer_group_heartbeat import ConsumerGroupHeartbeatRequest
from logd.wire.schemas.delete_groups import DeletableGroupResult, DeleteGroupsRequest, DeleteGroupsResponse
from logd.wire.schemas.describe_groups import DescribeGroupsRequest, DescribeGroupsResponse
from logd.wire.schemas.group_lag import GroupLagRequest, GroupLagResponse, LaggingGroup
from logd.wire.schemas.group_records import OffsetCommitKey
from logd.wire.schemas.heartbeat import HeartbeatRequest
from logd.wire.schemas.join_group import JoinGroupRequest
from logd.wire.schemas.leave_group import LeaveGroupRequest
from logd.wire.schemas.list_groups import ListGroupsRequest, ListGroupsResponse
from logd.wire.schemas.offset_commit import OffsetCommitRequest
from logd.wire.schemas.offset_delete import OffsetDeleteRequest
from logd.wire.schemas.seek_group import SeekGroupRequest, SeekGroupResponse
from logd.wire.schemas.sync_group import SyncGroupRequest
from logd.wire.schemas.why import Finding, WhyRequest, WhyResponse

AFTER_SEEK_MS = 10_000
"""So long after a seek that put members out, nobody commits without being a member: they beat and commit more often."""


class ShardMachine:
    """Both machines over one log."""

    def __init__(self, limits: GroupLimits, modern_limits: ModernLimits) -> None:
        self.classic = GroupMachine(limits)
        self.modern = ModernGroups(modern_limits)
        self.members = ClassicMembers(self.modern)
        self._fenced_ms: dict[str, int] = {}
        """Soft: when a seek put members out last, by group."""
        self._sought: dict[str, frozenset[str]] = {}
        """Soft: whom the last seek of a group put out. Should a classic member be the first to come back, the group is
        a classic one, which clients of the consumer protocol take as their end unless they are told to join again."""
        self._see_policy()

    def _see_policy(self) -> None:
        self.modern.give_back = self._give_back if self.modern.limits.downgrades else None

    # The runtime's side

    def handle(self, event: Any, now_ms: int) -> list[Effect]:
        """What `event` asks for. A request that can't be served gets a ``Reply`` with the refusal."""
        kind = type(event.request) if type(event) is Asked else type(event)
        handler = _HANDLERS.get(kind)
        if handler is None:
            effects = self.classic.handle(event, now_ms)
        else:
            try:
                effects = list(handler(self, event, now_ms))
            except Refused as refused:
                effects = [Reply(event.to, refused)]
        for effect in effects:
            if type(effect) is Reply and type(effect.message) is Refused and type(event) is Asked:
                effects.append(refusal_note(event, effect.message))
                break
        return effects

    def replay(self, offset: int, producer: Producer | None, record: Record) -> None:
        """Take one written record into the hard state of its machine."""
        key: Any = record.key
        if type(key) in RECORD_KEYS:
            self.modern.replay(record)
            self._disown(key.group_id)
            return
        self.classic.replay(offset, producer, record)
        if type(key) is OffsetCommitKey:
            self._disown(key.group)

    def _disown(self, group_id: str) -> None:
        """Offsets alone make a classic group only when there is no modern one of that name."""
        if group_id in self.modern.groups and self.classic.stored.get(group_id, group_id) is None:
            del self.classic.stored[group_id]

    def replay_marker(self, producer: Producer, committed: bool) -> None:
        """A transaction that touched this shard ended."""
        self.classic.replay_marker(producer, committed)

    def loaded(self, now_ms: int) -> list[Effect]:
        """All records are in: serve from here."""
        return [*self.classic.loaded(now_ms), *self.modern.loaded()]

    def unloaded(self) -> list[Effect]:
        """Another node leads the shard now. Calls of the modern protocol never wait."""
        return self.classic.unloaded()

    def refused(self, records: Iterable[Record], why: Refused, now_ms: int) -> list[Effect]:
        """These records were not written: soft state goes back to what is."""
        taken = list(records)
        rest = [record for record in taken if type(record.key) not in RECORD_KEYS]
        moved: list[Any] = [record.key for record in taken if type(record.key) in RECORD_KEYS]
        effects = [*self.classic.refused(rest, why, now_ms), *self.modern.refused(taken)]
        self.classic.keep({key.group_id for key in moved}, now_ms)
        return effects

    def check(self) -> None:
        """Assert what must always hold. For tests."""
        self.classic.check()
        assert not set(self.classic.groups) & set(self.modern.groups), "a group of two protocols"
        for group in self.modern.groups.values():
            group.check()

    # Members

    def _heartbeat(self, event: Asked, now_ms: int) -> Iterator[Effect]:
        request = event.request
        assert isinstance(request, ConsumerGroupHeartbeatRequest)
        classic = self.classic.groups.get(request.group_id)
        if classic is None:
            yield from self.modern.heartbeat(event, now_ms)
            return
        effects = list(self._change_over(event, now_ms))
        yield from self.classic.give_away(classic)
        yield from effects

    def _change_over(self, event: Asked, now_ms: int) -> Iterator[Effect]:
        """The classic group goes up with the first member that speaks the consumer protocol (KIP-848)."""
        request = event.request
        assert isinstance(request, ConsumerGroupHeartbeatRequest)
        group, limits = self.classic.groups[request.group_id], self.modern.limits
        check_request(request, event.version, limits.assignors)
        if request.member_epoch == 0 and group.phase is Phase.EMPTY:
            yield from self.modern.heartbeat(event, now_ms)
            return
        fits = limits.upgrades and group.is_consumer() and len(group.members) <= limits.size_max
        if request.member_epoch != 0 and fits and request.member_id in self._sought.get(request.group_id, ()):
            raise Refused(ErrorCode.UNKNOWN_MEMBER_ID, f"the offsets of group {request.group_id!r} moved: join again")
        if request.member_epoch != 0 or not fits:
            raise Refused(ErrorCode.GROUP_ID_NOT_FOUND, f"Group {request.group_id} is not a consumer group.")
        risen = migration.to_modern(group, self.modern.topics.by_name, self.modern.hash_of, now_ms)
        sessions = [self.modern.heard_of(risen.group, member_id) for member_id in group.members]
        effects = list(self.modern.heartbeat(event, now_ms, risen))
        yield from migration.dismissed(group)
        text = f"it moved up to the consumer protocol with its classic members ({len(group.members)})"
        yield group_note(group.group_id, "moved-up", text, members=len(group.members))
        yield from sessions
        yield from effects

    def _give_back(self, left: ModernGroup, now_ms: int) -> Iterator[Effect]:
        """Only classic members are left: the group goes down, and they share the partitions out among themselves."""
        group = yield from self._descend(left, now_ms)
        yield from rebalance.prepare(group, self.classic.limits, now_ms)

    def _keep_going(self, left: ModernGroup, now_ms: int) -> Iterator[Effect]:
        """The same, when a classic member took the last place of another. Where all is shared out already, it stays."""
        shared_out = all(left.has(member_id).epoch == left.epoch for member_id in left.members)
        shared_out = shared_out and all(left.is_reconciled(member_id) for member_id in left.members)
        group = yield from self._descend(left, now_ms)
        if not shared_out:
            yield from rebalance.prepare(group, self.classic.limits, now_ms)

    def _descend(self, left: ModernGroup, now_ms: int) -> Generator[Effect, None, Group]:
        known = self.modern.groups[left.group_id]
        for member_id in known.members:
            yield from self.modern.unwatch(known, member_id)
        group = migration.to_classic(left, self.modern.topics.by_id, now_ms)
        self.classic.groups[group.group_id] = group
        given = {member.member_id: member.assignment for member in group.members.values()}
        yield Append((*self.modern.drop(known), rebalance.group_record(group, given)))
        text = f"it moved down to the classic protocol: only classic members are left ({len(group.members)})"
        yield group_note(group.group_id, "moved-down", text, members=len(group.members))
        for member in group.members.values():
            yield rebalance.heard_of(group, member)
        return group

    def _join(self, event: Asked, now_ms: int) -> Iterator[Effect]:
        request = event.request
        assert isinstance(request, JoinGroupRequest)
        group = self.modern.groups.get(request.group_id)
        if group is not None and group.members:
            give_back = self._keep_going if self.modern.limits.downgrades else None
            yield from self.members.join(group, event, now_ms, give_back)
            return
        effects = self.classic.handle(event, now_ms)
        if group is not None and any(isinstance(effect, Append) for effect in effects):
            yield Append(self.modern.drop(group))
        yield from effects

    def _classic_request(self, event: Asked, now_ms: int) -> Iterator[Effect]:
        """SyncGroup, Heartbeat and LeaveGroup, to a group of either protocol."""
        request: Any = event.request
        group = self.modern.groups.get(request.group_id)
        if group is None:
            return iter(self.classic.handle(event, now_ms))
        if type(request) is SyncGroupRequest:
            return self.members.sync(group, event)
        if type(request) is HeartbeatRequest:
            return self.members.heartbeat(group, event)
        return self.members.leave(group, event, now_ms)

    def _expire_rejoin(self, event: RejoinExpired, now_ms: int) -> Iterator[Effect]:
        return self.members.expire(event, now_ms)

    # Offsets

    def _commit(self, event: Asked, now_ms: int) -> Iterator[Effect]:
        request = event.request
        assert isinstance(request, OffsetCommitRequest)
        self._check_after_seek(request, now_ms)
        group = self.modern.groups.get(request.group_id)
        if group is None:
            return self.classic.commit(event, now_ms)
        return self._commit_modern(group, event, now_ms)

    def at_once(self, event: PlainCommit, now_ms: int) -> AtOnce | None:
        """What a plain commit comes to, if it is allowed and changes offsets alone; else it has to be handled."""
        try:
            self._check_after_seek(event, now_ms)
            effects = self._allowed(event)
        except Refused:
            return None
        limit = self.classic.limits.metadata_bytes_max
        if effects is None or (
            limit < PLAIN_METADATA_BYTES_MAX and any(len(asked.metadata) > limit for asked in event.offsets)
        ):
            return None
        group_id = event.group_id
        records = [offset_bytes(group_id, asked, now_ms) for asked in event.offsets]
        return AtOnce(records, partial(self.classic.offsets.keep, group_id, event.offsets, now_ms), effects)

    def _allowed(self, event: PlainCommit) -> tuple[Effect, ...] | None:
        """What else a commit by this member does; None where one of the two machines has to say more.

        :raises Refused: it may not commit.
        """
        group_id, member_id = event.group_id, event.member_id
        modern = self.modern.groups.get(group_id)
        if modern is not None:
            has_now = event.generation_id_or_member_epoch == modern.has(member_id).epoch
            fits = event.version >= EPOCH_IN_COMMIT_VERSION and member_id in modern.members
            return () if has_now and fits else None
        group = self.classic.groups.get(group_id)
        if group is None or group_id not in self.classic.stored:
            return None
        membership.check_commit(group, event)
        member = group.members.get(member_id)
        return () if member is None else (rebalance.heard_of(group, member),)

    def _commit_modern(self, group: ModernGroup, event: Asked, now_ms: int) -> Iterator[Effect]:
        request = event.request
        assert isinstance(request, OffsetCommitRequest)
        check_commit(group, request, event.version)
        limit = self.classic.limits.metadata_bytes_max
        response, records = self.classic.offsets.commit(request, limit, now_ms)
        if records:
            yield Append(records)
        yield Reply(event.to, response)

    def _check_after_seek(self, request: OffsetCommitRequest | PlainCommit, now_ms: int) -> None:
        """Some clients (aiokafka) forget who they were when they are put out, and commit what they had as nobody.

        :raises Refused: UNKNOWN_MEMBER_ID, so that they join again and do not undo the seek.
        """
        if request.generation_id_or_member_epoch >= 0 or request.member_id:
            return
        if 0 <= now_ms - self._fenced_ms.get(request.group_id, now_ms + 1) < AFTER_SEEK_MS:
            raise Refused(
                ErrorCode.UNKNOWN_MEMBER_ID,
                f"the offsets of group {request.group_id!r} were moved and its members put out less than "
                f"{AFTER_SEEK_MS // 1000} s ago: join it, or move them again by a seek",
            )

    def _commit_pending(self, event: PendingAsked, now_ms: int) -> Iterator[Effect]:
        self._check_after_seek(event.request, now_ms)
        group = self.modern.groups.get(event.request.group_id)
        if group is None:
            yield from self.classic.handle(event, now_ms)
            return
        check_pending(group, event.request)
        yield from self.classic.keep_pending(event, now_ms)

    def _fetch(self, event: OffsetsAsked, now_ms: int) -> Iterator[Effect]:
        group = self.modern.groups.get(event.request.group_id)
        if group is not None:
            check_fetch(group, event.request)
        yield from self.classic.handle(event, now_ms)

    def _delete_offsets(self, event: Asked, now_ms: int) -> Iterator[Effect]:
        request = event.request
        assert isinstance(request, OffsetDeleteRequest)
        group = self.modern.groups.get(request.group_id)
        if group is None:
            yield from self.classic.handle(event, now_ms)
            return
        response, records = self.classic.offsets.delete_asked(request, group.subscribed().__contains__)
        if records:
            yield Append(records)
        yield Reply(event.to, response)

    def _sweep(self, event: SweepElapsed, now_ms: int) -> Iterator[Effect]:
        """The modern groups, then the classic ones; what is more than one batch comes soon after."""
        found = (record for group in tuple(self.modern.groups.values()) for record in self._expired(group, now_ms))
        records, whole = one_batch(found, self.classic.limits.sweep_records_max)
        if records:
            yield Append(records)
        yield from self.classic.handle(event, now_ms)
        if not whole:
            yield Arm(SWEEP_KEY, SOON_MS, event, steady=True)

    def _expired(self, group: ModernGroup, now_ms: int) -> Iterator[Record]:
        """Tombstones for offsets past their time, and for a group of which then nothing is left (KIP-211)."""
        offsets, retention_ms = self.classic.offsets, self.classic.limits.retention_ms
        subscribed = group.subscribed()
        kept = bool(group.members) or offsets.has_open(group.group_id)
        for topic, partitions in offsets.groups.get(group.group_id, {}).items():
            for index, held in partitions.items():
                if topic in subscribed or not expired(held, None, now_ms, retention_ms):
                    kept = True
                elif not offsets.unstable(group.group_id, topic, index):
                    yield tombstone(group.group_id, topic, index)
        if not kept:
            yield from self.modern.drop(group)

    def _seek(self, event: Asked, now_ms: int) -> Iterator[Effect]:
        request = event.request
        assert isinstance(request, SeekGroupRequest)
        modern, classic = self.modern.groups.get(request.group_id), self.classic.groups.get(request.group_id)
        ids = {name: topic.id for name, topic in self.modern.topics.by_name.items()}
        limit = self.classic.limits.metadata_bytes_max
        topics, records = seeking.moves(self.classic.offsets, request, ids, limit, now_ms)
        kind = "consumer" if modern is not None else "classic"
        fenced = len(modern.members if modern is not None else classic.members if classic is not None else ())
        if request.validate_only:
            epoch = modern.epoch if modern is not None else classic.generation if classic is not None else 0
            yield Reply(event.to, SeekGroupResponse(group_type=kind, epoch=epoch, members_fenced=fenced, topics=topics))
            return
        if fenced:
            self._fenced_ms[request.group_id] = now_ms
        if modern is not None:
            self._sought[modern.group_id] = frozenset(modern.members)
            yield Append(records)
            yield seeking.sought(modern.group_id, len(modern.members), records)
            epoch = yield from self._fence_modern(modern, now_ms)
        else:
            classic = self.classic.groups.setdefault(request.group_id, Group(request.group_id, now_ms))
            yield from seeking.fence(classic, records, now_ms)
            epoch = classic.generation
        yield Reply(event.to, SeekGroupResponse(group_type=kind, epoch=epoch, members_fenced=fenced, topics=topics))

    def _fence_modern(self, group: ModernGroup, now_ms: int) -> Generator[Effect, None, int]:
        if not group.members:
            return group.epoch
        yield from self.modern.expel(group, tuple(group.members), now_ms)
        return max(group.epoch, modern_groups.FIRST_EPOCH) + 1

    # Groups

    def _list(self, event: Asked, now_ms: int) -> Iterator[Effect]:
        request = event.request
        assert isinstance(request, ListGroupsRequest)
        for effect in self.classic.handle(event, now_ms):
            assert isinstance(effect, Reply)
            assert isinstance(effect.message, ListGroupsResponse)
            effect.message.groups += modern_listing.list_groups(self.modern.groups.values(), request)
            yield effect

    def _describe(self, event: Asked, now_ms: int) -> Iterator[Effect]:
        request = event.request
        assert isinstance(request, ConsumerGroupDescribeRequest)
        groups = [self._described(group_id) for group_id in request.group_ids]
        yield Reply(event.to, ConsumerGroupDescribeResponse(groups=groups))

    def _described(self, group_id: str) -> DescribedGroup:
        group = self.modern.groups.get(group_id)
        if group is not None:
            return modern_listing.describe(group, self.modern.assignor_of(group), self.modern.topics.by_id)
        why = "is not a consumer group." if group_id in self.classic.groups else "not found."
        return DescribedGroup(int(ErrorCode.GROUP_ID_NOT_FOUND), f"Group {group_id} {why}", group_id)

    def _describe_classic(self, event: Asked, now_ms: int) -> Iterator[Effect]:
        for effect in self.classic.handle(event, now_ms):
            if isinstance(effect, Reply) and isinstance(effect.message, DescribeGroupsResponse):
                for group in effect.message.groups:
                    if group.error_code and group.group_id in self.modern.groups:
                        group.error_message = f"Group {group.group_id} is not a classic group."
            yield effect

    def _positions(self, event: Asked, now_ms: int) -> Iterator[Effect]:
        request = event.request
        assert isinstance(request, GroupLagRequest)
        names = request.group_ids
        wanted = (*self.classic.groups, *self.modern.groups) if names is None else names
        yield Reply(event.to, GroupLagResponse(groups=[self._position(group_id) for group_id in sorted(wanted)]))

    def _position(self, group_id: str) -> LaggingGroup:
        offsets, topics = self.classic.offsets, self.modern.topics.by_id
        if group_id in self.modern.groups:
            return positions.modern_positions(self.modern.groups[group_id], offsets, topics)
        if group_id in self.classic.groups:
            return positions.classic_positions(self.classic.groups[group_id], offsets)
        return LaggingGroup(group_id, int(ErrorCode.GROUP_ID_NOT_FOUND), f"Group {group_id} not found.")

    def _why(self, event: Asked, now_ms: int) -> Iterator[Effect]:
        request = event.request
        assert isinstance(request, WhyRequest)
        modern, classic = self.modern.groups.get(request.subject), self.classic.groups.get(request.subject)
        found: Iterable[Finding] = ()
        if modern is not None:
            found = findings.of_modern(modern, self.modern.topics.by_id)
        elif classic is not None:
            found = findings.of_classic(classic, now_ms)
        repeats = findings.of_repeats(self.classic.offsets, request.subject)
        yield Reply(event.to, WhyResponse(now_ms=now_ms, findings=[*found, *repeats]))

    def _delete_groups(self, event: Asked, now_ms: int) -> Iterator[Effect]:
        request = event.request
        assert isinstance(request, DeleteGroupsRequest)
        modern = [group_id for group_id in request.groups_names if group_id in self.modern.groups]
        results = []
        for group_id in modern:
            group = self.modern.groups[group_id]
            results.append(
                DeletableGroupResult(group_id, int(ErrorCode.NON_EMPTY_GROUP if group.members else ErrorCode.NONE))
            )
            if not group.members:
                yield Append((*self.classic.offsets.delete_group(group_id), *self.modern.drop(group)))
        request.groups_names = [group_id for group_id in request.groups_names if group_id not in modern]
        for effect in self.classic.handle(event, now_ms):
            if isinstance(effect, Reply) and isinstance(effect.message, DeleteGroupsResponse):
                effect.message.results += results
                for deleted in effect.message.results:
                    if deleted.error_code == ErrorCode.NONE:
                        self._fenced_ms.pop(deleted.group_id, None)
                        self._sought.pop(deleted.group_id, None)
            yield effect

    # Time, topics and settings

    def _see_settings(self, event: SettingsSeen, now_ms: int) -> Iterator[Effect]:
        self.classic.limits = event.classic
        yield from self.modern.see_settings(event, now_ms)
        self._see_policy()

    def _modern_event(self, event: Any, now_ms: int) -> Iterator[Effect]:
        return modern_groups.EVENTS[type(event)](self.modern, event, now_ms)


def refusal_note(event: Asked, refused: Refused) -> Note:
    """What was refused to whom, and why."""
    request: Any = event.request
    what = type(request).__name__.removesuffix("Request")
    group_id = getattr(request, "group_id", "")
    member = getattr(request, "member_id", "")
    who = f"of member {member}" if member else "of somebody who is no member"
    text = f"{what} {who} was refused: {refused.code.name}: {refused.message}"
    return group_note(group_id, "refused", text, request=what, member=member, error=refused.code.name)


_HANDLERS: dict[type, Callable[[ShardMachine, Any, int], Iterator[Effect]]] = {
    ConsumerGroupHeartbeatRequest: ShardMachine._heartbeat,
    ConsumerGroupDescribeRequest: ShardMachine._describe,
    JoinGroupRequest: ShardMachine._join,
    SyncGroupRequest: ShardMachine._classic_request,
    HeartbeatRequest: ShardMachine._classic_request,
    LeaveGroupRequest: ShardMachine._classic_request,
    RejoinExpired: ShardMachine._expire_rejoin,
    OffsetCommitRequest: ShardMachine._commit,
    OffsetsAsked: ShardMachine._fetch,
    PendingAsked: ShardMachine._commit_pending,
    OffsetDeleteRequest: ShardMachine._delete_offsets,
    SeekGroupRequest: ShardMachine._seek,
    ListGroupsRequest: ShardMachine._list,
    DescribeGroupsRequest: ShardMachine._describe_classic,
    GroupLagRequest: ShardMachine._positions,
    WhyRequest: ShardMachine._why,
    DeleteGroupsRequest: ShardMachine._delete_groups,
    SweepElapsed: ShardMachine._sweep,
    SettingsSeen: ShardMachine._see_settings,
    **dict.fromkeys(modern_groups.EVENTS, ShardMachine._modern_event),
}
