"""The bench: its arithmetic, its reading of what clients print, its hand-made requests, and a tiny run of the whole."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from logd.wire.batches import check_crc, read_header, read_records
from logd.wire.codec import decode_exact, encode
from logd.wire.frames import decode_request_head
from logd.wire.schemas.list_offsets import ListOffsetsRequest
from logd.wire.schemas.produce import (
    PartitionProduceResponse,
    ProduceRequest,
    ProduceResponse,
    TopicProduceResponse,
)
from tools.apache_kafka import installed_libs
from tools.benchmarks import clients, command, figures, memory, procfs, report, requests
from tools.benchmarks.loads import Sizes
from tools.benchmarks.runner import Results

ROOT = Path(__file__).resolve().parents[2]
PRODUCER_OUTPUT = """\
Warmup first 100000 records. Steady state results will print after the complete test summary.
In steady state.
1000000 records sent, 69512.025580 records/sec (67.88 MB/sec), 406.77 ms avg latency, 823.00 ms max latency, \
379 ms 50th, 654 ms 95th, 705 ms 99th, 741 ms 99.9th.
900000 steady state records sent, 77592.895939 records/sec (75.77 MB/sec), 391.35 ms avg latency, 730.00 ms max \
latency, 369 ms 50th, 623 ms 95th, 691 ms 99th, 721 ms 99.9th.
"""


def test_ratio_is_taken_within_a_round() -> None:
    """Each round gives a ratio; the row has their median, lowest and highest, and a verdict against the goal."""
    kafka = [{"round": 0, "mb_per_s": 100.0}, {"round": 1, "mb_per_s": 50.0}, {"round": 2, "mb_per_s": 80.0}]
    logd = [{"round": 0, "mb_per_s": 120.0}, {"round": 1, "mb_per_s": 70.0}, {"round": 2, "mb_per_s": 40.0}]
    results = Results(rounds={"produce.disk": {"kafka": kafka, "logd": logd}})
    (row,) = report.rows(results, "kafka")
    ratio = row.ratios["logd"]
    assert (ratio.median, ratio.low, ratio.high, ratio.rounds) == (1.2, 0.5, 1.4, 3)
    assert ratio.covers_one()
    assert row.figure.reached(ratio.median)
    assert "1.20 (0.50..1.40)" in report.table(results, ["kafka", "logd"])


def test_round_that_one_of_them_missed_gives_no_ratio() -> None:
    """Rounds are paired by their number, not by their place."""
    kafka = [{"round": 1, "mb_per_s": 50.0}]
    logd = [{"round": 0, "mb_per_s": 900.0}, {"round": 1, "mb_per_s": 100.0}]
    (row,) = report.rows(Results(rounds={"produce.disk": {"kafka": kafka, "logd": logd}}), "kafka")
    assert row.ratios["logd"].rounds == 1
    assert row.ratios["logd"].median == 2.0


def test_replaced_producers_are_told() -> None:
    """Below the table stands how many Java producers failed by a race of their own, of each system, in all rounds."""
    rounds = [{"round": number, "rate": 1.0, "replaced": 1.0 - number} for number in range(2)]
    results = Results(
        rounds={"transactions.disk": {"kafka": rounds, "logd": [{"round": 0, "rate": 2.0, "replaced": 0.0}]}}
    )
    assert report.table(results, ["kafka", "logd"]).endswith("(InvalidTxnStateException): kafka 1, logd 0")
    assert "replaced" not in report.table(Results(), ["kafka", "logd"])


def test_producer_figures_are_those_of_its_steady_state() -> None:
    """ProducerPerformance prints a line for all records and one for those after its warm-up; the second counts."""
    assert clients._produced(PRODUCER_OUTPUT) == clients.Produced(77592.895939, 369, 691)


def test_a_producer_that_printed_an_exception_has_failed() -> None:
    """Errors of single records do not end ProducerPerformance, but they end the measurement."""
    with pytest.raises(clients.ClientFailed, match="TimeoutException"):
        clients._produced("org.apache.kafka.common.errors.TimeoutException: no\n" + PRODUCER_OUTPUT)


def test_figures_of_transactions_tell_how_many_producers_were_replaced() -> None:
    """A producer that failed by a race of its own is counted; the line of figures comes after its words."""
    output = "replaced: org.apache.kafka.common.KafkaException: no\nrate 1200.50 p50 800.0 p99 4000.0 replaced 1\n"
    expected = {"rate": 1200.5, "p50_ms": 0.8, "p99_ms": 4.0, "replaced": 1.0}
    assert clients._transacted(output) == expected
    with pytest.raises(clients.ClientFailed, match="at java"):
        clients._transacted("at java.base/java.lang.Thread.run")


def test_hand_made_requests_are_what_the_codecs_read() -> None:
    """The generator's Produce and ListOffsets decode without rest, and its batch is sound."""
    batch = requests.record_batch(b"x" * 100, 1_700_000_000_000)
    frame = memoryview(requests.produce("topic", 3, batch))[4:]
    head = decode_request_head(frame)
    produce = decode_exact(ProduceRequest, head.api_version, frame, head.body)
    data = produce.topic_data[0].partition_data[0]
    assert (produce.acks, produce.topic_data[0].name, data.index) == (1, "topic", 3)
    assert isinstance(data.records, memoryview)
    header = read_header(data.records)
    assert check_crc(data.records, 0, header)
    (record,) = read_records(data.records, bytes_max=1000)
    assert (record.key, record.value) == (None, b"x" * 100)
    frame = memoryview(requests.end_offset("topic", 3))[4:]
    head = decode_request_head(frame)
    offsets = decode_exact(ListOffsetsRequest, head.api_version, frame, head.body)
    assert offsets.topics[0].partitions[0].timestamp == -1


def test_refused_produce_shows() -> None:
    """The generator finds the error code where the answer has it."""
    row = PartitionProduceResponse(0, 6, -1)
    body = encode(ProduceResponse([TopicProduceResponse("topic", bytes(16), [row])]), requests.PRODUCE_VERSION)
    assert requests.produce_error("topic", bytes(4) + b"\x00" + body) == 6


def test_every_figure_has_a_load_that_runs_in_its_stage() -> None:
    """No row of the table waits for a load that nobody runs, and keys are unique."""
    known = {*command.all_loads(Sizes.tiny(), list), "memory"}
    assert {figure.load for figure in figures.FIGURES} == known
    keys = [figure.key for figure in figures.FIGURES]
    assert len(keys) == len(set(keys))
    assert all(figure.load in [*figures.loads_of(figure.stage), "memory"] for figure in figures.FIGURES)


def bench(scratch: Path, *arguments: str) -> tuple[str, dict[str, Any]]:
    """Run tools/bench in its smallest sizes. Returns the table and the JSON."""
    document = scratch / "bench.json"
    line = [sys.executable, str(ROOT / "tools" / "bench"), "--tiny", "--json", str(document), "--rounds", "1"]
    line += ["--disk-dir", str(scratch / "disk"), "--tmpfs-dir", str(scratch / "tmpfs"), *arguments]
    done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    result: dict[str, Any] = json.loads(document.read_text())
    return done.stdout, result


def test_tiny_run_against_logd_alone(tmp_path: Path) -> None:
    """One command gives a table on stdout and all raw numbers in the JSON, without Java."""
    table, document = bench(tmp_path, "--systems", "logd", "--only", "raw,confluent,groups", "--stages", "disk")
    assert "produce one 100 B record a request" in table
    assert document["figures"]["raw.disk.rate"]["median"]["logd"] > 0
    assert document["rounds"]["raw.disk"]["logd"][0]["generator_cores"] > 0
    assert document["rounds"]["confluent-consume.disk"]["logd"][0]["first_record_ms"] > 0
    assert document["figures"]["group-consumer.disk.settled_ms"]["median"]["logd"] > 0
    assert document["figures"]["offset-commits.disk.rate"]["median"]["logd"] > 0
    assert document["failures"] == {}
    assert not any((tmp_path / "disk").iterdir()), "data was left behind"


@pytest.mark.skipif(shutil.which("java") is None or installed_libs() is None, reason="needs Java and Kafka's jars")
def test_tiny_run_against_kafka(tmp_path: Path) -> None:
    """With a real Kafka beside it there is a ratio, and the reference comes first."""
    table, document = bench(tmp_path, "--systems", "kafka,logd", "--only", "raw", "--stages", "tmpfs")
    assert document["systems"] == ["kafka", "logd"]
    assert document["figures"]["raw.tmpfs.server_cpu_us_per_request"]["ratio"]["logd"]["rounds"] == 1
    assert "logd/kafka" in table


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--only", "nothing"), "nothing: there is no such load; there are produce, fixed-rate, raw"),
        (("--stages", "cloud"), "--stages cloud: there is no such stage; there are disk, tmpfs, flush"),
        (("--stages", "tmpfs", "--only", "flush"), "--stages tmpfs: flush is measured in flush"),
    ],
)
def test_what_would_measure_nothing_is_named(options: tuple[str, ...], said: str) -> None:
    """A wrong name, or loads that have no figure in those stages, end the bench before anything starts."""
    line = [sys.executable, str(ROOT / "tools" / "bench"), "--systems", "logd", *options]
    done = subprocess.run(line, capture_output=True, text=True, check=False, env={**os.environ, "TERM": "dumb"})
    assert done.returncode != 0
    assert said in done.stderr


def test_every_second_page_is_given_back() -> None:
    """Half of what is held is free again, in single pages."""
    size_bytes = 16 << 20
    before = procfs.rss_anon_bytes(os.getpid())
    area = memory.hold(size_bytes)
    grown = procfs.rss_anon_bytes(os.getpid()) - before
    assert area[0] == 0
    assert size_bytes * 0.4 < grown < size_bytes * 0.6
