"""``logd serve`` from the outside: its ready line, its signals, and what it refuses to start with."""

from __future__ import annotations

import signal
import socket
import ssl
import subprocess
import sys
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient

from logd import __version__
from logd.wire.schemas.metadata import MetadataRequest
from tests.clients.confluent import PATIENCE_S, assigned, consumer, produce, producer, take
from tests.process.server import LOGD, READY, Server, refused
from tests.raw import Peer


def test_ready_line(tmp_path: Path) -> None:
    """One line on stdout says where it listens and where its data is, and nothing else is ever printed there."""
    with Server(tmp_path / "data") as server:
        found = READY.fullmatch(server.ready_line)
        assert found
        assert found["data"] == str(tmp_path / "data")
        host, _, port = found["kafka"].rpartition(":")
        socket.create_connection((host, int(port))).close()
        assert server.stop() == (0, "")


def test_two_listeners(tmp_path: Path) -> None:
    """Every listener is named on the ready line, and serves."""
    with Server(tmp_path / "data", "--listen", "127.0.0.1:0") as server:
        addresses = server.bootstrap.split(",")
        assert len(set(addresses)) == 2
        for address in addresses:
            with producer(address) as source:
                produce(source, "both", [address.encode()])


def test_a_listener_that_is_given_by_name(tmp_path: Path) -> None:
    """Clients are told the name, as by Kafka; of a listener that is given by address, what they connected to."""
    with Server(tmp_path / "data", "--listen", "localhost:0") as server:
        for address in server.bootstrap.split(","):
            brokers = AdminClient({"bootstrap.servers": address}).list_topics(timeout=PATIENCE_S).brokers
            assert [f"{broker.host}:{broker.port}" for broker in brokers.values()] == [address]
        assert [address.partition(":")[0] for address in server.bootstrap.split(",")] == ["localhost", "127.0.0.1"]


def test_sigterm_keeps_everything(tmp_path: Path) -> None:
    """After SIGTERM it exits with 0, and what was acknowledged is there when it comes back."""
    with Server(tmp_path / "data") as server:
        with producer(server.bootstrap) as source:
            produce(source, "kept", [b"%d" % number for number in range(100)], partition=0)
        assert server.stop() == (0, "")
        server.start()
        with consumer(server.bootstrap) as reader:
            came = take(assigned(reader, "kept"), 100)
    assert [message.value() for message in came] == [b"%d" % number for number in range(100)]


def test_sigterm_with_clients_at_work(tmp_path: Path) -> None:
    """Consumers that wait in a long poll do not keep it from stopping."""
    with Server(tmp_path / "data") as server, consumer(server.bootstrap, "waiting", fetch_wait_max_ms=30_000) as reader:
        with producer(server.bootstrap) as source:
            produce(source, "kept", [b"x"])
        reader.subscribe(["kept"])
        take(reader, 1)
        assert server.stop() == (0, "")


def test_version() -> None:
    """``logd --version`` prints the version."""
    assert (
        subprocess.run([LOGD, "--version"], capture_output=True, text=True, check=True)
        .stdout.strip()
        .endswith(__version__)
    )


def test_second_process_is_refused(tmp_path: Path) -> None:
    """A data directory is served by one process: a second one ends with a sentence that names the directory."""
    data = tmp_path / "data"
    with Server(data) as server:
        code, said = refused("--data-dir", str(data), "--listen", "127.0.0.1:0")
        assert code not in (0, 2)
        assert str(data) in said
        assert "Traceback" not in said
        with producer(server.bootstrap) as source:
            produce(source, "still-there", [b"x"])


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--no-such-option"], "--no-such-option"),
        (["--listen", "nowhere"], "nowhere"),
        (["--set", "no.such.setting=1"], "no.such.setting"),
        (["--set", "num.partitions=many"], "num.partitions"),
        (["--set", "num.partitions"], "num.partitions"),
        (["--config", "no-such-file.toml"], "no-such-file.toml"),
        (["--http", "127.0.0.1:0"], "--http"),
        (["--nodes", "3"], "--nodes"),
        (["--metadata", "etcd://127.0.0.1:2379"], "--metadata"),
    ],
)
def test_bad_options(tmp_path: Path, options: list[str], named: str) -> None:
    """An option that is unknown, wrong or not built yet ends the start with exit code 2, and is named."""
    data = tmp_path / "data"
    code, said = refused("--data-dir", str(data), *options)
    assert code == 2
    assert named in said
    assert "Traceback" not in said
    assert not data.exists()


def test_a_wrong_command_line_is_told_in_three_lines(tmp_path: Path) -> None:
    """As by logd-cli: what, why, with the nearest name, and what to type."""
    code, said = refused("--data-di", str(tmp_path))
    assert (code, said.splitlines()) == (
        2,
        [
            "error: logd serve has no option --data-di",
            "why:   did you mean --data-dir or --metadata?",
            "try:   logd serve --help",
        ],
    )


def test_a_file_of_kafkas_settings(tmp_path: Path) -> None:
    """All that logd does not have of it is told at once, each with its reason; without that it serves."""
    file = tmp_path / "server.properties"
    kept = "# Kafka's\nnode.id=7\nsocket.send.buffer.bytes=102400\nnum.partitions=3\n"
    file.write_text(kept + "process.roles=broker,controller\nnum.io.threads=8\n")
    code, said = refused("--config", str(file), "--data-dir", str(tmp_path / "data"))
    assert (code, [line.split()[:4] for line in said.splitlines()]) == (
        2,
        [["logd:", "Kafka's", "setting", name] for name in ("process.roles", "num.io.threads")],
    )
    file.write_text(kept)
    with Server(tmp_path / "data", "--config", str(file)) as server, Peer(server.bootstrap) as peer:
        assert [broker.node_id for broker in peer.ask(MetadataRequest([]), 9).brokers] == [7]


def test_what_stands_on_the_command_line_is_blamed(tmp_path: Path) -> None:
    """A wrong --listen is not said to stand in --set alone."""
    code, said = refused("--data-dir", str(tmp_path / "data"), "--listen", "127.0.0.1:99999")
    assert (code, "(in --set or --listen)" in said) == (2, True)


@pytest.mark.parametrize(
    ("address", "why"),
    [("nowhere.invalid:0", "not known: give --listen a name"), ("192.0.2.1:0", "give --listen a name or an address")],
)
def test_an_address_of_another_machine(tmp_path: Path, address: str, why: str) -> None:
    """A name that nobody knows and an address that is not ours are told, with what to do."""
    code, said = refused("--data-dir", str(tmp_path / "data"), "--listen", address)
    assert (code, said.startswith(f"logd: {address}: "), why in said) == (1, True, True), said


def test_a_file_in_the_place_of_the_data(tmp_path: Path) -> None:
    """It is said to be in the way."""
    (tmp_path / "data").touch()
    code, said = refused("--data-dir", str(tmp_path / "data"), "--listen", "127.0.0.1:0")
    assert (code, "a file is in the way" in said, "Traceback" in said) == (1, True, False)


def test_a_terminal_that_is_closed_stops_it(tmp_path: Path) -> None:
    """SIGHUP ends it as SIGTERM does, and is ignored under nohup."""
    with Server(tmp_path / "data") as server:
        assert server.stop(signal.SIGHUP) == (0, "")
    code = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
    code += "from logd.cli.server import stopping_signals; print(*stopping_signals())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(int(number)) for number in (signal.SIGTERM, signal.SIGINT)]


def test_a_port_in_use(tmp_path: Path) -> None:
    """A port that is taken ends the start with a sentence that names it."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, said = refused("--data-dir", str(tmp_path / "data"), "--listen", f"127.0.0.1:{port}")
    assert code not in (0, 2)
    assert str(port) in said
    assert "Traceback" not in said


def test_other_protocols_are_named_in_the_log(tmp_path: Path) -> None:
    """A peer that speaks HTTP or TLS to the Kafka port is closed, and the log says what it spoke."""
    with Server(tmp_path / "data") as server:
        host, _, port = server.bootstrap.rpartition(":")
        with socket.create_connection((host, int(port))) as peer:
            peer.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert peer.recv(100) == b""
        context = ssl.create_default_context()
        with socket.create_connection((host, int(port))) as peer, pytest.raises((ssl.SSLError, OSError)):
            context.wrap_socket(peer, server_hostname="localhost")
        with producer(server.bootstrap) as source:
            produce(source, "still-serving", [b"x"])
        assert server.stop()[0] == 0
        said = server.log.read_text()
    assert "HTTP" in said
    assert "TLS" in said


def test_settings_from_a_file(tmp_path: Path) -> None:
    """A settings file is obeyed, and a flag beats it."""
    file = tmp_path / "logd.toml"
    file.write_text('"num.partitions" = 3\n"auto.create.topics.enable" = true\n')
    for flags, partitions in ([], 3), (["--set", "num.partitions=5"], 5):
        with Server(tmp_path / str(partitions), "--config", str(file), *flags) as server:
            with producer(server.bootstrap) as source:
                produce(source, "made", [b"x"])
            admin = AdminClient({"bootstrap.servers": server.bootstrap})
            assert len(admin.list_topics("made", timeout=PATIENCE_S).topics["made"].partitions) == partitions
