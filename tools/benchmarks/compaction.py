"""The load of compaction: how fast a topic of keys is cleaned, and what a producer feels of it meanwhile.

Owns when a cleaner begins (a topic's ratio is lowered) and the reading of both servers' own files that say how far they
are. Called by the runner like any load. Never compares servers.
"""

from __future__ import annotations

import contextlib
import os
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource

from tools.benchmarks import clients, confluent, keyed, procfs
from tools.benchmarks.clients import ClientFailed
from tools.benchmarks.loads import Load, Metrics
from tools.benchmarks.systems import System

SEGMENT_BYTES_MAX = 256 << 20
SEGMENTS = 8
"""At least so many, but for very small runs."""
AGAIN = 4
"""Every fourth key is written twice: no batch stays as it is."""
RECORD_BYTES = len(keyed.template(keyed.RECORDS_A_BATCH, keyed.VALUE_BYTES, 1 << 40)[0]) / keyed.RECORDS_A_BATCH
LOOK_S = 0.02
LIMIT_S = 900.0
NEVER, NOW = "1.0", "0.0001"
PROGRESS = struct.Struct(">4sIq")
"""The beginning of logd's partition.compaction: magic, checksum, the offset below which the log is clean."""


class Compaction(Load):
    """1 KB records in batches of 16, every key once and every fourth again, cleaned by one thread or one worker."""

    name = "compaction"
    warm_runs_max: ClassVar[int] = 2

    def run(self, system: System) -> Metrics:
        keys = self.sizes.compaction_keys

        def alone(topic: str) -> Metrics:
            filled = self._filled(system, topic, keys)
            os.sync()
            end = _active_base(system, topic)
            size = end * RECORD_BYTES
            cpu, began = _cpu_s(system.pid), time.monotonic()
            _set_ratio(system, topic, NOW)
            _wait_until_clean(system, topic, end)
            took_s = time.monotonic() - began
            return {
                **filled,
                "rate": size / took_s,
                "mb_per_s": size / took_s / 1e6,
                "cpu_s_per_gb": (_cpu_s(system.pid) - cpu) / (size / 1e9),
                "left": _sealed_bytes(system, topic) / size,
            }

        return {**self._with_keys(system, alone), **self._with_probe(system, keys)}

    def _with_probe(self, system: System, keys: int) -> Metrics:
        """The latency of single records in another topic, while nothing is cleaned and while much is."""

        def beside(probed: str) -> Metrics:
            def both(topic: str) -> Metrics:
                self._fill(system, topic, keys)
                os.sync()
                idle = self._probe(system, probed, self.sizes.probe_s)
                end = _active_base(system, topic)
                _set_ratio(system, topic, NOW)
                busy = self._probe(system, probed, self.sizes.probe_s)
                over = _cleaned_offset(system, topic) >= end
                _wait_until_clean(system, topic, end)
                found = {f"idle_{key}": idle[key] for key in ("p50_ms", "p99_ms", "max_ms")}
                found |= {f"busy_{key}": busy[key] for key in ("p50_ms", "p99_ms", "max_ms")}
                return {**found, "busy_to_idle": busy["p99_ms"] / idle["p99_ms"], "ended_before_the_probe": over}

            return self._with_keys(system, both)

        return self.with_topic(system, 1, beside)

    def _with_keys(self, system: System, action: Callable[[str], Metrics]) -> Metrics:
        segment_bytes = min(max(self.sizes.compaction_keys * 1280 // SEGMENTS, 1 << 20), SEGMENT_BYTES_MAX)

        def prepared(topic: str) -> Metrics:
            _alter(system, topic, settings_of(segment_bytes))
            return action(topic)

        return self.with_topic(system, 1, prepared)

    def _filled(self, system: System, topic: str, keys: int) -> Metrics:
        """What it takes to write to such a topic: a server has to look at each record for its key."""
        cpu, began = _cpu_s(system.pid), time.monotonic()
        self._fill(system, topic, keys)
        size = (keys + keys // AGAIN) * RECORD_BYTES
        return {
            "fill_mb_per_s": size / (time.monotonic() - began) / 1e6,
            "fill_cpu_s_per_gb": (_cpu_s(system.pid) - cpu) / (size / 1e9),
        }

    def _fill(self, system: System, topic: str, keys: int) -> None:
        arguments = ["fill", "--bootstrap", system.bootstrap, "--topic", topic, "--keys", str(keys)]
        clients.python_client("keyed", *arguments, "--again", str(AGAIN))

    def _probe(self, system: System, topic: str, seconds: float) -> Metrics:
        arguments = ["--bootstrap", system.bootstrap, "--topic", topic, "--seconds", str(seconds)]
        return clients.python_client("keyed", "probe", *arguments)


def settings_of(segment_bytes: int) -> dict[str, str]:
    """Of a topic to be compacted, but not before its ratio is lowered."""
    return {"segment.bytes": str(segment_bytes), "cleanup.policy": "compact", "min.cleanable.dirty.ratio": NEVER}


def make_topic(system: System, topic: str, segment_bytes: int) -> None:
    """Such a topic, of one partition."""
    confluent.create_topic(system.bootstrap, topic, 1)
    _alter(system, topic, settings_of(segment_bytes))


def peak_memory_bytes(system: System, topic: str) -> int:
    """Have a topic of logd's cleaned; the most that any child process, which a worker is, had resident meanwhile."""
    end, peak = _active_base(system, topic), 0
    _alter(system, topic, {"min.cleanable.dirty.ratio": NOW})
    deadline = time.monotonic() + LIMIT_S
    while _cleaned_offset(system, topic) < end:
        if time.monotonic() > deadline:
            raise ClientFailed(f"{topic} is not clean after {LIMIT_S:.0f} s")
        for child in _children(system.pid):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                peak = max(peak, procfs.peak_rss_bytes(child))
        time.sleep(LOOK_S)
    return peak


def _children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


def _alter(system: System, topic: str, settings: dict[str, str]) -> None:
    set_ = AlterConfigOpType.SET
    entries = [ConfigEntry(name, value, incremental_operation=set_) for name, value in settings.items()]
    resource = ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=entries)
    admin = AdminClient({"bootstrap.servers": system.bootstrap})
    admin.incremental_alter_configs([resource])[resource].result(60)


def _set_ratio(system: System, topic: str, ratio: str) -> None:
    _alter(system, topic, {"min.cleanable.dirty.ratio": ratio})


def _segments(system: System, topic: str) -> list[Path]:
    return sorted((system.data_dir / f"{topic}-0").glob(f"{'[0-9]' * 20}.log"))


def _sealed_bytes(system: System, topic: str) -> int:
    return sum(file.stat().st_size for file in _segments(system, topic)[:-1])


def _active_base(system: System, topic: str) -> int:
    """The offset where the sealed segments end."""
    return int(_segments(system, topic)[-1].stem)


def _cleaned_offset(system: System, topic: str) -> int:
    """Below it the log is clean: logd says so beside the segments, Kafka in a file for all partitions."""
    own = system.data_dir / f"{topic}-0" / "partition.compaction"
    if own.exists():
        return int(PROGRESS.unpack(own.read_bytes()[: PROGRESS.size])[2])
    checkpoint = system.data_dir / "cleaner-offset-checkpoint"
    for line in checkpoint.read_text().splitlines() if checkpoint.exists() else ():
        if line.startswith(f"{topic} 0 "):
            return int(line.split()[2])
    return 0


def _wait_until_clean(system: System, topic: str, end: int) -> None:
    deadline = time.monotonic() + LIMIT_S
    while _cleaned_offset(system, topic) < end:
        if time.monotonic() > deadline:
            raise ClientFailed(f"{topic} is not clean after {LIMIT_S:.0f} s")
        time.sleep(LOOK_S)


def _cpu_s(pid: int) -> float:
    """User plus system CPU seconds of a process and of its children, those that have ended too."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    own_s = sum(int(field) for field in fields[11:15]) / procfs.TICKS_PER_S
    return own_s + sum(procfs.cpu_s(child) for child in _children(pid))
