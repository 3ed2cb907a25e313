"""Fetch assigned partitions ahead of their reader: one task for each node that leads some of them.

Owned by a consumer. A partition can be added, dropped, paused and moved at any time: what was fetched for a place that
nobody wants any more is recognised by its epoch and left out. Tasks wait while the reader is behind.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from operator import attrgetter
from typing import NamedTuple

import trio

from logd.client.calls import FETCH
from logd.client.chunks import Chunk
from logd.client.errors import ClientError, TimedOut, error_code, is_retriable, refused
from logd.client.metadata import TopicPartition
from logd.client.offsets import EARLIEST, LATEST, list_offsets
from logd.client.routing import Router
from logd.client.settings import ConsumerSettings
from logd.errors import DecodeError, ErrorCode, Refused
from logd.wire.message import ZERO_UUID
from logd.wire.schemas.fetch import FetchPartition, FetchRequest, FetchResponse, FetchTopic, PartitionData

NO_END = (1 << 63) - 1
VERSION_BEFORE_IDS = 12
"""From the version after this one on, Fetch names topics by id."""
DROPPED = -1
HURRY_S = 0.02
"""How long a fetch goes on that does not know of a partition which was added or moved meanwhile."""


class Assigned:
    """One partition that is read. `fetched` is where the next fetch starts, `position` where the reader is.

    `epoch` rises when the reader is sent elsewhere; `asked` is its value when the fetch under way was sent. `withheld`
    is set while a group takes the partition away, `held` is what came for a partition that is paused. `turn` is when
    something came last, `topic_id` whose offsets these are.
    """

    __slots__ = (
        "asked",
        "at",
        "end",
        "epoch",
        "fetched",
        "held",
        "node",
        "paused",
        "position",
        "topic_id",
        "tries",
        "turn",
        "withheld",
    )

    def __init__(self, at: TopicPartition, start: int, end: int) -> None:
        self.at = at
        self.fetched = start
        self.position = start
        self.end = end
        self.node: int | None = None
        self.tries = 0
        self.epoch = 0
        self.asked = 0
        self.turn = 0
        self.topic_id = ZERO_UUID
        self.paused = False
        self.withheld = False
        self.held: list[Arrival] = []


class Arrival(NamedTuple):
    """What one fetch brought for one partition; or, with no chunk, where to jump because its offset is gone."""

    to: Assigned
    epoch: int
    chunk: Chunk | None
    jump: int = -1

    @property
    def is_stale(self) -> bool:
        """The reader was sent elsewhere since, or does not read the partition any more."""
        return self.epoch != self.to.epoch


class Trouble:
    """Why nothing comes of some partitions; no news any more when the reader is sent elsewhere in all of them.

    `heard` is set when the reader was told.
    """

    __slots__ = ("error", "heard", "of")

    def __init__(self, partitions: Iterable[Assigned], error: Exception) -> None:
        self.of = [(one, one.epoch) for one in partitions]
        self.error = error
        self.heard = trio.Event()

    def left(self) -> list[Assigned]:
        """The partitions that it is still about."""
        return [one for one, epoch in self.of if one.epoch == epoch != DROPPED]


class Fetcher:
    """Fetches for one reader, within the nursery that :meth:`open` is given. ``assigned`` is what it fetches."""

    def __init__(self, router: Router, settings: ConsumerSettings) -> None:
        self.assigned: dict[TopicPartition, Assigned] = {}
        self._router = router
        self._settings = settings
        self._line = router.line("fetch")
        self._fetching: set[int] = set()
        self._turns = 0
        self._polls: dict[int, trio.CancelScope] = {}
        self._send, self._receive = trio.open_memory_channel[list[Arrival] | Trouble | Exception](settings.chunks_max)
        self._nursery: trio.Nursery | None = None

    def open(self, nursery: trio.Nursery) -> None:
        """Start fetching what is added, already or from now on."""
        self._nursery = nursery
        for one in self.assigned.values():
            nursery.start_soon(self._locate, one)

    def hang_up(self) -> None:
        """Close its connections, when its tasks have ended."""
        self._router.hang_up(self._line)

    def add(self, at: TopicPartition, start: int, end: int = NO_END) -> Assigned:
        """Read this partition from `start` on, as soon as :meth:`start` is called."""
        assert at not in self.assigned
        one = self.assigned[at] = Assigned(at, start, end)
        return one

    def start(self, added: Iterable[Assigned]) -> None:
        """Fetch what was added."""
        for one in added:
            self._start(one)

    def drop(self, at: TopicPartition) -> None:
        """Read this partition no more."""
        one = self.assigned.pop(at)
        one.epoch = DROPPED
        one.node = None
        one.held.clear()

    def move(self, one: Assigned, offset: int) -> None:
        """Go on reading from another offset."""
        one.epoch += 1
        one.fetched = one.position = offset
        one.held.clear()
        one.tries = 0
        self._start(one)

    def pause(self, one: Assigned) -> None:
        """Fetch no more of it until :meth:`resume`."""
        one.paused = True

    def resume(self, one: Assigned) -> list[Arrival]:
        """Fetch again; what had come already."""
        one.paused = False
        held, one.held = one.held, []
        self._start(one)
        return held

    async def receive(self) -> list[Arrival]:
        """What came next. Raises what went wrong."""
        arrived = await self._receive.receive()
        if isinstance(arrived, Trouble):
            arrived.heard.set()
            if not arrived.left():
                return []
            arrived = arrived.error
        if isinstance(arrived, Exception):
            raise arrived
        return arrived

    def nudge(self) -> None:
        """Let :meth:`receive` return, with nothing: its caller has records of its own to look at."""
        with suppress(trio.WouldBlock):  # then something else is there already
            self._send.send_nowait([])

    async def report(self, error: Exception) -> None:
        """Let the reader raise this."""
        await self._send.send(error)

    def _start(self, one: Assigned) -> None:
        if self._nursery is None or one.epoch == DROPPED:
            return
        if one.node is None or one.node not in self._fetching:
            self._nursery.start_soon(self._locate, one)
        else:
            self._hurry(one.node)

    def _hurry(self, node: int) -> None:
        """A fetch that is under way does not know of what is wanted now: it is given up if it finds nothing soon."""
        if node in self._polls:
            self._polls[node].deadline = trio.current_time() + HURRY_S

    async def _locate(self, one: Assigned) -> None:
        """Find the leader and see that its fetching task runs."""
        assert self._nursery is not None
        topics = [one.at.topic]
        limit_ms = self._router.settings.unknown_topic_timeout_ms if one.tries < 2 else None
        try:
            info = await self._router.retry(lambda: self._router.leader(one.at), topics=topics, timeout_ms=limit_ms)
        except (Refused, ClientError) as error:
            await self._complain([one], error)
            return
        if one.epoch == DROPPED:
            return
        one.node = info.leader
        self._hurry(info.leader)
        if info.leader not in self._fetching:
            self._fetching.add(info.leader)
            self._nursery.start_soon(self._fetch_from, info.leader)

    async def _fetch_from(self, node: int) -> None:
        """Fetch from one node until none of the partitions is there any more."""
        try:
            while wanted := self._wanted(node):
                for one in wanted:
                    if self._is_made_anew(one):
                        await self._reset(one, f"topic {one.at.topic!r} was deleted and made anew")
                try:
                    answer = await self._poll(node, wanted)
                except ClientError as error:
                    await self._moved(wanted, error)
                    continue
                arrivals = await self._take(answer, wanted)
                if arrivals:
                    await self._send.send(arrivals)
        finally:
            self._fetching.discard(node)

    def _wanted(self, node: int) -> list[Assigned]:
        """The one that has waited longest comes first: an answer is filled from its beginning, and what does not fit
        is left out."""
        found = [one for one in self.assigned.values() if one.node == node and one.fetched < one.end and not one.paused]
        return sorted(found, key=attrgetter("turn"))

    async def _poll(self, node: int, wanted: list[Assigned]) -> FetchResponse:
        """One fetch; an empty answer when it was given up. Then its connection is too: answers come in order."""
        try:
            with trio.CancelScope() as self._polls[node]:
                return await self._exchange(node, wanted)
        finally:
            del self._polls[node]
        (await self._router.connection(node, self._line)).close()
        return FetchResponse()

    async def _exchange(self, node: int, wanted: list[Assigned]) -> FetchResponse:
        settings = self._settings
        request, has_ids = self._request(wanted)
        connection = await self._router.connection(node, self._line)
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
        settings = self._settings
        metadata = self._router.metadata
        for one in wanted:
            one.asked = one.epoch
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

    async def _take(self, answer: FetchResponse, wanted: list[Assigned]) -> list[Arrival]:
        """The answer's records as arrivals; partitions with an error are looked after."""
        arrivals: list[Arrival] = []
        moved: dict[ErrorCode, list[Assigned]] = {}
        by_partition = {one.at: one for one in wanted}
        for topic in answer.responses:
            name = topic.topic or self._router.metadata.topic_name(topic.topic_id) or ""
            for data in topic.partitions:
                one = by_partition.get(TopicPartition(name, data.partition_index))
                if one is None or one.epoch != one.asked:
                    continue
                code = error_code(data.error_code)
                if code is ErrorCode.OFFSET_OUT_OF_RANGE:
                    await self._reset(one, f"partition {one.at}: {code.name}")
                elif code is not ErrorCode.NONE:
                    moved.setdefault(code, []).append(one)
                elif data.records:
                    self._advance(one, data, arrivals)
        for code, partitions in moved.items():
            left = [one for one in partitions if one.epoch == one.asked]
            if left:
                self._set_aside(left, refused(code, None, f"partition {left[0].at}"))
        return arrivals

    def _advance(self, one: Assigned, data: PartitionData, arrivals: list[Arrival]) -> None:
        settings = self._settings
        try:
            chunk = Chunk(
                one.at, data, committed_only=settings.committed_only, batch_bytes_max=settings.batch_bytes_max
            )
        except DecodeError as error:
            self._set_aside([one], DecodeError(f"fetch of {one.at} from offset {one.fetched}: {error}"))
            return
        one.fetched = max(chunk.next_offset, one.fetched)
        one.tries = 0
        self._turns += 1
        one.turn = self._turns
        arrivals.append(Arrival(one, one.epoch, chunk))

    def _set_aside(self, partitions: list[Assigned], error: Exception) -> None:
        """Look after these while the others of their node go on."""
        assert self._nursery is not None
        for one in partitions:
            one.node = None
        self._nursery.start_soon(self._moved, partitions, error)

    def _is_made_anew(self, one: Assigned) -> bool:
        """Whether the topic is another one than that which was read before under its name; told once."""
        topic = self._router.metadata.topics.get(one.at.topic)
        if topic is None or topic.id == ZERO_UUID:
            return False
        before, one.topic_id = one.topic_id, topic.id
        return before not in (ZERO_UUID, topic.id)

    async def _reset(self, one: Assigned, why: str) -> None:
        """The wanted offset is not there (any more): go where the setting says."""
        if self._settings.reset == "error":
            self._set_aside([one], Refused(ErrorCode.OFFSET_OUT_OF_RANGE, why))
            return
        timestamp, epoch = EARLIEST if self._settings.reset == "start" else LATEST, one.epoch
        try:
            found = await list_offsets(self._router, {one.at: timestamp}, committed_only=self._settings.committed_only)
        except (ClientError, Refused) as error:
            self._set_aside([one], error)
            return
        if one.epoch == epoch:
            one.fetched = found[one.at].offset
            await self._send.send([Arrival(one, epoch, None, jump=one.fetched)])

    async def _moved(self, partitions: list[Assigned], error: Exception) -> None:
        """The node does not lead these now, or can't be asked: look for their leader after a pause."""
        for one in partitions:
            one.node = None
            one.tries += 1
        if not is_retriable(error):
            await self._complain(partitions, error)
            return
        await trio.sleep(self._router.backoff_s(max(one.tries - 1 for one in partitions)))
        await self._look_again(partitions)

    async def _complain(self, partitions: list[Assigned], error: Exception) -> None:
        """Tell the reader. What this is about is tried again after that: it may ask for more all the same."""
        trouble = Trouble(partitions, error)
        if trouble.left():
            await self._send.send(trouble)
            await trouble.heard.wait()
            await trio.sleep(self._router.backoff_s(0))
            await self._look_again(trouble.left())

    async def _look_again(self, partitions: list[Assigned]) -> None:
        assert self._nursery is not None
        await self._router.try_refresh({one.at.topic for one in partitions})
        for one in partitions:
            if one.epoch != DROPPED:
                self._nursery.start_soon(self._locate, one)
