"""The figures of logd that are not ratios: start-up, memory, a thousand partitions, a thousand idle connections.

Owns the environment that logd is measured in: a virtual environment of its own, without the test tools, in the cache
directory, installed anew from this checkout each time. Called by the command line after the comparison. Linux only.
"""

from __future__ import annotations

import json
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tools.benchmarks import clients, compaction, confluent, generator, procfs, requests
from tools.benchmarks.generator import receive_frame
from tools.benchmarks.report import aligned
from tools.benchmarks.runner import RUN_FAILURES, say
from tools.benchmarks.systems import ProcessSystem, Stage, logd_system

MIB = 1 << 20
REPOSITORY = clients.REPOSITORY
PACKAGED = ("logd", "pyproject.toml", "setup.cfg", "README.md", "LICENSE", "NOTICE")
STARTS = 11
IDLE_CONNECTIONS = 1000
MANY_PARTITIONS = 1000
RECORDS_EACH = 10_500  # of 1 KB: 10 GiB in all partitions
MANY_KEYS, MAP_BYTES = 50_000_000, 900 * MIB
SETTLE_S = 3.0

FIXTURE_PROGRAM = """
import json, time
import logd.testing, logd.testing.broker, logd.testing.hosting
times = []
for _ in range(6):
    began = time.perf_counter()
    with logd.testing.Broker() as broker:
        times.append((time.perf_counter() - began) * 1000)
print(json.dumps({"first": times[0], "later": sorted(times[1:])[2]}))
"""


@dataclass(frozen=True, slots=True)
class Absolute:
    """One row: what was measured, and the most it may be (None without a goal)."""

    title: str
    unit: str
    value: float
    at_most: float | None = None


def clean_environment(cache: Path) -> Path:
    """A virtual environment with logd and what it needs, and nothing else. Returns its `bin`."""
    environment = cache / "clean-venv"
    if not (environment / "bin" / "python").exists():
        say(f"making a clean environment in {environment}")
        subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    with tempfile.TemporaryDirectory(prefix="logd-source-") as scratch:
        for name in PACKAGED:
            source, target = REPOSITORY / name, Path(scratch) / name
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
            elif source.exists():
                shutil.copy(source, target)
        pip = [str(environment / "bin" / "pip"), "--disable-pip-version-check", "-q", "install"]
        subprocess.run([*pip, scratch], check=True)  # what it needs
        subprocess.run([*pip, "--force-reinstall", "--no-deps", scratch], check=True)  # and this version of it
    return environment / "bin"


@contextmanager
def _server(stage: Stage, executable: Path, settings: Mapping[str, str] | None = None) -> Iterator[ProcessSystem]:
    system = logd_system("logd", stage, executable, settings)
    shutil.rmtree(stage.directory, ignore_errors=True)
    stage.directory.mkdir(parents=True)
    try:
        system.start()
        yield system
    finally:
        system.stop()
        shutil.rmtree(stage.directory, ignore_errors=True)


def start_up(stage: Stage, binaries: Path) -> list[Absolute]:
    """From the start of the process to the ready line, on an empty data directory, files in the page cache."""
    times, cpu_ms = [], []
    for _ in range(STARTS):
        system = logd_system("logd", stage, binaries / "logd")
        shutil.rmtree(stage.directory, ignore_errors=True)
        stage.directory.mkdir(parents=True)
        times.append(system.start())
        cpu_ms.append(procfs.cpu_s(system.pid) * 1000)
        system.stop()
    shutil.rmtree(stage.directory, ignore_errors=True)
    return [
        Absolute("start to ready, empty data directory: median", "ms", statistics.median(times[1:]), 350),
        Absolute("the same: slowest of ten", "ms", max(times[1:])),
        Absolute("the same: CPU time, median", "ms", statistics.median(cpu_ms[1:])),
    ]


def fixture(stage: Stage, binaries: Path) -> list[Absolute]:
    """A broker of `logd.testing` in its own process, imports done."""
    command = [str(binaries / "python"), "-c", FIXTURE_PROGRAM]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tempfile.gettempdir())
    times: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return [
        Absolute("fixture ready: first of the process", "ms", times["first"], 100),
        Absolute("the same: later ones", "ms", times["later"]),
    ]


def memory_and_first_record(stage: Stage, binaries: Path) -> list[Absolute]:
    """Anonymous memory idle and after 4 GB in and 4 GB out; what a new group waits for its first record."""
    found = []
    with _server(stage, binaries / "logd") as system:
        time.sleep(SETTLE_S)
        found.append(Absolute("RssAnon, idle", "MiB", procfs.rss_anon_bytes(system.pid) / MIB, 60))
        confluent.create_topic(system.bootstrap, "first", 4)
        clients.python_client("confluent", "produce", "--bootstrap", system.bootstrap, "--topic", "first")
        arguments = ["first-record", "--bootstrap", system.bootstrap, "--topic", "first"]
        times = [clients.python_client("confluent", *arguments)["first_record_ms"] for _ in range(6)]
        found.append(Absolute("confluent-kafka: very first group's first record", "ms", times[0], 500))
        found.append(Absolute("the same: later new groups, median", "ms", statistics.median(times[1:]), 500))
        confluent.create_topic(system.bootstrap, "big", 4)
        properties = ("acks=1", "batch.size=131072")
        clients.produce(system.bootstrap, "big", records=4_000_000, size=1024, properties=properties)
        clients.consume(system.bootstrap, "big", records=4_000_000)
        time.sleep(SETTLE_S)
        found.append(Absolute("RssAnon after 4 GB in and out", "MiB", procfs.rss_anon_bytes(system.pid) / MIB, 90))
        before, began = procfs.cpu_s(system.pid), time.monotonic()
        time.sleep(SETTLE_S)
        idle = (procfs.cpu_s(system.pid) - before) / (time.monotonic() - began)
        found.append(Absolute("CPU with nothing to do", "% of a core", idle * 100))
    return found


def many_partitions(stage: Stage, binaries: Path) -> list[Absolute]:
    """A thousand empty partitions: disk, memory, and ready again after kill -9."""
    found = []
    with _server(stage, binaries / "logd") as system:
        confluent.create_topic(system.bootstrap, "many", MANY_PARTITIONS)
        time.sleep(SETTLE_S)
        title = f"{MANY_PARTITIONS:,} partitions"
        found.append(Absolute(f"{title}, empty: disk", "MB", procfs.disk_bytes(system.data_dir) / 1e6, 100))
        system.kill()
        found.append(Absolute(f"{title}, empty: ready after kill -9", "ms", system.start(), 3000))
        time.sleep(SETTLE_S)
        found.append(Absolute(f"{title}, empty: RssAnon", "MiB", procfs.rss_anon_bytes(system.pid) / MIB, 150))
        clients.produce(system.bootstrap, "many", records=200_000, size=100, properties=("acks=1", "linger.ms=0"))
        system.kill()
        found.append(Absolute(f"{title}, written to: ready after kill -9", "ms", system.start(), 3000))
        time.sleep(SETTLE_S)
        found.append(Absolute(f"{title}, written to: RssAnon", "MiB", procfs.rss_anon_bytes(system.pid) / MIB, 150))
    return found


def full_partitions(stage: Stage, binaries: Path) -> list[Absolute]:
    """10 GiB in a thousand partitions, written just before kill -9: until ready, and until a record is acknowledged."""
    with _server(stage, binaries / "logd") as system:
        confluent.create_topic(system.bootstrap, "full", MANY_PARTITIONS)
        arguments = ["--keys", str(RECORDS_EACH), "--partitions", str(MANY_PARTITIONS), "--records-a-batch", "1000"]
        clients.python_client("keyed", "fill", "--bootstrap", system.bootstrap, "--topic", "full", *arguments)
        system.kill()
        ready_ms = system.start()
        acknowledged_ms = ready_ms + generator.first_acknowledged_ms(system.bootstrap, "full")
    title = f"10 GiB in {MANY_PARTITIONS:,} partitions"
    return [
        Absolute(f"{title}: ready after kill -9", "ms", ready_ms, 10_000),
        Absolute(f"{title}: first acknowledged record after kill -9", "ms", acknowledged_ms, 10_000),
    ]


def compaction_memory(stage: Stage, binaries: Path) -> list[Absolute]:
    """The worker's memory while a partition of 50 million keys is compacted with room for all of them in its map."""
    settings = {"log.cleaner.dedupe.buffer.size": str(MAP_BYTES)}
    with _server(stage, binaries / "logd", settings) as system:
        compaction.make_topic(system, "keys", 256 << 20)
        arguments = ["--keys", str(MANY_KEYS), "--value-bytes", "4", "--records-a-batch", "500"]
        clients.python_client("keyed", "fill", "--bootstrap", system.bootstrap, "--topic", "keys", *arguments)
        peak_bytes = compaction.peak_memory_bytes(system, "keys")
    title = f"compaction of {MANY_KEYS:,} keys in one run"
    return [Absolute(f"{title}: peak memory of the worker (RSS)", "MiB", peak_bytes / MIB, 2048)]


def idle_connections(stage: Stage, binaries: Path) -> list[Absolute]:
    """What a connection costs that has said one thing and is silent since."""
    with _server(stage, binaries / "logd") as system, ExitStack() as held:
        host, _, port = system.bootstrap.rpartition(":")
        for _ in range(20):  # what the first connections import is not theirs
            with socket.create_connection((host, int(port))) as early:
                early.sendall(requests.api_versions())
                receive_frame(early)
        before = procfs.rss_anon_bytes(system.pid)
        for _ in range(IDLE_CONNECTIONS):
            peer = held.enter_context(socket.create_connection((host, int(port)), timeout=10))
            peer.sendall(requests.api_versions())
            receive_frame(peer)
        time.sleep(SETTLE_S)
        each = (procfs.rss_anon_bytes(system.pid) - before) / IDLE_CONNECTIONS
    return [Absolute(f"{IDLE_CONNECTIONS:,} idle connections: RssAnon each", "KiB", each / 1024, 64)]


MEASUREMENTS: tuple[Callable[[Stage, Path], list[Absolute]], ...] = (
    start_up,
    fixture,
    memory_and_first_record,
    many_partitions,
    full_partitions,
    compaction_memory,
    idle_connections,
)


def measure(directory: Path) -> tuple[list[Absolute], dict[str, str]]:
    """All of them, data under `directory` (a disk). Returns the rows, and what failed, by name of the measurement."""
    binaries = clean_environment(directory)
    stage = Stage("disk", directory / f"absolutes-{time.time_ns()}")
    found: list[Absolute] = []
    failed: dict[str, str] = {}
    for measurement in MEASUREMENTS:
        try:
            rows = measurement(stage, binaries)
        except RUN_FAILURES as problem:
            failed[measurement.__name__] = f"{type(problem).__name__}: {problem}"
            say(f"{measurement.__name__} FAILED: {failed[measurement.__name__][-800:]}")
            continue
        for row in rows:
            say(f"{row.title}: {row.value:.4g} {row.unit}")
        found += rows
    return found, failed


def table(found: list[Absolute]) -> str:
    """The rows as text."""
    lines = [["logd alone", "", "unit", "at most", ""]]
    for row in found:
        verdict = "" if row.at_most is None else ("reached" if row.value <= row.at_most else "short")
        goal = "" if row.at_most is None else f"{row.at_most:g}"
        value = f"{row.value:,.0f}" if row.value >= 100 else f"{row.value:.3g}"
        lines.append([row.title, value, row.unit, goal, verdict])
    return aligned(lines)
