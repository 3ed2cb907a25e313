"""The codecs of record batches: gzip, snappy, lz4 and zstd, as Kafka frames them. The one owner of cramjam.

Called by ``batches.py``, off the loop, wherever records have to be read or written compressed. Never makes more
than the given number of bytes out of what a peer sent.
"""

from __future__ import annotations

from typing import Any

from logd.errors import DecodeError
from logd.wire.message import Buffer

NONE, GZIP, SNAPPY, LZ4, ZSTD = range(5)
NAMES = ("none", "gzip", "snappy", "lz4", "zstd")
"""Codec number -> the name that ``compression.type`` gives it."""

XERIAL_MAGIC = b"\x82SNAPPY\0"
XERIAL_HEAD = XERIAL_MAGIC + b"\0\0\0\1\0\0\0\1"
"""Magic, version 1, readable from version 1: how Java's snappy streams begin."""

SNAPPY_BLOCK_BYTES = 32 * 1024
LZ4_BLOCK_BYTES = 64 * 1024
LZ4_HEAD = b"\x04\x22\x4d\x18\x60\x40\x82"
"""Magic, version 1 with independent blocks and no checksums, blocks of 64 KiB, check byte of these two.

Kafka's Java client refuses frames whose blocks depend on each other, which is all that cramjam writes.
"""
LZ4_STORED = 1 << 31

ZSTD_LEVEL = 3
GZIP_LEVEL = 6

FIRST_GUESS = 8
"""Output is first tried at so many times the input, then as big as allowed."""
FIRST_GUESS_BYTES_MIN = 64 * 1024


class BadCompression(DecodeError):
    """Compressed bytes that are broken, or that would become more than is allowed."""


def decompress(codec: int, data: Buffer, bytes_max: int) -> Buffer:
    """What `data` was before compression, at most `bytes_max` bytes.

    Snappy is read both as Java writes it (in blocks, "xerial") and raw.

    :raises BadCompression: for an unknown codec, broken bytes, or too many of them.
    """
    import cramjam

    if codec == NONE:
        if len(data) > bytes_max:
            raise _too_big(NONE, bytes_max)
        return data
    if not NONE < codec <= ZSTD:
        raise BadCompression(f"there is no compression codec {codec}")
    try:
        if codec == SNAPPY:
            return _unsnap(cramjam.snappy, memoryview(data), bytes_max)
        return _inflate(getattr(cramjam, NAMES[codec]), codec, data, bytes_max)
    except cramjam.DecompressionError as error:
        raise BadCompression(f"{NAMES[codec]}: {error}") from error


def _too_big(codec: int, bytes_max: int) -> BadCompression:
    return BadCompression(f"{NAMES[codec]}: the records are over {bytes_max} bytes when decompressed")


def _inflate(library: Any, codec: int, data: Buffer, bytes_max: int) -> memoryview:
    import cramjam

    size = min(bytes_max, max(len(data) * FIRST_GUESS, FIRST_GUESS_BYTES_MIN))
    while True:
        out = bytearray(size)
        try:
            return memoryview(out)[: library.decompress_into(data, out)]
        except cramjam.DecompressionError as error:
            if "failed to write whole buffer" not in str(error):
                raise
        if size == bytes_max:
            raise _too_big(codec, bytes_max)
        size = min(bytes_max, size * FIRST_GUESS)


def _unsnap(library: Any, data: memoryview, bytes_max: int) -> memoryview:
    blocks = _xerial_blocks(data) if data[:8] == XERIAL_MAGIC else [data]
    sizes = [library.decompress_raw_len(block) for block in blocks]
    if sum(sizes) > bytes_max:
        raise _too_big(SNAPPY, bytes_max)
    out = memoryview(bytearray(sum(sizes)))
    position = 0
    for block, size in zip(blocks, sizes, strict=True):
        made = library.decompress_raw_into(block, out[position : position + size])
        if made != size:
            raise BadCompression(f"snappy: a block of {size} bytes has {made}")
        position += size
    return out


def _xerial_blocks(data: memoryview) -> list[memoryview]:
    """The raw snappy blocks of a Java snappy stream, or of several that stand one after the other."""
    blocks = []
    position = len(XERIAL_HEAD)
    while position < len(data):
        if data[position : position + 8] == XERIAL_MAGIC:
            position += len(XERIAL_HEAD)
            continue
        size = int.from_bytes(data[position : position + 4], "big", signed=True)
        position += 4
        if size < 0 or size > len(data) - position:
            raise BadCompression(f"snappy: a block of {size} bytes where {len(data) - position} remain")
        blocks.append(data[position : position + size])
        position += size
    return blocks


def compress(codec: int, data: Buffer, level: int | None = None) -> Buffer:
    """`data` compressed as Kafka's clients expect it; `level` for gzip, zstd (None: their default); lz4 has none.

    :raises ValueError: for an unknown codec.
    """
    import cramjam

    if codec == NONE:
        return data
    if codec == GZIP:
        return bytes(cramjam.gzip.compress(data, GZIP_LEVEL if level is None or level < 0 else level))
    if codec == ZSTD:
        return bytes(cramjam.zstd.compress(data, ZSTD_LEVEL if level is None else level))
    view = memoryview(data)
    if codec == SNAPPY:
        return _snap(cramjam.snappy, view)
    if codec == LZ4:
        return _lz4(cramjam.lz4, view)
    raise ValueError(f"there is no compression codec {codec}")


def _snap(library: Any, data: memoryview) -> bytes:
    pieces = [XERIAL_HEAD]
    for position in range(0, len(data), SNAPPY_BLOCK_BYTES):
        block = bytes(library.compress_raw(data[position : position + SNAPPY_BLOCK_BYTES]))
        pieces += [len(block).to_bytes(4, "big"), block]
    return b"".join(pieces)


def _lz4(library: Any, data: memoryview) -> bytes:
    pieces: list[Buffer] = [LZ4_HEAD]
    for position in range(0, len(data), LZ4_BLOCK_BYTES):
        plain = data[position : position + LZ4_BLOCK_BYTES]
        block = bytes(library.compress_block(plain, store_size=False))
        if len(block) < len(plain):
            pieces += [len(block).to_bytes(4, "little"), block]
        else:
            pieces += [(len(plain) | LZ4_STORED).to_bytes(4, "little"), plain]
    pieces.append(bytes(4))
    return b"".join(pieces)
