"""Produce (0): append batches, and answer when they are as safe as the producer asked.

The hot path. Appending happens at once, in the order of the requests; only waiting (acks=all, a flush) is parked, so
that several requests of one connection share a flush. Batches are not opened here but for topics whose rules need
their records (keys for compaction, another codec for ``compression.type``, times for
``message.timestamp.before.max.ms``) and where their greatest time is missing. Those are looked at first: most are seen
to be right at once, the others are opened, in a thread unless they are small.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Iterable, Iterator
from functools import partial

import trio

from logd import threads
from logd.apis.registry import HANGUP, Call, Parked, api
from logd.apis.verification import Codes, Question
from logd.config import TopicConfig
from logd.errors import DecodeError, ErrorCode, RecordsRefused, Refused
from logd.log.admission import MAGIC, MAGIC_AT, record_rules
from logd.log.log import Appended
from logd.log.producers import Verification
from logd.partitions.partition import ANY_AGE, Partition
from logd.partitions.table import PartitionTable
from logd.wire.batches import (
    CODEC_MASK,
    HEADER_BYTES,
    TRANSACTIONAL,
    check_crc,
    max_is_before_base,
    read_header,
    recompress,
    with_max_timestamp,
)
from logd.wire.message import ZERO_UUID, Buffer, Records
from logd.wire.schemas.produce import (
    BatchIndexAndErrorMessage,
    PartitionProduceData,
    PartitionProduceResponse,
    ProduceRequest,
    ProduceResponse,
    TopicProduceData,
    TopicProduceResponse,
)
from logd.wire.validation import RecordRules, are_plainly_sound, validate_records

logger = logging.getLogger("logd.api.produce")

ALL = -1
CODECS = {"uncompressed": 0, "gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}
CODEC_NAMES = {codec: name for name, codec in CODECS.items()}
TOPIC_IDS_FROM = 13
ZSTD_FROM = 7
ATTRIBUTES_AT = 22
"""The low byte of a batch's attributes."""
UNCOMMON = TRANSACTIONAL | CODEC_MASK

LIGHT_BYTES_MAX = 16 * 1024
LIGHT_RECORDS_MAX = 64
"""So many records take 0.2 ms to be checked; a thread that is asked takes 0.05 to 0.5 ms of CPU, and the loop waits for
the interpreter as well."""
COUNT_AT = HEADER_BYTES - 4
AS_IT_IS = ("producer", "uncompressed")
"""The values of ``compression.type`` with which a batch that is not compressed stays so."""
SOUND_BYTES_MAX = 1024 * 1024
SOUND_RECORDS_MAX = 512
"""So many records that are right take 0.35 ms to be seen so, whatever their size."""
LOOKED_AT_MAX = 2048
"""So many records of one request, whatever batches they are in, are looked at before others have their turn."""

Waiting = list[tuple[Partition, Appended, PartitionProduceResponse]]
Opened = list[tuple[Partition, PartitionProduceData]]
"""What has to be looked at with care before it is appended, and where it goes."""
Refusals = dict[tuple[int, int], Refused]
"""Of batches that were opened; by the identity of what was sent, and its partition."""
_NONE: Refusals = {}


@api(0, pipelined=True)
def produce(call: Call, request: ProduceRequest) -> ProduceResponse | Awaitable[object] | object | None:
    """Versions 3-13 (topic ids from 13). acks 0, 1 and -1; errors are told for each partition.

    With acks=0 nothing is answered, and a failure closes the connection, as Kafka does.
    """
    if request.acks not in (0, 1, ALL):
        return _bad_acks(call, request)
    refusals = _NONE
    if (call.services.partitions.some_open_batches or _some_times_lie(request)) and (
        opened := _to_be_opened(call, request)
    ):
        if request.transactional_id is not None or not _are_light(opened):
            return _prepare_then_append(call, request, opened)
        refusals = _prepare_now(call, opened)
    if request.transactional_id is not None:
        return _append_transactional(call, request, request.transactional_id)
    answer, waiting = _append_all(call, request, None)
    if refusals:
        _tell_refusals(request, answer, refusals)
    if request.acks == 0:
        return _unanswered(call, answer)
    return _parked(request, answer, waiting) if waiting else answer


def _append_transactional(
    call: Call, request: ProduceRequest, transactional_id: str
) -> ProduceResponse | Awaitable[object] | object | None:
    """As :func:`produce`; where the coordinator has to be waited for, later requests of the connection wait too."""
    question = Question(call.version)
    try:
        question.put(_partitions(call, request))
        codes = question.ask(call, transactional_id)
    except Refused as refused:
        question.close()
        return _none_appended(call, request, refused)
    if codes is not None:
        return _append_verified(call, request, question, codes)
    answer, waiting = _append_asked(call, request, question)
    if request.acks == 0:
        return _unanswered(call, answer)
    return _parked(request, answer, waiting) if waiting else answer


async def _append_verified(
    call: Call, request: ProduceRequest, question: Question, codes: Awaitable[Codes]
) -> object | None:
    try:
        question.answered(await codes)
    except BaseException:
        question.close()
        raise
    answer, waiting = _append_asked(call, request, question)
    if request.acks == 0:
        return _unanswered(call, answer)
    return await _settle(request, answer, waiting, _until_s(request))


def _append_asked(call: Call, request: ProduceRequest, question: Question) -> tuple[ProduceResponse, Waiting]:
    try:
        return _append_all(call, request, question)
    finally:
        question.close()


def _partitions(call: Call, request: ProduceRequest) -> Iterator[tuple[Partition | None, PartitionProduceData]]:
    table = call.services.partitions
    for topic in request.topic_data:
        for data in topic.partition_data:
            if call.version >= TOPIC_IDS_FROM:
                yield table.get_by_id(topic.topic_id, data.index), data
            else:
                yield table.get(topic.name, data.index), data


def _append_all(call: Call, request: ProduceRequest, question: Question | None) -> tuple[ProduceResponse, Waiting]:
    by_id = call.version >= TOPIC_IDS_FROM
    table = call.services.partitions
    waiting: Waiting = []
    topics = []
    for topic in request.topic_data:
        rows = []
        for data in topic.partition_data:
            partition = table.get_by_id(topic.topic_id, data.index) if by_id else table.get(topic.name, data.index)
            try:
                if partition is None:
                    raise _unknown(table, topic, data.index, by_id)
                if data.records is not None and len(data.records) > ATTRIBUTES_AT:
                    _check_attributes(call, request, one_buffer(data.records))
                verified = None if question is None else question.answer_for(data)
                rows.append(_append(call, request.acks, partition, data, waiting, verified))
            except Refused as refused:
                call.refused(refused, topic=topic.name if partition is None else partition.topic)
                rows.append(refused_row(data.index, refused))
        if rows:
            topics.append(TopicProduceResponse(topic.name, topic.topic_id, rows))
    return ProduceResponse(topics), waiting


def _append(
    call: Call,
    acks: int,
    partition: Partition,
    data: PartitionProduceData,
    waiting: Waiting,
    verified: Verification | None,
) -> PartitionProduceResponse:
    if partition.internal and call.client_id != "__admin_client":
        raise Refused(
            ErrorCode.INVALID_TOPIC_EXCEPTION, f"{partition.topic} is an internal topic: only logd itself writes to it"
        )
    if data.records is None:
        raise Refused(ErrorCode.INVALID_RECORD, f"no records for {partition!r}: send one batch for each partition")
    # min.insync.replicas asks for no more than there are replicas (measured on Kafka 4.3.1), and here there is one.
    appended = partition.append(one_buffer(data.records), verified=verified)
    answer = PartitionProduceResponse(
        data.index, 0, appended.base_offset, appended.log_append_time_ms, appended.start_offset
    )
    if acks != ALL:
        partition.acknowledge(appended)
    if acks and partition.must_wait_for(appended, acks):
        waiting.append((partition, appended, answer))
    return answer


def _check_attributes(call: Call, request: ProduceRequest, records: Buffer) -> None:
    """What the request as a whole says about the batches that it may carry."""
    attributes = records[ATTRIBUTES_AT]
    if attributes & UNCOMMON == 0 or records[MAGIC_AT] != MAGIC:
        return
    if attributes & TRANSACTIONAL and request.transactional_id is None:
        raise Refused(
            ErrorCode.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
            "a batch is transactional and the request has no transactional.id: give one",
        )
    if call.version < ZSTD_FROM and attributes & CODEC_MASK == CODECS["zstd"]:
        raise Refused(ErrorCode.UNSUPPORTED_COMPRESSION_TYPE, f"zstd needs Produce {ZSTD_FROM}, this is {call.version}")


def one_buffer(records: Records) -> Buffer:
    """The records of a decoded request: one view of its frame."""
    assert isinstance(records, Buffer)
    return records


def _unknown(table: PartitionTable, topic: TopicProduceData, index: int, by_id: bool) -> Refused:
    if by_id and not table.knows_id(topic.topic_id):
        if topic.topic_id == ZERO_UUID:
            return Refused(ErrorCode.UNKNOWN_TOPIC_ID, "the topic id is zero: ask for Metadata first")
        return Refused(ErrorCode.UNKNOWN_TOPIC_ID, f"no topic has the id {topic.topic_id.hex()}, partition {index}")
    return table.absent(topic.topic_id if by_id else topic.name, index)


def refused_row(index: int, refused: Refused) -> PartitionProduceResponse:
    """What a partition answers when it takes nothing."""
    row = PartitionProduceResponse(index)
    _fail(row, refused)
    return row


def _all_refused(request: ProduceRequest, code: ErrorCode) -> ProduceResponse:
    return ProduceResponse(
        [
            TopicProduceResponse(
                topic.name,
                topic.topic_id,
                [PartitionProduceResponse(data.index, code, -1) for data in topic.partition_data],
            )
            for topic in request.topic_data
        ]
    )


def _bad_acks(call: Call, request: ProduceRequest) -> ProduceResponse:
    """Acks that are none. What is not there is told first, as in Kafka."""
    answer = _all_refused(request, ErrorCode.INVALID_REQUIRED_ACKS)
    found, table = _partitions(call, request), call.services.partitions
    for topic, told in zip(request.topic_data, answer.responses, strict=True):
        for row in told.partition_responses:
            if next(found)[0] is None:
                row.error_code = _unknown(table, topic, row.index, call.version >= TOPIC_IDS_FROM).code
    answer.responses = [told for told in answer.responses if told.partition_responses]
    return answer


def _none_appended(call: Call, request: ProduceRequest, refused: Refused) -> ProduceResponse | object | None:
    answer = _all_refused(request, refused.code)
    return _unanswered(call, answer) if request.acks == 0 else answer


def _unanswered(call: Call, answer: ProduceResponse) -> object | None:
    for topic in answer.responses:
        for row in topic.partition_responses:
            if row.error_code:
                logger.warning(
                    "%s: acks=0 to %s-%d failed: %s", call.connection.peer, topic.name, row.index, row.error_message
                )
                return HANGUP
    return None


def _parked(request: ProduceRequest, answer: ProduceResponse, waiting: Waiting) -> Parked:
    settle = partial(_settle, request, answer, waiting, _until_s(request))
    return Parked(settle, partial(_is_settled, request.acks, waiting))


def _until_s(request: ProduceRequest) -> float:
    """When a request that has just been appended times out, though answers before it may be waited for until then."""
    return trio.current_time() + max(request.timeout_ms, 0) / 1000


def _is_settled(acks: int, waiting: Waiting) -> bool:
    return not any(partition.must_wait_for(appended, acks) for partition, appended, _ in waiting)


async def _settle(
    request: ProduceRequest, answer: ProduceResponse, waiting: Waiting, until_s: float
) -> ProduceResponse:
    """Wait until every append is as safe as was asked, or the producer's timeout has passed."""
    if _is_settled(request.acks, waiting):
        return answer
    with trio.move_on_at(until_s):
        while waiting:
            partition, appended, row = waiting[-1]
            try:
                await partition.settled(appended, request.acks)
            except Refused as refused:
                _fail(row, refused)
            waiting.pop()
    for partition, _, row in waiting:
        _fail(row, Refused(ErrorCode.REQUEST_TIMED_OUT, f"{partition!r} was not flushed in {request.timeout_ms} ms"))
    return answer


def _fail(row: PartitionProduceResponse, refused: Refused) -> None:
    row.error_code, row.error_message, row.base_offset = refused.code, refused.message, -1
    row.log_append_time_ms = row.log_start_offset = -1
    if isinstance(refused, RecordsRefused):
        row.record_errors = [BatchIndexAndErrorMessage(index, message) for index, message in refused.records]


def _prepared(records: Buffer, config: TopicConfig, rules: RecordRules) -> Buffer:
    """Check what only the records tell, and bring the batch into the topic's codec; runs in a thread."""
    try:
        header = read_header(records)
        sound = header.size == len(records) <= config.max_message_bytes and not header.base_offset
        if not sound or header.count != header.last_offset_delta + 1 or not check_crc(records, 0, header):
            return records  # the log refuses it, and its reasons come first
    except DecodeError:
        return records
    recompressed = config.compression_type not in ("producer", CODEC_NAMES.get(header.codec))
    timeless = max_is_before_base(records)
    if recompressed or timeless or rules.keys_required or config.message_timestamp_before_max_ms != ANY_AGE:
        validate_records(records, rules)
    if timeless:
        records = with_max_timestamp(records)
    return recompress(records, CODECS[config.compression_type], _level(config)) if recompressed else records


def _level(config: TopicConfig) -> int | None:
    levels = {
        "gzip": config.compression_gzip_level,
        "zstd": config.compression_zstd_level,
    }
    return levels.get(config.compression_type)


def _to_be_opened(call: Call, request: ProduceRequest) -> Opened:
    """The partitions of a request whose rules or batches need the records to be looked at, and what they get.

    Without those whose records are right at first sight.
    """
    now_ms = call.services.clock.now_ms()
    left = LOOKED_AT_MAX
    opened: Opened = []
    for partition, data in _partitions(call, request):
        if partition is None:
            continue
        if partition.opens_batches:
            left -= _count(data)
        if _times_lie(data) or (partition.opens_batches and not (left >= 0 and _is_sound(partition, data, now_ms))):
            opened.append((partition, data))
    return opened


def _count(data: PartitionProduceData) -> int:
    return 0 if data.records is None else stated_count(one_buffer(data.records))


def stated_count(records: Buffer) -> int:
    """How many records a batch says that it has."""
    return int.from_bytes(records[COUNT_AT:HEADER_BYTES], "big")


def _is_sound(partition: Partition, data: PartitionProduceData, now_ms: int) -> bool:
    return data.records is not None and is_sound(partition, one_buffer(data.records), now_ms)


def is_sound(partition: Partition, records: Buffer, now_ms: int) -> bool:
    """Whether a batch may be stored as it is, as far as its records go and a quick look can tell."""
    if not HEADER_BYTES < len(records) <= SOUND_BYTES_MAX or records[ATTRIBUTES_AT] & CODEC_MASK:
        return False
    if partition.config.compression_type not in AS_IT_IS:
        return False
    header = read_header(records)
    if header.magic != MAGIC or header.size != len(records) or header.count > SOUND_RECORDS_MAX:
        return False
    return are_plainly_sound(header, bytes(records[HEADER_BYTES:]), record_rules(partition.log.config, now_ms))


def _some_times_lie(request: ProduceRequest) -> bool:
    return any(_times_lie(data) for topic in request.topic_data for data in topic.partition_data)


def _times_lie(data: PartitionProduceData) -> bool:
    """Whether the greatest time has to be worked out: Kafka does it for every batch, and offsets by time need it."""
    records = data.records
    return records is not None and len(records) >= HEADER_BYTES and max_is_before_base(one_buffer(records))


def _are_light(opened: Opened) -> bool:
    return all(_is_light(*one) for one in opened) and sum(_count(data) for _, data in opened) <= LOOKED_AT_MAX


def _is_light(partition: Partition, data: PartitionProduceData) -> bool:
    """Whether a batch is checked sooner here than a thread is asked: few records, nothing to be (de)compressed."""
    if data.records is None:
        return True
    records = one_buffer(data.records)
    if not HEADER_BYTES <= len(records) <= LIGHT_BYTES_MAX or records[ATTRIBUTES_AT] & CODEC_MASK:
        return False
    return partition.config.compression_type in AS_IT_IS and stated_count(records) <= LIGHT_RECORDS_MAX


def _prepare_now(call: Call, opened: Iterable[tuple[Partition, PartitionProduceData]]) -> Refusals:
    refusals: Refusals = {}
    for partition, data in opened:
        if data.records is None:
            continue
        try:
            rules = record_rules(partition.log.config, call.services.clock.now_ms())
            data.records = _prepared(one_buffer(data.records), partition.config, rules)
        except Refused as refused:
            data.records = None
            refusals[id(data), data.index] = refused
    return refusals


def _tell_refusals(request: ProduceRequest, answer: ProduceResponse, refusals: Refusals) -> None:
    """Put the reasons into the rows of those whose records were taken out of the request."""
    named = [topic for topic in request.topic_data if topic.partition_data]
    told = [topic for topic in answer.responses if topic.partition_responses]
    for topic, topic_answer in zip(named, told, strict=True):
        for data, row in zip(topic.partition_data, topic_answer.partition_responses, strict=True):
            if (id(data), data.index) in refusals:
                _fail(row, refusals[id(data), data.index])


async def _prepare_then_append(call: Call, request: ProduceRequest, opened: Opened) -> object | None:
    """For topics whose rules need the records: check or recompress in a thread, then append as always."""
    question = Question(call.version)
    try:
        if request.transactional_id is not None:
            question.put(_partitions(call, request))
            codes = question.ask(call, request.transactional_id)
            if codes is not None:
                question.answered(await codes)
        refusals = await _prepare(call, opened, question)
        answer, waiting = _append_all(call, request, question)
    except Refused as refused:
        return _none_appended(call, request, refused)
    finally:
        question.close()
    _tell_refusals(request, answer, refusals)
    if request.acks == 0:
        return _unanswered(call, answer)
    return await _settle(request, answer, waiting, _until_s(request))


async def _prepare(call: Call, opened: Opened, question: Question) -> Refusals:
    """Check or recompress what has to be; what is refused has no records any more."""
    refusals: Refusals = {}
    for partition, data in opened:
        if data.records is None or question.refuses(data):
            continue
        if _is_light(partition, data):
            refusals |= _prepare_now(call, [(partition, data)])
            await trio.lowlevel.checkpoint()
            continue
        config = partition.config
        try:
            rules = record_rules(partition.log.config, call.services.clock.now_ms())
            data.records = await threads.run(_prepared, one_buffer(data.records), config, rules)
        except Refused as refused:
            data.records = None
            refusals[id(data), data.index] = refused
    return refusals
