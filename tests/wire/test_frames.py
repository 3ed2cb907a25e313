"""Frames: cut anywhere they come out whole; sizes are not believed; heads and responses are as Kafka has them."""

from __future__ import annotations

import random
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kafka.protocol.consumer import FetchResponse as TheirFetchResponse
from kafka.protocol.metadata import MetadataRequest as TheirMetadataRequest

from logd.errors import DecodeError
from logd.wire import schemas
from logd.wire.codec import decode_exact
from logd.wire.frames import (
    STORAGE_BYTES_MIN,
    BadFrameSize,
    FrameBuffer,
    FrameTooLarge,
    RequestHead,
    decode_request_head,
    decode_response,
    foreign_protocol,
    request_bytes,
    response_parts,
)
from logd.wire.schemas.api_versions import ApiVersion, ApiVersionsResponse
from logd.wire.schemas.fetch import FetchableTopicResponse, FetchResponse, PartitionData
from logd.wire.schemas.metadata import MetadataRequest
from tests.wire.messages import api_cases, full, quick

LIMIT = 10 << 20


def framed(body: bytes) -> bytes:
    """`body` with its size before it."""
    return struct.pack(">i", len(body)) + body


def feed(buffer: FrameBuffer, data: bytes, step: int) -> list[bytes]:
    """The frames that come out while `data` goes in, `step` bytes at a time at most."""
    frames = []
    while True:
        frame = buffer.next_frame()
        if frame is not None:
            frames.append(bytes(frame))
            continue
        if not data:
            return frames
        room = buffer.writable()
        count = min(len(room), step, len(data))
        assert count
        room[:count] = data[:count]
        buffer.received(count)
        data = data[count:]


@quick(60)
@given(st.lists(st.integers(1, 9000), max_size=12), st.sampled_from([1, 2, 3, 7, 100, 4096, 1 << 20]))
def test_frames_come_out_as_they_went_in(sizes: list[int], step: int) -> None:
    """Whatever their sizes and however they are cut, byte by byte too, all frames come out whole and in order."""
    sizes = [size % 50 + 1 for size in sizes] if step < 4 else sizes
    bodies = [bytes([index % 251]) * size for index, size in enumerate(sizes)]
    buffer = FrameBuffer(LIMIT)
    assert feed(buffer, b"".join(map(framed, bodies)), step) == bodies
    assert buffer.pending_bytes == 0


def test_big_and_small_frames_in_turn() -> None:
    """Frames far bigger than the buffer and tiny ones, in random pieces, and the buffer shrinks when only tiny come."""
    rng = random.Random(7)
    bodies = [rng.randbytes(rng.choice((1, 20, 3000, 70_000, 600_000))) for _ in range(60)]
    buffer = FrameBuffer(LIMIT)
    data = b"".join(map(framed, bodies))
    frames = []
    while data:
        count = rng.choice((1, 50, 5000, 200_000))
        frames += feed(buffer, data[:count], count)
        data = data[count:]
    assert frames == bodies
    assert buffer.storage_bytes > STORAGE_BYTES_MIN
    feed(buffer, framed(b"small") * 1000, 10)
    assert buffer.storage_bytes == STORAGE_BYTES_MIN


def test_a_promise_costs_nothing() -> None:
    """A peer that announces 100 MB and sends little gets little memory: never more than eight times what it sent."""
    buffer = FrameBuffer(100 << 20)
    sent = 4
    feed(buffer, struct.pack(">i", 100 << 20), 4)
    assert buffer.storage_bytes == STORAGE_BYTES_MIN
    while sent < 3 << 20:
        sent += 10_000
        feed(buffer, bytes(10_000), 10_000)
        assert buffer.storage_bytes <= max(STORAGE_BYTES_MIN, 8 * sent)


@pytest.mark.parametrize("size", [0, -1, -(1 << 31)])
def test_sizes_that_cannot_be(size: int) -> None:
    """A size of zero or less ends the connection."""
    with pytest.raises(BadFrameSize, match="must be positive"):
        feed(FrameBuffer(LIMIT), struct.pack(">i", size), 4)


def test_the_limit_may_change() -> None:
    """The limit holds for the next size that is read; the error tells both numbers."""
    buffer = FrameBuffer(100)
    assert feed(buffer, framed(b"x" * 100), 50) == [b"x" * 100]
    with pytest.raises(FrameTooLarge) as caught:
        feed(buffer, framed(b"x" * 101), 50)
    assert (caught.value.size, caught.value.limit, caught.value.foreign) == (101, 100, None)
    buffer.limit = 101
    assert buffer.next_frame() is None


@pytest.mark.parametrize("step", [1, 3, 14, 500])
def test_a_request_may_be_larger(step: int) -> None:
    """What begins as a request has the higher limit from then on; what does not, or is larger still, is refused."""
    request = struct.pack(">hhih", 0, 9, 1, -1) + bytes(190)
    buffer = FrameBuffer(100, 200)
    assert feed(buffer, framed(request) + framed(b"x" * 200), step) == [request, b"x" * 200]
    with pytest.raises(FrameTooLarge):
        feed(buffer, framed(b"x" * 201), step)
    for wrong in (struct.pack(">hhih", 999, 9, 1, -1), struct.pack(">hhih", 0, 99, 1, -1), b"\xff" * 10):
        with pytest.raises(FrameTooLarge) as caught:
            feed(FrameBuffer(100, 200), framed(wrong + bytes(180)), step)
        assert caught.value.limit == 100


@pytest.mark.parametrize(
    ("first", "name"),
    [(b"GET / HTTP/1.1", "HTTP"), (b"\x16\x03\x01\x02\x00", "TLS"), (b"SSH-2.0-", "SSH"), (b"\x7f\xff\xff\xff", None)],
)
def test_other_protocols_are_recognised(first: bytes, name: str | None) -> None:
    """The four bytes of another protocol are a size far over every limit; the error says whose they are."""
    assert foreign_protocol(int.from_bytes(first[:4], "big", signed=True)) == name
    with pytest.raises(FrameTooLarge) as caught:
        feed(FrameBuffer(100 << 20), first, 100)
    assert caught.value.foreign == name


def test_detached_views_live_on() -> None:
    """After `detach`, frames taken before stay as they are while later ones arrive, the begun one too."""
    buffer = FrameBuffer(LIMIT)
    room = buffer.writable()
    data = framed(b"first") + framed(b"second")[:7]
    room[: len(data)] = data
    buffer.received(len(data))
    first = buffer.next_frame()
    assert buffer.next_frame() is None
    buffer.detach()
    assert feed(buffer, framed(b"second")[7:] + framed(b"third"), 3) == [b"second", b"third"]
    assert first is not None
    assert bytes(first) == b"first"


def test_idle_buffers_can_be_shrunk() -> None:
    """`shrink` gives big storage back, but not while a frame is pending."""
    buffer = FrameBuffer(LIMIT)
    feed(buffer, framed(bytes(100_000)) + b"\0\0\0", 100_000)
    buffer.shrink()
    assert buffer.storage_bytes > 100_000
    assert feed(buffer, b"\x01a", 1) == [b"a"]
    buffer.shrink()
    assert buffer.storage_bytes == STORAGE_BYTES_MIN


@pytest.mark.parametrize("client_id", [None, "", "a client", "ключ"])
def test_request_heads(client_id: str | None) -> None:
    """A request that we write, we read back, for every API and version, and the body stands where the head says."""
    for case in api_cases():
        if case.kind == "request":
            for version in case.versions:
                message = full(case.cls, version)
                frame = request_bytes(case.api_key, version, 77, client_id, message)
                assert struct.unpack_from(">i", frame)[0] == len(frame) - 4
                head = decode_request_head(memoryview(frame)[4:])
                assert head == RequestHead(case.api_key, version, 77, client_id, head.body)
                assert decode_exact(case.cls, version, frame[4:], head.body) == message


def test_request_heads_of_others() -> None:
    """Heads written by kafka-python are read, in both header versions."""
    for version, theirs in ((1, TheirMetadataRequest[1]()), (9, TheirMetadataRequest[9]())):
        theirs.with_header(correlation_id=5, client_id="them")
        frame = bytes(theirs.encode(header=True, framed=False))
        head = decode_request_head(frame)
        assert (head.api_key, head.api_version, head.correlation_id, head.client_id) == (3, version, 5, "them")
        decode_exact(MetadataRequest, version, frame, head.body)


def test_tags_in_a_request_head_are_passed_over() -> None:
    """A client may put tagged fields into header version 2."""
    frame = struct.pack(">hhih", 3, 9, 1, -1) + b"\x01\x09\x02ab" + b"body"
    assert decode_request_head(frame).body == len(frame) - 4


def test_heads_of_what_we_do_not_know() -> None:
    """Of an unknown API or version at least key, version and correlation id are told, even of a broken head."""
    future = struct.pack(">hhih", 18, 99, 6, 2) + b"me" + b"\x00" + b"whatever"
    assert decode_request_head(future) == RequestHead(18, 99, 6, "me", 13)
    for api_key, version in ((18, 99), (999, 0), (0, 99), (0, 2)):
        for rest in (b"", b"\x00", b"\x7f\xff", b"\xff\xfe", b"\x00\x02\xff\xff"):
            head = decode_request_head(struct.pack(">hhi", api_key, version, 6) + rest)
            assert (head.api_key, head.api_version, head.correlation_id) == (api_key, version, 6)


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"\x00\x03\x00",
        struct.pack(">hhi", 3, 9, 1),
        struct.pack(">hhih", 3, 9, 1, 5) + b"abc",
        struct.pack(">hhih", 3, 9, 1, -2),
        struct.pack(">hhih", 3, 9, 1, 2) + b"\xff\xff\x00",
        struct.pack(">hhih", 3, 9, 1, -1),
        struct.pack(">hhih", 3, 9, 1, -1) + b"\x01\x05\x7f",
    ],
)
def test_bad_heads(frame: bytes) -> None:
    """A broken head of a known API and version is refused."""
    with pytest.raises(DecodeError):
        decode_request_head(frame)


def test_random_heads() -> None:
    """Random frames raise nothing but DecodeError."""
    rng = random.Random(3)
    for _ in range(3000):
        frame = bytearray(struct.pack(">hhih", rng.randrange(93), rng.randrange(15), 1, rng.randrange(-3, 9)))
        frame += rng.randbytes(rng.randrange(20))
        try:
            decode_request_head(frame[: rng.randrange(30)])
        except DecodeError:
            continue


def test_responses_there_and_back() -> None:
    """A response that we write, we read back, for every API and version; its size is right."""
    for case in api_cases():
        if case.kind == "response":
            for version in case.versions:
                message = full(case.cls, version)
                frame = b"".join(response_parts(case.api_key, version, 9, message))
                assert struct.unpack_from(">i", frame)[0] == len(frame) - 4
                assert decode_response(case.api_key, version, frame[4:]) == (9, message)


def test_api_versions_is_answered_with_the_old_header() -> None:
    """The response header of ApiVersions has no tagged fields in any version."""
    message = ApiVersionsResponse(api_keys=[ApiVersion(0, 0, 13), ApiVersion(18, 0, 4)])
    for version in range(5):
        frame = b"".join(response_parts(18, version, 7, message))[4:]
        assert frame[:6] == struct.pack(">ih", 7, 0)
        assert decode_response(18, version, frame)[0] == 7


def test_records_are_not_copied() -> None:
    """Big records are parts of their own, the very buffers that were given; small ones are copied into their place."""
    big, more = memoryview(bytes(5000)), bytes(3000)
    partitions = [
        PartitionData(partition_index=0, records=big),
        PartitionData(partition_index=1, records=b"small"),
        PartitionData(partition_index=2, records=[big, more]),
        PartitionData(partition_index=3, records=[b"a", b"b"]),
        PartitionData(partition_index=4, records=None),
    ]
    message = FetchResponse(responses=[FetchableTopicResponse(topic="t", partitions=partitions)])
    for version in (4, 12):
        parts = response_parts(1, version, 3, message)
        assert [part for part in parts if part is big or part is more] == [big, big, more]
        assert len(parts) == 6
        frame = b"".join(parts)
        assert struct.unpack_from(">i", frame)[0] == len(frame) - 4
        body = frame[8 if version < 12 else 9 :]
        found = TheirFetchResponse.decode(body, version=version).responses[0].partitions
        assert [bytes(each.records or b"") for each in found] == [big, b"small", bytes(8000), b"ab", b""]


def test_bad_responses() -> None:
    """A client refuses a response that is cut or has bytes left over."""
    frame = b"".join(response_parts(3, 9, 1, full(schemas.response_class(3), 9)))[4:]
    for bad in (b"", frame[:4], frame[:-1], frame + b"\0", frame[:4] + b"\x01", frame[:4] + b"\x01\x05\x7f"):
        with pytest.raises(DecodeError):
            decode_response(3, 9, bad)
