"""Cutting the end of a log back, so that no crash brings back what was behind it.

``log`` calls this, as a follower must when its leader has another history. It moves the bounds of the log, its epochs,
producers and aborted transactions, and the files; which segments the log consists of afterwards it returns. Everything
waits for the disk.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING

from logd.log.restoring import restore_producers
from logd.log.segment import Segment

if TYPE_CHECKING:
    from logd.log.disk import Disk
    from logd.log.log import Log


def cut_back(log: Log, disk: Disk, offset: int) -> list[Segment]:
    """Make ``offset``, or the start of the batch that holds it, the end; the last segment returned is the active one.

    What is behind it is zeroed and flushed before the new end counts.

    :raises StorageFailed: the directory is to be recovered.
    """
    segments, checkpoints = log.segments, log.checkpoints
    at = max(0, bisect_right(segments, offset, key=_base) - 1)
    segment, earlier = segments[at], segments[:at]
    position = segment.locate(offset) if offset > segment.base_offset else 0
    end = segment.base_offset_at(position) if position < segment.size else segment.next_offset
    if end < log.start_offset:
        return [_start_over(log, disk)]
    point = min(checkpoints.state.recovery_point, end)
    log.high_watermark = min(log.high_watermark, end)
    log.flushed_offset = min(log.flushed_offset, end)
    log.cleaned_offset = min(log.cleaned_offset, end)
    log.epochs.truncate_end(end)
    checkpoints.forget_flushed()
    checkpoints.write(checkpoints.state_of(log, point=point, flushed=log.flushed_offset, has_snapshot=True))
    for later in segments[at + 1 :]:
        later.remove()
    for sealed in earlier:
        if not sealed.finished:
            sealed.write_sealed()  # or the new end would not be flushed
            sealed.finished = True
    segment.truncate(position, end)
    log.aborted.truncate(end)
    segment.write_aborted(log.aborted.part(segment.base_offset, end))
    checkpoints.forget_indexed()
    log.end_offset = log.flushed_offset = end
    checkpoints.remove_snapshots(end)
    left, committed = [*earlier, segment], log.high_watermark
    restore_producers(disk, log.path, log.producers, checkpoints.snapshots, left, end, committed=committed)
    return left


def _base(segment: Segment) -> int:
    return segment.base_offset


def _start_over(log: Log, disk: Disk) -> Segment:
    """Drop all batches; the log goes on, empty, at its start offset."""
    start, checkpoints = log.start_offset, log.checkpoints
    log.flushed_offset = log.high_watermark = log.end_offset = start
    log.epochs.truncate_end(start)
    log.aborted.truncate(start)
    checkpoints.forget_flushed()
    checkpoints.write(checkpoints.state_of(log, point=start, flushed=start, has_snapshot=False))
    for segment in log.segments:
        segment.remove()
    checkpoints.remove_snapshots(-1)
    checkpoints.forget_indexed()
    log.producers.clear()
    disk.sync_directory(log.path)
    return Segment(disk, log.path, start, log.segments[-1].changed_ms)
