"""One TCP peer, looked at step by step: does its name resolve, does it answer, what does it speak.

Blocking sockets with a limit each; used by ``doctor``, and by ``session`` when a command got no answer. Where
:mod:`logd.client.connection` says that there is no Kafka server, this finds out what is there instead.
"""

from __future__ import annotations

import socket
import ssl
import struct
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Self

from logd.errors import DecodeError

if TYPE_CHECKING:
    from logd.client.calls import Call
    from logd.wire.message import Message

ANSWER_BYTES_MAX = 256 << 20
API_VERSIONS_KEY = 18
PROBE_S = 2.0
"""How long something that is no Kafka server may take to say what it is."""
UNSUPPORTED_VERSION = 35


class Wrong(Exception):
    """A step that failed: which, why, what to change."""

    def __init__(self, step: str, why: str, remedy: str) -> None:
        super().__init__(why)
        self.step = step
        self.why = why
        self.remedy = remedy


class Peer:
    """An open connection to one address. ``versions`` is what it offers once :meth:`greet` was called."""

    def __init__(self, host: str, port: int, limit_s: float) -> None:
        """Look the name up and connect. :raises Wrong: name or route."""
        self.host, self.port, self._limit_s = host, port, limit_s
        self.versions: dict[int, tuple[int, int]] = {}
        self.features: dict[str, int] = {}
        self.addresses = _addresses(host, port)
        started = time.monotonic()
        self._socket = _connected(self.addresses, host, port, limit_s)
        self.connect_ms = (time.monotonic() - started) * 1000
        self._correlation = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._socket.close()

    @property
    def is_logd(self) -> bool:
        return "logd.version" in self.features

    def greet(self) -> None:
        """Agree on versions. :raises Wrong: what is there is no Kafka server that speaks plainly."""
        from logd.wire.schemas.api_versions import ApiVersionsRequest

        for version in (3, 0):
            request = ApiVersionsRequest(client_software_name="logd-cli", client_software_version="doctor")
            try:
                answer = self.ask(API_VERSIONS_KEY, version, request)
            except EOFError:
                raise self._closed() from None
            except TimeoutError:
                raise self._silent() from None
            except (OSError, DecodeError) as error:
                if version:
                    self._again()
                    continue
                raise Wrong("peer", f"its answer can't be read: {error}", "check that this is a Kafka port") from None
            if answer.error_code == UNSUPPORTED_VERSION and version:
                self._again()
                continue
            self.versions = {key.api_key: (key.min_version, key.max_version) for key in answer.api_keys}
            self.features = {item.name: item.max_version for item in answer.supported_features}
            return

    def _again(self) -> None:
        self._socket.close()
        self._socket = _connected(self.addresses, self.host, self.port, self._limit_s)

    def version_for(self, call: Call) -> int:
        """The highest version that both speak. :raises Wrong: there is none."""
        offered = self.versions.get(call.key)
        if offered is None:
            raise Wrong("version", f"the server does not offer {call.name}", "use a newer server")
        version = min(call.highest, offered[1])
        if version < max(call.lowest, offered[0]):
            why = f"{call.name}: the server offers versions {offered[0]}-{offered[1]}, "
            why += f"this program {call.lowest}-{call.highest}"
            raise Wrong("version", why, "use a server or a program of a nearer release")
        return version

    def ask(self, key: int, version: int, request: Message) -> Any:
        """One request. :raises EOFError: closed. :raises OSError, DecodeError: see there. :raises Wrong: no Kafka."""
        from logd.wire.frames import decode_response, request_bytes

        self._correlation += 1
        self._socket.sendall(request_bytes(key, version, self._correlation, "logd-cli", request))
        head = self._receive(4)
        self._look(head)
        return decode_response(key, version, self._receive(struct.unpack(">i", head)[0]))[1]

    def _receive(self, size: int) -> bytes:
        found = bytearray()
        while len(found) < size:
            try:
                data = self._socket.recv(min(size - len(found), 1 << 20))
            except ConnectionError:
                data = b""
            if not data:
                raise EOFError
            found += data
        return bytes(found)

    def _look(self, head: bytes) -> None:
        """Whether the first four bytes can be the size of an answer."""
        if head.startswith(b"\x15\x03"):
            raise Wrong("peer", "the port speaks TLS", "use a listener without TLS: logd-cli can't speak it yet")
        if head == b"HTTP":
            raise Wrong("peer", "an HTTP server answers there", "give the port of the Kafka protocol, often 9092")
        if 0 < struct.unpack(">i", head)[0] <= ANSWER_BYTES_MAX:
            return
        self._socket.settimeout(0.2)
        with suppress(OSError):
            head += self._socket.recv(60)
        shown = head.decode("ascii", "backslashreplace").splitlines()[0]
        why = f"something else answers there, it begins with {shown!r}"
        raise Wrong("peer", why, "give the port of the Kafka protocol, often 9092")

    def _closed(self) -> Wrong:
        why = "it closes the connection when it is asked for its versions"
        return self._stranger() or Wrong(
            "peer", why, "check that this is a Kafka port; the server's log may say why it hangs up"
        )

    def _silent(self) -> Wrong:
        why = f"it takes connections but gives no answer within {self._limit_s:g} s"
        return self._stranger() or Wrong(
            "peer", why, "check that this is a Kafka port, and that the server is not stuck"
        )

    def _stranger(self) -> Wrong | None:
        found = stranger(self.host, self.port)
        return None if found is None else Wrong("peer", *found)


def stranger(host: str, port: int) -> tuple[str, str] | None:
    """What is at an address that does not answer Kafka's requests, and what to do; None: nothing that is known."""
    if _probe(host, port, _tls_greeting(host))[:2] in (b"\x15\x03", b"\x16\x03"):  # an alert, or its own greeting
        return "the port speaks TLS", "use a listener without TLS: logd-cli can't speak it yet"
    if _probe(host, port, b"GET / HTTP/1.0\r\n\r\n").startswith(b"HTTP"):
        return "an HTTP server answers there", "give the port of the Kafka protocol, often 9092"
    return None


def _tls_greeting(host: str) -> bytes:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    greeter = ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname=host)
    with suppress(ssl.SSLWantReadError):
        greeter.do_handshake()
    return outgoing.read()


def _probe(host: str, port: int, greeting: bytes) -> bytes:
    """What it answers to these bytes on a connection of their own."""
    try:
        with socket.create_connection((host, port), PROBE_S) as probe:
            probe.sendall(greeting)
            return probe.recv(16)
    except OSError:
        return b""


def _addresses(host: str, port: int) -> list[str]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError) as error:
        why = getattr(error, "strerror", None) or str(error)
        remedy = "check the spelling, the DNS, or /etc/hosts; names of containers are known among containers only"
        raise Wrong("name", f"the name {host!r} is not known ({why})", remedy) from None
    return list(dict.fromkeys(str(item[4][0]) for item in found))


def _connected(addresses: list[str], host: str, port: int, limit_s: float) -> socket.socket:
    refused = False
    reasons = []
    for address in addresses:
        try:
            return socket.create_connection((address, port), limit_s)
        except ConnectionRefusedError:
            refused = True
            reasons.append(f"{address} refuses the connection")
        except TimeoutError:
            reasons.append(f"{address} does not answer within {limit_s:g} s")
        except OSError as error:
            reasons.append(f"{address}: {error.strerror or error}")
    if refused:
        listen = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        remedy = f"start a server there (logd serve --listen {listen}), or correct the port"
        raise Wrong("route", f"{'; '.join(reasons)}: nothing listens on port {port}", remedy)
    raise Wrong("route", "; ".join(reasons), "check the address, and firewalls on the way")
