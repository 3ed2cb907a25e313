"""The group coordinator of one node: which shard serves a group, and the way in for requests.

Owns the shards of `__consumer_offsets` that this node leads (:mod:`shards` opens and closes them), what they hear of
new images, and the making of that topic on first use. The APIs ask it; the node runs it. What is decided about groups
is :mod:`groups`' business, what is written :mod:`runtime`'s.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING

import trio

from logd.chronicle import Chronicle
from logd.coordinators.events import (
    Asked,
    OffsetsAsked,
    PendingAsked,
    PlainCommit,
    SettingsSeen,
    TopicsDeleted,
    TopicsFound,
    TopicsSeen,
)
from logd.coordinators.journal import Journal, partition_journals
from logd.coordinators.shards import Metadata, Shards
from logd.errors import Refused
from logd.wire.message import Message
from logd.wire.schemas.consumer_group_heartbeat import ConsumerGroupHeartbeatRequest
from logd.wire.schemas.join_group import JoinGroupRequest
from logd.wire.schemas.offset_commit import OffsetCommitRequest
from logd.wire.schemas.offset_fetch import OffsetFetchRequestGroup

if TYPE_CHECKING:
    from logd.clock import Clock
    from logd.cluster.image import Image
    from logd.coordinators.runtime import Runtime
    from logd.coordinators.timer import Timer
    from logd.partitions.table import PartitionTable

logger = logging.getLogger("logd.groups")

TOPIC = "__consumer_offsets"


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


class GroupCoordinator:
    """The front of all shards.

    :param partitions: the partitions that this node hosts, those of `__consumer_offsets` among them.
    :param journal_of: instead of `partitions`, the journal of each shard, None for one that this node does not lead.
    :param new_id: gives a new UUID in text for members that have no id.
    :param chronicle: where what happens to groups is remembered.
    :param steady: a clock whose leaps are not believed, by which offsets and groups expire; else `clock`.
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
        steady: Clock | None = None,
    ) -> None:
        self._cluster = cluster
        if journal_of is None:
            assert partitions is not None, "the shards need a place for their records"
            journal_of = partition_journals(partitions, TOPIC)
        self._clock = clock
        self._steady = steady or clock
        self._new_id = new_id
        self.chronicle = Chronicle(0) if chronicle is None else chronicle
        self._shards = Shards(
            TOPIC,
            cluster=cluster,
            journal_of=journal_of,
            open_shard=self._open_shard,
            opened=self._tell_topics,
            log=logger,
        )
        self.look_again = self._shards.look_again
        self.until_serving = self._shards.until_serving
        self.coordinator_of = self._shards.leader_of
        self.shard_at = self._shards.at

    # Life

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Load what this node leads and serve, until cancelled. Ready at once; shards answer as they are loaded."""
        self._cluster.listeners.append(self._follow)
        try:
            await self._shards.run(task_status=task_status)
        finally:
            self._cluster.listeners.remove(self._follow)

    async def close(self) -> None:
        """Answer whoever still waits; for after :meth:`run` too. Everything that counts is in the log already."""
        self._shards.close()

    async def _follow(self, old: Image, new: Image) -> None:
        """Tell the shards what is new in an image; listener of the cluster."""
        if (
            old.resource_configs is not new.resource_configs
            or old.default_broker_configs is not new.default_broker_configs
            or old.broker_configs is not new.broker_configs
        ):
            self._shards.tell(self._settings_seen())
        if old.topics is new.topics:
            return
        self._shards.tell(_topics_of(new))
        gone = frozenset(
            name for name, topic in old.topics.items() if name not in new.topics or new.topics[name].id != topic.id
        )
        if gone:
            self._shards.tell(TopicsDeleted(gone))

    def _open_shard(self, name: str, _index: int, journal: Journal, timer: Timer) -> Runtime:
        from logd.coordinators.shard import open_shard

        tell, limit_ms = self.chronicle.add, self._cluster.settings.offsets_commit_timeout_ms
        return open_shard(name, journal, self._settings_seen(), limit_ms, timer, self._clock, tell, self._steady)

    def _tell_topics(self, shard: Runtime, *, loaded: bool) -> None:
        """Tell a shard that serves from now on which topics there are; what it has loaded may name others."""
        image = self._cluster.image
        shard.step(_topics_of(image))
        if loaded:
            shard.step(TopicsFound({name: topic.id for name, topic in image.topics.items()}))

    def _settings_seen(self) -> SettingsSeen:
        from logd.coordinators.shard import settings_seen

        return settings_seen(self._cluster.settings, self._cluster.image.resource_configs)

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

    def ask(
        self, group_id: str, request: Message, version: int = 0, client_id: str = "", client_host: str = ""
    ) -> Waiter:
        """Put a request for one group to its shard; the answer may be there already.

        :raises Refused: COORDINATOR_LOAD_IN_PROGRESS, NOT_COORDINATOR.
        """
        shard = self._shards.find(group_id)
        waiter = Waiter()
        nameless = isinstance(request, JoinGroupRequest | ConsumerGroupHeartbeatRequest) and not request.member_id
        new_id = self._new_id() if nameless else ""
        shard.step(Asked(waiter, request, version, client_id, client_host, new_id))
        return waiter

    def commit_at_once(self, commit: PlainCommit) -> bool:
        """Commit plain offsets if their group takes them, and nothing has to be waited for.

        :returns: False, and then nothing has changed: :meth:`ask`, which says what is wrong.
        """
        try:
            return self._shards.find(commit.group_id).at_once(commit)
        except Refused:
            return False

    def ask_offsets(self, request: OffsetFetchRequestGroup, require_stable: bool) -> Waiter:
        """Put one group of an OffsetFetch to its shard; raises as :meth:`ask`."""
        shard = self._shards.find(request.group_id)
        waiter = Waiter()
        shard.step(OffsetsAsked(waiter, request, require_stable))
        return waiter

    def ask_pending(self, request: OffsetCommitRequest, producer: tuple[int, int]) -> Waiter:
        """Put the offsets of a transaction to the shard of their group; raises as :meth:`ask`."""
        shard = self._shards.find(request.group_id)
        waiter = Waiter()
        shard.step(PendingAsked(waiter, request, producer))
        return waiter

    def ask_all(self, request: Message, version: int = 0) -> list[Waiter]:
        """Put a request to every shard of this node.

        :raises Refused: COORDINATOR_LOAD_IN_PROGRESS when one of them is not loaded yet.
        """
        waiters = []
        for shard in self._shards.all():
            waiters.append(Waiter())
            shard.step(Asked(waiters[-1], request, version))
        return waiters


def _topics_of(image: Image) -> TopicsSeen:
    return TopicsSeen(image.version, image.topics, image.topics_by_id)
