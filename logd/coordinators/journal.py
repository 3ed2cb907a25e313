"""Where a coordinator's records go: the seam between a machine's runtime and one partition of an internal topic.

Declares :class:`Journal`, which the runtime uses, its twin in memory for tests, and :class:`PartitionJournal`, the
adapter over a hosted partition. Records are pairs of bytes here; what they mean is for the machine to say.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import TYPE_CHECKING, Protocol

import msgspec
import trio

from logd import threads
from logd.errors import ErrorCode, Refused
from logd.wire.batches import BatchHeader, build_keyed_batch, read_headers, read_records

if TYPE_CHECKING:
    from logd.partitions.partition import Partition
    from logd.partitions.table import PartitionTable

RecordBytes = tuple[bytes, bytes | None]
"""Key and value; no value is a tombstone."""

Producer = tuple[int, int]
"""(producer id, producer epoch) of a transaction."""

READ_BYTES = 1 << 18
"""How much of the log is read at once while loading."""

BATCHES_AT_ONCE = 64
"""How many batches are read between two checkpoints of the loop: about a millisecond."""

RECORDS_BYTES_MAX = 1 << 27
"""What the records of one batch may be when decompressed."""

COMMIT_MARKER = 1
"""The type in a control record's key that ends a transaction well (KIP-98); 0 aborts it."""


class Batch(msgspec.Struct, frozen=True):
    """What one batch of the log holds.

    :param offsets: the offset of each record.
    :param records: empty for a marker.
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

    @property
    def leader_epoch(self) -> int:
        """Of this node's leadership: what a later leader writes can be told from what this one does."""
        ...

    @property
    def commits_at_once(self) -> bool:
        """Whether what is appended is committed when :meth:`append` returns, as all before it."""
        ...

    def append(self, records: Sequence[RecordBytes], now_ms: int, producer: Producer | None = None) -> int:
        """Write one batch; returns the next offset. All of it is written, or none.

        :param producer: of the transaction that the records belong to.
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
        self.leader_epoch = 0
        self.held = False
        self.failure: Exception | None = None
        self._moved = trio.Event()

    @property
    def commits_at_once(self) -> bool:
        return not self.held and self.high_watermark == self.end_offset

    def append(self, records: Sequence[RecordBytes], now_ms: int, producer: Producer | None = None) -> int:
        if self.failure is not None:
            raise self.failure
        base = self.end_offset
        self.end_offset += len(records)
        self.batches.append(Batch(range(base, self.end_offset), tuple(records), producer))
        if not self.held:
            self.commit()
        return self.end_offset

    def append_marker(self, producer: Producer, committed: bool) -> int:
        """Write the marker that ends a transaction; returns the next offset."""
        self.batches.append(Batch([self.end_offset], (), producer, committed))
        self.end_offset += 1
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


class PartitionJournal:
    """The journal over a partition that this node leads."""

    def __init__(self, partition: Partition) -> None:
        self._partition = partition

    @property
    def start_offset(self) -> int:
        return self._partition.log.start_offset

    @property
    def end_offset(self) -> int:
        return self._partition.log.end_offset

    @property
    def high_watermark(self) -> int:
        return self._partition.high_watermark

    @property
    def leader_epoch(self) -> int:
        return self._partition.leader_epoch

    @property
    def commits_at_once(self) -> bool:
        return not self._partition.durable

    def append(self, records: Sequence[RecordBytes], now_ms: int, producer: Producer | None = None) -> int:
        producer_id, epoch = producer or (-1, -1)
        batch = build_keyed_batch(
            records, now_ms, producer_id=producer_id, producer_epoch=epoch, transactional=producer is not None
        )
        limit = self._partition.config.max_message_bytes
        if len(batch) > limit:
            raise Refused(
                ErrorCode.MESSAGE_TOO_LARGE,
                f"the records are {len(batch)} bytes and one batch of {self._partition!r} may be {limit}",
            )
        return self._partition.append(batch, origin="coordinator").next_offset

    async def wait_committed(self, offset: int) -> None:
        await self._partition.committed.wait(offset)

    async def read_all(self) -> AsyncIterator[Batch]:
        position, end = self.start_offset, self.end_offset
        while position < end:
            slices = self._partition.read(position, bytes_max=READ_BYTES, end=end, at_least_one=True)
            if not slices:
                return
            for piece in slices:
                data = await threads.run(piece.load)
                for number, (at, header) in enumerate(read_headers(data)):
                    if number % BATCHES_AT_ONCE == 0:
                        await trio.lowlevel.checkpoint()
                    yield _batch(data, at, header)
                position = piece.next_offset


def partition_journals(table: PartitionTable, topic: str) -> Callable[[int], Journal | None]:
    """Finds the journal of a topic's partition by its index, None where this node has none, or it is offline."""

    def journal_of(index: int) -> Journal | None:
        partition = table.get(topic, index)
        return None if partition is None or partition.failure is not None else PartitionJournal(partition)

    return journal_of


def _batch(data: bytes, at: int, header: BatchHeader) -> Batch:
    records = read_records(data, at, bytes_max=RECORDS_BYTES_MAX)
    producer = (header.producer_id, header.producer_epoch) if header.is_transactional else None
    if header.is_control:
        types = [int.from_bytes(record.key[2:4], "big") for record in records if record.key is not None]
        return Batch([record.offset for record in records], (), producer, COMMIT_MARKER in types)
    offsets = [record.offset for record in records]
    return Batch(offsets, [(record.key or b"", record.value) for record in records], producer)
