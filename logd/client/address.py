"""Addresses of servers as people write them: ``host:port``, lists of them, IPv6 in brackets.

Pure values; nothing is resolved here.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

DEFAULT_PORT = 9092


class Address(NamedTuple):
    """One TCP address; `host` is a name or an IP address without brackets."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str) -> Address:
    """``host``, ``host:port``, ``[::1]:port`` or ``::1``; ValueError with a sentence when it is none of them."""
    scheme, slashes, rest = text.strip().partition("://")
    if slashes:
        raise ValueError(f"{text!r} begins with {scheme}://; write {rest or 'HOST:PORT'}")
    host, port = _split(text.strip())
    if not host:
        raise ValueError(f"{text!r} names no host; write HOST:PORT, as in 127.0.0.1:{DEFAULT_PORT}")
    if not port:
        return Address(host, DEFAULT_PORT)
    if not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise ValueError(f"{port!r} in {text!r} is no port; ports are 1-65535, as in {host}:{DEFAULT_PORT}")
    return Address(host, int(port))


def _split(text: str) -> tuple[str, str]:
    if text.startswith("["):
        host, _, rest = text[1:].partition("]")
        return host, rest.removeprefix(":")
    if text.count(":") > 1:
        return text, ""
    host, _, port = text.partition(":")
    return host, port


def parse_addresses(texts: str | Iterable[str]) -> tuple[Address, ...]:
    """A comma-separated string, or several; ValueError when one is wrong or there is none."""
    parts = texts.split(",") if isinstance(texts, str) else [part for text in texts for part in text.split(",")]
    found = tuple(dict.fromkeys(parse_address(part) for part in parts if part.strip()))
    if not found:
        raise ValueError(f"no server given; write HOST:PORT, as in 127.0.0.1:{DEFAULT_PORT}")
    return found
