"""Offsets as part of a transaction, where their partition goes away while the coordinator is asked."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import trio

from logd.apis.transaction_offsets import txn_offset_commit
from logd.cluster.image import PartitionState, Topic
from logd.errors import ErrorCode, Refused
from logd.log.producers import Producers
from logd.wire.schemas.offset_commit import OffsetCommitResponse
from logd.wire.schemas.txn_offset_commit import (
    TxnOffsetCommitRequest,
    TxnOffsetCommitRequestPartition,
    TxnOffsetCommitRequestTopic,
)

PLACE = ("__consumer_offsets", 0)
OFFLINE = Refused(ErrorCode.KAFKA_STORAGE_ERROR, "the disk was full")


@pytest.mark.trio
@pytest.mark.parametrize("version", [3, 5])
@pytest.mark.parametrize("reopened", [False, True])
async def test_opened_anew_while_the_coordinator_is_asked(version: int, reopened: bool) -> None:
    """What was verified for the partition as it was is not written to it as it is now: a marker may have come between,
    and offsets behind it would begin a transaction that nobody ends."""
    partition = SimpleNamespace(log=SimpleNamespace(producers=Producers("/data/__consumer_offsets-0")), failure=None)
    kept: list[object] = []

    async def verified() -> dict[tuple[str, int], ErrorCode]:
        await trio.lowlevel.checkpoint()
        partition.failure = OFFLINE if reopened else None
        return {PLACE: ErrorCode.NONE}

    def ask_pending(commit: object, producer: object) -> Any:
        async def wait() -> OffsetCommitResponse:
            return OffsetCommitResponse()

        kept.append(commit)
        return SimpleNamespace(wait=wait)

    services = SimpleNamespace(
        cluster=SimpleNamespace(
            image=SimpleNamespace(topics={"t": Topic("t", b"t" * 16, (PartitionState(0, 0, 0, (0,), (0,)),))})
        ),
        partitions=SimpleNamespace(get=lambda *place: partition),
        transactions=SimpleNamespace(
            offsets_partition=lambda group: PLACE, add_partitions=lambda *_, **how: verified()
        ),
        groups=SimpleNamespace(ask_pending=ask_pending),
    )
    topics = [TxnOffsetCommitRequestTopic("t", [TxnOffsetCommitRequestPartition(0, 5)])]
    call: Any = SimpleNamespace(services=services, version=version)
    answer = await txn_offset_commit(call, TxnOffsetCommitRequest("x", "g", 1, 0, topics=topics))
    code = answer.topics[0].partitions[0].error_code
    assert (code, len(kept)) == ((ErrorCode.NOT_COORDINATOR, 0) if reopened else (ErrorCode.NONE, 1))
