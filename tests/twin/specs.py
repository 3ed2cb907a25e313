"""A codec of the Kafka protocol that interprets the message specifications of Apache Kafka's own jar.

It is the twin's independent oracle: it shares nothing with `logd.wire`, it is slow, and its messages are plain
dicts with the specification's names in snake_case, so that a test reads like the documentation of the protocol.
It owns the specifications (read once from the `kafka-clients` jar) and knows no connection.
"""

from __future__ import annotations

import functools
import json
import re
import struct
import uuid
import zipfile
from pathlib import Path
from typing import Any

Message = dict[str, Any]
Spec = dict[str, Any]

API_VERSIONS = 18
_COMMENT = re.compile(r"^\s*//.*$", re.MULTILINE)
_FIXED = {
    "bool": "?",
    "int8": ">b",
    "int16": ">h",
    "uint16": ">H",
    "int32": ">i",
    "uint32": ">I",
    "int64": ">q",
    "float64": ">d",
}


def snake(name: str) -> str:
    """'topicData' -> 'topic_data', 'V3AndBelowTopics' -> 'v3_and_below_topics'."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def _covers(versions: str | None, version: int) -> bool:
    if versions is None or versions == "none":
        return False
    low, _, high = versions.partition("-")
    if versions.endswith("+"):
        return version >= int(versions[:-1])
    return int(low) <= version <= int(high or low)


class Specs:
    """All messages of one `kafka-clients` jar.

    :param jar: path of the jar, which carries `common/message/*.json`.
    """

    def __init__(self, jar: Path) -> None:
        self._specs: dict[str, Spec] = {}
        self._keys: dict[str, int] = {}
        self._names: dict[int, str] = {}
        with zipfile.ZipFile(jar) as archive:
            for entry in archive.namelist():
                if entry.startswith("common/message/") and entry.endswith(".json"):
                    self._add(json.loads(_COMMENT.sub("", archive.read(entry).decode())))

    def _add(self, spec: Spec) -> None:
        self._specs[spec["name"]] = spec
        spec["structs"] = {s["name"]: s["fields"] for s in spec.get("commonStructs", [])}
        self._collect(spec, spec.get("fields", []))
        if spec["type"] == "request":
            name = spec["name"].removesuffix("Request")
            self._keys[name], self._names[spec["apiKey"]] = spec["apiKey"], name

    def _collect(self, spec: Spec, fields: list[Spec]) -> None:
        for field in fields:
            field["snake"] = snake(field["name"])
            if field.get("fields"):
                spec["structs"][field["type"].removeprefix("[]")] = field["fields"]
                self._collect(spec, field["fields"])
        for fields_of in list(spec["structs"].values()):
            for field in fields_of:
                field["snake"] = snake(field["name"])

    def key(self, api: str) -> int:
        return self._keys[api]

    def name(self, key: int) -> str:
        return self._names[key]

    def flexible(self, message: str, version: int) -> bool:
        return _covers(self._specs[message].get("flexibleVersions"), version)

    def encode(self, message: str, version: int, values: Message) -> bytes:
        """The bytes of a message; what the version does not have is left out, what is missing gets its default."""
        spec = self._specs[message]
        out = bytearray()
        _Writer(spec, version, self.flexible(message, version), out).struct(spec["fields"], values)
        return bytes(out)

    def decode(self, message: str, version: int, data: bytes, start: int = 0) -> tuple[Message, int]:
        """The message and the position after it; raises ValueError or struct.error when the bytes do not fit."""
        spec = self._specs[message]
        reader = _Reader(spec, version, self.flexible(message, version), data, start)
        return reader.struct(spec["fields"]), reader.at

    def request(self, api: str, version: int, correlation_id: int, client_id: str | None, values: Message) -> bytes:
        """A whole request frame without its size."""
        header = self.request_header(self.key(api), version, correlation_id, client_id)
        return header + self.encode(api + "Request", version, values)

    def request_header(self, key: int, version: int, correlation_id: int, client_id: str | None) -> bytes:
        name = self._names.get(key)
        tagged = name is not None and self.flexible(name + "Request", version)
        head = struct.pack(">hhi", key, version, correlation_id)
        encoded = (client_id or "").encode()
        text = struct.pack(">h", -1) if client_id is None else struct.pack(">h", len(encoded)) + encoded
        return head + text + (b"\0" if tagged else b"")

    def response(self, api: str, version: int, frame: bytes) -> tuple[int, Message]:
        """(correlation id, values) of an answer's frame; trailing bytes raise ValueError."""
        (correlation_id,) = struct.unpack_from(">i", frame)
        start = 4
        if self.flexible(api + "Response", version) and self.key(api) != API_VERSIONS:
            reader = _Reader({"structs": {}}, 0, True, frame, start)
            reader.tags({}, {})
            start = reader.at
        values, end = self.decode(api + "Response", version, frame, start)
        if end != len(frame):
            raise ValueError(f"{api} v{version}: {len(frame) - end} bytes after the answer")
        return correlation_id, values


def default_of(spec: Spec, field: Spec, version: int) -> Any:
    kind, value = field["type"], field.get("default")
    if value in ("null", None) and field.get("default") is not None:
        return None
    if kind.startswith("[]"):
        return []
    if kind in _FIXED:
        if kind == "bool":
            return str(value).lower() == "true"
        return (float if kind == "float64" else functools.partial(int, base=0))(str(value if value is not None else 0))
    if kind == "uuid":
        return uuid.UUID(int=0)
    if kind == "string":
        return value or ""
    if kind in ("bytes", "records"):
        return b""
    return {f["snake"]: default_of(spec, f, version) for f in spec["structs"][kind] if _covers(f["versions"], version)}


class _Writer:
    def __init__(self, spec: Spec, version: int, flexible: bool, out: bytearray) -> None:
        self.spec, self.version, self.flexible, self.out = spec, version, flexible, out

    def struct(self, fields: list[Spec], values: Message) -> None:
        unknown = set(values) - {f["snake"] for f in fields}
        if unknown:
            raise KeyError(f"{self.spec['name']} has no {sorted(unknown)}; it has {[f['snake'] for f in fields]}")
        tagged: list[tuple[int, bytes]] = []
        for field in fields:
            if not _covers(field["versions"], self.version):
                continue
            default = default_of(self.spec, field, self.version)
            value = values.get(field["snake"], default)
            if not _covers(field.get("taggedVersions"), self.version):
                self.field(field, value)
            elif value != default:
                inner = _Writer(self.spec, self.version, self.flexible, bytearray())
                inner.field(field, value)
                tagged.append((field["tag"], bytes(inner.out)))
        if self.flexible:
            self.uvarint(len(tagged))
            for tag, data in sorted(tagged):
                self.uvarint(tag)
                self.uvarint(len(data))
                self.out += data

    def uvarint(self, value: int) -> None:
        while value > 0x7F:
            self.out.append(value & 0x7F | 0x80)
            value >>= 7
        self.out.append(value)

    def field(self, field: Spec, value: Any) -> None:
        kind = field["type"]
        nullable = _covers(field.get("nullableVersions"), self.version)
        flexible = self.flexible and field.get("flexibleVersions") != "none"
        if value is None and not nullable:
            value = default_of(self.spec, {**field, "default": None}, self.version)
        if kind.startswith("[]"):
            self.length(None if value is None else len(value), flexible, ">i")
            for item in value or ():
                self.item(kind[2:], item, flexible)
        elif kind in self.spec["structs"] and nullable:
            self.out += struct.pack(">b", -1 if value is None else 1)
            if value is not None:
                self.item(kind, value, flexible)
        else:
            self.item(kind, value, flexible)

    def length(self, size: int | None, flexible: bool, form: str) -> None:
        if flexible:
            self.uvarint(0 if size is None else size + 1)
        else:
            self.out += struct.pack(form, -1 if size is None else size)

    def item(self, kind: str, value: Any, flexible: bool) -> None:
        if kind in _FIXED:
            self.out += struct.pack(_FIXED[kind], value)
        elif kind == "uuid":
            self.out += value.bytes
        elif kind in ("string", "bytes", "records"):
            data = value.encode() if isinstance(value, str) else value
            self.length(None if data is None else len(data), flexible, ">h" if kind == "string" else ">i")
            self.out += data or b""
        else:
            self.struct(self.spec["structs"][kind], value)


class _Reader:
    def __init__(self, spec: Spec, version: int, flexible: bool, data: bytes, start: int) -> None:
        self.spec, self.version, self.flexible, self.data, self.at = spec, version, flexible, data, start

    def take(self, size: int) -> bytes:
        if size > len(self.data) - self.at:
            raise ValueError(f"{size} bytes wanted at {self.at} of {len(self.data)}")
        self.at += size
        return bytes(self.data[self.at - size : self.at])

    def uvarint(self) -> int:
        value = shift = 0
        while True:
            byte = self.take(1)[0]
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    def struct(self, fields: list[Spec]) -> Message:
        values: Message = {}
        tagged: dict[int, Spec] = {}
        for field in fields:
            if not _covers(field["versions"], self.version):
                continue
            if _covers(field.get("taggedVersions"), self.version):
                tagged[field["tag"]] = field
                values[field["snake"]] = default_of(self.spec, field, self.version)
            else:
                values[field["snake"]] = self.field(field)
        if self.flexible:
            self.tags(tagged, values)
        return values

    def tags(self, known: dict[int, Spec], values: Message) -> None:
        for _ in range(self.uvarint()):
            tag, size = self.uvarint(), self.uvarint()
            end = self.at + size
            if tag in known:
                values[known[tag]["snake"]] = self.field(known[tag])
                if self.at != end:
                    raise ValueError(f"tag {tag} is not {size} bytes long")
            else:
                values[f"unknown_tag_{tag}"] = self.take(size)

    def field(self, field: Spec) -> Any:
        kind = field["type"]
        flexible = self.flexible and field.get("flexibleVersions") != "none"
        if kind.startswith("[]"):
            size = self.uvarint() - 1 if flexible else struct.unpack(">i", self.take(4))[0]
            return None if size < 0 else [self.item(kind[2:], flexible) for _ in range(size)]
        if kind in self.spec["structs"] and _covers(field.get("nullableVersions"), self.version):
            return self.item(kind, flexible) if struct.unpack(">b", self.take(1))[0] >= 0 else None
        return self.item(kind, flexible)

    def item(self, kind: str, flexible: bool) -> Any:
        if kind in _FIXED:
            form = _FIXED[kind]
            return struct.unpack(form, self.take(struct.calcsize(form)))[0]
        if kind == "uuid":
            return uuid.UUID(bytes=self.take(16))
        if kind in ("string", "bytes", "records"):
            form = ">h" if kind == "string" else ">i"
            size = self.uvarint() - 1 if flexible else struct.unpack(form, self.take(struct.calcsize(form)))[0]
            if size < 0:
                return None
            data = self.take(size)
            return data.decode() if kind == "string" else data
        return self.struct(self.spec["structs"][kind])
