"""One connection's requests and the others: nobody has the loop for long, however many requests came in one go."""

from __future__ import annotations

import socket
from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.testing

from logd.apis.registry import Connection
from logd.config import Settings
from logd.doors import kafka
from logd.doors.kafka import TURN_LOOKS, TURN_REQUESTS_MAX, TURN_S_MAX, Peer

FRAME = b"\0\0\0\4\0\3\0\0"
GREEDY, MODEST = 1, 2


@pytest.mark.timeout(20)
@pytest.mark.parametrize(("takes_s", "before_max"), [(TURN_S_MAX, 2 * TURN_LOOKS), (0.0, 2 * TURN_REQUESTS_MAX)])
def test_who_asks_much_lets_others_in(monkeypatch: pytest.MonkeyPatch, takes_s: float, before_max: int) -> None:
    """A hundred requests that came in one go do not keep another's waiting: few that take long come before it."""
    clock = trio.testing.MockClock()
    order: list[int] = []
    all_came = trio.Event()
    near, far, modest_near, modest_far = *socket.socketpair(), *socket.socketpair()

    def start(frame: memoryview, connection: Connection, services: Any) -> list[bytes]:
        if not order:
            modest_far.sendall(FRAME)
        order.append(connection.id)
        if len(order) == 101:
            all_came.set()
        clock.jump(takes_s * 1.1)
        return [b"answer"]

    monkeypatch.setattr(kafka, "start", start)

    async def run() -> None:
        services: Any = SimpleNamespace()
        async with trio.open_nursery() as nursery:
            for number, sock in ((MODEST, modest_near), (GREEDY, near)):
                sock.setblocking(False)
                connection = Connection(number, "peer", "local", 9092, "PLAINTEXT")
                nursery.start_soon(Peer(sock, connection, services, Settings()).serve)
                await trio.testing.wait_all_tasks_blocked()
            far.sendall(FRAME * 100)
            await all_came.wait()
            nursery.cancel_scope.cancel()

    trio.run(run, clock=clock)
    for sock in (near, far, modest_near, modest_far):
        sock.close()
    assert order.count(GREEDY) == 100
    assert 0 < order.index(MODEST) <= before_max
