"""``logd-cli bench``: how fast a server takes and gives records, and how long a record waits; small and honest.

Against any broker. The load is made by this one process and its Python client, which is the limit more often than the
server: compare servers with it, do not take it for what a server can do.
"""

from __future__ import annotations

import math
import os
import struct
import time
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import click

from logd.cli.completion import topic_names
from logd.cli.failures import NOT_FOUND, TIMED_OUT, Failure
from logd.cli.options import Amount, Settings, common_options
from logd.cli.output import note, show_rows
from logd.cli.places import bounds_of, chosen_partitions
from logd.cli.produce import ACKS, CODECS
from logd.cli.progress import Progress
from logd.cli.session import client_settings, existing_topic, run_async, until_lost

if TYPE_CHECKING:
    from logd.client import Admin, Delivery
    from logd.client.metadata import TopicInfo

SENT_COLUMNS = ("records", "seconds", "records_s", "mb_s", "p50_ms", "p95_ms", "p99_ms", "max_ms")
WAY_COLUMNS = ("records", "seconds", "p50_ms", "p95_ms", "p99_ms", "max_ms")
READ_COLUMNS = ("records", "seconds", "records_s", "mb_s", "first_ms")
RUN_BYTES = 8
STAMP = struct.Struct(f">{RUN_BYTES}sq")
"""What a value of `bench e2e` begins with: the run, and when it was sent (nanoseconds of this process's clock)."""
SHORTEST_MS = 0.001
STEPS = 100
"""Of times, while they grow by a factor of e."""
VALUES = 64
"""Different values, so that nothing compresses to nothing; half of each is text."""


class Times:
    """Times in milliseconds, in no more memory for a billion than for thousands: right to half a percent."""

    def __init__(self) -> None:
        self.count = 0
        self._longest = 0.0
        self._steps: dict[int, int] = {}

    def add(self, time_ms: float) -> None:
        """One more."""
        self.count += 1
        self._longest = max(self._longest, time_ms)
        step = int(math.log(max(time_ms, SHORTEST_MS) / SHORTEST_MS) * STEPS)
        self._steps[step] = self._steps.get(step, 0) + 1

    def percentile(self, part: float) -> float:
        """The time below which this part of them lies; 0 when there are none."""
        left = min(int(self.count * part), self.count - 1)
        for step in sorted(self._steps):
            left -= self._steps[step]
            if left < 0:
                return min(SHORTEST_MS * math.exp((step + 0.5) / STEPS), self._longest)
        return 0.0

    def spread(self) -> list[float]:
        """Median, 95th and 99th percentile, and the longest."""
        return [*(round(self.percentile(part), 2) for part in (0.5, 0.95, 0.99)), round(self._longest, 2)]


@click.group()
def bench() -> None:
    """Measure a server from this machine: records and bytes per second, latencies."""


@bench.command("produce")
@click.argument("topic", shell_complete=topic_names)
@click.option("-n", "--records", type=click.IntRange(min=1), default=100_000, show_default=True, help="How many.")
@click.option("-s", "--size", type=click.IntRange(min=0), default=100, show_default=True, help="Bytes of a value.")
@click.option("-r", "--rate", type=Amount(min=0, min_open=True), help="Records per second.  [default: all]")
@click.option("-z", "--codec", type=click.Choice(CODECS), default="none", help="Compress batches.")
@click.option("--acks", type=click.Choice(list(ACKS)), default="all", help="Who must have a record: all, leader, none.")
@click.option("--create", is_flag=True, help="Make the topic with one partition when it does not exist.")
@common_options()
@click.pass_obj
def produce(
    settings: Settings, topic: str, records: int, size: int, rate: float | None, codec: str, acks: str, create: bool
) -> None:
    """Send records to a topic, where they stay.

    A latency is the time from handing a record over to its acknowledgement. In a pipe: one line with records, seconds,
    records per second, megabytes per second, and milliseconds: median, 95th and 99th percentile, longest.
    """
    row = run_async(settings, lambda: _Sender(settings, topic, records, size, rate).run(codec, ACKS[acks], create))
    show_rows(settings.output, SENT_COLUMNS, [row])


class _Sender:
    """One run of `bench produce`."""

    def __init__(self, settings: Settings, topic: str, records: int, size: int, rate: float | None) -> None:
        self._settings = settings
        self._topic = topic
        self._records = records
        self._rate = rate
        self._values = [values_of(size, number) for number in range(VALUES)]
        self._size = size
        self._waiting: deque[tuple[float, Delivery]] = deque()
        self._times = Times()
        self._progress = Progress("sending", records)

    async def run(self, codec: str, acks: int, create: bool) -> tuple[Any, ...]:
        import trio

        from logd.client import Admin, Producer, ProducerSettings, Router

        plan = ProducerSettings(acks=acks, codec=codec, delivery_timeout_ms=self._settings.timeout_ms)
        async with Router(self._settings.bootstrap, client_settings(self._settings)) as router:
            async with Admin(router) as admin:
                await _be_there(admin, self._topic, create)
            with self._progress:
                async with Producer(router, plan) as producer, trio.open_nursery() as nursery:
                    started = time.perf_counter()
                    nursery.start_soon(self._watch)
                    await self._send(producer, started)
                    await producer.flush()
                elapsed_s = time.perf_counter() - started
        megabytes = self._records * self._size / 1e6
        rates = (round(self._records / elapsed_s), round(megabytes / elapsed_s, 2))
        return (self._records, round(elapsed_s, 3), *rates, *self._times.spread())

    async def _send(self, producer: Any, started: float) -> None:
        import trio

        for number in range(self._records):
            if self._rate is not None:
                wait_s = started + number / self._rate - time.perf_counter()
                if wait_s > 0:
                    await trio.sleep(wait_s)
            elif number % 1000 == 0:
                await trio.lowlevel.checkpoint()
            value, now = self._values[number % VALUES], time.perf_counter()
            try:
                delivery = producer.send_nowait(self._topic, value)
            except trio.WouldBlock:
                delivery = await producer.send(self._topic, value)
            self._waiting.append((now, delivery))

    async def _watch(self) -> None:
        """Note the time of each as soon as it is acknowledged. Raises what went wrong with the first that was not."""
        import trio

        while self._times.count < self._records:
            if not self._waiting:
                await trio.sleep(0.001)
                continue
            await self._waiting[0][1].wait()
            now, done = time.perf_counter(), self._times.count
            while self._waiting and self._waiting[0][1].done:
                begun, delivery = self._waiting.popleft()
                delivery.outcome()
                self._times.add((now - begun) * 1000)
            self._progress.advance(self._times.count - done)


@bench.command("consume")
@click.argument("topic", shell_complete=topic_names)
@click.option("-n", "--records", type=click.IntRange(min=1), help="How many.  [default: all that are there]")
@common_options()
@click.pass_obj
def consume(settings: Settings, topic: str, records: int | None) -> None:
    """Read a topic from its start, and count.

    In a pipe: one line with records, seconds, records per second, megabytes per second, and milliseconds to the first
    record.
    """
    row = run_async(settings, lambda: _read(settings, topic, records))
    show_rows(settings.output, READ_COLUMNS, [row])


async def _read(settings: Settings, topic: str, records: int | None) -> tuple[Any, ...]:
    import trio

    from logd.client import Admin, Consumer, Router

    async with Router(settings.bootstrap, client_settings(settings)) as router:
        async with Admin(router) as admin:
            info = await existing_topic(admin, topic)
            first, last = await bounds_of(admin, chosen_partitions(info, ()))
        there = sum(last.values()) - sum(first.values())
        if not there:
            raise Failure(
                f"topic {topic!r} is empty", "there is nothing to read", f"logd-cli bench produce {topic}", NOT_FOUND
            )
        total = there if records is None else min(records, there)
        count = size = 0
        started = time.perf_counter()
        first_s = 0.0
        with Progress("reading", total) as progress:
            async with Consumer(router, positions=first, ends=last) as consumer, trio.open_nursery() as nursery:
                nursery.start_soon(until_lost, router)
                while count < total and (batch := await consumer.read()):
                    first_s = first_s or time.perf_counter() - started
                    count += len(batch)
                    size += sum(len(record.value or b"") + len(record.key or b"") for record in batch)
                    progress.advance(len(batch))
                nursery.cancel_scope.cancel()
                elapsed_s = time.perf_counter() - started
    rates = (round(count / elapsed_s), round(size / 1e6 / elapsed_s, 2))
    return (count, round(elapsed_s, 3), *rates, round(first_s * 1000, 2))


@bench.command("e2e")
@click.argument("topic", shell_complete=topic_names)
@click.option("-n", "--records", type=click.IntRange(min=1), default=1_000, show_default=True, help="How many.")
@click.option(
    "-s", "--size", type=click.IntRange(min=STAMP.size), default=100, show_default=True, help="Bytes of a value."
)
@click.option(
    "-r",
    "--rate",
    type=Amount(min=0, min_open=True),
    help="Records per second.  [default: each when the one before has arrived]",
)
@click.option("--acks", type=click.Choice(list(ACKS)), default="all", help="Who must have a record: all, leader, none.")
@click.option("--create", is_flag=True, help="Make the topic with one partition when it does not exist.")
@common_options()
@click.pass_obj
def end_to_end(
    settings: Settings, topic: str, records: int, size: int, rate: float | None, acks: str, create: bool
) -> None:
    """Send records and read them back: how long each is under way, from end to end. They stay in the topic.

    Records of others in the topic are passed over. In a pipe: one line with records, seconds, and milliseconds: median,
    95th and 99th percentile, longest.
    """
    row = run_async(settings, lambda: _Way(settings, topic, records, size, rate).run(ACKS[acks], create))
    show_rows(settings.output, WAY_COLUMNS, [row])


class _Way:
    """One run of `bench e2e`: a producer and a consumer in one process, so that one clock measures."""

    def __init__(self, settings: Settings, topic: str, records: int, size: int, rate: float | None) -> None:
        self._settings = settings
        self._topic = topic
        self._records = records
        self._rate = rate
        self._run = os.urandom(RUN_BYTES)
        self._rest = values_of(size - STAMP.size, 0)
        self._times = Times()
        self._progress = Progress("sending and reading", records)

    async def run(self, acks: int, create: bool) -> tuple[Any, ...]:
        import trio

        from logd.client import Admin, Consumer, Producer, ProducerSettings, Router

        plan = ProducerSettings(acks=acks, delivery_timeout_ms=self._settings.timeout_ms)
        async with Router(self._settings.bootstrap, client_settings(self._settings)) as router:
            async with Admin(router) as admin:
                info = await _be_there(admin, self._topic, create)
                _, ends = await bounds_of(admin, chosen_partitions(info, ()))
            arrived, wake = trio.open_memory_channel[None](1)
            with self._progress:
                async with (
                    Producer(router, plan) as producer,
                    Consumer(router, positions=ends) as consumer,
                    trio.open_nursery() as nursery,
                ):
                    started = time.perf_counter()
                    nursery.start_soon(self._read, consumer, arrived)
                    await self._send(producer, wake, started)
                elapsed_s = time.perf_counter() - started
        return (self._records, round(elapsed_s, 3), *self._times.spread())

    async def _send(self, producer: Any, wake: Any, started: float) -> None:
        """Send them all, and wait until the last has arrived, but no longer than a record may take."""
        import trio

        for number in range(self._records):
            if self._rate is not None:
                await trio.sleep(max(started + number / self._rate - time.perf_counter(), 0))
            stamp = STAMP.pack(self._run, time.perf_counter_ns())
            delivery = await producer.send(self._topic, stamp + self._rest)
            if self._rate is None:
                await self._until(number + 1, wake, delivery)
        await self._until(self._records, wake, delivery)

    async def _until(self, count: int, wake: Any, delivery: Delivery) -> None:
        import trio

        with trio.move_on_after(self._settings.timeout_s):
            await delivery.wait()
            delivery.outcome()
            while self._times.count < count:
                await wake.receive()
        if self._times.count < count:
            what = f"{count - self._times.count} of {count} records did not arrive"
            why = f"they were not read back within {self._settings.timeout_s:g} s"
            raise Failure(what, why, f"logd-cli doctor --topic {self._topic}", TIMED_OUT)

    async def _read(self, consumer: Any, arrived: Any) -> None:
        import trio

        while self._times.count < self._records:
            batch = await consumer.read()
            now_ns, before = time.perf_counter_ns(), self._times.count
            for record in batch:
                stamp = (record.value or b"")[: STAMP.size]
                if stamp.startswith(self._run) and len(stamp) == STAMP.size:
                    self._times.add((now_ns - STAMP.unpack(stamp)[1]) / 1e6)
            self._progress.advance(self._times.count - before)
            with suppress(trio.WouldBlock):
                arrived.send_nowait(None)


async def _be_there(admin: Admin, topic: str, create: bool) -> TopicInfo:
    """The topic, made when it is to be. :raises Failure: it does not exist."""
    from logd.client import NewTopic

    if create and topic not in await admin.topics.list():
        await admin.topics.create_one(NewTopic(topic, partitions=1))
        note(f"topic {topic!r} created")
    return await existing_topic(admin, topic)


def values_of(size: int, number: int) -> bytes:
    """A value of so many bytes: half text that repeats, half noise."""
    text = f"record {number} of a benchmark, ".encode() * (size // 50 + 1)
    return text[: size // 2] + os.urandom(size - size // 2)
