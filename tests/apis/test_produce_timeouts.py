"""How long a Produce with acks=all waits for a disk that is stuck."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from logd.apis.produce import produce
from logd.apis.registry import Call, Connection
from logd.errors import ErrorCode
from logd.partitions.partition import Partition
from tests.log.batches import batch
from tests.partitions.test_stability import partition
from tests.raw import produce_request

TIMEOUT_S = 10


def asked(one: Partition) -> Any:
    """What the handler makes of one acks=all request."""
    table = SimpleNamespace(get=lambda topic, index: one, some_open_batches=False)
    services: Any = SimpleNamespace(partitions=table, clock=SimpleNamespace(now_ms=lambda: 1))
    connection = Connection(1, "peer", "127.0.0.1", 9092, "PLAINTEXT")
    return produce(Call(0, 9, 1, "test", connection, services), produce_request("t", bytes(batch()), -1))


@pytest.mark.trio
async def test_the_time_counts_from_the_append(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Of several in flight each is told after its own time, and not after that of all before it as well."""
    async with partition(tmp_path, durable=True, flushes=False) as one:
        answers = [asked(one) for _ in range(3)]
        begun = trio.current_time()
        for answer in answers:
            (row,) = (await answer).responses[0].partition_responses
            assert row.error_code == ErrorCode.REQUEST_TIMED_OUT
        assert trio.current_time() - begun == pytest.approx(TIMEOUT_S)
