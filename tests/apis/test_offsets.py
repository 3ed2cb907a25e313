"""ListOffsets and DeleteRecords right after acks=1: what was appended counts before a flush has committed it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from logd.apis.offsets import EARLIEST, LATEST, MAX_TIMESTAMP
from logd.errors import ErrorCode, StorageFailed
from logd.partitions.partition import Partition
from logd.wire.schemas.delete_records import (
    DeleteRecordsPartition,
    DeleteRecordsRequest,
    DeleteRecordsTopic,
)
from logd.wire.schemas.list_offsets import ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic
from tests.apis.calls import Admin, admin
from tests.log.batches import batch
from tests.partitions.test_stability import partition


class Asked:
    """One question to a partition "t-0" whose flushes the test ends itself."""

    def __init__(self, one: Partition, asker: Admin) -> None:
        self.one = one
        self._asker = asker
        self.row: Any = None

    async def list_offsets(self, timestamp: int) -> None:
        request = ListOffsetsRequest(-1, 0, [ListOffsetsTopic("t", [ListOffsetsPartition(0, -1, timestamp)])])
        self.row = (await self._asker.ask(2, 7, request)).topics[0].partitions[0]

    async def delete_records(self, offset: int) -> None:
        request = DeleteRecordsRequest([DeleteRecordsTopic("t", [DeleteRecordsPartition(0, offset)])], 1000)
        self.row = (await self._asker.ask(21, 2, request)).topics[0].partitions[0]


async def asked(one: Partition) -> Asked:
    table = SimpleNamespace(get=lambda topic, index: one, find=lambda topic, index: one)
    return Asked(one, (await admin_of(table)))


async def admin_of(table: SimpleNamespace) -> Admin:
    return Admin((await admin()).cluster, partitions=table)


@pytest.mark.trio
@pytest.mark.parametrize(("timestamp", "offset"), [(LATEST, 2), (MAX_TIMESTAMP, 0), (0, 0)])
async def test_what_was_appended_counts(tmp_path: Path, timestamp: int, offset: int) -> None:
    """The answer waits for the flush that is under way, and then tells of the records."""
    async with partition(tmp_path, durable=True, flushes=False) as one:
        question = await asked(one)
        one.append(batch(2))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(question.list_offsets, timestamp)
            await wait_all_tasks_blocked()
            assert question.row is None
            one.committed.advance(2)
        assert (question.row.error_code, question.row.offset) == (0, offset)


@pytest.mark.trio
async def test_the_start_waits_for_nothing(tmp_path: Path) -> None:
    """Where the log begins is known without a flush."""
    async with partition(tmp_path, durable=True, flushes=False) as one:
        question = await asked(one)
        one.append(batch(2))
        await question.list_offsets(EARLIEST)
        assert question.row.offset == 0


@pytest.mark.trio
async def test_a_stuck_disk_keeps_nobody(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A flush that does not end is not waited for for ever: what is committed is told."""
    async with partition(tmp_path, durable=True, flushes=False) as one:
        question = await asked(one)
        one.append(batch(2))
        await question.list_offsets(LATEST)
        assert (question.row.error_code, question.row.offset) == (0, 0)


@pytest.mark.trio
async def test_a_failed_disk_is_told(tmp_path: Path) -> None:
    """When the flush fails, the row says so."""
    async with partition(tmp_path, durable=True, flushes=False) as one:
        question = await asked(one)
        one.append(batch(2))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(question.list_offsets, LATEST)
            await wait_all_tasks_blocked()
            one.fail(StorageFailed("t-0", OSError(5, "broken")))
        assert question.row.error_code == ErrorCode.KAFKA_STORAGE_ERROR


@pytest.mark.trio
@pytest.mark.parametrize(("asked_for", "low"), [(-1, 2), (1, 1), (2, 2)])
async def test_deleting_waits_too(tmp_path: Path, asked_for: int, low: int) -> None:
    """Records that are appended and not yet flushed can be deleted; what was never appended cannot."""
    async with partition(tmp_path, durable=True, flushes=True) as one:
        question = await asked(one)
        one.append(batch(2))
        await question.delete_records(asked_for)
        assert (question.row.error_code, question.row.low_watermark) == (0, low)
        await question.delete_records(3)
        assert question.row.error_code == ErrorCode.OFFSET_OUT_OF_RANGE
