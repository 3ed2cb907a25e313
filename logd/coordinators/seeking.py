"""Live seek: PURE. New offsets for a group while it is in use, and its members fenced so that they start from them.

Something that only logd has (SeekGroup, key 30000). A mere rebalance would not do: cooperative members keep their
positions and would commit the old ones again. So everyone is put out, the generation or group epoch goes up, and
offsets and members change in one batch of the log; a member hears UNKNOWN_MEMBER_ID with its next request, gives up
what it had and joins anew. Called by :mod:`machine`; whether partitions are there is checked before, by the API.
"""

from __future__ import annotations

from collections.abc import Iterator

from logd.chronicle import Note, group_note
from logd.coordinators.effects import Append, Disarm, Effect, Record
from logd.coordinators.group import Group, Phase
from logd.coordinators.offsets import Offsets
from logd.coordinators.rebalance import complete, remove_member, sync_key
from logd.errors import ErrorCode, Refused
from logd.wire.schemas.offset_commit import (
    OffsetCommitRequest,
    OffsetCommitRequestPartition,
    OffsetCommitRequestTopic,
    OffsetCommitResponse,
)
from logd.wire.schemas.seek_group import (
    SeekGroupPartitionResult,
    SeekGroupRequest,
    SeekGroupTopicResult,
)


def moves(
    offsets: Offsets, request: SeekGroupRequest, topic_ids: dict[str, bytes], metadata_bytes_max: int, now_ms: int
) -> tuple[list[SeekGroupTopicResult], tuple[Record, ...]]:
    """What a seek would move, with the offsets before it, and the records that do so.

    :param topic_ids: the ids of the topics by name, as far as they are known.
    :raises Refused: OFFSET_METADATA_TOO_LARGE.
    """
    commit = OffsetCommitRequest(
        request.group_id,
        topics=[
            OffsetCommitRequestTopic(
                topic.name,
                topic_ids.get(topic.name, bytes(16)),
                [
                    OffsetCommitRequestPartition(each.partition_index, each.offset, each.leader_epoch, each.metadata)
                    for each in topic.partitions
                ],
            )
            for topic in request.topics
        ],
    )
    response, records = offsets.commit(commit, metadata_bytes_max, now_ms)
    _check(response, metadata_bytes_max)
    results = []
    for topic in request.topics:
        rows = []
        for each in topic.partitions:
            held = offsets.get(request.group_id, topic.name, each.partition_index)
            before = -1 if held is None else held.offset
            rows.append(SeekGroupPartitionResult(each.partition_index, offset_before=before, offset=each.offset))
        results.append(SeekGroupTopicResult(topic.name, rows))
    return results, tuple(records)


def _check(response: OffsetCommitResponse, metadata_bytes_max: int) -> None:
    for topic in response.topics:
        for row in topic.partitions:
            if row.error_code:
                raise Refused(
                    ErrorCode(row.error_code),
                    f"metadata of {topic.name}-{row.partition_index}: at most {metadata_bytes_max} characters "
                    "(offset.metadata.max.bytes)",
                )


def sought(group_id: str, member_count: int, records: tuple[Record, ...]) -> Note:
    """What is remembered of a seek."""
    text = (
        f"offsets were moved (partitions: {len(records)}): its members ({member_count}) are fenced and start from them"
    )
    return group_note(group_id, "sought", text, partitions=len(records), members=member_count)


def fence(group: Group, records: tuple[Record, ...], now_ms: int) -> Iterator[Effect]:
    """Put all members of a classic group out and write its new offsets; the group is empty, one generation on."""
    yield sought(group.group_id, len(group.members), records)
    for member in tuple(group.members.values()):
        yield from remove_member(group, member)
    yield Append(records)
    if group.phase is Phase.EMPTY:
        return
    yield Disarm(sync_key(group))
    if group.can_rebalance():
        group.enter(Phase.PREPARING, now_ms)
    yield from complete(group, now_ms)
