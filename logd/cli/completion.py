"""``logd-cli completion``: the shell's side of completion, and the names that the Tab key offers.

The names are asked for with one blocking socket (``logd.cli.quick``): no trio, no rich. A server that does not answer
at once offers nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import get_completion_class

if TYPE_CHECKING:
    from logd.cli.options import Settings

SHELLS = ("bash", "zsh", "fish")
LIMIT_S = 2.0
"""How long somebody who has pressed Tab is kept waiting."""
BASH = r"""_logd_cli() {
    local line=${COMP_LINE:0:COMP_POINT} type value
    local begun=${line##*[[:space:]]}  # of which bash sees what stands behind the last colon
    [[ $line == *[[:space:]] ]] && line+="''"  # a word that is still empty
    while IFS=, read -r type value; do
        case $type in
            file) compopt -o default ;;
            dir) compopt -o dirnames ;;
            plain)
                [[ $value == *= ]] && compopt -o nospace
                [[ $value == *[![:alnum:]_.:/=@%+,-]* ]] && printf -v value %q "$value"
                COMPREPLY+=("${value#"${begun%"${begun##*:}"}"}")
                ;;
        esac
    done < <(COMP_WORDS=$line COMP_CWORD=-1 _LOGD_CLI_COMPLETE=bash_complete "$1" 2>/dev/null)
}

complete -o nosort -F _logd_cli logd-cli
"""
"""What bash runs. click's own script takes HOST:PORT for three words, and puts names on the line as they come: a group
may be called anything."""
CHANGES = {
    "fish": [("(commandline -t) logd-cli)", "(commandline -t) logd-cli 2>/dev/null)"), ('split ","', 'split -m 1 ","')],
    "zsh": [
        ("zsh_complete logd-cli)", "zsh_complete logd-cli 2>/dev/null)"),
        (
            "        compadd -U -V unsorted -a completions\n",
            "        if [[ $completions[1] == *= ]]; then\n"
            '            compadd -S "" -U -V unsorted -a completions\n'
            "        else\n"
            "            compadd -U -V unsorted -a completions\n"
            "        fi\n",
        ),
    ],
}
"""What stands in click's scripts, and what instead: a value follows `KEY=` at once, without a space; names with commas
are whole; and nothing is written between the words.

Another version of click may have other scripts: then completion works as click has it."""


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the completion script for a shell.

    `eval "$(logd-cli completion bash)"` switches it on.
    """
    if shell == "bash":
        return click.echo(BASH)
    found = get_completion_class(shell)
    assert found is not None
    root = context.find_root()
    source = found(root.command, {}, "logd-cli", "_LOGD_CLI_COMPLETE").source()
    for clicks, ours in CHANGES[shell]:
        source = source.replace(clicks, ours)
    click.echo(source)


def _asked(context: click.Context, ask: Callable[[str], list[str]]) -> list[str]:
    from logd.cli.failures import Failure
    from logd.cli.options import Settings
    from logd.cli.quick import NoAnswer

    settings: Settings = context.ensure_object(Settings)
    found: list[str] = []

    def run() -> None:
        with suppress(NoAnswer, Failure, OSError):  # no server, no such context, or its file can't be read
            found.extend(ask(settings.bootstrap))

    asking = threading.Thread(target=run, daemon=True)  # left behind where the resolver or the server makes us wait
    asking.start()
    asking.join(LIMIT_S)
    return list(found)


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
