"""Topics from the administrator's side: create, list, describe, grow, trim, delete.

A part of :class:`logd.client.admin.Admin`, which gives it the router. What concerns one topic of several is a value
in the answer (:class:`Refused` or None), so that the rest is still done.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from logd.client.calls import CREATE_PARTITIONS, CREATE_TOPICS, DELETE_RECORDS, DELETE_TOPICS
from logd.client.errors import check, refused
from logd.client.metadata import TopicInfo, TopicPartition
from logd.client.routing import Router
from logd.errors import Refused
from logd.wire.schemas.create_partitions import (
    CreatePartitionsRequest,
    CreatePartitionsResponse,
    CreatePartitionsTopic,
)
from logd.wire.schemas.create_topics import (
    CreatableReplicaAssignment,
    CreatableTopic,
    CreatableTopicConfig,
    CreateTopicsRequest,
    CreateTopicsResponse,
)
from logd.wire.schemas.delete_records import (
    DeleteRecordsPartition,
    DeleteRecordsRequest,
    DeleteRecordsResponse,
    DeleteRecordsTopic,
)
from logd.wire.schemas.delete_topics import DeleteTopicsRequest, DeleteTopicsResponse, DeleteTopicState

UNKNOWN_TOPIC = 3


class NewTopic(msgspec.Struct, frozen=True):
    """A topic to create; -1 leaves a number to the server. With `assignments` (replicas of each partition, the first
    leads) both numbers must be -1."""

    name: str
    partitions: int = -1
    replicas: int = -1
    configs: Mapping[str, str] = {}
    assignments: Mapping[int, tuple[int, ...]] = {}


class Topics:
    """What an administrator does to topics."""

    def __init__(self, router: Router) -> None:
        self._router = router

    async def list(self, *, internal: bool = False) -> dict[str, TopicInfo]:
        """All topics by name, in order; those of the server itself only when asked for."""
        metadata = await self._router.refresh(None)
        return {name: topic for name, topic in sorted(metadata.topics.items()) if internal or not topic.internal}

    async def describe(self, names: Iterable[str]) -> dict[str, TopicInfo | Refused]:
        """These topics by name; :class:`Refused` in place of one that is not there."""
        wanted = list(names)
        metadata = await self._router.refresh(wanted)
        found: dict[str, TopicInfo | Refused] = {}
        for name in wanted:
            topic = metadata.topics.get(name)
            number = topic.error if topic is not None else UNKNOWN_TOPIC
            message = f"topic {name!r} does not exist" if number == UNKNOWN_TOPIC else None
            found[name] = topic if topic is not None and not number else refused(number, message, f"topic {name!r}")
        return found

    async def create(self, topics: Iterable[NewTopic], *, validate_only: bool = False) -> dict[str, Refused | None]:
        """Create topics; None for each that was created (or, with `validate_only`, could be)."""
        request = CreateTopicsRequest(
            topics=[_creatable(topic) for topic in topics],
            timeout_ms=self._router.settings.request_timeout_ms,
            validate_only=validate_only,
        )
        answer = await self._router.ask(CREATE_TOPICS, request, CreateTopicsResponse)
        return {item.name: _outcome(item.error_code, item.error_message, item.name) for item in answer.topics}

    async def delete(self, names: Iterable[str]) -> dict[str, Refused | None]:
        """Delete topics with all that is in them; None for each that was deleted."""
        wanted = list(names)
        request = DeleteTopicsRequest(
            topics=[DeleteTopicState(name=name) for name in wanted],
            topic_names=wanted,
            timeout_ms=self._router.settings.request_timeout_ms,
        )
        answer = await self._router.ask(DELETE_TOPICS, request, DeleteTopicsResponse)
        return {
            item.name or "": _outcome(item.error_code, item.error_message, item.name or "") for item in answer.responses
        }

    async def grow(self, counts: Mapping[str, int], *, validate_only: bool = False) -> dict[str, Refused | None]:
        """Give topics more partitions: the new total for each; None for each that was changed."""
        request = CreatePartitionsRequest(
            topics=[CreatePartitionsTopic(name=name, count=count, assignments=None) for name, count in counts.items()],
            timeout_ms=self._router.settings.request_timeout_ms,
            validate_only=validate_only,
        )
        answer = await self._router.ask(CREATE_PARTITIONS, request, CreatePartitionsResponse)
        return {item.name: _outcome(item.error_code, item.error_message, item.name) for item in answer.results}

    async def trim(self, before: Mapping[TopicPartition, int]) -> dict[TopicPartition, int | Refused]:
        """Delete the records below these offsets (-1: all of them); the first offset left for each partition."""
        found: dict[TopicPartition, int | Refused] = {}
        await self._router.refresh(sorted({at.topic for at in before}))
        for node, partitions in (await self._router.by_leader(before)).items():
            topics: dict[str, DeleteRecordsTopic] = {}
            for at in partitions:
                topic = topics.setdefault(at.topic, DeleteRecordsTopic(name=at.topic))
                topic.partitions.append(DeleteRecordsPartition(partition_index=at.partition, offset=before[at]))
            limit_ms = self._router.settings.request_timeout_ms
            request = DeleteRecordsRequest(topics=list(topics.values()), timeout_ms=limit_ms)
            answer = await self._router.ask(DELETE_RECORDS, request, DeleteRecordsResponse, node=node)
            for item in answer.topics:
                for part in item.partitions:
                    at = TopicPartition(item.name, part.partition_index)
                    error = _outcome(part.error_code, None, str(at))
                    found[at] = part.low_watermark if error is None else error
        return found

    async def create_one(self, topic: NewTopic) -> None:
        """Create one topic; raises what :meth:`create` returns."""
        error = (await self.create([topic]))[topic.name]
        if error is not None:
            raise error


def _creatable(topic: NewTopic) -> CreatableTopic:
    return CreatableTopic(
        name=topic.name,
        num_partitions=topic.partitions,
        replication_factor=topic.replicas,
        assignments=[
            CreatableReplicaAssignment(partition_index=index, broker_ids=list(nodes))
            for index, nodes in topic.assignments.items()
        ],
        configs=[CreatableTopicConfig(name=name, value=value) for name, value in topic.configs.items()],
    )


def _outcome(number: int, message: str | None, name: str) -> Refused | None:
    try:
        check(number, message, f"topic {name!r}")
    except Refused as error:
        return error
    return None
