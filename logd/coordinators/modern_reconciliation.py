"""How a member gets from what it has to what it is to have, one heartbeat at a time: PURE (KIP-848).

First it gives up what it must (UNREVOKED_PARTITIONS), then it takes the epoch of the target and what is free, waiting
for what others have not yet released (UNRELEASED_PARTITIONS), until all is there (STABLE). One function, called by
:mod:`modern_groups` for the member whose heartbeat it handles; it knows no clock and writes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

from logd.coordinators.modern_assignors import Share
from logd.coordinators.modern_group import ModernGroup
from logd.coordinators.modern_members import Current, Owned, Phase

Reported = Mapping[bytes, frozenset[int]]
"""topic id -> partitions that a member says it still has."""


def reconcile(
    group: ModernGroup,
    member_id: str,
    reported: Reported | None,
    wanted: frozenset[bytes] | None = None,
    *,
    changed: bool = False,
) -> Current:
    """What the member has after this step; what it had, when it can't go on.

    :param reported: what it says it has; None when it does not say.
    :param wanted: the topics that it subscribes to: of others the target gives it nothing, should that be of a time
        before; None when that need not be looked at.
    :param changed: it subscribes to them from now on. What it has of others it must give up at once, even when it can't
        go on.
    """
    current = group.has(member_id)
    revokes = current.phase is Phase.UNREVOKED_PARTITIONS and _still_has(reported, current.revoking)
    if group.is_reconciled(member_id) or revokes:
        return current if wanted is None or not changed else _without_others(current, reported, wanted)
    target = group.target.get(member_id, {})
    share = target if wanted is None else {topic: indexes for topic, indexes in target.items() if topic in wanted}
    kept, surplus = _split(current.owned, share)
    if surplus and _still_has(reported, surplus):
        return Current(current.epoch, current.epoch, Phase.UNREVOKED_PARTITIONS, kept, surplus)
    gained, waits = _free(group, member_id, share, kept)
    phase = Phase.UNRELEASED_PARTITIONS if waits else Phase.STABLE
    before = current.before if current.epoch == group.target_epoch else current.epoch
    return Current(group.target_epoch, before, phase, _joined(kept, gained, group.target_epoch), {})


def _without_others(current: Current, reported: Reported | None, wanted: frozenset[bytes]) -> Current:
    """Give up what is of no topic in `wanted`, unless the member says that it has nothing of it any more."""
    kept = {topic_id: indexes for topic_id, indexes in current.owned.items() if topic_id in wanted}
    surplus = {topic_id: indexes for topic_id, indexes in current.owned.items() if topic_id not in wanted}
    if not surplus or not _still_has(reported, surplus):
        return current
    revoking = {**current.revoking}
    for topic_id, indexes in surplus.items():
        revoking[topic_id] = {**revoking.get(topic_id, {}), **indexes}
    return Current(current.epoch, current.before, Phase.UNREVOKED_PARTITIONS, kept, revoking)


def _still_has(reported: Reported | None, owned: Owned) -> bool:
    """A member that does not say what it has may have all of it."""
    if reported is None:
        return True
    return any(not indexes.isdisjoint(owned.get(topic_id, ())) for topic_id, indexes in reported.items())


def _split(owned: Owned, share: Share) -> tuple[Owned, Owned]:
    """What of `owned` stays, and what has to go."""
    kept: dict[bytes, dict[int, int]] = {}
    surplus: dict[bytes, dict[int, int]] = {}
    for topic_id, indexes in owned.items():
        wanted = share.get(topic_id, frozenset())
        for index, epoch in indexes.items():
            part = kept if index in wanted else surplus
            part.setdefault(topic_id, {})[index] = epoch
    return kept, surplus


def _free(group: ModernGroup, member_id: str, share: Share, kept: Owned) -> tuple[Share, bool]:
    """What nobody else holds of what the member lacks, and whether something else is still held."""
    gained: dict[bytes, frozenset[int]] = {}
    waits = False
    for topic_id, wanted in share.items():
        lacking = wanted.difference(kept.get(topic_id, ()))
        free = frozenset(index for index in lacking if group.holders.get((topic_id, index), member_id) == member_id)
        waits = waits or free != lacking
        if free:
            gained[topic_id] = free
    return gained, waits


def _joined(kept: Owned, gained: Share, epoch: int) -> Owned:
    joined = {topic_id: dict(indexes) for topic_id, indexes in kept.items()}
    for topic_id, indexes in gained.items():
        joined.setdefault(topic_id, {}).update(dict.fromkeys(sorted(indexes), epoch))
    return joined
