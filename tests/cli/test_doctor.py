"""`doctor`: each thing that can be wrong with a connection, by a fake peer, is told by its name."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest

from logd.wire.frames import decode_request_head, response_parts
from logd.wire.message import Message
from logd.wire.schemas import API_KEYS, APIS
from logd.wire.schemas.api_versions import ApiVersion, ApiVersionsResponse
from logd.wire.schemas.find_coordinator import FindCoordinatorResponse
from logd.wire.schemas.metadata import (
    MetadataResponse,
    MetadataResponseBroker,
    MetadataResponsePartition,
    MetadataResponseTopic,
)
from logd.wire.schemas.sasl_handshake import SaslHandshakeResponse
from tests.cli.conftest import Cli, Ran, run

Behaviour = Callable[[socket.socket], None]
Answers = dict[int, Message | None]
"""By the key of the API; None hangs up."""

METADATA, SASL_HANDSHAKE, API_VERSIONS, FIND_COORDINATOR = 3, 17, 18, 10
TLS_ALERT = b"\x15\x03\x03\x00\x02\x02\x28"


@contextmanager
def peer(behave: Behaviour) -> Iterator[int]:
    """A server that does so with every connection; its port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=attend, args=(connection,), daemon=True).start()

        def attend(connection: socket.socket) -> None:
            with connection, suppress(OSError):
                connection.settimeout(10)
                behave(connection)

        threading.Thread(target=serve, daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


def kafka(answers: Answers) -> Behaviour:
    """A server that answers requests with these messages."""

    def behave(connection: socket.socket) -> None:
        while len(size := connection.recv(4, socket.MSG_WAITALL)) == 4:
            head = decode_request_head(connection.recv(int.from_bytes(size, "big"), socket.MSG_WAITALL))
            answer = answers.get(head.api_key)
            if answer is None:
                return
            parts = response_parts(head.api_key, head.api_version, head.correlation_id, answer)
            connection.sendall(b"".join(parts))

    return behave


def versions(**only: tuple[int, int]) -> ApiVersionsResponse:
    """All versions of all APIs, but for those that are named."""
    named = {APIS[key].name: key for key in API_KEYS}
    offered = {key: APIS[key].versions for key in API_KEYS if key < 100}
    offered |= {named[name]: pair for name, pair in only.items()}
    return ApiVersionsResponse(api_keys=[ApiVersion(key, *pair) for key, pair in offered.items()])


def metadata(host: str, port: int, **more: object) -> MetadataResponse:
    """A cluster of one broker that advertises itself so."""
    broker = MetadataResponseBroker(node_id=1, host=host, port=port)
    fields: dict[str, object] = {"brokers": [broker], "cluster_id": "fake", "controller_id": 1, **more}
    return MetadataResponse(**fields)  # type: ignore[arg-type]


def examined(port: int, *arguments: str) -> Ran:
    """What the doctor says of a port."""
    return run(f"127.0.0.1:{port}", "doctor", "--timeout", "0.5", *arguments)


def failed(ran: Ran) -> list[str]:
    """The checks that failed."""
    return [row[0] for row in ran.rows if row[2] == "failed"]


def answer_once(reply: bytes) -> Behaviour:
    """Reads something, answers with this, hangs up."""

    def behave(connection: socket.socket) -> None:
        connection.recv(4096)
        connection.sendall(reply)

    return behave


def stay_silent(connection: socket.socket) -> None:
    """Reads what comes and says nothing."""
    while connection.recv(4096):
        pass


def tls_only(connection: socket.socket) -> None:
    """Hangs up on anything but a TLS greeting, as a TLS listener of Kafka does."""
    if connection.recv(4096).startswith(b"\x16\x03"):
        connection.sendall(TLS_ALERT)


def http_only(connection: socket.socket) -> None:
    """Waits for a whole line, as a web server does."""
    data = b""
    while b"\r\n" not in data:
        data += connection.recv(4096) or b"\r\n"
    connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")


@pytest.mark.parametrize(
    ("behave", "words"),
    [
        (answer_once(b""), "closes the connection"),
        (answer_once(TLS_ALERT), "the port speaks TLS"),
        (tls_only, "the port speaks TLS"),
        (answer_once(b"HTTP/1.1 400 Bad Request\r\n\r\n"), "an HTTP server"),
        (http_only, "an HTTP server"),
        (answer_once(b"SSH-2.0-OpenSSH_9.2p1\r\n"), "begins with 'SSH-2.0-OpenSSH_9.2p1'"),
        (answer_once(b"\x00\x00\x00\x09notkafka!"), "can't be read"),
        (stay_silent, "no answer within 0.5 s"),
    ],
)
def test_a_peer_that_is_no_plain_kafka(behave: Behaviour, words: str) -> None:
    """TLS, HTTP, another protocol, silence, a hang-up: exit code 3, with what is there instead."""
    with peer(behave) as port:
        ran = examined(port)
    assert (ran.code, failed(ran), words in ran.err) == (3, ["peer"], True), ran
    assert [row[0] for row in ran.rows] == ["name", "route", "peer"]


@pytest.mark.parametrize(
    ("behave", "words"),
    [
        (tls_only, "the port speaks TLS"),
        (http_only, "an HTTP server answers there"),
        (answer_once(b""), "closed the connection when asked"),
    ],
)
@pytest.mark.parametrize("command", ["topic list", "group list"])
def test_every_command_says_what_is_there_instead(command: str, behave: Behaviour, words: str) -> None:
    """A port of another protocol is named in the failure of any command, and not only by the doctor."""
    with peer(behave) as port:
        ran = run(f"127.0.0.1:{port}", *command.split(), "--timeout", "0.5")
    assert (ran.code, ran.err.splitlines()[0]) == (3, f"error: cannot connect to 127.0.0.1:{port}")
    assert words in ran.err


def test_a_name_and_a_port_that_are_wrong() -> None:
    """A name that nobody knows, a port where nothing listens, an address that is none."""
    ran = run("nowhere.invalid:9092", "doctor")
    assert (ran.code, failed(ran)) == (3, ["name"])
    assert "try:   check the spelling" in ran.err
    ran = examined(1)
    assert (ran.code, failed(ran), "nothing listens on port 1" in ran.err) == (3, ["route"], True)
    assert run("host:port", "doctor").code == 2


def test_a_server_of_another_age() -> None:
    """Versions that do not meet are told with both ranges."""
    with peer(kafka({API_VERSIONS: versions(Fetch=(0, 3))})) as port:
        ran = examined(port)
    assert (ran.code, failed(ran)) == (1, ["version"])
    assert "Fetch: the server offers versions 0-3, this program 4-" in ran.err


def test_a_listener_that_asks_for_a_login() -> None:
    """It hangs up on metadata and tells its mechanisms; one that just hangs up is another thing."""
    handshake = SaslHandshakeResponse(error_code=33, mechanisms=["PLAIN", "SCRAM-SHA-256"])
    with peer(kafka({API_VERSIONS: versions(), METADATA: None, SASL_HANDSHAKE: handshake})) as port:
        ran = examined(port)
        other = run(f"127.0.0.1:{port}", "--timeout", "1", "group", "list")
    assert (ran.code, failed(ran), "asks for a login (PLAIN, SCRAM-SHA-256)" in ran.err) == (4, ["login"], True)
    assert (other.code, "try:   logd-cli doctor says whether it wants a login" in other.err) == (3, True), other.err
    with peer(kafka({API_VERSIONS: versions(), METADATA: None})) as port:
        ran = examined(port)
    assert (ran.code, failed(ran)) == (3, ["peer"])


@pytest.mark.parametrize(
    ("host", "port", "words"),
    [
        ("kafka-1.invalid", 9092, "the name 'kafka-1.invalid' is not known"),
        ("127.0.0.1", 1, "nothing listens on port 1"),
    ],
)
def test_an_advertised_address_that_cannot_be_reached(host: str, port: int, words: str) -> None:
    """The classic: the first connection works, the one that clients are sent on to does not."""
    answers: Answers = {API_VERSIONS: versions(), METADATA: metadata(host, port)}
    with peer(kafka(answers)) as bootstrap:
        ran = examined(bootstrap)
    assert (ran.code, failed(ran)) == (3, ["listener"])
    assert f"clients are sent on to {host}:{port}, but" in ran.err
    assert words in ran.err
    assert "set advertised.listeners of broker 1" in ran.err


def test_an_advertised_address_of_another_cluster() -> None:
    """Something answers there, but it is not the same cluster."""
    other: Answers = {API_VERSIONS: versions(), METADATA: metadata("127.0.0.1", 1, cluster_id="other")}
    answers: Answers = {API_VERSIONS: versions()}
    with peer(kafka(other)) as there, peer(kafka(answers)) as port:
        answers[METADATA] = metadata("127.0.0.1", there)
        ran = examined(port)
    assert (failed(ran), "of another cluster (other)" in ran.err) == (["listener"], True)


def test_what_is_wrong_inside() -> None:
    """Leaders that are missing, rights that are missing, topics and coordinators that are not there."""
    lost = MetadataResponsePartition(partition_index=0, leader_id=-1, leader_epoch=0)
    led = MetadataResponsePartition(partition_index=0, leader_id=1, leader_epoch=0)
    topics = [
        MetadataResponseTopic(name="lost", partitions=[lost], topic_authorized_operations=0xFFF),
        MetadataResponseTopic(name="hidden", error_code=29),
        MetadataResponseTopic(name="read-only", partitions=[led], topic_authorized_operations=1 << 3),
    ]
    answers: Answers = {API_VERSIONS: versions(), FIND_COORDINATOR: FindCoordinatorResponse(error_code=15)}
    with peer(kafka(answers)) as there:
        answers[METADATA] = metadata("127.0.0.1", there, topics=topics)
        assert failed(examined(there)) == ["cluster"]
        answers[METADATA] = metadata("127.0.0.1", there, topics=topics[1:])
        assert (examined(there).code, failed(examined(there))) == (0, [])
        ran = examined(there, "-t", "read-only")
        assert (ran.code, failed(ran), "WRITE is not allowed" in ran.err) == (4, ["rights"], True)
        assert failed(examined(there, "-t", "hidden")) == ["rights"]
        ran = examined(there, "-t", "read-onyl")
        assert (ran.code, failed(ran), "did you mean 'read-only'" in ran.err) == (5, ["topic"], True)
        assert failed(examined(there, "-g", "g")) == ["group"]
        answers[FIND_COORDINATOR] = FindCoordinatorResponse(error_code=30)
        assert (examined(there, "-g", "g").code, failed(examined(there, "-g", "g"))) == (4, ["rights"])


def test_a_server_that_is_well(cli: Cli, topic: str) -> None:
    """Every check is ok, topic and group included."""
    ran = cli("doctor", "--topic", topic, "--group", "g")
    assert (ran.code, {row[2] for row in ran.rows}) == (0, {"ok"}), ran
    steps = ["name", "route", "peer", "version", "login", "listener", "cluster", "rights", "topic", "group"]
    assert [row[0] for row in ran.rows] == steps
