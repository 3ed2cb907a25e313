"""Offsets of groups on the wire: OffsetCommit (8), OffsetFetch (9), OffsetDelete (47).

Knows which topics and partitions there are and translates ids to names and back; what a group may do is decided by
the group coordinator. Groups themselves are in :mod:`groups`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from logd.apis.groups import later, require_group_id
from logd.apis.registry import Call, api
from logd.cluster.image import Image
from logd.coordinators.front import Waiter
from logd.errors import ErrorCode, Refused
from logd.wire.message import ZERO_UUID, Message
from logd.wire.schemas.offset_commit import (
    OffsetCommitRequest,
    OffsetCommitRequestTopic,
    OffsetCommitResponse,
    OffsetCommitResponsePartition,
    OffsetCommitResponseTopic,
)
from logd.wire.schemas.offset_delete import (
    OffsetDeleteRequest,
    OffsetDeleteRequestTopic,
    OffsetDeleteResponse,
    OffsetDeleteResponsePartition,
    OffsetDeleteResponseTopic,
)
from logd.wire.schemas.offset_fetch import (
    OffsetFetchRequest,
    OffsetFetchRequestGroup,
    OffsetFetchRequestTopics,
    OffsetFetchResponse,
    OffsetFetchResponseGroup,
    OffsetFetchResponsePartition,
    OffsetFetchResponsePartitions,
    OffsetFetchResponseTopic,
    OffsetFetchResponseTopics,
)

TOPIC_IDS_VERSION = 10
GROUPS_VERSION = 8
GROUP_ERROR_VERSION = 2

TURN_GROUPS = 500
"""Groups whose offsets are looked up before other connections get their turn."""

_UNKNOWN = int(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION)
_UNKNOWN_ID = int(ErrorCode.UNKNOWN_TOPIC_ID)


# OffsetCommit


def _failed_topic(topic: OffsetCommitRequestTopic, code: int) -> OffsetCommitResponseTopic:
    partitions = [OffsetCommitResponsePartition(asked.partition_index, code) for asked in topic.partitions]
    return OffsetCommitResponseTopic(topic.name, topic.topic_id, partitions)


@api(8)
def offset_commit(call: Call, request: OffsetCommitRequest) -> OffsetCommitResponse | Awaitable[OffsetCommitResponse]:
    """Versions 2-10, from 10 on by topic id (KIP-848). Partitions that are not there fail, the others are committed."""
    image = call.services.cluster.image
    answers: list[OffsetCommitResponseTopic] = []
    wanted: list[OffsetCommitRequestTopic] = []
    for topic in request.topics:
        known = _resolve(image, topic, call.version)
        if not known:
            answers.append(_failed_topic(topic, _UNKNOWN_ID if call.version >= TOPIC_IDS_VERSION else _UNKNOWN))
            continue
        count = len(image.topics[topic.name].partitions)
        missing = [asked for asked in topic.partitions if not 0 <= asked.partition_index < count]
        if missing:
            answers.append(_failed_topic(OffsetCommitRequestTopic(topic.name, topic.topic_id, missing), _UNKNOWN))
            topic.partitions = [asked for asked in topic.partitions if 0 <= asked.partition_index < count]
        if topic.partitions:
            wanted.append(topic)
    if not wanted:
        return OffsetCommitResponse(topics=answers)
    request.topics = wanted
    try:
        waiter = call.services.groups.ask(request.group_id, request, call.version)
    except Refused as refused:
        return _committed(answers, wanted, refused)
    if waiter.message is None:
        return _committed_later(answers, wanted, waiter)
    return _committed(answers, wanted, waiter.message)


async def _committed_later(
    answers: list[OffsetCommitResponseTopic], wanted: list[OffsetCommitRequestTopic], waiter: Waiter
) -> OffsetCommitResponse:
    return _committed(answers, wanted, await waiter.outcome())


def _committed(
    answers: list[OffsetCommitResponseTopic], wanted: list[OffsetCommitRequestTopic], outcome: Message | Refused
) -> OffsetCommitResponse:
    """What was known to fail before, and what the group made of the rest."""
    if isinstance(outcome, Refused):
        outcome = OffsetCommitResponse(topics=[_failed_topic(topic, int(outcome.code)) for topic in wanted])
    assert isinstance(outcome, OffsetCommitResponse)
    if not answers:
        return outcome
    by_topic = {(topic.name, topic.topic_id): topic for topic in answers}
    for topic in outcome.topics:
        failed = by_topic.get((topic.name, topic.topic_id))
        if failed is None:
            answers.append(topic)
        else:
            failed.partitions += topic.partitions
    return OffsetCommitResponse(topics=answers)


def _resolve(image: Image, topic: OffsetCommitRequestTopic | OffsetFetchRequestTopics, version: int) -> bool:
    """Fill in the name from the id, or the id from the name; False when there is no such topic."""
    if version >= TOPIC_IDS_VERSION:
        found = image.topics_by_id.get(topic.topic_id)
        topic.name = found.name if found is not None else ""
    else:
        found = image.topics.get(topic.name)
        topic.topic_id = found.id if found is not None else ZERO_UUID
    return found is not None


# OffsetFetch


@api(9)
async def offset_fetch(call: Call, request: OffsetFetchRequest) -> OffsetFetchResponse:
    """Versions 1-10: one group before 8, then any number; by topic id from 10 on; all topics when none is named."""
    groups = request.groups if call.version >= GROUPS_VERSION else [_only_group(request)]
    answers: list[OffsetFetchResponseGroup] = []
    for piece in range(0, len(groups), TURN_GROUPS):
        asked = [_ask_group(call, group, request.require_stable) for group in groups[piece : piece + TURN_GROUPS]]
        answers += [await _fetched(call, *each) for each in asked]
        if len(groups) > TURN_GROUPS:
            await trio.lowlevel.checkpoint()
    if call.version >= GROUPS_VERSION:
        return OffsetFetchResponse(groups=answers)
    return _old_form(groups[0], answers[0], call.version)


def _only_group(request: OffsetFetchRequest) -> OffsetFetchRequestGroup:
    topics = request.topics
    named = [OffsetFetchRequestTopics(topic.name, ZERO_UUID, topic.partition_indexes) for topic in topics or ()]
    return OffsetFetchRequestGroup(request.group_id, topics=None if topics is None else named)


Asked = tuple[OffsetFetchRequestGroup, list[OffsetFetchResponseTopics], Waiter | Refused]


def _ask_group(call: Call, group: OffsetFetchRequestGroup, require_stable: bool) -> Asked:
    image = call.services.cluster.image
    failed: list[OffsetFetchResponseTopics] = []
    wanted: list[OffsetFetchRequestTopics] | None = None
    if group.topics is not None:
        wanted = []
        for topic in group.topics:
            if _resolve(image, topic, call.version) or call.version < TOPIC_IDS_VERSION:
                wanted.append(topic)
            else:
                failed.append(_unknown_topic(topic))
    asked_for = OffsetFetchRequestGroup(group.group_id, group.member_id, group.member_epoch, wanted)
    try:
        return group, failed, call.services.groups.ask_offsets(asked_for, require_stable)
    except Refused as refused:
        return group, failed, refused


def _unknown_topic(topic: OffsetFetchRequestTopics) -> OffsetFetchResponseTopics:
    partitions = [OffsetFetchResponsePartitions(index, -1, -1, "", _UNKNOWN_ID) for index in topic.partition_indexes]
    return OffsetFetchResponseTopics("", topic.topic_id, partitions)


async def _fetched(
    call: Call, group: OffsetFetchRequestGroup, failed: list[OffsetFetchResponseTopics], waiter: Waiter | Refused
) -> OffsetFetchResponseGroup:
    try:
        if isinstance(waiter, Refused):
            raise waiter
        answer = await waiter.wait()
        assert isinstance(answer, OffsetFetchResponseGroup)
    except Refused as refused:
        # Clients before 3.9 do not retry COORDINATOR_NOT_AVAILABLE here, but look for the coordinator (KAFKA-17455).
        late = refused.code == ErrorCode.COORDINATOR_NOT_AVAILABLE
        code = ErrorCode.NOT_COORDINATOR if late else refused.code
        return OffsetFetchResponseGroup(group.group_id, error_code=int(code))
    if call.version >= TOPIC_IDS_VERSION and group.topics is None:
        answer.topics = _with_ids(call.services.cluster.image, answer.topics)
    answer.topics += failed
    return answer


def _with_ids(image: Image, topics: list[OffsetFetchResponseTopics]) -> list[OffsetFetchResponseTopics]:
    """By id only what has one now can be told."""
    there = [topic for topic in topics if topic.name in image.topics]
    for topic in there:
        topic.topic_id = image.topics[topic.name].id
    return there


def _old_form(group: OffsetFetchRequestGroup, answer: OffsetFetchResponseGroup, version: int) -> OffsetFetchResponse:
    """Before version 8 one group's topics stand at the top; version 1 has no place for an error of the group."""
    code = answer.error_code
    if code and version < GROUP_ERROR_VERSION:
        topics = [
            OffsetFetchResponseTopic(
                topic.name, [OffsetFetchResponsePartition(index, -1, -1, "", code) for index in topic.partition_indexes]
            )
            for topic in group.topics or ()
        ]
        return OffsetFetchResponse(topics=topics)
    topics = [
        OffsetFetchResponseTopic(
            topic.name,
            [
                OffsetFetchResponsePartition(
                    each.partition_index,
                    each.committed_offset,
                    each.committed_leader_epoch,
                    each.metadata,
                    each.error_code,
                )
                for each in topic.partitions
            ],
        )
        for topic in answer.topics
    ]
    return OffsetFetchResponse(topics=topics, error_code=code)


# OffsetDelete


def _not_deleted(request: OffsetDeleteRequest, version: int, refused: Refused) -> OffsetDeleteResponse:
    return OffsetDeleteResponse(error_code=int(refused.code))


@api(47, refuse=_not_deleted)
def offset_delete(call: Call, request: OffsetDeleteRequest) -> OffsetDeleteResponse | Awaitable[OffsetDeleteResponse]:
    """Version 0 (KIP-496). Offsets of topics that a member may still read are kept."""
    require_group_id(request.group_id)
    image = call.services.cluster.image
    failed: list[OffsetDeleteResponseTopic] = []
    wanted: list[OffsetDeleteRequestTopic] = []
    for topic in request.topics:
        known = image.topics.get(topic.name)
        count = len(known.partitions) if known is not None else 0
        there = [asked for asked in topic.partitions if 0 <= asked.partition_index < count]
        missing = [asked for asked in topic.partitions if not 0 <= asked.partition_index < count]
        if missing or known is None:
            answers = [OffsetDeleteResponsePartition(asked.partition_index, _UNKNOWN) for asked in missing]
            failed.append(OffsetDeleteResponseTopic(topic.name, answers))
        if there:
            wanted.append(OffsetDeleteRequestTopic(topic.name, there))
    waiter = call.services.groups.ask(request.group_id, OffsetDeleteRequest(request.group_id, wanted), call.version)
    return later(waiter, _merged_delete(failed))


def _merged_delete(
    failed: list[OffsetDeleteResponseTopic],
) -> Callable[[OffsetDeleteResponse], OffsetDeleteResponse]:
    def shape(deleted: OffsetDeleteResponse) -> OffsetDeleteResponse:
        by_name = {topic.name: topic for topic in failed}
        for topic in deleted.topics:
            missing = by_name.get(topic.name)
            if missing is None:
                failed.append(topic)
            else:
                missing.partitions += topic.partitions
        return OffsetDeleteResponse(topics=failed)

    return shape
