"""The phases of a classic group's rebalance: PURE functions from a group to effects.

Prepare (everyone shall join again), complete (a new generation with a leader and a protocol), and what happens when
members are too late for either. Called by :mod:`joining`, :mod:`membership` and the timers of :mod:`groups`. Only
soft state changes here; what must last is asked for with an ``Append``.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from logd.chronicle import Note, group_note
from logd.coordinators.effects import Append, Arm, Disarm, Effect, Record, Reply
from logd.coordinators.events import JoinDelayElapsed, JoinExpired, SessionExpired, SyncExpired
from logd.coordinators.group import Group, Member, Phase
from logd.coordinators.records import GROUP_METADATA_VALUE_VERSION
from logd.errors import ErrorCode
from logd.wire.schemas.group_records import GroupMetadataKey
from logd.wire.schemas.join_group import JoinGroupResponse, JoinGroupResponseMember
from logd.wire.schemas.sync_group import SyncGroupResponse

NEW_MEMBER_JOIN_TIMEOUT_MS = 5 * 60 * 1000
"""How long a new member may wait in JoinGroup: it has no id yet, so it can't heartbeat, nor be seen to go away."""


class GroupLimits(msgspec.Struct, frozen=True):
    """The settings that the group machine obeys, in Kafka's meaning of ``group.*`` and ``offsets.*``."""

    size_max: int = 2**31 - 1
    initial_delay_ms: int = 0
    metadata_bytes_max: int = 4096
    retention_ms: int = 7 * 24 * 3600 * 1000
    sweep_every_ms: int = 600_000
    sweep_records_max: int = 1000


def session_key(group: Group, member_id: str) -> tuple[str, str, str]:
    return ("session", group.group_id, member_id)


def join_key(group: Group) -> tuple[str, str]:
    return ("join", group.group_id)


def sync_key(group: Group) -> tuple[str, str]:
    return ("sync", group.group_id)


def heard_of(group: Group, member: Member, after_ms: int | None = None) -> Arm:
    """The member lives: its session begins anew."""
    timeout_ms = member.session_timeout_ms if after_ms is None else after_ms
    return Arm(session_key(group, member.member_id), timeout_ms, SessionExpired(group.group_id, member.member_id))


def member_note(group: Group, member: Member, kind: str, what: str, **facts: object) -> Note:
    """What happened to a member, in words."""
    who = f"member {member.member_id} ({member.client_id or 'no client id'} at {member.client_host.lstrip('/')})"
    return group_note(group.group_id, kind, f"{who} {what}", member=member.member_id, client=member.client_id, **facts)


def group_record(group: Group, assignments: dict[str, bytes]) -> Record:
    """The record that keeps the group as it is, with these assignments by member id."""
    return Record(GroupMetadataKey(group.group_id), group.stored(assignments), GROUP_METADATA_VALUE_VERSION)


def joined(group: Group, member: Member, *, skip_assignment: bool = False) -> JoinGroupResponse:
    """The answer that tells a member of the current generation; the leader also gets everyone's metadata."""
    leads = group.leader == member.member_id
    return JoinGroupResponse(
        generation_id=group.generation,
        protocol_type=group.protocol_type,
        protocol_name=group.protocol,
        leader=group.leader or "",
        skip_assignment=skip_assignment and leads,
        member_id=member.member_id,
        members=member_list(group) if leads else [],
    )


def not_joined(code: ErrorCode, member_id: str = "") -> JoinGroupResponse:
    """The answer to a JoinGroup that failed."""
    return JoinGroupResponse(error_code=int(code), protocol_name=None, member_id=member_id)


def member_list(group: Group) -> list[JoinGroupResponseMember]:
    return [
        JoinGroupResponseMember(member.member_id, member.instance_id, member.metadata(group.protocol))
        for member in group.members.values()
    ]


def rebalance_or_complete(group: Group, limits: GroupLimits, now_ms: int) -> Iterator[Effect]:
    """Begin a rebalance, or, when one is under way, see whether it can end."""
    if group.can_rebalance():
        yield from prepare(group, limits, now_ms)
    else:
        yield from complete_if_ready(group, now_ms)


def prepare(group: Group, limits: GroupLimits, now_ms: int) -> Iterator[Effect]:
    """Everyone shall join again. Members waiting for an assignment are told so; others hear it by heartbeat."""
    if group.phase is Phase.COMPLETING:
        yield from _drop_assignments(group)
    group.unsynced.clear()
    yield Disarm(sync_key(group))
    first = group.phase is Phase.EMPTY
    group.enter(Phase.PREPARING, now_ms)
    if not first and group.members:
        text = f"a rebalance began: generation {group.generation} ends, its members ({len(group.members)}) join again"
        yield group_note(group.group_id, "rebalance-began", text, generation=group.generation)
    if first:
        yield _arm_delay(group, limits.initial_delay_ms, max(group.rebalance_timeout_ms() - limits.initial_delay_ms, 0))
    elif group.everyone_joined():
        yield from complete(group, now_ms)
    else:
        yield Arm(join_key(group), group.rebalance_timeout_ms(), JoinExpired(group.group_id))


def complete_if_ready(group: Group, now_ms: int) -> Iterator[Effect]:
    """End the join phase if nobody is missing; the first rebalance of a group waits for its delay instead."""
    if group.phase is Phase.PREPARING and group.before is not Phase.EMPTY and group.everyone_joined():
        yield from complete(group, now_ms)


def after_delay(group: Group, event: JoinDelayElapsed, limits: GroupLimits, now_ms: int) -> Iterator[Effect]:
    """The initial delay ended: wait again if members came meanwhile and time remains, else go on."""
    if group.phase is not Phase.PREPARING:
        return
    if not group.grew or event.remaining_ms == 0:
        yield from complete(group, now_ms)
        return
    group.grew = False
    delay_ms = min(limits.initial_delay_ms, event.remaining_ms)
    yield _arm_delay(group, delay_ms, max(event.remaining_ms - event.delay_ms, 0))


def complete(group: Group, now_ms: int) -> Iterator[Effect]:
    """End the join phase. Dynamic members that did not join are out; static ones keep their place (KIP-345)."""
    yield Disarm(join_key(group))
    late = [each for each in group.members.values() if each.joining is None and each.instance_id is None]
    for member in late:
        group.remove(member.member_id)
        yield Disarm(session_key(group, member.member_id))
        yield member_note(
            group,
            member,
            "member-evicted",
            f"was put out: it did not join the rebalance within {member.rebalance_timeout_ms} ms "
            "(max.poll.interval.ms): it polls too seldom, or is stuck",
            after_ms=member.rebalance_timeout_ms,
        )
    if group.members and not group.elect():
        yield Arm(join_key(group), group.rebalance_timeout_ms(), JoinExpired(group.group_id))
        return
    group.begin_generation(now_ms)
    text = f"generation {group.generation} began, members: {len(group.members)}"
    yield group_note(group.group_id, "generation-began", text, generation=group.generation, protocol=group.protocol)
    if group.phase is Phase.EMPTY:
        yield Append((group_record(group, {}),))
        return
    for member in group.members.values():
        call = group.take_join(member)
        if call is not None:
            yield Reply(call, joined(group, member))
        yield heard_of(group, member)
        member.new = False
        group.unsynced.add(member.member_id)
    yield Arm(sync_key(group), group.rebalance_timeout_ms(), SyncExpired(group.group_id, group.generation))


def expel_unsynced(group: Group, event: SyncExpired, limits: GroupLimits, now_ms: int) -> Iterator[Effect]:
    """Members that joined but never asked for their assignment are out, and the rest share the work anew."""
    if event.generation != group.generation or group.phase not in (Phase.COMPLETING, Phase.STABLE):
        return
    if not group.unsynced:
        return
    for member_id in tuple(group.unsynced):
        yield member_note(
            group,
            group.members[member_id],
            "member-evicted",
            "was put out: it joined but did not ask for its assignment in time",
            after_ms=group.rebalance_timeout_ms(),
        )
        group.remove(member_id)
        yield Disarm(session_key(group, member_id))
    yield from prepare(group, limits, now_ms)


def remove_member(group: Group, member: Member) -> Iterator[Effect]:
    """Take a member out; calls of its own that still wait are told that it is unknown now."""
    unknown = ErrorCode.UNKNOWN_MEMBER_ID
    joining, syncing = group.take_join(member), member.syncing
    member.syncing = None
    if joining is not None:
        yield Reply(joining, not_joined(unknown))
    if syncing is not None:
        yield Reply(syncing, SyncGroupResponse(error_code=int(unknown)))
    group.remove(member.member_id)
    yield Disarm(session_key(group, member.member_id))


def expire_session(group: Group, member_id: str, limits: GroupLimits, now_ms: int) -> Iterator[Effect]:
    """Nothing was heard of a member, or of one that was announced, for its whole session."""
    if member_id in group.pending:
        group.remove(member_id)
        if group.phase is Phase.PREPARING and group.everyone_joined():
            yield from complete(group, now_ms)
        return
    member = group.members.get(member_id)
    if member is None or member.excused():
        return
    silent_ms = NEW_MEMBER_JOIN_TIMEOUT_MS if member.new else member.session_timeout_ms
    yield member_note(
        group,
        member,
        "member-evicted",
        f"was put out: no heartbeat for {silent_ms} ms (session.timeout.ms): it died, hangs, or can't reach the broker",
        after_ms=silent_ms,
    )
    yield from remove_member(group, member)
    if group.phase in (Phase.STABLE, Phase.COMPLETING):
        yield from rebalance_or_complete(group, limits, now_ms)
    elif group.phase is Phase.PREPARING and group.everyone_joined():
        yield from complete(group, now_ms)


def _arm_delay(group: Group, delay_ms: int, remaining_ms: int) -> Arm:
    return Arm(join_key(group), delay_ms, JoinDelayElapsed(group.group_id, delay_ms, remaining_ms))


def _drop_assignments(group: Group) -> Iterator[Effect]:
    again = int(ErrorCode.REBALANCE_IN_PROGRESS)
    for member in group.members.values():
        member.assignment = b""
        if member.syncing is not None:
            yield Reply(member.syncing, SyncGroupResponse(error_code=again))
            member.syncing = None
            yield heard_of(group, member)
