"""Sets two tales of a case side by side, after taking out of each what is a server's own (see `differences`).

`tell` turns answers into plain values without ids, addresses and times; `differences_of` compares two of them field
by field and returns readable lines.
"""

from __future__ import annotations

import fnmatch
import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from . import differences
from .batches import read_batches
from .tale import VERSIONS, Case, Tale

_MEMBER = re.compile(r"^(.*)-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")
_KEYS = (
    "api_key",
    "name",
    "topic",
    "topic_name",
    "topic_id",
    "transactional_id",
    "partition_index",
    "index",
    "partition",
    "group_id",
    "group_instance_id",
    "resource_type",
    "resource_name",
    "producer_id",
    "node_id",
    "key",
    "member_id",
)


class Symbols:
    """Names for the values that each server chooses, in the order in which they come up in a tale."""

    def __init__(self, slug: str, known: Mapping[uuid.UUID, str]) -> None:
        self.slug = slug
        self._names: dict[tuple[str, object], str] = {("id", key): f"id of {name}" for key, name in known.items()}
        self._counts: dict[str, int] = {}

    def of(self, kind: str, value: object) -> str:
        if (kind, value) not in self._names:
            self._counts[kind] = self._counts.get(kind, 0) + 1
            self._names[kind, value] = f"{kind}#{self._counts[kind]}"
        return self._names[kind, value]

    def known(self, kind: str, value: object) -> str:
        """The name if it has one already."""
        return self._names.get((kind, value), "")


def tell(tale: Tale, api_keys: Sequence[int]) -> list[Any]:
    """The answers of a tale, comparable."""
    symbols = Symbols(tale.slug, tale.ids)
    return [_plain(symbols, step.title.split(" ", 1)[0], "", step.answer, api_keys) for step in tale.steps]


def _in_order(symbols: Symbols, value: list[Any]) -> list[Any]:
    """Lists of named things in the order of their names, so that symbols are given in the same order too."""
    if value and isinstance(value[0], Mapping):
        return sorted(value, key=lambda item: _rank(symbols, item))
    if any(all(isinstance(item, kind) for item in value) for kind in (int, str)):
        return sorted(value)
    return value


def _rank(symbols: Symbols, item: Mapping[str, Any]) -> str:
    parts = []
    for key in (key for key in _KEYS if key in item):
        value = item[key]
        if isinstance(value, uuid.UUID):
            parts.append(symbols.known("id", value))
        elif key == "member_id" and _MEMBER.match(value):
            parts.append(symbols.known("-member", value))
        else:
            parts.append(f"{value:012}" if isinstance(value, int) else repr(value))
    parts.append(repr(sorted((k, repr(v)) for k, v in item.items() if k.endswith(("assignment", "metadata")))))
    return " ".join(parts)


def _plain(symbols: Symbols, api: str, name: str, value: Any, api_keys: Sequence[int]) -> Any:
    if isinstance(value, Mapping):
        value = _readable(value)
        fields = {key: _plain(symbols, api, key, inner, api_keys) for key, inner in value.items()}
        if fields.get("error_code", 0) != 0:
            for own in (*differences.MESSAGES, *differences.BESIDE_AN_ERROR):
                fields.pop(own, None)
        fields.pop("batch_index_error_message", None)
        return fields
    if name == "api_keys" and api == "ApiVersions":
        value = [row for row in value if row["api_key"] in api_keys]
    if name in differences.OWN_VALUES:
        return _kind_of(value)
    if isinstance(value, list):
        return [_plain(symbols, api, name, item, api_keys) for item in _in_order(symbols, value)]
    if name == "records" and isinstance(value, bytes):
        return [_plain(symbols, api, "batch", batch, api_keys) for batch in read_batches(value)]
    if isinstance(value, uuid.UUID):
        return symbols.of("id", value) if value.int else value
    if name == "session_id" and value:
        return symbols.of("session", value)
    if name == "producer_id" and api in differences.GIVE_PRODUCER_IDS and value >= 0:
        return symbols.of("producer", value)
    if name in ("pid", "producer_id") and isinstance(value, int):
        return symbols.known("producer", value) or value
    if isinstance(value, str) and (member := _MEMBER.match(value)):
        return member[1].replace(symbols.slug, "~") + symbols.of("-member", value)
    if isinstance(value, str):
        return value.replace(symbols.slug, "~")
    if isinstance(value, int) and differences.NOW_MS_MIN < value < differences.NOW_MS_MAX:
        return "now"
    return value


def _readable(value: Mapping[str, Any]) -> Mapping[str, Any]:
    """A partition of a Fetch answer without the aborted transactions that lie beyond the last stable offset."""
    aborted = value.get("aborted_transactions")
    if not aborted:
        return value
    stable = value["last_stable_offset"]
    return {**value, "aborted_transactions": [one for one in aborted if one["first_offset"] < stable]}


def _kind_of(value: Any) -> Any:
    if isinstance(value, int) and value <= 0:
        return min(value, 0)
    return value if value in (None, "", []) else type(value).__name__


def differences_of(case: Case, kafka: Tale, logd: Tale, keys: Sequence[int]) -> list[str]:
    """One line for each field that differs and may not."""
    ours, theirs = tell(logd, keys), tell(kafka, keys)
    lines: list[str] = []
    for number, (step, want, got) in enumerate(zip(kafka.steps, theirs, ours, strict=False)):
        title = step.title.replace(kafka.slug, "~")
        api = " ".join(title.split(" ")[:2])
        for path, line in _compare(want, got):
            if not _allowed(case, f"{case.name}/{api}/{path}"):
                lines.append(f"{number}. {title}\n      {path}: {line}")
    if len(ours) != len(theirs):
        lines.append(f"the tale has {len(theirs)} steps with Kafka and {len(ours)} with logd")
    return lines


def _allowed(case: Case, path: str) -> bool:
    patterns = [purpose.path for purpose in differences.ON_PURPOSE] + [f"{case.name}/{one}" for one in case.differs]
    return any(fnmatch.fnmatchcase(path, pattern) for pattern in patterns)


def _compare(want: Any, got: Any, path: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(want, Mapping) and isinstance(got, Mapping):
        fell_over = want.get("error_code") == differences.UNKNOWN_SERVER_ERROR and got.get("error_code", 0) != 0
        for key in want.keys() | got.keys():
            if fell_over and key in ("error_code", "error_message"):
                continue
            if key not in got or key not in want:
                if key not in differences.MESSAGES:
                    yield f"{path}.{key}", f"kafka {want.get(key, 'nothing')!r}, logd {got.get(key, 'nothing')!r}"
            else:
                yield from _compare(want[key], got[key], f"{path}.{key}")
    elif isinstance(want, list) and isinstance(got, list) and len(want) == len(got):
        for index, (one, other) in enumerate(zip(want, got, strict=True)):
            label = one.get("name", index) if isinstance(one, Mapping) else index
            yield from _compare(one, other, f"{path}[{label}]")
    elif want != got or type(want) is not type(got):
        yield path, f"kafka {want!r}, logd {got!r}"


def served_keys(key_of: Any) -> list[int]:
    """The API keys whose versions are compared."""
    return [key_of(api) for api in VERSIONS]
