"""DescribeLogDirs (35), DescribeProducers (61): what lies on disk, and who writes to it."""

from __future__ import annotations

import shutil
from itertools import groupby
from operator import attrgetter

import trio

from logd.apis.registry import Call, api
from logd.cluster.controller import check_topic_name
from logd.errors import ErrorCode, Refused
from logd.partitions.partition import Partition
from logd.wire.schemas.describe_log_dirs import (
    DescribeLogDirsPartition,
    DescribeLogDirsRequest,
    DescribeLogDirsResponse,
    DescribeLogDirsResult,
    DescribeLogDirsTopic,
)
from logd.wire.schemas.describe_producers import (
    DescribeProducersRequest,
    DescribeProducersResponse,
    PartitionResponse,
    ProducerState,
    TopicResponse,
)


@api(35)
async def describe_log_dirs(call: Call, request: DescribeLogDirsRequest) -> DescribeLogDirsResponse:
    """Versions 1-5 (KIP-113, KIP-827): size of each partition, size and free space of the disk below."""
    table = call.services.partitions
    if request.topics is None:
        wanted = list(table)
    else:
        found = (table.get(topic.topic, index) for topic in request.topics for index in topic.partitions)
        wanted = [partition for partition in dict.fromkeys(found) if partition is not None]
    usage = await trio.to_thread.run_sync(shutil.disk_usage, table.directory)
    ordered = sorted(wanted, key=attrgetter("topic", "index"))
    topics = [
        DescribeLogDirsTopic(name, [_size(partition) for partition in group])
        for name, group in groupby(ordered, key=attrgetter("topic"))
    ]
    result = DescribeLogDirsResult(0, str(table.directory), topics, usage.total, usage.free)
    return DescribeLogDirsResponse(results=[result])


def _size(partition: Partition) -> DescribeLogDirsPartition:
    return DescribeLogDirsPartition(partition.index, partition.log.size_bytes, 0, False)


@api(61)
def describe_producers(call: Call, request: DescribeProducersRequest) -> DescribeProducersResponse:
    """Version 0 (KIP-664): the producers that a partition remembers."""
    topics = []
    for topic in request.topics:
        rows = []
        for index in topic.partition_indexes:
            try:
                check_topic_name(topic.name)
                partition = call.services.partitions.find(topic.name, index)
                rows.append(PartitionResponse(index, active_producers=_producers(partition)))
            except Refused as refused:
                rows.append(PartitionResponse(index, refused.code, refused.message))
        topics.append(TopicResponse(topic.name, rows))
    return DescribeProducersResponse(topics=topics)


def _producers(partition: Partition) -> list[ProducerState]:
    if partition.failure is not None:
        raise Refused(ErrorCode.KAFKA_STORAGE_ERROR, partition.failure.message)
    return [
        ProducerState(state.producer_id, state.epoch, state.last_sequence, state.last_timestamp, -1, -1)
        for state in partition.log.producers
    ]
