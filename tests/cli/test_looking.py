"""`why`, `top` and `bench` against real brokers."""

from __future__ import annotations

import io
import json
import os
import pickle
import pty
import signal
import subprocess
import termios
import time
from contextlib import suppress

import pytest
from confluent_kafka import Consumer as OtherConsumer
from confluent_kafka import KafkaException
from confluent_kafka import Producer as OtherProducer
from rich.console import Console

from logd.cli.bench import Times
from logd.cli.progress import amount, clock
from logd.cli.screen import picture
from logd.cli.top import Sample, compared
from logd.client import TopicPartition
from logd.client.own import GroupLag, Lagging
from logd.testing import Broker
from logd.wire.schemas.api_versions import ApiVersionsRequest
from tests.cli.conftest import COMMAND, Cli, Ran, environment, run
from tests.raw import Peer

pytestmark = pytest.mark.usefixtures("nothing_held")


def is_kafka(request: pytest.FixtureRequest) -> bool:
    return "kafka" in request.node.callspec.id


def test_why_a_group_was_rebalanced(cli: Cli, topic: str, bootstrap: str, request: pytest.FixtureRequest) -> None:
    """logd tells what happened to the group; Apache Kafka keeps no such memory, and the command says so."""
    group = f"g-{topic}"
    other = OtherConsumer({"bootstrap.servers": bootstrap, "group.id": group, "auto.offset.reset": "earliest"})
    try:
        cli("produce", topic, "--value", "a")
        other.subscribe([topic])
        assert len(other.consume(1, timeout=30)) == 1
    finally:
        other.close()
    ran = cli("why", "group", group)
    if is_kafka(request):
        assert (ran.code, "keeps no memory" in ran.err) == (1, True)
        return
    assert ran.code == 0, ran.err
    assert any(row[1] == f"group {group}" and len(row[3]) > 10 for row in ran.rows)
    shown = json.loads(cli("why", "group", group, "-o", "json").out)
    assert {"findings", "events", "forgotten"} == set(shown)
    assert len(cli("why", "group", group, "-n", "1", "--since", "@-1h").rows) >= 1


def test_why_of_what_is_not_there(cli: Cli, topic: str, request: pytest.FixtureRequest) -> None:
    """A name that is nearly right is exit code 5; a time that is none 2."""
    assert cli("why", "topic", topic, "--since", "yesterday").code == 2
    if is_kafka(request):
        return
    ran = cli("why", "topic", topic[:-1])
    assert (ran.code, f"did you mean '{topic}'" in ran.err) == (5, True)
    assert cli("why", "connection").code == 0
    assert cli("why", "connection", "192.0.2.1:1").code == 5


def test_why_a_transaction_does_not_end(logd_broker: Broker) -> None:
    """What is open and what it hides, who took over from whom, what is refused to the one that is shut out."""
    topic, name = "orders", "copier-1"
    logd_broker.create_topic(topic)
    settings = {"bootstrap.servers": logd_broker.bootstrap, "transactional.id": name, "client.id": "the-first"}

    def why(*more: str) -> Ran:
        return run(logd_broker.bootstrap, "why", "transaction", *more)

    assert why(name).code == 5
    first = OtherProducer(settings)
    first.init_transactions(20)
    first.begin_transaction()
    first.produce(topic, b"hidden")
    first.flush(20)
    kinds = {row[2]: row[3] for row in why(name).rows}
    assert f"with {topic}-0; it is aborted in" in kinds["open"]
    assert "1 records are hidden" in kinds["held"]
    assert "the-first" in kinds["began"]

    OtherProducer({**settings, "client.id": "the-second"}).init_transactions(20)
    with pytest.raises(KafkaException):
        first.commit_transaction(20)
    rows = why(name).rows
    assert [row[2] for row in rows][:3] == ["idle", "began", "taken-over"]
    (over,) = (row for row in rows if row[2] == "taken-over")
    assert over[1] == f"transaction {name}"
    assert "the-second at 127.0.0.1" in over[3]
    shown = json.loads(why(name, "-o", "json").out)
    assert shown["findings"][0]["facts"]["state"] == "Empty"
    assert any(row[1] == f"transaction {name}" for row in why().rows)


def test_why_a_transaction_timed_out(logd_broker: Broker) -> None:
    """A producer that says nothing more in a transaction is shut out, and what it asks for afterwards refused."""
    topic, name = "orders", "copier-1"
    logd_broker.create_topic(topic)
    slow = OtherProducer(
        {"bootstrap.servers": logd_broker.bootstrap, "transactional.id": name, "transaction.timeout.ms": 1000}
    )
    slow.init_transactions(20)
    slow.begin_transaction()
    slow.produce(topic, b"late")
    slow.flush(20)
    deadline = time.monotonic() + 30
    while "timed-out" not in (kinds := [row[2] for row in run(logd_broker.bootstrap, "why", "transaction", name).rows]):
        assert time.monotonic() < deadline, kinds
    with pytest.raises(KafkaException):
        slow.commit_transaction(20)
    rows = run(logd_broker.bootstrap, "why", "transaction", name).rows
    assert any(row[2] == "refused" and "EndTxn" in row[3] for row in rows), rows


def test_why_lists_the_connections_that_are_open(logd_broker: Broker) -> None:
    """Each with its address, since when, the client's id and software, and a number; found by any of these."""
    with Peer(logd_broker.bootstrap) as peer:
        peer.ask(ApiVersionsRequest("of-a-test", "7"), 4)
        host, port = peer.sock.getsockname()
        (line,) = run(logd_broker.bootstrap, "why", "connection", f"{host}:{port}").rows
        assert (line[1:3], "client 'raw' (of-a-test 7)" in line[3]) == ([f"connection {host}:{port}", "open"], True)
        number = line[3].rpartition(" ")[2]
        for called in (number, "raw", ""):
            ran = run(logd_broker.bootstrap, "why", "connection", *filter(None, [called]), "-o", "json")
            facts = [each["facts"] for each in json.loads(ran.out)["findings"]]
            assert (f"{host}:{port}", number) in [(each["peer"], each["number"]) for each in facts]


def test_a_look_at_everything(cli: Cli, topic: str) -> None:
    """`top --once` has every topic and group; JSON has both and the sums."""
    assert cli("produce", topic, "-p", "0", stdin=b"a\nb\n").code == 0
    assert cli("group", "seek", f"g-{topic}", topic, "--offset", "start", "-y").code == 0
    rows = {row[0]: row for row in cli("top", "--once", "--every", "0.1").rows}
    assert (rows[topic][1], rows[topic][4]) == ("2", "2")
    shown = json.loads(cli("top", "-o", "json", "--every", "0.1").out)
    groups = {item["group"]: item for item in shown["groups"]}
    assert (groups[f"g-{topic}"]["lag"], groups[f"g-{topic}"]["state"]) == (2, "Empty")
    assert {"cluster", "brokers", "records_s", "bytes_s", "topics", "groups"} == set(shown)


def test_rates_between_two_looks() -> None:
    """What went on, divided by the time; a topic or group that is new or was made again has no rate."""
    before = Sample(10.0, "c", 1, {"t": 1}, {"t": 0}, {"t": 100}, {"t": 1000}, {})
    after = Sample(12.0, "c", 1, {"t": 1, "new": 1}, {"t": 50, "new": 0}, {"t": 300, "new": 7}, {"t": 5000}, {})
    found = compared(before, after)
    assert [(item["topic"], item["records_s"], item["bytes_s"], item["records"]) for item in found["topics"]] == [
        ("t", 100.0, 2000.0, 250),
        ("new", 0.0, 0.0, 7),
    ]
    assert compared(after, Sample(13.0, "c", 1, {"t": 1}, {"t": 0}, {"t": 0}, {}, {}))["records_s"] == 0


@pytest.mark.parametrize(("first", "then", "rate"), [(0, 100, 50.0), (100, 300, 100.0), (None, 100, 0.0), (9, 3, 0.0)])
def test_how_fast_a_group_goes_on(first: int | None, then: int, rate: float) -> None:
    """From one committed offset to the next; a first commit is no step."""

    def seen(at_s: float, committed: int | None) -> Sample:
        part = Lagging(TopicPartition("t", 0), committed, None, 0, 900, None, None, "", "", "")
        return Sample(at_s, "c", 1, {}, {}, {}, {}, {"g": GroupLag("g", "classic", "Empty", 0, None, None, (part,))})

    assert compared(seen(10.0, first), seen(12.0, then))["groups"][0]["records_s"] == rate


class Screen:
    """`logd-cli top` on a terminal of its own."""

    def __init__(self, bootstrap: str) -> None:
        self._master, slave = pty.openpty()
        variables = environment(bootstrap) | {"TERM": "xterm", "COLUMNS": "100", "LINES": "40"}
        arguments = [*COMMAND, "top", "--every", "0.2", "-n", "1000"]
        self.process = subprocess.Popen(arguments, stdin=slave, stdout=slave, stderr=slave, env=variables)
        self.shown = b""
        os.close(slave)

    def until(self, text: str, limit_s: float = 30) -> None:
        """Read on until this was drawn anew."""
        begin, deadline = len(self.shown), time.monotonic() + limit_s
        while text.encode() not in self.shown[begin:]:
            assert time.monotonic() < deadline, self.shown[begin:]
            self.shown += os.read(self._master, 65536)

    def waits_for_enter(self) -> bool:
        """Whether keys come a line at a time, as in a shell."""
        return bool(termios.tcgetattr(self._master)[3] & termios.ICANON)

    def press(self, key: str) -> None:
        os.write(self._master, key.encode())

    def ended(self) -> int:
        """The exit code, once the terminal was given back."""
        while True:
            try:
                self.shown += os.read(self._master, 65536)
            except OSError:
                break
        os.close(self._master)
        assert b"\x1b[?1049l" in self.shown  # the screen that was there before
        assert b"Traceback" not in self.shown
        return self.process.wait(30)


def test_a_live_screen_ends_with_ctrl_c(topic: str, bootstrap: str) -> None:
    """On a terminal it draws the topics, and Ctrl-C gives the terminal back."""
    screen = Screen(bootstrap)
    screen.until(topic[:12])
    os.kill(screen.process.pid, signal.SIGINT)
    assert screen.ended() == 130


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_live_screen_ends_with_a_signal(topic: str, bootstrap: str, number: signal.Signals) -> None:
    """The terminal is given back, and the exit code says which signal it was."""
    screen = Screen(bootstrap)
    screen.until(topic[:12])
    os.kill(screen.process.pid, number)
    assert screen.ended() == 128 + number


def test_a_live_screen_ends_with_q(topic: str, bootstrap: str) -> None:
    """As other screens of the kind do; that is no failure."""
    screen = Screen(bootstrap)
    screen.until(topic[:12])
    screen.press("xq")
    assert screen.ended() == 0


def test_a_live_screen_gives_way_to_the_shell(topic: str, bootstrap: str) -> None:
    """Ctrl-Z brings back what was there before; `fg` goes on."""
    screen = Screen(bootstrap)
    screen.until(topic[:12])
    os.kill(screen.process.pid, signal.SIGTSTP)
    screen.until("\x1b[?1049l\x1b[?25h")
    assert os.waitid(os.P_PID, screen.process.pid, os.WSTOPPED | os.WNOWAIT) is not None
    assert screen.waits_for_enter()
    os.kill(screen.process.pid, signal.SIGCONT)
    screen.until("\x1b[?1049h\x1b[?25l")
    assert not screen.waits_for_enter()
    screen.press("q")
    assert screen.ended() == 0


def test_a_live_screen_outlives_its_server(logd_broker: Broker) -> None:
    """While the server is away the screen says for how long, and goes on when it is back."""
    logd_broker.create_topic("orders")
    screen = Screen(logd_broker.bootstrap)
    screen.until("orders")
    logd_broker.stop()
    screen.until("no answer for")
    logd_broker.start()
    screen.until("(q ends)")
    screen.press("q")
    assert screen.ended() == 0


def test_a_dumb_terminal_gets_one_answer(topic: str, bootstrap: str) -> None:
    """It can't draw a picture over another: nothing was shown there, for ever."""
    master, slave = pty.openpty()
    variables = environment(bootstrap) | {"TERM": "dumb"}
    process = subprocess.Popen([*COMMAND, "top", "--every", "0.1"], stdin=slave, stdout=slave, env=variables)
    os.close(slave)
    shown = b""
    with suppress(OSError):  # the end of a terminal
        while data := os.read(master, 65536):
            shown += data
    os.close(master)
    assert (process.wait(30), topic.encode() in shown, b"\x1b" in shown) == (0, True, False)


@pytest.mark.parametrize("width", [30, 40, 60, 100])
def test_a_picture_of_any_width(width: int) -> None:
    """Numbers are whole, or their column is left out; the lag of a group is always there; names are cut."""
    topic = {
        "topic": "t" * 200,
        "partitions": 1000,
        "records_s": 1e6,
        "bytes_s": 1e9,
        "records": 10**9,
        "bytes": 10**12,
    }
    group = {"group": "\x1b[2J" * 50, "state": "Empty", "members": 300, "lag": 10**6, "seconds": 12.5, "records_s": 1e6}
    fields = {"cluster": "c", "brokers": 1, "records_s": 1.0, "bytes_s": 1.0, "topics": [topic] * 50, "groups": [group]}
    console = Console(width=width, height=24, file=io.StringIO())
    with console.capture() as shown:
        console.print(picture(fields, width, 24, None))
    lines = shown.get().splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= width
    assert "1,000,000" in shown.get()
    assert "\x1b" not in shown.get()
    assert lines[2].split()[0] == "topic"
    assert "lag" in shown.get()
    assert ("partitions" in lines[2]) == (width == 100)


def test_a_small_benchmark(cli: Cli, topic: str) -> None:
    """What was sent is counted when it is read; an empty or unknown topic is told."""
    assert cli("bench", "consume", topic).code == 5
    (sent,) = cli("bench", "produce", topic, "-n", "2000", "-s", "50", "-z", "lz4").rows
    assert (sent[0], float(sent[2]) > 0, float(sent[7]) >= float(sent[4]) > 0) == ("2000", True, True)
    (read,) = cli("bench", "consume", topic).rows
    assert (read[0], float(read[3]) > 0) == ("2000", True)
    assert cli("bench", "produce", f"{topic}-new", "-n", "10", "-r", "1000").code == 5
    assert cli("bench", "produce", f"{topic}-new", "-n", "10", "-r", "1000", "--create").rows[0][0] == "10"


def test_from_end_to_end(cli: Cli, topic: str) -> None:
    """Each record is sent and read back, among the records of others; one at a time, or at a rate."""
    cli("produce", topic, stdin=b"of somebody else\n")
    (row,) = cli("bench", "e2e", topic, "-n", "20").rows
    assert (row[0], float(row[5]) >= float(row[2]) > 0) == ("20", True)
    (row,) = cli("bench", "e2e", topic, "-n", "20", "-r", "2000", "-s", "16", "--acks", "1").rows
    assert row[0] == "20"
    (there,) = cli("bench", "consume", topic).rows
    assert there[0] == "41"
    assert cli("bench", "e2e", topic, "-s", "15").code == 2
    assert cli("bench", "e2e", f"{topic}-way").code == 5
    assert cli("bench", "e2e", f"{topic}-way", "-n", "1", "--create").rows[0][0] == "1"


def test_numbers_for_people() -> None:
    """Amounts, times and percentiles."""
    assert [amount(count, "B") for count in (999, 1500, 2_500_000, 3.2e9, 4e12)] == [
        "999 B",
        "1.5 kB",
        "2.5 MB",
        "3.2 GB",
        "4.0 TB",
    ]
    assert (amount(1234, "records"), clock(59), clock(3661)) == ("1,234 records", "0:59", "1:01:01")
    times = Times()
    assert times.spread() == [0, 0, 0, 0]
    for time_ms in (1, 2, 3, 4):
        times.add(time_ms)
    assert [times.percentile(part) for part in (0.0, 0.5, 1.0)] == pytest.approx([1, 3, 4], rel=0.005)


def test_times_of_very_many_records_take_little_memory() -> None:
    """What is kept depends on how far apart the times are, and not on how many there are."""
    few, many = Times(), Times()
    for number in range(200_000):
        many.add(0.5 + number % 1000 / 10)
        if number < 1000:
            few.add(0.5 + number / 10)
    assert many.count == 200_000
    assert len(pickle.dumps(many)) < len(pickle.dumps(few)) * 1.5 < 20_000
    assert many.spread() == few.spread()
