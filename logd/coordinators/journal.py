"""Where a coordinator's records go: the seam between a machine's runtime and one partition of an internal topic.

Declares :class:`Journal`, which the runtime uses, its twin in memory for tests, and :class:`PartitionJournal`, the
adapter over a hosted partition. Records are pairs of bytes here; what they mean is for the machine to say.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Protocol

import msgspec
import trio

RecordBytes = tuple[bytes, bytes | None]
"""Key and value; no value is a tombstone."""

Producer = tuple[int, int]
"""(producer id, producer epoch) of a transaction."""


class Batch(msgspec.Struct, frozen=True):
    """What one batch of the log holds.

    :param base_offset: offset of the first record; `offsets` are those of each.
    :param producer: of a transactional batch, else None.
    :param committed: for the marker that ends a transaction: how; None for data.
    """

    offsets: Sequence[int]
    records: Sequence[RecordBytes]
    producer: Producer | None = None
    committed: bool | None = None


class Journal(Protocol):
    """One partition's log, as a coordinator sees it."""

    @property
    def start_offset(self) -> int: ...

    @property
    def end_offset(self) -> int: ...

    @property
    def high_watermark(self) -> int: ...

    def append(self, records: Sequence[RecordBytes], now_ms: int) -> int:
        """Write one batch; returns the next offset. All of it is written, or none.

        :raises Refused: the partition can't take it (not the leader, too large, ...).
        :raises StorageFailed: the disk can't.
        """
        ...

    async def wait_committed(self, offset: int) -> None:
        """Return when the high watermark has reached `offset`.

        :raises Refused: this node leads the partition no more.
        :raises StorageFailed: the partition went offline.
        """
        ...

    def read_all(self) -> AsyncIterator[Batch]:
        """All batches from the start up to the end as it was at the call."""
        ...


class MemoryJournal:
    """A journal in a list. Tests hold the high watermark back and let appends fail."""

    def __init__(self, batches: Sequence[Batch] = ()) -> None:
        self.batches = list(batches)
        self.start_offset = 0
        self.end_offset = max((batch.offsets[-1] + 1 for batch in self.batches), default=0)
        self.high_watermark = self.end_offset
        self.held = False
        self.failure: Exception | None = None
        self._moved = trio.Event()

    def append(self, records: Sequence[RecordBytes], now_ms: int) -> int:
        if self.failure is not None:
            raise self.failure
        base = self.end_offset
        self.end_offset += len(records)
        self.batches.append(Batch(range(base, self.end_offset), tuple(records)))
        if not self.held:
            self.commit()
        return self.end_offset

    def commit(self, up_to: int | None = None) -> None:
        """Move the high watermark, to the end unless told otherwise."""
        self.high_watermark = self.end_offset if up_to is None else up_to
        self._moved.set()
        self._moved = trio.Event()

    async def wait_committed(self, offset: int) -> None:
        while self.high_watermark < offset:
            await self._moved.wait()

    async def read_all(self) -> AsyncIterator[Batch]:
        for batch in tuple(self.batches):
            yield batch
