"""The options that every command has, wherever they stand: before the noun or after the verb; the later one wins.

Flag > environment > context > default. Imports nothing heavy: it is there for ``--help`` and completion too.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click
import msgspec

if TYPE_CHECKING:
    from logd.cli.contexts import Context

F = TypeVar("F", bound=Callable[..., Any])

DEFAULT_BOOTSTRAP = "127.0.0.1:9092"
DEFAULT_TIMEOUT_S = 30.0
AMOUNT_MAX = 1e9
PARTITIONS_MAX = (1 << 31) - 1
REPLICAS_MAX = (1 << 15) - 1
TIMEOUT_MS_MAX = (1 << 31) - 1
"""What fits into a request."""
FORMATS = ("table", "json", "jsonl", "tsv", "name")


class Amount(click.FloatRange):
    """A number of seconds or the like: neither infinite nor "not a number", which ranges let through."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        found = super().convert(value, param, ctx)
        if not abs(found) <= AMOUNT_MAX:
            self.fail(f"{value} is no number up to {AMOUNT_MAX:g}", param, ctx)
        return found


class Settings(msgspec.Struct):
    """What the common options say; None where they say nothing.

    `bootstrap`, `output` and `timeout_s` look at the flag, then at the environment, then at the context.
    """

    given_bootstrap: str | None = None
    given_context: str | None = None
    given_output: str | None = None
    given_timeout_s: float | None = None

    @property
    def bootstrap(self) -> str:
        """The servers to ask first."""
        if self.given_bootstrap:
            return self.given_bootstrap
        if not self.given_context and (address := os.environ.get("LOGD_BOOTSTRAP")):
            return address
        context = self._context()
        return DEFAULT_BOOTSTRAP if context is None else context.bootstrap

    @property
    def source(self) -> str:
        """What names the servers."""
        if self.given_bootstrap:
            return "--bootstrap"
        if not self.given_context and os.environ.get("LOGD_BOOTSTRAP"):
            return "LOGD_BOOTSTRAP"
        if self.given_context:
            return f"--context {self.given_context}"
        if os.environ.get("LOGD_CONTEXT"):
            return f"LOGD_CONTEXT {os.environ['LOGD_CONTEXT']}"
        from logd.cli import contexts

        current = contexts.load().current
        return f"context {current}" if current else "default"

    @property
    def output(self) -> str | None:
        """The form of the output; None: a table on a terminal, plain lines in a pipe."""
        if self.given_output is not None:
            return self.given_output
        context = self._context()
        return None if context is None else context.output

    @property
    def timeout_s(self) -> float:
        """How long to wait for a server."""
        if self.given_timeout_s is not None:
            return self.given_timeout_s
        context = self._context()
        return DEFAULT_TIMEOUT_S if context is None or context.timeout_s is None else context.timeout_s

    @property
    def timeout_ms(self) -> int:
        """The same in milliseconds, as requests carry it."""
        return min(max(int(self.timeout_s * 1000), 1), TIMEOUT_MS_MAX)

    def _context(self) -> Context | None:
        """The context in use, if any. :raises Failure: it does not exist."""
        name = self.given_context or os.environ.get("LOGD_CONTEXT")
        if not name and (self.given_bootstrap or os.environ.get("LOGD_BOOTSTRAP")):
            return None  # a server that was named is not the one of the context
        from logd.cli import contexts

        name = name or contexts.load().current
        return contexts.find(name) if name else None


def examples(*lines: str) -> str:
    """Command lines to show at the end of a command's help, as they are typed."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


def _remember(context: click.Context, parameter: click.Parameter, value: Any) -> None:
    settings = context.ensure_object(Settings)
    if value is not None and parameter.name is not None:
        setattr(settings, parameter.name, value)


def _remember_bootstrap(context: click.Context, parameter: click.Parameter, value: str | None) -> None:
    if value is not None and not value.strip():
        raise click.BadParameter("it is empty; write HOST:PORT, or leave the option out", context, parameter)
    _remember(context, parameter, value)


def _complete_context(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    from logd.cli.contexts import context_names

    return context_names(context, parameter, incomplete)


def common_options(formats: Sequence[str] = FORMATS) -> Callable[[F], F]:
    """Give a command the common options; `formats` are those that its `-o` takes."""
    choices = [
        click.option(
            "--timeout",
            "given_timeout_s",
            type=Amount(min=0, min_open=True),
            metavar="SECONDS",
            help=f"How long to wait for the server.  [default: {DEFAULT_TIMEOUT_S:g}]",
            expose_value=False,
            callback=_remember,
        ),
        click.option(
            "-o",
            "--output",
            "given_output",
            type=click.Choice(formats),
            help="Form of the output.  [default: table on a terminal, tsv in a pipe]",
            expose_value=False,
            callback=_remember,
        ),
        click.option(
            "-b",
            "--bootstrap",
            "given_bootstrap",
            metavar="HOST:PORT",
            help=f"Server to ask first; several with commas.  [env: LOGD_BOOTSTRAP; default: {DEFAULT_BOOTSTRAP}]",
            expose_value=False,
            callback=_remember_bootstrap,
        ),
        click.option(
            "--context",
            "given_context",
            metavar="NAME",
            help="The server of that name, see `logd-cli context`.  [env: LOGD_CONTEXT; default: the one in use]",
            expose_value=False,
            callback=_remember,
            shell_complete=_complete_context,
        ),
    ]
    return lambda function: functools.reduce(lambda done, option: option(done), choices, function)


def confirm(verb: str, names: Sequence[str], yes: bool, *, inside: bool = True) -> None:
    """Ask for the name of what is about to be destroyed, unless `yes`; the answer must be exactly it."""
    from logd.cli.failures import FAILED, Failure

    if yes:
        return
    wanted = names[0] if len(names) == 1 else f"{len(names)}"
    rest = " and all that is in it" if inside else ""
    what = f"{verb} {names[0]!r}{rest}" if len(names) == 1 else f"{verb} {', '.join(names)}"
    kind = "its name" if len(names) == 1 else f"their number ({wanted})"
    click.echo(f"This will {what}. It can't be undone.", err=True)
    try:
        answer = click.prompt(f"Type {kind} to go on", default="", show_default=False, err=True)
    except click.Abort:
        click.echo(err=True)  # Ctrl-C, Ctrl-D and the end of a pipe leave the question's line open
        raise
    if answer != wanted:
        raise Failure("nothing was done", f"{answer!r} is not {wanted!r}", "give --yes to go on unasked", FAILED)
