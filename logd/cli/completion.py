"""``logd-cli completion``: the shell's side of completion, and the names that the Tab key offers.

The names are asked for with one blocking socket (``logd.cli.quick``): no trio, no rich. A server that does not answer
at once offers nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import get_completion_class

if TYPE_CHECKING:
    from logd.cli.options import Settings

SHELLS = ("bash", "zsh", "fish")
JOINED = {
    "bash": [("    return 0\n", "    [[ ${COMPREPLY[0]} == *= ]] && compopt -o nospace\n    return 0\n")],
    "zsh": [
        (
            "        compadd -U -V unsorted -a completions\n",
            "        if [[ $completions[1] == *= ]]; then\n"
            '            compadd -S "" -U -V unsorted -a completions\n'
            "        else\n"
            "            compadd -U -V unsorted -a completions\n"
            "        fi\n",
        )
    ],
}
"""What click's scripts lack, and what stands there instead: a value follows `KEY=` at once, without a space.

Another version of click may have other scripts: then the space stays, and completion works all the same."""


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the completion script for a shell.

    `eval "$(logd-cli completion bash)"` switches it on.
    """
    found = get_completion_class(shell)
    assert found is not None
    root = context.find_root()
    source = found(root.command, {}, "logd-cli", "_LOGD_CLI_COMPLETE").source()
    for clicks, ours in JOINED.get(shell, ()):
        source = source.replace(clicks, ours)
    click.echo(source)


def _asked(context: click.Context, ask: Callable[[str], list[str]]) -> list[str]:
    from logd.cli.failures import Failure
    from logd.cli.options import Settings
    from logd.cli.quick import NoAnswer

    settings: Settings = context.ensure_object(Settings)
    try:
        return ask(settings.bootstrap)
    except (NoAnswer, Failure, OSError):  # no server, no such context, or its file can't be read
        return []


def _beginning(names: list[str], incomplete: str, context: click.Context, parameter: click.Parameter) -> list[str]:
    """Those that begin so, without those that stand on the line already."""
    there = context.params.get(parameter.name or "") or ()
    taken = there if isinstance(there, tuple) else ()
    return [name for name in names if name.startswith(incomplete) and name not in taken]


def topic_names(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Completes a topic; the server's own ones when an underscore is typed."""
    from logd.cli import quick

    return _beginning(_asked(context, quick.topic_names), incomplete, context, parameter)


def group_names(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Completes a consumer group."""
    from logd.cli import quick

    return _beginning(_asked(context, quick.group_names), incomplete, context, parameter)


def resource_names(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Completes what has settings, by the kind that stands before it."""
    from logd.cli import quick

    kind = context.params.get("kind")
    if kind == "topic":
        return topic_names(context, parameter, incomplete)
    if kind == "group":
        return group_names(context, parameter, incomplete)
    names = _asked(context, quick.broker_names) if kind == "broker" else []
    return _beginning([*names, "default"] if kind == "broker" else [], incomplete, context, parameter)


def setting_names(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Completes the name of a setting of the topic or broker that stands before it; `=` follows where a value does."""
    from logd.cli import quick

    params: dict[str, Any] = context.params
    kind, name = params.get("kind"), params.get("name") or ""
    if kind not in ("topic", "broker"):
        return []
    number, resource = (2, name) if kind == "topic" else (4, "0" if name == "default" else name)
    names = _asked(context, lambda server: quick.setting_names(server, number, resource))
    equals = "=" if parameter.name == "values" else ""
    return _beginning([key + equals for key in names], incomplete, context, parameter)
