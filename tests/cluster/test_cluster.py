"""The front: one change after another, listeners told before the answer, everything there after a restart."""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path

import pytest
import trio

from logd.cluster.alter import Alteration
from logd.cluster.cluster import Cluster, open_cluster
from logd.cluster.controller import NewPartitions, NewTopic
from logd.cluster.image import Broker, Image, Topic
from logd.cluster.store import MemoryStore, StoreUnusable, Transaction
from logd.config import load
from logd.errors import ErrorCode, Refused, StorageFailed
from tests.cluster.conftest import NewCluster, OpenStore

pytestmark = pytest.mark.trio


async def test_listeners_have_heard_before_the_answer(new_cluster: NewCluster) -> None:
    """When create_topics returns, every listener has finished with the new image; each gets old and new in order."""
    cluster = await new_cluster()
    heard: list[tuple[set[str], set[str]]] = []

    async def listener(old: Image, new: Image) -> None:
        await trio.lowlevel.checkpoint()
        heard.append((set(old.topics), set(new.topics)))

    cluster.listeners.append(listener)
    (topic,) = await cluster.create_topics([NewTopic("a", 1)])
    assert isinstance(topic, Topic)
    assert heard == [(set(), {"a"})]
    async with trio.open_nursery() as nursery:
        for name in ("b", "c"):
            nursery.start_soon(cluster.create_topics, [NewTopic(name, 1)])
    await cluster.delete_topics([topic.id])
    assert len(heard) == 4
    assert all(before[1] == after[0] for before, after in pairwise(heard))
    assert heard[-1][1] == {"b", "c"}


async def test_validate_only_changes_nothing(new_cluster: NewCluster) -> None:
    """The answers are as they would be; image, store and listeners see nothing."""
    cluster = await new_cluster()
    before = cluster.image
    assert isinstance((await cluster.create_topics([NewTopic("a", 2)], validate_only=True))[0], Topic)
    assert isinstance((await cluster.create_partitions([NewPartitions("a", 2)], validate_only=True))[0], Refused)
    assert await cluster.alter_configs([Alteration(4, "", [("log.retention.ms", 0, "5")])], True) == [None]
    assert cluster.image is before
    assert (await cluster.store.read()).version == before.version


async def test_everything_is_there_after_a_restart(new_cluster: NewCluster) -> None:
    """Topics, configs, settings, ids and the cluster id come back; leader epochs have gone up by one."""
    first = await new_cluster()
    await first.create_topics([NewTopic("t", 3, 1, (), {"retention.ms": "5"}), NewTopic("gone", 1)])
    await first.delete_topics([first.image.topics["gone"].id])
    await first.alter_configs(
        [Alteration(4, "", [("log.roll.ms", 0, "7")]), Alteration(4, "0", [("message.max.bytes", 0, "9")])]
    )
    assert await first.next_producer_id() == 0
    second = await new_cluster()
    assert second.image.cluster_id == "cluster-one"
    assert list(second.image.topics) == ["t"]
    old, new = first.image.topics["t"], second.image.topics["t"]
    assert (new.id, new.configs) == (old.id, old.configs)
    assert [p.leader_epoch for p in new.partitions] == [p.leader_epoch + 1 for p in old.partitions]
    assert (second.settings.log_roll_ms, second.settings.message_max_bytes) == (7, 9)
    assert await second.next_producer_id() >= 1
    assert second.image.brokers[0].epoch == 2


async def test_a_start_is_one_transaction(new_cluster: NewCluster) -> None:
    """However many partitions are led, their epochs go up at one version."""
    first = await new_cluster()
    await first.create_topics([NewTopic(f"t{number}", 5) for number in range(20)])
    second = await new_cluster(started=False)
    version = second.image.version
    await second.start(Broker(0))
    assert second.image.version == version + 1
    assert {p.leader_epoch for topic in second.image.topics.values() for p in topic.partitions} == {1}


async def test_producer_ids_are_never_given_twice(new_cluster: NewCluster) -> None:
    """Not by one node, not by two, not after a restart."""
    one, two = await new_cluster(), await new_cluster()
    given: list[int] = []

    async def take(cluster: Cluster) -> None:
        for _ in range(1500):
            given.append(await cluster.next_producer_id())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(take, one)
        nursery.start_soon(take, two)
    given.append(await (await new_cluster()).next_producer_id())
    assert len(set(given)) == len(given)
    assert len(await one.allocate_producer_ids(10)) == 10


async def test_ensure_topic_makes_it_once(new_cluster: NewCluster) -> None:
    """Many who want the same topic at once all get the one that is made."""
    cluster = await new_cluster()
    got: list[Topic] = []

    async def want() -> None:
        got.append(await cluster.ensure_topic("t", num_partitions=2, configs={"cleanup.policy": "compact"}))

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(want)
    assert {topic.id for topic in got} == {cluster.image.topics["t"].id}
    assert len(got[0].partitions) == 2
    with pytest.raises(Refused) as caught:
        await cluster.ensure_topic("a/b")
    assert caught.value.code is ErrorCode.INVALID_TOPIC_EXCEPTION


async def test_another_nodes_change_is_followed_and_never_overwritten(new_cluster: NewCluster) -> None:
    """A write that met another's is decided again on what is there now; watch() brings the rest."""
    one, two = await new_cluster(), await new_cluster()
    await two.create_topics([NewTopic("t", 1)])
    (again,) = await one.create_topics([NewTopic("t", 1)])
    assert isinstance(again, Refused)
    assert again.code is ErrorCode.TOPIC_ALREADY_EXISTS
    heard = trio.Event()

    async def listener(old: Image, new: Image) -> None:
        if "u" in new.topics:
            heard.set()

    one.listeners.append(listener)
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one.watch)
            await two.create_topics([NewTopic("u", 1)])
            await heard.wait()
            nursery.cancel_scope.cancel()
    assert one.image.topics["u"] == two.image.topics["u"]


async def test_topic_settings_follow_topic_and_broker(new_cluster: NewCluster) -> None:
    """A topic's settings change with its own configs and with the broker's dynamic ones."""
    cluster = await new_cluster()
    await cluster.create_topics([NewTopic("t", 1), NewTopic("u", 1, 1, (), {"retention.ms": "9"})])
    assert cluster.topic_config("t") is cluster.topic_config("t")
    await cluster.alter_configs([Alteration(4, "", [("log.retention.ms", 0, "5")])])
    assert [cluster.topic_config(name).retention_ms for name in ("t", "u", "absent")] == [5, 9, 5]
    await cluster.alter_configs([Alteration(4, "0", [("log.retention.ms", 0, "6")])])
    await cluster.alter_configs([Alteration(2, "u", [("retention.ms", 1, None)])])
    assert [cluster.topic_config(name).retention_ms for name in ("t", "u")] == [6, 6]
    await cluster.alter_configs([Alteration(4, "0", []), Alteration(4, "", [], replace=True)])
    assert cluster.topic_config("t").retention_ms == 6
    await cluster.alter_configs([Alteration(4, "0", [], replace=True)])
    assert cluster.topic_config("t").retention_ms == 604_800_000


async def test_a_cancelled_caller_leaves_image_and_store_in_step(new_cluster: NewCluster) -> None:
    """Once a commit has begun it is finished, and the listeners hear of it."""
    cluster = await new_cluster()
    with trio.CancelScope() as scope:

        async def listener(old: Image, new: Image) -> None:
            scope.cancel()
            await trio.lowlevel.checkpoint()

        cluster.listeners.append(listener)
        await cluster.create_topics([NewTopic("t", 1)])
        await trio.lowlevel.checkpoint()
    assert scope.cancelled_caught
    assert "t" in cluster.image.topics
    assert (await cluster.store.read()).version == cluster.image.version


async def test_a_store_of_a_newer_logd_is_refused(open_store: OpenStore) -> None:
    """The sentence says which format it has and what to do."""
    store = await open_store()
    await store.commit(Transaction(puts={"format": b"2"}))
    with pytest.raises(StoreUnusable, match=r"format 2 .* reads format 1"):
        await open_cluster(store, load(), lambda: os.urandom(16), lambda: "x")


async def test_a_value_that_can_not_be_read_is_told(open_store: OpenStore) -> None:
    """A damaged topic ends the start with its key, instead of a topic that is silently gone."""
    store = await open_store()
    await store.commit(Transaction(puts={"format": b"1", "topics/t": b'{"name": 5}'}))
    with pytest.raises(StoreUnusable, match="topics/t"):
        await open_cluster(store, load(), lambda: os.urandom(16), lambda: "x")


async def test_a_store_of_another_node_is_refused(new_cluster: NewCluster, open_store: OpenStore) -> None:
    """A node that comes back under another id would lead nothing of what it has: it is told its id."""
    await new_cluster()
    other = load(sets=["node.id=3"])
    with pytest.raises(StoreUnusable, match=r"belongs to node 0 and this is node 3; start it with --node-id 0"):
        await open_cluster(await open_store(), other, lambda: os.urandom(16), lambda: "x")
    joined = await open_cluster(await open_store(), other, lambda: os.urandom(16), lambda: "x", joining=True)
    await joined.start(Broker(3))
    assert sorted(joined.image.brokers) == [0, 3]


class FailingStore(MemoryStore):
    """A store whose disk is full."""

    full = False

    async def commit(self, transaction: Transaction) -> int:
        if self.full:
            raise StorageFailed("metadata.db", OSError(28, "No space left on device"))
        return await super().commit(transaction)


async def test_a_store_that_can_not_write_refuses_and_changes_nothing(tmp_path: Path) -> None:
    """KAFKA_STORAGE_ERROR, the image as before; with room again it goes on."""
    store = FailingStore()
    cluster = await open_cluster(store, load(), lambda: os.urandom(16), lambda: "x")
    await cluster.start(Broker(0))
    before = cluster.image
    store.full = True
    with pytest.raises(Refused, match="No space left") as caught:
        await cluster.create_topics([NewTopic("t", 1)])
    assert caught.value.code is ErrorCode.KAFKA_STORAGE_ERROR
    assert cluster.image is before
    store.full = False
    assert isinstance((await cluster.create_topics([NewTopic("t", 1)]))[0], Topic)
