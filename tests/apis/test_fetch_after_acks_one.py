"""A Fetch right after acks=1: what was acknowledged is there, although a flush had yet to commit it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from logd.apis import register_all
from logd.apis.dispatch import start
from logd.apis.fetch import fetch
from logd.apis.fetch_sessions import Sessions
from logd.apis.registry import Call, Connection
from logd.config import Settings
from logd.errors import ErrorCode, StorageFailed
from logd.partitions.partition import Partition
from logd.wire.frames import request_bytes
from logd.wire.schemas.fetch import FetchPartition, FetchRequest, FetchTopic
from logd.wire.schemas.produce import PartitionProduceData, ProduceRequest, TopicProduceData
from tests.partitions.test_stability import FixedClock, partition
from tests.raw import batch

register_all()
CONNECTION = Connection(1, "peer", "127.0.0.1", 9092, "PLAINTEXT")
BATCH = batch(b"v" * 40, timestamp=FixedClock().now_ms())
LONG_WAY, SHORT_WAY = 8, 9
"""Versions of Produce: the second has a way of its own when the request is plain."""


class Asked:
    """Produces to and fetches from a partition "t-0" whose flushes the test ends itself."""

    def __init__(self, one: Partition) -> None:
        self.one = one
        self.row: Any = None
        self.answers = 0
        self._session = (0, 0)
        table = SimpleNamespace(
            get=lambda topic, index: one,
            find=lambda topic, index: one,
            some_open_batches=False,
            hosts=lambda name: True,
        )
        self._services: Any = SimpleNamespace(
            partitions=table,
            settings=Settings(),
            fetch_sessions=Sessions(1),
            clock=SimpleNamespace(now_ms=lambda: 1),
            chronicle=SimpleNamespace(add=lambda note, now_ms: None),
        )

    def produce(self, version: int, acks: int = 1) -> None:
        """Append one batch; the answer, where there is one, is not looked at."""
        request = ProduceRequest(
            None, acks, 1000, [TopicProduceData("t", partition_data=[PartitionProduceData(0, BATCH)])]
        )
        end = self.one.log.end_offset
        start(memoryview(request_bytes(0, version, 1, "test", request))[4:], CONNECTION, self._services)
        assert self.one.log.end_offset == end + 1

    async def fetch(
        self, offset: int, *, max_wait_ms: int = 0, bytes_max: int = 1 << 20, session: bool = False
    ) -> None:
        """One request; afterwards ``row`` is what it got, None where the answer left the partition out."""
        topics = [FetchTopic("t", partitions=[FetchPartition(0, fetch_offset=offset, partition_max_bytes=bytes_max)])]
        request = FetchRequest(max_wait_ms=max_wait_ms, min_bytes=1, topics=topics)
        if session:
            request.session_id, request.session_epoch = self._session
        answer: Any = fetch(Call(1, 11, 1, "test", CONNECTION, self._services), request)
        if hasattr(answer, "__await__"):
            answer = await answer
        rows = [row for topic in answer.responses for row in topic.partitions]
        self._session = (answer.session_id, request.session_epoch + 1)
        self.row = rows[0] if rows else None
        self.answers += 1

    def size(self) -> int:
        """Bytes of records that the last answer had."""
        return sum(len(piece) for piece in self.row.records)


@pytest.fixture
async def asked(tmp_path: Path) -> AsyncIterator[Asked]:
    async with partition(tmp_path, durable=True, flushes=False) as one:
        yield Asked(one)


@pytest.mark.trio
@pytest.mark.parametrize("version", [LONG_WAY, SHORT_WAY])
@pytest.mark.parametrize("max_wait_ms", [0, 500])
@pytest.mark.parametrize("committed", [0, 1])
async def test_all_that_was_acknowledged_is_there(
    asked: Asked, version: int, max_wait_ms: int, committed: int, autojump_clock: MockClock
) -> None:
    """The first answer brings all three batches, whatever was committed when the request came."""
    for _ in range(3):
        asked.produce(version)
    if committed:
        asked.one.committed.advance(committed)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: asked.fetch(0, max_wait_ms=max_wait_ms))
        await wait_all_tasks_blocked()
        asked.one.committed.advance(2)
        await wait_all_tasks_blocked()
        assert not asked.answers
        asked.one.committed.advance(3)
    assert (asked.row.error_code, asked.row.high_watermark, asked.size()) == (0, 3, 3 * len(BATCH))


@pytest.mark.trio
async def test_a_session_that_knew_all_waits_too(asked: Asked) -> None:
    """A consumer at the end of the log has its next request wait for what was acknowledged since."""
    await asked.fetch(0, session=True)
    asked.produce(SHORT_WAY)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: asked.fetch(0, session=True))
        await wait_all_tasks_blocked()
        assert asked.answers == 1
        asked.one.committed.advance(1)
    assert asked.size() == len(BATCH)


@pytest.mark.trio
async def test_what_was_not_acknowledged_is_not_waited_for(asked: Asked) -> None:
    """With acks=all nobody was told yet: a reader gets at once what is committed."""
    asked.produce(LONG_WAY, acks=-1)
    await asked.fetch(0)
    assert (asked.row.high_watermark, asked.size()) == (0, 0)


@pytest.mark.trio
async def test_a_reader_far_behind_waits_for_nothing(asked: Asked) -> None:
    """Who cannot take all that is committed is answered at once."""
    asked.produce(SHORT_WAY)
    asked.produce(SHORT_WAY)
    asked.one.committed.advance(2)
    asked.produce(SHORT_WAY)
    await asked.fetch(0, bytes_max=len(BATCH))
    assert asked.size() == len(BATCH)


@pytest.mark.trio
async def test_a_stuck_disk_keeps_nobody(asked: Asked, autojump_clock: MockClock) -> None:
    """A flush that does not end is not waited for for ever: what is committed is given."""
    asked.produce(SHORT_WAY)
    asked.one.committed.advance(1)
    asked.produce(SHORT_WAY)
    await asked.fetch(0)
    assert (asked.row.high_watermark, asked.size()) == (1, len(BATCH))


@pytest.mark.trio
async def test_a_failed_disk_is_told(asked: Asked) -> None:
    """When the flush fails, the row says so."""
    asked.produce(SHORT_WAY)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(asked.fetch, 0)
        await wait_all_tasks_blocked()
        asked.one.fail(StorageFailed("t-0", OSError(5, "broken")))
    assert asked.row.error_code == ErrorCode.KAFKA_STORAGE_ERROR
