"""A TCP proxy in front of a broker that loses chosen answers: the request arrives, the answer never does."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import trio

from logd.client.address import Address, parse_address
from logd.client.routing import Router

PRODUCE_KEY = 0


class Proxy:
    """Forwards frames. `loses(n)` decides over the answer to the n-th request of one API (Produce, if not told),
    counted from 0 over all connections: when it is lost, so is the connection."""

    def __init__(self, server: Address, loses: Callable[[int], bool], api_key: int = PRODUCE_KEY) -> None:
        self._api_key = api_key
        self.address = Address("127.0.0.1", 0)
        self.lost = 0
        self._server = server
        self._loses = loses
        self._produced = 0

    async def serve(self, task_status: trio.TaskStatus[None]) -> None:
        """Listen on a free port until cancelled."""
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.address = Address(*listeners[0].socket.getsockname()[:2])
        task_status.started()
        await trio.serve_listeners(self._connected, listeners)

    async def _connected(self, client: trio.SocketStream) -> None:
        try:
            async with client, await trio.open_tcp_stream(*self._server) as server:
                while True:
                    request = await _frame(client)
                    lose = False
                    if int.from_bytes(request[4:6], "big") == self._api_key:
                        lose = self._loses(self._produced)
                        self._produced += 1
                    await server.send_all(request)
                    answer = await _frame(server)
                    if lose:
                        self.lost += 1
                        return
                    await client.send_all(answer)
        except (trio.BrokenResourceError, EOFError):
            return


async def _frame(stream: trio.SocketStream) -> bytes:
    """One frame with its size."""
    size = await _exactly(stream, 4)
    return size + await _exactly(stream, int.from_bytes(size, "big"))


async def _exactly(stream: trio.SocketStream, count: int) -> bytes:
    data = b""
    while len(data) < count:
        part = await stream.receive_some(count - len(data))
        if not part:
            raise EOFError
        data += bytes(part)
    return data


class ProxiedRouter(Router):
    """A router that reaches every broker through one proxy, whatever the broker advertises."""

    proxy: Proxy

    def _address(self, node: int) -> Address:
        super()._address(node)
        return self.proxy.address


@asynccontextmanager
async def behind_proxy(
    bootstrap: str, loses: Callable[[int], bool], api_key: int = PRODUCE_KEY
) -> AsyncIterator[ProxiedRouter]:
    """A router behind a proxy in front of the broker at `bootstrap`."""
    async with trio.open_nursery() as nursery:
        proxy = Proxy(parse_address(bootstrap), loses, api_key)
        await nursery.start(proxy.serve)
        router = ProxiedRouter(str(proxy.address))
        router.proxy = proxy
        async with router:
            yield router
        nursery.cancel_scope.cancel()
