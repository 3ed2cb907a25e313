"""Records of many batches found side by side: the same as one by one, and hostile bytes are an error."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from logd.errors import DecodeError
from logd.log.columns import PADDING, columns_of
from logd.wire.batches import HEADER_BYTES, Record, build_batch, read_header

records = st.builds(
    Record,
    st.just(-1),
    st.integers(0, 2**42),
    st.one_of(st.none(), st.binary(max_size=200)),
    st.one_of(st.none(), st.binary(max_size=200)),
    st.lists(st.tuples(st.text(max_size=3), st.one_of(st.none(), st.binary(max_size=3))), max_size=2),
)


def bodies(batches: list[list[Record]]) -> tuple[bytes, list[int], list[int], list[int]]:
    made = [bytes(build_batch(one)[HEADER_BYTES:]) if one else b"" for one in batches]
    ends = [sum(len(one) for one in made[: at + 1]) for at in range(len(made))]
    return b"".join([*made, PADDING]), [0, *ends[:-1]], ends, [len(one) for one in batches]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(records, max_size=6), max_size=30))
def test_finds_the_records(batches: list[list[Record]]) -> None:
    """Keys, values, times and places, of batches with few and many records and with none."""
    data, begins, ends, counts = bodies(batches)
    found = columns_of(data, begins, ends, counts)
    row = 0
    for batch in batches:
        for number, record in enumerate(batch):
            start, size = int(found.key_starts[row]), int(found.key_sizes[row])
            assert (None if size < 0 else data[start : start + size]) == record.key
            assert int(found.value_sizes[row]) == (-1 if record.value is None else len(record.value))
            assert int(found.time_deltas[row]) == record.timestamp - batch[0].timestamp
            assert int(found.offset_deltas[row]) == number
            row += 1
        if batch:
            assert found.ends[row - 1] in ends
    assert found.firsts.tolist() == [sum(counts[:at]) for at in range(len(counts) + 1)]


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_hostile_bytes(data: st.DataObject) -> None:
    """Whatever the bytes are, the records lie inside their batch or it is an error."""
    batch = [Record(-1, 5, b"k" * 9, b"v" * 9, [])] * 3
    good, begins, ends, counts = bodies([batch] * data.draw(st.sampled_from([1, 15])))
    bad = bytearray(good)
    for _ in range(data.draw(st.integers(1, 4))):
        bad[data.draw(st.integers(0, ends[-1] - 1))] = data.draw(st.integers(0, 255))
    try:
        found = columns_of(bytes(bad), begins, ends, counts)
    except DecodeError:
        return
    for begin, end, first in zip(begins, ends, found.firsts.tolist(), strict=False):
        for row in range(first, first + 3):
            assert begin <= found.starts[row] < found.key_starts[row] <= found.ends[row] <= end
            assert found.key_starts[row] + max(int(found.key_sizes[row]), 0) < found.ends[row]


@pytest.mark.parametrize("count", [4, 2, -1, 2**31 - 1])
def test_wrong_counts(count: int) -> None:
    """More or fewer records than a batch holds are an error, and nothing is allocated for them."""
    batch = [Record(-1, 5, b"k" * 9, b"v" * 9, [])] * 3
    for many in (1, 15):
        data, begins, ends, _ = bodies([batch] * many)
        with pytest.raises(DecodeError):
            columns_of(data, begins, ends, [count] * many)
    assert read_header(build_batch(batch)).count == 3
