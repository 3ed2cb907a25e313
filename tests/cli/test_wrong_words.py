"""What is wrong with an argument is told in three lines, with what to type next, by logd and by Apache Kafka alike."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from logd.cli.main import guarded
from logd.cli.records import compile_format
from logd.testing import Broker
from tests.cli.conftest import COMMAND, Cli, Ran, environment, run
from tests.kafka_node import kafka_bootstrap

NO_RECORD: Any = None


def three_lines(ran: Ran) -> dict[str, str]:
    """The lines of an error by their labels, after the notes."""
    lines = dict(line.split(": ", 1) for line in ran.err.splitlines()[-3:])
    assert list(lines) == ["error", "why", "try"], ran
    return {label: text.strip() for label, text in lines.items()}


@pytest.mark.parametrize(
    ("arguments", "code", "remedy"),
    [
        ("topic create TOPIC", 6, "logd-cli topic describe TOPIC; --if-not-exists makes it no error"),
        ("topic create x -c retention.mss=5", 1, "did you mean 'retention.ms'"),
        ("topic create x -c retention.ms=soon", 1, "logd-cli config get topic NAME --doc"),
        ("topic create x/y", 1, "use letters, digits, '.', '_' and '-'"),
        ("topic create x -r 7", 1, "logd-cli cluster info"),
        ("topic trim TOPIC --offset soon -y", 2, "--offset @-1h"),
        ("group reset g TOPIC/x --offset end -y", 2, "as in TOPIC/0"),
        ("transaction abort-hanging TOPIC/x", 2, "as in TOPIC/0"),
        ("config unset topic TOPIC retention.mss", 5, "logd-cli config get topic TOPIC"),
        ("topic alter TOPIC --unset retention.mss", 5, "logd-cli config get topic TOPIC"),
        ("why group g --since soon", 2, "--since @-1h"),
        ("log verify /nowhere/at-all", 5, "ls /nowhere"),
        ("log dump /nowhere/at-all", 5, "ls /nowhere"),
        ("backup verify /nowhere/at-all", 5, "give a file"),
        ("backup restore /etc/hostname", 1, "give a file that `logd-cli backup create` made"),
    ],
)
def test_every_error_says_what_to_do(cli: Cli, topic: str, arguments: str, code: int, remedy: str) -> None:
    """Three lines, the exit code of its kind, and a remedy that fits."""
    ran = cli(*arguments.replace("TOPIC", topic).split())
    assert (ran.code, ran.out) == (code, ""), ran
    assert remedy.replace("TOPIC", topic) in three_lines(ran)["try"]


@pytest.mark.parametrize("job", ["retention", "compaction"])
def test_jobs_know_the_nearest_topic(logd_broker: Broker, job: str, tmp_path: Path) -> None:
    """A topic that is not there is exit code 5, with the names that are near."""
    logd_broker.create_topic("orders")
    ran = run(logd_broker.bootstrap, job, "run", "--topic", "oders")
    assert (ran.code, "did you mean 'orders'?" in three_lines(ran)["why"]) == (5, True)


@pytest.mark.parametrize(
    "arguments", ["retention run", "compaction run --dry-run", "why topic", "why connection", "why group g"]
)
def test_what_only_logd_can_do(arguments: str) -> None:
    """Apache Kafka keeps no memory and takes no orders of this kind: that is said, with what to do instead."""
    ran = run(kafka_bootstrap(), *arguments.split())
    lines = three_lines(ran)
    assert (ran.code, "logd" in lines["why"], "Request" in ran.err) == (1, True, False), ran


def test_a_group_that_is_not_there_has_settings_all_the_same(cli: Cli) -> None:
    """Its settings can be looked at and set before it exists, and that it does not is told."""
    ran = cli("config", "get", "group", "nobody", "consumer.session.timeout.ms", "--value")
    assert (ran.code, ran.out.strip().isdigit()) == (0, True)
    assert ran.err == "group 'nobody' does not exist now; its settings hold when it does\n"


def test_a_transaction_that_has_ended_is_one_line(cli: Cli, topic: str, bootstrap: str) -> None:
    """Its id and its state, and no partition."""
    from confluent_kafka import Producer

    producer = Producer({"bootstrap.servers": bootstrap, "transactional.id": f"ended-{topic}"})
    producer.init_transactions(30)
    producer.begin_transaction()
    producer.produce(topic, b"a")
    producer.commit_transaction(30)
    row = cli("transaction", "describe", f"ended-{topic}").rows[0]
    assert (row[0], row[1] in ("PrepareCommit", "CompleteCommit")) == (f"ended-{topic}", True)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ("topic create x -p 99999999999", 2),
        ("topic create x -r 99999", 2),
        ("topic alter TOPIC -p 99999999999", 2),
        ("group list --timeout nan", 2),
        ("group list --timeout inf", 2),
        ("group list --timeout 1e300", 2),
        ("group lag --max-seconds nan", 2),
        ("consume TOPIC -e --offset @99999999999999999999", 2),
        ("consume \udcff", 2),
        ("group describe \udcff", 2),
        ("produce TOPIC -p 7 --value x", 5),
        ("topic describe /", 5),
    ],
)
def test_what_fits_into_no_request(cli: Cli, topic: str, arguments: str, code: int) -> None:
    """Numbers that are too large, none at all, and names that are no text are told, and never a traceback."""
    ran = cli(*arguments.replace("TOPIC", topic).split())
    three_lines(ran)
    assert (ran.code, ran.out) == (code, ""), ran


def test_bytes_on_the_command_line(cli: Cli, topic: str) -> None:
    """Key, value and header of a record may be any bytes, as a shell passes them on."""
    assert cli("produce", topic, "--value", "v\udcff", "-k", "k\udcfe", "-H", "h=\udcfd").code == 0
    assert cli("consume", topic, "-e").rows[0][4:] == ["k\\xfe", "v\\xff", "h=\\xfd"]


def test_any_bytes_are_looked_for_and_written(cli: Cli, topic: str) -> None:
    """A pattern and a format may hold bytes that are no text."""
    assert cli("produce", topic, "-p", "0", stdin=b"a\xff\nb\n").code == 0
    ran = cli("consume", topic, "-e", "-g", "\udcff", "-o", "tsv")
    assert (ran.code, [row[5] for row in ran.rows]) == (0, ["a\\xff"]), ran.err
    assert cli("consume", topic, "-e", "--offset", "1", "-f", "%v\\n", "-p", "0").out == "b\n"
    assert compile_format("\udcfe%%\udcff")(NO_RECORD) == b"\xfe%\xff"


@pytest.mark.parametrize("timeout", ["1e9", "3e6", "2147484"])
def test_a_very_long_time(cli: Cli, topic: str, timeout: str) -> None:
    """What fits into no request is as long as fits."""
    assert cli("topic", "create", f"{topic}-a", "--timeout", timeout).code == 0
    assert cli("produce", topic, "--value", "x", "--timeout", timeout).code == 0
    assert cli("consume", topic, "-e", "--timeout", timeout).code == 0


@pytest.mark.parametrize(
    "arguments",
    ["group seek NAME", "group reset NAME --shift x", "group seek NAME --offset end", "config get topic NAME x"],
)
def test_what_to_type_is_safe_to_type(logd_broker: Broker, arguments: str) -> None:
    """A name may be anything; in what is copied into a shell it is one word."""
    name = "a b; touch $HOME"
    words = [name if word == "NAME" else word for word in arguments.split()]
    shown = three_lines(run(logd_broker.bootstrap, *words))["try"]
    assert name not in shown or f"'{name}'" in shown


def test_the_line_that_is_wrong_is_named(cli: Cli, topic: str) -> None:
    """A record for a partition that is not there is told by its line; those before it are sent."""
    lines = b'{"value": "a", "partition": 1}\n{"value": "b", "partition": 9}\n'
    ran = cli("produce", topic, "--from", "jsonl", "--keep-partitions", stdin=lines)
    assert "1 record sent" in ran.err
    assert three_lines(ran)["error"] == "line 2 of the input can't be sent"
    assert "has no partition 9" in ran.err


@pytest.mark.parametrize(("closed", "code"), [("0", 0), ("1", 1), ("2", 0)])
def test_streams_that_are_closed(logd_broker: Broker, closed: str, code: int) -> None:
    """Without stdin nothing is read, without stdout nothing can be shown, without stderr nothing is told."""
    logd_broker.create_topic("orders")
    command = f'"$@" {closed}{"<" if closed == "0" else ">"}&-'
    words = [*COMMAND, *(("produce", "orders") if closed == "0" else ("topic", "list"))]
    pipe = subprocess.PIPE
    done = subprocess.run(
        ["sh", "-c", command, "sh", *words],
        env=environment(logd_broker.bootstrap),
        stdout=pipe,
        stderr=pipe,
        check=False,
    )
    assert (done.returncode, b"Traceback" in done.stderr) == (code, False), done
    assert (b"stdout is closed" in done.stderr) == (closed == "1")


def test_a_mistake_of_ours_is_three_lines(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """What nobody expected says its name, and how to see where it came from."""

    def fail() -> None:
        raise KeyError("x")

    monkeypatch.delenv("LOGD_TRACEBACK", raising=False)
    assert guarded(fail) == 1
    error, why, remedy = capsys.readouterr().err.splitlines()
    assert (error, why) == ("error: logd-cli has made a mistake", "why:   KeyError: 'x'")
    assert "LOGD_TRACEBACK=1" in remedy
    monkeypatch.setenv("LOGD_TRACEBACK", "1")
    with pytest.raises(KeyError):
        guarded(fail)
