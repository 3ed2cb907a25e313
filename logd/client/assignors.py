"""Which member of a classic group reads which partition, decided by the member that leads it.

Pure. ``range`` and ``roundrobin`` start anew each time, as Kafka's do; ``cooperative-sticky`` keeps what it can, and
gives a partition to its next owner only in the round after the one in which the last owner gave it up (KIP-429).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import msgspec

from logd.client.metadata import TopicPartition

Shares = dict[str, list[TopicPartition]]
"""Partitions by member id."""


class Subscriber(msgspec.Struct, frozen=True):
    """One member as it joined. `owned` is what it still holds, `generation` when it was given that (-1: long ago)."""

    member_id: str
    topics: frozenset[str]
    owned: tuple[TopicPartition, ...] = ()
    generation: int = -1
    instance: str | None = None

    @property
    def order(self) -> tuple[bool, str]:
        """Members with a name of their own come first, so that restarts change nothing."""
        return (self.instance is None, self.instance or self.member_id)


def assign_range(members: Sequence[Subscriber], counts: Mapping[str, int]) -> Shares:
    """Each topic's partitions in one run for each of its members."""
    shares: Shares = {member.member_id: [] for member in members}
    for topic in sorted(counts):
        readers = sorted((member for member in members if topic in member.topics), key=lambda one: one.order)
        begin = 0
        for number, reader in enumerate(readers):
            size = counts[topic] // len(readers) + (number < counts[topic] % len(readers))
            shares[reader.member_id] += [TopicPartition(topic, index) for index in range(begin, begin + size)]
            begin += size
    return shares


def assign_roundrobin(members: Sequence[Subscriber], counts: Mapping[str, int]) -> Shares:
    """All partitions in turns."""
    shares: Shares = {member.member_id: [] for member in members}
    circle = sorted(members, key=lambda one: one.order)
    turn = 0
    for at in _all(counts):
        for _ in circle:
            member, turn = circle[turn], (turn + 1) % len(circle)
            if at.topic in member.topics:
                shares[member.member_id].append(at)
                break
    return shares


def assign_sticky(members: Sequence[Subscriber], counts: Mapping[str, int]) -> Shares:
    """As even as the subscriptions allow, with as few moves as that takes; a partition that moves is left out."""
    claims = _claims(members, counts)
    owners = _owners(claims)
    shares: Shares = {member.member_id: [] for member in members}
    for at, owner in owners.items():
        shares[owner].append(at)
    for at in _all(counts):
        if at not in owners:
            readers = [member for member in members if at.topic in member.topics]
            if readers:
                shares[min(readers, key=lambda one: (len(shares[one.member_id]), one.order)).member_id].append(at)
    _level(members, shares)
    free = {at for share in shares.values() for at in share if at not in claims}
    return {
        member: sorted(at for at in share if at in free or {one for _, one in claims[at]} == {member})
        for member, share in shares.items()
    }


def _all(counts: Mapping[str, int]) -> list[TopicPartition]:
    return [TopicPartition(topic, index) for topic in sorted(counts) for index in range(counts[topic])]


Claims = dict[TopicPartition, list[tuple[int, str]]]
"""Who says that they hold a partition: (generation, member id)."""


def _claims(members: Sequence[Subscriber], counts: Mapping[str, int]) -> Claims:
    claims: Claims = {}
    for member in members:
        for at in member.owned:
            if at.partition < counts.get(at.topic, 0):
                claims.setdefault(at, []).append(
                    (member.generation if at.topic in member.topics else -2, member.member_id)
                )
    return claims


def _owners(claims: Claims) -> dict[TopicPartition, str]:
    """Who may keep what: the claim of the latest generation; two claims of the same one are both void."""
    owners = {}
    for at in sorted(claims):
        ranked = sorted(claims[at], reverse=True)
        if ranked[0][0] > -2 and (len(ranked) == 1 or ranked[0][0] > ranked[1][0]):
            owners[at] = ranked[0][1]
    return owners


def _level(members: Sequence[Subscriber], shares: Shares) -> None:
    """Move partitions, one at a time, from whoever has most to whoever has at least two less, until nobody does."""
    topics = {member.member_id: member.topics for member in members}
    while any(_give_one(giver, topics, shares) for giver in sorted(shares, key=lambda one: -len(shares[one]))):
        pass


def _give_one(giver: str, topics: Mapping[str, frozenset[str]], shares: Shares) -> bool:
    """Let a member give away the last of its partitions that somebody with two less wants; False if nobody does."""
    seen = set()
    for at in reversed(shares[giver]):
        if at.topic in seen:
            continue
        seen.add(at.topic)
        readers = [one for one in shares if at.topic in topics[one]]
        taker = min(readers, key=lambda one: (len(shares[one]), one))
        if len(shares[giver]) - len(shares[taker]) >= 2:
            shares[giver].remove(at)
            shares[taker].append(at)
            return True
    return False


ASSIGNORS: dict[str, Callable[[Sequence[Subscriber], Mapping[str, int]], Shares]] = {
    "range": assign_range,
    "roundrobin": assign_roundrobin,
    "cooperative-sticky": assign_sticky,
}
"""By the name that goes over the wire."""
COOPERATIVE = frozenset({"cooperative-sticky"})
"""Those that let members keep their partitions while they rebalance."""
