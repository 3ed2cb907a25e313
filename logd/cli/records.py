"""Records as text, both ways: what `consume -o jsonl` prints, `produce --from jsonl` takes back.

A record in JSON has `key`, `value`, `headers` (a list of objects with `name` and `value`; an object of names and values
is understood too) and `timestamp` in milliseconds; bytes that are not UTF-8 stand in `key_base64` and `value_base64`
instead. Pure.
"""

from __future__ import annotations

import os
import re
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from logd.client import Received

Header = tuple[str, bytes | None]


class Draft(NamedTuple):
    """A record on its way in; None where the input does not say."""

    value: bytes | None
    key: bytes | None = None
    headers: tuple[Header, ...] = ()
    timestamp_ms: int | None = None
    partition: int | None = None


# -- out


def _put(target: dict[str, Any], name: str, data: bytes | None) -> None:
    """Bytes as text where they are UTF-8, else in base64 under a name that says so."""
    if data is None:
        target[name] = None
        return
    try:
        target[name] = data.decode()
    except UnicodeDecodeError:
        target[f"{name}_base64"] = b64encode(data).decode()


def as_object(record: Received) -> dict[str, Any]:
    """A record as the object that is printed in JSON."""
    found: dict[str, Any] = {
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "timestamp": record.timestamp_ms,
        "timestamp_type": "append" if record.append_time else "create",
    }
    _put(found, "key", record.key)
    _put(found, "value", record.value)
    found["headers"] = []
    for name, value in record.headers:
        header: dict[str, Any] = {"name": name}
        _put(header, "value", value)
        found["headers"].append(header)
    return found


def as_text(data: bytes | None) -> str:
    """Bytes for people: bad UTF-8 as \\xNN, nothing for None."""
    return "" if data is None else data.decode("utf-8", "backslashreplace")


def as_field(data: bytes | None) -> str:
    """Bytes as one field of a tab-separated line: \\t, \\n, \\r, \\\\ for what would break it, bad UTF-8 as \\xNN."""
    if data is None:
        return ""
    text = data.replace(b"\\", b"\\\\").decode("utf-8", "backslashreplace")
    return text.replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r")


_TOKENS: dict[str, Callable[[Received], bytes]] = {
    "t": lambda record: record.topic.encode(),
    "p": lambda record: b"%d" % record.partition,
    "o": lambda record: b"%d" % record.offset,
    "T": lambda record: b"%d" % record.timestamp_ms,
    "k": lambda record: record.key or b"",
    "K": lambda record: b"%d" % (-1 if record.key is None else len(record.key)),
    "v": lambda record: record.value or b"",
    "s": lambda record: record.value or b"",
    "S": lambda record: b"%d" % (-1 if record.value is None else len(record.value)),
    "h": lambda record: b",".join(name.encode() + b"=" + (value or b"") for name, value in record.headers),
    "%": lambda record: b"%",
}
_ESCAPES = {"n": b"\n", "t": b"\t", "r": b"\r", "0": b"\0", "\\": b"\\"}

TOKENS = "%t topic, %p partition, %o offset, %T timestamp in ms, %k key, %v value, %h headers, %K and %S their lengths"


def compile_format(text: str) -> Callable[[Received], bytes]:
    """A function that writes a record as `-f` says. :raises ValueError: for an unknown token."""
    parts: list[bytes | Callable[[Received], bytes]] = []
    for part in re.findall(r"[^%\\]+|\\.?|%.?", text, re.DOTALL):
        if part.startswith("\\"):
            parts.append(_ESCAPES.get(part[1:], os.fsencode(part)))
        elif not part.startswith("%"):
            parts.append(os.fsencode(part))
        elif part[1:] in _TOKENS:
            parts.append(_TOKENS[part[1:]])
        else:
            raise ValueError(f"{part!r} means nothing here; there are {TOKENS}")
    return lambda record: b"".join(part if isinstance(part, bytes) else part(record) for part in parts)


# -- in


def _get(source: dict[str, Any], name: str) -> bytes | None:
    """The reverse of :func:`_put`."""
    if f"{name}_base64" in source:
        text = source.pop(f"{name}_base64")
        try:
            return b64decode(text, validate=True)
        except (Base64Error, TypeError, ValueError):
            raise ValueError(f"{name}_base64 is not base64: {text!r}") from None
    data = source.pop(name, None)
    if data is not None and not isinstance(data, str):
        raise ValueError(f"{name} is {data!r}; it must be a string or null, or use {name}_base64")
    return None if data is None else data.encode()


def _whole_number(source: dict[str, Any], name: str, least: int, most: int) -> int | None:
    number = source.pop(name, None)
    if number is None:
        return None
    if not isinstance(number, int) or isinstance(number, bool) or not least <= number <= most:
        raise ValueError(f"{name} is {number!r}; it must be a whole number from {least} to {most}")
    return number


def _headers(source: dict[str, Any]) -> tuple[Header, ...]:
    listed = source.pop("headers", None) or []
    if isinstance(listed, dict):  # as people write them; what consume prints is a list, since names may come twice
        listed = [{"name": name, "value": value} for name, value in listed.items()]
    if not isinstance(listed, list) or not all(isinstance(item, dict) for item in listed):
        raise ValueError('headers must be an object like {"a": "b"}, or a list of {"name": "a", "value": "b"}')
    found: list[Header] = []
    for item in listed:
        name = item.pop("name", None)
        if not isinstance(name, str):
            raise ValueError(f"a header's name is {name!r}; it must be a string")
        found.append((name, _get(item, "value")))
    return tuple(found)


def draft_from_json(line: bytes) -> Draft:
    """A line of JSON as a record. :raises ValueError: what is wrong with it; unknown fields are wrong too."""
    import msgspec

    try:
        source = msgspec.json.decode(line)
    except msgspec.DecodeError as error:
        raise ValueError(f"it is not JSON: {error}") from None
    if not isinstance(source, dict):
        raise ValueError(f"it is no JSON object: {as_text(line[:40])}")
    draft = Draft(
        value=_get(source, "value"),
        key=_get(source, "key"),
        headers=_headers(source),
        timestamp_ms=_whole_number(source, "timestamp", -1, (1 << 63) - 1),
        partition=_whole_number(source, "partition", 0, (1 << 31) - 1),
    )
    unknown = source.keys() - {"topic", "offset", "timestamp_type"}
    if unknown:
        names = ", ".join(sorted(unknown))
        raise ValueError(f"unknown field {names}; there are key, value, headers, timestamp, partition and *_base64")
    return draft


def draft_from_line(line: bytes, separator: bytes | None) -> Draft:
    """A line of text as a record: all value, or key and value with `separator` between."""
    if separator is None:
        return Draft(line)
    key, found, value = line.partition(separator)
    if not found:
        raise ValueError(f"it holds no key separator {as_text(separator)!r}: {as_text(line[:40])!r}")
    return Draft(value, key)
