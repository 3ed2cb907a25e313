"""A log in memory: reading, rolling, searching by time, truncating, forgetting."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import pytest

from logd.errors import Corrupt, ErrorCode, Refused, StorageFailed
from logd.log.disk import File
from logd.log.log import Log, LogConfig
from logd.wire.batches import Record, build_batch, read_headers
from tests.fakes.disks import FaultyDisk, MemoryDisk
from tests.log.batches import TOPIC_ID, append, batch, checkpoint, content, flush

PATH = "/data/t-0"
SMALL = LogConfig(segment_bytes=1000, index_interval_bytes=100, retention_ms=-1)


def filled(disk: MemoryDisk, batches: int, config: LogConfig = SMALL) -> Log:
    log = Log.create(PATH, TOPIC_ID, config, now_ms=0, disk=disk)
    for at in range(batches):
        append(log, batch(2, value=b"%03d" % at * 10, timestamp=1000 + at), epoch=at // 5)
    return log


@pytest.mark.parametrize("bytes_max", [0, 1, 130, 300, 500, 2000])
@pytest.mark.parametrize("offset", [0, 1, 2, 7, 13, 20, 39])
def test_read(disk: MemoryDisk, offset: int, bytes_max: int) -> None:
    """Whole batches from the one that holds the offset, at least one, as many as fit, of one segment."""
    log = filled(disk, 20)
    (piece,) = log.read(offset, bytes_max=bytes_max, end=40)
    found = read_headers(piece.load())
    assert found[0][1].base_offset == offset // 2 * 2 == piece.base_offset
    assert found[-1][1].next_offset == piece.next_offset
    assert piece.size <= max(bytes_max, found[0][1].size)
    assert len(piece.view()) == piece.size
    assert piece.resident()


def test_at_least_one(disk: MemoryDisk) -> None:
    """Without it a batch that is too large is not returned."""
    log = filled(disk, 3)
    assert log.read(0, bytes_max=10, end=6, at_least_one=False) == []
    assert log.read(0, bytes_max=200, end=6, at_least_one=False)[0].next_offset == 2


@pytest.mark.parametrize("end", range(0, 42, 2))
def test_nothing_beyond_the_end_that_may_be_read(disk: MemoryDisk, end: int) -> None:
    """No record at or above ``end`` is returned, wherever the last flush was."""
    log = filled(disk, 10)
    flush(log)
    for at in range(10, 20):
        append(log, batch(2, timestamp=1000 + at), epoch=1)
    read = []
    offset = 0
    while slices := log.read(offset, bytes_max=10_000, end=end):
        slices[0].load()
        read.append(slices[0].next_offset)
        offset = slices[0].next_offset
    assert (read[-1] if read else 0) == end


@pytest.mark.parametrize("offset", [-1, 41])
def test_out_of_range(disk: MemoryDisk, offset: int) -> None:
    """Below the start and above the end is OFFSET_OUT_OF_RANGE, the end itself is not."""
    log = filled(disk, 20)
    assert log.read(40, bytes_max=1, end=40) == []
    with pytest.raises(Refused) as refused:
        log.read(offset, bytes_max=1, end=40)
    assert refused.value.code == ErrorCode.OFFSET_OUT_OF_RANGE


def test_cold_data_is_found_in_a_thread(disk: MemoryDisk) -> None:
    """What the page cache does not hold is not touched on the loop; load() finds and reads it."""
    filled(disk, 20).close()

    class Cold(FaultyDisk):
        def read_cached(self, *_: object) -> None:
            return None

    log = Log.open(PATH, SMALL, clean=True, now_ms=0, disk=Cold(disk))
    (piece,) = log.read(7, bytes_max=300, end=40)
    assert not piece.resident()
    assert piece.view() == b""
    headers = read_headers(piece.load())
    assert (piece.base_offset, headers[0][1].base_offset, headers[-1][1].next_offset) == (6, 6, piece.next_offset)


class Sparse(FaultyDisk):
    """A disk whose page cache holds the first bytes of what is asked for, as when the next page is not there."""

    asked = 0
    cached_bytes = 10

    def read_cached(self, file: File, size: int, position: int) -> bytes:
        self.asked += 1
        assert self.asked < 1000, "the event loop asks for the same bytes for ever"
        return self._disk.read(file, min(size, self.cached_bytes), position)


@pytest.mark.parametrize("offset", [6, 7])
def test_what_is_cached_in_part_is_found_in_a_thread(disk: MemoryDisk, offset: int) -> None:
    """The event loop neither asks again and again until the disk has brought the rest, nor takes it for the end."""
    log = filled(disk, 20)
    log.close()
    log = Log.open(PATH, SMALL, clean=True, now_ms=0, disk=Sparse(disk))
    assert log.segments[0].index is not None
    (piece,) = log.read(offset, bytes_max=300, end=40)
    assert not piece.resident()
    headers = read_headers(piece.load())
    assert (headers[0][1].base_offset, headers[-1][1].next_offset) == (6, piece.next_offset)


@pytest.mark.parametrize(("ahead", "left_out"), [(3, 700), (0, 10)])
def test_a_length_that_leads_to_the_end_of_a_segment_is_no_way_on(disk: MemoryDisk, ahead: int, left_out: int) -> None:
    """A batch whose length was changed on disk, so that too little for another one follows: it is told, in the end."""
    config = LogConfig(segment_bytes=1000, index_interval_bytes=1 << 20)
    log = filled(disk, 20, config)
    sealed = log.segments[-2]
    assert sealed.index is not None
    file = disk.names[sealed.log_path]
    assert file is not None
    file.data[8:12] = (sealed.size - 30 - 12).to_bytes(4, "big")
    log._disk = sealed._disk = whole = Sparse(disk)
    whole.cached_bytes = 1 << 20
    with pytest.raises(Corrupt, match="ends inside a batch"):
        log.read(sealed.base_offset + ahead, bytes_max=sealed.size - left_out, end=40)


def open_logs(directory: Path) -> list[str]:
    """The segment files below a directory that this process has open."""
    links = []
    for number in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):
            links.append(os.readlink(f"/proc/self/fd/{number}"))
    return [link for link in links if link.startswith(f"{directory}/") and link.endswith(".log")]


@pytest.mark.parametrize("timestamp", [None, 0, 1010])
def test_a_search_by_time_leaves_no_file_open(tmp_path: Path, timestamp: int | None) -> None:
    """However many segments it has to look at: descriptors are few, and nobody reads these files."""
    path = f"{tmp_path}/t-0"
    log = Log.create(path, TOPIC_ID, SMALL, now_ms=0)
    for at in range(60):
        append(log, batch(2, value=b"%03d" % at * 10, timestamp=1000 + at))
    log.close()
    for sure in (False, True):
        if not sure:
            log = Log.open(path, SMALL, clean=True, now_ms=0)
        before = len(open_logs(tmp_path))
        scan = log.max_timestamp(120) if timestamp is None else log.find_timestamp(timestamp, 120)
        assert scan is not None
        assert len(scan.segments) > 4
        assert len(open_logs(tmp_path)) <= before + 1
        assert scan.run() is not None
        log.segments.let_go(scan.segments)
        assert len(open_logs(tmp_path)) <= before + 1
    for segment in log.segments:
        segment.make_max_sure()
        _ = segment.file
    log.segments.release_unused()
    assert len(open_logs(tmp_path)) <= 1
    log.close(clean=False)


def test_what_was_read_and_then_deleted_is_not_left_open(tmp_path: Path) -> None:
    """Its files may stay for long, until no recovery needs them, but nobody reads them."""
    log = Log.create(f"{tmp_path}/t-0", TOPIC_ID, SMALL, now_ms=0)
    for at in range(20):
        append(log, batch(2, value=b"%03d" % at * 10))
    flush(log)
    first = log.segments[0]
    for piece in log.read(0, bytes_max=1000, end=log.end_offset):
        assert piece.load()
    log.delete_segments(log.segments[:1], now_ms=0)
    log.segments.release_unused()
    del piece
    log.segments.release_unused()
    assert first.open_file is None
    log.close(clean=False)


def test_a_search_by_time_beside_retention(tmp_path: Path) -> None:
    """A segment whose file has gone meanwhile holds nothing any more; one that vanished otherwise is an error."""
    path = f"{tmp_path}/t-0"
    log = Log.create(path, TOPIC_ID, SMALL, now_ms=0)
    for at in range(20):
        append(log, batch(2, value=b"%03d" % at * 10, timestamp=1000 + at))
    log.close()
    log = Log.open(path, SMALL, clean=True, now_ms=0)
    scan, other = log.find_timestamp(1000, 40), log.find_timestamp(1000, 40)
    assert scan is not None
    assert other is not None
    first = log.segments[:1]
    log.delete_segments(first, 0)
    os.unlink(first[0].log_path)
    found = scan.run()
    assert found is not None
    assert found.offset == log.segments[0].base_offset
    os.unlink(log.segments[0].log_path)
    with pytest.raises(StorageFailed):
        other.run()
    log.close(clean=False)


def test_slice_outlives_its_segment(disk: MemoryDisk) -> None:
    """A reader keeps what it has while retention takes the segment away."""
    log = filled(disk, 20)
    (piece,) = log.read(0, bytes_max=1000, end=40)
    before = piece.load()
    log.config = LogConfig(retention_bytes=0)
    log.delete_segments(log.expired(0, 40), 0)
    flush(log)
    checkpoint(log)
    removal = log.removal(10**9)
    assert removal is not None
    removal.run()
    assert bytes(piece.view()) == piece.load() == before


@pytest.mark.parametrize(
    ("config", "segments"),
    [
        (LogConfig(), 1),
        (LogConfig(segment_bytes=300), 10),
        (LogConfig(segment_ms=5), 4),
        (LogConfig(index_interval_bytes=0, segment_index_bytes=40), 4),
    ],
)
def test_rolls(disk: MemoryDisk, config: LogConfig, segments: int) -> None:
    """segment.bytes, segment.ms by the records' times, a full index."""
    log = filled(disk, 20, config)
    assert len(log.segments) == segments
    assert [offset for offset, _ in content(log)] == list(range(40))


def test_rolls_before_a_relative_offset_overflows(disk: MemoryDisk) -> None:
    """Offsets in an index are 31 bits from the segment's base."""
    log = Log.create(PATH, TOPIC_ID, LogConfig(compacted=True), now_ms=0, disk=disk)
    append(log, batch())
    far = batch()
    far[:8] = (2**31).to_bytes(8, "big")
    log.append(far, leader_epoch=0, now_ms=0, origin="replica")
    assert [one.base_offset for one in log.segments] == [0, 1]
    assert log.read(1, bytes_max=1000, end=2**31 + 1)[0].next_offset == 2**31 + 1


@pytest.mark.parametrize("closed", [False, True])
def test_find_timestamp(disk: MemoryDisk, closed: bool) -> None:
    """The first record at or after a time, below ``end`` and not before the log's start."""
    log = filled(disk, 20)
    if closed:
        log.close()
        log = Log.open(PATH, SMALL, clean=True, now_ms=0, disk=disk)
    for timestamp in range(990, 1025):
        scan = log.find_timestamp(timestamp, 40)
        found = scan.run() if scan else None
        at = max(timestamp, 1000) - 1000
        assert found == ((1000 + at, 2 * at, at // 5) if at < 20 else None)
    scan = log.find_timestamp(1015, 30)
    assert scan is not None
    assert scan.run() is None
    log.advance_start(7)
    scan = log.find_timestamp(0, 40)
    assert scan is not None
    assert scan.run() == (1003, 7, 0)


def test_find_timestamp_inside_a_batch(log: Log) -> None:
    """Records of one batch may have falling times; the first that is late enough counts. So with the largest."""
    times = [50, 10, 70, 70, 20]
    append(log, build_batch([Record(at, time, None, b"", []) for at, time in enumerate(times)]))
    append(log, batch(timestamp=30))
    for timestamp, offset in ((0, 0), (51, 2), (70, 2)):
        scan = log.find_timestamp(timestamp, 6)
        assert scan is not None
        found = scan.run()
        assert found is not None
        assert found.offset == offset
    scan = log.max_timestamp(6)
    assert scan is not None
    assert scan.run() == (70, 2, 0)
    assert log.find_timestamp(71, 6) is None


def test_max_timestamp_of_nothing(log: Log) -> None:
    """An empty log, and one whose records have no times."""
    assert log.max_timestamp(0) is None
    append(log, batch(timestamp=-1))
    assert log.max_timestamp(1) is None


@pytest.mark.parametrize("offset", [0, 1, 2, 11, 25, 39, 40, 50])
def test_truncate(disk: MemoryDisk, offset: int) -> None:
    """The end moves back to a batch's start, what was behind is zero on disk, and the log goes on from there."""
    log = filled(disk, 20)
    flush(log)
    checkpoint(log)
    end = log.truncate(offset)
    assert end == min(offset // 2 * 2, 40) == log.end_offset
    assert [at for at, _ in content(log)] == list(range(end))
    if end < 40:
        active = log.segments[-1]
        file = disk.names[active.log_path]
        assert file is not None
        assert not any(file.durable[active.size :])
    assert append(log, batch(timestamp=1100), epoch=9).base_offset == end
    after = Log.open(PATH, SMALL, clean=False, now_ms=0, disk=disk)
    assert content(after) == content(log)
    assert after.epochs.entries == log.epochs.entries


def test_truncate_into_a_batch_that_is_half_deleted(disk: MemoryDisk) -> None:
    """Where the cut would fall before the log's start, the log goes on, empty, at its start."""
    log = filled(disk, 3)
    log.advance_start(3)
    assert log.truncate(3) == 3
    assert (log.start_offset, log.end_offset, log.size_bytes) == (3, 3, 0)
    assert append(log, batch()).base_offset == 3
    assert Log.open(PATH, SMALL, clean=False, now_ms=0, disk=disk).end_offset == 4


def test_flush_due(log: Log) -> None:
    """flush.messages, flush.ms, and after a roll."""
    assert not log.flush_due(0)
    append(log, batch(3))
    assert not log.flush_due(10**9)
    log.config = LogConfig(flush_messages=3)
    assert log.flush_due(0)
    log.config = LogConfig(flush_ms=100)
    assert log.flush_due(1000)
    flush(log)
    assert not log.flush_due(1000)
    log.config = LogConfig()
    append(log, batch())
    log.roll(0)
    assert log.flush_due(0)


def test_flush_due_after_the_clock_went_back(log: Log) -> None:
    """``flush.ms`` counts from the last flush, also if that was at a time which has not come yet by a clock set right;
    but no flush comes of it that nobody asked for."""
    append(log, batch(), now_ms=10**12)
    job = log.flush_job(10**12)
    assert job is not None
    job.run()
    log.flushed(job)
    append(log, batch(), now_ms=10**9)
    assert not log.flush_due(10**9)
    log.config = LogConfig(flush_ms=1000)
    assert log.flush_due(10**9)


def test_checkpoint_only_when_something_changed(log: Log) -> None:
    """An idle log writes nothing."""
    append(log, batch())
    checkpoint(log, 1)
    assert log.checkpoint(1) is None
    log.advance_start(1)
    assert log.checkpoint(1) is not None


def test_state_survives(disk: MemoryDisk) -> None:
    """Start offset, high watermark and epochs come back after a kill."""
    log = filled(disk, 20)
    log.assign_epoch(8)
    log.advance_start(31)
    flush(log)
    checkpoint(log, 35)
    after = Log.open(PATH, SMALL, clean=False, now_ms=0, disk=disk)
    assert (after.start_offset, after.high_watermark, after.topic_id) == (31, 35, TOPIC_ID)
    assert after.epochs.entries[0] == (3, 31)
    assert after.end_offset_for(3).end_offset == 40


def test_preallocate(disk: MemoryDisk) -> None:
    """With preallocate a segment's file has its whole size from the first append on; closed, it has its data's."""
    log = filled(disk, 1, LogConfig(segment_bytes=1 << 20, preallocate=True))
    file = disk.names[log.segments[0].log_path]
    assert file is not None
    assert len(file.data) == 1 << 20
    log.close()
    assert len(file.data) == log.segments[0].size
