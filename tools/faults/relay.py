"""A process that copies one topic into another exactly once, with confluent-kafka and nothing of logd's.

:mod:`tools.faults.exactly_once` starts it, kills it and reads what it tells: one JSON list a line, written before the
step that it names is taken. It is ``python -m tools.faults.relay BOOTSTRAP NAME PARTITIONS`` (a JSON list of numbers).
``["from", {partition: offset}]``: it goes on there. ``["begin", transaction, [[partition, offset, value], ...]]``, then
``offsets``, ``committing`` and ``committed`` or ``aborted``, each with the transaction. ``["failed", why]``: it ends.
It commits once a line has come in answer to ``committing``, so that whoever reads its records can tell what is early.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition

SOURCE, TARGET, GROUP = "input", "output", "relays"
BATCH_RECORDS = 200
PATIENCE_S = 60.0
QUICK = {"reconnect.backoff.ms": 5, "reconnect.backoff.max.ms": 50, "retry.backoff.ms": 10}
# librdkafka 2.16 that bootstraps anew while it keeps the old coordinator in mind sends no TxnOffsetCommit any more
# (its issue 5511), whatever the timeout of the call (its issue 5456).
STAYS = {"metadata.recovery.strategy": "none"}


def tell(*what: Any) -> None:
    """Write one line in one piece, past all buffers."""
    os.write(1, json.dumps(what).encode() + b"\n")


def patiently(step: Callable[[], Any]) -> Any:
    """Do a step until it is done. What cannot be retried, and what takes over PATIENCE_S, raises KafkaException."""
    end = time.monotonic() + PATIENCE_S
    while True:
        try:
            return step()
        except KafkaException as failed:
            error = failed.args[0]
            passing = error.retriable() or error.name() in ("_TRANSPORT", "_TIMED_OUT", "_WAIT_COORD")
            if error.fatal() or error.txn_requires_abort() or not passing or time.monotonic() > end:
                raise


class Relay:
    """A consumer with fixed partitions and a transactional producer; its offsets are part of its transactions."""

    def __init__(self, bootstrap: str, name: str, partitions: list[int]) -> None:
        where = {"bootstrap.servers": bootstrap, **QUICK, **STAYS}
        reading = {"group.id": GROUP, "enable.auto.commit": False, "auto.offset.reset": "error"}
        self._partitions = partitions
        self._life = f"{name}.{os.getpid()}"
        self._next: dict[int, int] = {}
        self._number = 0
        self._producer: Any = Producer({**where, "transactional.id": name, "linger.ms": 1, "debug": "eos"})
        patiently(lambda: self._producer.init_transactions(PATIENCE_S))
        self._consumer: Any = Consumer({**where, **reading, "isolation.level": "read_committed", "log_level": 0})
        self._go_on()

    def _go_on(self) -> None:
        """Read on from the committed offsets."""
        places = [TopicPartition(SOURCE, one) for one in self._partitions]
        found = patiently(lambda: self._consumer.committed(places, PATIENCE_S))
        for one in found:
            if one.error is not None:
                raise KafkaException(one.error)
        self._next = {one.partition: max(one.offset, 0) for one in found}
        tell("from", self._next)
        self._consumer.assign([TopicPartition(SOURCE, *one) for one in self._next.items()])

    def step(self) -> None:
        """One transaction, if there is anything to read."""
        taken: list[tuple[int, int, str]] = []
        for message in self._consumer.consume(BATCH_RECORDS, 0.1):
            if message.error() is not None or message.offset() < self._next[message.partition()]:
                continue
            if message.offset() > self._next[message.partition()]:
                raise RuntimeError(f"read {message.offset()}, not {self._next[message.partition()]}")
            taken.append((message.partition(), message.offset(), message.value().decode()))
            self._next[message.partition()] += 1
        if taken:
            self._number += 1
            self._write(f"{self._life}.{self._number}", taken)

    def _write(self, transaction: str, taken: list[tuple[int, int, str]]) -> None:
        producer = self._producer
        tell("begin", transaction, taken)
        try:
            producer.begin_transaction()
            for partition, _, value in taken:
                producer.produce(TARGET, f"{value}@{transaction}".encode(), partition=partition)
            if self._number % 2:  # the others are on their way when the commit is asked for
                patiently(lambda: producer.flush(PATIENCE_S))
            tell("offsets", transaction)
            places = [TopicPartition(SOURCE, *one) for one in self._next.items()]
            group = self._consumer.consumer_group_metadata()
            patiently(lambda: producer.send_offsets_to_transaction(places, group, PATIENCE_S))
            tell("committing", transaction)
            sys.stdin.readline()
            patiently(lambda: producer.commit_transaction(PATIENCE_S))
            tell("committed", transaction)
        except KafkaException as failed:
            if not failed.args[0].txn_requires_abort():
                raise
            patiently(lambda: producer.abort_transaction(PATIENCE_S))
            tell("aborted", transaction)
            self._go_on()


def main() -> None:
    """Copy until killed."""
    bootstrap, name, partitions = sys.argv[1:]
    try:
        relay = Relay(bootstrap, name, json.loads(partitions))
        while True:
            relay.step()
    except (KafkaException, RuntimeError) as failed:
        tell("failed", str(failed))
        sys.exit(1)


if __name__ == "__main__":
    main()
