"""What the compilers of ``decoder.py`` and ``encoder.py`` need to know of one message in one version.

Turns the table of facts that a generated class carries into the fields present in a version. Nothing here is on
a path that runs more than once for a (class, version).
"""

from __future__ import annotations

import sys
from functools import cache
from typing import Any

import msgspec

from logd.wire.message import Message

FORMATS = {
    "bool": "?",
    "int8": "b",
    "int16": "h",
    "uint16": "H",
    "int32": "i",
    "uint32": "I",
    "int64": "q",
    "float64": "d",
    "uuid": "16s",
}
"""The struct format of every type of fixed size."""

SIZES = {"?": 1, "b": 1, "B": 1, "h": 2, "H": 2, "i": 4, "I": 4, "q": 8, "d": 8, "16s": 16, "x": 1}

STRING_BYTES_MAX = 32767
"""Kafka refuses longer strings, compact ones too."""


class Field(msgspec.Struct, frozen=True):
    """One field as it is in one version."""

    name: str
    kind: str
    """The type without "[]"; "struct" for a structure."""
    struct: type[Message] | None
    array: bool
    nullable: bool
    tag: int
    present: bool
    compact: bool
    default: Any
    """The default; for a list, or a structure that may change, a fresh one is made instead."""


def span(versions: str) -> tuple[int, int]:
    """ "3+" -> (3, 32767), "0-2" -> (0, 2), "7" -> (7, 7), "none" -> (0, -1)."""
    if versions == "none":
        return 0, -1
    if versions.endswith("+"):
        return int(versions[:-1]), 32767
    first, dash, last = versions.partition("-")
    return int(first), int(last if dash else first)


def _within(version: int, versions: str) -> bool:
    first, last = span(versions)
    return first <= version <= last


def fields_of(cls: type[Message], version: int, flexible: bool) -> tuple[Field, ...]:
    """Every field of `cls` in the order of the class, those absent from `version` too (their defaults are needed)."""
    sample = cls()
    found = []
    for name, kind, versions, nullable, tag in cls.FIELDS:
        item = kind.removeprefix("[]")
        plain = item.startswith("plain_")
        item = item.removeprefix("plain_")
        struct = getattr(sys.modules[cls.__module__], item) if item[0].isupper() else None
        found.append(
            Field(
                name=name,
                kind="struct" if struct else item,
                struct=struct,
                array=kind.startswith("[]"),
                nullable=_within(version, nullable),
                tag=tag,
                present=_within(version, versions),
                compact=flexible and not plain,
                default=getattr(sample, name),
            )
        )
    return tuple(found)


@cache
def struct_bytes_min(cls: type[Message], version: int, flexible: bool) -> int:
    """The fewest bytes that a `cls` can take; at least 1, so that a count is always bounded by what remains."""
    fields = [field for field in fields_of(cls, version, flexible) if field.present and field.tag < 0]
    return max(1, sum(_field_bytes_min(field, version, flexible) for field in fields) + flexible)


def _field_bytes_min(field: Field, version: int, flexible: bool) -> int:
    if field.array:
        return 1 if field.compact else 4
    if field.struct is not None:
        return 1 if field.nullable else struct_bytes_min(field.struct, version, flexible)
    if field.kind in FORMATS:
        return SIZES[FORMATS[field.kind]]
    if field.compact:
        return 1
    return 2 if field.kind == "string" else 4


def item_bytes_min(field: Field, version: int, flexible: bool) -> int:
    """The fewest bytes that one element of the array `field` can take."""
    if field.struct is not None:
        return struct_bytes_min(field.struct, version, flexible)
    if field.kind in FORMATS:
        return SIZES[FORMATS[field.kind]]
    if field.compact:
        return 1
    return 2 if field.kind == "string" else 4


def literal(field: Field) -> str | None:
    """The default as Python source, when a literal can say it and nothing can change it."""
    value = field.default
    if value is None or isinstance(value, bool | int | float | str | bytes):
        return repr(value)
    return "[]" if isinstance(value, list) else None
