"""Names may have 32 KiB, and a sweep many of them: what is to be forgotten goes in batches that a log takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from logd.config import TopicConfig
from logd.coordinators.effects import Append, Effect
from logd.coordinators.events import TopicsDeleted, TopicsFound
from logd.coordinators.rebalance import GroupLimits
from logd.coordinators.records import to_bytes
from logd.coordinators.transaction_records import to_bytes as transaction_bytes
from logd.coordinators.transactions import TransactionLimits
from logd.wire.batches import build_keyed_batch
from tests.coordinators.modern_shard import ModernShard
from tests.coordinators.shard import Shard
from tests.coordinators.transaction_story import Story

LONG = 4000
COUNT = 400
LIMITS = GroupLimits(retention_ms=50_000, sweep_every_ms=20_000)


class Narrow:
    """Refuses what is larger than a batch of an internal topic may be; goes before a shard."""

    failing: bool
    write: Any = staticmethod(to_bytes)

    def _carry_out(self, effects: Sequence[Effect]) -> list[Effect]:
        records = [record for effect in effects if isinstance(effect, Append) for record in effect.records]
        batch = build_keyed_batch([self.write(record) for record in records], 0) if records else b""
        self.failing = len(batch) > TopicConfig().max_message_bytes
        done: list[Effect] = super()._carry_out(effects)  # type: ignore[misc]
        return done


class NarrowShard(Narrow, Shard):
    pass


class NarrowModern(Narrow, ModernShard):
    pass


class NarrowStory(Narrow, Story):
    write = staticmethod(transaction_bytes)


def commit(shard: Shard, group: str, *, first: int = 0) -> None:
    """As many offsets as a group has partitions, some of them at a time."""
    for start in range(first, first + COUNT, 100):
        shard.commit(f"{group[0]} {start}", "", -1, {("t", at): 1 for at in range(start, start + 100)}, group)


def test_offsets_and_groups_expire() -> None:
    """The offsets of one group with a long name, then it and the others."""
    shard = NarrowShard(LIMITS)
    shard.reload()
    names = [letter * LONG for letter in "abc"]
    for name in names:
        commit(shard, name)
    assert len(shard.machine.offsets.groups) == len(names)
    shard.advance(100_000)
    assert not shard.machine.offsets.groups
    assert not shard.machine.groups
    assert not shard.machine.stored


@pytest.mark.parametrize("found", [False, True])
def test_offsets_of_a_topic_that_is_gone(found: bool) -> None:
    """They go with it, however long the names of their groups."""
    shard = NarrowShard(LIMITS)
    commit(shard, "g" * LONG)
    shard.step(TopicsFound({}) if found else TopicsDeleted(frozenset({"t"})))
    shard.advance(10_000)
    assert not shard.machine.offsets.groups


def test_offsets_of_a_group_of_the_consumer_protocol_expire() -> None:
    """They do so soon one after the other, beside those of a classic one."""
    shard = NarrowModern(LIMITS, u=1)
    shard.reload()
    name = "m" * LONG
    assert shard.code("m1", 0, name, subscribed_topic_names=["u"]) == 0
    assert shard.code("m1", -1, name) == 0
    for start in range(0, COUNT, 100):
        key = f"{start}"
        shard.commit(key, "", -1, {("t", at): 1 for at in range(start, start + 100)}, name, version=9)
    commit(shard, "c" * LONG)
    assert len(shard.machine.classic.offsets.groups) == 2
    shard.advance(75_000)
    assert not shard.machine.classic.offsets.groups
    assert not shard.machine.modern.groups
    assert not shard.machine.classic.groups


def test_transactional_ids_expire() -> None:
    """All of those that nobody uses any more."""
    story = NarrowStory(TransactionLimits(expiration_ms=100_000, sweep_every_ms=50_000))
    story.reload()
    for number in range(COUNT):
        story.init(f"{number}", f"{number:0{LONG}}")
    assert len(story.machine.transactions) == COUNT
    story.advance(200_000)
    assert not story.machine.transactions
