"""The producer against real brokers: order, acknowledgements, retries without duplicates, what is refused."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import pytest
import trio
import trio.testing

from logd.client import (
    Admin,
    ClientError,
    ClientSettings,
    Consumer,
    Delivery,
    NewTopic,
    Producer,
    ProducerSettings,
    Received,
    Router,
    TopicPartition,
)
from logd.client.offsets import LATEST
from logd.errors import ErrorCode, Refused
from logd.testing import Broker
from tests.client.proxy import behind_proxy

Unique = Callable[[str], str]


async def new_topic(bootstrap: str, name: str, partitions: int = 1, **configs: str) -> str:
    """Make a topic; an underscore in a setting's name stands for a dot."""
    async with Admin(bootstrap) as admin:
        values = {key.replace("_", "."): value for key, value in configs.items()}
        await admin.topics.create_one(NewTopic(name, partitions, 1, values))
    return name


async def everything(bootstrap: str, topic: str) -> list[Received]:
    """All records that are in a topic now."""
    async with Admin(bootstrap) as admin:
        info = (await admin.topics.list())[topic]
        wanted = dict.fromkeys((TopicPartition(topic, index) for index in info.partitions), LATEST)
        ends = {at: found.offset for at, found in (await admin.offsets(wanted)).items()}
    async with Consumer(bootstrap, topic, ends=ends) as consumer:
        return [record async for record in consumer]


@pytest.mark.trio
@pytest.mark.parametrize("codec", ["none", "gzip", "snappy", "lz4", "zstd"])
async def test_a_record_comes_back_as_it_was(bootstrap: str, unique: Unique, codec: str) -> None:
    """Key, value, headers and timestamp survive the way through every codec, empty and absent told apart."""
    topic = await new_topic(bootstrap, unique("whole"))
    headers = [("a", b"1"), ("a", None), ("", b""), ("\u00e4", b"\xff\x00")]
    async with Producer(bootstrap, ProducerSettings(codec=codec)) as producer:
        found = await producer.publish(topic, b"\x00\xff", key=b"", headers=headers, timestamp_ms=1234)
        await producer.publish(topic, None, key=b"gone")
        await producer.publish(topic, b"")
    assert found == (topic, 0, 0, 1234)
    first, second, third = await everything(bootstrap, topic)
    assert (first.key, first.value, first.headers, first.timestamp_ms) == (b"", b"\x00\xff", headers, 1234)
    assert (second.key, second.value, third.key, third.value) == (b"gone", None, None, b"")


@pytest.mark.trio
async def test_keys_stay_in_order(bootstrap: str, unique: Unique) -> None:
    """Records of one key are in one partition, in the order in which they were sent."""
    topic = await new_topic(bootstrap, unique("keys"), 3)
    async with Producer(bootstrap, ProducerSettings(batch_bytes=500)) as producer:
        for number in range(300):
            await producer.send(topic, b"%d" % number, key=b"k%d" % (number % 7))
    records = await everything(bootstrap, topic)
    assert len(records) == 300
    for key in {record.key for record in records}:
        mine = [record for record in records if record.key == key]
        assert len({record.partition for record in mine}) == 1
        numbers = [int(record.value or b"") for record in mine]
        assert numbers == sorted(numbers)


@pytest.mark.trio
async def test_lost_answers_make_no_duplicates(bootstrap: str, unique: Unique) -> None:
    """When every third answer is lost with its connection, each record still is there once and in order."""
    topic = await new_topic(bootstrap, unique("once"))
    async with behind_proxy(bootstrap, lambda number: number % 3 == 1) as router:
        async with Producer(router, ProducerSettings(batch_bytes=200)) as producer:
            deliveries = [await producer.send(topic, b"%d" % number) for number in range(100)]
            offsets = [(await delivery.wait()).offset for delivery in deliveries]
        lost = router.proxy.lost
    assert lost > 3
    records = await everything(bootstrap, topic)
    assert [record.value for record in records] == [b"%d" % number for number in range(100)]
    assert all(told in (-1, real.offset) for told, real in zip(offsets, records, strict=True))


@pytest.mark.trio
async def test_the_proxy_does_harm(bootstrap: str, unique: Unique) -> None:
    """The same without idempotence has duplicates: so the test above shows something."""
    topic = await new_topic(bootstrap, unique("twice"))
    settings = ProducerSettings(batch_bytes=200, idempotent=False)
    async with (
        behind_proxy(bootstrap, lambda number: number % 3 == 1) as router,
        Producer(router, settings) as producer,
    ):
        for number in range(100):
            await producer.send(topic, b"%d" % number)
    assert len(await everything(bootstrap, topic)) > 100


@pytest.mark.trio
@pytest.mark.parametrize("acks", [0, 1, -1])
async def test_every_kind_of_acknowledgement(bootstrap: str, unique: Unique, acks: int) -> None:
    """With acks 0 no offset is told; else it is. The records arrive in any case."""
    topic = await new_topic(bootstrap, unique("acks"))
    async with Producer(bootstrap, ProducerSettings(acks=acks)) as producer:
        found = [await producer.publish(topic, b"v") for _ in range(3)]
        assert [one.offset for one in found] == ([-1, -1, -1] if acks == 0 else [0, 1, 2])
        if acks == 0:  # the answer to a later request on the same connection shows that they have arrived
            await wait_for_end(bootstrap, topic, 3)
    assert len(await everything(bootstrap, topic)) == 3


async def wait_for_end(bootstrap: str, topic: str, end: int) -> None:
    """Read until a partition has so many records."""
    async with Consumer(bootstrap, topic, ends={TopicPartition(topic, 0): end}) as consumer:
        assert len([record async for record in consumer]) == end


@pytest.mark.trio
async def test_a_batch_that_is_too_large_is_split(bootstrap: str, unique: Unique) -> None:
    """Records that fit one by one arrive, in order and once, although their batch does not fit."""
    topic = await new_topic(bootstrap, unique("split"), max_message_bytes="1000")
    async with Producer(bootstrap, ProducerSettings(batch_bytes=100_000, linger_ms=1000)) as producer:
        deliveries = [await producer.send(topic, b"%03d" % number * 50) for number in range(30)]
        await producer.flush()
        assert [(await delivery.wait()).offset for delivery in deliveries] == list(range(30))
    assert [record.value for record in await everything(bootstrap, topic)] == [b"%03d" % n * 50 for n in range(30)]


@pytest.mark.trio
async def test_a_record_that_is_too_large_fails_alone(bootstrap: str, unique: Unique) -> None:
    """The server's refusal reaches the record's delivery; the partition goes on."""
    topic = await new_topic(bootstrap, unique("large"), max_message_bytes="1000")
    async with Producer(bootstrap) as producer:
        with pytest.raises(Refused) as caught:
            await producer.publish(topic, b"x" * 5000)
        assert caught.value.code == ErrorCode.MESSAGE_TOO_LARGE
        assert (await producer.publish(topic, b"small")).offset == 0


@pytest.mark.trio
async def test_a_record_that_is_too_large_does_not_take_others_along(bootstrap: str, unique: Unique) -> None:
    """Records before and after it in the same batch are taken, in order."""
    topic = await new_topic(bootstrap, unique("among"), max_message_bytes="1000")
    async with Producer(bootstrap, ProducerSettings(linger_ms=1000)) as producer:
        values = [b"a", b"b", b"x" * 5000, b"c", b"y" * 5000, b"d", b"e"]
        deliveries = [await producer.send(topic, value) for value in values]
        await producer.flush()
        for delivery in deliveries:
            if len(delivery.batch.records[delivery.index].value or b"") > 1000:
                with pytest.raises(Refused):
                    await delivery.wait()
    assert [record.value for record in await everything(bootstrap, topic)] == [b"a", b"b", b"c", b"d", b"e"]


@pytest.mark.trio
async def test_a_partition_that_is_not_there(bootstrap: str, unique: Unique) -> None:
    """Naming a partition beyond the last is refused at once, with the number that there are."""
    topic = await new_topic(bootstrap, unique("few"), 2)
    async with Producer(bootstrap) as producer:
        with pytest.raises(Refused, match="has no partition 2: it has 2"):
            await producer.send(topic, b"v", partition=2)


@pytest.mark.trio
async def test_a_full_buffer_makes_senders_wait(bootstrap: str, unique: Unique) -> None:
    """Never more than the limit is kept (and one record), and everything arrives."""
    topic = await new_topic(bootstrap, unique("full"))
    settings = ProducerSettings(buffer_bytes_max=2000, batch_bytes=500)
    async with Producer(bootstrap, settings) as producer:
        for number in range(200):
            await producer.send(topic, b"%04d" % number * 25)
            assert producer.pending_bytes < 2000 + 200
    assert len(await everything(bootstrap, topic)) == 200


@pytest.mark.trio
async def test_a_send_that_is_cancelled_accepts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """And one that has accepted a record returns, though it is cancelled just then."""
    producer, accepted, returned = Producer("127.0.0.1:1"), list[bytes](), list[bytes]()
    with trio.CancelScope() as scope:

        def accept(_topic: str, value: bytes, **_: object) -> bytes:
            accepted.append(value)
            scope.cancel()
            return value

        monkeypatch.setattr(producer, "send_nowait", accept)
        for value in (b"first", b"second"):
            returned.append(await producer.send("t", value))  # type: ignore[arg-type]
    assert accepted == returned == [b"first"]


@pytest.mark.trio
async def test_a_sender_may_wait_for_room_any_number_of_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """With thousands of senders each finds the room taken by another, again and again."""
    producer, tries = Producer("127.0.0.1:1"), 0

    def taken(*_: object, **__: object) -> str:
        nonlocal tries
        tries += 1
        if tries < 2_000:
            raise trio.WouldBlock
        return "delivery"

    async def found(_topic: str) -> None:
        await trio.lowlevel.checkpoint()

    monkeypatch.setattr(producer, "send_nowait", taken)
    monkeypatch.setattr(producer, "_make_ready", found)
    assert await producer.send("t", b"") == "delivery"  # type: ignore[comparison-overlap]


@pytest.mark.trio
async def test_an_exception_of_the_body_is_not_wrapped(bootstrap: str, unique: Unique) -> None:
    """What the body raises comes out as it is, and what was not sent is told to whoever waits for it."""
    topic = await new_topic(bootstrap, unique("body"))
    deliveries: list[Delivery] = []

    async def send_and_fail() -> None:
        async with Producer(bootstrap, ProducerSettings(linger_ms=60_000)) as producer:
            deliveries.append(await producer.send(topic, b"v"))
            raise KeyError

    with pytest.raises(KeyError):
        await send_and_fail()
    with pytest.raises(ClientError, match="closed before"):
        await deliveries[0].wait()


@pytest.mark.trio
async def test_a_closed_producer_takes_nothing(logd_broker: Broker, unique: Unique) -> None:
    """Whoever waits for room when it is closed, or comes after that, is told so and does not hang."""
    topic = await new_topic(logd_broker.bootstrap, unique("closed"))
    producer = Producer(logd_broker.bootstrap, ProducerSettings(buffer_bytes_max=1, linger_ms=60_000))

    async def send() -> None:
        with pytest.raises(ClientError, match="the producer is closed"):
            await producer.send(topic, b"finds no room")

    async with trio.open_nursery() as nursery:
        with suppress(KeyError):
            async with producer:
                await producer.send(topic, b"fills the buffer")
                nursery.start_soon(send)
                await trio.testing.wait_all_tasks_blocked()
                raise KeyError
    await send()
    await producer.flush()


@pytest.mark.trio
async def test_two_producers_share_a_router(bootstrap: str, unique: Unique) -> None:
    """A router that is open already serves several, and stays open when they end."""
    topic = await new_topic(bootstrap, unique("shared"))
    async with Router(bootstrap, ClientSettings(client_id="shared")) as router:
        async with Producer(router) as one, Producer(router) as two:
            await one.publish(topic, b"1")
            await two.publish(topic, b"2")
        assert topic in (await router.refresh(None)).topics


@pytest.mark.trio
async def test_cancelling_a_waiting_sender_does_no_harm(bootstrap: str, unique: Unique) -> None:
    """A caller that gives up waiting for its acknowledgement does not disturb the delivery."""
    topic = await new_topic(bootstrap, unique("cancel"))
    async with Producer(bootstrap) as producer:
        for number in range(20):
            with trio.move_on_after(0):
                await producer.publish(topic, b"%d" % number)
        await producer.publish(topic, b"last")
    values = [record.value for record in await everything(bootstrap, topic)]
    assert values[-1] == b"last"
    assert len(values) == len(set(values))
