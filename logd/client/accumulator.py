"""Records on their way to the server, gathered into batches, one queue for each partition.

A plain synchronous object that takes the time as an argument. A partition has at most one batch under way, so that
order holds and a retry is never overtaken. Owned by the producer; sends nothing itself.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

import trio

from logd.client.metadata import TopicPartition
from logd.wire.batches import Record

Header = tuple[str, bytes | None]

RECORD_OVERHEAD_BYTES = 24
"""A rough figure for lengths, deltas and the attributes of one record; only decides when a batch is full."""


class Acknowledged(NamedTuple):
    """Where a record is now; `offset` is -1 when the server was not asked to tell (acks 0)."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int


class Batch:
    """Records of one partition that travel together.

    `producer` is (producer id, epoch, first sequence), set before the first try and kept for every other.
    """

    __slots__ = (
        "append_time_ms",
        "at",
        "base_offset",
        "deadline_s",
        "deliveries",
        "done",
        "due_s",
        "error",
        "producer",
        "records",
        "size_bytes",
        "tries",
    )

    def __init__(self, at: TopicPartition, due_s: float, deadline_s: float) -> None:
        self.at = at
        self.due_s = due_s
        self.deadline_s = deadline_s
        self.records: list[Record] = []
        self.deliveries: list[Delivery] = []
        self.size_bytes = 0
        self.producer: tuple[int, int, int] | None = None
        self.tries = 0
        self.done = trio.Event()
        self.error: Exception | None = None
        self.base_offset = -1
        self.append_time_ms = -1

    def add(self, record: Record, size_bytes: int) -> Delivery:
        delivery = Delivery(self, len(self.records))
        self.records.append(record)
        self.deliveries.append(delivery)
        self.size_bytes += size_bytes
        return delivery

    def succeed(self, base_offset: int, append_time_ms: int) -> None:
        self.base_offset = base_offset
        self.append_time_ms = append_time_ms
        self.done.set()

    def fail(self, error: Exception) -> None:
        self.error = error
        self.done.set()

    def halves(self) -> tuple[Batch, Batch]:
        """Two batches in its place, for a server that finds it too large; they have no sequence yet."""
        middle = len(self.records) // 2
        first, second = (Batch(self.at, self.due_s, self.deadline_s) for _ in range(2))
        for half, start, end in ((first, 0, middle), (second, middle, len(self.records))):
            half.records = [
                Record(index, record.timestamp, record.key, record.value, record.headers)
                for index, record in enumerate(self.records[start:end])
            ]
            half.deliveries = self.deliveries[start:end]
            half.size_bytes = sum(map(record_bytes, half.records))
            for index, delivery in enumerate(half.deliveries):
                delivery.batch, delivery.index = half, index
        self.done.set()
        return first, second


class Delivery:
    """One record that was accepted; :meth:`wait` tells where it went."""

    __slots__ = ("batch", "index")

    def __init__(self, batch: Batch, index: int) -> None:
        self.batch = batch
        self.index = index

    @property
    def done(self) -> bool:
        """Whether the outcome is known."""
        return self.batch.done.is_set()

    async def wait(self) -> Acknowledged:
        """Wait for the server's answer.

        :raises Refused: the server does not take the record. :raises ClientError: it could not be asked in time.
        """
        while True:
            batch = self.batch
            await batch.done.wait()
            if batch is self.batch:
                return self.outcome()

    def outcome(self) -> Acknowledged:
        """What :meth:`wait` returns or raises, for a delivery that is done."""
        batch = self.batch
        assert batch.done.is_set()
        if batch.error is not None:
            raise batch.error
        timestamp_ms = batch.append_time_ms if batch.append_time_ms >= 0 else batch.records[self.index].timestamp
        offset = batch.base_offset + self.index if batch.base_offset >= 0 else -1
        return Acknowledged(batch.at.topic, batch.at.partition, offset, timestamp_ms)


def record_bytes(record: Record) -> int:
    """About what the record takes in a batch."""
    size = RECORD_OVERHEAD_BYTES + len(record.key or b"") + len(record.value or b"")
    for name, value in record.headers:
        size += 2 + len(name) + len(value or b"")
    return size


class Accumulator:
    """The queues. `pending_bytes` counts everything accepted and not finished."""

    def __init__(self, batch_bytes: int, linger_s: float, timeout_s: float) -> None:
        self.pending_bytes = 0
        self.flushing = 0
        self._batch_bytes = batch_bytes
        self._linger_s = linger_s
        self._timeout_s = timeout_s
        self._queues: dict[TopicPartition, deque[Batch]] = {}
        self._under_way: dict[TopicPartition, Batch] = {}

    @property
    def is_empty(self) -> bool:
        """Nothing waits and nothing is under way."""
        return not self._queues and not self._under_way

    def append(
        self,
        at: TopicPartition,
        timestamp_ms: int,
        key: bytes | None,
        value: bytes | None,
        headers: list[Header],
        now_s: float,
    ) -> Delivery:
        """Take a record into the newest batch of its partition, or into a new one."""
        record = Record(0, timestamp_ms, key, value, headers)
        size = record_bytes(record)
        queue = self._queues.setdefault(at, deque())
        batch = queue[-1] if queue else None
        if batch is None or batch.tries or batch.producer or batch.size_bytes + size > self._batch_bytes:
            batch = Batch(at, now_s + self._linger_s, now_s + self._timeout_s)
            queue.append(batch)
        record.offset = len(batch.records)
        self.pending_bytes += size
        return batch.add(record, size)

    def take(self, now_s: float) -> list[Batch]:
        """The batches that are to be sent now, oldest of each partition first; their partitions count as under way."""
        taken = []
        for at, queue in list(self._queues.items()):
            if at in self._under_way or not self._is_due(queue, now_s):
                continue
            self._under_way[at] = queue.popleft()
            taken.append(self._under_way[at])
            if not queue:
                del self._queues[at]
        return taken

    def _is_due(self, queue: deque[Batch], now_s: float) -> bool:
        first = queue[0]
        full = len(queue) > 1 or first.size_bytes >= self._batch_bytes
        return full or self.flushing > 0 or first.due_s <= now_s

    def next_due_s(self) -> float:
        """When :meth:`take` will find something although nothing was added; infinity for never."""
        waiting = (queue[0].due_s for at, queue in self._queues.items() if at not in self._under_way)
        return min(waiting, default=float("inf"))

    def put_back(self, *batches: Batch) -> None:
        """A batch that is to be tried again (or its two halves) goes to the front of its queue."""
        at = batches[0].at
        self._queues.setdefault(at, deque()).extendleft(reversed(batches))
        self._under_way.pop(at, None)

    def finished(self, batch: Batch) -> None:
        """The outcome of a batch is known: its partition may send the next one."""
        if self._under_way.get(batch.at) is batch:
            self.pending_bytes -= batch.size_bytes
            del self._under_way[batch.at]

    def drop_waiting(self) -> list[Batch]:
        """Everything that is not under way, given up."""
        dropped = [batch for queue in self._queues.values() for batch in queue]
        self._queues.clear()
        self.pending_bytes -= sum(batch.size_bytes for batch in dropped)
        return dropped

    def drop_all(self) -> list[Batch]:
        """Everything that is not finished, given up."""
        dropped = [*self._under_way.values(), *(batch for queue in self._queues.values() for batch in queue)]
        self._queues.clear()
        self._under_way.clear()
        self.pending_bytes -= sum(batch.size_bytes for batch in dropped)
        return dropped
