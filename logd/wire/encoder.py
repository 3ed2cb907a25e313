"""Compiles one message in one version into a straight-line encoding function.

The function that :func:`compile_encoder` returns takes ``(m, w: list, parts: list)``: it appends small pieces to
`w`, and at a big ``records`` field joins them into one part of `parts`, followed by the records' own buffers,
uncopied. Its only caller is ``codec.py``. Adjacent fields of fixed size, with the length that follows them, are one
``pack``. A field that the version lacks is left out in silence.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from logd.wire.facts import FORMATS, Field, fields_of, literal
from logd.wire.message import Buffer, Message

Encoder = Callable[[Any, list[Any], list[Buffer]], None]

PART_BYTES_MIN = 2048
"""Records smaller than this are copied: a part of an answer costs more than the copy."""

SMALL_UVARINTS = tuple(bytes([value]) for value in range(128))


def uvarint_bytes(value: int) -> bytes:
    """`value` as an unsigned varint."""
    if value < 128:
        return SMALL_UVARINTS[value]
    if value < 16384:
        return bytes((value & 0x7F | 0x80, value >> 7))
    out = bytearray()
    while value > 127:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def tagged_bytes(tag: int, pieces: list[Any]) -> bytes:
    """A tagged field whose value is `pieces`."""
    value = b"".join(pieces)
    return uvarint_bytes(tag) + uvarint_bytes(len(value)) + value


def put_records(records: Any, size: int, w: list[Any], parts: list[Buffer]) -> None:
    """Writes `records`, several buffers or a big one: as parts of their own when they are big."""
    several = records if isinstance(records, (list, tuple)) else (records,)
    if size < PART_BYTES_MIN:
        w.extend(several)
        return
    parts.append(b"".join(w))
    w.clear()
    parts.extend(several)


class EncoderSource:
    """Writes the source of one encoding function; `environment` holds the constants that it names."""

    def __init__(self, version: int, flexible: bool) -> None:
        self.version = version
        self.flexible = flexible
        self.lines: list[str] = []
        self.indent = 1
        self.names = 0
        self.run: list[tuple[str, str]] = []
        self.add = "a"
        self.environment: dict[str, Any] = {
            "small": SMALL_UVARINTS,
            "uvarint_bytes": uvarint_bytes,
            "tagged_bytes": tagged_bytes,
            "plain": frozenset((bytes, bytearray, memoryview)),
            "put_records": put_records,
            "pack": struct.pack,
            "join": b"".join,
        }

    def emit(self, line: str) -> None:
        self.lines.append("    " * self.indent + line)

    def new(self, letter: str) -> str:
        self.names += 1
        return f"{letter}{self.names}"

    def constant(self, name: str, value: Any) -> str:
        self.environment[name] = value
        return name

    def packed(self, run: list[tuple[str, str]]) -> str:
        """The expression that packs `run`."""
        formats = "".join(form for form, _ in run)
        if formats == "x" or run == [("B", "0")]:
            return "b'\\0'"
        writer = self.constant("write_" + formats.replace("?", "t"), struct.Struct(">" + formats).pack)
        return f"{writer}({', '.join(value for form, value in run if form != 'x')})"

    def flush(self) -> None:
        """Writes the pending run of fixed-size values."""
        if self.run:
            self.emit(f"{self.add}({self.packed(self.run)})")
            self.run.clear()

    def flush_length(self, length: str, compact: bool, form: str) -> None:
        """Writes the pending run and a length or count, `length`, after it."""
        if not compact:
            self.run.append((form, length))
            self.flush()
            return
        if not self.run:
            self.emit(f"{self.add}(small[{length}] if {length} < 128 else uvarint_bytes({length}))")
            return
        self.emit(f"if {length} < 128:")
        self.emit(f"    {self.add}({self.packed([*self.run, ('B', length)])})")
        if form == "i":
            two = [("B", f"{length} & 127 | 128"), ("B", f"{length} >> 7")]
            self.emit(f"elif {length} < 16384:")
            self.emit(f"    {self.add}({self.packed([*self.run, *two])})")
        self.emit("else:")
        self.emit(f"    {self.add}({self.packed(self.run)} + uvarint_bytes({length}))")
        self.run.clear()

    def struct(self, cls: type[Message], source: str) -> None:
        """Encodes the structure in variable `source`. The run may be pending afterwards."""
        fields = [field for field in fields_of(cls, self.version, self.flexible) if field.present]
        for field in fields:
            if field.tag < 0:
                self.field(field, f"{source}.{field.name}")
        if self.flexible:
            self.tags(sorted((field for field in fields if field.tag >= 0), key=lambda f: f.tag), source)

    def field(self, field: Field, value: str) -> None:
        if field.array:
            self.array(field, value)
        elif field.struct is not None:
            self.inner(field, value)
        elif field.kind in FORMATS:
            self.run.append((FORMATS[field.kind], value))
        else:
            self.sized(field, value)

    def inner(self, field: Field, value: str) -> None:
        assert field.struct is not None
        target = self.new("v")
        self.emit(f"{target} = {value}")
        if not field.nullable:
            self.struct(field.struct, target)
            return
        self.run.append(("b", f"{0 if field.tag >= 0 else -1} if {target} is None else 1"))
        self.flush()
        self.emit(f"if {target} is not None:")
        self.indent += 1
        self.struct(field.struct, target)
        self.flush()
        self.indent -= 1

    def null(self, field: Field, value: str) -> None:
        """Writes a null with the pending run, and leaves the source inside ``else``."""
        if field.nullable:
            form, null = ("B", "0") if field.compact else ("h" if self.is_short(field) else "i", "-1")
            self.emit(f"if {value} is None:")
            self.emit(f"    {self.add}({self.packed([*self.run, (form, null)])})")
            self.emit("else:")
            self.indent += 1

    @staticmethod
    def is_short(field: Field) -> bool:
        """Whether the length takes two bytes where it is not compact."""
        return field.kind == "string" and not field.array

    def sized(self, field: Field, value: str) -> None:
        """A string, bytes or records."""
        target, length = self.new("v"), self.new("l")
        self.emit(f"{target} = {value}")
        self.null(field, target)
        if field.kind == "string":
            self.emit(f"{target} = {target}.encode()")
        size = f"len({target})"
        if field.kind == "records":
            size = f"len({target}) if type({target}) in plain else sum(map(len, {target}))"
            size = f"({size})" if field.compact else size
        self.emit(f"{length} = {size}{' + 1' if field.compact else ''}")
        self.flush_length(length, field.compact, "h" if field.kind == "string" else "i")
        if field.kind == "records":
            self.emit(f"if {length} < {PART_BYTES_MIN} and type({target}) in plain:")
            self.emit(f"    {self.add}({target})")
            self.emit("else:")
            self.emit(f"    put_records({target}, {length}, w, parts)")
        else:
            self.emit(f"{self.add}({target})")
        if field.nullable:
            self.indent -= 1

    def array(self, field: Field, value: str) -> None:
        target, length = self.new("v"), self.new("l")
        self.emit(f"{target} = {value}")
        self.null(field, target)
        self.emit(f"{length} = len({target}){' + 1' if field.compact else ''}")
        self.flush_length(length, field.compact, "i")
        if field.kind == "uuid":
            self.emit(f"{self.add}(join({target}))")
        elif field.kind in FORMATS:
            self.emit(f"if {target}:")
            self.emit(f"    {self.add}(pack(f'>{{len({target})}}{FORMATS[field.kind]}', *{target}))")
        else:
            self.items(field, target)
        if field.nullable:
            self.indent -= 1

    def items(self, field: Field, target: str) -> None:
        item = self.new("x")
        self.emit(f"for {item} in {target}:")
        self.indent += 1
        if field.struct is not None:
            self.struct(field.struct, item)
        else:
            self.sized(Field(field.name, field.kind, None, False, False, -1, True, field.compact, None), item)
        self.flush()
        self.indent -= 1

    def tags(self, tagged: list[Field], source: str) -> None:
        """The tagged fields at the end of a structure: those that differ from their default."""
        if not tagged:
            self.run.append(("x", ""))
            return
        found = self.new("g")
        values = [(field, f"{source}.{field.name}") for field in tagged]
        self.emit(f"if {' or '.join(self.differs(field, value) for field, value in values)}:")
        self.indent += 1
        self.emit(f"{found} = []")
        for field, value in values:
            self.emit(f"if {self.differs(field, value)}:")
            self.indent += 1
            self.tag(field, value, found)
            self.indent -= 1
        without = self.packed([*self.run, ("x", "")])
        self.flush()
        self.emit(f"{self.add}(uvarint_bytes(len({found})))")
        self.emit(f"{self.add}(join({found}))")
        self.indent -= 1
        self.emit("else:")
        self.emit(f"    {self.add}({without})")

    def tag(self, field: Field, value: str, found: str) -> None:
        pieces, add = self.new("w"), self.new("a")
        self.emit(f"{pieces} = []")
        self.emit(f"{add} = {pieces}.append")
        outer_run, outer_add = self.run, self.add
        self.run, self.add = [], add
        self.field(field, value)
        self.flush()
        self.run, self.add = outer_run, outer_add
        self.emit(f"{found}.append(tagged_bytes({field.tag}, {pieces}))")

    def differs(self, field: Field, value: str) -> str:
        """The expression that tells whether `value` is not the default."""
        if field.default is None:
            return f"{value} is not None"
        if field.array:
            return f"{value} or {value} is None" if field.nullable else value
        default = literal(field)
        if default is not None:
            return f"{value} != {default}"
        assert field.struct is not None
        name = self.constant(f"default_{field.struct.__name__}", field.default)
        return f"{value} is not {name} and {value} != {name}"


def compile_encoder(cls: type[Message], version: int) -> Encoder:
    """The encoding function of `cls` in `version`, which must be one of its versions."""
    source = EncoderSource(version, version >= cls.FLEXIBLE)
    source.struct(cls, "m")
    source.flush()
    text = "def encode(m, w, parts):\n    a = w.append\n" + "\n".join(source.lines)
    exec(compile(text, f"<{cls.__name__} v{version} encoder>", "exec"), source.environment)
    encoder: Encoder = source.environment["encode"]
    return encoder
