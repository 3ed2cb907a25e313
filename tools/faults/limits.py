"""Too little of something: descriptors taken by a flood of connections, memory wanted by readers that never read, or
threads that are not to be had.

``on`` is ``descriptors``: the server may open 64 to 256 files, and hundreds connect. Who was there before goes on:
appends, rolls, new topics, commits, compaction; when the crowd leaves, newcomers are served. Half of the crowds find
that the limit is lowered below what is in use, until compaction has tried to begin its worker: it, and rolls, may be
refused, and go on afterwards. Or ``memory``: the server lives in a control group of 512 MiB while a thousand readers
ask for 160 MB each and take nothing of it; writers go on.
Or ``threads``: its control group may have no process or thread more than it has, now and then for so long that those
which are idle end; writers go on. Sometimes it is killed in the middle. At the end all is read.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import resource
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

from logd.wire.frames import request_bytes
from logd.wire.schemas.fetch import FetchPartition, FetchRequest, FetchTopic
from tools.faults.conversation import OK, STORAGE, Gone, Told
from tools.faults.full import GIVEN_UP
from tools.faults.load import Load
from tools.faults.peer import Peer, Stream, now_ms
from tools.faults.report import Report, Skipped, late
from tools.faults.server import NotReady, Server

FILES = (64, 96, 128, 256)
CROWD = {"descriptors": 300, "memory": 1000, "threads": 50}
MEMORY_BYTES = 512 << 20
ANSWER_BYTES, ASKED_TIMES, FETCH, FETCH_VERSION = 20 << 20, 8, 1, 11
SERVED_S_MAX = 5.0
ANSWER_S_MAX = 60.0
GROWTH_MIB_MAX = 160.0
"""A connection may cost 64 KiB; the rest is for what is under way."""

KEYED = "keyed"
LOG_MAX = 1 << 20
HOUSEKEEPING_S = 2.5
"""So long half of the crowds stay: retention and compaction come to their turn in it."""

NOT_NOW = re.compile("(was not compacted|is not compacted now), to be tried again: .*Too many open files")
FAMINE_S_MAX = 15.0

IDLE_S = 11.0
"""After so long without work trio's threads end."""

SETTINGS = {
    "log.roll.ms": "400",
    "log.segment.bytes": "8388608",
    "log.retention.check.interval.ms": "300",
    "log.segment.delete.delay.ms": "0",
    "log.cleaner.backoff.ms": "300",
    "log.cleaner.min.cleanable.ratio": "0.01",
    "offsets.topic.num.partitions": "1",
}


class Group:
    """A control group that limits one thing; ``before`` is put before a command to run it there."""

    def __init__(self, controller: str, limit: str, limit_v1: str) -> None:
        whole = Path("/sys/fs/cgroup")
        second = (whole / "cgroup.controllers").exists()
        self.place = (whole if second else whole / controller) / f"logd-faults-{os.getpid()}"
        self._limit = self.place / (limit if second else limit_v1)
        self.before = ["sh", "-c", f'echo $$ > {self.place}/cgroup.procs; exec "$@"', "sh"]

    def allow(self, value: str) -> None:
        """Set the limit."""
        self._limit.write_text(value)


@contextlib.contextmanager
def group(controller: str, limit: str, limit_v1: str, value: str) -> Iterator[Group]:
    """Make a control group. Raises Skipped."""
    made = Group(controller, limit, limit_v1)
    try:
        made.place.mkdir()
        made.allow(value)
    except OSError as error:
        with suppress(OSError):
            made.place.rmdir()
        raise Skipped(f"no control group for {controller} can be made ({error}): that needs root") from error
    try:
        yield made
    finally:
        for _ in range(100):
            with suppress(OSError):
                made.place.rmdir()
                break
            time.sleep(0.05)


def run(seed: int, rounds: int, directory: Path, on: str = "descriptors") -> Report:
    """``rounds`` crowds."""
    chance, report = random.Random(seed), Report(f"limits-{on}", seed)
    if on == "descriptors" and shutil.which("prlimit") is None:
        raise Skipped("prlimit is not installed (Debian: apt install util-linux)")
    load = Load(chance)
    threads: Group | None = None
    with ExitStack() as held:
        if on == "descriptors":
            before = ["prlimit", f"--nofile={chance.choice(FILES)}"]
        elif on == "threads":
            threads = held.enter_context(group("pids", "pids.max", "pids.max", "max"))
            before = threads.before
        else:
            limits = ("memory.max", "memory.limit_in_bytes", str(MEMORY_BYTES))
            before = held.enter_context(group("memory", *limits)).before
        settings = {**SETTINGS, "log.flush.mode": chance.choice(("os", "group"))}
        server = held.enter_context(Server(directory / "data", settings=settings, before=before))
        server.start()
        with Peer(server.bootstrap) as peer:
            load.begin(peer, "limits", 3)
            if on != "memory":  # housekeeping needs some, too
                load.begin(peer, KEYED, 1, cleanup_policy="compact")
                load.places.pop()  # what was replaced need not be there
            else:
                fill(peer)
        if on == "memory":  # what a server did not write itself it looks at before it sends it
            server.stop()
            server.start()
        for number in range(rounds):
            if late() or report.found:
                break
            try:
                if threads is not None:
                    without(threads, server, load, f"crowd {number}", report)
                else:
                    crowd(server, load, on, f"crowd {number}", report)
            except (Gone, Told, NotReady) as error:
                report.wrong("crashed", f"crowd {number}: {error!r} {server.log_end()}")
        finish(server, load, report)
    return report


def fill(peer: Peer) -> None:
    """Twenty megabytes for the readers that take nothing."""
    peer.create("much", 1)
    stream = Stream("f", "much", 0, peer.producer_id(), 900_000)
    for _ in range(24):
        peer.produce("much", 0, stream.batch(stream.next_values(1), now_ms()))
        stream.taken(1)


def crowd(server: Server, load: Load, on: str, where: str, report: Report) -> None:
    """Let a crowd come, work beside it, let it go, and see whether newcomers are served."""
    with ExitStack() as many, Peer(server.bootstrap, timeout_s=60.0) as peer:
        work(server, peer, load, where, report)
        before_mib = anonymous_mib(server)
        host, _, port = server.bootstrap.rpartition(":")
        asked = []
        for number in range(CROWD[on]):
            with suppress(OSError):
                sock = many.enter_context(socket.create_connection((host, int(port)), timeout=10))
                if on == "memory":
                    sock.sendall(greedy(number))
                    asked.append(sock)
        grown_mib = 0.0
        for sock in asked:  # until each has an answer that it does not take
            with suppress(OSError):
                sock.settimeout(ANSWER_S_MAX)
                sock.recv(1, socket.MSG_PEEK)
            grown_mib = max(grown_mib, anonymous_mib(server) - before_mib)
        if on == "descriptors":
            if load.chance.random() < 0.5:
                time.sleep(HOUSEKEEPING_S)
            else:
                famine(server, peer, load, where, report)
        work(server, peer, load, where, report)
        grown_mib = max(grown_mib, anonymous_mib(server) - before_mib)
        report.longest("grown_mib_max", grown_mib)
        if grown_mib > GROWTH_MIB_MAX:
            report.wrong("memory", f"{where}: {grown_mib:.0f} MiB more than without it")
        peer.create("during", 1)
        peer.delete("during")
        if load.chance.random() < 0.3:
            server.kill()
            report.longest("start_s_max", server.start())
            report.count("kills")
            return after(server, load, where, report)
    return after(server, load, where, report)


def without(threads: Group, server: Server, load: Load, where: str, report: Report) -> None:
    """Let the server start no thread and no process for a while, work beside it, let it, and see what has waited."""
    with Peer(server.bootstrap, timeout_s=60.0) as peer, ExitStack() as many:
        work(server, peer, load, where, report)
        host, _, port = server.bootstrap.rpartition(":")
        threads.allow("1")  # what is there may stay
        for _ in range(CROWD["threads"]):
            many.enter_context(socket.create_connection((host, int(port)), timeout=10))
        work(server, peer, load, where, report)
        time.sleep(IDLE_S if load.chance.random() < 0.3 else HOUSEKEEPING_S)
        work(server, peer, load, where, report)
        if load.chance.random() < 0.3:
            server.kill()
            report.count("kills")
        threads.allow("max")
    if not server.running:
        report.longest("start_s_max", server.start())
    with Peer(server.bootstrap, timeout_s=60.0) as peer:
        peer.create("after", 1)
        peer.delete("after")
    after(server, load, where, report)


def famine(server: Server, peer: Peer, load: Load, where: str, report: Report) -> None:
    """Let nothing be opened until compaction has found no descriptor for its worker; batches may be refused."""
    assert server.process is not None
    pid, said = server.process.pid, len(server.log_end(LOG_MAX))
    keyed, begun = load.writers[-1], newest(server)
    end = time.monotonic() + FAMINE_S_MAX
    while newest(server) == begun and time.monotonic() < end:  # a segment that can be compacted
        keyed.step(peer, 5)
    _, hard = limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (0, hard))
    try:
        while not (met := NOT_NOW.search(server.log_end(LOG_MAX), said)) and time.monotonic() < end:
            for writer in load.writers:
                if (code := writer.step(peer, 5)) not in (OK, STORAGE):
                    report.wrong("answer", f"{where}: no descriptor, and {writer.stream.place} answers {code}")
            time.sleep(0.02)
    finally:
        with suppress(ProcessLookupError):
            resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
    report.count("famines" if met else "famines_unmet")


def newest(server: Server) -> str:
    """The last segment of the compacted topic."""
    return max(path.name for path in (server.data_dir / f"{KEYED}-0").glob("*.log"))


def anonymous_mib(server: Server) -> float:
    """Memory of the server that no file backs."""
    assert server.process is not None
    found = re.search(r"RssAnon:\s+(\d+)", Path(f"/proc/{server.process.pid}/status").read_text())
    return int(found[1]) / 1024 if found else 0.0


def greedy(number: int) -> bytes:
    """Fetches whose answers nobody takes."""
    part = FetchPartition(0, fetch_offset=number % 24, partition_max_bytes=ANSWER_BYTES)
    request = FetchRequest(max_wait_ms=0, max_bytes=ANSWER_BYTES, topics=[FetchTopic("much", partitions=[part])])
    return request_bytes(FETCH, FETCH_VERSION, 1, "greedy", request) * ASKED_TIMES


def work(server: Server, peer: Peer, load: Load, where: str, report: Report) -> None:
    """Batches for each partition, and a commit: whatever is refused goes through soon."""
    for _ in range(10):
        for writer in load.writers:
            begun = time.monotonic()
            while (code := writer.step(peer, 5)) != OK and time.monotonic() - begun < SERVED_S_MAX:
                report.count("refused_for_the_moment")
                time.sleep(0.02)
            report.longest("append_s_max", time.monotonic() - begun)
            if code != OK:
                report.wrong("refused", f"{where}: {writer.stream.place} answers {code}: {server.log_end()}")
                return
    load.commit(peer)


def after(server: Server, load: Load, where: str, report: Report) -> None:
    """The crowd has left: newcomers are served."""
    left = time.monotonic()
    while True:
        try:
            with Peer(server.bootstrap) as peer:
                work(server, peer, load, where, report)
            break
        except Gone:
            if time.monotonic() - left > 4 * SERVED_S_MAX or not server.running:
                raise
            time.sleep(0.05)
    report.longest("served_s_max", time.monotonic() - left)
    report.faults += 1


def finish(server: Server, load: Load, report: Report) -> None:
    """The last read."""
    try:
        with Peer(server.bootstrap) as peer:
            load.read_all(peer)
    except (Gone, Told) as error:
        report.wrong("unreadable", f"{error!r} {server.log_end()}")
    report.add(load.anomalies())
    report.figures["acknowledged"] = load.acknowledged
    if GIVEN_UP in server.log_end(LOG_MAX):
        report.wrong("given-up", server.log_end())
    if (server.running and server.stop()) or "Traceback" in server.log_end(LOG_MAX):
        report.wrong("crashed", server.log_end())
