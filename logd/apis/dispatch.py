"""From a frame to an answer: find the handler, decode, call, encode.

The Kafka door calls :func:`start` for each frame and sends what comes back. It owns no state. What the peer got
wrong so that no answer can be framed ends in :class:`Hangup`, whose text says why the connection is closed (as
Apache Kafka closes it: an API or version that is not served, a body that does not decode). A large request is decoded
by a thread, and so is its answer encoded: a hundred thousand topics stall nobody.
"""

from __future__ import annotations

from collections.abc import Awaitable, Coroutine
from typing import Any

from logd import threads
from logd.apis.registry import HANGUP, Call, Connection, Endpoint, Parked, Services, endpoint, shortcuts
from logd.apis.versions import unsupported_version
from logd.errors import DecodeError, Refused
from logd.wire import schemas
from logd.wire.codec import decode
from logd.wire.decoder import LARGE_ELEMENTS_MAX, REQUEST_ELEMENTS_MAX
from logd.wire.frames import RequestHead, decode_request_head, response_parts
from logd.wire.message import Message

PRODUCE, FETCH, API_VERSIONS = 0, 1, 18

LARGE_BYTES = 64 * 1024
"""A request over this size has so many elements that a thread decodes it; Produce and Fetch are about bytes."""

Parts = list[Any]


class Hangup(Exception):
    """The connection must be closed; the text says why."""


class Pending:
    """A request whose answer is not there yet."""

    __slots__ = ("call", "endpoint", "head", "in_order", "keeps_frame", "request", "waiting")

    def __init__(
        self, call: Call, head: RequestHead, endpoint: Endpoint, request: Any, waiting: Awaitable[Any]
    ) -> None:
        self.call = call
        self.head = head
        self.endpoint = endpoint
        self.request = request
        self.waiting = waiting
        self.in_order = isinstance(waiting, Parked)
        # the records of a Produce request are views of its frame; all else was copied by the decoder
        self.keeps_frame = head.api_key == PRODUCE and not self.in_order

    @property
    def is_ready(self) -> bool:
        """Whether :meth:`parts` will not wait."""
        return isinstance(self.waiting, Parked) and self.waiting.is_ready()

    def drop(self) -> None:
        """Nobody will wait for it: the peer has left. What was begun as a coroutine and has not run never will."""
        if isinstance(self.waiting, Coroutine):
            self.waiting.close()

    async def parts(self) -> Parts | None:
        """Wait for the answer and encode it; None when the request wants none."""
        try:
            answer = await self.waiting
        except Refused as refused:
            answer = _refusal(self.call, self.endpoint, self.request, self.head, refused)
        return _encode(self.head, answer)


class Large:
    """A request that has not been decoded yet, because that takes long."""

    __slots__ = ("_connection", "_endpoint", "_frame", "_services", "head")

    in_order = False
    is_ready = False
    keeps_frame = True

    def __init__(
        self, frame: memoryview, head: RequestHead, endpoint: Endpoint, connection: Connection, services: Services
    ) -> None:
        self.head = head
        self._frame = frame
        self._endpoint = endpoint
        self._connection = connection
        self._services = services

    def drop(self) -> None:
        """Nobody will wait for it, and nothing of it has begun."""

    async def parts(self) -> Parts | None:
        """Decode, call, wait, encode; None when the request wants no answer."""
        head, found = self.head, self._endpoint
        request = await threads.run(_decoded, self._frame, head, found, LARGE_ELEMENTS_MAX)
        call = _call(head, self._connection, self._services)
        try:
            answer = found.handler(call, request)
            if isinstance(answer, Awaitable):
                answer = await answer
        except Refused as refused:
            answer = _refusal(call, found, request, head, refused)
        return await threads.run(_encode, head, answer)


class Ready:
    """An answer that is there already, or the connection's end, which has to queue behind others."""

    __slots__ = ("_error", "_parts", "in_order")

    def __init__(self, parts: Parts | None, error: Exception | None = None) -> None:
        self._parts = parts
        self._error = error
        self.in_order = error is None

    @property
    def is_ready(self) -> bool:
        """Whether :meth:`parts` gives an answer."""
        return self._error is None

    def drop(self) -> None:
        """Nobody will wait for it; see :meth:`Pending.drop`."""

    async def parts(self) -> Parts | None:
        """The encoded answer; raises what ends the connection."""
        if self._error is not None:
            raise self._error
        return self._parts


def _encode(head: RequestHead, answer: Any) -> Parts | None:
    if answer is None:
        return None
    if answer is HANGUP:
        raise Hangup(f"{schemas.api_name(head.api_key)} asked for no answer and failed; the client must look again")
    return response_parts(head.api_key, head.api_version, head.correlation_id, answer)


def _refusal(call: Call, endpoint: Endpoint, request: Any, head: RequestHead, refused: Refused) -> Any:
    call.refused(refused)
    if endpoint.refuse is None:
        raise Hangup(f"{endpoint.name} v{head.api_version}: {refused.code.name}: {refused.message}") from refused
    return endpoint.refuse(request, head.api_version, refused)


def _decoded(frame: memoryview, head: RequestHead, found: Endpoint, elements_max: int) -> Message:
    try:
        request, _ = decode(schemas.request_class(head.api_key), head.api_version, frame, head.body, elements_max)
    except DecodeError as error:
        raise Hangup(f"{found.name} v{head.api_version} does not decode: {error}") from error
    return request


def _call(head: RequestHead, connection: Connection, services: Services) -> Call:
    return Call(head.api_key, head.api_version, head.correlation_id, head.client_id, connection, services)


def start(frame: memoryview, connection: Connection, services: Services) -> Parts | Pending | Large | None:
    """Begin one request.

    Bytes after a body are let pass, as Apache Kafka lets them: librdkafka 2.15 sends three of them behind Metadata v13.

    :param frame: header and body without the four size bytes; a handler that is still pending may hold views of it.
    :returns: buffers to send, or what to wait for, or None when the request wants no answer.
    :raises Hangup: when the connection has to be closed.
    """
    try:
        head = decode_request_head(frame)
    except DecodeError as error:
        raise Hangup(f"a request header that does not decode: {error}") from error
    key, version = head.api_key, head.api_version
    found = endpoint(key)
    if found is None:
        raise Hangup(f"API key {key} is not served here")
    if not found.low <= version <= found.high:
        if key == API_VERSIONS:
            return response_parts(key, 0, head.correlation_id, unsupported_version())
        raise Hangup(f"{found.name} v{version} is not served here (v{found.low} to v{found.high} are)")
    short = shortcuts.get(key)
    if short is not None and (parts := short(frame, head, connection, services)) is not None:
        return parts
    if len(frame) > LARGE_BYTES and key not in (PRODUCE, FETCH):
        return Large(frame, head, found, connection, services)
    request = _decoded(frame, head, found, REQUEST_ELEMENTS_MAX)
    call = _call(head, connection, services)
    try:
        answer = found.handler(call, request)
    except Refused as refused:
        answer = _refusal(call, found, request, head, refused)
    if isinstance(answer, Message) or answer is None or answer is HANGUP:
        return _encode(head, answer)
    # what cannot be refused any more need not be kept: a parked Produce would pin its frame
    return Pending(call, head, found, None if found.refuse is None else request, answer)
