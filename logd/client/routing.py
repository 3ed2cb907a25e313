"""The way to the right broker: connections by node, the metadata cache, retries.

A :class:`Router` owns the connections and the nursery that they live in. Producer, consumer and admin ask through
it; several of them may share one. It knows who leads a partition and who coordinates a group, and nothing of
records.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import TypeVar

import trio

from logd.client.address import Address, parse_addresses
from logd.client.calls import FIND_COORDINATOR, METADATA, Call
from logd.client.connection import Connection, M, connect
from logd.client.errors import CannotConnect, ClientError, TimedOut, check, is_retriable, refused
from logd.client.lifetime import Lifetime
from logd.client.metadata import Metadata, PartitionInfo, TopicPartition, merge
from logd.client.settings import ClientSettings
from logd.errors import ErrorCode, Refused
from logd.wire.message import Message
from logd.wire.schemas.metadata import MetadataRequest, MetadataRequestTopic, MetadataResponse

T = TypeVar("T")

ANY_NODE = -1
GROUP, TRANSACTION = 0, 1
KINDS = ("group", "transactional id")
"""What has a coordinator, by its number on the wire."""


class Router(Lifetime):
    """Ask the brokers of one cluster. Use as ``async with Router("127.0.0.1:9092") as router``.

    :param bootstrap: ``host:port``, several with commas between, or an iterable of them.
    """

    def __init__(self, bootstrap: str | Iterable[str], settings: ClientSettings | None = None) -> None:
        self.settings = settings or ClientSettings()
        self.bootstrap = parse_addresses(bootstrap)
        self.metadata = Metadata()
        self._connections: dict[tuple[int, str], Connection] = {}
        self._opening: dict[tuple[int, str], trio.Lock] = {}
        self._coordinators: dict[tuple[int, str], int] = {}
        self._refreshing = trio.Lock()
        self._lines = 0
        self._nursery: trio.Nursery | None = None
        self._has_ended = False

    @asynccontextmanager
    async def _live(self) -> AsyncIterator[None]:
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            await nursery.start(self._live_on)
            yield
            nursery.cancel_scope.cancel()

    async def _live_on(self, task_status: trio.TaskStatus[None]) -> None:
        task_status.started()
        try:
            await trio.sleep_forever()
        finally:
            self._has_ended = True

    @asynccontextmanager
    async def last_word(self) -> AsyncIterator[Router]:
        """A router for what must still be said when the caller is cancelled: this one, or a fresh one to the same
        cluster when the tasks of this one are cancelled too. For use in a shielded scope with a limit."""
        for _ in range(2):
            await trio.lowlevel.checkpoint()  # a cancelled task has run after this
        if not self._has_ended:
            yield self
            return
        async with self.again() as router:
            yield router

    def again(self) -> Router:
        """Another router to the same cluster, not open yet."""
        return Router(map(str, self.bootstrap), self.settings)

    # -- connections

    async def connection(self, node: int = ANY_NODE, purpose: str = "ask") -> Connection:
        """An open connection to a node; for each `purpose` a node has one of its own, since answers come in order
        and a fetch may be held for long.

        :raises CannotConnect: it can't be reached.
        """
        if node == ANY_NODE:
            return await self._any_connection()
        key = (node, purpose)
        async with self._opening.setdefault(key, trio.Lock()):
            found = self._connections.get(key)
            if found is None or found.lost is not None:
                found = self._connections[key] = await self._open(self._address(node))
            return found

    def line(self, what: str) -> str:
        """A purpose that nobody else has, for requests that a server may hold for long: who shares the router would
        wait for them. To be given back with :meth:`hang_up`."""
        self._lines += 1
        return f"{what} {self._lines}"

    def hang_up(self, purpose: str) -> None:
        """Close the connections that were opened for this."""
        for key in [key for key in self._connections if key[1] == purpose]:
            self._connections.pop(key).close()
            self._opening.pop(key, None)

    def _address(self, node: int) -> Address:
        broker = self.metadata.brokers.get(node)
        if broker is None:
            raise CannotConnect(f"cannot connect to broker {node}", "the cluster does not list it", "try again")
        return broker.address

    async def _open(self, address: Address) -> Connection:
        assert self._nursery is not None, "use the router in `async with`"
        try:
            return await connect(self._nursery, address, self.settings)
        except CannotConnect as error:
            if self.metadata.brokers and address not in self.bootstrap:
                seeds = ", ".join(map(str, self.bootstrap))
                why = f"{error.why}; {seeds} advertises this address to its clients"
                raise CannotConnect(error.what, why, "correct advertised.listeners on the server") from None
            raise

    async def _any_connection(self) -> Connection:
        for (_, purpose), found in self._connections.items():
            if purpose == "ask" and found.lost is None:
                return found
        errors: list[CannotConnect] = []
        candidates = {address: -2 - index for index, address in enumerate(self.bootstrap)}
        candidates |= {broker.address: broker.id for broker in self.metadata.brokers.values()}
        for address, node in candidates.items():
            key = (node, "ask")
            async with self._opening.setdefault(key, trio.Lock()):
                found_now = self._connections.get(key)
                if found_now is not None and found_now.lost is None:
                    return found_now
                try:
                    self._connections[key] = await self._open(address)
                    return self._connections[key]
                except CannotConnect as error:
                    errors.append(error)
        raise _none_reachable(errors)

    # -- asking

    async def ask(self, call: Call, request: Message, kind: type[M], *, node: int = ANY_NODE) -> M:
        """One request to one node (by default any), no retry."""
        connection = await self.connection(node)
        return await connection.ask(call, request, kind)

    async def retry(
        self, attempt: Callable[[], Awaitable[T]], *, topics: Iterable[str] = (), timeout_ms: int | None = None
    ) -> T:
        """Call `attempt` until it succeeds, fails for good, or the time for retries is over; look at fresh metadata
        of `topics` between. A server that was never reached is not tried again."""
        limit_ms = self.settings.retry_timeout_ms if timeout_ms is None else timeout_ms
        deadline = trio.current_time() + limit_ms / 1000
        tries = 0
        while True:
            try:
                return await attempt()
            except (Refused, ClientError) as error:
                pause = self.backoff_s(tries)
                final = not is_retriable(error) or trio.current_time() + pause > deadline
                if final or (isinstance(error, CannotConnect) and not self.metadata.brokers):
                    raise
            tries += 1
            await trio.sleep(pause)
            await self.try_refresh(topics)

    def backoff_s(self, tries: int) -> float:
        """The pause after so many failed tries, with a fifth of it left to chance."""
        settings = self.settings
        pause_ms = min(settings.retry_backoff_ms << min(tries, 16), settings.retry_backoff_ms_max)
        return pause_ms * random.uniform(0.8, 1.2) / 1000

    # -- metadata

    async def refresh(self, topics: Iterable[str] | None = None, *, create: bool = False) -> Metadata:
        """Ask for the brokers and these topics (None: all of them) and remember the answer.

        :param create: let the server create a topic that is missing, when its settings allow it.
        """
        names = None if topics is None else list(topics)
        wanted = None if names is None else [MetadataRequestTopic(name=name) for name in names]
        request = MetadataRequest(topics=wanted, allow_auto_topic_creation=create)
        async with self._refreshing:
            answer = await self.ask(METADATA, request, MetadataResponse)
            check(answer.error_code, None, "metadata")
            self.metadata = merge(self.metadata, answer, names)
        return self.metadata

    async def topic_names(self, ids: Iterable[bytes]) -> dict[bytes, str]:
        """The names of topics by their ids; one that nobody knows is left out."""
        wanted = set(ids)
        missing = wanted - {topic.id for topic in self.metadata.topics.values()}
        if missing:
            topics = [MetadataRequestTopic(topic_id=topic_id, name=None) for topic_id in sorted(missing)]
            request = MetadataRequest(topics=topics, allow_auto_topic_creation=False)
            async with self._refreshing:
                self.metadata = merge(self.metadata, await self.ask(METADATA, request, MetadataResponse), [])
        return {topic.id: name for name, topic in self.metadata.topics.items() if topic.id in wanted}

    async def try_refresh(self, topics: Iterable[str]) -> None:
        """Refresh, but a failure is left to whoever asks next."""
        try:
            await self.refresh(topics)
        except ClientError as error:
            if isinstance(error, TimedOut):
                self._drop_silent()

    def _drop_silent(self) -> None:
        """A connection that lets requests time out is not asked again."""
        for key, connection in list(self._connections.items()):
            if key[1] == "ask":
                connection.close()
                del self._connections[key]

    async def leader(self, at: TopicPartition, *, create: bool = False) -> PartitionInfo:
        """The partition with its present leader, from the cache when it is there.

        :raises Refused: the topic or partition does not exist (UNKNOWN_TOPIC_OR_PARTITION) or has no leader.
        """
        found = self.metadata.partition(at)
        if found is None or found.leader < 0:
            await self.refresh([at.topic], create=create)
            found = self.metadata.partition(at)
        topic = self.metadata.topics.get(at.topic)
        if topic is None or topic.error:
            number = topic.error if topic is not None else ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
            raise refused(number, None, f"topic {at.topic!r}")
        if found is None:
            count = len(topic.partitions)
            message = f"topic {at.topic!r} has no partition {at.partition}: it has {count}, numbered from 0"
            raise Refused(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, message)
        if found.leader < 0:
            raise Refused(ErrorCode.LEADER_NOT_AVAILABLE, f"partition {at} has no leader now")
        return found

    async def by_leader(self, partitions: Iterable[TopicPartition]) -> dict[int, list[TopicPartition]]:
        """These partitions grouped by the node that leads them; raises as :meth:`leader`."""
        groups: dict[int, list[TopicPartition]] = {}
        for at in partitions:
            groups.setdefault((await self.leader(at)).leader, []).append(at)
        return groups

    # -- coordinators

    async def coordinator(self, name: str, kind: int = GROUP) -> int:
        """The node that coordinates a group or a transactional id; asked once and remembered until
        :meth:`forget_coordinator`."""
        from logd.wire.schemas.find_coordinator import FindCoordinatorRequest, FindCoordinatorResponse

        known = self._coordinators.get((kind, name))
        if known is not None and known in self.metadata.brokers:
            return known
        what = f"coordinator of {KINDS[kind]} {name!r}"
        request = FindCoordinatorRequest(key=name, key_type=kind, coordinator_keys=[name])
        answer = await self.ask(FIND_COORDINATOR, request, FindCoordinatorResponse)
        if answer.coordinators:
            found = answer.coordinators[0]
            check(found.error_code, found.error_message, what)
            node = found.node_id
        else:
            check(answer.error_code, answer.error_message, what)
            node = answer.node_id
        if node not in self.metadata.brokers:
            await self.refresh([])
        self._coordinators[kind, name] = node
        return node

    def forget_coordinator(self, name: str, kind: int = GROUP) -> None:
        """The node answered that it is not the coordinator, or went away."""
        self._coordinators.pop((kind, name), None)


def _none_reachable(errors: list[CannotConnect]) -> CannotConnect:
    if len(errors) == 1:
        return errors[0]
    why = "; ".join(f"{error.what.removeprefix('cannot connect to ')}: {error.why}" for error in errors)
    return CannotConnect("cannot connect to any server", why, "start one, or give the address of one that runs")
