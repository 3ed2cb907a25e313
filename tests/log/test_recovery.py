"""Opening after a crash: the torn end goes, everything else stays or is named."""

from __future__ import annotations

import random
from functools import partial

import msgspec
import pytest

from logd.errors import Corrupt
from logd.log.batch_file import GROW_BYTES_MIN
from logd.log.log import Log, LogConfig
from logd.wire.batches import read_headers
from tests.fakes.disks import FaultyDisk, MemoryDisk
from tests.log.batches import TOPIC_ID, append, batch, checkpoint, content, flush
from tests.log.compacting import clean, put, roll

PATH = "/data/t-0"
SMALL = LogConfig(segment_bytes=1000, index_interval_bytes=100)


def reopen(disk: MemoryDisk | FaultyDisk, config: LogConfig = SMALL, newest_epoch: int | None = None) -> Log:
    return Log.open(PATH, config, clean=False, now_ms=0, disk=disk, newest_epoch=newest_epoch)


def filled(disk: MemoryDisk, batches: int, config: LogConfig = SMALL) -> Log:
    log = Log.create(PATH, TOPIC_ID, config, now_ms=0, disk=disk)
    for at in range(batches):
        append(log, batch(value=b"%04d" % at * 20, timestamp=1000 + at, producer=1, sequence=at), epoch=at // 5)
    return log


def data(disk: MemoryDisk, log: Log, segment: int) -> bytearray:
    file = disk.names[log.segments[segment].log_path]
    assert file is not None
    return file.data


def test_nothing_is_lost_by_a_dead_process(disk: MemoryDisk) -> None:
    """All that was written is there, with epochs, producers and timestamps."""
    before = filled(disk, 23)
    after = reopen(disk)
    assert content(after) == content(before)
    assert after.epochs.entries == before.epochs.entries
    assert after.producers.snapshot(0) == before.producers.snapshot(0)
    assert [one.max_timestamp for one in after.segments] == [one.max_timestamp for one in before.segments]


def test_every_torn_length_of_the_last_batch(disk: MemoryDisk) -> None:
    """However much of the last batch was written, exactly it is cut, and the log goes on."""
    log = filled(disk, 5)
    start = log.segments[0].locate(4)
    whole = bytes(data(disk, log, 0))
    for kept in range(start, log.segments[0].size - 1):  # its last byte is a zero
        data(disk, log, 0)[:] = whole[:kept] + bytes(len(whole) - kept)
        after = reopen(disk)
        assert after.end_offset == 4, kept
        assert append(after, batch(producer=1, sequence=4)).base_offset == 4
        data(disk, log, 0)[:] = whole


def test_garbage_behind_the_end(disk: MemoryDisk) -> None:
    """Bytes behind a gap of zeros are no part of the log and are gone before anything is appended."""
    log = filled(disk, 2)
    data(disk, log, 0)[30_000:30_010] = b"x" * 10
    assert reopen(disk).end_offset == 2
    assert not any(data(disk, log, 0)[log.segments[0].size :])


def test_old_batches_behind_new_ones(disk: MemoryDisk) -> None:
    """A valid batch of a lower epoch or an unexpected offset ends the log."""
    log = filled(disk, 6)
    position = log.segments[0].size
    stale = bytes(data(disk, log, 0)[:position])
    data(disk, log, 0)[position : 2 * position] = stale
    assert reopen(disk).end_offset == 6


@pytest.mark.parametrize("flushed", [True, False])
@pytest.mark.parametrize("bit", [2, 5, 30])
def test_an_epoch_that_never_was(disk: MemoryDisk, bit: int, flushed: bool) -> None:
    """No checksum covers a batch's epoch: in the last batch a higher one would be taken for that of a newer leader.

    Then it would be served, and what is appended later, of a lower epoch, would be damage.
    """
    log = filled(disk, 6)  # epochs 0 and 1
    if flushed:
        flush(log)
        checkpoint(log)
        append(log, batch(producer=1, sequence=6), epoch=1)
    position = log.segments[-1].last_position
    assert reopen(disk, newest_epoch=1).end_offset == log.end_offset
    data(disk, log, -1)[position + 15 - bit // 8] ^= 1 << bit % 8
    with pytest.raises(Corrupt, match=f"leader epoch {1 + (1 << bit)} .* above 1") as corrupt:
        reopen(disk, newest_epoch=1)
    assert (corrupt.value.path, corrupt.value.position) == (log.segments[-1].log_path, position)
    data(disk, log, -1)[position + 15 - bit // 8] ^= 1 << bit % 8
    assert content(reopen(disk, newest_epoch=1)) == content(log)


@pytest.mark.parametrize("where", [0, 7, 8, 11, 16, 17, 23, 61, 80])
def test_damage_below_the_flushed_point(disk: MemoryDisk, where: int) -> None:
    """A wrong byte in flushed data is named with file and position; nothing is cut."""
    log = filled(disk, 5)
    flush(log)
    checkpoint(log)
    position = log.segments[0].locate(2)
    data(disk, log, 0)[position + where] ^= 0x40
    before = bytes(data(disk, log, 0))
    with pytest.raises(Corrupt, match="flushed") as corrupt:
        reopen(disk)
    assert corrupt.value.position == position
    assert corrupt.value.path == log.segments[0].log_path
    assert data(disk, log, 0) == before


@pytest.mark.parametrize("before", [0, 3])
@pytest.mark.parametrize("ahead", [1, 16, 2**20, 2**40])
@pytest.mark.parametrize("which", [0, 2, 5])
def test_a_wrong_base_offset_is_no_gap(disk: MemoryDisk, which: int, ahead: int, before: int) -> None:
    """In a topic to be compacted, where compaction has not been: what was flushed stays, and is not cut behind it."""
    config = LogConfig(compacted=True)
    log = Log.create(PATH, TOPIC_ID, config, now_ms=0, disk=disk)
    for at in range(before):
        put(log, ("same", f"{at}"))
    if before:
        roll(log)
        clean(log, disk)
    for at in range(6):
        put(log, (f"k{at}", "v"))
    flush(log)
    log.note_flushed()
    held = data(disk, log, -1)
    position = log.segments[-1].locate(before + which)
    held[position : position + 8] = (before + which + ahead).to_bytes(8, "big")
    kept = bytes(held)
    with pytest.raises(Corrupt):
        content(reopen(disk, config))
    assert bytes(held)[: log.segments[-1].size] == kept[: log.segments[-1].size]


@pytest.mark.parametrize("damage", ["missing", "empty", "short"])
def test_compacted_segments_are_demanded(disk: MemoryDisk, damage: str) -> None:
    """Where gaps are lawful nothing but what was written down says that records are gone."""
    log = Log.create(PATH, TOPIC_ID, SMALL, now_ms=0, disk=disk)
    for at in range(24):
        put(log, (f"k{at}", "v" * 200))
    roll(log)
    clean(log, disk)
    log.close()
    assert len(content(reopen(disk))) == 24
    second = log.segments[1]
    if damage == "missing":
        for name in [name for name in disk.names if name.startswith(second.path)]:
            del disk.names[name]
    else:
        del data(disk, log, 1)[0 if damage == "empty" else second.locate(second.base_offset + 2) :]
    with pytest.raises(Corrupt, match="the compacted segment") as corrupt:
        reopen(disk)
    assert corrupt.value.path == second.log_path


def test_compacted_segments_below_the_start_may_be_missing(disk: MemoryDisk) -> None:
    """Their removal may have met a failure, so that some are there and later ones are not."""
    log = Log.create(PATH, TOPIC_ID, SMALL, now_ms=0, disk=disk)
    for at in range(24):
        put(log, (f"k{at}", "v" * 200))
    roll(log)
    clean(log, disk)
    log.advance_start(log.segments[2].base_offset)
    checkpoint(log)
    for name in [name for name in disk.names if name.startswith(log.segments[1].path)]:
        del disk.names[name]
    assert len(content(reopen(disk))) == 24 - log.start_offset


@pytest.mark.parametrize("compacted", [False, True])
@pytest.mark.parametrize("kept", [0, 1])
@pytest.mark.parametrize("appended", [0, 1])
def test_all_was_deleted_and_some_of_it_is_left(disk: MemoryDisk, appended: int, kept: int, compacted: bool) -> None:
    """One file whose removal met a failure does not show that flushed data is missing between it and the start."""
    config = LogConfig(segment_bytes=90, compacted=compacted)
    log = Log.create(PATH, TOPIC_ID, config, now_ms=0, disk=disk)
    for at in range(3):
        put(log, (f"k{at}", "v"))
    log.advance_start(3)
    log.delete_segments(log.expired(0, 3, delete=False), 0)
    flush(log)
    checkpoint(log)
    for at in range(appended):
        put(log, (f"k{at}", "w"))
    flush(log)
    for at in range(3):
        for name in [name for name in disk.names if name.startswith(f"{PATH}/{at:020d}.") and at != kept]:
            del disk.names[name]
    again = reopen(disk, config)
    assert (again.start_offset, again.end_offset) == (3, 3 + appended)
    assert len(content(again)) == appended
    again.delete_segments(again.expired(0, 3, delete=False), 0)
    assert again.segments[0].base_offset == 3


def test_missing_flushed_segment(disk: MemoryDisk) -> None:
    """A file that is gone is no end of the log."""
    log = filled(disk, 23)
    flush(log)
    checkpoint(log)
    del disk.names[log.segments[-1].log_path]
    with pytest.raises(Corrupt):
        reopen(disk)


@pytest.mark.parametrize("compacted", [False, True])
@pytest.mark.parametrize("known_by", ["note", "state", "recovery point", "clean close"])
def test_missing_last_segment(disk: MemoryDisk, known_by: str, compacted: bool) -> None:
    """However it is known that there was more, and whether gaps are lawful or not: the log does not end there."""
    config = msgspec.structs.replace(SMALL, compacted=compacted)
    log = filled(disk, 23, config)
    log.roll(0)
    flush(log)
    append(log, batch(producer=1, sequence=23), epoch=4)
    log.checkpoints.wanted = known_by == "recovery point"
    flush(log)
    if known_by == "note":
        log.note_flushed()
    elif known_by == "clean close":
        log.close()
    else:
        checkpoint(log)
    del disk.names[log.segments[-1].log_path]
    before = {name: file and bytes(file.data) for name, file in disk.names.items() if name.endswith(".log")}
    with pytest.raises(Corrupt):
        reopen(disk, config)
    assert before == {name: file and bytes(file.data) for name, file in disk.names.items() if name.endswith(".log")}


def test_a_new_segment_of_the_size_that_another_was_closed_with(disk: MemoryDisk) -> None:
    """A segment that was begun after a clean close, and is as large as the one before was then, is read."""
    log = Log.create(PATH, TOPIC_ID, LogConfig(), now_ms=0, disk=disk)
    head = len(batch(value=bytes(65_000))) - 65_000
    append(log, batch(value=bytes(GROW_BYTES_MIN - head)))
    assert log.segments[0].size == GROW_BYTES_MIN
    log.close()
    log = reopen(disk, LogConfig())
    log.roll(0)
    append(log, batch())
    assert log.segments[1].allocated == GROW_BYTES_MIN
    log.close(clean=False)
    assert reopen(disk, LogConfig()).end_offset == 2


def test_reads_only_after_the_recovery_point(disk: MemoryDisk) -> None:
    """What is before the recovery point is not read again, however much it is."""
    log = filled(disk, 40)
    log.roll(0)
    flush(log)
    checkpoint(log)
    append(log, batch(producer=1, sequence=40), epoch=9)
    counting = FaultyDisk(disk)
    after = reopen(counting)
    assert after.end_offset == 41
    assert len(after.segments) > 4
    assert counting.calls["read"] < 20


@pytest.mark.parametrize("suffix", [".index", ".timeindex"])
@pytest.mark.parametrize("damage", ["missing", "short", "zeros", "lies", "empty"])
def test_damaged_index(disk: MemoryDisk, suffix: str, damage: str) -> None:
    """A missing or damaged index of a sealed or closed segment is made again; reads and searches stay right."""
    log = filled(disk, 23)
    expected = content(log)
    log.close()
    for name in [one for one in disk.names if one.endswith(suffix)]:
        file = disk.names[name]
        assert file is not None
        if damage == "missing":
            del disk.names[name]
        elif damage == "short":
            del file.data[-1:]
        elif damage == "zeros":
            file.data[:] = bytes(len(file.data))
        elif damage == "empty":
            file.data.clear()
        elif suffix == ".index" and len(file.data) >= 8:
            file.data[7] ^= 1
    after = reopen(disk)
    assert content(after) == expected
    for offset in range(after.end_offset):
        (piece,) = after.read(offset, bytes_max=1, end=after.end_offset)
        piece.load()
        assert piece.base_offset == offset
    scan = after.find_timestamp(1011, after.end_offset)
    assert scan is not None
    assert scan.run() == (1011, 11, 2)


@pytest.mark.parametrize("bytes_max", [300, 450, 700])
def test_every_flipped_bit_of_an_index(disk: MemoryDisk, bytes_max: int) -> None:
    """None keeps sound batches from their readers, whatever they ask for and wherever their answers have to end."""
    log = filled(disk, 12)
    expected = content(log)
    log.close()
    file = disk.names[f"{log.segments[0].path}.index"]
    assert file is not None
    assert len(file.data) >= 16
    for bit in range(8 * len(file.data)):
        file.data[bit // 8] ^= 1 << bit % 8
        after = Log.open(PATH, SMALL, clean=True, now_ms=0, disk=disk)
        found: list[int] = []
        while len(found) < len(expected):
            (piece,) = after.read(len(found), bytes_max=bytes_max, end=after.end_offset)
            data = piece.load()
            assert len(data) <= bytes_max
            found += [header.base_offset for _, header in read_headers(data)]
            assert piece.next_offset == len(found)
        assert found == [offset for offset, _ in expected]
        file.data[bit // 8] ^= 1 << bit % 8


def test_damaged_snapshot(disk: MemoryDisk) -> None:
    """Without its newest snapshot the producer state comes from an older one and the headers behind it."""
    log = filled(disk, 10)
    flush(log)
    for at in range(10, 23):
        append(log, batch(producer=1, sequence=at), epoch=4)
    expected = log.producers.snapshot(0)
    log.close()
    newest = max(name for name in disk.names if name.endswith(".snapshot"))
    file = disk.names[newest]
    assert file is not None
    file.data[20] ^= 1
    assert reopen(disk).producers.snapshot(0) == expected


def test_damaged_state_file(disk: MemoryDisk) -> None:
    """Without its state file a log is read whole."""
    log = filled(disk, 23)
    expected = content(log)
    log.close()
    file = disk.names[f"{PATH}/partition.state"]
    assert file is not None
    file.data[12] ^= 1
    after = reopen(disk)
    assert content(after) == expected
    assert after.epochs.entries == log.epochs.entries


@pytest.mark.parametrize("noted", [False, True])
def test_damaged_state_file_and_a_deleted_segment_before_others(disk: MemoryDisk, noted: bool) -> None:
    """A power cut may bring one of several removed files back; without the state file the hole behind it looks like a
    torn end, and what comes behind the hole is not cut."""
    log = filled(disk, 23)
    flush(log)
    second = log.segments[1].path
    log.advance_start(log.segments[2].base_offset)
    log.delete_segments(log.segments[:2], 0)
    checkpoint(log)
    append(log, batch(producer=1, sequence=23), epoch=4)
    flush(log)
    if noted:
        log.note_flushed()
    log.close(clean=False)
    for name in [name for name in disk.names if name.startswith(second)]:
        del disk.names[name]
    file = disk.names[f"{PATH}/partition.state"]
    assert file is not None
    file.data[12] ^= 1
    before = set(disk.names)
    with pytest.raises(Corrupt, match="partition.state is damaged" if not noted else "had been flushed"):
        reopen(disk)
    assert set(disk.names) >= {name for name in before if name.endswith(".log")}
    file.data[12] ^= 1
    assert len(content(reopen(disk))) == 24 - log.start_offset


@pytest.mark.parametrize("bit", range(64))
def test_damaged_state_file_and_a_wrong_offset_in_a_compacted_segment(disk: MemoryDisk, bit: int) -> None:
    """Where gaps are lawful, an offset that cannot be in the segment is damage as well, and no bug of the start."""
    config = LogConfig(segment_bytes=1000, index_interval_bytes=1, compacted=True)
    log = Log.create(PATH, TOPIC_ID, config, now_ms=0, disk=disk)
    for at in range(9):
        put(log, (f"k{at}", "v"), ("same", "v"))
    roll(log)
    put(log, ("k", "v"))
    clean(log, disk)
    place = log.segments[0].locate(8)
    log.close()
    state, data = disk.names[f"{PATH}/partition.state"], disk.names[log.segments[0].log_path]
    assert state is not None
    assert data is not None
    state.data[12] ^= 1
    data.data[place + 7 - bit // 8] ^= 1 << bit % 8
    with pytest.raises(Corrupt) as corrupt:
        content(reopen(disk, config))
    assert corrupt.value.path == log.segments[0].log_path


@pytest.mark.parametrize("damage", [b"", None])
def test_damaged_meta(disk: MemoryDisk, damage: bytes | None) -> None:
    """A directory that does not say whose data it holds is not opened."""
    filled(disk, 2).close()
    if damage is None:
        del disk.names[f"{PATH}/partition.meta"]
    else:
        disk.replace(f"{PATH}/partition.meta", damage, sync=True)
    with pytest.raises(Corrupt, match="meta"):
        reopen(disk)


def test_create_over_old_segments(disk: MemoryDisk) -> None:
    """A log is never begun in a directory that holds data."""
    filled(disk, 2)
    del disk.names[f"{PATH}/partition.meta"]
    with pytest.raises(Corrupt, match="old segments"):
        Log.create(PATH, TOPIC_ID, SMALL, now_ms=0, disk=disk)


def test_idempotence_over_roll_retention_and_restart(disk: MemoryDisk) -> None:
    """A retry is known when its batch is long deleted and the server was killed."""
    log = filled(disk, 23)
    log.roll(10**9)
    flush(log)
    log.delete_segments(log.expired(10**12, log.end_offset), 10**12)
    checkpoint(log)
    removal = log.removal(10**13)
    assert removal is not None
    removal.run()
    after = reopen(disk)
    assert (after.start_offset, after.end_offset) == (23, 23)
    again = append(after, batch(value=b"%04d" % 22 * 20, timestamp=1022, producer=1, sequence=22))
    assert (again.duplicate, again.base_offset) == (True, 22)


def test_start_offset_beyond_what_is_left(disk: MemoryDisk) -> None:
    """When a power cut took all that DeleteRecords had left, the log goes on, empty, at its start offset."""
    log = filled(disk, 3)
    log.advance_start(2)
    checkpoint(log)
    del data(disk, log, 0)[:]
    after = reopen(disk)
    assert (after.start_offset, after.end_offset) == (2, 2)
    assert append(after, batch()).base_offset == 2


def test_idempotence_when_retention_takes_the_active_segment(disk: MemoryDisk) -> None:
    """A producer whose every batch was deleted before any recovery point is still known after a dead process."""
    config = LogConfig(retention_ms=10, file_delete_delay_ms=0)
    log = Log.create(PATH, TOPIC_ID, config, now_ms=0, disk=disk)
    for sequence in range(3):
        append(log, batch(producer=7, sequence=sequence, timestamp=0))
    flush(log)
    for now_ms in (100, 200, 300):  # rounds of the node's upkeep
        log.delete_segments(log.expired(now_ms, log.end_offset), now_ms)
        removal = log.removal(now_ms)
        if removal is not None:
            removal.run()
        if log.flush_due(now_ms):
            flush(log)
        checkpoint(log)
    assert f"{PATH}/{0:020d}.log" not in disk.names
    again = Log.open(PATH, config, clean=False, now_ms=0, disk=disk)
    repeated = append(again, batch(producer=7, sequence=2, timestamp=0))
    assert (repeated.duplicate, repeated.base_offset) == (True, 2)


@pytest.mark.parametrize("at", [7, 8, 9, 10, 11, 16, 20, 26, 70])
def test_damage_just_before_the_recovery_point(disk: MemoryDisk, at: int) -> None:
    """A damaged batch that ends where the scan begins is corruption, and what is behind it is not cut off."""
    log = Log.create(PATH, TOPIC_ID, LogConfig(), now_ms=0, disk=disk)
    for _ in range(4):
        append(log, batch(value=bytes(200)))
    log.checkpoints.since_point_bytes = 2**40  # so that the flush makes a recovery point
    flush(log)
    append(log, batch(value=bytes(200)))
    flush(log)
    file = disk.names[f"{PATH}/{0:020d}.log"]
    assert file is not None
    before = bytes(file.data)
    last = log.segments[0].size // 5 * 3
    file.data[last + at] ^= 1
    with pytest.raises(Corrupt):
        Log.open(PATH, LogConfig(), clean=False, now_ms=0, disk=disk)
    file.data[last + at] ^= 1
    assert bytes(file.data) == before


def test_newest_timestamp_of_a_segment_sealed_after_a_crash(disk: MemoryDisk) -> None:
    """A segment whose sealing a crash overtook is sealed with its newest timestamp, which later starts believe."""
    config = LogConfig(segment_bytes=2000, index_interval_bytes=200)
    log = Log.create(PATH, TOPIC_ID, config, now_ms=0, disk=disk)
    newest = -1
    while len(log.segments) == 1:
        newest = log.segments[0].max_timestamp
        append(log, batch(value=bytes(90), timestamp=1000 + 10 * log.end_offset))
    for _ in range(2):
        log.close(clean=False)
        log = Log.open(PATH, config, clean=False, now_ms=0, disk=disk)
        flush(log)
        assert log.segments[0].max_timestamp == newest


def test_damage_below_what_was_noted_as_flushed(disk: MemoryDisk) -> None:
    """Between two state files a note says how far the log is flushed: damage below it is named, not cut."""
    log = filled(disk, 3)
    flush(log)
    log.note_flushed()
    append(log, batch(producer=1, sequence=3))
    data(disk, log, 0)[log.segments[0].locate(1) + 70] ^= 1
    with pytest.raises(Corrupt, match="had been flushed"):
        reopen(disk)
    data(disk, log, 0)[log.segments[0].locate(1) + 70] ^= 1
    data(disk, log, 0)[log.segments[0].locate(3) + 62] ^= 1
    assert reopen(disk).end_offset == 3


@pytest.mark.parametrize("note", [b"", b"LFO1" + bytes(12), bytes(16), b"x" * 100])
def test_damaged_note(disk: MemoryDisk, note: bytes) -> None:
    """A note that is damaged says nothing, and the log opens."""
    log = filled(disk, 3)
    flush(log)
    log.note_flushed()
    disk.replace(f"{PATH}/partition.flushed", note, sync=True)
    data(disk, log, 0)[log.segments[0].locate(1) + 70] ^= 1
    assert reopen(disk).end_offset == 1


@pytest.mark.parametrize("end", [0, 1])
def test_a_truncation_takes_the_note_back(disk: MemoryDisk, end: int) -> None:
    """What was cut off on purpose is missed by nobody."""
    log = filled(disk, 3)
    flush(log)
    log.note_flushed()
    log.truncate(end)
    assert reopen(disk).end_offset == end
    assert disk.load(f"{PATH}/partition.flushed") is None


def test_all_segments_missing(disk: MemoryDisk) -> None:
    """A log of which nothing is left but the note, or the state, that there was something is not begun anew."""
    for noted in (True, False):
        other = MemoryDisk()
        log = filled(other, 3)
        flush(log)
        (log.note_flushed if noted else partial(checkpoint, log))()
        other.remove(log.segments[0].log_path)
        with pytest.raises(Corrupt, match="all segments from offset 0 on are missing"):
            reopen(other)


def test_strange_directory(disk: MemoryDisk) -> None:
    """A directory in a log's directory, which is none of its own, keeps nobody from opening it, whatever its name."""
    log = filled(disk, 3)
    disk.make_directory(f"{PATH}/mine.tmp")
    disk.open(f"{PATH}/mine.tmp/file", create=True)
    assert reopen(disk).end_offset == log.end_offset
    assert f"{PATH}/mine.tmp" in disk.names


@pytest.mark.parametrize("sealed", [False, True])
@pytest.mark.parametrize("seed", range(8))
def test_deleted_records_stay_deleted_after_a_power_cut(disk: MemoryDisk, seed: int, sealed: bool) -> None:
    """Once the new start is told to be written, whether by a checkpoint or with a recovery point."""
    log = filled(disk, 12)
    flush(log)
    checkpoint(log)
    disk.sync_directory("/data")
    log.advance_start(7)
    if sealed:
        log.roll(0)
    flush(log)
    checkpoint(log)
    assert reopen(disk.lose_power(random.Random(seed))).start_offset == 7
