"""One TCP connection to one broker: requests go out in order, answers come back to whoever asked.

Two tasks belong to a connection, in the nursery that the opener gives: a writer, so that a cancelled caller never
leaves half a request on the wire, and a reader, which hands each answer to its waiter and drops those that nobody
awaits any more. So every method may be cancelled at any point and the connection stays usable. Opened by
``routing``; knows nothing of topics, leaders or retries.
"""

from __future__ import annotations

import errno
import socket
from collections import deque
from typing import TypeVar

import trio

from logd.client.address import DEFAULT_PORT, Address
from logd.client.calls import API_VERSIONS, FETCH, OWN_KEYS_FROM, Call
from logd.client.errors import BadAnswer, CannotConnect, ClientError, ConnectionLost, NotSupported, TimedOut
from logd.client.settings import ClientSettings
from logd.errors import DecodeError, ErrorCode
from logd.wire.frames import FrameBuffer, FrameTooLarge, decode_response, request_bytes
from logd.wire.message import Message
from logd.wire.schemas.api_versions import ApiVersionsRequest, ApiVersionsResponse

M = TypeVar("M", bound=Message)

HANDSHAKE_BYTES_MAX = 1 << 20
"""The first answer of a Kafka server is a few hundred bytes; a bigger claim comes from something else."""


class Answer:
    """The place where one answer arrives."""

    __slots__ = ("arrived", "error", "message")

    def __init__(self) -> None:
        self.arrived = trio.Event()
        self.message: Message | None = None
        self.error: ClientError | None = None

    def take(self, kind: type[M]) -> M:
        if self.error is not None:
            raise self.error.copy()
        assert isinstance(self.message, kind)
        return self.message


class Connection:
    """An open connection. Make one with :func:`connect`.

    ``versions`` is what the server offers: API key -> (lowest, highest); ``features`` its supported features.
    """

    def __init__(self, stream: trio.abc.Stream, address: Address, settings: ClientSettings) -> None:
        self.address = address
        self.versions: dict[int, tuple[int, int]] = {}
        self.features: dict[str, tuple[int, int]] = {}
        self.finalized: dict[str, tuple[int, int]] = {}
        self.lost: ClientError | None = None
        self._stream = stream
        self._settings = settings
        self._frames = FrameBuffer(HANDSHAKE_BYTES_MAX)
        self._waiting: dict[int, tuple[Call, int, Answer]] = {}
        self._outgoing: deque[bytes] = deque()
        self._next_written = self._being_written = Answer()
        """The network has taken what is in ``_outgoing``, and what was there before that."""
        self._wake = trio.Event()
        self._room = trio.CapacityLimiter(settings.in_flight_max)
        self._next_correlation = 0
        self._scope = trio.CancelScope()

    def close(self) -> None:
        """End the connection; whoever still waits gets :class:`ConnectionLost`, and so does who asks from now on."""
        self._lose("the connection was closed")
        self._scope.cancel()

    # -- asking

    def version_for(self, call: Call, highest: int | None = None) -> int:
        """The highest version that both sides speak; :class:`NotSupported` when there is none."""
        offered = self.versions.get(call.key)
        what = f"{call.name} request to {self.address}"
        if call.key >= OWN_KEYS_FROM:
            if "logd.version" not in self.features:
                raise NotSupported(what, f"only logd offers {call.name}, and this server is another", "")
            return call.highest
        if offered is None:
            raise NotSupported(what, f"the server does not offer {call.name}", "use a newer server")
        version = min(call.highest if highest is None else min(call.highest, highest), offered[1])
        if version < max(call.lowest, offered[0]):
            why = f"the server offers versions {offered[0]}-{offered[1]}, this client {call.lowest}-{call.highest}"
            raise NotSupported(what, why, "use a server or a client of a nearer release")
        return version

    async def ask(
        self,
        call: Call,
        request: Message,
        kind: type[M],
        *,
        version: int | None = None,
        timeout_ms: int | None = None,
    ) -> M:
        """Send a request and wait for its answer, a message of class `kind`.

        :raises NotSupported, ConnectionLost, TimedOut, BadAnswer: see ``errors``.
        """
        chosen = self.version_for(call) if version is None else version
        limit_ms = self._settings.request_timeout_ms if timeout_ms is None else timeout_ms
        answer = Answer()
        with trio.move_on_after(limit_ms / 1000):
            async with self._room:
                correlation = self._send(call, chosen, request, answer)
                try:
                    await answer.arrived.wait()
                finally:
                    if not answer.arrived.is_set():
                        self._abandon(correlation)
        if not answer.arrived.is_set():
            what = f"{call.name} request to {self.address}"
            raise TimedOut(what, f"no answer within {limit_ms} ms", "try again, or give it more time")
        return answer.take(kind)

    async def tell(self, call: Call, request: Message, *, version: int | None = None) -> None:
        """Send a request that gets no answer (Produce with acks 0); waits until the network has taken it, so that
        requests do not pile up before a slow server.

        :raises NotSupported, ConnectionLost, TimedOut: see ``errors``.
        """
        chosen = self.version_for(call) if version is None else version
        limit_ms = self._settings.request_timeout_ms
        await trio.lowlevel.checkpoint()
        self._send(call, chosen, request, None)
        written = self._next_written
        with trio.move_on_after(limit_ms / 1000):
            await written.arrived.wait()
        if not written.arrived.is_set():
            raise TimedOut(f"{call.name} request to {self.address}", f"not taken within {limit_ms} ms", "try again")
        if written.error is not None:
            raise written.error.copy()

    def _send(self, call: Call, version: int, request: Message, answer: Answer | None) -> int:
        if self.lost is not None:
            raise self.lost.copy()
        correlation = self._next_correlation
        self._next_correlation = (correlation + 1) & 0x7FFFFFFF
        self._outgoing.append(request_bytes(call.key, version, correlation, self._settings.client_id, request))
        if answer is not None:
            self._waiting[correlation] = (call, version, answer)
        self._wake.set()
        return correlation

    def _abandon(self, correlation: int) -> None:
        """Nobody waits for this answer any more: when it comes it is dropped unread."""
        waiting = self._waiting.get(correlation)
        if waiting is not None:
            self._waiting[correlation] = (waiting[0], waiting[1], Answer())

    # -- the two tasks

    async def serve(self) -> None:
        """Write what is asked and read what is answered until the connection ends. Raises nothing of its own."""
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._write_all, nursery.cancel_scope)
                    await self._read_all()
                    nursery.cancel_scope.cancel()
        finally:
            self._lose("the connection was closed")
            await trio.aclose_forcefully(self._stream)

    async def _write_all(self, scope: trio.CancelScope) -> None:
        while True:
            await self._wake.wait()
            self._wake = trio.Event()
            while self._outgoing:
                parts = list(self._outgoing)
                self._outgoing.clear()
                self._being_written, self._next_written = self._next_written, Answer()
                try:
                    await self._stream.send_all(parts[0] if len(parts) == 1 else b"".join(parts))
                except trio.BrokenResourceError as error:
                    self._lose(_reason(error, "the server closed the connection"))
                    scope.cancel()
                    return
                self._being_written.arrived.set()

    async def _read_all(self) -> None:
        try:
            while True:
                received = await self._fill(self._frames.writable())
                if received == 0:
                    return self._lose("the server closed the connection")
                self._frames.received(received)
                while (frame := self._frames.next_frame()) is not None:
                    self._answered(frame)
        except trio.BrokenResourceError as error:
            self._lose(_reason(error, "the connection broke"))
        except FrameTooLarge as error:
            self._lose(_foreign(error) or f"its answer can't be read: {error}", BadAnswer)
        except DecodeError as error:
            self._lose(f"its answer can't be read: {error}", BadAnswer)

    async def _fill(self, view: memoryview) -> int:
        if isinstance(self._stream, trio.SocketStream):
            try:
                return await self._stream.socket.recv_into(view)
            except OSError as error:
                raise trio.BrokenResourceError(error.strerror) from error
        data = await self._stream.receive_some(len(view))
        view[: len(data)] = data
        return len(data)

    def _answered(self, frame: memoryview) -> None:
        correlation = int.from_bytes(frame[:4], "big", signed=True)
        waiting = self._waiting.get(correlation)
        if waiting is None:
            raise DecodeError(f"answer number {correlation} was never asked for")
        call, version, answer = waiting
        if call.key == API_VERSIONS.key and frame[4:6] == ErrorCode.UNSUPPORTED_VERSION.to_bytes(2, "big"):
            version = 0  # KIP-511: a server that does not know the version answers in version 0
        answer.message = decode_response(call.key, version, frame)[1]  # raises while its waiter still is one
        del self._waiting[correlation]
        if call.key == FETCH.key:
            self._frames.detach()  # the records in the message are views of what was received
        answer.arrived.set()

    def _lose(self, why: str, kind: type[ClientError] = ConnectionLost) -> None:
        """Every waiter gets the reason, and so does everyone who asks later."""
        if self.lost is not None:
            return
        self.lost = kind(f"connection to {self.address}", why, "try again; the server's log may say more")
        unwritten = [one for one in (self._being_written, self._next_written) if not one.arrived.is_set()]
        for answer in (*(waiting[2] for waiting in self._waiting.values()), *unwritten):
            answer.error = self.lost
            answer.arrived.set()
        self._waiting.clear()
        self._outgoing.clear()

    # -- the first exchange

    async def negotiate(self) -> None:
        """Learn what the server offers (KIP-35, KIP-511). :class:`CannotConnect` when it is no Kafka server."""
        answer = await self._ask_versions(API_VERSIONS.highest)
        if answer.error_code == ErrorCode.UNSUPPORTED_VERSION:
            offered = {key.api_key: key.max_version for key in answer.api_keys}
            answer = await self._ask_versions(min(offered.get(API_VERSIONS.key, 0), API_VERSIONS.highest))
        if answer.error_code:
            why = f"the server answered error {answer.error_code} to ApiVersions"
            raise CannotConnect(f"cannot use {self.address}", why, "see the server's log")
        self.versions = {key.api_key: (key.min_version, key.max_version) for key in answer.api_keys}
        self.features = {item.name: (item.min_version, item.max_version) for item in answer.supported_features}
        self.finalized = {
            item.name: (item.min_version_level, item.max_version_level) for item in answer.finalized_features
        }
        self._frames.limit = self._settings.frame_bytes_max

    async def _ask_versions(self, version: int) -> ApiVersionsResponse:
        from logd import __version__

        request = ApiVersionsRequest(client_software_name="logd", client_software_version=__version__)
        return await self.ask(API_VERSIONS, request, ApiVersionsResponse, version=version)


def _reason(error: BaseException, otherwise: str) -> str:
    cause = error.__cause__
    if isinstance(cause, OSError) and cause.strerror:
        return f"{otherwise} ({cause.strerror})"
    return otherwise


def _foreign(error: FrameTooLarge) -> str | None:
    """What speaks there, when the claimed frame size is the start of another protocol (a TLS alert: 0x15 0x03)."""
    start = error.size.to_bytes(4, "big", signed=True)
    if start.startswith(b"\x15\x03"):
        return "the port speaks TLS"
    protocol = "HTTP" if start == b"HTTP" else error.foreign
    return f"something that speaks {protocol} answers there" if protocol else None


async def connect(nursery: trio.Nursery, address: Address, settings: ClientSettings) -> Connection:
    """Open a connection, start its tasks in `nursery`, agree on versions.

    :raises CannotConnect: refused, unreachable, no answer in time, or not a Kafka server: the reason says which.
    """
    connection: Connection | None = None
    done = False
    try:
        with trio.move_on_after(settings.connect_timeout_ms / 1000):
            connection = Connection(await _open(address), address, settings)
            nursery.start_soon(connection.serve)
            await connection.negotiate()
            done = True
            return connection
    except (ConnectionLost, BadAnswer, TimedOut) as error:
        raise _not_kafka(address, error) from None
    finally:
        if connection is not None and not done:
            connection.close()
    limit_ms = settings.connect_timeout_ms
    if connection is None:
        why, remedy = f"no connection within {limit_ms} ms", "check the address, and firewalls on the way"
    else:
        why = f"something listens there but gave no Kafka answer within {limit_ms} ms"
        remedy = "check that this is the plain Kafka port, and that the server is not stuck"
    failure = CannotConnect(f"cannot connect to {address}", why, remedy)
    failure.mute = None if connection is None else address
    raise failure


def _not_kafka(address: Address, error: ClientError) -> CannotConnect:
    what = f"cannot connect to {address}"
    if isinstance(error, BadAnswer):
        return CannotConnect(what, error.why, f"give the plain port of the Kafka protocol, often {DEFAULT_PORT}")
    if isinstance(error, ConnectionLost):
        why = f"{error.why} when asked for its versions"
        failure = CannotConnect(what, why, "check that the port is plain: neither TLS nor one that asks for a login")
        failure.mute = address
        return failure
    return CannotConnect(what, error.why, error.remedy)


async def _open(address: Address) -> trio.SocketStream:
    what = f"cannot connect to {address}"
    try:
        return await trio.open_tcp_stream(address.host, address.port)
    except socket.gaierror as error:
        why = f"the name {address.host!r} is not known ({error.strerror})"
        raise CannotConnect(what, why, "check the spelling, or give an IP address") from None
    except OSError as error:
        causes = error.__cause__.exceptions if isinstance(error.__cause__, BaseExceptionGroup) else (error,)
        numbers = {cause.errno for cause in causes if isinstance(cause, OSError)}
        if errno.ECONNREFUSED in numbers:
            remedy = f"start a server there (logd serve --listen {address}), or give its address"
            raise CannotConnect(what, "connection refused, nothing listens there", remedy) from None
        why = "; ".join(dict.fromkeys(getattr(cause, "strerror", None) or str(cause) for cause in causes))
        raise CannotConnect(what, why, "check the address, and firewalls on the way") from None
