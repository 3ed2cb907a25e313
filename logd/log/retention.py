"""Which segments a log may forget, and how their files go away.

The rules are Kafka's: whole segments from the oldest on, by ``retention.ms`` against a segment's largest timestamp (so
that a timestamp in the future keeps it), by ``retention.bytes`` of what is left, or because all of it is below the log
start offset; never beyond the high watermark. :class:`~logd.log.log.Log` takes the segments out; their files are
renamed at once and removed after ``file.delete.delay.ms``, off the loop. When to look is decided by ``jobs``.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from logd.errors import StorageFailed
from logd.log.admission import LogConfig
from logd.log.disk import Disk
from logd.log.segment import Segment

DELETED_SUFFIX: Final = ".deleted"


class Doomed(NamedTuple):
    """A file that is to be removed at a time."""

    path: str
    due_ms: int


class Removal:
    """Files to be removed, in a worker thread: unlinking a large file waits for the disk."""

    def __init__(self, disk: Disk, paths: list[str]) -> None:
        self._disk = disk
        self.paths = paths

    def run(self) -> None:
        """Remove them.

        :raises StorageFailed: some are left; the next start removes them.
        """
        for path in self.paths:
            self._disk.remove(path)


def expired(
    segments: list[Segment], config: LogConfig, now_ms: int, high_watermark: int, start_offset: int
) -> list[Segment]:
    """Return the segments, oldest first, that may go; the last one only when it is not empty."""
    released = []
    spare_bytes = sum(segment.size for segment in segments) - config.retention_bytes
    for segment in segments:
        if segment.next_offset > high_watermark or segment.size == 0:
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
    return segment.max_timestamp if segment.max_timestamp >= 0 else segment.changed_ms


def put_aside(disk: Disk, segments: list[Segment], due_ms: int) -> list[Doomed]:
    """Rename the files of segments that are in the log no more; a reader that has one open keeps it.

    :raises StorageFailed: the disk refused.
    """
    doomed = []
    for segment in segments:
        for path in segment.paths():
            if _rename(disk, path):
                doomed.append(Doomed(path + DELETED_SUFFIX, due_ms))
    return doomed


def _rename(disk: Disk, path: str) -> bool:
    try:
        disk.rename(path, path + DELETED_SUFFIX)
    except StorageFailed as failure:
        if isinstance(failure.cause, FileNotFoundError):
            return False
        raise
    return True
