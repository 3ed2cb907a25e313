"""Runs the loads: stage after stage, load after load, round after round, the systems in turn; who is first alternates.

Owns the order of things and the raw results. Called by the command line. Prints progress on stderr, one line a run. A
load that fails on a system is recorded as failed and the bench goes on. It computes no ratio: that is the report's.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from confluent_kafka import KafkaException

from tools.apache_kafka import KafkaUnavailable
from tools.benchmarks import procfs
from tools.benchmarks.clients import ClientFailed
from tools.benchmarks.figures import DISK, FLUSH, loads_of
from tools.benchmarks.loads import Load, Metrics
from tools.benchmarks.systems import Stage, StartFailed, System

IDLE_S = 3.0
FLAT_WITHIN = 1.05
FLAT_RUNS = 2  # one slow run is a busy neighbour, two are a warm server
DELETED_TIMEOUT_S = 10.0

RUN_FAILURES = (ClientFailed, KafkaException, KafkaUnavailable, StartFailed, OSError, subprocess.SubprocessError)


@dataclass(slots=True)
class Plan:
    """What to run: loads by name, the stages' directories, how to make the systems of a stage, how often."""

    stages: Sequence[Stage]
    make_systems: Callable[[Stage], Sequence[System]]
    loads: Mapping[str, Load]
    rounds: int
    warm_runs_max: int


@dataclass(slots=True)
class Results:
    """rounds[load.stage][system] is a list of metrics by round; idle_cores is what a server uses with nothing to do."""

    rounds: dict[str, dict[str, list[Metrics]]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    idle_cores: dict[str, float] = field(default_factory=dict)
    rss_anon_bytes: dict[str, dict[str, int]] = field(default_factory=dict)
    interrupted: bool = False


def say(text: str) -> None:
    """Progress, on stderr."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def settle(stage: Stage, systems: Sequence[System]) -> None:
    """Let what the run before left behind get done: deleted files removed, and on a disk all dirty pages written."""
    deadline = time.monotonic() + DELETED_TIMEOUT_S
    while time.monotonic() < deadline and any(_being_deleted(system) for system in systems):
        time.sleep(0.1)
    if stage.name in {DISK, FLUSH}:
        os.sync()


def _being_deleted(system: System) -> bool:
    with contextlib.suppress(OSError):
        return any(name.endswith("-delete") or ".deleted" in name for name in os.listdir(system.data_dir))
    return False


class Runner:
    """One execution of a plan, into `results`, which hold what there is after an interruption too."""

    def __init__(self, plan: Plan, results: Results) -> None:
        self.plan = plan
        self.results = results

    def run(self) -> Results:
        """All stages. Ctrl-C ends early with what there is."""
        try:
            for stage in self.plan.stages:
                if any(name in self.plan.loads for name in loads_of(stage.name)):
                    self._run_stage(stage)
        except KeyboardInterrupt:
            self.results.interrupted = True
            say("interrupted: reporting what there is")
        return self.results

    def _run_stage(self, stage: Stage) -> None:
        shutil.rmtree(stage.directory, ignore_errors=True)
        stage.directory.mkdir(parents=True)
        with self._started(stage) as systems:
            if not systems:
                return
            self._measure_idle(stage, systems)
            for name in loads_of(stage.name):
                if name in self.plan.loads:
                    self._run_load(stage, systems, self.plan.loads[name])
            self.results.rss_anon_bytes[stage.name] = {
                system.label: procfs.rss_anon_bytes(system.pid) for system in systems
            }

    @contextlib.contextmanager
    def _started(self, stage: Stage) -> Iterator[list[System]]:
        with contextlib.ExitStack() as stack:
            stack.callback(shutil.rmtree, stage.directory, ignore_errors=True)
            running: list[System] = []
            for system in self.plan.make_systems(stage):
                try:
                    ready_ms = system.start()
                except (KafkaUnavailable, StartFailed) as problem:
                    self._fail(f"start.{stage.name}.{system.label}", problem)
                    continue
                stack.callback(system.stop)
                say(f"{stage.name}: {system.label} ready in {ready_ms:.0f} ms, pid {system.pid}")
                running.append(system)
            yield running

    def _measure_idle(self, stage: Stage, systems: Sequence[System]) -> None:
        """How much of a core each server uses while nobody asks it anything: it takes that from the others' rounds."""
        before = [procfs.cpu_s(system.pid) for system in systems]
        time.sleep(IDLE_S)
        for system, used in zip(systems, before, strict=True):
            self.results.idle_cores[f"{stage.name}.{system.label}"] = (procfs.cpu_s(system.pid) - used) / IDLE_S

    def _run_load(self, stage: Stage, systems: Sequence[System], load: Load) -> None:
        key = f"{load.name}.{stage.name}"
        able = [system for system in systems if system.durable or load.in_memory]
        working = [system for system in able if self._warm(stage, load, system)]
        rounds = self.results.rounds.setdefault(key, {system.label: [] for system in working})
        for number in range(self.plan.rounds):
            turn = number % max(1, len(working))
            for system in [*working[turn:], *working[:turn]]:
                settle(stage, systems)
                metrics = self._attempt(key, load, system, f"round {number + 1}")
                if metrics is not None:
                    rounds[system.label].append({"round": number, **metrics})
        for system in working:
            with contextlib.suppress(*RUN_FAILURES):
                load.clean(system)

    def _warm(self, stage: Stage, load: Load, system: System) -> bool:
        """Prepare the load and run it until its rate no longer rises. False when it does not work on this system."""
        key = f"{load.name}.{stage.name}"
        try:
            load.prepare(system)
        except RUN_FAILURES as problem:
            self._fail(f"{key}.{system.label}", problem)
            return False
        best, flat_runs = 0.0, 0
        for number in range(min(self.plan.warm_runs_max, load.warm_runs_max)):
            metrics = self._attempt(key, load, system, f"warm-up {number + 1}")
            if metrics is None:
                return False
            flat_runs = flat_runs + 1 if metrics["rate"] < best * FLAT_WITHIN else 0
            if flat_runs == FLAT_RUNS:
                break
            best = max(best, metrics["rate"])
        return True

    def _attempt(self, key: str, load: Load, system: System, what: str) -> Metrics | None:
        began, busy, own = time.monotonic(), procfs.machine_busy_s(), procfs.children_s()
        server = procfs.cpu_s(system.pid)
        try:
            metrics = load.run(system)
        except RUN_FAILURES as problem:
            self._fail(f"{key}.{system.label}", problem)
            return None
        elapsed_s = time.monotonic() - began
        server_s = max(0.0, procfs.cpu_s(system.pid) - server)  # a restarted server begins at 0
        others_s = procfs.machine_busy_s() - busy - (procfs.children_s() - own) - server_s
        metrics["others_cores"] = max(0.0, others_s / elapsed_s)
        shown = "  ".join(f"{name} {value:.4g}" for name, value in metrics.items())
        say(f"{key} {what:9} {system.label:8} {shown}")
        return metrics

    def _fail(self, where: str, problem: BaseException) -> None:
        text = f"{type(problem).__name__}: {problem}"
        self.results.failures.setdefault(where, text)
        say(f"{where} FAILED: {text[-800:]}")
