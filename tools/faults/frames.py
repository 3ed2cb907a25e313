"""Hostile frames by the million: spoiled ones from a pool that is made anew little by little, and a systematic sweep.

A frame is spoiled in about 5 microseconds, where making one takes a hundred; so good frames are kept in a pool, each
is spoiled some dozens of times, and then another one takes its place. The sweep needs no luck: of every API and
version each frame is cut at every byte, and at every byte each number is written that a length or a count has at its
edges, in every width.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator

from tools.hostile import Frames

VARIANTS = 4
"""Good frames of each API and version in the pool."""

USES_MAX = 40
"""After so many uses on average a frame of the pool makes room for another."""

SOUND = 0.3
CORRELATION = slice(4, 8)
EDGES = (-2, -1, 0, 1)
VARINTS = (b"\0", b"\1", b"\2", b"\xff\xff\xff\xff\x07", b"\xff\xff\xff\xff\x0f", b"\xff" * 9 + b"\x7f")


class Pool:
    """Hostile requests without their sizes, for ever."""

    def __init__(self, seed: int) -> None:
        self.frames = Frames(seed)
        self.chance: random.Random = self.frames.random
        self._pool = [(one, self.frames.good(*one)) for one in self.frames.all for _ in range(VARIANTS)]

    def next(self) -> bytes:
        """One frame: two of three are spoiled, the others decode and hold odd values."""
        chance = self.chance
        place = int(chance.random() * len(self._pool))
        kind, frame = self._pool[place]
        if chance.random() < 1 / USES_MAX:
            self._pool[place] = kind, self.frames.good(*kind)
        return frame if chance.random() < SOUND else self.frames.spoiled(frame)

    def sweep(self) -> Iterator[bytes]:
        """Every API and version, cut at every byte, and with every edge of every width written at every byte."""
        for kind in self.frames.all:
            frame = max((self.frames.good(*kind) for _ in range(VARIANTS)), key=len)
            for at in range(len(frame)):
                yield frame[:at]
                yield from edges(frame, at)


def edges(frame: bytes, at: int) -> Iterator[bytes]:
    """The numbers that a length at ``at`` has at its edges, as 2 bytes, 4 bytes and a varint."""
    for code, size in ((">h", 2), (">i", 4)):
        rest = len(frame) - at - size
        most = (1 << 8 * size - 1) - 1
        for number in {*EDGES, most, min(rest - 1, most), min(rest, most), min(rest + 1, most)}:
            yield frame[:at] + struct.pack(code, number) + frame[at + size :]
    rest = len(frame) - at - 1
    for varint in {*VARINTS, *(uvarint(max(number, 0)) for number in (rest - 1, rest, rest + 1, rest + 2))}:
        yield frame[:at] + varint + frame[at + 1 :]


def uvarint(number: int) -> bytes:
    """An unsigned varint."""
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


def numbered(frame: bytes, number: int) -> bytes:
    """The frame with another correlation id, if it is long enough to have one."""
    if len(frame) < 8:
        return frame
    return frame[: CORRELATION.start] + number.to_bytes(4, "big") + frame[CORRELATION.stop :]
