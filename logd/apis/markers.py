"""WriteTxnMarkers (27): how a coordinator on another broker, or ``kafka-transactions --abort``, ends transactions.

Markers go through the one writer of the node, so that the groups hear of theirs. Called through the registry.
"""

from __future__ import annotations

from logd.apis.registry import Call, api
from logd.apis.turns import breathe
from logd.coordinators.markers import Marker
from logd.errors import ErrorCode
from logd.wire.schemas.write_txn_markers import (
    WritableTxnMarkerPartitionResult,
    WritableTxnMarkerResult,
    WritableTxnMarkerTopicResult,
    WriteTxnMarkersRequest,
    WriteTxnMarkersResponse,
)

WRITE_TXN_MARKERS = 27

NOT_READY = frozenset(
    {ErrorCode.COORDINATOR_NOT_AVAILABLE, ErrorCode.COORDINATOR_LOAD_IN_PROGRESS, ErrorCode.NOT_COORDINATOR}
)
"""Of the groups whose offsets a marker decides; who writes markers expects NOT_LEADER_OR_FOLLOWER instead."""


@api(WRITE_TXN_MARKERS)
async def write_txn_markers(call: Call, request: WriteTxnMarkersRequest) -> WriteTxnMarkersResponse:
    """Versions 1-2 (KIP-98, KIP-890): an error for each partition; markers of one producer are told together."""
    results: dict[int, dict[tuple[str, int], ErrorCode]] = {}
    for number, asked in enumerate(request.markers):
        await breathe(number)
        marker = Marker(
            asked.producer_id,
            asked.producer_epoch,
            asked.transaction_result,
            asked.coordinator_epoch,
            asked.transaction_version,
        )
        places = [(topic.name, index) for topic in asked.topics for index in topic.partition_indexes]
        codes = await call.services.markers.write_all(marker, places)
        if codes:
            results.setdefault(asked.producer_id, {}).update(codes)
    return WriteTxnMarkersResponse([_told(producer_id, codes) for producer_id, codes in results.items()])


def _told(producer_id: int, codes: dict[tuple[str, int], ErrorCode]) -> WritableTxnMarkerResult:
    topics: dict[str, list[WritableTxnMarkerPartitionResult]] = {}
    for (topic, index), code in codes.items():
        told = ErrorCode.NOT_LEADER_OR_FOLLOWER if code in NOT_READY else code
        topics.setdefault(topic, []).append(WritableTxnMarkerPartitionResult(index, told))
    return WritableTxnMarkerResult(
        producer_id, [WritableTxnMarkerTopicResult(topic, rows) for topic, rows in topics.items()]
    )
