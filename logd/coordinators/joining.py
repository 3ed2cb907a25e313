"""JoinGroup: PURE. Who may join a classic group, under which id, and what that sets off.

Called by :mod:`groups` with the group (made before if it was missing). Follows KIP-394 (a new member gets its id
first and joins with it), KIP-345 (static members), KIP-814 (a static leader that came back need not assign again).
"""

from __future__ import annotations

from collections.abc import Generator, Iterator

from logd.coordinators.effects import Append, Arm, Disarm, Effect, Reply
from logd.coordinators.events import Asked, SessionExpired
from logd.coordinators.group import Group, Member, Phase, Protocols
from logd.coordinators.rebalance import (
    NEW_MEMBER_JOIN_TIMEOUT_MS,
    GroupLimits,
    complete_if_ready,
    group_record,
    heard_of,
    joined,
    member_note,
    not_joined,
    prepare,
    rebalance_or_complete,
    session_key,
)
from logd.errors import ErrorCode, Refused
from logd.wire.schemas.join_group import JoinGroupRequest
from logd.wire.schemas.sync_group import SyncGroupResponse

ID_FIRST_VERSION = 4
SKIP_ASSIGNMENT_VERSION = 9


def join(group: Group, request: JoinGroupRequest, event: Asked, limits: GroupLimits, now_ms: int) -> Iterator[Effect]:
    """Answer a JoinGroup, now or when the rebalance that it belongs to ends."""
    member_id = request.member_id
    if not _has_room(group, member_id, limits.size_max):
        yield from _turn_away(group, member_id, event)
        yield from complete_if_ready(group, now_ms)
    elif not group.supports(request.protocol_type, [protocol.name for protocol in request.protocols]):
        yield _refusal(event, ErrorCode.INCONSISTENT_GROUP_PROTOCOL, member_id)
    elif member_id:
        yield from _join_known(group, request, event, limits, now_ms)
    elif request.group_instance_id is not None:
        yield from _join_static(group, request, event, limits, now_ms)
    elif event.version >= ID_FIRST_VERSION:
        yield from _announce(group, request, event)
    else:
        yield from _add(group, request, event, new_member_id(request, event), limits, now_ms)


def new_member_id(request: JoinGroupRequest, event: Asked) -> str:
    """An id that tells in a listing whose it is."""
    name = event.client_id if request.group_instance_id is None else request.group_instance_id
    return f"{name}-{event.new_id}"


def _refusal(event: Asked, code: ErrorCode, member_id: str = "") -> Reply:
    return Reply(event.to, not_joined(code, member_id))


def _has_room(group: Group, member_id: str, size_max: int) -> bool:
    """Whether one more fits. While members join, those count that did: so the last ones are out if the limit fell."""
    if group.phase is Phase.EMPTY:
        return True
    member = group.members.get(member_id)
    if group.phase is Phase.PREPARING:
        return (member is not None and member.joining is not None) or group.joining_count < size_max
    return member is not None or len(group.members) < size_max


def _turn_away(group: Group, member_id: str, event: Asked) -> Iterator[Effect]:
    member = group.members.get(member_id)
    assert member is None or member.joining is None
    if member is not None and member.syncing is not None:
        yield Reply(member.syncing, SyncGroupResponse(error_code=int(ErrorCode.UNKNOWN_MEMBER_ID)))
    group.remove(member_id)
    yield Disarm(session_key(group, member_id))
    yield _refusal(event, ErrorCode.GROUP_MAX_SIZE_REACHED)


def _announce(group: Group, request: JoinGroupRequest, event: Asked) -> Iterator[Effect]:
    member_id = new_member_id(request, event)
    group.pending.add(member_id)
    yield Arm(session_key(group, member_id), request.session_timeout_ms, SessionExpired(group.group_id, member_id))
    yield _refusal(event, ErrorCode.MEMBER_ID_REQUIRED, member_id)


def _add(
    group: Group, request: JoinGroupRequest, event: Asked, member_id: str, limits: GroupLimits, now_ms: int
) -> Iterator[Effect]:
    member = Member(
        member_id,
        request.group_instance_id,
        (event.client_id, event.client_host),
        timeouts_of(request),
        protocols_of(request),
    )
    member.new = True
    if group.phase is Phase.PREPARING and group.before is Phase.EMPTY:
        group.grew = True
    group.add(member, request.protocol_type)
    yield member_note(group, member, "member-joined", "joined")
    group.park_join(member, event.to)
    yield heard_of(group, member, NEW_MEMBER_JOIN_TIMEOUT_MS)
    yield from rebalance_or_complete(group, limits, now_ms)


def _join_known(
    group: Group, request: JoinGroupRequest, event: Asked, limits: GroupLimits, now_ms: int
) -> Iterator[Effect]:
    member_id = request.member_id
    if member_id in group.pending and request.group_instance_id is None:
        yield from _add(group, request, event, member_id, limits, now_ms)
        return
    try:
        group.check_member(member_id, request.group_instance_id)
    except Refused as refused:
        yield _refusal(event, refused.code, member_id)
        return
    member = group.members[member_id]
    same = member.protocols == protocols_of(request)
    settled = group.phase is Phase.COMPLETING or (group.phase is Phase.STABLE and group.leader != member_id)
    if settled and same:
        yield Reply(event.to, joined(group, member))
    elif group.phase is Phase.EMPTY:
        yield _refusal(event, ErrorCode.UNKNOWN_MEMBER_ID, member_id)
    else:
        group.update(member, protocols_of(request), timeouts_of(request))
        if group.can_rebalance():
            yield member_note(group, member, "rebalance-asked", "asked for a rebalance: it joined again")
        yield from _park(group, member, event)
        yield from rebalance_or_complete(group, limits, now_ms)


def _join_static(
    group: Group, request: JoinGroupRequest, event: Asked, limits: GroupLimits, now_ms: int
) -> Iterator[Effect]:
    instance_id = request.group_instance_id
    assert instance_id is not None
    member_id = new_member_id(request, event)
    holder_id = group.instances.get(instance_id)
    if holder_id is None:
        yield from _add(group, request, event, member_id, limits, now_ms)
        return
    leader_before = group.leader
    member = yield from _take_place(group, group.members[holder_id], member_id)
    group.update(member, protocols_of(request), timeouts_of(request))
    if group.phase is Phase.STABLE and group.vote() == group.protocol:
        yield from _resume(group, member, event, leader_before or "")
        return
    yield from _park(group, member, event)
    if group.phase is Phase.PREPARING:
        yield from complete_if_ready(group, now_ms)
    else:
        yield from prepare(group, limits, now_ms)


def _take_place(group: Group, old: Member, member_id: str) -> Generator[Effect, None, Member]:
    """Fence whoever held the instance, and give its place to `member_id`; returns the member."""
    fenced = ErrorCode.FENCED_INSTANCE_ID
    call = group.take_join(old)
    if call is not None:
        yield Reply(call, not_joined(fenced, old.member_id))
    if old.syncing is not None:
        yield Reply(old.syncing, SyncGroupResponse(error_code=int(fenced)))
    yield Disarm(session_key(group, old.member_id))
    member = group.replace(old, member_id)
    yield member_note(group, member, "member-replaced", f"took the place of {old.member_id}, which is fenced")
    yield heard_of(group, member)
    return member


def _resume(group: Group, member: Member, event: Asked, leader_before: str) -> Iterator[Effect]:
    """A static member came back to a stable group that need not change: its new id is written, nobody else hears."""
    yield Append((group_record(group, {each.member_id: each.assignment for each in group.members.values()}),))
    if event.version >= SKIP_ASSIGNMENT_VERSION:
        yield Reply(event.to, joined(group, member, skip_assignment=True))
        return
    answer = joined(group, member)
    answer.leader, answer.members = leader_before, []
    yield Reply(event.to, answer)


def _park(group: Group, member: Member, event: Asked) -> Iterator[Effect]:
    older = group.park_join(member, event.to)
    if older is not None:
        yield Reply(older, not_joined(ErrorCode.REBALANCE_IN_PROGRESS, member.member_id))


def protocols_of(request: JoinGroupRequest) -> Protocols:
    """A protocol that is named twice counts once, or no vote could ever find it shared by all."""
    named = {protocol.name: protocol.metadata for protocol in reversed(request.protocols)}
    return tuple((name, named[name]) for name in dict.fromkeys(protocol.name for protocol in request.protocols))


def timeouts_of(request: JoinGroupRequest) -> tuple[int, int]:
    rebalance_ms = request.rebalance_timeout_ms
    return request.session_timeout_ms, request.session_timeout_ms if rebalance_ms == -1 else rebalance_ms
