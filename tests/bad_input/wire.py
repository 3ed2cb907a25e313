"""Requests and answers as plain dicts, by way of logd's own codec, so that no Java and no jar is needed here.

`WireSpecs` has the methods of the twin's `Specs` that a raw `Connection` uses; `Peer` is such a connection with the
checks that every test of bad input makes: what was refused, and that the server goes on for others.
"""

from __future__ import annotations

import sys
from typing import Any, cast

import msgspec

from logd.testing import Broker
from logd.wire import schemas
from logd.wire.frames import decode_response, request_bytes
from logd.wire.message import Message
from tests.twin.batches import batch
from tests.twin.peer import Connection, address_of
from tests.twin.specs import Specs

KEYS = {schemas.api_name(key): key for key in schemas.APIS}


def build(cls: type[Message], values: dict[str, Any]) -> Message:
    """The message of a class from a dict of its fields; what is left out has its default."""
    module = sys.modules[cls.__module__]
    kinds = {name: kind for name, kind, *_ in cls.FIELDS}
    fields: dict[str, Any] = {}
    for name, value in values.items():
        inner = getattr(module, kinds[name].removeprefix("[]"), None)
        if inner is None:
            fields[name] = value
        elif isinstance(value, list):
            fields[name] = [build(inner, item) for item in value]
        else:
            fields[name] = None if value is None else build(inner, value)
    return cls(**fields)


class WireSpecs:
    """What `Connection` asks of a codec, answered by `logd.wire`."""

    def key(self, api: str) -> int:
        return KEYS[api]

    def request(self, api: str, version: int, correlation_id: int, client_id: str | None, values: Any) -> bytes:
        """A frame without its size."""
        key = KEYS[api]
        message = build(schemas.request_class(key), values)
        return bytes(request_bytes(key, version, correlation_id, client_id, message))[4:]

    def response(self, api: str, version: int, frame: bytes) -> tuple[int, dict[str, Any]]:
        correlation_id, message = decode_response(KEYS[api], version, frame)
        plain = msgspec.to_builtins(message, builtin_types=(bytes, bytearray, memoryview))
        return correlation_id, cast("dict[str, Any]", plain)


SPECS = cast("Specs", WireSpecs())


class Peer(Connection):
    """A connection to a broker.

    :param broker: of `logd.testing`.
    """

    def __init__(self, broker: Broker, client_id: str | None = "bad") -> None:
        super().__init__(SPECS, address_of(broker.bootstrap), client_id)

    def produce(self, topic: str, records: bytes | None, *, version: int = 9, partition: int = 0, **more: Any) -> Any:
        """The answer for the one partition."""
        data = [{"name": topic, "partition_data": [{"index": partition, "records": records}]}]
        body = {"acks": -1, "timeout_ms": 10000, "topic_data": data, **more}
        return self.ask("Produce", version, **body)["responses"][0]["partition_responses"][0]

    def fetch(self, topic: str, offset: int, *, version: int = 12, request: Any = None, **more: Any) -> Any:
        """The answer for the one partition."""
        part = {"partition": 0, "fetch_offset": offset, "partition_max_bytes": 1 << 20, **more}
        topics = [{"topic": topic, "partitions": [part]}]
        body = {"max_wait_ms": 0, "min_bytes": 0, "max_bytes": 1 << 20, "topics": topics, **(request or {})}
        return self.ask("Fetch", version, **body)["responses"][0]["partitions"][0]


def still_serves(broker: Broker, topic: str, base_offset: int = 0) -> None:
    """Another client produces to the topic and reads all of it back: nothing acknowledged is lost."""
    other = Peer(broker, "other")
    appended = other.produce(topic, batch(b"still"))
    assert (appended["error_code"], appended["base_offset"]) == (0, base_offset)
    found = other.fetch(topic, 0)
    assert (found["error_code"], found["high_watermark"]) == (0, base_offset + 1)
    other.close()
