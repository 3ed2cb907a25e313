"""What the tools ask of a broker, as conversations: generators that yield requests and are sent the answers.

:class:`~tools.faults.peer.Peer` holds them over a socket, the simulation over a link in memory. A number that is
yielded is a pause in seconds. Nothing is retried, so that a tool knows what each answer said.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from logd.wire.batches import read_headers, read_records
from logd.wire.message import Message
from logd.wire.schemas.create_topics import CreatableTopic, CreatableTopicConfig, CreateTopicsRequest
from logd.wire.schemas.delete_topics import DeleteTopicsRequest
from logd.wire.schemas.fetch import FetchPartition, FetchRequest, FetchTopic
from logd.wire.schemas.find_coordinator import FindCoordinatorRequest
from logd.wire.schemas.init_producer_id import InitProducerIdRequest
from logd.wire.schemas.list_offsets import ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic
from logd.wire.schemas.metadata import MetadataRequest
from logd.wire.schemas.offset_commit import (
    OffsetCommitRequest,
    OffsetCommitRequestPartition,
    OffsetCommitRequestTopic,
)
from logd.wire.schemas.offset_fetch import OffsetFetchRequest, OffsetFetchRequestTopic
from logd.wire.schemas.produce import PartitionProduceData, ProduceRequest, TopicProduceData

OK, OUT_OF_ORDER, STORAGE, DUPLICATE = 0, 45, 56, 46
COORDINATOR_COMES = (14, 15, 16)
EARLIEST, LATEST = -2, -1
TRIES_MAX, PAUSE_S = 400, 0.025

Talk = Generator[tuple[Message, int] | float, Any, Any]


class Gone(Exception):
    """The server is not there or did not answer in time."""


class Told(Exception):
    """The server answered with an error code."""

    def __init__(self, code: int, what: str) -> None:
        super().__init__(f"error {code}: {what}")
        self.code = code


def create(topic: str, partitions: int = 1, **configs: str) -> Talk:
    """Make a topic; configs have _ for the dots of their names. One that is there is left alone."""
    wanted = [CreatableTopicConfig(name.replace("_", "."), value) for name, value in configs.items()]
    answer = yield CreateTopicsRequest([CreatableTopic(topic, partitions, 1, [], wanted)], 10_000), 5
    if answer.topics[0].error_code not in (0, 36):
        raise Told(answer.topics[0].error_code, topic)


def delete(topic: str) -> Talk:
    """Delete a topic; one that is not there is left alone."""
    answer = yield DeleteTopicsRequest(topic_names=[topic], timeout_ms=10_000), 4
    if answer.responses[0].error_code not in (0, 3):
        raise Told(answer.responses[0].error_code, topic)


def topics() -> Talk:
    """All topics and how many partitions they have."""
    answer = yield MetadataRequest(None), 5
    return {one.name: len(one.partitions) for one in answer.topics}


def producer_id() -> Talk:
    """A new producer id."""
    answer = yield InitProducerIdRequest(None, 60_000), 1
    if answer.error_code:
        raise Told(answer.error_code, "InitProducerId")
    return answer.producer_id


def produce(topic: str, partition: int, batch: bytes, acks: int = -1) -> Talk:
    """Send one batch; the error code and the base offset."""
    data = [TopicProduceData(topic, partition_data=[PartitionProduceData(partition, memoryview(batch))])]
    answer = yield ProduceRequest(None, acks, 15_000, data), 7
    told = answer.responses[0].partition_responses[0]
    return told.error_code, told.base_offset


def fetch(topic: str, partition: int, offset: int, bytes_max: int = 4 << 20) -> Talk:
    """Read from an offset: the error code, raw batches, and the high watermark."""
    wanted = FetchTopic(topic, partitions=[FetchPartition(partition, -1, offset, -1, -1, bytes_max)])
    answer = yield FetchRequest(max_wait_ms=0, min_bytes=0, max_bytes=bytes_max, topics=[wanted]), 11
    told = answer.responses[0].partitions[0]
    return told.error_code, bytes(told.records or b""), told.high_watermark


def offset(topic: str, partition: int, timestamp: int) -> Talk:
    """The offset for a time, EARLIEST or LATEST."""
    wanted = [ListOffsetsTopic(topic, [ListOffsetsPartition(partition, -1, timestamp)])]
    answer = yield ListOffsetsRequest(-1, topics=wanted), 2
    told = answer.topics[0].partitions[0]
    if told.error_code:
        raise Told(told.error_code, f"ListOffsets {topic}-{partition}")
    return told.offset


def batches(topic: str, partition: int, found: dict[int, bytes] | None = None) -> Talk:
    """All raw batches of a partition by base offset; put into ``found``, so that they are there after an error.

    :raises Told: where the server refuses to read on.
    """
    found = {} if found is None else found
    at = yield from offset(topic, partition, EARLIEST)
    while True:
        code, data, end = yield from fetch(topic, partition, at)
        if code:
            raise Told(code, f"{topic}-{partition}@{at}")
        if not data:
            if at < end:
                raise Told(-1, f"{topic}-{partition}: nothing at {at}, the end is {end}")
            return found
        for position, header in read_headers(data):
            found[header.base_offset] = data[position : position + header.size]
            at = max(at, header.next_offset)


def values(topic: str, partition: int) -> Talk:
    """Offset and value of all records of a partition, in order."""
    found = yield from batches(topic, partition)
    return [one for data in found.values() for one in values_of(data)]


def values_of(data: bytes) -> list[tuple[int, str]]:
    """Offset and value of all records in some batches, without what fills the values up."""
    records = []
    for position, header in read_headers(data):
        some = read_records(data[position : position + header.size], 0, bytes_max=64 << 20)
        records += [(one.offset, (one.value or b"").decode("latin-1").rstrip(".")) for one in some]
    return records


def find_group(group: str) -> Talk:
    """Have a group's coordinator found, and its topic made; raises Told when there is none for long."""
    code = 0
    for _ in range(TRIES_MAX):
        answer = yield FindCoordinatorRequest(group), 2
        code = answer.error_code
        if not code:
            return
        yield PAUSE_S
    raise Told(code, f"FindCoordinator {group}")


def commit(group: str, topic: str, partition: int, place: int) -> Talk:
    """Commit an offset for a group without members; the error code."""
    wanted = [OffsetCommitRequestTopic(topic, partitions=[OffsetCommitRequestPartition(partition, place)])]
    answer = yield OffsetCommitRequest(group, -1, "", topics=wanted), 7
    return answer.topics[0].partitions[0].error_code


def committed(group: str, topic: str, partition: int) -> Talk:
    """What a group has committed, -1 for nothing; waits while its coordinator loads."""
    yield from find_group(group)
    code = 0
    for _ in range(TRIES_MAX):
        answer = yield OffsetFetchRequest(group, [OffsetFetchRequestTopic(topic, [partition])]), 5
        code = answer.error_code or answer.topics[0].partitions[0].error_code
        if code not in COORDINATOR_COMES:
            break
        yield PAUSE_S
    if code:
        raise Told(code, f"OffsetFetch {group}")
    return answer.topics[0].partitions[0].committed_offset
