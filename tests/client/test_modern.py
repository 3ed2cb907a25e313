"""A member of the consumer protocol on its own: what it makes of what the server says."""

from __future__ import annotations

from collections.abc import Collection

import pytest
import trio
import trio.testing

from logd.client.membership import Owner
from logd.client.metadata import TopicPartition
from logd.client.modern import TRIES_FOR_NAMES, ModernMember
from logd.client.routing import Router
from logd.client.settings import GroupSettings
from logd.wire.schemas.consumer_group_heartbeat import Assignment, ConsumerGroupHeartbeatResponseTopicPartitions

OLD, NEW = b"o" * 16, b"n" * 16


class Reads(Owner):
    """An owner that reads whatever it is given."""

    def __init__(self) -> None:
        self.partitions: set[TopicPartition] = set()

    def owned(self) -> set[TopicPartition]:
        return set(self.partitions)

    async def assign(self, partitions: Collection[TopicPartition]) -> None:
        self.partitions |= set(partitions)
        await trio.lowlevel.checkpoint()


@pytest.mark.trio
async def test_a_topic_that_this_broker_has_not_heard_of(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    """It is looked for again, since the coordinator, which knows it already, will not name it a second time."""
    owner, asked = Reads(), 0
    member = ModernMember(Router("127.0.0.1:1"), owner, "g", ["old", "new"], GroupSettings())

    async def names(_ids: list[bytes]) -> dict[bytes, str]:
        nonlocal asked
        asked += 1
        await trio.lowlevel.checkpoint()
        return {OLD: "old"} | ({NEW: "new"} if asked > 3 * TRIES_FOR_NAMES else {})

    monkeypatch.setattr(member, "_names", names)
    member._target = Assignment([ConsumerGroupHeartbeatResponseTopicPartitions(one, [0]) for one in (OLD, NEW)])
    member._targeted.set()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(member._reconcile)
        while len(owner.partitions) < 2:
            await trio.sleep(0.1)
            assert trio.current_time() < 60, "it gave up"
        nursery.cancel_scope.cancel()
    assert owner.partitions == {TopicPartition("old", 0), TopicPartition("new", 0)}
