"""The administrator against real brokers: topics, settings, groups, the cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest
import trio
import trio.testing
from confluent_kafka import Consumer as OtherConsumer
from confluent_kafka import TopicPartition as OtherPartition

from logd.client import Admin, CannotConnect, NewTopic, Producer, Router, TopicPartition
from logd.client.groups import Groups
from logd.client.metadata import Broker, Metadata
from logd.client.transaction_admin import Transactions
from logd.errors import ErrorCode, Refused
from logd.wire.schemas.delete_groups import DeletableGroupResult, DeleteGroupsResponse
from logd.wire.schemas.list_groups import ListedGroup, ListGroupsRequest, ListGroupsResponse
from logd.wire.schemas.list_transactions import ListTransactionsRequest, ListTransactionsResponse, TransactionState

Unique = Callable[[str], str]


def code(outcome: object) -> ErrorCode | None:
    return outcome.code if isinstance(outcome, Refused) else None


@pytest.mark.trio
async def test_the_life_of_a_topic(bootstrap: str, unique: Unique) -> None:
    """Create, list, describe, grow, delete; the second time each is refused with its code."""
    name = unique("life")
    async with Admin(bootstrap) as admin:
        assert await admin.topics.create([NewTopic(name, 2, 1)], validate_only=True) == {name: None}
        assert name not in await admin.topics.list()
        await admin.topics.create_one(NewTopic(name, 2, 1, {"retention.ms": "123"}))
        assert code((await admin.topics.create([NewTopic(name)]))[name]) == ErrorCode.TOPIC_ALREADY_EXISTS
        assert len((await admin.topics.list())[name].partitions) == 2
        assert (await admin.topics.grow({name: 3}))[name] is None
        assert code((await admin.topics.grow({name: 1}))[name]) == ErrorCode.INVALID_PARTITIONS
        info = (await admin.topics.describe([name]))[name]
        assert not isinstance(info, Refused)
        assert list(info.partitions) == [0, 1, 2]
        assert await admin.topics.delete([name]) == {name: None}
        assert code((await admin.topics.delete([name]))[name]) == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
        assert code((await admin.topics.describe([name]))[name]) == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION


@pytest.mark.trio
async def test_one_bad_topic_does_not_stop_the_others(bootstrap: str, unique: Unique) -> None:
    """Each topic has an outcome of its own."""
    good = unique("good")
    async with Admin(bootstrap) as admin:
        outcome = await admin.topics.create([NewTopic("bad name"), NewTopic(good, 1, 1)])
        assert code(outcome["bad name"]) == ErrorCode.INVALID_TOPIC_EXCEPTION
        assert outcome[good] is None


@pytest.mark.trio
async def test_settings_of_a_topic(bootstrap: str, unique: Unique) -> None:
    """A value is set, shown with its source, and given back to its default; a bad one changes nothing."""
    name = unique("settings")
    async with Admin(bootstrap) as admin:
        await admin.topics.create_one(NewTopic(name, 1, 1))
        await admin.configs.alter_topic(name, {"retention.ms": "1000", "cleanup.policy": "compact"})
        found = await admin.configs.of_topic(name, ["retention.ms", "cleanup.policy"])
        assert {key: (item.value, item.source) for key, item in found.items()} == {
            "cleanup.policy": ("compact", "topic"),
            "retention.ms": ("1000", "topic"),
        }
        with pytest.raises(Refused) as caught:
            await admin.configs.alter_topic(name, {"retention.ms": "many"}, ["cleanup.policy"])
        assert caught.value.code == ErrorCode.INVALID_CONFIG
        await admin.configs.alter_topic(name, {}, ["retention.ms"])
        found = await admin.configs.of_topic(name)
        assert (found["retention.ms"].value, found["retention.ms"].source) == ("604800000", "default")
        assert found["cleanup.policy"].value == "compact"


@pytest.mark.trio
async def test_settings_of_a_broker(bootstrap: str) -> None:
    """A broker tells its settings, and that it is who was asked."""
    async with Admin(bootstrap) as admin:
        node = (await admin.cluster()).brokers[0].id
        assert (await admin.configs.of_broker(node))["node.id"].value == str(node)


@pytest.mark.trio
async def test_the_cluster_at_a_glance(bootstrap: str) -> None:
    """Id, controller and brokers are told, at the address that reaches them."""
    async with Admin(bootstrap) as admin:
        found = await admin.cluster()
    assert found.cluster_id
    assert [str(broker.address) for broker in found.brokers] == [bootstrap]
    assert found.controller_id == found.brokers[0].id


@pytest.mark.trio
async def test_sizes_on_disk(bootstrap: str, unique: Unique) -> None:
    """A partition takes at least what was put into it."""
    name = unique("sizes")
    async with Admin(bootstrap) as admin:
        await admin.topics.create_one(NewTopic(name, 1, 1))
        async with Producer(admin.router) as producer:
            await producer.publish(name, b"x" * 10_000)
        assert 10_000 < (await admin.sizes_bytes())[TopicPartition(name, 0)] < 20_000


@pytest.mark.trio
async def test_a_group_with_a_member(bootstrap: str, unique: Unique) -> None:
    """A consumer of another library shows as a member with its partitions and its committed offsets."""
    name, group = unique("topic"), unique("group")
    async with Admin(bootstrap) as admin:
        await admin.topics.create_one(NewTopic(name, 2, 1))
        async with Producer(admin.router) as producer:
            for index in (0, 1):
                await producer.publish(name, b"v", partition=index)
        settings = {"bootstrap.servers": bootstrap, "group.id": group, "auto.offset.reset": "earliest"}
        other = OtherConsumer({**settings, "client.id": "other", "enable.auto.commit": False})
        try:
            other.subscribe([name])
            assert len(other.consume(2, timeout=30)) == 2
            other.commit(offsets=[OtherPartition(name, 0, 1)], asynchronous=False)
            found = await admin.groups.describe(group)
            assert (found.group, found.type, found.state, found.assignor) == (group, "classic", "Stable", "range")
            assert [member.client_id for member in found.members] == ["other"]
            assert set(found.members[0].partitions) == {TopicPartition(name, 0), TopicPartition(name, 1)}
            assert await admin.groups.committed(group) == {TopicPartition(name, 0): 1}
            assert code((await admin.groups.delete([group]))[group]) == ErrorCode.NON_EMPTY_GROUP
        finally:
            other.close()
        listed = {item.group: item for item in await admin.groups.list()}
        assert (listed[group].state, listed[group].protocol) == ("Empty", "consumer")
        assert await admin.groups.delete([group]) == {group: None}
        with pytest.raises(Refused) as caught:
            await admin.groups.describe(group)
        assert caught.value.code == ErrorCode.GROUP_ID_NOT_FOUND


class Starting(Router):
    """A router to a server that has just begun: its coordinator answers so once, and then that all is well."""

    def __init__(self) -> None:
        super().__init__("127.0.0.1:1")
        self.metadata = Metadata(brokers={0: Broker(0, self.bootstrap[0], None)})
        self.code = int(ErrorCode.COORDINATOR_LOAD_IN_PROGRESS)

    async def refresh(self, topics: Iterable[str] | None = None, *, create: bool = False) -> Metadata:
        await trio.lowlevel.checkpoint()
        return self.metadata

    async def coordinator(self, name: str, kind: int = 0) -> int:
        await trio.lowlevel.checkpoint()
        return 0

    async def ask(self, call: object, request: Any, kind: object, *, node: int = -1) -> Any:
        await trio.lowlevel.checkpoint()
        code, self.code = self.code, 0
        if isinstance(request, ListGroupsRequest):
            return ListGroupsResponse(error_code=code, groups=[] if code else [ListedGroup("g", "consumer")])
        if isinstance(request, ListTransactionsRequest):
            return ListTransactionsResponse(error_code=code, transaction_states=[] if code else [TransactionState("x")])
        return DeleteGroupsResponse(results=[DeletableGroupResult("g", code)])


@pytest.mark.trio
async def test_groups_of_a_server_that_has_just_begun(autojump_clock: trio.testing.MockClock) -> None:
    """They are listed and deleted as soon as its coordinator has loaded them, and transactions are listed."""
    assert [item.group for item in await Groups(Starting()).list()] == ["g"]
    assert await Groups(Starting()).delete(["g"]) == {"g": None}
    assert [item.transactional_id for item in await Transactions(Starting()).list()] == ["x"]


@pytest.mark.trio
async def test_nobody_to_ask() -> None:
    """With no server at any address the error names them all, and comes at once."""
    with pytest.raises(CannotConnect, match=r"127\.0\.0\.1:1: .*127\.0\.0\.1:2: "):
        async with Admin("127.0.0.1:1,127.0.0.1:2") as admin:
            await admin.topics.list()
