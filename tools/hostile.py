#!/usr/bin/env python3
"""Attacks a running logd with hostile frames and hostile peers, and says what it did to a good client meanwhile.

Run by hand (`.venv/bin/python tools/hostile.py --seed 1 --frames 100000`) and, for a short round, by
tests/hostile. It starts a server of its own in a temporary directory, or attacks the one given. Every frame comes
from a seed. The server must serve a good client all the time, keep what that one was told, log no failure of its own,
not grow, and stop when it is told to.
"""

from __future__ import annotations

import argparse
import random
import re
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from logd.wire import schemas  # noqa: E402
from logd.wire.batches import Record, build_batch, check_crc, read_headers, read_records  # noqa: E402
from logd.wire.facts import Field, fields_of  # noqa: E402
from logd.wire.frames import decode_response, request_bytes  # noqa: E402
from logd.wire.message import Message  # noqa: E402
from logd.wire.schemas.create_topics import CreatableTopic, CreateTopicsRequest  # noqa: E402
from logd.wire.schemas.fetch import FetchPartition, FetchRequest, FetchTopic  # noqa: E402
from logd.wire.schemas.produce import PartitionProduceData, ProduceRequest, TopicProduceData  # noqa: E402

GOOD, VICTIM = "good", "victim"
NAMES = (VICTIM, VICTIM, "", ".", "x" * 300, "no-such", "__consumer_offsets", "a/b", "\0")
NUMBERS = (-2, -1, 0, 1, 2, 3, 1 << 31, (1 << 31) - 1, 1 << 15, (1 << 63) - 1, -(1 << 63))
BITS = {"int8": 8, "int16": 16, "int32": 32, "int64": 64, "uint16": 16, "uint32": 32}
PATIENCE_S = 0.02
GROWTH_KIB_MAX = 64 * 1024


class Frames:
    """Hostile requests, without their sizes."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.all = [
            (key, version)
            for key, facts in sorted(schemas.APIS.items())
            for version in range(max(0, facts.versions[0]), facts.versions[1] + 1)
        ]

    def __iter__(self) -> Iterator[bytes]:
        while True:
            key, version = self.random.choice(self.all)
            yield self.spoiled(self.good(key, version))

    def good(self, key: int, version: int) -> bytes:
        """A request that decodes, with odd values."""
        message = self._message(schemas.request_class(key), version)
        return request_bytes(key, version, 7, "hostile", message)[4:]

    def _message(self, cls: type[Message], version: int) -> Any:
        flexible = version >= cls.FLEXIBLE
        return self._struct(cls, version, flexible)

    def _struct(self, cls: type[Message], version: int, flexible: bool) -> Any:
        present = [field for field in fields_of(cls, version, flexible) if field.present]
        return cls(**{field.name: self._value(field, version, flexible) for field in present})

    def _value(self, field: Field, version: int, flexible: bool) -> Any:
        if field.nullable and self.random.random() < 0.15:
            return None
        if not field.array:
            return self._item(field, version, flexible)
        return [self._item(field, version, flexible) for _ in range(self.random.choice((0, 1, 1, 1, 2)))]

    def _item(self, field: Field, version: int, flexible: bool) -> Any:
        rnd = self.random
        if field.struct is not None:
            return self._struct(field.struct, version, flexible)
        if field.kind in BITS:
            number, bits = rnd.choice(NUMBERS), BITS[field.kind]
            if field.name in ("max_wait_ms", "timeout_ms"):
                return rnd.choice((-1, 0, 5))
            number &= (1 << bits) - 1
            return number if field.kind[0] == "u" or number < 1 << (bits - 1) else number - (1 << bits)
        if field.kind == "string":
            return rnd.choice(NAMES)
        if field.kind == "records":
            return memoryview(self._records())
        if field.kind == "uuid":
            return rnd.choice((bytes(16), rnd.randbytes(16)))
        plain: dict[str, Any] = {"bool": rnd.random() < 0.5, "float64": rnd.random(), "bytes": rnd.randbytes(5)}
        return plain[field.kind]

    def _records(self) -> bytes:
        rnd = self.random
        codec = rnd.choice((0, 0, 1, 2, 3, 4))
        batch = bytearray(build_batch([Record(n, 1, b"k", rnd.randbytes(9)) for n in range(3)], codec=codec))
        if rnd.random() < 0.7:
            batch[rnd.randrange(len(batch))] ^= 1 << rnd.randrange(8)
        return bytes(batch[: rnd.randrange(len(batch) + 1)] if rnd.random() < 0.2 else batch)

    def spoiled(self, frame: bytes) -> bytes:
        """A frame with something wrong in most cases: cut, a length at its edges, flipped, random or more bytes."""
        rnd = self.random
        at = rnd.randrange(len(frame))
        rest = len(frame) - at
        match rnd.randrange(9):
            case 0:
                return frame[:at]
            case 1 | 2:
                number = rnd.choice((-2, -1, 0, 1, (1 << 31) - 1, rest - 5, rest - 4, rest - 3))
                return frame[:at] + struct.pack(">i", number) + frame[at + 4 :]
            case 3:
                number = rnd.choice((-2, -1, 0, 1, 32767, rest - 3, rest - 2, rest - 1))
                return frame[:at] + struct.pack(">h", max(min(number, 32767), -32768)) + frame[at + 2 :]
            case 4:
                varint = rnd.choice((b"\0", b"\1", b"\2", b"\xff\xff\xff\xff\x0f", b"\xff" * 9 + b"\x7f"))
                return frame[:at] + varint + frame[at + 1 :]
            case 5:
                flipped = bytearray(frame)
                for _ in range(rnd.randrange(1, 4)):
                    flipped[rnd.randrange(len(frame))] ^= 1 << rnd.randrange(8)
                return bytes(flipped)
            case 6:
                return frame[:8] + rnd.randbytes(rnd.randrange(64))
            case 7:
                return frame[: at + 1] + rnd.choice((b"\xff" * 40, bytes(4000), b"\x81\x01" * 900)) + frame[at + 1 :]
            case _:
                return frame


class Good(threading.Thread):
    """A client that does nothing wrong, and measures: appends numbered records, one at a time."""

    def __init__(self, address: tuple[str, int]) -> None:
        super().__init__(daemon=True)
        self.address = address
        self.seconds: list[float] = []
        self.done = threading.Event()
        self.failure = ""

    def run(self) -> None:
        try:
            with socket.create_connection(self.address, timeout=30) as sock:
                while not self.done.wait(0.005):
                    began = time.perf_counter()
                    append(sock, GOOD, b"%d" % len(self.seconds))
                    self.seconds.append(time.perf_counter() - began)
        except (OSError, AssertionError) as error:
            self.failure = repr(error)

    def check(self) -> str:
        """Read everything back: what is wrong with it, if anything."""
        found: list[bytes] = []
        with socket.create_connection(self.address, timeout=30) as sock:
            while len(found) < len(self.seconds):
                part = FetchPartition(0, fetch_offset=len(found), partition_max_bytes=1 << 20)
                request = FetchRequest(max_wait_ms=0, min_bytes=0, topics=[FetchTopic(GOOD, partitions=[part])])
                row = ask(sock, 1, 11, request).responses[0].partitions[0]
                data = bytes(row.records or b"")
                if not data:
                    return f"{len(found)} of {len(self.seconds)} records are there, error {row.error_code}"
                for at, header in read_headers(data):
                    if not check_crc(data, at, header):
                        return f"a wrong checksum at offset {header.base_offset}"
                    found += [record.value or b"" for record in read_records(data, at, bytes_max=1 << 20)]
        wrong = [at for at, value in enumerate(found) if value != b"%d" % at]
        return f"another record at offset {wrong[0]}" if wrong else ""


def exactly(sock: socket.socket, size: int) -> bytes:
    """So many bytes."""
    data = b""
    while len(data) < size:
        piece = sock.recv(size - len(data))
        assert piece, "the server closed the connection"
        data += piece
    return data


def ask(sock: socket.socket, key: int, version: int, request: Message) -> Any:
    """One request, one answer."""
    sock.sendall(request_bytes(key, version, 1, "good", request))
    return decode_response(key, version, exactly(sock, int.from_bytes(exactly(sock, 4), "big")))[1]


def append(sock: socket.socket, topic: str, value: bytes) -> None:
    """Append one record with acks=all."""
    batch = bytes(build_batch([Record(0, 1_790_000_000_000, None, value)]))
    data = [TopicProduceData(topic, partition_data=[PartitionProduceData(0, batch)])]
    row = ask(sock, 0, 9, ProduceRequest(None, -1, 30_000, data)).responses[0].partition_responses[0]
    assert row.error_code == 0, f"append: error {row.error_code}"


class Attack:
    """One round against one server."""

    def __init__(self, address: tuple[str, int], seed: int) -> None:
        self.address = address
        self.frames = Frames(seed)
        self.random = random.Random(seed)
        self.counts: Counter[str] = Counter()

    def _connect(self) -> socket.socket:
        return socket.create_connection(self.address, timeout=10)

    def prepare(self) -> None:
        """Make the topics."""
        with self._connect() as sock:
            topics = [CreatableTopic(name, 1, 1) for name in (GOOD, VICTIM)]
            ask(sock, 19, 5, CreateTopicsRequest(topics))
            append(sock, VICTIM, bytes(100_000))

    def hostile_frames(self, count: int) -> None:
        """Send frames one by one; a connection is used until the server closes it or does not answer soon."""
        sock = self._connect()
        for _, frame in zip(range(count), self.frames, strict=False):
            self.counts["frames"] += 1
            try:
                sock.sendall(len(frame).to_bytes(4, "big") + frame)
                sock.settimeout(PATIENCE_S)
                answered = bool(sock.recv(1 << 16))
                self.counts["answered" if answered else "closed"] += 1
                if answered and self.random.random() < 0.9:
                    continue
            except TimeoutError:
                self.counts["unanswered"] += 1
            except OSError:
                self.counts["closed"] += 1
            sock.close()
            sock = self._connect()
        sock.close()

    def cut_short(self, count: int) -> None:
        """Valid frames that end early, and connections that just go."""
        for _ in range(count):
            frame = self.frames.good(*self.random.choice(self.frames.all))
            data = len(frame).to_bytes(4, "big") + frame
            with self._connect() as sock, suppress(OSError):
                sock.sendall(data[: self.random.randrange(len(data))])
            self.counts["cut short"] += 1

    def crowd(self, count: int) -> None:
        """Peers that say nothing, say a byte at a time, promise much, or read none of what they asked for."""
        part = FetchPartition(0, partition_max_bytes=1 << 24)
        fetch = FetchRequest(max_wait_ms=0, min_bytes=0, topics=[FetchTopic(VICTIM, partitions=[part])])
        greedy = request_bytes(1, 11, 1, "slow", fetch) * 200
        slow = request_bytes(18, 0, 1, "x" * 60, schemas.request_class(18)())
        with ExitStack() as stack:
            socks = [stack.enter_context(self._connect()) for _ in range(count)]
            for number, sock in enumerate(socks):
                sock.setblocking(False)
                with suppress(OSError):
                    sock.send((b"", greedy, greedy, b"\x06\0\0\0\0")[number % 4])
            for at in range(len(slow)):
                for sock in socks[::4]:
                    with suppress(OSError):
                        sock.send(slow[at : at + 1])
            time.sleep(1)
            self.counts["crowd"] += count


def anonymous_kib(pid: int) -> int:
    """Memory of a process that no file backs."""
    found = re.search(r"RssAnon:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) if found else 0


def run(address: tuple[str, int], pid: int, seed: int, frames: int, crowd: int) -> tuple[dict[str, Any], list[str]]:
    """One round; what was measured, and what is wrong."""
    attack, wrong = Attack(address, seed), []
    attack.prepare()
    good = Good(address)
    good.start()
    attack.hostile_frames(frames // 20)
    before = anonymous_kib(pid)
    attack.hostile_frames(frames - frames // 20)
    attack.cut_short(frames // 10)
    attack.crowd(crowd)
    good.done.set()
    good.join(60)
    after = anonymous_kib(pid)
    times = sorted(good.seconds) or [0.0]
    told: dict[str, Any] = {
        **attack.counts,
        "good": len(times),
        "p99_ms": round(times[int(len(times) * 0.99)] * 1000, 1),
    }
    told |= {"max_ms": round(times[-1] * 1000, 1), "anonymous_kib": (before, after)}
    if good.failure or good.is_alive():
        wrong.append(f"the good client failed: {good.failure or 'it waits'}")
    if lost := good.check():
        wrong.append(f"the good client's records: {lost}")
    if after - before > GROWTH_KIB_MAX:
        wrong.append(f"memory grew from {before} to {after} KiB")
    return told, wrong


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Attacks a logd of its own and says what happened.")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--frames", type=int, default=20_000)
    parser.add_argument("--crowd", type=int, default=1000)
    parser.add_argument("--set", dest="sets", action="append", default=[], help="a setting of the server")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory, (Path(directory) / "log").open("w+") as log:
        logd = str(Path(sys.executable).with_name("logd"))
        command = [logd, "serve", "--listen", "127.0.0.1:0", "--data-dir", f"{directory}/data"]
        for each in options.sets:
            command += ["--set", each]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        try:
            assert server.stdout is not None
            host, _, port = server.stdout.readline().split("kafka=")[1].split()[0].rpartition(":")
            told, wrong = run((host, int(port)), server.pid, options.seed, options.frames, options.crowd)
            server.send_signal(signal.SIGTERM)
            if (code := server.wait(30)) != 0:
                wrong.append(f"it ended with exit code {code}")
        finally:
            server.kill()
        log.seek(0)
        said = log.read()
        told["log_lines"] = said.count("\n")
        wrong += [f"it logged a failure of its own: {found}" for found in sorted(set(failures(said)))]
    print(*(f"{name}={value}" for name, value in told.items()))
    for each in wrong:
        print(each, file=sys.stderr)
    return 1 if wrong else 0


def failures(said: str) -> Iterator[str]:
    """The last line of each traceback in a log."""
    for trace in re.split(r"^(?=Traceback )", said, flags=re.MULTILINE)[1:]:
        lines = [
            line for line in trace.splitlines() if re.match(r"[A-Za-z_.]+(Error|Exception|Group|Exit)?(:|$)", line)
        ]
        frames = re.findall(r'File "[^"]*/(logd/[^"]*)", line (\d+)', trace)
        yield f"{lines[1] if len(lines) > 1 else trace[:200]} at {':'.join(frames[-1]) if frames else 'unknown'}"


if __name__ == "__main__":
    sys.exit(main())
