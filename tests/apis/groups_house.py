"""The coordinators behind their APIs, in memory: requests go in and answers come out as bytes, as at the door."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any, cast

import trio

from logd.apis import register_all
from logd.apis.dispatch import Pending, start
from logd.apis.registry import Connection, Services
from logd.cluster.cluster import Cluster, open_cluster
from logd.cluster.controller import NewTopic
from logd.cluster.image import Broker
from logd.cluster.store import MemoryStore
from logd.config import Settings
from logd.coordinators.front import GroupCoordinator
from logd.coordinators.journal import MemoryJournal
from logd.coordinators.transaction_front import TransactionCoordinator
from logd.errors import ErrorCode, Refused
from logd.wire.frames import decode_response, request_bytes
from logd.wire.message import Message
from logd.wire.schemas.join_group import JoinGroupRequest, JoinGroupRequestProtocol
from logd.wire.schemas.sync_group import SyncGroupRequest, SyncGroupRequestAssignment

SUBSCRIPTION = b"\x00\x00" + b"\x00\x00\x00\x01" + b"\x00\x01t" + b"\xff\xff\xff\xff"
"""A consumer's subscription to topic t."""


class FixedClock:
    def now_ms(self) -> int:
        return 1_700_000_000_000


class Nowhere:
    """Hosts no partitions."""

    def find(self, topic: str, index: int) -> object:
        raise Refused(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, f"there is no partition {topic}-{index}")


class Unmarked:
    """Writes no markers: there are no partitions."""

    async def write_all(
        self, marker: object, partitions: Iterable[tuple[str, int]]
    ) -> dict[tuple[str, int], ErrorCode]:
        return dict.fromkeys(partitions, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION)


class House:
    """The services that handlers of groups and transactions use, and a client of them."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.journals: dict[int, MemoryJournal] = {}
        self.groups = GroupCoordinator(
            cluster=cluster,
            clock=FixedClock(),
            journal_of=lambda index: self.journals.setdefault(index, MemoryJournal()),
        )
        markers = Unmarked()
        self.transactions = TransactionCoordinator(
            cluster=cluster,
            ids=cluster.next_producer_id,
            clock=FixedClock(),
            markers=markers,
            journal_of=lambda index: MemoryJournal(),
        )
        self.services = Services(
            clock=FixedClock(),
            cluster=cluster,
            partitions=cast(Any, Nowhere()),
            runs=cast(Any, None),
            groups=self.groups,
            transactions=self.transactions,
            markers=cast(Any, markers),
            advertised=lambda connection, broker_id: ("reach.me", 9000 + broker_id),
        )
        self.connection = Connection(1, "10.0.0.7:5555", "127.0.0.1", 9092, "PLAINTEXT")

    async def ask(self, key: int, version: int, request: Message, client: str = "app") -> Any:
        """Send a request in one version and read the answer in it."""
        frame = memoryview(request_bytes(key, version, 7, client, request))[4:]
        parts = start(frame, self.connection, self.services)
        if isinstance(parts, Pending):
            parts = await parts.parts()
        assert isinstance(parts, list)
        answer = b"".join(bytes(part) for part in parts)
        correlation_id, message = decode_response(key, version, memoryview(answer)[4:])
        assert correlation_id == 7
        return message

    async def stable(self, group: str = "g", kind: str = "consumer") -> str:
        """Make a group with one member in generation 1; returns its id."""
        answer = await self.ask(11, 3, join(group, kind=kind))
        member = answer.member_id
        given = [SyncGroupRequestAssignment(member, b"x")]
        await self.ask(14, 3, SyncGroupRequest(group, 1, member, assignments=given))
        return cast(str, member)


def join(group: str = "g", member: str = "", *, kind: str = "consumer", session_ms: int = 10_000) -> JoinGroupRequest:
    protocols = [JoinGroupRequestProtocol("range", SUBSCRIPTION)]
    return JoinGroupRequest(group, session_ms, 10_000, member, protocol_type=kind, protocols=protocols)


@asynccontextmanager
async def house(settings: Settings | None = None, *, topics: bool = True) -> AsyncIterator[House]:
    """A house with topics t and u of two partitions, `__consumer_offsets` among them unless told otherwise."""
    register_all()
    settings = settings or Settings()
    ids = iter(range(1, 100))
    cluster = await open_cluster(MemoryStore(), settings, lambda: bytes([next(ids)] * 16), lambda: "cluster")
    await cluster.start(Broker(0))
    one = House(cluster)
    async with trio.open_nursery() as nursery:
        await nursery.start(one.groups.run)
        await nursery.start(one.transactions.run)
        if topics:
            await cluster.create_topics([NewTopic("t", 2, 1), NewTopic("u", 2, 1)])
            await one.groups.ensure_topic()
        yield one
        nursery.cancel_scope.cancel()
