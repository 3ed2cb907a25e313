"""The command: ``python -m tools.faults KIND --seed N --rounds N``. Exit code 0: no anomaly; 1: some; 3: skipped.

SIGTERM, or Ctrl-C, ends it after the round that is under way, with all its figures; the second one at once.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import signal
import sys
import tempfile
import time
from pathlib import Path

from tools.faults.report import Report, Skipped, end_after, end_at_first

KINDS = (
    "kill",
    "exactly-once",
    "late",
    "hanging",
    "calls",
    "compaction",
    "flips",
    "full",
    "limits",
    "power",
    "clock",
    "simulation",
    "hostile",
)
SKIPPED = 3


def end_soon(number: int, _: object) -> None:
    """Begin no other round."""
    end_after(0)
    signal.signal(number, signal.default_int_handler)


def main() -> int:
    """Run one kind and print what was found."""
    parser = argparse.ArgumentParser(prog="python -m tools.faults", description=__doc__)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--directory", type=Path, help="where files may go, and stay; a temporary one is removed")
    parser.add_argument("--on", default="", help="what the kind offers: a file system, a system call, a flush mode")
    parser.add_argument("--seconds", type=float, help="begin no round after so many, however many --rounds say")
    parser.add_argument("--first", action="store_true", help="begin no round after the first anomaly")
    chosen = parser.parse_args()
    if chosen.first:
        end_at_first()
    if chosen.seconds is not None:
        end_after(chosen.seconds)
    module = importlib.import_module("tools.faults." + chosen.kind.replace("-", "_"))
    more = {"on": chosen.on} if "on" in inspect.signature(module.run).parameters and chosen.on else {}
    begun = time.monotonic()
    try:
        if chosen.directory is not None:
            chosen.directory.mkdir(parents=True, exist_ok=True)
            report: Report = module.run(chosen.seed, chosen.rounds, chosen.directory, **more)
        else:
            with tempfile.TemporaryDirectory(prefix="logd-faults-") as name:
                report = module.run(chosen.seed, chosen.rounds, Path(name), **more)
    except Skipped as why:
        print(f"{chosen.kind}: skipped: {why}")
        return SKIPPED
    report.figures["seconds"] = round(time.monotonic() - begun, 1)
    print("\n".join(report.lines()))
    return 0 if report.ok else 1


if __name__ == "__main__":
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, end_soon)
    sys.exit(main())
