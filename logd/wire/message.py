"""The base of every protocol message.

One class stands for all versions of a message; the classes themselves are generated (``wire/schemas``) and
compiled to bytes and back by ``wire/codec.py``. Handlers, coordinators and the client build and read them.
This module never reads or writes a byte.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import msgspec

ZERO_UUID = bytes(16)

Buffer = bytes | bytearray | memoryview
Records = Buffer | Sequence[Buffer]
"""What a ``records`` field may hold: one buffer, or several that are written one after the other."""

FieldFacts = tuple[str, str, str, str, int]
"""(name, type, versions, versions in which it may be null, tag or -1); versions as "3+", "0-2", "7", "none"."""


class Message(msgspec.Struct, gc=False):
    """A protocol structure: positional, every field with the default that the protocol gives it.

    ``FIELDS`` are the facts in the order of the wire. The rest is set on messages, not on structures in them.
    """

    FIELDS: ClassVar[tuple[FieldFacts, ...]] = ()
    VERSIONS: ClassVar[tuple[int, int]] = (0, -1)
    FLEXIBLE: ClassVar[int] = 1 << 15
    """The first version with compact lengths and tagged fields."""
