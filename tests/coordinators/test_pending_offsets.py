"""Offsets of transactions in the group coordinator: pending until the marker, live and after loading alike."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from logd.cluster.controller import NewTopic
from logd.coordinators.journal import MemoryJournal
from logd.coordinators.shards import shard_of
from logd.errors import ErrorCode, Refused
from logd.wire.schemas.delete_groups import DeleteGroupsRequest
from logd.wire.schemas.offset_commit import (
    OffsetCommitRequest,
    OffsetCommitRequestPartition,
    OffsetCommitRequestTopic,
)
from logd.wire.schemas.offset_fetch import OffsetFetchRequestGroup, OffsetFetchResponseGroup
from tests.coordinators.test_front import House, new_cluster

pytestmark = pytest.mark.trio

GROUP, TOPIC = "g", "t"
ONE, TWO = (1, 0), (2, 0)


class Offsets:
    """The offsets of one group on a coordinator."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.index = shard_of(GROUP, len(house.cluster.image.topics["__consumer_offsets"].partitions))

    def request(self, offset: int) -> OffsetCommitRequest:
        partition = OffsetCommitRequestPartition(0, offset)
        topics = [OffsetCommitRequestTopic(TOPIC, self.house.cluster.image.topics[TOPIC].id, [partition])]
        return OffsetCommitRequest(GROUP, topics=topics)

    def keep(self, producer: tuple[int, int], offset: int) -> None:
        self.house.front.ask_pending(self.request(offset), producer).result()

    def commit(self, offset: int) -> None:
        self.house.front.ask(GROUP, self.request(offset), 9).result()

    def mark(self, producer: tuple[int, int], committed: bool) -> None:
        journal = self.house.journals[self.index]
        shard = self.house.front.shard_at(self.index)
        shard.end_transaction(producer, committed, lambda: journal.append_marker(producer, committed))

    def read(self) -> tuple[int | None, ErrorCode]:
        """The offset as everyone sees it, and what is told to those who want it stable."""
        seen: list[tuple[int | None, ErrorCode]] = []
        for stable in (False, True):
            answer = self.house.front.ask_offsets(OffsetFetchRequestGroup(GROUP, topics=None), stable).result()
            assert isinstance(answer, OffsetFetchResponseGroup)
            rows = [row for topic in answer.topics for row in topic.partitions]
            seen.append((rows[0].committed_offset, ErrorCode(rows[0].error_code)) if rows else (None, ErrorCode.NONE))
        return seen[0][0], seen[1][1]


@asynccontextmanager
async def offsets(journals: dict[int, MemoryJournal]) -> AsyncIterator[Offsets]:
    """A coordinator over these journals, loaded."""
    cluster = await new_cluster()
    house = House(cluster, journals)
    await house.front.ensure_topic()
    await cluster.create_topics([NewTopic(TOPIC, 1)])
    async with trio.open_nursery() as nursery:
        await nursery.start(house.front.run)
        await house.front.until_serving([GROUP])
        yield Offsets(house)
        nursery.cancel_scope.cancel()


async def test_pending_until_the_marker() -> None:
    """Nobody sees a pending offset; a commit makes it count, an abort forgets it; the log alone tells the same."""
    journals: dict[int, MemoryJournal] = {}
    async with offsets(journals) as at:
        at.commit(1)
        at.keep(ONE, 5)
        assert at.read() == (1, ErrorCode.UNSTABLE_OFFSET_COMMIT)
    async with offsets(journals) as at:
        assert at.read() == (1, ErrorCode.UNSTABLE_OFFSET_COMMIT)
        at.mark(ONE, True)
        assert at.read() == (5, ErrorCode.NONE)
        at.keep(ONE, 9)
        at.mark(ONE, False)
        assert at.read() == (5, ErrorCode.NONE)
    async with offsets(journals) as at:
        assert at.read() == (5, ErrorCode.NONE)


async def test_two_transactions_of_one_group() -> None:
    """Each marker ends its own producer's offsets; the later of two written offsets stays."""
    journals: dict[int, MemoryJournal] = {}
    async with offsets(journals) as at:
        at.keep(ONE, 5)
        at.keep(TWO, 7)
        at.mark(TWO, True)
        assert at.read() == (7, ErrorCode.UNSTABLE_OFFSET_COMMIT)
        at.mark(ONE, True)
        assert at.read() == (7, ErrorCode.NONE)
    async with offsets(journals) as at:
        assert at.read() == (7, ErrorCode.NONE)


async def test_a_plain_commit_overtakes() -> None:
    """An offset that is committed plainly while a transaction is open is newer than what the transaction kept."""
    journals: dict[int, MemoryJournal] = {}
    async with offsets(journals) as at:
        at.keep(ONE, 5)
        at.commit(6)
        at.mark(ONE, True)
        assert at.read() == (6, ErrorCode.NONE)
    async with offsets(journals) as at:
        assert at.read() == (6, ErrorCode.NONE)


async def test_a_deleted_group_takes_them_along() -> None:
    """Pending offsets go with their group; the marker that comes then has nothing to commit."""
    journals: dict[int, MemoryJournal] = {}
    async with offsets(journals) as at:
        at.keep(ONE, 5)
        at.house.front.ask(GROUP, DeleteGroupsRequest([GROUP])).result()
        at.mark(ONE, True)
        assert at.read() == (None, ErrorCode.NONE)
    async with offsets(journals) as at:
        assert at.read() == (None, ErrorCode.NONE)


async def test_a_refused_write_keeps_nothing() -> None:
    """When the log refuses pending offsets they are not there, and neither is the group that they would have made."""
    journals: dict[int, MemoryJournal] = {}
    async with offsets(journals) as at:
        at.house.journals[at.index].failure = Refused(ErrorCode.KAFKA_STORAGE_ERROR, "full")
        with pytest.raises(Refused):
            at.keep(ONE, 5)
        at.house.journals[at.index].failure = None
        assert at.read() == (None, ErrorCode.NONE)
