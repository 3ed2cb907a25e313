"""``logd-cli tail``: the newest records of topics, and those that come."""

from __future__ import annotations

import click

from logd.cli.completion import topic_names
from logd.cli.consume import Run, plan_of
from logd.cli.options import FORMATS, Settings, common_options, examples
from logd.cli.records import TOKENS
from logd.cli.session import run_async


@click.command(epilog=examples("logd-cli tail orders", "logd-cli tail orders payments -n 0 --grep error"))
@click.argument("topics", metavar="TOPIC...", nargs=-1, shell_complete=topic_names)
@click.option("-n", "--last", type=click.IntRange(min=0), default=10, show_default=True, help="Of each partition.")
@click.option("-p", "--partition", "partitions", type=click.IntRange(min=0), multiple=True, help="Only these.")
@click.option("-g", "--grep", metavar="REGEX", help="Only records whose key or value matches.")
@click.option("-f", "--format", "template", metavar="TEXT", help=f"Write each record so: {TOKENS}; \\n, \\t.")
@common_options((*FORMATS, "raw"))
@click.pass_context
def tail(
    context: click.Context,
    topics: tuple[str, ...],
    last: int,
    partitions: tuple[int, ...],
    grep: str | None,
    template: str | None,
) -> None:
    """Print the newest records of topics, then those that come, until Ctrl-C.

    In a pipe: one line for each record, as `consume` prints it.
    """
    if not topics and template is not None:  # as `tail -f FILE` is typed
        raise click.UsageError("no topic is named: tail goes on without -f, which is a format here", context)
    if not topics:
        raise click.MissingParameter(ctx=context, param=context.command.params[0])
    settings: Settings = context.obj
    plan = plan_of(
        settings,
        topics=topics,
        where=f"-{last}",
        count=None,
        stop_at_end=False,
        partitions=partitions,
        template=template,
        isolation="committed",
        grep=grep,
    )
    run_async(settings, lambda: Run(settings, plan).run())
