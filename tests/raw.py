"""A blocking Kafka peer on `logd.wire`: sends requests one by one or many at a time, and reads what comes back."""

from __future__ import annotations

import itertools
import socket
from typing import Any

from logd.wire import schemas
from logd.wire.batches import Record, build_batch
from logd.wire.frames import decode_response, request_bytes
from logd.wire.message import Message
from logd.wire.schemas.metadata import MetadataRequest, MetadataRequestTopic
from logd.wire.schemas.produce import PartitionProduceData, ProduceRequest, TopicProduceData

NOW_MS = 1_790_000_000_000


def key_of(message: Message) -> int:
    """The API key of a request."""
    name = type(message).__name__.removesuffix("Request")
    return next(key for key, facts in schemas.APIS.items() if facts.name == name)


def batch(*values: bytes, key: bytes | None = None, timestamp: int = NOW_MS, **how: Any) -> bytes:
    """A record batch with these values."""
    return bytes(build_batch([Record(index, timestamp, key, value, []) for index, value in enumerate(values)], **how))


def produce_request(topic: str, records: bytes, acks: int = -1, partition: int = 0) -> ProduceRequest:
    """A Produce request with one batch."""
    return ProduceRequest(
        None, acks, 10_000, [TopicProduceData(topic, partition_data=[PartitionProduceData(partition, records)])]
    )


class Peer:
    """One connection."""

    def __init__(self, bootstrap: str, timeout_s: float = 10) -> None:
        host, _, port = bootstrap.rpartition(":")
        self.sock = socket.create_connection((host, int(port)), timeout=timeout_s)
        self._ids = itertools.count(1)
        self._owed: list[tuple[int, int, int]] = []

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def frame(self, message: Message, version: int, *, answered: bool = True) -> bytes:
        """The bytes of a request, noted as sent."""
        key, number = key_of(message), next(self._ids)
        if answered:
            self._owed.append((key, version, number))
        return request_bytes(key, version, number, "raw", message)

    def send(self, message: Message, version: int, *, answered: bool = True) -> None:
        """Send a request."""
        self.sock.sendall(self.frame(message, version, answered=answered))

    def ask(self, message: Message, version: int) -> Any:
        """Send a request and wait for its answer."""
        self.send(message, version)
        return self.receive()

    def receive(self) -> Any:
        """The answer to the oldest request that is owed one; its correlation id must be that of the request."""
        key, version, number = self._owed.pop(0)
        found, message = decode_response(key, version, self.receive_frame())
        assert found == number
        return message

    def receive_frame(self) -> bytes:
        """The next frame without its size."""
        return self._exactly(int.from_bytes(self._exactly(4), "big"))

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            piece = self.sock.recv(size - len(data))
            assert piece, "the server closed the connection"
            data += piece
        return data

    def closed(self) -> bool:
        """Whether the server closes the connection (waits for it)."""
        try:
            return self.sock.recv(1) == b""
        except ConnectionResetError:
            return True

    def make_topic(self, name: str) -> None:
        """Have a topic made by asking for its metadata."""
        for _ in range(2):
            answer = self.ask(MetadataRequest([MetadataRequestTopic(name=name)]), 9)
        assert answer.topics[0].error_code == 0
