"""A proxy that keeps requests of transactions on their way, and delivers them when their transaction is over.

It stands between clients and a server. Of EndTxn, AddPartitionsToTxn, Produce and TxnOffsetCommit some are not passed
on: the client's connection is closed, or lives on in silence until the client gives it up, and the client asks again
on another one. What was held is sent to the server later, over connections of the proxy's own, when the producer's next
EndTxn or InitProducerId has been answered well: so it is late for certain. Each is sent several times, in any order.
"""

from __future__ import annotations

import random
import socket
import threading
import time
from collections import Counter
from dataclasses import dataclass, field

from logd.wire.batches import read_header
from logd.wire.codec import decode_exact
from logd.wire.frames import decode_request_head, request_bytes
from logd.wire.message import Buffer
from logd.wire.schemas.add_partitions_to_txn import (
    AddPartitionsToTxnRequest,
    AddPartitionsToTxnTopic,
    AddPartitionsToTxnTransaction,
)
from logd.wire.schemas.produce import ProduceRequest

PRODUCE, INIT, ADD, END, OFFSETS = 0, 22, 24, 26, 28
HELD = {PRODUCE: "produce", ADD: "add", END: "end", OFFSETS: "offsets"}
FLEXIBLE = {INIT: 2, END: 3}
"""From this version on an answer's header has tags before the body."""
DELIVERIES = 6
"""How often each is sent, late."""
PAUSE_S = 0.002
ANSWER_S = 20.0


def frame_of(sock: socket.socket) -> bytes:
    """One frame with its size; b"" at the end of the stream."""
    data = bytearray()
    wanted = 4
    while len(data) < wanted:
        piece = sock.recv(wanted - len(data))
        if not piece:
            return b""
        data += piece
        if len(data) == 4:
            wanted = 4 + int.from_bytes(data, "big")
    return bytes(data)


def head(frame: bytes) -> tuple[int, int, int, str]:
    """API key, version, correlation id and client id of a request."""
    length = int.from_bytes(frame[12:14], "big", signed=True)
    return (
        int.from_bytes(frame[4:6], "big"),
        int.from_bytes(frame[6:8], "big"),
        int.from_bytes(frame[8:12], "big"),
        frame[14 : 14 + max(length, 0)].decode(),
    )


@dataclass(slots=True)
class Held:
    """A request that was not passed on. ``ended``: how many ends its client had heard of by then."""

    kind: str
    frame: bytes
    client: str
    ended: int
    deliveries: int = DELIVERIES


@dataclass
class Proxy:
    """``topic`` is the one that is written to, ``share`` how many of the requests are held, of 1.

    ``adds``: whether what a Produce adds to its transaction is delivered late as well, see :func:`added_by`.
    """

    topic: str
    chance: random.Random
    adds: bool = True
    share: float = 0.15
    held: Counter[str] = field(default_factory=Counter)
    late: Counter[str] = field(default_factory=Counter)
    """Late requests that were answered, by kind."""
    failures: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._server = ("127.0.0.1", 0)
        self._ends: Counter[str] = Counter()
        self._waiting: list[Held] = []
        self._lock = threading.Lock()
        self._done = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self, server_port: int) -> None:
        """Begin to serve, and to deliver."""
        self._server = ("127.0.0.1", server_port)
        for work in (self._accept, self._deliver_all):
            self._threads.append(threading.Thread(target=work, daemon=True))
            self._threads[-1].start()

    def stop(self) -> None:
        """Deliver and accept no more."""
        self._done.set()
        self._listener.close()
        self._threads[1].join()

    # Between clients and the server

    def _accept(self) -> None:
        while not self._done.is_set():
            try:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._server)
            except OSError:
                continue
            asked: dict[int, tuple[int, int, str]] = {}
            threading.Thread(target=self._up, args=(client, server, asked), daemon=True).start()
            threading.Thread(target=self._down, args=(client, server, asked), daemon=True).start()

    def _up(self, client: socket.socket, server: socket.socket, asked: dict[int, tuple[int, int, str]]) -> None:
        silent = False
        try:
            while frame := frame_of(client):
                key, version, correlation, name = head(frame)
                if silent or (key in HELD and self._is_held()):
                    self._hold(key, frame, name)
                    silent = True  # or answers would come out of their order
                    if self._chooses(0.9):
                        return
                    continue
                asked[correlation] = key, version, name
                server.sendall(frame)
        except OSError:
            return
        finally:
            client.close()
            server.close()

    def _down(self, client: socket.socket, server: socket.socket, asked: dict[int, tuple[int, int, str]]) -> None:
        try:
            while frame := frame_of(server):
                key, version, name = asked.pop(int.from_bytes(frame[4:8], "big"), (-1, 0, ""))
                if key in FLEXIBLE:
                    at = 12 + (version >= FLEXIBLE[key])
                    with self._lock:
                        self._ends[name] += frame[at : at + 2] == b"\0\0"
                client.sendall(frame)
        except OSError:
            return
        finally:
            client.close()
            server.close()

    def _is_held(self) -> bool:
        return self._chooses(self.share) and not self._done.is_set()

    def _chooses(self, share: float) -> bool:
        with self._lock:
            return self.chance.random() < share

    def _hold(self, key: int, frame: bytes, client: str) -> None:
        if key not in HELD:
            return
        with self._lock:
            ended = self._ends[client]
            self._waiting.append(Held(HELD[key], frame, client, ended))
            self.held[HELD[key]] += 1
            if key == PRODUCE and self.adds:
                self._waiting.append(Held(HELD[ADD], added_by(frame, self.topic), client, ended))

    # Late

    def _deliver_all(self) -> None:
        while not self._done.is_set():
            with self._lock:
                ready = [one for one in self._waiting if self._ends[one.client] > one.ended]
                chosen = self.chance.choice(ready) if ready else None
                if chosen is not None:
                    chosen.deliveries -= 1
                    if not chosen.deliveries:
                        self._waiting.remove(chosen)
            if chosen is None:
                time.sleep(PAUSE_S)
            else:
                self._deliver(chosen)

    def _deliver(self, one: Held) -> None:
        try:
            with socket.create_connection(self._server, timeout=ANSWER_S) as sock:
                sock.sendall(one.frame)
                answered = frame_of(sock)
        except OSError as error:
            self.failures.append(f"late {one.kind}: {error}")
            return
        if answered:
            self.late[one.kind] += 1
        else:
            self.failures.append(f"late {one.kind}: the server closed the connection")


def added_by(frame: bytes, topic: str) -> bytes:
    """The AddPartitionsToTxn that a broker of several would send to the coordinator for a Produce.

    With transaction.version 2 clients send none themselves: Produce adds its partitions (KIP-890).
    """
    request = decode_request_head(memoryview(frame)[4:])
    produce = decode_exact(ProduceRequest, request.api_version, memoryview(frame)[4:], request.body)
    parts = [data for one in produce.topic_data for data in one.partition_data]
    records = parts[0].records
    assert isinstance(records, Buffer)
    header = read_header(records)
    row = AddPartitionsToTxnTransaction(
        produce.transactional_id or "",
        header.producer_id,
        header.producer_epoch,
        False,
        [AddPartitionsToTxnTopic(topic, [data.index for data in parts])],
    )
    return bytes(request_bytes(ADD, 5, 1, "late", AddPartitionsToTxnRequest([row])))
