"""Raw, synchronous connections to a server that speaks the Kafka protocol: frames out, frames in, nothing clever.

`Connection` owns one TCP socket; the twin and the bad-input tests open them, on purpose also to send rubbish.
"""

from __future__ import annotations

import itertools
import socket
import struct

from .specs import Message, Specs

TIMEOUT_S = 20.0


class Closed(Exception):
    """The server closed the connection."""


class Connection:
    """One TCP connection.

    :param address: (host, port) of the server.
    :param client_id: goes into every request's header.
    """

    def __init__(self, specs: Specs, address: tuple[str, int], client_id: str | None = "twin") -> None:
        self._specs = specs
        self._client_id = client_id
        self._ids = itertools.count(1)
        self._socket = socket.create_connection(address, timeout=TIMEOUT_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._waiting: list[tuple[str, int, int]] = []

    def be_patient(self, seconds: float) -> None:
        """Wait longer for answers."""
        self._socket.settimeout(seconds)

    def close(self) -> None:
        self._socket.close()

    def ask(self, api: str, version: int, **values: object) -> Message:
        """Send a request, wait for its answer, return it decoded. Raises Closed."""
        self.send(api, version, **values)
        return self.receive()

    def send(self, api: str, version: int, **values: object) -> None:
        """Send a request and leave its answer for `receive`."""
        correlation_id = next(self._ids)
        self.send_frame(self._specs.request(api, version, correlation_id, self._client_id, values))
        self._waiting.append((api, version, correlation_id))

    def receive(self) -> Message:
        """The answer to the oldest request that was sent and not answered yet."""
        api, version, expected = self._waiting.pop(0)
        correlation_id, values = self._specs.response(api, version, self.receive_frame())
        assert correlation_id == expected, f"{api}: the answer to {correlation_id} came, expected {expected}"
        return values

    def send_frame(self, frame: bytes) -> None:
        """Size prefix and frame."""
        self.send_raw(struct.pack(">i", len(frame)) + frame)

    def send_raw(self, data: bytes) -> None:
        try:
            self._socket.sendall(data)
        except (BrokenPipeError, ConnectionResetError) as gone:
            raise Closed from gone

    def receive_frame(self) -> bytes:
        """The next frame without its size. Raises Closed at the end of the stream."""
        (size,) = struct.unpack(">i", self._receive(4))
        return self._receive(size)

    def _receive(self, size: int) -> bytes:
        parts: list[bytes] = []
        while size:
            try:
                part = self._socket.recv(min(size, 1 << 20))
            except ConnectionResetError as gone:
                raise Closed from gone
            if not part:
                raise Closed
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def is_closed_by_peer(self, timeout_s: float = 5.0) -> bool:
        """True when the server ends the stream (and sends nothing more) within the time."""
        self._socket.settimeout(timeout_s)
        try:
            return not self._socket.recv(1)
        except ConnectionResetError:
            return True
        except TimeoutError:
            return False
        finally:
            self._socket.settimeout(TIMEOUT_S)


def address_of(text: str) -> tuple[str, int]:
    """'127.0.0.1:9092' -> ('127.0.0.1', 9092)."""
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)
