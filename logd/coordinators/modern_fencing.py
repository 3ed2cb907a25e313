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
        raise _invalid("GroupId can't be empty.")
    if not request.member_id.strip() and (version >= MEMBER_ID_REQUIRED_VERSION or epoch != JOIN_EPOCH):
        raise _invalid("MemberId can't be empty.")
    if request.instance_id is not None and not request.instance_id.strip():
        raise _invalid("InstanceId can't be empty.")
    if request.rack_id is not None and not request.rack_id.strip():
        raise _invalid("RackId can't be empty.")
    if epoch < LEAVE_STATIC_EPOCH:
        raise _invalid("MemberEpoch is invalid.")
    if epoch == LEAVE_STATIC_EPOCH and request.instance_id is None:
        raise _invalid("InstanceId can't be null.")
    if epoch == JOIN_EPOCH:
        _check_join(request)
    if request.server_assignor is not None and request.server_assignor not in assignors:
        raise Refused(
            ErrorCode.UNSUPPORTED_ASSIGNOR,
            f"ServerAssignor {request.server_assignor} is not supported. Supported assignors: {', '.join(assignors)}.",
        )


def _check_join(request: ConsumerGroupHeartbeatRequest) -> None:
    if request.rebalance_timeout_ms == -1:
        raise _invalid("RebalanceTimeoutMs must be provided in first request.")
    if request.topic_partitions is None or request.topic_partitions:
        raise _invalid("TopicPartitions must be empty when (re-)joining.")
    if request.subscribed_topic_names is None and request.subscribed_topic_regex is None:
        raise _invalid("Either SubscribedTopicNames or SubscribedTopicRegex must be non-null when (re-)joining.")


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
        raise Refused(ErrorCode.UNKNOWN_MEMBER_ID, f"Instance id {instance_id} is unknown.")
    if holder != member_id:
        raise Refused(
            ErrorCode.FENCED_INSTANCE_ID,
            f"Static member {member_id} with instance id {instance_id} was fenced by member {holder}.",
        )


def check_commit(group: ModernGroup, request: OffsetCommitRequest, version: int) -> None:
    """Whether these offsets may be committed: by a member, or by anyone while there is no member.

    A member whose epoch has moved on may still commit what it has had since the epoch that it names (KIP-1251).

    :raises Refused: UNKNOWN_MEMBER_ID, STALE_MEMBER_EPOCH, UNSUPPORTED_VERSION.
    """
    epoch = request.generation_id_or_member_epoch
    if epoch < 0 and not group.members:
        return
    group.find(request.member_id)
    if version < EPOCH_IN_COMMIT_VERSION:
        raise Refused(
            ErrorCode.UNSUPPORTED_VERSION,
            "members of a consumer group commit with version 9 of OffsetCommit or a later one",
        )
    current = group.has(request.member_id)
    if epoch == current.epoch:
        return
    if not 0 <= epoch < current.epoch:
        raise _stale(epoch, current)
    for topic in request.topics:
        for asked in topic.partitions:
            since = _since(current, topic.topic_id, asked.partition_index)
            if since is None or since > epoch:
                raise _stale(epoch, current)


def _since(current: Current, topic_id: bytes, index: int) -> int | None:
    for owned in (current.owned, current.revoking):
        since = owned.get(topic_id, {}).get(index)
        if since is not None:
            return since
    return None


def check_fetch(group: ModernGroup, request: OffsetFetchRequestGroup) -> None:
    """Whether this member may ask for offsets; without a member id and epoch anyone may.

    :raises Refused: UNKNOWN_MEMBER_ID, STALE_MEMBER_EPOCH.
    """
    if request.member_id is None and request.member_epoch < 0:
        return
    group.find(request.member_id or "")
    current = group.has(request.member_id or "")
    if request.member_epoch != current.epoch:
        raise _stale(request.member_epoch, current)


def _stale(epoch: int, current: Current) -> Refused:
    return Refused(
        ErrorCode.STALE_MEMBER_EPOCH, f"member epoch {epoch} is not the current {current.epoch}: heartbeat first"
    )


def leaves(request: ConsumerGroupHeartbeatRequest) -> bool:
    """Whether a heartbeat says good-bye."""
    return request.member_epoch in (LEAVE_EPOCH, LEAVE_STATIC_EPOCH)
