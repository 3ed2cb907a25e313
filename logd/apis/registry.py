"""The table of Kafka requests that this node answers, and what a handler is given.

It owns the registration of handlers (:func:`api`) and the values that travel with a request (:class:`Call`,
:class:`Connection`, :class:`Services`). The doors call :func:`endpoint`; ApiVersions is derived from the same
table, so that what is not served is not advertised. It never decodes bytes and never touches a socket.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import trio

from logd import threads
from logd.apis.client_metrics import ClientMetrics
from logd.apis.fetch_sessions import Sessions
from logd.chronicle import connection_note, topic_note
from logd.errors import Refused
from logd.partitions.record_times import RecordTimes
from logd.wire import schemas

if TYPE_CHECKING:
    from logd.clock import Clock
    from logd.cluster.cluster import Cluster
    from logd.config import Settings
    from logd.coordinators.front import GroupCoordinator
    from logd.coordinators.markers import MarkerWriter
    from logd.coordinators.transaction_front import TransactionCoordinator
    from logd.log.slices import Slice
    from logd.partitions.runs import Runs
    from logd.partitions.table import PartitionTable
    from logd.wire.frames import RequestHead
    from logd.wire.message import Buffer


NOTES_MAX = 32
"""Refusals of one request that are remembered: a thousand of them say no more than the first, and cost time."""

COLD_READS_MAX = 8
"""Reads of what is not in the page cache, at the same time."""


class Connection:
    """What a handler may know of the peer and of the socket that it came in by."""

    __slots__ = (
        "client_id",
        "client_name",
        "client_version",
        "id",
        "listener",
        "local_host",
        "local_port",
        "opened_ms",
        "peer",
    )

    def __init__(self, number: int, peer: str, local_host: str, local_port: int, listener: str) -> None:
        self.id = number
        self.peer = peer
        self.local_host = local_host
        self.local_port = local_port
        self.listener = listener
        self.opened_ms = -1
        self.client_id = ""
        self.client_name = ""
        self.client_version = ""


class Services:
    """Everything of one node that handlers use; built by the node, one for its life."""

    __slots__ = (
        "_cold_reads",
        "advertised",
        "chronicle",
        "client_metrics",
        "clock",
        "cluster",
        "connections",
        "fetch_sessions",
        "groups",
        "markers",
        "partitions",
        "record_times",
        "runs",
        "transactions",
    )

    def __init__(
        self,
        *,
        clock: Clock,
        cluster: Cluster,
        partitions: PartitionTable,
        runs: Runs,
        groups: GroupCoordinator,
        transactions: TransactionCoordinator,
        markers: MarkerWriter,
        advertised: Callable[[Connection, int], tuple[str, int]],
        connections: Callable[[], Iterable[Connection]] = tuple,
        last_session_id: int = 0,
    ) -> None:
        """``last_session_id``: see :class:`~logd.apis.fetch_sessions.Sessions`."""
        self.clock = clock
        self.cluster = cluster
        self.partitions = partitions
        self.runs = runs
        self.groups = groups
        self.transactions = transactions
        self.markers = markers
        self.advertised = advertised
        self.connections = connections
        self.chronicle = groups.chronicle
        self._cold_reads = trio.CapacityLimiter(COLD_READS_MAX)
        self.fetch_sessions = Sessions(cluster.settings.max_incremental_fetch_session_cache_slots, last_session_id)
        self.client_metrics = ClientMetrics()
        self.record_times = RecordTimes(partial(threads.run, limiter=self._cold_reads))

    @property
    def settings(self) -> Settings:
        """The settings in force, with what was altered while running."""
        return self.cluster.settings

    async def read_cold(self, piece: Slice) -> Buffer:
        """A piece of a log that is on the disk, a few at a time; raises what :meth:`Slice.load` raises.

        It is sent from the map all the same: what was read is let go at once, so that any number of slow readers of
        old data costs no memory. Only what the cache has already lost again is kept for the answer.
        """
        await threads.run(piece.warm, limiter=self._cold_reads)
        if piece.resident():
            return piece.view()
        return await threads.run(piece.load, limiter=self._cold_reads)


class Call:
    """One request as a handler sees it, beside its decoded body."""

    __slots__ = ("_notes", "api_key", "client_id", "connection", "correlation_id", "services", "version")

    def __init__(
        self,
        api_key: int,
        version: int,
        correlation_id: int,
        client_id: str | None,
        connection: Connection,
        services: Services,
    ) -> None:
        self.api_key = api_key
        self.version = version
        self.correlation_id = correlation_id
        self.client_id = client_id or ""
        self.connection = connection
        self.services = services
        self._notes = 0

    def refused(self, refused: Refused, *, topic: str = "") -> None:
        """Remember what was refused to this client, and of which topic, for those who ask why."""
        self._notes += 1
        if self._notes > NOTES_MAX:
            return
        now_ms, chronicle, peer = self.services.clock.now_ms(), self.services.chronicle, self.connection.peer
        what = f"{schemas.api_name(self.api_key)} v{self.version}"
        said = f"was refused: {refused.code.name}: {refused.message}"
        facts = {"request": what, "error": refused.code.name, "client": self.client_id}
        chronicle.add(connection_note(peer, "refused", f"{what} {said}", **facts, topic=topic), now_ms)
        if topic:
            text = f"{what} of {self.client} {said}"
            chronicle.add(topic_note(topic, "refused", text, **facts, peer=peer), now_ms)

    @property
    def client(self) -> str:
        """Who asks, in words."""
        return f"{self.client_id or 'a client without id'} at {self.connection.peer}"

    def advertised(self, broker_id: int) -> tuple[str, int]:
        """Host and port at which this client reaches a broker (the address it came in by, on a single plain node)."""
        return self.services.advertised(self.connection, broker_id)


Answer = Any
HANGUP = object()
"""What a handler returns to close the connection: Produce with acks=0 has no other way to say that it failed."""


class Parked:
    """An answer that has to wait although its request has done all that must happen in order.

    :param answer: called when somebody waits: a peer that has left leaves no coroutine that nobody awaits.
    :param is_ready: whether it need not wait any more.
    """

    __slots__ = ("answer", "is_ready")

    def __init__(self, answer: Callable[[], Awaitable[Any]], is_ready: Callable[[], bool]) -> None:
        self.answer = answer
        self.is_ready = is_ready

    def __await__(self) -> Generator[Any, None, Any]:
        return self.answer().__await__()


Handler = Callable[[Call, Any], "Answer | Awaitable[Answer] | None"]
Refusal = Callable[[Any, int, Refused], Answer]
H = TypeVar("H", bound=Callable[..., Any])


class Endpoint(NamedTuple):
    """One served request: its handler and the versions that are advertised for it."""

    key: int
    name: str
    low: int
    high: int
    advertised: tuple[int, int]
    """Produce is advertised from 0 although 0-2 are refused (KAFKA-18659), or librdkafka drops compression."""
    handler: Handler
    refuse: Refusal | None
    pipelined: bool
    """May start while an earlier pipelined request of the same connection still waits for its answer."""


_endpoints: dict[int, Endpoint] = {}


def api(key: int, *, refuse: Refusal | None = None, pipelined: bool = False) -> Callable[[H], H]:
    """Register a handler for an API key, in the version range that the facts table advertises.

    :param refuse: makes the answer from ``(request, version, Refused)`` when the handler raises :class:`Refused`.
    :param pipelined: the synchronous part of the handler keeps the order by itself (Produce).
    """

    def register(handler: H) -> H:
        assert key not in _endpoints, f"two handlers for API key {key}"
        facts = schemas.APIS[key]
        low, high = max(facts.advertised[0], facts.versions[0]), min(facts.advertised[1], facts.versions[1])
        _endpoints[key] = Endpoint(key, facts.name, low, high, facts.advertised, handler, refuse, pipelined)
        return handler

    return register


Shortcut = Callable[["Buffer", "RequestHead", Connection, Services], "list[Buffer] | None"]
S = TypeVar("S", bound=Callable[..., Any])

shortcuts: dict[int, Shortcut] = {}
"""By API key: what answers plain requests from the undecoded frame."""


def shortcut(key: int) -> Callable[[S], S]:
    """Register what is asked before a request is decoded; what it answers None to goes to the handler, untouched."""

    def register(short: S) -> S:
        assert key not in shortcuts, f"two shortcuts for API key {key}"
        shortcuts[key] = short
        return short

    return register


def endpoint(key: int) -> Endpoint | None:
    """The handler of an API key, or None when it is not served."""
    return _endpoints.get(key)


def served() -> list[Endpoint]:
    """All that is served, by key."""
    return [_endpoints[key] for key in sorted(_endpoints)]
