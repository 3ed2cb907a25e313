"""The raw load generator: single-record Produce requests, a few in flight on each of a few connections.

A process of its own (`python -m tools.benchmarks.generator`), so that its CPU is not the server's nor the bench's. It
owns precomputed request bytes and counts answer bytes, which all have one size; whether they were successes shows in
the first answer of each connection and in the partitions' end offsets afterwards. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import socket
import sys
import time
from dataclasses import dataclass

from tools.benchmarks import requests

RECEIVE_BYTES = 65536
LEADER_TIMEOUT_S = 15.0


@dataclass(slots=True)
class Flow:
    """One connection: its socket, the same request 1..in_flight times over, what has come back of an answer."""

    sock: socket.socket
    bursts: list[bytes]
    answer_bytes: int
    partial: int = 0


def receive_frame(sock: socket.socket) -> bytes:
    """One frame without its size; blocking. Raises ConnectionError."""
    data = b""
    while len(data) < 4 or len(data) < 4 + int.from_bytes(data[:4], "big"):
        chunk = sock.recv(RECEIVE_BYTES)
        if not chunk:
            raise ConnectionError("the server closed the connection")
        data += chunk
    return data[4:]


def connect(host: str, port: int) -> socket.socket:
    """A blocking TCP connection without Nagle's delay."""
    sock = socket.create_connection((host, port), timeout=10)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def open_flow(host: str, port: int, topic: str, partition: int, record_bytes: int, in_flight: int) -> Flow:
    """Connect and produce one record to learn the answer's size. Raises ValueError when it is refused."""
    sock = connect(host, port)
    batch = requests.record_batch(b"x" * record_bytes, int(time.time() * 1000))
    request = requests.produce(topic, partition, batch)
    sock.sendall(request)
    answer = receive_frame(sock)
    if error := requests.produce_error(topic, answer):
        raise ValueError(f"Produce to {topic}-{partition} was refused with error code {error}")
    return Flow(sock, [request * count for count in range(in_flight + 1)], len(answer) + 4)


def drive(flows: list[Flow], in_flight: int, seconds: float) -> tuple[int, float]:
    """Keep every flow full for so long, then drain. Returns (answers, seconds until the last one)."""
    poller = select.epoll()
    by_fd = {flow.sock.fileno(): flow for flow in flows}
    began = time.perf_counter()
    for fd, flow in by_fd.items():
        flow.sock.setblocking(False)
        poller.register(fd, select.EPOLLIN)
        flow.sock.sendall(flow.bursts[in_flight])
    answers, wanted = 0, in_flight * len(flows)
    buffer = bytearray(RECEIVE_BYTES)
    deadline, sending = began + seconds, True
    while answers < wanted:
        for fd, _ in poller.poll():
            flow = by_fd[fd]
            received = flow.sock.recv_into(buffer)
            if not received:
                raise ConnectionError("the server closed the connection")
            complete, flow.partial = divmod(flow.partial + received, flow.answer_bytes)
            answers += complete
            if sending and complete:
                flow.sock.sendall(flow.bursts[complete])
                wanted += complete
        if sending and time.perf_counter() >= deadline:
            sending = False
    return answers, time.perf_counter() - began


def first_acknowledged_ms(bootstrap: str, topic: str, timeout_s: float = 60.0) -> float:
    """Milliseconds until the server acknowledges a record in partition 0, tried again whatever it answers before."""
    host, _, port = bootstrap.rpartition(":")
    began = time.perf_counter()
    while True:
        try:
            flow = open_flow(host, int(port), topic, 0, 100, 1)
        except (OSError, ValueError):
            if time.perf_counter() - began > timeout_s:
                raise
            time.sleep(0.002)
            continue
        flow.sock.close()
        return (time.perf_counter() - began) * 1000


def end_offsets(host: str, port: int, topic: str, partitions: int) -> int:
    """The sum of the partitions' end offsets. A broker that has just made the topic may need a moment to lead it."""
    total, deadline = 0, time.monotonic() + LEADER_TIMEOUT_S
    with connect(host, port) as sock:
        for partition in range(partitions):
            sock.sendall(requests.end_offset(topic, partition))
            while (offset := requests.offset_in(topic, receive_frame(sock))) is None:
                if time.monotonic() > deadline:
                    raise ValueError(f"ListOffsets of {topic}-{partition} is refused for {LEADER_TIMEOUT_S:.0f} s")
                time.sleep(0.05)
                sock.sendall(requests.end_offset(topic, partition))
            total += offset
    return total


def server_cpu_s(pid: int) -> float:
    """User plus system CPU seconds of the server so far; 0 without a pid."""
    if not pid:
        return 0.0
    with open(f"/proc/{pid}/stat", encoding="utf-8") as stat:
        fields = stat.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> int:
    """The command line. Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--bootstrap", required=True)
    parser.add_argument("--topic", required=True)
    parser.add_argument("--connections", type=int, default=4)
    parser.add_argument("--in-flight", type=int, default=5)
    parser.add_argument("--record-bytes", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--server-pid", type=int, default=0)
    options = parser.parse_args()
    host, _, port_text = options.bootstrap.rpartition(":")
    port = int(port_text)
    before = end_offsets(host, port, options.topic, options.connections)
    flows = [
        open_flow(host, port, options.topic, index, options.record_bytes, options.in_flight)
        for index in range(options.connections)
    ]
    cpu_before, server_before = time.process_time(), server_cpu_s(options.server_pid)
    answers, elapsed_s = drive(flows, options.in_flight, options.seconds)
    cpu_s, server_s = time.process_time() - cpu_before, server_cpu_s(options.server_pid) - server_before
    stored = end_offsets(host, port, options.topic, options.connections) - before - len(flows)
    if stored != answers:
        print(f"{answers} requests were answered but {stored} records stored", file=sys.stderr)
        return 1
    result = {"requests": answers, "seconds": elapsed_s, "generator_cpu_s": cpu_s, "server_cpu_s": server_s}
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
