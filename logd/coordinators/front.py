"""The group coordinator of one node: which shard serves a group, and the way in for requests.

Owns a runtime for each partition of `__consumer_offsets` that this node leads, the one timer of them all, and the
making of that topic on first use. The APIs ask it; the cluster tells it of new images; the node runs it. What is
decided about groups is :mod:`groups`' business, what is written :mod:`runtime`'s.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Protocol

import trio

from logd.chronicle import Chronicle
from logd.coordinators.events import (
    Asked,
    OffsetsAsked,
    PendingAsked,
    SettingsSeen,
    TopicsDeleted,
    TopicsFound,
    TopicsSeen,
)
from logd.coordinators.journal import Journal, partition_journals
from logd.coordinators.timer import Timer
from logd.errors import Corrupt, DecodeError, ErrorCode, Refused, StorageFailed
from logd.wire.message import Message
from logd.wire.schemas.consumer_group_heartbeat import ConsumerGroupHeartbeatRequest
from logd.wire.schemas.join_group import JoinGroupRequest
from logd.wire.schemas.offset_commit import OffsetCommitRequest
from logd.wire.schemas.offset_fetch import OffsetFetchRequestGroup

if TYPE_CHECKING:
    from logd.clock import Clock
    from logd.cluster.image import Image, Topic
    from logd.config import Settings
    from logd.coordinators.runtime import Runtime
    from logd.partitions.table import PartitionTable

logger = logging.getLogger("logd.groups")

TOPIC = "__consumer_offsets"

PATIENCE_S = 1.0
"""How long FindCoordinator waits for a shard that is being opened or loaded."""


class Metadata(Protocol):
    """What the coordinator needs of the cluster."""

    image: Image
    settings: Settings
    listeners: list[Callable[[Image, Image], Awaitable[None]]]

    async def ensure_topic(
        self, name: str, *, num_partitions: int = -1, configs: Mapping[str, str | None] | None = None
    ) -> Topic: ...


class Waiter:
    """One parked call: its answer, or why there is none."""

    __slots__ = ("_event", "message")

    def __init__(self) -> None:
        self.message: Message | Refused | None = None
        self._event: trio.Event | None = None

    def answer(self, message: Message | Refused) -> None:
        """Give the answer; the first one counts."""
        if self.message is None:
            self.message = message
            if self._event is not None:
                self._event.set()

    def result(self) -> Message:
        """The answer that is there.

        :raises Refused: when it is a refusal.
        """
        assert self.message is not None
        if isinstance(self.message, Refused):
            raise self.message
        return self.message

    async def wait(self) -> Message:
        """The answer, once it is there; raises as :meth:`result`."""
        await self.outcome()
        return self.result()

    async def outcome(self) -> Message | Refused:
        """What came of the call, once it is there."""
        if self.message is None:
            self._event = trio.Event()
            await self._event.wait()
        assert self.message is not None
        return self.message


@lru_cache(maxsize=8192)
def java_hash(text: str) -> int:
    """``String.hashCode``: 32 bits, signed, over UTF-16 units, by which Kafka's clients and tools find a group."""
    units = text.encode("utf-16-be", "surrogatepass")
    value = 0
    for at in range(0, len(units), 2):
        value = (31 * value + (units[at] << 8) + units[at + 1]) & 0xFFFFFFFF
    return value - (1 << 32) if value >= 1 << 31 else value


def shard_of(group_id: str, count: int) -> int:
    """The partition of `__consumer_offsets` that keeps a group, of `count`."""
    value = java_hash(group_id)
    return 0 if value == -(1 << 31) else abs(value) % count


class GroupCoordinator:
    """The front of all shards.

    :param partitions: the partitions that this node hosts, those of `__consumer_offsets` among them.
    :param journal_of: instead of `partitions`, the journal of each shard, None for one that this node does not lead.
    :param new_id: gives a new UUID in text for members that have no id.
    :param chronicle: where what happens to groups is remembered.
    """

    def __init__(
        self,
        *,
        cluster: Metadata,
        clock: Clock,
        partitions: PartitionTable | None = None,
        journal_of: Callable[[int], Journal | None] | None = None,
        new_id: Callable[[], str] = lambda: str(uuid.uuid4()),
        chronicle: Chronicle | None = None,
    ) -> None:
        self._cluster = cluster
        if journal_of is None:
            assert partitions is not None, "the shards need a place for their records"
            journal_of = partition_journals(partitions, TOPIC)
        self._journal_of = journal_of
        self._clock = clock
        self._new_id = new_id
        self.chronicle = Chronicle(0) if chronicle is None else chronicle
        self._timer = Timer()
        self._shards: dict[int, Runtime] = {}
        self._topic_id: bytes | None = None
        self._count = 0
        self._nursery: trio.Nursery | None = None
        self._changed = trio.Event()

    # Life

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Load what this node leads and serve, until cancelled. Ready at once; shards answer as they are loaded."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                nursery.start_soon(self._timer.run)
                self._cluster.listeners.append(self.follow)
                self._open_shards(self._cluster.image)
                task_status.started()
                await trio.sleep_forever()
        finally:
            self._nursery = None
            self._cluster.listeners.remove(self.follow)
            self._close_shards()

    async def close(self) -> None:
        """Answer whoever still waits; for after :meth:`run` too. Everything that counts is in the log already."""
        self._close_shards()

    async def follow(self, old: Image, new: Image) -> None:
        """Bring the shards from one image to the next; listener of the cluster, after the partition table."""
        if self._nursery is None:
            return
        if (
            old.resource_configs is not new.resource_configs
            or old.default_broker_configs is not (new.default_broker_configs)
            or old.broker_configs is not new.broker_configs
        ):
            for shard in self._shards.values():
                shard.step(self._settings_seen())
        if old.topics is new.topics:
            return
        self._open_shards(new)
        seen = _topics_of(new)
        for shard in self._shards.values():
            shard.step(seen)
        gone = frozenset(
            name for name, topic in old.topics.items() if name not in new.topics or new.topics[name].id != topic.id
        )
        if gone:
            for shard in self._shards.values():
                shard.step(TopicsDeleted(gone))

    def look_again(self) -> None:
        """Serve groups of partitions that were offline and are not any more."""
        if self._nursery is not None:
            self._open_shards(self._cluster.image)

    def _open_shards(self, image: Image) -> None:
        topic = image.topics.get(TOPIC)
        if topic is None or topic.id != self._topic_id:
            self._close_shards()
            self._topic_id, self._count = (None, 0) if topic is None else (topic.id, len(topic.partitions))
        for index in range(self._count):
            journal = self._journal_of(index)
            if journal is None and index in self._shards:
                self._shards.pop(index).unload()
            elif journal is not None and index not in self._shards:
                self._open_shard(index, journal)
        self._tell_changed()

    def _open_shard(self, index: int, journal: Journal) -> None:
        from logd.coordinators.shard import open_shard

        name = f"{TOPIC}-{index}"
        tell, limit_ms = self.chronicle.add, self._cluster.settings.offsets_commit_timeout_ms
        runtime = open_shard(name, journal, self._settings_seen(), limit_ms, self._timer, self._clock, tell)
        self._shards[index] = runtime
        assert self._nursery is not None
        if journal.end_offset <= journal.start_offset:
            runtime.serve()
            runtime.step(_topics_of(self._cluster.image))
        else:
            self._nursery.start_soon(self._load, index, runtime)
        self._nursery.start_soon(runtime.release)

    def _settings_seen(self) -> SettingsSeen:
        from logd.coordinators.shard import settings_seen

        return settings_seen(self._cluster.settings, self._cluster.image.resource_configs)

    async def _load(self, index: int, runtime: Runtime) -> None:
        try:
            await runtime.load()
        except (Refused, StorageFailed, Corrupt, DecodeError) as error:
            logger.error("%s can't be loaded, its groups are not served: %s", runtime.name, error)
            if self._shards.get(index) is runtime:
                self._shards.pop(index).unload()
            return
        finally:
            self._tell_changed()
        runtime.step(_topics_of(self._cluster.image))
        runtime.step(TopicsFound({name: topic.id for name, topic in self._cluster.image.topics.items()}))

    def _close_shards(self) -> None:
        for shard in self._shards.values():
            shard.unload()
        self._shards = {}

    # Requests

    async def ensure_topic(self) -> None:
        """Make `__consumer_offsets` if it is not there.

        :raises Refused: it can't be made now.
        """
        settings = self._cluster.settings
        configs: dict[str, str | None] = {
            "cleanup.policy": "compact",
            "compression.type": "producer",
            "segment.bytes": str(settings.offsets_topic_segment_bytes),
        }
        await self._cluster.ensure_topic(TOPIC, num_partitions=settings.offsets_topic_num_partitions, configs=configs)

    async def until_serving(self, group_ids: Iterable[str]) -> None:
        """Wait a little for the shards of these groups, if they are about to serve.

        A client that is sent to a coordinator which then refuses it tries again only after seconds.
        """
        with trio.move_on_after(PATIENCE_S):
            for group_id in group_ids:
                while self._is_coming(group_id):
                    await self._changed.wait()

    def _is_coming(self, group_id: str) -> bool:
        topic = self._cluster.image.topics.get(TOPIC)
        if topic is None or topic.id != self._topic_id:
            return topic is not None
        shard = self._shards.get(shard_of(group_id, self._count))
        return shard is not None and not shard.serving

    def _tell_changed(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    def coordinator_of(self, group_id: str) -> int:
        """Broker id of the node that serves a group, -1 while nobody does."""
        topic = self._cluster.image.topics.get(TOPIC)
        if topic is None:
            return -1
        count = self._count if topic.id == self._topic_id else len(topic.partitions)
        return topic.partitions[shard_of(group_id, count)].leader

    def ask(
        self, group_id: str, request: Message, version: int = 0, client_id: str = "", client_host: str = ""
    ) -> Waiter:
        """Put a request for one group to its shard; the answer may be there already.

        :raises Refused: COORDINATOR_LOAD_IN_PROGRESS, NOT_COORDINATOR.
        """
        shard = self._shard(group_id)
        waiter = Waiter()
        nameless = isinstance(request, JoinGroupRequest | ConsumerGroupHeartbeatRequest) and not request.member_id
        new_id = self._new_id() if nameless else ""
        shard.step(Asked(waiter, request, version, client_id, client_host, new_id))
        return waiter

    def ask_offsets(self, request: OffsetFetchRequestGroup, require_stable: bool) -> Waiter:
        """Put one group of an OffsetFetch to its shard; raises as :meth:`ask`."""
        shard = self._shard(request.group_id)
        waiter = Waiter()
        shard.step(OffsetsAsked(waiter, request, require_stable))
        return waiter

    def ask_pending(self, request: OffsetCommitRequest, producer: tuple[int, int]) -> Waiter:
        """Put the offsets of a transaction to the shard of their group; raises as :meth:`ask`."""
        shard = self._shard(request.group_id)
        waiter = Waiter()
        shard.step(PendingAsked(waiter, request, producer))
        return waiter

    def ask_all(self, request: Message, version: int = 0) -> list[Waiter]:
        """Put a request to every shard of this node.

        :raises Refused: COORDINATOR_LOAD_IN_PROGRESS when one of them is not loaded yet.
        """
        waiters = []
        for shard in self._shards.values():
            _check_serving(shard)
            waiter = Waiter()
            shard.step(Asked(waiter, request, version))
            waiters.append(waiter)
        return waiters

    def by_shard(self, group_ids: Iterable[str]) -> list[list[str]]:
        """Group ids sorted by the shard that serves them."""
        shards: dict[int, list[str]] = {}
        for group_id in group_ids:
            shards.setdefault(shard_of(group_id, max(self._count, 1)), []).append(group_id)
        return list(shards.values())

    def shard_at(self, index: int) -> Runtime:
        """The shard of one partition of the topic, for the markers that end transactions.

        :raises Refused: COORDINATOR_LOAD_IN_PROGRESS, NOT_COORDINATOR.
        """
        shard = self._shards.get(index)
        if shard is None:
            raise Refused(ErrorCode.NOT_COORDINATOR, f"{TOPIC}-{index} is not led by this node")
        _check_serving(shard)
        return shard

    def _shard(self, group_id: str) -> Runtime:
        shard = self._shards.get(shard_of(group_id, self._count)) if self._count else None
        if shard is None:
            raise Refused(
                ErrorCode.NOT_COORDINATOR, f"this node does not coordinate group {group_id!r}: find the coordinator"
            )
        _check_serving(shard)
        return shard


def _topics_of(image: Image) -> TopicsSeen:
    return TopicsSeen(image.version, image.topics, image.topics_by_id)


def _check_serving(shard: Runtime) -> None:
    if not shard.serving:
        raise Refused(ErrorCode.COORDINATOR_LOAD_IN_PROGRESS, f"{shard.name} is being loaded: try again")
