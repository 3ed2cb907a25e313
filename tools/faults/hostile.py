"""Hostile frames: every API and version, cut, with lengths at their edges, with flipped, random and too many bytes.

``on`` says where they go. ``live``: some processes send them to a server over TCP, dozens in flight on each connection,
while a client that does nothing wrong appends and measures, and the longest turn of the server's loop is noted by its
CPU seconds (:mod:`tools.faults.turns`); a frame counts when it was answered, or was the one that ended its connection.
``memory``: straight into the frame handling of a node in memory (:mod:`tools.faults.simulation`), which is what tries
millions of them: the frame buffer, the header, the decoder, the handler. ``sweep`` is the same with each frame that the
systematic sweep makes. A round is 1,000 frames.
"""

from __future__ import annotations

import contextlib
import json
import logging
import multiprocessing
import random
import resource
import socket
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import trio

import logd.node
from logd.apis.dispatch import Hangup, Pending, start
from logd.apis.registry import Connection
from logd.errors import DecodeError
from logd.wire.frames import FrameBuffer, request_bytes
from logd.wire.schemas.api_versions import ApiVersionsRequest
from logd.wire.schemas.delete_groups import DeleteGroupsRequest
from logd.wire.schemas.delete_topics import DeleteTopicsRequest
from logd.wire.schemas.list_groups import ListGroupsRequest
from logd.wire.schemas.metadata import MetadataRequest
from tools.faults import turns
from tools.faults.frames import Pool, numbered
from tools.faults.report import Report, late
from tools.faults.server import Server
from tools.faults.simulation import World, deterministic
from tools.hostile import GOOD, GROWTH_KIB_MAX, VICTIM, Attack, Good, anonymous_kib, ask, failures

ROUND = 1000
STALL_S_MAX = 1.0
PROCESSES = 3
LINES = 6
"""Connections of each process."""

FLIGHT = 64
PATIENCE_S = 0.03
WRONG_SIZES = (-(1 << 31), -1, 0, 1, 1 << 16, (1 << 31) - 1)
LIES = 0.003
"""How many frames have a wrong size."""

FENCE = (1 << 31) - 1
LIFE_FRAMES = 100_000
"""A node in memory holds its disk in memory: so many frames, and a new one."""

INTERNAL = ("__consumer_offsets", "__transaction_state")
SETTINGS = {
    "offsets.topic.num.partitions": "2",
    "transaction.state.log.num.partitions": "2",
    "num.partitions": "1",
    "log.retention.ms": "-1",  # the good client writes records of another year
    "log.retention.bytes": "100000000",
    "log.retention.check.interval.ms": "5000",
    "log.segment.bytes": "2000000",
    "producer.id.expiration.ms": "20000",
    "log.segment.delete.delay.ms": "0",
}


def run(seed: int, rounds: int, directory: Path, on: str = "live") -> Report:
    """``rounds`` thousand frames."""
    report = Report(f"hostile-{on}", seed)
    if on == "live":
        live(seed, rounds, directory, report)
    else:
        in_memory(seed, rounds, report, sweep=on == "sweep")
    return report


def sized(frame: bytes, chance: random.Random) -> bytes:
    """The frame with its size in front, which is a lie now and then."""
    size = len(frame)
    if chance.random() < LIES:
        size = chance.choice((*WRONG_SIZES, size - 1, size + 1))
    return size.to_bytes(4, "big", signed=True) + frame


class Line:
    """One connection after the other, with dozens of requests in flight: what of them was taken in is counted."""

    def __init__(self, address: tuple[str, int], pool: Pool, counts: Counter[str]) -> None:
        self.address = address
        self.pool = pool
        self.counts = counts
        self.owed: list[bytes] = []
        self.sock: socket.socket | None = None
        self.fence = request_bytes(18, 0, FENCE, "hostile", ApiVersionsRequest())

    def send(self) -> None:
        """Frames that no server has seen yet, and behind them one whose answer shows that they are through."""
        chance = self.pool.chance
        while len(self.owed) < FLIGHT:
            self.owed.append(self.pool.next())
        data = b"".join(sized(numbered(frame, number), chance) for number, frame in enumerate(self.owed))
        try:
            if self.sock is None:
                self.sock = socket.create_connection(self.address, timeout=10)
                self.counts["connections"] += 1
            self.sock.settimeout(10)
            self.sock.sendall(data + self.fence)
        except OSError:
            self.leave()

    def receive(self) -> None:
        """Count what was answered, and the frame that ended the connection or keeps it waiting."""
        last, how = self._last()
        through = len(self.owed) if last == FENCE else min(last + 2, len(self.owed))
        self.counts["frames"] += through
        self.counts[how] += 1
        del self.owed[:through]
        if how != "through":
            self.leave()

    def _last(self) -> tuple[int, str]:
        """The number of the last frame that was answered, and why it is the last."""
        if self.sock is None:
            return -1, "closed"
        self.sock.settimeout(PATIENCE_S)
        data, last = bytearray(), -1
        while True:
            try:
                piece = self.sock.recv(1 << 18)
            except TimeoutError:
                return last, "waiting"
            except OSError:
                return last, "closed"
            if not piece:
                return last, "closed"
            data += piece
            at = 0
            while len(data) - at >= 8:
                end = at + 4 + int.from_bytes(data[at : at + 4], "big")
                if end > len(data):
                    break
                last = int.from_bytes(data[at + 4 : at + 8], "big")
                self.counts["answered"] += 1
                at = end
                if last == FENCE:
                    return last, "through"
            del data[:at]

    def leave(self) -> None:
        """Go away without a word."""
        if self.sock is not None:
            self.sock.close()
            self.sock = None


def send_all(address: tuple[str, int], seed: int, frames: int, told: Any) -> None:
    """What one process does: so many frames; what it counted goes to ``told`` every second, and at its end."""
    counts: Counter[str] = Counter()
    pool = Pool(seed)
    lines = [Line(address, pool, counts) for _ in range(LINES)]
    said = time.monotonic()
    while counts["frames"] < frames:
        for line in lines:
            line.send()
        for line in lines:
            line.receive()
        if time.monotonic() > said + 1:
            said = time.monotonic()
            told.send(dict(counts))
    told.send(dict(counts))
    told.close()


def live(seed: int, rounds: int, directory: Path, report: Report) -> None:
    """Processes send, a good client measures, and what the frames made is swept away."""
    noted = directory / "turns.json"
    environment = {turns.NAMED_BY: str(noted)}
    with Server(directory / "data", settings=SETTINGS, environment=environment, main=turns.COMMAND) as server:
        server.start()
        host, _, port = server.bootstrap.rpartition(":")
        address, pid = (host, int(port)), server.process.pid if server.process else 0
        Attack(address, seed).prepare()
        processes, pipes = senders(address, seed, rounds * ROUND)
        good = Good(address)
        good.start()
        try:
            counts, memory = watch(address, pid, pipes, server, report)
        finally:
            for process in processes:
                process.kill()
                process.join()
        good.done.set()
        good.join(60)
        judge(good, counts, memory, report)
        longest = json.loads(noted.read_text())
        report.figures |= longest
        if longest["turn_cpu_s"] > STALL_S_MAX:
            report.wrong("stall", f"the loop computed for {longest['turn_cpu_s']} s in one turn: {longest}")
        if not server.running or server.stop():
            report.wrong("crashed", server.log_end())
        said = server.log.read_text(errors="replace")
        for failure in sorted(set(failures(said))):
            report.wrong("traceback", failure)
        report.figures["log_lines"] = said.count("\n")


def senders(address: tuple[str, int], seed: int, frames: int) -> tuple[list[Any], list[Any]]:
    """The processes that send, and where they say how far they are."""
    context = multiprocessing.get_context("spawn")
    processes, pipes = [], []
    for number in range(PROCESSES):
        here, there = context.Pipe(duplex=False)
        one = context.Process(
            target=send_all, args=(address, seed * 1000 + number, frames // PROCESSES, there), daemon=True
        )
        one.start()
        there.close()
        processes.append(one)
        pipes.append(here)
    return processes, pipes


def watch(
    address: tuple[str, int], pid: int, pipes: list[Any], server: Server, report: Report
) -> tuple[Counter[str], list[int]]:
    """Until all is sent: take in what is counted, look at the memory, sweep; the counts and the memory in KiB."""
    latest: dict[int, dict[str, int]] = {}
    memory: list[int] = []
    open_pipes = dict(enumerate(pipes))
    swept = time.monotonic()
    while open_pipes and server.running and not late():
        for number, pipe in list(open_pipes.items()):
            try:
                while pipe.poll(0.1):
                    latest[number] = pipe.recv()
            except EOFError:
                del open_pipes[number]
        memory.append(anonymous_kib(pid))
        if time.monotonic() > swept + 3:
            swept = time.monotonic()
            with contextlib.suppress(OSError, AssertionError):
                report.count("swept", sweep_away(address))
    return sum((Counter(one) for one in latest.values()), Counter()), memory


def sweep_away(address: tuple[str, int]) -> int:
    """Delete the topics and groups that hostile frames have made: the memory they take is no leak."""
    with socket.create_connection(address, timeout=30) as sock:
        topics = [one.name for one in ask(sock, 3, 1, MetadataRequest(None)).topics]
        gone = [name for name in topics if name not in (GOOD, VICTIM, *INTERNAL)]
        if gone:
            ask(sock, 20, 1, DeleteTopicsRequest(topic_names=gone, timeout_ms=30_000))
        groups = [one.group_id for one in ask(sock, 16, 0, ListGroupsRequest()).groups]
        if groups:
            ask(sock, 42, 0, DeleteGroupsRequest(groups))
    return len(gone) + len(groups)


def judge(good: Good, counts: Counter[str], memory: list[int], report: Report) -> None:
    """What the good client saw, and whether memory grew after the first tenth."""
    report.faults = counts["frames"]
    report.figures |= {name: counts[name] for name in ("connections", "answered", "closed", "waiting")}
    times = sorted(good.seconds) or [0.0]
    report.figures |= {"good": len(times), "good_p99_s": round(times[int(len(times) * 0.99)], 4)}
    report.longest("good_s_max", times[-1])
    if times[-1] > STALL_S_MAX:
        report.wrong("stall", f"the good client waited for {times[-1]:.2f} s")
    if good.failure or good.is_alive():
        report.wrong("not-served", f"the good client: {good.failure or 'it waits'}")
    elif lost := good.check():
        report.wrong("lost", f"the good client's records: {lost}")
    if memory:
        begun = max(memory[: max(len(memory) // 10, 1)])
        report.figures["memory_mib"] = [one // 1024 for one in memory[:: max(len(memory) // 12, 1)]]
        if min(memory[-5:]) - begun > GROWTH_KIB_MAX:
            report.wrong("memory", f"it grew from {begun} to {memory[-1]} KiB")


def in_memory(seed: int, rounds: int, report: Report, *, sweep: bool) -> None:
    """Frames for one node in memory after the other."""
    logging.getLogger("logd").setLevel(logging.CRITICAL)
    pool = Pool(seed)
    frames: Iterator[bytes] = pool.sweep() if sweep else iter(pool.next, None)
    frames = islice(frames, rounds * ROUND)
    begun = time.monotonic()
    for life in range(seed, seed + rounds * ROUND):
        piece = list(islice(frames, LIFE_FRAMES))
        if not piece or late():
            break
        deterministic(partial(one_node, World(life), piece, report), life)
        report.figures["frames_a_second"] = int(report.faults / (time.monotonic() - begun))
        report.longest("memory_mib_max", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


async def one_node(world: World, frames: list[bytes], report: Report) -> None:
    """Give frames to a node that begins with nothing."""
    with world.taken_in():
        async with trio.open_nursery() as nursery:
            node = await nursery.start(partial(logd.node.run_node, world.settings, clock=world.clock))
            connection = Connection(1, "hostile", "simulated", 9092, "PLAINTEXT")
            for frame in arrived(frames, world.chance, report):
                begun = time.perf_counter()
                pending = take(frame, connection, node, report)
                report.longest("frame_s_max", time.perf_counter() - begun)
                if pending is not None:
                    await finish(pending, frame, report)
            if report.figures["frame_s_max"] > STALL_S_MAX:
                report.wrong("stall", f"a frame took {report.figures['frame_s_max']} s")
            node.kill()


def arrived(frames: Iterable[bytes], chance: random.Random, report: Report) -> Iterator[memoryview]:
    """The frames, through the buffer of a connection that takes them in by pieces; a size that lies begins another."""
    buffer = FrameBuffer(1 << 20)
    for frame in frames:
        report.faults += 1
        data = memoryview(sized(frame, chance))
        if buffer.pending_bytes:  # what waits for the rest of a size that lied has hung up
            report.count("cut_short")
            buffer = FrameBuffer(1 << 20)
        try:
            while data:
                space = buffer.writable()
                count = min(len(space), len(data), chance.randrange(1, 4096))
                space[:count] = data[:count]
                buffer.received(count)
                data = data[count:]
                while (found := buffer.next_frame()) is not None:
                    yield found
        except DecodeError:
            report.count("wrong_sizes")
            buffer = FrameBuffer(1 << 20)


def take(frame: memoryview, connection: Connection, node: Any, report: Report) -> Pending | None:
    """Begin one request; anything but an answer or the end of its connection is a bug."""
    try:
        answer = start(frame, connection, node.services)
    except Hangup:
        report.count("closed")
        return None
    except Exception as error:
        report.wrong("crashed", f"{error!r} of {bytes(frame).hex()}")
        return None
    if isinstance(answer, Pending):
        report.count("pending")
        return answer
    report.count("answered")
    return None


async def finish(pending: Pending, frame: memoryview, report: Report) -> None:
    """Wait for an answer, for some seconds of the node's own time."""
    what = bytes(frame)
    try:
        with trio.move_on_after(5):
            await pending.parts()
    except Hangup:
        report.count("closed")
    except Exception as error:
        report.wrong("crashed", f"{error!r} of {what.hex()}")
