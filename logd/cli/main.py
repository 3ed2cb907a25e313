"""``logd-cli``: topics, records, groups and logs from the command line.

The root of the tree of commands, and the one place where errors become three lines and an exit code. Each command is
in a module of its own that is imported when it is called or listed; none of them imports trio, numpy or rich before it
runs, so that help and shell completion are quick. ``logd serve`` is another program: ``logd.cli.server``.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn

import click

from logd import __version__
from logd.cli.failures import DONE, INTERRUPTED, SIGNALLED, USAGE, Failure, explain, show
from logd.cli.lazy import LazyGroup
from logd.cli.options import Settings, common_options
from logd.cli.output import nobody_reads
from logd.cli.usage import wrong_usage

TRACEBACK = "LOGD_TRACEBACK"
"""The environment variable that lets an error nobody expected through, with all that Python knows of it."""

HELP = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


class Root(LazyGroup):
    """The tree; ends the process with the exit codes of :mod:`logd.cli.failures`."""

    def main(self, *args: Any, **kwargs: Any) -> NoReturn:
        kwargs["standalone_mode"] = False
        kwargs.setdefault("prog_name", "logd-cli")
        kwargs.setdefault("obj", Settings())
        if sys.stdin is None:  # closed by the caller: there is nothing to read
            sys.stdin = open(os.devnull)  # noqa: SIM115
        if sys.stderr is None:
            sys.stderr = open(os.devnull, "w")  # noqa: SIM115
        with _orderly() as ended_by:
            code = guarded(lambda: super(Root, self).main(*args, **kwargs))
        sys.exit(SIGNALLED + ended_by[0] if ended_by else code)

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        try:
            return super().make_context(*args, **kwargs)
        except BrokenPipeError:  # --help and --version, which are shown while the options are read
            nobody_reads()
            raise click.exceptions.Exit(DONE) from None

    def invoke(self, ctx: click.Context) -> Any:
        if sys.stdout is None:
            raise Failure("nothing can be shown", "stdout is closed", "send it to a file, or to /dev/null")
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
            return result
        except BrokenPipeError:
            nobody_reads()  # it has seen enough, as `head` does: that is no failure
            return DONE


@contextmanager
def _orderly() -> Iterator[list[int]]:
    """SIGTERM and SIGHUP end a command as Ctrl-C does: terminals are given back, half files removed.

    They are handed to what takes Ctrl-C at the time, trio or Python, which knows where it may end. A signal that is
    ignored stays so: where that is Ctrl-C, as in the background of a script, it is held up, and there is a taker still.
    """
    came: list[int] = []

    def interrupt(number: int, frame: FrameType | None) -> None:
        came.append(number)
        taker = signal.getsignal(signal.SIGINT)
        assert callable(taker)
        taker(signal.SIGINT, frame)

    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        signal.signal(signal.SIGINT, signal.default_int_handler)
    before = {}
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:
            before[number] = signal.signal(number, interrupt)
    try:
        yield came
    finally:
        for number, taker in before.items():
            signal.signal(number, taker)


def guarded(run: Callable[[], Any]) -> int:
    """Run a command; its exit code, after the three lines of what went wrong."""
    try:
        result = run()
        return result if isinstance(result, int) else DONE
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help(), err=True)
        return USAGE
    except click.UsageError as error:
        show(wrong_usage(error))
        return USAGE
    except click.exceptions.Abort as error:
        if not isinstance(error.__cause__ or error.__context__, KeyboardInterrupt):
            show(Failure("nothing was done", "the question was not answered", "give --yes to go on unasked"))
            return 1
        return INTERRUPTED
    except click.ClickException as error:
        show(Failure("the command failed", error.format_message()))
        return error.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED
    except BaseException as error:
        failure = explain(error)
        if failure is None:
            if not isinstance(error, Exception) or os.environ.get(TRACEBACK):
                raise
            what, why = "logd-cli has made a mistake", f"{type(error).__name__}: {error}"
            failure = Failure(what, why, f"{TRACEBACK}=1 logd-cli ... shows where; please report that")
        show(failure)
        return failure.code


@click.command(
    "logd-cli",
    cls=Root,
    context_settings=HELP,
    lazy={
        "backup": "logd.cli.backup:backup",
        "bench": "logd.cli.bench:bench",
        "cluster": "logd.cli.cluster:cluster",
        "config": "logd.cli.configs:config",
        "context": "logd.cli.context:context",
        "compaction": "logd.cli.jobs:compaction",
        "completion": "logd.cli.completion:completion",
        "consume": "logd.cli.consume:consume",
        "doctor": "logd.cli.doctor:doctor",
        "group": "logd.cli.group:group",
        "log": "logd.cli.logs:log",
        "produce": "logd.cli.produce:produce",
        "reference": "logd.cli.reference:reference",
        "retention": "logd.cli.jobs:retention",
        "tail": "logd.cli.tail:tail",
        "top": "logd.cli.top:top",
        "topic": "logd.cli.topics:topic",
        "transaction": "logd.cli.transactions:transaction",
        "why": "logd.cli.why:why",
    },
    no_args_is_help=True,
)
@click.version_option(__version__, message="logd-cli %(version)s")
@common_options()
def main() -> None:
    """Topics, records, groups and logs of logd, or of any server that speaks the Kafka protocol.

    A table on a terminal, tab-separated lines in a pipe; -o says otherwise. Data goes to stdout, everything else
    to stderr.
    """
