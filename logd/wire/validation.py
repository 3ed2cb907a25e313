"""What a topic's rules say of single records: keys, times, and records that are what their batch's header says.

Called where a batch is opened anyway, or is refused already and its records have to be named (KIP-467). It changes
nothing, reads no clock and never keeps a buffer.
"""

from __future__ import annotations

from typing import Final

import msgspec

from logd.errors import DecodeError, ErrorCode, RecordsRefused, Refused
from logd.wire.batches import (
    CODEC_MASK,
    RECORDS_BYTES_MAX,
    BatchHeader,
    Record,
    read_body,
    read_header,
    read_records,
    records_of,
)
from logd.wire.compression import BadCompression
from logd.wire.message import Buffer
from logd.wire.records import are_plain

NO_TIMESTAMP: Final = -1
MIN_MS: Final = -(1 << 63)
MAX_MS: Final = (1 << 63) - 1
PLAIN_HEADERS_MAX: Final = 1024
"""A batch with more headers takes long enough to be looked at in a thread."""
CODEC_MAX: Final = 4
NAMED_RECORDS_MAX: Final = 10_000
"""A batch with more records is refused as a whole: it is opened on the event loop to name them."""
NAMED_BYTES_MAX: Final = 1024 * 1024
"""The same for the bytes of its records, once decompressed."""


class RecordRules(msgspec.Struct, frozen=True, kw_only=True):
    """What each record of a batch is held to.

    :param keys_required: compaction wants a key.
    :param earliest_ms: the least timestamp that is taken; None when times do not count (``LogAppendTime``).
    :param latest_ms: the greatest.
    """

    keys_required: bool = False
    earliest_ms: int | None = None
    latest_ms: int | None = None

    def time_is_wrong(self, timestamp_ms: int) -> bool:
        """Whether a record of this time is refused. A record may have none at all."""
        if self.earliest_ms is None or self.latest_ms is None or timestamp_ms == NO_TIMESTAMP:
            return False
        return not self.earliest_ms <= timestamp_ms <= self.latest_ms


def are_plainly_sound(header: BatchHeader, body: bytes, rules: RecordRules) -> bool:
    """Whether a quick look at the records of a batch finds them right.

    False where :func:`validate_records` has to be asked: something may be wrong, or takes more care.

    :param body: the bytes of its records, decompressed.
    """
    if header.count != header.last_offset_delta + 1 or header.count <= 0:
        return False
    deltas_ms = (MIN_MS, MAX_MS)
    if rules.earliest_ms is not None and rules.latest_ms is not None:
        deltas_ms = (rules.earliest_ms - header.base_timestamp, rules.latest_ms - header.base_timestamp)
    keys = rules.keys_required
    return are_plain(body, header.count, keys=keys, deltas_ms=deltas_ms, headers_max=PLAIN_HEADERS_MAX)


def validate_records(batch: Buffer, rules: RecordRules, *, bytes_max: int = RECORDS_BYTES_MAX) -> None:
    """Opens `batch` and checks it as a broker must before it stores it.

    :raises Refused: CORRUPT_MESSAGE when it cannot be decompressed, UNSUPPORTED_COMPRESSION_TYPE for a codec that
        does not exist, INVALID_RECORD for records that do not fit the header or leave gaps.
    :raises RecordsRefused: INVALID_TIMESTAMP when some record's time is wrong, else INVALID_RECORD when some has no
        key; all that are wrong in either way are named.
    """
    try:
        header = read_header(batch)
        if header.attributes & CODEC_MASK > CODEC_MAX:
            raise Refused(ErrorCode.UNSUPPORTED_COMPRESSION_TYPE, f"there is no compression codec {header.codec}")
        body = read_body(batch, 0, header, bytes_max=bytes_max)
        if are_plainly_sound(header, body, rules):
            return
        records = records_of(header, body)
    except BadCompression as error:
        raise Refused(ErrorCode.CORRUPT_MESSAGE, str(error)) from error
    except DecodeError as error:
        raise Refused(ErrorCode.INVALID_RECORD, str(error)) from error
    if len(records) != header.last_offset_delta + 1:
        raise Refused(
            ErrorCode.INVALID_RECORD,
            f"{len(records)} records but a last offset delta of {header.last_offset_delta}: offsets must have no gaps",
        )
    _refuse_wrong_records(records, rules)


def _refuse_wrong_records(records: list[Record], rules: RecordRules) -> None:
    wrong: list[tuple[int, str]] = []
    code = ErrorCode.INVALID_RECORD
    for index, record in enumerate(records):
        if rules.keys_required and record.key is None:
            wrong.append((index, "no key, and a compacted topic needs one"))
        elif rules.time_is_wrong(record.timestamp):
            code = ErrorCode.INVALID_TIMESTAMP
            wrong.append((index, _time_message(record.timestamp, rules)))
    if wrong:
        raise RecordsRefused(
            code, f"{len(wrong)} of {len(records)} records are refused; the first: {wrong[0][1]}", wrong
        )


def _time_message(timestamp_ms: int, rules: RecordRules) -> str:
    return f"timestamp {timestamp_ms} is out of range: the topic takes {rules.earliest_ms} to {rules.latest_ms}"


def untimely(batch: Buffer, header: BatchHeader, rules: RecordRules) -> Refused:
    """The refusal of a batch whose header says that times are out of range, with the records that are.

    They are named only where that is quick (`NAMED_RECORDS_MAX`, `NAMED_BYTES_MAX`) and the batch can be opened.
    """
    wrong: list[tuple[int, str]] = []
    if header.count <= NAMED_RECORDS_MAX:
        try:
            records = read_records(batch, bytes_max=NAMED_BYTES_MAX)
        except DecodeError:
            records = []
        wrong = [
            (index, _time_message(record.timestamp, rules))
            for index, record in enumerate(records)
            if rules.time_is_wrong(record.timestamp)
        ]
    return RecordsRefused(
        ErrorCode.INVALID_TIMESTAMP,
        f"timestamps {header.base_timestamp} to {header.max_timestamp} are out of range: the topic takes "
        f"{rules.earliest_ms} to {rules.latest_ms}",
        wrong,
    )
