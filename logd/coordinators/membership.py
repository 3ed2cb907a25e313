"""SyncGroup, Heartbeat and LeaveGroup: PURE. What a member does between two rebalances.

Called by :mod:`groups` with the group that the request names. A heartbeat is O(1): one deadline moved, one answer.
"""

from __future__ import annotations

from collections.abc import Iterator

from logd.coordinators.effects import Append, Disarm, Effect, Reply
from logd.coordinators.events import Asked, PlainCommit
from logd.coordinators.group import Group, Phase
from logd.coordinators.rebalance import (
    GroupLimits,
    complete_if_ready,
    group_record,
    heard_of,
    member_note,
    rebalance_or_complete,
    remove_member,
    session_key,
    sync_key,
)
from logd.errors import ErrorCode, Refused
from logd.wire.schemas.heartbeat import HeartbeatRequest, HeartbeatResponse
from logd.wire.schemas.leave_group import LeaveGroupRequest, LeaveGroupResponse, MemberIdentity, MemberResponse
from logd.wire.schemas.offset_commit import OffsetCommitRequest
from logd.wire.schemas.sync_group import SyncGroupRequest, SyncGroupResponse


def sync(group: Group, request: SyncGroupRequest, event: Asked, now_ms: int) -> Iterator[Effect]:
    """Give a member its assignment, at once or when the leader brings it.

    :raises Refused: the request does not fit the group as it is now.
    """
    if group.phase is Phase.EMPTY:
        raise Refused(ErrorCode.UNKNOWN_MEMBER_ID, f"group {group.group_id!r} has no members: join first")
    _check_sync(group, request)
    member = group.members[request.member_id]
    if group.phase is Phase.PREPARING:
        raise Refused(ErrorCode.REBALANCE_IN_PROGRESS, f"group {group.group_id!r} is rebalancing: join again")
    group.unsynced.discard(member.member_id)
    if not group.unsynced:
        yield Disarm(sync_key(group))
    if group.phase is Phase.STABLE:
        yield Reply(event.to, _synced(group, member.assignment))
        return
    if member.syncing is not None:
        yield Reply(member.syncing, SyncGroupResponse(error_code=int(ErrorCode.REBALANCE_IN_PROGRESS)))
    member.syncing = event.to
    if group.leader == member.member_id:
        yield from _assign(group, request, now_ms)


def _check_sync(group: Group, request: SyncGroupRequest) -> None:
    group.check_member(request.member_id, request.group_instance_id)
    group.check_generation(request.generation_id)
    told = ((request.protocol_type, group.protocol_type), (request.protocol_name, group.protocol))
    for said, held in told:
        if said is not None and held is not None and said != held:
            raise Refused(
                ErrorCode.INCONSISTENT_GROUP_PROTOCOL,
                f"the group's protocol is {held!r} and not {said!r}: use what JoinGroup answered",
            )


def _assign(group: Group, request: SyncGroupRequest, now_ms: int) -> Iterator[Effect]:
    """The leader brought the assignments: write them, then hand them out. Who got none gets an empty one."""
    given = {each.member_id: each.assignment for each in request.assignments}
    yield Append((group_record(group, given),))
    for member in group.members.values():
        member.assignment = given.get(member.member_id, b"")
        call, member.syncing = member.syncing, None
        if call is not None:
            yield Reply(call, _synced(group, member.assignment))
            yield heard_of(group, member)
    group.enter(Phase.STABLE, now_ms)


def _synced(group: Group, assignment: bytes) -> SyncGroupResponse:
    return SyncGroupResponse(protocol_type=group.protocol_type, protocol_name=group.protocol, assignment=assignment)


def heartbeat(group: Group, request: HeartbeatRequest, event: Asked) -> Iterator[Effect]:
    """The member lives; it hears whether it must join again.

    :raises Refused: UNKNOWN_MEMBER_ID, FENCED_INSTANCE_ID, ILLEGAL_GENERATION.
    """
    group.check_member(request.member_id, request.group_instance_id)
    group.check_generation(request.generation_id)
    yield heard_of(group, group.members[request.member_id])
    again = ErrorCode.REBALANCE_IN_PROGRESS if group.phase is Phase.PREPARING else ErrorCode.NONE
    yield Reply(event.to, HeartbeatResponse(error_code=int(again)))


def leave(group: Group, request: LeaveGroupRequest, event: Asked, limits: GroupLimits, now_ms: int) -> Iterator[Effect]:
    """Take members out, each with an answer of its own (KIP-345); by instance id alone for an administrator."""
    answers: list[MemberResponse] = []
    for identity in request.members:
        code = ErrorCode.NONE
        try:
            yield from _leave_one(group, identity)
        except Refused as refused:
            code = refused.code
        answers.append(MemberResponse(identity.member_id, identity.group_instance_id, int(code)))
    if any(answer.error_code == 0 for answer in answers):
        if group.phase in (Phase.STABLE, Phase.COMPLETING):
            yield from rebalance_or_complete(group, limits, now_ms)
        else:
            yield from complete_if_ready(group, now_ms)
    yield Reply(event.to, LeaveGroupResponse(members=answers))


def _leave_one(group: Group, identity: MemberIdentity) -> Iterator[Effect]:
    member_id = identity.member_id
    if not member_id:
        holder = group.instances.get(identity.group_instance_id or "")
        if identity.group_instance_id is None or holder is None:
            raise Refused(
                ErrorCode.UNKNOWN_MEMBER_ID, f"group.instance.id {identity.group_instance_id!r} is not in the group"
            )
        member_id = holder
    elif member_id in group.pending:
        group.remove(member_id)
        yield Disarm(session_key(group, member_id))
        return
    else:
        group.check_member(member_id, identity.group_instance_id)
    member = group.members[member_id]
    why = f": {identity.reason}" if identity.reason else ""
    yield member_note(group, member, "member-left", f"left{why}")
    yield from remove_member(group, member)


def leave_nothing(request: LeaveGroupRequest, event: Asked) -> Iterator[Effect]:
    """The answer for a group that is not there: none of them is a member."""
    unknown = int(ErrorCode.UNKNOWN_MEMBER_ID)
    answers = [MemberResponse(each.member_id, each.group_instance_id, unknown) for each in request.members]
    yield Reply(event.to, LeaveGroupResponse(members=answers))


def check_commit(group: Group, request: OffsetCommitRequest | PlainCommit, *, pending: bool = False) -> None:
    """Whether these offsets may be committed: by a member of this generation, or by anyone while the group is empty.

    Those of a transaction need name no member, as clients before KIP-447 don't, and may come in a rebalance.

    :raises Refused: UNKNOWN_MEMBER_ID, FENCED_INSTANCE_ID, ILLEGAL_GENERATION, REBALANCE_IN_PROGRESS.
    """
    generation = request.generation_id_or_member_epoch
    if generation < 0 and group.phase is Phase.EMPTY:
        return
    if generation < 0 and not request.member_id and request.group_instance_id is None:
        if pending:
            return
        raise Refused(
            ErrorCode.UNKNOWN_MEMBER_ID,
            f"group {group.group_id!r} is in use: commit as a member of it, or while it is empty",
        )
    group.check_member(request.member_id, request.group_instance_id)
    group.check_generation(generation)
    if group.phase is Phase.COMPLETING and not pending:
        raise Refused(
            ErrorCode.REBALANCE_IN_PROGRESS, f"group {group.group_id!r} is rebalancing: get the assignment first"
        )
