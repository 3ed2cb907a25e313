"""Random transactions on a log against a plain list: what is open, stable and aborted, over crashes and lost files."""

from __future__ import annotations

import random
from typing import NamedTuple

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from logd.log.aborted import TXN_INDEX_SUFFIX
from logd.log.log import Log, LogConfig
from logd.log.transactions import NEVER
from tests.fakes.disks import MemoryDisk
from tests.log.batches import TOPIC_ID, append, batch, checkpoint, flush, mark

CONFIG = LogConfig(segment_bytes=700, index_interval_bytes=200, retention_ms=500, file_delete_delay_ms=100)
PATH = "/data/t-0"
PRODUCERS = 4


class Entry(NamedTuple):
    """A batch in the log: data of a transaction or not, or (``ends``) a marker that commits or aborts."""

    offset: int
    next_offset: int
    producer: int
    transactional: bool
    ends: bool | None = None


class TransactionsMachine(RuleBasedStateMachine):
    """The log must say of its transactions what a reader of all that was ever appended would say."""

    def __init__(self) -> None:
        super().__init__()
        self.disk = MemoryDisk()
        self.log = Log.create(PATH, TOPIC_ID, CONFIG, now_ms=0, disk=self.disk)
        self.entries: list[Entry] = []  # all ever, less what was truncated or lost
        self.now_ms = 1000
        self.epoch = 0
        self.high_watermark = 0

    @initialize()
    def settle(self) -> None:
        self.disk.sync_directory("/data")

    @rule(steps=st.lists(st.tuples(st.integers(0, PRODUCERS - 1), st.sampled_from("wwwac")), min_size=4, max_size=20))
    def interleave(self, steps: list[tuple[int, str]]) -> None:
        """Transactions of several producers side by side."""
        for producer, what in steps:
            if what == "w":
                self.write(1, producer)
            else:
                self.end(producer, what == "c")

    @rule(count=st.integers(1, 3), producer=st.integers(0, PRODUCERS - 1))
    def write(self, count: int, producer: int) -> None:
        """A transaction begins or goes on."""
        data = batch(
            count, value=bytes(40), timestamp=self.now_ms, producer=producer, sequence=self._sequence(producer),
            transactional=True,
        )  # fmt: skip
        self._appended(append(self.log, data, epoch=self.epoch, now_ms=self.now_ms).base_offset, producer, True)

    @rule(producer=st.integers(-1, PRODUCERS - 1))
    def write_plain(self, producer: int) -> None:
        """Records outside of any transaction."""
        if producer in _open_at(self.entries):
            producer = -1
        data = batch(1, timestamp=self.now_ms, producer=producer, sequence=self._sequence(producer))
        self._appended(append(self.log, data, epoch=self.epoch, now_ms=self.now_ms).base_offset, producer, False)

    @rule(producer=st.integers(0, PRODUCERS - 1), committed=st.booleans())
    def end(self, producer: int, committed: bool) -> None:
        """A marker; also one for a producer that has no transaction here."""
        offset = mark(self.log, producer, committed=committed, leader_epoch=self.epoch)
        self.entries.append(Entry(offset, offset + 1, producer, True, committed))

    def _appended(self, offset: int, producer: int, transactional: bool) -> None:
        self.entries.append(Entry(offset, self.log.end_offset, producer, transactional))
        self.now_ms += 10

    def _sequence(self, producer: int) -> int:
        known = self.log.producers.get(producer)
        return known.last_sequence + 1 if known is not None else 0

    @rule()
    def flush(self) -> None:
        flush(self.log)
        self._commit()

    def _commit(self) -> None:
        """What is flushed is committed."""
        self.high_watermark = self.log.flushed_offset
        self.log.transactions.committed(self.high_watermark)

    @rule()
    def checkpoint(self) -> None:
        checkpoint(self.log, self.high_watermark)

    @rule()
    def make_recovery_point(self) -> None:
        self.log.checkpoints.since_point_bytes = 2**40
        flush(self.log)
        self._commit()

    @rule()
    def roll(self) -> None:
        if self.log.segments[-1].size:
            self.log.roll(self.now_ms)

    @rule(fraction=st.floats(0, 1))
    def delete_records(self, fraction: float) -> None:
        start, end = self.log.start_offset, min(self.log.flushed_offset, self.high_watermark)
        target = start + int(max(0, end - start) * fraction)
        self.log.advance_start(
            max([one.offset for one in self.entries if start <= one.offset <= target], default=start)
        )
        checkpoint(self.log, self.high_watermark)
        self.disk.sync_directory(PATH)

    @rule()
    def retention(self) -> None:
        self.log.delete_segments(self.log.expired(self.now_ms, min(self.high_watermark, self._unstable())), self.now_ms)
        removal = self.log.removal(self.now_ms)
        if removal is not None:
            removal.run()

    @rule(fraction=st.floats(0, 1))
    def truncate(self, fraction: float) -> None:
        """But not to where only batches that are deleted would tell who had a transaction open: no snapshot is kept for
        that, as one node never truncates."""
        start, end = self.log.start_offset, self.log.end_offset
        target = start + int((end - start) * fraction)
        known = (
            [0, *self.log.checkpoints.snapshots]
            if not self.log.segments[0].base_offset
            else self.log.checkpoints.snapshots
        )
        if not any(one <= self._batch_at(target) for one in known):
            return
        reached = self.log.truncate(target)
        self._lose(reached)
        self.log.transactions.committed(self.high_watermark)
        self.epoch += 1

    def _batch_at(self, offset: int) -> int:
        return max([one.offset for one in self.entries if one.offset <= offset], default=0)

    def _lose(self, end: int) -> None:
        self.entries = [one for one in self.entries if one.next_offset <= end]
        self.high_watermark = min(self.high_watermark, end)

    @rule(clean=st.booleans(), lost=st.booleans(), at=st.integers(0, 99), damage=st.sampled_from(["", "gone", "bit"]))
    def restart(self, clean: bool, lost: bool, at: int, damage: str) -> None:
        """A stop or the death of the process, and an index file that is lost or changed before the next start."""
        self.log.close(clean=clean)
        files = sorted(one for one in self.disk.names if one.endswith(TXN_INDEX_SUFFIX))
        if files and damage:
            path = files[at % len(files)]
            if damage == "gone":
                self.disk.remove(path)
            else:
                self.disk.open(path).data[-1 - at % 34] ^= 1 << at % 8
        self._reopen()

    @rule(seed=st.integers(0, 2**32))
    def cut_power(self, seed: int) -> None:
        flushed, start = self.log.flushed_offset, self.log.start_offset
        self.disk = self.disk.lose_power(random.Random(seed))
        self._reopen()
        assert self.log.end_offset >= flushed
        self.log.advance_start(min(start, self.log.end_offset))
        if self.log.start_offset > start:
            self.entries = [one for one in self.entries if one.offset >= self.log.start_offset]

    def _reopen(self) -> None:
        self.log = Log.open(PATH, CONFIG, clean=False, now_ms=self.now_ms, disk=self.disk)
        self._lose(self.log.end_offset)
        self.high_watermark = max(self.log.flushed_offset, self.high_watermark)
        self.log.transactions.committed(self.high_watermark)
        self.epoch = max(self.epoch, self.log.epochs.latest) + 1

    # What a reader of everything says

    def _unstable(self) -> int:
        """The first offset of a transaction without a marker, or with one that is not below the high watermark."""
        counting = [one for one in self.entries if one.ends is None or one.offset < self.high_watermark]
        return min(_open_at(counting).values(), default=NEVER)

    def _ended(self) -> list[tuple[bool, int, list[int]]]:
        """Of every transaction that was ended: whether it was committed, its marker, and its data that is left."""
        found = []
        data: dict[int, list[int]] = {}
        for one in self.entries:
            if one.ends is None and one.transactional:
                data.setdefault(one.producer, []).append(one.offset)
            elif one.ends is not None and one.producer in data:
                left = [offset for offset in data.pop(one.producer) if offset >= self.log.start_offset]
                if left:
                    found.append((one.ends, one.offset, left))
        return found

    @invariant()
    def knows_what_is_open(self) -> None:
        open_ones = {one.producer_id: one.txn_first_offset for one in self.log.producers if one.txn_first_offset >= 0}
        assert open_ones == _open_at(self.entries)
        assert len(self.log.transactions) == len(open_ones)

    @invariant()
    def knows_what_is_stable(self) -> None:
        assert min(self.log.transactions.first_unstable, self.high_watermark) == min(
            self._unstable(), self.high_watermark
        )

    @invariant()
    def knows_what_was_aborted(self) -> None:
        everything = self.log.aborted.find(self.log.start_offset, self.log.end_offset)
        entries = {one.last_offset: one for one in everything}
        assert list(entries) == sorted(entries)
        for committed, marker, left in self._ended():
            assert (marker in entries) != committed
            if not committed:
                assert entries[marker].first_offset <= left[0]
        data = [one for one in self.entries if one.ends is None]
        for entry in everything:
            inside = [one for one in data if entry.first_offset <= one.offset < entry.last_offset]
            assert all(one.transactional for one in inside if one.producer == entry.producer_id)
        for start in range(self.log.start_offset, self.log.end_offset):
            for size in (1, 3, 10):
                wanted = [one for one in everything if one.last_offset >= start and one.first_offset < start + size]
                assert self.log.aborted.find(start, start + size) == wanted


def _open_at(entries: list[Entry]) -> dict[int, int]:
    """The first offsets of the transactions that these leave open, by producer."""
    found: dict[int, int] = {}
    for one in entries:
        if one.ends is not None:
            found.pop(one.producer, None)
        elif one.transactional:
            found.setdefault(one.producer, one.offset)
    return found


TestTransactions = TransactionsMachine.TestCase
TestTransactions.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
