"""ElectLeaders (43), AlterPartitionReassignments (45), ListPartitionReassignments (46): who has and leads a partition.

On one node every partition has one replica, which leads: nothing is ever elected or on its way, and these say so, code
for code as a single Apache Kafka 4.3.1. Answered from the image without a wait, nothing is changed. Called through the
registry. A timeout of 0 or less is told as one that passed, as Kafka's controller does where it looks at it.
"""

from __future__ import annotations

from collections.abc import Sequence

from logd.apis.registry import Call, api
from logd.cluster.controller import check_replicas
from logd.cluster.image import Image, PartitionState
from logd.errors import ErrorCode, Refused
from logd.wire.schemas.alter_partition_reassignments import (
    AlterPartitionReassignmentsRequest,
    AlterPartitionReassignmentsResponse,
    ReassignablePartition,
    ReassignablePartitionResponse,
    ReassignableTopicResponse,
)
from logd.wire.schemas.elect_leaders import (
    ElectLeadersRequest,
    ElectLeadersResponse,
    PartitionResult,
    ReplicaElectionResult,
)
from logd.wire.schemas.list_partition_reassignments import (
    ListPartitionReassignmentsRequest,
    ListPartitionReassignmentsResponse,
)

ELECT_LEADERS, ALTER_REASSIGNMENTS, LIST_REASSIGNMENTS = 43, 45, 46

PREFERRED, UNCLEAN = 0, 1
"""Kinds of election (KIP-460); version 0 knows only the first."""


def _partition(image: Image, topic: str, index: int) -> PartitionState:
    """Raises Refused(UNKNOWN_TOPIC_OR_PARTITION) when there is none.

    Its words leave the topic's name out: a long name and many partitions would make an enormous answer.
    """
    found = image.partition(topic, index)
    if found is None:
        what = f"This topic has no partition {index}." if topic in image.topics else "There is no such topic here."
        raise Refused(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, what)
    return found


# ElectLeaders


def _elect_leaders_refused(request: ElectLeadersRequest, version: int, refused: Refused) -> ElectLeadersResponse:
    topics = [
        ReplicaElectionResult(
            topic.topic, [PartitionResult(index, refused.code, refused.message) for index in topic.partitions]
        )
        for topic in request.topic_partitions or ()
    ]
    return ElectLeadersResponse(0, refused.code, topics)


@api(ELECT_LEADERS, refuse=_elect_leaders_refused)
def elect_leaders(call: Call, request: ElectLeadersRequest) -> ElectLeadersResponse:
    """Versions 0-2 (KIP-183, KIP-460). For all partitions (null) only those are told whose leader changed: none."""
    image = call.services.cluster.image
    wanted = request.topic_partitions
    if wanted == []:
        return ElectLeadersResponse()
    if request.timeout_ms <= 0:
        raise Refused(ErrorCode.REQUEST_TIMED_OUT, f"The timeout of {request.timeout_ms} ms has passed already.")
    kind = request.election_type if call.version >= 1 else PREFERRED
    if kind not in (PREFERRED, UNCLEAN):
        raise Refused(
            ErrorCode.INVALID_REQUEST, f"Election type {kind} is unknown: ask for 0, preferred, or 1, unclean."
        )
    if wanted is None:
        return ElectLeadersResponse(replica_election_results=[ReplicaElectionResult(name) for name in image.topics])
    topics = [
        ReplicaElectionResult(topic.topic, [_elected(image, topic.topic, index, kind) for index in topic.partitions])
        for topic in wanted
    ]
    return ElectLeadersResponse(replica_election_results=topics)


def _elected(image: Image, topic: str, index: int, kind: int) -> PartitionResult:
    try:
        refused = _why_no_election(_partition(image, topic, index), kind)
    except Refused as unknown:
        refused = unknown
    return PartitionResult(index, refused.code, refused.message)


def _why_no_election(partition: PartitionState, kind: int) -> Refused:
    """There is never anything to elect: either the right one leads, or there is nobody else to do so."""
    if partition.leader == partition.replicas[0] or (kind == UNCLEAN and partition.leader >= 0):
        return Refused(ErrorCode.ELECTION_NOT_NEEDED, f"Broker {partition.leader} leads this partition already.")
    if kind == PREFERRED:
        message = f"The preferred leader, broker {partition.replicas[0]}, is not available."
        return Refused(ErrorCode.PREFERRED_LEADER_NOT_AVAILABLE, message)
    return Refused(ErrorCode.ELIGIBLE_LEADERS_NOT_AVAILABLE, "No replica of this partition is alive.")


# AlterPartitionReassignments


def _alter_reassignments_refused(
    request: AlterPartitionReassignmentsRequest, version: int, refused: Refused
) -> AlterPartitionReassignmentsResponse:
    topics = [
        ReassignableTopicResponse(
            topic.name,
            [
                ReassignablePartitionResponse(partition.partition_index, refused.code, refused.message)
                for partition in topic.partitions
            ],
        )
        for topic in request.topics
    ]
    allowed = request.allow_replication_factor_change
    return AlterPartitionReassignmentsResponse(0, allowed, refused.code, refused.message, topics)


@api(ALTER_REASSIGNMENTS, refuse=_alter_reassignments_refused)
def alter_partition_reassignments(
    call: Call, request: AlterPartitionReassignmentsRequest
) -> AlterPartitionReassignmentsResponse:
    """Versions 0-1 (KIP-455, KIP-860). A partition may move to where it lies already, which is done at once."""
    allowed = request.allow_replication_factor_change
    if not request.topics:
        return AlterPartitionReassignmentsResponse(0, allowed)
    if request.timeout_ms <= 0:
        raise Refused(ErrorCode.REQUEST_TIMED_OUT, f"The timeout of {request.timeout_ms} ms has passed already.")
    image = call.services.cluster.image
    topics = [
        ReassignableTopicResponse(
            topic.name, [_reassigned(image, topic.name, partition, allowed) for partition in topic.partitions]
        )
        for topic in request.topics
    ]
    return AlterPartitionReassignmentsResponse(0, allowed, 0, None, topics)


def _reassigned(
    image: Image, topic: str, wanted: ReassignablePartition, allowed: bool
) -> ReassignablePartitionResponse:
    try:
        _check_move(image, _partition(image, topic, wanted.partition_index), wanted.replicas, allowed)
    except Refused as refused:
        return ReassignablePartitionResponse(wanted.partition_index, refused.code, refused.message)
    return ReassignablePartitionResponse(wanted.partition_index, 0, None)


def _check_move(image: Image, partition: PartitionState, replicas: Sequence[int] | None, allowed: bool) -> None:
    """Raises Refused for every move but the one that changes nothing; null asks to cancel a move."""
    if replicas is None:
        raise Refused(ErrorCode.NO_REASSIGNMENT_IN_PROGRESS, "This partition is not being moved.")
    check_replicas(image, replicas)
    if not allowed and len(replicas) != len(partition.replicas):
        raise Refused(
            ErrorCode.INVALID_REPLICATION_FACTOR,
            f"This partition has {len(partition.replicas)} replica(s), {len(replicas)} are asked for, and the request "
            "does not allow another number.",
        )
    if tuple(replicas) != partition.replicas:
        raise Refused(
            ErrorCode.INVALID_REPLICA_ASSIGNMENT,
            f"This partition lies on {list(partition.replicas)} and can't be moved: logd has no replication yet.",
        )


# ListPartitionReassignments


@api(LIST_REASSIGNMENTS)
def list_partition_reassignments(
    call: Call, request: ListPartitionReassignmentsRequest
) -> ListPartitionReassignmentsResponse:
    """Version 0 (KIP-455): none, whatever is asked for; topics that are not there are left out too, as Kafka does."""
    return ListPartitionReassignmentsResponse(error_message=None)
