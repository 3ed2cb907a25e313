"""Named connections, kept in ``contexts.toml`` in the user's configuration directory.

The file holds the name of the current context and a table for each. Read by the common options whenever neither a
flag nor the environment names a server; written by ``logd-cli context`` alone, whole, with the user's rights only.
"""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path
from typing import Annotated, Literal

import click
import msgspec

from logd.cli.failures import NOT_FOUND, Failure, did_you_mean
from logd.cli.options import AMOUNT_MAX

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


Form = Literal["table", "json", "jsonl", "tsv", "name"]


class Context(msgspec.Struct, forbid_unknown_fields=True):
    """One named connection; None leaves a value to its default."""

    bootstrap: str
    timeout_s: Annotated[float, msgspec.Meta(gt=0, le=AMOUNT_MAX)] | None = None
    output: Form | None = None


class Contexts(msgspec.Struct, forbid_unknown_fields=True):
    """What the file holds."""

    current: str | None = None
    contexts: dict[str, Context] = {}


def location() -> Path:
    """The file; it need not exist."""
    base = os.environ.get("XDG_CONFIG_HOME") or os.path.join(os.path.expanduser("~"), ".config")
    return Path(base) / "logd" / "contexts.toml"


def load() -> Contexts:
    """All contexts; none when there is no file.

    :raises Failure: the file is damaged.
    """
    path = location()
    try:
        text = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return Contexts()
    import tomllib

    try:
        return msgspec.convert(tomllib.loads(text.decode()), Contexts)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError) as error:
        remedy = "correct it, or remove it"
        if "unknown field" in str(error):
            remedy = "leave it out: a context has bootstrap, timeout_s and output; TLS and logins are not there yet"
        raise Failure("the file of contexts can't be read", f"{path}: {error}", remedy) from None


def find(name: str) -> Context:
    """The context of that name. :raises Failure: there is none."""
    known = load().contexts
    if name not in known:
        count = f"there {'is' if len(known) == 1 else 'are'} {len(known)} context{'' if len(known) == 1 else 's'}"
        hint = did_you_mean(name, known)
        why = f"{count}, none of that name{'; ' + hint if hint else ''}"
        remedy = "logd-cli context list"
        if name == load().current:
            why, remedy = f"{location()} says that it is in use", "logd-cli context use NAME, or - for none"
        raise Failure(f"context {name!r} does not exist", why, remedy, NOT_FOUND)
    return known[name]


def _quoted(text: str) -> str:
    """A basic string of TOML: JSON's escapes are among its own, but for the one control character JSON lets through."""
    return msgspec.json.encode(text).decode().replace("\x7f", "\\u007f")


def written(contexts: Contexts) -> str:
    """The file's text."""
    parts = [] if contexts.current is None else [f"current = {_quoted(contexts.current)}\n"]
    for name, context in sorted(contexts.contexts.items()):
        parts.append(f"\n[contexts.{_quoted(name)}]\nbootstrap = {_quoted(context.bootstrap)}\n")
        if context.timeout_s is not None:
            parts.append(f"timeout_s = {float(context.timeout_s)!r}\n")
        if context.output is not None:
            parts.append(f"output = {_quoted(context.output)}\n")
    return "".join(parts)


def save(contexts: Contexts) -> None:
    """Replace the file as a whole: a reader sees the old one or the new one."""
    path = location()
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".contexts-")
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(written(contexts))
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


def context_names(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Completes the name of a context."""
    try:
        return [name for name in sorted(load().contexts) if name.startswith(incomplete)]
    except (Failure, OSError):
        return []
