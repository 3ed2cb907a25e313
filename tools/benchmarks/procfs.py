"""What Linux knows of a process: CPU time, anonymous memory, and the CPU time that everybody else took meanwhile.

Owns nothing. Called around every measured run. Never looks at a process by name.
"""

from __future__ import annotations

import os
import resource
import time
from dataclasses import dataclass
from pathlib import Path

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
IDLE_COLUMNS = (3, 4)  # idle and iowait in the first line of /proc/stat


def cpu_s(pid: int) -> float:
    """User plus system CPU seconds of the process, all its threads, in steps of 1/TICKS_PER_S (0.01 s)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


def rss_anon_bytes(pid: int) -> int:
    """Anonymous resident memory of the process, bytes: what nobody can drop without swapping."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    return 0


def peak_rss_bytes(pid: int) -> int:
    """The most memory that the process ever had resident, bytes: the pages of files that it mapped too."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def disk_bytes(directory: Path) -> int:
    """Bytes that the directory's files occupy on disk (allocated blocks, not lengths)."""
    total = 0
    for parent, _, names in os.walk(directory):
        for name in names:
            try:
                total += os.stat(os.path.join(parent, name)).st_blocks * 512
            except FileNotFoundError:  # deleted while we looked
                continue
    return total


def machine_busy_s() -> float:
    """CPU seconds that all cores together were busy since boot."""
    columns = [int(each) for each in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return (sum(columns) - sum(columns[each] for each in IDLE_COLUMNS)) / TICKS_PER_S


def children_s() -> float:
    """CPU seconds of this process and of all its ended children (the clients; servers end later)."""
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


@dataclass(frozen=True, slots=True)
class Used:
    """CPU used between two moments: by the server, by our clients, by all others on the machine (kernel included)."""

    wall_s: float
    server_s: float
    clients_s: float
    others_s: float


class Stopwatch:
    """Measures CPU from its creation to `read()`. One server, and the child processes that ended in between."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._wall, self._server, self._clients, self._machine = self._now()

    def _now(self) -> tuple[float, float, float, float]:
        return time.monotonic(), cpu_s(self._pid), children_s(), machine_busy_s()

    def read(self) -> Used:
        """What was used since the creation."""
        wall, server, clients, machine = self._now()
        server_s, clients_s = server - self._server, clients - self._clients
        others_s = max(0.0, machine - self._machine - server_s - clients_s)
        return Used(wall - self._wall, server_s, clients_s, others_s)
