"""Hypothesis strategies for any protocol message in any version, made from the same facts as the codec.

Values stay inside what the oracles can say: kio turns some numbers into times and error codes.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from logd.errors import ErrorCode
from logd.wire import schemas
from logd.wire.facts import Field, fields_of
from logd.wire.message import Message

OTHER_MODULES = (
    "headers",
    "consumer_protocol",
    "control_records",
    "group_records",
    "transaction_records",
    "share_records",
)
INTEGERS = {"int8": 7, "int16": 15, "int32": 31, "int64": 63}
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
UUIDS = st.one_of(st.just(bytes(16)), st.binary(min_size=16, max_size=16))
BYTES = st.binary(max_size=8)
ITEMS_MAX = 2


def quick(examples: int) -> settings:
    """The same `examples` on every run: nothing is stored, nothing depends on the machine's speed."""
    return settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


class Case(NamedTuple):
    """One message class, and its versions."""

    cls: type[Message]
    api_key: int = -1
    kind: str = "data"

    @property
    def versions(self) -> range:
        return range(self.cls.VERSIONS[0], self.cls.VERSIONS[1] + 1)

    def __str__(self) -> str:
        return self.cls.__name__


def api_cases() -> list[Case]:
    """Every request and response."""
    found = []
    for key in schemas.API_KEYS:
        found.append(Case(schemas.request_class(key), key, "request"))
        found.append(Case(schemas.response_class(key), key, "response"))
    return found


def other_cases() -> list[Case]:
    """Every message that is no request or response: what records and assignments hold."""
    found = []
    for name in OTHER_MODULES:
        module = importlib.import_module(f"logd.wire.schemas.{name}")
        messages = [each for each in vars(module).values() if isinstance(each, type) and issubclass(each, Message)]
        found += [Case(each) for each in messages if each.__module__ == module.__name__ and each.VERSIONS[1] >= 0]
    return found


def check_all(case: Case, version: int, examples: int, check: Callable[[Any], None]) -> None:
    """Runs `check` on `examples` messages of one version."""

    def run(message: Any) -> None:
        check(message)

    quick(examples)(given(messages(case.cls, version))(run))()


@cache
def messages(cls: type[Message], version: int) -> st.SearchStrategy[Any]:
    """Messages of `cls` that `version` can carry; fields that it lacks keep their defaults."""
    return _structs(cls, version, version >= cls.FLEXIBLE)


def _structs(cls: type[Message], version: int, flexible: bool) -> st.SearchStrategy[Any]:
    fields = fields_of(cls, version, flexible)
    names = [field.name for field in fields if field.present]
    values = [_values(field, version, flexible) for field in fields if field.present]
    return st.tuples(*values).map(lambda found: cls(**dict(zip(names, found, strict=True))))


def _values(field: Field, version: int, flexible: bool) -> st.SearchStrategy[Any]:
    item = _structs(field.struct, version, flexible) if field.struct else scalars(field.name, field.kind)
    if field.array:
        item = st.lists(item, max_size=ITEMS_MAX)
    if field.nullable:
        return st.none() | item
    if field.tag >= 0 and not field.array and field.default is not None:
        return st.just(field.default) | item
    return item


def scalars(name: str, kind: str) -> st.SearchStrategy[Any]:
    """Values of a type that has no fields."""
    if name.endswith("error_code") or name.endswith("partition_error_code"):
        return st.sampled_from([int(code) for code in ErrorCode])
    if kind == "int64" and (name.endswith("_ms") or "timestamp" in name):
        return st.integers(0, 1 << 41)
    if kind in INTEGERS:
        high = 1 << INTEGERS[kind]
        return st.sampled_from([0, -1, high - 1, -high]) | st.integers(-high, high - 1)
    if kind in ("uint16", "uint32"):
        return st.integers(0, (1 << int(kind[4:])) - 1)
    if kind == "records":
        return BYTES.map(memoryview)
    plain: dict[str, st.SearchStrategy[Any]] = {
        "bool": st.booleans(),
        "float64": st.floats(allow_nan=False, allow_infinity=False),
        "string": TEXT,
        "bytes": BYTES,
        "uuid": UUIDS,
    }
    return plain[kind]


def full(cls: type[Message], version: int) -> Any:
    """A message with something in every field of `version`: nothing empty or null, no tagged field at its default."""
    return _full_struct(cls, version, version >= cls.FLEXIBLE, 0)


def _full_struct(cls: type[Message], version: int, flexible: bool, depth: int) -> Any:
    fields = [field for field in fields_of(cls, version, flexible) if field.present]
    return cls(**{field.name: _full_value(field, version, flexible, depth) for field in fields})


def _full_value(field: Field, version: int, flexible: bool, depth: int) -> Any:
    item = _full_struct(field.struct, version, flexible, depth + 1) if field.struct else FULL[field.kind]
    return [item] * (1 if depth else 2) if field.array else item


FULL: dict[str, Any] = {
    "bool": True,
    "int8": 3,
    "int16": 3,
    "uint16": 3,
    "int32": 3,
    "uint32": 3,
    "int64": 3,
    "float64": 0.5,
    "string": "ab",
    "bytes": b"cd",
    "records": memoryview(b"efg"),
    "uuid": bytes(range(16)),
}
