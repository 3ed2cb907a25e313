"""The shards of one coordinator on this node: a runtime for each partition of its topic that this node leads.

Owns their opening, loading and closing as images come and go, the one timer of them all, and the finding of a shard by
its key. The fronts of the coordinators of groups and of transactions ask it; what a shard decides is its machine's
business.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Protocol

import trio

from logd.coordinators.timer import Timer
from logd.errors import Corrupt, DecodeError, ErrorCode, Refused, StorageFailed

if TYPE_CHECKING:
    from logd.cluster.image import Image, Topic
    from logd.config import Settings
    from logd.coordinators.journal import Journal
    from logd.coordinators.runtime import Runtime


PATIENCE_S = 1.0
"""How long FindCoordinator waits for a shard that is being opened or loaded."""


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


class Metadata(Protocol):
    """What shards need of the cluster."""

    image: Image
    settings: Settings
    listeners: list[Callable[[Image, Image], Awaitable[None]]]

    async def ensure_topic(
        self, name: str, *, num_partitions: int = -1, configs: Mapping[str, str | None] | None = None
    ) -> Topic: ...


class Opened(Protocol):
    """Called with a shard that serves from now on: a new one, or one that has been ``loaded``."""

    def __call__(self, shard: Runtime, *, loaded: bool) -> None: ...


class Shards:
    """Runtimes by partition of `topic`.

    :param journal_of: the journal of each partition, None for one that this node does not lead.
    :param open_shard: a runtime over a journal, not loaded yet: (name, partition, journal, timer).
    :param log: where it is said that a shard can't be loaded.
    """

    def __init__(
        self,
        topic: str,
        *,
        cluster: Metadata,
        journal_of: Callable[[int], Journal | None],
        open_shard: Callable[[str, int, Journal, Timer], Runtime],
        log: logging.Logger,
        opened: Opened | None = None,
    ) -> None:
        self.topic = topic
        self.count = 0
        self._cluster = cluster
        self._journal_of = journal_of
        self._make = open_shard
        self._opened = opened
        self._timer = Timer()
        self._by_index: dict[int, Runtime] = {}
        self._topic_id: bytes | None = None
        self._nursery: trio.Nursery | None = None
        self._changed = trio.Event()
        self._log = log

    # Life

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Load what this node leads and serve, until cancelled. Ready at once; shards answer as they are loaded."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                nursery.start_soon(self._timer.run)
                self._cluster.listeners.append(self.follow)
                self._open_all(self._cluster.image)
                task_status.started()
                await trio.sleep_forever()
        finally:
            self._nursery = None
            self._cluster.listeners.remove(self.follow)
            self.close()

    def close(self) -> None:
        """Answer whoever still waits; for after :meth:`run` too."""
        for shard in self._by_index.values():
            shard.unload()
        self._by_index = {}

    async def follow(self, old: Image, new: Image) -> None:
        """Bring the shards from one image to the next; listener of the cluster, after the partition table."""
        if old.topics is not new.topics and self._nursery is not None:
            self._open_all(new)

    def look_again(self) -> None:
        """Serve partitions that were offline and are not any more."""
        if self._nursery is not None:
            self._open_all(self._cluster.image)

    def start(self, work: Callable[[], Awaitable[None]]) -> None:
        """Run something beside the shards, for as long as they run."""
        if self._nursery is not None:
            self._nursery.start_soon(work)

    def _open_all(self, image: Image) -> None:
        topic = image.topics.get(self.topic)
        if topic is None or topic.id != self._topic_id:
            self.close()
            self._topic_id, self.count = (None, 0) if topic is None else (topic.id, len(topic.partitions))
        for index in range(self.count):
            journal = self._journal_of(index)
            if journal is None and index in self._by_index:
                self._by_index.pop(index).unload()
            elif journal is not None and index not in self._by_index:
                self._open(index, journal)
        self._tell_changed()

    def _open(self, index: int, journal: Journal) -> None:
        runtime = self._by_index[index] = self._make(f"{self.topic}-{index}", index, journal, self._timer)
        assert self._nursery is not None
        if journal.end_offset <= journal.start_offset:
            runtime.serve()
            self._tell_opened(runtime, loaded=False)
        else:
            self._nursery.start_soon(self._load, index, runtime)
        self._nursery.start_soon(runtime.release)

    async def _load(self, index: int, runtime: Runtime) -> None:
        try:
            await runtime.load()
        except (Refused, StorageFailed, Corrupt, DecodeError) as error:
            self._log.error("%s can't be loaded, what it keeps is not served: %s", runtime.name, error)
            if self._by_index.get(index) is runtime:
                self._by_index.pop(index).unload()
            return
        finally:
            self._tell_changed()
        self._tell_opened(runtime, loaded=True)

    def _tell_opened(self, runtime: Runtime, *, loaded: bool) -> None:
        if self._opened is not None:
            self._opened(runtime, loaded=loaded)

    # Finding

    async def until_serving(self, keys: Iterable[str]) -> None:
        """Wait a little for the shards of these keys, if they are about to serve.

        A client that is sent to a coordinator which then refuses it tries again only after seconds.
        """
        with trio.move_on_after(PATIENCE_S):
            for key in keys:
                while self._is_coming(key):
                    await self._changed.wait()

    def _is_coming(self, key: str) -> bool:
        topic = self._cluster.image.topics.get(self.topic)
        if topic is None or topic.id != self._topic_id:
            return topic is not None
        shard = self._by_index.get(shard_of(key, self.count))
        return shard is not None and not shard.serving

    def _tell_changed(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    def leader_of(self, key: str) -> int:
        """Broker id of the node that serves a key, -1 while nobody does."""
        topic = self._cluster.image.topics.get(self.topic)
        if topic is None:
            return -1
        count = self.count if topic.id == self._topic_id else len(topic.partitions)
        return topic.partitions[shard_of(key, count)].leader

    def find(self, key: str) -> Runtime:
        """The shard of a key, serving.

        :raises Refused: COORDINATOR_LOAD_IN_PROGRESS, NOT_COORDINATOR.
        """
        shard = self._by_index.get(shard_of(key, self.count)) if self.count else None
        if shard is None:
            raise Refused(
                ErrorCode.NOT_COORDINATOR, f"this node does not keep {key!r} of {self.topic}: find the coordinator"
            )
        return _serving(shard)

    def at(self, index: int) -> Runtime:
        """The shard of one partition of the topic, serving.

        :raises Refused: COORDINATOR_LOAD_IN_PROGRESS, NOT_COORDINATOR.
        """
        shard = self._by_index.get(index)
        if shard is None:
            raise Refused(ErrorCode.NOT_COORDINATOR, f"{self.topic}-{index} is not led by this node")
        return _serving(shard)

    def tell(self, event: object) -> None:
        """Let every shard that serves know."""
        for shard in self._by_index.values():
            shard.step(event)

    def all(self) -> list[Runtime]:
        """Every shard of this node, serving.

        :raises Refused: COORDINATOR_LOAD_IN_PROGRESS.
        """
        return [_serving(shard) for shard in self._by_index.values()]


def _serving(shard: Runtime) -> Runtime:
    if not shard.serving:
        raise Refused(ErrorCode.COORDINATOR_LOAD_IN_PROGRESS, f"{shard.name} is being loaded: try again")
    return shard
