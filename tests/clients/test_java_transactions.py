"""Java's transactional producer with consumers of both protocols, by every transaction.version; kafka-transactions.

Skipped, with the reason, where a JDK or the jars are missing (``tools/apache_kafka.py fetch`` gets the jars).
"""

from __future__ import annotations

from pathlib import Path

import pytest

from logd.testing import Broker
from tests.clients.confluent import PATIENCE_S
from tests.clients.java import NEEDS_JAVA, NEEDS_JAVAC, run_java
from tests.clients.test_transactions import transactional, values

pytestmark = [*NEEDS_JAVA, *NEEDS_JAVAC]

STORIES = str(Path(__file__).with_name("TransactionStories.java"))
TOLD = ["abortAndCommit", "fencing", "timeout", "readProcessWrite classic", "readProcessWrite consumer", "staleMember"]


@pytest.mark.parametrize("version", [2, 1, 0])
def test_stories(version: int) -> None:
    """Aborting, fencing, timing out, reading and writing with offsets, and members that left: as Kafka has it."""
    with Broker() as broker:
        at = ["--bootstrap-server", broker.bootstrap]
        if version < 2:
            run_java("FeatureCommand", *at, "downgrade", "--feature", f"transaction.version={version}")
        assert run_java(STORIES, broker.bootstrap, "stories").splitlines() == TOLD


def test_tool_lists_no_healthy_transaction_as_hanging() -> None:
    """kafka-transactions: a transaction that is open and well is not listed as hanging; the filters of list."""
    with Broker() as broker:
        at = ["--bootstrap-server", broker.bootstrap]
        broker.create_topic("hung")
        with transactional(broker.bootstrap, "hanger") as producer:
            producer.begin_transaction()
            producer.produce("hung", b"v")
            assert producer.flush(PATIENCE_S) == 0
            found = run_java(
                "TransactionsCommand", *at, "find-hanging", "--broker-id", "0", "--max-transaction-timeout", "0"
            )
            assert "hung" not in found
            listed = run_java("TransactionsCommand", *at, "list", "--duration-filter", "3600000")
            assert "hanger" not in listed
            listed = run_java("TransactionsCommand", *at, "list", "--transactional-id-pattern", "h.*r")
            assert "hanger" in listed
            producer.commit_transaction(PATIENCE_S)
        assert values(broker.bootstrap, "hung", 1) == [b"v"]
