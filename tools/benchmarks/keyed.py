"""Keyed records by the gigabyte, and a probe of produce latency in microseconds: what compaction is measured with.

Run as `python -m tools.benchmarks.keyed fill|probe`; prints one JSON object. Owns the bytes of batches that differ in
nothing but their keys, made in bulk, and a schedule of single requests. Never knows which server it talks to.
"""

from __future__ import annotations

import argparse
import json
import socket
import struct
import sys
import time
from collections.abc import Iterator

import numpy as np
from crc32c import crc32c

from tools.benchmarks import requests
from tools.benchmarks.generator import connect, receive_frame

KEY_DIGITS = 12
HEADER_BYTES, CRC_AT, CRC_FROM = 61, 17, 21
VALUE_BYTES, RECORDS_A_BATCH = 1000, 16
BURST = 16  # requests that are sent at once, with as many answers still to come
KEYS_A_BLOCK = 1 << 14


def template(records: int, value_bytes: int, timestamp_ms: int) -> tuple[bytes, list[int]]:
    """One batch (v2, plain) whose keys are still to be filled in, and where they are; `records` of at most 4,096."""
    body, places = bytearray(), []
    for number in range(records):
        head = b"\x00\x00" + requests._varint(number) + requests._varint(KEY_DIGITS)
        rest = requests._varint(value_bytes) + b"v" * value_bytes + b"\x00"
        body += requests._varint(len(head) + KEY_DIGITS + len(rest)) + head
        places.append(HEADER_BYTES + len(body))
        body += bytes(KEY_DIGITS) + rest
    fields = (0, records - 1, timestamp_ms, timestamp_ms, -1, -1, -1, records)
    under_crc = struct.pack(">hiqqqhii", *fields) + body
    return struct.pack(">qiibI", 0, 9 + len(under_crc), -1, 2, 0) + under_crc, places


def batches(first_key: int, stop_key: int, step: int, records: int, value_bytes: int) -> Iterator[bytes]:
    """Batches of the keys from `first_key` on, every `step`-th, in order; the last may repeat keys to be whole."""
    blank, places = template(records, value_bytes, int(time.time() * 1000))
    columns = (np.array(places)[:, np.newaxis] + np.arange(KEY_DIGITS)).ravel()
    powers = 10 ** np.arange(KEY_DIGITS - 1, -1, -1, dtype=np.int64)
    a_block = max(KEYS_A_BLOCK // records, 1) * records
    for at in range(first_key, stop_key, step * a_block):
        keys = np.arange(at, min(at + step * a_block, stop_key), step, dtype=np.int64)
        keys = np.resize(keys, -(-len(keys) // records) * records)
        digits = (keys[:, np.newaxis] // powers % 10 + ord("0")).astype(np.uint8).reshape(-1, len(columns))
        for row in digits:
            batch = np.frombuffer(blank, np.uint8).copy()
            batch[columns] = row
            made = batch.tobytes()
            yield made[:CRC_AT] + struct.pack(">I", crc32c(memoryview(made)[CRC_FROM:])) + made[CRC_FROM:]


def send(sock: socket.socket, topic: str, partition: int, made: Iterator[bytes], burst: int = BURST) -> int:
    """Produce batches one a request, in order; returns how many. Raises ValueError when one is refused."""
    sent = asked = 0
    waiting, answer_bytes = 0, 0
    buffer = bytearray()

    def collect(outstanding: int) -> None:
        nonlocal waiting, answer_bytes
        while waiting > outstanding:
            if not answer_bytes and len(buffer) >= 4:
                answer_bytes = 4 + int.from_bytes(buffer[:4], "big")
            if not answer_bytes or len(buffer) < answer_bytes:
                received = sock.recv(1 << 16)
                if not received:
                    raise ConnectionError("the server closed the connection")
                buffer.extend(received)
                continue
            if error := requests.produce_error(topic, bytes(buffer[4:answer_bytes])):
                raise ValueError(f"Produce to {topic}-{partition} was refused with error code {error}")
            del buffer[:answer_bytes]
            waiting, answer_bytes = waiting - 1, 0

    together: list[bytes] = []
    for batch in made:
        together.append(requests.produce(topic, partition, batch))
        sent += 1
        if len(together) == burst:
            sock.sendall(b"".join(together))
            asked, together = len(together), []
            waiting += asked
            collect(burst)
    if together:
        sock.sendall(b"".join(together))
        waiting += len(together)
    collect(0)
    return sent


def fill(options: argparse.Namespace, host: str, port: int) -> dict[str, float]:
    """Write every key once, then every `again`-th key once more, into each partition; all batches are whole."""
    began, count = time.perf_counter(), 0
    each = options.records_a_batch
    burst = max(1, min(BURST, (1 << 18) // (each * options.value_bytes + 1)))
    with connect(host, port) as sock:
        sock.sendall(requests.api_versions())  # logd takes no first request of a megabyte
        receive_frame(sock)
        for partition in range(options.partitions):
            count += send(sock, options.topic, partition, batches(0, options.keys, 1, each, options.value_bytes), burst)
            if options.again:
                made = batches(0, options.keys, options.again, each, options.value_bytes)
                count += send(sock, options.topic, partition, made, burst)
    return {"records": count * each, "seconds": time.perf_counter() - began}


def probe(options: argparse.Namespace, host: str, port: int) -> dict[str, float]:
    """Single records at a steady rate; latency in ms from when each was due, so that a stall counts whole."""
    batch = requests.record_batch(b"x" * options.value_bytes, int(time.time() * 1000))
    request = requests.produce(options.topic, 0, batch)
    took = []
    with connect(host, port) as sock:
        for _ in range(options.rate):  # warm: a second's worth
            sock.sendall(request)
            receive_frame(sock)
        began = time.perf_counter()
        for number in range(int(options.rate * options.seconds)):
            due = began + number / options.rate
            left = due - time.perf_counter()
            if left > 0:
                time.sleep(left)
                due = time.perf_counter()  # a late wake-up of ours is not the server's
            sock.sendall(request)
            if error := requests.produce_error(options.topic, receive_frame(sock)):
                raise ValueError(f"Produce was refused with error code {error}")
            took.append((time.perf_counter() - due) * 1000)
    p50, p99, p999 = np.percentile(took, [50, 99, 99.9]).tolist()
    return {"p50_ms": p50, "p99_ms": p99, "p999_ms": p999, "max_ms": max(took), "count": len(took)}


def main() -> int:
    """The command line. Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("what", choices=["fill", "probe"])
    parser.add_argument("--bootstrap", required=True)
    parser.add_argument("--topic", required=True)
    parser.add_argument("--keys", type=int, default=100_000)
    parser.add_argument("--again", type=int, default=0, help="every so-many-th key is written a second time")
    parser.add_argument("--partitions", type=int, default=1)
    parser.add_argument("--value-bytes", type=int, default=VALUE_BYTES)
    parser.add_argument("--records-a-batch", type=int, default=RECORDS_A_BATCH)
    parser.add_argument("--rate", type=int, default=500)
    parser.add_argument("--seconds", type=float, default=10.0)
    options = parser.parse_args()
    host, _, port = options.bootstrap.rpartition(":")
    print(json.dumps((fill if options.what == "fill" else probe)(options, host, int(port))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
