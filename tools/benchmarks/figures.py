"""The figures of the table: which load gives which number, in which stage, and what it should reach against Kafka = 1.

Owns the goals. PURE. Called by the runner (what must run) and the report (what is printed).
"""

from __future__ import annotations

from dataclasses import dataclass

DISK, TMPFS, FLUSH = "disk", "tmpfs", "flush"
STAGES = (DISK, TMPFS, FLUSH)


@dataclass(frozen=True, slots=True)
class Figure:
    """One row: `metric` of `load` in `stage`. `reach` and `moonshot` are ratios to Kafka, None without a goal.

    Where `of_itself` they are for the metric itself, which is a ratio already.
    """

    title: str
    unit: str
    load: str
    stage: str
    metric: str
    higher_is_better: bool
    reach: float | None = None
    moonshot: float | None = None
    of_itself: bool = False

    @property
    def key(self) -> str:
        """Unique name in the JSON."""
        return f"{self.load}.{self.stage}.{self.metric}"

    def reached(self, ratio: float) -> bool | None:
        """Whether the ratio reaches the goal; None without a goal."""
        if self.reach is None:
            return None
        return ratio >= self.reach if self.higher_is_better else ratio <= self.reach


# CPU is taken with the data on tmpfs, where no write-back swings it, and everything else on disk.
FIGURES = (
    Figure("produce 1 KB, 128 KiB batches: throughput", "MB/s", "produce", DISK, "mb_per_s", True, 1.05, 1.2),
    Figure(
        "produce 1 KB, 128 KiB batches: server CPU", "s/GB", "produce", TMPFS, "server_cpu_s_per_gb", False, 0.6, 0.3
    ),
    Figure("produce 1 KB at 60 % of Kafka's rate: p99", "ms", "fixed-rate", DISK, "p99_ms", False, 0.7, 0.3),
    Figure("produce one 100 B record a request: rate", "1/s", "raw", DISK, "rate", True, 1.4, 2.0),
    Figure(
        "produce one 100 B record a request: CPU", "us/req", "raw", TMPFS, "server_cpu_us_per_request", False, 0.5, 0.3
    ),
    Figure("consume 1 KB: throughput", "MB/s", "consume-1024", DISK, "mb_per_s", True, 1.0, 1.2),
    Figure("consume 1 KB: server CPU", "s/GB", "consume-1024", TMPFS, "server_cpu_s_per_gb", False, 0.8, 0.4),
    Figure("consume 100 B: throughput", "MB/s", "consume-100", DISK, "mb_per_s", True, 1.0, 1.2),
    Figure("consume 100 B: server CPU", "s/GB", "consume-100", TMPFS, "server_cpu_s_per_gb", False, 0.8, 0.4),
    Figure("end to end, one at a time: p50", "ms", "end-to-end", DISK, "p50_ms", False, 1.0, 0.5),
    Figure("end to end, one at a time: p99", "ms", "end-to-end", DISK, "p99_ms", False, 1.0, 0.5),
    Figure("flushed, acks=all, 4 producers: throughput", "MB/s", "flush", FLUSH, "mb_per_s", True, 2.0, 5.0),
    Figure("100 members join, 200 partitions, classic", "ms", "group-classic", DISK, "settled_ms", False, 1.0, 0.3),
    Figure("100 members join, 200 partitions, consumer", "ms", "group-consumer", DISK, "settled_ms", False, 1.0, 0.3),
    Figure("offset commits, one partition each, 8 clients", "1/s", "offset-commits", DISK, "rate", True, 1.0, 2.0),
    Figure("offset commits, confluent-kafka in 8 processes", "1/s", "confluent-commits", DISK, "rate", True, 1.0, 2.0),
    Figure("500 idle groups of 3, classic: server CPU", "cores", "idle-classic", DISK, "server_cores", False),
    Figure("500 idle groups of 3, consumer: server CPU", "cores", "idle-consumer", DISK, "server_cores", False),
    Figure("produce to a compacted topic, batches of 16: CPU", "s/GB", "compaction", DISK, "fill_cpu_s_per_gb", False),
    Figure("compaction, 1 KB records: throughput", "MB/s", "compaction", DISK, "mb_per_s", True, 0.5, 1.5),
    Figure("compaction, 1 KB records: CPU", "s/GB", "compaction", DISK, "cpu_s_per_gb", False),
    Figure("produce one record while compacting: p99", "ms", "compaction", DISK, "busy_p99_ms", False, 1.0),
    Figure("the same, times the p99 without compacting", "times", "compaction", DISK, "busy_to_idle", False),
    Figure("transactions of 10 x 1 KB, 4 producers", "1/s", "transactions", DISK, "rate", True, 1.0, 2.0),
    Figure(
        "transactions of 10 x 1 KB, 4 producers: CPU",
        "us/tx",
        "transactions",
        TMPFS,
        "server_cpu_us_per_transaction",
        False,
        0.7,
        0.4,
    ),
    Figure("transactions of 100 ms / idempotent", "", "transaction-cost", DISK, "kept", True, 0.9, 0.97, True),
    Figure("EndToEndLatency: mean", "ms", "end-to-end-tool", DISK, "mean_ms", False),
    Figure("produce one 100 B record a request, tmpfs", "1/s", "raw", TMPFS, "rate", True),
    Figure("produce 1 KB, tmpfs: throughput", "MB/s", "produce", TMPFS, "mb_per_s", True),
    Figure("consume 1 KB, tmpfs: throughput", "MB/s", "consume-1024", TMPFS, "mb_per_s", True),
    Figure("consume 100 B, tmpfs: throughput", "MB/s", "consume-100", TMPFS, "mb_per_s", True),
    Figure("confluent-kafka produce 1 KB", "1/s", "confluent-produce", DISK, "rate", True),
    Figure("confluent-kafka consume 1 KB", "1/s", "confluent-consume", DISK, "rate", True),
    Figure("confluent-kafka, new group: first record", "ms", "confluent-consume", DISK, "first_record_ms", False),
    Figure("start to first acknowledged record", "ms", "restart", DISK, "acknowledged_ms", False),
    Figure("anonymous memory after all of it", "MiB", "memory", DISK, "rss_anon_mib", False),
)


def loads_of(stage: str) -> list[str]:
    """The loads that a stage runs, in the table's order, each once; a restart cools a JVM and comes last."""
    names = dict.fromkeys(each.load for each in FIGURES if each.stage == stage and each.load != "memory")
    return sorted(names, key=lambda name: name == "restart")
