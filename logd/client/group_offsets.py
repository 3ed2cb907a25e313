"""Committed offsets from the administrator's side: read with their metadata, set, deleted, for groups without members.

A part of :class:`logd.client.groups.Groups`, which finds the coordinator. For groups with members see
``logd.client.own``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from logd.client.calls import OFFSET_COMMIT, OFFSET_DELETE
from logd.client.errors import check, refused
from logd.client.metadata import TopicPartition
from logd.client.routing import Router
from logd.errors import ErrorCode, Refused
from logd.wire.schemas.offset_commit import (
    OffsetCommitRequest,
    OffsetCommitRequestPartition,
    OffsetCommitRequestTopic,
    OffsetCommitResponse,
)
from logd.wire.schemas.offset_delete import (
    OffsetDeleteRequest,
    OffsetDeleteRequestPartition,
    OffsetDeleteRequestTopic,
    OffsetDeleteResponse,
)
from logd.wire.schemas.offset_fetch import OffsetFetchResponse

Outcomes = dict[TopicPartition, Refused | None]


class Commit(msgspec.Struct, frozen=True):
    """An offset with what a consumer noted beside it; `leader_epoch` is -1 when it is not known."""

    offset: int
    leader_epoch: int = -1
    metadata: str = ""


def commits_in(group: str, answer: OffsetFetchResponse) -> dict[TopicPartition, Commit]:
    """What an answer tells, in order; a group that does not exist has committed nothing."""
    found: dict[TopicPartition, Commit] = {}
    number = answer.groups[0].error_code if answer.groups else answer.error_code
    if number != ErrorCode.GROUP_ID_NOT_FOUND:
        check(number, None, f"offsets of group {group!r}")
    for topic in answer.groups[0].topics if answer.groups else answer.topics:
        for part in topic.partitions:
            check(part.error_code, None, f"offset of {topic.name}/{part.partition_index} in group {group!r}")
            if part.committed_offset >= 0:
                item = Commit(part.committed_offset, part.committed_leader_epoch, part.metadata or "")
                found[TopicPartition(topic.name, part.partition_index)] = item
    return dict(sorted(found.items()))


async def commit(router: Router, node: int, group: str, offsets: Mapping[TopicPartition, Commit]) -> Outcomes:
    """Set offsets of a group that has no members; None for each that was set.

    :raises Refused: the node is not the group's coordinator now.
    """
    topics: dict[str, OffsetCommitRequestTopic] = {}
    for at, item in offsets.items():
        part = OffsetCommitRequestPartition(at.partition, item.offset, item.leader_epoch, item.metadata)
        topics.setdefault(at.topic, OffsetCommitRequestTopic(name=at.topic)).partitions.append(part)
    request = OffsetCommitRequest(group_id=group, topics=list(topics.values()))
    answer = await router.ask(OFFSET_COMMIT, request, OffsetCommitResponse, node=node)
    found: Outcomes = {}
    for topic in answer.topics:
        for part_answer in topic.partitions:
            at = TopicPartition(topic.name, part_answer.partition_index)
            found[at] = _outcome(part_answer.error_code, f"offset of {at} in group {group!r}")
    return found


async def forget(router: Router, node: int, group: str, partitions: Iterable[TopicPartition]) -> Outcomes:
    """Delete committed offsets; None for each that is gone. Topics with a subscribed member are refused.

    :raises Refused: there is no such group, or the node is not its coordinator now.
    """
    topics: dict[str, OffsetDeleteRequestTopic] = {}
    for at in partitions:
        topic = topics.setdefault(at.topic, OffsetDeleteRequestTopic(name=at.topic))
        topic.partitions.append(OffsetDeleteRequestPartition(at.partition))
    request = OffsetDeleteRequest(group_id=group, topics=list(topics.values()))
    answer = await router.ask(OFFSET_DELETE, request, OffsetDeleteResponse, node=node)
    check(answer.error_code, None, f"group {group!r}")
    return {
        TopicPartition(topic.name, part.partition_index): _outcome(
            part.error_code, f"offset of {topic.name}/{part.partition_index} in group {group!r}"
        )
        for topic in answer.topics
        for part in topic.partitions
    }


def _outcome(number: int, subject: str) -> Refused | None:
    return refused(number, None, subject) if number else None
