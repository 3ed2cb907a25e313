"""Where the data of a test's broker lives when nobody says where: in memory if there is room.

:func:`memory_directory` makes such a directory for :class:`logd.testing.broker.Broker`, which removes it. A process
that is killed cannot, and memory is dear, so the first one that a process makes takes away what dead ones left.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import tempfile
from functools import cache
from pathlib import Path

MEMORY = Path("/dev/shm")
MEMORY_BYTES_MIN = 512 << 20
PREFIX = "logd-test-"
NAME = re.compile(PREFIX + r"(\d+)-\w+")
LOCK_NAME = ".lock"


def memory_directory() -> Path:
    """Make a directory in memory where there is room for it, else an ordinary temporary one."""
    parent = _parent()
    _sweep_once(parent)
    return Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=parent))


def sweep(parent: Path) -> None:
    """Remove the directories of brokers whose process is dead and whose lock nobody holds."""
    for path in parent.glob(PREFIX + "*"):
        named = NAME.fullmatch(path.name)
        if named and not Path(f"/proc/{named[1]}").exists() and _abandoned(path):
            shutil.rmtree(path, ignore_errors=True)


@cache
def _sweep_once(parent: Path) -> None:
    sweep(parent)


def _parent() -> Path:
    try:
        room = os.statvfs(MEMORY)
    except OSError:
        return Path(tempfile.gettempdir())
    roomy = room.f_bavail * room.f_frsize >= MEMORY_BYTES_MIN and os.access(MEMORY, os.W_OK)
    return MEMORY if roomy else Path(tempfile.gettempdir())


def _abandoned(path: Path) -> bool:
    """True when the directory is ours and no process, of whatever process namespace, has locked it."""
    try:
        if path.stat().st_uid != os.geteuid():
            return False
        with (path / LOCK_NAME).open("r+b") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True
