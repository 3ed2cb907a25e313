"""Produce as nearly all of it comes: a short way from the frame to the answer, without a message object between.

:func:`produce_plain` takes a request only when it is plain in every part: a version with compact lengths, acks=1 (or
all, where no flush has to be waited for), no transaction, no tagged fields, partitions that are here and ask for
nothing special but what a quick look at the records can tell. Anything else it leaves to
:mod:`logd.apis.produce` before it has changed anything, also what does not decode: the error comes from there. What
may be appended, and what an append does, is the partition's business on both ways.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from logd.apis.produce import ALL, ATTRIBUTES_AT, LOOKED_AT_MAX, TOPIC_IDS_FROM, is_sound, refused_row, stated_count
from logd.apis.registry import Call, Connection, Services, shortcut
from logd.errors import DecodeError, Refused
from logd.wire.batches import HEADER_BYTES, TRANSACTIONAL, max_is_before_base
from logd.wire.decoder import uvarint_tail
from logd.wire.frames import RequestHead, response_parts
from logd.wire.message import ZERO_UUID, Buffer
from logd.wire.schemas.produce import PartitionProduceResponse, ProduceResponse, TopicProduceResponse

if TYPE_CHECKING:
    from logd.log.log import Appended
    from logd.partitions.partition import Partition

PRODUCE = 0
FLEXIBLE_FROM = 9
PLAIN_ACKS = (1, ALL)
ONE_BYTE = 128
"""Compact lengths below this take one byte; a request with more topics or partitions is not plain."""

_read_request = struct.Struct(">bhiB").unpack_from  # transactional id (0: null), acks, timeout, topics + 1
_read_partition = struct.Struct(">iB").unpack_from  # index, length of the records + 1
_write_row = struct.Struct(">ihqqqBBB").pack  # index, error, offset, time, start, no record errors, no message, no tags
_write_head = struct.Struct(">iiBB").pack  # size, correlation id, no tags, topics + 1
_END = bytes(5)  # no throttling, no tags

Asked = list[tuple[bytes, list[tuple["Partition", memoryview]]]]
"""By topic, named as the request names it: the partitions and their records."""


@shortcut(PRODUCE)
def produce_plain(
    frame: memoryview, head: RequestHead, connection: Connection, services: Services
) -> list[Buffer] | None:
    """Versions 9-13. The answer in one buffer, or None when the request has to go the long way."""
    if head.api_version < FLEXIBLE_FROM:
        return None
    try:
        asked = _asked(frame, head.body, head.api_version >= TOPIC_IDS_FROM, services)
    except (struct.error, IndexError, UnicodeDecodeError, DecodeError):
        return None
    if asked is None:
        return None
    out: list[bytes] = []
    done: list[Appended | Refused] = []
    well = True
    for topic, rows in asked:
        out.append(topic + bytes((len(rows) + 1,)))
        for partition, records in rows:
            try:
                appended = partition.append(records)
            except Refused as refused:
                well = False
                done.append(refused)
                continue
            if partition.durable:
                partition.acknowledge(appended)
            done.append(appended)
            base, time_ms, start = appended.base_offset, appended.log_append_time_ms, appended.start_offset
            out.append(_write_row(partition.index, 0, base, time_ms, start, 1, 0, 0))
        out.append(b"\0")
    if not well:
        return _with_errors(head, connection, services, asked, done)
    out.append(_END)
    body = b"".join(out)
    return [_write_head(len(body) + 6, head.correlation_id, 0, len(asked) + 1) + body]


def _asked(b: memoryview, p: int, by_id: bool, services: Services) -> Asked | None:
    """What a plain request asks for; None for any other. Raises what reading past the end of it raises."""
    end = len(b)
    transactional_id, acks, _, topics = _read_request(b, p)
    if transactional_id or acks not in PLAIN_ACKS or not 1 < topics < ONE_BYTE:
        return None
    waits, left = acks == ALL, LOOKED_AT_MAX
    p += 8
    asked: Asked = []
    table = services.partitions
    some_open_batches = table.some_open_batches
    for _ in range(topics - 1):
        start = p
        p += 16 if by_id else b[p]
        topic = bytes(b[start:p])
        name = "" if by_id else str(topic[1:], "utf-8")
        count = b[p]
        if (topic[0] >= ONE_BYTE and not by_id) or not 1 < count < ONE_BYTE:
            return None
        p += 1
        rows = []
        for _ in range(count - 1):
            index, size = _read_partition(b, p)
            p += 5
            if size >= ONE_BYTE:
                size, p = uvarint_tail(b, size, p)
            stop = p + size - 1
            partition = table.get_by_id(topic, index) if by_id else table.get(name, index)
            if partition is None or not partition.plain or size <= HEADER_BYTES or stop >= end or b[stop]:
                return None
            if waits and partition.durable:
                return None
            if b[p + ATTRIBUTES_AT] & TRANSACTIONAL or max_is_before_base(b, p):
                return None
            records = b[p:stop]
            if some_open_batches and partition.opens_batches:
                left -= stated_count(records)
                if left < 0 or not is_sound(partition, records, services.clock.now_ms()):
                    return None
            rows.append((partition, records))
            p = stop + 1
        if b[p]:
            return None
        p += 1
        asked.append((topic, rows))
    return None if b[p] else asked


def _with_errors(
    head: RequestHead, connection: Connection, services: Services, asked: Asked, done: list[Appended | Refused]
) -> list[Buffer]:
    """The answer when some partition refused its records."""
    call = Call(PRODUCE, head.api_version, head.correlation_id, head.client_id, connection, services)
    outcomes = iter(done)
    topics = []
    for _, rows in asked:
        answers = []
        for partition, _ in rows:
            outcome = next(outcomes)
            if isinstance(outcome, Refused):
                call.refused(outcome, topic=partition.topic)
                answers.append(refused_row(partition.index, outcome))
                continue
            base, time_ms, start = outcome.base_offset, outcome.log_append_time_ms, outcome.start_offset
            answers.append(PartitionProduceResponse(partition.index, 0, base, time_ms, start))
        by_id = head.api_version >= TOPIC_IDS_FROM
        topics.append(TopicProduceResponse(partition.topic, partition.topic_id if by_id else ZERO_UUID, answers))
    return response_parts(PRODUCE, head.api_version, head.correlation_id, ProduceResponse(topics))
