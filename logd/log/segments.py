"""The segments of one log, in order: which of them holds an offset, when the next one begins, and which are kept open.

A :class:`Segments` is never empty; its last is the active one, which is appended to, and all others are sealed. Owned
by :class:`~logd.log.log.Log`, which decides what comes and goes. Few sealed ones are open at a time: those that were
read last.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, overload

from logd.log.admission import LogConfig
from logd.log.batch_file import RELATIVE_OFFSET_MAX
from logd.log.index import OFFSET_ENTRY_BYTES, TIME_ENTRY_BYTES
from logd.log.segment import Segment

SEALED_OPEN_MAX: Final = 4


class Segments(Sequence[Segment]):
    """The segments of one log, from the oldest on."""

    __slots__ = ("_bases", "_opened", "_segments")

    def __init__(self, segments: list[Segment]) -> None:
        assert segments
        self._segments = segments
        self._bases = [segment.base_offset for segment in segments]
        self._opened: list[Segment] = []  # sealed ones that were read, the latest last

    def __len__(self) -> int:
        return len(self._segments)

    def __iter__(self) -> Iterator[Segment]:
        return iter(self._segments)

    def __contains__(self, segment: object) -> bool:
        return segment in self._segments

    @overload
    def __getitem__(self, at: int) -> Segment: ...
    @overload
    def __getitem__(self, at: slice) -> list[Segment]: ...
    def __getitem__(self, at: int | slice) -> Segment | list[Segment]:
        return self._segments[at]

    # By offset

    def holding(self, offset: int) -> Segment:
        """Return the segment that holds an offset of the log; for the log's end the active one."""
        return self._segments[bisect_right(self._bases, offset) - 1]

    def after(self, segment: Segment) -> Segment | None:
        """Return the segment behind another."""
        at = bisect_right(self._bases, segment.base_offset)
        return self._segments[at] if at < len(self._segments) else None

    def lie_apart(self, offset: int, end: int) -> bool:
        """Say whether a later segment than that of ``offset`` holds ``end``."""
        return bisect_right(self._bases, offset) < bisect_right(self._bases, end)

    # Coming and going

    def add(self, segment: Segment) -> None:
        """Put a new active segment behind the others."""
        self._segments.append(segment)
        self._bases.append(segment.base_offset)

    def drop(self, oldest: list[Segment]) -> None:
        """Take the oldest segments out; the active one stays."""
        count = len(oldest)
        assert oldest == self._segments[:count]
        assert count < len(self._segments)
        del self._segments[:count], self._bases[:count]

    def has_run(self, run: list[Segment]) -> bool:
        """Say whether these segments are here, one behind the other."""
        at = bisect_right(self._bases, run[0].base_offset) - 1
        return at >= 0 and self._segments[at : at + len(run)] == run

    def replace(self, run: list[Segment], new: Segment) -> None:
        """Put one segment in place of several that are here, one behind the other."""
        assert self.has_run(run)
        at = bisect_right(self._bases, run[0].base_offset) - 1
        self._segments[at : at + len(run)] = [new]
        self._bases[at : at + len(run)] = [new.base_offset]
        self._opened = [one for one in self._opened if one not in run]

    # Open ones

    def touch(self, segment: Segment) -> None:
        """Keep a sealed segment open that is being read, and let go of the one that was not read for longest."""
        segment.touched = True
        opened = self._opened
        if segment in opened:
            if opened[-1] is not segment:
                opened.remove(segment)
                opened.append(segment)
            return
        opened.append(segment)
        if len(opened) > SEALED_OPEN_MAX:
            opened.pop(0).release()

    def release_unused(self) -> None:
        """Close and unmap sealed segments that nobody has read since the last call; called now and then."""
        before, self._opened = self._opened, [segment for segment in self._opened if segment.touched]
        for segment in self._opened:
            segment.touched = False
        self.let_go((*before, *self._segments[:-1]))  # of those before some may be deleted

    def let_go(self, segments: Iterable[Segment]) -> None:
        """Close segments that a look at their times has opened, but for the few whose batches were read last."""
        for segment in segments:
            if segment not in self._opened:
                segment.release()


def must_roll(segment: Segment, config: LogConfig, last_offset: int, max_timestamp: int, now_ms: int) -> bool:
    """Say whether an active segment that is not empty must end before a batch, for any reason but its size.

    As in Kafka: its indexes are full, offsets would no longer fit them, or ``segment.ms`` has passed: from its first
    batch's largest timestamp to this one's, or, where one of them has none (-1), since it was made.
    """
    index = segment.index
    if (
        last_offset - segment.base_offset > RELATIVE_OFFSET_MAX
        or len(index.offsets) * OFFSET_ENTRY_BYTES >= config.segment_index_bytes
        or len(index.times) * TIME_ENTRY_BYTES >= config.segment_index_bytes
    ):
        return True
    first = segment.first_timestamp
    if first is None:
        first = segment.find_first_timestamp()
    if first < 0 or max_timestamp < 0:
        return now_ms - segment.created_ms > config.segment_ms
    return max_timestamp - first > config.segment_ms
