"""The server-side assignors of the consumer protocol, `uniform` and `range` (KIP-848): PURE functions.

Given who subscribes to what, how many partitions there are and what each member was to have, they say what each member
is to have. `uniform` balances the whole group and moves as little as it can; `range` gives each member a run of every
topic, so that equal topics meet in one member. Called by :mod:`modern_groups` for each new target; they never look at
what members really hold. The same input always gives the same answer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

Share = Mapping[bytes, frozenset[int]]
"""topic id -> partitions."""

MOVES_MAX = 10_000
"""How often a partition may be moved for balance where members subscribe differently: bounds one step's time."""


class Subscriber(msgspec.Struct, frozen=True):
    """What an assignor knows of one member."""

    instance_id: str | None
    topics: frozenset[bytes]
    held: Share


Assignor = Callable[[Mapping[str, Subscriber], Mapping[bytes, int]], dict[str, Share]]
Partition = tuple[bytes, int]


def _shares(given: Mapping[str, set[Partition]]) -> dict[str, Share]:
    shares: dict[str, Share] = {}
    for member_id, partitions in given.items():
        topics: dict[bytes, set[int]] = {}
        for topic_id, index in sorted(partitions):
            topics.setdefault(topic_id, set()).add(index)
        shares[member_id] = {topic_id: frozenset(indexes) for topic_id, indexes in topics.items()}
    return shares


def assign_range(members: Mapping[str, Subscriber], counts: Mapping[bytes, int]) -> dict[str, Share]:
    """Every topic in runs, members in order of instance id, then of member id; the first ones get the rest."""
    order = sorted(members, key=lambda each: (members[each].instance_id is None, members[each].instance_id or "", each))
    given: dict[str, set[Partition]] = {member_id: set() for member_id in members}
    for topic_id, count in counts.items():
        readers = [member_id for member_id in order if topic_id in members[member_id].topics]
        start = 0
        for place, member_id in enumerate(readers):
            size = count // len(readers) + (place < count % len(readers))
            given[member_id].update((topic_id, index) for index in range(start, start + size))
            start += size
    return _shares(given)


def assign_uniform(members: Mapping[str, Subscriber], counts: Mapping[bytes, int]) -> dict[str, Share]:
    """Equal loads as far as subscriptions allow, and what a member was to have stays where it can."""
    given, free = _kept(members, counts)
    if len({member.topics for member in members.values()}) <= 1:
        _level(given, free)
    else:
        _spread(members, given, free)
    return _shares(given)


def _kept(
    members: Mapping[str, Subscriber], counts: Mapping[bytes, int]
) -> tuple[dict[str, set[Partition]], list[Partition]]:
    """What each member had and may keep, and what then belongs to nobody."""
    owned: set[Partition] = set()
    given: dict[str, set[Partition]] = {}
    for member_id in sorted(members):
        member = members[member_id]
        mine = {
            (topic_id, index)
            for topic_id, indexes in member.held.items()
            if topic_id in member.topics
            for index in indexes
            if index < counts.get(topic_id, 0)
        } - owned
        owned |= mine
        given[member_id] = mine
    wanted = frozenset[bytes]().union(*(member.topics for member in members.values()))
    every = ((topic_id, index) for topic_id in wanted for index in range(counts.get(topic_id, 0)))
    return given, sorted(set(every) - owned)


def _level(given: dict[str, set[Partition]], free: list[Partition]) -> None:
    """All members subscribe to the same: nobody has two more than another."""
    if not given:
        return
    total = len(free) + sum(len(mine) for mine in given.values())
    quota, extra = divmod(total, len(given))
    by_load = sorted(given, key=lambda member_id: (-len(given[member_id]), member_id))
    most = {member_id: quota + (place < extra) for place, member_id in enumerate(by_load)}
    for member_id in by_load:
        surplus = sorted(given[member_id])[most[member_id] :]
        given[member_id].difference_update(surplus)
        free += surplus
    free.sort(reverse=True)
    for member_id in reversed(by_load):
        while len(given[member_id]) < most[member_id]:
            given[member_id].add(free.pop())
    assert not free, "every partition has a place"


def _spread(members: Mapping[str, Subscriber], given: dict[str, set[Partition]], free: list[Partition]) -> None:
    """Members subscribe differently: the rarest topics first to the least loaded, then move what still weighs."""
    readers: dict[bytes, list[str]] = {}
    for member_id in sorted(members):
        for topic_id in members[member_id].topics:
            readers.setdefault(topic_id, []).append(member_id)
    for partition in sorted(free, key=lambda each: (len(readers[each[0]]), each)):
        lightest = min(readers[partition[0]], key=lambda member_id: len(given[member_id]))
        given[lightest].add(partition)
    moves = 0
    moved = True
    while moved and moves < MOVES_MAX:
        moved = False
        for member_id in sorted(given, key=lambda each: (-len(given[each]), each)):
            for partition in sorted(given[member_id]):
                lightest = min(readers[partition[0]], key=lambda each: len(given[each]))
                moves += 1
                if len(given[lightest]) < len(given[member_id]) - 1 and moves < MOVES_MAX:
                    given[member_id].discard(partition)
                    given[lightest].add(partition)
                    moved = True


ASSIGNORS: dict[str, Assignor] = {"uniform": assign_uniform, "range": assign_range}
