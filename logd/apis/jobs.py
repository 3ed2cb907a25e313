"""RunJob (30004): retention or compaction now, by hand or from cron: begin one, ask how far it is, stop it.

Something that only logd has. ``logd-cli retention run`` and ``compaction run`` ask for it. A request waits a second at
most: whoever began a job asks again with its number, and it goes on when nobody does. Called through the registry.
"""

from __future__ import annotations

from typing import Final

import trio

from logd.apis.registry import Call, api
from logd.errors import Refused
from logd.partitions.housekeeping import Done
from logd.wire.schemas.run_job import JobPartition, RunJobRequest, RunJobResponse

RUN_JOB = 30004
WAIT_MS_MAX: Final = 1000
"""A node that stops waits for the answers that it owes."""


def _no_answer(request: RunJobRequest, version: int, refused: Refused) -> RunJobResponse:
    return RunJobResponse(0, int(refused.code), refused.message)


@api(RUN_JOB, refuse=_no_answer)
async def run_job(call: Call, request: RunJobRequest) -> RunJobResponse:
    """Version 0. Without a job id a job is begun; what it has done is told when it has ended."""
    runs = call.services.runs
    number = request.job_id
    if number < 0:
        number = runs.begin(request.job, request.topics, dry_run=request.dry_run)
    run = runs.find(number)
    if request.stop:
        run.stop()
    with trio.move_on_after(max(0, min(request.wait_ms, WAIT_MS_MAX)) / 1000):
        await run.ended.wait()
    if run.failure is not None:
        raise run.failure
    ended = run.ended.is_set()
    return RunJobResponse(
        job_id=number,
        finished=ended,
        at=repr(run.at) if run.at is not None else "",
        passed=runs.passed(run),
        total=run.total,
        partitions=[_told(one) for one in run.done] if ended else [],
    )


def _told(one: Done) -> JobPartition:
    code, message = (int(one.refused.code), one.refused.message) if one.refused is not None else (0, None)
    return JobPartition(
        one.topic,
        one.index,
        code,
        message,
        one.first_offset,
        one.next_offset,
        one.segments,
        one.size_bytes,
        one.bytes_after,
        one.oldest_ms,
        one.newest_ms,
    )
