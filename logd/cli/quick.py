"""Names of topics, groups and settings without trio: one blocking socket, for shell completion and plain listings.

Every question has a short limit, and every failure is a :class:`NoAnswer`: completion then offers nothing, a listing
asks again through the real client, which knows why. Asks versions that every server since Kafka 2.4 offers.
"""

from __future__ import annotations

import socket
import struct
from contextlib import closing
from typing import TYPE_CHECKING, Any

from logd.errors import DecodeError

if TYPE_CHECKING:
    from logd.wire.message import Message

LIMIT_S = 1.0
ANSWER_BYTES_MAX = 64 << 20
METADATA, LIST_GROUPS, DESCRIBE_CONFIGS = 3, 16, 32
VERSIONS = {METADATA: 8, LIST_GROUPS: 2, DESCRIBE_CONFIGS: 1}


class NoAnswer(Exception):
    """No server could be asked, or its answer is none."""


class Line:
    """One connection; the first address of `bootstrap` that answers."""

    def __init__(self, bootstrap: str, limit_s: float = LIMIT_S) -> None:
        from logd.client.address import parse_addresses

        self._limit_s = limit_s
        try:
            addresses = parse_addresses(bootstrap)
        except ValueError as error:
            raise NoAnswer(str(error)) from None
        for host, port in addresses:
            try:
                self._socket = socket.create_connection((host, port), limit_s)
                return
            except (OSError, UnicodeError):
                continue
        raise NoAnswer(f"none of {bootstrap} can be reached")

    def close(self) -> None:
        self._socket.close()

    def ask(self, key: int, request: Message) -> Any:
        """The answer to one request. :raises NoAnswer: for whatever goes wrong."""
        from logd.wire.frames import decode_response, request_bytes

        try:
            self._socket.sendall(request_bytes(key, VERSIONS[key], 1, "logd-cli", request))
            (size,) = struct.unpack(">i", self._receive(4))
            if not 0 < size <= ANSWER_BYTES_MAX:
                raise NoAnswer(f"an answer of {size} bytes")
            return decode_response(key, VERSIONS[key], self._receive(size))[1]
        except (OSError, DecodeError) as error:
            raise NoAnswer(str(error)) from None

    def _receive(self, size: int) -> bytes:
        parts = bytearray()
        while len(parts) < size:
            data = self._socket.recv(min(size - len(parts), 1 << 20))
            if not data:
                raise NoAnswer("the connection was closed")
            parts += data
        return bytes(parts)


def metadata(bootstrap: str, limit_s: float = LIMIT_S) -> Any:
    """Brokers and all topics, as the server's Metadata answer. :raises NoAnswer: see there."""
    from logd.wire.schemas.metadata import MetadataRequest

    with closing(Line(bootstrap, limit_s)) as line:
        return line.ask(METADATA, MetadataRequest(topics=None, allow_auto_topic_creation=False))


def topic_names(bootstrap: str) -> list[str]:
    """The topics, without the server's own. :raises NoAnswer: see there."""
    return sorted(item.name for item in metadata(bootstrap).topics if item.name and not item.is_internal)


def broker_names(bootstrap: str) -> list[str]:
    """The brokers' numbers. :raises NoAnswer: see there."""
    return [str(number) for number in sorted(item.node_id for item in metadata(bootstrap).brokers)]


def group_names(bootstrap: str) -> list[str]:
    """The groups of all brokers that can be reached. :raises NoAnswer: none could be."""
    from logd.wire.schemas.list_groups import ListGroupsRequest
    from logd.wire.schemas.metadata import MetadataRequest

    found: set[str] = set()
    with closing(Line(bootstrap)) as line:
        answer = line.ask(METADATA, MetadataRequest(topics=[], allow_auto_topic_creation=False))
        found |= {item.group_id for item in line.ask(LIST_GROUPS, ListGroupsRequest()).groups}
    for broker in answer.brokers if len(answer.brokers) > 1 else ():
        try:
            with closing(Line(f"{broker.host}:{broker.port}")) as line:
                found |= {item.group_id for item in line.ask(LIST_GROUPS, ListGroupsRequest()).groups}
        except NoAnswer:
            continue
    return sorted(found)


def setting_names(bootstrap: str, kind: int, name: str) -> list[str]:
    """The settings of a topic (kind 2) or a broker (4) that can be changed. :raises NoAnswer: see there."""
    from logd.wire.schemas.describe_configs import DescribeConfigsRequest, DescribeConfigsResource

    wanted = DescribeConfigsResource(resource_type=kind, resource_name=name, configuration_keys=None)
    with closing(Line(bootstrap)) as line:
        answer = line.ask(DESCRIBE_CONFIGS, DescribeConfigsRequest(resources=[wanted]))
    return [item.name for result in answer.results for item in result.configs if not item.read_only]
