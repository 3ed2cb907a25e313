"""AlterReplicaLogDirs (34), DescribeLogDirs (35), DescribeProducers (61): what lies where on disk, who writes to it.

Answered from the table of partitions; only free space is asked of the disk, in a thread. Called through the registry.
It never moves a file: there is one data directory.
"""

from __future__ import annotations

import shutil
from itertools import groupby
from operator import attrgetter

from logd import threads
from logd.apis.registry import Call, api
from logd.apis.turns import breathe
from logd.cluster.controller import check_topic_name
from logd.errors import ErrorCode, Refused
from logd.partitions.homes import Home
from logd.partitions.partition import Partition
from logd.partitions.table import PartitionTable
from logd.wire.schemas.alter_replica_log_dirs import (
    AlterReplicaLogDirPartitionResult,
    AlterReplicaLogDirsRequest,
    AlterReplicaLogDirsResponse,
    AlterReplicaLogDirTopicResult,
)
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

DIRECTORY_NAME_MAX = 255
"""Characters that a file system takes in one name."""

MOVING_SUFFIX_LENGTH = 40
"""What Kafka appends to the name of a directory that is being filled in another place: `.<32 hex digits>-future`."""


@api(34)
def alter_replica_log_dirs(call: Call, request: AlterReplicaLogDirsRequest) -> AlterReplicaLogDirsResponse:
    """Versions 1-2 (KIP-113): to stay in the one directory that there is. Of several wishes for one partition the
    last one counts, and it is answered once, as in Kafka."""
    wanted = {
        (topic.name, index): entry.path
        for entry in request.dirs
        for topic in entry.topics
        for index in topic.partitions
    }
    results: dict[str, list[AlterReplicaLogDirPartitionResult]] = {}
    for (name, index), path in wanted.items():
        code = _place(call.services.partitions, name, index, path)
        results.setdefault(name, []).append(AlterReplicaLogDirPartitionResult(index, code))
    return AlterReplicaLogDirsResponse(0, [AlterReplicaLogDirTopicResult(name, rows) for name, rows in results.items()])


def _place(table: PartitionTable, name: str, index: int, path: str) -> int:
    """The error code of putting one partition where `path` says; 0 is where it lies."""
    if len(name) + len(f"-{index}") + MOVING_SUFFIX_LENGTH > DIRECTORY_NAME_MAX:
        return ErrorCode.INVALID_TOPIC_EXCEPTION
    if path not in [str(home.path) for home in table.homes]:
        return ErrorCode.LOG_DIR_NOT_FOUND
    partition = table.get(name, index)
    if partition is None:
        return ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    if partition.log.path.rpartition("/")[0] != path:
        return ErrorCode.INVALID_REQUEST  # nothing is moved between directories
    return 0 if partition.failure is None else ErrorCode.KAFKA_STORAGE_ERROR


@api(35)
async def describe_log_dirs(call: Call, request: DescribeLogDirsRequest) -> DescribeLogDirsResponse:
    """Versions 1-5 (KIP-113, KIP-827): size of each partition, size and free space of the disk below."""
    table = call.services.partitions
    if request.topics is None:
        wanted = list(table)
    else:
        found = (table.get(topic.topic, index) for topic in request.topics for index in topic.partitions)
        wanted = [partition for partition in dict.fromkeys(found) if partition is not None]
    ordered = sorted(wanted, key=attrgetter("topic", "index"))
    results = [await _described(home, ordered) for home in table.homes]
    return DescribeLogDirsResponse(results=results)


async def _described(home: Home, ordered: list[Partition]) -> DescribeLogDirsResult:
    here = [partition for partition in ordered if partition.log.path.rpartition("/")[0] == str(home.path)]
    topics = [
        DescribeLogDirsTopic(name, [_size(partition) for partition in group])
        for name, group in groupby(here, key=attrgetter("topic"))
    ]
    try:
        usage = await threads.run(shutil.disk_usage, home.path)
    except OSError:
        return DescribeLogDirsResult(ErrorCode.KAFKA_STORAGE_ERROR, str(home.path))
    code = ErrorCode.KAFKA_STORAGE_ERROR if home.failure else 0
    return DescribeLogDirsResult(code, str(home.path), topics, usage.total, usage.free)


def _size(partition: Partition) -> DescribeLogDirsPartition:
    return DescribeLogDirsPartition(partition.index, partition.log.size_bytes, 0, False)


@api(61)
async def describe_producers(call: Call, request: DescribeProducersRequest) -> DescribeProducersResponse:
    """Version 0 (KIP-664): the producers that a partition remembers, and where their open transactions begin."""
    topics = []
    done = 0
    for topic in request.topics:
        rows = []
        for index in topic.partition_indexes:
            await breathe(done)
            done += 1
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
        ProducerState(
            one.producer_id,
            one.epoch,
            one.last_sequence,
            one.last_timestamp,
            one.coordinator_epoch,
            one.txn_first_offset,
        )
        for one in partition.log.producers
    ]
