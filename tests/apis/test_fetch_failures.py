"""A Fetch from a partition whose disk has failed."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from logd.apis.fetch import fetch
from logd.apis.fetch_sessions import Sessions
from logd.apis.registry import Call, Connection
from logd.config import Settings
from logd.errors import ErrorCode, StorageFailed
from logd.wire.schemas.fetch import FetchPartition, FetchRequest, FetchTopic
from tests.partitions.test_stability import partition


@pytest.mark.trio
@pytest.mark.parametrize(
    ("version", "code"),
    [(4, ErrorCode.NOT_LEADER_OR_FOLLOWER), (5, ErrorCode.NOT_LEADER_OR_FOLLOWER), (6, ErrorCode.KAFKA_STORAGE_ERROR)],
)
async def test_a_failed_disk_is_told_in_a_code_that_the_client_knows(
    tmp_path: Path, version: int, code: ErrorCode
) -> None:
    """Clients before version 6 would give up on KAFKA_STORAGE_ERROR: they are sent to ask for Metadata, as by Kafka."""
    async with partition(tmp_path, durable=False, flushes=False) as one:
        one.fail(StorageFailed("t-0", OSError(5, "broken")))
        services: Any = SimpleNamespace(
            partitions=SimpleNamespace(get=lambda topic, index: one),
            settings=Settings(),
            fetch_sessions=Sessions(1),
            clock=SimpleNamespace(now_ms=lambda: 1),
            chronicle=SimpleNamespace(add=lambda note, now_ms: None),
        )
        call = Call(1, version, 1, "test", Connection(1, "peer", "127.0.0.1", 9092, "PLAINTEXT"), services)
        topics = [FetchTopic("t", partitions=[FetchPartition(0, partition_max_bytes=100)])]
        answer: Any = fetch(call, FetchRequest(max_wait_ms=1000, min_bytes=1, topics=topics))
        assert answer.responses[0].partitions[0].error_code == code
