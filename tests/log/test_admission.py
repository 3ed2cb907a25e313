"""What may enter a log: every refusal that a header can show."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from logd.errors import ErrorCode, Refused
from logd.log.log import Log, LogConfig
from logd.wire.batches import Record, build_batch, check_crc, read_header, read_records
from logd.wire.checksum import crc32c
from tests.log.batches import append, batch

NOW = 1_700_000_000_000


def patched(position: int, value: int, size: int, *, crc: bool = True, data: bytearray | None = None) -> bytearray:
    found = batch(timestamp=NOW) if data is None else data
    found[position : position + size] = value.to_bytes(size, "big", signed=True)
    if crc:
        found[17:21] = crc32c(found[21:]).to_bytes(4, "big")
    return found


CASES: list[tuple[str, Callable[[], bytes | bytearray], ErrorCode]] = [
    ("nothing", lambda: b"", ErrorCode.INVALID_RECORD),
    ("one byte", lambda: b"\0", ErrorCode.INVALID_RECORD),
    ("cut header", lambda: batch()[:60], ErrorCode.INVALID_RECORD),
    ("cut records", lambda: batch()[:-1], ErrorCode.INVALID_RECORD),
    ("two batches", lambda: batch() + batch(), ErrorCode.INVALID_RECORD),
    ("trailing byte", lambda: batch() + b"\0", ErrorCode.INVALID_RECORD),
    ("magic 0", lambda: patched(16, 0, 1), ErrorCode.INVALID_RECORD),
    ("magic 1", lambda: patched(16, 1, 1), ErrorCode.INVALID_RECORD),
    ("magic 3", lambda: patched(16, 3, 1), ErrorCode.CORRUPT_MESSAGE),
    ("length -1", lambda: patched(8, -1, 4), ErrorCode.CORRUPT_MESSAGE),
    ("length 0", lambda: patched(8, 0, 4), ErrorCode.CORRUPT_MESSAGE),
    ("length 2^31-1", lambda: patched(8, 2**31 - 1, 4), ErrorCode.INVALID_RECORD),
    ("bad crc", lambda: patched(61, 1, 1, crc=False), ErrorCode.CORRUPT_MESSAGE),
    ("base offset 1", lambda: patched(0, 1, 8), ErrorCode.INVALID_RECORD),
    ("count 0", lambda: patched(57, 0, 4), ErrorCode.INVALID_RECORD),
    ("count 2", lambda: patched(57, 2, 4), ErrorCode.INVALID_RECORD),
    ("count -1", lambda: patched(57, -1, 4), ErrorCode.INVALID_RECORD),
    ("last delta -1", lambda: patched(23, -1, 4), ErrorCode.INVALID_RECORD),
    ("control", lambda: patched(21, 0x20, 2), ErrorCode.INVALID_RECORD),
    ("producer without sequence", lambda: patched(43, 5, 8), ErrorCode.INVALID_RECORD),
    ("log append time", lambda: patched(21, 0x08, 2), ErrorCode.INVALID_TIMESTAMP),
    ("future", lambda: batch(timestamp=NOW + 3_600_001), ErrorCode.INVALID_TIMESTAMP),
    ("too large", lambda: batch(timestamp=NOW, value=bytes(1024 * 1024)), ErrorCode.MESSAGE_TOO_LARGE),
]


@pytest.mark.parametrize(("make", "code"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_refused(log: Log, make: Callable[[], bytes], code: ErrorCode) -> None:
    """The error that Kafka gives, and the log as it was."""
    with pytest.raises(Refused) as refused:
        append(log, make(), now_ms=NOW)
    assert refused.value.code == code
    assert (log.end_offset, log.size_bytes) == (0, 0)
    assert append(log, batch(timestamp=NOW), now_ms=NOW).base_offset == 0


def test_too_old(log: Log) -> None:
    """message.timestamp.before.max.ms."""
    log.config = LogConfig(timestamp_before_max_ms=1000)
    append(log, batch(timestamp=NOW - 1000), now_ms=NOW)
    append(log, batch(timestamp=-1), now_ms=NOW)
    with pytest.raises(Refused) as refused:
        append(log, batch(timestamp=NOW - 1001), now_ms=NOW)
    assert refused.value.code == ErrorCode.INVALID_TIMESTAMP


def test_larger_than_a_segment(log: Log) -> None:
    """A batch must fit into one segment."""
    log.config = LogConfig(segment_bytes=100)
    with pytest.raises(Refused) as refused:
        append(log, batch(value=bytes(100)))
    assert refused.value.code == ErrorCode.RECORD_LIST_TOO_LARGE


def test_own_batches_may_be_large_and_control(log: Log) -> None:
    """A coordinator's batch is not held to a client's limits."""
    log.config = LogConfig(max_message_bytes=10)
    marker = Record(0, 0, b"\0\0\0\1", b"\0" * 6, [])
    data = build_batch([marker], control=True, producer_id=3, producer_epoch=1)
    appended = log.append(data, leader_epoch=0, now_ms=0, origin="coordinator")
    assert appended.base_offset == 0


@pytest.mark.parametrize("make", [bytes, bytearray])
def test_log_append_time(log: Log, make: Callable[[bytearray], bytes]) -> None:
    """With LogAppendTime the batch gets the time, the flag and a new checksum; the answer carries the time."""
    log.config = msgspec.structs.replace(log.config, timestamp_type="LogAppendTime")
    data = make(batch(2, timestamp=5))
    appended = append(log, data, now_ms=NOW, epoch=4)
    assert appended.log_append_time_ms == NOW
    stored = log.read(0, bytes_max=1000, end=2)[0].load()
    header = read_header(stored)
    assert (header.max_timestamp, header.log_append_time, header.leader_epoch) == (NOW, True, 4)
    assert check_crc(stored, 0, header)
    assert len(read_records(stored, bytes_max=1000)) == 2


def test_read_only_source_is_left_alone(log: Log) -> None:
    """Stamping happens in the caller's buffer only when it can be written."""
    append(log, batch())
    source = bytes(batch())
    append(log, source, epoch=3)
    assert source == batch()
    header = read_header(log.read(1, bytes_max=1000, end=2)[0].load())
    assert (header.base_offset, header.leader_epoch) == (1, 3)


def test_replica(log: Log) -> None:
    """A leader's batches are taken as they are, offsets and epochs kept; a gap or damage is refused."""
    first, second = batch(2), batch(3)
    first[12:16] = (5).to_bytes(4, "big")
    second[:8], second[12:16] = (2).to_bytes(8, "big"), (6).to_bytes(4, "big")
    appended = log.append(first + second, leader_epoch=9, now_ms=0, origin="replica")
    assert (appended.base_offset, appended.next_offset) == (0, 5)
    assert log.epochs.entries == [(5, 0), (6, 2)]
    with pytest.raises(Refused):
        log.append(second, leader_epoch=9, now_ms=0, origin="replica")
    damaged = bytearray(second)
    damaged[:8] = (5).to_bytes(8, "big")
    damaged[-1] ^= 1
    with pytest.raises(Refused) as refused:
        log.append(damaged, leader_epoch=9, now_ms=0, origin="replica")
    assert refused.value.code == ErrorCode.CORRUPT_MESSAGE
    assert log.end_offset == 5
