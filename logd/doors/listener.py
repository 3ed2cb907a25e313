"""Listening sockets: accept, limit, sweep out the idle, drain at the end.

One :class:`Listener` for each address of the ``listeners`` setting; :class:`Guests` counts the connections of all of
them. Built by the node. It reads no bytes of any protocol; a door's peer object does.
"""

from __future__ import annotations

import errno
import logging
import os
import resource
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

import trio

from logd.apis.registry import Connection

if TYPE_CHECKING:
    from logd.config import Settings

logger = logging.getLogger("logd.door")

IDLE_SWEEPS = 10
"""A connection is closed when it was silent in this many sweeps, which together last the idle time."""

PAUSE_S = 0.1
OUT_OF_DESCRIPTORS = {errno.EMFILE, errno.ENFILE}

DESCRIPTORS_KEPT = 32
"""File descriptors that connections leave to the logs, the metadata and the threads, beside a quarter of all."""


def connections_limit() -> int:
    """How many connections the limit of open files leaves room for, so that no flood of them takes a log its files."""
    files_max, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(files_max - files_max // 4 - DESCRIPTORS_KEPT, 1)


class Guest(Protocol):
    """What a door makes of an accepted socket."""

    idle_sweeps: int
    scope: trio.CancelScope
    connection: Connection

    @property
    def waits(self) -> bool:
        """Whether it is silent because an answer is not there yet; not where the peer does not take it, or has left."""
        ...

    async def serve(self) -> None:
        """Until the peer leaves."""
        ...

    def drain(self) -> None:
        """Finish what is in flight, start nothing more."""
        ...

    def rest(self) -> None:
        """Give memory back; called when the connection has been silent for a while."""
        ...


class Guests:
    """All connections of a node, and the limits on them.

    :param limits: tells how many there may be in all, and of one address, at this time.
    """

    def __init__(self, limits: Callable[[], tuple[int, int]]) -> None:
        self._limits = limits
        self._room = connections_limit()
        self.present: set[Guest] = set()
        self._by_address: dict[str, int] = {}
        self._last_id = 0
        self._departed = trio.Event()

    def enter(self, address: str) -> str | None:
        """Count a connection in, or say which limit it exceeds."""
        connections_max, per_address_max = self._limits()
        present = sum(self._by_address.values())
        if present >= connections_max:
            return f"max.connections={connections_max} is reached"
        if present >= self._room:
            return f"the limit of open files leaves room for {self._room} connections; raise it (ulimit -n)"
        if self._by_address.get(address, 0) >= per_address_max:
            return f"max.connections.per.ip={per_address_max} is reached"
        self._by_address[address] = self._by_address.get(address, 0) + 1
        return None

    def leave(self, address: str, guest: Guest | None) -> None:
        """Count a connection out."""
        if guest is not None:
            self.present.discard(guest)
        self._departed.set()
        self._by_address[address] -= 1
        if not self._by_address[address]:
            del self._by_address[address]

    def next_id(self) -> int:
        """A number for the logs."""
        self._last_id += 1
        return self._last_id

    async def sweep(self, idle_ms: int) -> None:
        """Close connections that have been silent for ``connections.max.idle.ms``; runs until cancelled."""
        while True:
            await trio.sleep(idle_ms / 1000 / IDLE_SWEEPS)
            for guest in list(self.present):
                guest.idle_sweeps += 1
                if guest.idle_sweeps == 1:
                    guest.rest()
                if guest.idle_sweeps > IDLE_SWEEPS and not guest.waits:
                    guest.scope.cancel()

    async def drain(self, grace_s: float) -> None:
        """Let every connection finish what is in flight, for so long at most."""
        for guest in list(self.present):
            guest.drain()
        with trio.move_on_after(grace_s):
            while self.present:
                self._departed = trio.Event()
                await self._departed.wait()
        for guest in list(self.present):
            guest.scope.cancel()


def _set_sizes(sock: socket.socket, settings: Settings) -> None:
    """What is accepted has the buffers of the socket that listens; without sizes the system chooses, and goes on to."""
    for option, size in (
        (socket.SO_RCVBUF, settings.socket_receive_buffer_bytes),
        (socket.SO_SNDBUF, settings.socket_send_buffer_bytes),
    ):
        if size >= 0:
            sock.setsockopt(socket.SOL_SOCKET, option, size)


class Listener:
    """One listening socket and the connections that came in by it."""

    def __init__(
        self, name: str, sock: socket.socket, guests: Guests, make: Callable[[socket.socket, Connection], Guest]
    ) -> None:
        self.name = name
        self.sock = sock
        self.guests = guests
        self.host, self.port = sock.getsockname()[:2]
        self._make = make
        self._spare = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)

    @classmethod
    async def bind(
        cls,
        name: str,
        host: str,
        port: int,
        settings: Settings,
        guests: Guests,
        make: Callable[[socket.socket, Connection], Guest],
    ) -> Listener:
        """Bind and listen. Raises OSError, with HOST:PORT as its file name, when the address is taken or not ours."""
        where = f"{host}:{port}"
        try:
            found = await trio.socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        except OSError as error:
            raise OSError(error.errno, error.strerror, where) from error
        family, kind, protocol, _, address = found[0]
        sock = socket.socket(family, kind, protocol)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6 and not host:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            _set_sizes(sock, settings)
            sock.setblocking(False)
            sock.bind(address)
            sock.listen(settings.socket_listen_backlog_size)
        except OSError as error:
            sock.close()
            raise OSError(error.errno, error.strerror, where) from error
        return cls(name, sock, guests, make)

    async def run(self, connections: trio.Nursery) -> None:
        """Accept until cancelled."""
        try:
            while True:
                await trio.lowlevel.wait_readable(self.sock)
                await self._accept_all(connections)
        finally:
            self.close()

    def close(self) -> None:
        """Stop listening."""
        self.sock.close()
        if self._spare >= 0:
            os.close(self._spare)
            self._spare = -1

    async def _accept_all(self, connections: trio.Nursery) -> None:
        while True:
            try:
                sock, address = self.sock.accept()
            except BlockingIOError:
                return
            except ConnectionError:
                continue
            except OSError as error:
                await self._not_accepted(error)
                return
            self._admit(sock, address, connections)

    def _admit(self, sock: socket.socket, address: tuple[str, int], connections: trio.Nursery) -> None:
        refused = self.guests.enter(address[0])
        if refused is not None:
            logger.warning("%s:%d on %s: turned away: %s", address[0], address[1], self.name, refused)
            sock.close()
            return
        connections.start_soon(self._serve, sock, address)

    async def _serve(self, sock: socket.socket, address: tuple[str, int]) -> None:
        guest: Guest | None = None
        try:
            with sock:
                sock.setblocking(False)
                with suppress(OSError):
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                host, port = sock.getsockname()[:2]
                peer = f"{address[0]}:{address[1]}"
                guest = self._make(sock, Connection(self.guests.next_id(), peer, host, port, self.name))
                self.guests.present.add(guest)
                await guest.serve()
        finally:
            self.guests.leave(address[0], guest)

    async def _not_accepted(self, error: OSError) -> None:
        """Whatever accept says, the node serves on: it looks again in a moment."""
        logger.error("%s: cannot accept: %s", self.name, error.strerror or error)
        if error.errno in OUT_OF_DESCRIPTORS:
            self._turn_one_away()
        await trio.sleep(PAUSE_S)

    def _turn_one_away(self) -> None:
        """Use the spare descriptor, if it is there, to accept a connection and close it, so that it knows."""
        if self._spare >= 0:
            os.close(self._spare)
            self._spare = -1
            with suppress(OSError):
                self.sock.accept()[0].close()
        with suppress(OSError):
            self._spare = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
