"""Compaction of a log: what stays, what goes, and when (KIP-58, KIP-98, KIP-534)."""

from __future__ import annotations

import copy
import itertools

import msgspec
import pytest

from logd.errors import Corrupt
from logd.log.log import Log, LogConfig
from logd.log.state import STATE_NAME
from logd.wire.batches import DELETE_HORIZON, BatchHeader, Record, build_batch, read_headers
from tests.fakes.disks import MemoryDisk
from tests.log.batches import TOPIC_ID, append, checkpoint, content, flush
from tests.log.compacting import clean, last_values, pairs_of, put, records_of, roll, steps

CONFIG = LogConfig(segment_bytes=2000, index_interval_bytes=200, compacted=True)
PATH = "/data/t-0"
ABORT, COMMIT = 0, 1


@pytest.fixture
def log(disk: MemoryDisk) -> Log:
    return Log.create(PATH, TOPIC_ID, CONFIG, now_ms=0, disk=disk)


def reopened(disk: MemoryDisk) -> Log:
    return Log.open(PATH, CONFIG, clean=False, now_ms=0, disk=disk)


def headers(log: Log) -> list[BatchHeader]:
    """The headers of all batches."""
    return [
        header
        for segment in log.segments
        for _, header in read_headers(bytes(segment.file.data[: segment.size]))  # type: ignore[attr-defined]
    ]


def mark(log: Log, producer: int, kind: int, epoch: int = 0) -> int:
    """End a producer's transaction with a marker; return its offset."""
    key = (0).to_bytes(2, "big") + kind.to_bytes(2, "big")
    record = Record(-1, 1000, key, bytes(6), [])
    data = build_batch([record], producer_id=producer, producer_epoch=epoch, transactional=True, control=True)
    return log.append(data, leader_epoch=0, now_ms=1000, origin="coordinator").base_offset


def in_transaction(log: Log, producer: int, sequence: int, *pairs: tuple[str, str | None]) -> int:
    return put(log, *pairs, producer_id=producer, producer_epoch=0, base_sequence=sequence, transactional=True)


def test_keeps_the_last_of_each_key(log: Log, disk: MemoryDisk) -> None:
    """Of each key the last record stays, at its offset; the active segment stays as it is."""
    put(log, ("a", "1"), ("b", "1"), ("a", "2"))
    put(log, ("c", "1"), ("b", "2"))
    roll(log)
    put(log, ("a", "3"), ("a", "4"))
    clean(log, disk)
    assert pairs_of(log) == [(2, "a", "2"), (3, "c", "1"), (4, "b", "2"), (5, "a", "3"), (6, "a", "4")]
    assert (log.start_offset, log.end_offset, log.cleaned_offset) == (0, 7, 5)
    assert pairs_of(reopened(disk)) == pairs_of(log)
    assert reopened(disk).cleaned_offset == 5


def test_second_run_cleans_what_the_first_kept(log: Log, disk: MemoryDisk) -> None:
    """Later records of a key take earlier ones out of the part that was clean; small segments are joined."""
    for number in range(5):
        put(log, ("a", str(number)), (str(number), "x"))
        roll(log)
        clean(log, disk)
    assert pairs_of(log) == [(1, "0", "x"), (3, "1", "x"), (5, "2", "x"), (7, "3", "x"), (8, "a", "4"), (9, "4", "x")]
    assert [segment.base_offset for segment in log.segments] == [0, 10]


@pytest.mark.parametrize("codec", range(5))
def test_codecs_stay(log: Log, disk: MemoryDisk, codec: int) -> None:
    """What is left of a compressed batch is compressed the same way; headers, times and epoch stay."""
    records = [
        Record(-1, 1000 + at, b"k%d" % (at % 3), b"v" * 50 + bytes([at]), [("h", b"x"), ("n", None)]) for at in range(9)
    ]
    append(log, build_batch(records, codec=codec), epoch=4)
    roll(log)
    clean(log, disk)
    assert [(one.offset, one.timestamp, one.key, one.value, one.headers) for one in records_of(log)] == [
        (at, 1000 + at, b"k%d" % (at % 3), b"v" * 50 + bytes([at]), [("h", b"x"), ("n", None)]) for at in (6, 7, 8)
    ]
    (header,) = headers(log)
    assert (header.codec, header.base_offset, header.last_offset_delta, header.leader_epoch) == (codec, 0, 8, 4)
    assert header.count == 3


def test_largest_time_is_that_of_what_stays(log: Log, disk: MemoryDisk) -> None:
    """A record with a later time that goes does not leave its time behind; LogAppendTime stays."""
    append(log, build_batch([Record(-1, 5000, b"a", b"1", []), Record(-1, 2000, b"a", b"2", [])]))
    stamped = build_batch([Record(-1, 7000, b"b", b"1", []), Record(-1, 2000, b"b", b"2", [])], log_append_time=True)
    log.append(stamped, leader_epoch=0, now_ms=7000, origin="coordinator")
    roll(log)
    clean(log, disk)
    assert [header.max_timestamp for header in headers(log)] == [2000, 7000]
    assert (log.segments[0].max_timestamp, log.segments[0].max_timestamp_offset) == (7000, 3)
    scan = log.find_timestamp(2000, log.end_offset)
    assert scan is not None
    found = scan.run()
    assert found is not None
    assert found.offset == 1


def test_times_of_append_are_of_records_that_are_there(log: Log, disk: MemoryDisk) -> None:
    """A look for a time finds no record that is gone, though all of its batch have one time; nor an empty batch."""
    log.config = msgspec.structs.replace(log.config, timestamp_type="LogAppendTime")
    put(log, ("a", "1"), ("b", "1"))
    put(log, ("c", "1"), producer_id=1, producer_epoch=0, base_sequence=0)
    put(log, ("a", "2"), ("c", "2"))
    roll(log)
    clean(log, disk)
    assert [offset for offset, _, _ in pairs_of(log)] == [1, 3, 4]
    for start, expected in ((0, 1), (1, 1), (2, 3), (3, 3)):
        log.start_offset = start
        scan = log.find_timestamp(1000, log.end_offset)
        assert scan is not None
        found = scan.run()
        assert found is not None
        assert (found.timestamp, found.offset) == (1000, expected)


def test_tombstones_stay_until_their_horizon(log: Log, disk: MemoryDisk) -> None:
    """A tombstone takes the values before it out at once, and goes itself delete.retention.ms after that run."""
    put(log, ("a", "1"), ("b", "1"))
    put(log, ("a", None), ("b", "2"))
    roll(log)
    clean(log, disk, 10_000)
    assert pairs_of(log) == [(2, "a", None), (3, "b", "2")]
    (header,) = headers(log)
    assert header.attributes & DELETE_HORIZON
    assert header.base_timestamp == 11_000
    assert [one.timestamp for one in records_of(log)] == [1000, 1000]
    clean(log, disk, 10_999)
    assert pairs_of(log) == [(2, "a", None), (3, "b", "2")]
    clean(log, disk, 11_000)
    assert pairs_of(log) == [(3, "b", "2")]
    assert log.start_offset == 0


def test_last_batch_of_a_producer_stays(log: Log, disk: MemoryDisk) -> None:
    """The batch with a producer's last sequence stays, empty, so that retries and gaps are told apart from the log."""
    put(log, ("a", "1"), producer_id=7, producer_epoch=2, base_sequence=0)
    put(log, ("a", "2"), ("a", "3"), producer_id=7, producer_epoch=2, base_sequence=1)
    put(log, ("a", "4"))
    roll(log)
    put(log, ("z", "1"))
    roll(log)
    clean(log, disk)
    assert pairs_of(log) == [(3, "a", "4"), (4, "z", "1")]
    first = headers(log)[0]
    assert (first.base_offset, first.last_offset_delta, first.count) == (1, 1, 0)
    assert (first.producer_id, first.producer_epoch, first.base_sequence, first.last_sequence) == (7, 2, 1, 2)
    for name in [one for one in disk.names if one.endswith((".snapshot", "partition.state"))]:
        del disk.names[name]
    after = reopened(disk)
    again = build_batch([Record(-1, 1, b"a", b"2", [])] * 2, producer_id=7, producer_epoch=2, base_sequence=1)
    assert append(after, again).duplicate
    assert put(after, ("a", "5"), producer_id=7, producer_epoch=2, base_sequence=3) == 5


def test_nothing_left_of_a_segment(log: Log, disk: MemoryDisk) -> None:
    """Segments whose records all go leave nothing that a reader is given; it goes on behind them, also after a crash.

    A client that is given one batch without records after the other takes its buffers for too small.
    """
    put(log, ("a", "1" * 1500))
    roll(log)
    put(log, ("a", "2" * 1500))
    roll(log)
    put(log, ("a", "3" * 1500))
    roll(log)
    clean(log, disk)
    assert pairs_of(log) == [(2, "a", "3" * 1500)]
    assert [header.base_offset for header in headers(log)] == [2]
    (piece,) = log.read(0, bytes_max=1, end=log.end_offset)
    assert piece.load()
    assert piece.base_offset == 2
    assert pairs_of(reopened(disk)) == pairs_of(log)
    put(log, ("b", "1"))
    roll(log)
    clean(log, disk)
    assert [offset for offset, _, _ in pairs_of(log)] == [2, 3]
    assert log.read(0, bytes_max=1, end=log.end_offset)[0].size


def test_aborted_data_goes_and_its_marker_later(log: Log, disk: MemoryDisk) -> None:
    """Aborted records never stand for their key; the marker stays until a run finds none of them, then its horizon."""
    put(log, ("a", "kept"))
    in_transaction(log, 5, 0, ("a", "aborted"), ("b", "aborted"))
    mark(log, 5, ABORT)
    roll(log)
    put(log, ("z", "1"))
    roll(log)
    clean(log, disk, 0)
    markers = [header for header in headers(log) if header.is_control]
    assert [(offset, key) for offset, key, _ in pairs_of(log) if len(key) == 1] == [(0, "a"), (4, "z")]
    assert [(one.base_offset, one.attributes & DELETE_HORIZON) for one in markers] == [(3, 0)]
    log.producers.clear()  # their last batch stayed, empty, and goes now
    clean(log, disk, 4000)
    assert [(one.base_offset, one.count) for one in headers(log)] == [(0, 1), (3, 1), (4, 1)]
    clean(log, disk, 5000)
    markers = [header for header in headers(log) if header.is_control]
    assert [(one.base_offset, one.base_timestamp) for one in markers] == [(3, 6000)]
    clean(log, disk, 5999)
    assert any(header.is_control for header in headers(log))
    clean(log, disk, 6000)
    assert not any(header.is_control for header in headers(log))
    assert pairs_of(log) == [(0, "a", "kept"), (4, "z", "1")]


def test_marker_stays_as_long_as_its_records(log: Log, disk: MemoryDisk) -> None:
    """A commit marker stays while a record of its transaction is there, however old; across segments too."""
    in_transaction(log, 5, 0, ("a", "1"))
    put(log, *((f"fill{at}", "x" * 100) for at in range(15)))
    roll(log)
    mark(log, 5, COMMIT)
    in_transaction(log, 5, 1, ("b", "1"))
    mark(log, 5, ABORT)
    put(log, ("z", "1"))
    roll(log)
    log.producers.clear()
    for now_ms in (0, 10_000, 20_000):
        clean(log, disk, now_ms)
    assert [header.base_offset for header in headers(log) if header.is_control] == [16]
    assert pairs_of(log)[0] == (0, "a", "1")
    assert "b" not in [key for _, key, _ in pairs_of(log)]


def test_full_map_cleans_as_far_as_it_reaches(log: Log, disk: MemoryDisk) -> None:
    """With memory for few keys a run cleans up to some batch, the next one goes on there."""
    for number in range(40):
        put(log, *((f"{number}-{at}", "v") for at in range(2)), ("a", str(number)))
    roll(log)
    runs = 0
    while log.cleaned_offset < 120:
        before = log.cleaned_offset
        clean(log, disk, dedupe_buffer_size=16 * 60)
        assert log.cleaned_offset > before
        runs += 1
    assert runs > 1
    assert [value for _, key, value in pairs_of(log) if key == "a"] == ["39"]
    assert len(pairs_of(log)) == 81


def test_reads_of_old_segments_go_on(log: Log, disk: MemoryDisk) -> None:
    """What a reader was given before the swap stays readable, found and not yet found."""
    for number in range(30):
        put(log, ("a", str(number) * 40))
        if number % 10 == 9:
            roll(log)
    given = [log.read(offset, bytes_max=150, end=log.end_offset)[0] for offset in (3, 12, 25)]
    before = [piece.load() for piece in given]
    old = list(log.segments)
    clean(log, disk)
    assert [piece.load() for piece in given] == before
    for segment in old[:-1]:
        segment.release()
        assert segment.base_offset_at(segment.locate(segment.base_offset + 5)) == segment.base_offset + 5
    assert [offset for offset, _, _ in pairs_of(log)] == [29]


def test_log_that_changes_under_the_run(log: Log, disk: MemoryDisk) -> None:
    """Segments that retention takes away meanwhile are not brought back; nothing of the run is left."""
    for number in range(3):
        put(log, ("a", str(number)))
        roll(log)
    for number, work in enumerate(steps(log, disk)):
        work()
        if number == 1:
            log.delete_segments(log.segments[:2], 0)
    assert pairs_of(log) == [(2, "a", "2")]
    assert not [name for name in disk.names if ".cleaned" in name]
    assert pairs_of(reopened(disk))[-1] == (2, "a", "2")


def small_segments(disk: MemoryDisk, *values: tuple[str, str | None]) -> Log:
    """A log with a segment for each record, which compaction does not join."""
    log = Log.create(PATH, TOPIC_ID, LogConfig(segment_bytes=90, compacted=True), now_ms=0, disk=disk)
    for pair in values:
        put(log, pair)
        roll(log)
    return log


@pytest.mark.parametrize("restarted", [False, True])
def test_gaps_are_lawful_while_a_run_is_under_way(disk: MemoryDisk, restarted: bool) -> None:
    """Segments that a second run has replaced are read before it has ended, and when it never does."""
    log = small_segments(disk, ("a", "1"), ("b", "1"))
    clean(log, disk)
    for number in range(4):
        put(log, ("c", f"{number}"))
        roll(log)
    seen = 0
    for work in steps(log, disk):
        work()
        read = log if not restarted else reopened(copy.deepcopy(disk))
        assert last_values(read) == {b"a": b"1", b"b": b"1", b"c": b"3"}
        seen += any(one.size == 0 for one in read.segments[2:-1]) and read.cleaned_offset == 2
    assert seen > 3


@pytest.mark.parametrize("works", [6, 9, 12])
def test_a_segment_that_ends_with_a_gap_does_so_after_recovery(disk: MemoryDisk, works: int) -> None:
    """Where no state says how far it was, all is read: who reads on in the gap, and the next run, find the rest."""
    log = small_segments(disk, ("a", "1"))
    clean(log, disk)
    for number in range(4):
        put(log, ("c", f"{number}"))
        roll(log)
    for work in itertools.islice(steps(log, disk), works):
        work()
    disk.remove(f"{PATH}/{STATE_NAME}")
    log = reopened(disk)
    assert any(one.size == 0 for one in log.segments[:-1])
    for offset in range(1, log.end_offset):
        assert content(log, offset)[-1][0] == log.end_offset - 1
    flush(log)
    log.config = msgspec.structs.replace(log.config, segment_bytes=90)
    clean(log, disk)
    assert log.cleaned_offset == 5
    assert last_values(log) == {b"a": b"1", b"c": b"3"}


def test_a_tombstone_stays_while_an_old_value_does(disk: MemoryDisk) -> None:
    """What a run has left out, since DeleteRecords cut it through, is not clean: deleted keys would be back one day."""
    log = small_segments(disk, ("z", "0"), ("k", "old"), ("w", "0"), ("k", None))
    log.config = msgspec.structs.replace(log.config, segment_bytes=200)
    for number, work in enumerate(steps(log, disk)):
        work()
        if number == 1:  # the first two are written anew as one, and one of them goes
            log.advance_start(1)
            log.delete_segments(log.expired(0, log.end_offset, delete=False), 0)
    for now_ms in (500, 5000):
        put(log, ("v", f"{now_ms}"))
        roll(log)
        clean(log, disk, now_ms)
    assert last_values(log) == {b"w": b"0", b"v": b"5000"}


@pytest.mark.parametrize("when", [0, 1, 2])
def test_a_tombstone_stays_until_the_deletion_of_old_values_is_on_the_disk(disk: MemoryDisk, when: int) -> None:
    """Else a crash, which brings them back, would bring back what was removed by key long ago."""
    log = small_segments(disk, ("k", "old"), ("k", None), *((f"w{at}", "0") for at in range(6)))
    few = {"dedupe_buffer_size": 48}  # keys a run, so that the next goes on where it ended
    for number, work in enumerate(steps(log, disk, **few)):
        if number == when:
            log.advance_start(1)
            log.delete_segments(log.expired(0, log.end_offset, delete=False), 0)
        work()
    for now_ms in (2000, 4000, 6000):
        clean(log, disk, now_ms, **few)
        assert b"k" not in last_values(reopened(copy.deepcopy(disk)))
    checkpoint(log)
    clean(log, disk, 8000)
    put(log, ("v", "1"))
    roll(log)
    clean(log, disk, 10_000)
    assert [one[0] for one in pairs_of(reopened(disk))] == [*range(2, 9)]


def test_what_a_crash_brings_back_is_not_clean(log: Log, disk: MemoryDisk) -> None:
    """DeleteRecords inside of a segment, not on the disk yet: what is before it counts as dirty after a crash."""
    put(log, ("k", "old"), ("k", None), ("w", "0"))
    roll(log)
    log.advance_start(2)
    clean(log, disk)
    log = reopened(disk)
    for now_ms in (2000, 4000):
        put(log, ("v", f"{now_ms}"))
        roll(log)
        clean(log, disk, now_ms)
        assert last_values(log) == {b"w": b"0", b"v": b"%d" % now_ms}


def test_what_was_deleted_and_not_removed_yet_is_no_damage(disk: MemoryDisk) -> None:
    """A segment that is deleted as it is sealed is cut to its data by the close: compaction meets it after a start."""
    log = small_segments(disk)
    put(log, ("k", "1"))
    log.advance_start(1)
    log.delete_segments(log.expired(0, 1, delete=False), 0)
    put(log, ("k", "2"))
    log.close()
    log = reopened(disk)
    roll(log)
    clean(log, disk)
    assert pairs_of(log) == [(1, "k", "2")]


def test_nothing_is_left_of_a_run_that_meets_damage(log: Log, disk: MemoryDisk) -> None:
    """What was written before a damaged batch of the clean part was met takes no room until the next start."""
    for number in range(9):
        put(log, (f"k{number}", "v" * 60))
    roll(log)
    clean(log, disk)
    file = disk.names[log.segments[0].log_path]
    assert file is not None
    file.data[log.segments[0].size - 10] ^= 1
    put(log, ("k0", "new"))
    roll(log)
    with pytest.raises(Corrupt):
        clean(log, disk)
    assert not [name for name in disk.names if ".cleaned" in name]


def test_wrong_base_offset_in_a_compacted_segment(disk: MemoryDisk) -> None:
    """Gaps are lawful there; every bit that no batch's checksum covers is found all the same."""
    log = Log.create(PATH, TOPIC_ID, CONFIG, now_ms=0, disk=disk)
    for number in range(30):
        put(log, (f"k{number % 4}", str(number)), (f"once{number}", "x"))
    roll(log)
    flush(log)
    clean(log, disk)
    log.close()
    expected = content(Log.open(PATH, CONFIG, clean=True, now_ms=0, disk=disk))
    file = disk.names[f"{PATH}/{0:020d}.log"]
    assert file is not None
    for at in (*range(12), *range(12, 16)):
        for bit in range(8):
            file.data[at] ^= 1 << bit
            with pytest.raises(Corrupt):
                content(Log.open(PATH, CONFIG, clean=True, now_ms=0, disk=disk))
            file.data[at] ^= 1 << bit
    assert content(Log.open(PATH, CONFIG, clean=True, now_ms=0, disk=disk)) == expected


def test_an_empty_segment_is_read_past(disk: MemoryDisk) -> None:
    """Who asks for an offset in it gets what comes behind it at once, though its index is not in memory."""
    log = Log.create(PATH, TOPIC_ID, LogConfig(segment_bytes=300, compacted=True), now_ms=0, disk=disk)
    for keys in ("aa", "ab", "cd"):
        for key in keys:
            put(log, (key, "x" * 60))
        roll(log)
    clean(log, disk)
    assert [segment.size > 0 for segment in log.segments] == [False, True, True, False]
    log.segments[0].release()
    (piece,) = log.read(1, bytes_max=1000, end=log.end_offset)
    assert (piece.base_offset, piece.size) == (2, log.segments[1].size)
