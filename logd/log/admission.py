"""What may enter a log: the checks of a client's batch that need no more than its header.

:class:`~logd.log.log.Log` calls :func:`admit` before it appends. The order of the checks and their error codes are
Apache Kafka 4.3's (ProduceRequest, UnifiedLog, LogValidator); what needs the records parsed is not done here. It
changes nothing and knows no state of the log but its settings.
"""

from __future__ import annotations

from typing import Final, NoReturn

import msgspec

from logd.errors import ErrorCode, RecordsRefused, Refused
from logd.wire.batches import (
    CODEC_MASK,
    CONTROL,
    CRC_FROM,
    HEADER_BYTES,
    LOG_APPEND_TIME,
    LOG_OVERHEAD_BYTES,
    BatchHeader,
    read_header,
)
from logd.wire.checksum import crc32c
from logd.wire.validation import NAMED_RECORDS_MAX, RecordRules, untimely

MAGIC: Final = 2
MAGIC_AT: Final = 16
CODEC_MAX: Final = 4
OLD_MESSAGE_BYTES_MIN: Final = 14
"""What Kafka holds any batch to, also those of magic 0 and 1, before it looks at the magic."""
_UNUSUAL: Final = CONTROL | CODEC_MASK | LOG_APPEND_TIME

LOG_APPEND_TIME_CONFIG: Final = "LogAppendTime"


class LogConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What the log obeys of a topic's settings, by Kafka's names; defaults are Kafka's."""

    segment_bytes: int = 1 << 30
    segment_ms: int = 7 * 24 * 3600 * 1000
    index_interval_bytes: int = 4096
    segment_index_bytes: int = 10 * 1024 * 1024
    retention_ms: int = 7 * 24 * 3600 * 1000
    retention_bytes: int = -1
    flush_messages: int = 2**63 - 1
    flush_ms: int = 2**63 - 1
    max_message_bytes: int = 1024 * 1024 + 12
    timestamp_type: str = "CreateTime"
    timestamp_before_max_ms: int = 2**63 - 1
    timestamp_after_max_ms: int = 3600 * 1000
    file_delete_delay_ms: int = 60_000
    producer_id_expiration_ms: int = 24 * 3600 * 1000
    preallocate: bool = False
    compacted: bool = False


def admit(data: memoryview, config: LogConfig, now_ms: int, *, client: bool) -> BatchHeader:
    """Check that ``data`` is one batch that may be appended and return its header.

    :param client: False for a batch that this node made itself, which may be a control batch.
    :raises Refused: CORRUPT_MESSAGE, INVALID_RECORD, MESSAGE_TOO_LARGE, INVALID_TIMESTAMP, RECORD_LIST_TOO_LARGE.
    """
    size = len(data)
    if size < HEADER_BYTES:
        _refuse_short(data)
    header = read_header(data)
    attributes, count = header.attributes, header.count
    if header.magic != MAGIC or header.length + LOG_OVERHEAD_BYTES != size:
        _refuse_shape(header.magic, header.length, size)
    if size > config.max_message_bytes and client:
        raise Refused(
            ErrorCode.MESSAGE_TOO_LARGE,
            f"The record batch size is {size} bytes, over the limit of {config.max_message_bytes} "
            "(max.message.bytes of the topic): send smaller batches",
        )
    if crc32c(data[CRC_FROM:]) != header.crc:
        raise Refused(ErrorCode.CORRUPT_MESSAGE, f"The record batch's CRC is not the {header.crc:#010x} that it states")
    if count <= 0 or count != header.last_offset_delta + 1 or header.base_offset or attributes & _UNUSUAL > CODEC_MAX:
        _refuse_content(header, client)
    if header.producer_id >= 0 and header.base_sequence < 0 and client and not attributes & CONTROL:
        raise Refused(
            ErrorCode.INVALID_RECORD, f"Sequence {header.base_sequence} of producer {header.producer_id} is negative"
        )
    if size > config.segment_bytes:
        raise Refused(
            ErrorCode.RECORD_LIST_TOO_LARGE,
            f"The record batch of {size} bytes is larger than a segment may be ({config.segment_bytes})",
        )
    if client and config.timestamp_type != LOG_APPEND_TIME_CONFIG:
        base_ms, max_ms = header.base_timestamp, header.max_timestamp
        if max_ms - now_ms > config.timestamp_after_max_ms or now_ms - base_ms > config.timestamp_before_max_ms:
            _refuse_times(data, header, config, now_ms)
    return header


def _refuse_short(data: memoryview) -> NoReturn:
    if len(data) == 0:
        raise Refused(ErrorCode.INVALID_RECORD, "The partition's records are empty: send one record batch")
    if len(data) > MAGIC_AT and data[MAGIC_AT] != MAGIC:
        _refuse_shape(int.from_bytes(data[MAGIC_AT : MAGIC_AT + 1], signed=True), HEADER_BYTES, len(data))
    raise Refused(ErrorCode.INVALID_RECORD, f"{len(data)} bytes are too few for a record batch")


def _refuse_shape(magic: int, length: int, size: int) -> NoReturn:
    if length < HEADER_BYTES - LOG_OVERHEAD_BYTES and (magic == MAGIC or length < OLD_MESSAGE_BYTES_MIN):
        raise Refused(ErrorCode.CORRUPT_MESSAGE, f"A record batch length of {length} cannot be")
    if not 0 <= magic <= MAGIC:
        raise Refused(ErrorCode.CORRUPT_MESSAGE, f"There is no record batch of magic {magic}: it must be {MAGIC}")
    if magic != MAGIC:
        raise Refused(
            ErrorCode.INVALID_RECORD, f"Record batches must have magic 2, this one has {magic}: use a newer client"
        )
    if length + LOG_OVERHEAD_BYTES < size:
        raise Refused(ErrorCode.INVALID_RECORD, "More than one record batch for one partition: send exactly one")
    raise Refused(
        ErrorCode.INVALID_RECORD,
        f"The record batch states a length of {length} bytes and {size - LOG_OVERHEAD_BYTES} are there",
    )


def _refuse_content(header: BatchHeader, client: bool) -> None:
    if header.base_offset != 0:
        raise Refused(
            ErrorCode.INVALID_RECORD, f"The base offset of a produced batch must be 0, not {header.base_offset}"
        )
    if header.count <= 0 or header.count != header.last_offset_delta + 1:
        raise Refused(
            ErrorCode.INVALID_RECORD,
            f"The batch counts {header.count} records and its last offset delta is {header.last_offset_delta}",
        )
    if header.codec > CODEC_MAX:
        raise Refused(ErrorCode.CORRUPT_MESSAGE, f"Compression type {header.codec} is not known")
    if header.is_control and client:
        raise Refused(ErrorCode.INVALID_RECORD, "Clients may not write control records")
    if header.log_append_time and client:
        message = "The producer set timestamp type LogAppendTime: use CreateTime"
        named = range(min(header.count, NAMED_RECORDS_MAX))
        raise RecordsRefused(ErrorCode.INVALID_TIMESTAMP, message, [(index, message) for index in named])


def record_rules(config: LogConfig, now_ms: int) -> RecordRules:
    """What single records are held to at this time."""
    if config.timestamp_type == LOG_APPEND_TIME_CONFIG:
        return RecordRules(keys_required=config.compacted)
    return RecordRules(
        keys_required=config.compacted,
        earliest_ms=now_ms - config.timestamp_before_max_ms,
        latest_ms=now_ms + config.timestamp_after_max_ms,
    )


def _refuse_times(data: memoryview, header: BatchHeader, config: LogConfig, now_ms: int) -> None:
    """By the header alone: the first record's time and the greatest."""
    rules = record_rules(config, now_ms)
    if rules.time_is_wrong(header.base_timestamp) or rules.time_is_wrong(header.max_timestamp):
        raise untimely(data, header, rules)
