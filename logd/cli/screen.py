"""The live screen of ``logd-cli top``: what fits into the terminal, drawn anew as long as it is looked at.

It is given a function that looks, and goes on when that fails: a server that restarts is waited for, and the screen
says for how long. ``q`` or Ctrl-C ends it. Owns the terminal meanwhile, and gives it back as it was.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any

import trio
from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from logd.cli.failures import explain
from logd.cli.output import GAP, label, printable
from logd.cli.progress import amount, clock
from logd.cli.top import GROUP_COLUMNS, TOPIC_COLUMNS
from logd.client import ClientError
from logd.errors import Refused

if TYPE_CHECKING:
    from rich.console import RenderableType

LESS_IMPORTANT = ("state", "members", "partitions", "bytes", "records", "seconds", "bytes_s")
"""Columns that are left out where there is no room, the first of them first."""
NAME_WIDTH_MIN = 12
TICK_S = 1.0
LATE_S = 2.0
"""An answer that takes so much longer than the time between two looks is missed."""
KEYS_OF_THE_END = b"qQ\x03\x04"
OTHER_SCREEN, OWN_SCREEN = b"\x1b[?1049l\x1b[?25h", b"\x1b[?1049h\x1b[?25l"
"""What the terminal is told: the screen of the shell and its cursor, and back."""

Look = Callable[[], Awaitable[Mapping[str, Any]]]


class Watch:
    """One screen, from the first look to the last key."""

    def __init__(self, look: Look, every_s: float, rows: int | None) -> None:
        """`look` gives the fields of ``top``; `rows` is the number of topics and of groups, None: what fits."""
        self._look = look
        self._every_s = every_s
        self._rows = rows
        self._fields: Mapping[str, Any] = {}
        self._seen_s = 0.0
        self._trouble = ""
        self._changed = trio.Event()

    async def run(self) -> None:
        """Until a key ends it. The first look may fail: then there is nothing to show. :raises ClientError, Refused:"""
        console = Console(highlight=False)
        self._fields, self._seen_s = await self._look(), trio.current_time()
        with Live(console=console, screen=True, auto_refresh=False) as live, _keys_at_once():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._keep_looking)
                nursery.start_soon(_until_a_key_ends_it, nursery.cancel_scope)
                while True:
                    live.update(self._picture(console), refresh=True)
                    self._changed = trio.Event()
                    with trio.move_on_after(TICK_S):
                        await self._changed.wait()

    async def _keep_looking(self) -> None:
        while True:
            await trio.sleep(self._every_s)
            try:
                self._fields, self._seen_s = await self._look(), trio.current_time()
                self._trouble = ""
            except (ClientError, Refused) as error:
                failure = explain(error)
                self._trouble = failure.why if failure is not None else str(error)
            self._changed.set()

    def _picture(self, console: Console) -> RenderableType:
        late_s = trio.current_time() - self._seen_s - self._every_s
        trouble = ""
        if self._trouble or late_s > LATE_S:
            trouble = f"no answer for {clock(late_s + self._every_s)}: {self._trouble or 'asking again'}"
        return picture(self._fields, console.width, console.height, self._rows, trouble)


async def _until_a_key_ends_it(scope: trio.CancelScope) -> None:
    if not sys.stdin.isatty():
        return
    while True:
        await trio.lowlevel.wait_readable(sys.stdin.fileno())
        keys = os.read(sys.stdin.fileno(), 64)
        if not keys or set(keys) & set(KEYS_OF_THE_END):
            return scope.cancel()


@contextmanager
def _keys_at_once() -> Iterator[None]:
    """Keys come without Enter, and are not shown; Ctrl-C is still a signal. While Ctrl-Z holds the command, the
    terminal is as it was before, and the screen too."""
    if not sys.stdin.isatty():
        yield
        return
    import termios
    import tty

    keys = sys.stdin.fileno()
    before, taker = termios.tcgetattr(keys), signal.getsignal(signal.SIGTSTP)

    def stop(number: int, frame: FrameType | None) -> None:
        os.write(sys.stdout.fileno(), OTHER_SCREEN)
        termios.tcsetattr(keys, termios.TCSADRAIN, before)
        os.kill(os.getpid(), signal.SIGSTOP)  # and here it goes on
        tty.setcbreak(keys)
        os.write(sys.stdout.fileno(), OWN_SCREEN)

    tty.setcbreak(keys)
    if taker == signal.SIG_DFL:
        signal.signal(signal.SIGTSTP, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTSTP, taker)
        termios.tcsetattr(keys, termios.TCSADRAIN, before)


def picture(fields: Mapping[str, Any], width: int, height: int, rows: int | None, trouble: str = "") -> Group:
    """One picture: a head, topics and groups, as many lines and columns of them as fit."""
    topics, groups = [_topic(item) for item in fields["topics"]], [_group(item) for item in fields["groups"]]
    room = max(height - 9, 6)
    for_groups = min(len(groups), max(room // 2, room - len(topics)))
    for_topics = min(len(topics), room - for_groups)
    head = f"{amount(fields['records_s'], 'records')}/s  {amount(fields['bytes_s'], 'B')}/s  (q ends)  "
    head += f"{fields['brokers']} broker{'s' * (fields['brokers'] != 1)}  cluster {fields['cluster']}"
    return Group(
        Text(trouble or head, no_wrap=True, overflow="ellipsis", style="reverse" if trouble else ""),
        _table(TOPIC_COLUMNS, topics[: rows or for_topics], width),
        _table(GROUP_COLUMNS, groups[: rows or for_groups], width),
    )


def _topic(item: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        item["topic"],
        f"{item['partitions']}",
        f"{item['records_s']:,.0f}",
        f"{amount(item['bytes_s'], 'B')}",
        f"{item['records']:,}",
        "" if item["bytes"] is None else amount(item["bytes"], "B"),
    )


def _group(item: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        printable(item["group"]),
        item["state"],
        f"{item['members']}",
        "" if item["lag"] is None else f"{item['lag']:,}",
        "" if item["seconds"] is None else f"{item['seconds']:,.1f}",
        f"{item['records_s']:,.0f}",
    )


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> Table:
    """The name takes what the numbers leave; numbers are shown whole or not at all."""
    needed = {
        name: max(len(label(name)), *(len(row[index]) for row in rows), 0)
        for index, name in enumerate(columns)
        if index
    }
    for name in LESS_IMPORTANT:
        if sum(needed.values()) + GAP * len(needed) + NAME_WIDTH_MIN > width:
            needed.pop(name, None)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, expand=True)
    table.add_column(label(columns[0]), no_wrap=True, overflow="ellipsis", ratio=1)
    for name, least in needed.items():
        table.add_column(label(name), justify="right", no_wrap=True, width=least)
    for row in rows:
        table.add_row(
            *(Text(cell) for name, cell in zip(columns, row, strict=True) if name == columns[0] or name in needed)
        )
    return table
