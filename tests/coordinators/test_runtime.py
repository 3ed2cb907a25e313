"""The runtime: what a step does, when replies are given, what loading makes of a log."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing

from logd.coordinators.effects import Append, Arm, Disarm, Effect, Record, Reply
from logd.coordinators.front import Waiter
from logd.coordinators.journal import Batch, MemoryJournal, RecordBytes
from logd.coordinators.runtime import RecordForm, Runtime
from logd.coordinators.timer import Timer
from logd.errors import ErrorCode, Refused, StorageFailed
from logd.wire.codec import EncodeError
from logd.wire.message import Message
from logd.wire.schemas.heartbeat import HeartbeatResponse
from logd.wire.schemas.offset_commit import OffsetCommitResponse

LIMIT_MS = 5000


class Note(Message):
    text: str = ""


class Book:
    """A machine that keeps texts: ``text`` is written, ``?`` only answers, ``@ms`` arms a deadline."""

    def __init__(self) -> None:
        self.notes: list[tuple[int, Any, str]] = []
        self.markers: list[tuple[Any, bool]] = []
        self.taken_back: list[str] = []
        self.rang: list[str] = []

    def handle(self, event: Any, now_ms: int) -> Sequence[Effect]:
        if isinstance(event, str):
            self.rang.append(event)
            return [Append((Record(Note(event)),))] if event == "write" else []
        to, *texts = event
        effects: list[Effect] = []
        for text in texts:
            if text.startswith("@"):
                effects.append(Arm(text, int(text[1:].split()[0]), "write"))
            elif text.startswith("!"):
                effects.append(Disarm(text[1:]))
            elif text != "?":
                effects.append(Append((Record(Note(text)),)))
        return [*effects, Reply(to, HeartbeatResponse(len(texts)))]

    def replay(self, offset: int, producer: tuple[int, int] | None, record: Record) -> None:
        assert isinstance(record.key, Note)
        self.notes.append((offset, producer, record.key.text))

    def replay_marker(self, producer: tuple[int, int], committed: bool) -> None:
        self.markers.append((producer, committed))

    def loaded(self, now_ms: int) -> Sequence[Effect]:
        return []

    def unloaded(self) -> Sequence[Effect]:
        return []

    def refused(self, records: Iterable[Record], why: Refused, now_ms: int) -> Sequence[Effect]:
        self.taken_back += [record.key.text for record in records if isinstance(record.key, Note)]
        return []


class FixedClock:
    def now_ms(self) -> int:
        return 1234


def write(record: Record) -> RecordBytes:
    assert isinstance(record.key, Note)
    if record.key.text == "unwritable":
        raise EncodeError("too long")
    return record.key.text.encode(), b""


def read(key: bytes, value: bytes | None) -> Record | None:
    return None if key.startswith(b"unknown") else Record(Note(key.decode()))


class Stage:
    """A runtime at work."""

    def __init__(self, journal: MemoryJournal) -> None:
        self.journal = journal
        self.book = Book()
        self.timer = Timer()
        self.runtime = Runtime("r", self.book, journal, RecordForm(write, read), self.timer, FixedClock(), LIMIT_MS)

    def ask(self, *texts: str) -> Waiter:
        waiter = Waiter()
        self.runtime.step((waiter, *texts))
        return waiter


@asynccontextmanager
async def stage(journal: MemoryJournal | None = None) -> AsyncIterator[Stage]:
    one = Stage(journal or MemoryJournal())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.timer.run)
        nursery.start_soon(one.runtime.release)
        await one.runtime.load()
        yield one
        nursery.cancel_scope.cancel()


def code(waiter: Waiter) -> ErrorCode:
    assert isinstance(waiter.message, Refused)
    return waiter.message.code


@pytest.mark.trio
async def test_one_step_is_one_batch() -> None:
    """All records of a step are one batch, replayed in order at their offsets; the answer is there at once."""
    async with stage() as on:
        assert isinstance(on.ask("a", "b").message, HeartbeatResponse)
        on.ask("c")
        assert [batch.records for batch in on.journal.batches] == [((b"a", b""), (b"b", b"")), ((b"c", b""),)]
        assert on.book.notes == [(0, None, "a"), (1, None, "b"), (2, None, "c")]


@pytest.mark.trio
async def test_replies_wait_for_the_high_watermark() -> None:
    """An answer, even one that only reads, waits until all that was written before it is committed."""
    async with stage() as on:
        on.journal.held = True
        first, second, looks = on.ask("a"), on.ask("b"), on.ask("?")
        await trio.testing.wait_all_tasks_blocked()
        assert (first.message, second.message, looks.message) == (None, None, None)
        on.journal.commit(1)
        await first.wait()
        assert second.message is None
        on.journal.commit()
        await second.wait()
        await looks.wait()


@pytest.mark.trio
async def test_a_late_commit_is_an_error(autojump_clock: trio.testing.MockClock) -> None:
    """What is not committed within the limit is answered so that the client looks again; the next one has its own."""
    async with stage() as on:
        on.journal.held = True
        first = on.ask("a")
        await trio.sleep(3)
        second = on.ask("b")
        with pytest.raises(Refused) as caught:
            await first.wait()
        assert caught.value.code == ErrorCode.COORDINATOR_NOT_AVAILABLE
        assert trio.current_time() == pytest.approx(5)
        on.journal.commit()
        await second.wait()
        assert on.book.notes == [(0, None, "a"), (1, None, "b")]


@pytest.mark.trio
@pytest.mark.parametrize(
    ("failure", "told"),
    [
        (Refused(ErrorCode.NOT_LEADER_OR_FOLLOWER, ""), ErrorCode.NOT_COORDINATOR),
        (Refused(ErrorCode.KAFKA_STORAGE_ERROR, ""), ErrorCode.NOT_COORDINATOR),
        (StorageFailed("log", OSError(5, "broken")), ErrorCode.NOT_COORDINATOR),
        (Refused(ErrorCode.NOT_ENOUGH_REPLICAS, ""), ErrorCode.COORDINATOR_NOT_AVAILABLE),
        (Refused(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, ""), ErrorCode.COORDINATOR_NOT_AVAILABLE),
        (Refused(ErrorCode.MESSAGE_TOO_LARGE, ""), ErrorCode.UNKNOWN_SERVER_ERROR),
        (Refused(ErrorCode.INVALID_RECORD, ""), ErrorCode.INVALID_RECORD),
    ],
)
async def test_a_refused_append_changes_nothing(failure: Exception, told: ErrorCode) -> None:
    """Nothing is replayed, the machine takes back what it thought, and the caller hears a code that it can act on."""
    async with stage() as on:
        on.journal.failure = failure
        assert code(on.ask("a", "b")) == told
        assert on.book.notes == []
        assert on.book.taken_back == ["a", "b"]
        on.journal.failure = None
        on.ask("c")
        assert on.book.notes == [(0, None, "c")]


@pytest.mark.trio
async def test_a_log_that_fails_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    """What is tried ten times a second until the log works again does not fill the disk with warnings."""
    async with stage() as on:
        on.journal.failure = StorageFailed("log", OSError(28, "full"))
        for _ in range(3):
            on.ask("a")
        assert len(caplog.records) == 1
        on.journal.failure = None
        on.ask("a")
        on.journal.failure = StorageFailed("log", OSError(28, "full"))
        on.ask("a")
        assert len(caplog.records) == 2


@pytest.mark.trio
async def test_a_record_that_cannot_be_written_changes_nothing() -> None:
    """A field that its form has no room for (an id of over 32,767 bytes) is refused as a failed append is."""
    async with stage() as on:
        assert code(on.ask("a", "unwritable")) == ErrorCode.UNKNOWN_SERVER_ERROR
        assert (on.book.notes, on.journal.batches) == ([], [])
        assert on.book.taken_back == ["a", "unwritable"]


@pytest.mark.trio
async def test_a_partition_that_fails_answers_all() -> None:
    """When the log goes offline while answers wait, all of them hear of it."""

    class Broken(MemoryJournal):
        async def wait_committed(self, offset: int) -> None:
            await broken.wait()
            raise Refused(ErrorCode.KAFKA_STORAGE_ERROR, "gone")

    broken = trio.Event()
    async with stage(Broken()) as on:
        on.journal.held = True
        waiters = [on.ask("a"), on.ask("?")]
        broken.set()
        for waiter in waiters:
            with pytest.raises(Refused) as caught:
                await waiter.wait()
            assert caught.value.code == ErrorCode.NOT_COORDINATOR


@pytest.mark.trio
async def test_deadlines(autojump_clock: trio.testing.MockClock) -> None:
    """Armed events come in their time, the last arming counts, a disarmed one never comes."""
    async with stage() as on:
        on.ask("@2000 later", "@1000 sooner", "@3000 never", "?")
        await trio.sleep(0.5)
        on.ask("!@3000 never", "@1000 sooner")
        await trio.sleep(0.9)
        assert on.book.rang == []
        await trio.sleep(0.2)
        assert on.book.rang == ["write"]
        await trio.sleep(10)
        assert on.book.rang == ["write", "write"]
        assert len(on.timer) == 0


@pytest.mark.trio
async def test_unloading(autojump_clock: trio.testing.MockClock) -> None:
    """A runtime that serves no more answers whoever waits, and no deadline of its own comes any more."""
    async with stage() as on:
        on.journal.held = True
        waiter = on.ask("a", "@1000 x")
        on.runtime.unload()
        assert code(waiter) == ErrorCode.NOT_COORDINATOR
        await trio.sleep(5)
        assert on.book.rang == []
        on.runtime.step((Waiter(), "b"))
        assert [text for _, _, text in on.book.notes] == ["a"]


@pytest.mark.trio
async def test_loading() -> None:
    """The last record of each key is replayed, in the order of the log; what has an unknown type is passed over."""
    batches = [
        Batch([0, 1], [(b"a", b"1"), (b"b", b"1")]),
        Batch([5], [(b"unknown", b"")]),
        Batch([6], [(b"a", None)]),
    ]
    async with stage(MemoryJournal(batches)) as on:
        assert on.book.notes == [(1, None, "b"), (6, None, "a")]
        on.ask("c")
        assert on.book.notes[-1] == (7, None, "c")


@pytest.mark.trio
async def test_loading_takes_turns() -> None:
    """A log with many keys is replayed in portions: other connections are served meanwhile."""
    turns, loaded = 0, False

    async def other() -> None:
        nonlocal turns
        while not loaded:
            turns += 1
            await trio.lowlevel.checkpoint()

    keys = [(b"k%d" % number, b"") for number in range(5000)]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(other)
        async with stage(MemoryJournal([Batch(range(5000), keys)])) as on:
            loaded = True
    assert len(on.book.notes) == 5000
    assert turns >= 20


@pytest.mark.trio
async def test_loading_transactions() -> None:
    """Records of a transaction are replayed as such, and its end where it stands among them."""
    batches = [
        Batch([0], [(b"a", b"")]),
        Batch([1], [(b"a", b"")], producer=(7, 0)),
        Batch([2], [(b"b", b"")]),
        Batch([3], (), producer=(7, 0), committed=True),
        Batch([4], [(b"a", b"")]),
    ]
    async with stage(MemoryJournal(batches)) as on:
        assert on.book.notes == [(0, None, "a"), (1, (7, 0), "a"), (2, None, "b"), (4, None, "a")]
        assert on.book.markers == [((7, 0), True)]


@pytest.mark.trio
async def test_nothing_is_served_before_it_is_loaded() -> None:
    """A step before loading does nothing."""
    one = Stage(MemoryJournal())
    waiter = one.ask("a")
    assert waiter.message is None
    assert one.journal.batches == []


@pytest.mark.trio
async def test_the_first_answer_counts() -> None:
    """A call that is answered twice keeps its first answer."""
    waiter = Waiter()
    waiter.answer(HeartbeatResponse(1))
    waiter.answer(OffsetCommitResponse())
    assert isinstance(await waiter.wait(), HeartbeatResponse)
