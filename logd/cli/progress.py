"""A bar on stderr for what takes longer than a second; nothing in a pipe, nothing for what is quick.

The time is read here and nowhere below. Used by ``backup``, ``bench``, ``retention run`` and ``compaction run``.
"""

from __future__ import annotations

import shutil
import sys
import time
from types import TracebackType
from typing import Self, TextIO

QUIET_S = 1.0
"""What takes less is not worth a bar."""
EVERY_S = 0.1
BAR_WIDTH = 24


class Progress:
    """``with Progress("reading", total) as progress: progress.advance(5)``; `total` None: the end is not known.

    :param unit: what is counted; "B" is shown in multiples.
    """

    def __init__(self, what: str, total: int | None, unit: str = "records", *, to: TextIO | None = None) -> None:
        self.done = 0
        self._what = what
        self._total = total
        self._unit = unit
        self._to = to or sys.stderr
        self._shown = False
        self._started = self._last = time.monotonic()
        self._active = self._to.isatty()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._shown:
            self._to.write("\r\x1b[K")
            self._to.flush()

    def advance(self, count: int) -> None:
        """So many more are done."""
        self.done += count
        now = time.monotonic()
        if self._active and now - self._last >= EVERY_S and now - self._started >= QUIET_S:
            self._last = now
            self._show(now - self._started)

    def reached(self, done: int, total: int) -> None:
        """So many are done, of so many: both as they are known now."""
        self._total = total
        self.advance(done - self.done)

    def _show(self, elapsed_s: float) -> None:
        rate = self.done / elapsed_s
        line = f"{self._what:<10} {amount(self.done, self._unit)}  {amount(int(rate), self._unit)}/s"
        if self._total:
            share = min(self.done / self._total, 1.0)
            bar = "#" * int(share * BAR_WIDTH)
            left_s = (self._total - self.done) / rate if rate else 0
            line = f"{self._what:<10} [{bar:<{BAR_WIDTH}}] {share:4.0%}  {line[11:]}  {clock(max(left_s, 0))} left"
        width = shutil.get_terminal_size().columns - 1
        self._to.write("\r" + line[:width] + "\x1b[K")
        self._to.flush()
        self._shown = True


def amount(count: float, unit: str) -> str:
    """A number for people: bytes in multiples, others with separators between thousands."""
    if unit != "B":
        return f"{count:,.0f} {unit}".rstrip()
    for name in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {name}" if name == "B" else f"{count:.1f} {name}"
        count /= 1000
    return f"{count:.1f} TB"


def clock(seconds: float) -> str:
    """Seconds as h:mm:ss or m:ss."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
