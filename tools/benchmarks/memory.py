"""Free memory that really is there: on a virtual machine the host takes free pages back and gives them again slowly.

The first write to such a page costs some 11 us of the writer's system time, 3 CPU seconds a GB, which is more than a
server needs for all the rest; what a run pays then depends on what ran before it. So :func:`held` keeps a process that
touches a lot of memory and gives back every second page of it: the free ones between can't join to the large blocks
that hosts take (2 MiB), and the kernel hands out single pages before it breaks up larger blocks. Called by the command
line around all loads. It changes no setting of the system, and what it held is free again when its process ends.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

PAGE_BYTES = mmap.PAGESIZE
SHARE = 0.4
HELD_BYTES_MAX = 10 << 30


def fitting_bytes() -> int:
    """How much to touch on this machine: 0.4 of what is available, 10 GiB at most. Half of it is free afterwards."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return min(int(int(line.split()[1]) * 1024 * SHARE), HELD_BYTES_MAX)
    return 0


@contextlib.contextmanager
def held(size_bytes: int) -> Iterator[None]:
    """Inside, half of `size_bytes` is free in single pages that the host has given to us. 0 does nothing."""
    if not size_bytes:
        yield
        return
    command = [sys.executable, "-m", "tools.benchmarks.memory", str(size_bytes)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        try:
            yield
        finally:
            holder.kill()


def hold(size_bytes: int) -> mmap.mmap:
    """Touch so much memory and give back every second page of it."""
    area = mmap.mmap(-1, size_bytes // PAGE_BYTES * PAGE_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    area.madvise(mmap.MADV_NOHUGEPAGE)
    pages = np.frombuffer(area, np.uint8)
    pages[::PAGE_BYTES] = 1
    address: int = pages.__array_interface__["data"][0]
    madvise = ctypes.CDLL(None, use_errno=True).madvise
    madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    for start in range(0, len(area), 2 * PAGE_BYTES):
        madvise(address + start, PAGE_BYTES, mmap.MADV_DONTNEED)
    return area


if __name__ == "__main__":
    kept = hold(int(sys.argv[1]))
    print("held", flush=True)
    sys.stdin.read()
