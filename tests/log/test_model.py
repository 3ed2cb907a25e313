"""Random operations on a log against a plain list, with process deaths and power cuts in between."""

from __future__ import annotations

import random

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from logd.log.log import Log, LogConfig
from logd.log.producers import Producers
from logd.wire.batches import read_header
from tests.fakes.disks import MemoryDisk
from tests.log.batches import TOPIC_ID, append, batch, checkpoint, content, flush

CONFIG = LogConfig(segment_bytes=2000, index_interval_bytes=200, retention_ms=500, file_delete_delay_ms=100)
PATH = "/data/t-0"


class LogMachine(RuleBasedStateMachine):
    """The log must hold exactly what the list holds, or after a power cut at least what was flushed of it."""

    def __init__(self) -> None:
        super().__init__()
        self.disk = MemoryDisk()
        self.log = Log.create(PATH, TOPIC_ID, CONFIG, now_ms=0, disk=self.disk)
        self.batches: list[tuple[int, bytes]] = []  # base offset, stamped bytes; all ever, less what was truncated
        self.now_ms = 1000
        self.epoch = 0
        self.sequences: dict[int, int] = {}
        self.job = None

    @initialize()
    def settle(self) -> None:
        self.disk.sync_directory("/data")

    @rule(count=st.integers(1, 4), size=st.integers(0, 300), producer=st.integers(-1, 2))
    def append(self, count: int, size: int, producer: int) -> None:
        sequence = self.sequences.get(producer, 0)
        data = batch(count, value=b"x" * size, timestamp=self.now_ms, producer=producer, epoch=0, sequence=sequence)
        appended = append(self.log, data, epoch=self.epoch, now_ms=self.now_ms)
        assert not appended.duplicate
        self.sequences[producer] = sequence + count
        self.batches.append((appended.base_offset, bytes(data)))
        self.now_ms += 10

    @rule(producer=st.integers(0, 2), back=st.integers(1, 5))
    def repeat(self, producer: int, back: int) -> None:
        """A retry of one of a producer's last five batches is answered with the first's offset."""
        of_producer = [(base, data) for base, data in self.batches if read_header(data).producer_id == producer]
        if len(of_producer) < back:
            return
        base, data = of_producer[-back]
        again = bytearray(data)
        again[:8] = bytes(8)
        appended = append(self.log, again, epoch=self.epoch, now_ms=self.now_ms)
        assert (appended.duplicate, appended.base_offset) == (True, base)

    @rule()
    def flush(self) -> None:
        if self.job is None:
            flush(self.log)

    @precondition(lambda self: self.job is None)
    @rule()
    def begin_flush(self) -> None:
        self.job = self.log.flush_job()
        if self.job is not None:
            self.job.run()

    @precondition(lambda self: self.job is not None)
    @rule()
    def end_flush(self) -> None:
        self.log.flushed(self.job)
        self.job = None

    @rule()
    def checkpoint(self) -> None:
        checkpoint(self.log)

    @rule()
    def roll(self) -> None:
        if self.log.segments[-1].size:
            self.log.roll(self.now_ms)

    @rule()
    def new_epoch(self) -> None:
        self.epoch += 1

    @rule(fraction=st.floats(0, 1))
    def delete_records(self, fraction: float) -> None:
        start, end = self.log.start_offset, self.log.flushed_offset
        target = start + int(max(0, end - start) * fraction)
        self.log.advance_start(max([base for base, _ in self.batches if start <= base <= target], default=start))
        checkpoint(self.log)
        self.disk.sync_directory(PATH)

    @precondition(lambda self: self.job is None)
    @rule()
    def retention(self) -> None:
        self.log.delete_segments(self.log.expired(self.now_ms, self.log.end_offset), self.now_ms)
        removal = self.log.removal(self.now_ms)
        if removal is not None:
            removal.run()

    @precondition(lambda self: self.job is None and self.log.segments[0].base_offset == 0)
    @rule(fraction=st.floats(0, 1))
    def truncate(self, fraction: float) -> None:
        """Only while no segment has gone: a truncation knows no more of producers than files below it do."""
        start, end = self.log.start_offset, self.log.end_offset
        target = start + int((end - start) * fraction)
        reached = self.log.truncate(target)
        assert reached <= max(target, start)
        self.batches = [(base, data) for base, data in self.batches if base + read_header(data).count <= reached]
        self._resume_producers()
        self.epoch += 1

    @rule()
    def restart(self) -> None:
        """A clean stop keeps everything and counts as flushed."""
        self.job = None
        self.log.close()
        self._open()
        assert self.log.flushed_offset == self.log.end_offset

    @rule()
    def kill(self) -> None:
        """The death of the process loses nothing."""
        self.job = None
        end = self.log.end_offset
        self.log.close(clean=False)
        self._open()
        assert self.log.end_offset == end

    @rule(seed=st.integers(0, 2**32))
    def cut_power(self, seed: int) -> None:
        """A power cut loses nothing that was flushed."""
        self.job = None
        flushed, end, start = self.log.flushed_offset, self.log.end_offset, self.log.start_offset
        self.disk = self.disk.lose_power(random.Random(seed))
        self._open()
        assert flushed <= self.log.end_offset <= end
        if self.log.start_offset > start:
            assert flushed <= start
            self.batches = [(base, data) for base, data in self.batches if base >= self.log.start_offset]
        self.batches = [(base, data) for base, data in self.batches if base < self.log.end_offset]
        self.log.advance_start(min(start, self.log.end_offset))
        self._resume_producers()
        self.epoch += 1

    def _open(self) -> None:
        self.log = Log.open(PATH, CONFIG, clean=False, now_ms=self.now_ms, disk=self.disk)
        self.epoch = max(self.epoch, self.log.epochs.latest) + 1

    def _resume_producers(self) -> None:
        self.sequences = {}
        for _, data in self.batches:
            header = read_header(data)
            if header.producer_id >= 0:
                self.sequences[header.producer_id] = header.base_sequence + header.count

    @invariant()
    def holds_the_same(self) -> None:
        expected = []
        for base, data in self.batches:
            header = read_header(data)
            expected.extend((base + at, header) for at in range(header.count) if base + at >= self.log.start_offset)
        found = content(self.log)
        assert [offset for offset, _ in found] == [offset for offset, _ in expected]

    @invariant()
    def reads_the_same_bytes(self) -> None:
        for base, data in self.batches[-3:]:
            if base >= self.log.start_offset:
                (piece,) = self.log.read(base, bytes_max=1, end=self.log.end_offset)
                assert piece.load() == data

    @invariant()
    def knows_the_producers(self) -> None:
        producers = Producers(PATH)
        for base, data in self.batches:
            header = read_header(data)
            if header.producer_id >= 0:
                producers.note(header, base, header.max_timestamp)
        assert _state(producers) == _state(self.log.producers)

    @invariant()
    def knows_the_epochs(self) -> None:
        for base, data in self.batches:
            if base >= self.log.start_offset:
                assert self.log.epochs.epoch_at(base) == read_header(data).leader_epoch

    @invariant()
    def knows_the_newest_of_each_segment(self) -> None:
        for segment in self.log.segments:
            times = [
                read_header(data).max_timestamp
                for base, data in self.batches
                if segment.base_offset <= base < segment.next_offset
            ]
            assert segment.max_timestamp == max(times, default=-1)

    @invariant()
    def offsets_are_ordered(self) -> None:
        log = self.log
        assert log.start_offset <= log.end_offset
        assert log.flushed_offset <= log.end_offset
        assert log.segments[0].base_offset <= log.start_offset


def _state(producers: Producers) -> dict[int, object]:
    return {one.producer_id: (one.epoch, one.last_timestamp, one.batches) for one in producers}


TestLog = LogMachine.TestCase
TestLog.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
