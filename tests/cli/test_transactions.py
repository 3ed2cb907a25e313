"""`transaction` against real brokers."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from confluent_kafka import Producer as OtherProducer

from logd.client import Admin, TopicPartition
from logd.client.transaction_admin import OpenTransaction, Transaction, _is_known
from tests.cli.conftest import Cli, eventually


@pytest.fixture
def ongoing(cli: Cli, topic: str, bootstrap: str) -> Iterator[tuple[str, OtherProducer]]:
    """A transactional id whose transaction has one record in partition 1 of the topic."""
    name = f"x-{topic}"
    producer = OtherProducer({"bootstrap.servers": bootstrap, "transactional.id": name})
    producer.init_transactions(30)
    producer.begin_transaction()
    producer.produce(topic, b"a", partition=1)
    assert producer.flush(30) == 0
    yield name, producer
    producer.abort_transaction(30)


def test_a_transaction_that_goes_on(cli: Cli, topic: str, ongoing: tuple[str, OtherProducer]) -> None:
    """Listed, filtered by state, described; it does not hang, so that nothing is aborted."""
    name, _ = ongoing
    rows = {row[0]: row for row in cli("transaction", "list", "--state", "Ongoing").rows}
    assert rows[name][2] == "Ongoing"
    assert name not in cli("transaction", "list", "--state", "Empty", "-o", "name").out.splitlines()
    assert cli("transaction", "describe", name).rows == [[name, "Ongoing", topic, "1"]]
    shown = json.loads(cli("transaction", "describe", name, "-o", "json").out)
    assert (shown["state"], shown["partitions"], shown["seconds"] < 600) == ("Ongoing", [f"{topic}/1"], True)
    ran = cli("transaction", "abort-hanging", topic, "--older", "0", "-y")
    assert (ran.code, ran.out, "no transaction hangs" in ran.err) == (0, "", True), ran.err
    missing = cli("transaction", "describe", name[:-1])
    assert (missing.code, f"did you mean '{name}'" in missing.err) == (5, True)


@pytest.mark.parametrize("bootstrap", ["logd"], indirect=True)
def test_why_readers_of_committed_records_wait(cli: Cli, topic: str, ongoing: tuple[str, OtherProducer]) -> None:
    """The topic's finding names the transaction that holds a partition, where, and how much it hides."""
    cli("produce", topic, "-p", "1", stdin=b"b\nc\n")
    (row,) = [row for row in cli("why", "topic", topic).rows if row[2] == "held"]
    assert (
        f"{topic}-1: readers of committed records wait at offset 0 for the open transaction of {ongoing[0]!r}" in row[3]
    )
    assert "3 records are hidden" in row[3]


@pytest.mark.trio
async def test_a_partition_lets_a_transaction_go(bootstrap: str) -> None:
    """What a partition holds open is found there, and is gone when its abort was written."""
    topic = "held"
    async with Admin(bootstrap) as admin:
        from logd.client import NewTopic

        if topic not in await admin.topics.list():
            await admin.topics.create_one(NewTopic(topic, partitions=1))
        producer = OtherProducer({"bootstrap.servers": bootstrap, "transactional.id": "holder"})
        producer.init_transactions(30)
        producer.begin_transaction()
        producer.produce(topic, b"a", partition=0)
        assert producer.flush(30) == 0
        at = TopicPartition(topic, 0)
        (held,) = await admin.transactions.open_in([at])
        assert await admin.transactions.hanging([at]) == []
        await admin.transactions.abort(held)
        assert await admin.transactions.open_in([at]) == []
        producer.abort_transaction(30)


def test_what_counts_as_hanging() -> None:
    """No coordinator knows the producer, or knows a later one, or another transaction of it, or it has ended."""
    at = TopicPartition("t", 0)
    held = OpenTransaction(at, 7, 3, 0, 10, 0)

    def known(epoch: int, state: str, *partitions: TopicPartition) -> bool:
        return _is_known(held, Transaction("x", 7, epoch, state, 0, 0, 0, partitions))

    assert known(3, "Ongoing", at)
    assert known(4, "PrepareAbort", at)
    assert not known(3, "Ongoing", TopicPartition("t", 1))
    assert not known(3, "CompleteCommit")
    assert not known(2, "Ongoing", at)
    assert not _is_known(held, None)


def test_wrong_names(cli: Cli, topic: str) -> None:
    """Partitions that are none, topics that are not there."""
    assert cli("transaction", "abort-hanging", f"{topic}/x").code == 2
    assert cli("transaction", "abort-hanging", f"{topic}/7").code == 5
    assert cli("transaction", "abort-hanging", topic[:-1]).code == 5
    assert eventually(lambda: cli("transaction", "abort-hanging", "--dry-run").code == 0)
