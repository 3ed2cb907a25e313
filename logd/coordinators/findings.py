"""What is the matter with a group right now: PURE sentences about who is waited for.

The coordinator's half of `Why` (key 30002); what has happened before is in :mod:`logd.chronicle`, and which partitions
stand still the API finds out. Called by :mod:`machine`; it only looks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from logd.cluster.image import Topic
from logd.coordinators.group import Group, Phase
from logd.coordinators.group import Member as ClassicMember
from logd.coordinators.modern_group import ModernGroup
from logd.coordinators.modern_members import Owned
from logd.coordinators.modern_members import Phase as MemberPhase
from logd.coordinators.offsets import Offsets
from logd.wire.schemas.why import Finding, FindingFact

REPEATS = "repeats"
"""The kind of a finding that the API makes another of, or drops."""

NAMED_MAX = 10
"""So many members or partitions are named in one sentence."""


def finding(kind: str, text: str, **facts: object) -> Finding:
    """A sentence and what it is about."""
    return Finding(kind, text, [FindingFact(name, str(value)) for name, value in facts.items()])


def of_classic(group: Group, now_ms: int) -> Iterator[Finding]:
    """Whom the group waits for."""
    since_s = max(now_ms - group.since_ms, 0) / 1000
    members = group.members.values()
    if group.phase is Phase.EMPTY:
        yield finding("empty", f"it has no members, since {since_s:.1f} s")
    elif group.phase is Phase.PREPARING:
        missing = [_named(member) for member in members if member.joining is None]
        who = f"{_some(missing)}: they have not joined again" if missing else "more members (the initial delay)"
        text = f"it is rebalancing for {since_s:.1f} s and waits for {who}"
        yield finding("rebalancing", text, missing=len(missing))
    elif group.phase is Phase.COMPLETING:
        leader = group.members.get(group.leader or "")
        who = "its leader" if leader is None else _named(leader)
        yield finding("rebalancing", f"it waits for {since_s:.1f} s for the assignment that {who} makes")


def of_modern(group: ModernGroup, topics: Mapping[bytes, Topic]) -> Iterator[Finding]:
    """Whom members wait for."""
    if not group.members:
        yield finding("empty", "it has no members")
    for member_id in group.members:
        current = group.has(member_id)
        if current.phase is MemberPhase.UNREVOKED_PARTITIONS:
            what = _some(_places(current.revoking, topics))
            text = f"{_modern_name(group, member_id)} has to give up {what} and has not yet said that it did"
            yield finding("revoking", text, member=member_id, epoch=current.epoch)
        elif current.phase is MemberPhase.UNRELEASED_PARTITIONS:
            holders = {
                holder
                for topic_id, wanted in group.target.get(member_id, {}).items()
                for index in wanted
                if (holder := group.holders.get((topic_id, index), member_id)) != member_id
            }
            who = _some([_modern_name(group, holder) for holder in sorted(holders)])
            text = f"{_modern_name(group, member_id)} waits for partitions that are still held by {who}"
            yield finding("waiting", text, member=member_id, epoch=current.epoch)
        elif current.epoch < group.epoch:
            text = f"{_modern_name(group, member_id)} is at epoch {current.epoch} and the group at {group.epoch}"
            yield finding("behind", text, member=member_id, epoch=current.epoch)


def of_repeats(offsets: Offsets, group_id: str) -> Iterator[Finding]:
    """Partitions whose offset is committed again and again; whether there is more to read is for the asker to see."""
    for topic, partitions in offsets.groups.get(group_id, {}).items():
        for index, held in partitions.items():
            seen = offsets.repeated.get((group_id, topic, index))
            if seen is not None:
                text = f"{topic}-{index}: offset {held.offset} was committed {seen.times} times"
                facts = {"partition": f"{topic}-{index}", "since_ms": seen.since_ms, "times": seen.times}
                yield finding(REPEATS, text, **facts)


def _named(member: ClassicMember) -> str:
    return f"{member.member_id} ({member.client_id or 'no client id'} at {member.client_host.lstrip('/')})"


def _modern_name(group: ModernGroup, member_id: str) -> str:
    member = group.members.get(member_id)
    if member is None:
        return f"member {member_id}"
    return f"member {member_id} ({member.client_id or 'no client id'} at {member.client_host.lstrip('/')})"


def _places(owned: Owned, topics: Mapping[bytes, Topic]) -> list[str]:
    return [
        f"{topics[topic_id].name if topic_id in topics else topic_id.hex()}-{index}"
        for topic_id, indexes in owned.items()
        for index in indexes
    ]


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    more = len(listed) - NAMED_MAX
    return ", ".join(listed[:NAMED_MAX]) + (f" and {more} more" if more > 0 else "")
