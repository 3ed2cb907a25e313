"""When the next record of a group was written, in a log of which compaction has left some."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from logd.log.log import Log, LogConfig
from logd.partitions.record_times import RecordTimes
from logd.wire.batches import Record, build_batch
from tests.fakes.disks import MemoryDisk
from tests.log.batches import TOPIC_ID, append
from tests.log.compacting import clean, put, records_of, roll


@pytest.mark.trio
async def test_times_of_what_compaction_has_left() -> None:
    """It is that of the first record from the offset on: not the time at which a tombstone may go, nor that of a record
    that is gone, and no empty batch ends the look."""
    disk = MemoryDisk()
    log = Log.create("/data/t-0", TOPIC_ID, LogConfig(compacted=True), now_ms=0, disk=disk)
    gone = [Record(-1, 1000, b"a", b"1", []), Record(-1, 1500, b"b", b"1", []), Record(-1, 1700, b"c", b"1", [])]
    append(log, build_batch(gone))
    for number in range(3):
        put(log, ("a", "2"), timestamp=2000, producer_id=number, producer_epoch=0, base_sequence=0)
    append(log, build_batch([Record(-1, 3000, b"a", None, []), Record(-1, 3500, b"d", b"1", [])]))
    roll(log)
    clean(log, disk, 10**9)
    times = [(one.offset, one.timestamp) for one in records_of(log)]
    assert times == [(1, 1500), (2, 1700), (6, 3000), (7, 3500)]

    async def read(work: Any) -> int:
        found: int = work()
        return found

    partition: Any = SimpleNamespace(topic_id=TOPIC_ID, index=0, high_watermark=log.end_offset, read=log.read)
    asked = RecordTimes(read)
    for offset in range(log.end_offset):
        assert await asked.at(partition, offset) == next(time for at, time in times if at >= offset), offset
    assert await asked.at(partition, log.end_offset) == -1
