"""The loads that transactions make: many small ones, and what long ones cost against producing without.

Owns their sizes and the arithmetic, as :mod:`loads` does for records.
"""

from __future__ import annotations

import itertools
import uuid

from tools.benchmarks import clients
from tools.benchmarks.loads import PARTITIONS, Load, Metrics, Sizes
from tools.benchmarks.procfs import Stopwatch
from tools.benchmarks.systems import System

PRODUCERS = 4
RECORDS = 10
RECORD_BYTES = 1024
IDEMPOTENT = ("acks=all", "batch.size=131072", "enable.idempotence=true")
TRANSACTION_MS = 100


class Transactions(Load):
    """4 producers of Kafka's Java client in one process; each transaction is 10 records of 1 KB to 4 partitions."""

    name = "transactions"

    def run(self, system: System) -> Metrics:
        def action(topic: str) -> Metrics:
            watch, each = Stopwatch(system.pid), self.sizes.transactions
            found = clients.transactions(
                system.bootstrap,
                topic,
                producers=PRODUCERS,
                warm_up=each // 2,
                transactions=each,
                records=RECORDS,
                size=RECORD_BYTES,
            )
            in_all = PRODUCERS * (each + each // 2)
            server_us = watch.read().server_s / in_all * 1e6
            return {"server_cpu_us_per_transaction": server_us, **found}

        return self.with_topic(system, PARTITIONS, action)


class TransactionCost(Load):
    """ProducerPerformance with transactions of 100 ms and with idempotence alone; `kept` is their quotient."""

    name = "transaction-cost"

    def __init__(self, sizes: Sizes) -> None:
        super().__init__(sizes)
        self._turns = itertools.count()

    def run(self, system: System) -> Metrics:
        def rate(transactional: bool) -> float:
            def action(topic: str) -> Metrics:
                result = clients.produce(
                    system.bootstrap,
                    topic,
                    records=self.sizes.produce_records,
                    size=RECORD_BYTES,
                    properties=IDEMPOTENT,
                    transactional_id=f"bench-{uuid.uuid4().hex}" if transactional else None,
                    transaction_ms=TRANSACTION_MS,
                )
                return {"rate": result.records_per_s}

            return self.with_topic(system, PARTITIONS, action)["rate"]

        first = bool(next(self._turns) % 2)
        rates = {first: rate(first)}
        rates[not first] = rate(not first)
        return {"rate": rates[True], "idempotent_rate": rates[False], "kept": rates[True] / rates[False]}
