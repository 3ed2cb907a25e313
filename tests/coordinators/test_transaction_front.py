"""The front of the transaction coordinator: when markers are written, how often, and who waits for them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing

from logd.cluster.cluster import Cluster, open_cluster
from logd.cluster.image import Broker
from logd.cluster.store import MemoryStore, StoreUnusable
from logd.config import Settings
from logd.coordinators.effects import Record
from logd.coordinators.journal import Journal, MemoryJournal
from logd.coordinators.markers import Marker
from logd.coordinators.shards import shard_of
from logd.coordinators.transaction import EPOCH_LAST, Transaction
from logd.coordinators.transaction_front import RETRY_S, TOPIC, TransactionCoordinator
from logd.coordinators.transaction_records import VALUE_VERSION, to_bytes
from logd.errors import ErrorCode, Refused, StorageFailed
from logd.wire.message import Message
from logd.wire.schemas.describe_transactions import DescribeTransactionsRequest, DescribeTransactionsResponse
from logd.wire.schemas.end_txn import EndTxnRequest
from logd.wire.schemas.init_producer_id import InitProducerIdRequest
from logd.wire.schemas.transaction_records import TransactionLogKey
from tests.coordinators.test_front import TEN_YEARS_MS, SetClock

pytestmark = pytest.mark.trio

ID = "x"
PLACES = [("t", 0), ("u", 3)]
PATIENCE_S = Settings().add_partitions_to_txn_retry_backoff_max_ms / 1000


class Pen:
    """Notes the markers that it is to write; `codes` are what it answers first, `held` keeps it from answering."""

    def __init__(self) -> None:
        self.asked: list[tuple[Marker, list[tuple[str, int]]]] = []
        self.codes: list[dict[tuple[str, int], ErrorCode]] = []
        self.held: trio.Event | None = None

    async def write_all(
        self, marker: Marker, partitions: Iterable[tuple[str, int]]
    ) -> dict[tuple[str, int], ErrorCode]:
        places = list(partitions)
        self.asked.append((marker, places))
        if self.held is not None:
            await self.held.wait()
        told = self.codes.pop(0) if self.codes else {}
        return {place: told.get(place, ErrorCode.NONE) for place in places}


class House:
    """A coordinator in a cluster of one node, its shards in memory."""

    def __init__(self, cluster: Cluster, journals: dict[int, MemoryJournal]) -> None:
        self.cluster = cluster
        self.journals = journals
        self.pen = Pen()
        self.clock, self.steady = SetClock(1_000_000), SetClock(1_000_000)
        self.no_ids: list[Exception] = []
        """Why there is no producer id, as often as there is none."""
        self.front = TransactionCoordinator(
            cluster=cluster,
            ids=self.next_id,
            clock=self.clock,
            steady=self.steady,
            markers=self.pen,
            journal_of=self.journal_of,
        )

    def journal_of(self, index: int) -> Journal:
        return self.journals.setdefault(index, MemoryJournal())

    async def next_id(self) -> int:
        if self.no_ids:
            raise self.no_ids.pop(0)
        return await self.cluster.next_producer_id()

    @property
    def shards(self) -> int:
        return len(self.cluster.image.topics[TOPIC].partitions)

    async def ask(self, transactional_id: str, request: Message) -> Any:
        asked = self.front.ask_with_id(transactional_id, request, 5)
        return asked if isinstance(asked, Message) else await asked

    async def init(self) -> tuple[int, int]:
        answer = await self.ask(ID, InitProducerIdRequest(ID, 60_000))
        return answer.producer_id, answer.producer_epoch

    async def add(self, producer: tuple[int, int], *places: tuple[str, int]) -> set[ErrorCode]:
        codes = self.front.add_partitions(ID, *producer, places, verify_only=False)
        return set((codes if isinstance(codes, dict) else await codes).values())

    async def end(self, producer: tuple[int, int], commit: bool = True) -> tuple[int, int]:
        answer = await self.ask(ID, EndTxnRequest(ID, *producer, commit))
        return answer.producer_id, answer.producer_epoch

    async def state(self) -> str:
        answer: Message = await self.front.ask(ID, DescribeTransactionsRequest([ID])).wait()
        assert isinstance(answer, DescribeTransactionsResponse)
        return answer.transaction_states[0].transaction_state


@asynccontextmanager
async def house(
    cluster: Cluster | None = None, journals: dict[int, MemoryJournal] | None = None
) -> AsyncIterator[House]:
    """A coordinator that serves."""
    if cluster is None:
        numbers = iter(range(1, 100))
        cluster = await open_cluster(MemoryStore(), Settings(), lambda: bytes([next(numbers)] * 16), lambda: "cluster")
        await cluster.start(Broker(0))
    made = House(cluster, {} if journals is None else journals)
    await made.front.ensure_topic()
    async with trio.open_nursery() as nursery:
        await nursery.start(made.front.run)
        await made.front.until_serving([ID])
        yield made
        nursery.cancel_scope.cancel()


async def test_a_leap_of_the_clock_forgets_no_id(autojump_clock: trio.testing.MockClock) -> None:
    """A wrong time of day would forget every idle id, and fence its producer; the steady one forgets in its time."""
    async with house() as at:
        look_s = 2 * at.cluster.settings.transaction_remove_expired_transaction_cleanup_interval_ms / 1000
        await at.init()
        at.clock.time_ms += TEN_YEARS_MS
        await trio.sleep(look_s)
        assert await at.state() == "Empty"
        at.steady.time_ms += TEN_YEARS_MS
        await trio.sleep(look_s)
        assert await at.state() == ""


async def test_markers_after_the_decision_is_safe(autojump_clock: trio.testing.MockClock) -> None:
    """No marker is written before the record that decides the end is committed; then each partition gets its own."""
    async with house() as at:
        producer = await at.init()
        assert await at.add(producer, *PLACES) == {ErrorCode.NONE}
        for journal in at.journals.values():
            journal.held = True
        waiter = at.front.ask(ID, EndTxnRequest(ID, *producer, True), 5)
        await trio.testing.wait_all_tasks_blocked()
        assert waiter.message is None
        assert at.pen.asked == []
        for journal in at.journals.values():
            journal.held = False
            journal.commit()
        await trio.testing.wait_all_tasks_blocked()
        assert waiter.message is not None
        assert at.pen.asked == [(Marker(producer[0], producer[1] + 1, True, 0, 2), PLACES)]
        assert await at.state() == "CompleteCommit"


async def test_markers_are_tried_again(autojump_clock: trio.testing.MockClock) -> None:
    """A partition that can't be written now is asked again; one that is gone or fenced keeps nothing from ending."""
    async with house() as at:
        at.pen.codes = [
            {PLACES[0]: ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, PLACES[1]: ErrorCode.KAFKA_STORAGE_ERROR},
            {PLACES[1]: ErrorCode.COORDINATOR_LOAD_IN_PROGRESS},
            {PLACES[1]: ErrorCode.INVALID_PRODUCER_EPOCH},
        ]
        producer = await at.init()
        await at.add(producer, *PLACES)
        await at.end(producer, commit=False)
        await trio.sleep(RETRY_S * 4)
        assert [places for _, places in at.pen.asked] == [PLACES, PLACES[1:], PLACES[1:]]
        assert await at.state() == "CompleteAbort"


async def test_the_next_transaction_waits(autojump_clock: trio.testing.MockClock) -> None:
    """Partitions of the next transaction are added as soon as the one before is complete."""
    async with house() as at:
        producer = await at.init()
        await at.add(producer, *PLACES)
        at.pen.held = trio.Event()
        producer = await at.end(producer)
        codes: list[set[ErrorCode]] = []

        async def add() -> None:
            codes.append(await at.add(producer, PLACES[0]))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(add)
            await trio.sleep(PATIENCE_S / 2)
            assert codes == []
            at.pen.held.set()
        assert codes == [{ErrorCode.NONE}]
        assert await at.state() == "Ongoing"


async def test_a_no_that_waited_is_asked_again(autojump_clock: trio.testing.MockClock) -> None:
    """The markers are written while "still being ended" waits for the journal: the question is put again, not told."""
    async with house() as at:
        producer = await at.init()
        await at.add(producer, *PLACES)
        at.pen.held = trio.Event()
        producer = await at.end(producer)
        mine = shard_of(ID, at.shards)
        neighbour = next(name for name in map(str, range(10_000)) if shard_of(name, at.shards) == mine)
        journal = at.journals[mine]
        journal.held = True
        told: list[Any] = []

        async def neighbour_begins() -> None:
            told.append(await at.ask(neighbour, InitProducerIdRequest(neighbour, 60_000)))

        async def add() -> None:
            asked = at.front.add_partitions(
                ID, *producer, [PLACES[0]], verify_only=False, before_again=lambda: told.append("again")
            )
            assert not isinstance(asked, dict)
            told.append(await asked)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(neighbour_begins)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(add)
            await trio.testing.wait_all_tasks_blocked()
            at.pen.held.set()
            await trio.testing.wait_all_tasks_blocked()
            assert told == []
            journal.held = False
            journal.commit()
        assert "again" in told
        assert {PLACES[0]: ErrorCode.NONE} in told
        assert await at.state() == "Ongoing"


async def test_nobody_waits_for_ever(autojump_clock: trio.testing.MockClock) -> None:
    """Markers that take long: whoever begins the next transaction is told so after a while."""
    async with house() as at:
        producer = await at.init()
        await at.add(producer, *PLACES)
        at.pen.held = trio.Event()
        producer = await at.end(producer)
        begun_s = trio.current_time()
        assert await at.add(producer, PLACES[0]) == {ErrorCode.CONCURRENT_TRANSACTIONS}
        assert trio.current_time() - begun_s == pytest.approx(PATIENCE_S)


async def test_an_early_abort_waits(autojump_clock: trio.testing.MockClock) -> None:
    """An abort that comes before the last transaction is complete, and a producer that begins again then, wait too."""
    async with house() as at:
        producer = await at.init()
        await at.add(producer, *PLACES)
        at.pen.held = trio.Event()
        producer = await at.end(producer)
        told: list[tuple[int, int]] = []

        async def abort() -> None:
            told.append(await at.end(producer, commit=False))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(abort)
            await trio.sleep(PATIENCE_S / 2)
            assert told == []
            at.pen.held.set()
        assert told == [(producer[0], producer[1] + 1)]
        at.pen.held = trio.Event()
        await at.add(told[0], PLACES[0])
        await at.end(told[0])
        with pytest.raises(Refused) as caught:
            await at.init()
        assert caught.value.code is ErrorCode.CONCURRENT_TRANSACTIONS


async def test_loading_finishes_what_was_begun(autojump_clock: trio.testing.MockClock) -> None:
    """A coordinator that died between the decision and the markers: the next one writes them."""
    journals: dict[int, MemoryJournal] = {}
    async with house(journals=journals) as at:
        at.pen.held = trio.Event()
        producer = await at.init()
        await at.add(producer, *PLACES)
        producer = await at.end(producer)
        assert await at.state() == "PrepareCommit"
    async with house(journals=journals) as after:
        await trio.testing.wait_all_tasks_blocked()
        assert after.pen.asked == [(Marker(*producer, True, 0, 2), PLACES)]
        assert await after.state() == "CompleteCommit"
        assert await after.add(producer, PLACES[0]) == {ErrorCode.NONE}


async def test_a_deadline_survives_loading(autojump_clock: trio.testing.MockClock) -> None:
    """A transaction that is open when its coordinator dies is aborted when its time has come."""
    journals: dict[int, MemoryJournal] = {}
    async with house(journals=journals) as at:
        producer = await at.init()
        await at.add(producer, *PLACES)
    async with house(journals=journals) as after:
        await trio.sleep(59)
        assert await after.state() == "Ongoing"
        await trio.sleep(2)
        assert [marker.committed for marker, _ in after.pen.asked] == [False]
        assert await after.state() == "CompleteAbort"
        assert await after.add(producer, PLACES[0]) == {ErrorCode.PRODUCER_FENCED}


async def test_a_timeout_at_the_last_epoch_takes_an_id(autojump_clock: trio.testing.MockClock) -> None:
    """There is no id at first; it is asked for again. The marker has the epoch that nobody has, then comes the id."""
    journals: dict[int, MemoryJournal] = {}
    async with house(journals=journals) as at:
        producer_id, _ = await at.init()
        key = TransactionLogKey(ID)
        worn = Transaction(producer_id, EPOCH_LAST, timeout_ms=60_000, previous_producer_id=producer_id)
        journals[shard_of(ID, at.shards)].append([to_bytes(Record(key, worn.stored(), VALUE_VERSION))], 0)
    async with house(at.cluster, journals) as after:
        after.no_ids = [Refused(ErrorCode.NETWORK_EXCEPTION, "no"), StoreUnusable("no"), StorageFailed("d", OSError())]
        assert await after.add((producer_id, EPOCH_LAST), *PLACES) == {ErrorCode.NONE}
        await trio.sleep(59)
        assert after.pen.asked == []
        await trio.sleep(1 + RETRY_S * 10)
        assert after.no_ids == []
        assert after.pen.asked == [(Marker(producer_id, EPOCH_LAST + 1, False, 0, 2), PLACES)]
        assert await after.state() == "CompleteAbort"
        assert await after.add((producer_id, EPOCH_LAST), *PLACES) == {ErrorCode.INVALID_PRODUCER_ID_MAPPING}
        renewed = await after.init()
        assert renewed[0] > producer_id
        assert renewed[1] == 1


async def test_producers_are_told_apart(autojump_clock: trio.testing.MockClock) -> None:
    """Unknown producers are refused, and who begins again fences the one before."""
    async with house() as at:
        assert await at.add((5, 0), PLACES[0]) == {ErrorCode.INVALID_PRODUCER_ID_MAPPING}
        first = await at.init()
        second = await at.init()
        assert second == (first[0], first[1] + 1)
        with pytest.raises(Refused) as caught:
            await at.end(first)
        assert caught.value.code is ErrorCode.PRODUCER_FENCED
