"""A blocking Kafka connection for tests: one request out, its response in.

Owns one socket. Used by :class:`logd.testing.broker.Broker`, in the thread of the test. It speaks through
``logd.wire`` to whatever listens, retries nothing and routes nothing.
"""

from __future__ import annotations

import select
import socket
import struct
from typing import TypeVar

from logd.errors import DecodeError, ErrorCode, Refused
from logd.wire import frames, schemas
from logd.wire.message import Message

R = TypeVar("R", bound=Message)

CLIENT_ID = "logd.testing"
KEYS = {api.name: key for key, api in schemas.APIS.items()}


class Connection:
    """One TCP connection to a broker.

    :param timeout_s: how long a single answer may take; ``TimeoutError`` is raised after that.
    """

    def __init__(self, host: str, port: int, timeout_s: float = 30.0) -> None:
        self._socket = socket.create_connection((host, port), timeout=timeout_s)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._correlation_id = 0

    def call(self, request: Message, version: int, response: type[R]) -> R:
        """Send the request in this version and return the answer.

        :raises ConnectionError: when the broker closes the connection.
        :raises DecodeError: when the answer is not one to this request.
        """
        key = KEYS[type(request).__name__.removesuffix("Request")]
        self._correlation_id += 1
        self._socket.sendall(frames.request_bytes(key, version, self._correlation_id, CLIENT_ID, request))
        (size,) = struct.unpack(">i", self._receive(4))
        correlation_id, answer = frames.decode_response(key, version, self._receive(size))
        if correlation_id != self._correlation_id:
            raise DecodeError(f"an answer to request {correlation_id} came for request {self._correlation_id}")
        assert isinstance(answer, response)
        return answer

    @property
    def over(self) -> bool:
        """Whether the broker has closed it, as it does when nothing was asked for ``connections.max.idle.ms``."""
        ready = select.poll()
        ready.register(self._socket, select.POLLIN)
        try:
            return bool(ready.poll(0)) and not self._socket.recv(1, socket.MSG_PEEK)
        except ConnectionError:
            return True

    def close(self) -> None:
        """Close the socket. May be called twice."""
        self._socket.close()

    def _receive(self, size: int) -> bytes:
        data = bytearray(size)
        view = memoryview(data)
        while view:
            count = self._socket.recv_into(view)
            if not count:
                raise ConnectionError("the broker closed the connection")
            view = view[count:]
        return bytes(data)


def check(code: int, what: str, message: str | None = None) -> None:
    """Raise :class:`logd.errors.Refused` unless the code is 0; ``what`` names the thing that was asked for."""
    if code:
        error = ErrorCode(code)
        raise Refused(error, f"{what}: {message or error.name}")
