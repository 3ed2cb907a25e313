"""The foreign clients: Kafka's performance tools and confluent-kafka, run as child processes, their output read back.

Owns the command lines and the parsing. Called by the loads. Never starts a server and keeps nothing.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tools.apache_kafka import fetch_libs, java_command

HERE = Path(__file__).parent
REPOSITORY = HERE.parent.parent
CLIENT_HEAP = ("-Xmx512m",)  # what Kafka's scripts give their performance tools
TIMEOUT_S = 600.0
PRODUCER_LINE = re.compile(
    r"^(?P<records>\d+)(?P<steady> steady state)? records sent, (?P<rate>[\d.]+) records/sec .*?"
    r" (?P<p50>\d+) ms 50th, (?P<p95>\d+) ms 95th, (?P<p99>\d+) ms 99th",
    re.MULTILINE,
)


class ClientFailed(Exception):
    """A client ended with an error or printed something unexpected; the message holds the end of its output."""


@dataclass(frozen=True, slots=True)
class Produced:
    """What a ProducerPerformance reported: of its steady state, where that was asked for."""

    records_per_s: float
    p50_ms: float
    p99_ms: float


def _start(command: Sequence[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=REPOSITORY)


def _output(process: subprocess.Popen[str]) -> str:
    try:
        output, _ = process.communicate(timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        output, _ = process.communicate()
        raise ClientFailed(f"not done after {TIMEOUT_S:.0f} s: {output[-1000:]}") from None
    if process.returncode != 0:
        raise ClientFailed(f"exit status {process.returncode}: {output[-1500:]}")
    return output


def _java(main_class: str, *arguments: str) -> list[str]:
    return java_command(main_class, arguments, libs=fetch_libs(), options=CLIENT_HEAP)


def _producer_command(
    bootstrap: str, topic: str, records: int, size: int, rate: float, properties: Sequence[str]
) -> list[str]:
    arguments = ["--bootstrap-server", bootstrap, "--topic", topic, "--num-records", str(records)]
    arguments += ["--record-size", str(size), "--throughput", f"{rate:.0f}"]
    arguments += ["--warmup-records", str(records // 5), "--reporting-interval", "60000"]
    return _java("org.apache.kafka.tools.ProducerPerformance", *arguments, "--command-property", *properties)


def _produced(output: str) -> Produced:
    lines = list(PRODUCER_LINE.finditer(output))
    if not lines or "Exception" in output:
        raise ClientFailed(f"ProducerPerformance: {output[-1500:]}")
    last = lines[-1]  # the steady state's line comes last
    return Produced(float(last["rate"]), float(last["p50"]), float(last["p99"]))


def produce(
    bootstrap: str,
    topic: str,
    *,
    records: int,
    size: int,
    rate: float = -1,
    properties: Sequence[str],
    transactional_id: str | None = None,
    transaction_ms: int = 100,
) -> Produced:
    """ProducerPerformance to its end. `rate` in records a second, -1 for as fast as it goes. Raises ClientFailed.

    With a transactional id it commits every `transaction_ms`.
    """
    command = _producer_command(bootstrap, topic, records, size, rate, properties)
    if transactional_id is not None:
        command += ["--transactional-id", transactional_id, "--transaction-duration-ms", str(transaction_ms)]
    return _produced(_output(_start(command)))


def produce_together(
    producers: int, bootstrap: str, topic: str, *, records: int, size: int, properties: Sequence[str]
) -> list[Produced]:
    """Several ProducerPerformance at the same time, `records` each."""
    command = _producer_command(bootstrap, topic, records, size, -1, properties)
    running = [_start(command) for _ in range(producers)]
    return [_produced(_output(each)) for each in running]


def consume(bootstrap: str, topic: str, *, records: int) -> float:
    """ConsumerPerformance, a new group, from the start. Records a second while it fetches, without the group's join."""
    arguments = ["--bootstrap-server", bootstrap, "--topic", topic, "--num-records", str(records), "--hide-header"]
    arguments += ["--group", f"bench-{uuid.uuid4().hex}", "--timeout", "60000", "--reporting-interval", "600000"]
    output = _output(_start(_java("org.apache.kafka.tools.ConsumerPerformance", *arguments)))
    fields = [line.split(", ") for line in output.splitlines() if line.count(", ") == 9]
    if not fields or int(fields[-1][4]) < records:
        raise ClientFailed(f"ConsumerPerformance: {output[-1500:]}")
    return float(fields[-1][9])


def end_to_end(bootstrap: str, topic: str, *, records: int, warm_up: int, size: int) -> tuple[float, float, float]:
    """p50, p99 and mean latency in ms of one record at a time, acks=1, with Kafka's Java clients (EndToEnd.java)."""
    source = str(HERE / "EndToEnd.java")
    output = _output(_start(_java(source, bootstrap, topic, str(records), str(warm_up), str(size), "1")))
    found = re.search(r"^p50 ([\d.]+) p99 ([\d.]+) mean ([\d.]+)", output, re.MULTILINE)
    if found is None:
        raise ClientFailed(f"EndToEnd.java: {output[-1500:]}")
    return float(found[1]) / 1000, float(found[2]) / 1000, float(found[3]) / 1000


def transactions(
    bootstrap: str, topic: str, *, producers: int, warm_up: int, transactions: int, records: int, size: int
) -> dict[str, float]:
    """Transactions a second (`rate`), `p50_ms` and `p99_ms` of several Java producers at once (Transactions.java).

    `warm_up` and `transactions` are for each producer; `replaced` is how many producers failed by a race of their own
    and left the rest to another one. Raises ClientFailed.
    """
    numbers = [str(each) for each in (producers, warm_up, transactions, records, size)]
    output = _output(_start(_java(str(HERE / "Transactions.java"), bootstrap, topic, *numbers)))
    return _transacted(output)


def _transacted(output: str) -> dict[str, float]:
    found = re.search(r"^rate ([\d.]+) p50 ([\d.]+) p99 ([\d.]+) replaced (\d+)", output, re.MULTILINE)
    if found is None:
        raise ClientFailed(f"Transactions.java: {output[-1500:]}")
    rate, p50_us, p99_us, replaced = (float(each) for each in found.groups())
    return {"rate": rate, "p50_ms": p50_us / 1000, "p99_ms": p99_us / 1000, "replaced": replaced}


def end_to_end_tool(bootstrap: str, topic: str, *, records: int, size: int) -> tuple[float, float]:
    """Mean latency in ms and p99 in whole ms, as Kafka's own EndToEndLatency prints them."""
    arguments = ["--bootstrap-server", bootstrap, "--topic", topic, "--num-records", str(records)]
    arguments += ["--producer-acks", "1", "--record-size", str(size)]
    output = _output(_start(_java("org.apache.kafka.tools.EndToEndLatency", *arguments)))
    found = re.search(r"Avg latency: ([\d.]+) ms\s+Percentiles: .* 99th = (\d+)", output)
    if found is None:
        raise ClientFailed(f"EndToEndLatency: {output[-1500:]}")
    return float(found[1]), float(found[2])


def python_client(module: str, *arguments: str) -> dict[str, float]:
    """Run one of our own client modules in a process of its own and return the JSON object it printed."""
    output = _output(_start([sys.executable, "-m", f"tools.benchmarks.{module}", *arguments]))
    try:
        result: dict[str, float] = json.loads(output.splitlines()[-1])
    except (IndexError, ValueError):
        raise ClientFailed(f"{module}: {output[-1500:]}") from None
    return result
