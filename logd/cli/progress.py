"""A bar on stderr for what takes longer than a second; nothing in a pipe, nothing for what is quick.

The time is read here and nowhere below. Used by whatever reads, writes or works through a lot.
"""

from __future__ import annotations

import os
import stat
import sys
import time
from types import TracebackType
from typing import Self, TextIO

QUIET_S = 1.0
"""What takes less is not worth a bar."""
EVERY_S = 0.1
BAR_WIDTH = 24
ROOM_FOR_CTRL_C = 3
"""Columns that stay free: the ^C that a terminal shows must not wrap, or the line can't be wiped."""
BAR_WIDTH_MIN = 5
"""A shorter one is left out."""


class Progress:
    """``with Progress("reading", total) as progress: progress.advance(5)``; `total` None: the end is not known.

    :param unit: what is counted; "B" is shown in multiples.
    :param wanted: False where data is written to the same terminal, or there is nothing to wait for.
    """

    def __init__(
        self, what: str, total: int | None, unit: str = "records", *, to: TextIO | None = None, wanted: bool = True
    ) -> None:
        self.done = 0
        self._what = what
        self._total = total
        self._unit = unit
        self._to = to or sys.stderr
        self._shown = False
        self._started = self._last = time.monotonic()
        self._active = wanted and self._to.isatty() and os.environ.get("TERM", "dumb") != "dumb"

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
        width = self._columns() - ROOM_FOR_CTRL_C
        self._to.write("\r" + self._line(elapsed_s, width)[:width] + "\x1b[K")
        self._to.flush()
        self._shown = True

    def _columns(self) -> int:
        """Of the terminal that is written to: stdout may be another, or a file."""
        try:
            return os.get_terminal_size(self._to.fileno()).columns or 80
        except (OSError, ValueError):
            return 80

    def _line(self, elapsed_s: float, width: int) -> str:
        """What matters least stands last, where a narrow terminal cuts it off; the bar is as long as there is room."""
        rate = self.done / elapsed_s
        said = f"{amount(self.done, self._unit)}  {amount(int(rate), self._unit)}/s"
        if not self._total:
            return f"{self._what:<10} {said}"
        share = min(self.done / self._total, 1.0)
        left = f"  {clock(max((self._total - self.done) / rate, 0))} left" if rate else ""
        said = f"{share:4.0%}{left}  {said}"
        room = min(width - len(f"{self._what:<10} [] {said}"), BAR_WIDTH)
        if room < BAR_WIDTH_MIN:
            return f"{self._what} {said}"
        return f"{self._what:<10} [{'#' * int(share * room):<{room}}] {said}"


def file_bytes(stream: TextIO) -> int | None:
    """The bytes of a regular file that lie before us, None when `stream` is a terminal, a pipe or nothing at all."""
    try:
        found = os.fstat(stream.fileno())
        return found.st_size - os.lseek(stream.fileno(), 0, os.SEEK_CUR) if stat.S_ISREG(found.st_mode) else None
    except (OSError, ValueError):
        return None


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
