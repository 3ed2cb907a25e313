"""A blocking connection that holds the conversations of :mod:`tools.faults.conversation`, and a producer's batches."""

from __future__ import annotations

import itertools
import socket
import time
from collections.abc import Callable
from typing import Any

from logd.wire import schemas
from logd.wire.batches import Record, build_batch
from logd.wire.frames import decode_response, request_bytes
from logd.wire.message import Message
from tools.faults import conversation
from tools.faults.conversation import Gone, Talk


def now_ms() -> int:
    """The time of day."""
    return time.time_ns() // 1_000_000


def key_of(message: Message) -> int:
    """The API key of a request."""
    name = type(message).__name__.removesuffix("Request")
    return next(key for key, facts in schemas.APIS.items() if facts.name == name)


class Peer:
    """One connection; a context manager. Each conversation is a method: ``peer.create("topic")``."""

    def __init__(self, bootstrap: str, timeout_s: float = 20.0) -> None:
        host, _, port = bootstrap.rpartition(":")
        self._ids = itertools.count(1)
        self.meanwhile: Callable[[], None] | None = None
        """What to do between a request and its answer."""
        try:
            self.sock = socket.create_connection((host, int(port)), timeout=timeout_s)
        except OSError as error:
            raise Gone(str(error)) from error

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def __getattr__(self, name: str) -> Any:
        begin = getattr(conversation, name)
        return lambda *how, **more: self.hold(begin(*how, **more))

    def hold(self, talk: Talk) -> Any:
        """Hold a conversation to its end; what it returns. Raises Gone, Told."""
        answer = None
        try:
            while True:
                wanted = talk.send(answer)
                if isinstance(wanted, float):
                    time.sleep(wanted)
                    answer = None
                else:
                    answer = self.ask(*wanted)
        except StopIteration as end:
            return end.value

    def ask(self, message: Message, version: int) -> Any:
        """Send a request and wait for its answer."""
        key = key_of(message)
        try:
            self.sock.sendall(request_bytes(key, version, next(self._ids), "faults", message))
            if self.meanwhile is not None:
                self.meanwhile()
            size = int.from_bytes(self._exactly(4), "big")
            return decode_response(key, version, self._exactly(size))[1]
        except OSError as error:
            raise Gone(str(error) or type(error).__name__) from error

    def _exactly(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            piece = self.sock.recv(size - len(data))
            if not piece:
                raise Gone("the server closed the connection")
            data += piece
        return bytes(data)


class Stream:
    """What one idempotent producer sends to one partition: each value once, each batch until it is acknowledged."""

    def __init__(self, name: str, topic: str, partition: int, producer_id: int = -1, size: int = 100) -> None:
        self.name = name
        self.topic = topic
        self.partition = partition
        self.producer_id = producer_id
        self.size = size
        self.sequence = 0
        self.number = 0
        self.codec = 0

    @property
    def place(self) -> str:
        """The partition, as histories name it."""
        return f"{self.topic}-{self.partition}"

    def next_values(self, count: int) -> list[str]:
        """Fresh values."""
        first, self.number = self.number, self.number + count
        return [f"{self.name}:{number}" for number in range(first, first + count)]

    def batch(self, values: list[str], timestamp: int, key: bytes | None = b"k") -> bytes:
        """A batch of values, each filled up with dots; numbered as the next ones of the producer."""
        records = [
            Record(at, timestamp, key, value.encode().ljust(self.size, b"."), []) for at, value in enumerate(values)
        ]
        return bytes(
            build_batch(
                records,
                producer_id=self.producer_id,
                producer_epoch=0 if self.producer_id >= 0 else -1,
                base_sequence=self.sequence if self.producer_id >= 0 else -1,
                codec=self.codec,
            )
        )

    def taken(self, count: int) -> None:
        """The batch of so many records was acknowledged."""
        self.sequence += count
