"""The loads that groups make: many members that settle, commits, and heartbeats of groups that do nothing else.

Owns their sizes and the arithmetic, as :mod:`loads` does for records. The members are those of :mod:`groups`, in a
process of its own.
"""

from __future__ import annotations

import itertools

from tools.benchmarks import clients
from tools.benchmarks.loads import Load, Metrics, Sizes
from tools.benchmarks.procfs import Stopwatch
from tools.benchmarks.systems import System

PARTITIONS = 200
CLIENTS = 8


class _GroupLoad(Load):
    """Runs one mode of the raw members on a fresh topic and in groups of its own."""

    mode = ""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__(sizes)
        self._runs = itertools.count(1)

    def members(self, system: System, *arguments: str) -> Metrics:
        """What the mode measures."""

        def action(topic: str) -> Metrics:
            group = f"bench-{self.name}-{system.label}-{next(self._runs)}"
            named = ["--bootstrap", system.bootstrap, "--server-pid", str(system.pid), "--topic", topic]
            return clients.python_client("groups", self.mode, *named, "--group", group, *arguments)

        return self.with_topic(system, PARTITIONS, action)


class GroupJoin(_GroupLoad):
    """100 members join at once; from the last join to all 200 partitions assigned. Heartbeats every 0.2 s."""

    mode = "join"

    def __init__(self, sizes: Sizes, protocol: str) -> None:
        super().__init__(sizes)
        self.name = f"group-{protocol}"  # type: ignore[misc]
        self._protocol = protocol

    def run(self, system: System) -> Metrics:
        return self.members(
            system,
            *("--protocol", self._protocol, "--members", str(self.sizes.group_members)),
            *("--partitions", str(PARTITIONS)),
        )


class OffsetCommits(_GroupLoad):
    """8 clients commit one partition each, one commit in flight."""

    name = "offset-commits"
    mode = "commits"

    def run(self, system: System) -> Metrics:
        return self.members(system, "--clients", str(CLIENTS), "--seconds", str(self.sizes.raw_s))


class ConfluentCommits(Load):
    """8 processes with confluent-kafka commit one partition each and wait; clients and server share the cores."""

    name = "confluent-commits"

    def run(self, system: System) -> Metrics:
        def action(topic: str) -> Metrics:
            watch, seconds = Stopwatch(system.pid), self.sizes.raw_s
            named = ["commits", "--bootstrap", system.bootstrap, "--topic", topic]
            result = clients.python_client("confluent", *named, "--clients", str(CLIENTS), "--seconds", str(seconds))
            commits = result["rate"] * seconds
            return {"rate": result["rate"], "server_cpu_us": watch.read().server_s / commits * 1e6}

        return self.with_topic(system, 1, action)


class IdleGroups(_GroupLoad):
    """500 groups of 3 members that send a heartbeat every 3 s, each over its own connection."""

    mode = "idle"

    def __init__(self, sizes: Sizes, protocol: str) -> None:
        super().__init__(sizes)
        self.name = f"idle-{protocol}"  # type: ignore[misc]
        self._protocol = protocol

    def run(self, system: System) -> Metrics:
        return self.members(
            system,
            *("--protocol", self._protocol, "--groups", str(self.sizes.idle_groups), "--members", "3"),
            *("--every-s", "3", "--seconds", str(self.sizes.idle_s), "--partitions", str(PARTITIONS)),
        )
