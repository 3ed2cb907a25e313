"""Compiles one message in one version into a straight-line decoding function.

The function that :func:`compile_decoder` returns takes ``(b: memoryview, p: int, n: int)``, where it may read
``b[p:n]``, and returns ``(message, next position)``. Every length and count is checked against what remains before
anything is made from it; reads of fixed size rely on struct and on indexing to refuse what is past the end. It may
therefore raise struct.error, IndexError and UnicodeDecodeError beside DecodeError: ``codec.py``, its only caller,
turns them all into DecodeError. Adjacent fields of fixed size, with the length that follows them, are one
``unpack_from``; structures are inlined, so that there is one function for a message however deep it is.
"""

from __future__ import annotations

import struct
from codecs import utf_8_decode
from collections.abc import Callable
from typing import Any

from logd.errors import DecodeError
from logd.wire.facts import FORMATS, SIZES, STRING_BYTES_MAX, Field, fields_of, item_bytes_min, literal
from logd.wire.message import Message

Decoder = Callable[[memoryview, int, int, int], tuple[Any, int]]

VARINT_BYTES_MAX = 5

ELEMENTS_MAX = 1_000_000
"""The most elements that all arrays of one message may have together.

The bytes that remain bound every count, but an empty element of 3 bytes becomes an object of 150: without this, one
frame of 100 MB could take 5 GB. A million is what the metadata of the biggest real clusters has.
"""

REQUEST_ELEMENTS_MAX = 100_000
"""The same for a request that is decoded and answered in one turn of the loop, at some microseconds an element."""

LARGE_ELEMENTS_MAX = 350_000
"""The same for a request that a thread decodes: a hundred thousand topics with a partition and its replica each."""


def uvarint_tail(b: memoryview, first: int, p: int) -> tuple[int, int]:
    """The rest of an unsigned varint whose first byte, `first` (over 127), stood before `p`: (value, next position)."""
    value = first & 0x7F
    for shift in (7, 14, 21, 28):
        byte = b[p]
        p += 1
        value |= (byte & 0x7F) << shift
        if byte < 128:
            if value > 0xFFFFFFFF:
                break
            return value, p
    raise DecodeError(f"a varint before byte {p} is longer than {VARINT_BYTES_MAX} bytes or 32 bits")


def uvarint(b: memoryview, p: int) -> tuple[int, int]:
    """The unsigned varint at `p`: (value, next position)."""
    first = b[p]
    if first < 128:
        return first, p + 1
    return uvarint_tail(b, first, p + 1)


def tag_head(b: memoryview, p: int, n: int, last: int, where: str) -> tuple[int, int, int]:
    """A tagged field's head at `p`, whose tag must be over `last`: (tag, end of its value, start of its value)."""
    tag, p = uvarint(b, p)
    size, p = uvarint(b, p)
    if tag <= last:
        raise DecodeError(f"{where}: tag {tag} comes after tag {last}; tags must rise")
    if size > n - p:
        raise DecodeError(f"{where}: tag {tag} has {size} bytes but {n - p} remain")
    return tag, p + size, p


def skip_tags(b: memoryview, p: int, n: int, count: int, where: str) -> int:
    """Passes over the tagged fields whose count's first byte was `count`; returns the next position."""
    if count > 127:
        count, p = uvarint_tail(b, count, p)
    last = -1
    for _ in range(count):
        last, p, _start = tag_head(b, p, n, last, where)
    return p


def bad_length(where: str, length: int, remain: int) -> DecodeError:
    """The error for a length or count that can't be: negative (-1 is null where there must be a value) or too big."""
    if length == -1:
        return DecodeError(f"{where}: null, but a value is required")
    if length < 0:
        return DecodeError(f"{where}: negative length {length}")
    return DecodeError(f"{where}: length {length} does not fit into the {remain} bytes that remain")


def too_many(where: str) -> DecodeError:
    """The error for the array with which a message has more elements than any may have."""
    return DecodeError(f"{where}: more elements in one message than it may have")


def bad_tag(where: str, p: int, end: int) -> DecodeError:
    """The error for a tagged field whose value does not end where its size says."""
    return DecodeError(f"{where}: value ends at byte {p}, its size says {end}")


class DecoderSource:
    """Writes the source of one decoding function; `environment` holds the constants that it names."""

    def __init__(self, version: int, flexible: bool) -> None:
        self.version = version
        self.flexible = flexible
        self.lines: list[str] = []
        self.indent = 1
        self.names = 0
        self.run: list[tuple[str, str]] = []
        self.environment: dict[str, Any] = {
            "utf8": utf_8_decode,
            "uvarint_tail": uvarint_tail,
            "tag_head": tag_head,
            "skip_tags": skip_tags,
            "bad_length": bad_length,
            "bad_tag": bad_tag,
            "too_many": too_many,
            "unpack_from": struct.unpack_from,
        }

    def emit(self, line: str) -> None:
        self.lines.append("    " * self.indent + line)

    def new(self, letter: str) -> str:
        self.names += 1
        return f"{letter}{self.names}"

    def constant(self, name: str, value: Any) -> str:
        self.environment[name] = value
        return name

    def flush(self) -> None:
        """Reads the pending run of fixed-size values."""
        if not self.run:
            return
        formats = "".join(form for form, _ in self.run)
        targets = ", ".join(target for _, target in self.run)
        size = sum(SIZES[form] for form, _ in self.run)
        if formats == "B":
            self.emit(f"{targets} = b[p]")
        else:
            reader = self.constant("read_" + formats.replace("?", "t"), struct.Struct(">" + formats).unpack_from)
            self.emit(f"{targets}{',' if len(self.run) == 1 else ''} = {reader}(b, p)")
        self.emit(f"p += {size}")
        self.run.clear()

    def struct(self, cls: type[Message], where: str) -> str:
        """Decodes a `cls`; returns the expression that constructs it. The pending run is empty afterwards."""
        fields = fields_of(cls, self.version, self.flexible)
        values = {field.name: self.absent(field) for field in fields}
        for field in fields:
            if field.present and field.tag < 0:
                values[field.name] = self.field(field, f"{where}.{field.name}")
        if self.flexible:
            tagged = sorted((field for field in fields if field.present and field.tag >= 0), key=lambda f: f.tag)
            self.tags(tagged, values, where)
        self.flush()
        name = self.constant(f"make_{cls.__name__}", cls)
        return f"{name}({', '.join(values.values())})"

    def absent(self, field: Field) -> str:
        """The expression for a field that is not there."""
        found = literal(field)
        if found is not None:
            return found
        assert field.struct is not None
        if field.struct.__struct_config__.frozen:
            return self.constant(f"default_{field.struct.__name__}", field.default)
        return self.constant(f"make_{field.struct.__name__}", field.struct) + "()"

    def field(self, field: Field, where: str) -> str:
        """Decodes a field; returns the name of the variable (or the expression, used once) that holds it."""
        if field.array:
            return self.array(field, where)
        if field.struct is not None:
            return self.inner(field, where)
        if field.kind in FORMATS:
            target = self.new("v")
            self.run.append((FORMATS[field.kind], target))
            return target
        return self.sized(field, where)

    def inner(self, field: Field, where: str) -> str:
        assert field.struct is not None
        target = self.new("v")
        if not field.nullable:
            self.emit_into(target, field.struct, where)
            return target
        marker = self.new("k")
        self.run.append(("b", marker))
        self.flush()
        self.emit(f"{target} = None")
        self.emit(f"if {marker} {'> 0' if field.tag >= 0 else '>= 0'}:")
        self.indent += 1
        self.emit_into(target, field.struct, where)
        self.indent -= 1
        return target

    def emit_into(self, target: str, cls: type[Message], where: str) -> None:
        expression = self.struct(cls, where)
        self.emit(f"{target} = {expression}")

    def length(self, field: Field) -> str:
        """Reads a length or count with the run before it; returns its variable. Compact ones are still one too big."""
        length = self.new("l")
        short = field.kind == "string" and not field.array
        self.run.append(("B" if field.compact else "h" if short else "i", length))
        self.flush()
        if field.compact:
            self.emit(f"if {length} > 127:")
            if short:
                self.emit(f"    {length}, p = uvarint_tail(b, {length}, p)")
                self.emit(f"    if {length} > {STRING_BYTES_MAX + 1}:")
                self.emit(f"        raise bad_length('a string', {length} - 1, {STRING_BYTES_MAX})")
            else:
                second = self.new("k")
                self.emit(f"    {second} = b[p]")
                self.emit(f"    if {second} < 128:")
                self.emit(f"        {length} = {length} & 127 | {second} << 7")
                self.emit("        p += 1")
                self.emit("    else:")
                self.emit(f"        {length}, p = uvarint_tail(b, {length}, p)")
        return length

    def null_check(self, field: Field, length: str, target: str, where: str) -> None:
        """Leaves the source inside ``if there is a value``, with the true length in `length`."""
        if field.nullable:
            self.emit(f"{target} = None")
            if not field.compact:
                self.emit(f"if {length} < -1:")
                self.emit(f"    raise bad_length({where!r}, {length}, n - p)")
            self.emit(f"if {length}:" if field.compact else f"if {length} >= 0:")
            self.indent += 1

    def sized(self, field: Field, where: str) -> str:
        """A string, bytes or records."""
        target, end = self.new("v"), self.new("e")
        length = self.length(field)
        self.null_check(field, length, target, where)
        self.emit(f"{end} = p + {length}{' - 1' if field.compact else ''}")
        refuse = f"{end} > n" if field.nullable else f"{end} > n or {end} < p"
        self.emit(f"if {refuse}:")
        self.emit(f"    raise bad_length({where!r}, {end} - p, n - p)")
        if field.kind == "string":
            self.emit(f"{target} = utf8(b[p:{end}], 'strict', True)[0]")
        elif field.kind == "bytes":
            self.emit(f"{target} = b[p:{end}].tobytes()")
        else:
            self.emit(f"{target} = b[p:{end}]")
        self.emit(f"p = {end}")
        if field.nullable:
            self.indent -= 1
        return target

    def array(self, field: Field, where: str) -> str:
        target = self.new("v")
        count = self.length(field)
        self.null_check(field, count, target, where)
        if field.compact:
            self.emit(f"{count} -= 1")
        item_bytes = item_bytes_min(field, self.version, self.flexible)
        size = count if item_bytes == 1 else f"{count} * {item_bytes}"
        refuse = f"{size} > n - p" if field.nullable else f"{size} > n - p or {count} < 0"
        self.emit(f"if {refuse}:")
        self.emit(f"    raise bad_length({where!r}, {count}, n - p)")
        self.emit(f"room -= {count}")
        self.emit("if room < 0:")
        self.emit(f"    raise too_many({where!r})")
        if field.struct is None and field.kind in FORMATS:
            self.fixed_items(field, target, count, item_bytes)
        else:
            self.items(field, target, count, where)
        if field.nullable:
            self.indent -= 1
        return target

    def fixed_items(self, field: Field, target: str, count: str, item_bytes: int) -> None:
        if field.kind == "uuid":
            self.emit(f"{target} = [b[i : i + 16].tobytes() for i in range(p, p + {count} * 16, 16)]")
        else:
            self.emit(f"{target} = list(unpack_from(f'>{{{count}}}{FORMATS[field.kind]}', b, p)) if {count} else []")
        self.emit(f"p += {count} * {item_bytes}")

    def items(self, field: Field, target: str, count: str, where: str) -> None:
        add = self.new("a")
        self.emit(f"{target} = []")
        self.emit(f"{add} = {target}.append")
        self.emit(f"for _ in range({count}):")
        self.indent += 1
        if field.struct is not None:
            expression = self.struct(field.struct, where)
        else:
            item = Field(field.name, field.kind, None, False, False, -1, True, field.compact, None)
            expression = self.sized(item, where)
        self.emit(f"{add}({expression})")
        self.indent -= 1

    def tags(self, tagged: list[Field], values: dict[str, str], where: str) -> None:
        """The tagged fields at the end of a structure; sets the variables of those in `tagged`."""
        count = self.new("t")
        self.run.append(("B", count))
        self.flush()
        if not tagged:
            self.emit(f"if {count}:")
            self.emit(f"    p = skip_tags(b, p, n, {count}, {where!r})")
            return
        for field in tagged:
            target = self.new("v")
            self.emit(f"{target} = {values[field.name]}")
            values[field.name] = target
        self.emit(f"if {count}:")
        self.indent += 1
        self.emit(f"if {count} > 127:")
        self.emit(f"    {count}, p = uvarint_tail(b, {count}, p)")
        tag, last, end = self.new("t"), self.new("t"), self.new("e")
        self.emit(f"{last} = -1")
        self.emit(f"for _ in range({count}):")
        self.indent += 1
        self.emit(f"{tag}, {end}, p = tag_head(b, p, n, {last}, {where!r})")
        self.emit(f"{last} = {tag}")
        for field in tagged:
            self.emit(f"{'if' if field is tagged[0] else 'elif'} {tag} == {field.tag}:")
            self.indent += 1
            value = self.field(field, f"{where}.{field.name}")
            self.flush()
            self.emit(f"{values[field.name]} = {value}")
            self.emit(f"if p != {end}:")
            self.emit(f"    raise bad_tag({where + '.' + field.name!r}, p, {end})")
            self.indent -= 1
        self.emit("else:")
        self.emit(f"    p = {end}")
        self.indent -= 2


def compile_decoder(cls: type[Message], version: int) -> Decoder:
    """The decoding function of `cls` in `version`, which must be one of its versions."""
    source = DecoderSource(version, version >= cls.FLEXIBLE)
    expression = source.struct(cls, f"{cls.__name__} v{version}")
    source.emit(f"return {expression}, p")
    text = f"def decode(b, p, n, room={ELEMENTS_MAX}):\n" + "\n".join(source.lines)
    exec(compile(text, f"<{cls.__name__} v{version} decoder>", "exec"), source.environment)
    decoder: Decoder = source.environment["decode"]
    return decoder
