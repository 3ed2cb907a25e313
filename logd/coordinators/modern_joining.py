"""How members come, change what they want, and go: PURE steps on a draft of their group (KIP-848).

Static members keep their place under a new member id (KIP-345), expressions are resolved to topics when they are
first named. Called by :mod:`modern_groups`, in this order, while it handles one heartbeat; each function says what it
found and leaves its records in the draft. It never answers and sets no timer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from logd.cluster.image import Topic
from logd.coordinators.events import Asked
from logd.coordinators.modern_fencing import check_epoch, check_instance
from logd.coordinators.modern_group import Draft, ModernGroup, Resolved
from logd.coordinators.modern_members import JOIN_EPOCH, LEAVE_STATIC_EPOCH, Member
from logd.coordinators.modern_reconciliation import Reported
from logd.errors import ErrorCode, Refused
from logd.expressions import Expression
from logd.wire.schemas.consumer_group_heartbeat import ConsumerGroupHeartbeatRequest

STATES_KEPT_MAX = 20_000
"""Of all automata that one shard remembers: 3 MB or so."""

NAMES_LOOKED_MAX = 40_000
RESOLVED_BYTES_MAX = 256 * 1024
"""What bringing a group's expressions up to date may cost within one heartbeat: names looked at, and bytes of topics
written. The next heartbeat goes on where this one stopped."""


class _Known(msgspec.Struct, frozen=True):
    """What an expression stood for among `names`."""

    expression: Expression
    names: Mapping[str, Topic]
    found: tuple[str, ...]


class TopicsView:
    """The cluster's topics, as one shard sees them, and the expressions that were asked of them."""

    def __init__(self) -> None:
        self.version = -1
        self.by_name: Mapping[str, Topic] = {}
        self.by_id: Mapping[bytes, Topic] = {}
        self.looked = 0
        """Names that expressions have been held against, ever."""
        self._known: dict[str, _Known] = {}
        self._states = 0

    def see(self, version: int, by_name: Mapping[str, Topic], by_id: Mapping[bytes, Topic]) -> None:
        self.version, self.by_name, self.by_id = version, by_name, by_id

    def resolve(self, regex: str, now_ms: int) -> Resolved:
        """What an expression stands for now; only names that are new since it was last asked are looked at.

        :raises Refused: INVALID_REGULAR_EXPRESSION.
        """
        known = self._known.get(regex)
        if known is None:
            known = _Known(Expression(regex), {}, ())
        names = self.by_name
        if names is not known.names:
            fresh = names.keys() - known.names.keys()
            self.looked += len(fresh)
            found = [name for name in known.found if name in names] + known.expression.resolve(fresh)
            known = _Known(known.expression, names, tuple(sorted(found)))
        self._remember(regex, known)
        return Resolved(known.found, self.version, now_ms)

    def _remember(self, regex: str, known: _Known) -> None:
        """Keep it as the latest; the ones asked for longest ago make room."""
        if self._known.pop(regex, None) is None:
            self._states += known.expression.size
        self._known[regex] = known
        while self._states > STATES_KEPT_MAX and len(self._known) > 1:
            oldest = next(iter(self._known))
            self._states -= self._known.pop(oldest).expression.size


def check_room(group: ModernGroup, request: ConsumerGroupHeartbeatRequest, size_max: int) -> None:
    """:raises Refused: GROUP_MAX_SIZE_REACHED."""
    if len(group.members) < size_max or request.member_id in group.members:
        return
    if request.instance_id is not None and group.instance(request.instance_id) is not None:
        return
    raise Refused(
        ErrorCode.GROUP_MAX_SIZE_REACHED,
        f"group {group.group_id!r} is full: it may have {size_max} members (group.consumer.max.size)",
    )


def enter(
    draft: Draft,
    request: ConsumerGroupHeartbeatRequest,
    member_id: str,
    reported: Reported | None,
    *,
    classic: bool = False,
) -> None:
    """Find the member that a heartbeat comes from, let a new one in, or let an instance take its place again.

    :param classic: the member speaks the classic protocol, in which an instance takes its place without asking.
    :raises Refused: UNKNOWN_MEMBER_ID, FENCED_MEMBER_EPOCH, FENCED_INSTANCE_ID, UNRELEASED_INSTANCE_ID.
    """
    group, epoch, instance_id = draft.group, request.member_epoch, request.instance_id
    if epoch != JOIN_EPOCH:
        if instance_id is None:
            group.find(member_id)
        else:
            check_instance(group, member_id, instance_id)
        check_epoch(group.has(member_id), epoch, reported)
        return
    holder = group.instance(instance_id) if instance_id is not None else None
    if holder is not None:
        both_modern = not classic and group.members[holder].classic is None
        if holder != member_id and both_modern and group.has(holder).epoch != LEAVE_STATIC_EPOCH:
            raise Refused(
                ErrorCode.UNRELEASED_INSTANCE_ID,
                f"group.instance.id {instance_id!r} is still held by member {holder!r}: stop that one first, "
                "or wait for its session to end",
            )
        _replace(draft, holder, member_id)


def _replace(draft: Draft, old_id: str, new_id: str) -> None:
    """An instance comes back: what it was to have, and had, is its own again."""
    group = draft.group
    member, share, current = group.members[old_id], group.target.get(old_id), group.has(old_id)
    if current.epoch == LEAVE_STATIC_EPOCH:
        current = msgspec.structs.replace(current, epoch=JOIN_EPOCH, before=JOIN_EPOCH)
    if old_id != new_id:
        draft.drop_member(old_id)
        draft.put_member(new_id, member)
        if share is not None:
            draft.put_target(new_id, share)
    if group.has(new_id) != current:
        draft.put_current(new_id, current)


def update(draft: Draft, member_id: str, event: Asked, topics: TopicsView, now_ms: int) -> bool:
    """Take what a heartbeat says of its member; True when it subscribes to something else than before.

    :raises Refused: INVALID_REGULAR_EXPRESSION.
    """
    request = event.request
    assert isinstance(request, ConsumerGroupHeartbeatRequest)
    old = draft.group.members.get(member_id, Member())
    return put_wishes(draft, member_id, old, _updated(old, event, request), topics, now_ms)


def put_wishes(draft: Draft, member_id: str, old: Member, new: Member, topics: TopicsView, now_ms: int) -> bool:
    """Take down what a member is now; True when it subscribes to something else than before.

    :raises Refused: INVALID_REGULAR_EXPRESSION.
    """
    if new == old and member_id in draft.group.members:
        return False
    if new.regex is not None and new.regex not in draft.group.regexes:
        draft.put_regex(new.regex, topics.resolve(new.regex, now_ms))
    had = draft.group.topics_of(old)
    draft.put_member(member_id, new)
    changed = set(old.names) != set(new.names) or had != draft.group.topics_of(new)
    if old.regex != new.regex:
        drop_unused(draft)
    return changed


def _updated(old: Member, event: Asked, request: ConsumerGroupHeartbeatRequest) -> Member:
    names, regex = request.subscribed_topic_names, request.subscribed_topic_regex
    return Member(
        old.instance_id if request.instance_id is None else request.instance_id,
        old.rack_id if request.rack_id is None else request.rack_id,
        event.client_id,
        event.client_host,
        old.names if names is None else tuple(sorted(set(names))),
        old.regex if regex is None else (regex or None),
        old.rebalance_timeout_ms if request.rebalance_timeout_ms == -1 else request.rebalance_timeout_ms,
        old.assignor if request.server_assignor is None else request.server_assignor,
    )


def drop_unused(draft: Draft) -> None:
    """Forget expressions that no member names any more."""
    used = {member.regex for member in draft.group.members.values()}
    for regex in [regex for regex in draft.group.regexes if regex not in used]:
        draft.put_regex(regex, None)


def resolve_again(draft: Draft, topics: TopicsView, left: frozenset[str], now_ms: int) -> frozenset[str]:
    """Bring these expressions of a group to the topics that there are now; those for which it is too much are returned.

    One that became too dear stays as it was.
    """
    looked_max, room = topics.looked + NAMES_LOOKED_MAX, RESOLVED_BYTES_MAX
    for regex in sorted(left):
        if topics.looked >= looked_max or room <= 0:
            return left
        left -= {regex}
        known = draft.group.regexes.get(regex)
        if known is None:
            continue
        try:
            resolved = topics.resolve(regex, now_ms)
        except Refused:
            continue
        if resolved.topics != known.topics:
            room -= sum(map(len, resolved.topics))
            draft.put_regex(regex, resolved)
    return left


def reported_by(partitions: Iterable[tuple[bytes, Iterable[int]]] | None) -> Reported | None:
    """What a member says it has."""
    if partitions is None:
        return None
    return {topic_id: frozenset(indexes) for topic_id, indexes in partitions}
