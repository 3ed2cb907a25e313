"""The front of the group coordinator: which shard serves whom, and how shards follow the cluster."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from logd.cluster.cluster import Cluster, open_cluster
from logd.cluster.controller import NewTopic
from logd.cluster.image import Broker, Topic
from logd.cluster.store import MemoryStore
from logd.config import Settings
from logd.coordinators.front import TOPIC, GroupCoordinator
from logd.coordinators.journal import Batch, Journal, MemoryJournal
from logd.coordinators.shard import limits_of
from logd.coordinators.shards import java_hash, shard_of
from logd.errors import ErrorCode, Refused
from logd.wire.schemas.heartbeat import HeartbeatRequest
from logd.wire.schemas.join_group import JoinGroupRequest, JoinGroupRequestProtocol, JoinGroupResponse
from logd.wire.schemas.list_groups import ListGroupsRequest, ListGroupsResponse
from logd.wire.schemas.offset_commit import (
    OffsetCommitRequest,
    OffsetCommitRequestPartition,
    OffsetCommitRequestTopic,
)
from logd.wire.schemas.offset_fetch import OffsetFetchRequestGroup, OffsetFetchResponseGroup

ID = b"0123456789abcdef"
TEN_YEARS_MS = 10 * 365 * 24 * 3600 * 1000


class SetClock:
    """A clock that somebody sets."""

    def __init__(self, time_ms: int = 1234) -> None:
        self.time_ms = time_ms

    def now_ms(self) -> int:
        return self.time_ms


class House:
    """A coordinator in a cluster of one node, its shards in memory."""

    def __init__(self, cluster: Cluster, journals: dict[int, MemoryJournal] | None = None) -> None:
        self.cluster = cluster
        self.journals = {} if journals is None else journals
        self.led = True
        self.clock, self.steady = SetClock(), SetClock()
        self.front = GroupCoordinator(cluster=cluster, clock=self.clock, steady=self.steady, journal_of=self.journal_of)

    def journal_of(self, index: int) -> Journal | None:
        return self.journals.setdefault(index, MemoryJournal()) if self.led else None

    def commit(self, group: str, topic: str, offset: int) -> None:
        partition = OffsetCommitRequestPartition(0, offset)
        topics = [OffsetCommitRequestTopic(topic, self.cluster.image.topics[topic].id, [partition])]
        self.front.ask(group, OffsetCommitRequest(group, topics=topics), 9).result()

    def committed(self, group: str) -> dict[str, int]:
        answer = self.front.ask_offsets(OffsetFetchRequestGroup(group, topics=None), True).result()
        assert isinstance(answer, OffsetFetchResponseGroup)
        return {topic.name: topic.partitions[0].committed_offset for topic in answer.topics}


async def new_cluster() -> Cluster:
    ids = iter(range(1, 100))
    cluster = await open_cluster(MemoryStore(), Settings(), lambda: bytes([next(ids)] * 16), lambda: "cluster")
    await cluster.start(Broker(0))
    return cluster


@asynccontextmanager
async def house(
    cluster: Cluster | None = None, journals: dict[int, MemoryJournal] | None = None
) -> AsyncIterator[House]:
    one = House(cluster or await new_cluster(), journals)
    async with trio.open_nursery() as nursery:
        await nursery.start(one.front.run)
        yield one
        nursery.cancel_scope.cancel()


def refused(act: object) -> ErrorCode:
    with pytest.raises(Refused) as caught:
        act()  # type: ignore[operator]
    return caught.value.code


@pytest.mark.parametrize(
    ("text", "value"),
    [("", 0), ("a", 97), ("group", 98629247), ("polygenelubricants", -(2**31)), ("ü€", 16176), ("\U0001f600", 1772899)],
)
def test_java_hash(text: str, value: int) -> None:
    """Groups are spread as Java's String.hashCode spreads them, over UTF-16 units and with its overflow."""
    assert java_hash(text) == value


def test_shard_of() -> None:
    """The absolute value picks the shard; the one value that has none picks the first."""
    assert shard_of("group", 16) == 98629247 % 16
    assert shard_of("polygenelubricants", 50) == 0
    assert shard_of("x" * 30, 7) in range(7)


def test_limits_of_settings() -> None:
    """The machine obeys the broker's settings."""
    settings = Settings(group_max_size=3, offsets_retention_minutes=2, offset_metadata_max_bytes=9)
    limits = limits_of(settings)
    assert (limits.size_max, limits.retention_ms, limits.metadata_bytes_max) == (3, 120_000, 9)


@pytest.mark.trio
async def test_the_topic_is_made_on_first_use() -> None:
    """Before that there is no coordinator; then there is one, compacted, with 16 shards that serve at once."""
    async with house() as on:
        assert on.front.coordinator_of("g") == -1
        assert refused(lambda: on.front.ask("g", HeartbeatRequest("g"))) == ErrorCode.NOT_COORDINATOR
        await on.front.ensure_topic()
        await on.front.until_serving(["g"])
        topic = on.cluster.image.topics[TOPIC]
        assert len(topic.partitions) == 16
        assert topic.internal
        assert topic.configs["cleanup.policy"] == "compact"
        assert on.front.coordinator_of("g") == 0
        assert refused(on.front.ask("g", HeartbeatRequest("g", 1, "m")).result) == ErrorCode.UNKNOWN_MEMBER_ID


@pytest.mark.trio
async def test_groups_survive_a_restart() -> None:
    """What was committed is read from the journals by the next coordinator; one shard for each group."""
    cluster = await new_cluster()
    await cluster.create_topics([NewTopic("t", 1, 1)])
    async with house(cluster) as on:
        await on.front.ensure_topic()
        for number in range(40):
            on.commit(f"g{number}", "t", number)
        assert sum(bool(journal.batches) for journal in on.journals.values()) > 8
    async with house(cluster, on.journals) as again:
        await again.front.until_serving([f"g{number}" for number in range(40)])
        assert [again.committed(f"g{number}") for number in range(40)] == [{"t": number} for number in range(40)]
        answers = [waiter.result() for waiter in again.front.ask_all(ListGroupsRequest(), 5)]
        names = {group.group_id for part in answers if isinstance(part, ListGroupsResponse) for group in part.groups}
        assert names == {f"g{number}" for number in range(40)}


@pytest.mark.trio
async def test_deleted_topics() -> None:
    """Offsets go with their topic: at once while the coordinator lives, else when it has loaded."""
    cluster = await new_cluster()
    await cluster.create_topics([NewTopic("t", 1, 1), NewTopic("u", 1, 1), NewTopic("v", 1, 1)])
    async with house(cluster) as on:
        await on.front.ensure_topic()
        for topic in "tuv":
            on.commit("g", topic, 5)
        await cluster.delete_topics([cluster.image.topics["u"].id])
        assert on.committed("g") == {"t": 5, "v": 5}
    await cluster.delete_topics([cluster.image.topics["t"].id])
    (made,) = await cluster.create_topics([NewTopic("t", 1, 1)])
    assert isinstance(made, Topic)
    async with house(cluster, on.journals) as again:
        await again.front.until_serving(["g"])
        await trio.testing.wait_all_tasks_blocked()
        assert again.committed("g") == {"v": 5}


@pytest.mark.trio
async def test_a_leap_of_the_clock_expires_no_offset(autojump_clock: trio.testing.MockClock) -> None:
    """A wrong time of day would forget all that idle groups have read; the steady one forgets it in its time."""
    cluster = await new_cluster()
    await cluster.create_topics([NewTopic("t", 1, 1)])
    look_s = 2 * cluster.settings.offsets_retention_check_interval_ms / 1000
    async with house(cluster) as on:
        await on.front.ensure_topic()
        on.commit("g", "t", 5)
        on.clock.time_ms += TEN_YEARS_MS
        await trio.sleep(look_s)
        assert on.committed("g") == {"t": 5}
        on.steady.time_ms += TEN_YEARS_MS
        await trio.sleep(look_s)
        assert on.committed("g") == {}


class SlowJournal(MemoryJournal):
    """A journal whose reading waits to be let go."""

    def __init__(self, batches: list[Batch]) -> None:
        super().__init__(batches)
        self.go_on = trio.Event()

    async def read_all(self) -> AsyncIterator[Batch]:
        await self.go_on.wait()
        for batch in self.batches:
            yield batch


@pytest.mark.trio
async def test_while_it_is_loading(autojump_clock: trio.testing.MockClock) -> None:
    """Requests are refused with COORDINATOR_LOAD_IN_PROGRESS, and who asks for the coordinator waits a little."""
    cluster = await new_cluster()
    async with house(cluster) as on:
        await on.front.ensure_topic()
    slow = SlowJournal([Batch([0], [(b"\x00\x63unknown", b"")])])
    shard = shard_of("g", 16)
    async with house(cluster, {**on.journals, shard: slow}) as again:
        assert refused(lambda: again.front.ask("g", HeartbeatRequest("g"))) == ErrorCode.COORDINATOR_LOAD_IN_PROGRESS
        assert refused(lambda: again.front.ask_all(ListGroupsRequest())) == ErrorCode.COORDINATOR_LOAD_IN_PROGRESS
        began = trio.current_time()
        await again.front.until_serving(["g"])
        assert trio.current_time() == pytest.approx(began + 1)
        slow.go_on.set()
        await again.front.until_serving(["g"])
        again.front.ask_offsets(OffsetFetchRequestGroup("g", topics=None), False).result()


@pytest.mark.trio
async def test_a_damaged_shard_does_not_serve() -> None:
    """A record that can't be read takes its shard out of service, with NOT_COORDINATOR, and no other one."""
    cluster = await new_cluster()
    async with house(cluster) as on:
        await on.front.ensure_topic()
    damaged = MemoryJournal([Batch([0], [(b"\x00\x02\x00", b"")])])
    async with house(cluster, {**on.journals, shard_of("g", 16): damaged}) as again:
        await again.front.until_serving(["g"])
        assert refused(lambda: again.front.ask("g", HeartbeatRequest("g"))) == ErrorCode.NOT_COORDINATOR
        other = next(f"g{n}" for n in range(99) if shard_of(f"g{n}", 16) != shard_of("g", 16))
        assert refused(again.front.ask(other, HeartbeatRequest(other)).result) == ErrorCode.UNKNOWN_MEMBER_ID


def join(group: str) -> JoinGroupRequest:
    protocols = [JoinGroupRequestProtocol("range", b"\x00\x00\x00\x00\x00\x00\xff\xff\xff\xff")]
    return JoinGroupRequest(group, 10_000, 10_000, protocol_type="consumer", protocols=protocols)


@pytest.mark.trio
async def test_joining_waits_for_the_others() -> None:
    """Two that join together are answered together, with ids made from the client's name."""
    async with house() as on:
        await on.front.ensure_topic()
        waiters = [on.front.ask("g", join("g"), 3, "app", "/h") for _ in range(2)]
        answers = [await waiter.wait() for waiter in waiters]
        for answer in answers:
            assert isinstance(answer, JoinGroupResponse)
            assert answer.generation_id == 1
            assert answer.member_id.startswith("app-")
        assert len({answer.member_id for answer in answers if isinstance(answer, JoinGroupResponse)}) == 2


@pytest.mark.trio
async def test_moving_away() -> None:
    """When the node leads a shard no more, and when it stops, whoever waits is told to look elsewhere."""
    async with house() as on:
        await on.front.ensure_topic()
        on.journals[shard_of("g", 16)].held = True
        waiter = on.front.ask("g", join("g"), 3)
        on.led = False
        await on.cluster.create_topics([NewTopic("other", 1, 1)])
        assert refused(waiter.result) == ErrorCode.NOT_COORDINATOR
        assert refused(lambda: on.front.ask("g", join("g"))) == ErrorCode.NOT_COORDINATOR
        on.led = True
        await on.cluster.create_topics([NewTopic("another", 1, 1)])
        await on.front.until_serving(["g"])
        late = on.front.ask("g", join("g"), 3)
    assert refused(late.result) == ErrorCode.NOT_COORDINATOR
    assert on.cluster.listeners == []
