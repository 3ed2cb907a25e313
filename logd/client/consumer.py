"""Read records: partitions from given offsets, fetched ahead, decoded when the reader asks.

``async with Consumer("127.0.0.1:9092", "orders") as consumer: async for record in consumer: ...``. Each node that
leads one of the partitions has a fetching task, which stops while the reader is behind. Groups come with a later
issue; they will set the positions that are given here by hand.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import NamedTuple, Self

import trio

from logd.client.calls import FETCH
from logd.client.chunks import Received, decode_chunk, end_of_chunk
from logd.client.errors import ClientError, TimedOut, is_retriable, refused
from logd.client.lifetime import Lifetime
from logd.client.metadata import TopicPartition
from logd.client.offsets import EARLIEST, LATEST, list_offsets, partitions_of
from logd.client.routing import Router
from logd.client.settings import ClientSettings, ConsumerSettings
from logd.errors import DecodeError, ErrorCode, Refused
from logd.wire.message import ZERO_UUID
from logd.wire.schemas.fetch import FetchPartition, FetchRequest, FetchResponse, FetchTopic, PartitionData

NO_END = (1 << 63) - 1
VERSION_BEFORE_IDS = 12
"""From the version after this one on, Fetch names topics by id."""


class Assigned:
    """One partition that is read. `fetched` is where the next fetch starts, `position` where the reader is."""

    __slots__ = ("at", "end", "fetched", "node", "position", "tries")

    def __init__(self, at: TopicPartition, start: int, end: int) -> None:
        self.at = at
        self.fetched = start
        self.position = start
        self.end = end
        self.node: int | None = None
        self.tries = 0


class Chunk(NamedTuple):
    """What one fetch brought for one partition, or where to jump (-1: nowhere) because its offset is gone."""

    to: Assigned
    data: PartitionData
    jump: int = -1


class Consumer(Lifetime):
    """Read partitions of one cluster.

    :param bootstrap: ``host:port`` (several with commas between), or a router that is open already and shared.
    :param topics: read all partitions of these, from `start`: "start", "end", or milliseconds since 1970.
    :param positions: read these partitions from these offsets instead.
    :param ends: stop before these offsets; the iteration is over when every partition has one and has reached it.
    """

    def __init__(
        self,
        bootstrap: str | Iterable[str] | Router,
        topics: str | Iterable[str] = (),
        *,
        start: str | int = "start",
        positions: Mapping[TopicPartition, int] | None = None,
        ends: Mapping[TopicPartition, int] | None = None,
        settings: ConsumerSettings | None = None,
        client: ClientSettings | None = None,
    ) -> None:
        self.settings = settings or ConsumerSettings()
        self._router = bootstrap if isinstance(bootstrap, Router) else Router(bootstrap, client)
        self._shared = isinstance(bootstrap, Router)
        self._topics = [topics] if isinstance(topics, str) else list(topics)
        self._start = {"start": EARLIEST, "end": LATEST}.get(start, 0) if isinstance(start, str) else start
        self._positions = dict(positions or {})
        self._ends = dict(ends or {})
        self._assigned: dict[TopicPartition, Assigned] = {}
        self._fetching: set[int] = set()
        self._ready: list[Received] = []
        self._chunks: list[Chunk] = []
        self._send, self._receive = trio.open_memory_channel[list[Chunk] | Exception](self.settings.chunks_max)

    @asynccontextmanager
    async def _live(self) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            if not self._shared:
                await stack.enter_async_context(self._router)
            await self._assign()
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                for assigned in self._assigned.values():
                    nursery.start_soon(self._locate, assigned)
                yield
                nursery.cancel_scope.cancel()

    async def _assign(self) -> None:
        positions = dict(self._positions)
        if self._topics:
            wanted = dict.fromkeys(await partitions_of(self._router, self._topics), self._start)
            found = await list_offsets(self._router, wanted, committed_only=self.settings.committed_only)
            positions |= {at: answer.offset for at, answer in found.items()}
            late = {at: LATEST for at, offset in positions.items() if offset < 0}
            if late:  # nothing is that young: go on with what comes next
                positions |= {at: answer.offset for at, answer in (await list_offsets(self._router, late)).items()}
        self._assigned = {at: Assigned(at, start, self._ends.get(at, NO_END)) for at, start in positions.items()}

    # -- reading

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Received:
        if not self._ready:
            self._ready = (await self.read())[::-1]
            if not self._ready:
                raise StopAsyncIteration
        return self._ready.pop()

    async def read(self) -> list[Received]:
        """The next records of one partition, as many as came together; empty when every end is reached.

        :raises Refused: a partition is gone, or its wanted offset is and `reset` is "error".
        :raises DecodeError: what came is damaged.
        """
        await trio.lowlevel.checkpoint()
        while True:
            while self._chunks:
                assigned, data, jump = self._chunks.pop(0)
                if jump >= 0:
                    assigned.position = jump
                records, position = decode_chunk(assigned.at, data, assigned.position, assigned.end, self.settings)
                assigned.position = position
                if records:
                    return records
            if self.is_finished:
                return []
            arrived = await self._receive.receive()
            if isinstance(arrived, Exception):
                raise arrived
            self._chunks = arrived

    @property
    def is_finished(self) -> bool:
        """Every partition has an end and the reader is there."""
        return all(assigned.position >= assigned.end for assigned in self._assigned.values())

    def positions(self) -> dict[TopicPartition, int]:
        """The offset of the next record of each partition, as far as records were decoded."""
        return {at: assigned.position for at, assigned in self._assigned.items()}

    # -- fetching

    async def _locate(self, assigned: Assigned) -> None:
        """Find the leader and see that its fetching task runs."""
        topics = [assigned.at.topic]
        limit_ms = self._router.settings.unknown_topic_timeout_ms if assigned.tries < 2 else None
        try:
            info = await self._router.retry(
                lambda: self._router.leader(assigned.at), topics=topics, timeout_ms=limit_ms
            )
        except (Refused, ClientError) as error:
            await self._send.send(error)
            return
        assigned.node = info.leader
        if info.leader not in self._fetching:
            self._fetching.add(info.leader)
            self._nursery.start_soon(self._fetch_from, info.leader)

    async def _fetch_from(self, node: int) -> None:
        """Fetch from one node until none of the partitions is there any more."""
        try:
            while wanted := self._wanted(node):
                try:
                    answer = await self._exchange(node, wanted)
                except ClientError as error:
                    await self._moved(wanted, error)
                    continue
                chunks = await self._take(answer, wanted)
                if chunks:
                    await self._send.send(chunks)
        finally:
            self._fetching.discard(node)

    def _wanted(self, node: int) -> list[Assigned]:
        return [one for one in self._assigned.values() if one.node == node and one.fetched < one.end]

    async def _exchange(self, node: int, wanted: list[Assigned]) -> FetchResponse:
        settings = self.settings
        request, has_ids = self._request(wanted)
        connection = await self._router.connection(node, "fetch")
        version = connection.version_for(FETCH, None if has_ids else VERSION_BEFORE_IDS)
        limit_ms = settings.wait_ms + self._router.settings.request_timeout_ms
        try:
            answer = await connection.ask(FETCH, request, FetchResponse, version=version, timeout_ms=limit_ms)
        except TimedOut:
            connection.close()
            raise
        if answer.error_code:
            raise ClientError(f"fetch from {connection.address}", f"error {answer.error_code}")
        return answer

    def _request(self, wanted: list[Assigned]) -> tuple[FetchRequest, bool]:
        """The request, and whether every topic's id is known."""
        topics: dict[str, FetchTopic] = {}
        settings = self.settings
        metadata = self._router.metadata
        for one in wanted:
            known = metadata.topics.get(one.at.topic)
            fresh = FetchTopic(topic=one.at.topic, topic_id=known.id if known is not None else ZERO_UUID)
            info = metadata.partition(one.at)
            part = FetchPartition(
                partition=one.at.partition,
                current_leader_epoch=info.leader_epoch if info is not None else -1,
                fetch_offset=one.fetched,
                partition_max_bytes=settings.partition_bytes_max,
            )
            topics.setdefault(one.at.topic, fresh).partitions.append(part)
        request = FetchRequest(
            max_wait_ms=settings.wait_ms,
            min_bytes=settings.fetch_bytes_min,
            max_bytes=settings.fetch_bytes_max,
            isolation_level=int(settings.committed_only),
            topics=list(topics.values()),
        )
        return request, all(topic.topic_id != ZERO_UUID for topic in topics.values())

    async def _take(self, answer: FetchResponse, wanted: list[Assigned]) -> list[Chunk]:
        """The answer's records as chunks; partitions with an error are looked after."""
        chunks: list[Chunk] = []
        by_partition = {one.at: one for one in wanted}
        for topic in answer.responses:
            name = topic.topic or self._router.metadata.topic_name(topic.topic_id) or ""
            for data in topic.partitions:
                one = by_partition.get(TopicPartition(name, data.partition_index))
                if one is None:
                    continue
                if data.error_code:
                    await self._failed(one, refused(data.error_code, None, f"partition {one.at}"))
                elif data.records:
                    await self._advance(one, data, chunks)
        return chunks

    async def _advance(self, one: Assigned, data: PartitionData, chunks: list[Chunk]) -> None:
        try:
            end = end_of_chunk(data.records)
        except DecodeError as error:
            one.node = None
            await self._send.send(DecodeError(f"fetch of {one.at} from offset {one.fetched}: {error}"))
            return
        one.fetched = max(end, one.fetched)
        one.tries = 0
        chunks.append(Chunk(one, data))

    async def _failed(self, one: Assigned, error: Refused) -> None:
        if error.code == ErrorCode.OFFSET_OUT_OF_RANGE and self.settings.reset != "error":
            await self._reset(one)
        elif is_retriable(error):
            await self._moved([one], error)
        else:
            one.node = None
            await self._send.send(error)

    async def _reset(self, one: Assigned) -> None:
        """The wanted offset is not there (any more): go where the setting says."""
        timestamp = EARLIEST if self.settings.reset == "start" else LATEST
        try:
            found = await list_offsets(self._router, {one.at: timestamp})
        except (ClientError, Refused) as error:
            await self._send.send(error)
            return
        one.fetched = found[one.at].offset
        await self._send.send([Chunk(one, PartitionData(), jump=one.fetched)])

    async def _moved(self, partitions: list[Assigned], error: ClientError | Refused) -> None:
        """The node does not lead these now, or can't be asked: look for their leader after a pause."""
        if not is_retriable(error):
            await self._send.send(error)
            return
        pause_s = self._router.backoff_s(max(one.tries for one in partitions))
        for one in partitions:
            one.node = None
            one.tries += 1
        await trio.sleep(pause_s)
        await self._router.try_refresh({one.at.topic for one in partitions})
        for one in partitions:
            self._nursery.start_soon(self._locate, one)
