"""One connection: versions, order, cancellation, and a clear reason for every way in which it can fail."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing

from logd.client.address import Address
from logd.client.calls import METADATA, PRODUCE
from logd.client.connection import Connection, connect
from logd.client.errors import BadAnswer, CannotConnect, ConnectionLost, NotSupported, TimedOut
from logd.client.settings import ClientSettings
from logd.wire.frames import decode_request_head, response_parts
from logd.wire.message import Message
from logd.wire.schemas.api_versions import ApiVersion, ApiVersionsResponse
from logd.wire.schemas.metadata import MetadataRequest, MetadataResponse
from logd.wire.schemas.produce import ProduceRequest

SETTINGS = ClientSettings(connect_timeout_ms=2000, request_timeout_ms=2000)
ADDRESS = Address("127.0.0.1", 9092)

Handler = Callable[[trio.SocketStream], Awaitable[None]]


class Peer:
    """A server's end of a memory stream, driven by the test."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self._rest = b""

    async def request(self) -> tuple[int, int, int]:
        """(API key, version, correlation id) of the next request."""
        while len(self._rest) < 4 or len(self._rest) < 4 + int.from_bytes(self._rest[:4], "big"):
            data = await self.stream.receive_some(65536)
            assert data, "the client hung up"
            self._rest += data
        size = int.from_bytes(self._rest[:4], "big")
        head = decode_request_head(self._rest[4 : 4 + size])
        self._rest = self._rest[4 + size :]
        return head.api_key, head.api_version, head.correlation_id

    async def answer(self, key: int, version: int, correlation: int, message: Message) -> None:
        await self.stream.send_all(b"".join(map(bytes, response_parts(key, version, correlation, message))))

    async def versions(self, *offered: tuple[int, int, int]) -> None:
        """Answer the ApiVersions request that every connection begins with."""
        key, version, correlation = await self.request()
        keys = [ApiVersion(api_key=api, min_version=low, max_version=high) for api, low, high in offered]
        await self.answer(key, version, correlation, ApiVersionsResponse(api_keys=keys))


def pair(nursery: trio.Nursery, settings: ClientSettings = SETTINGS) -> tuple[Connection, Peer]:
    """A connection whose other end is in the test's hands."""
    ours, theirs = trio.testing.memory_stream_pair()
    connection = Connection(ours, ADDRESS, settings)
    nursery.start_soon(connection.serve)
    return connection, Peer(theirs)


async def ready(nursery: trio.Nursery, settings: ClientSettings = SETTINGS) -> tuple[Connection, Peer]:
    """The same, after the exchange of versions."""
    connection, peer = pair(nursery, settings)
    nursery.start_soon(peer.versions, (3, 0, 12), (18, 0, 4))
    await connection.negotiate()
    return connection, peer


async def ask(connection: Connection) -> MetadataResponse:
    return await connection.ask(METADATA, MetadataRequest(topics=[]), MetadataResponse)


@pytest.mark.trio
async def test_the_highest_common_version_is_used(nursery: trio.Nursery) -> None:
    """What both sides speak is what goes over the wire; what is not offered is refused before it is sent."""
    connection, peer = await ready(nursery)
    assert connection.version_for(METADATA) == 12
    assert connection.version_for(METADATA, 5) == 5
    with pytest.raises(NotSupported, match="does not offer Produce"):
        connection.version_for(PRODUCE)
    connection.versions[3] = (0, 1)
    with pytest.raises(NotSupported, match="offers versions 0-1, this client 4-13"):
        connection.version_for(METADATA)
    assert peer.stream is not None


@pytest.mark.trio
async def test_an_older_server_is_asked_again(nursery: trio.Nursery) -> None:
    """UNSUPPORTED_VERSION to ApiVersions comes in version 0 and says what to ask with (KIP-511)."""
    connection, peer = pair(nursery)

    async def old_server() -> None:
        key, _, correlation = await peer.request()
        keys = [ApiVersion(api_key=18, min_version=0, max_version=2)]
        await peer.answer(key, 0, correlation, ApiVersionsResponse(error_code=35, api_keys=keys))
        assert (await peer.request())[:2] == (18, 2)
        keys.append(ApiVersion(api_key=3, min_version=0, max_version=8))
        await peer.answer(18, 2, correlation + 1, ApiVersionsResponse(api_keys=keys))

    nursery.start_soon(old_server)
    await connection.negotiate()
    assert connection.versions == {18: (0, 2), 3: (0, 8)}


@pytest.mark.trio
async def test_answers_go_to_whoever_asked(nursery: trio.Nursery) -> None:
    """Several requests are under way at once, and each caller gets its own answer."""
    connection, peer = await ready(nursery)
    found: dict[int, int] = {}

    async def one(number: int) -> None:
        found[number] = (await ask(connection)).controller_id

    async with trio.open_nursery() as callers:
        for number in range(3):
            callers.start_soon(one, number)
            _, version, correlation = await peer.request()
            found[correlation] = -1
            assert (version, correlation) == (12, number + 1)
        for number in range(3):
            await peer.answer(3, 12, number + 1, MetadataResponse(controller_id=number * 10))
    assert {number: found[number] for number in range(3)} == {0: 0, 1: 10, 2: 20}


@pytest.mark.trio
async def test_a_cancelled_caller_leaves_the_connection_usable(nursery: trio.Nursery) -> None:
    """The answer that nobody waits for is dropped, and the next request works."""
    connection, peer = await ready(nursery)
    with trio.CancelScope() as scope:
        nursery.start_soon(cancel_when_asked, peer, scope)
        await ask(connection)
    assert scope.cancelled_caught
    nursery.start_soon(peer.answer, 3, 12, 1, MetadataResponse(controller_id=1))

    async def second() -> None:
        _, version, correlation = await peer.request()
        await peer.answer(3, version, correlation, MetadataResponse(controller_id=2))

    nursery.start_soon(second)
    assert (await ask(connection)).controller_id == 2


async def cancel_when_asked(peer: Peer, scope: trio.CancelScope) -> None:
    await peer.request()
    scope.cancel()


@pytest.mark.trio
async def test_who_wants_no_answer_waits_for_the_network(nursery: trio.Nursery) -> None:
    """A request without an answer is done when it is written: before a slow server they do not pile up. When the
    connection ends before, that is said."""
    ours, theirs = trio.testing.lockstep_stream_pair()
    connection, peer = Connection(ours, ADDRESS, SETTINGS), Peer(theirs)
    nursery.start_soon(connection.serve)
    told: list[int] = []

    async def tell() -> None:
        for number in range(3):
            await connection.tell(PRODUCE, ProduceRequest(acks=0), version=12)
            told.append(number)

    async with trio.open_nursery() as callers:
        callers.start_soon(tell)
        await trio.testing.wait_all_tasks_blocked()
        assert told == []
        for number in range(2):
            await peer.request()
            await trio.testing.wait_all_tasks_blocked()
            assert told == list(range(number + 1))
        callers.cancel_scope.cancel()
    async with trio.open_nursery() as callers:
        callers.start_soon(lost, connection)
        await trio.testing.wait_all_tasks_blocked()
        await peer.stream.aclose()


async def lost(connection: Connection) -> None:
    with pytest.raises(ConnectionLost, match="the server closed the connection"):
        await connection.tell(PRODUCE, ProduceRequest(acks=0), version=12)


@pytest.mark.trio
async def test_a_closed_connection_is_lost_at_once(nursery: trio.Nursery) -> None:
    """Nobody is given it to ask once more, although its tasks have not ended yet."""
    connection, _ = await ready(nursery)
    connection.close()
    assert connection.lost is not None
    with pytest.raises(ConnectionLost, match="the connection was closed"):
        await ask(connection)


@pytest.mark.trio
async def test_no_answer_in_time(nursery: trio.Nursery, autojump_clock: trio.testing.MockClock) -> None:
    """A request has its limit, and the error names it; the connection goes on."""
    connection, peer = await ready(nursery)
    with pytest.raises(TimedOut, match="no answer within 2000 ms"):
        await ask(connection)
    assert connection.lost is None
    assert (await peer.request())[0] == 3


@pytest.mark.trio
async def test_everyone_learns_why_the_connection_ended(nursery: trio.Nursery) -> None:
    """All who wait and all who ask later get the reason, each an exception of its own."""
    connection, peer = await ready(nursery)
    errors: list[ConnectionLost] = []

    async def one() -> None:
        with pytest.raises(ConnectionLost, match="the server closed the connection") as caught:
            await ask(connection)
        errors.append(caught.value)

    async with trio.open_nursery() as callers:
        callers.start_soon(one)
        callers.start_soon(one)
        await peer.request()
        await peer.stream.aclose()
    await one()
    assert len({id(error) for error in errors}) == 3


@pytest.mark.trio
@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"\x00\x00\x00\x05\x00\x00\x00\x63\x00", "answer number 99 was never asked for"),
        (b"\xff\xff\xff\xff", "can't be read"),
        (b"\x7f\xff\xff\xff", "can't be read"),
        (b"\x00\x00\x00\x08\x00\x00\x00\x01abcd", "can't be read"),
    ],
)
async def test_an_answer_that_makes_no_sense(nursery: trio.Nursery, answer: bytes, why: str) -> None:
    """Bytes that are no answer end the connection and are named as the cause."""
    connection, peer = await ready(nursery)

    async def nonsense() -> None:
        await peer.request()
        await peer.stream.send_all(answer)

    nursery.start_soon(nonsense)
    with pytest.raises(BadAnswer, match=why):
        await ask(connection)


async def serving(nursery: trio.Nursery, handler: Handler) -> Address:
    """A server on a free port that treats each connection with `handler`."""
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")

    async def handle(stream: trio.SocketStream) -> None:
        async with stream:
            await handler(stream)

    nursery.start_soon(trio.serve_listeners, handle, listeners)
    return Address(*listeners[0].socket.getsockname()[:2])


@pytest.mark.trio
@pytest.mark.parametrize(
    ("banner", "why"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "speaks HTTP"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "speaks SSH"),
        (b"\x15\x03\x03\x00\x02\x02\x0a", "the port speaks TLS"),
        (b"", "closed the connection when asked for its versions"),
        (b"\x00\x00\x00\x04abcd", "can't be read"),
    ],
)
async def test_what_is_no_kafka_server_is_named(nursery: trio.Nursery, banner: bytes, why: str) -> None:
    """An HTTP, SSH or TLS server, or one that hangs up, is told apart and said so."""

    async def handler(stream: trio.SocketStream) -> None:
        await stream.receive_some(1000)
        if banner:
            await stream.send_all(banner)
            await stream.receive_some(1000)

    address = await serving(nursery, handler)
    with pytest.raises(CannotConnect, match=why):
        await connect(nursery, address, SETTINGS)


@pytest.mark.trio
async def test_a_server_that_says_nothing(nursery: trio.Nursery) -> None:
    """Something that accepts and keeps silent is given up after the limit."""
    address = await serving(nursery, silent)
    with pytest.raises(CannotConnect, match="gave no Kafka answer within 300 ms"):
        await connect(nursery, address, ClientSettings(connect_timeout_ms=300))


async def silent(stream: trio.SocketStream) -> None:
    while await stream.receive_some(1000):
        pass


@pytest.mark.trio
async def test_nothing_listens(nursery: trio.Nursery) -> None:
    """A refused connection says so and how to start a server there."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    address = Address(*listener.socket.getsockname()[:2])
    await listener.aclose()
    with pytest.raises(CannotConnect, match="connection refused") as caught:
        await connect(nursery, address, SETTINGS)
    assert f"--listen {address}" in caught.value.remedy


@pytest.mark.trio
async def test_a_name_that_nobody_knows(nursery: trio.Nursery) -> None:
    """A host name that can't be resolved is named."""
    with pytest.raises(CannotConnect, match=r"no-such-host\.invalid"):
        await connect(nursery, Address("no-such-host.invalid", 9092), SETTINGS)
