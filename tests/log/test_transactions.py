"""Transactions in one log: who may begin one, which markers end it, what is stable, and what the files keep of it."""

from __future__ import annotations

import struct

import pytest

from logd.errors import Corrupt, ErrorCode, Refused
from logd.log.aborted import TXN_INDEX_SUFFIX, AbortedIndex, AbortedTransaction
from logd.log.log import Log, LogConfig
from logd.log.markers import Marker, build_marker, read_marker
from logd.log.producers import VERIFICATIONS_KEPT, Verification
from logd.log.state import State, pack_state, parse_state
from logd.log.transactions import NEVER, OpenTransactions
from logd.wire.batches import Record, build_batch, check_crc, read_header, read_records
from tests.fakes.disks import MemoryDisk
from tests.log.batches import append, batch, checkpoint, flush, mark
from tests.log.batches import content as content_of
from tests.log.compacting import clean, pairs_of, put, roll, steps

PATH = "/data/t-0"
EPOCH_MAX = 32767


def write(log: Log, producer: int = 1, *, epoch: int = 0, sequence: int = 0, count: int = 1) -> int:
    """Append records of a transaction; return their base offset."""
    data = batch(count, producer=producer, epoch=epoch, sequence=sequence, transactional=True)
    return append(log, data).base_offset


def ask(log: Log, producer: int = 1, epoch: int = 0, sequence: int = 0, *, restarts: bool = False) -> Verification:
    found = log.producers.begin_verification(producer, epoch, sequence, restarts=restarts)
    assert found is not None
    return found


def answer(
    log: Log, verified: Verification | None, *, producer: int = 1, epoch: int = 0, sequence: int = 0
) -> ErrorCode:
    """Append what was asked for; the error, or NONE."""
    data = batch(1, producer=producer, epoch=epoch, sequence=sequence, transactional=True)
    try:
        log.append(data, leader_epoch=0, now_ms=1000, verified=verified)
    except Refused as refused:
        return refused.code
    return ErrorCode.NONE


def marked(log: Log, epoch: int, *, version: int, coordinator_epoch: int = 0, producer: int = 1) -> ErrorCode:
    """Write a marker; the error, or NONE."""
    try:
        log.append_marker(
            producer,
            epoch,
            committed=False,
            coordinator_epoch=coordinator_epoch,
            transaction_version=version,
            leader_epoch=0,
            now_ms=1000,
        )
    except Refused as refused:
        return refused.code
    return ErrorCode.NONE


def reopened(disk: MemoryDisk) -> Log:
    return Log.open(PATH, LogConfig(), clean=False, now_ms=0, disk=disk)


# Markers


@pytest.mark.parametrize("committed", [True, False])
def test_marker_bytes(committed: bool) -> None:
    """A marker is the control batch that the general builder makes, and reads back."""
    key, value = struct.pack(">hh", 0, committed), struct.pack(">hi", 0, 7)
    records = [Record(0, 99, key, value, [])]
    general = build_batch(records, producer_id=5, producer_epoch=3, transactional=True, control=True)
    built = build_marker(5, 3, committed=committed, coordinator_epoch=7, now_ms=99)
    assert built == general
    header = read_header(built)
    assert check_crc(built, 0, header)
    assert read_marker(built, 0, header) == Marker(committed, 7)


def test_control_batches_that_end_nothing() -> None:
    """Another type, a key that is too short, or a record that was compacted away end no transaction."""
    for key in (struct.pack(">hh", 0, 2), b"\0", b""):
        other = build_batch([Record(0, 99, key, b"", [])], producer_id=5, producer_epoch=3, control=True)
        assert read_marker(other, 0, read_header(other)) is None
    empty = build_batch([], last_offset_delta=0, producer_id=5, producer_epoch=3, control=True)
    assert read_marker(empty, 0, read_header(empty)) is None


OK, STALE, FENCED = ErrorCode.NONE, ErrorCode.INVALID_PRODUCER_EPOCH, ErrorCode.TRANSACTION_COORDINATOR_FENCED


@pytest.mark.parametrize(
    ("version", "opened", "epoch", "expected"),
    [
        (0, True, 4, STALE), (0, True, 5, OK), (0, True, 6, OK), (0, False, 4, STALE), (0, False, 5, OK),
        (1, True, 4, STALE), (1, True, 5, OK), (1, True, 9, OK), (1, False, 5, OK),
        (2, True, 4, STALE), (2, True, 5, STALE), (2, True, 6, OK), (2, True, EPOCH_MAX, OK),
        (2, False, 4, STALE), (2, False, 5, OK), (2, False, 6, OK),
    ],
)  # fmt: skip
def test_marker_epochs(log: Log, version: int, opened: bool, epoch: int, expected: ErrorCode) -> None:
    """With transaction.version 2 the marker's epoch is higher, or it is written again (KAFKA-19999); else not lower."""
    write(log, epoch=5)
    if not opened:
        mark(log, 1, committed=True, epoch=5)
    end = log.end_offset
    assert marked(log, epoch, version=version) == expected
    assert log.end_offset == end + (expected == OK)


def test_marker_at_the_last_epoch(log: Log) -> None:
    """At 32767 a transaction of the same epoch may be ended: there is no higher one."""
    write(log, epoch=EPOCH_MAX)
    assert marked(log, EPOCH_MAX, version=2) == OK
    assert marked(log, EPOCH_MAX, version=2) == OK


def test_coordinator_epochs(log: Log) -> None:
    """A coordinator that was replaced writes no more markers, for as long as its successor's is remembered."""
    write(log)
    assert marked(log, 0, version=1, coordinator_epoch=5) == OK
    assert marked(log, 0, version=1, coordinator_epoch=4) == FENCED
    assert marked(log, 1, version=2, coordinator_epoch=4) == FENCED
    assert marked(log, 0, version=1, coordinator_epoch=5) == OK
    assert marked(log, 3, version=1, coordinator_epoch=0, producer=2) == OK


def test_markers_of_nobody(log: Log) -> None:
    """A negative id or epoch names no producer; a marker for one that is not known here is written and fences."""
    assert marked(log, 0, version=1, producer=-1) == ErrorCode.INVALID_REQUEST
    assert marked(log, -1, version=1) == ErrorCode.INVALID_REQUEST
    assert log.end_offset == 0
    assert marked(log, 4, version=2) == OK
    with pytest.raises(Refused) as refused:
        write(log, epoch=3)
    assert refused.value.code == STALE
    assert log.aborted.find(0, 9) == []


def test_sequences_after_a_marker(log: Log) -> None:
    """The same epoch goes on with its sequence; a new one begins with 0 in each partition (B13)."""
    write(log, sequence=0, count=3)
    mark(log, 1, committed=True)
    assert answer(log, ask(log, sequence=3), sequence=4) == ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER
    write(log, sequence=3)
    mark(log, 1, committed=False, epoch=1)
    with pytest.raises(Refused):
        write(log, sequence=4)
    assert answer(log, ask(log, epoch=1, sequence=4), epoch=1, sequence=4) == ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER
    write(log, epoch=1)


# Who may begin


def test_only_what_was_verified_begins(log: Log) -> None:
    """The first batch of a transaction needs the coordinator's word, the next ones do not."""
    assert answer(log, None) == ErrorCode.INVALID_TXN_STATE
    verified = ask(log)
    assert answer(log, verified) == OK
    log.producers.end_verification(1, verified)
    assert log.producers.begin_verification(1, 0, 1, restarts=False) is None
    assert answer(log, None, sequence=1) == OK


def test_a_refused_batch_is_not_overtaken(log: Log) -> None:
    """The coordinator refuses the first batch, for now; the one sent after it waits until the first is stored."""
    log.producers.end_verification(1, ask(log, sequence=0))
    second = ask(log, sequence=1)
    assert answer(log, second, sequence=1) == ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER
    log.producers.end_verification(1, second)
    first = ask(log, sequence=0)
    assert answer(log, first) == OK
    log.producers.end_verification(1, first)
    assert answer(log, None, sequence=1) == OK


def test_a_refused_stranger_stops_nobody(log: Log) -> None:
    """A batch of an epoch to come is refused; the producer whose transaction is open goes on."""
    write(log, sequence=0, count=3)
    log.producers.end_verification(1, ask(log, epoch=1, sequence=0))
    assert answer(log, None, sequence=3) == OK


def test_the_first_question_says_how_a_client_numbers(log: Log) -> None:
    """A producer that asked first as an old client does may begin with any sequence that it has shown (KIP-890)."""
    log.producers.end_verification(1, ask(log, sequence=1))
    verified = ask(log, sequence=1, restarts=True)
    assert answer(log, verified, sequence=1) == OK
    log.producers.end_verification(1, verified)
    mark(log, 1, committed=True, epoch=1)
    again = ask(log, 2, sequence=1, restarts=True)
    assert answer(log, again, producer=2, sequence=1) == ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER


def test_what_was_refused_is_forgotten_in_time(log: Log) -> None:
    """It expires like the producers do, and so many at most are kept; one whose answer is awaited stays."""
    waiting = ask(log, 1, sequence=3)
    for producer in range(2, VERIFICATIONS_KEPT + 3):
        log.producers.end_verification(producer, ask(log, producer, sequence=3))
    assert ask(log, 2, sequence=4).lowest_sequence == 4
    assert ask(log, VERIFICATIONS_KEPT + 2, sequence=4).lowest_sequence == 3
    log.producers.end_verification(3, ask(log, 3, sequence=3))
    log.producers.expire(1000, 500)
    log.producers.expire(1499, 500)
    assert ask(log, 3, sequence=4).lowest_sequence == 3
    log.producers.expire(1500, 500)
    assert ask(log, 4, sequence=4).lowest_sequence == 4
    assert ask(log, 1, sequence=4) is waiting


def test_a_late_answer_opens_nothing(log: Log) -> None:
    """Between question and append the transaction was ended: the batch is refused, with old epochs and equal ones."""
    write(log)
    mark(log, 1, committed=False)
    late = ask(log, sequence=1)
    mark(log, 1, committed=False)
    assert answer(log, late, sequence=1) == ErrorCode.INVALID_TXN_STATE
    again = ask(log, sequence=1)
    assert answer(log, late, sequence=1) == ErrorCode.INVALID_TXN_STATE
    log.producers.end_verification(1, late)
    assert answer(log, again, sequence=1) == OK
    log.transactions.committed(log.end_offset)
    assert log.transactions.first_unstable == 3


def test_a_late_answer_after_the_first_batch(log: Log) -> None:
    """Two batches were asked for; the first began the transaction and it was ended: the second comes too late."""
    first, second = ask(log), ask(log, sequence=1)
    assert answer(log, first) == OK
    mark(log, 1, committed=True)
    assert answer(log, second, sequence=1) == ErrorCode.INVALID_TXN_STATE
    assert log.transactions.first_unstable == NEVER or len(log.transactions) == 0


def test_the_lowest_sequence_comes_first(log: Log) -> None:
    """Of several first batches that were asked for, that with the lowest sequence is stored first."""
    later, first = ask(log, sequence=3), ask(log, sequence=0)
    assert answer(log, later, sequence=3) == ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER
    assert answer(log, first, sequence=0) == OK


def test_a_client_that_restarts_sequences(log: Log) -> None:
    """With transaction.version 2 the first batch that a partition sees has sequence 0; before, any."""
    assert answer(log, ask(log, sequence=5, restarts=True), sequence=5) == ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER
    assert answer(log, ask(log, 2, sequence=5), producer=2, sequence=5) == OK


def test_plain_batches_beside_a_transaction(log: Log) -> None:
    """The producer of an open transaction writes nothing outside of it; others do, and it does once it is ended."""
    write(log)
    with pytest.raises(Refused) as refused:
        append(log, batch(1, producer=1, sequence=1))
    assert refused.value.code == ErrorCode.INVALID_TXN_STATE
    append(log, batch(1, producer=2))
    append(log, batch(1))
    mark(log, 1, committed=True)
    append(log, batch(1, producer=1, sequence=1))


def test_repeats(log: Log) -> None:
    """A batch that is repeated is answered as the first, also when its transaction is over and was asked for again."""
    base = write(log, count=2)
    data = batch(2, producer=1, transactional=True)
    assert append(log, bytearray(data)).duplicate
    mark(log, 1, committed=True)
    again = append(log, bytearray(data))
    assert (again.duplicate, again.base_offset) == (True, base)
    assert len(log.transactions) == 0


def test_coordinators_write_without_sequence(log: Log) -> None:
    """Offsets of a transaction have no sequence; an epoch that is over is refused."""
    records = [Record(0, 1000, b"k", b"v", [])]
    data = build_batch(records, producer_id=1, producer_epoch=2, transactional=True)
    for _ in range(2):
        log.append(bytearray(data), leader_epoch=0, now_ms=1000, origin="coordinator")
    assert log.transactions.first_unstable == 0
    mark(log, 1, committed=True, epoch=3)
    with pytest.raises(Refused) as refused:
        log.append(bytearray(data), leader_epoch=0, now_ms=1000, origin="coordinator")
    assert refused.value.code == STALE


# What is stable, and what was aborted


def test_stable_until_the_first_open(log: Log) -> None:
    """A transaction counts as open until its marker is below the high watermark."""
    append(log, batch(1))
    write(log, 1)
    write(log, 2)
    assert log.transactions.first_unstable == 1
    mark(log, 1, committed=True)
    log.transactions.committed(3)
    assert log.transactions.first_unstable == 1
    log.transactions.committed(4)
    assert log.transactions.first_unstable == 2
    mark(log, 2, committed=True)
    log.transactions.committed(log.end_offset)
    assert log.transactions.first_unstable == NEVER


def test_aborted_entries(log: Log) -> None:
    """Each aborted transaction with its first offset, its marker, and what was stable then."""
    write(log, 1)
    write(log, 2)
    mark(log, 2, committed=False)
    mark(log, 1, committed=False)
    write(log, 2, sequence=1)
    mark(log, 2, committed=True)
    mark(log, 3, committed=False)
    assert log.aborted.find(0, 100) == [AbortedTransaction(2, 1, 2, 0), AbortedTransaction(1, 0, 3, 4)]
    assert log.aborted.find(3, 100) == [AbortedTransaction(1, 0, 3, 4)]
    assert log.aborted.find(0, 1) == [AbortedTransaction(1, 0, 3, 4)]
    assert log.aborted.find(4, 100) == []


def txn_files(disk: MemoryDisk) -> dict[str, bytes]:
    """The transaction index files that are there."""
    return {name.rpartition("/")[2]: disk.load(name) or b"" for name in disk.names if name.endswith(TXN_INDEX_SUFFIX)}


ENTRY = struct.Struct(">hqqqq")


def test_files_are_made_where_something_was_aborted(log: Log, disk: MemoryDisk) -> None:
    """Kafka's format, one file for each segment with an abort, and none for the others."""
    write(log, 1)
    roll(log)
    mark(log, 1, committed=False)
    write(log, 2)
    mark(log, 2, committed=True)
    roll(log)
    write(log, 3)
    roll(log)
    log.close()
    assert txn_files(disk) == {f"{1:020d}.txnindex": ENTRY.pack(0, 1, 0, 1, 2)}
    assert reopened(disk).aborted.find(0, 99) == [AbortedTransaction(1, 0, 1, 2)]


def aborted_log(log: Log) -> list[AbortedTransaction]:
    """Some aborted transactions over two segments, and one that is open."""
    for producer in (1, 2):
        write(log, producer)
    mark(log, 1, committed=False)
    roll(log)
    write(log, 3)
    mark(log, 2, committed=False)
    flush(log)
    checkpoint(log)
    return log.aborted.find(0, 99)


@pytest.mark.parametrize("clean_close", [True, False])
@pytest.mark.parametrize("what", ["gone", "empty", "cut", "flipped", "an entry less", "foreign"])
def test_files_that_are_lost_are_made_again(log: Log, disk: MemoryDisk, clean_close: bool, what: str) -> None:
    """An index that is not what the state file says is made again from the batches, on the disk too."""
    known = aborted_log(log)
    log.checkpoints.since_point_bytes = 2**40
    write(log, 3, sequence=1)
    flush(log)
    log.close(clean=clean_close)
    files = txn_files(disk)
    assert len(files) == 2
    for name, content in files.items():
        path = f"{PATH}/{name}"
        if what == "gone":
            disk.remove(path)
        else:
            damaged = {
                "empty": b"",
                "cut": content[:-1],
                "flipped": content[:-1] + bytes([content[-1] ^ 1]),
                "an entry less": content[ENTRY.size :],
                "foreign": content + ENTRY.pack(0, 9, 100, 101, 102),
            }[what]
            disk.replace(path, damaged, sync=True)
    again = reopened(disk)
    assert again.aborted.find(0, 99) == known
    assert txn_files(disk) == files
    assert again.transactions.first_unstable == 3


def five_aborted(log: Log, disk: MemoryDisk) -> tuple[bytearray, int, int]:
    """Five aborted transactions in a log that was closed; its bytes, and where the third marker begins and ends."""
    for number in range(5):
        write(log, producer=number)
        mark(log, number, committed=False)
    place, end = log.segments[0].locate(5), log.segments[0].locate(6)
    log.close()
    file = disk.names[f"{PATH}/{0:020d}.log"]
    assert file is not None
    return file.data, place, end


WRONG_OFFSETS = [(5 + by).to_bytes(8, "big") for by in (-4, 1, 7, 2**40)]


def test_the_index_is_made_again_from_a_segment_with_a_tail_of_zeros(log: Log, disk: MemoryDisk) -> None:
    """A power cut may bring a tail back that was cut off when the segment was sealed: it is no batch."""
    write(log)
    mark(log, 1, committed=False)
    roll(log)
    write(log, 2)
    mark(log, 2, committed=False)
    roll(log)
    log.close()
    for at in (0, 2):
        disk.remove(f"{PATH}/{at:020d}{TXN_INDEX_SUFFIX}")
        file = disk.names[f"{PATH}/{at:020d}.log"]
        assert file is not None
        file.data.extend(bytes(1000))
    after = Log.open(PATH, LogConfig(), clean=True, now_ms=0, disk=disk)
    assert after.aborted.part(0, 4) == log.aborted.part(0, 4)


def test_decided_transactions_are_not_all_held_while_the_index_is_made_again(
    log: Log, disk: MemoryDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There may be millions of them in a log, and of one that is decided nothing but its entry counts."""
    for _ in range(6):
        for number in range(3):
            at = write(log, 10 + log.end_offset)
            mark(log, 10 + at, committed=number > 0)
        roll(log)
    log.close()
    for name in txn_files(disk):
        disk.remove(f"{PATH}/{name}")
    held: list[int] = []
    end = OpenTransactions.end

    def ended(open_ones: OpenTransactions, first_offset: int, marker_offset: int) -> int:
        stable = end(open_ones, first_offset, marker_offset)
        held.append(len(open_ones._decided))
        return stable

    monkeypatch.setattr(OpenTransactions, "end", ended)
    again = Log.open(PATH, LogConfig(), clean=True, now_ms=0, disk=disk)
    assert again.aborted.part(0, 99) == log.aborted.part(0, 99)
    assert len(held) >= 18
    assert max(held) <= 3, "no more than a segment has"


@pytest.mark.parametrize("bit", range(64))
def test_a_wrong_offset_where_gaps_are_lawful(log: Log, disk: MemoryDisk, bit: int) -> None:
    """There, too, an offset that cannot be there is damage when the index is made again, and no bug of the start."""
    for number in range(3):
        write(log, producer=number)
        mark(log, number, committed=False)
    place = log.segments[0].locate(3)
    roll(log)
    write(log, producer=3)
    mark(log, 3, committed=False)
    log.close()
    for name in [name for name in disk.names if name.endswith(TXN_INDEX_SUFFIX)]:
        del disk.names[name]
    disk.replace(f"{PATH}/partition.compaction", b"rotten", sync=True)
    file = disk.names[f"{PATH}/{0:020d}.log"]
    assert file is not None
    file.data[place + 7 - bit // 8] ^= 1 << bit % 8
    with pytest.raises(Corrupt):
        content_of(Log.open(PATH, LogConfig(), clean=True, now_ms=0, disk=disk))


@pytest.mark.parametrize("offset", WRONG_OFFSETS)
def test_a_wrong_offset_while_producers_are_found_again(log: Log, disk: MemoryDisk, offset: bytes) -> None:
    """What no checksum covers ends no start: it is named when it is read."""
    data, place, _ = five_aborted(log, disk)
    data[place : place + 8] = offset
    for name in [name for name in disk.names if name.endswith(".snapshot")]:
        del disk.names[name]
    after = Log.open(PATH, LogConfig(), clean=True, now_ms=0, disk=disk)
    assert after.end_offset == 10
    assert after.aborted.part(0, 10) == log.aborted.part(0, 10)
    with pytest.raises(Corrupt):
        content_of(after)


@pytest.mark.parametrize(
    ("at", "wrong"),
    [
        *((0, offset) for offset in WRONG_OFFSETS),
        (8, b"\x7f"),
        (12, b"\0\0\0\1"),
        (22, b"\0"),
        (50, b"\7"),
        (67, b"\1"),
        (11, b"\0"),
    ],
)
def test_damage_where_the_index_is_made_again(log: Log, disk: MemoryDisk, at: int, wrong: bytes) -> None:
    """Where the index of what was aborted is lost, and can't be made again since a marker is damaged, nothing is served
    as committed that is not; the damage is named."""
    data, place, end = five_aborted(log, disk)
    expected = log.aborted.part(0, 10)
    disk.remove(f"{PATH}/{0:020d}{TXN_INDEX_SUFFIX}")
    whole = bytes(data)
    data[place + at : place + at + len(wrong)] = wrong
    assert bytes(data) != whole
    with pytest.raises(Corrupt) as corrupt:
        Log.open(PATH, LogConfig(), clean=True, now_ms=0, disk=disk)
    assert corrupt.value.position in (place, end)
    data[:] = whole
    assert Log.open(PATH, LogConfig(), clean=True, now_ms=0, disk=disk).aborted.part(0, 10) == expected


def test_recovery_knows_what_is_open_at_once(log: Log, disk: MemoryDisk) -> None:
    """After the death of the process: from the snapshot, from the batches behind it, over a roll (B16)."""
    write(log, 1)
    roll(log)
    write(log, 2)
    flush(log)
    write(log, 3)
    mark(log, 2, committed=False, coordinator_epoch=6)
    again = reopened(disk)
    assert {one.producer_id: one.txn_first_offset for one in again.producers} == {1: 0, 2: -1, 3: 2}
    assert again.transactions.first_unstable == 0
    assert len(again.transactions) == 2
    assert again.aborted.find(0, 99) == [AbortedTransaction(2, 1, 3, 0)]
    known = again.producers.get(2)
    assert known is not None
    assert known.coordinator_epoch == 6


def test_decided_but_not_flushed(log: Log, disk: MemoryDisk) -> None:
    """A marker that recovery found and that is not flushed yet decides nothing: a power cut could still take it."""
    write(log, 1)
    flush(log)
    checkpoint(log)
    mark(log, 1, committed=True)
    again = reopened(disk)
    assert (again.flushed_offset, again.end_offset) == (1, 2)
    assert again.transactions.first_unstable == 0
    again.transactions.committed(2)
    assert again.transactions.first_unstable == NEVER


def test_producers_with_open_transactions_stay(log: Log) -> None:
    """Expiry forgets the silent, never one whose transaction is open."""
    write(log, 1)
    write(log, 2)
    mark(log, 2, committed=True)
    log.producers.expire(10**15, 1)
    assert [one.producer_id for one in log.producers] == [1]
    assert log.transactions.first_unstable == 0


def test_deleting_records_of_an_open_transaction(log: Log, disk: MemoryDisk) -> None:
    """It stays open, over a restart too, and what it aborts later counts for what is left."""
    for sequence in range(4):
        write(log, 1, sequence=sequence)
        roll(log)
    log.advance_start(2)
    log.delete_segments(log.expired(0, log.end_offset, delete=False), 0)
    checkpoint(log)
    removal = log.removal(10**9)
    assert removal is not None
    removal.run()
    log.close(clean=False)
    again = reopened(disk)
    assert again.transactions.first_unstable == 0
    write(again, 1, sequence=4)
    mark(again, 1, committed=False)
    assert again.aborted.find(2, 9) == [AbortedTransaction(1, 0, 5, 6)]


def test_truncation(log: Log, disk: MemoryDisk) -> None:
    """Behind the new end nothing is decided, aborted or open, on the disk either."""
    known = aborted_log(log)
    log.truncate(4)
    assert log.aborted.find(0, 99) == known[:1]
    assert {one.producer_id: one.txn_first_offset for one in log.producers} == {1: -1, 2: 1, 3: 3}
    log.close(clean=False)
    assert reopened(disk).aborted.find(0, 99) == known[:1]
    again = reopened(disk)
    mark(again, 2, committed=True)
    assert again.aborted.find(0, 99) == known[:1]


def test_a_truncation_that_a_crash_overtakes(log: Log, disk: MemoryDisk) -> None:
    """Index files then tell of batches that are zeros: the producers are found without them."""
    for sequence in (0, 1):
        append(log, batch(1, producer=0, sequence=sequence))
        if sequence:
            mark(log, 0, committed=False)
        log.checkpoints.since_point_bytes = 2**40
        flush(log)
    log.truncate(2)
    log.close(clean=False)
    again = reopened(disk)
    known = again.producers.get(0)
    assert known is not None
    assert (again.end_offset, known.last_sequence) == (2, 1)


# Compaction


def keyed(log: Log, producer: int, sequence: int, *pairs: tuple[str, str | None]) -> int:
    return put(log, *pairs, producer_id=producer, producer_epoch=0, base_sequence=sequence, transactional=True)


def test_an_abort_behind_the_cleaned_part_counts(log: Log, disk: MemoryDisk) -> None:
    """Data whose marker lies beyond what may be cleaned yet does not win over committed data (B19)."""
    put(log, ("a", "committed"))
    keyed(log, 1, 0, ("a", "aborted"))
    roll(log)
    keyed(log, 2, 0, ("b", "open"))
    mark(log, 1, committed=False)
    roll(log)
    put(log, ("c", "active"))
    clean(log, disk)
    assert pairs_of(log)[:1] == [(0, "a", "committed")]
    assert ("a", "aborted") not in [(key, value) for _, key, value in pairs_of(log)]


def test_the_index_loses_what_compaction_has_forgotten(log: Log, disk: MemoryDisk) -> None:
    """An entry goes with its marker: without it, it would hide later transactions of the producer."""
    keyed(log, 1, 0, ("a", "aborted"))
    mark(log, 1, committed=False)
    keyed(log, 1, 1, ("a", "kept"))
    mark(log, 1, committed=True)
    roll(log)
    put(log, ("c", "active"))
    for now_ms in (0, 10, 5000, 10000):
        clean(log, disk, now_ms)
        log.cleaned_offset = 0
        markers = [offset for offset, key, _ in pairs_of(log) if key == "\0\0\0\0"]
        assert [one.last_offset for one in log.aborted.find(0, 99)] == markers
        checkpoint(log)
        assert reopened(disk).aborted.find(0, 99) == log.aborted.find(0, 99)
    assert log.aborted.find(0, 99) == []
    assert txn_files(disk) == {}


# Files of before


def test_state_files_of_before_are_read() -> None:
    """A state file without aborted transactions is what it always was; one with them reads back."""
    plain = State(1, 2, 3, 4, 5, 6, True, ((1, 2), (3, 4)))
    assert parse_state(pack_state(plain)) == plain
    assert len(pack_state(plain)) == 8 + 6 * 8 + 1 + 4 + 2 * 12
    more = State(1, 2, 3, 4, 5, 6, True, ((1, 2),), (3, 0xDEADBEEF))
    assert parse_state(pack_state(more)) == more


def test_index_round_trip() -> None:
    """The bytes of a part are loaded again; entries outside of the range are left out."""
    index = AbortedIndex()
    entries = [AbortedTransaction(1, at, at + 3, at) for at in range(0, 50, 5)]
    for entry in entries:
        index.add(entry)
    again = AbortedIndex()
    again.load(index.part(0, 99), 10, 40)
    assert again.find(0, 99) == [one for one in entries if 10 <= one.last_offset < 40]
    assert again.sum(0, 99) == index.sum(10, 40)
    values = read_records(build_marker(1, 0, committed=True, coordinator_epoch=0, now_ms=1), bytes_max=99)
    assert [one.offset for one in values] == [0]


def test_a_truncation_under_a_swap(log: Log, disk: MemoryDisk) -> None:
    """What was cut off while its segment was being exchanged does not come back with the new one."""
    put(log, ("a", "1"), ("a", "2"))
    put(log, ("b", "cut off"))
    roll(log)
    put(log, ("c", "active"))
    for work in steps(log, disk):
        work()
        if log.end_offset > 2 and any(name.endswith("partition.compaction") for name in disk.names):
            log.truncate(2)
    assert pairs_of(log) == [(0, "a", "1"), (1, "a", "2")]
    log.close(clean=False)
    assert pairs_of(reopened(disk)) == [(0, "a", "1"), (1, "a", "2")]
