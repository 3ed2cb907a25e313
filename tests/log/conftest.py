"""Batches and logs for the tests of ``logd.log``."""

from __future__ import annotations

import pytest

from logd.log.log import Log, LogConfig
from tests.fakes.disks import MemoryDisk
from tests.log.batches import TOPIC_ID


@pytest.fixture
def disk() -> MemoryDisk:
    return MemoryDisk()


@pytest.fixture
def log(disk: MemoryDisk) -> Log:
    return Log.create("/data/t-0", TOPIC_ID, LogConfig(), now_ms=0, disk=disk)
