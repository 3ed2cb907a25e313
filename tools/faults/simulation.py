"""One broker in one process, from a seed: disk, network, clock and threads are made up, and all of them misbehave.

The node is the real one (:func:`logd.node.run_node`) on a disk in memory, under trio's deterministic scheduling and a
clock that jumps. Writers, readers and a group talk to it in frames, which get lost on the way there or back; the disk
fails or is full; the power goes, or only the process, at rest or while requests are under way. A seed gives the same
story every time; ``digest`` tells.
"""

from __future__ import annotations

import contextlib
import copy
import errno
import hashlib
import logging
import math
import random
import time
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any
from unittest import mock

import trio
import trio.testing

import logd.node
import logd.partitions.homes
from logd.apis.dispatch import Hangup, Pending, start
from logd.apis.registry import Connection
from logd.cluster.image import Broker, Endpoint
from logd.cluster.store import MemoryStore
from logd.config import load as load_settings
from logd.log.directory import DataDirectories, DataDirectory
from logd.partitions.flusher import Flusher, Work
from logd.wire.batches import read_headers, read_records
from logd.wire.frames import decode_response, request_bytes
from logd.wire.message import Message
from tests.fakes.disks import FaultyDisk, MemoryDisk
from tools.faults import conversation
from tools.faults.conversation import OK, OUT_OF_ORDER, STORAGE, Gone, Talk, Told
from tools.faults.history import Polled, Read
from tools.faults.load import Load, Writer
from tools.faults.peer import key_of
from tools.faults.report import Report, late
from tools.faults.transactions import Transactor, committed_values

DATA = "/data"
EPOCH_MS = 1_790_000_000_000
PATIENCE_S = 5.0
STEPS_A_LIFE = 150
CUT_SHORT_S = 0.5
"""Half of the lives end while requests are under way, by then."""
SETTINGS = {
    "log.roll.ms": "2000",
    "log.flush.mode": "group",
    "log.cleaner.enable": "false",
    "log.retention.check.interval.ms": "1000",
    "log.flush.offset.checkpoint.interval.ms": "700",
    "offsets.topic.num.partitions": "1",
    "transaction.state.log.num.partitions": "1",
    "num.partitions": "1",
    "log.dir.free.bytes.min": "0",
}
FAULTS = ("sync", "write", "allocate", "replace", "sync_directory", "open", "remove", "resize", "rename")


class SimulatedClock:
    """Wall time that follows trio's virtual time, and jumps when it is told to."""

    def __init__(self) -> None:
        self.offset_ms = EPOCH_MS

    def now_ms(self) -> int:
        """Milliseconds since 1970."""
        return self.offset_ms + int(trio.current_time() * 1000)


class SimulatedNode(logd.node.Node):
    """A node without sockets."""

    async def bind(self) -> None:
        """Listens nowhere."""
        self.bootstrap = ["simulated:9092"]

    def registration(self) -> Broker:
        """What the cluster is told."""
        return Broker(0, "simulated", 9092, None, {"PLAINTEXT": Endpoint("simulated", 9092)})


class World:
    """What outlives a crash: the disk and the metadata; and the dice."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.disk = MemoryDisk()
        self.disk.make_directory(DATA)
        self.faulty = FaultyDisk(self.disk)
        self.store = MemoryStore()
        self.clock = SimulatedClock()
        self.node: Any = None
        self.operations = 0
        self.loss = 0.0
        self.thread_s = 0.001
        self.settings = load_settings(None, SETTINGS, {})

    async def open_store(self, directory: Path) -> MemoryStore:
        """The metadata as committed: it is on another, perfect disk."""
        old, self.store = self.store, MemoryStore()
        self.store._entries, self.store._version = dict(old._entries), old._version
        return self.store

    def open_directory(self, paths: Any) -> DataDirectories:
        """The data directory, with no lock to take."""
        clean = self.disk.load(f"{DATA}/.clean-shutdown") is not None
        return DataDirectories(DataDirectory(self.faulty, DATA, None, clean), {})

    def real_disk(self, **_: Any) -> FaultyDisk:
        """What the partitions open their files with."""
        return self.faulty

    async def in_thread(self, work: Callable[..., Any], *args: Any, limiter: Any = None, **_: Any) -> Any:
        """What a worker thread would do, at some later moment."""
        if limiter is not None:
            await limiter.acquire()
        try:
            await trio.sleep(self.chance.random() * self.thread_s)
            return work(*args)
        finally:
            if limiter is not None:
                limiter.release()

    @contextlib.contextmanager
    def taken_in(self) -> Iterator[None]:
        """Put the simulated parts in place of the real ones."""
        ids = count(1)

        def new_id() -> bytes:
            return next(ids).to_bytes(16, "big")

        def begin_flush(flusher: Flusher, work: Work, token: trio.lowlevel.TrioToken) -> None:
            trio.lowlevel.spawn_system_task(self.in_thread, flusher.perform, work, token)

        with (
            mock.patch.object(logd.node, "Node", SimulatedNode),
            mock.patch.object(logd.node, "open_store", self.open_store),
            mock.patch.object(logd.node.DataDirectories, "open", self.open_directory),
            mock.patch.object(logd.node, "new_uuid", new_id),
            mock.patch.object(logd.partitions.homes, "RealDisk", self.real_disk),
            mock.patch.object(trio.to_thread, "run_sync", self.in_thread),
            mock.patch.object(Flusher, "begin", begin_flush),
        ):
            yield


class Link:
    """Holds conversations with the node that is there now; frames get lost on the way there or back."""

    def __init__(self, world: World, number: int) -> None:
        self.world = world
        self.connection = Connection(number, "simulated", "simulated", 9092, "PLAINTEXT")
        self._ids = count(1)

    async def hold(self, talk: Talk) -> Any:
        """Hold a conversation to its end; what it returns. Raises Gone, Told."""
        answer = None
        try:
            while True:
                wanted = talk.send(answer)
                if isinstance(wanted, float):
                    await trio.sleep(wanted)
                    answer = None
                else:
                    answer = await self._ask(*wanted)
        except StopIteration as end:
            return end.value

    async def _ask(self, message: Message, version: int) -> Any:
        world, key = self.world, key_of(message)
        frame = memoryview(bytearray(request_bytes(key, version, next(self._ids), "simulated", message)))[4:]
        world.operations += 1
        await trio.sleep(world.chance.random() * 0.002)
        node = world.node
        if node is None or world.chance.random() < world.loss:
            await trio.sleep(0.02)
            raise Gone("the request was lost")
        try:
            answer = start(frame, self.connection, node.services)
            if isinstance(answer, Pending):
                with trio.fail_after(PATIENCE_S):
                    answer = await answer.parts()
        except (Hangup, trio.TooSlowError) as error:
            raise Gone(str(error)) from error
        if node is not world.node or world.chance.random() < world.loss:
            raise Gone("the answer was lost")
        return decode_response(key, version, b"".join(bytes(part) for part in answer or ())[4:])[1]


class Story:
    """One seed: lives of a broker, each ended by a fault, and clients that see them all."""

    def __init__(self, seed: int, report: Report, lives: int) -> None:
        self.world = World(seed)
        self.report = report
        self.lives = lives
        self.load = Load(self.world.chance, record_bytes=40)
        self.faults: list[str] = []
        self.readers = 0
        self.transactor = Transactor("tx", [("ledger", 0), ("ledger", 1)], self.load.events)

    async def run(self) -> None:
        """All lives, a last one without faults, and the last read."""
        with self.world.taken_in():
            for _ in range(self.lives):
                await self.live(faults=True)
            await self.live(faults=False)
        self.load.places += self.transactor.places
        self.report.add(self.load.anomalies(), f"after {self.faults}")

    async def live(self, *, faults: bool) -> None:
        """Start a node, let clients work, end it."""
        world = self.world
        world.faulty = FaultyDisk(world.disk)
        world.loss = world.chance.choice((0.0, 0.02, 0.1)) if faults else 0.0
        world.thread_s = world.chance.choice((0.0, 0.002, 0.05))
        left: MemoryDisk | None = None
        try:
            async with trio.open_nursery() as nursery:
                node = await nursery.start(partial(logd.node.run_node, world.settings, clock=world.clock))
                world.node = node
                if faults:
                    await self.work(STEPS_A_LIFE)
                    self.arm()
                    with trio.move_on_after(world.chance.choice((math.inf, world.chance.random() * CUT_SHORT_S))):
                        await self.work(STEPS_A_LIFE // 3)
                    end = world.chance.choice(("power", "power", "kill", "stop"))
                else:
                    await self.heal()
                    end = "stop"
                world.node = None
                if end == "power":  # now: what the node does on its way out is not on the disk
                    left = copy.deepcopy(world.disk).lose_power(world.chance)
                getattr(node, "stop" if end == "stop" else "kill")()
            self.faults.append(end)
        except BaseExceptionGroup as group:
            refused = group.subgroup(logd.node.CannotStart)
            if refused is None or len(refused.exceptions) != len(group.exceptions):
                raise
            self.report.count("refused_to_start")
            end, left = "power", world.disk.lose_power(world.chance)
        world.node = None
        self.report.count(end)
        if end == "power":
            assert left is not None
            world.disk = left
        self.report.faults += 1

    def arm(self) -> None:
        """Have some call of the disk fail, or the disk be full."""
        world = self.world
        if world.chance.random() < 0.5:
            name, number = world.chance.choice(FAULTS), world.chance.choice((errno.EIO, errno.ENOSPC))
            world.faulty.arm(name, world.chance.randrange(1, 12), number)
            self.faults.append(f"{name}:{errno.errorcode[number]}")
            self.report.count("disk_faults")
        if world.chance.random() < 0.3:
            jump_ms = world.chance.choice((1000, 60_000, 3600_000, -5000, -3600_000))
            world.clock.offset_ms += jump_ms
            self.faults.append(f"clock:{jump_ms}")
            self.report.count("clock_jumps")

    async def work(self, steps: int) -> None:
        """Clients at work, side by side."""
        async with trio.open_nursery() as nursery:
            if not self.load.writers:
                await self._try(Link(self.world, 0), self.load.beginning("simulated", 3))
            for number, writer in enumerate(self.load.writers):
                nursery.start_soon(self._write, Link(self.world, number), writer, steps // 3)
                await self._try(Link(self.world, 0), conversation.create("ledger", 2))
            nursery.start_soon(self._transact, Link(self.world, 12), steps // 12)
            nursery.start_soon(self._see_committed, Link(self.world, 13), steps // 12)
            if self.load.places:
                nursery.start_soon(self._poll, Link(self.world, 10), steps // 3)
                nursery.start_soon(self._commit, Link(self.world, 11), steps // 20)

    async def _try(self, link: Link, talk: Talk) -> Any:
        try:
            return await link.hold(talk)
        except Gone:
            return None
        except Told as told:
            if told.code == OUT_OF_ORDER:
                self.report.wrong("lost", f"{told}, after {self.faults}")
            return None

    async def _write(self, link: Link, writer: Writer, steps: int) -> None:
        was_refused = False
        for _ in range(steps):
            times = self.world.clock.now_ms()
            code = await self._try(link, writer.talk(self.world.chance.randrange(1, 5), times))
            if code == OK and was_refused and self.world.faulty.fired("sync"):
                self.report.wrong("acknowledged-after-failed-flush", f"{writer.stream.place} after {self.faults}")
            was_refused = was_refused or code == STORAGE

    async def _poll(self, link: Link, steps: int) -> None:
        self.readers += 1
        reader = self.readers
        for topic, partition in self.load.places:
            at = 0
            for _ in range(steps // 3):
                answer = await self._try(link, conversation.fetch(topic, partition, at, 3000))
                for position, header in read_headers(answer[1]) if answer and not answer[0] else ():
                    for one in read_records(answer[1], position, bytes_max=1 << 20):
                        if one.offset >= at:
                            value = (one.value or b"").decode().rstrip(".")
                            self.load.events.append(Polled(f"c{reader}", f"{topic}-{partition}", one.offset, value))
                    at = header.next_offset

    async def _transact(self, link: Link, steps: int) -> None:
        """Transactions one after the other; one that meets trouble is given up, and aborted by the next beginning."""
        ready = False
        for _ in range(steps):
            chance = self.world.chance
            try:
                if not ready:
                    await link.hold(self.transactor.begin())
                times = self.world.clock.now_ms()
                await link.hold(self.transactor.transaction(chance.randrange(1, 4), chance.random() < 0.7, times))
                ready = True
            except (Gone, Told):
                ready = False

    async def _see_committed(self, link: Link, steps: int) -> None:
        """Read what is committed, in the middle of transactions too."""
        for _ in range(steps):
            for topic, partition in self.transactor.places:
                self.readers += 1
                reader, seen = f"t{self.readers}", await self._try(link, committed_values(topic, partition))
                found, _ = seen or ([], 0)
                self.load.events += [Polled(reader, f"{topic}-{partition}", *one, True) for one in found]

    async def _commit(self, link: Link, steps: int) -> None:
        for _ in range(steps):
            await self._try(link, self.load.committing())

    async def heal(self) -> None:
        """Everybody is acknowledged, and everything is read."""
        link = Link(self.world, 99)
        try:
            for writer in self.load.writers:
                code = await link.hold(writer.talk(1, self.world.clock.now_ms()))
                if code != OK:
                    self.report.wrong("not-recovered", f"{writer.stream.place} answers {code} after {self.faults}")
                    return
            await link.hold(conversation.create("ledger", 2))  # if no life has come to it
            await link.hold(self.transactor.begin())
            for topic, partition in self.transactor.places:
                found, beyond = await link.hold(committed_values(topic, partition))
                self.load.events += [Read(f"{topic}-{partition}", *one, True) for one in found]
                if beyond:
                    self.report.wrong("hanging-transaction", f"{topic}-{partition}: {beyond} records, {self.faults}")
            await link.hold(self.load.reading())
        except (Gone, Told) as error:
            self.report.wrong("not-recovered", f"{error!r} after {self.faults}")


def run(seed: int, rounds: int, directory: Path) -> Report:
    """``rounds`` seeds, from ``seed`` on, of some lives each."""
    logging.getLogger("logd").setLevel(logging.CRITICAL)
    report = Report("simulation", seed)
    digest = hashlib.sha256()
    begun, operations = time.monotonic(), 0
    for number in range(seed, seed + rounds):
        if late():
            break
        found = len(report.found)
        story = Story(number, report, 5)
        deterministic(story.run, number)
        operations += story.world.operations
        for event in story.load.events:
            digest.update(repr(event).encode())
        report.count("acknowledged", story.load.acknowledged)
        report.count("transactions_committed", story.transactor.committed)
        if len(report.found) > found:
            report.wrong("seed", f"repeat with --seed {number} --rounds 1")
    report.figures["operations"] = operations
    report.figures["operations_a_second"] = int(operations / (time.monotonic() - begun))
    report.figures["digest"] = digest.hexdigest()[:16]
    return report


def deterministic(main: Callable[[], Awaitable[None]], seed: int) -> None:
    """Run under a clock that jumps, with trio's scheduling from a seed: two private names, here and nowhere else."""
    with (
        mock.patch.object(trio._core._run, "_ALLOW_DETERMINISTIC_SCHEDULING", True),
        mock.patch.object(trio._core._run, "_r", random.Random(seed)),
    ):
        trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
