"""The leader epochs of a log: at which offset each began.

A log's owner, :class:`~logd.log.log.Log`, tells it of every epoch that appears in a batch or that a leader begins; a
follower's questions are answered from it (KIP-101, KIP-279). Epochs below the retained data cannot be read back from
the batches, so the list is kept in the partition's state file. It does no input or output of its own.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import Final, NamedTuple

UNKNOWN: Final = -1


class EpochEnd(NamedTuple):
    """The answer to "where does this epoch end?": the epoch that the answer is for and its exclusive end offset."""

    epoch: int
    end_offset: int


NO_END: Final = EpochEnd(UNKNOWN, UNKNOWN)


class Epochs:
    """A rising list of (epoch, offset at which it starts)."""

    __slots__ = ("entries", "latest")

    def __init__(self, entries: list[tuple[int, int]] | None = None) -> None:
        self.entries: list[tuple[int, int]] = entries if entries is not None else []
        self.latest = self.entries[-1][0] if self.entries else UNKNOWN

    def assign(self, epoch: int, start_offset: int) -> None:
        """Note that ``epoch`` starts at ``start_offset``; an epoch that is not newer than the latest is known."""
        if epoch <= self.latest:
            return
        while self.entries and self.entries[-1][1] >= start_offset:
            self.entries.pop()  # it never got a record
        self.entries.append((epoch, start_offset))
        self.latest = epoch

    def end_offset_for(self, epoch: int, end_offset: int) -> EpochEnd:
        """Say where ``epoch`` ends in a log whose end is ``end_offset`` (OffsetForLeaderEpoch, KIP-279).

        :return: for the latest epoch the log's end; for one between known ones the next lower known epoch and where
            it ends; :data:`NO_END` for one newer than all known or when nothing is known.
        """
        if epoch == UNKNOWN or epoch > self.latest or not self.entries:
            return NO_END
        if epoch == self.latest:
            return EpochEnd(epoch, end_offset)
        at = bisect_right(self.entries, (epoch, 2**63))
        start_of_next = self.entries[at][1]
        return EpochEnd(self.entries[at - 1][0] if at else epoch, start_of_next)

    def epoch_at(self, offset: int) -> int:
        """Return the epoch of the record at ``offset``, -1 when it is not known."""
        found = UNKNOWN
        for epoch, start in self.entries:
            if start > offset:
                break
            found = epoch
        return found

    def truncate_end(self, end_offset: int) -> None:
        """Forget epochs that start at or after ``end_offset``."""
        while self.entries and self.entries[-1][1] >= end_offset:
            self.entries.pop()
        self.latest = self.entries[-1][0] if self.entries else UNKNOWN

    def truncate_start(self, start_offset: int) -> None:
        """Forget epochs that end at or before ``start_offset``; the one in force there then starts there."""
        keep = 0
        while keep + 1 < len(self.entries) and self.entries[keep + 1][1] <= start_offset:
            keep += 1
        entries = self.entries[keep:]
        if entries and entries[0][1] < start_offset:
            entries[0] = (entries[0][0], start_offset)
        self.entries = entries  # another list: a worker thread may be looking through the old one
