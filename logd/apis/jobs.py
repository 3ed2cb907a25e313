"""RunJob (30004): retention or compaction now, by hand or from cron, and what it took.

Something that only logd has. ``logd-cli retention run`` and ``compaction run`` ask for it. Called through the registry.
"""

from __future__ import annotations

from logd.apis.registry import Call, api
from logd.errors import Refused
from logd.partitions.housekeeping import Done
from logd.wire.schemas.run_job import JobPartition, RunJobRequest, RunJobResponse

RUN_JOB = 30004


def _no_answer(request: RunJobRequest, version: int, refused: Refused) -> RunJobResponse:
    return RunJobResponse(0, int(refused.code), refused.message)


@api(RUN_JOB, refuse=_no_answer)
async def run_job(call: Call, request: RunJobRequest) -> RunJobResponse:
    """Version 0."""
    done = await call.services.housekeeping.run(request.job, request.topics, dry_run=request.dry_run)
    return RunJobResponse(partitions=[_told(one) for one in done])


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
