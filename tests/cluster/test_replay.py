"""Whatever was done to a cluster, reading its store again gives the image that it serves from."""

from __future__ import annotations

import itertools

import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from logd.cluster.alter import Alteration
from logd.cluster.cluster import Cluster, open_cluster
from logd.cluster.controller import NewPartitions, NewTopic
from logd.cluster.image import Broker, Image
from logd.cluster.store import MemoryStore
from logd.config import load
from logd.config.topics import topic_config

NAMES = st.sampled_from(["a", "b", "a.b", "a_b", "/", "__consumer_offsets"])
VALUES = st.sampled_from([("retention.ms", "5"), ("retention.ms", "x"), ("segment.ms", "7"), ("nothing", "1")])
BROKER_VALUES = st.sampled_from([("log.retention.ms", "5"), ("log.roll.ms", "7"), ("num.partitions", "9")])

STEPS = st.one_of(
    st.tuples(st.just("create"), NAMES, st.integers(-1, 4), st.dictionaries(st.just("retention.ms"), st.just("9"))),
    st.tuples(st.just("grow"), NAMES, st.integers(0, 6)),
    st.tuples(st.just("delete"), NAMES),
    st.tuples(st.just("set"), NAMES, VALUES, st.integers(0, 1)),
    st.tuples(st.just("broker"), st.sampled_from(["", "0", "1"]), BROKER_VALUES, st.integers(0, 1)),
    st.tuples(st.just("start"), st.integers(0, 1)),
    st.tuples(st.just("ids")),
)


async def take(cluster: Cluster, step: tuple[object, ...]) -> None:
    """Do one step; what is refused is fine."""
    match step:
        case ("create", str(name), int(count), dict(configs)):
            await cluster.create_topics([NewTopic(name, count, -1, (), configs), NewTopic(name + "x", 1)])
        case ("grow", str(name), int(count)):
            await cluster.create_partitions([NewPartitions(name, count)])
        case ("delete", str(name)):
            topic = cluster.image.topics.get(name)
            await cluster.delete_topics([topic.id if topic is not None else bytes(16)])
        case ("set", str(name), (str(key), str(value)), int(operation)):
            await cluster.alter_configs([Alteration(2, name, [(key, operation, value)])])
        case ("broker", str(name), (str(key), str(value)), int(operation)):
            await cluster.alter_configs([Alteration(4, name, [(key, operation, value)])])
        case ("start", int(broker_id)):
            await cluster.start(Broker(broker_id, "h", 1))
        case _:
            await cluster.next_producer_id()


def check(image: Image, before: Image) -> None:
    """What holds in every image, and between one and the next."""
    assert image.partition_count == sum(len(topic.partitions) for topic in image.topics.values())
    assert {topic.id: topic for topic in image.topics.values()} == dict(image.topics_by_id)
    for topic in image.topics.values():
        assert [partition.index for partition in topic.partitions] == list(range(len(topic.partitions)))
        assert all(partition.leader in partition.isr for partition in topic.partitions)
        assert all(set(partition.isr) <= set(partition.replicas) for partition in topic.partitions)
        old = before.topics_by_id.get(topic.id)
        if old is not None:
            for earlier, later in zip(old.partitions, topic.partitions, strict=False):
                assert later.leader_epoch >= earlier.leader_epoch
                assert later == earlier or later.partition_epoch > earlier.partition_epoch
    assert image.producer_ids_next >= before.producer_ids_next
    assert image.version >= before.version


@settings(max_examples=60, deadline=None)
@given(st.lists(STEPS, max_size=25))
def test_the_store_and_the_image_tell_the_same(steps: list[tuple[object, ...]]) -> None:
    """After each step: invariants hold, and a cluster opened on the same store has the same image and settings."""

    async def run() -> None:
        numbers = itertools.count(1)
        store = MemoryStore()

        async def open_one() -> Cluster:
            return await open_cluster(store, load(), lambda: next(numbers).to_bytes(16, "big"), lambda: "c")

        cluster = await open_one()
        await cluster.start(Broker(0, "h", 1))
        for step in steps:
            before = cluster.image
            await take(cluster, step)
            check(cluster.image, before)
            again = await open_one()
            assert again.image == cluster.image
            assert again.settings == cluster.settings
            for name, topic in cluster.image.topics.items():
                assert cluster.topic_config(name) == topic_config(topic.configs, cluster.settings)

    trio.run(run)
