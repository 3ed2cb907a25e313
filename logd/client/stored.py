"""Record batches as servers store them, read and written without opening them where that is possible.

What a copy of a topic needs: :class:`StoredReader` reads whole batches that were committed, :func:`fresh` makes them
fit to be sent anew, :class:`StoredWriter` sends them without duplicates. Used by ``backup``; records that are wanted as
values come from ``consumer``.
"""

from __future__ import annotations

import struct
from bisect import bisect_left
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import NamedTuple

import msgspec

from logd.client.calls import FETCH, INIT_PRODUCER_ID, PRODUCE
from logd.client.chunks import Aborted
from logd.client.errors import BadAnswer, ClientError, check, refused
from logd.client.metadata import TopicPartition
from logd.client.offsets import EARLIEST, list_offsets
from logd.client.routing import Router
from logd.errors import DecodeError, ErrorCode, Refused
from logd.wire.batches import HEADER_BYTES, BatchHeader, Record, build_batch, check_crc, read_header, read_records
from logd.wire.checksum import crc32c
from logd.wire.message import Buffer
from logd.wire.schemas.fetch import FetchPartition, FetchRequest, FetchResponse, FetchTopic, PartitionData
from logd.wire.schemas.init_producer_id import InitProducerIdRequest, InitProducerIdResponse
from logd.wire.schemas.produce import PartitionProduceData, ProduceRequest, ProduceResponse, TopicProduceData

VERSION_BEFORE_IDS = 12
"""Fetch and Produce name topics by name up to this version."""
FETCH_BYTES_MAX = 8 << 20
PARTITION_BYTES_MAX = 2 << 20
WAIT_MS = 100
IDLE_MAX = 100
"""So many answers in a row that bring nothing, and a copy is given up."""
BATCH_BYTES_MAX = 256 << 20
"""The biggest batch after decompression."""
SMALL_BATCH_BYTES = 4 << 10
"""Batches below this size are sent together, up to the next one."""
MERGED_BYTES_MAX = 128 << 10
CRC_POSITION, CRC_FROM = 17, 21
ATTRIBUTES_KEPT = 0x07
"""Only the codec: what is sent anew belongs to no transaction and has timestamps of its own."""
_producer = struct.Struct(">qhi")
PRODUCER_POSITION = 43


class StoredBatch(NamedTuple):
    """One batch of records, checksum checked."""

    header: BatchHeader
    data: memoryview


class StoredReader:
    """Read whole batches of partitions that one cluster leads, from `positions` up to `ends`.

    Batches of aborted transactions, control batches and empty ones are left out. `skipped` holds what retention took
    while it was read: partition -> number of offsets.
    """

    def __init__(
        self, router: Router, positions: Mapping[TopicPartition, int], ends: Mapping[TopicPartition, int]
    ) -> None:
        self._router = router
        self._ends = dict(ends)
        self._at = {at: offset for at, offset in positions.items() if offset < ends[at]}
        self.skipped: dict[TopicPartition, int] = {}

    async def read(self) -> AsyncIterator[tuple[TopicPartition, list[StoredBatch], int]]:
        """Partition, batches, and by how many offsets that went on; until every end is reached.

        :raises DecodeError: a batch is damaged; the message names partition and offset.
        :raises Refused, ClientError: a partition is gone, or its leader can't be asked.
        """
        idle = 0
        while self._at:
            before_all = dict(self._at)
            arrived = await self._router.retry(self._fetch, topics={at.topic for at in self._at})
            idle = 0 if any(data.records for _, data in arrived) or self._at != before_all else idle + 1
            if idle >= IDLE_MAX:
                at, offset = next(iter(self._at.items()))
                raise BadAnswer(f"partition {at}", f"the server gives nothing from offset {offset} on, but has more")
            for at, data in arrived:
                before = self._at[at]
                batches = list(self._taken(at, data))
                position = self._at[at]
                if position >= self._ends[at]:
                    del self._at[at]
                yield at, batches, min(position, self._ends[at]) - before

    async def _fetch(self) -> list[tuple[TopicPartition, PartitionData]]:
        node, partitions = next(iter((await self._router.by_leader(self._at)).items()))
        topics: dict[str, FetchTopic] = {}
        for at in partitions:
            part = FetchPartition(
                partition=at.partition, fetch_offset=self._at[at], partition_max_bytes=PARTITION_BYTES_MAX
            )
            topics.setdefault(at.topic, FetchTopic(topic=at.topic)).partitions.append(part)
        request = FetchRequest(
            max_wait_ms=WAIT_MS,
            min_bytes=1,
            max_bytes=FETCH_BYTES_MAX,
            isolation_level=1,
            topics=list(topics.values()),
        )
        connection = await self._router.connection(node, "fetch")
        version = connection.version_for(FETCH, VERSION_BEFORE_IDS)
        answer = await connection.ask(FETCH, request, FetchResponse, version=version)
        check(answer.error_code, None, "fetch")
        found = []
        for topic in answer.responses:
            for data in topic.partitions:
                at = TopicPartition(topic.topic, data.partition_index)
                if data.error_code == ErrorCode.OFFSET_OUT_OF_RANGE:
                    await self._skip(at)
                    continue
                check(data.error_code, None, f"partition {at}")
                found.append((at, data))
        return found

    async def _skip(self, at: TopicPartition) -> None:
        """What was to be read is deleted by now: go on with what is left."""
        start = (await list_offsets(self._router, {at: EARLIEST}))[at].offset
        target = min(max(start, self._at[at]), self._ends[at])
        self.skipped[at] = self.skipped.get(at, 0) + target - self._at[at]
        self._at[at] = target
        if target >= self._ends[at]:
            del self._at[at]

    def _taken(self, at: TopicPartition, data: PartitionData) -> Iterator[StoredBatch]:
        """The batches of one answer that count; the position goes on past all of them."""
        if not data.records:
            return
        assert isinstance(data.records, bytes | bytearray | memoryview), "decoded records are one buffer"
        view = memoryview(data.records)
        aborted = Aborted(data.aborted_transactions or [])
        place = 0
        while len(view) - place >= HEADER_BYTES:
            header = read_header(view, place)
            size = header.size
            if header.magic != 2 or size < HEADER_BYTES:
                raise DecodeError(f"batch at offset {header.base_offset} of {at}: magic {header.magic}, {size} bytes")
            if place + size > len(view):
                break
            if not check_crc(view, place, header):
                raise DecodeError(
                    f"batch at offset {header.base_offset} of {at}: its checksum does not match its bytes"
                )
            batch = StoredBatch(header, view[place : place + size])
            wanted = self._at[at] < header.next_offset and header.base_offset < self._ends[at]
            if not aborted.hides(view, place, header) and wanted and header.count:
                yield batch
            self._at[at] = max(self._at[at], header.next_offset)
            place += size


# -- sending anew


class Fresh(NamedTuple):
    """A batch that can be sent; `offsets` are those that its records had, one for each."""

    data: bytearray
    offsets: Sequence[int]


def fresh(batches: Buffer, low: int, high: int) -> Iterator[Fresh]:
    """Whole batches as batches that a server takes: no gaps between offsets, no producer, no transaction.

    The records from offset `low` on and below `high`, with their timestamps, keys, values and headers, and the codec
    of the batch. Those that need no change are not opened; small ones with the same codec are put together.

    :raises DecodeError: a batch can't be opened.
    """
    small: list[Record] = []
    size = codec = 0
    view, place = memoryview(batches), 0
    while place < len(view):
        header = read_header(view, place)
        batch = view[place : place + header.size]
        place += header.size
        whole = (
            header.count == header.last_offset_delta + 1 and header.base_offset >= low and header.next_offset <= high
        )
        is_small = header.size < SMALL_BATCH_BYTES
        if small and (not is_small or header.codec != codec or size > MERGED_BYTES_MAX):
            yield _rebuilt(small, codec)
            small, size = [], 0
        if whole and not is_small and not header.log_append_time:
            yield Fresh(_cleared(batch, header), range(header.base_offset, header.next_offset))
            continue
        records = _records(batch, header, low, high)
        if is_small:
            small, size, codec = small + records, size + header.size, header.codec
        elif records:
            yield _rebuilt(records, header.codec)
    if small:
        yield _rebuilt(small, codec)


def _records(batch: memoryview, header: BatchHeader, low: int, high: int) -> list[Record]:
    found = read_records(batch, bytes_max=BATCH_BYTES_MAX)
    if header.log_append_time:
        found = [msgspec.structs.replace(record, timestamp=header.max_timestamp) for record in found]
    return [record for record in found if low <= record.offset < high]


def _rebuilt(records: list[Record], codec: int) -> Fresh:
    offsets = [record.offset for record in records]
    numbered = [msgspec.structs.replace(record, offset=index) for index, record in enumerate(records)]
    return Fresh(build_batch(numbered, codec=codec), offsets)


def _cleared(batch: memoryview, header: BatchHeader) -> bytearray:
    data = bytearray(batch)
    struct.pack_into(">q", data, 0, 0)
    struct.pack_into(">i", data, 12, -1)
    struct.pack_into(">h", data, CRC_FROM, header.attributes & ATTRIBUTES_KEPT)
    return data


def _sign(data: bytearray, producer: tuple[int, int], sequence: int) -> None:
    _producer.pack_into(data, PRODUCER_POSITION, *producer, sequence)
    struct.pack_into(">I", data, CRC_POSITION, crc32c(memoryview(data)[CRC_FROM:]))


class StoredWriter:
    """Send batches in order for each partition; a retry makes no duplicates (KIP-98)."""

    def __init__(self, router: Router) -> None:
        self._router = router
        self._producer: tuple[int, int] | None = None
        self._sequences: dict[TopicPartition, int] = {}

    async def write(self, batches: Mapping[TopicPartition, Fresh]) -> dict[TopicPartition, int]:
        """Send one batch for each of several partitions; the offset that the first record of each got.

        :raises Refused: the server does not take one. :raises ClientError: no answer in time.
        """
        if self._producer is None:
            answer = await self._router.retry(
                lambda: self._router.ask(INIT_PRODUCER_ID, InitProducerIdRequest(None, 0), InitProducerIdResponse)
            )
            check(answer.error_code, None, "producer id")
            self._producer = (answer.producer_id, answer.producer_epoch)
        for at, batch in batches.items():
            sequence = self._sequences.get(at, 0)
            _sign(batch.data, self._producer, sequence)
            self._sequences[at] = (sequence + len(batch.offsets)) & 0x7FFFFFFF
        found: dict[TopicPartition, int] = {}

        async def attempt() -> None:
            missing = {at: batch for at, batch in batches.items() if at not in found}
            for node, partitions in (await self._router.by_leader(missing)).items():
                await self._send(node, {at: missing[at] for at in partitions}, found)

        await self._router.retry(attempt, topics={at.topic for at in batches})
        return found

    async def _send(self, node: int, batches: Mapping[TopicPartition, Fresh], found: dict[TopicPartition, int]) -> None:
        topics: dict[str, TopicProduceData] = {}
        for at, batch in batches.items():
            topic = topics.setdefault(at.topic, TopicProduceData(name=at.topic))
            topic.partition_data.append(PartitionProduceData(index=at.partition, records=batch.data))
        limit_ms = self._router.settings.request_timeout_ms
        request = ProduceRequest(acks=-1, timeout_ms=limit_ms, topic_data=list(topics.values()))
        connection = await self._router.connection(node, "produce")
        version = connection.version_for(PRODUCE, VERSION_BEFORE_IDS)
        answer = await connection.ask(PRODUCE, request, ProduceResponse, version=version)
        error: Refused | ClientError | None = None
        for topic_answer in answer.responses:
            for part in topic_answer.partition_responses:
                at = TopicPartition(topic_answer.name, part.index)
                if part.error_code:
                    error = error or refused(part.error_code, part.error_message, f"partition {at}")
                elif part.base_offset < 0:
                    error = BadAnswer(f"partition {at}", "the server took a batch and does not tell its offset")
                else:
                    found[at] = part.base_offset
        if error is not None:
            raise error


class Translation:
    """New offsets for committed ones while batches are written anew: one partition, offsets in rising order."""

    def __init__(self, wanted: Sequence[int]) -> None:
        self._left = sorted(set(wanted))
        self.found: dict[int, int] = {}

    def written(self, offsets: Sequence[int], base_offset: int) -> None:
        """Records that had these offsets were written from `base_offset` on."""
        while self._left and self._left[0] <= offsets[-1]:
            wanted = self._left.pop(0)
            self.found[wanted] = base_offset + bisect_left(offsets, wanted)

    def ended(self, next_offset: int) -> None:
        """Nothing more comes: what is left points to the end."""
        self.found |= dict.fromkeys(self._left, next_offset)
        self._left.clear()
