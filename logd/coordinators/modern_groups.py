"""The machine of one shard's groups of the consumer protocol: PURE (KIP-848).

Owns the hard state of these groups, changed by :meth:`ModernGroups.replay` alone, and what the shard knows of the
cluster's topics. Every heartbeat does what can be done for its group: raise the group epoch when members, wishes or
topics changed, compute the target, and move this one member a step towards it. :mod:`machine` puts it beside the
classic machine and hands it the events that are its own; offsets are there too. It never waits, writes or reads a
clock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from hashlib import blake2b
from typing import Any

import msgspec

from logd.chronicle import Note, group_note
from logd.coordinators.effects import Append, Arm, Disarm, Effect, Record, Reply
from logd.coordinators.events import Asked, MemberExpired, RevocationExpired, SettingsSeen, TopicsSeen
from logd.coordinators.modern_assignors import ASSIGNORS, Subscriber
from logd.coordinators.modern_fencing import check_instance, check_request, leaves
from logd.coordinators.modern_group import RECORD_KEYS, Draft, ModernGroup
from logd.coordinators.modern_joining import (
    TopicsView,
    check_room,
    drop_unused,
    enter,
    reported_by,
    resolve_again,
    update,
)
from logd.coordinators.modern_members import JOIN_EPOCH, LEAVE_STATIC_EPOCH, Current, Owned, Phase
from logd.coordinators.modern_reconciliation import Reported, reconcile
from logd.errors import ErrorCode, Refused
from logd.wire.schemas.consumer_group_heartbeat import (
    Assignment,
    ConsumerGroupHeartbeatRequest,
    ConsumerGroupHeartbeatResponse,
    ConsumerGroupHeartbeatResponseTopicPartitions,
)

FIRST_EPOCH = 1
"""Of a group in which nobody subscribes to anything yet."""


class ModernLimits(msgspec.Struct, frozen=True):
    """The settings that the machine obeys, in Kafka's meaning of ``group.consumer.*``.

    :param upgrades: whether classic groups with members may become groups of the consumer protocol.
    :param downgrades: whether these may become classic when only classic members are left.
    """

    session_ms: int = 45_000
    heartbeat_ms: int = 5_000
    assignment_interval_ms: int = 0
    upgrades: bool = True
    downgrades: bool = True
    size_max: int = 2**31 - 1
    assignors: tuple[str, ...] = ("uniform", "range")


NONE_LEFT = frozenset[str]()

GiveBack = Callable[[ModernGroup, int], Iterator[Effect]]
"""Given the group as it is to be, and the time in ms."""


class ModernGroups:
    """Groups by id. `groups` is hard state; `topics`, and how far groups have seen them, is soft."""

    def __init__(self, limits: ModernLimits) -> None:
        self.limits = limits
        self.own_limits: Mapping[str, ModernLimits] = {}
        self.groups: dict[str, ModernGroup] = {}
        self.topics = TopicsView()
        self._checked: dict[str, tuple[int, frozenset[str]]] = {}
        """Soft, by group: the version of the topics it was held against, and its expressions that were not yet."""
        self.awaited: set[tuple[str, str]] = set()
        """Soft: (group, member) of classic members that were told to join again."""
        self.give_back: GiveBack | None = None
        """Makes a group classic again when only classic members are left, where that is allowed."""

    # Hard state

    def replay(self, record: Record) -> None:
        """Take one written record in."""
        key: Any = record.key
        group_id = key.group_id
        group = self.groups.get(group_id)
        if group is None:
            if record.value is None:
                return
            group = self.groups[group_id] = ModernGroup(group_id)
        group.apply(record)
        if group.is_nothing():
            del self.groups[group_id]
            self._checked.pop(group_id, None)

    def loaded(self) -> Iterator[Effect]:
        """All records are in: every member gets its full session."""
        for group in self.groups.values():
            yield from self._arm_all(group)

    def refused(self, records: Iterable[Record]) -> Iterator[Effect]:
        """These records were not written: whoever was to go stays watched."""
        touched: set[str] = {_group_of(record) for record in records if type(record.key) in RECORD_KEYS}
        for group_id in sorted(touched & set(self.groups)):
            self._checked.pop(group_id, None)
            yield from self._arm_all(self.groups[group_id])

    def _arm_all(self, group: ModernGroup) -> Iterator[Effect]:
        for member_id, member in group.members.items():
            yield self.heard_of(group, member_id)
            yield from _watch_revocation(group.group_id, member_id, group.has(member_id), member.rebalance_timeout_ms)

    def limits_of(self, group_id: str) -> ModernLimits:
        """The settings in force for one group."""
        return self.own_limits.get(group_id, self.limits)

    def find(self, group_id: str) -> ModernGroup:
        """:raises Refused: GROUP_ID_NOT_FOUND."""
        group = self.groups.get(group_id)
        if group is None:
            raise Refused(ErrorCode.GROUP_ID_NOT_FOUND, f"Group {group_id} not found.")
        return group

    # Heartbeats

    def heartbeat(self, event: Asked, now_ms: int, risen: Draft | None = None) -> Iterator[Effect]:
        """Join, stay or leave.

        :param risen: the group as it comes from the classic protocol with this heartbeat.
        :raises Refused: every error of ConsumerGroupHeartbeat; then nothing is changed.
        """
        request = event.request
        assert isinstance(request, ConsumerGroupHeartbeatRequest)
        check_request(request, event.version, self.limits.assignors)
        if leaves(request):
            yield from self._leave(event, request, now_ms)
            return
        known = self.groups.get(request.group_id)
        if risen is None and known is not None and self._has_no_news(known, event, request):
            yield self.heard_of(known, request.member_id)
            yield Reply(event.to, self._answer(known.group_id, request.member_id, known.epoch, None))
            return
        joins = request.member_epoch == JOIN_EPOCH
        if risen is None:
            group = ModernGroup(request.group_id) if joins else None
            risen = Draft(self.groups.get(request.group_id) or group or self.find(request.group_id))
        if joins:
            check_room(risen.group, request, self.limits.size_max)
        yield from self._go_on(risen, event, request, now_ms)

    def _has_no_news(self, group: ModernGroup, event: Asked, request: ConsumerGroupHeartbeatRequest) -> bool:
        """The usual heartbeat: the member says nothing, and there is nothing to tell it. Kept cheap."""
        told = (request.subscribed_topic_names, request.subscribed_topic_regex, request.topic_partitions)
        asked = (request.instance_id, request.rack_id, request.server_assignor)
        if told != (None, None, None) or asked != (None, None, None) or request.rebalance_timeout_ms != -1:
            return False
        current, member = group.current.get(request.member_id), group.members.get(request.member_id)
        if current is None or member is None or current.phase is not Phase.STABLE:
            return False
        settled = request.member_epoch == current.epoch == group.target_epoch == group.epoch
        same = member.client_id == event.client_id and member.client_host == event.client_host
        checked = self._checked.get(group.group_id) == (self.topics.version, NONE_LEFT)
        return settled and same and member.classic is None and checked

    def _go_on(
        self, draft: Draft, event: Asked, request: ConsumerGroupHeartbeatRequest, now_ms: int
    ) -> Iterator[Effect]:
        member_id = request.member_id or event.new_id
        owned = request.topic_partitions
        reported = reported_by(None if owned is None else ((each.topic_id, each.partitions) for each in owned))
        was, epoch = draft.group.has(member_id), draft.group.epoch
        new = member_id not in draft.group.members
        replaced = self.unwatch_replaced(draft.group, member_id, request.instance_id)
        enter(draft, request, member_id, reported)
        changed = update(draft, member_id, event, self.topics, now_ms)
        self.renew_epoch(draft, changed, now_ms)
        self.renew_target(draft, now_ms)
        current = self.step(draft, member_id, reported, changed)
        if draft.records:
            yield Append(tuple(draft.records))
        group_id = request.group_id
        if new:
            yield member_note(draft.group, member_id, "member-joined", "joined")
        if draft.group.epoch != epoch:
            yield self.raised(draft.group, member_id, changed)
        yield from replaced
        yield self.heard_of(draft.group, member_id)
        if current != was:
            member = draft.group.members[member_id]
            yield from _watch_revocation(group_id, member_id, current, member.rebalance_timeout_ms)
        lost = request.member_epoch != was.epoch
        told = current.owned if _is_full(request) or lost or current.owned != was.owned else None
        yield Reply(event.to, self._answer(group_id, member_id, current.epoch, told))

    def raised(self, group: ModernGroup, member_id: str, changed: bool) -> Note:
        """Who or what caused the rebalance."""
        cause = f"member {member_id} subscribes anew" if changed else "its topics changed"
        text = f"group epoch {group.epoch} began, since {cause}: its partitions are shared out anew"
        return group_note(group.group_id, "rebalance-began", text, epoch=group.epoch, member=member_id)

    def renew_epoch(self, draft: Draft, changed: bool, now_ms: int) -> None:
        """Raise the group epoch when a member subscribes to something else, or its topics are not what they were."""
        group_id, version = draft.group.group_id, self.topics.version
        seen, left = self._checked.get(group_id, (-1, NONE_LEFT))
        if not changed and seen == version and not left:
            return
        if seen != version:
            left = frozenset(draft.group.regexes)
        self._checked[group_id] = (version, resolve_again(draft, self.topics, left, now_ms))
        topics_hash = self.hash_of(draft.group)
        known = draft.group.epoch
        epoch = max(known, FIRST_EPOCH) + (changed or topics_hash != draft.group.topics_hash)
        if epoch != known:
            draft.put_epoch(epoch, topics_hash)

    def hash_of(self, group: ModernGroup) -> int:
        """What the group's topics are made of, in 64 bits: equal as long as no target need change."""
        found = [topic for name in sorted(group.subscribed()) if (topic := self.topics.by_name.get(name)) is not None]
        if not found:
            return 0
        digest = blake2b(digest_size=8)
        for topic in found:
            digest.update(topic.id + len(topic.partitions).to_bytes(4, "big"))
        return int.from_bytes(digest.digest(), "big", signed=True)

    def renew_target(self, draft: Draft, now_ms: int) -> None:
        """Compute who is to have what, when the group epoch has gone ahead of the last answer."""
        group, topics = draft.group, self.topics.by_name
        if group.epoch <= group.target_epoch:
            return
        if 0 <= now_ms - group.target_ms < self.limits_of(group.group_id).assignment_interval_ms:
            return
        wanted = {name: topics[name] for name in group.subscribed() if name in topics}
        subscribers = {
            member_id: Subscriber(
                member.instance_id,
                frozenset(wanted[name].id for name in group.topics_of(member) if name in wanted),
                group.target.get(member_id, {}),
            )
            for member_id, member in group.members.items()
        }
        assign = ASSIGNORS[self.assignor_of(group)]
        counts = {topic.id: len(topic.partitions) for topic in sorted(wanted.values(), key=lambda each: each.name)}
        for member_id, share in assign(subscribers, counts).items():
            if group.target.get(member_id) != share:
                draft.put_target(member_id, share)
        draft.put_target_epoch(group.epoch, now_ms)

    def assignor_of(self, group: ModernGroup) -> str:
        """The assignor that a group uses: the one that most members ask for, of those that are served."""
        chosen = group.assignor(self.limits.assignors[0])
        return chosen if chosen in self.limits.assignors else self.limits.assignors[0]

    def step(self, draft: Draft, member_id: str, reported: Reported | None, changed: bool = False) -> Current:
        settled = draft.group.is_reconciled(member_id) and not changed
        wanted = None if settled else self._ids_of(draft.group, member_id)
        current = reconcile(draft.group, member_id, reported, wanted, changed=changed)
        if current != draft.group.has(member_id) or member_id not in draft.group.current:
            draft.put_current(member_id, current)
        return current

    def _ids_of(self, group: ModernGroup, member_id: str) -> frozenset[bytes]:
        """The topics that a member subscribes to, of those that there are."""
        topics = self.topics.by_name
        return frozenset(topics[name].id for name in group.topics_of(group.members[member_id]) if name in topics)

    def heard_of(self, group: ModernGroup, member_id: str) -> Effect:
        """The member lives: its session begins anew."""
        group_id = group.group_id
        return Arm(
            _session_key(group_id, member_id), self._session_ms(group, member_id), MemberExpired(group_id, member_id)
        )

    def _session_ms(self, group: ModernGroup, member_id: str) -> int:
        """A classic member chose its own."""
        classic = group.members[member_id].classic
        return self.limits_of(group.group_id).session_ms if classic is None else classic.session_ms

    def _answer(self, group_id: str, member_id: str, epoch: int, told: Owned | None) -> ConsumerGroupHeartbeatResponse:
        assignment = None
        if told is not None:
            topics = [
                ConsumerGroupHeartbeatResponseTopicPartitions(topic_id, sorted(told[topic_id]))
                for topic_id in sorted(told)
            ]
            assignment = Assignment(topics)
        return ConsumerGroupHeartbeatResponse(
            member_id=member_id,
            member_epoch=epoch,
            heartbeat_interval_ms=self.limits_of(group_id).heartbeat_ms,
            assignment=assignment,
        )

    # Leaving

    def _leave(self, event: Asked, request: ConsumerGroupHeartbeatRequest, now_ms: int) -> Iterator[Effect]:
        group = self.find(request.group_id)
        member_id = request.member_id
        if request.instance_id is None:
            group.find(member_id)
        else:
            check_instance(group, member_id, request.instance_id)
        if request.member_epoch == LEAVE_STATIC_EPOCH:
            draft = Draft(group)
            draft.put_current(
                member_id, Current(LEAVE_STATIC_EPOCH, group.has(member_id).epoch, *_kept(group, member_id))
            )
            yield Append(tuple(draft.records))
            yield Disarm(_revocation_key(group.group_id, member_id))
        else:
            yield member_note(group, member_id, "member-left", "left")
            yield from self.expel(group, [member_id], now_ms)
        answer = ConsumerGroupHeartbeatResponse(member_id=member_id, member_epoch=request.member_epoch)
        yield Reply(event.to, answer)

    def expel(self, group: ModernGroup, member_ids: Iterable[str], now_ms: int) -> Iterator[Effect]:
        """Take members out of the group; what they had is free for the others."""
        draft = Draft(group)
        for member_id in member_ids:
            yield from self.unwatch(group, member_id)
            draft.drop_member(member_id)
        if self.give_back is not None and only_classic(draft.group) and not only_classic(group):
            yield from self.give_back(draft.group, now_ms)
            return
        drop_unused(draft)
        draft.put_epoch(max(draft.group.epoch, FIRST_EPOCH) + 1, self.hash_of(draft.group))
        yield Append(tuple(draft.records))

    def unwatch(self, group: ModernGroup, member_id: str) -> Iterator[Effect]:
        """Forget the deadlines of a member."""
        return self._unwatch(group.group_id, member_id, group.members[member_id].classic is not None)

    def _unwatch(self, group_id: str, member_id: str, is_classic: bool) -> Iterator[Effect]:
        yield Disarm(_session_key(group_id, member_id))
        yield Disarm(_revocation_key(group_id, member_id))
        if is_classic:
            self.awaited.discard((group_id, member_id))
            yield Disarm(rejoin_key(group_id, member_id))
            yield Disarm(sync_key(group_id, member_id))

    def unwatch_replaced(self, group: ModernGroup, member_id: str, instance_id: str | None) -> Iterator[Effect]:
        """The same for whom a member that comes takes the place of: who holds its instance id now, or itself as long as
        it spoke the classic protocol. Nothing is forgotten before the effects are taken: it may yet be refused."""
        old_id = (group.instance(instance_id) if instance_id is not None else None) or member_id
        old = group.members.get(old_id)
        is_replaced = old is not None and (old_id != member_id or old.classic is not None)
        return self.unwatch(group, old_id) if is_replaced else iter(())

    def drop(self, group: ModernGroup) -> tuple[Record, ...]:
        """Tombstones of all of a group."""
        draft = Draft(group)
        draft.drop_group()
        return tuple(draft.records)

    # Time and topics

    def expire_member(self, event: MemberExpired, now_ms: int) -> Iterator[Effect]:
        """Nothing was heard of a member for the session timeout."""
        group = self.groups.get(event.group_id)
        if group is not None and event.member_id in group.members:
            silent_ms = self._session_ms(group, event.member_id)
            yield member_note(
                group,
                event.member_id,
                "member-evicted",
                f"was put out: no heartbeat for {silent_ms} ms (group.consumer.session.timeout.ms): it died, hangs, or "
                "can't reach the broker",
                after_ms=silent_ms,
            )
            yield from self.expel(group, [event.member_id], now_ms)

    def expire_revocation(self, event: RevocationExpired, now_ms: int) -> Iterator[Effect]:
        """A member did not give up its partitions in its rebalance timeout."""
        group = self.groups.get(event.group_id)
        if group is None or event.member_id not in group.members:
            return
        current = group.has(event.member_id)
        if current.epoch == event.epoch and current.phase is Phase.UNREVOKED_PARTITIONS:
            waited_ms = group.members[event.member_id].rebalance_timeout_ms
            yield member_note(
                group,
                event.member_id,
                "member-evicted",
                f"was put out: it did not give up its partitions within {waited_ms} ms (max.poll.interval.ms): it "
                "polls too seldom, or is stuck",
                after_ms=waited_ms,
            )
            yield from self.expel(group, [event.member_id], now_ms)

    def see_settings(self, event: SettingsSeen, now_ms: int) -> Iterator[Effect]:
        """Settings changed; each member hears of them with its next heartbeat."""
        self.limits, self.own_limits = event.modern, event.own
        yield from ()

    def see_topics(self, event: TopicsSeen, now_ms: int) -> Iterator[Effect]:
        """The cluster's topics changed; each group looks at them with its next heartbeat."""
        self.topics.see(event.version, event.by_name, event.by_id)
        yield from ()


def _group_of(record: Record) -> str:
    key: Any = record.key
    group_id: str = key.group_id
    return group_id


def member_note(group: ModernGroup, member_id: str, kind: str, what: str, **facts: object) -> Note:
    """What happened to a member, in words."""
    member = group.members[member_id]
    who = f"member {member_id} ({member.client_id or 'no client id'} at {member.client_host.lstrip('/')})"
    return group_note(group.group_id, kind, f"{who} {what}", member=member_id, client=member.client_id, **facts)


def _kept(group: ModernGroup, member_id: str) -> tuple[Phase, Owned]:
    return Phase.STABLE, group.has(member_id).owned


def _is_full(request: ConsumerGroupHeartbeatRequest) -> bool:
    """Whether a member tells all of itself, as it does when it joins or lost an answer."""
    if request.member_epoch == JOIN_EPOCH:
        return True
    wishes = request.subscribed_topic_names is not None or request.subscribed_topic_regex is not None
    return request.rebalance_timeout_ms != -1 and wishes and request.topic_partitions is not None


def _session_key(group_id: str, member_id: str) -> tuple[str, str, str]:
    return ("member", group_id, member_id)


def _revocation_key(group_id: str, member_id: str) -> tuple[str, str, str]:
    return ("revocation", group_id, member_id)


def rejoin_key(group_id: str, member_id: str) -> tuple[str, str, str]:
    return ("rejoin", group_id, member_id)


def sync_key(group_id: str, member_id: str) -> tuple[str, str, str]:
    return ("resync", group_id, member_id)


def only_classic(group: ModernGroup) -> bool:
    """Whether it has members, and all of them speak the classic protocol."""
    return bool(group.members) and all(member.classic is not None for member in group.members.values())


def _watch_revocation(group_id: str, member_id: str, current: Current, timeout_ms: int) -> Iterator[Effect]:
    key = _revocation_key(group_id, member_id)
    if current.phase is Phase.UNREVOKED_PARTITIONS:
        yield Arm(key, timeout_ms, RevocationExpired(group_id, member_id, current.epoch))
    else:
        yield Disarm(key)


EVENTS: dict[type, Callable[[ModernGroups, Any, int], Iterator[Effect]]] = {
    MemberExpired: ModernGroups.expire_member,
    RevocationExpired: ModernGroups.expire_revocation,
    TopicsSeen: ModernGroups.see_topics,
}
