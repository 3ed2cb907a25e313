"""Classic members of a group that has moved to the consumer protocol: PURE (KIP-848, online migration).

They go on to speak JoinGroup, SyncGroup, Heartbeat and LeaveGroup; their generation is their member epoch. A JoinGroup
does for them what a heartbeat does for the others, and never waits: it is answered with the step that can be taken now,
and the next heartbeat says when to join again for more. Called by :mod:`machine` for groups that
:mod:`modern_groups` has.
"""

from __future__ import annotations

from collections.abc import Iterator

from logd.coordinators.effects import Append, Arm, Disarm, Effect, Reply
from logd.coordinators.events import Asked, RejoinExpired
from logd.coordinators.group import CONSUMER
from logd.coordinators.joining import ID_FIRST_VERSION, new_member_id, protocols_of, timeouts_of
from logd.coordinators.migration import assignment_bytes, read_subscription
from logd.coordinators.modern_fencing import check_instance
from logd.coordinators.modern_group import Draft, ModernGroup
from logd.coordinators.modern_groups import (
    GiveBack,
    ModernGroups,
    ModernLimits,
    member_note,
    only_classic,
    rejoin_key,
    sync_key,
)
from logd.coordinators.modern_joining import check_room, enter, put_wishes
from logd.coordinators.modern_members import JOIN_EPOCH, Classic, Member, Phase
from logd.coordinators.modern_reconciliation import Reported, reconcile
from logd.coordinators.rebalance import not_joined
from logd.errors import ErrorCode, Refused
from logd.wire.schemas.consumer_group_heartbeat import ConsumerGroupHeartbeatRequest
from logd.wire.schemas.consumer_protocol import ConsumerProtocolSubscription
from logd.wire.schemas.heartbeat import HeartbeatRequest, HeartbeatResponse
from logd.wire.schemas.join_group import JoinGroupRequest, JoinGroupResponse
from logd.wire.schemas.leave_group import LeaveGroupRequest, LeaveGroupResponse, MemberIdentity, MemberResponse
from logd.wire.schemas.sync_group import SyncGroupRequest, SyncGroupResponse


class ClassicMembers:
    """What classic members ask of the groups of `modern`."""

    def __init__(self, modern: ModernGroups) -> None:
        self.modern = modern

    # JoinGroup

    def join(self, group: ModernGroup, event: Asked, now_ms: int, give_back: GiveBack | None) -> Iterator[Effect]:
        """Come, or come again for the next step.

        :param give_back: used when this member takes the place of the last one that is not classic.
        :raises Refused: GROUP_MAX_SIZE_REACHED, INCONSISTENT_GROUP_PROTOCOL, UNKNOWN_MEMBER_ID, FENCED_INSTANCE_ID.
        """
        request = event.request
        assert isinstance(request, JoinGroupRequest)
        member_id, instance_id = request.member_id, request.group_instance_id
        comes = ConsumerGroupHeartbeatRequest(group.group_id, member_id, JOIN_EPOCH, instance_id)
        _check_policy(group, self.modern.limits)
        check_room(group, comes, self.modern.limits.size_max)
        _check_protocols(group, request)
        if not member_id and instance_id is None and event.version >= ID_FIRST_VERSION:
            yield Reply(event.to, not_joined(ErrorCode.MEMBER_ID_REQUIRED, new_member_id(request, event)))
            return
        if member_id and instance_id is not None:
            check_instance(group, member_id, instance_id)
        yield from self._step(Draft(group), comes, event, now_ms, give_back)

    def _step(
        self,
        draft: Draft,
        comes: ConsumerGroupHeartbeatRequest,
        event: Asked,
        now_ms: int,
        give_back: GiveBack | None,
    ) -> Iterator[Effect]:
        request = event.request
        assert isinstance(request, JoinGroupRequest)
        member_id = request.member_id or new_member_id(request, event)
        group_id, epoch, new = draft.group.group_id, draft.group.epoch, member_id not in draft.group.members
        subscription = read_subscription(request.protocols[0].metadata)
        reported = self._reported(subscription)
        mixed = any(member.classic is None for member in draft.group.members.values())
        replaced = self.modern.unwatch_replaced(draft.group, member_id, request.group_instance_id)
        enter(draft, comes, member_id, reported, classic=True)
        old = draft.group.members.get(member_id, Member())
        member = _updated(old, event, request, subscription)
        changed = put_wishes(draft, member_id, old, member, self.modern.topics, now_ms)
        self.modern.renew_epoch(draft, changed, now_ms)
        self.modern.renew_target(draft, now_ms)
        current = self.modern.step(draft, member_id, reported, changed)
        if new:
            yield member_note(draft.group, member_id, "member-joined", "joined, as a classic member")
        if draft.group.epoch != epoch:
            yield self.modern.raised(draft.group, member_id, changed)
        yield from replaced
        if give_back is not None and mixed and only_classic(draft.group):
            yield from give_back(draft.group, now_ms)
        else:
            if draft.records:
                yield Append(tuple(draft.records))
            yield self.modern.heard_of(draft.group, member_id)
            yield Arm(sync_key(group_id, member_id), member.rebalance_timeout_ms, RejoinExpired(group_id, member_id))
        protocol = request.protocols[0].name
        yield Reply(event.to, JoinGroupResponse(0, 0, current.epoch, CONSUMER, protocol, "", False, member_id))

    def _reported(self, subscription: ConsumerProtocolSubscription) -> Reported:
        """What a joining member still has: nothing when it gives all up before it joins (eager)."""
        owned: dict[bytes, frozenset[int]] = {}
        for topic in subscription.owned_partitions:
            known = self.modern.topics.by_name.get(topic.topic)
            if known is not None:
                owned[known.id] = owned.get(known.id, frozenset()) | frozenset(topic.partitions)
        return owned

    # SyncGroup

    def sync(self, group: ModernGroup, event: Asked) -> Iterator[Effect]:
        """What the member may read now.

        :raises Refused: UNKNOWN_MEMBER_ID, FENCED_INSTANCE_ID, ILLEGAL_GENERATION, INCONSISTENT_GROUP_PROTOCOL,
            REBALANCE_IN_PROGRESS.
        """
        request = event.request
        assert isinstance(request, SyncGroupRequest)
        member_id = request.member_id
        classic = _find(group, member_id, request.group_instance_id, request.generation_id)
        name, metadata = classic.protocols[0]
        for said, held in ((request.protocol_type, CONSUMER), (request.protocol_name, name)):
            if said is not None and said != held:
                raise Refused(
                    ErrorCode.INCONSISTENT_GROUP_PROTOCOL,
                    f"the member's protocol is {held!r} and not {said!r}: use what JoinGroup answered",
                )
        current = group.has(member_id)
        if group.epoch > current.epoch and current.phase is not Phase.UNREVOKED_PARTITIONS:
            yield from self._await_rejoin(group, member_id)
            yield Reply(event.to, _again(group))
            return
        yield Disarm(sync_key(group.group_id, member_id))
        yield self.modern.heard_of(group, member_id)
        assignment = assignment_bytes(current.owned, metadata, self.modern.topics.by_id)
        yield Reply(
            event.to,
            SyncGroupResponse(
                protocol_type=request.protocol_type, protocol_name=request.protocol_name, assignment=assignment
            ),
        )

    # Heartbeat

    def heartbeat(self, group: ModernGroup, event: Asked) -> Iterator[Effect]:
        """The member lives; it hears whether to join again.

        :raises Refused: UNKNOWN_MEMBER_ID, FENCED_INSTANCE_ID, ILLEGAL_GENERATION.
        """
        request = event.request
        assert isinstance(request, HeartbeatRequest)
        member_id = request.member_id
        _find(group, member_id, request.group_instance_id, request.generation_id)
        yield self.modern.heard_of(group, member_id)
        if not self._must_rejoin(group, member_id):
            yield Reply(event.to, HeartbeatResponse())
            return
        yield from self._await_rejoin(group, member_id)
        yield Reply(event.to, HeartbeatResponse(error_code=int(ErrorCode.REBALANCE_IN_PROGRESS)))

    def _must_rejoin(self, group: ModernGroup, member_id: str) -> bool:
        """The epoch went on, or it has something to give up, or what it waited for is free."""
        current = group.has(member_id)
        if current.epoch < group.epoch or current.phase is Phase.UNREVOKED_PARTITIONS:
            return True
        if current.phase is Phase.UNRELEASED_PARTITIONS:
            return reconcile(group, member_id, None).phase is Phase.STABLE
        return False

    def _await_rejoin(self, group: ModernGroup, member_id: str) -> Iterator[Effect]:
        """Watch a member that was told to join again, from the first time on that it was told."""
        group_id = group.group_id
        if (group_id, member_id) in self.modern.awaited:
            return
        self.modern.awaited.add((group_id, member_id))
        timeout_ms = group.members[member_id].rebalance_timeout_ms
        yield Arm(rejoin_key(group_id, member_id), timeout_ms, RejoinExpired(group_id, member_id))

    # LeaveGroup

    def leave(self, group: ModernGroup, event: Asked, now_ms: int) -> Iterator[Effect]:
        """Take members out, each with an answer of its own: those of the consumer protocol too, as an administrator may
        (``Admin.removeMembersFromConsumerGroup`` asks so of groups of both protocols)."""
        request = event.request
        assert isinstance(request, LeaveGroupRequest)
        answers: list[MemberResponse] = []
        gone: list[str] = []
        for identity in request.members:
            code = ErrorCode.NONE
            try:
                member_id = _leaver(group, identity)
                if member_id not in gone:
                    gone.append(member_id)
            except Refused as refused:
                code = refused.code
            answers.append(MemberResponse(identity.member_id, identity.group_instance_id, int(code)))
        for member_id in gone:
            yield member_note(group, member_id, "member-left", "left")
        if gone:
            yield from self.modern.expel(group, gone, now_ms)
        yield Reply(event.to, LeaveGroupResponse(members=answers))

    # Time

    def expire(self, event: RejoinExpired, now_ms: int) -> Iterator[Effect]:
        """A member was to join again, or to ask for its assignment, and did not in its rebalance timeout."""
        group = self.modern.groups.get(event.group_id)
        if group is None or event.member_id not in group.members:
            return
        waited_ms = group.members[event.member_id].rebalance_timeout_ms
        yield member_note(
            group,
            event.member_id,
            "member-evicted",
            f"was put out: it did not join the rebalance within {waited_ms} ms (max.poll.interval.ms): it polls too "
            "seldom, or is stuck",
            after_ms=waited_ms,
        )
        yield from self.modern.expel(group, [event.member_id], now_ms)


def _check_policy(group: ModernGroup, limits: ModernLimits) -> None:
    """:raises Refused: INCONSISTENT_GROUP_PROTOCOL."""
    if not limits.upgrades and not limits.downgrades:
        raise Refused(
            ErrorCode.INCONSISTENT_GROUP_PROTOCOL,
            f"group {group.group_id!r} has members of the consumer protocol and group.consumer.migration.policy is "
            "disabled: set group.protocol=consumer",
        )


def _check_protocols(group: ModernGroup, request: JoinGroupRequest) -> None:
    """:raises Refused: INCONSISTENT_GROUP_PROTOCOL."""
    names = {protocol.name for protocol in request.protocols}
    others = [
        {name for name, _ in member.classic.protocols}
        for member_id, member in group.members.items()
        if member.classic is not None and member_id != request.member_id
    ]
    if request.protocol_type != CONSUMER or not names or (others and not names.intersection(*others)):
        raise Refused(
            ErrorCode.INCONSISTENT_GROUP_PROTOCOL,
            f"group {group.group_id!r} has moved to the consumer protocol: a classic member must be a consumer and "
            "share an assignor with the other classic members",
        )


def _updated(
    old: Member, event: Asked, request: JoinGroupRequest, subscription: ConsumerProtocolSubscription
) -> Member:
    session_ms, rebalance_ms = timeouts_of(request)
    return Member(
        old.instance_id if request.group_instance_id is None else request.group_instance_id,
        subscription.rack_id if subscription.rack_id is not None else old.rack_id,
        event.client_id,
        event.client_host,
        tuple(sorted(set(subscription.topics))),
        None,
        rebalance_ms,
        None,
        Classic(session_ms, protocols_of(request)),
    )


def _find(group: ModernGroup, member_id: str, instance_id: str | None, generation: int) -> Classic:
    """:raises Refused: UNKNOWN_MEMBER_ID, FENCED_INSTANCE_ID, ILLEGAL_GENERATION."""
    if instance_id is not None:
        check_instance(group, member_id, instance_id)
    classic = _classic(group, member_id)
    known = group.has(member_id).epoch
    if generation != known:
        raise Refused(
            ErrorCode.ILLEGAL_GENERATION,
            f"generation {generation} is not the member's epoch {known} in group {group.group_id!r}: join again",
        )
    return classic


def _classic(group: ModernGroup, member_id: str) -> Classic:
    classic = group.find(member_id).classic
    if classic is None:
        raise Refused(
            ErrorCode.UNKNOWN_MEMBER_ID, f"member {member_id!r} does not speak the classic protocol: join again"
        )
    return classic


def _leaver(group: ModernGroup, identity: MemberIdentity) -> str:
    member_id = identity.member_id
    if identity.group_instance_id is not None:
        holder = group.instance(identity.group_instance_id)
        if member_id:
            check_instance(group, member_id, identity.group_instance_id)
        elif holder is None:
            raise Refused(
                ErrorCode.UNKNOWN_MEMBER_ID, f"group.instance.id {identity.group_instance_id!r} is not in the group"
            )
        else:
            member_id = holder
    group.find(member_id)
    return member_id


def _again(group: ModernGroup) -> Refused:
    return Refused(ErrorCode.REBALANCE_IN_PROGRESS, f"group {group.group_id!r} is rebalancing: join again")
