"""What only logd can do with groups: SeekGroup (30000), GroupLag (30001).

Live seek moves the offsets of a group while it is in use; lag is told in messages and, by the timestamps of the
records that come next, in milliseconds. Checks partitions and offsets against the logs here; what happens to members
is decided by the group coordinator. Called through the registry.
"""

from __future__ import annotations

from collections.abc import Iterable

from logd.apis.groups import require_group_id
from logd.apis.registry import Call, api
from logd.coordinators.front import Waiter
from logd.errors import ErrorCode, Refused
from logd.partitions.partition import Partition
from logd.wire.schemas.group_lag import (
    GroupLagRequest,
    GroupLagResponse,
    LaggingGroup,
    LaggingPartition,
)
from logd.wire.schemas.seek_group import (
    SeekGroupPartitionResult,
    SeekGroupRequest,
    SeekGroupResponse,
    SeekGroupTopicResult,
)

SEEK_GROUP, GROUP_LAG = 30000, 30001


# SeekGroup


def _not_sought(request: SeekGroupRequest, version: int, refused: Refused) -> SeekGroupResponse:
    return SeekGroupResponse(0, int(refused.code), refused.message)


@api(SEEK_GROUP, refuse=_not_sought)
async def seek_group(call: Call, request: SeekGroupRequest) -> SeekGroupResponse:
    """Version 0: all partitions or none. With `validate_only` it is only told what would happen."""
    require_group_id(request.group_id)
    checked = [
        _checked(call, topic.name, [(p.partition_index, p.offset) for p in topic.partitions])
        for topic in request.topics
    ]
    wrong = [row for topic in checked for row in topic.partitions if row.error_code]
    if wrong:
        return SeekGroupResponse(0, wrong[0].error_code, wrong[0].error_message, topics=checked)
    places = [(topic.name, row.partition_index) for topic in request.topics for row in topic.partitions]
    if not places or len(set(places)) != len(places):
        raise Refused(ErrorCode.INVALID_REQUEST, "name at least one partition, and each only once")
    answer = await call.services.groups.ask(request.group_id, request, call.version).wait()
    assert isinstance(answer, SeekGroupResponse)
    return answer


def _checked(call: Call, topic: str, wanted: Iterable[tuple[int, int]]) -> SeekGroupTopicResult:
    return SeekGroupTopicResult(topic, [_checked_row(call, topic, index, offset) for index, offset in wanted])


def _checked_row(call: Call, topic: str, index: int, offset: int) -> SeekGroupPartitionResult:
    row = SeekGroupPartitionResult(index, offset=offset)
    try:
        partition = call.services.partitions.find(topic, index)
        low, high = partition.log.start_offset, partition.high_watermark
        if not low <= offset <= high:
            raise Refused(
                ErrorCode.OFFSET_OUT_OF_RANGE,
                f"offset {offset} of {topic}-{index} is outside of its log: give one from {low} to {high}",
            )
    except Refused as refused:
        row.error_code, row.error_message = int(refused.code), refused.message
    return row


# GroupLag


def _no_lag(request: GroupLagRequest, version: int, refused: Refused) -> GroupLagResponse:
    return GroupLagResponse(0, int(refused.code), refused.message)


@api(GROUP_LAG, refuse=_no_lag)
async def group_lag(call: Call, request: GroupLagRequest) -> GroupLagResponse:
    """Version 0: of the groups that are named, or of all that this node coordinates."""
    answer = GroupLagResponse()
    if request.group_ids is None:
        for waiter in call.services.groups.ask_all(request, call.version):
            answer.groups += await _told(waiter)
    else:
        for group_id in dict.fromkeys(request.group_ids):
            try:
                require_group_id(group_id)
                answer.groups += await _told(call.services.groups.ask(group_id, GroupLagRequest([group_id])))
            except Refused as refused:
                answer.groups.append(LaggingGroup(group_id, int(refused.code), refused.message))
    for group in answer.groups:
        await _measure(call, group)
    answer.groups.sort(key=lambda group: group.group_id)
    return answer


async def measured(call: Call, group_id: str) -> LaggingGroup:
    """One group with its lag; raises Refused as the coordinator does."""
    (group,) = await _told(call.services.groups.ask(group_id, GroupLagRequest([group_id])))
    await _measure(call, group)
    return group


async def _told(waiter: Waiter) -> list[LaggingGroup]:
    answer = await waiter.wait()
    assert isinstance(answer, GroupLagResponse)
    return answer.groups


async def _measure(call: Call, group: LaggingGroup) -> None:
    """Add how far the logs go beyond what is committed."""
    rows = [row for topic in group.topics for row in topic.partitions]
    for topic in group.topics:
        for row in topic.partitions:
            try:
                await _measure_row(call, call.services.partitions.find(topic.name, row.partition_index), row)
            except Refused as refused:
                row.error_code, row.error_message = int(refused.code), refused.message
    group.lag = sum(row.lag for row in rows if row.lag >= 0) if any(row.lag >= 0 for row in rows) else -1
    group.lag_ms = max((row.lag_ms for row in rows), default=-1)


async def _measure_row(call: Call, partition: Partition, row: LaggingPartition) -> None:
    row.start_offset, row.end_offset = partition.log.start_offset, partition.high_watermark
    if row.committed_offset < 0:
        return
    row.lag = max(row.end_offset - max(row.committed_offset, row.start_offset), 0)
    if not row.lag:
        row.lag_ms = 0
        return
    written_ms = await call.services.record_times.at(partition, max(row.committed_offset, row.start_offset))
    if written_ms >= 0:
        row.lag_ms = max(call.services.clock.now_ms() - written_ms, 0)
