"""Fetch (1): read whole batches, straight from the mapped segments, or wait until there are some.

The hot path of consumers. Pages that are in the cache are sent from the map; cold ones are read in a worker thread
first. A fetch that finds too little parks on its partitions until enough became readable or its time is up. What was
acknowledged with acks=1 before it came is waited for, though a flush has yet to commit it: who produced finds all of
their records. Sessions (KIP-227) are kept by :mod:`logd.apis.fetch_sessions`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Iterable

import trio

from logd.apis.fetch_sessions import FINAL_EPOCH, FIRST_EPOCH, SESSIONLESS, Followed, Session, followed_by
from logd.apis.registry import Call, api
from logd.errors import Corrupt, ErrorCode, Refused, StorageFailed
from logd.log.slices import Slice
from logd.partitions.partition import Partition, Watcher, until_committed
from logd.partitions.table import PartitionTable
from logd.wire.message import Buffer
from logd.wire.schemas.fetch import (
    AbortedTransaction,
    EpochEndOffset,
    FetchableTopicResponse,
    FetchRequest,
    FetchResponse,
    LeaderIdAndEpoch,
    NodeEndpoint,
    PartitionData,
)

TOPIC_IDS_FROM = 13
READ_UNCOMMITTED, READ_COMMITTED = 0, 1
REPLICA_STATE_FROM = 15
LEADERS_FROM = 16
STORAGE_ERRORS_FROM = 6
MOVED = (ErrorCode.NOT_LEADER_OR_FOLLOWER, ErrorCode.FENCED_LEADER_EPOCH)
GAPS_MAX = 8
"""So often does one request look behind a gap."""
UNKNOWN = (ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, ErrorCode.UNKNOWN_TOPIC_ID)


class Gathered:
    """What one pass over the partitions found."""

    __slots__ = ("cold", "counted_bytes", "endpoints", "late", "partitions", "rows", "settled", "size_bytes")

    def __init__(self) -> None:
        self.rows: list[tuple[Followed, PartitionData]] = []
        self.partitions: list[Partition] = []
        self.cold: list[tuple[Partition, PartitionData, list[Slice]]] = []
        self.endpoints: list[NodeEndpoint] = []
        self.late: list[tuple[Partition, int]] = []
        """Partitions that are read to their end, and the end of what was acknowledged there beyond it."""
        self.size_bytes = 0
        self.counted_bytes = 0
        """What counts towards min_bytes."""
        self.settled = False
        """Some partition has an error, diverges, or is read far from its end: answer at once."""


def _refuse(request: FetchRequest, version: int, refused: Refused) -> FetchResponse:
    return FetchResponse(error_code=refused.code)


@api(1, refuse=_refuse)
def fetch(call: Call, request: FetchRequest) -> FetchResponse | Awaitable[FetchResponse]:
    """Versions 4-18. Long poll by max_wait_ms and min_bytes; isolation level; topic ids from 13 on."""
    if request.isolation_level not in (READ_UNCOMMITTED, READ_COMMITTED):
        return _nonsense(request, call.version)
    session, wanted = _session(call, request)
    found = _gather(call, request, wanted)
    enough = min(request.min_bytes, request.max_bytes, call.services.settings.fetch_max_bytes)
    if found.late and not found.settled:
        return _wait_for_commit(call, request, session, wanted, enough, found.late)
    nobody = not found.rows and not found.partitions
    if request.max_wait_ms <= 0 or found.settled or nobody or found.counted_bytes >= enough:
        if not found.cold:
            return _answer(request, session, found)
        return _answer_cold(call, request, session, wanted, found)
    return _wait(call, request, session, wanted, enough)


def _nonsense(request: FetchRequest, version: int) -> FetchResponse:
    """INVALID_REQUEST for the whole and for each partition: older versions have no other place for it."""
    code = ErrorCode.INVALID_REQUEST
    rows = [
        FetchableTopicResponse(
            topic.topic,
            topic.topic_id,
            [PartitionData(part.partition, code, -1, records=b"") for part in topic.partitions],
        )
        for topic in request.topics
        if version < TOPIC_IDS_FROM
    ]
    return FetchResponse(error_code=code, responses=rows)


def _session(call: Call, request: FetchRequest) -> tuple[Session | None, Iterable[Followed]]:
    """The session that the request belongs to or begins, and the partitions to look at."""
    sessions = call.services.fetch_sessions
    now_ms = call.services.clock.now_ms()
    by_id = call.version >= TOPIC_IDS_FROM
    if request.session_epoch not in (FINAL_EPOCH, FIRST_EPOCH):
        session = sessions.resume(request, by_id, now_ms)
        if not session.followed:
            sessions.close(session.id)
            return None, ()
        return session, list(session.followed.values())
    if request.session_id != SESSIONLESS:
        sessions.close(request.session_id)
    if request.session_epoch == FIRST_EPOCH:
        begun = sessions.begin(request, by_id, now_ms)
        if begun is not None:
            return begun, list(begun.followed.values())
    return None, followed_by(request)


def _gather(call: Call, request: FetchRequest, wanted: Iterable[Followed]) -> Gathered:
    """Read what there is, within the limits; the first partition with data gives one batch at least."""
    table = call.services.partitions
    by_id = call.version >= TOPIC_IDS_FROM
    bytes_max = min(request.max_bytes, call.services.settings.fetch_max_bytes)
    read_committed = request.isolation_level == READ_COMMITTED
    replica_id = request.replica_id if call.version < REPLICA_STATE_FROM else request.replica_state.replica_id
    found = Gathered()
    goes_on = request.session_epoch not in (FINAL_EPOCH, FIRST_EPOCH) and replica_id < 0 <= request.max_bytes
    for followed in wanted:
        partition: Partition | None = None
        try:
            partition = _partition(table, followed, by_id)
            if goes_on and _nothing_new(partition, followed, read_committed):
                found.partitions.append(partition)
                continue
            if replica_id >= 0:
                raise Refused(ErrorCode.NOT_LEADER_OR_FOLLOWER, f"broker {replica_id} has no replica of {partition!r}")
            if request.max_bytes < 0 or followed.bytes_max < 0:
                raise Refused(ErrorCode.INVALID_REQUEST, "a limit of less than 0 bytes: give 0 or more")
            row = _read(partition, followed, bytes_max - found.size_bytes, read_committed, found)
            found.partitions.append(partition)
        except Refused as refused:
            call.refused(refused, topic=followed.topic)
            row = _refused_row(call, followed.index, partition, refused, found)
        found.rows.append((followed, row))
    return found


def _refused_row(
    call: Call, index: int, partition: Partition | None, refused: Refused, found: Gathered
) -> PartitionData:
    """From version 16 on it says who leads instead, so that nobody has to ask for Metadata first (KIP-951)."""
    found.settled = True
    aborted: list[AbortedTransaction] | None = [] if refused.code in UNKNOWN else None
    row = PartitionData(index, _code(call, refused), -1, aborted_transactions=aborted, records=b"")
    if refused.code in MOVED and partition is not None and call.version >= LEADERS_FROM:
        leader = call.services.settings.node_id
        row.current_leader = LeaderIdAndEpoch(leader, partition.leader_epoch)
        if refused.code == ErrorCode.FENCED_LEADER_EPOCH and not found.endpoints:  # replicas know the address
            found.endpoints.append(NodeEndpoint(leader, *call.advertised(leader), call.services.settings.broker_rack))
    return row


def _code(call: Call, refused: Refused) -> ErrorCode:
    """Before version 6 clients need not know KAFKA_STORAGE_ERROR (KIP-112), and would give up."""
    if refused.code == ErrorCode.KAFKA_STORAGE_ERROR and call.version < STORAGE_ERRORS_FROM:
        return ErrorCode.NOT_LEADER_OR_FOLLOWER
    return refused.code


def _partition(table: PartitionTable, followed: Followed, by_id: bool) -> Partition:
    if by_id:
        partition = table.get_by_id(followed.topic_id, followed.index)
        if partition is not None:
            followed.known_as = partition.topic
            return partition
        raise _missing_by_id(table, followed)
    partition = table.get(followed.topic, followed.index)
    if partition is None:
        raise table.absent(followed.topic, followed.index)
    return partition


def _missing_by_id(table: PartitionTable, followed: Followed) -> Refused:
    """Why there is nothing under an id. A session, or a Fetch that waits, may have seen it under a name before."""
    name, index = followed.known_as, followed.index
    if table.knows_id(followed.topic_id):
        return table.absent(followed.topic_id, index)
    if not name:
        return Refused(ErrorCode.UNKNOWN_TOPIC_ID, f"no topic has the id {followed.topic_id.hex()}")
    if table.get(name, index) is None:
        return Refused(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, f"there is no partition {name}-{index} any more")
    return Refused(ErrorCode.INCONSISTENT_TOPIC_ID, f"{name} was made again and has another id: ask for Metadata")


def _read(partition: Partition, followed: Followed, left: int, read_committed: bool, found: Gathered) -> PartitionData:
    partition.check_epoch(followed.epoch)
    row = PartitionData(
        followed.index,
        0,
        partition.high_watermark,
        partition.last_stable_offset,
        partition.log.start_offset,
        aborted_transactions=[] if read_committed else None,
        records=b"",
    )
    if followed.fetched_epoch >= 0 and (diverging := _diverging(partition, followed)) is not None:
        row.diverging_epoch = diverging
        found.settled = True
        return row
    end = partition.readable_end(read_committed)
    bytes_max = max(min(followed.bytes_max, left), 0)
    slices = partition.read(followed.offset, bytes_max=bytes_max, end=end, at_least_one=found.size_bytes == 0)
    size_bytes = sum(piece.size for piece in slices)
    found.size_bytes += size_bytes
    if (slices[-1].next_offset if slices else followed.offset) < end:
        # a batch that no longer fits counts, or a reader of whole batches would wait for bytes that can't come; and
        # who reads an older segment is answered at once, as in Kafka
        size_bytes = max(size_bytes, followed.bytes_max)
        found.settled = found.settled or partition.log.segments.lie_apart(followed.offset, end)
    elif partition.acknowledged > partition.committed.offset:
        found.late.append((partition, partition.acknowledged))
    found.counted_bytes += size_bytes
    if slices:
        row.records = [piece.view() for piece in slices]
        if read_committed and partition.log.aborted:
            found_aborted = partition.log.aborted.find(followed.offset, slices[-1].next_offset)
            row.aborted_transactions = [AbortedTransaction(one.producer_id, one.first_offset) for one in found_aborted]
        if not all(piece.resident() for piece in slices):
            found.cold.append((partition, row, slices))
    return row


def _nothing_new(partition: Partition, followed: Followed, read_committed: bool) -> bool:
    """Whether a session knows all there is of a partition, and reads on from its end: the answer leaves it out."""
    log, epoch = partition.log, partition.leader_epoch
    return (
        followed.told_end == partition.high_watermark >= partition.acknowledged
        and followed.offset == partition.readable_end(read_committed)
        and followed.told_start == log.start_offset
        and followed.epoch in (-1, epoch)
        and followed.fetched_epoch in (-1, epoch)
        and followed.bytes_max >= 0
        and partition.failure is None
        and log.failure is None
    )


def _diverging(partition: Partition, followed: Followed) -> EpochEndOffset | None:
    """Where the log of the peer and ours part (KIP-320), if before its fetch offset."""
    epoch, end_offset = partition.end_of_epoch(followed.fetched_epoch)
    if end_offset < 0:
        raise Refused(
            ErrorCode.OFFSET_OUT_OF_RANGE, f"{partition!r} knows nothing of leader epoch {followed.fetched_epoch}"
        )
    if epoch == followed.fetched_epoch and end_offset >= followed.offset:
        return None
    return EpochEndOffset(epoch, end_offset)


def _answer(request: FetchRequest, session: Session | None, found: Gathered) -> FetchResponse:
    rows = found.rows if session is None else _changed(session, request, found)
    topics: list[FetchableTopicResponse] = []
    key = None
    for followed, row in rows:  # in the order of the request, as Kafka answers: a topic comes again after another one
        if (followed.topic, followed.topic_id) != key:
            key = (followed.topic, followed.topic_id)
            topics.append(FetchableTopicResponse(*key, []))
        topics[-1].partitions.append(row)
    session_id = session.id if session is not None else SESSIONLESS
    return FetchResponse(session_id=session_id, responses=topics, node_endpoints=found.endpoints)


def _changed(session: Session, request: FetchRequest, found: Gathered) -> list[tuple[Followed, PartitionData]]:
    """The rows that tell a session something new; a request that begins one gets them all."""
    rows = []
    full = request.session_epoch == FIRST_EPOCH
    for followed, row in found.rows:
        news = (
            bool(row.records)
            or row.error_code != 0
            or row.diverging_epoch.epoch >= 0
            or row.high_watermark != followed.told_end
            or row.log_start_offset != followed.told_start
        )
        if news or full:
            rows.append((followed, row))
            followed.told_end = row.high_watermark if not row.error_code else -1
            followed.told_start = row.log_start_offset
    session.rotate([followed for followed, row in rows if row.records])
    return rows


async def _answer_cold(
    call: Call, request: FetchRequest, session: Session | None, wanted: Iterable[Followed], found: Gathered
) -> FetchResponse:
    """Bring what is not in the page cache there, in worker threads, then answer.

    Where all of it turns out to be gaps, at the ends of compacted segments, what is behind them is looked for.
    """
    await _warm(call, found)
    for _ in range(GAPS_MAX):
        if not found.cold or any(row.records or row.error_code for _, row in found.rows):
            break
        found = _gather(call, request, wanted)
        await _warm(call, found)
    return _answer(request, session, found)


async def _warm(call: Call, found: Gathered) -> None:
    for partition, row, slices in found.cold:
        records: list[Buffer] = []
        try:
            for piece in slices:
                records.append(piece.view() if piece.resident() else await call.services.read_cold(piece))
            row.records = records if any(len(data) for data in records) else b""
        except (Corrupt, StorageFailed) as why:
            _spoil(row, _code(call, partition.unreadable(why)))


def _spoil(row: PartitionData, code: ErrorCode) -> None:
    row.error_code, row.records = code, b""
    row.high_watermark = row.last_stable_offset = row.log_start_offset = -1


async def _wait_for_commit(
    call: Call,
    request: FetchRequest,
    session: Session | None,
    wanted: Iterable[Followed],
    enough: int,
    late: list[tuple[Partition, int]],
) -> FetchResponse:
    """Look again when what was acknowledged before this request is committed."""
    await until_committed(late)
    return await _wait(call, request, session, wanted, enough)


async def _wait(
    call: Call, request: FetchRequest, session: Session | None, wanted: Iterable[Followed], enough: int
) -> FetchResponse:
    """Park until enough became readable, something changed, or the time is up; then look again."""
    found: Gathered | None = None
    with trio.move_on_after(request.max_wait_ms / 1000):
        while True:
            found = _gather(call, request, wanted)
            if found.settled or found.counted_bytes >= enough:
                break
            read_committed = request.isolation_level == READ_COMMITTED
            watcher = Watcher(enough - found.counted_bytes, read_committed=read_committed)
            partitions = found.partitions
            found = None  # what was read pins maps
            for partition in partitions:
                partition.watchers.add(watcher)
            try:
                await watcher.event.wait()
            finally:
                for partition in partitions:
                    partition.watchers.discard(watcher)
    if found is None:
        found = _gather(call, request, wanted)
    if found.cold:
        return await _answer_cold(call, request, session, wanted, found)
    return _answer(request, session, found)
