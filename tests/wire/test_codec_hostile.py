"""Hostile bytes: whatever they are, decoding raises DecodeError or succeeds, and takes memory in proportion."""

from __future__ import annotations

import random
import struct
import tracemalloc
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from logd.errors import DecodeError
from logd.wire.codec import EncodeError, decode, decode_exact, encode
from logd.wire.decoder import ELEMENTS_MAX
from logd.wire.encoder import uvarint_bytes
from logd.wire.facts import fields_of
from logd.wire.message import Message
from logd.wire.schemas.api_versions import ApiVersionsResponse
from logd.wire.schemas.fetch import FetchRequest
from logd.wire.schemas.heartbeat import HeartbeatRequest
from logd.wire.schemas.metadata import MetadataRequest
from logd.wire.schemas.produce import ProduceRequest
from tests.wire.messages import Case, api_cases, full, other_cases

ALL = [*api_cases(), *other_cases()]
VARINTS = [b"\x00", b"\x01", b"\x02", b"\xff\xff\xff\xff\x0f", b"\xff\xff\xff\xff\x07", b"\xff\xff\xff\xff\xff\x01"]
PER_BYTE = 64
"""How many bytes of objects a byte of a message may become: an empty structure of three bytes with a list in it."""

MEASUREMENTS = 3
NOTHING_BYTES = 256 * 1024
"""Far less than a claimed count would take, and more than a broker of other tests takes meanwhile."""


def survives(cls: type[Message], version: int, data: bytes) -> None:
    """Decoding `data` raises nothing but DecodeError."""
    try:
        decode_exact(cls, version, data)
    except DecodeError:
        return


@pytest.mark.parametrize("case", ALL, ids=str)
def test_cut_anywhere(case: Case) -> None:
    """A message cut at any byte is refused, and so is one with a byte more."""
    for version in case.versions:
        data = encode(full(case.cls, version), version)
        assert decode_exact(case.cls, version, data) == full(case.cls, version)
        for end in range(len(data)):
            with pytest.raises(DecodeError):
                decode_exact(case.cls, version, data[:end])
        with pytest.raises(DecodeError, match="left over"):
            decode_exact(case.cls, version, data + b"\0")


@pytest.mark.parametrize("case", ALL, ids=str)
def test_every_length_at_its_edges(case: Case) -> None:
    """With -2, -1, 0, 1, 2^31-1 and what remains +-1 written over every position, nothing but DecodeError comes out."""
    for version in {case.versions[0], case.versions[-1], max(case.versions[0], case.cls.FLEXIBLE - 1)}:
        if version in case.versions:
            data = encode(full(case.cls, version), version)
            for position in range(len(data)):
                for hostile in edges(data, position):
                    survives(case.cls, version, hostile)


def edges(data: bytes, position: int) -> Iterator[bytes]:
    """`data` with hostile lengths of two and four bytes, and of a varint, at `position`."""
    remain = len(data) - position
    for value in (-2, -1, 0, 1, 0x7FFFFFFF, remain - 5, remain - 4, remain - 3):
        yield data[:position] + struct.pack(">i", value) + data[position + 4 :]
    for value in (-2, -1, 0x7FFF, remain - 1):
        yield data[:position] + struct.pack(">h", value) + data[position + 2 :]
    for raw in (*VARINTS, uvarint_bytes(remain), uvarint_bytes(remain + 1)):
        yield data[:position] + raw + data[position + 1 :]


@pytest.mark.parametrize("case", ALL, ids=str)
def test_random_bytes(case: Case) -> None:
    """Random bytes, and good messages with random bytes in them, raise nothing but DecodeError."""
    rng = random.Random(case.cls.__name__)
    for version in case.versions:
        good = encode(full(case.cls, version), version)
        for _ in range(20):
            survives(case.cls, version, rng.randbytes(rng.randrange(60)))
            bad = bytearray(good)
            for _ in range(rng.randrange(1, 5)):
                if bad:
                    bad[rng.randrange(len(bad))] = rng.choice((0, 1, 127, 128, 255, rng.randrange(256)))
            survives(case.cls, version, bytes(bad))


@pytest.mark.parametrize("case", api_cases(), ids=str)
def test_counts_take_no_memory(case: Case) -> None:
    """A count far beyond the bytes that follow is refused before anything is allocated for it."""
    version = case.versions[-1]
    data = encode(full(case.cls, version), version)
    survives(case.cls, version, data)

    def decode_all() -> None:
        for position in range(0, len(data), 1 + len(data) // 40):
            for value in (b"\x7f\xff\xff\xff", b"\xff\xff\xff\xff\x0f"):
                survives(case.cls, version, data[:position] + value + data[position + 4 :])

    assert takes_less_than(NOTHING_BYTES, decode_all)


def takes_less_than(limit_bytes: int, work: Callable[[], object]) -> bool:
    """Whether the work takes less memory than that at any moment.

    Tried again when it seems not to: brokers of other tests allocate in threads of their own, now and then.
    """
    for _ in range(MEASUREMENTS):
        tracemalloc.start()
        try:
            before, _ = tracemalloc.get_traced_memory()
            work()
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        if peak - before < limit_bytes:
            return True
    return False


@pytest.mark.parametrize("case", [case for case in api_cases() if case.kind == "request"], ids=str)
def test_memory_is_in_proportion(case: Case) -> None:
    """However many of the smallest elements a request holds, it takes no more than so many times its bytes."""
    version = case.versions[-1]
    flexible = version >= case.cls.FLEXIBLE
    for message in swollen(case.cls, version, flexible):
        try:
            data = encode(message, version)
        except EncodeError:
            continue  # an element whose defaults are null where this version wants a value
        survives(case.cls, version, data)
        assert decode_exact(case.cls, version, data) == message
        assert takes_less_than(PER_BYTE * len(data), partial(decode_exact, case.cls, version, data))


def swollen(cls: type[Message], version: int, flexible: bool) -> Iterator[Any]:
    """Messages in which one array, at whatever depth, has many elements of the smallest size."""
    for field in fields_of(cls, version, flexible):
        if field.present and field.array and field.struct is not None:
            yield cls(**{field.name: [field.struct()] * 200})
            for inner in swollen(field.struct, version, flexible):
                yield cls(**{field.name: [inner]})


def test_a_message_has_a_million_elements_at_most() -> None:
    """A frame that is all tiny elements is refused, so that 100 MB of it never become gigabytes."""
    topics = ELEMENTS_MAX + 1
    data = b"\x00" + b"\x00\x01" + bytes(4) + uvarint_bytes(topics + 1) + b"\x01\x01\x00" * topics + b"\x00"
    with pytest.raises(DecodeError, match="more elements in one message than it may have"):
        decode_exact(ProduceRequest, 9, data)


def test_refusals_name_the_field() -> None:
    """The error says which field, and what is wrong with it."""
    for data, words in (
        (b"\x00", r"HeartbeatRequest v0.*end inside a field"),
        (b"\xff\xff", r"group_id: null"),
        (b"\x7f\xff", r"group_id: length 32767 does not fit into the 0 bytes"),
        (b"\xff\xfe", r"group_id: negative length -2"),
        (b"\x00\x01\xff" + bytes(6), r"not UTF-8"),
        (b"\x00\x01a" + bytes(6) + b"x", r"1 bytes left over"),
    ):
        with pytest.raises(DecodeError, match=words):
            decode_exact(HeartbeatRequest, 0, data)
    with pytest.raises(DecodeError, match=r"MetadataRequest v0\.topics: length 1000000"):
        decode_exact(MetadataRequest, 0, struct.pack(">i", 1_000_000))
    with pytest.raises(DecodeError, match="has no version 99; it has 0 to 4"):
        decode_exact(HeartbeatRequest, 99, b"")


def test_varints_are_at_most_five_bytes_and_32_bits() -> None:
    """A length in six bytes, or in five with more than 32 bits, is refused."""
    for varint in (b"\x80\x80\x80\x80\x80\x00", b"\xff\xff\xff\xff\x1f"):
        with pytest.raises(DecodeError, match="varint"):
            decode_exact(HeartbeatRequest, 4, varint + bytes(20))


def test_compact_strings_keep_the_limit_of_the_others() -> None:
    """A string of more than 32767 bytes is refused also where its length could be longer."""
    fits = uvarint_bytes(32768) + b"x" * 32767
    assert len(decode(HeartbeatRequest, 4, fits + bytes(4) + b"\x01\x00\x00")[0].group_id) == 32767
    with pytest.raises(DecodeError, match="32768"):
        decode_exact(HeartbeatRequest, 4, uvarint_bytes(32769) + b"x" * 32768 + bytes(4) + b"\x01\x00\x00")


def test_tags_rise_and_hold_what_they_say() -> None:
    """Unknown tags are passed over; repeated, falling and lying ones are refused."""
    plain = encode(FetchRequest(), 17)[:-1]
    assert decode_exact(FetchRequest, 17, plain + b"\x02\x05\x01a\x06\x00") == FetchRequest()
    for tags, words in (
        (b"\x02\x05\x00\x05\x00", "tag 5 comes after tag 5"),
        (b"\x02\x06\x00\x05\x00", "tag 5 comes after tag 6"),
        (b"\x01\x05\x02a", "tag 5 has 2 bytes but 1 remain"),
        (b"\x01\x00\x03\x02ab", "value ends"),
        (b"\x01\x00\x01\x02a", "value ends"),
        (b"\xff\xff\xff\xff\x0f", "end inside"),
    ):
        with pytest.raises(DecodeError, match=words):
            decode_exact(FetchRequest, 17, plain + tags)


def test_non_minimal_varints_are_read() -> None:
    """Kafka reads a varint with needless bytes, so do we."""
    assert decode_exact(ApiVersionsResponse, 3, b"\x00\x00\x81\x00" + bytes(4) + b"\x80\x00") == ApiVersionsResponse()
