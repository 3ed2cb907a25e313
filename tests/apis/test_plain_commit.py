"""The short way of plain OffsetCommits gives, byte for byte, what the long way gives, and keeps the same."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from logd.apis.dispatch import Hangup, Pending, start
from logd.apis.plain_commit import OFFSET_COMMIT
from logd.apis.registry import shortcuts
from logd.config import Settings
from logd.coordinators.effects import Record
from logd.coordinators.events import PlainOffset
from logd.coordinators.machine import ShardMachine
from logd.coordinators.offsets import Offsets
from logd.coordinators.records import OFFSET_COMMIT_VALUE_VERSION, from_bytes, offset_bytes, to_bytes
from logd.errors import Refused, StorageFailed
from logd.wire.frames import request_bytes
from logd.wire.schemas.consumer_group_heartbeat import ConsumerGroupHeartbeatRequest
from logd.wire.schemas.group_records import OffsetCommitKey, OffsetCommitValue
from logd.wire.schemas.offset_commit import (
    OffsetCommitRequest,
    OffsetCommitRequestPartition,
    OffsetCommitRequestTopic,
)
from tests.apis.groups_house import House, house

PLAIN = range(8, 11)
AT_ONCE = Settings(log_flush_mode="os")
MEMBER = "app-id"
EPOCH = 2
"""Of the member of the new protocol; the classic group is in generation 1."""
IDS = {"t": bytes([1]) * 16, "u": bytes([2]) * 16}


class Twins:
    """Two houses that are told the same: one may take the short way, the other may not."""

    def __init__(self, short: House, long: House) -> None:
        self.short, self.long = short, long

    async def both(self, frame: bytes) -> object:
        """The answer to a frame, which is that of both."""
        answer = await _answer(self.short, frame)
        kept = shortcuts.pop(OFFSET_COMMIT)
        try:
            assert answer == await _answer(self.long, frame)
        finally:
            shortcuts[OFFSET_COMMIT] = kept
        for index, journal in self.short.journals.items():
            assert journal.batches == self.long.journals[index].batches
            ours, theirs = offsets_of(self.short, index), offsets_of(self.long, index)
            assert (ours.groups, ours.repeated, ours.newest) == (theirs.groups, theirs.repeated, theirs.newest)
        return answer

    def check_replay(self) -> None:
        """What is kept is what the log says."""
        for index, journal in self.short.journals.items():
            live = offsets_of(self.short, index)
            again = Offsets()
            for batch in journal.batches:
                for offset, (key, value) in zip(batch.offsets, batch.records, strict=True):
                    record: Any = from_bytes(key, value)
                    if hasattr(record.key, "partition"):
                        again.replay(offset, None, record.key, record.value)
            assert again.groups == live.groups


def offsets_of(one: House, index: int) -> Offsets:
    machine = one.groups._shards.at(index).machine
    assert isinstance(machine, ShardMachine)
    return machine.classic.offsets


async def _answer(one: House, frame: bytes) -> object:
    try:
        parts = start(memoryview(bytearray(frame)), one.connection, one.services)
    except Hangup as hangup:
        return str(hangup)
    if isinstance(parts, Pending):
        parts = await parts.parts()
    assert isinstance(parts, list)
    return b"".join(bytes(part) for part in parts)


@asynccontextmanager
async def twin_houses() -> AsyncIterator[Twins]:
    """Two houses with a classic group "g" and one of the new protocol, "m", each with one member."""
    async with house(AT_ONCE) as short, house(AT_ONCE) as long:
        for each in (short, long):
            assert {name: topic.id for name, topic in each.cluster.image.topics.items() if name in IDS} == IDS
            each.groups._new_id = lambda: "id"
            assert await each.stable() == MEMBER
            heartbeat = ConsumerGroupHeartbeatRequest(
                "m", MEMBER, 0, rebalance_timeout_ms=1000, subscribed_topic_names=["t"], topic_partitions=[]
            )
            answer = await each.ask(68, 1, heartbeat)
            assert (answer.error_code, answer.member_epoch) == (0, EPOCH), answer
        yield Twins(short, long)


def frame_of(version: int, request: OffsetCommitRequest) -> bytes:
    return bytes(request_bytes(OFFSET_COMMIT, version, 7, "app", request)[4:])


def request_of(
    group: str, generation: int, member: str, *rows: tuple[str, int, int], metadata: str | None = "", **how: Any
) -> OffsetCommitRequest:
    topics: dict[str, OffsetCommitRequestTopic] = {}
    for name, index, offset in rows:
        topic = topics.setdefault(name, OffsetCommitRequestTopic(name, IDS.get(name, b"?" * 16)))
        topic.partitions.append(OffsetCommitRequestPartition(index, offset, 4, metadata))
    return OffsetCommitRequest(group, generation, member, topics=list(topics.values()), **how)


ROWS = ("t", 0, 5), ("t", 1, 6), ("u", 0, 7)


@pytest.mark.trio
@pytest.mark.parametrize("version", PLAIN)
@pytest.mark.parametrize(("group", "generation", "member"), [("s", -1, ""), ("g", 1, MEMBER), ("m", EPOCH, MEMBER)])
async def test_plain_requests_take_the_short_way(
    version: int, group: str, generation: int, member: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of nobody, of a classic member and of one of the new protocol: the second request is not decoded any more."""
    async with twin_houses() as twins:
        frames = [
            frame_of(version, request_of(group, generation, member, *ROWS, metadata=text)) for text in ("", "ü", None)
        ]
        for frame in frames:
            await twins.both(frame)
        twins.check_replay()
        if version >= 9 or group != "m":
            monkeypatch.setattr("logd.apis.dispatch.decode", None)
            assert await _answer(twins.short, frames[0])


@pytest.mark.trio
@pytest.mark.parametrize("version", range(2, 11))
async def test_every_version_is_answered_alike(version: int) -> None:
    """Versions without compact lengths take the long way and answer as ever."""
    async with twin_houses() as twins:
        for offset in (1, 2, 2, 1):
            await twins.both(frame_of(version, request_of("g", 1, MEMBER, ("t", 0, offset))))
        twins.check_replay()


requests = st.builds(
    lambda group, generation, member, instance, rows, metadata: request_of(
        group, generation, member, *rows, metadata=metadata, group_instance_id=instance
    ),
    st.sampled_from(["g", "g", "m", "m", "new", "", "x" * 127, "ü"]),
    st.sampled_from([-1, 0, 1, 1, 1, 2]),
    st.sampled_from([MEMBER, MEMBER, MEMBER, "", "who"]),
    st.sampled_from([None, None, None, "", "static"]),
    st.lists(st.tuples(st.sampled_from("ttuv"), st.sampled_from([0, 1, 0, 1, 2, -1]), st.integers(-2, 5)), max_size=4),
    st.sampled_from(["", "", None, "ü" * 63, "x" * 126, "x" * 127, "x" * 5000]),
)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(8, 10), requests, st.binary(max_size=2)), min_size=1, max_size=6))
def test_any_requests_are_answered_alike(asked: list[tuple[int, OffsetCommitRequest, bytes]]) -> None:
    """Whatever is in them, one after the other, and bytes behind them too."""

    async def tell() -> None:
        async with twin_houses() as twins:
            for version, request, tail in asked:
                await twins.both(frame_of(version, request) + tail)
            twins.check_replay()

    trio.run(tell)


@settings(max_examples=15, deadline=None)
@given(st.integers(8, 10), requests, st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(-1, 255)), max_size=12))
def test_a_damaged_request_is_treated_alike(
    version: int, request: OffsetCommitRequest, wounds: list[tuple[int, int]]
) -> None:
    """Cut or changed anywhere behind the header: the same answer, or the same reason to hang up."""

    async def tell() -> None:
        whole = frame_of(version, request)
        async with twin_houses() as twins:
            for where, byte in wounds:
                frame = bytearray(whole)
                at = 14 + where % (len(frame) - 14)
                if byte < 0:
                    del frame[at:]
                else:
                    frame[at] = byte
                await twins.both(bytes(frame))
            twins.check_replay()

    trio.run(tell)


@pytest.mark.trio
@pytest.mark.parametrize("failure", [Refused(6, "gone"), StorageFailed("o-0", OSError(28, "full"))])
async def test_what_the_log_refuses_is_told_by_the_long_way(failure: Exception) -> None:
    """A failed append changes nothing, and the client hears of it."""
    frame = frame_of(9, request_of("g", 1, MEMBER, *ROWS))
    async with twin_houses() as twins:
        good = await twins.both(frame)
        for one in (twins.short, twins.long):
            for journal in one.journals.values():
                journal.failure = failure
        assert await twins.both(frame) != good


@pytest.mark.trio
async def test_what_must_wait_takes_the_long_way() -> None:
    """Where a flush commits, the answer is parked as ever."""
    async with twin_houses() as twins:
        for journal in twins.short.journals.values():
            journal.held = True
        frame = frame_of(9, request_of("g", 1, MEMBER, *ROWS))
        pending = start(memoryview(bytearray(frame)), twins.short.connection, twins.short.services)
        assert isinstance(pending, Pending)
        pending.drop()


@pytest.mark.trio
async def test_a_member_that_commits_lives(autojump_clock: Any) -> None:
    """A plain commit begins the session of its classic member anew, as every request of it does."""
    async with house(AT_ONCE) as one:
        member = await one.stable()
        for offset in range(4):
            await trio.sleep(6)
            answer = await one.ask(OFFSET_COMMIT, 9, request_of("g", 1, member, ("t", 0, offset)))
            assert answer.topics[0].partitions[0].error_code == 0


@pytest.mark.parametrize("metadata", ["", "m", "\u00fc" * 63])
@pytest.mark.parametrize(("index", "offset", "epoch"), [(0, 0, 0), (7, (1 << 63) - 1, -1), (1 << 30, -1, 1 << 30)])
def test_the_bytes_are_those_of_the_codec(index: int, offset: int, epoch: int, metadata: str) -> None:
    """What is written without a message object is what the codec writes."""
    topic_id = b"i" * 16
    value = OffsetCommitValue(offset, epoch, metadata, 77, topic_id=topic_id)
    written = to_bytes(Record(OffsetCommitKey("g\u00fc", "t", index), value, OFFSET_COMMIT_VALUE_VERSION))
    assert offset_bytes("g\u00fc", PlainOffset("t", topic_id, index, offset, epoch, metadata), 77) == written


@pytest.mark.trio
async def test_where_flushes_commit_nothing_is_read_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """In flush mode group every commit has to wait, so that none is plain."""
    monkeypatch.setattr("logd.apis.plain_commit._asked", None)
    async with house(Settings(log_flush_mode="group")) as one:
        answer = await one.ask(OFFSET_COMMIT, 9, request_of("s", -1, "", *ROWS))
        assert answer.topics[0].partitions[0].error_code == 0
