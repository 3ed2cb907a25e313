"""Random stories of a shard of transactions: the log alone gives the same hard state, nothing hangs, nobody is two."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from logd.coordinators.transaction import EPOCH_LAST, IDLE, PREPARED
from logd.coordinators.transaction_events import VersionChosen
from logd.coordinators.transactions import TransactionLimits
from logd.errors import Refused
from logd.wire.schemas.end_txn import EndTxnResponse
from logd.wire.schemas.init_producer_id import InitProducerIdResponse
from logd.wire.transactions import State
from tests.coordinators.transaction_story import Story

IDS = st.sampled_from(["x", "y"])
PLACES = st.sampled_from([("t", 0), ("t", 1), ("u", 0)])
LIMITS = TransactionLimits(expiration_ms=500_000, sweep_every_ms=100_000, sweep_records_max=1)


class Stories(RuleBasedStateMachine):
    """Producers of old and new versions, twice under each id; markers that come late; disks that fail."""

    def __init__(self) -> None:
        super().__init__()
        self.story = Story(LIMITS)
        self.calls = 0
        self.held: dict[str, list[tuple[int, int]]] = {"x": [(1, 0)], "y": [(1, 0)]}
        self.given: set[tuple[str, int, int]] = set()
        self.decided: dict[tuple[int, int], bool] = {}

    def call(self) -> str:
        self.calls += 1
        return f"call {self.calls}"

    def producer(self, transactional_id: str, which: int) -> tuple[int, int]:
        """The one in force mostly, else one that was."""
        held = self.held[transactional_id]
        return held[-1 - which % len(held)] if which > 3 else held[-1]

    def take(self, transactional_id: str, to: str) -> None:
        answer = self.story.answers[to]
        if isinstance(answer, InitProducerIdResponse | EndTxnResponse):
            self.held[transactional_id].append((answer.producer_id, answer.producer_epoch))

    @rule(transactional_id=IDS, version=st.sampled_from([1, 5]))
    def init(self, transactional_id: str, version: int) -> None:
        """A producer that is new gets an identity that nobody ever had."""
        to = self.call()
        self.story.init(to, transactional_id, version=version)
        answer = self.story.answers[to]
        if isinstance(answer, InitProducerIdResponse):
            identity = transactional_id, answer.producer_id, answer.producer_epoch
            assert identity not in self.given
            self.given.add(identity)
        self.take(transactional_id, to)

    @rule(transactional_id=IDS, which=st.integers(0, 8))
    def init_named(self, transactional_id: str, which: int) -> None:
        to = self.call()
        self.story.init(to, transactional_id, self.producer(transactional_id, which))
        self.take(transactional_id, to)

    @rule(transactional_id=IDS, which=st.integers(0, 5), place=PLACES, version=st.sampled_from([3, 5, 5]))
    def add(self, transactional_id: str, which: int, place: tuple[str, int], version: int) -> None:
        to = self.call()
        producer = self.producer(transactional_id, which)
        self.story.add(to, producer, place, transactional_id=transactional_id, version=version)
        if not isinstance(self.story.answers[to], Refused):
            found = self.story.machine.transactions[transactional_id]
            assert (found.producer_id, found.epoch) == producer
            assert found.state is State.ONGOING
            assert place in found.partitions

    @rule(transactional_id=IDS, which=st.integers(0, 5), commit=st.booleans(), version=st.sampled_from([3, 5, 5]))
    def end(self, transactional_id: str, which: int, commit: bool, version: int) -> None:
        to = self.call()
        producer = self.producer(transactional_id, which)
        self.story.end(to, producer, commit, transactional_id=transactional_id, version=version)
        self.take(transactional_id, to)

    @precondition(lambda self: self.story.unsent)
    @rule()
    def mark(self) -> None:
        self.story.mark()

    @precondition(lambda self: self.story.unsent)
    @rule()
    def mark_twice(self) -> None:
        """The same markers are reported twice, by a coordinator that was reloaded in between."""
        effect = self.story.unsent[0]
        self.story.mark()
        self.story.step(effect.written)

    @precondition(lambda self: self.story.untaken)
    @rule()
    def take_id(self) -> None:
        self.story.take_id()

    @rule(ms=st.sampled_from([1, 1_000, 60_000, 120_000, 600_000]))
    def time_passes(self, ms: int) -> None:
        self.story.advance(ms)

    @rule()
    def reload(self) -> None:
        self.story.reload()

    @rule()
    def log_fails(self) -> None:
        self.story.failing = True

    @rule()
    def log_works(self) -> None:
        self.story.failing = False

    @rule(level=st.sampled_from([0, 1, 2, 2]))
    def choose(self, level: int) -> None:
        self.story.step(VersionChosen(level))

    @rule(transactional_id=IDS)
    def wear_out(self, transactional_id: str) -> None:
        """Use up epochs until the last but one, so that the exchange of ids is met."""
        found = self.story.machine.transactions.get(transactional_id)
        if found is None or found.state not in IDLE or found.epoch >= EPOCH_LAST - 1:
            return
        self.story.wear_out(transactional_id, EPOCH_LAST - 1)
        self.held[transactional_id].append((found.producer_id, EPOCH_LAST - 1))

    @invariant()
    def same_as_log(self) -> None:
        """The log says all that there is."""
        assert self.story.replayed().transactions == self.story.machine.transactions
        self.story.machine.check()

    @invariant()
    def every_end_is_one_end(self) -> None:
        """Markers of one producer and epoch never say two things, where each transaction has an epoch of its own."""
        for effect in self.story.unsent:
            if effect.version >= 2:
                assert self.decided.setdefault(effect.producer, effect.committed) is effect.committed

    @invariant()
    def nothing_hangs(self) -> None:
        """What is open has a deadline; what is ending has markers under way, or a deadline to go on."""
        for transactional_id, found in self.story.machine.transactions.items():
            armed = ("transaction", transactional_id) in self.story.deadlines
            if found.state is State.ONGOING:
                expired = any(event.producer_id == found.producer_id for event in self.story.untaken)
                assert armed or expired
            if found.state in PREPARED:
                under_way = any(effect.producer == (found.producer_id, found.epoch) for effect in self.story.unsent)
                assert armed or under_way


Stories.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestStories = Stories.TestCase
