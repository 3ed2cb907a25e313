"""Consumers as members of groups, by both protocols, against logd and Apache Kafka."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import pytest
import trio
import trio.testing

from logd.client import (
    Admin,
    ClientSettings,
    CommitFailed,
    Consumer,
    ConsumerSettings,
    GroupSettings,
    Producer,
    Router,
    TopicPartition,
)
from logd.client.group_offsets import Commit
from logd.errors import ErrorCode, Refused
from logd.testing import Broker
from tests.client.test_consumer import filled as in_batches_of_one
from tests.client.test_producer import new_topic

Unique = Callable[[str], str]
pytestmark = pytest.mark.logd(
    settings={"group.consumer.heartbeat.interval.ms": 100, "group.consumer.min.heartbeat.interval.ms": 100}
)
PROTOCOLS = pytest.mark.parametrize("protocol", ["classic", "consumer"])


async def filled(bootstrap: str, name: str, count: int = 10, partitions: int = 1) -> str:
    """A topic with the values 0, 1, ..., in turns over its partitions."""
    await new_topic(bootstrap, name, partitions)
    async with Producer(bootstrap) as producer:
        for number in range(count):
            await producer.send(name, b"%d" % number, partition=number % partitions)
    return name


def member(bootstrap: str, topic: str, group: str, protocol: str, **more: object) -> Consumer:
    """A consumer in a group; `more` are settings of its membership."""
    return Consumer(bootstrap, topic, group=group, membership=GroupSettings(protocol=protocol, **more))  # type: ignore[arg-type]


async def values(consumer: Consumer, count: int) -> list[int]:
    """The next values that a consumer gets."""
    return [int((await anext(consumer)).value or b"") for _ in range(count)]


@pytest.mark.trio
@PROTOCOLS
async def test_a_group_goes_on_where_it_was(bootstrap: str, unique: Unique, protocol: str) -> None:
    """What the program has done is committed when the consumer is closed; the next one begins there."""
    topic, group = await filled(bootstrap, unique("goes-on"), 10), unique("g")
    async with member(bootstrap, topic, group, protocol) as consumer:
        assert await values(consumer, 4) == [0, 1, 2, 3]
    async with member(bootstrap, topic, group, protocol) as consumer:
        assert await values(consumer, 6) == [4, 5, 6, 7, 8, 9]
    async with Admin(bootstrap) as admin:
        assert await admin.groups.committed(group) == {TopicPartition(topic, 0): 10}
        assert (await admin.groups.describe(group)).members == ()


@pytest.mark.trio
@PROTOCOLS
async def test_a_record_in_work_is_not_committed(bootstrap: str, unique: Unique, protocol: str) -> None:
    """A program that fails over a record, or is cancelled, gets it again; all before it is done."""
    topic, group = await filled(bootstrap, unique("in-work"), 10), unique("g")
    with suppress(ZeroDivisionError):
        async with member(bootstrap, topic, group, protocol) as consumer:
            async for record in consumer:
                _ = 1 // (3 - int(record.value or b""))
    with trio.CancelScope() as scope:
        async with member(bootstrap, topic, group, protocol) as consumer:
            assert await values(consumer, 2) == [3, 4]
            scope.cancel()
            await trio.lowlevel.checkpoint()
    async with Admin(bootstrap) as admin:
        assert (await admin.groups.describe(group)).members == ()
    async with member(bootstrap, topic, group, protocol) as consumer:
        assert await values(consumer, 1) == [4]


@pytest.mark.trio
@PROTOCOLS
async def test_two_members_share(bootstrap: str, unique: Unique, protocol: str) -> None:
    """The partitions are spread over the members, and all go to the one that is left."""
    topic, group = await filled(bootstrap, unique("share"), 0, 4), unique("g")
    every = {TopicPartition(topic, index) for index in range(4)}
    seen: list[tuple[int, str, int]] = []
    changed = trio.Condition()

    async def read(number: int, *, task_status: trio.TaskStatus[trio.CancelScope]) -> None:
        async def note(what: str, partitions: list[TopicPartition]) -> None:
            async with changed:
                seen.extend((number, what, at.partition) for at in partitions)
                changed.notify_all()

        with trio.CancelScope() as scope:
            async with Consumer(
                bootstrap,
                topic,
                group=group,
                membership=GroupSettings(protocol=protocol, heartbeat_ms=50),
                on_assigned=lambda partitions: note("+", partitions),
                on_revoked=lambda partitions: note("-", partitions),
            ) as consumer:
                task_status.started(scope)
                async for _ in consumer:
                    pass

    def owned(number: int) -> set[TopicPartition]:
        now: set[TopicPartition] = set()
        for who, what, index in seen:
            if who == number:
                (now.add if what == "+" else now.discard)(TopicPartition(topic, index))
        return now

    async def until(condition: Callable[[], bool]) -> None:
        async with changed:
            while not condition():
                await changed.wait()

    async with trio.open_nursery() as nursery:
        first = await nursery.start(read, 1)
        await until(lambda: owned(1) == every)
        second = await nursery.start(read, 2)
        await until(lambda: len(owned(1)) == len(owned(2)) == 2 and owned(1) | owned(2) == every)
        first.cancel()
        await until(lambda: owned(2) == every)
        second.cancel()


@pytest.mark.trio
@PROTOCOLS
async def test_committing_by_hand(bootstrap: str, unique: Unique, protocol: str) -> None:
    """With auto_commit_ms 0 nothing is committed but what the program commits: all it was given, or what it names."""
    topic, group = await filled(bootstrap, unique("by-hand"), 10), unique("g")
    at = TopicPartition(topic, 0)
    async with member(bootstrap, topic, group, protocol, auto_commit_ms=0) as consumer:
        await values(consumer, 3)
        assert await consumer.committed() == {}
        await consumer.commit()
        assert await consumer.committed() == {at: 3}
        await values(consumer, 3)
        await consumer.commit({at: 5})
    async with member(bootstrap, topic, group, protocol) as consumer:
        assert await values(consumer, 1) == [5]
        assert (consumer.assignment, consumer.position(at)) == ([at], 6)


@pytest.mark.trio
async def test_seek_and_pause(bootstrap: str, unique: Unique) -> None:
    """The program is sent where it wants; a paused partition gives nothing until it is resumed, and loses nothing."""
    topic = await filled(bootstrap, unique("seek"), 20, 2)
    first, second = TopicPartition(topic, 0), TopicPartition(topic, 1)
    async with member(bootstrap, topic, unique("g"), "consumer") as consumer:
        await values(consumer, 1)
        while len(consumer.assignment) < 2:
            await trio.lowlevel.checkpoint()
        consumer.pause(second)
        await consumer.seek(first, 7)
        assert await values(consumer, 3) == [14, 16, 18]
        await consumer.seek(second, "start")
        consumer.pause(first)
        await consumer.seek(first, "start")
        assert consumer.paused == [first, second]
        consumer.resume(second)
        assert await values(consumer, 10) == [1, 3, 5, 7, 9, 11, 13, 15, 17, 19]
        consumer.resume()
        assert await values(consumer, 10) == [0, 2, 4, 6, 8, 10, 12, 14, 16, 18]


@pytest.mark.trio
@PROTOCOLS
async def test_a_program_that_stalls_is_out(bootstrap: str, unique: Unique, protocol: str) -> None:
    """After max_poll_interval_ms without a read the member leaves; a commit then says why not; reading joins again."""
    topic, group = await filled(bootstrap, unique("stalls"), 3), unique("g")
    lost = trio.Event()
    async with Consumer(
        bootstrap,
        topic,
        group=group,
        membership=GroupSettings(protocol=protocol, max_poll_interval_ms=200),
        on_lost=lambda _partitions: lost.set(),
    ) as consumer:
        await values(consumer, 2)
        await lost.wait()
        async with Admin(bootstrap) as admin:
            assert (await admin.groups.describe(group)).members == ()
        with pytest.raises(CommitFailed, match="did not read for too long"):
            await consumer.commit({TopicPartition(topic, 0): 2})
        assert await values(consumer, 3) == [0, 1, 2]


@pytest.mark.trio
async def test_where_nothing_is_committed(bootstrap: str, unique: Unique) -> None:
    """A new group begins where `start` says: the end, a time, or nowhere."""
    topic = await filled(bootstrap, unique("start"), 5)
    async with Producer(bootstrap) as producer:
        ready = trio.Event()
        async with Consumer(bootstrap, topic, start="end", group=unique("g"), on_assigned=lambda _: ready.set()) as one:
            await ready.wait()
            await producer.publish(topic, b"5")
            assert await values(one, 1) == [5]
    async with Consumer(bootstrap, topic, start=0, group=unique("g")) as consumer:
        assert await values(consumer, 1) == [0]
    with pytest.raises(Refused, match="no committed offset"):
        async with Consumer(bootstrap, topic, start="error", group=unique("g")) as consumer:
            await read_twice(consumer)


async def read_twice(consumer: Consumer) -> None:
    """What can't be mended is raised each time."""
    with suppress(Refused):
        await anext(consumer)
    await anext(consumer)


@pytest.mark.trio
async def test_a_pattern(bootstrap: str, unique: Unique) -> None:
    """With the consumer protocol a regular expression picks the topics; the classic one says what to do."""
    prefix = unique("pattern")
    names = [await filled(bootstrap, f"{prefix}-{letter}", 1) for letter in "ab"]
    await filled(bootstrap, f"other-{prefix}", 1)
    async with Consumer(bootstrap, pattern=f"{prefix}-.*", group=unique("g")) as consumer:
        assert sorted([(await anext(consumer)).topic for _ in names]) == names
    with pytest.raises(ValueError, match='needs the protocol "consumer"'):
        async with Consumer(bootstrap, pattern="x", group="g", membership=GroupSettings(protocol="classic")):
            pass


@pytest.mark.trio
async def test_auto_joins_a_classic_group(bootstrap: str, unique: Unique) -> None:
    """Beside members of the classic protocol "auto" gets its share too."""
    topic, group = await filled(bootstrap, unique("auto"), 2, 2), unique("g")
    async with member(bootstrap, topic, group, "classic", heartbeat_ms=50) as one:
        await values(one, 2)
        async with member(bootstrap, topic, group, "auto", heartbeat_ms=50) as other, trio.open_nursery() as nursery:
            nursery.start_soon(read_on, one)
            nursery.start_soon(read_on, other)
            while not len(one.assignment) == len(other.assignment) == 1:
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()


async def read_on(consumer: Consumer) -> None:
    async for _ in consumer:
        pass


@pytest.mark.trio
async def test_a_topic_that_is_not_there(bootstrap: str, unique: Unique) -> None:
    """It is refused when the consumer is opened."""
    client = ClientSettings(unknown_topic_timeout_ms=100)
    with pytest.raises(Refused) as caught:
        async with Consumer(bootstrap, unique("absent"), group=unique("g"), client=client):
            pass
    assert caught.value.code == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION


@pytest.mark.trio
@PROTOCOLS
async def test_a_static_member_comes_back(bootstrap: str, unique: Unique, protocol: str) -> None:
    """A member with an instance id keeps its share while it is away for a moment: the other notices nothing."""
    topic, group = await filled(bootstrap, unique("static"), 0, 2), unique("g")
    settings = [GroupSettings(protocol=protocol, heartbeat_ms=50, instance=name) for name in ("one", "two")]
    revoked: list[TopicPartition] = []
    async with (
        Consumer(bootstrap, topic, group=group, membership=settings[0], on_revoked=revoked.extend) as one,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(read_on, one)
        share = await share_beside(one, Consumer(bootstrap, topic, group=group, membership=settings[1]))
        revoked.clear()
        assert await share_beside(one, Consumer(bootstrap, topic, group=group, membership=settings[1])) == share
        assert revoked == []
        nursery.cancel_scope.cancel()


async def share_beside(one: Consumer, other: Consumer) -> list[TopicPartition]:
    """What the other of two consumers reads when each has a partition."""
    async with other, trio.open_nursery() as nursery:
        nursery.start_soon(read_on, other)
        while not len(one.assignment) == len(other.assignment) == 1:
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
        return other.assignment


@pytest.mark.trio
@PROTOCOLS
async def test_an_instance_id_belongs_to_one(bootstrap: str, unique: Unique, protocol: str) -> None:
    """Of two running consumers with one instance id one is told what to do: the earlier by the classic protocol, the
    later by the other."""
    topic, group = await filled(bootstrap, unique("static"), 0), unique("g")
    ready = trio.Event()
    settings = GroupSettings(protocol=protocol, heartbeat_ms=50, instance="one")
    async with Consumer(
        bootstrap, topic, group=group, membership=settings, on_assigned=lambda _partitions: ready.set()
    ) as earlier:
        await ready.wait()
        async with Consumer(bootstrap, topic, group=group, membership=settings) as later:
            with pytest.raises(Refused, match="another"):
                await (earlier if protocol == "classic" else later).read()


@pytest.mark.trio
@PROTOCOLS
@pytest.mark.logd(
    settings={
        "group.min.session.timeout.ms": 100,
        "group.consumer.min.session.timeout.ms": 100,
        "group.consumer.session.timeout.ms": 500,
    }
)
async def test_a_member_that_dies_is_replaced(logd_broker: Broker, unique: Unique, protocol: str) -> None:
    """The partitions of one that ends without a word go to the others after the session timeout; what it had not
    committed is done again."""
    bootstrap = logd_broker.bootstrap
    topic, group = await filled(bootstrap, unique("dies"), 4), unique("g")
    settings = {"heartbeat_ms": 50, "session_timeout_ms": 500, "leave_timeout_ms": 0}
    async with member(bootstrap, topic, group, protocol, **settings) as consumer:
        assert await values(consumer, 2) == [0, 1]
    async with Admin(bootstrap) as admin:
        assert len((await admin.groups.describe(group)).members) == 1
    async with member(bootstrap, topic, group, protocol, **settings) as consumer:
        assert await values(consumer, 4) == [0, 1, 2, 3]


@pytest.mark.trio
async def test_a_topic_that_is_deleted_holds_nothing_up(logd_broker: Broker, unique: Unique) -> None:
    """The member gives its partitions up at once, though their offsets can't be committed any more, and reads on."""
    bootstrap, gone, group = logd_broker.bootstrap, unique("gone"), unique("g")
    stays = await new_topic(bootstrap, unique("stays"))
    await new_topic(bootstrap, gone)
    settings = GroupSettings(protocol="consumer")
    async with (
        Consumer(bootstrap, [gone, stays], group=group, membership=settings) as consumer,
        Admin(bootstrap) as admin,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(read_on, consumer)
        while len(consumer.assignment) < 2:
            await trio.testing.wait_all_tasks_blocked(0.01)
        await admin.topics.delete([gone])
        with trio.fail_after(30):
            while consumer.assignment != [TopicPartition(stays, 0)]:
                await trio.testing.wait_all_tasks_blocked(0.01)
        nursery.cancel_scope.cancel()


@pytest.mark.trio
@PROTOCOLS
async def test_members_that_share_a_router(logd_broker: Broker, unique: Unique, protocol: str) -> None:
    """What one of them waits for at the server, for as long as it takes, keeps no other one waiting: nobody is put
    out, and the connections go with their consumers."""
    topic, group, lost = await filled(logd_broker.bootstrap, unique("router"), 2, 2), unique("g"), list[object]()
    settings = GroupSettings(protocol=protocol, heartbeat_ms=50, session_timeout_ms=6_000)
    async with Router(logd_broker.bootstrap) as router:
        async with (
            Consumer(router, topic, group=group, membership=settings, on_lost=lost.append) as one,
            Consumer(router, topic, group=group, membership=settings, on_lost=lost.append) as two,
            trio.open_nursery() as nursery,
        ):
            for consumer in (one, two):
                nursery.start_soon(read_on, consumer)
            while not (len(one.assignment) == len(two.assignment) == 1):
                await trio.testing.wait_all_tasks_blocked(0.01)
            nursery.cancel_scope.cancel()
        assert lost == []
        assert {purpose for _, purpose in router._connections} == {"ask"}


@pytest.mark.trio
@PROTOCOLS
async def test_a_live_seek_is_followed(logd_broker: Broker, unique: Unique, protocol: str) -> None:
    """When an administrator moves the offsets of the running group, its member goes on from there."""
    bootstrap = logd_broker.bootstrap
    topic, group = await filled(bootstrap, unique("sought"), 10), unique("g")
    async with member(bootstrap, topic, group, protocol, heartbeat_ms=50) as consumer, Admin(bootstrap) as admin:
        assert await values(consumer, 10) == list(range(10))
        await admin.own.seek(group, {TopicPartition(topic, 0): Commit(4)})
        assert await values(consumer, 2) == [4, 5]


@pytest.mark.trio
async def test_a_slow_reader_is_not_overrun(logd_broker: Broker, unique: Unique) -> None:
    """No more is fetched ahead than the settings say, and nothing of it is lost."""
    bootstrap = logd_broker.bootstrap
    topic = await in_batches_of_one(bootstrap, unique("slow"), 50)
    settings = ConsumerSettings(chunks_max=1, partition_bytes_max=1)
    async with Consumer(bootstrap, topic, group=unique("g"), settings=settings) as consumer:
        assert await values(consumer, 1) == [0]
        await trio.testing.wait_all_tasks_blocked(0.02)
        assert consumer._fetcher.assigned[TopicPartition(topic, 0)].fetched < 50
        assert await values(consumer, 49) == list(range(1, 50))


@pytest.mark.trio
async def test_a_callback_that_fails_ends_the_consumer(bootstrap: str, unique: Unique) -> None:
    """Its exception comes out of the block."""

    def fails(_partitions: list[TopicPartition]) -> None:
        raise KeyError

    topic = await filled(bootstrap, unique("callback"), 1)
    with pytest.raises(ExceptionGroup) as caught:
        async with Consumer(bootstrap, topic, group=unique("g"), on_assigned=fails) as consumer:
            await anext(consumer)
    assert caught.group_contains(KeyError)
