"""Transactions of the client against logd and Apache Kafka: all or nothing, for records and for offsets."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from random import Random
from typing import Any

import pytest
import trio

from logd.client import (
    Admin,
    ClientError,
    CommitFailed,
    Consumer,
    ConsumerSettings,
    GroupSettings,
    Producer,
    ProducerFenced,
    ProducerSettings,
    Router,
    TopicPartition,
    transactions,
)
from logd.client.offsets import LATEST
from logd.testing import Broker
from tests.client.proxy import behind_proxy
from tests.client.test_groups import filled
from tests.client.test_producer import new_topic

Unique = Callable[[str], str]
BY_HAND = GroupSettings(auto_commit_ms=0)


def transactional(bootstrap: str, name: str, timeout_ms: int = 60_000) -> Producer:
    return Producer(bootstrap, ProducerSettings(transactional_id=name, transaction_timeout_ms=timeout_ms))


async def committed(bootstrap: str, topic: str, count: int) -> list[bytes | None]:
    """The first committed records of a topic."""
    async with Consumer(bootstrap, topic, settings=ConsumerSettings(committed_only=True)) as consumer:
        return [(await anext(consumer)).value for _ in range(count)]


@pytest.fixture(params=["transaction version 2", "before"], autouse=True)
def version(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test is done with implicit partitions and epochs that rise, and as with older servers."""
    if request.param == "before":
        monkeypatch.setattr(transactions, "IMPLICIT_LEVEL", 99)


@pytest.mark.trio
async def test_all_or_nothing(bootstrap: str, unique: Unique) -> None:
    """What is sent in a block is seen when it ends, and never when an exception ends it."""
    topic = await new_topic(bootstrap, unique("txn"), 2)
    async with transactional(bootstrap, unique("id")) as producer:
        for number in range(3):
            async with producer.transaction() as txn:
                await txn.send(topic, b"a%d" % number, partition=0)
                await txn.send(topic, b"b%d" % number, partition=1)
            with suppress(ZeroDivisionError):
                async with producer.transaction() as txn:
                    await txn.publish(topic, b"never", partition=0)
                    await txn.send(topic, b"never", partition=1)
                    _ = 1 // 0
        async with producer.transaction() as txn:
            await txn.send(topic, b"never")
            txn.abort()
        async with producer.transaction():
            pass
        async with producer.transaction() as txn:
            await txn.send(topic, b"end", partition=0)
    found = await committed(bootstrap, topic, 7)
    assert [value for value in found if value and value[:1] != b"b"] == [b"a0", b"a1", b"a2", b"end"]
    assert [value for value in found if value and value[:1] == b"b"] == [b"b0", b"b1", b"b2"]


@pytest.mark.trio
async def test_a_cancelled_transaction_is_aborted(bootstrap: str, unique: Unique) -> None:
    """Wherever the cancellation strikes, readers are not kept waiting: the transaction is over."""
    topic = await new_topic(bootstrap, unique("cancel"))
    name = unique("id")
    with trio.CancelScope() as outside:
        async with transactional(bootstrap, name) as producer:
            with trio.CancelScope() as inside:
                async with producer.transaction() as txn:
                    await txn.publish(topic, b"never")
                    inside.cancel()
                    await trio.lowlevel.checkpoint()
            async with producer.transaction() as txn:
                await txn.send(topic, b"first")
            async with producer.transaction() as txn:
                await txn.publish(topic, b"never")
                outside.cancel()
                await trio.lowlevel.checkpoint()
    async with Producer(bootstrap) as producer:
        await producer.publish(topic, b"second")
    assert await committed(bootstrap, topic, 2) == [b"first", b"second"]


class Deaf:
    """The first Produce of a producer hangs, before it is sent or before its answer is heard, until ``hears``."""

    def __init__(self, producer: Producer, monkeypatch: pytest.MonkeyPatch, *, sent: bool) -> None:
        self.hangs, self.hears = trio.Event(), trio.Event()
        exchange = producer._exchange

        async def hang_once(connection: Any, batches: Any) -> Any:
            is_first = not self.hangs.is_set()
            answer = await exchange(connection, batches) if sent or not is_first else None
            self.hangs.set()
            if is_first:
                await self.hears.wait()
            return answer if sent or not is_first else await exchange(connection, batches)

        monkeypatch.setattr(producer, "_exchange", hang_once)


@pytest.mark.trio
@pytest.mark.parametrize("sent", [True, False], ids=["sent", "not sent"])
async def test_a_transaction_that_can_not_be_ended_in_time(
    logd_broker: Broker, unique: Unique, monkeypatch: pytest.MonkeyPatch, sent: bool
) -> None:
    """The end of a failed transaction has a limit. When that is over before all is answered, the next one begins all
    the same, and no record of the earlier one gets into it."""
    bootstrap = logd_broker.bootstrap
    topic = await new_topic(bootstrap, unique("limit"))
    settings = ProducerSettings(transactional_id=unique("id"), abort_timeout_ms=20)
    async with Producer(bootstrap, settings) as producer:
        deaf = Deaf(producer, monkeypatch, sent=sent)
        with suppress(ZeroDivisionError):
            async with producer.transaction() as txn:
                delivery = await txn.send(topic, b"never")
                await deaf.hangs.wait()
                raise ZeroDivisionError
        async with producer.transaction() as txn:
            deaf.hears.set()
            await txn.publish(topic, b"kept")
        with pytest.raises(ClientError, match="aborted"):
            await delivery.wait()
        async with producer.transaction() as txn:
            await txn.publish(topic, b"last")
    assert await committed(bootstrap, topic, 2) == [b"kept", b"last"]


@pytest.mark.trio
async def test_a_cancelled_producer_on_a_router_that_goes_on(
    logd_broker: Broker, unique: Unique, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its tasks are cancelled with it, so nothing of what is under way is waited for: the transaction is aborted."""
    bootstrap, name = logd_broker.bootstrap, unique("id")
    topic = await new_topic(bootstrap, unique("shared"))
    async with Router(bootstrap) as router, Admin(router) as admin:
        with trio.CancelScope() as scope:
            settings = ProducerSettings(transactional_id=name, abort_timeout_ms=2_000)
            async with Producer(router, settings) as producer, producer.transaction() as txn:
                deaf = Deaf(producer, monkeypatch, sent=True)
                await txn.send(topic, b"never")
                await deaf.hangs.wait()
                scope.cancel()
                await trio.lowlevel.checkpoint()
        assert (await admin.transactions.describe(name)).state in ("PrepareAbort", "CompleteAbort")


@pytest.mark.trio
async def test_the_end_of_what_is_committed(bootstrap: str, unique: Unique) -> None:
    """A reader of committed records that goes to the end, for whatever reason, does not jump over a transaction that
    is still open."""
    topic = await new_topic(bootstrap, unique("end"))
    at, settings = TopicPartition(topic, 0), ConsumerSettings(committed_only=True, reset="end")
    async with transactional(bootstrap, unique("id")) as producer, producer.transaction() as txn:
        await txn.publish(topic, b"open")
        async with (
            Consumer(bootstrap, topic, start=2**45, settings=settings) as by_time,
            Consumer(bootstrap, positions={at: 99}, settings=settings) as out_of_range,
        ):
            assert by_time.position(at) == 0
            await by_time.seek(at, 1)
            await by_time.seek(at, "end")
            assert by_time.position(at) == 0
            while (found := out_of_range._fetcher.assigned[at].fetched) == 99:
                await trio.lowlevel.checkpoint()
            assert found == 0


@pytest.mark.trio
async def test_a_later_producer_fences_the_earlier(bootstrap: str, unique: Unique) -> None:
    """The id belongs to who took it last; the other one is told so, and what it had open is aborted."""
    topic, name = await new_topic(bootstrap, unique("fence")), unique("id")
    async with transactional(bootstrap, name) as old:

        async def overtaken() -> None:
            async with old.transaction() as txn:
                await txn.publish(topic, b"never")
                async with transactional(bootstrap, name) as new, new.transaction() as other:
                    await other.send(topic, b"new")

        with pytest.raises(ProducerFenced, match="another producer has taken the id"):
            await overtaken()
        with pytest.raises(ProducerFenced):
            async with old.transaction():
                pass
    assert await committed(bootstrap, topic, 1) == [b"new"]


@pytest.mark.trio
@pytest.mark.parametrize("protocol", ["classic", "consumer"])
async def test_read_process_write(bootstrap: str, unique: Unique, protocol: str) -> None:
    """Offsets count with the records that came of them: after an abort the input is processed again, once."""
    source, target = await filled(bootstrap, unique("in"), 10), await new_topic(bootstrap, unique("out"))
    group, at = unique("g"), TopicPartition(source, 0)
    settings = GroupSettings(auto_commit_ms=0, protocol=protocol)
    failures = [3, 7]
    async with (
        transactional(bootstrap, unique("id")) as producer,
        Consumer(bootstrap, source, group=group, membership=settings) as consumer,
    ):
        while not await consumer.committed(at) or consumer.position(at) < 10:
            with suppress(ZeroDivisionError):
                async with producer.transaction(consumer) as txn:
                    record = await anext(consumer)
                    await txn.send(target, (record.value or b"") + b"!")
                    if failures and record.offset == failures[0]:
                        _ = 1 // (failures.pop(0) * 0)
                    await txn.commit_offsets(consumer)
        assert await consumer.committed() == {at: 10}
    assert await committed(bootstrap, target, 10) == [b"%d!" % number for number in range(10)]


@pytest.mark.trio
async def test_offsets_of_one_who_is_out(bootstrap: str, unique: Unique) -> None:
    """A consumer that was put out of its group can't commit: its work is aborted and others do it."""
    source, target = await filled(bootstrap, unique("in"), 2), await new_topic(bootstrap, unique("out"))
    settings = GroupSettings(auto_commit_ms=0, max_poll_interval_ms=200)
    lost = trio.Event()
    async with (
        transactional(bootstrap, unique("id")) as producer,
        Consumer(
            bootstrap, source, group=unique("g"), membership=settings, on_lost=lambda _partitions: lost.set()
        ) as consumer,
    ):

        async def too_slow() -> None:
            async with producer.transaction() as txn:
                await txn.send(target, (await anext(consumer)).value)
                await lost.wait()
                await txn.commit_offsets(consumer)

        with pytest.raises(CommitFailed):
            await too_slow()
        async with producer.transaction() as txn:
            await txn.send(target, ((await anext(consumer)).value or b"") + b", again")
            await txn.commit_offsets(consumer)
    assert await committed(bootstrap, target, 1) == [b"0, again"]


@pytest.mark.trio
@pytest.mark.parametrize("api_key", [0, 24, 25, 26, 28])
async def test_lost_answers(bootstrap: str, unique: Unique, api_key: int) -> None:
    """Whichever request's answer is lost (Produce, AddPartitionsToTxn, AddOffsetsToTxn, EndTxn, TxnOffsetCommit), it
    is asked again, and everything counts once."""
    source, target = await filled(bootstrap, unique("in"), 4), await new_topic(bootstrap, unique("out"))
    at = TopicPartition(source, 0)
    async with (
        behind_proxy(bootstrap, lambda number: number % 2 == 0, api_key) as router,
        Producer(router, ProducerSettings(transactional_id=unique("id"))) as producer,
        Consumer(bootstrap, source, group=unique("g"), membership=BY_HAND) as consumer,
    ):
        for _ in range(4):
            async with producer.transaction(consumer) as txn:
                await txn.send(target, (await anext(consumer)).value)
                await txn.commit_offsets(consumer)
        assert await consumer.committed() == {at: 4}
    assert await committed(bootstrap, target, 4) == [b"0", b"1", b"2", b"3"]


@pytest.mark.trio
async def test_cancelled_anywhere(bootstrap: str, unique: Unique) -> None:
    """A program that is cancelled at any moment, again and again, has processed each record once in the end."""
    source, target = await filled(bootstrap, unique("in"), 40), await new_topic(bootstrap, unique("out"))
    name, group, at = unique("id"), unique("g"), TopicPartition(source, 0)
    moments, settings = Random(7), GroupSettings(auto_commit_ms=0, protocol="classic")

    async def process() -> None:
        async with (
            transactional(bootstrap, name) as producer,
            Consumer(bootstrap, source, group=group, membership=settings) as consumer,
        ):
            while True:
                async with producer.transaction(consumer) as txn:
                    for record in (await consumer.read())[:3]:
                        await txn.send(target, record.value)
                        await consumer.seek(at, record.offset + 1)
                    await txn.commit_offsets(consumer)

    async with Admin(bootstrap) as admin:
        longest_s = 0.02
        while (await admin.groups.committed(group)).get(at, 0) < 40:
            with trio.move_on_after(moments.uniform(0, longest_s)):
                await process()
            longest_s *= 1.1  # a slow server gets there, too
        ends = {(there := TopicPartition(target, 0)): 0}
        ends[there] = (await admin.offsets({there: LATEST}, committed_only=True))[there].offset
    async with Consumer(bootstrap, target, ends=ends, settings=ConsumerSettings(committed_only=True)) as consumer:
        assert [record.value async for record in consumer] == [b"%d" % number for number in range(40)]


@pytest.mark.trio
async def test_what_is_wrong_is_said(bootstrap: str, unique: Unique) -> None:
    """Sending outside of a transaction, transactions without a name, and commits of both kinds are refused."""
    topic = await filled(bootstrap, unique("wrong"), 1)
    async with transactional(bootstrap, unique("id")) as producer, Producer(bootstrap) as plain:
        with pytest.raises(ValueError, match="within `async with"):
            await producer.send(topic, b"")
        with pytest.raises(ValueError, match="need a name"):
            async with plain.transaction():
                pass
        async with Consumer(bootstrap, topic, group=unique("g")) as consumer, producer.transaction() as txn:
            await anext(consumer)
            with pytest.raises(ValueError, match="auto_commit_ms=0"):
                await txn.commit_offsets(consumer)


@pytest.mark.trio
async def test_what_ends_while_it_is_looked_at_does_not_hang(
    bootstrap: str, unique: Unique, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A transaction that a partition held open, and that was over when its coordinator was asked, is none to abort."""
    topic = await new_topic(bootstrap, unique("busy"))
    at = TopicPartition(topic, 0)
    async with Admin(bootstrap) as admin, transactional(bootstrap, unique("id")) as producer, AsyncExitStack() as open_:
        one = await open_.enter_async_context(producer.transaction())
        await one.publish(topic, b"a")
        ask = admin.transactions.list

        async def end_first(**filters: Any) -> Any:
            await open_.aclose()
            while await admin.transactions.open_in([at]):
                await trio.lowlevel.checkpoint()
            return await ask(**filters)

        monkeypatch.setattr(admin.transactions, "list", end_first)
        assert await admin.transactions.hanging([at]) == []
