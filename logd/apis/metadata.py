"""Metadata (3), DescribeTopicPartitions (75), DescribeCluster (60): where everything is.

Answered from the image; only a topic that is made because somebody asked for it waits for the metadata store.
"""

from __future__ import annotations

from collections.abc import Awaitable, Iterable
from itertools import islice

from logd.apis.registry import Call, api
from logd.cluster.controller import RECORDS_PER_REQUEST_MAX, NewTopic, check_topic_name
from logd.cluster.image import Image, Topic
from logd.errors import ErrorCode, Refused
from logd.wire.message import ZERO_UUID
from logd.wire.schemas.describe_cluster import DescribeClusterBroker, DescribeClusterRequest, DescribeClusterResponse
from logd.wire.schemas.describe_topic_partitions import (
    DescribeTopicPartitionsRequest,
    DescribeTopicPartitionsResponse,
    DescribeTopicPartitionsResponseCursor,
    DescribeTopicPartitionsResponsePartition,
    DescribeTopicPartitionsResponseTopic,
)
from logd.wire.schemas.metadata import (
    MetadataRequest,
    MetadataRequestTopic,
    MetadataResponse,
    MetadataResponseBroker,
    MetadataResponsePartition,
    MetadataResponseTopic,
)

TOPIC_OPERATIONS = 3576
"""Bits of what may be done to a topic, when nobody restricts it: read, write, create, describe, ... (KIP-430)."""

CREATED_MAX = 1000
"""Topics that one request makes; the next one makes others, as clients ask again for what they were told is unknown."""

CLUSTER_OPERATIONS = 8096
"""The same for the cluster."""

BROKERS_ENDPOINT = 1
CONTROLLERS_ENDPOINT = 2


def valid_topic_name(name: str) -> bool:
    """Whether a topic may have this name."""
    try:
        check_topic_name(name)
    except Refused:
        return False
    return True


@api(3)
def metadata(call: Call, request: MetadataRequest) -> MetadataResponse | Awaitable[MetadataResponse]:
    """Versions 0-13. By name, by id (from 12 on), or all; a missing topic is made when that is allowed."""
    wanted = request.topics
    if wanted is None or (call.version == 0 and not wanted):
        image = call.services.cluster.image
        return _response(call, request, [_topic(topic, request) for topic in image.topics.values()])
    if any(topic.topic_id != ZERO_UUID or topic.name is None for topic in wanted):
        return _by_id(call, request, wanted)
    names = list(dict.fromkeys(topic.name or "" for topic in wanted))
    missing = _to_create(call, request, names)
    return _after_creation(call, request, names, missing) if missing else _by_name(call, request, names)


def _to_create(call: Call, request: MetadataRequest, names: Iterable[str]) -> list[str]:
    services = call.services
    allowed = call.version < 4 or request.allow_auto_topic_creation
    if not (allowed and services.settings.auto_create_topics_enable):
        return []
    known = services.cluster.image.topics
    most = min(CREATED_MAX, RECORDS_PER_REQUEST_MAX // (services.settings.num_partitions + 1))
    return list(islice((name for name in names if name not in known and valid_topic_name(name)), max(most, 1)))


async def _after_creation(
    call: Call, request: MetadataRequest, names: list[str], missing: list[str]
) -> MetadataResponse:
    """Make the topics, then answer with them.

    Kafka says "unknown" once more and makes them meanwhile. A client that keeps that answer (kafka-go's groups do, and
    look for changes only in what they see next) then depends on who is faster.
    """
    made = await call.services.cluster.create_topics([NewTopic(name) for name in missing])
    answer = _by_name(call, request, names)
    for name, result in zip(missing, made, strict=True):
        if isinstance(result, Refused):
            _set_error(answer, name, result.code)
    return answer


def _set_error(answer: MetadataResponse, name: str, code: ErrorCode) -> None:
    """Say why a topic was not made, where that is more than a collision of names."""
    if code in (ErrorCode.TOPIC_ALREADY_EXISTS, ErrorCode.INVALID_TOPIC_EXCEPTION):
        return
    for topic in answer.topics:
        if topic.name == name:
            topic.error_code = code


def _by_name(call: Call, request: MetadataRequest, names: Iterable[str]) -> MetadataResponse:
    known = call.services.cluster.image.topics
    answers = []
    for name in names:
        topic = known.get(name)
        if topic is not None:
            answers.append(_topic(topic, request))
        else:
            code = ErrorCode.UNKNOWN_TOPIC_OR_PARTITION if valid_topic_name(name) else ErrorCode.INVALID_TOPIC_EXCEPTION
            answers.append(_may(MetadataResponseTopic(error_code=code, name=name), request))
    return _response(call, request, answers)


def _by_id(call: Call, request: MetadataRequest, wanted: list[MetadataRequestTopic]) -> MetadataResponse:
    if call.version < 12:
        return MetadataResponse(
            topics=[
                MetadataResponseTopic(ErrorCode.INVALID_REQUEST, topic.name or "", topic.topic_id) for topic in wanted
            ]
        )
    if any(topic.topic_id == ZERO_UUID and topic.name is None for topic in wanted):
        failed = ErrorCode.UNKNOWN_SERVER_ERROR
        return MetadataResponse(
            topics=[MetadataResponseTopic(failed, topic.name or "", topic.topic_id) for topic in wanted],
            error_code=failed,
        )
    known = call.services.cluster.image.topics_by_id
    ids = list(dict.fromkeys(topic.topic_id for topic in wanted if topic.topic_id != ZERO_UUID))
    unknown = [MetadataResponseTopic(ErrorCode.UNKNOWN_TOPIC_ID, None, one) for one in ids if one not in known]
    return _response(call, request, unknown + [_topic(known[one], request) for one in ids if one in known])


def _topic(topic: Topic, request: MetadataRequest) -> MetadataResponseTopic:
    answer = MetadataResponseTopic(
        0,
        topic.name,
        topic.id,
        topic.internal,
        [
            MetadataResponsePartition(
                0, part.index, part.leader, part.leader_epoch, list(part.replicas), list(part.isr), []
            )
            for part in topic.partitions
        ],
    )
    return _may(answer, request)


def _may(answer: MetadataResponseTopic, request: MetadataRequest) -> MetadataResponseTopic:
    """Tell what the client may do to a topic, if it asks; of one that is not there too, but never by an unknown id."""
    if request.include_topic_authorized_operations:
        answer.topic_authorized_operations = TOPIC_OPERATIONS
    return answer


def _response(call: Call, request: MetadataRequest, topics: list[MetadataResponseTopic]) -> MetadataResponse:
    image = call.services.cluster.image
    answer = MetadataResponse(
        brokers=[MetadataResponseBroker(*row) for row in _brokers(call, image)],
        cluster_id=image.cluster_id,
        controller_id=image.controller_id,
        topics=topics,
    )
    if request.include_cluster_authorized_operations and 8 <= call.version <= 10:
        answer.cluster_authorized_operations = CLUSTER_OPERATIONS
    return answer


def _brokers(call: Call, image: Image) -> list[tuple[int, str, int, str | None]]:
    return [(broker.id, *call.advertised(broker.id), broker.rack) for broker in image.brokers.values()]


@api(60)
def describe_cluster(call: Call, request: DescribeClusterRequest) -> DescribeClusterResponse:
    """Versions 0-2. The endpoint type (KIP-919) must be brokers."""
    if call.version >= 1 and request.endpoint_type != BROKERS_ENDPOINT:
        if request.endpoint_type == CONTROLLERS_ENDPOINT:
            return DescribeClusterResponse(
                error_code=ErrorCode.MISMATCHED_ENDPOINT_TYPE,
                error_message="endpoint type 2 asks for controllers, and this is a broker: ask for endpoint type 1",
            )
        return DescribeClusterResponse(
            error_code=ErrorCode.UNSUPPORTED_ENDPOINT_TYPE,
            error_message=f"endpoint type {request.endpoint_type} is unknown: ask for 1, brokers",
        )
    image = call.services.cluster.image
    answer = DescribeClusterResponse(
        endpoint_type=BROKERS_ENDPOINT,
        cluster_id=image.cluster_id,
        controller_id=image.controller_id,
        brokers=[DescribeClusterBroker(*row) for row in _brokers(call, image)],
    )
    if request.include_cluster_authorized_operations:
        answer.cluster_authorized_operations = CLUSTER_OPERATIONS
    return answer


def _server_error(request: DescribeTopicPartitionsRequest, version: int, refused: Refused) -> object:
    return DescribeTopicPartitionsResponse(
        topics=[DescribeTopicPartitionsResponseTopic(refused.code, topic.name) for topic in request.topics]
    )


@api(75, refuse=_server_error)
def describe_topic_partitions(call: Call, request: DescribeTopicPartitionsRequest) -> DescribeTopicPartitionsResponse:
    """Version 0 (KIP-966): page through partitions, sorted by topic; the cursor says where to go on."""
    image = call.services.cluster.image
    names = sorted({topic.name for topic in request.topics}) if request.topics else sorted(image.topics)
    first = 0
    if request.cursor is not None:
        first = request.cursor.partition_index
        if first < 0 or (request.topics and request.cursor.topic_name not in names):
            raise Refused(ErrorCode.INVALID_REQUEST, "the cursor names no requested topic, or a negative partition")
        names = [name for name in names if name >= request.cursor.topic_name]
        if names and names[0] != request.cursor.topic_name:
            first = 0
    if "" in names and request.cursor is None:
        raise Refused(ErrorCode.UNKNOWN_SERVER_ERROR, "a topic name is empty")
    limit = max(min(request.response_partition_limit, call.services.settings.max_request_partition_size_limit), 1)
    return _page(image, names, first, limit)


def _page(image: Image, names: list[str], first: int, limit: int) -> DescribeTopicPartitionsResponse:
    answer = DescribeTopicPartitionsResponse()
    for name in names:
        topic = image.topics.get(name)
        if limit == 0:  # also for a topic that is not there, as in Kafka
            answer.next_cursor = DescribeTopicPartitionsResponseCursor(name, first)
            break
        described, taken = _described(name, topic, first, limit)
        answer.topics.append(described)
        limit -= taken
        if topic is not None and first + taken < len(topic.partitions):
            answer.next_cursor = DescribeTopicPartitionsResponseCursor(name, first + taken)
            break
        first = 0
    return answer


def _described(
    name: str, topic: Topic | None, first: int, limit: int
) -> tuple[DescribeTopicPartitionsResponseTopic, int]:
    if topic is None:
        valid = valid_topic_name(name)
        code = ErrorCode.UNKNOWN_TOPIC_OR_PARTITION if valid else ErrorCode.INVALID_TOPIC_EXCEPTION
        return DescribeTopicPartitionsResponseTopic(code, name, topic_authorized_operations=TOPIC_OPERATIONS), 0
    taken = topic.partitions[first : first + limit]
    partitions = [
        DescribeTopicPartitionsResponsePartition(
            0, part.index, part.leader, part.leader_epoch, list(part.replicas), list(part.isr), [], [], []
        )
        for part in taken
    ]
    answer = DescribeTopicPartitionsResponseTopic(0, name, topic.id, topic.internal, partitions, TOPIC_OPERATIONS)
    return answer, len(taken)
