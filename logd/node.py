"""One node: builds every object that serves, owns their nurseries, and takes them down in order.

Called by the server's command line and by :mod:`logd.testing`. Everything below gets its settings, clock and services
from here; nothing below reads a clock of its own. It holds no logic of logs, topics or requests.
"""

from __future__ import annotations

import base64
import errno
import logging
import socket
import time
import uuid
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from logd import threads
from logd.apis import register_all
from logd.apis.fetch_sessions import ID_MAX
from logd.apis.registry import Connection, Services
from logd.chronicle import Chronicle
from logd.cluster.cluster import Cluster, open_cluster
from logd.cluster.image import Broker, Endpoint
from logd.cluster.store import StoreUnusable
from logd.config import Settings
from logd.config.listeners import advertised, listeners
from logd.coordinators.front import GroupCoordinator
from logd.coordinators.markers import MarkerWriter
from logd.coordinators.transaction_front import TransactionCoordinator
from logd.doors.kafka import Peer
from logd.doors.listener import Guest, Guests, Listener
from logd.errors import Corrupt, Refused, StorageFailed
from logd.jobs.retention import retain
from logd.log.directory import DataDirectories, DirectoryUnusable
from logd.log.reserve import Room
from logd.partitions.compactor import Compactor
from logd.partitions.flusher import Flusher
from logd.partitions.housekeeping import Housekeeping
from logd.partitions.runs import Runs
from logd.partitions.scrubber import Scrubber
from logd.partitions.steady import SteadyClock
from logd.partitions.table import PartitionTable
from logd.partitions.upkeep import Upkeep

if TYPE_CHECKING:
    from logd.clock import Clock
    from logd.cluster.store import Store
    from logd.jobs.compaction import Compaction
    from logd.jobs.process import WorkerProcess

logger = logging.getLogger("logd.node")

NOTE_TIME_S = 60.0
DRAIN_S = 2.0
"""How long answers that are owed may take when the node stops."""


class SystemClock:
    """The time of this machine."""

    def now_ms(self) -> int:
        """Milliseconds since the Unix epoch."""
        return time.time_ns() // 1_000_000


def new_uuid() -> bytes:
    """16 random bytes for a topic id, never all zero."""
    return uuid.uuid4().bytes


def new_cluster_id() -> str:
    """A random uuid in Kafka's way of writing it: 22 characters of URL-safe base64."""
    return base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")


class Node:
    """A running node."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self.settings = settings
        self.clock = clock
        self.bootstrap: list[str] = []
        """Where it listens, ``host:port``, in the order of ``listeners``."""
        self.services: Services
        self.cluster: Cluster
        self.partitions: PartitionTable
        self.groups: GroupCoordinator
        self.transactions: TransactionCoordinator
        self.guests = Guests(self.connection_limits)
        self.listeners: list[Listener] = []
        self._stopping = trio.Event()
        self.killed = False
        self.serving = False

    def stop(self) -> None:
        """Ask it to finish what is in flight, flush, close and return; thread: the node's own."""
        self._stopping.set()

    def kill(self) -> None:
        """Stop at once as a crash would: nothing is drained, flushed or closed well. For tests."""
        self.killed = True
        self._stopping.set()

    def connection_limits(self) -> tuple[int, int]:
        """How many connections there may be now: in all, and from one address."""
        settings = self.cluster.settings
        return settings.max_connections, settings.max_connections_per_ip

    def advertised(self, connection: Connection, broker_id: int) -> tuple[str, int]:
        """Where a client of this connection's listener reaches a broker."""
        broker = self.cluster.image.brokers.get(broker_id)
        endpoint = broker.listeners.get(connection.listener) if broker is not None else None
        if endpoint is None or not endpoint.host:
            return connection.local_host, connection.local_port
        return endpoint.host, endpoint.port

    async def bind(self) -> None:
        """Open the listening sockets; what arrives before :meth:`run` accepts waits in the backlog."""
        for wanted in listeners(self.settings):
            listener = await Listener.bind(
                wanted.name, wanted.host, wanted.port, self.settings, self.guests, self._welcome
            )
            self.listeners.append(listener)
            host = wanted.host or socket.gethostname()
            self.bootstrap.append(f"[{host}]:{listener.port}" if ":" in host else f"{host}:{listener.port}")

    def _welcome(self, sock: socket.socket, connection: Connection) -> Guest:
        connection.opened_ms = self.services.clock.now_ms()
        return Peer(sock, connection, self.services, self.settings)

    def registration(self) -> Broker:
        """What the cluster is told of this node."""
        told = advertised(self.settings)
        endpoints = {
            listener.name: Endpoint(told[listener.name].host, told[listener.name].port or listener.port)
            if listener.name in told
            else Endpoint("", listener.port)
            for listener in self.listeners
        }
        first = endpoints[self.listeners[0].name]
        return Broker(self.settings.node_id, first.host, first.port, self.settings.broker_rack, endpoints)

    async def serve(self, task_status: trio.TaskStatus[Node]) -> None:
        """Accept and serve until :meth:`stop`."""
        async with trio.open_nursery() as connections:
            async with trio.open_nursery() as doors:
                for listener in self.listeners:
                    doors.start_soon(listener.run, connections)
                doors.start_soon(self.guests.sweep, self.settings.connections_max_idle_ms)
                self.serving = True
                task_status.started(self)
                await self._stopping.wait()
                doors.cancel_scope.cancel()
            if not self.killed:
                await self.groups.close()  # members that wait for others are answered now
                self.transactions.close()
                await self.guests.drain(DRAIN_S)
            connections.cancel_scope.cancel()


async def open_store(directory: Path) -> Store:
    """The embedded metadata store of a data directory."""
    from logd.cluster.sqlite import SqliteStore

    return await SqliteStore.open(directory / "metadata.db")


class CannotStart(Exception):
    """The node can't start; the text is one sentence for the person who started it."""


START_ERRORS = (StoreUnusable, StorageFailed, Corrupt, DirectoryUnusable, Refused, OSError)


async def run_node(
    settings: Settings, *, clock: Clock | None = None, task_status: trio.TaskStatus[Node] = trio.TASK_STATUS_IGNORED
) -> None:
    """Run one node until its :meth:`Node.stop`; ``task_status`` gives the :class:`Node` when it serves.

    :raises CannotStart: when the data directory, an address or stored data can't be used.
    """
    register_all()
    node = Node(settings, clock or SystemClock())
    try:
        data = DataDirectories.open(settings.log_dirs)
        try:
            data.first.check_clock(node.clock.now_ms())
            await node.bind()
            await _run_on(node, data, task_status)
        finally:
            for listener in node.listeners:
                listener.close()
            data.close()
    except START_ERRORS as error:
        raise CannotStart(_sentence(error)) from error
    except BaseExceptionGroup as group:
        matching = group.subgroup(START_ERRORS)
        if node.serving or matching is None:
            raise
        cause: BaseException = matching
        while isinstance(cause, BaseExceptionGroup):
            cause = cause.exceptions[0]
        raise CannotStart(_sentence(cause)) from group


LISTEN_REMEDIES = {
    errno.EADDRINUSE: "choose another address with --listen, or stop what listens there",
    errno.EADDRNOTAVAIL: "give --listen a name or an address of this machine, or 0.0.0.0 for all that it has",
    errno.EACCES: "choose a port from 1024 on, or run it with the right to take this one",
}
"""What to do about an address that can't be listened on; a name that is not known has a negative number."""


def _sentence(error: BaseException) -> str:
    if isinstance(error, OSError) and error.filename and not str(error.filename).startswith("/"):
        number = error.errno or 0
        remedy = LISTEN_REMEDIES.get(errno.EADDRNOTAVAIL if number < 0 else number)
        if remedy is not None:
            return f"{error.filename}: {error.strerror}: {remedy}"
    return str(error)


async def _run_on(node: Node, data: DataDirectories, task_status: trio.TaskStatus[Node]) -> None:
    Room(data.path, node.settings.log_dir_free_bytes_min).ease()  # on a full disk no start could write metadata
    store = await open_store(Path(data.path))
    try:
        node.cluster = await open_cluster(store, node.settings, new_uuid, new_cluster_id)
        data.belong_to(node.cluster.image.cluster_id)
        async with trio.open_nursery() as background:
            await _start(node, data, background)
            await node.serve(task_status)
            background.cancel_scope.cancel()
        if not node.killed:
            with trio.CancelScope(shield=True):
                if await node.partitions.close():
                    leave_clean(data)
    finally:
        with trio.CancelScope(shield=True):
            await store.aclose()


async def note_time(data: DataDirectories, clock: Clock) -> None:
    """Write down what time it is, now and each minute, so that a start under a clock that went back is told."""
    while True:
        await threads.run(data.first.note_clock, clock.now_ms())
        await trio.sleep(NOTE_TIME_S)


def leave_clean(data: DataDirectories) -> None:
    """Leave the marker of a clean stop; without it the next start looks closer, and no more."""
    try:
        data.mark_clean()
    except StorageFailed as failure:
        logger.error("the stop was clean and cannot be marked so: %s", failure)


async def _start(node: Node, data: DataDirectories, background: trio.Nursery) -> None:
    """Build the services, open every log, start what runs beside the doors."""
    settings, clock, cluster = node.settings, node.clock, node.cluster
    flusher = Flusher(lambda: cluster.settings.background_threads)
    await background.start(flusher.run)
    await cluster.start(node.registration())
    node.partitions = partition_table(data, cluster, flusher, clock)
    await node.partitions.open_all(cluster.image)
    data.mark_dirty()
    cluster.listeners.append(node.partitions.follow)
    chronicle = Chronicle(settings.why_events_max_bytes)
    steady = SteadyClock(clock, trio.current_time, data.first.noted_clock())
    node.groups = GroupCoordinator(
        cluster=cluster, partitions=node.partitions, clock=clock, chronicle=chronicle, steady=steady
    )
    markers = MarkerWriter(node.partitions, node.groups)
    node.transactions = TransactionCoordinator(
        cluster=cluster,
        ids=cluster.next_producer_id,
        clock=clock,
        markers=markers,
        partitions=node.partitions,
        chronicle=chronicle,
        steady=steady,
    )
    compactor = Compactor(node.partitions, cluster, steady, partial(hire_compaction, cluster))
    runs = Runs(Housekeeping(node.partitions, retain, compactor, steady), clock.now_ms())
    await background.start(runs.run)
    node.services = Services(
        clock=clock,
        cluster=cluster,
        partitions=node.partitions,
        runs=runs,
        groups=node.groups,
        transactions=node.transactions,
        markers=markers,
        advertised=node.advertised,
        connections=lambda: [guest.connection for guest in node.guests.present],
        last_session_id=int.from_bytes(new_uuid()[:4], "big") & ID_MAX,
    )
    node.partitions.opened.append(node.groups.look_again)
    node.partitions.opened.append(node.transactions.look_again)
    await node.partitions.settled()
    await background.start(node.groups.run)
    await background.start(node.transactions.run)
    background.start_soon(node.partitions.remove_leftovers)
    background.start_soon(cluster.watch)
    background.start_soon(note_time, data, steady)
    background.start_soon(Upkeep(node.partitions, cluster, steady, retain).run)
    background.start_soon(compactor.run)
    background.start_soon(Scrubber(node.partitions, cluster, steady).run)


def partition_table(data: DataDirectories, cluster: Cluster, flusher: Flusher, clock: Clock) -> PartitionTable:
    """The table of the partitions in a data directory, with none opened yet."""
    settings = cluster.settings
    return PartitionTable(
        Path(data.path),
        settings.node_id,
        durable=settings.log_flush_mode == "group",
        clean=data.was_clean,
        config_of=cluster.topic_config,
        producer_id_expiration_ms=settings.producer_id_expiration_ms,
        flusher=flusher,
        clock=clock,
        free_bytes_min=settings.log_dir_free_bytes_min,
        others={Path(path): failure for path, failure in data.others.items()},
    )


def hire_compaction(cluster: Cluster) -> tuple[Compaction, WorkerProcess]:
    """The compaction job and the process it has its work done in; loaded when there is something to compact."""
    from logd.jobs.compaction import Compaction
    from logd.jobs.process import WorkerProcess

    worker = WorkerProcess(cluster.settings.log_dir_free_bytes_min)
    return Compaction(worker, lambda: cluster.settings), worker
