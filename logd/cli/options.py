"""The options that every command has, wherever they stand: before the noun or after the verb; the later one wins.

Flag > environment > default. Imports nothing heavy: it is there for ``--help`` and completion too.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click
import msgspec

F = TypeVar("F", bound=Callable[..., Any])

DEFAULT_BOOTSTRAP = "127.0.0.1:9092"
DEFAULT_TIMEOUT_S = 30.0
FORMATS = ("table", "json", "jsonl", "tsv", "name")


class Settings(msgspec.Struct):
    """What the common options say. `output` None: a table on a terminal, plain lines in a pipe."""

    bootstrap: str = DEFAULT_BOOTSTRAP
    output: str | None = None
    timeout_s: float = DEFAULT_TIMEOUT_S

    @property
    def timeout_ms(self) -> int:
        return int(self.timeout_s * 1000)


def from_environment() -> Settings:
    """The settings before any flag is seen."""
    return Settings(bootstrap=os.environ.get("LOGD_BOOTSTRAP") or DEFAULT_BOOTSTRAP)


def _remember(context: click.Context, parameter: click.Parameter, value: Any) -> None:
    settings = context.ensure_object(Settings)
    if value is not None and parameter.name is not None:
        setattr(settings, parameter.name, value)


def common_options(formats: Sequence[str] = FORMATS) -> Callable[[F], F]:
    """Give a command the common options; `formats` are those that its `-o` takes."""
    choices = [
        click.option(
            "--timeout",
            "timeout_s",
            type=click.FloatRange(min=0, min_open=True),
            metavar="SECONDS",
            help=f"How long to wait for the server.  [default: {DEFAULT_TIMEOUT_S:g}]",
            expose_value=False,
            callback=_remember,
        ),
        click.option(
            "-o",
            "--output",
            type=click.Choice(formats),
            help="Form of the output.  [default: table on a terminal, tsv in a pipe]",
            expose_value=False,
            callback=_remember,
        ),
        click.option(
            "-b",
            "--bootstrap",
            metavar="HOST:PORT",
            help=f"Server to ask first; several with commas.  [env: LOGD_BOOTSTRAP; default: {DEFAULT_BOOTSTRAP}]",
            expose_value=False,
            callback=_remember,
        ),
    ]
    return lambda function: functools.reduce(lambda done, option: option(done), choices, function)


def confirm(verb: str, names: Sequence[str], yes: bool) -> None:
    """Ask for the name of what is about to be destroyed, unless `yes`; the answer must be exactly it."""
    from logd.cli.failures import FAILED, Failure

    if yes:
        return
    wanted = names[0] if len(names) == 1 else f"{len(names)}"
    what = f"{verb} {names[0]!r} and all that is in it" if len(names) == 1 else f"{verb} {', '.join(names)}"
    kind = "its name" if len(names) == 1 else f"their number ({wanted})"
    click.echo(f"This will {what}. It can't be undone.", err=True)
    answer = click.prompt(f"Type {kind} to go on", default="", show_default=False, err=True)
    if answer != wanted:
        raise Failure("nothing was done", f"{answer!r} is not {wanted!r}", "give --yes to go on unasked", FAILED)
