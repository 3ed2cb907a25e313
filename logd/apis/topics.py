"""CreateTopics (v2-7), DeleteTopics (v1-6), CreatePartitions (v0-3).

Answers code for code as Apache Kafka 4.3.1, with messages of our own. The rules are `cluster.controller`'s; this maps
requests to them and results back. Called through the registry. A timeout of 0 or less is refused before anything is
done, as Kafka's controller does; a longer one never passes: a change is one write to the metadata store, and its
partitions are open when the answer is sent.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from logd.apis.registry import Call, api
from logd.cluster.cluster import Cluster
from logd.cluster.controller import NewPartitions, NewTopic, unknown_topic, unknown_topic_id
from logd.cluster.image import Topic
from logd.errors import ErrorCode, Refused
from logd.wire.message import ZERO_UUID
from logd.wire.schemas.create_partitions import (
    CreatePartitionsAssignment,
    CreatePartitionsRequest,
    CreatePartitionsResponse,
    CreatePartitionsTopicResult,
)
from logd.wire.schemas.create_topics import (
    CreatableTopic,
    CreatableTopicConfigs,
    CreatableTopicResult,
    CreateTopicsRequest,
    CreateTopicsResponse,
)
from logd.wire.schemas.delete_topics import (
    DeletableTopicResult,
    DeleteTopicsRequest,
    DeleteTopicsResponse,
    DeleteTopicState,
)

CREATE_TOPICS, DELETE_TOPICS, CREATE_PARTITIONS = 19, 20, 37

_TWICE = Refused(ErrorCode.INVALID_REQUEST, "Duplicate topic name.")
_ID_TWICE = Refused(ErrorCode.INVALID_REQUEST, "Duplicate topic id.")
_NEITHER = Refused(ErrorCode.INVALID_REQUEST, "Neither topic name nor id were specified.")
_BOTH = Refused(ErrorCode.INVALID_REQUEST, "Give the topic's name or its id, not both.")
_NAMED_TWICE = Refused(ErrorCode.INVALID_REQUEST, "The topic is given by its name and by its id.")


def _check_timeout(timeout_ms: int) -> None:
    if timeout_ms <= 0:
        raise Refused(ErrorCode.REQUEST_TIMED_OUT, f"The timeout of {timeout_ms} ms has passed already; give more.")


# CreateTopics


def _create_topics_refused(request: CreateTopicsRequest, version: int, refused: Refused) -> CreateTopicsResponse:
    return CreateTopicsResponse(0, [_not_created(topic.name, refused) for topic in request.topics])


@api(CREATE_TOPICS, refuse=_create_topics_refused)
async def create_topics(call: Call, request: CreateTopicsRequest) -> CreateTopicsResponse:
    """Make topics, each on its own: one that is refused does not hinder the others. A name given twice is refused."""
    _check_timeout(request.timeout_ms)
    cluster = call.services.cluster
    counts = Counter(topic.name for topic in request.topics)
    wanted = [topic for topic in request.topics if counts[topic.name] == 1]
    made = await cluster.create_topics([_new_topic(topic) for topic in wanted], request.validate_only)
    answers = {topic.name: _created(cluster, topic.name, result) for topic, result in zip(wanted, made, strict=True)}
    return CreateTopicsResponse(0, [answers.get(name) or _not_created(name, _TWICE) for name in counts])


def _new_topic(topic: CreatableTopic) -> NewTopic:
    return NewTopic(
        topic.name,
        topic.num_partitions,
        topic.replication_factor,
        [(assignment.partition_index, assignment.broker_ids) for assignment in topic.assignments],
        {config.name: config.value for config in topic.configs},
    )


def _not_created(name: str, refused: Refused) -> CreatableTopicResult:
    return CreatableTopicResult(name, ZERO_UUID, refused.code, refused.message)


def _created(cluster: Cluster, name: str, result: Topic | Refused) -> CreatableTopicResult:
    if isinstance(result, Refused):
        return _not_created(name, result)
    configs = [
        CreatableTopicConfigs(setting.name, setting.value, setting.read_only, setting.source)
        for setting in cluster.describe_topic(result.configs)
    ]
    return CreatableTopicResult(name, result.id, 0, None, 0, len(result.partitions), result.replication_factor, configs)


# DeleteTopics


def _named(request: DeleteTopicsRequest, version: int) -> list[DeleteTopicState]:
    return request.topics if version >= 6 else [DeleteTopicState(name) for name in request.topic_names]


def _delete_topics_refused(request: DeleteTopicsRequest, version: int, refused: Refused) -> DeleteTopicsResponse:
    return DeleteTopicsResponse(0, [_not_deleted(state, refused) for state in _named(request, version)])


@api(DELETE_TOPICS, refuse=_delete_topics_refused)
async def delete_topics(call: Call, request: DeleteTopicsRequest) -> DeleteTopicsResponse:
    """Delete topics by name or (v6) by id. Internal topics too, as Kafka does."""
    cluster = call.services.cluster
    if not cluster.settings.delete_topic_enable:
        code = ErrorCode.TOPIC_DELETION_DISABLED if call.version >= 3 else ErrorCode.INVALID_REQUEST
        raise Refused(code, "Topics can't be deleted here: delete.topic.enable is false.")
    _check_timeout(request.timeout_ms)
    states = _named(request, call.version)
    answers: list[DeletableTopicResult] = []
    found: list[Topic] = []
    for state, refused in _checked(cluster, states):
        topic = _found(cluster, state) if refused is None else refused
        if isinstance(topic, Refused):
            answers.append(_not_deleted(state, topic))
        else:
            found.append(topic)
    for topic, result in zip(found, await cluster.delete_topics([topic.id for topic in found]), strict=True):
        if isinstance(result, Refused):
            answers.append(_not_deleted(DeleteTopicState(topic.name), result))
        else:
            answers.append(DeletableTopicResult(topic.name, topic.id))
    return DeleteTopicsResponse(0, answers)


def _checked(cluster: Cluster, states: Sequence[DeleteTopicState]) -> list[tuple[DeleteTopicState, Refused | None]]:
    """Each wish once, with the refusal for those that are unclear or name a topic more than once."""
    names = Counter(state.name for state in states if state.name is not None)
    ids = Counter(state.topic_id for state in states if state.topic_id != ZERO_UUID)
    both = {topic.name for name in names if (topic := cluster.image.topics.get(name)) is not None and topic.id in ids}
    checked: dict[object, tuple[DeleteTopicState, Refused | None]] = {}
    for position, state in enumerate(states):
        topic = cluster.image.topics_by_id.get(state.topic_id)
        if state.name is None and state.topic_id == ZERO_UUID:
            checked[position] = (state, _NEITHER)
        elif state.name is not None and state.topic_id != ZERO_UUID:
            checked[position] = (state, _BOTH)
        elif topic is not None and topic.name in both:
            checked[topic.name] = (DeleteTopicState(topic.name, topic.id), _NAMED_TWICE)
        elif state.name is None:
            checked[state.topic_id] = (state, _ID_TWICE if ids[state.topic_id] > 1 else None)
        elif state.name not in both:
            checked[state.name] = (state, _TWICE if names[state.name] > 1 else None)
    return list(checked.values())


def _found(cluster: Cluster, state: DeleteTopicState) -> Topic | Refused:
    if state.name is not None:
        return cluster.image.topics.get(state.name) or unknown_topic(state.name)
    return cluster.image.topics_by_id.get(state.topic_id) or unknown_topic_id()


def _not_deleted(state: DeleteTopicState, refused: Refused) -> DeletableTopicResult:
    return DeletableTopicResult(state.name, state.topic_id, refused.code, refused.message)


# CreatePartitions


def _create_partitions_refused(
    request: CreatePartitionsRequest, version: int, refused: Refused
) -> CreatePartitionsResponse:
    return CreatePartitionsResponse(0, [_grown(topic.name, refused) for topic in request.topics])


@api(CREATE_PARTITIONS, refuse=_create_partitions_refused)
async def create_partitions(call: Call, request: CreatePartitionsRequest) -> CreatePartitionsResponse:
    """Make topics grow. A topic given twice is refused; fewer partitions than before are refused."""
    _check_timeout(request.timeout_ms)
    counts = Counter(topic.name for topic in request.topics)
    wanted = [
        NewPartitions(topic.name, topic.count, _brokers(topic.assignments))
        for topic in request.topics
        if counts[topic.name] == 1
    ]
    grown = await call.services.cluster.create_partitions(wanted, request.validate_only)
    answers: dict[str, Topic | Refused] = {topic.name: result for topic, result in zip(wanted, grown, strict=True)}
    return CreatePartitionsResponse(0, [_grown(name, answers.get(name, _TWICE)) for name in counts])


def _brokers(assignments: list[CreatePartitionsAssignment] | None) -> list[list[int]] | None:
    return None if assignments is None else [assignment.broker_ids for assignment in assignments]


def _grown(name: str, result: Topic | Refused) -> CreatePartitionsTopicResult:
    if isinstance(result, Refused):
        return CreatePartitionsTopicResult(name, result.code, result.message)
    return CreatePartitionsTopicResult(name)
