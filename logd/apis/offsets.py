"""ListOffsets (2), OffsetForLeaderEpoch (23), DeleteRecords (21): where a log begins, ends, and what lies between.

A look-up by time reads the index at once and then scans at most one stretch of a segment in a worker thread. What was
appended before the question counts, though a flush has yet to commit it: who produced with acks=1 finds their records.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable

from logd import threads
from logd.apis.registry import Call, api
from logd.errors import Corrupt, ErrorCode, Refused, StorageFailed
from logd.log.search import Scan
from logd.partitions.partition import Partition, until_committed
from logd.wire.schemas.delete_records import (
    DeleteRecordsPartitionResult,
    DeleteRecordsRequest,
    DeleteRecordsResponse,
    DeleteRecordsTopicResult,
)
from logd.wire.schemas.list_offsets import (
    ListOffsetsPartition,
    ListOffsetsPartitionResponse,
    ListOffsetsRequest,
    ListOffsetsResponse,
    ListOffsetsTopicResponse,
)
from logd.wire.schemas.offset_for_leader_epoch import (
    EpochEndOffset,
    OffsetForLeaderEpochRequest,
    OffsetForLeaderEpochResponse,
    OffsetForLeaderTopicResult,
)

LATEST, EARLIEST, MAX_TIMESTAMP, EARLIEST_LOCAL, LATEST_TIERED, EARLIEST_PENDING_UPLOAD = -1, -2, -3, -4, -5, -6
SINCE = {LATEST: 1, EARLIEST: 1, MAX_TIMESTAMP: 7, EARLIEST_LOCAL: 8, LATEST_TIERED: 9, EARLIEST_PENDING_UPLOAD: 11}
"""The special timestamps and the version from which each may be asked."""

AT_THE_START = {EARLIEST, EARLIEST_LOCAL, EARLIEST_PENDING_UPLOAD}

READ_COMMITTED = 1
NO_EPOCH = -1


@api(2)
def list_offsets(call: Call, request: ListOffsetsRequest) -> ListOffsetsResponse | Awaitable[ListOffsetsResponse]:
    """Versions 1-11: by special value (earliest, latest, max timestamp, tiers) or the first offset at a time."""
    late = []
    for topic in request.topics:
        for part in topic.partitions:
            partition = call.services.partitions.get(topic.name, part.partition_index)
            if partition is not None and part.timestamp not in AT_THE_START and not partition.caught_up:
                late.append((partition, partition.log.end_offset))
    return _after_commit(call, request, late) if late else _listed(call, request)


async def _after_commit(
    call: Call, request: ListOffsetsRequest, late: list[tuple[Partition, int]]
) -> ListOffsetsResponse:
    await until_committed(late)
    answer = _listed(call, request)
    return answer if isinstance(answer, ListOffsetsResponse) else await answer


def _listed(call: Call, request: ListOffsetsRequest) -> ListOffsetsResponse | Awaitable[ListOffsetsResponse]:
    scans: list[tuple[Partition, ListOffsetsPartitionResponse, Scan]] = []
    asked = Counter((topic.name, part.partition_index) for topic in request.topics for part in topic.partitions)
    topics = []
    for topic in request.topics:
        rows = []
        for part in topic.partitions:
            row = ListOffsetsPartitionResponse(part.partition_index)
            times = asked.pop((topic.name, part.partition_index), 0)
            if not times:
                continue
            try:
                if times > 1:
                    raise Refused(ErrorCode.INVALID_REQUEST, f"{topic.name}-{part.partition_index} is asked for twice")
                _check_kind(part.timestamp, call.version)
                partition = call.services.partitions.find(topic.name, part.partition_index)
                scan = _look_up(request, partition, part, row)
                if scan is not None:
                    scans.append((partition, row, scan))
            except Refused as refused:
                row.error_code = refused.code
            rows.append(row)
        if rows:
            topics.append(ListOffsetsTopicResponse(topic.name, rows))
    answer = ListOffsetsResponse(topics=topics)
    return _scanned(answer, scans) if scans else answer


def _look_up(
    request: ListOffsetsRequest,
    partition: Partition,
    asked: ListOffsetsPartition,
    row: ListOffsetsPartitionResponse,
) -> Scan | None:
    """Fill the row, or say what must be scanned for it."""
    if partition.failure is not None:
        raise partition.failure
    _check_epoch(partition, asked.current_leader_epoch)
    end = partition.readable_end(request.isolation_level == READ_COMMITTED)
    kind = asked.timestamp
    if kind >= 0:
        return partition.find(kind, end)
    if kind == LATEST:
        row.offset, row.leader_epoch = end, partition.leader_epoch
    elif kind == MAX_TIMESTAMP:
        return partition.find(None, end)
    elif kind in (EARLIEST, EARLIEST_LOCAL):
        row.offset = partition.log.start_offset
        row.leader_epoch = partition.log.epochs.epoch_at(row.offset)
    return None


def _check_kind(timestamp: int, version: int) -> None:
    """What a version does not know is refused before the partition is looked for."""
    if timestamp < 0 and SINCE.get(timestamp, version + 1) > version:
        raise Refused(ErrorCode.UNSUPPORTED_VERSION, f"timestamp {timestamp} is not known in version {version}")


def _check_epoch(partition: Partition, epoch: int) -> None:
    """As in Fetch, but here Kafka takes only -1 for "no epoch"; other negative ones are older than ours."""
    if epoch < NO_EPOCH:
        raise Refused(ErrorCode.FENCED_LEADER_EPOCH, f"leader epoch {epoch} of {partition!r} is over: ask for Metadata")
    partition.check_epoch(epoch)


async def _scanned(
    answer: ListOffsetsResponse, scans: list[tuple[Partition, ListOffsetsPartitionResponse, Scan]]
) -> ListOffsetsResponse:
    for partition, row, scan in scans:
        try:
            found = await threads.run(scan.run)
            if found is not None:
                row.timestamp, row.offset, row.leader_epoch = found
        except (Corrupt, StorageFailed) as why:
            row.error_code = partition.unreadable(why).code
        finally:
            partition.log.segments.let_go(scan.segments)
    return answer


@api(23)
def offset_for_leader_epoch(call: Call, request: OffsetForLeaderEpochRequest) -> OffsetForLeaderEpochResponse:
    """Versions 2-4 (KIP-101, KIP-279, KIP-320): where the log of an epoch ends."""
    topics = []
    for topic in request.topics:
        rows = []
        for asked in topic.partitions:
            row = EpochEndOffset(partition=asked.partition)
            try:
                partition = call.services.partitions.find(topic.topic, asked.partition)
                _check_epoch(partition, asked.current_leader_epoch)
                row.leader_epoch, row.end_offset = partition.end_of_epoch(asked.leader_epoch)
            except Refused as refused:
                row.error_code = refused.code
            rows.append(row)
        topics.append(OffsetForLeaderTopicResult(topic.topic, rows))
    return OffsetForLeaderEpochResponse(topics=topics)


@api(21)
async def delete_records(call: Call, request: DeleteRecordsRequest) -> DeleteRecordsResponse:
    """Versions 0-2 (KIP-107): move the start of a log forward; -1 means to its high watermark.

    Of a partition that is named twice the last wish counts, and it is answered once, as in Kafka.
    """
    wanted = {
        (topic.name, asked.partition_index): asked.offset for topic in request.topics for asked in topic.partitions
    }
    topics: dict[str, list[DeleteRecordsPartitionResult]] = {}
    for (name, index), offset in wanted.items():
        row = DeleteRecordsPartitionResult(index, -1)
        try:
            partition = call.services.partitions.find(name, index)
            if partition.internal or "delete" not in partition.config.cleanup_policy:
                raise Refused(
                    ErrorCode.POLICY_VIOLATION if not partition.internal else ErrorCode.INVALID_TOPIC_EXCEPTION,
                    f"records of {partition!r} can't be deleted: its cleanup.policy does not include delete",
                )
            row.low_watermark = await partition.advance_start(offset)
        except Refused as refused:
            row.error_code = refused.code
        topics.setdefault(name, []).append(row)
    return DeleteRecordsResponse(topics=[DeleteRecordsTopicResult(name, rows) for name, rows in topics.items()])
