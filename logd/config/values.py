"""Values of settings: from text to a natural Python value and back, and what is allowed.

Owns the kinds of values that Kafka's DescribeConfigs names (KIP-226, KIP-569) and the checks on them. Used by the
settings of the broker and of topics. Reads no file and no environment, knows no single setting.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum

import msgspec

LONG_MAX = 2**63 - 1
INT_MAX = 2**31 - 1

Value = int | float | bool | str | tuple[str, ...] | None
Check = Callable[[Value], str | None]


class Kind(IntEnum):
    """The type of a value, numbered as DescribeConfigs v3+ answers it."""

    BOOLEAN = 1
    STRING = 2
    INT = 3
    SHORT = 4
    LONG = 5
    DOUBLE = 6
    LIST = 7
    CLASS = 8
    PASSWORD = 9


_INT_BITS = {Kind.SHORT: 16, Kind.INT: 32, Kind.LONG: 64}


class Definition(msgspec.Struct, frozen=True):
    """What is known of one setting beside its name and default.

    :param unit: "ms", "bytes", ... or "" for a plain number or word.
    :param check: gives a sentence fragment ("must be at least 1") for a value that is not allowed.
    :param scope: who may change it while the broker runs: "read-only", "per-broker" or "cluster-wide" (KIP-226).
    :param nullable: whether it may be unset (None).
    """

    kind: Kind
    doc: str
    unit: str = ""
    check: Check | None = None
    scope: str = "read-only"
    nullable: bool = False
    sensitive: bool = False


def parse(name: str, text: str | None, definition: Definition) -> Value:
    """The natural value of `text`; raises ValueError with a sentence that names `name`, the value and the remedy."""
    if text is None or (text == "" and definition.nullable):
        if definition.nullable:
            return None
        raise ValueError(f"Invalid value null for configuration {name}: it must have a value")
    value = _convert(name, text.strip() if definition.kind is not Kind.PASSWORD else text, definition.kind)
    wrong = definition.check(value) if definition.check is not None else None
    if wrong is not None:
        shown = "[hidden]" if definition.sensitive else text
        raise ValueError(f"Invalid value {shown} for configuration {name}: {wrong}")
    return value


def _convert(name: str, text: str, kind: Kind) -> Value:
    if kind is Kind.BOOLEAN:
        lowered = text.lower()
        if lowered not in ("true", "false"):
            raise ValueError(f"Invalid value {text} for configuration {name}: it must be either true or false")
        return lowered == "true"
    if kind in _INT_BITS:
        return _integer(name, text, kind)
    if kind is Kind.DOUBLE:
        try:
            return float(text)
        except ValueError:
            raise ValueError(f"Invalid value {text} for configuration {name}: not a number of type DOUBLE") from None
    if kind is Kind.LIST:
        return tuple(dict.fromkeys(item.strip() for item in text.split(","))) if text else ()
    return text


def _integer(name: str, text: str, kind: Kind) -> int:
    digits = text[1:] if text[:1] in ("-", "+") else text
    limit = 1 << (_INT_BITS[kind] - 1)
    if not (digits.isascii() and digits.isdigit() and len(digits) < 20) or not -limit <= int(text) < limit:
        raise ValueError(f"Invalid value {text} for configuration {name}: not a number of type {kind.name}")
    return int(text)


def show(value: Value) -> str | None:
    """`value` as Kafka writes it in an answer: true/false, a plain number, a comma-separated list; None stays None."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return ",".join(value)
    return str(value)


def at_least(least: float) -> Check:
    """A number that must not be below `least`."""

    def check(value: Value) -> str | None:
        assert isinstance(value, int | float)
        return None if value >= least else f"Value must be at least {least}"

    return check


def between(least: float, most: float) -> Check:
    """A number from `least` to `most`, both allowed."""

    def check(value: Value) -> str | None:
        assert isinstance(value, int | float)
        if value < least:
            return f"Value must be at least {least}"
        return None if value <= most else f"Value must be no more than {most}"

    return check


def one_of(*words: str) -> Check:
    """A word out of `words`."""

    def check(value: Value) -> str | None:
        return None if value in words else f"String must be one of: {', '.join(words)}"

    return check


def some_of(*words: str) -> Check:
    """A list of words out of `words`; it may be empty."""

    def check(value: Value) -> str | None:
        assert isinstance(value, tuple)
        return None if all(item in words for item in value) else f"List items must be out of: {', '.join(words)}"

    return check
