"""The Kafka door's side of one connection, over a socket pair: peers that leave, half leave, or do not read."""

from __future__ import annotations

import logging
import socket
import struct
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from logd.apis.dispatch import Pending
from logd.apis.registry import Connection
from logd.config import Settings
from logd.doors import kafka
from logd.doors.kafka import Peer
from logd.doors.listener import Guests

IDLE_MS = 10_000


class Answer(Pending):
    """An answer that is there when the test says so."""

    is_ready = False  # type: ignore[assignment]

    def __init__(self, data: bytes, *, in_order: bool = True) -> None:
        self.in_order = in_order
        self.keeps_frame = False
        self.there = trio.Event()
        self.given = False
        self.dropped = False
        self._data = data

    def drop(self) -> None:
        self.dropped = True

    async def parts(self) -> list[bytes]:
        await self.there.wait()
        self.given = True
        return [self._data]


class Door:
    """One connection whose requests get the answers of a list, in their order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *answers: Any) -> None:
        coming: Iterator[Any] = iter(answers)
        monkeypatch.setattr(kafka, "start", lambda *_: next(coming))
        self.near, self.far = socket.socketpair()
        self.near.setblocking(False)
        self.far.setblocking(False)
        services: Any = SimpleNamespace()
        self.peer = Peer(self.near, Connection(1, "peer", "127.0.0.1", 9092, "PLAINTEXT"), services, Settings())
        self.ended = trio.Event()

    async def serve(self) -> None:
        with self.near:
            await self.peer.serve()
        self.ended.set()

    def ask(self, count: int = 1) -> None:
        """Send Produce requests."""
        self.far.sendall(struct.pack(">ihhih", 10, 0, 9, 1, -1) * count)

    def came(self) -> bytes:
        """What has been answered; b"" too when the connection is closed."""
        try:
            return self.far.recv(1 << 20)
        except BlockingIOError:
            return b"nothing"


@pytest.fixture
def door(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Door]]:
    made: list[Door] = []

    def make(*answers: Any) -> Door:
        made.append(Door(monkeypatch, *answers))
        return made[-1]

    yield make
    for one in made:
        one.far.close()
        one.near.close()


@asynccontextmanager
async def watched(one: Door) -> AsyncIterator[None]:
    """A door that is served and has been asked, where guests that are silent for too long are sent away."""
    guests = Guests(lambda: (10, 10))
    guests.present.add(one.peer)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(guests.sweep, IDLE_MS)
        nursery.start_soon(one.serve)
        one.ask()
        yield
        nursery.cancel_scope.cancel()


@pytest.mark.trio
async def test_a_request_while_it_drains_costs_no_answer(door: Callable[..., Door]) -> None:
    """What waits for its flush at the end of the server is answered, though the peer goes on sending."""
    answer = Answer(b"acknowledged")
    one = door(answer)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.serve)
        one.ask()
        await wait_all_tasks_blocked()
        one.peer.drain()
        one.ask()
        await wait_all_tasks_blocked()
        assert not one.ended.is_set()
        answer.there.set()
        await one.ended.wait()
    assert one.came() == b"acknowledged"
    assert one.came() == b""


@pytest.mark.trio
async def test_a_held_request_while_it_drains_costs_no_answer(door: Callable[..., Door]) -> None:
    """So too with a request at hand, whose turn never comes."""
    first, second = Answer(b"first"), Answer(b"second", in_order=False)
    one = door(first, second)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.serve)
        one.ask(3)
        await wait_all_tasks_blocked()
        one.peer.drain()
        first.there.set()
        await wait_all_tasks_blocked()
        assert not one.ended.is_set()
        second.there.set()
        await one.ended.wait()
    assert one.came() == b"firstsecond"


@pytest.mark.trio
async def test_who_sends_no_more_still_gets_its_answers(door: Callable[..., Door]) -> None:
    """A peer that closes only its own side, as ``nc`` does at the end of its input, reads what it asked for."""
    first, second = Answer(b"first"), Answer(b"second")
    one = door(first, second)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.serve)
        one.ask(2)
        one.far.shutdown(socket.SHUT_WR)
        await wait_all_tasks_blocked()
        first.there.set()
        await wait_all_tasks_blocked()
        second.there.set()
        await one.ended.wait()
    assert one.came() == b"firstsecond"
    assert one.came() == b""


@pytest.mark.trio
@pytest.mark.parametrize("reset", [False, True])
async def test_what_was_asked_is_done_though_the_peer_has_left(door: Callable[..., Door], reset: bool) -> None:
    """A request that came whole is carried out, as Kafka does it: acks=0, or the last words before an exit."""
    answer = Answer(b"done", in_order=False)
    one = door([b"not read"], answer)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.serve)
        one.ask()
        await wait_all_tasks_blocked()
        one.ask()
        await wait_all_tasks_blocked()
        if not reset:
            assert one.came() == b"not read"  # else the kernel tells the other side of it
        one.far.close()
        await wait_all_tasks_blocked()
        answer.there.set()
        await one.ended.wait()
    assert answer.given


@pytest.mark.trio
async def test_who_does_not_read_is_sent_away(
    door: Callable[..., Door], autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """A peer that leaves its answer in the socket is silent: it is closed like any other that is."""
    caplog.set_level(logging.ERROR)
    one = door([bytes(64 << 20)])
    async with watched(one):
        with trio.fail_after(2 * IDLE_MS / 1000):
            await one.ended.wait()
    assert trio.current_time() >= IDLE_MS / 1000
    assert not caplog.records


@pytest.mark.trio
async def test_who_reads_slowly_is_served(door: Callable[..., Door], autojump_clock: MockClock) -> None:
    """Each piece that a peer takes shows that it is there."""
    size = 4 << 20
    one = door([bytes(size)])
    got = 0
    async with watched(one):
        while got < size:
            await trio.sleep(IDLE_MS / 1000 * 0.8)
            piece = one.far.recv(size)
            assert piece
            got += len(piece)
        assert not one.ended.is_set()
    assert trio.current_time() > 2 * IDLE_MS / 1000


@pytest.mark.trio
@pytest.mark.parametrize("gone", [False, True])
async def test_who_waits_for_us_is_not_idle(door: Callable[..., Door], autojump_clock: MockClock, gone: bool) -> None:
    """A long wait for an answer is no silence of the peer's, unless it has left meanwhile."""
    answer = Answer(b"late")
    one = door(answer)
    async with watched(one):
        if gone:
            one.far.close()
        await trio.sleep(3 * IDLE_MS / 1000)
        assert one.ended.is_set() == gone
        answer.there.set()
