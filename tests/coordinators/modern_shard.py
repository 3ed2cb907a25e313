"""A shard of groups of the consumer protocol without loop, clock or disk, with members that behave.

Used by the transcripts, the table of states and the stateful test. :class:`Client` keeps what a real consumer keeps:
its epoch and what it was given; it gives up what it must and says so with its next heartbeat.
"""

from __future__ import annotations

from typing import Any

from logd.cluster.image import PartitionState, Topic
from logd.coordinators.effects import Effect
from logd.coordinators.events import Asked, TopicsSeen
from logd.coordinators.machine import ShardMachine
from logd.coordinators.modern_groups import ModernLimits
from logd.coordinators.rebalance import GroupLimits
from logd.coordinators.records import from_bytes
from logd.errors import ErrorCode, Refused
from logd.wire.schemas.consumer_group_heartbeat import (
    ConsumerGroupHeartbeatRequest,
    ConsumerGroupHeartbeatRequestTopicPartitions,
    ConsumerGroupHeartbeatResponse,
)
from tests.coordinators.shard import Shard

MODERN = ModernLimits(session_ms=10_000, heartbeat_ms=1_000, size_max=5)


def topic_id(name: str) -> bytes:
    return name.encode().ljust(16, b"-")


class ModernShard(Shard):
    """Both machines over one log, and topics that come, grow and go."""

    def __init__(self, limits: GroupLimits | None = None, modern: ModernLimits = MODERN, **topics: int) -> None:
        super().__init__(limits)
        self.modern_limits = modern
        self.machine: Any = ShardMachine(self.limits, modern)
        self.topics = topics
        self.version = 0
        self.calls = 0
        self.machine.loaded(0)
        self.tell()

    def tell(self, **topics: int) -> list[Effect]:
        """Topics by name with the number of their partitions; 0 deletes."""
        self.topics = {name: count for name, count in (self.topics | topics).items() if count}
        self.version += 1
        found = {
            name: Topic(name, topic_id(name), tuple(PartitionState(index, 0, 0, (0,), (0,)) for index in range(count)))
            for name, count in self.topics.items()
        }
        return self.step(TopicsSeen(self.version, found, {topic.id: topic for topic in found.values()}))

    def replayed(self) -> Any:
        """A machine that has seen nothing but the log."""
        machine = ShardMachine(self.limits, self.modern_limits)
        for offset, (key, value) in enumerate(self.log):
            record = from_bytes(key, value)
            assert record is not None
            machine.replay(offset, None, record)
        return machine

    def compacted(self) -> Any:
        """The same from the last record of each key, as the loader reads an old log."""
        last: dict[bytes, tuple[int, bytes | None]] = {}
        for offset, (key, value) in enumerate(self.log):
            last.pop(key, None)
            last[key] = (offset, value)
        machine = ShardMachine(self.limits, self.modern_limits)
        for key, (offset, value) in last.items():
            record = from_bytes(key, value)
            assert record is not None
            machine.replay(offset, None, record)
        return machine

    def reload(self) -> list[Effect]:
        effects = super().reload()
        return effects + self.tell()

    def request(self, request: Any, version: int = 1) -> Any:
        """Ask and return the answer at once; a refusal is returned, not raised."""
        self.calls += 1
        self.step(Asked(str(self.calls), request, version, "c", "/127.0.0.1", f"made-{self.calls}"))
        return self.answers[str(self.calls)]

    def beat(self, member: str, epoch: int, group: str = "g", version: int = 1, **fields: Any) -> Any:
        """One heartbeat; a join names topic `t` and all that a join must, unless told otherwise."""
        if epoch == 0:
            fields = {"rebalance_timeout_ms": 5_000, "topic_partitions": [], **fields}
            if "subscribed_topic_regex" not in fields:
                fields.setdefault("subscribed_topic_names", ["t"])
        return self.request(ConsumerGroupHeartbeatRequest(group, member, epoch, **fields), version)

    def code(self, member: str, epoch: int, group: str = "g", version: int = 1, **fields: Any) -> ErrorCode:
        """The error code that a heartbeat is answered with."""
        answer = self.beat(member, epoch, group, version, **fields)
        return answer.code if isinstance(answer, Refused) else ErrorCode.NONE


def owned(**partitions: list[int]) -> list[ConsumerGroupHeartbeatRequestTopicPartitions]:
    """What a member says it has, by topic name."""
    return [
        ConsumerGroupHeartbeatRequestTopicPartitions(topic_id(name), indexes) for name, indexes in partitions.items()
    ]


class Client:
    """A consumer that does as it is told."""

    def __init__(
        self, shard: ModernShard, member_id: str, *, group: str = "g", instance: str | None = None, **wishes: Any
    ) -> None:
        self.shard = shard
        self.member_id = member_id
        self.group = group
        self.instance = instance
        self.wishes = wishes
        self.epoch = 0
        self.has: dict[bytes, set[int]] = {}
        self.slow = False
        self.lost = False
        self.said: dict[str, Any] = {}

    def beat(self) -> ErrorCode:
        """One heartbeat, and what follows from its answer."""
        fields = {"rebalance_timeout_ms": 5_000, **self.wishes} if self.epoch == 0 or self.lost else {}
        if self.epoch and (self.lost or not self.slow):
            fields["topic_partitions"] = [
                ConsumerGroupHeartbeatRequestTopicPartitions(each, sorted(self.has[each])) for each in sorted(self.has)
            ]
        self.said = {"epoch": self.epoch, "instance_id": self.instance, **fields}
        answer = self.shard.beat(self.member_id, group=self.group, **self.said)
        if isinstance(answer, Refused):
            if answer.code in (
                ErrorCode.FENCED_MEMBER_EPOCH,
                ErrorCode.UNKNOWN_MEMBER_ID,
                ErrorCode.GROUP_ID_NOT_FOUND,
            ):
                self.epoch, self.has = 0, {}
            return answer.code
        self.lost = False
        self.take(answer)
        return ErrorCode.NONE

    def repeat(self) -> None:
        """Its last heartbeat comes once more; whom it was to is not there any more to hear the answer."""
        if self.said:
            self.shard.beat(self.member_id, group=self.group, **self.said)

    def restart(self) -> ErrorCode:
        """It dies and comes back under its own id, with nothing."""
        self.epoch, self.has, self.lost = 0, {}, False
        return self.beat()

    def take(self, answer: ConsumerGroupHeartbeatResponse) -> None:
        """Follow an answer."""
        self.epoch = answer.member_epoch
        if answer.assignment is not None:
            self.has = {each.topic_id: set(each.partitions) for each in answer.assignment.topic_partitions}

    def places(self) -> set[tuple[bytes, int]]:
        return {(topic, index) for topic, indexes in self.has.items() for index in indexes}


def settle(*clients: Client, rounds: int = 20) -> None:
    """Heartbeats in turn until nothing changes any more."""
    for _ in range(rounds):
        for client in clients:
            client.beat()
