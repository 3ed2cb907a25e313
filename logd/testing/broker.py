"""The broker that a test gets.

:class:`Broker` runs a real node in a thread of this process, on a free port, with its data in memory or on disk, and
does for a test what it needs before and after the code under test: topics, records, groups. It owns its data
directory and speaks the Kafka protocol to its own node, as any client does; nothing reaches around the server.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from time import monotonic, sleep, time_ns
from types import TracebackType

import msgspec

from logd.config import load
from logd.errors import ErrorCode, Refused
from logd.testing.connection import Connection, check
from logd.testing.directories import memory_directory
from logd.testing.errors import BrokerFailed, NotThereYet
from logd.testing.hosting import NodeThread
from logd.wire import batches
from logd.wire.schemas import (
    consumer_group_describe,
    consumer_group_heartbeat,
    create_topics,
    delete_groups,
    delete_topics,
    describe_groups,
    fetch,
    leave_group,
    list_groups,
    list_offsets,
    metadata,
    produce,
)

HOST = "127.0.0.1"
FETCH_BYTES = 8 << 20
BATCH_BYTES_MAX = 256 << 20
LATEST, EARLIEST = -1, -2
ATTEMPTS = 20
LOAD_TIMEOUT_S = 30.0
PAUSE_S = 0.005


class Record(msgspec.Struct, frozen=True):
    """A record as a test looks at it. ``timestamp_ms`` counts from the Unix epoch."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]


class Broker:
    """A running logd; a context manager, or :meth:`start` and :meth:`stop`.

    :param settings: broker settings with Kafka's names, such as ``{"num.partitions": "4"}``.
    :param data_dir: where the data lives; None takes a directory in memory (or a temporary one) and removes it.

    Unless told otherwise it listens on a free port of the loopback address and flushes as Kafka does by default
    (``log.flush.mode=os``): what it acknowledged survives :meth:`restart`, even with ``kill``.
    """

    def __init__(self, settings: Mapping[str, str] | None = None, data_dir: Path | str | None = None) -> None:
        self._given = dict(settings or {})
        self._owned = data_dir is None
        self.data_dir = Path(data_dir) if data_dir is not None else memory_directory()
        self.bootstrap = ""
        """``host:port`` for clients; the same over restarts."""
        self._thread: NodeThread | None = None
        self._connection: Connection | None = None

    def __enter__(self) -> Broker:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def running(self) -> bool:
        """True between :meth:`start` and :meth:`stop`, unless it failed."""
        return self._thread is not None and self._thread.running

    @property
    def failed(self) -> bool:
        """True when it ended by an exception."""
        return self._thread is not None and self._thread.failure is not None

    @property
    def port(self) -> int:
        """The port in :attr:`bootstrap`."""
        return int(self.bootstrap.rpartition(":")[2])

    def start(self) -> None:
        """Start it, and return when it serves.

        :raises BadSetting: for a setting that logd does not know or cannot take.
        :raises BrokerFailed: when it does not come up.
        """
        assert not self.running, "the broker runs already"
        port = self.port if self.bootstrap else 0
        own = {"listeners": f"PLAINTEXT://{HOST}:{port}", "log.dirs": str(self.data_dir), "log.flush.mode": "os"}
        own["log.dir.free.bytes.min"] = "0"
        self._thread = NodeThread(load(sets=own | self._given))
        self.bootstrap = self._thread.start().bootstrap[0]

    def stop(self, *, kill: bool = False) -> None:
        """Stop it and keep its data. ``kill`` ends it as a crash would: nothing is drained or closed well."""
        self._hang_up()
        if self._thread is not None:
            thread, self._thread = self._thread, None
            thread.stop(kill=kill)

    def restart(self, *, kill: bool = False) -> None:
        """Stop it and start it again, on the same port and the same data."""
        self.stop(kill=kill)
        self.start()

    def close(self) -> None:
        """Stop it, and remove its data unless the directory was given."""
        try:
            self.stop()
        finally:
            if self._owned:
                shutil.rmtree(self.data_dir, ignore_errors=True)

    def create_topic(self, name: str, partitions: int = 1, configs: Mapping[str, str] | None = None) -> None:
        """Make a topic. Its partitions can be written to when this returns.

        :raises Refused: when the broker refuses it, with its reason.
        """
        settings = [create_topics.CreatableTopicConfig(key, value) for key, value in (configs or {}).items()]
        topic = create_topics.CreatableTopic(name, partitions, 1, [], settings)
        request = create_topics.CreateTopicsRequest([topic])
        (result,) = self._connect().call(request, 7, create_topics.CreateTopicsResponse).topics
        check(result.error_code, f"topic {name}", result.error_message)

    def topics(self) -> dict[str, int]:
        """The names of the topics, internal ones aside, each with its number of partitions."""
        request = metadata.MetadataRequest(None, False)
        found = self._connect().call(request, 12, metadata.MetadataResponse).topics
        return {topic.name or "": len(topic.partitions) for topic in found if not topic.is_internal}

    def delete_topics(self, *names: str) -> None:
        """Delete topics. :raises Refused: for the first that can't be."""
        if not names:
            return
        request = delete_topics.DeleteTopicsRequest([], list(names), 30_000)
        for result in self._connect().call(request, 5, delete_topics.DeleteTopicsResponse).responses:
            check(result.error_code, f"topic {result.name}", result.error_message)

    def produce(
        self,
        topic: str,
        *values: bytes | str | None,
        key: bytes | str | None = None,
        partition: int = 0,
        headers: Iterable[tuple[str, bytes | None]] = (),
        timestamp_ms: int | None = None,
    ) -> int:
        """Append values, as one batch that every replica has; the offset of the first is returned.

        Text is written as UTF-8. All values get the same key and headers, and the time (by default now).

        :raises Refused: when the broker refuses the batch.
        """
        stamp = time_ns() // 1_000_000 if timestamp_ms is None else timestamp_ms
        records = [
            batches.Record(number, stamp, encoded(key), encoded(value), list(headers))
            for number, value in enumerate(values)
        ]
        data = produce.PartitionProduceData(partition, batches.build_batch(records))
        request = produce.ProduceRequest(None, -1, 30_000, [produce.TopicProduceData(topic, partition_data=[data])])
        answer = self._connect().call(request, 12, produce.ProduceResponse)
        result = answer.responses[0].partition_responses[0]
        check(result.error_code, f"topic {topic} partition {partition}", result.error_message)
        return result.base_offset

    def messages(self, topic: str, *, at_least: int = 0, timeout_s: float = 10.0) -> list[Record]:
        """All records of a topic that a consumer can read, in the order of partition and offset.

        :param at_least: wait until there are as many.
        :raises NotThereYet: when there are not so many after ``timeout_s``.
        :raises Refused: when there is no such topic.
        """
        deadline = monotonic() + timeout_s
        while True:
            found = [record for partition in range(self._partitions(topic)) for record in self._read(topic, partition)]
            if len(found) >= at_least:
                return found
            if monotonic() >= deadline:
                raise NotThereYet(f"{len(found)} of {at_least} records are in {topic} after {timeout_s} s")
            sleep(PAUSE_S)

    def groups(self) -> list[str]:
        """The ids of the consumer groups."""
        deadline = monotonic() + LOAD_TIMEOUT_S
        while True:
            answer = self._connect().call(list_groups.ListGroupsRequest(), 5, list_groups.ListGroupsResponse)
            if answer.error_code != ErrorCode.COORDINATOR_LOAD_IN_PROGRESS or monotonic() > deadline:
                break
            sleep(PAUSE_S)  # just started: groups are read from their topic
        check(answer.error_code, "groups")
        return sorted(group.group_id for group in answer.groups)

    def reset(self) -> None:
        """Delete all topics, internal ones aside, and all groups; members that are left are put out first.

        :raises BrokerFailed: when the broker has ended by an exception.
        """
        if self._thread is not None:
            self._thread.check()
        self._delete_groups()
        self.delete_topics(*self.topics())

    def _delete_groups(self) -> None:
        connection = self._connect()
        left = self.groups()
        for _ in range(ATTEMPTS):
            if not left:
                return
            for group in left:
                self._evict(group)
            answer = connection.call(delete_groups.DeleteGroupsRequest(left), 2, delete_groups.DeleteGroupsResponse)
            gone = (0, ErrorCode.GROUP_ID_NOT_FOUND)
            left = [result.group_id for result in answer.results if result.error_code not in gone]
        raise Refused(ErrorCode.NON_EMPTY_GROUP, f"groups {', '.join(left)}: their members come back again and again")

    def _evict(self, group: str) -> None:
        connection = self._connect()
        asked = describe_groups.DescribeGroupsRequest([group])
        (described,) = connection.call(asked, 5, describe_groups.DescribeGroupsResponse).groups
        if described.members:
            members = [leave_group.MemberIdentity(member.member_id) for member in described.members]
            connection.call(leave_group.LeaveGroupRequest(group, "", members), 5, leave_group.LeaveGroupResponse)
        self._evict_modern(group)

    def _evict_modern(self, group: str) -> None:
        """Members of the consumer protocol; a static one stays for its session when it is closed."""
        connection = self._connect()
        asked = consumer_group_describe.ConsumerGroupDescribeRequest([group])
        (described,) = connection.call(asked, 1, consumer_group_describe.ConsumerGroupDescribeResponse).groups
        for member in described.members:
            leave = consumer_group_heartbeat.ConsumerGroupHeartbeatRequest(
                group, member.member_id, -1, member.instance_id
            )
            connection.call(leave, 1, consumer_group_heartbeat.ConsumerGroupHeartbeatResponse)

    def _partitions(self, topic: str) -> int:
        request = metadata.MetadataRequest([metadata.MetadataRequestTopic(name=topic)], False)
        (found,) = self._connect().call(request, 12, metadata.MetadataResponse).topics
        check(found.error_code, f"topic {topic}")
        return len(found.partitions)

    def _read(self, topic: str, partition: int) -> Iterator[Record]:
        """The records from the start of the log to what was its end when the reading began."""
        position, end = self._offset(topic, partition, EARLIEST), self._offset(topic, partition, LATEST)
        while position < end:
            data, start = self._fetch(topic, partition, position), position
            for where, header in whole_batches(data):
                if not header.is_control:
                    yield from self._records(topic, partition, data, where, position)
                position = header.next_offset
            if position == start:
                raise BrokerFailed(f"{topic}-{partition} gives no batch at offset {position}, before its end {end}")

    def _records(self, topic: str, partition: int, data: bytes, start: int, wanted: int) -> Iterator[Record]:
        for each in batches.read_records(data, start, bytes_max=BATCH_BYTES_MAX):
            if each.offset >= wanted:
                yield Record(topic, partition, each.offset, each.timestamp, each.key, each.value, each.headers)

    def _fetch(self, topic: str, partition: int, offset: int) -> bytes:
        wanted = fetch.FetchPartition(partition, fetch_offset=offset, partition_max_bytes=FETCH_BYTES)
        request = fetch.FetchRequest(
            max_wait_ms=1000, min_bytes=1, max_bytes=FETCH_BYTES, topics=[fetch.FetchTopic(topic, partitions=[wanted])]
        )
        answer = self._connect().call(request, 12, fetch.FetchResponse)
        check(answer.error_code, "fetch")
        (found,) = answer.responses[0].partitions
        check(found.error_code, f"topic {topic} partition {partition}")
        return joined(found.records)

    def _offset(self, topic: str, partition: int, timestamp: int) -> int:
        asked = list_offsets.ListOffsetsPartition(partition, timestamp=timestamp)
        request = list_offsets.ListOffsetsRequest(-1, 0, [list_offsets.ListOffsetsTopic(topic, [asked])])
        answer = self._connect().call(request, 7, list_offsets.ListOffsetsResponse)
        (found,) = answer.topics[0].partitions
        check(found.error_code, f"topic {topic} partition {partition}")
        return found.offset

    def _connect(self) -> Connection:
        if self._thread is not None:
            self._thread.check()
        if not self.running:
            raise BrokerFailed("the broker is stopped; start() it first")
        if self._connection is not None and self._connection.over:  # it was idle for too long
            self._hang_up()
        if self._connection is None:
            self._connection = Connection(HOST, self.port)
        return self._connection

    def _hang_up(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def whole_batches(data: bytes) -> Iterator[tuple[int, batches.BatchHeader]]:
    """(position, header) of every batch; the last one may be cut short, as a fetch may, and is left out."""
    position = 0
    while position + batches.HEADER_BYTES <= len(data):
        header = batches.read_header(data, position)
        if position + header.size > len(data):
            return
        yield position, header
        position += header.size


def encoded(text: bytes | str | None) -> bytes | None:
    """Text as UTF-8; bytes and None as they are."""
    return text.encode() if isinstance(text, str) else text


def joined(records: object) -> bytes:
    """A ``records`` field as bytes."""
    if records is None:
        return b""
    assert isinstance(records, bytes | bytearray | memoryview)
    return bytes(records)
