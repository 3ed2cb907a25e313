"""What commands print: a rich table on a terminal, tab-separated lines in a pipe, JSON when asked for.

Data goes to stdout, notes to stderr. rich is imported only when a table is drawn.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from itertools import islice
from typing import Any, Literal, NamedTuple

import click

ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})

CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Characters that move the cursor, change the colours or turn the direction of a terminal, and halves of pairs."""

MOMENT = re.compile(r"^(\d{4}-\d\d-\d\d)T([\d:.]+)\+00:00$")
"""A time as :func:`moment` writes it."""

PIPE_WIDTH = 200
"""Characters of a table that goes into a pipe or a file."""
FOLDED_WIDTH = 16
"""Characters of a line that a text is folded to at the least."""
GAP = 3
"""Characters between two columns."""
LINES_AT_ONCE = 1000
"""So many lines are put together before they are written."""

RATES = {"records_s": "records/s", "bytes_s": "bytes/s", "mb_s": "MB/s"}

Cell = Any
Row = Sequence[Cell]


def is_terminal() -> bool:
    """Whether stdout is one."""
    return sys.stdout.isatty()


def chosen(output: str | None) -> str:
    """The form to use when the option says `output`."""
    return output or ("table" if is_terminal() else "tsv")


def note(text: str) -> None:
    """A line for the person at the keyboard, on stderr."""
    click.echo(text, err=True)


def text_of(cell: Cell) -> str:
    """A cell as text: nothing for None, lists with commas, yes and no."""
    if cell is None:
        return ""
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    if isinstance(cell, list | tuple):
        return ",".join(map(text_of, cell))
    return str(cell)


def escaped(text: str) -> str:
    """Text that fits into one field of one line."""
    return text.translate(ESCAPES)


def moment(time_ms: int, precision: str = "milliseconds") -> str:
    """A time in UTC; what no calendar has, as `--offset` takes it: a record may carry any number for its time."""
    try:
        return datetime.fromtimestamp(time_ms / 1000, UTC).isoformat(timespec=precision)
    except (ValueError, OverflowError, OSError):
        return f"@{time_ms}"


def printable(text: str) -> str:
    """Text that does nothing to a terminal: control characters as \\n, \\x1b and the like."""
    return CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def to_json(value: Any, *, pretty: bool = False) -> str:
    """JSON on one line, or indented."""
    import msgspec

    data = msgspec.json.encode(value)
    return (msgspec.json.format(data, indent=2) if pretty else data).decode()


def show_rows(
    output: str | None,
    columns: Sequence[str],
    rows: Iterable[Row],
    *,
    title: str = "",
    name: int = 0,
    nothing: str | None = None,
) -> None:
    """Rows of one kind; what is not a table nor JSON in one piece is written while they come.

    In JSON each is an object whose keys are the columns; as names, each cell of column `name` once.

    :param nothing: what is said in place of a table without rows; "": nothing, None: that there are none of the first
        column.
    """
    form = chosen(output)
    if form == "table":
        listed = list(rows)
        if listed:
            _draw(columns, listed, title)
        elif nothing != "":
            note(f"no {label(columns[0])}s" if nothing is None else nothing)
    elif form == "tsv":
        show_lines("\t".join(escaped(text_of(cell)) for cell in row) for row in rows)
    elif form == "name":
        show_lines(dict.fromkeys(escaped(text_of(row[name])) for row in rows))
    else:
        objects = (dict(zip(columns, row, strict=True)) for row in rows)
        if form == "json":
            show_lines([to_json(list(objects), pretty=True)])
        else:
            show_lines(map(to_json, objects))


class Thing(NamedTuple):
    """One thing with tables in it: (title, columns, rows)."""

    fields: Mapping[str, Any]
    tables: Sequence[tuple[str, Sequence[str], Sequence[Row]]]


def show_things(output: str | None, things: Sequence[Thing]) -> None:
    """Things to look at closely. JSON shows all fields, an array when there are several; lines the first table."""
    form = chosen(output)
    if form == "json":
        found = [thing.fields for thing in things]
        show_lines([to_json(found if len(found) > 1 else found[0], pretty=True)])
    elif form == "jsonl":
        show_lines(to_json(thing.fields) for thing in things)
    elif form == "table":
        for thing in things:
            _draw_thing(thing)
    else:
        for thing in things:
            _, columns, rows = thing.tables[0]
            show_rows(form, columns, rows)


def _draw_thing(thing: Thing) -> None:
    fields = [(key, value) for key, value in thing.fields.items() if not isinstance(value, list | tuple | dict)]
    for key, value in fields:
        click.echo(f"{label(key):<18}{printable(text_of(value))}")
    for title, columns, rows in thing.tables:
        if rows:
            _draw(columns, rows, title)


def show_lines(lines: Iterable[str]) -> None:
    """These lines, as they stand, while they come."""
    sys.stdout.flush()
    rest = iter(lines)
    while some := list(islice(rest, LINES_AT_ONCE)):
        text = "".join(f"{line}\n" for line in some)
        sys.stdout.buffer.write(text.encode("utf-8", "surrogateescape"))  # names of files are any bytes
        sys.stdout.buffer.flush()


def nobody_reads() -> None:
    """Whoever read our output has left: what is still to be written goes nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, sys.stdout.fileno())
    except (OSError, ValueError):
        pass
    finally:
        os.close(nowhere)


def label(column: str) -> str:
    """What stands over a column: rates get their stroke."""
    return RATES.get(column) or column.replace("_", " ")


def _draw(columns: Sequence[str], rows: Sequence[Row], title: str) -> None:
    """A table; where it does not fit into the terminal, one block of lines for each row."""
    cells = [[MOMENT.sub(r"\1 \2Z", printable(text_of(cell))) for cell in row] for row in rows]
    numeric = [all(isinstance(row[index], int | float) for row in rows) for index in range(len(columns))]
    width = shutil.get_terminal_size((80, 24)).columns if is_terminal() else PIPE_WIDTH
    least = [_least(index, columns, cells, numeric) for index in range(len(columns))]
    room = width - GAP * len(columns)
    if sum(least) > room:
        return _stack(columns, cells, title)
    _tabulate(columns, cells, numeric, title, width, _widths(columns, cells, least, room))


def _least(index: int, columns: Sequence[str], cells: Sequence[Sequence[str]], numeric: Sequence[bool]) -> int:
    """The characters that a column needs to be read: all of a number, some of a text, all of its head's words."""
    longest = max(len(row[index]) for row in cells)
    head = max(map(len, label(columns[index]).split()))
    return max(longest if numeric[index] else min(longest, FOLDED_WIDTH), head)


def _widths(columns: Sequence[str], cells: Sequence[Sequence[str]], least: Sequence[int], room: int) -> list[int]:
    """As wide as heads and cells are shown; what is too much is taken from the widest that may be narrower."""
    from rich.cells import cell_len

    longest = [max(cell_len(row[index]) for row in cells) for index in range(len(columns))]
    widths = [min(max(len(label(column)), size), room) for column, size in zip(columns, longest, strict=True)]
    for _ in range(sum(widths) - room):
        widest = max(range(len(widths)), key=lambda index: widths[index] if widths[index] > least[index] else -1)
        widths[widest] -= 1
    return widths


def _stack(columns: Sequence[str], cells: Sequence[Sequence[str]], title: str) -> None:
    """One line for each cell, with its column before it."""
    labels = [label(column) for column in columns]
    pad = max(map(len, labels)) + 2
    if title:
        click.echo(f"\n{title}")
    for row in cells:
        click.echo("\n" + "\n".join(f"{label:<{pad}}{cell}" for label, cell in zip(labels, row, strict=True) if cell))


def _tabulate(
    columns: Sequence[str],
    cells: Sequence[Sequence[str]],
    numeric: Sequence[bool],
    title: str,
    width: int,
    widths: Sequence[int],
) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, title=title or None, title_justify="left", pad_edge=False)
    for column, is_number, size in zip(columns, numeric, widths, strict=True):
        justify: Literal["left", "right"] = "right" if is_number else "left"
        table.add_column(label(column), justify=justify, overflow="fold", width=size)
    for row in cells:
        table.add_row(*map(Text, row))
    Console(file=sys.stdout, width=width, highlight=False).print(table)
