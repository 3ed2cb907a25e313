"""What commands print: a rich table on a terminal, tab-separated lines in a pipe, JSON when asked for.

Data goes to stdout, notes to stderr. rich is imported only when a table is drawn.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import click

ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})

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


def to_json(value: Any, *, pretty: bool = False) -> str:
    """JSON on one line, or indented."""
    import msgspec

    data = msgspec.json.encode(value)
    return (msgspec.json.format(data, indent=2) if pretty else data).decode()


def show_rows(output: str | None, columns: Sequence[str], rows: Iterable[Row], *, title: str = "") -> None:
    """Rows of one kind. In JSON each is an object whose keys are the columns; as names, the first cells."""
    form = chosen(output)
    listed = list(rows)
    if form == "table":
        _draw(columns, listed, title)
    elif form == "tsv":
        _lines("\t".join(escaped(text_of(cell)) for cell in row) for row in listed)
    elif form == "name":
        _lines(text_of(row[0]) for row in listed)
    else:
        objects = [dict(zip(columns, row, strict=True)) for row in listed]
        if form == "json":
            _lines([to_json(objects, pretty=True)])
        else:
            _lines(map(to_json, objects))


class Thing(NamedTuple):
    """One thing with tables in it: (title, columns, rows)."""

    fields: Mapping[str, Any]
    tables: Sequence[tuple[str, Sequence[str], Sequence[Row]]]


def show_things(output: str | None, things: Sequence[Thing]) -> None:
    """Things to look at closely. JSON shows all fields, an array when there are several; lines the first table."""
    form = chosen(output)
    if form == "json":
        found = [thing.fields for thing in things]
        _lines([to_json(found if len(found) > 1 else found[0], pretty=True)])
    elif form == "jsonl":
        _lines(to_json(thing.fields) for thing in things)
    elif form == "table":
        for thing in things:
            _draw_thing(thing)
    else:
        for thing in things:
            _, columns, rows = thing.tables[0]
            show_rows(form, columns, rows)


def _draw_thing(thing: Thing) -> None:
    for key, value in thing.fields.items():
        if not isinstance(value, list | tuple | dict):
            click.echo(f"{key.replace('_', ' '):<18}{text_of(value)}")
    for title, columns, rows in thing.tables:
        if rows:
            _draw(columns, rows, title)


def _lines(lines: Iterable[str]) -> None:
    text = "".join(f"{line}\n" for line in lines)
    sys.stdout.write(text)
    sys.stdout.flush()


def _draw(columns: Sequence[str], rows: Sequence[Row], title: str) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    numeric = [all(isinstance(row[index], int | float) for row in rows) for index in range(len(columns))]
    table = Table(box=box.SIMPLE_HEAD, title=title or None, title_justify="left", pad_edge=False)
    for column, is_number in zip(columns, numeric, strict=True):
        table.add_column(column.replace("_", " "), justify="right" if is_number else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(text_of(cell)) for cell in row))
    width = None if is_terminal() else 200
    Console(file=sys.stdout, width=width, highlight=False).print(table)
