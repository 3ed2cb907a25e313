"""Record batches, against the builders and readers of kafka-python and aiokafka, and against damage."""

from __future__ import annotations

import struct
from typing import Any

import aiokafka.record.default_records as aiokafka_records
import kafka.record.default_records as kafka_records
import pytest
from hypothesis import given
from hypothesis import strategies as st

from logd.errors import DecodeError, ErrorCode, Refused
from logd.wire.batches import (
    HEADER_BYTES,
    Record,
    build_batch,
    build_keyed_batch,
    check_crc,
    magic_of,
    max_is_before_base,
    read_header,
    read_headers,
    read_records,
    recompress,
    stamp,
    stamp_append_time,
    with_max_timestamp,
)
from logd.wire.compression import NAMES
from logd.wire.validation import RecordRules, are_plainly_sound, validate_records
from tests.wire.messages import TEXT, quick

BYTES_MAX = 1 << 20
CODECS = range(len(NAMES))
DATA = st.none() | st.binary(max_size=40)
RECORDS = st.lists(
    st.builds(
        Record,
        timestamp=st.integers(0, 1 << 42),
        key=DATA,
        value=DATA,
        headers=st.lists(st.tuples(TEXT, DATA), max_size=2),
    ),
    min_size=1,
    max_size=8,
)


def told(records: list[Any]) -> list[tuple[Any, ...]]:
    """What all three implementations say of a record."""
    return [(each.offset, each.timestamp, each.key, each.value, [tuple(h) for h in each.headers]) for each in records]


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("theirs", [kafka_records, aiokafka_records], ids=["kafka-python", "aiokafka"])
def test_others_read_what_we_build(theirs: Any, codec: int) -> None:
    """Header, checksum and every record, in all codecs."""

    @quick(15)
    @given(RECORDS)
    def check(records: list[Record]) -> None:
        data = build_batch(
            records,
            base_offset=7,
            leader_epoch=3,
            codec=codec,
            producer_id=5,
            producer_epoch=1,
            base_sequence=9,
            transactional=True,
        )
        batch = theirs.DefaultRecordBatch(bytes(data))
        assert batch.validate_crc()
        assert (batch.base_offset, batch.compression_type) == (7, codec)
        assert (batch.producer_id, batch.producer_epoch, batch.base_sequence) == (5, 1, 9)
        assert batch.is_transactional
        assert not batch.is_control_batch
        ours = read_records(data, bytes_max=BYTES_MAX)
        assert told(list(batch)) == told(ours)
        assert [record.sequence for record in ours] == list(range(9, 9 + len(records)))

    check()


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("theirs", [kafka_records, aiokafka_records], ids=["kafka-python", "aiokafka"])
def test_we_read_what_others_build(theirs: Any, codec: int) -> None:
    """Their batches, compressed by their libraries, are valid for us and hold the same records."""

    @quick(15)
    @given(RECORDS)
    def check(records: list[Record]) -> None:
        builder = theirs.DefaultRecordBatchBuilder(2, codec, False, -1, -1, -1, 1 << 20)
        for offset, each in enumerate(records):
            builder.append(offset, each.timestamp, each.key, each.value, each.headers)
        data = bytes(builder.build())
        header = read_header(data)
        assert check_crc(data, 0, header)
        assert header.size == len(data)
        validate_records(data, RecordRules())
        found = read_records(data, bytes_max=BYTES_MAX)
        assert told(found) == told([_numbered(each, offset) for offset, each in enumerate(records)])

    check()


PAIRS = st.lists(st.tuples(st.binary(max_size=200), st.none() | st.binary(max_size=9000)), min_size=1, max_size=90)


@quick(60)
@given(PAIRS, st.integers(0, 1 << 42), st.booleans())
def test_pairs_make_the_batch_that_their_records_make(
    pairs: list[tuple[bytes, bytes | None]], now_ms: int, transactional: bool
) -> None:
    """The short way of coordinators, byte for byte: tombstones, empty values, lengths of one to three bytes."""
    producer = {"producer_id": 7, "producer_epoch": 3} if transactional else {}
    records = [Record(timestamp=now_ms, key=key, value=value) for key, value in pairs]
    expected = build_batch(records, transactional=transactional, **producer)
    assert build_keyed_batch(pairs, now_ms, transactional=transactional, **producer) == expected


def _numbered(record: Record, offset: int) -> Record:
    return Record(offset, record.timestamp, record.key, record.value, record.headers)


SOME = [Record(timestamp=1000 + i, key=b"k%d" % i, value=b"v" * 50 * i, headers=[("h", None)]) for i in range(20)]


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("other", CODECS)
def test_recompressing_changes_nothing_else(codec: int, other: int) -> None:
    """Every codec to every other: the same records, the same header but for size, codec and checksum."""
    data = build_batch(SOME, base_offset=5, codec=codec, producer_id=8, producer_epoch=2, base_sequence=3)
    again = recompress(data, other)
    assert read_records(again, bytes_max=BYTES_MAX) == read_records(data, bytes_max=BYTES_MAX)
    before, after = read_header(data), read_header(again)
    assert check_crc(again, 0, after)
    assert after.codec == other
    assert (after.base_offset, after.producer_id, after.base_sequence, after.max_timestamp, after.count) == (
        (before.base_offset, before.producer_id, before.base_sequence, before.max_timestamp, before.count)
    )


def test_stamping_is_not_under_the_checksum() -> None:
    """Base offset and leader epoch are written in place, and the checksum still holds."""
    data = bytearray(b"before") + build_batch(SOME)
    stamp(memoryview(data), 6, 12345, 77)
    header = read_header(data, 6)
    assert (header.base_offset, header.leader_epoch) == (12345, 77)
    assert (header.last_offset, header.next_offset) == (12364, 12365)
    assert check_crc(data, 6, header)
    assert read_records(data, 6, bytes_max=BYTES_MAX)[3].offset == 12348


def test_append_time() -> None:
    """A batch stamped with the time of its arrival has a right checksum, and gives that time to every record."""
    data = build_batch(SOME)
    stamp_append_time(data, 0, read_header(data), 555_555)
    header = read_header(data)
    assert header.log_append_time
    assert header.max_timestamp == 555_555
    assert check_crc(data, 0, header)
    assert {record.timestamp for record in read_records(data, bytes_max=BYTES_MAX)} == {555_555}
    batch = kafka_records.DefaultRecordBatch(bytes(data))
    assert batch.validate_crc()
    assert {record.timestamp for record in batch} == {555_555}


def test_offsets_of_records() -> None:
    """Offsets follow each other unless they are given; given ones may leave gaps but never fall."""
    data = build_batch([Record(value=b"a"), Record(7, value=b"b"), Record(value=b"c")], base_offset=4, codec=2)
    assert [record.offset for record in read_records(data, bytes_max=BYTES_MAX)] == [4, 7, 8]
    assert read_header(data).last_offset == 8
    longer = build_batch([Record(4, value=b"a")], base_offset=4, last_offset_delta=9)
    assert read_header(longer).next_offset == 14
    empty = build_batch([], base_offset=4, last_offset_delta=9)
    assert read_records(empty, bytes_max=BYTES_MAX) == []
    for bad in ([Record(5), Record(5)], [Record(3)], []):
        with pytest.raises(ValueError, match=r"offset|record"):
            build_batch(bad, base_offset=4)


def test_sequences_wrap() -> None:
    """After 2^31-1 comes 0."""
    data = build_batch(SOME[:4], producer_id=1, producer_epoch=0, base_sequence=(1 << 31) - 2)
    assert read_header(data).last_sequence == 1
    assert [each.sequence for each in read_records(data, bytes_max=BYTES_MAX)] == [(1 << 31) - 2, (1 << 31) - 1, 0, 1]
    assert read_header(build_batch(SOME)).last_sequence == -1


def test_control_batches() -> None:
    """A control batch says so, also to others."""
    data = build_batch([Record(timestamp=1, key=b"\0\0\0\1", value=bytes(6))], control=True, transactional=True)
    assert read_header(data).is_control
    assert kafka_records.DefaultRecordBatch(bytes(data)).is_control_batch


def test_several_batches() -> None:
    """The headers of all batches of a buffer, with their positions."""
    batches = [build_batch(SOME[:count], base_offset=count * 10) for count in (1, 5, 9)]
    data = b"".join(batches)
    found = read_headers(data)
    assert [position for position, _ in found] == [0, len(batches[0]), len(batches[0]) + len(batches[1])]
    assert [header.base_offset for _, header in found] == [10, 50, 90]
    for end in range(1, len(batches[2])):
        with pytest.raises(DecodeError):
            read_headers(data[:-end])
    old = bytearray(data)
    old[16] = 1
    with pytest.raises(DecodeError, match="magic 1"):
        read_headers(old)
    assert magic_of(old) == 1
    with pytest.raises(DecodeError):
        magic_of(data[:16])


@pytest.mark.parametrize("codec", CODECS)
def test_any_flipped_bit_is_seen(codec: int) -> None:
    """Under the checksum no bit can change; whatever is changed, reading raises nothing but DecodeError."""
    data = build_batch(SOME[:3], codec=codec)
    for position in range(12, len(data)):
        for bit in (0, 3, 7):
            bad = bytearray(data)
            bad[position] ^= 1 << bit
            header = read_header(bad)
            assert check_crc(bad, 0, header) == (12 <= position < 17)
            try:
                read_records(bad, bytes_max=BYTES_MAX)
            except DecodeError:
                continue


@pytest.mark.parametrize("codec", CODECS)
def test_cut_batches(codec: int) -> None:
    """A batch cut at any byte is refused, and its checksum does not hold."""
    data = build_batch(SOME[:3], codec=codec)
    header = read_header(data)
    for end in range(len(data)):
        with pytest.raises(DecodeError):
            read_records(data[:end], bytes_max=BYTES_MAX)
        if end >= HEADER_BYTES:
            assert not check_crc(data[:end], 0, header)


def forged(body: bytes, count: int, last_offset_delta: int) -> bytearray:
    """An uncompressed batch with any body and numbers, its checksum right."""
    model = build_batch([Record(timestamp=1)], last_offset_delta=last_offset_delta)
    data = model[:HEADER_BYTES] + body
    struct.pack_into(">i", data, 8, len(data) - 12)
    struct.pack_into(">i", data, 57, count)
    return recompress(data, 0)


ONE = bytes.fromhex("0c0000000101 00")
"""A record: size 6, attributes, timestamp delta 0, offset delta 0, no key, no value, no headers."""
TWO = bytes.fromhex("0c0000020101 00")

DAMAGE = {
    "fewer than counted": (ONE, 2, 1),
    "more than counted": (ONE + TWO, 1, 1),
    "a byte left over": (ONE + b"\0", 1, 0),
    "no record but one counted": (b"", 1, 0),
    "a negative count": (ONE, -1, 0),
    "a count beyond the bytes": (ONE, 1 << 30, 0),
    "offset delta repeated": (ONE + ONE, 2, 1),
    "offset delta falls": (TWO + ONE, 2, 1),
    "offset delta beyond the batch": (ONE + TWO, 2, 0),
    "negative offset delta": (bytes.fromhex("0c000001010100"), 1, 0),
    "record's size too small": (bytes.fromhex("0a0000000101 00"), 1, 0),
    "record's size too big": (bytes.fromhex("0e0000000101 00"), 1, 0),
    "record's size negative": (bytes.fromhex("0b0000000101 00"), 1, 0),
    "key's length negative": (bytes.fromhex("0c0000000301 00"), 1, 0),
    "key beyond the record": (bytes.fromhex("0c0000000801 00"), 1, 0),
    "value beyond the record": (bytes.fromhex("0c0000000108 00"), 1, 0),
    "headers counted but none": (bytes.fromhex("0c0000000101 02"), 1, 0),
    "headers' count negative": (bytes.fromhex("0c0000000101 01"), 1, 0),
    "a header's key null": (bytes.fromhex("100000000101 020101"), 1, 0),
    "a header's key not UTF-8": (bytes.fromhex("120000000101 0202ff01"), 1, 0),
    "a varint too long": (bytes.fromhex("16 00 00 808080808000 0101 00"), 1, 0),
    "a varint of eleven bytes": (b"\x22" + b"\0" + b"\xff" * 10 + b"\x00" + bytes.fromhex("00010100"), 1, 0),
    "an offset delta of more than 32 bits": (b"\x14" + bytes.fromhex("0000 ffffffff7f 0101 00"), 1, 0),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_records_that_do_not_fit_their_batch(name: str) -> None:
    """Sizes, counts, deltas and varints that are not right are refused, and named as the peer's invalid record."""
    body, count, last_offset_delta = DAMAGE[name]
    data = forged(body, count, last_offset_delta)
    with pytest.raises(DecodeError):
        read_records(data, bytes_max=BYTES_MAX)
    with pytest.raises(Refused) as caught:
        validate_records(data, RecordRules())
    assert caught.value.code == ErrorCode.INVALID_RECORD


def test_forging_alone_is_no_damage() -> None:
    """What the damaged batches are made of is good when nothing is wrong with it."""
    assert [each.offset for each in read_records(forged(ONE + TWO, 2, 1), bytes_max=BYTES_MAX)] == [0, 1]


def test_validation() -> None:
    """Missing keys, gaps, unknown codecs and what cannot be decompressed, each with Kafka's error."""
    validate_records(build_batch(SOME), RecordRules(keys_required=True))
    keyless = build_batch([Record(key=b"k"), Record(value=b"v")])
    validate_records(keyless, RecordRules())
    unknown = build_batch(SOME)
    unknown[22] |= 5
    broken = build_batch(SOME, codec=1)
    broken[HEADER_BYTES] ^= 0xFF
    for data, keys_required, code in (
        (keyless, True, ErrorCode.INVALID_RECORD),
        (build_batch([Record(0), Record(2)]), False, ErrorCode.INVALID_RECORD),
        (unknown, False, ErrorCode.UNSUPPORTED_COMPRESSION_TYPE),
        (broken, False, ErrorCode.CORRUPT_MESSAGE),
    ):
        with pytest.raises(Refused) as caught:
            validate_records(data, RecordRules(keys_required=keys_required))
        assert caught.value.code == code


RULES = st.builds(
    RecordRules,
    keys_required=st.booleans(),
    earliest_ms=st.none() | st.sampled_from([-(2**62), 0, 900]),
    latest_ms=st.none() | st.sampled_from([1100, 2**62]),
)
MANY = st.lists(
    st.builds(
        Record,
        timestamp=st.sampled_from([-1, 899, 1000, 1100, 1101, 70_000]),
        key=st.none() | st.binary(max_size=140),
        value=st.none() | st.binary(max_size=20_000),
        headers=st.lists(st.tuples(st.text(max_size=3), st.none() | st.binary(max_size=130)), max_size=3),
    ),
    min_size=1,
    max_size=150,
)


def is_sound(data: bytes | bytearray, rules: RecordRules) -> bool:
    return are_plainly_sound(read_header(data), bytes(data[HEADER_BYTES:]), rules)


@quick(150)
@given(MANY, RULES)
def test_a_quick_look_at_good_records(records: list[Record], rules: RecordRules) -> None:
    """It sees what a careful one sees, but for records without a time, which it leaves to that."""
    wrong = [
        each
        for each in records
        if (rules.keys_required and each.key is None)
        or (
            None not in (rules.earliest_ms, rules.latest_ms)
            and not rules.earliest_ms <= each.timestamp <= rules.latest_ms
        )
    ]
    assert is_sound(build_batch(records), rules) == (not wrong)


@quick(300)
@given(st.binary(min_size=1, max_size=40), st.integers(1, 3), st.integers(0, 39), st.integers(0, 255))
def test_a_quick_look_at_wrong_records(noise: bytes, count: int, at: int, octet: int) -> None:
    """What it takes for right is right."""
    body = bytearray((ONE + TWO + noise)[: len(ONE + TWO) + len(noise) * (count == 3)])
    body[at % len(body)] = octet
    for forged_body in (bytes(body), noise):
        data = forged(forged_body, count, count - 1)
        if is_sound(data, RecordRules()):
            assert len(read_records(data, bytes_max=BYTES_MAX)) == count


@pytest.mark.parametrize("name", DAMAGE)
def test_a_quick_look_at_damage(name: str) -> None:
    """Every kind of damage that a careful look finds is left to it."""
    assert not is_sound(forged(*DAMAGE[name]), RecordRules())


def test_a_quick_look_at_what_is_unusual() -> None:
    """Without records, with very many headers, with a count that is not the header's: not sound so far."""
    many = build_batch([Record(key=b"k", headers=[("h", b"")] * 60)] * 20)
    assert is_sound(build_batch([Record(key=b"k", headers=[("h", b"")] * 60)]), RecordRules())
    for data in (many, forged(b"", 0, -1), forged(ONE + TWO, 2, 2)):
        assert not is_sound(data, RecordRules())


@quick(150)
@given(st.binary(max_size=80), st.sampled_from(CODECS), st.integers(-1, 5), st.integers(-1, 5))
def test_random_records(body: bytes, codec: int, count: int, last_offset_delta: int) -> None:
    """Random bytes for records raise nothing but DecodeError."""
    data = forged(body, count, last_offset_delta)
    data[22] |= codec
    try:
        read_records(data, bytes_max=BYTES_MAX)
    except DecodeError:
        return


@pytest.mark.parametrize("codec", CODECS)
def test_the_greatest_time_is_worked_out(codec: int) -> None:
    """A batch whose producer left it at -1 is what it would have been."""
    right = build_batch([Record(at, time_ms, b"k", b"v", []) for at, time_ms in enumerate((50, 90, 70))], codec=codec)
    wrong = bytearray(right)
    struct.pack_into(">q", wrong, 35, -1)
    assert (max_is_before_base(right), max_is_before_base(wrong)) == (False, True)
    assert with_max_timestamp(wrong) == right
