"""What only logd answers: live seek, lag in messages and seconds, why, retention and compaction on demand.

A part of :class:`logd.client.admin.Admin`. Against another server each call raises :class:`NotSupported`; ``offered``
tells before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial

import msgspec
import trio

from logd.client.calls import GROUP_LAG, RUN_JOB, SEEK_GROUP, WHY
from logd.client.errors import ClientError, check, refused
from logd.client.group_offsets import Commit
from logd.client.groups import Groups
from logd.client.metadata import TopicPartition
from logd.client.routing import Router
from logd.errors import Refused
from logd.wire.schemas import group_lag, seek_group, why
from logd.wire.schemas.run_job import JobPartition, RunJobRequest, RunJobResponse

JOB_WAIT_MS = 500
SUBJECTS = {"all": 0, "group": 1, "topic": 2, "connection": 3, "transaction": 4}


class Lagging(msgspec.Struct, frozen=True):
    """How far a group is behind in one partition; None where it is not known. `lag_ms` is the age of the record at
    the committed offset, 0 when there is none."""

    at: TopicPartition
    committed: int | None
    committed_at_ms: int | None
    start: int | None
    end: int | None
    lag: int | None
    lag_ms: int | None
    member: str
    client: str
    host: str


class GroupLag(msgspec.Struct, frozen=True):
    """How far a group is behind: `lag` is the sum over its partitions, `lag_ms` the longest."""

    group: str
    type: str
    state: str
    members: int
    lag: int | None
    lag_ms: int | None
    partitions: tuple[Lagging, ...]


class Sought(msgspec.Struct, frozen=True):
    """What a seek did, or would do: for each partition the offset before (None: none) and after."""

    type: str
    epoch: int
    members_fenced: int
    partitions: Mapping[TopicPartition, tuple[int | None, int]]


class Event(msgspec.Struct, frozen=True):
    """Something that happened, or (without a time) that is so now. `text` is a sentence, `kind` a stable word."""

    kind: str
    text: str
    facts: Mapping[str, str]
    time_ms: int | None = None
    subject_type: str = ""
    subject: str = ""


class Why(msgspec.Struct, frozen=True):
    """What is so now, what happened (oldest first), and how many events the server has forgotten."""

    now_ms: int
    findings: tuple[Event, ...]
    events: tuple[Event, ...]
    forgotten: int


class JobResult(msgspec.Struct, frozen=True):
    """What a job took from a partition, or would take: the offsets from `first_offset` on and before `next_offset`.

    Times are those of the oldest and newest record in it, -1 where not known. With `refused` nothing was done.
    """

    partition: str
    first_offset: int
    next_offset: int
    segments: int
    size_bytes: int
    bytes_after: int
    oldest_ms: int
    newest_ms: int
    refused: str | None = None


class JobProgress(msgspec.Struct, frozen=True):
    """How far a job is: `passed` of `total`, bytes for a compaction and partitions for retention; where it is."""

    job_id: int
    at: str
    passed: int
    total: int


class Own:
    """What logd offers beyond the Kafka protocol."""

    def __init__(self, router: Router, groups: Groups) -> None:
        self._router = router
        self._groups = groups

    async def offered(self) -> bool:
        """Whether the server is a logd that answers these."""
        return "logd.version" in (await self._router.connection()).features

    async def lag(self, groups: Iterable[str] | None = None) -> dict[str, GroupLag | Refused]:
        """The lag of these groups (None: of all), by name; :class:`Refused` in place of one that is not there."""
        names = None if groups is None else list(groups)
        metadata = await self._router.refresh([])
        found: dict[str, GroupLag | Refused] = {}
        for node in metadata.brokers:
            request = group_lag.GroupLagRequest(group_ids=names)
            answer = await self._router.ask(GROUP_LAG, request, group_lag.GroupLagResponse, node=node)
            check(answer.error_code, answer.error_message, "lag of groups")
            for item in answer.groups:
                if not item.error_code:
                    found[item.group_id] = _lag(item)
                elif not isinstance(found.get(item.group_id), GroupLag):
                    found[item.group_id] = refused(item.error_code, item.error_message, f"group {item.group_id!r}")
        return dict(sorted(found.items()))

    async def seek(
        self, group: str, offsets: Mapping[TopicPartition, Commit], *, validate_only: bool = False
    ) -> Sought:
        """Move a group's offsets, also while it has members: they are fenced and carry on from the new place.

        All or nothing. :raises Refused: a topic, a partition or an offset is wrong; the message names it.
        """
        topics: dict[str, seek_group.SeekGroupTopic] = {}
        for at, item in offsets.items():
            topic = topics.setdefault(at.topic, seek_group.SeekGroupTopic(name=at.topic))
            part = seek_group.SeekGroupPartition(at.partition, item.offset, item.leader_epoch, item.metadata or None)
            topic.partitions.append(part)
        request = seek_group.SeekGroupRequest(group_id=group, topics=list(topics.values()), validate_only=validate_only)

        async def attempt(node: int) -> Sought:
            answer = await self._router.ask(SEEK_GROUP, request, seek_group.SeekGroupResponse, node=node)
            return _sought(group, answer)

        return await self._groups.at_coordinator(group, attempt)

    async def why(self, subject_type: str, subject: str, *, events_max: int = 100, since_ms: int = -1) -> Why:
        """What the brokers know and remember of a group, a topic, a connection or a transaction.

        :param subject_type: one of :data:`SUBJECTS`.
        :param subject: a name, a transactional id, or of a connection the peer, the client id or the number; "": any.
        :param events_max: of what happened, the latest.
        :param since_ms: milliseconds since 1970, -1 for all that is remembered.
        """
        metadata = await self._router.refresh([])
        number = SUBJECTS[subject_type]
        found: list[Why] = []
        for node in metadata.brokers:
            request = why.WhyRequest(subject_type=number, subject=subject, events_max=events_max, since_ms=since_ms)
            answer = await self._router.ask(WHY, request, why.WhyResponse, node=node)
            check(answer.error_code, answer.error_message, f"{subject_type} {subject!r}")
            found.append(_why(answer))
        events = sorted((event for one in found for event in one.events), key=lambda event: event.time_ms or 0)
        return Why(
            max(one.now_ms for one in found),
            tuple(finding for one in found for finding in one.findings),
            tuple(events[-events_max:]),
            sum(one.forgotten for one in found),
        )

    async def run_job(
        self,
        job: str,
        topics: Sequence[str] | None,
        *,
        dry_run: bool = False,
        progressed: Callable[[JobProgress], None] | None = None,
    ) -> list[JobResult]:
        """Have every broker run retention or compaction now, over some topics (None: all); what each took.

        It takes as long as it takes: each request waits for half a second at most. When this is cancelled the broker
        is told to stop, which it does after the segment, or the partition, that it is at.

        :param progressed: called with every answer.
        :raises Refused: an unknown job or topic; the broker does not know the job any more, since it was restarted.
        """
        metadata = await self._router.refresh([])
        wait_ms = min(JOB_WAIT_MS, self._router.settings.request_timeout_ms // 2)
        request = RunJobRequest(job, None if topics is None else list(topics), dry_run, wait_ms=wait_ms)
        done: list[JobResult] = []
        for node in metadata.brokers:
            answer = await self._ask_job(self._router, request, node)
            try:
                while not answer.finished:
                    if progressed is not None:
                        progressed(JobProgress(answer.job_id, answer.at, answer.passed, answer.total))
                    again = RunJobRequest(job, job_id=answer.job_id, wait_ms=wait_ms)
                    answer = await self._router.retry(partial(self._ask_job, self._router, again, node))
            except (trio.Cancelled, KeyboardInterrupt):
                await self._stop_job(RunJobRequest(job, job_id=answer.job_id, stop=True), node)
                raise
            done += [_job_result(item) for item in answer.partitions]
        return done

    async def _ask_job(self, router: Router, request: RunJobRequest, node: int) -> RunJobResponse:
        answer = await router.ask(RUN_JOB, request, RunJobResponse, node=node)
        check(answer.error_code, answer.error_message, request.job)
        return answer

    async def _stop_job(self, request: RunJobRequest, node: int) -> None:
        with (
            trio.move_on_after(self._router.settings.connect_timeout_ms / 1000) as scope,
            suppress(ClientError, Refused),
        ):
            scope.shield = True
            async with self._router.last_word() as router:
                await router.refresh([])
                await self._ask_job(router, request, node)


def _job_result(item: JobPartition) -> JobResult:
    return JobResult(
        f"{item.topic}-{item.partition_index}",
        item.first_offset,
        item.next_offset,
        item.segments,
        item.bytes,
        item.bytes_after,
        item.oldest_ms,
        item.newest_ms,
        (item.error_message or f"error {item.error_code}") if item.error_code else None,
    )


def _known(number: int) -> int | None:
    return number if number >= 0 else None


def _lag(item: group_lag.LaggingGroup) -> GroupLag:
    partitions = [
        Lagging(
            TopicPartition(topic.name, part.partition_index),
            _known(part.committed_offset),
            _known(part.committed_ms),
            _known(part.start_offset),
            _known(part.end_offset),
            _known(part.lag),
            _known(part.lag_ms),
            part.member_id,
            part.client_id,
            part.client_host.removeprefix("/"),
        )
        for topic in item.topics
        for part in topic.partitions
    ]
    return GroupLag(
        item.group_id,
        item.group_type,
        item.state,
        item.member_count,
        _known(item.lag),
        _known(item.lag_ms),
        tuple(sorted(partitions, key=lambda one: one.at)),
    )


def _sought(group: str, answer: seek_group.SeekGroupResponse) -> Sought:
    parts = [
        (TopicPartition(topic.name, part.partition_index), part) for topic in answer.topics for part in topic.partitions
    ]
    for at, part in parts:
        if part.error_code not in (0, answer.error_code) or (part.error_code and part.error_message):
            check(part.error_code, part.error_message, f"offset of {at} in group {group!r}")
    check(answer.error_code, answer.error_message, f"group {group!r}")
    for at, part in parts:
        check(part.error_code, part.error_message, f"offset of {at} in group {group!r}")
    moved = {at: (_known(part.offset_before), part.offset) for at, part in parts}
    return Sought(answer.group_type, answer.epoch, answer.members_fenced, moved)


def _why(answer: why.WhyResponse) -> Why:
    kinds = {number: name for name, number in SUBJECTS.items()}
    findings = tuple(
        Event(item.kind, item.text, {fact.name: fact.value for fact in item.facts}) for item in answer.findings
    )
    events = tuple(
        Event(
            item.kind,
            item.text,
            {fact.name: fact.value for fact in item.facts},
            item.time_ms,
            kinds.get(item.subject_type, ""),
            item.subject,
        )
        for item in answer.events
    )
    return Why(answer.now_ms, findings, events, answer.forgotten)
