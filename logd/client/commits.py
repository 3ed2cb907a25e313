"""Committed offsets as the member of a group sees them: read them when partitions come, write them when work is done.

Asked by the consumer; each function is one exchange with the group's coordinator, repeated while that moves. What an
administrator does to offsets is in ``groups``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from logd.client.calls import OFFSET_COMMIT, OFFSET_FETCH
from logd.client.errors import ClientError, CommitFailed, error_code, refused
from logd.client.group_offsets import commits_in
from logd.client.metadata import TopicPartition
from logd.client.routing import GROUP, Router
from logd.errors import ErrorCode, Refused

if TYPE_CHECKING:
    pass

T = TypeVar("T")

FENCED = frozenset(
    {
        ErrorCode.ILLEGAL_GENERATION,
        ErrorCode.UNKNOWN_MEMBER_ID,
        ErrorCode.FENCED_INSTANCE_ID,
        ErrorCode.FENCED_MEMBER_EPOCH,
        ErrorCode.STALE_MEMBER_EPOCH,
        ErrorCode.REBALANCE_IN_PROGRESS,
    }
)
"""The member is not what it believes to be: its commit was refused as a whole."""


class Identity(NamedTuple):
    """Who commits: `epoch` is the generation of the classic protocol or the member epoch; -1 outside of a group."""

    group: str
    member_id: str = ""
    epoch: int = -1
    instance: str | None = None


class _Gone(Exception):
    """A partition that is committed for is not there any more: no retry mends that, unlike what its code says."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error


async def at_coordinator(router: Router, name: str, action: Callable[[int], Awaitable[T]], kind: int = GROUP) -> T:
    """Do it at the coordinator of a group (or transactional id), and again at the new one when it has moved."""

    async def attempt() -> T:
        try:
            return await action(await router.coordinator(name, kind))
        except (Refused, ClientError):
            router.forget_coordinator(name, kind)
            raise

    return await router.retry(attempt)


async def commit_offsets(router: Router, who: Identity, offsets: Mapping[TopicPartition, int]) -> None:
    """Commit; each offset is that of the next record to read.

    :raises CommitFailed: the member was put out, or its partitions are being given to others.
    :raises Refused: the server's other reasons, such as a topic that is gone or metadata that is too large.
    """
    from logd.wire.schemas.offset_commit import (
        OffsetCommitRequest,
        OffsetCommitRequestPartition,
        OffsetCommitRequestTopic,
        OffsetCommitResponse,
    )

    if not offsets:
        return
    topics: dict[str, OffsetCommitRequestTopic] = {}
    for at, offset in offsets.items():
        topic = topics.setdefault(at.topic, OffsetCommitRequestTopic(name=at.topic))
        part = OffsetCommitRequestPartition(partition_index=at.partition, committed_offset=offset)
        topic.partitions.append(part)
    request = OffsetCommitRequest(
        group_id=who.group,
        generation_id_or_member_epoch=who.epoch,
        member_id=who.member_id,
        group_instance_id=who.instance,
        topics=list(topics.values()),
    )

    async def attempt(node: int) -> None:
        answer = await router.ask(OFFSET_COMMIT, request, OffsetCommitResponse, node=node)
        for item in answer.topics:
            for part in item.partitions:
                if part.error_code:
                    at = TopicPartition(item.name, part.partition_index)
                    error = not_committed(who, part.error_code, str(at))
                    if part.error_code == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION and await _is_gone(router, at):
                        raise _Gone(error)
                    raise error

    try:
        await at_coordinator(router, who.group, attempt)
    except _Gone as gone:
        raise gone.error from None


async def _is_gone(router: Router, at: TopicPartition) -> bool:
    await router.try_refresh([at.topic])
    return router.metadata.partition(at) is None


def not_committed(who: Identity, number: int, partition: str) -> Exception:
    """Why the offset of a partition was not committed."""
    code = error_code(number)
    if code not in FENCED:
        return refused(number, None, f"commit of {partition} in group {who.group!r}")
    why = f"the group has been rebalanced, and this member does not own the partition now ({code.name})"
    remedy = "others read these records again; do less between two reads, or raise max_poll_interval_ms"
    if code == ErrorCode.FENCED_INSTANCE_ID:
        why = f"another member with instance id {who.instance!r} has joined in its place ({code.name})"
        remedy = "give each running consumer an instance id of its own"
    error = CommitFailed(f"the offset of {partition} was not committed in group {who.group!r}", why, remedy)
    error.code = code
    return error


async def fetch_offsets(
    router: Router, who: Identity, partitions: Collection[TopicPartition]
) -> dict[TopicPartition, int]:
    """The committed offset of each of these partitions that has one. Waits while a transaction is about to change it.

    :raises Refused: the server's reasons, a fenced member among them.
    """
    from logd.wire.schemas.offset_fetch import (
        OffsetFetchRequest,
        OffsetFetchRequestGroup,
        OffsetFetchRequestTopic,
        OffsetFetchRequestTopics,
        OffsetFetchResponse,
    )

    topics: dict[str, list[int]] = {}
    for at in partitions:
        topics.setdefault(at.topic, []).append(at.partition)
    named = [OffsetFetchRequestTopics(name=name, partition_indexes=indexes) for name, indexes in topics.items()]
    member = who.member_id if who.epoch >= 0 else None
    request = OffsetFetchRequest(
        group_id=who.group,
        topics=[OffsetFetchRequestTopic(name=name, partition_indexes=indexes) for name, indexes in topics.items()],
        groups=[OffsetFetchRequestGroup(who.group, member, who.epoch, named)],
        require_stable=True,
    )

    async def attempt(node: int) -> dict[TopicPartition, int]:
        answer = await router.ask(OFFSET_FETCH, request, OffsetFetchResponse, node=node)
        return {place: item.offset for place, item in commits_in(who.group, answer).items()}

    return await at_coordinator(router, who.group, attempt)
