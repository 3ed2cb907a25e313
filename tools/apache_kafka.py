#!/usr/bin/env python3
"""A real Apache Kafka 4.3.1 on this machine: one KRaft node, broker and controller in one process, on loopback ports.

Owns the jars (fetched once with Maven into a cache) and the Java process it starts. Called by the twin tests, the
client tests and `tools/bench`, and by hand: `python tools/apache_kafka.py run --set num.partitions=4`. It never
touches a process that it did not start and knows nothing of logd.

    with ApacheKafka(properties={"num.partitions": "4"}) as kafka:
        connect_to(kafka.bootstrap)
"""

from __future__ import annotations

import argparse
import atexit
import contextlib
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType

VERSION = "4.3.1"
ARTIFACTS = (
    f"org.apache.kafka:kafka_2.13:{VERSION}",
    f"org.apache.kafka:kafka-tools:{VERSION}",
    "org.apache.logging.log4j:log4j-slf4j-impl:2.25.4",  # without it a failing start says nothing
)
STREAMS_ARTIFACTS = (f"org.apache.kafka:kafka-streams:{VERSION}",)
READY_TIMEOUT_S = 90.0
STOP_TIMEOUT_S = 30.0
PORT_ATTEMPTS = 3

# One broker cannot hold three replicas of the internal topics, and nobody wants to wait three seconds for a first poll.
SINGLE_NODE_PROPERTIES = {
    "offsets.topic.replication.factor": "1",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "group.initial.rebalance.delay.ms": "0",
}
# What Kafka's own start script gives its broker, the heap aside.
BROKER_JVM_OPTIONS = (
    "-server",
    "-XX:+UseG1GC",
    "-XX:MaxGCPauseMillis=20",
    "-XX:InitiatingHeapOccupancyPercent=35",
    "-XX:+ExplicitGCInvokesConcurrent",
    "-Djava.awt.headless=true",
)


class KafkaUnavailable(Exception):
    """Java, Maven or the jars are missing, or the node did not start; the message says which and what to do."""


def cache_directory() -> Path:
    """Where fetched jars are kept: `$XDG_CACHE_HOME/logd/kafka-<version>`, normally under `~/.cache`."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "logd" / f"kafka-{VERSION}"


def _holds_kafka(directory: Path) -> bool:
    return (directory / f"kafka_2.13-{VERSION}.jar").exists() and (directory / f"kafka-tools-{VERSION}.jar").exists()


def installed_libs() -> Path | None:
    """The directory of jars that is there already (`LOGD_KAFKA_LIBS` first, then the cache), or None."""
    named = os.environ.get("LOGD_KAFKA_LIBS")
    candidates = [Path(named)] if named else [cache_directory()]
    return next((path for path in candidates if _holds_kafka(path)), None)


def installed_streams() -> Path | None:
    """The same for what a Kafka Streams application needs; it comes with its own copy of the client."""
    named = os.environ.get("LOGD_KAFKA_LIBS")
    candidates = [Path(named)] if named else [_streams_directory()]
    return next((path for path in candidates if (path / f"kafka-streams-{VERSION}.jar").exists()), None)


def _streams_directory() -> Path:
    return cache_directory().with_name(f"kafka-streams-{VERSION}")


def available() -> bool:
    """True when a node can be started: Java is there, and the jars are there or Maven can fetch them."""
    return shutil.which("java") is not None and (installed_libs() is not None or shutil.which("mvn") is not None)


def fetch_libs() -> Path:
    """The directory of jars, fetched with Maven when it is not there yet. Raises KafkaUnavailable."""
    return _fetched(ARTIFACTS, cache_directory(), installed_libs)


def fetch_streams() -> Path:
    """The same for a Kafka Streams application. Raises KafkaUnavailable."""
    return _fetched(STREAMS_ARTIFACTS, _streams_directory(), installed_streams)


def _fetched(artifacts: Sequence[str], target: Path, installed: Callable[[], Path | None]) -> Path:
    if (found := installed()) is not None:
        return found
    wanted = " and ".join(artifacts)
    if named := os.environ.get("LOGD_KAFKA_LIBS"):
        raise KafkaUnavailable(f"LOGD_KAFKA_LIBS={named} does not hold {wanted}; correct it or unset it")
    if shutil.which("mvn") is None:
        raise KafkaUnavailable("mvn is not installed; install Maven or point LOGD_KAFKA_LIBS at a directory of jars")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="fetching-", dir=target.parent) as scratch:
        _copy_dependencies(Path(scratch), artifacts)
        with contextlib.suppress(OSError):  # somebody else was first: theirs is as good
            (Path(scratch) / "libs").rename(target)
    if (found := installed()) is None:
        raise KafkaUnavailable(f"{target} is there but does not hold {wanted}; remove it and try again")
    return found


def _copy_dependencies(scratch: Path, artifacts: Sequence[str]) -> None:
    dependencies = "".join(
        "<dependency><groupId>{}</groupId><artifactId>{}</artifactId><version>{}</version></dependency>".format(
            *artifact.split(":")
        )
        for artifact in artifacts
    )
    project = (
        '<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>'
        "<groupId>logd.tools</groupId><artifactId>kafka-libs</artifactId><version>1</version>"
        f"<dependencies>{dependencies}</dependencies></project>"
    )
    (scratch / "pom.xml").write_text(project)
    command = ["mvn", "-q", "-B", "-f", str(scratch / "pom.xml"), "dependency:copy-dependencies"]
    command += [f"-DoutputDirectory={scratch / 'libs'}", "-DincludeScope=runtime"]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode != 0:
        raise KafkaUnavailable(f"mvn could not fetch Kafka {VERSION}: {done.stdout.strip()[-500:]}")


def java_command(main_class: str, arguments: Iterable[str], *, libs: Path, options: Sequence[str] = ()) -> list[str]:
    """The command line that runs one of Kafka's classes, such as `org.apache.kafka.tools.TopicCommand`."""
    return ["java", *options, "-cp", f"{libs}/*", main_class, *arguments]


def free_ports(count: int) -> list[int]:
    """Different loopback TCP ports that nobody listens on at this moment."""
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _receive_exactly(peer: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        chunk = peer.recv(size - len(data))
        if not chunk:
            raise ConnectionError("closed")
        data += chunk
    return data


def answers(host: str, port: int, timeout_s: float = 2.0) -> bool:
    """True when the broker's Metadata (v1) names at least one broker, so that it is past its own registration."""
    request = struct.pack(">hhih5si", 3, 1, 7, 5, b"ready", 0)  # an empty array in v1: no topics
    try:
        with socket.create_connection((host, port), timeout=timeout_s) as peer:
            peer.sendall(struct.pack(">i", len(request)) + request)
            (size,) = struct.unpack(">i", _receive_exactly(peer, 4))
            _, brokers = struct.unpack(">ii", _receive_exactly(peer, size)[:8])
    except (OSError, struct.error):
        return False
    return bool(brokers > 0)


class ApacheKafka:
    """One Apache Kafka node as a context manager: started on entry, stopped on exit.

    `data_dir` holds everything of the node (`data/`, `server.properties`, `server.log`, `kafka.pid`) and is kept;
    without one a temporary directory is used and removed. `node_id` is the broker id. `properties` override the
    broker's settings. `heap` goes to -Xms and -Xmx. `port` is the Kafka port, 0 for a free one. `java_options` come
    last on the command line (`("-XX:TieredStopAtLevel=1",)` starts a little faster and runs slower).
    """

    def __init__(
        self,
        data_dir: Path | str | None = None,
        *,
        node_id: int = 0,
        properties: Mapping[str, str] | None = None,
        heap: str = "1g",
        port: int = 0,
        libs: Path | None = None,
        java_options: Sequence[str] = (),
    ) -> None:
        self.node_id = node_id
        self.properties = dict(properties or {})
        self.heap = heap
        self.host = "127.0.0.1"
        self.port = port
        self.java_options = tuple(java_options)
        self.libs = libs
        self.process: subprocess.Popen[bytes] | None = None
        self._temporary = data_dir is None
        self.data_dir = Path(data_dir) if data_dir is not None else Path(tempfile.mkdtemp(prefix="apache-kafka-"))

    @property
    def bootstrap(self) -> str:
        """`host:port` for clients."""
        return f"{self.host}:{self.port}"

    @property
    def pid(self) -> int:
        """The Java process."""
        assert self.process is not None, "not started"
        return self.process.pid

    @property
    def log_file(self) -> Path:
        """What the node printed."""
        return self.data_dir / "server.log"

    def __enter__(self) -> ApacheKafka:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(self, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Start (again, after `stop` or `kill`) and return once the node serves. Raises KafkaUnavailable."""
        if shutil.which("java") is None:
            raise KafkaUnavailable("java is not installed; Kafka 4 needs Java 17 or newer")
        self.libs = self.libs or fetch_libs()
        self.data_dir.mkdir(parents=True, exist_ok=True)
        port_is_free_to_choose = self.port == 0  # on the very first start, if nobody named one
        for attempt in range(1, PORT_ATTEMPTS + 1):
            self._configure()
            self._format()
            self._launch()
            if self._wait_ready(timeout_s):
                return
            lost_the_port = "Address already in use" in self.log_tail()
            self.stop()
            if not lost_the_port or attempt == PORT_ATTEMPTS:
                break
            self.port = 0 if port_is_free_to_choose else self.port
        raise KafkaUnavailable(f"Kafka did not start; the end of {self.log_file}: {self.log_tail()[-2000:]}")

    def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> None:
        """SIGTERM, and SIGKILL when it has not ended after `timeout_s`. Data and port are kept."""
        if self.process is None:
            return
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self._reap()

    def kill(self) -> None:
        """SIGKILL: the crash. Data and port are kept."""
        if self.process is not None:
            self.process.kill()
            self._reap()

    def close(self) -> None:
        """Stop, and remove the data directory if it was a temporary one."""
        self.stop()
        if self._temporary:
            shutil.rmtree(self.data_dir, ignore_errors=True)

    def tool(self, main_class: str, *arguments: str, timeout_s: float = 120.0) -> str:
        """Run one of Kafka's command-line classes to its end and return its stdout.

        Raises subprocess.CalledProcessError with its output when it fails.
        """
        command = java_command(main_class, arguments, libs=self.libs or fetch_libs(), options=("-Xmx256m",))
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=timeout_s).stdout

    def log_tail(self, bytes_max: int = 4000) -> str:
        """The end of what the node printed."""
        try:
            return self.log_file.read_bytes()[-bytes_max:].decode(errors="replace")
        except FileNotFoundError:
            return ""

    def _configure(self) -> None:
        kafka_port, controller_port = free_ports(2)
        self.port = self.port or kafka_port
        settings = {
            "process.roles": "broker,controller",
            "node.id": str(self.node_id),
            "controller.quorum.voters": f"{self.node_id}@{self.host}:{controller_port}",
            "listeners": f"PLAINTEXT://{self.host}:{self.port},CONTROLLER://{self.host}:{controller_port}",
            "advertised.listeners": f"PLAINTEXT://{self.host}:{self.port}",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "inter.broker.listener.name": "PLAINTEXT",
            "controller.listener.names": "CONTROLLER",
            "log.dirs": str(self.data_dir / "data"),
            **SINGLE_NODE_PROPERTIES,
            **self.properties,
        }
        lines = "".join(f"{key}={value}\n" for key, value in settings.items())
        (self.data_dir / "server.properties").write_text(lines)

    def _format(self) -> None:
        if (self.data_dir / "data" / "meta.properties").exists():
            return
        assert self.libs is not None
        cluster_id = urlsafe_b64encode(uuid.uuid4().bytes).rstrip(b"=").decode()
        if cluster_id.startswith("-"):  # it would look like an option
            cluster_id = "L" + cluster_id[1:]
        arguments = ["format", "-t", cluster_id, "-c", str(self.data_dir / "server.properties")]
        options = ("-Xmx128m", "-XX:TieredStopAtLevel=1")
        command = java_command("kafka.tools.StorageTool", arguments, libs=self.libs, options=options)
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise KafkaUnavailable(f"formatting the storage failed: {(done.stdout + done.stderr).strip()[-1000:]}")

    def _launch(self) -> None:
        assert self.libs is not None
        options = [f"-Xms{self.heap}", f"-Xmx{self.heap}", *BROKER_JVM_OPTIONS]
        options += [f"-Dkafka.logs.dir={self.data_dir}", *self.java_options]
        command = java_command(
            "kafka.Kafka", [str(self.data_dir / "server.properties")], libs=self.libs, options=options
        )
        with self.log_file.open("wb") as output:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
            )
        (self.data_dir / "kafka.pid").write_text(f"{self.process.pid}\n")
        atexit.register(self.kill)

    def _wait_ready(self, timeout_s: float) -> bool:
        assert self.process is not None
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline and self.process.poll() is None:
            if answers(self.host, self.port):
                return True
            time.sleep(0.01)
        return False

    def _reap(self) -> None:
        assert self.process is not None
        self.process.wait()
        atexit.unregister(self.kill)
        self.process = None
        (self.data_dir / "kafka.pid").unlink(missing_ok=True)


def _parse_settings(pairs: Sequence[str]) -> dict[str, str]:
    for pair in pairs:
        if "=" not in pair:
            raise SystemExit(f"--set {pair}: write it as KEY=VALUE")
    return dict(pair.split("=", 1) for pair in pairs)


def _stop_by_pid_file(data_dir: Path) -> int:
    """Ends the node that `start` left running. The exit status of the command."""
    pid_file = data_dir / "kafka.pid"
    if not pid_file.exists():
        print(f"{pid_file} is not there: nothing to stop", file=sys.stderr)
        return 1
    pid = int(pid_file.read_text())
    command_line = Path(f"/proc/{pid}/cmdline")
    deadline = time.monotonic() + STOP_TIMEOUT_S
    while command_line.exists() and str(data_dir).encode() in command_line.read_bytes():
        os.kill(pid, signal.SIGTERM if time.monotonic() < deadline else signal.SIGKILL)
        time.sleep(0.5)
    pid_file.unlink(missing_ok=True)
    return 0


def _wait_for_signal(kafka: ApacheKafka) -> None:
    """Blocks until SIGINT or SIGTERM arrives or the node ends by itself."""
    assert kafka.process is not None
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt):
        kafka.process.wait()


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=f"Apache Kafka {VERSION}, one KRaft node on loopback ports.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("fetch", help="fetch the jars and print the directory they are in")
    for name, text in (("run", "run until interrupted"), ("start", "start, print the address, leave it running")):
        command = commands.add_parser(name, help=text)
        command.add_argument("--data-dir", type=Path, required=name == "start", help="kept; a temporary one without it")
        command.add_argument("--node-id", type=int, default=0)
        command.add_argument("--port", type=int, default=0, help="Kafka port, 0 for a free one")
        command.add_argument("--heap", default="1g")
        command.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a broker setting")
    commands.add_parser("stop", help="stop what `start` left running").add_argument(
        "--data-dir", type=Path, required=True
    )
    tool = commands.add_parser("tool", help="run one of Kafka's classes: tool org.apache.kafka.tools.TopicCommand ...")
    tool.add_argument("main_class")
    tool.add_argument("rest", nargs=argparse.REMAINDER)
    return parser


def main() -> int:
    """The command line. Returns the exit status."""
    options = _arguments().parse_args()
    if options.command == "stop":
        return _stop_by_pid_file(options.data_dir.absolute())
    try:
        if options.command == "fetch":
            print(fetch_libs())
            print(fetch_streams())
            return 0
        if options.command == "tool":
            return subprocess.call(java_command(options.main_class, options.rest, libs=fetch_libs()))
        data_dir = options.data_dir.absolute() if options.data_dir else None
        settings = _parse_settings(options.set)
        kafka = ApacheKafka(
            data_dir, node_id=options.node_id, properties=settings, heap=options.heap, port=options.port
        )
        kafka.start()
    except KafkaUnavailable as problem:
        print(problem, file=sys.stderr)
        return 1
    print(f"kafka ready kafka={kafka.bootstrap} pid={kafka.pid} data={kafka.data_dir}", flush=True)
    if options.command == "start":
        atexit.unregister(kafka.kill)
        return 0
    _wait_for_signal(kafka)
    kafka.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
