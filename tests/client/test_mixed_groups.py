"""Our consumers and those of another library in one group, by each protocol and strategy, whoever leads."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import trio
from confluent_kafka import Consumer as Other

from logd.client import Consumer, GroupSettings, TopicPartition
from logd.testing import Broker
from tests.client.test_groups import filled, pytestmark, read_on

Unique = Callable[[str], str]
__all__ = ["pytestmark"]
KINDS = [("classic", "range"), ("classic", "roundrobin"), ("classic", "cooperative-sticky"), ("consumer", "")]


async def poll(other: Other, until: Callable[[], bool]) -> None:
    """Let the other library's consumer do its work, in a thread, until something is so."""
    while not until():
        await trio.to_thread.run_sync(other.poll, 0.02)


def share_of(other: Other) -> set[TopicPartition]:
    return {TopicPartition(at.topic, at.partition) for at in other.assignment()}


@pytest.mark.trio
@pytest.mark.parametrize(("protocol", "strategy"), KINDS)
@pytest.mark.parametrize("we_come_first", [True, False])
async def test_a_group_of_two_libraries(
    logd_broker: Broker, unique: Unique, protocol: str, strategy: str, we_come_first: bool
) -> None:
    """Each has half of the partitions, and the one that is left has them all."""
    bootstrap = logd_broker.bootstrap
    topic = await filled(bootstrap, unique("mixed"), 0, 4)
    every = {TopicPartition(topic, index) for index in range(4)}
    config = {"bootstrap.servers": bootstrap, "group.id": unique("g"), "group.protocol": protocol}
    if strategy:
        config |= {"partition.assignment.strategy": strategy, "heartbeat.interval.ms": "50"}
    assignors = (strategy,) if strategy else ("range",)
    settings = GroupSettings(protocol=protocol, assignors=assignors, heartbeat_ms=50)
    other = Other(config)
    try:
        if not we_come_first:
            other.subscribe([topic])
            await poll(other, lambda: share_of(other) == every)
        async with (
            Consumer(bootstrap, topic, group=config["group.id"], membership=settings) as consumer,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(read_on, consumer)
            if we_come_first:
                while set(consumer.assignment) != every:
                    await trio.lowlevel.checkpoint()
                other.subscribe([topic])

            def halves() -> bool:
                ours, theirs = set(consumer.assignment), share_of(other)
                return len(ours) == len(theirs) == 2 and ours | theirs == every

            await poll(other, halves)
            nursery.cancel_scope.cancel()
        await poll(other, lambda: share_of(other) == every)
    finally:
        await trio.to_thread.run_sync(other.close)
