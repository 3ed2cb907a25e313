"""The codecs: what clients send is read, what we send they read, and bombs stay small."""

from __future__ import annotations

import gzip
import random
import tracemalloc

import lz4.frame
import pytest
import snappy
import zstandard

from logd.errors import DecodeError
from logd.wire.compression import (
    GZIP,
    LZ4,
    NAMES,
    NONE,
    SNAPPY,
    XERIAL_HEAD,
    ZSTD,
    BadCompression,
    compress,
    decompress,
)

RNG = random.Random(11)
SAMPLES = [b"", b"x", b"hello " * 1000, RNG.randbytes(5000), RNG.randbytes(70_000) + bytes(200_000), bytes(1 << 20)]
CODECS = range(len(NAMES))
COMPRESSED = CODECS[1:]
BYTES_MAX = 2 << 20


def theirs(codec: int, data: bytes) -> bytes:
    """`data` compressed by the library that clients use."""
    if codec == GZIP:
        return gzip.compress(data)
    if codec == SNAPPY:
        return bytes(snappy.compress(data))
    if codec == LZ4:
        return bytes(lz4.frame.compress(data))
    return zstandard.ZstdCompressor(write_content_size=False).compress(data)


def read_by_them(codec: int, data: bytes) -> bytes:
    """What the clients' library reads."""
    if codec == GZIP:
        return gzip.decompress(data)
    if codec == LZ4:
        return bytes(lz4.frame.decompress(data))
    if codec == ZSTD:
        return zstandard.ZstdDecompressor().decompressobj().decompress(data)
    assert data.startswith(XERIAL_HEAD)
    found, position = b"", len(XERIAL_HEAD)
    while position < len(data):
        size = int.from_bytes(data[position : position + 4], "big")
        found += snappy.decompress(data[position + 4 : position + 4 + size])
        position += 4 + size
    return found


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("data", SAMPLES, ids=[str(len(sample)) for sample in SAMPLES])
def test_there_and_back(codec: int, data: bytes) -> None:
    """Through our own hands, from theirs, and into theirs."""
    ours = compress(codec, data)
    assert bytes(decompress(codec, ours, BYTES_MAX)) == data
    assert bytes(decompress(codec, memoryview(bytearray(ours)), BYTES_MAX)) == data
    if codec != NONE:
        assert read_by_them(codec, bytes(ours)) == data
        assert bytes(decompress(codec, theirs(codec, data), BYTES_MAX)) == data


def test_snappy_streams_one_after_the_other() -> None:
    """Java writes the stream's head again when it flushes: every head is passed over."""
    first, second = bytes(compress(SNAPPY, b"one" * 20_000)), bytes(compress(SNAPPY, b"two"))
    assert bytes(decompress(SNAPPY, first + second, BYTES_MAX)) == b"one" * 20_000 + b"two"


def test_lz4_with_what_frames_may_have() -> None:
    """Content size, checksums of blocks and content, and blocks that depend on each other are read."""
    data = b"lz4 " * 50_000
    for linked in (False, True):
        frame = lz4.frame.compress(
            data, store_size=True, content_checksum=True, block_checksum=True, block_linked=linked, block_size=4
        )
        assert bytes(decompress(LZ4, frame, BYTES_MAX)) == data


@pytest.mark.parametrize("codec", CODECS)
def test_the_limit_is_exact(codec: int) -> None:
    """As many bytes as allowed come out; one more is refused."""
    data = bytes(300_000)
    packed = compress(codec, data)
    assert len(decompress(codec, packed, 300_000)) == 300_000
    with pytest.raises(BadCompression, match="over 299999 bytes"):
        decompress(codec, packed, 299_999)


@pytest.mark.parametrize("codec", COMPRESSED)
def test_bombs(codec: int) -> None:
    """64 MB in little: refused, and no more memory taken than twice what is allowed."""
    bomb = theirs(codec, bytes(64 << 20))
    tracemalloc.start()
    try:
        with pytest.raises(BadCompression, match="over 1048576 bytes"):
            decompress(codec, bomb, 1 << 20)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2 << 20


def test_snappy_sizes_are_not_believed() -> None:
    """A raw block that claims 4 GB, and xerial blocks of impossible sizes, are refused before memory is taken."""
    for data in (
        b"\xff\xff\xff\xff\x0f",
        XERIAL_HEAD + b"\x7f\xff\xff\xff",
        XERIAL_HEAD + b"\xff\xff\xff\xff",
        XERIAL_HEAD + b"\x00\x00\x00\x05\xff\xff\xff\xff\x0f",
        XERIAL_HEAD + b"\x00\x00",
        XERIAL_HEAD + b"\x00\x00\x00\x00",
        XERIAL_HEAD[:12],
        b"",
    ):
        try:
            assert bytes(decompress(SNAPPY, data, 1 << 20)) == b""
        except BadCompression:
            continue


@pytest.mark.parametrize("codec", COMPRESSED)
def test_damage(codec: int) -> None:
    """Cut and damaged bytes raise nothing but DecodeError, and what is cut never passes for whole."""
    data = bytes(compress(codec, RNG.randbytes(300) + b"abc" * 300))
    for end in range(len(data)):
        try:
            assert len(decompress(codec, data[:end], BYTES_MAX)) < 1200
        except DecodeError:
            continue
    for _ in range(300):
        bad = bytearray(data)
        for _ in range(RNG.randrange(1, 4)):
            bad[RNG.randrange(len(bad))] = RNG.randrange(256)
        try:
            decompress(codec, bad, BYTES_MAX)
        except DecodeError:
            continue


def test_unknown_codecs() -> None:
    """Numbers without a codec are refused, both ways."""
    for codec in (5, 6, 7, -1):
        with pytest.raises(BadCompression, match="no compression codec"):
            decompress(codec, b"", 10)
        with pytest.raises(ValueError, match="no compression codec"):
            compress(codec, b"")


def test_levels() -> None:
    """A level is obeyed where a codec has one, and Kafka's -1 of gzip means its default."""
    data = b"".join(b"%d," % (i * i) for i in range(5000))
    assert compress(GZIP, data, 9) != compress(GZIP, data, 1)
    assert len(compress(ZSTD, data, 19)) < len(compress(ZSTD, data, 1))
    assert compress(GZIP, data, -1) == compress(GZIP, data)
    assert bytes(decompress(ZSTD, compress(ZSTD, data, -5), BYTES_MAX)) == data
