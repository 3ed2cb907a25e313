"""What of one log has been written down: its state file, and the recovery points from which a crash is mended.

A :class:`Checkpoints` belongs to a :class:`~logd.log.log.Log`. It owns the last state that is on disk, the job that
writes the next, and the names of the producer snapshots; it turns what the log holds into values that a worker thread
writes. It decides nothing about when, and never looks at data.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final

from logd.errors import StorageFailed
from logd.log.aborted import TXN_INDEX_SUFFIX
from logd.log.flush import FlushJob, IndexTail, RecoveryPoint
from logd.log.index import OFFSET_ENTRY_BYTES, TIME_ENTRY_BYTES
from logd.log.restoring import SNAPSHOT_SUFFIX
from logd.log.segment import INDEX_SUFFIX, TIME_INDEX_SUFFIX
from logd.log.state import FLUSHED_NAME, STATE_NAME, State, pack_flushed, pack_state

if TYPE_CHECKING:
    from logd.log.disk import Disk
    from logd.log.log import Log
    from logd.log.segment import Segment

# A recovery point is made each time so much was written; its snapshot takes longer the more producers there are.
RECOVERY_POINT_BYTES: Final = 32 * 1024 * 1024
PRODUCER_POINT_BYTES: Final = 4096
SNAPSHOTS_KEPT: Final = 3


class Checkpoints:
    """The state of one log as it is on disk, and what makes the next."""

    __slots__ = (
        "_aborted_bytes",
        "_disk",
        "_indexed",
        "_noted",
        "_path",
        "job",
        "missed",
        "since_point_bytes",
        "snapshots",
        "state",
        "wanted",
    )

    def __init__(self, disk: Disk, path: str, state: State, snapshots: list[int]) -> None:
        self._disk = disk
        self._path = path
        self.state = state
        """As the file says."""
        self.job: FlushJob | None = None
        """Writes the file now."""
        self.snapshots = snapshots
        self.since_point_bytes = 0
        """What was appended since the last recovery point: about what a start after a crash has to read."""
        self.wanted = False
        """Whether the next flush is to make a recovery point, however little was appended."""
        self.missed = False
        """Whether the last one was due and found no room on the disk: it is wanted again before long."""
        self._indexed = (0, 0)  # entries of the active segment's two index files that are on disk
        self._aborted_bytes = 0  # and of its transaction index
        self._noted = 0

    def point_due(self, producers: int, *, sealed: bool) -> bool:
        """Whether the next flush is to make a recovery point: a segment was sealed, or enough was written."""
        due_bytes = max(RECOVERY_POINT_BYTES, producers * PRODUCER_POINT_BYTES)
        return self.job is None and (self.since_point_bytes >= due_bytes or sealed or self.wanted)

    def recovery_point(self, log: Log, active: Segment) -> RecoveryPoint:
        """What makes the end of the log, once it is flushed, a place to start recovery from."""
        offset = log.end_offset
        self.since_point_bytes, self.wanted = 0, False
        snapshot = None
        if len(log.producers):
            snapshot = log.producers.snapshot(offset)
            self.snapshots.append(offset)
        obsolete = tuple(self.snapshot_path(one) for one in self.snapshots[:-SNAPSHOTS_KEPT])
        self.snapshots = self.snapshots[-SNAPSHOTS_KEPT:]
        entries, times = self._indexed
        tails: tuple[IndexTail, ...] = (
            IndexTail(active.path + INDEX_SUFFIX, entries * OFFSET_ENTRY_BYTES, active.index.offset_bytes(entries)),
            IndexTail(active.path + TIME_INDEX_SUFFIX, times * TIME_ENTRY_BYTES, active.index.time_bytes(times)),
        )
        self._indexed = (len(active.index.offsets), len(active.index.times))
        aborted = log.aborted.part(active.base_offset, offset)
        if len(aborted) > self._aborted_bytes:
            tail = aborted[self._aborted_bytes :]
            tails = (*tails, IndexTail(active.path + TXN_INDEX_SUFFIX, self._aborted_bytes, tail, sync=True))
            self._aborted_bytes = len(aborted)
        return RecoveryPoint(self.snapshot_path(offset), snapshot, obsolete, tails)

    def forget_indexed(self) -> None:
        """What the active segment's index files hold is not known: the next recovery point writes them whole."""
        self._indexed = (0, 0)
        self._aborted_bytes = 0

    def state_of(
        self,
        log: Log,
        *,
        point: int,
        flushed: int,
        has_snapshot: bool,
        clean_end: int = -1,
        clean_bytes: int = 0,
    ) -> State:
        """The state as it is to be written."""
        return State(
            log.start_offset,
            point,
            flushed,
            log.high_watermark,
            clean_end,
            clean_bytes,
            has_snapshot,
            tuple(log.epochs.entries),
            log.aborted.sum(log.start_offset, clean_end if clean_end >= 0 else point),
        )

    def state_job(self, log: Log) -> FlushJob | None:
        """A job that writes the state of a log as far as it is flushed; None when the file says it, or soon will."""
        flushed, written = log.flushed_offset, self.state
        point = min(written.recovery_point, flushed)
        state = self.state_of(log, point=point, flushed=flushed, has_snapshot=written.has_snapshot)
        if self.job is not None or state == written:
            return None
        self.job = FlushJob(
            self._disk,
            self._path,
            log.fail,
            next_offset=flushed,
            files=[],
            sealed=[],
            sync_directory=False,
            state=state,
            sync_state=state.start_offset != written.start_offset,
        )
        return self.job

    def write_closed(self, log: Log, active_bytes: int) -> None:
        """Write producers and state of a log whose segments are all finished, so that it opens without being read.

        Waits for the disk.

        :raises StorageFailed: the log is recovered when it is opened.
        """
        end, known = log.end_offset, len(log.producers) > 0
        if known:
            self._disk.replace(self.snapshot_path(end), log.producers.snapshot(end), sync=True)
        state = self.state_of(log, point=end, flushed=end, has_snapshot=known, clean_end=end, clean_bytes=active_bytes)
        if state != self.state:
            self.write(state)

    def write(self, state: State) -> None:
        """Write the state file now; waits for the disk.

        :raises StorageFailed: the old one stays.
        """
        self._disk.replace(f"{self._path}/{STATE_NAME}", pack_state(state), sync=True)
        self._disk.sync_directory(self._path)
        self.state = state

    def note_flushed(self, offset: int) -> None:
        """Write down how far the log is flushed, where the state file is behind; waits for nothing.

        A crash of the process leaves it as it is, so that damage below it is not taken for a torn end. When it cannot
        be written, less is known, and that is all.
        """
        if offset > max(self._noted, self.state.flushed_offset):
            with contextlib.suppress(StorageFailed):
                file = self._disk.open(f"{self._path}/{FLUSHED_NAME}", create=True)
                self._disk.write(file, pack_flushed(offset), 0)
            self._noted = offset

    def forget_flushed(self) -> None:
        """Take the note away before the log gets shorter; it counts with the next :meth:`write`."""
        self._disk.remove(f"{self._path}/{FLUSHED_NAME}")
        self._noted = 0

    def written(self, job: FlushJob) -> None:
        """Take note that a job has run."""
        if job is not self.job:
            return
        self.job = None
        if job.state is not None:
            self.state = job.state
        else:
            self.forget_indexed()
        if job.makes_point:
            self.missed = job.state is None

    def remove_snapshots(self, end: int) -> None:
        """Remove the snapshots above an offset."""
        for stale in (one for one in self.snapshots if one > end):
            self._disk.remove(self.snapshot_path(stale))
        self.snapshots = [one for one in self.snapshots if one <= end]

    def snapshot_path(self, offset: int) -> str:
        """The file of the producer state at an offset."""
        return f"{self._path}/{offset:020d}{SNAPSHOT_SUFFIX}"
