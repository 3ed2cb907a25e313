"""Idempotent producers: the rules of KIP-98 and KIP-360, batch by batch."""

from __future__ import annotations

import pytest

from logd.errors import DecodeError, ErrorCode, Refused
from logd.log.log import Log
from logd.log.producers import Producers
from logd.wire.batches import read_header
from tests.log.batches import append, batch

MAX = 2**31 - 1


def send(log: Log, sequence: int, *, epoch: int = 0, count: int = 1, producer: int = 7) -> tuple[int, bool]:
    appended = append(log, batch(count, producer=producer, epoch=epoch, sequence=sequence))
    return appended.base_offset, appended.duplicate


@pytest.mark.parametrize("back", [1, 2, 3, 4, 5])
def test_one_of_the_last_five_again(log: Log, back: int) -> None:
    """A repeated batch is a success with the offset of the first, and the log does not grow."""
    for sequence in range(8):
        send(log, sequence)
    assert send(log, 8 - back) == (8 - back, True)
    assert log.end_offset == 8


def test_the_sixth_last_again(log: Log) -> None:
    """What is older than the last five batches is out of order, as in Kafka."""
    for sequence in range(8):
        send(log, sequence)
    with pytest.raises(Refused, match="sequence 2") as refused:
        send(log, 2)
    assert refused.value.code == ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER


def test_same_first_sequence_of_another_length(log: Log) -> None:
    """A batch is a repetition only when both its ends are the same."""
    send(log, 0, count=3)
    with pytest.raises(Refused) as refused:
        send(log, 0, count=2)
    assert refused.value.code == ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER


def test_gap(log: Log) -> None:
    """A gap is refused and changes nothing."""
    send(log, 0)
    with pytest.raises(Refused) as refused:
        send(log, 2)
    assert refused.value.code == ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER
    assert send(log, 1) == (1, False)


def test_unknown_producer_begins_anywhere(log: Log) -> None:
    """A producer id that is not known is accepted with any sequence (KIP-360)."""
    assert send(log, 1234) == (0, False)
    assert send(log, 1235) == (1, False)


def test_older_epoch(log: Log) -> None:
    """A zombie of an older epoch is refused."""
    send(log, 0, epoch=3)
    with pytest.raises(Refused) as refused:
        send(log, 1, epoch=2)
    assert refused.value.code == ErrorCode.INVALID_PRODUCER_EPOCH


def test_the_client_is_told_the_partition_and_not_the_directory(log: Log) -> None:
    """The words go to the client, whom the server's directories do not concern."""
    send(log, 0, epoch=3)
    for sequence, epoch in ((1, 2), (7, 3)):
        with pytest.raises(Refused, match=r" to t-0[,:] ") as refused:
            send(log, sequence, epoch=epoch)
        assert "/" not in str(refused.value)


@pytest.mark.parametrize(("sequence", "fine"), [(0, True), (1, False), (5, False)])
def test_newer_epoch_begins_with_zero(log: Log, sequence: int, fine: bool) -> None:
    """A new epoch's first sequence is 0; then batches of the old epoch are no repetitions any more."""
    send(log, 4)
    if not fine:
        with pytest.raises(Refused) as refused:
            send(log, sequence, epoch=1)
        assert refused.value.code == ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER
        return
    assert send(log, sequence, epoch=1) == (1, False)
    with pytest.raises(Refused) as refused:
        send(log, 4)
    assert refused.value.code == ErrorCode.INVALID_PRODUCER_EPOCH


def test_a_raised_epoch_begins_anew(log: Log) -> None:
    """A producer raises its epoch for another partition's sake: its batches from 0 on are new here, too (B13)."""
    assert send(log, 0) == (0, False)
    assert send(log, 1) == (1, False)
    assert send(log, 0, epoch=1) == (2, False)
    assert send(log, 1, epoch=1) == (3, False)
    assert send(log, 0, epoch=1) == (2, True)


def test_wrap(log: Log) -> None:
    """After 2^31-1 comes 0, between batches and inside of one; the repetition across the wrap is seen."""
    send(log, MAX - 1, count=2)
    assert send(log, 0) == (2, False)
    send(log, MAX - 1, count=4, producer=8)
    assert send(log, 2, producer=8) == (7, False)
    assert send(log, MAX - 1, count=4, producer=8) == (3, True)


def test_repetition_carries_the_first_timestamp(log: Log) -> None:
    """The answer to a repetition has the first batch's timestamp, as Kafka's has."""
    append(log, batch(producer=1, timestamp=77))
    assert append(log, batch(producer=1, timestamp=77)).log_append_time_ms == 77


def test_producers_are_apart(log: Log) -> None:
    """One producer's sequence says nothing of another's."""
    send(log, 0, producer=1)
    send(log, 0, producer=2)
    send(log, 1, producer=1)
    assert send(log, 0, producer=2) == (1, True)


def test_marker_ends_the_transaction() -> None:
    """A marker of a newer epoch bumps the epoch, forgets the batches and closes the transaction."""
    producers = Producers("t-0")
    producers.note(read_header(batch(producer=1, transactional=True)), 5, 10)
    state = producers.get(1)
    assert state is not None
    assert state.txn_first_offset == 5
    assert producers.end(1, 1, 9, 20, 6) == (5, 7)
    assert (state.epoch, state.batches, state.txn_first_offset, state.coordinator_epoch) == (1, [], -1, 9)
    assert producers.check(1, 1, 0, 0) is None
    with pytest.raises(Refused):
        producers.check(1, 1, 3, 3)


def test_expiry() -> None:
    """A silent producer is forgotten after the expiration time, one with an open transaction is not."""
    producers = Producers("t-0")
    producers.note(read_header(batch(producer=1)), 0, 1000)
    producers.note(read_header(batch(producer=2, transactional=True)), 1, 1000)
    assert producers.expire(1999, 1000) == 0
    assert producers.expire(2000, 1000) == 1
    assert [one.producer_id for one in producers] == [2]


@pytest.mark.parametrize("timestamp", [1000, -1])
def test_a_producer_of_old_records_is_not_silent(log: Log, timestamp: int) -> None:
    """Who sends records of long ago, or without times, is remembered as long as others: its repetitions are seen."""
    now_ms, day_ms = 10**12, 86_400_000
    sent = batch(producer=1, timestamp=timestamp)
    assert append(log, bytes(sent), now_ms=now_ms).base_offset == 0
    assert log.producers.expire(now_ms + day_ms - 1, day_ms) == 0
    again = append(log, bytes(sent), now_ms=now_ms + day_ms - 1)
    assert (again.base_offset, again.duplicate) == (0, True)
    assert log.producers.expire(now_ms + day_ms, day_ms) == 1


def test_snapshot_round_trip() -> None:
    """A snapshot restores all that it was taken of."""
    producers = Producers("t-0")
    for sequence in range(7):
        producers.note(read_header(batch(2, producer=1, sequence=2 * sequence)), 2 * sequence, sequence)
    assert producers.end(2, 4, 3, 99, 14) is None
    again = Producers("t-0")
    assert again.restore(producers.snapshot(14)) == 14
    for one in producers:
        other = again.get(one.producer_id)
        assert other is not None
        for name in ("epoch", "coordinator_epoch", "last_timestamp", "txn_first_offset", "batches"):
            assert getattr(other, name) == getattr(one, name)


def test_every_flipped_bit_of_a_snapshot_is_seen() -> None:
    """A damaged or shortened snapshot is refused and leaves the state as it was."""
    producers = Producers("t-0")
    producers.note(read_header(batch(producer=1)), 0, 1)
    good = producers.snapshot(1)
    for at in range(len(good) * 8):
        bad = bytearray(good)
        bad[at // 8] ^= 1 << at % 8
        with pytest.raises(DecodeError):
            producers.restore(bytes(bad))
    for size in range(len(good)):
        with pytest.raises(DecodeError):
            producers.restore(good[:size])
    assert len(producers) == 1
