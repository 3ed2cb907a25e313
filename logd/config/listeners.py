"""The listener settings, taken apart: names, hosts, ports, and what does not fit together.

Used by `load` (to refuse a bad combination at start), by the node (to open sockets) and by the cluster's registration.
Pure: opens and resolves nothing.
"""

from __future__ import annotations

from ipaddress import ip_address

import msgspec

from logd.config.settings import Settings


class Listener(msgspec.Struct, frozen=True):
    """One address: `NAME://host:port`. An empty host means every interface; port 0 picks a free one."""

    name: str
    host: str
    port: int


def parse_listener(setting: str, text: str) -> Listener:
    """`NAME://HOST:PORT`, the host of IPv6 in brackets; raises ValueError with a sentence that names `setting`."""
    name, slashes, address = text.partition("://")
    host, colon, port = address.rpartition(":")
    if not (slashes and colon and name and port.isascii() and port.isdigit() and int(port) < 65536):
        raise ValueError(
            f"Invalid value {text} for configuration {setting}: write it as NAME://HOST:PORT with a port below 65536"
        )
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(f"Invalid value {text} for configuration {setting}: write an IPv6 host in brackets")
    return Listener(name.upper(), host, int(port))


def listeners(settings: Settings) -> list[Listener]:
    """Where to listen, in the order given."""
    return [parse_listener("listeners", text) for text in settings.listeners]


def advertised(settings: Settings) -> dict[str, Listener]:
    """The addresses that clients are told, by listener name; a name that is absent advertises what was connected to.

    Where none is set, a listener whose host is a name and no IP address tells that name, as Kafka's does.
    """
    told = {listener.name: listener for listener in listeners(settings) if _is_name(listener.host)}
    found = [parse_listener("advertised.listeners", text) for text in settings.advertised_listeners]
    return told | {listener.name: listener for listener in found}


def _is_name(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return bool(host)
    return False


def check_listeners(settings: Settings) -> None:
    """Raises ValueError with a sentence when the listener settings do not fit together."""
    opened = listeners(settings)
    if not opened:
        raise ValueError("Invalid value for configuration listeners: give at least one NAME://HOST:PORT")
    protocols = _protocols(settings)
    names = [listener.name for listener in opened]
    for listener in opened:
        if names.count(listener.name) > 1:
            raise ValueError(f"Invalid value for configuration listeners: the name {listener.name} is there twice")
        if protocols.get(listener.name, listener.name) != "PLAINTEXT":
            raise ValueError(
                f"Invalid value {listener.name}://{listener.host}:{listener.port} for configuration listeners: "
                "only PLAINTEXT is built; map the name in listener.security.protocol.map"
            )
    ports = [(listener.host, listener.port) for listener in opened if listener.port]
    if len(set(ports)) != len(ports):
        raise ValueError("Invalid value for configuration listeners: two listeners have the same address")
    _check_advertised(settings, names)


def _check_advertised(settings: Settings, names: list[str]) -> None:
    told = advertised(settings)
    for listener in told.values():
        if listener.name not in names:
            raise ValueError(
                f"Invalid value for configuration advertised.listeners: {listener.name} is not a name in listeners"
            )
        if listener.host in ("", "0.0.0.0", "::"):
            raise ValueError(
                f"Invalid value for configuration advertised.listeners: {listener.host or 'an empty host'} can't be "
                "connected to; give the host that clients use"
            )


def _protocols(settings: Settings) -> dict[str, str]:
    found = {}
    for item in settings.listener_security_protocol_map:
        name, colon, protocol = item.partition(":")
        if not (colon and name and protocol):
            raise ValueError(
                f"Invalid value {item} for configuration listener.security.protocol.map: write it as NAME:PROTOCOL"
            )
        found[name.upper()] = protocol.upper()
    return found
