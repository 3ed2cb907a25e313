"""The front of the cluster's metadata for one node: reads from the image, writes through the store.

Owns the current image, the order of changes, and those who must hear of them. Called by the APIs, the coordinators
and the node. Decisions are `controller`'s; this writes them by compare-and-set, tells every listener, and only then
answers, so that the partitions of a created topic are open when CreateTopics answers. Never blocks the event loop.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence

import trio

from logd.cluster import controller, records
from logd.cluster.alter import Alteration, alter_configs
from logd.cluster.controller import Decided, NewPartitions, NewTopic
from logd.cluster.image import Broker, Changes, Image, Topic
from logd.cluster.store import ABSENT, Conflict, Snapshot, Store, StoreUnusable, Transaction
from logd.config import Settings, TopicConfig, with_overrides
from logd.config.describe import Described, Layers, describe_topic, describe_topic_defaults
from logd.config.topics import topic_config, topic_defaults
from logd.errors import ErrorCode, Refused, StorageFailed

logger = logging.getLogger("logd.cluster")

PRODUCER_ID_BLOCK = 1000
"""Ids taken from the store at once; Kafka's block has this size too."""

ATTEMPTS_MAX = 20
"""How often a write that met another node's is decided again."""

WATCH_RETRY_MS = 1000

NewId = Callable[[], bytes]
ImageListener = Callable[[Image, Image], Awaitable[None]]


class Cluster:
    """The cluster's metadata as this node reads and changes it."""

    def __init__(self, store: Store, settings: Settings, new_id: NewId, snapshot: Snapshot) -> None:
        self.store = store
        self.static_settings = settings
        self.listeners: list[ImageListener] = []
        self._new_id = new_id
        self._writing = trio.Lock()
        self._ids = range(0)
        self._versions: dict[str, int] = {}
        self._topic_configs: dict[str, tuple[Mapping[str, str], TopicConfig]] = {}
        self._described: tuple[Described, ...] | None = None
        self.image = Image()
        self.settings = settings
        self._load(snapshot)

    # Reading

    def topic_config(self, name: str) -> TopicConfig:
        """The settings of a topic, the broker's defaults filled in; the defaults for a topic that is not there."""
        topic = self.image.topics.get(name)
        if topic is None:
            return topic_defaults(self.settings)
        known = self._topic_configs.get(name)
        if known is None or known[0] is not topic.configs:
            known = (topic.configs, topic_config(topic.configs, self.settings))
            self._topic_configs[name] = known
        return known[1]

    def layers(self) -> Layers:
        """This broker's settings by where they come from.

        As in Kafka since 4.1, min.insync.replicas is always there for all brokers: a new cluster takes it from its
        first start (KIP-966), and clients tell it apart from a default.
        """
        static, own = self.static_settings, self.image.broker_configs.get(self.static_settings.node_id, {})
        always = {"min.insync.replicas": str(static.min_insync_replicas)}
        return Layers(static, {**always, **self.image.default_broker_configs}, own)

    def describe_topic(self, configs: Mapping[str, str]) -> list[Described]:
        """All settings of a topic whose own ones are `configs`, as DescribeConfigs tells them."""
        if self._described is None:
            self._described = describe_topic_defaults(topic_defaults(self.settings), self.layers())
        return describe_topic(configs, topic_config(configs, self.settings), self._described)

    # Changing

    async def start(self, broker: Broker) -> None:
        """Register this node and raise the leader epoch of all that it leads, in one transaction."""
        async with self._writing:
            await self._write(lambda image: controller.register(image, broker))

    async def create_topics(self, topics: Sequence[NewTopic], validate_only: bool = False) -> list[Topic | Refused]:
        """Make topics; for each the topic as it is (or would be) or why not."""
        ids = [self._new_id() for _ in topics]
        return await self._decide(
            lambda image: controller.create_topics(image, self.settings, topics, ids), validate_only
        )

    async def create_partitions(
        self, topics: Sequence[NewPartitions], validate_only: bool = False
    ) -> list[Topic | Refused]:
        """Make topics grow; for each the topic as it is (or would be) or why not."""
        return await self._decide(
            lambda image: controller.create_partitions(image, self.settings, topics), validate_only
        )

    async def delete_topics(self, topic_ids: Sequence[bytes]) -> list[Topic | Refused]:
        """Delete topics by their 16-byte ids; for each the topic that is gone or why not."""
        return await self._decide(lambda image: controller.delete_topics(image, topic_ids), False)

    async def alter_configs(self, wanted: Sequence[Alteration], validate_only: bool = False) -> list[Refused | None]:
        """Change settings of topics and brokers; for each None when done, or why not."""
        node_id = self.static_settings.node_id
        if validate_only:
            return alter_configs(self.image, self.settings, node_id, wanted).results
        results: list[Refused | None] = []

        def changes(image: Image) -> Changes:
            altered = alter_configs(image, self.settings, node_id, wanted)
            results[:] = altered.results
            return altered.changes

        await self.change(changes)
        return results

    async def ensure_topic(
        self, name: str, *, num_partitions: int = -1, configs: Mapping[str, str | None] | None = None
    ) -> Topic:
        """The topic of that name, made with the defaults if it is not there yet; raises Refused."""
        topic = self.image.topics.get(name)
        if topic is not None:
            return topic
        (made,) = await self.create_topics([NewTopic(name, num_partitions, configs=configs or {})])
        if isinstance(made, Refused):
            topic = self.image.topics.get(name)
            if topic is None:
                raise made
            return topic
        return made

    async def change(self, decide: Callable[[Image], Changes]) -> Image:
        """Write what `decide` makes of the current image (again, should another node have been faster)."""
        async with self._writing:
            return await self._write(decide)

    async def next_producer_id(self) -> int:
        """A producer id that nobody ever had. Cheap: one write for a thousand of them."""
        if not self._ids:
            self._ids = await self.allocate_producer_ids(PRODUCER_ID_BLOCK)
        self._ids, taken = self._ids[1:], self._ids[0]
        return taken

    async def allocate_producer_ids(self, count: int) -> range:
        """Take `count` producer ids that nobody else will ever get."""
        image = await self.change(lambda image: Changes(producer_ids_next=image.producer_ids_next + count))
        return range(image.producer_ids_next - count, image.producer_ids_next)

    async def watch(self) -> None:
        """Follow what other nodes write, for ever; run by the node in a task of its own."""
        while True:
            try:
                version = await self.store.changed(self.image.version)
                async with self._writing:
                    if version > self.image.version:
                        await self._reload()
            except (StorageFailed, StoreUnusable) as error:
                logger.error("can't follow the metadata store, the last image stays in force: %s", error)
                await trio.sleep(WATCH_RETRY_MS / 1000)

    async def _reload(self) -> None:
        """Take over what the store holds."""
        old, snapshot = self.image, await self.store.read()
        self._load(snapshot)
        await self._tell(old)

    async def aclose(self) -> None:
        """Close the store."""
        await self.store.aclose()

    # The work

    async def _decide(self, decide: Callable[[Image], Decided], validate_only: bool) -> list[Topic | Refused]:
        if validate_only:
            return decide(self.image).results
        results: list[Topic | Refused] = []

        def changes(image: Image) -> Changes:
            decided = decide(image)
            results[:] = decided.results
            return decided.changes

        await self.change(changes)
        return results

    async def _write(self, decide: Callable[[Image], Changes]) -> Image:
        for _ in range(ATTEMPTS_MAX):
            old = self.image
            changes = decide(old)
            if not changes:
                return old
            puts, deletes = records.puts(changes), records.deletes(changes)
            checks = {key: self._versions.get(key, ABSENT) for key in (*puts, *deletes)}
            try:
                # What is committed must be known here, so a cancelled caller waits for the commit and the listeners.
                with trio.CancelScope(shield=True):
                    version = await self.store.commit(Transaction(checks=checks, puts=puts, deletes=deletes))
                    for key in deletes:
                        self._versions.pop(key, None)
                    self._versions.update(dict.fromkeys(puts, version))
                    self._become(old.apply(changes, version))
                    await self._tell(old)
                return self.image
            except Conflict:
                await self._reload()
            except StorageFailed as error:
                raise Refused(ErrorCode.KAFKA_STORAGE_ERROR, f"The metadata could not be written: {error}") from error
        raise Refused(ErrorCode.REQUEST_TIMED_OUT, "Other nodes kept changing the same metadata; try again.")

    async def _tell(self, old: Image) -> None:
        for listener in self.listeners:
            await listener(old, self.image)

    def _load(self, snapshot: Snapshot) -> None:
        entries = {key: entry.value for key, entry in snapshot.entries.items() if key != records.FORMAT_KEY}
        try:
            image = records.image_of(entries, snapshot.version)
        except records.BadRecord as error:
            raise StoreUnusable(f"The metadata store is damaged: {error}; restore it from a backup.") from error
        self._versions = {key: entry.version for key, entry in snapshot.entries.items()}
        self._become(image)

    def _become(self, image: Image) -> None:
        old, self.image = self.image, image
        default, own = image.default_broker_configs, image.broker_configs.get(self.static_settings.node_id)
        if default is not old.default_broker_configs or own is not old.broker_configs.get(self.static_settings.node_id):
            self.settings = with_overrides(self.static_settings, default, own or {})
            self._topic_configs.clear()
            self._described = None
        if len(self._topic_configs) > len(image.topics):
            self._topic_configs = {n: known for n, known in self._topic_configs.items() if n in image.topics}


async def open_cluster(
    store: Store, settings: Settings, new_id: NewId, new_cluster_id: Callable[[], str], *, joining: bool = False
) -> Cluster:
    """The cluster that `store` keeps; a store that is empty becomes a new cluster.

    :param new_id: gives 16 random bytes, never all zero. :param new_cluster_id: gives the text of a random uuid.
    :param joining: whether this node may be new to a cluster that has others; else its id must be the known one.
    :raises StoreUnusable: when a newer logd wrote it, when it is another node's, or when it can't be read.
    """
    snapshot = await store.read()
    if not snapshot.entries:
        first = Changes(cluster_id=new_cluster_id())
        puts = {records.FORMAT_KEY: str(records.FORMAT).encode(), **records.puts(first)}
        try:
            await store.commit(Transaction(checks=dict.fromkeys(puts, ABSENT), puts=puts))
        except Conflict:
            logger.debug("another node made the cluster first")
        snapshot = await store.read()
    _check_format(snapshot)
    cluster = Cluster(store, settings, new_id, snapshot)
    known = sorted(cluster.image.brokers)
    if known and settings.node_id not in known and not joining:
        raise StoreUnusable(
            f"The metadata store belongs to node {', '.join(map(str, known))} and this is node {settings.node_id}; "
            f"start it with --node-id {known[0]}, or give another --data-dir."
        )
    return cluster


def _check_format(snapshot: Snapshot) -> None:
    entry = snapshot.entries.get(records.FORMAT_KEY)
    text = entry.value.decode("ascii", "replace") if entry is not None else "none"
    if text != str(records.FORMAT):
        raise StoreUnusable(
            f"The metadata store has format {text} and this logd reads format {records.FORMAT}; "
            "start the version of logd that wrote it."
        )
