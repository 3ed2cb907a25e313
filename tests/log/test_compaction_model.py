"""Random keyed records, tombstones, codecs, producers and segments: compaction changes no last value."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from logd.log import chunks
from logd.log.log import Log, LogConfig
from logd.wire.batches import Record, build_batch
from tests.fakes.disks import MemoryDisk
from tests.log.batches import TOPIC_ID, append, flush
from tests.log.compacting import clean, last_values, records_of, roll

PATH = "/data/t-0"

records = st.tuples(st.integers(0, 6), st.one_of(st.none(), st.integers(0, 120)), st.integers(1, 5000))
batches = st.tuples(st.lists(records, min_size=1, max_size=6), st.integers(0, 4), st.integers(-1, 2))
steps = st.one_of(
    batches,
    batches,
    batches,
    st.sampled_from(["roll", "roll", "clean", "clean", "kill", "restart", "power", "forget"]),
)


class Told:
    """A log and what was written to it: the last record of each key, the last sequence of each producer."""

    def __init__(self, config: LogConfig) -> None:
        self.config = config
        self.disk = MemoryDisk()
        self.log = Log.create(PATH, TOPIC_ID, config, now_ms=0, disk=self.disk)
        self.disk.sync_directory("/data")
        self.last: dict[bytes, Record] = {}
        self.sequences: dict[int, int] = {}
        self.count = 0
        self.now_ms = 0

    def write(self, wanted: list[tuple[int, int | None, int]], codec: int, producer: int) -> None:
        """Append a batch."""
        made = []
        for key, size, timestamp in wanted:
            value = None if size is None else b"%d:" % self.count + b"v" * size
            made.append(Record(self.count, timestamp, b"key%d" % key, value, [("n", b"%d" % self.count)]))
            self.count += 1
        more: dict[str, Any] = {}
        if producer >= 0:
            sequence = self.sequences.get(producer, 0)
            more = {"producer_id": producer, "producer_epoch": 0, "base_sequence": sequence}
            self.sequences[producer] = sequence + len(made)
        sent = [Record(-1, one.timestamp, one.key, one.value, one.headers) for one in made]
        assert append(self.log, build_batch(sent, codec=codec, **more)).base_offset == made[0].offset
        self.last.update({one.key or b"": one for one in made})

    def open(self, config: LogConfig | None = None) -> None:
        """Open what is there, as after a crash."""
        self.log = Log.open(PATH, config or self.config, clean=False, now_ms=self.now_ms, disk=self.disk)
        flush(self.log)

    def do(self, what: str) -> None:
        """Something other than writing."""
        self.now_ms += 700
        if what == "roll":
            roll(self.log)
        elif what == "clean":
            clean(self.log, self.disk, self.now_ms)
        elif what == "kill":
            self.open()
        elif what == "restart":
            self.log.close()
            self.open()
        elif what == "power":
            flush(self.log)
            self.disk = self.disk.lose_power(random.Random(self.count))
            self.open()
        else:
            for name in [one for one in self.disk.names if one.endswith((".snapshot", "partition.state"))]:
                del self.disk.names[name]
            self.open(LogConfig(segment_bytes=self.config.segment_bytes))

    def check(self) -> None:
        """Each key's last record is there as it was, unless it is a tombstone; nothing is there that was not."""
        assert (self.log.start_offset, self.log.end_offset) == (0, self.count)
        found = {one.key or b"": one for one in records_of(self.log)}
        assert last_values(self.log) == {key: one.value for key, one in self.last.items() if one.value is not None}
        for key, one in found.items():
            last = self.last[key]
            assert (one.offset, one.timestamp, one.value, one.headers) == (
                last.offset,
                last.timestamp,
                last.value,
                last.headers,
            )
        for producer, sequence in self.sequences.items():
            known = self.log.producers.get(producer)
            assert known is not None
            assert known.last_sequence == sequence - 1
        for segment in self.log.segments:
            inside = [one for one in records_of(self.log) if segment.base_offset <= one.offset < segment.next_offset]
            assert segment.max_timestamp >= max((one.timestamp for one in inside), default=-1)


@settings(max_examples=120, deadline=None)
@given(st.lists(steps, max_size=25), st.sampled_from([900, 2000, 9000]), st.sampled_from([100, 700, 10_000]))
def test_last_values_stay(wanted: list[Any], segment_bytes: int, chunk_bytes: int) -> None:
    """Whatever is written, compacted and interrupted, the log says the same of each key and each producer."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(chunks, "CHUNK_BYTES", chunk_bytes)
        write_and_clean(wanted, segment_bytes)


def write_and_clean(wanted: list[Any], segment_bytes: int) -> None:
    told = Told(LogConfig(segment_bytes=segment_bytes, index_interval_bytes=100, compacted=True))
    for one in wanted:
        if isinstance(one, str):
            told.do(one)
            told.check()
        else:
            told.write(*one)
    roll(told.log)
    clean(told.log, told.disk, told.now_ms)
    told.check()
    left = [one for one in records_of(told.log) if one.offset < told.log.cleaned_offset]
    assert len({one.key for one in left}) == len(left)
