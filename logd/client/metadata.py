"""What a client knows of the cluster: its brokers, and who leads which partition.

A plain value, replaced whole by :func:`merge` when a Metadata answer comes. Owned by ``routing``; asks nobody.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import msgspec

from logd.client.address import Address
from logd.wire.message import ZERO_UUID
from logd.wire.schemas.metadata import MetadataResponse, MetadataResponseTopic


class TopicPartition(NamedTuple):
    """One partition of one topic, by name."""

    topic: str
    partition: int

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition}"


class Broker(msgspec.Struct, frozen=True):
    """One broker as it advertises itself."""

    id: int
    address: Address
    rack: str | None


class PartitionInfo(msgspec.Struct, frozen=True):
    """One partition; `leader` is -1 while it has none, `error` a Kafka error number or 0."""

    index: int
    leader: int
    leader_epoch: int
    replicas: tuple[int, ...]
    in_sync: tuple[int, ...]
    offline: tuple[int, ...]
    error: int


class TopicInfo(msgspec.Struct, frozen=True):
    """One topic, its partitions by index; `error` is a Kafka error number or 0."""

    name: str
    id: bytes
    internal: bool
    partitions: Mapping[int, PartitionInfo]
    error: int


NOTHING: Mapping[Any, Any] = MappingProxyType({})


class Metadata(msgspec.Struct, frozen=True):
    """A snapshot. ``topics`` holds those that were asked for, by name."""

    cluster_id: str | None = None
    controller_id: int = -1
    brokers: Mapping[int, Broker] = NOTHING
    topics: Mapping[str, TopicInfo] = NOTHING

    def partition(self, at: TopicPartition) -> PartitionInfo | None:
        """The partition, or None when it is not known."""
        topic = self.topics.get(at.topic)
        return topic.partitions.get(at.partition) if topic is not None else None

    def topic_name(self, topic_id: bytes) -> str | None:
        """The name that goes with a topic id, or None."""
        return next((topic.name for topic in self.topics.values() if topic.id == topic_id), None)


def merge(known: Metadata, answer: MetadataResponse, asked: Iterable[str] | None) -> Metadata:
    """The snapshot after `answer`; `asked` are the topics that it is about, None for all."""
    brokers = {item.node_id: Broker(item.node_id, Address(item.host, item.port), item.rack) for item in answer.brokers}
    fresh = {item.name: _topic(item, known) for item in answer.topics if item.name is not None}
    kept = {} if asked is None else {name: topic for name, topic in known.topics.items() if name not in set(asked)}
    return Metadata(answer.cluster_id, answer.controller_id, brokers, kept | fresh)


def _topic(item: MetadataResponseTopic, known: Metadata) -> TopicInfo:
    name = item.name or ""
    before = known.topics.get(name)
    partitions: dict[int, PartitionInfo] = {}
    for part in item.partitions:
        info = PartitionInfo(
            part.partition_index,
            part.leader_id,
            part.leader_epoch,
            tuple(part.replica_nodes),
            tuple(part.isr_nodes),
            tuple(part.offline_replicas),
            part.error_code,
        )
        partitions[info.index] = _newer(before, item.topic_id, info)
    return TopicInfo(name, item.topic_id, item.is_internal, dict(sorted(partitions.items())), item.error_code)


def _newer(before: TopicInfo | None, topic_id: bytes, info: PartitionInfo) -> PartitionInfo:
    """A broker that lags behind may tell of an earlier leader: the higher epoch is kept (KIP-320)."""
    if before is None or topic_id == ZERO_UUID or before.id != topic_id:
        return info
    old = before.partitions.get(info.index)
    return old if old is not None and old.leader_epoch > info.leader_epoch >= 0 else info
