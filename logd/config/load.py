"""Settings from a TOML file, the environment and flags; flag > environment > file.

Called by the command line once at start, and by `logd.testing`. What is unknown or wrong raises `BadSetting` with one
sentence: what, where, what to do; with one for each where several are unknown. Reads the file it is given and nothing
else; the environment is handed in.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from logd.config.listeners import check_listeners
from logd.config.properties import parse_properties
from logd.config.settings import ALIASES, DEFINITIONS, Settings, settings_from

ENV_PREFIX = "LOGD_"
# Variables with our prefix that are not settings of the broker: logd-cli's, and those of a checkout's own commands.
ENV_RESERVED = frozenset(
    {"LOGD_BOOTSTRAP", "LOGD_CONTEXT", "LOGD_OUTPUT", "LOGD_CONFIG"}
    | {"LOGD_PYTHON", "LOGD_KAFKA_LIBS", "LOGD_TEST_BOOTSTRAP", "LOGD_TEST_ONLY", "LOGD_TEST_FAILED"}
)


class BadSetting(Exception):
    """A setting that is unknown or not allowed. Its text is for the person who starts logd: one sentence, or where
    several are unknown a line for each."""


PROPERTIES = ".properties"
"""How the name of a file in Kafka's own form ends."""
IN_SET = "in --set"
OPTIONS = {"listeners": "--listen", "log.dirs": "--data-dir", "node.id": "--node-id"}
"""Settings that `logd serve` has an option for."""


def load(
    file: Path | str | None = None, sets: Iterable[str] | Mapping[str, str] = (), env: Mapping[str, str] | None = None
) -> Settings:
    """The settings of a broker.

    :param file: a TOML file, keys as in Kafka and quoted (`"log.retention.ms" = 1000`), or one in Kafka's own form
        whose name ends with `.properties`, or None.
    :param sets: what `--set` gave, as "name=value" texts or as a mapping.
    :param env: environment variables; LOGD_NUM_PARTITIONS sets num.partitions.
    :raises BadSetting: in every bad case, an unreadable file included.
    """
    given: dict[str, str] = {}
    origin: dict[str, str] = {}
    unknown: list[str] = []
    for where, source in (
        (f"in {file}", _file(file)),
        ("in the environment", _environment(env or {})),
        (IN_SET, _flags(sets)),
    ):
        for key, text in source.items():
            name = ALIASES.get(key, key)
            if name not in DEFINITIONS:
                unknown.append(_unknown(key, where))
                continue
            given[name], origin[name] = text, where
            if where == IN_SET and name in OPTIONS:
                origin[name] = f"{where} or {OPTIONS[name]}"
    if unknown:
        raise BadSetting("\n".join(unknown))
    try:
        settings = settings_from(given)
        check_listeners(settings)
    except ValueError as error:
        raise BadSetting(f"{error} ({_where(str(error), origin)}); correct it and start again.") from None
    return settings


def _where(message: str, origin: Mapping[str, str]) -> str:
    named = [name for name in origin if name in message]
    return origin[max(named, key=len)] if named else "by default"


def _unknown(name: str, where: str) -> str:
    from difflib import get_close_matches  # only on the way out: 4 ms

    from logd.config.foreign import why_absent
    from logd.config.topics import SYNONYMS

    reason = why_absent(name)
    if reason is not None:
        return f"Kafka's setting {name} {where} is none of logd's: {reason}; remove it."
    broker = SYNONYMS.get(name)
    if broker:
        return f"Setting {name} {where} is a topic's: write {broker[0][0]}, which holds for topics that set nothing."
    close = get_close_matches(name, DEFINITIONS, n=1)
    hint = f"did you mean {close[0]}?" if close else "see docs/settings.md for what logd has."
    return f"Unknown setting {name} {where}: remove it or correct its name; {hint}"


def _flags(sets: Iterable[str] | Mapping[str, str]) -> dict[str, str]:
    if isinstance(sets, Mapping):
        return dict(sets)
    found = {}
    for item in sets:
        name, equals, text = item.partition("=")
        if not equals or not name.strip():
            raise BadSetting(f"--set {item} has no value: write it as --set NAME=VALUE, as in --set num.partitions=4.")
        found[name.strip()] = text
    return found


def _environment(env: Mapping[str, str]) -> dict[str, str]:
    found = {}
    for variable, text in env.items():
        if variable.startswith(ENV_PREFIX) and variable not in ENV_RESERVED:
            found[variable.removeprefix(ENV_PREFIX).lower().replace("_", ".")] = text
    return found


def _file(file: Path | str | None) -> dict[str, str]:
    if file is None:
        return {}
    try:
        with open(file, "rb") as stream:
            data = stream.read()
    except OSError as error:
        raise BadSetting(f"Can't read the settings file {file}: {error.strerror}; give a readable file.") from None
    if str(file).endswith(PROPERTIES):
        return parse_properties(data.decode("utf-8", "replace"))
    import tomllib  # only with such a file: 5 ms

    try:
        tree = tomllib.loads(data.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadSetting(
            f"The settings file {file} is not TOML: {error}; correct it and start again, "
            f"or name it *{PROPERTIES} if it is one of Kafka's."
        ) from None
    found: dict[str, str] = {}
    _flatten("", tree, str(file), found)
    return found


def _flatten(prefix: str, tree: Mapping[str, object], file: str, found: dict[str, str]) -> None:
    for key, value in tree.items():
        name = prefix + key
        if isinstance(value, dict):
            _flatten(name + ".", value, file, found)
        elif isinstance(value, list):
            found[name] = ",".join(_text(name, item, file) for item in value)
        else:
            found[name] = _text(name, value, file)


def _text(name: str, value: object, file: str) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int | float):
        return str(value)
    raise BadSetting(f"Invalid value {value} for configuration {name} in {file}: write a text, number, true or a list.")
