"""TxnOffsetCommit (28): a group's offsets, as part of a transaction (KIP-98, KIP-447, KIP-890).

First the transaction coordinator says that the partition of the group's offsets belongs to the transaction, or makes
it so from version 5 on; then the group coordinator keeps them until the transaction's marker comes. Called through the
registry.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from logd.apis.registry import Call, api
from logd.apis.verification import Doubt
from logd.errors import ErrorCode, Refused
from logd.wire.schemas.offset_commit import (
    OffsetCommitRequest,
    OffsetCommitRequestPartition,
    OffsetCommitRequestTopic,
    OffsetCommitResponse,
)
from logd.wire.schemas.txn_offset_commit import (
    TxnOffsetCommitRequest,
    TxnOffsetCommitRequestTopic,
    TxnOffsetCommitResponse,
    TxnOffsetCommitResponsePartition,
    TxnOffsetCommitResponseTopic,
)

ABORTABLE_VERSION = 4
"""From this version on a client knows TRANSACTION_ABORTABLE."""
ADDS_VERSION = 5
"""From this version on the offsets become part of the transaction by being sent."""

Codes = dict[tuple[str, int], int]


def _not_kept(request: TxnOffsetCommitRequest, version: int, refused: Refused) -> TxnOffsetCommitResponse:
    return _answer(request, {}, int(refused.code))


@api(28, refuse=_not_kept)
async def txn_offset_commit(call: Call, request: TxnOffsetCommitRequest) -> TxnOffsetCommitResponse:
    """Versions 0-5. Partitions that are not there fail, the others are kept for the end of the transaction."""
    topics = call.services.cluster.image.topics
    codes: Codes = {}
    wanted: list[OffsetCommitRequestTopic] = []
    for topic in request.topics:
        known = topics.get(topic.name)
        count = len(known.partitions) if known is not None else 0
        there = [asked for asked in topic.partitions if 0 <= asked.partition_index < count]
        missing = (asked.partition_index for asked in topic.partitions if not 0 <= asked.partition_index < count)
        codes |= {(topic.name, index): int(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION) for index in missing}
        if known is not None and there:
            wanted.append(_wanted(topic.name, known.id, TxnOffsetCommitRequestTopic(topic.name, there)))
    if not wanted:
        return _answer(request, codes, 0)
    try:
        codes |= await _keep(call, request, wanted)
    except Refused as refused:
        return _answer(request, codes, int(refused.code))
    return _answer(request, codes, 0)


def _wanted(name: str, topic_id: bytes, topic: TxnOffsetCommitRequestTopic) -> OffsetCommitRequestTopic:
    partitions = [
        OffsetCommitRequestPartition(
            asked.partition_index, asked.committed_offset, asked.committed_leader_epoch, asked.committed_metadata
        )
        for asked in topic.partitions
    ]
    return OffsetCommitRequestTopic(name, topic_id, partitions)


async def _keep(call: Call, request: TxnOffsetCommitRequest, wanted: list[OffsetCommitRequestTopic]) -> Codes:
    """:raises Refused: when none of them is kept."""
    if not request.group_id:
        raise Refused(ErrorCode.INVALID_GROUP_ID, "group.id is empty: set one")
    commit = OffsetCommitRequest(
        request.group_id, request.generation_id, request.member_id, request.group_instance_id, topics=wanted
    )
    producer = (request.producer_id, request.producer_epoch)
    place = call.services.transactions.offsets_partition(request.group_id)
    partition = call.services.partitions.get(*place)
    if partition is None:
        raise Refused(ErrorCode.NOT_COORDINATOR, f"group {request.group_id!r} is kept elsewhere: find its coordinator")
    doubt = Doubt(partition.log.producers, producer, 0, restarts=call.version >= ADDS_VERSION)
    try:
        if doubt.verification is not None:
            await _verify(call, request, place, doubt.begin_again)
        if partition.failure is not None:  # opened anew by now, it knows of no marker that came between
            raise Refused(
                ErrorCode.NOT_COORDINATOR, f"{partition!r} went offline meanwhile: find the coordinator again"
            )
        if doubt.void:
            raise Refused(ErrorCode.INVALID_TXN_STATE, "the transaction ended before these offsets came into it: abort")
        waiter = call.services.groups.ask_pending(commit, producer)
    finally:
        doubt.close()
    kept = await waiter.wait()
    assert isinstance(kept, OffsetCommitResponse)
    return {(topic.name, one.partition_index): one.error_code for topic in kept.topics for one in topic.partitions}


async def _verify(
    call: Call, request: TxnOffsetCommitRequest, place: tuple[str, int], before_again: Callable[[], None]
) -> None:
    """Whether the group's offsets belong to the transaction, which from version 5 on is made so.

    :raises Refused: they do not, or can't be made to.
    """
    adds = call.version >= ADDS_VERSION
    asked = call.services.transactions.add_partitions(
        request.transactional_id,
        request.producer_id,
        request.producer_epoch,
        [place],
        verify_only=not adds,
        before_again=before_again,
    )
    codes: Mapping[tuple[str, int], ErrorCode] = asked if isinstance(asked, dict) else await asked
    code = codes[place]
    if code is ErrorCode.PRODUCER_FENCED:
        code = ErrorCode.INVALID_PRODUCER_EPOCH
    elif code is ErrorCode.TRANSACTION_ABORTABLE and call.version < ABORTABLE_VERSION:
        code = ErrorCode.INVALID_TXN_STATE
    if code is not ErrorCode.NONE:
        raise Refused(code, f"the offsets of group {request.group_id!r} are not part of a transaction of this producer")


def _answer(request: TxnOffsetCommitRequest, codes: Codes, other: int) -> TxnOffsetCommitResponse:
    """A code for each partition, in the order of the request; a topic that is named twice is told once."""
    topics: dict[str, list[TxnOffsetCommitResponsePartition]] = {}
    for topic in request.topics:
        for asked in topic.partitions:
            code = codes.get((topic.name, asked.partition_index), other)
            topics.setdefault(topic.name, []).append(TxnOffsetCommitResponsePartition(asked.partition_index, code))
    return TxnOffsetCommitResponse(topics=[TxnOffsetCommitResponseTopic(name, rows) for name, rows in topics.items()])
