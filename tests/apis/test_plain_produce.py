"""The short way of plain Produce requests gives, byte for byte, what the long way gives, and appends the same."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logd.apis import plain_produce, produce, register_all
from logd.apis.dispatch import Hangup, Pending, start
from logd.apis.registry import Connection, shortcuts
from logd.errors import ErrorCode, Refused
from logd.log.log import Appended
from logd.wire.frames import request_bytes
from logd.wire.message import ZERO_UUID
from logd.wire.schemas.produce import PartitionProduceData, ProduceRequest, TopicProduceData
from tests.raw import batch

register_all()
IDS = {"one": b"1" * 16, "two": b"2" * 16, "gone": b"3" * 16}
GOOD = batch(b"v" * 40)


class Stub:
    """A partition that takes what does not contain ``bad``."""

    durable = False

    def __init__(self, topic: str, index: int, appended: list[tuple[str, int, bytes]], *, plain: bool = True) -> None:
        self.topic, self.topic_id, self.index, self.plain, self.internal = topic, IDS[topic], index, plain, False
        self._appended = appended

    def __repr__(self) -> str:
        return f"{self.topic}-{self.index}"

    def append(self, records: memoryview, *, verified: object = None) -> Appended:
        self._appended.append((self.topic, self.index, bytes(records)))
        if b"bad" in bytes(records):
            raise Refused(ErrorCode.CORRUPT_MESSAGE, "bad")
        return Appended(len(self._appended), len(self._appended) + 1, -1, False, 2)

    def acknowledge(self, appended: Appended) -> None:
        """Only a Fetch wants to know."""

    def must_wait_for(self, appended: Appended, acks: int) -> bool:
        return False


class Table:
    """Two topics of two partitions; partition 1 of the second is not plain."""

    def __init__(self) -> None:
        self.some_open_batches = False
        self.appended: list[tuple[str, int, bytes]] = []
        self._there = {
            (name, index): Stub(name, index, self.appended, plain=(name, index) != ("two", 1))
            for name in ("one", "two")
            for index in (0, 1)
        }

    def get(self, name: str, index: int) -> Stub | None:
        return self._there.get((name, index))

    def get_by_id(self, topic_id: bytes, index: int) -> Stub | None:
        return next((self.get(name, index) for name, one in IDS.items() if one == topic_id), None)

    def knows_id(self, topic_id: bytes) -> bool:
        return topic_id in (IDS["one"], IDS["two"])

    def absent(self, topic: str | bytes, index: int) -> Refused:
        return Refused(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, f"no {topic!r}-{index}")


@pytest.fixture(scope="module", autouse=True)
def closed_batches() -> Iterator[None]:
    """A damaged batch whose times lie is not looked into: both ways go the long way then, and the stubs end there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(produce, "_times_lie", lambda data: False)
        yield


def outcome(frame: bytes) -> tuple[object, list[tuple[str, int, bytes]]]:
    """What the dispatcher makes of a frame, and what was appended."""
    table = Table()
    services: Any = SimpleNamespace(
        partitions=table,
        clock=SimpleNamespace(now_ms=lambda: 1),
        chronicle=SimpleNamespace(add=lambda note, now_ms: None),
    )
    connection = Connection(1, "peer", "127.0.0.1", 9092, "PLAINTEXT")
    try:
        answer = start(memoryview(bytearray(frame)), connection, services)
    except Hangup as hangup:
        return str(hangup), table.appended
    assert not isinstance(answer, Pending)
    return None if answer is None else b"".join(answer), table.appended


def both_ways(frame: bytes) -> tuple[object, list[tuple[str, int, bytes]]]:
    short = outcome(frame)
    kept = shortcuts.pop(plain_produce.PRODUCE)
    try:
        assert short == outcome(frame)
    finally:
        shortcuts[plain_produce.PRODUCE] = kept
    return short


def frame_of(version: int, request: ProduceRequest) -> bytes:
    return request_bytes(0, version, 7, "client", request)[4:]


def topic(name: str, *parts: tuple[int, bytes | None]) -> TopicProduceData:
    return TopicProduceData(name, IDS.get(name, ZERO_UUID), [PartitionProduceData(*part) for part in parts])


@pytest.mark.parametrize("version", range(3, 14))
def test_a_plain_request_is_answered_alike_in_every_version(version: int) -> None:
    """Versions without compact lengths take the long way and answer as ever."""
    answer, appended = both_ways(frame_of(version, ProduceRequest(None, 1, 9, [topic("one", (1, GOOD), (0, GOOD))])))
    assert isinstance(answer, bytes)
    assert appended == [("one", 1, GOOD), ("one", 0, GOOD)]


@pytest.mark.parametrize("version", range(9, 14))
@pytest.mark.parametrize("acks", [1, -1])
def test_plain_requests_take_the_short_way(version: int, acks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The decoder is never asked."""
    monkeypatch.setattr("logd.apis.dispatch.decode", None)
    assert outcome(frame_of(version, ProduceRequest(None, acks, 9, [topic("one", (0, GOOD))])))[1]


def test_who_waits_for_a_flush_goes_the_long_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """With acks=all, and before anything is appended; acks=1 need not wait there."""
    monkeypatch.setattr(Stub, "durable", True)
    assert both_ways(frame_of(13, ProduceRequest(None, -1, 9, [topic("one", (0, GOOD))])))[1] == [("one", 0, GOOD)]
    monkeypatch.setattr("logd.apis.dispatch.decode", None)
    assert outcome(frame_of(13, ProduceRequest(None, 1, 9, [topic("one", (0, GOOD))])))[1]
    with pytest.raises(TypeError, match="not callable"):
        outcome(frame_of(13, ProduceRequest(None, -1, 9, [topic("one", (0, GOOD))])))


@pytest.mark.parametrize("version", range(9, 14))
def test_a_partition_that_refuses_is_answered_beside_others(version: int) -> None:
    """The error of one partition stands in its own row, and the others have their offsets."""
    bad = GOOD + b"bad"
    request = ProduceRequest(None, 1, 9, [topic("one", (0, GOOD), (1, bad)), topic("two", (0, GOOD))])
    _, appended = both_ways(frame_of(version, request))
    assert len(appended) == 3


records = st.one_of(
    st.just(GOOD),
    st.just(GOOD + b"bad"),
    st.none(),
    st.binary(max_size=70),
    st.integers(0, 255).map(lambda value: GOOD[:22] + bytes([value]) + GOOD[23:]),
    st.sampled_from([50, 127, 128, 300, 16_500]).map(lambda size: GOOD + b"x" * size),
)
requests = st.builds(
    ProduceRequest,
    st.sampled_from([None, None, None, None, ""]),
    st.sampled_from([1, 1, -1, -1, 0, 2]),
    st.just(5),
    st.lists(
        st.builds(
            lambda name, parts: topic(name, *parts),
            st.sampled_from(["one", "two", "one", "two", "gone", "none", "", "ü"]),
            st.lists(st.tuples(st.integers(0, 2), records), max_size=3),
        ),
        max_size=3,
    ),
)


@given(st.integers(9, 13), requests.filter(lambda one: one.transactional_id is None), st.binary(max_size=3))
def test_any_request_is_answered_alike(version: int, request: ProduceRequest, tail: bytes) -> None:
    """Whatever is in it, and bytes behind it too."""
    both_ways(frame_of(version, request) + tail)


@given(st.integers(9, 13), requests, st.data())
def test_a_damaged_request_is_treated_alike(version: int, request: ProduceRequest, data: st.DataObject) -> None:
    """Cut or changed anywhere behind the header: the same answer, or the same reason to hang up."""
    frame = bytearray(frame_of(version, request))
    at = data.draw(st.integers(17, len(frame) - 1))
    if data.draw(st.booleans()):
        frame[at] = data.draw(st.integers(0, 255))
    else:
        del frame[at:]
    if frame[17:18] in (bytearray(1), bytearray()):  # a transactional id would ask a coordinator
        both_ways(bytes(frame))
