"""A number in a small file that is written in place and never flushed: what a crash of the process leaves as it is.

After a power cut the file may hold an older number, or none that can be read; where numbers only grow, what it says was
true once in any case. How far a log is flushed, how far the metadata has come and what time it was are noted so. This
module packs and unpacks; it touches no file.
"""

from __future__ import annotations

from struct import Struct
from typing import Final

from logd.wire.checksum import crc32c

_NOTE: Final = Struct(">4sIq")


def pack_note(magic: bytes, number: int) -> bytes:
    """Return the content of the file. ``magic``: four bytes that say whose it is."""
    return _NOTE.pack(magic, crc32c(number.to_bytes(8, "big", signed=True)), number)


def parse_note(magic: bytes, data: bytes | None) -> int:
    """Return the number; 0 for a file that is not there, damaged or of somebody else."""
    if data is None or len(data) != _NOTE.size:
        return 0
    found, checksum, number = _NOTE.unpack(data)
    return int(number) if found == magic and checksum == crc32c(data[8:]) else 0
