"""Who may import what. The order of the layers is kept by import-linter (setup.cfg); here stands what it cannot see."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

from tests.sources import ROOT, Source, package
from tests.test_tidy import report

IMPURE = {"trio", "os", "mmap", "socket", "sqlite3", "httpx", "time", "random", "threading"}
PURE = (
    "logd/wire/",
    "logd/partitions/replication.py",
    "logd/cluster/image.py",
    "logd/cluster/controller.py",
    "logd/cluster/placement.py",
    "logd/coordinators/",
    "logd/expressions.py",
)
# The shell round the machines: it waits, so it knows trio.
SHELL = tuple(
    f"logd/coordinators/{name}.py"
    for name in ("runtime", "journal", "timer", "front", "shards", "transaction_front", "markers")
)
# One owner for each outside library but trio, numpy and msgspec.
OWNERS = {
    "crc32c": ("logd/wire/", "logd/log/"),
    "cramjam": ("logd/wire/compression.py",),
    "click": ("logd/cli/",),
    "rich": ("logd/cli/",),
    "trio_websocket": ("logd/doors/websocket.py",),
    "sqlite3": ("logd/cluster/sqlite.py",),
    "pytest": ("logd/testing/plugin.py",),
    "asyncio": (),
    "hypothesis": (),
}
SEAM = ("logd/log/disk.py", "logd/log/bulk.py")
# What only the disk seam does to the files of a log.
DISK_ONLY = {"posix_fallocate", "fsync", "fdatasync", "ftruncate", "pwrite", "pwritev", "rename", "replace", "memmap"}


def roots(source: Source) -> set[str]:
    """The outermost packages that a file imports."""
    return {name.partition(".")[0] for name in source.imports()}


def test_contracts_of_import_linter() -> None:
    """The layers of setup.cfg hold."""
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_decides_is_pure() -> None:
    """Codecs, images and coordinator machines wait for nothing, touch no disk, and read no clock."""
    broken = []
    for source in package():
        if source.path.startswith(PURE) and source.path not in SHELL:
            broken += [f"{source.path}: imports {name}" for name in sorted(roots(source) & IMPURE)]
    report(broken)


def test_libraries_have_one_owner() -> None:
    """An outside library is imported by the part that owns it and by nobody else."""
    broken = []
    for source in package():
        for library in sorted(roots(source) & OWNERS.keys()):
            if not source.path.startswith(OWNERS[library]):
                broken.append(f"{source.path}: imports {library}, which belongs to {OWNERS[library] or 'nobody'}")
    report(broken)


def test_only_the_disk_seam_changes_log_files() -> None:
    """In the log nothing but disk.py, and bulk.py for the worker, maps, allocates, syncs, writes or renames."""
    broken = []
    for source in package():
        if not source.path.startswith("logd/log/") or source.path in SEAM:
            continue
        for node in ast.walk(source.tree):
            if isinstance(node, ast.Attribute) and node.attr in DISK_ONLY and isinstance(node.value, ast.Name):
                called = f"{node.value.id}.{node.attr}"
                if called.startswith(("os.", "np.", "numpy.", "mmap.")):
                    broken.append(f"{source.path}:{node.lineno}: {called}")
    report(broken)


def test_doors_do_not_know_each_other() -> None:
    """A door imports no other door."""
    broken = []
    for source in package():
        if not source.path.startswith("logd/doors/"):
            continue
        mine = source.module.split(".")[2:3]
        others = {name.split(".")[2] for name in source.imports() if name.startswith("logd.doors.")}
        shared = {"listener", "connection"}
        broken += [f"{source.path}: imports door {other}" for other in sorted(others - set(mine) - shared)]
    report(broken)
