"""``logd-cli context``: add, use, list, remove named connections."""

from __future__ import annotations

import click

from logd.cli.contexts import NAME, Context, Form, context_names, find, load, location, save
from logd.cli.failures import EXISTS, USAGE, Failure
from logd.cli.options import FORMATS, Amount, Settings, common_options, examples
from logd.cli.output import note, show_rows


@click.group()
def context() -> None:
    """Name servers, and choose the one to work with.

    A flag goes before the environment, the environment before the current context.
    """


@context.command("list")
@common_options()
@click.pass_obj
def list_contexts(settings: Settings) -> None:
    """List the contexts.

    In a pipe: one line for each, with name, whether it is the current one, server, timeout and output.
    """
    found = load()
    rows = [
        (name, name == found.current, item.bootstrap, item.timeout_s, item.output)
        for name, item in sorted(found.contexts.items())
    ]
    show_rows(settings.given_output, ("context", "current", "bootstrap", "timeout_s", "output"), rows)


@context.command("show")
@common_options()
@click.pass_obj
def show(settings: Settings) -> None:
    """Show the server that commands ask here, and what names it: a flag, the environment, a context, or nothing.

    In a pipe: one line with server, what names it, timeout in seconds, output, and the file of contexts.
    """
    row = (settings.bootstrap, settings.source, settings.timeout_s, settings.output, str(location()))
    form = None if settings.given_output is None else settings.output
    show_rows(form, ("bootstrap", "named_by", "timeout_s", "output", "file"), [row])


@context.command(
    "add",
    epilog=examples(
        "logd-cli context add production kafka1:9092,kafka2:9092",
        "logd-cli context add here 127.0.0.1:9092 --timeout 5 --use",
    ),
)
@click.argument("name")
@click.argument("bootstrap", metavar="HOST:PORT")
@click.option(
    "--timeout",
    "timeout_s",
    type=Amount(min=0, min_open=True),
    metavar="SECONDS",
    help="How long to wait for the server, where no flag says it.",
)
@click.option("-o", "--output", type=click.Choice(FORMATS), help="Form of the output, where no flag says it.")
@click.option("--use", "current", is_flag=True, help="Make it the current one; the first one always is.")
@click.option("--replace", is_flag=True, help="A context of that name is replaced.")
def add(name: str, bootstrap: str, timeout_s: float | None, output: Form | None, current: bool, replace: bool) -> None:
    """Add a context: a name for a server, or for several with commas between."""
    from logd.client.address import parse_addresses

    if NAME.fullmatch(name) is None:
        why = "a name has up to 64 letters, digits, '.', '_' and '-', and begins with a letter or digit"
        raise Failure(f"{name!r} can't name a context", why, "logd-cli context add production HOST:PORT", USAGE)
    try:
        parse_addresses(bootstrap)
    except ValueError as error:
        remedy = f"logd-cli context add {name} HOST:PORT"
        raise Failure("the address of the server is wrong", str(error), remedy, USAGE) from None
    contexts = load()
    if name in contexts.contexts and not replace:
        why = f"it stands for {contexts.contexts[name].bootstrap}"
        raise Failure(f"context {name!r} exists already", why, "give --replace to replace it", EXISTS)
    contexts.contexts[name] = Context(bootstrap, timeout_s, output)
    if current or contexts.current is None:
        contexts.current = name
    save(contexts)
    note(f"context {name!r} added{' and in use' if contexts.current == name else ''} ({location()})")


@context.command("use")
@click.argument("name", shell_complete=context_names)
def use(name: str) -> None:
    """Make a context the current one; `-` for none."""
    contexts = load()
    if name == "-":
        contexts.current = None
        save(contexts)
        note("no context in use")
        return
    found = find(name)
    contexts.current = name
    save(contexts)
    note(f"context {name!r} in use: {found.bootstrap}")


@context.command("remove")
@click.argument("name", shell_complete=context_names)
def remove(name: str) -> None:
    """Remove a context."""
    find(name)
    contexts = load()
    del contexts.contexts[name]
    if contexts.current == name:
        contexts.current = None
    save(contexts)
    note(f"context {name!r} removed")
