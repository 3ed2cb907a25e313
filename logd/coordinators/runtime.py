"""Runs a coordinator's machine over one partition of its topic.

Owns the order that makes a step atomic: the machine says what it wants, all records go to the journal as one batch,
what was written is replayed, then timers are set and replies given. A reply waits until everything written before it
is committed, or fails after a limit. Loading is the same replay, from the log. Used by the front of each coordinator;
it knows nothing of groups, nor of what the records mean.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, Protocol

import msgspec
import trio

from logd.chronicle import Note
from logd.clock import Clock
from logd.coordinators.effects import Append, Arm, AtOnce, Disarm, Effect, Record, Reply, SendMarkers, TakeProducerId
from logd.coordinators.journal import Batch, Journal, Producer, RecordBytes
from logd.coordinators.timer import Timer
from logd.errors import ErrorCode, Refused, StorageFailed
from logd.wire.codec import EncodeError
from logd.wire.message import Message

logger = logging.getLogger(__name__)

RECORDS_AT_ONCE = 200
"""How many records are replayed between two checkpoints of the loop while loading: a millisecond."""

_AS_TOLD: dict[ErrorCode, ErrorCode] = {
    ErrorCode.UNKNOWN_TOPIC_OR_PARTITION: ErrorCode.COORDINATOR_NOT_AVAILABLE,
    ErrorCode.NOT_ENOUGH_REPLICAS: ErrorCode.COORDINATOR_NOT_AVAILABLE,
    ErrorCode.NOT_ENOUGH_REPLICAS_AFTER_APPEND: ErrorCode.COORDINATOR_NOT_AVAILABLE,
    ErrorCode.REQUEST_TIMED_OUT: ErrorCode.COORDINATOR_NOT_AVAILABLE,
    ErrorCode.NOT_LEADER_OR_FOLLOWER: ErrorCode.NOT_COORDINATOR,
    ErrorCode.KAFKA_STORAGE_ERROR: ErrorCode.NOT_COORDINATOR,
    ErrorCode.MESSAGE_TOO_LARGE: ErrorCode.UNKNOWN_SERVER_ERROR,
    ErrorCode.RECORD_LIST_TOO_LARGE: ErrorCode.UNKNOWN_SERVER_ERROR,
}
"""What a client of a coordinator hears of a failed append: errors that make it look for the coordinator again."""


class Caller(Protocol):
    """A parked call: gets one answer, or the reason why there is none."""

    def answer(self, message: Message | Refused) -> None: ...


class Machine(Protocol):
    """A replicated state machine (design, section 3)."""

    def handle(self, event: Any, now_ms: int) -> Sequence[Effect]:
        """What an event asks for. May change soft state, never hard state."""
        ...

    def at_once(self, event: Any, now_ms: int) -> AtOnce | None:
        """The same for an event whose answer is known beforehand; None, and nothing changed, if it must be handled."""
        ...

    def replay(self, offset: int, producer: Producer | None, record: Record) -> None:
        """Take one written record into the hard state."""
        ...

    def replay_marker(self, producer: Producer, committed: bool) -> None:
        """A transaction ended."""
        ...

    def loaded(self, now_ms: int) -> Sequence[Effect]:
        """All records are replayed: serve."""
        ...

    def unloaded(self) -> Sequence[Effect]:
        """Serve no more: answer whoever waits."""
        ...

    def refused(self, records: Iterable[Record], why: Refused, now_ms: int) -> Sequence[Effect]:
        """These records were not written: take soft state back to what is."""
        ...


class RecordForm(msgspec.Struct, frozen=True):
    """How a coordinator's records look as bytes. `read` gives None for a type that it does not know."""

    write: Callable[[Record], RecordBytes]
    read: Callable[[bytes, bytes | None], Record | None]


class _Parked(msgspec.Struct, frozen=True):
    offset: int
    limit_s: float
    to: Caller
    message: Message | Refused


def as_told(why: Refused | StorageFailed | EncodeError) -> Refused:
    """What a failed append is called towards clients."""
    if isinstance(why, EncodeError):
        return Refused(ErrorCode.UNKNOWN_SERVER_ERROR, f"what was to be kept can't be written down: {why}")
    if isinstance(why, StorageFailed):
        return Refused(ErrorCode.NOT_COORDINATOR, f"the coordinator's log failed: {why}")
    return Refused(_AS_TOLD.get(why.code, why.code), why.message)


class Runtime:
    """One machine over one journal. Everything but :meth:`load` and :meth:`release` is synchronous.

    :param limit_ms: how long a reply may wait for what was written before it.
    :param steady: the time of deadlines that ask for a steady one; else `clock`.
    :param send: does in a task what a step can't: markers, written when the offset that it is given is committed, and
        new producer ids.
    :param tell: remembers what happened, for those who ask why.
    """

    def __init__(
        self,
        name: Hashable,
        machine: Machine,
        journal: Journal,
        form: RecordForm,
        timer: Timer,
        clock: Clock,
        limit_ms: int,
        send: Callable[[SendMarkers | TakeProducerId, int], None] | None = None,
        tell: Callable[[Note, int], None] | None = None,
        steady: Clock | None = None,
    ) -> None:
        self.name = name
        self.machine = machine
        self.serving = False
        self._journal = journal
        self._form = form
        self._timer = timer
        self._clock = clock
        self._steady = steady or clock
        self._limit_s = limit_ms / 1000
        self._send = send
        self._tell = tell
        self._written = 0
        self._complained = ""
        self._parked: deque[_Parked] = deque()
        self._someone_waits = trio.Event()
        self._closed = False

    # Steps

    def step(self, event: object, clock: Clock | None = None) -> None:
        """Let the machine handle one event, and do what it asks for."""
        if self.serving:
            now_ms = (clock or self._clock).now_ms()
            self._carry_out(self.machine.handle(event, now_ms), now_ms)

    def at_once(self, event: object) -> bool:
        """Carry out an event whose answer is known and would not have to wait for anything.

        :returns: False, and then nothing has changed: :meth:`step` has to handle the request, and tells what fails.
        """
        if not self.serving or self._parked or not self._journal.commits_at_once:
            return False
        now_ms = self._clock.now_ms()
        found = self.machine.at_once(event, now_ms)
        if found is None:
            return False
        try:
            self._written = self._journal.append(found.records, now_ms)
        except (Refused, StorageFailed):
            return False
        self._complained = ""
        found.keep(self._written - len(found.records))
        for effect in found.effects:
            self._do(effect, now_ms)
        return True

    def _carry_out(self, effects: Sequence[Effect], now_ms: int) -> None:
        appends = [effect for effect in effects if type(effect) is Append]
        records = [record for append in appends for record in append.records] if appends else ()
        if records:
            try:
                self._write(records, appends[0].producer, now_ms)
            except (Refused, StorageFailed, EncodeError) as why:
                self._take_back(effects, records, as_told(why), now_ms)
                return
        for effect in effects:
            if type(effect) is Reply:
                self._reply(effect.to, effect.message)
            elif type(effect) is not Append:
                self._do(effect, now_ms)

    def _do(self, effect: Effect, now_ms: int) -> None:
        match effect:
            case Arm() | Disarm():
                self._set_timer(effect)
            case Note():
                if self._tell is not None:
                    self._tell(effect, now_ms)
            case SendMarkers() | TakeProducerId():
                assert self._send is not None, "only transactions have markers"
                self._send(effect, self._written)

    def _write(self, records: Sequence[Record], producer: Producer | None, now_ms: int) -> None:
        self._written = self._journal.append([self._form.write(record) for record in records], now_ms, producer)
        self._complained = ""
        base = self._written - len(records)
        for index, record in enumerate(records):
            self.machine.replay(base + index, producer, record)

    def end_transaction(self, producer: Producer, committed: bool, append: Callable[[], int]) -> None:
        """Write the marker that ends a transaction, then let the machine know; what is answered later waits for it.

        :param append: writes the marker and returns the next offset. What it raises comes out of here, and then nothing
            has changed.
        """
        self._written = append()
        self.machine.replay_marker(producer, committed)

    def _take_back(self, effects: Sequence[Effect], records: Sequence[Record], why: Refused, now_ms: int) -> None:
        if why.message != self._complained:  # once for as long as it stays the same: some of it is tried for ever
            self._complained = why.message
            logger.warning("%s: %d records were not written: %s", self.name, len(records), why.message)
        for effect in effects:
            match effect:
                case Reply():
                    self._reply(effect.to, why)
                case Arm() | Disarm():
                    self._set_timer(effect)
        self._carry_out(self.machine.refused(records, why, now_ms), now_ms)

    def _set_timer(self, effect: Arm | Disarm) -> None:
        if isinstance(effect, Disarm):
            self._timer.disarm(self.name, effect.key)
        else:
            event, clock = effect.event, self._steady if effect.steady else self._clock
            self._timer.arm(self.name, effect.key, effect.after_ms, lambda: self.step(event, clock))

    # Replies

    def _reply(self, to: Any, message: Message | Refused) -> None:
        if not self._parked and self._journal.high_watermark >= self._written:
            to.answer(message)
            return
        self._parked.append(_Parked(self._written, trio.current_time() + self._limit_s, to, message))
        self._someone_waits.set()

    async def release(self) -> None:
        """Give parked replies as their records are committed, until :meth:`unload`."""
        while not self._closed:
            await self._someone_waits.wait()
            self._someone_waits = trio.Event()
            while self._parked:
                await self._release_first()

    async def _release_first(self) -> None:
        first = self._parked[0]
        try:
            with trio.move_on_at(first.limit_s):
                await self._journal.wait_committed(first.offset)
        except (Refused, StorageFailed) as why:
            self._fail_parked(as_told(why))
            return
        while self._parked and self._parked[0].offset <= self._journal.high_watermark:
            parked = self._parked.popleft()
            parked.to.answer(parked.message)
        late = Refused(
            ErrorCode.COORDINATOR_NOT_AVAILABLE, f"not committed within {self._limit_s:g} s (offsets.commit.timeout.ms)"
        )
        while self._parked and self._parked[0].limit_s <= trio.current_time():
            self._parked.popleft().to.answer(late)

    def _fail_parked(self, why: Refused) -> None:
        while self._parked:
            self._parked.popleft().to.answer(why)

    # Loading

    async def load(self) -> None:
        """Replay the log, then serve.

        :raises Refused, StorageFailed, Corrupt, DecodeError: the log can't be read; the machine does not serve.
        """
        loader = _Loader(self.machine, self._form)
        self._written = self._journal.end_offset
        async for batch in self._journal.read_all():
            await loader.take(batch)
        await loader.finish()
        self.serve()

    def serve(self) -> None:
        """Begin to serve what has been replayed; enough for a log in which nothing is yet."""
        if self._closed:
            return
        self.serving = True
        now_ms = self._clock.now_ms()
        self._carry_out(self.machine.loaded(now_ms), now_ms)

    def unload(self) -> None:
        """Serve no more: timers stop, and whoever waits is told to look elsewhere."""
        self._closed = True
        if self.serving:
            self.serving = False
            moved = Refused(ErrorCode.NOT_COORDINATOR, "another node coordinates this now: find the coordinator again")
            for effect in self.machine.unloaded():
                if isinstance(effect, Reply):
                    to: Any = effect.to
                    to.answer(effect.message)
            self._fail_parked(moved)
        self._timer.disarm_all(self.name)
        self._someone_waits.set()


class _Loader:
    """Replays a log. Of plain records only the last one of each key is decoded, so that an old log loads fast."""

    def __init__(self, machine: Machine, form: RecordForm) -> None:
        self._machine = machine
        self._form = form
        self._last: dict[bytes, tuple[int, bytes | None]] = {}

    async def take(self, batch: Batch) -> None:
        if batch.producer is None:
            for offset, (key, value) in zip(batch.offsets, batch.records, strict=True):
                self._last.pop(key, None)
                self._last[key] = (offset, value)
            return
        await self.finish()
        if batch.committed is not None:
            self._machine.replay_marker(batch.producer, batch.committed)
            return
        for offset, (key, value) in zip(batch.offsets, batch.records, strict=True):
            self._replay(offset, batch.producer, key, value)

    async def finish(self) -> None:
        for number, (key, (offset, value)) in enumerate(self._last.items(), 1):
            if number % RECORDS_AT_ONCE == 0:
                await trio.lowlevel.checkpoint()
            self._replay(offset, None, key, value)
        self._last = {}

    def _replay(self, offset: int, producer: Producer | None, key: bytes, value: bytes | None) -> None:
        record = self._form.read(key, value)
        if record is not None:
            self._machine.replay(offset, producer, record)
