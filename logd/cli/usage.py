"""What is wrong with a command line, in three lines: click's errors with the nearest names.

It knows what Kafka's tools call things. Called by ``main`` when a command line can't be used. Imports nothing heavy.
"""

from __future__ import annotations

import click

from logd.cli.failures import USAGE, Failure, nearest

OTHER_WORDS = {
    "--to": ("--offset",),
    "--to-offset": ("--offset",),
    "--to-earliest": ("--offset start",),
    "--to-latest": ("--offset end",),
    "--to-datetime": ("--offset @2026-11-01T00:00Z",),
    "--by-duration": ("--offset @-1h",),
    "--shift-by": ("--shift",),
    "--from-file": ("--from",),
    "--from-beginning": ("--offset start",),
    "--start": ("--offset start",),
    "--end": ("--offset end",),
    "--since": ("--offset @-1h",),
    "--max-messages": ("--count",),
    "--limit": ("--count",),
    "--num": ("--count", "--records"),
    "--num-records": ("--records",),
    "--record-size": ("--size",),
    "--throughput": ("--rate",),
    "--bootstrap-server": ("--bootstrap",),
    "--brokers": ("--bootstrap",),
    "--execute": ("--yes",),
    "--force": ("--yes",),
    "--replication-factor": ("--replicas",),
    "--compression": ("--codec",),
    "--compression-codec": ("--codec",),
    "--format": ("--output",),
    "--json": ("--output json",),
    "--add-config": ("--config",),
    "--set": ("--config",),
    "--delete-config": ("--unset",),
    "--validate-only": ("--dry-run",),
}
"""What Kafka's tools and others call an option that is called otherwise here."""

SECURE = frozenset(
    (
        *("--tls", "--ssl", "--ca", "--cafile", "--cacert", "--cert", "--sasl", "--sasl-mechanism", "--token"),
        *("--user", "--username", "--password", "--security-protocol", "--command-config"),
    )
)
"""What others call the ways to an encrypted or protected listener."""
PLAIN_ONLY = "logd-cli has no TLS and no login yet; give it a listener without them"

OTHER_VERBS = {
    "ls": ("list",),
    "show": ("describe", "get", "info", "list"),
    "get": ("describe", "list"),
    "info": ("describe",),
    "describe": ("get", "info", "show", "list"),
    "new": ("create", "add"),
    "create": ("add",),
    "add": ("create",),
    "rm": ("delete", "remove"),
    "remove": ("delete",),
    "delete": ("remove",),
    "edit": ("alter", "set"),
    "update": ("alter", "set"),
    "use-context": ("use",),
    "topics": ("topic",),
    "groups": ("group",),
    "configs": ("config",),
}
"""What others call a command."""


def wrong_usage(error: click.UsageError) -> Failure:
    """The failure for a command line that click refuses."""
    path = error.ctx.command_path if error.ctx is not None else "logd-cli"
    what, remedy = "the command line is wrong", f"{path} --help"
    if isinstance(error, click.exceptions.NoSuchCommand):
        what = f"{path} has no command {error.command_name!r}"
        if near := _other_command(error):
            return Failure(what, _meant(near), f"{path} {near[0]} --help", USAGE)
        return Failure(what, "no command is near it", remedy, USAGE)
    if isinstance(error, click.NoSuchOption):
        return Failure(f"{path} has no option {error.option_name}", _other_option(error), remedy, USAGE)
    if isinstance(error, click.BadParameter) and error.param is not None and isinstance(error.param.type, click.Choice):
        return Failure(what, _other_choice(error, error.param, error.param.type), remedy, USAGE)
    return Failure(what, error.format_message().rstrip("."), remedy, USAGE)


def _other_command(error: click.exceptions.NoSuchCommand) -> list[str]:
    there = (
        error.ctx.command.list_commands(error.ctx) if error.ctx and isinstance(error.ctx.command, click.Group) else []
    )
    called = [name for name in OTHER_VERBS.get(error.command_name, ()) if name in there]
    return called[:1] or list(error.possibilities or ())


def _other_option(error: click.NoSuchOption) -> str:
    parameters = error.ctx.command.get_params(error.ctx) if error.ctx is not None else []
    options = [name for parameter in parameters if parameter.param_type_name == "option" for name in parameter.opts]
    arguments = [parameter.human_readable_name for parameter in parameters if parameter.param_type_name == "argument"]
    name = error.option_name
    if name in SECURE:
        return PLAIN_ONLY
    if words := next((words for words in OTHER_WORDS.get(name, ()) if words.split()[0] in options), ""):
        return f"did you mean {words}?"
    group = error.ctx.parent.info_name if error.ctx is not None and error.ctx.parent is not None else None
    if noun := _argument(name, arguments, group or ""):
        return f"the {noun} is given alone, without an option before it"
    return _meant(nearest(name, [option for option in options if option.startswith("--")])) or "no option is near it"


def _argument(option: str, arguments: list[str], group: str) -> str:
    """The argument that is an option elsewhere: by its name, its first letter, or what the commands are about."""
    noun = option.lstrip("-").replace("-", "_").upper()
    for argument in arguments:
        if len(option) == 2 and option[1].islower():
            first = argument.lstrip("[").partition("[")[0].rstrip("].")
            if first.startswith(noun):
                return first.lower()
        elif len(noun) > 1 and (noun in argument or (argument.startswith("NAME") and noun == group.upper())):
            return noun.lower().replace("_", " ")
    return ""


def _other_choice(error: click.BadParameter, parameter: click.Parameter, choice: click.Choice[str]) -> str:
    """What the choice is called, what was given, what there is, and the nearest of it."""
    known = [str(item) for item in choice.choices]
    name = max(parameter.opts, key=len) if parameter.param_type_name == "option" else (parameter.name or "").upper()
    if isinstance(error, click.MissingParameter):
        return f"{name} is missing; it is one of {', '.join(known)}"
    given = error.message.partition(" is not ")[0]
    hint = _meant(nearest(given.strip("'\""), known))
    return f"{name} {given} is none of {', '.join(known)}{'; ' + hint if hint else ''}"


def _meant(names: list[str]) -> str:
    return f"did you mean {' or '.join(names)}?" if names else ""
