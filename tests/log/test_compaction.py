"""Compaction of a log: what stays, what goes, and when (KIP-58, KIP-354, KIP-534)."""

from __future__ import annotations

import pytest

from logd.log.log import Log, LogConfig
from logd.wire.batches import Record, build_batch, read_header, read_headers
from tests.fakes.disks import MemoryDisk
from tests.log.batches import TOPIC_ID, append
from tests.log.compacting import clean, pairs_of, put, records_of, roll

CONFIG = LogConfig(segment_bytes=2000, index_interval_bytes=200, compacted=True)
PATH = "/data/t-0"


@pytest.fixture
def log(disk: MemoryDisk) -> Log:
    return Log.create(PATH, TOPIC_ID, CONFIG, now_ms=0, disk=disk)


def test_keeps_the_last_of_each_key(log: Log, disk: MemoryDisk) -> None:
    """Of each key the last record stays, at its offset; the active segment stays as it is."""
    put(log, ("a", "1"), ("b", "1"), ("a", "2"))
    put(log, ("c", "1"), ("b", "2"))
    roll(log)
    put(log, ("a", "3"), ("a", "4"))
    clean(log, disk)
    assert pairs_of(log) == [(2, "a", "2"), (3, "c", "1"), (4, "b", "2"), (5, "a", "3"), (6, "a", "4")]
    assert (log.start_offset, log.end_offset, log.cleaned_offset) == (0, 7, 5)
