"""The two foreign codecs as oracles: kio and kafka-python. They are only ever given bytes that we made."""

from __future__ import annotations

import dataclasses
import datetime
import importlib
import io
import pkgutil
import uuid
from collections.abc import Iterable
from enum import Enum
from functools import cache
from typing import Any

import kafka.protocol
import kio.index
from kafka.protocol.api_message import ApiMessage
from kio.serial import entity_reader, entity_writer

from logd.wire.facts import fields_of
from logd.wire.message import ZERO_UUID, Message
from tests.wire.messages import Case

EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
MILLISECOND = datetime.timedelta(milliseconds=1)

NO_OPERATIONS = -(1 << 31)

NOT_ENCODED_BACK = {
    "ApiVersionsResponse": "kafka-python guesses its version from the bytes",
    "DeleteTopicsRequest": "kafka-python's own constructor turns topics into something else",
}


def kio_class(case: Case, version: int) -> Any:
    """kio's class for this message."""
    load = kio.index.load_request_schema if case.kind == "request" else kio.index.load_response_schema
    return load(case.api_key, version)


def kio_decode(cls: Any, data: bytes) -> Any:
    """kio's entity for `data`, all of which it must have used."""
    entity, size = entity_reader(cls)(data, 0)
    assert size == len(data)
    return entity


def kio_encode(cls: Any, entity: Any) -> bytes:
    """What kio makes of its entity."""
    buffer = io.BytesIO()
    entity_writer(cls)(buffer, entity)
    return buffer.getvalue()


def kafka_python_class(case: Case) -> Any:
    """kafka-python's class for this message, or None where it has none, or not one of plain fields."""
    name = case.cls.__name__
    return None if name in NOT_ENCODED_BACK else _kafka_python_classes().get(name)


@cache
def _kafka_python_classes() -> dict[str, Any]:
    for found in pkgutil.walk_packages(kafka.protocol.__path__, "kafka.protocol."):
        if ".old" not in found.name and "generate" not in found.name and "resources" not in found.name:
            importlib.import_module(found.name)
    return {cls.__name__: cls for cls in _subclasses(ApiMessage)}


def _subclasses(cls: Any) -> Iterable[Any]:
    for sub in cls.__subclasses__():
        yield sub
        yield from _subclasses(sub)


def assert_same(ours: Any, theirs: Any, version: int, flexible: bool) -> None:
    """The oracle has read the values that we wrote: the fields of this version, one by one, in their order."""
    if isinstance(ours, Message):
        fields = [field for field in fields_of(type(ours), version, flexible) if field.present]
        values = _values_of(theirs)
        assert len(fields) == len(values), (ours, theirs)
        for field, value in zip(fields, values, strict=True):
            mine = getattr(ours, field.name)
            if value is None and field.tag >= 0 and mine == field.default:
                continue  # kafka-python has no default for a tagged structure
            assert_same(mine, value, version, flexible)
    elif isinstance(ours, list):
        assert len(ours) == len(theirs)
        for mine, value in zip(ours, theirs, strict=True):
            assert_same(mine, value, version, flexible)
    elif theirs is None:
        assert ours in (None, ZERO_UUID, NO_OPERATIONS)  # kio's null for an id, kafka-python's for a set of bits
    else:
        assert ours == _scalar(theirs)


def _values_of(theirs: Any) -> list[Any]:
    if dataclasses.is_dataclass(theirs):
        return [getattr(theirs, field.name) for field in dataclasses.fields(theirs)]
    return [
        getattr(theirs, field.name) for field in theirs._struct._fields or () if field.for_version_q(theirs._version)
    ]


def _scalar(value: Any) -> Any:
    """A number, string or bytes for the richer types of the oracles."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, datetime.timedelta):
        return value // MILLISECOND
    if isinstance(value, datetime.datetime):
        return (value - EPOCH) // MILLISECOND
    if isinstance(value, uuid.UUID):
        return value.bytes
    if isinstance(value, set | frozenset):
        bits = sum(1 << int(bit) for bit in value)
        return bits - (1 << 32) if bits >> 31 else bits
    return value
