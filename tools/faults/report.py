"""What a run found, and how it says so: one line of figures, the anomalies, the bound that "0 of N" gives."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from tools.faults.history import Anomaly

SHOWN_MAX = 12
TELL_EVERY_S = 30.0
_END: list[float] = []
_FIRST: list[bool] = []


def end_after(seconds: float) -> None:
    """Have every kind stop after the round in which so many seconds have passed."""
    _END[:] = [time.monotonic() + seconds]


def end_at_first() -> None:
    """Have every kind stop after the round in which the first anomaly was found."""
    _FIRST.append(True)


def only_first() -> bool:
    """Whether the first anomaly is all that is wanted, so that looking early pays."""
    return bool(_FIRST)


def late() -> bool:
    """Whether no other round is to begin."""
    return bool(_END) and time.monotonic() > _END[0]


class Skipped(Exception):
    """This machine cannot do it; the text says what is missing."""


@dataclass(slots=True)
class Report:
    """The outcome of some rounds of one kind of fault."""

    kind: str
    seed: int
    faults: int = 0
    found: list[Anomaly] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    """What is no anomaly and has to be said."""
    _told_at: float = field(default_factory=time.monotonic)
    _told: int = 0

    def add(self, anomalies: Iterable[Anomaly], where: str = "") -> None:
        """Take anomalies in, with the round that they belong to."""
        for one in anomalies:
            self.wrong(one.kind, f"{where}: {one.text}" if where else one.text)

    def wrong(self, kind: str, text: str) -> None:
        """Take in one anomaly."""
        self.found.append(Anomaly(kind, text))
        if _FIRST:
            end_after(0)

    def longest(self, name: str, value: float) -> None:
        """Keep the largest of some figures."""
        self.figures[name] = max(round(value, 3), self.figures.get(name, 0))

    def count(self, name: str, more: int = 1) -> None:
        """Add to a figure."""
        self.figures[name] = self.figures.get(name, 0) + more

    def tell(self) -> None:
        """Print to stderr how far it is, now and then, and each anomaly soon: a run may be killed before its end."""
        if self._told == len(self.found) and time.monotonic() < self._told_at + TELL_EVERY_S:
            return
        told, self._told, self._told_at = self._told, len(self.found), time.monotonic()
        lines = [self._head(), *(f"  {one.kind}: {one.text}" for one in self.found[told:])]
        print(time.strftime("%H:%M:%S"), "\n".join(lines), file=sys.stderr, flush=True)

    @property
    def ok(self) -> bool:
        """Whether there is no anomaly, and anything was done at all."""
        return not self.found and self.faults > 0

    def _head(self) -> str:
        figures = " ".join(f"{name}={value}" for name, value in self.figures.items())
        kinds = " ".join(f"{name}={count}" for name, count in sorted(Counter(one.kind for one in self.found).items()))
        done = f"{self.kind} seed={self.seed} faults={self.faults}"
        return f"{done} {figures} anomalies={len(self.found)} {kinds}".strip()

    def lines(self) -> list[str]:
        """What is printed at the end."""
        out = [self._head()]
        out += [f"  {one.kind}: {one.text}" for one in self.found[:SHOWN_MAX]]
        out += [f"  note: {one}" for one in self.notes]
        if not self.faults:
            out.append("  nothing was tried")
        elif not self.found:
            out.append(f"  0 of {self.faults}: with 95 % confidence fewer than {300 / self.faults:.2g} % fail")
        return out
