"""Stored batches made fit to be sent anew, and committed offsets that follow their records."""

from __future__ import annotations

import msgspec
import pytest

from logd.client.stored import Fresh, Translation, fresh
from logd.wire.batches import Record, build_batch, check_crc, read_header, read_records

HIGH = 1 << 40


def batch(offsets: list[int], *, size: int = 10, **more: object) -> bytes:
    """A batch with records at these offsets; the timestamp is 1000 + offset."""
    records = [Record(offset, 1000 + offset, b"k%d" % offset, b"v" * size, [("h", None)]) for offset in offsets]
    return bytes(build_batch(records, base_offset=offsets[0], **more))  # type: ignore[arg-type]


def opened(found: list[Fresh]) -> list[tuple[list[int], list[Record]]]:
    """Old offsets and records of each batch, after a look at what every batch must be."""
    result = []
    for one in found:
        header = read_header(one.data)
        assert header.count == header.last_offset_delta + 1 == len(one.offsets)
        assert (header.base_offset, header.is_transactional, header.log_append_time) == (0, False, False)
        records = read_records(one.data, bytes_max=1 << 20)
        assert [record.offset for record in records] == list(range(header.count))
        result.append((list(one.offsets), records))
    return result


def test_a_large_batch_is_not_opened() -> None:
    """Only its header changes: the bytes of the records are the same; producer and transaction are gone."""
    data = batch([5, 6, 7], size=3000, codec=4, transactional=True, producer_id=9, producer_epoch=1, base_sequence=3)
    assert len(data) < 4096  # compressed to little, so that it is opened
    large = batch([5, 6, 7], size=3000, transactional=True, producer_id=9, producer_epoch=1, base_sequence=3)
    (one,) = fresh(large, 0, HIGH)
    assert bytes(one.data[61:]) == large[61:]
    assert opened([one])[0][0] == [5, 6, 7]
    assert [record.timestamp for record in opened([one])[0][1]] == [1005, 1006, 1007]


def test_small_batches_are_sent_together() -> None:
    """Those with the same codec, in order; another codec begins a new batch."""
    data = batch([0, 1]) + batch([2]) + batch([3], codec=3) + batch([4], codec=3) + batch([5])
    found = list(fresh(data, 0, HIGH))
    assert [offsets for offsets, _ in opened(found)] == [[0, 1, 2], [3, 4], [5]]
    assert [read_header(one.data).codec for one in found] == [0, 3, 0]


def test_gaps_are_closed() -> None:
    """What compaction left has gaps between offsets, which no server takes from a client."""
    data = batch([10, 14, 15], size=3000, last_offset_delta=9)
    ((offsets, records),) = opened(list(fresh(data, 0, HIGH)))
    assert (offsets, [record.timestamp for record in records]) == ([10, 14, 15], [1010, 1014, 1015])


def test_only_what_lies_between_the_bounds() -> None:
    """A batch that begins before the first or ends after the last wanted offset is cut."""
    data = batch([0, 1, 2, 3], size=3000) + batch([4, 5, 6], size=3000)
    assert [offsets for offsets, _ in opened(list(fresh(data, 2, 6)))] == [[2, 3], [4, 5]]


def test_the_servers_timestamp_stays() -> None:
    """Records of a topic with LogAppendTime have the time at which they came, also in the copy."""
    data = batch([0, 1], size=3000, log_append_time=True)
    ((_, records),) = opened(list(fresh(data, 0, HIGH)))
    assert [record.timestamp for record in records] == [1001, 1001]


@pytest.mark.parametrize("codec", range(5))
def test_nothing_of_a_record_is_lost(codec: int) -> None:
    """Keys, values, headers and nulls, in every codec, whether it is opened or not."""
    records = [
        Record(0, 1, None, None, []),
        Record(1, 2, b"", b"", [("a", b""), ("a", None), ("\xe9", b"\xff")]),
        Record(2, 3, b"\xff\x00", b"x" * 9000, []),
    ]
    data = bytes(build_batch(records, codec=codec))
    ((_, found),) = opened(list(fresh(data, 0, HIGH)))
    assert [msgspec.structs.astuple(one)[:5] for one in found] == [msgspec.structs.astuple(one)[:5] for one in records]
    assert all(check_crc(one.data, 0, read_header(one.data)) for one in fresh(data, 1, HIGH))


def test_offsets_follow_their_records() -> None:
    """An offset in a gap points to the next record, one before all to the first, one behind all to the end."""
    translation = Translation([3, 10, 12, 20, 21, 99])
    translation.written(range(10, 13), 0)
    translation.written([15, 20], 3)
    translation.ended(5)
    assert translation.found == {3: 0, 10: 0, 12: 2, 20: 4, 21: 5, 99: 5}
