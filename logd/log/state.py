"""The small files of a partition's directory that cannot be rebuilt from its data, as values and as bytes.

``partition.meta`` says to which topic id the data belongs; it is written once. ``partition.state`` holds the offsets
and leader epochs that only the log knows; it is replaced whole. ``partition.flushed`` is one offset that is younger.
All carry a CRC-32C. ``log`` and ``recovery`` read
and write them through the disk; this module only packs and unpacks.
"""

from __future__ import annotations

from struct import Struct
from struct import error as StructError
from typing import Final

import msgspec

from logd.errors import DecodeError
from logd.log.note import pack_note, parse_note
from logd.wire.checksum import crc32c

META_NAME: Final = "partition.meta"
STATE_NAME: Final = "partition.state"
UNFLUSHED_NAME: Final = "partition.unflushed"
FLUSHED_NAME: Final = "partition.flushed"
FORMAT_VERSION: Final = 1

_META: Final = Struct(">4sIh16s")
_META_MAGIC: Final = b"LPM1"
_STATE: Final = Struct(">4sIqqqqqqbi")
_STATE_MAGIC: Final = b"LST1"
_EPOCH: Final = Struct(">iq")
_ABORTED: Final = Struct(">qI")  # only there when a transaction was aborted
_FLUSHED_MAGIC: Final = b"LFO1"
_CRC_FROM: Final = 8

NOT_CLEAN: Final = -1


class State(msgspec.Struct, frozen=True, gc=False):
    """What is kept of a log. Offsets; ``recovery_point`` <= ``flushed_offset`` <= the log's end.

    ``clean_end_offset`` is the log's end after a clean close, else -1, and ``clean_bytes`` the size of its last segment
    then: appends, which grow that file, make the word void. ``has_snapshot`` says that a producer
    snapshot was written at ``recovery_point``; without one no producer was known there. ``aborted`` is how many entries
    the transaction indexes hold from the start offset to the recovery point, and their checksum.
    """

    start_offset: int = 0
    recovery_point: int = 0
    flushed_offset: int = 0
    high_watermark: int = 0
    clean_end_offset: int = NOT_CLEAN
    clean_bytes: int = 0
    has_snapshot: bool = False
    epochs: tuple[tuple[int, int], ...] = ()
    aborted: tuple[int, int] = (0, 0)


def pack_meta(topic_id: bytes) -> bytes:
    """Return the content of ``partition.meta``."""
    return _sealed(bytearray(_META.pack(_META_MAGIC, 0, FORMAT_VERSION, topic_id)))


def parse_meta(data: bytes) -> bytes:
    """Return the topic id; raises DecodeError."""
    if len(data) != _META.size or data[:4] != _META_MAGIC or not _intact(data):
        raise DecodeError("not a partition.meta file, or a damaged one")
    _, _, version, topic_id = _META.unpack(data)
    if version != FORMAT_VERSION:
        raise DecodeError(f"format version {version}; this logd reads {FORMAT_VERSION}")
    return bytes(topic_id)


def pack_state(state: State) -> bytes:
    """Return the content of ``partition.state``."""
    out = bytearray(
        _STATE.pack(
            _STATE_MAGIC,
            0,
            state.start_offset,
            state.recovery_point,
            state.flushed_offset,
            state.high_watermark,
            state.clean_end_offset,
            state.clean_bytes,
            state.has_snapshot,
            len(state.epochs),
        )
    )
    for entry in state.epochs:
        out += _EPOCH.pack(*entry)
    if state.aborted[0]:
        out += _ABORTED.pack(*state.aborted)
    return _sealed(out)


def parse_state(data: bytes) -> State:
    """Read ``partition.state``; raises DecodeError."""
    if data[:4] != _STATE_MAGIC or not _intact(data):
        raise DecodeError("not a partition.state file, or a damaged one")
    try:
        _, _, start, point, flushed, high_watermark, clean_end, clean_bytes, has_snapshot, count = _STATE.unpack_from(
            data
        )
        rest = _STATE.size + count * _EPOCH.size
        epochs = tuple(_EPOCH.unpack_from(data, _STATE.size + at * _EPOCH.size) for at in range(count))
        aborted = _ABORTED.unpack_from(data, rest) if len(data) > rest else (0, 0)
    except StructError as cause:
        raise DecodeError(f"a partition.state file cut short: {cause}") from cause
    return State(start, point, flushed, high_watermark, clean_end, clean_bytes, bool(has_snapshot), epochs, aborted)


def pack_flushed(offset: int) -> bytes:
    """Return the content of ``partition.flushed``: how far the log was flushed, as said since the last state file.

    It is written in place and never flushed: whatever of it is found after a crash was true before.
    """
    return pack_note(_FLUSHED_MAGIC, offset)


def parse_flushed(data: bytes | None) -> int:
    """Return the offset; 0 for a file that is not there or damaged."""
    return parse_note(_FLUSHED_MAGIC, data)


def _sealed(out: bytearray) -> bytes:
    out[4:8] = crc32c(memoryview(out)[_CRC_FROM:]).to_bytes(4, "big")
    return bytes(out)


def _intact(data: bytes) -> bool:
    return len(data) >= _CRC_FROM and int.from_bytes(data[4:8], "big") == crc32c(memoryview(data)[_CRC_FROM:])
