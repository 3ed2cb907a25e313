"""One classic consumer group while it is served: PURE soft state and the rules that keep it whole.

Owns the members, who of them has joined or asked for an assignment, the protocols they have in common and the
group's phase. The functions in :mod:`joining`, :mod:`rebalance` and :mod:`membership` drive it; what must survive a
restart they write as a GroupMetadata record, from which :meth:`Group.restore` builds the group again. It never
makes effects and never looks at a clock. Follows KIP-134, 345, 394, 559, 814.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

from logd.errors import DecodeError, ErrorCode, Refused
from logd.wire.codec import decode
from logd.wire.schemas.consumer_protocol import ConsumerProtocolSubscription
from logd.wire.schemas.group_records import GroupMetadataValue, MemberMetadata

CONSUMER = "consumer"
"""The protocol type whose metadata the coordinator can read."""


class Phase(StrEnum):
    """Where a group stands; the values are what ListGroups and DescribeGroups show."""

    EMPTY = "Empty"
    PREPARING = "PreparingRebalance"
    COMPLETING = "CompletingRebalance"
    STABLE = "Stable"


_CAN_FOLLOW: dict[Phase, frozenset[Phase]] = {
    Phase.EMPTY: frozenset({Phase.PREPARING}),
    Phase.PREPARING: frozenset({Phase.STABLE, Phase.COMPLETING, Phase.EMPTY}),
    Phase.COMPLETING: frozenset({Phase.PREPARING}),
    Phase.STABLE: frozenset({Phase.COMPLETING}),
}

Protocols = tuple[tuple[str, bytes], ...]
"""A member's protocols in order of preference: (name, metadata)."""


class Member:
    """One member. `joining` and `syncing` hold the call that waits for an answer, or None."""

    __slots__ = (
        "assignment",
        "client_host",
        "client_id",
        "instance_id",
        "joining",
        "member_id",
        "new",
        "protocols",
        "rebalance_timeout_ms",
        "session_timeout_ms",
        "syncing",
    )

    def __init__(
        self,
        member_id: str,
        instance_id: str | None,
        client: tuple[str, str],
        timeouts_ms: tuple[int, int],
        protocols: Protocols,
        assignment: bytes = b"",
    ) -> None:
        self.member_id = member_id
        self.instance_id = instance_id
        self.client_id, self.client_host = client
        self.session_timeout_ms, self.rebalance_timeout_ms = timeouts_ms
        self.protocols = protocols
        self.assignment = assignment
        self.joining: object | None = None
        self.syncing: object | None = None
        self.new = False

    def metadata(self, protocol: str | None) -> bytes:
        """What the member said for `protocol`; empty when it never named it."""
        return next((metadata for name, metadata in self.protocols if name == protocol), b"")

    def excused(self) -> bool:
        """Whether silence is no fault: it waits for us. A member not yet in a generation is never excused."""
        return not self.new and (self.joining is not None or self.syncing is not None)


def place_of(name: str) -> int:
    """The order in which Kafka looks at protocols with as many votes: by the last bits of Java's hash of the name."""
    units = name.encode("utf-16-be", "surrogatepass")
    hashed = 0
    for high, low in zip(units[::2], units[1::2], strict=True):
        hashed = (hashed * 31 + (high << 8 | low)) & 0xFFFFFFFF
    return (hashed ^ hashed >> 16) & 15


class Group:
    """A classic group. Members are kept in the order in which they came."""

    def __init__(self, group_id: str, now_ms: int) -> None:
        self.group_id = group_id
        self.phase = Phase.EMPTY
        self.before: Phase | None = None
        self.since_ms = now_ms
        self.generation = 0
        self.protocol_type: str | None = None
        self.protocol: str | None = None
        self.leader: str | None = None
        self.members: dict[str, Member] = {}
        self.instances: dict[str, str] = {}
        self.pending: set[str] = set()
        self.unsynced: set[str] = set()
        self.grew = False
        self.subscribed: frozenset[str] | None = None
        self.joining_count = 0
        self._support: dict[str, int] = {}

    @classmethod
    def restore(cls, group_id: str, value: GroupMetadataValue) -> Group:
        """The group that a GroupMetadata record describes: empty, or stable with the members written there."""
        group = cls(group_id, value.current_state_timestamp)
        group.phase = Phase.STABLE if value.members else Phase.EMPTY
        group.generation = value.generation
        for stored in value.members:
            rebalance_ms = stored.session_timeout if stored.rebalance_timeout == -1 else stored.rebalance_timeout
            group.add(
                Member(
                    stored.member_id,
                    stored.group_instance_id,
                    (stored.client_id, stored.client_host),
                    (stored.session_timeout, rebalance_ms),
                    ((value.protocol or "", stored.subscription),),
                    stored.assignment,
                ),
                value.protocol_type,
            )
        group.protocol_type = value.protocol_type or None
        group.protocol = value.protocol
        group.leader = value.leader
        group.subscribed = group.read_subscriptions()
        return group

    def stored(self, assignments: dict[str, bytes]) -> GroupMetadataValue:
        """What is written of the group, with these assignments by member id."""
        return GroupMetadataValue(
            protocol_type=self.protocol_type or "",
            generation=self.generation,
            protocol=self.protocol,
            leader=self.leader,
            current_state_timestamp=self.since_ms,
            members=[
                MemberMetadata(
                    member_id=member.member_id,
                    group_instance_id=member.instance_id,
                    client_id=member.client_id,
                    client_host=member.client_host,
                    rebalance_timeout=member.rebalance_timeout_ms,
                    session_timeout=member.session_timeout_ms,
                    subscription=member.metadata(self.protocol),
                    assignment=assignments.get(member.member_id, b""),
                )
                for member in self.members.values()
            ],
        )

    # Members

    def add(self, member: Member, protocol_type: str) -> None:
        """Take a member in; the first one decides the protocol type and leads."""
        if not self.members:
            self.protocol_type = protocol_type
        if self.leader is None:
            self.leader = member.member_id
        self.members[member.member_id] = member
        if member.instance_id is not None:
            assert member.instance_id not in self.instances, "one member for each group.instance.id"
            self.instances[member.instance_id] = member.member_id
        self._count(member.protocols, 1)
        self.pending.discard(member.member_id)

    def remove(self, member_id: str) -> None:
        """Let a member, or one that was only announced, go. Its parked calls must be answered before."""
        member = self.members.pop(member_id, None)
        if member is not None:
            assert member.joining is None, "an unanswered JoinGroup would be lost"
            self._count(member.protocols, -1)
            if member.instance_id is not None:
                del self.instances[member.instance_id]
        if self.leader == member_id:
            self.leader = next(iter(self.members), None)
        self.pending.discard(member_id)
        self.unsynced.discard(member_id)

    def replace(self, old: Member, new_id: str) -> Member:
        """Give the place of a static member to the same instance under a new id (KIP-345)."""
        assert old.instance_id is not None
        member = Member(
            new_id,
            old.instance_id,
            (old.client_id, old.client_host),
            (old.session_timeout_ms, old.rebalance_timeout_ms),
            old.protocols,
            old.assignment,
        )
        self.members = {new_id if key == old.member_id else key: kept for key, kept in self.members.items()}
        self.members[new_id] = member
        self.instances[old.instance_id] = new_id
        self.unsynced.discard(old.member_id)
        if self.leader == old.member_id:
            self.leader = new_id
        return member

    def update(self, member: Member, protocols: Protocols, timeouts_ms: tuple[int, int]) -> None:
        """Take what a member says of itself when it joins again."""
        self._count(member.protocols, -1)
        member.protocols = protocols
        self._count(protocols, 1)
        member.session_timeout_ms, member.rebalance_timeout_ms = timeouts_ms

    def park_join(self, member: Member, call: object) -> object | None:
        """Let `call` wait for the end of the rebalance; returns an older one of the same member, to be answered."""
        older, member.joining = member.joining, call
        self.joining_count += older is None
        return older

    def take_join(self, member: Member) -> object | None:
        """The JoinGroup that waits for this member, no longer waiting; None when there is none."""
        call, member.joining = member.joining, None
        self.joining_count -= call is not None
        return call

    def check_member(self, member_id: str, instance_id: str | None) -> None:
        """:raises Refused: UNKNOWN_MEMBER_ID, or FENCED_INSTANCE_ID for an instance that another id now holds."""
        if instance_id is not None:
            holder = self.instances.get(instance_id)
            if holder is None:
                raise Refused(
                    ErrorCode.UNKNOWN_MEMBER_ID,
                    f"group.instance.id {instance_id!r} is not in group {self.group_id!r}: join again",
                )
            if holder != member_id:
                raise Refused(
                    ErrorCode.FENCED_INSTANCE_ID,
                    f"group.instance.id {instance_id!r} now belongs to another member: give each process its own",
                )
        if member_id not in self.members:
            raise Refused(
                ErrorCode.UNKNOWN_MEMBER_ID, f"member {member_id!r} is not in group {self.group_id!r}: join again"
            )

    def check_generation(self, generation: int) -> None:
        """:raises Refused: ILLEGAL_GENERATION."""
        if generation != self.generation:
            raise Refused(
                ErrorCode.ILLEGAL_GENERATION,
                f"generation {generation} of group {self.group_id!r} is not the current {self.generation}: join again",
            )

    # Phases

    def enter(self, phase: Phase, now_ms: int) -> None:
        """Go to the next phase."""
        assert self.phase in _CAN_FOLLOW[phase], f"{self.group_id}: {self.phase} does not lead to {phase}"
        self.before, self.phase, self.since_ms = self.phase, phase, now_ms

    def can_rebalance(self) -> bool:
        """Whether a rebalance may begin: none is under way yet."""
        return self.phase in _CAN_FOLLOW[Phase.PREPARING]

    def everyone_joined(self) -> bool:
        """All members wait in JoinGroup, and none that was announced is still missing."""
        return self.joining_count == len(self.members) and not self.pending

    def elect(self) -> bool:
        """Make sure that a member who joined leads; False when nobody has."""
        leader = self.members.get(self.leader) if self.leader is not None else None
        if leader is None:
            return False
        if leader.joining is None:
            joined = next((member for member in self.members.values() if member.joining is not None), None)
            if joined is None:
                return False
            self.leader = joined.member_id
        return True

    def begin_generation(self, now_ms: int) -> None:
        """Close the join phase: next generation, its protocol, and what it is subscribed to."""
        self.generation += 1
        self.protocol = self.vote() if self.members else None
        self.subscribed = self.read_subscriptions()
        self.enter(Phase.COMPLETING if self.members else Phase.EMPTY, now_ms)
        self.unsynced.clear()

    def rebalance_timeout_ms(self) -> int:
        """The longest that any member asks for."""
        return max((member.rebalance_timeout_ms for member in self.members.values()), default=0)

    # Protocols

    def supports(self, protocol_type: str, names: Iterable[str]) -> bool:
        """Whether a member with these protocols fits: one of them is shared by all who are there."""
        if self.phase is Phase.EMPTY:
            return bool(protocol_type) and any(True for _ in names)
        count = len(self.members)
        return self.protocol_type == protocol_type and any(self._support.get(name, 0) == count for name in names)

    def vote(self) -> str:
        """The protocol of the next generation: each member votes for its first among those that all share.

        Of as many votes the same wins every time, whoever joined first: see :func:`place_of`.
        """
        shared = {name for name, count in self._support.items() if count == len(self.members)}
        votes: dict[str, int] = {}
        for member in self.members.values():
            choice = next(name for name, _ in member.protocols if name in shared)
            votes[choice] = votes.get(choice, 0) + 1
        return max(votes, key=lambda name: (votes[name], -place_of(name)))

    def is_consumer(self) -> bool:
        return self.protocol_type == CONSUMER

    def subscribes(self, topic: str) -> bool:
        """Whether members may read `topic`. A consumer group whose subscriptions can't be read may read any."""
        return self.is_consumer() if self.subscribed is None else topic in self.subscribed

    def read_subscriptions(self) -> frozenset[str] | None:
        """The topics of all members, from the version-0 prefix that every consumer subscription begins with."""
        if not self.is_consumer() or (self.members and self.protocol is None):
            return None
        topics: set[str] = set()
        for member in self.members.values():
            try:
                subscription, _ = decode(ConsumerProtocolSubscription, 0, member.metadata(self.protocol), 2)
            except DecodeError:
                return None
            topics.update(subscription.topics)
        return frozenset(topics)

    def check(self) -> None:
        """Assert what must always hold inside a group. For tests."""
        waiting = [member for member in self.members.values() if member.joining is not None]
        assert self.joining_count == len(waiting)
        assert not waiting or self.phase is Phase.PREPARING
        assert self.phase is Phase.COMPLETING or all(member.syncing is None for member in self.members.values())
        assert (self.leader is None) == (not self.members)
        assert self.leader is None or self.leader in self.members
        assert self.unsynced <= set(self.members)
        assert not self.pending & set(self.members)
        assert self.instances == {
            member.instance_id: member.member_id for member in self.members.values() if member.instance_id is not None
        }
        counted: dict[str, int] = {}
        for member in self.members.values():
            for name, _ in member.protocols:
                counted[name] = counted.get(name, 0) + 1
        assert counted == self._support

    def _count(self, protocols: Protocols, by: int) -> None:
        for name, _ in protocols:
            self._support[name] = self._support.get(name, 0) + by
            if not self._support[name]:
                del self._support[name]
