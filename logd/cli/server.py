"""``logd serve``: reads the settings, raises limits, runs the node, turns signals into a graceful stop.

Prints one line on stdout when it serves; logs go to stderr. Nothing but this module ends the process.
"""

from __future__ import annotations

import gc
import logging
import os
import resource
import signal
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any, NoReturn

import click

from logd import __version__

if TYPE_CHECKING:
    import trio

    from logd.config import Settings
    from logd.node import Node

LINES_A_SECOND = 20
"""Of one kind."""

USAGE = 2
FAILED = 1
GC_ALLOCATIONS = 20_000
"""New objects before the youngest are looked at; Python's own figure is 700."""


class Program(click.Group):
    """The program; a command line that can't be used is told in three lines, as by logd-cli."""

    def main(self, *args: Any, **kwargs: Any) -> NoReturn:
        kwargs["standalone_mode"] = False
        kwargs.setdefault("prog_name", "logd")
        try:
            code = super().main(*args, **kwargs)
        except click.exceptions.NoArgsIsHelpError as error:
            click.echo(error.ctx.get_help(), err=True)
            code = USAGE
        except click.UsageError as error:
            from logd.cli.failures import show
            from logd.cli.usage import wrong_usage

            show(wrong_usage(error))
            code = USAGE
        except click.exceptions.Abort:  # Ctrl-C before anything listened for it
            from logd.cli.failures import INTERRUPTED

            code = INTERRUPTED
        sys.exit(code if isinstance(code, int) else 0)


@click.group(cls=Program, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="logd %(version)s")
def main() -> None:
    """logd: a Kafka-style, append-only log server."""


class JsonLines(logging.Formatter):
    """One JSON object for each log record."""

    def format(self, record: logging.LogRecord) -> str:
        import json

        line: dict[str, Any] = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S") + f".{int(record.msecs):03d}",
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


class Sparing(logging.Filter):
    """Lets a kind of line through so many times a second; the next one says how many were left out.

    A peer that misbehaves a thousand times a second would else fill the disk, or stop a server whose stderr is a pipe
    that nobody empties.
    """

    def __init__(self) -> None:
        super().__init__()
        self._second = 0
        self._seen: Counter[str] = Counter()
        self._left_out: Counter[str] = Counter()

    def filter(self, record: logging.LogRecord) -> bool:
        """Say whether the line is written."""
        second, kind = int(record.created), str(record.msg)
        if second != self._second:
            self._second = second
            self._seen.clear()
        self._seen[kind] += 1
        if self._seen[kind] > LINES_A_SECOND:
            self._left_out[kind] += 1
            return False
        left_out = self._left_out.pop(kind, 0)
        if left_out:
            record.msg = f"{record.msg} (and {left_out} more like this)"
        return True


def set_up_logs(log_format: str, level: str) -> None:
    """Logs to stderr, as text for people or JSON for machines."""
    handler = logging.StreamHandler(sys.stderr)
    if log_format == "json":
        handler.setFormatter(JsonLines())
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s"))
    handler.addFilter(Sparing())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


def raise_file_limit() -> None:
    """Let the process open as many files as the system allows it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def calm_collector() -> None:
    """Leave what was made at start out of garbage collection, and collect the rest less often: shorter pauses."""
    gc.freeze()
    gc.set_threshold(GC_ALLOCATIONS, 20, 20)


def fail(code: int, message: str) -> None:
    """End with a sentence on stderr, or a line for each of several."""
    for line in message.splitlines():
        click.echo(f"logd: {line}", err=True)
    sys.exit(code)


def _listener(text: str, number: int) -> str:
    """A ``--listen`` value as an entry of ``listeners``; a name may stand in front: NAME://HOST:PORT."""
    if "://" in text:
        return text
    return f"{'PLAINTEXT' if number == 0 else f'PLAINTEXT{number + 1}'}://{text}"


def _sets(sets: tuple[str, ...], data_dir: str | None, listen: tuple[str, ...], node_id: int | None) -> list[str]:
    """The options that have a name of their own, written as settings; they come after ``--set`` and win."""
    found = list(sets)
    if data_dir is not None:
        found.append(f"log.dirs={data_dir}")
    if listen:
        entries = [_listener(text, number) for number, text in enumerate(listen)]
        found.append(f"listeners={','.join(entries)}")
        names = [entry.partition("://")[0].upper() for entry in entries]
        if not any(item.startswith("listener.security.protocol.map=") for item in sets):
            found.append("listener.security.protocol.map=" + ",".join(f"{name}:PLAINTEXT" for name in names))
    if node_id is not None:
        found.append(f"node.id={node_id}")
    return found


def _refuse_unbuilt(http: str, nodes: int, metadata: str | None) -> None:
    if http != "off":
        fail(USAGE, f"--http {http}: the HTTP door is not built yet; use --http off or leave the option out")
    if nodes != 1:
        fail(USAGE, f"--nodes {nodes}: several nodes are not built yet; use --nodes 1 or leave the option out")
    if metadata is not None:
        fail(
            USAGE,
            f"--metadata {metadata}: metadata is kept in an SQLite file in the data directory, nothing else is built "
            "yet; leave the option out",
        )


@main.command()
@click.option(
    "--config", "config_file", metavar="FILE", help="Settings in a TOML file, or in one of Kafka's (.properties)."
)
@click.option("--data-dir", metavar="DIR", help="Where data is kept. [default: ./logd-data]")
@click.option(
    "--listen",
    multiple=True,
    metavar="HOST:PORT",
    help="Kafka listener, also NAME://HOST:PORT; port 0 picks a free one. May be repeated. [default: 127.0.0.1:9092]",
)
@click.option(
    "--http", default="off", metavar="HOST:PORT|off", help="HTTP listener; only `off` is built. [default: off]"
)
@click.option("--nodes", default=1, metavar="N", help="Nodes on this machine; only 1 is built. [default: 1]")
@click.option("--node-id", type=int, metavar="N", help="The broker id. [default: 0]")
@click.option("--metadata", metavar="URL", help="Where metadata is kept; only the embedded SQLite file is built.")
@click.option(
    "--set", "sets", multiple=True, metavar="KEY=VALUE", help="A setting, by Kafka's name. May be given more than once."
)
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="Of what goes to stderr.",
)
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
    help="The least that is told.",
)
def serve(
    config_file: str | None,
    data_dir: str | None,
    listen: tuple[str, ...],
    http: str,
    nodes: int,
    node_id: int | None,
    metadata: str | None,
    sets: tuple[str, ...],
    log_format: str,
    log_level: str,
) -> None:
    """Run one node until SIGTERM, SIGINT or SIGHUP; a second one of them ends it at once.

    Prints one line to stdout when it serves, `logd ready kafka=... http=off data=...`; the log goes to stderr. Exit
    code 1: it can't start or had to stop, 2: the command line or a setting is wrong.
    """
    from logd.config import BadSetting, load

    _refuse_unbuilt(http, nodes, metadata)
    set_up_logs(log_format, log_level)
    try:
        settings = load(config_file, _sets(sets, data_dir, listen, node_id), os.environ)
    except BadSetting as bad:
        fail(USAGE, str(bad))
    else:
        raise_file_limit()
        _run(settings)


def _run(settings: Settings) -> None:
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # numpy's BLAS would keep memory for threads that nobody uses
    import trio

    from logd.node import CannotStart

    try:
        trio.run(_serve, settings)
    except CannotStart as error:
        fail(FAILED, str(error))


def tell_ready(line: str) -> None:
    """Say on stdout that it serves; that nobody can be told is no reason not to serve."""
    try:
        click.echo(line)
    except OSError as error:
        logging.getLogger("logd").error("the ready line can't be written to stdout (%s): %s", error, line)


def stopping_signals() -> list[signal.Signals]:
    """What stops it: a terminal that was closed too (SIGHUP), but under nohup, which ignores that."""
    found = [signal.SIGTERM, signal.SIGINT]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        found.append(signal.SIGHUP)
    return found


async def _serve(settings: Settings) -> None:
    import trio

    from logd.node import CannotStart, run_node

    refused: CannotStart | None = None
    with trio.open_signal_receiver(*stopping_signals()) as signals:
        async with trio.open_nursery() as outer:
            async with trio.open_nursery() as inner:
                try:
                    node: Node = await inner.start(run_node, settings)
                except CannotStart as error:
                    refused = error
                else:
                    outer.start_soon(_stop_on_signal, signals, node, inner.cancel_scope)
                    kafka = ",".join(node.bootstrap)
                    calm_collector()
                    tell_ready(f"logd ready kafka={kafka} http=off data={settings.log_dirs[0]}")
            outer.cancel_scope.cancel()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # all is done: one more signal does not change how it ended
    if refused is not None:
        raise refused


async def _stop_on_signal(signals: Any, node: Node, scope: trio.CancelScope) -> None:
    """The first signal stops gracefully, the second at once."""
    asked = False
    async for number in signals:
        logging.getLogger("logd").info("%s: stopping%s", signal.Signals(number).name, " at once" if asked else "")
        if asked:
            scope.cancel()
        asked = True
        node.stop()
