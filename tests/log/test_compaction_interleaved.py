"""Compaction in steps, with all else that happens to a log in between: reads, DeleteRecords, kills, power cuts."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from logd.errors import StorageFailed
from logd.log.log import Log, LogConfig
from logd.wire.batches import Record, build_batch, read_headers, read_records
from tests.fakes.disks import MemoryDisk
from tests.log.batches import TOPIC_ID, append, checkpoint, flush, mark
from tests.log.compacting import roll, steps

PATH = "/data/t-0"
TURNS = 60
CODECS = (0, 0, 4)


class Told(NamedTuple):
    """A record that was appended; ``transaction`` 0 for none."""

    offset: int
    key: str
    value: str | None
    transaction: int


class Life:
    """A log, what it was told, and chance."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        segment_bytes = self.chance.choice((400, 700, 2000))
        self.config = LogConfig(segment_bytes=segment_bytes, index_interval_bytes=100, compacted=True, retention_ms=-1)
        self.rules = {
            "delete_retention_ms": self.chance.choice((0, 500, 2000)),
            "dedupe_buffer_size": self.chance.choice((1 << 20, 96)),
        }
        self.disk = MemoryDisk()
        self.log = Log.create(PATH, TOPIC_ID, self.config, now_ms=0, disk=self.disk)
        self.disk.sync_directory("/data")
        self.told: list[Told] = []
        self.open: dict[int, int] = {}
        self.aborted: set[int] = set()
        self.sequences: dict[int, int] = {}
        self.transactions = 0
        self.now_ms = 0

    def write(self) -> None:
        """A batch: of a producer in a transaction (0, 1), of an idempotent one (2), or of nobody."""
        chance, count = self.chance, self.chance.randint(1, 4)
        pairs = [
            (f"k{chance.randrange(6)}", None if chance.random() < 0.25 else "v" * chance.randint(1, 60))
            for _ in range(count)
        ]
        more: dict[str, Any] = {}
        producer, transaction = chance.randrange(-3, 3), 0
        if producer >= 0:
            sequence = self.sequences.get(producer, 0)
            self.sequences[producer] = sequence + count
            more = {"producer_id": producer, "producer_epoch": 0, "base_sequence": sequence}
        if producer in (0, 1):
            more["transactional"] = True
            if producer not in self.open:
                self.transactions += 1
                self.open[producer] = self.transactions
            transaction = self.open[producer]
        sent = [Record(-1, 1000, key.encode(), value and value.encode(), []) for key, value in pairs]
        base = append(self.log, build_batch(sent, codec=chance.choice(CODECS), **more)).base_offset
        self.told += [Told(base + at, key, value, transaction) for at, (key, value) in enumerate(pairs)]

    def end(self) -> None:
        """One of the open transactions."""
        if self.open:
            producer = self.chance.choice(sorted(self.open))
            committed = self.chance.random() < 0.5
            mark(self.log, producer, committed=committed)
            transaction = self.open.pop(producer)
            self.aborted |= set() if committed else {transaction}

    def delete(self) -> None:
        """DeleteRecords; files go at once, or are forgotten by a process that ends."""
        log, chance = self.log, self.chance
        log.advance_start(chance.randint(log.start_offset, min(log.end_offset, log.start_offset + 12)))
        log.delete_segments(log.expired(self.now_ms, log.end_offset, delete=False), self.now_ms)
        if chance.random() < 0.7:
            checkpoint(log)
        removal = log.removal(self.now_ms + 10**7)
        if removal is not None and chance.random() < 0.7:
            removal.run()

    def begin_again(self) -> None:
        """A kill, a clean stop, or a power cut when all was flushed."""
        how, end = self.chance.choice(("kill", "stop", "cut")), self.log.end_offset
        if how == "kill":
            self.disk = copy.deepcopy(self.disk)
        elif how == "stop":
            self.log.close()
        else:
            flush(self.log)
            checkpoint(self.log)
            self.disk = self.disk.lose_power(self.chance)
        self.log = Log.open(PATH, self.config, clean=False, now_ms=self.now_ms, disk=self.disk)
        flush(self.log)
        assert self.log.end_offset == end

    def compact(self) -> None:
        """Step by step, with something in between now and then."""
        log = self.log
        try:
            for work in steps(log, self.disk, self.now_ms, **self.rules):
                work()
                between = self.chance.choices(
                    (None, self.delete, self.write, self.end, self.check, self.roll, self.begin_again),
                    (70, 5, 5, 3, 7, 2, 4),
                )[0]
                if between is not None:
                    between()
                if self.log is not log:
                    return
        except StorageFailed:  # what was deleted is not there to be read
            if log.failure is not None:
                raise

    def roll(self) -> None:
        roll(self.log)

    def committed(self) -> Iterator[tuple[str, int, str | None]]:
        """What a consumer of committed data reads: key, offset and value."""
        log = self.log
        log.transactions.committed(log.end_offset)
        end = min(log.transactions.first_unstable, log.end_offset)
        aborted = log.aborted.find(0, log.end_offset)
        offset = log.start_offset
        while offset < end and (slices := log.read(offset, bytes_max=self.chance.choice((100, 9999)), end=end)):
            data = slices[0].load()
            for position, header in read_headers(data):
                spans = [one for one in aborted if one.producer_id == header.producer_id]
                hidden = any(one.first_offset <= header.base_offset < one.last_offset for one in spans)
                if header.is_control or (header.is_transactional and hidden):
                    continue
                for record in read_records(data, position, bytes_max=2**24):
                    if record.offset >= offset:
                        yield (record.key or b"").decode(), record.offset, record.value and record.value.decode()
            assert slices[0].next_offset > offset
            offset = slices[0].next_offset

    def check(self) -> None:
        """The last value of each key is there, what was deleted or aborted is not, and producers are as they were."""
        found = {key: (offset, value) for key, offset, value in self.committed()}
        log = self.log
        end = min(log.transactions.first_unstable, log.end_offset)
        wanted = {
            one.key: (one.offset, one.value)
            for one in self.told
            if log.start_offset <= one.offset < end and one.transaction not in self.aborted
        }
        assert _values(found) == _values(wanted)
        open_ones = {one.producer_id: one.txn_first_offset for one in log.producers if one.txn_first_offset >= 0}
        firsts = {one.transaction: one.offset for one in reversed(self.told)}
        assert open_ones == {producer: firsts[number] for producer, number in self.open.items()}
        for producer, sequence in self.sequences.items():
            known = log.producers.get(producer)
            assert known is None or not known.batches or known.last_sequence == sequence - 1

    def live(self) -> None:
        """Some turns."""
        acts = (self.write, self.end, self.roll, self.compact, self.delete, self.begin_again)
        for _ in range(TURNS):
            self.now_ms += self.chance.choice((10, 300, 900))
            self.chance.choices(acts, (55, 10, 10, 12, 3, 10))[0]()
            self.check()


def _values(found: dict[str, tuple[int, str | None]]) -> dict[str, tuple[int, str | None]]:
    return {key: one for key, one in found.items() if one[1] is not None}


@pytest.mark.parametrize("seed", [1, 34])
def test_interleaved(seed: int) -> None:
    """Whatever comes between the steps of a run, no last value is lost, and nothing that was deleted is back."""
    Life(seed).live()
