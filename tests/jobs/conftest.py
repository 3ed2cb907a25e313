"""The disk of the tests of ``logd.jobs``."""

from __future__ import annotations

import pytest

from tests.fakes.disks import MemoryDisk


@pytest.fixture
def disk() -> MemoryDisk:
    return MemoryDisk()
