"""What a member of the consumer protocol may say and do: PURE checks that raise :class:`Refused` (KIP-848, KIP-1251).

The form of a heartbeat, its epoch against the one that the group knows, and who may commit and fetch offsets. Called
by :mod:`modern_groups` before anything is decided; nothing is changed here.
"""

from __future__ import annotations

from collections.abc import Iterable

from logd.coordinators.modern_group import ModernGroup
from logd.coordinators.modern_members import JOIN_EPOCH, LEAVE_EPOCH, LEAVE_STATIC_EPOCH, Current
from logd.coordinators.modern_reconciliation import Reported
from logd.errors import ErrorCode, Refused
from logd.wire.schemas.consumer_group_heartbeat import ConsumerGroupHeartbeatRequest
from logd.wire.schemas.offset_commit import OffsetCommitRequest
from logd.wire.schemas.offset_fetch import OffsetFetchRequestGroup

EPOCH_IN_COMMIT_VERSION = 9
MEMBER_ID_REQUIRED_VERSION = 1


def check_request(request: ConsumerGroupHeartbeatRequest, version: int, assignors: Iterable[str]) -> None:
    """The form of a heartbeat.

    :raises Refused: INVALID_REQUEST, UNSUPPORTED_ASSIGNOR.
    """
    epoch = request.member_epoch
    if not request.group_id.strip():
        raise _invalid("the group id is empty: set group.id")
    if not request.member_id.strip() and (version >= MEMBER_ID_REQUIRED_VERSION or epoch != JOIN_EPOCH):
        raise _invalid("the member id is empty: a member makes its own")
    if request.instance_id is not None and not request.instance_id.strip():
        raise _invalid("the instance id is empty: leave it out or give one")
    if request.rack_id is not None and not request.rack_id.strip():
        raise _invalid("the rack id is empty: leave it out or give one")
    if epoch < LEAVE_STATIC_EPOCH:
        raise _invalid(f"member epoch {epoch} means nothing: 0 joins, -1 leaves, -2 leaves for a while")
    if epoch == LEAVE_STATIC_EPOCH and request.instance_id is None:
        raise _invalid("only a static member leaves for a while: give its instance id")
    if epoch == JOIN_EPOCH:
        _check_join(request)
    if request.server_assignor is not None and request.server_assignor not in assignors:
        raise Refused(
            ErrorCode.UNSUPPORTED_ASSIGNOR,
            f"ServerAssignor {request.server_assignor} is not supported. Supported assignors: {', '.join(assignors)}.",
        )


def _check_join(request: ConsumerGroupHeartbeatRequest) -> None:
    if request.rebalance_timeout_ms == -1:
        raise _invalid("who joins must give a rebalance timeout")
    if request.topic_partitions is None or request.topic_partitions:
        raise _invalid("who joins holds no partitions: send an empty list of them")
    if request.subscribed_topic_names is None and request.subscribed_topic_regex is None:
        raise _invalid("who joins must subscribe, by topic names or by an expression")


def _invalid(message: str) -> Refused:
    return Refused(ErrorCode.INVALID_REQUEST, message)


def check_epoch(current: Current, epoch: int, reported: Reported | None) -> None:
    """A heartbeat's epoch must be the member's, or the one before when only the answer was lost.

    :raises Refused: FENCED_MEMBER_EPOCH.
    """
    if epoch == current.epoch:
        return
    if epoch < current.epoch and epoch == current.before and _within(reported, current):
        return
    what = "greater" if epoch > current.epoch else "smaller"
    raise Refused(
        ErrorCode.FENCED_MEMBER_EPOCH,
        f"the member comes with a {what} epoch ({epoch}) than the group coordinator knows ({current.epoch}): "
        "it must give up all its partitions and join again",
    )


def _within(reported: Reported | None, current: Current) -> bool:
    """Whether a member has no more than it was given; one that does not say is not believed."""
    if reported is None:
        return False
    return all(indexes <= set(current.owned.get(topic_id, ())) for topic_id, indexes in reported.items())


def check_instance(group: ModernGroup, member_id: str, instance_id: str) -> None:
    """:raises Refused: UNKNOWN_MEMBER_ID, or FENCED_INSTANCE_ID for an instance that another member now holds."""
    holder = group.instance(instance_id)
    if holder is None:
        raise Refused(
            ErrorCode.UNKNOWN_MEMBER_ID,
            f"group.instance.id {instance_id!r} is not in group {group.group_id!r}: join again",
        )
    if holder != member_id:
        raise Refused(
            ErrorCode.FENCED_INSTANCE_ID,
            f"group.instance.id {instance_id!r} now belongs to another member: give each process its own",
        )


def check_commit(group: ModernGroup, request: OffsetCommitRequest, version: int) -> None:
    """Whether these offsets may be committed: by a member, or by anyone while there is no member.

    A member whose epoch has moved on may still commit what it has had since the epoch that it names (KIP-1251).

    :raises Refused: UNKNOWN_MEMBER_ID, STALE_MEMBER_EPOCH, ILLEGAL_GENERATION (classic members), UNSUPPORTED_VERSION.
    """
    epoch = request.generation_id_or_member_epoch
    if epoch < 0 and not group.members:
        return
    classic = group.find(request.member_id).classic is not None
    if not classic and version < EPOCH_IN_COMMIT_VERSION:
        raise Refused(
            ErrorCode.UNSUPPORTED_VERSION,
            "members of a consumer group commit with version 9 of OffsetCommit or a later one",
        )
    current = group.has(request.member_id)
    if epoch == current.epoch:
        return
    if not 0 <= epoch < current.epoch or not _had_all(current, request, epoch):
        raise _other_generation(group, epoch, current) if classic else _stale(epoch, current)


def _had_all(current: Current, request: OffsetCommitRequest, epoch: int) -> bool:
    """Whether a member has had since an epoch all that it commits."""
    for topic in request.topics:
        for asked in topic.partitions:
            since = _since(current, topic.topic_id, asked.partition_index)
            if since is None or since > epoch:
                return False
    return True


def check_pending(group: ModernGroup, request: OffsetCommitRequest) -> None:
    """The same for offsets of a transaction, which need not name a member; an old epoch has another name there.

    :raises Refused: UNKNOWN_MEMBER_ID, ILLEGAL_GENERATION.
    """
    nameless = not request.member_id and request.group_instance_id is None
    if request.generation_id_or_member_epoch < 0 and nameless:
        return
    try:
        check_commit(group, request, EPOCH_IN_COMMIT_VERSION)
    except Refused as refused:
        if refused.code is not ErrorCode.STALE_MEMBER_EPOCH:
            raise
        raise Refused(ErrorCode.ILLEGAL_GENERATION, refused.message) from refused


def _since(current: Current, topic_id: bytes, index: int) -> int | None:
    for owned in (current.owned, current.revoking):
        since = owned.get(topic_id, {}).get(index)
        if since is not None:
            return since
    return None


def check_fetch(group: ModernGroup, request: OffsetFetchRequestGroup) -> None:
    """Whether this member may ask for offsets; without a member id and epoch anyone may.

    :raises Refused: UNKNOWN_MEMBER_ID, STALE_MEMBER_EPOCH, ILLEGAL_GENERATION (classic members).
    """
    if request.member_id is None and request.member_epoch < 0:
        return
    classic = group.find(request.member_id or "").classic is not None
    current = group.has(request.member_id or "")
    if request.member_epoch != current.epoch:
        epoch = request.member_epoch
        raise _other_generation(group, epoch, current) if classic else _stale(epoch, current)


def _other_generation(group: ModernGroup, epoch: int, current: Current) -> Refused:
    return Refused(
        ErrorCode.ILLEGAL_GENERATION,
        f"generation {epoch} is not the member's epoch {current.epoch} in group {group.group_id!r}: join again",
    )


def _stale(epoch: int, current: Current) -> Refused:
    return Refused(
        ErrorCode.STALE_MEMBER_EPOCH, f"member epoch {epoch} is not the current {current.epoch}: heartbeat first"
    )


def leaves(request: ConsumerGroupHeartbeatRequest) -> bool:
    """Whether a heartbeat says good-bye."""
    return request.member_epoch in (LEAVE_EPOCH, LEAVE_STATIC_EPOCH)
