"""A group whose members come and go at random, by each protocol and by both at once: no record is left out."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest
import trio

from logd.client import Consumer, GroupSettings, Producer
from logd.testing import Broker
from tests.client.test_groups import pytestmark
from tests.client.test_producer import new_topic

__all__ = ["pytestmark"]
Unique = Callable[[str], str]
CHANGES = 25
PARTITIONS = 4
MEMBERS_MAX = 5


class Churn:
    """One group over one topic. `seen` counts how often each record was read, by its number."""

    def __init__(self, bootstrap: str, topic: str, protocols: list[str], seed: int) -> None:
        self.seen: dict[int, int] = {}
        self.sent = 0
        self._bootstrap = bootstrap
        self._topic = topic
        self._protocols = protocols
        self._random = Random(seed)
        self._more = trio.Event()

    async def run(self) -> None:
        """Produce while members come and go; return when the last one has read what was missing."""
        async with trio.open_nursery() as nursery:
            over, all_sent = trio.Event(), trio.Event()
            nursery.start_soon(self._produce, over, all_sent)
            alive: list[trio.CancelScope] = []
            for _ in range(CHANGES):
                if len(alive) < 2 or (len(alive) < MEMBERS_MAX and self._random.random() < 0.5):
                    alive.append(await nursery.start(self._member))
                else:
                    alive.pop(self._random.randrange(len(alive))).cancel()
                await trio.sleep(self._random.uniform(0, 0.05))
            over.set()
            while not all_sent.is_set() or len(self.seen) < self.sent:
                await self._more.wait()
                self._more = trio.Event()
            nursery.cancel_scope.cancel()

    async def _produce(self, over: trio.Event, all_sent: trio.Event) -> None:
        """The last record may be read before its answer is here: only `all_sent` says that `sent` is final."""
        async with Producer(self._bootstrap) as producer:
            while not over.is_set():
                await producer.publish(self._topic, b"%d" % self.sent, partition=self.sent % PARTITIONS)
                self.sent += 1
                self._more.set()
        all_sent.set()
        self._more.set()

    async def _member(self, task_status: trio.TaskStatus[trio.CancelScope]) -> None:
        settings = GroupSettings(
            protocol=self._random.choice(self._protocols),
            assignors=("cooperative-sticky",),
            heartbeat_ms=30,
            auto_commit_ms=20,
        )
        with trio.CancelScope() as scope:
            async with Consumer(self._bootstrap, self._topic, group=self._topic, membership=settings) as consumer:
                task_status.started(scope)
                async for record in consumer:
                    if self._random.random() < 0.02:
                        await trio.sleep(self._random.uniform(0, 0.02))
                    number = int(record.value or b"")
                    self.seen[number] = self.seen.get(number, 0) + 1
                    self._more.set()


@pytest.mark.trio
@pytest.mark.parametrize("protocols", [["classic"], ["consumer"], ["classic", "consumer"]])
async def test_no_record_is_left_out(logd_broker: Broker, unique: Unique, protocols: list[str]) -> None:
    """Every record is read at least once, and nearly all only once: who is cancelled has committed what it did."""
    topic = await new_topic(logd_broker.bootstrap, unique("churn"), PARTITIONS)
    churn = Churn(logd_broker.bootstrap, topic, protocols, seed=len(protocols))
    await churn.run()
    assert sorted(churn.seen) == list(range(churn.sent))
    assert sum(times - 1 for times in churn.seen.values()) <= CHANGES * MEMBERS_MAX
