"""A small blocking Kafka client for the tools here: an idempotent producer, a reader of raw batches, a group's commits.

It retries nothing by itself, so that a tool knows what each answer said. The long runs use clients of others.
"""

from __future__ import annotations

import itertools
import socket
import time
from typing import Any

from logd.wire import schemas
from logd.wire.batches import Record, build_batch, read_headers, read_records
from logd.wire.frames import decode_response, request_bytes
from logd.wire.message import Message
from logd.wire.schemas.create_topics import CreatableTopic, CreatableTopicConfig, CreateTopicsRequest
from logd.wire.schemas.delete_topics import DeleteTopicsRequest
from logd.wire.schemas.fetch import FetchPartition, FetchRequest, FetchTopic
from logd.wire.schemas.find_coordinator import FindCoordinatorRequest
from logd.wire.schemas.init_producer_id import InitProducerIdRequest
from logd.wire.schemas.list_offsets import ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic
from logd.wire.schemas.metadata import MetadataRequest, MetadataRequestTopic
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


class Gone(Exception):
    """The server is not there or did not answer in time."""


class Told(Exception):
    """The server answered with an error code."""

    def __init__(self, code: int, what: str) -> None:
        super().__init__(f"error {code}: {what}")
        self.code = code


def now_ms() -> int:
    """The time of day."""
    return time.time_ns() // 1_000_000


class Peer:
    """One connection; a context manager."""

    def __init__(self, bootstrap: str, timeout_s: float = 20.0) -> None:
        host, _, port = bootstrap.rpartition(":")
        self._ids = itertools.count(1)
        try:
            self.sock = socket.create_connection((host, int(port)), timeout=timeout_s)
        except OSError as error:
            raise Gone(str(error)) from error

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def ask(self, message: Message, version: int) -> Any:
        """Send a request and wait for its answer."""
        name = type(message).__name__.removesuffix("Request")
        key = next(key for key, facts in schemas.APIS.items() if facts.name == name)
        try:
            self.sock.sendall(request_bytes(key, version, next(self._ids), "faults", message))
            size = int.from_bytes(self._exactly(4), "big")
            return decode_response(key, version, self._exactly(size))[1]
        except OSError as error:
            raise Gone(str(error) or type(error).__name__) from error

    def _exactly(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            piece = self.sock.recv(size - len(data))
            if not piece:
                raise Gone("the server closed the connection")
            data += piece
        return bytes(data)

    def create(self, topic: str, partitions: int = 1, **configs: str) -> None:
        """Make a topic; configs have _ for the dots of their names. One that is there is left alone."""
        wanted = [CreatableTopicConfig(name.replace("_", "."), value) for name, value in configs.items()]
        request = CreateTopicsRequest([CreatableTopic(topic, partitions, 1, [], wanted)], 10_000)
        code = self.ask(request, 5).topics[0].error_code
        if code not in (0, 36):
            raise Told(code, topic)

    def delete(self, topic: str) -> None:
        """Delete a topic; one that is not there is left alone."""
        code = self.ask(DeleteTopicsRequest(topic_names=[topic], timeout_ms=10_000), 4).responses[0].error_code
        if code not in (0, 3):
            raise Told(code, topic)

    def topics(self) -> dict[str, int]:
        """All topics and how many partitions they have."""
        answer = self.ask(MetadataRequest(None), 5)
        return {one.name: len(one.partitions) for one in answer.topics}

    def ready(self, topic: str) -> bool:
        """Whether a topic is known."""
        answer = self.ask(MetadataRequest([MetadataRequestTopic(name=topic)], False), 5)
        return bool(answer.topics[0].error_code == 0)

    def producer_id(self) -> int:
        """A new producer id."""
        answer = self.ask(InitProducerIdRequest(None, 60_000), 1)
        if answer.error_code:
            raise Told(answer.error_code, "InitProducerId")
        return int(answer.producer_id)

    def produce(self, topic: str, partition: int, batch: bytes, acks: int = -1) -> tuple[int, int]:
        """Send one batch; the error code and the base offset."""
        data = [TopicProduceData(topic, partition_data=[PartitionProduceData(partition, memoryview(batch))])]
        answer = self.ask(ProduceRequest(None, acks, 15_000, data), 7)
        told = answer.responses[0].partition_responses[0]
        return told.error_code, told.base_offset

    def fetch(
        self, topic: str, partition: int, offset: int, *, bytes_max: int = 4 << 20, committed_only: bool = False
    ) -> tuple[int, bytes, int]:
        """Read from an offset: the error code, raw batches, and the high watermark."""
        wanted = FetchTopic(topic, partitions=[FetchPartition(partition, -1, offset, -1, -1, bytes_max)])
        request = FetchRequest(max_wait_ms=0, min_bytes=0, max_bytes=bytes_max, topics=[wanted])
        request.isolation_level = int(committed_only)
        told = self.ask(request, 11).responses[0].partitions[0]
        return told.error_code, bytes(told.records or b""), told.high_watermark

    def offset(self, topic: str, partition: int, timestamp: int) -> int:
        """The offset for a time, EARLIEST or LATEST."""
        wanted = [ListOffsetsTopic(topic, [ListOffsetsPartition(partition, -1, timestamp)])]
        told = self.ask(ListOffsetsRequest(-1, topics=wanted), 2).topics[0].partitions[0]
        if told.error_code:
            raise Told(told.error_code, f"ListOffsets {topic}-{partition}")
        return int(told.offset)

    def batches(self, topic: str, partition: int) -> dict[int, bytes]:
        """All raw batches of a partition by base offset.

        :raises Told: where the server refuses to read on; what came before is lost with it.
        """
        found: dict[int, bytes] = {}
        for base, data in self.each_batch(topic, partition):
            found[base] = data
        return found

    def each_batch(self, topic: str, partition: int) -> Any:
        """Yield base offset and bytes of each batch from the first one on; raises Told."""
        offset = self.offset(topic, partition, EARLIEST)
        while True:
            code, data, end = self.fetch(topic, partition, offset)
            if code:
                raise Told(code, f"{topic}-{partition}@{offset}")
            if not data:
                if offset < end:
                    raise Told(-1, f"{topic}-{partition}: nothing at {offset}, the end is {end}")
                return
            for position, header in read_headers(data):
                yield header.base_offset, data[position : position + header.size]
                offset = max(offset, header.next_offset)

    def values(self, topic: str, partition: int) -> list[tuple[int, str]]:
        """Offset and value of all records of a partition, in order."""
        records = []
        for _, data in self.each_batch(topic, partition):
            found = read_records(data, 0, bytes_max=64 << 20)
            records += [(one.offset, (one.value or b"").decode("latin-1").rstrip(".")) for one in found]
        return records

    def find_group(self, group: str, wait_s: float = 10.0) -> None:
        """Have a group's coordinator found, and its topic made; raises Told when there is none for long."""
        end = time.monotonic() + wait_s
        while code := self.ask(FindCoordinatorRequest(group), 2).error_code:
            if time.monotonic() > end:
                raise Told(code, f"FindCoordinator {group}")
            time.sleep(0.02)

    def commit(self, group: str, topic: str, partition: int, offset: int) -> int:
        """Commit an offset for a group without members; the error code."""
        wanted = [OffsetCommitRequestTopic(topic, partitions=[OffsetCommitRequestPartition(partition, offset)])]
        answer = self.ask(OffsetCommitRequest(group, -1, "", topics=wanted), 7)
        return int(answer.topics[0].partitions[0].error_code)

    def committed(self, group: str, topic: str, partition: int) -> int:
        """What a group has committed, -1 for nothing; waits while its coordinator loads."""
        self.find_group(group)
        end = time.monotonic() + 10
        while True:
            answer = self.ask(OffsetFetchRequest(group, [OffsetFetchRequestTopic(topic, [partition])]), 5)
            code = answer.error_code or answer.topics[0].partitions[0].error_code
            if code not in COORDINATOR_COMES or time.monotonic() > end:
                break
            time.sleep(0.02)
        if code:
            raise Told(code, f"OffsetFetch {group}")
        return int(answer.topics[0].partitions[0].committed_offset)


class Stream:
    """What one idempotent producer sends to one partition: each value once, each batch until it is acknowledged."""

    def __init__(self, name: str, topic: str, partition: int, producer_id: int = -1, size: int = 100) -> None:
        self.name = name
        self.topic = topic
        self.partition = partition
        self.producer_id = producer_id
        self.size = size
        self.sequence = 0
        self.number = 0
        self.codec = 0

    @property
    def place(self) -> str:
        """The partition, as histories name it."""
        return f"{self.topic}-{self.partition}"

    def next_values(self, count: int) -> list[str]:
        """Fresh values."""
        first, self.number = self.number, self.number + count
        return [f"{self.name}:{number}" for number in range(first, first + count)]

    def batch(self, values: list[str], timestamp: int | None = None, key: bytes | None = b"k") -> bytes:
        """A batch of values, each filled up with dots; numbered as the next ones of the producer."""
        when = now_ms() if timestamp is None else timestamp
        records = [Record(at, when, key, value.encode().ljust(self.size, b"."), []) for at, value in enumerate(values)]
        return bytes(
            build_batch(
                records,
                producer_id=self.producer_id,
                producer_epoch=0 if self.producer_id >= 0 else -1,
                base_sequence=self.sequence if self.producer_id >= 0 else -1,
                codec=self.codec,
            )
        )

    def taken(self, count: int) -> None:
        """The batch of so many records was acknowledged."""
        self.sequence += count
