"""The cluster as one node sees it: brokers, topics, partitions with leader and epoch, settings.

An `Image` never changes: `Changes` applied to it make the next one. All hot reads of metadata come from here. Made by
`cluster`, decided upon by `controller`, read by every API. PURE: knows no store, no socket, no clock.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

NO_CONFIGS: Mapping[str, str] = {}
INTERNAL_TOPICS = frozenset({"__consumer_offsets", "__transaction_state", "__share_group_state"})


Resource = tuple[int, str]
"""(type, name) of what has settings beside topics and brokers; the type is numbered as on the wire."""


class Endpoint(msgspec.Struct, frozen=True, array_like=True):
    """Where a broker is reached by clients of one listener. An empty host: the address that the client came in by."""

    host: str
    port: int


class Broker(msgspec.Struct, frozen=True):
    """One registered node.

    :param host: of its first listener, as is `port`; "" while the advertised address is the one connected to.
    :param epoch: goes up with every registration.
    """

    id: int
    host: str = ""
    port: int = 0
    rack: str | None = None
    listeners: Mapping[str, Endpoint] = {}
    epoch: int = 0


class PartitionState(msgspec.Struct, frozen=True, array_like=True):
    """What the cluster has decided about one partition. `leader` is -1 when nobody leads."""

    index: int
    leader: int
    leader_epoch: int
    replicas: tuple[int, ...]
    isr: tuple[int, ...]
    partition_epoch: int = 0
    directories: tuple[bytes, ...] = ()


class Topic(msgspec.Struct, frozen=True):
    """One topic; `id` is 16 bytes, `configs` only what was set on it, `partitions` in order of their index."""

    name: str
    id: bytes
    partitions: tuple[PartitionState, ...]
    configs: Mapping[str, str] = NO_CONFIGS
    internal: bool = False

    @property
    def replication_factor(self) -> int:
        """Replicas of the first partition, as Kafka tells it of a topic."""
        return len(self.partitions[0].replicas) if self.partitions else 0


class Changes(msgspec.Struct, frozen=True, kw_only=True):
    """What becomes different, all at once.

    :param broker_configs: the whole new set of dynamic settings by broker id; None is the cluster-wide default.
    :param resource_configs: the same of groups and of subscriptions to client metrics.
    :param producer_ids_next: first producer id that no node has taken.
    :param features: the whole new set of levels that were chosen, by name of the feature.
    """

    topics: tuple[Topic, ...] = ()
    deleted: tuple[str, ...] = ()
    brokers: tuple[Broker, ...] = ()
    broker_configs: Mapping[int | None, Mapping[str, str]] = {}
    resource_configs: Mapping[Resource, Mapping[str, str]] = {}
    producer_ids_next: int | None = None
    controller_id: int | None = None
    cluster_id: str | None = None
    features: Mapping[str, int] | None = None

    def __bool__(self) -> bool:
        changed = (self.topics, self.deleted, self.brokers, self.broker_configs, self.resource_configs, self.cluster_id)
        return any(changed) or not (
            self.producer_ids_next is None and self.controller_id is None and self.features is None
        )


class Image(msgspec.Struct, frozen=True, kw_only=True):
    """The whole cluster at one version of its metadata."""

    version: int = 0
    cluster_id: str = ""
    controller_id: int = -1
    brokers: Mapping[int, Broker] = {}
    topics: Mapping[str, Topic] = {}
    topics_by_id: Mapping[bytes, Topic] = {}
    broker_configs: Mapping[int, Mapping[str, str]] = {}
    default_broker_configs: Mapping[str, str] = NO_CONFIGS
    resource_configs: Mapping[Resource, Mapping[str, str]] = {}
    features: Mapping[str, int] = {}
    """Levels that were chosen; a feature that is not named is at its highest."""
    producer_ids_next: int = 0
    partition_count: int = 0

    def partition(self, topic: str, index: int) -> PartitionState | None:
        """One partition's state, or None when there is none of that name and index."""
        found = self.topics.get(topic)
        if found is None or not 0 <= index < len(found.partitions):
            return None
        return found.partitions[index]

    def apply(self, changes: Changes, version: int) -> Image:
        """The image after `changes`, known as `version`."""
        return _Step(self).apply(changes, version)


class _Step:
    """The work of `Image.apply`: copies only the maps that change."""

    def __init__(self, image: Image) -> None:
        self.image = image

    def apply(self, changes: Changes, version: int) -> Image:
        image = self.image
        fields: dict[str, object] = {"version": version}
        if changes.topics or changes.deleted:
            fields |= self._topics(changes)
        if changes.brokers:
            fields["brokers"] = {**image.brokers, **{broker.id: broker for broker in changes.brokers}}
        if changes.broker_configs:
            named = {key: value for key, value in changes.broker_configs.items() if key is not None}
            merged = {**image.broker_configs, **named}
            fields["broker_configs"] = {key: value for key, value in merged.items() if value}
            if None in changes.broker_configs:
                fields["default_broker_configs"] = changes.broker_configs[None]
        if changes.resource_configs:
            held = {**image.resource_configs, **changes.resource_configs}
            fields["resource_configs"] = {key: value for key, value in held.items() if value}
        for name in ("producer_ids_next", "controller_id", "cluster_id", "features"):
            value = getattr(changes, name)
            if value is not None:
                fields[name] = value
        return msgspec.structs.replace(image, **fields)

    def _topics(self, changes: Changes) -> dict[str, object]:
        by_name, by_id = dict(self.image.topics), dict(self.image.topics_by_id)
        count = self.image.partition_count
        for name in (*changes.deleted, *(topic.name for topic in changes.topics)):
            gone = by_name.pop(name, None) if name in changes.deleted else by_name.get(name)
            if gone is not None:
                by_id.pop(gone.id, None)
                count -= len(gone.partitions)
        for topic in changes.topics:
            by_name[topic.name] = by_id[topic.id] = topic
            count += len(topic.partitions)
        return {"topics": by_name, "topics_by_id": by_id, "partition_count": count}
