"""What is wrong with an argument is told in three lines, with what to type next, by logd and by Apache Kafka alike."""

from __future__ import annotations

from pathlib import Path

import pytest

from logd.testing import Broker
from tests.cli.conftest import Cli, Ran, run


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
