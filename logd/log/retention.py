"""Which segments a log may forget, and how their files go away.

The rules are Kafka's: whole segments from the oldest on, by ``retention.ms`` against a segment's largest timestamp (so
that a timestamp in the future keeps it), by ``retention.bytes`` of what is left, or because all of it is below the log
start offset; never beyond the high watermark. :class:`~logd.log.log.Log` takes the segments out; their files are
removed after ``file.delete.delay.ms`` and once the new log start offset is on disk, off the loop. When to look is
decided by ``jobs``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from logd.errors import Corrupt
from logd.log.admission import LogConfig
from logd.log.segment import Segment


class Doomed(NamedTuple):
    """A segment whose files are to be removed at a time."""

    segment: Segment
    due_ms: int


class Removal:
    """Segments whose files are to be removed, in a worker thread: unlinking a large file waits for the disk."""

    def __init__(self, segments: list[Segment]) -> None:
        self.segments = segments

    def run(self) -> None:
        """Remove the files.

        :raises StorageFailed: some are left; after the next start they are released again.
        """
        for segment in self.segments:
            segment.forget()
            segment.remove()


def expired(
    segments: Sequence[Segment], config: LogConfig, now_ms: int, high_watermark: int, start_offset: int
) -> list[Segment]:
    """Return the segments, oldest first, that may go; the last one only when it is not empty."""
    released = []
    spare_bytes = sum(segment.size for segment in segments) - config.retention_bytes
    for segment in segments:
        if segment.next_offset > high_watermark or (segment.size == 0 and segment is segments[-1]):
            break
        old = config.retention_ms >= 0 and now_ms - _newest(segment) > config.retention_ms
        spare = config.retention_bytes >= 0 and spare_bytes - segment.size >= 0
        below = segment.next_offset <= start_offset
        if not (old or spare or below):
            break
        spare_bytes -= segment.size
        released.append(segment)
    return released


def _newest(segment: Segment) -> int:
    try:
        newest_ms = segment.max_timestamp
    except Corrupt:  # nobody can tell any more
        newest_ms = -1
    return newest_ms if newest_ms >= 0 else segment.changed_ms
