"""Why (30002): what is the matter with a group, topic, connection or transaction, and what happened to it of late.

Something that only logd has. Events come from the chronicle that this node keeps; findings are made for the moment:
whom a group waits for, which partition stands still, on which offset, in whose hands, and what an open transaction
holds up. Called through the registry.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from typing import TYPE_CHECKING

from logd.apis.own_groups import measured
from logd.apis.registry import Call, Connection, api
from logd.apis.turns import breathe
from logd.chronicle import Event, Subject
from logd.coordinators.findings import NAMED_MAX, REPEATS, finding
from logd.errors import ErrorCode, Refused
from logd.log.producers import NO_OFFSET
from logd.wire.schemas.describe_transactions import (
    DescribeTransactionsRequest,
    DescribeTransactionsResponse,
    TransactionState,
)
from logd.wire.schemas.group_lag import LaggingGroup, LaggingPartition
from logd.wire.schemas.list_transactions import ListTransactionsRequest, ListTransactionsResponse
from logd.wire.schemas.why import EventFact, Finding, WhyEvent, WhyRequest, WhyResponse
from logd.wire.transactions import NAMES, State

if TYPE_CHECKING:
    from logd.coordinators.front import Waiter
    from logd.log.producers import Producer
    from logd.partitions.partition import Partition

WHY = 30002

EVENTS_MAX = 10_000
CONNECTIONS_MAX = 1_000
"""Open connections in one answer; the newest."""
CLIENT_TEXT_MAX = 200
"""Of what a client says of itself, in a sentence."""
LISTED_VERSION = 2
"""Of ListTransactions, which the coordinators are asked for."""
STILL_MS = 30_000
"""A partition with records to read whose committed offset did not move for so long stands still."""


def _no_answer(request: WhyRequest, version: int, refused: Refused) -> WhyResponse:
    return WhyResponse(0, int(refused.code), refused.message)


@api(WHY, refuse=_no_answer)
async def why(call: Call, request: WhyRequest) -> WhyResponse:
    """Version 0."""
    if request.subject_type not in Subject.__members__.values():
        raise Refused(
            ErrorCode.INVALID_REQUEST,
            f"subject type {request.subject_type} is unknown: 0 is anything, 1 a group, 2 a topic, 3 a connection, "
            "4 a transactional id",
        )
    subject = Subject(request.subject_type)
    chronicle = call.services.chronicle
    answer = WhyResponse(now_ms=call.services.clock.now_ms(), forgotten=chronicle.forgotten)
    if request.subject and subject is Subject.GROUP:
        answer.findings = [each async for each in _of_group(call, request.subject)]
    elif request.subject and subject is Subject.TOPIC:
        answer.findings = [each async for each in _of_topic(call, request.subject)]
    elif request.subject and subject is Subject.TRANSACTION:
        answer.findings = [each async for each in _of_transaction(call, request.subject)]
    count = min(request.events_max, EVENTS_MAX)
    events = chronicle.find(subject, request.subject, request.since_ms, count)
    if subject is Subject.CONNECTION:
        found = sorted(_connections(call, request.subject), key=lambda each: each.id)
        answer.findings = [_of_connection(each, answer.now_ms) for each in found[-CONNECTIONS_MAX:]]
        if len(found) > CONNECTIONS_MAX:
            answer.findings.append(finding("more", f"{len(found) - CONNECTIONS_MAX} older connections are open"))
        for each in found[-CONNECTIONS_MAX:]:
            if request.subject and each.peer != request.subject and len(events) < count:
                events += chronicle.find(subject, each.peer, request.since_ms, count - len(events))
    answer.events = [_told(event) for event in events]
    return answer


def _connections(call: Call, wanted: str) -> list[Connection]:
    """The open connections, or those with this address, client id or number."""
    present = call.services.connections()
    return [each for each in present if wanted in ("", each.peer, each.client_id, str(each.id))]


def _of_connection(one: Connection, now_ms: int) -> Finding:
    software = f" ({one.client_name} {one.client_version})" if one.client_name else ""
    who = f"client {one.client_id!r}{software}" if one.client_id else f"a client without id{software}"
    age_s = max(now_ms - one.opened_ms, 0) // 1000
    text = f"{one.peer} is open for {age_s} s on listener {one.listener}: {who[:CLIENT_TEXT_MAX]}, connection {one.id}"
    facts: dict[str, object] = {"peer": one.peer, "client": one.client_id, "number": one.id, "listener": one.listener}
    return finding("open", text, **facts, software=f"{one.client_name} {one.client_version}".strip(), open_s=age_s)


def _told(event: Event) -> WhyEvent:
    note = event.note
    text = note.text if event.times == 1 else f"{note.text} ({event.times} times)"
    facts = [EventFact(name, value) for name, value in note.facts]
    return WhyEvent(event.time_ms, note.subject, note.name, note.kind, text, facts)


async def _of_group(call: Call, group_id: str) -> AsyncIterator[Finding]:
    try:
        answer = await call.services.groups.ask(group_id, WhyRequest(Subject.GROUP, group_id)).wait()
        assert isinstance(answer, WhyResponse)
        group = await measured(call, group_id)
    except Refused as refused:
        yield finding("unknown", refused.message, error=refused.code.name)
        return
    repeats = {_fact(each, "partition"): each for each in answer.findings if each.kind == REPEATS}
    for each in answer.findings:
        if each.kind != REPEATS:
            yield each
    if group.error_code:
        yield finding("unknown", group.error_message or "", error=ErrorCode(group.error_code).name)
        return
    for each in _of_partitions(call, group, repeats):
        yield each


def _of_partitions(call: Call, group: LaggingGroup, repeats: Mapping[str, Finding]) -> Iterator[Finding]:
    now_ms = call.services.clock.now_ms()
    for topic in group.topics:
        for row in topic.partitions:
            name = f"{topic.name}-{row.partition_index}"
            repeat = repeats.get(name)
            stuck = None if repeat is None or row.lag <= 0 else of_repeat(name, row, repeat, now_ms)
            if stuck is not None:
                yield stuck
            else:
                yield from _of_partition(name, row, bool(group.member_count), now_ms)


def _fact(one: Finding, name: str) -> str:
    return next((fact.value for fact in one.facts if fact.name == name), "")


def of_repeat(name: str, row: LaggingPartition, repeat: Finding, now_ms: int) -> Finding | None:
    """A reader that commits and gets no further, once it has done so for long enough: not one that left meanwhile."""
    since_ms = int(_fact(repeat, "since_ms"))
    if row.committed_ms - since_ms < STILL_MS:
        return None
    still_s = (now_ms - since_ms) // 1000
    who = f"member {row.member_id} ({row.client_id} at {row.client_host.lstrip('/')})" if row.member_id else "somebody"
    times, at = _fact(repeat, "times"), row.committed_offset
    text = f"{name} has not moved for {still_s} s: {who} has committed offset {at} {times} times in that time"
    facts: dict[str, object] = {"partition": name, "offset": at, "member": row.member_id, "times": times}
    why = f"{text}; {row.lag} records remain: look at the record at {at}"
    return finding("stuck", why, **facts, lag=row.lag, still_s=still_s)


def _of_partition(name: str, row: LaggingPartition, has_members: bool, now_ms: int) -> Iterator[Finding]:
    who = f"member {row.member_id} ({row.client_id} at {row.client_host.lstrip('/')})" if row.member_id else "nobody"
    facts: dict[str, object] = {"partition": name, "offset": row.committed_offset, "member": row.member_id}
    if row.error_code:
        yield finding("unreadable", f"{name}: {row.error_message}", **facts, error=ErrorCode(row.error_code).name)
    elif row.committed_offset > row.end_offset:
        text = f"{name}: the committed offset {row.committed_offset} is beyond the log, which ends at {row.end_offset}"
        yield finding("beyond-end", f"{text}: auto.offset.reset decides where its reader starts", **facts)
    elif 0 <= row.committed_offset < row.start_offset:
        text = f"{name}: the committed offset {row.committed_offset} is gone, the log starts at {row.start_offset}"
        yield finding("before-start", f"{text}: auto.offset.reset decides where its reader starts", **facts)
    elif row.committed_offset < 0 and row.end_offset > row.start_offset:
        count = row.end_offset - row.start_offset
        yield finding("never-committed", f"{name}: {who} has it and has committed nothing of {count} records", **facts)
    elif row.lag > 0 and now_ms - row.committed_ms >= STILL_MS:
        still_s = (now_ms - row.committed_ms) // 1000
        text = f"{name} has not moved for {still_s} s: it stands at offset {row.committed_offset} and {who} has it"
        yield finding("still", f"{text}; {row.lag} records remain", **facts, lag=row.lag, still_s=still_s)
    elif row.lag > 0 and not row.member_id and has_members:
        yield finding("unassigned", f"{name}: {row.lag} records remain and no member has it", **facts, lag=row.lag)


async def _of_topic(call: Call, name: str) -> AsyncIterator[Finding]:
    topic = call.services.cluster.image.topics.get(name)
    if topic is None:
        yield finding("unknown", f"there is no topic {name!r} on this server")
        return
    held: list[tuple[Partition, Producer]] = []
    for state in topic.partitions:
        partition = call.services.partitions.get(name, state.index)
        if partition is None:
            continue
        if partition.failure is not None:
            yield finding("offline", f"{name}-{state.index}: {partition.failure.message}", partition=state.index)
        elif partition.last_stable_offset < partition.high_watermark:
            open_ones = [one for one in partition.log.producers if one.txn_first_offset != NO_OFFSET]
            held += [(partition, one) for one in sorted(open_ones, key=lambda one: one.txn_first_offset)[:1]]
    owners = await _owners(call, {one.producer_id for _, one in held}) if held else {}
    for partition, one in held:
        owner = None if owners is None else owners.get(one.producer_id, "")
        yield _of_holder(partition, one, owner, call.services.clock.now_ms())


async def _owners(call: Call, producer_ids: set[int]) -> Mapping[int, str] | None:
    """The transactional ids of those producers whose transactions are known; None where that can't be said now."""
    request = ListTransactionsRequest(producer_id_filters=sorted(producer_ids))
    found: dict[int, str] = {}
    try:
        waiters: list[Waiter] = call.services.transactions.ask_all(request, LISTED_VERSION)
        answers = [await waiter.wait() for waiter in waiters]
    except Refused:  # one of them is being loaded, or has just moved
        return None
    for answer in answers:
        assert isinstance(answer, ListTransactionsResponse)
        found |= {item.producer_id: item.transactional_id for item in answer.transaction_states}
    return found


def _of_holder(partition: Partition, one: Producer, owner: str | None, now_ms: int) -> Finding:
    """Whose open transaction hides the end of a partition from readers of committed records (KIP-98)."""
    behind = partition.high_watermark - partition.last_stable_offset
    silent_s = max(now_ms - one.last_timestamp, 0) // 1000
    who = f"the open transaction of producer {one.producer_id}"
    if owner:
        who = f"the open transaction of {owner!r} (producer {one.producer_id})"
    elif owner is not None:
        who += ", of which no coordinator knows (logd-cli transaction abort-hanging ends it)"
    text = f"{partition!r}: readers of committed records wait at offset {partition.last_stable_offset} for {who}"
    text += f", which has written nothing for {silent_s} s; {behind} records are hidden"
    facts: dict[str, object] = {"partition": repr(partition), "offset": partition.last_stable_offset, "hidden": behind}
    return finding("held", text, **facts, producer=one.producer_id, transaction=owner or "", silent_s=silent_s)


async def _of_transaction(call: Call, transactional_id: str) -> AsyncIterator[Finding]:
    try:
        question = DescribeTransactionsRequest([transactional_id])
        answer = await call.services.transactions.ask(transactional_id, question).wait()
    except Refused as refused:
        yield finding("unknown", refused.message, error=refused.code.name)
        return
    assert isinstance(answer, DescribeTransactionsResponse)
    (row,) = answer.transaction_states
    if row.error_code:
        yield finding("unknown", f"nobody has used the transactional id {transactional_id!r}, or not for long")
        return
    yield _of_state(row, call.services.clock.now_ms())
    places = [(topic.topic, index) for topic in row.topics for index in topic.partitions]
    for number, place in enumerate(places):
        await breathe(number)
        partition = call.services.partitions.get(*place)
        if partition is not None and partition.failure is not None:
            text = f"{partition!r} is offline, the transaction cannot end there: {partition.failure.message}"
            yield finding("offline", text, partition=repr(partition))
        elif partition is not None:
            one = partition.log.producers.get(row.producer_id)
            if one is not None and one.txn_first_offset == partition.last_stable_offset:
                yield _of_holder(partition, one, transactional_id, call.services.clock.now_ms())


def _of_state(row: TransactionState, now_ms: int) -> Finding:
    """How things stand, with the names of DescribeTransactions."""
    places = [f"{topic.topic}-{index}" for topic in row.topics for index in topic.partitions]
    more = f" and {len(places) - NAMED_MAX} more" if len(places) > NAMED_MAX else ""
    where = f"{', '.join(places[:NAMED_MAX])}{more}" if places else "no partition"
    producer = f"producer {row.producer_id} with epoch {row.producer_epoch}"
    open_s = max(now_ms - row.transaction_start_time_ms, 0) / 1000
    facts: dict[str, object] = {"state": row.transaction_state, "producer": row.producer_id}
    facts |= {"epoch": row.producer_epoch, "partitions": len(places)}
    if row.transaction_state == NAMES[State.ONGOING]:
        left_s = max(row.transaction_timeout_ms / 1000 - open_s, 0)
        text = f"{producer} has a transaction open for {open_s:.1f} s, with {where}; it is aborted in {left_s:.1f} s "
        return finding("open", f"{text}(transaction.timeout.ms {row.transaction_timeout_ms})", **facts)
    if row.transaction_state.startswith("Prepare"):
        end = "committed" if row.transaction_state == NAMES[State.PREPARE_COMMIT] else "aborted"
        text = f"the transaction of {producer} is being {end}: its markers are not yet written in all of {where}"
        return finding("ending", text, **facts)
    last = {
        NAMES[State.COMPLETE_COMMIT]: "; the last one was committed",
        NAMES[State.COMPLETE_ABORT]: "; the last one was aborted",
    }
    text = f"{producer} has no transaction open{last.get(row.transaction_state, '')}"
    return finding("idle", text, **facts)
