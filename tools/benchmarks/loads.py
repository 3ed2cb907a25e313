"""The loads: each is one thing a foreign client does to a server, and the figures that come of it.

Owns the sizes, the topics and the arithmetic. Called by the runner: `prepare` once a server, `run` once a round (also
to warm up), `clean` once a server. A run returns plain numbers by metric name; `rate` among them says when a JVM is
warm. Never compares servers.
"""

from __future__ import annotations

import itertools
import statistics
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from tools.benchmarks import clients, confluent, generator
from tools.benchmarks.procfs import Stopwatch
from tools.benchmarks.systems import System

GB = 1_000_000_000
Metrics = dict[str, float]
BIG_BATCHES = ("acks=1", "batch.size=131072")
PARTITIONS = 4


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much each load does; the quick ones prove that the bench works and measure little."""

    produce_records: int = 1_000_000
    fixed_rate_s: float = 30.0  # a JVM client compiles itself in the first second, which p99 must not be about
    raw_s: float = 4.0
    consume_bytes: int = 1_500_000_000
    end_to_end_records: int = 5_000
    end_to_end_warm_up: int = 3_000
    flush_records: int = 200_000  # of each of four producers; with fewer it is their warming up that is measured
    confluent_records: int = 500_000
    group_members: int = 100
    idle_groups: int = 500
    idle_s: float = 9.0
    compaction_keys: int = 1_500_000
    probe_s: float = 6.0
    transactions: int = 2_000  # of each of four producers

    @staticmethod
    def quick() -> Sizes:
        sizes = Sizes(200_000, 4.0, 2.0, 300_000_000, 1_000, 1_000, 5_000, 100_000)
        return replace(sizes, compaction_keys=500_000, probe_s=2.0, transactions=300)

    @staticmethod
    def tiny() -> Sizes:
        """For the bench's own smoke test."""
        return Sizes(5_000, 1.0, 0.3, 4_000_000, 50, 20, 500, 2_000, 5, 3, 0.5, 20_000, 0.2, 20)


class Load(ABC):
    """A load with the defaults: nothing to prepare, nothing to clean, a topic of its own in every run."""

    name: ClassVar[str]
    warm_runs_max: ClassVar[int] = 8  # at most so many runs before those that count
    in_memory: ClassVar[bool] = False  # also for a server that keeps nothing: no gigabytes, no reading back, no flush

    def __init__(self, sizes: Sizes) -> None:
        self.sizes = sizes
        self._numbers = itertools.count(1)

    def prepare(self, system: System) -> None:
        """Make what every run of this load reads."""

    @abstractmethod
    def run(self, system: System) -> Metrics:
        """Once. Raises ClientFailed."""

    def clean(self, system: System) -> None:
        """Remove what `prepare` made."""

    def with_topic(self, system: System, partitions: int, action: Callable[[str], Metrics]) -> Metrics:
        """Give the action a fresh topic, and delete it afterwards."""
        topic = f"bench-{self.name}-{system.label}-{next(self._numbers)}"
        confluent.create_topic(system.bootstrap, topic, partitions)
        try:
            return action(topic)
        finally:
            confluent.delete_topic(system.bootstrap, topic)


class Produce(Load):
    """1 KB records in 128 KiB batches to 4 partitions, acks=1, as fast as it goes."""

    name = "produce"

    def run(self, system: System) -> Metrics:
        def action(topic: str) -> Metrics:
            watch, records = Stopwatch(system.pid), self.sizes.produce_records
            result = clients.produce(system.bootstrap, topic, records=records, size=1024, properties=BIG_BATCHES)
            server_s = watch.read().server_s
            return {
                "rate": result.records_per_s,
                "mb_per_s": result.records_per_s * 1024 / 1e6,
                "p99_ms": result.p99_ms,
                "server_cpu_s_per_gb": server_s / (records * 1024 / GB),
            }

        return self.with_topic(system, PARTITIONS, action)


class ProduceFixedRate(Load):
    """The same at 60 % of what the first system reached in `produce`."""

    name = "fixed-rate"

    def __init__(self, sizes: Sizes, reached: Callable[[], Sequence[float]]) -> None:
        super().__init__(sizes)
        self._reached = reached  # the reference's rates in `produce`, when that ran before
        self._rate = 0.0

    def prepare(self, system: System) -> None:
        if not self._rate:  # the reference is prepared first
            produce = Produce(self.sizes)
            rates = self._reached() or [produce.run(system)["rate"] for _ in range(3)]
            self._rate = 0.6 * statistics.median(rates)

    def run(self, system: System) -> Metrics:
        def action(topic: str) -> Metrics:
            records = int(self._rate * self.sizes.fixed_rate_s)
            watch = Stopwatch(system.pid)
            result = clients.produce(
                system.bootstrap, topic, records=records, size=1024, rate=self._rate, properties=BIG_BATCHES
            )
            return {
                "rate": result.records_per_s,
                "wanted_rate": self._rate,
                "p50_ms": result.p50_ms,
                "p99_ms": result.p99_ms,
                "server_cpu_s_per_gb": watch.read().server_s / (records * 1024 / GB),
            }

        return self.with_topic(system, PARTITIONS, action)


class RawRequests(Load):
    """One 100-byte record a request, 4 connections with 5 requests in flight each, from our own generator."""

    name = "raw"
    in_memory = True

    def run(self, system: System) -> Metrics:
        def action(topic: str) -> Metrics:
            arguments = ["--bootstrap", system.bootstrap, "--topic", topic, "--server-pid", str(system.pid)]
            result = clients.python_client("generator", *arguments, "--seconds", str(self.sizes.raw_s))
            return {
                "rate": result["requests"] / result["seconds"],
                "server_cpu_us_per_request": result["server_cpu_s"] / result["requests"] * 1e6,
                "server_cores": result["server_cpu_s"] / result["seconds"],
                "generator_cores": result["generator_cpu_s"] / result["seconds"],
            }

        return self.with_topic(system, PARTITIONS, action)


class Consume(Load):
    """ConsumerPerformance over a topic that was just written, so that it is in the page cache."""

    def __init__(self, sizes: Sizes, record_bytes: int) -> None:
        super().__init__(sizes)
        self.name = f"consume-{record_bytes}"  # type: ignore[misc]
        self._record_bytes = record_bytes
        # ten times smaller records are ten times more: a third of the bytes is long enough
        volume = sizes.consume_bytes if record_bytes > 500 else sizes.consume_bytes // 3
        self._records = volume // record_bytes

    def _topic(self, system: System) -> str:
        return f"bench-{self.name}-{system.label}"

    def prepare(self, system: System) -> None:
        topic = self._topic(system)
        confluent.create_topic(system.bootstrap, topic, PARTITIONS)
        clients.produce(system.bootstrap, topic, records=self._records, size=self._record_bytes, properties=BIG_BATCHES)

    def run(self, system: System) -> Metrics:
        watch = Stopwatch(system.pid)
        rate = clients.consume(system.bootstrap, self._topic(system), records=self._records)
        return {
            "rate": rate,
            "mb_per_s": rate * self._record_bytes / 1e6,
            "server_cpu_s_per_gb": watch.read().server_s / (self._records * self._record_bytes / GB),
        }

    def clean(self, system: System) -> None:
        confluent.delete_topic(system.bootstrap, self._topic(system))


class EndToEnd(Load):
    """One 100-byte record at a time, acks=1: sent, acknowledged, consumed; Kafka's Java clients."""

    name = "end-to-end"

    def run(self, system: System) -> Metrics:
        def action(topic: str) -> Metrics:
            sizes = self.sizes
            p50_ms, p99_ms, mean_ms = clients.end_to_end(
                system.bootstrap, topic, records=sizes.end_to_end_records, warm_up=sizes.end_to_end_warm_up, size=100
            )
            return {"rate": 1000 / mean_ms, "p50_ms": p50_ms, "p99_ms": p99_ms, "mean_ms": mean_ms}

        return self.with_topic(system, 1, action)


class EndToEndTool(Load):
    """The same with Kafka's EndToEndLatency, which knows whole milliseconds only, but for its mean."""

    name = "end-to-end-tool"

    def run(self, system: System) -> Metrics:
        def action(topic: str) -> Metrics:
            records = self.sizes.end_to_end_records
            mean_ms, p99_ms = clients.end_to_end_tool(system.bootstrap, topic, records=records, size=100)
            return {"rate": 1000 / mean_ms, "mean_ms": mean_ms, "p99_whole_ms": p99_ms}

        return self.with_topic(system, 1, action)


class Flush(Load):
    """Four producers at once, acks=all, 1 KB, every message flushed to disk before it is acknowledged."""

    name = "flush"
    producers: ClassVar[int] = 4

    def run(self, system: System) -> Metrics:
        def action(topic: str) -> Metrics:
            results = clients.produce_together(
                self.producers,
                system.bootstrap,
                topic,
                records=self.sizes.flush_records,
                size=1024,
                properties=("acks=all",),
            )
            rate = sum(each.records_per_s for each in results)
            return {"rate": rate, "mb_per_s": rate * 1024 / 1e6, "p99_ms": max(each.p99_ms for each in results)}

        return self.with_topic(system, PARTITIONS, action)


class ConfluentProduce(Load):
    """confluent-kafka, one process: 1 KB records, acks=1."""

    name = "confluent-produce"
    in_memory = True

    def run(self, system: System) -> Metrics:
        def action(topic: str) -> Metrics:
            watch, records = Stopwatch(system.pid), self.sizes.confluent_records
            arguments = ["--bootstrap", system.bootstrap, "--topic", topic, "--records", str(records)]
            rate = clients.python_client("confluent", "produce", *arguments)["records_per_s"]
            server_s = watch.read().server_s
            return {"rate": rate, "server_cpu_s_per_gb": server_s / (records * 1024 / GB)}

        return self.with_topic(system, PARTITIONS, action)


class ConfluentConsume(Load):
    """confluent-kafka, one process: reads 1 KB records that are in the page cache, in a new group."""

    name = "confluent-consume"

    def _topic(self, system: System) -> str:
        return f"bench-{self.name}-{system.label}"

    def prepare(self, system: System) -> None:
        topic = self._topic(system)
        confluent.create_topic(system.bootstrap, topic, PARTITIONS)
        records = str(self.sizes.confluent_records)
        arguments = ["--bootstrap", system.bootstrap, "--topic", topic, "--records", records]
        clients.python_client("confluent", "produce", *arguments)

    def run(self, system: System) -> Metrics:
        topic, records = self._topic(system), str(self.sizes.confluent_records)
        arguments = ["--bootstrap", system.bootstrap, "--topic", topic]
        rate = clients.python_client("confluent", "consume", *arguments, "--records", records)["records_per_s"]
        first = clients.python_client("confluent", "first-record", *arguments)["first_record_ms"]
        return {"rate": rate, "first_record_ms": first}

    def clean(self, system: System) -> None:
        confluent.delete_topic(system.bootstrap, self._topic(system))


class Restart(Load):
    """From the start of the process, over data it has already, to the first acknowledged record."""

    name = "restart"

    def prepare(self, system: System) -> None:
        confluent.create_topic(system.bootstrap, "bench-restart", 1)

    def run(self, system: System) -> Metrics:
        system.stop()
        ready_ms = system.start()
        acknowledged_ms = ready_ms + generator.first_acknowledged_ms(system.bootstrap, "bench-restart")
        return {"rate": 1000 / acknowledged_ms, "ready_ms": ready_ms, "acknowledged_ms": acknowledged_ms}

    def clean(self, system: System) -> None:
        confluent.delete_topic(system.bootstrap, "bench-restart")
