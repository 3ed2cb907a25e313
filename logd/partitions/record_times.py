"""When the record at an offset was written: what lag in seconds is made of.

Reads the one batch that holds it in a worker thread and remembers what it found, since a record never changes: a
screen that asks for the lag of a group every second reads nothing while the group stands still. The group APIs ask it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from functools import partial

from logd.errors import Corrupt, DecodeError, StorageFailed
from logd.log.slices import Slice
from logd.partitions.partition import Partition
from logd.wire.batches import DELETE_HORIZON, BatchHeader, read_headers, read_records

REMEMBERED_MAX = 4096
"""About half a megabyte."""

PARSED_RECORDS_MAX = 5_000
"""A batch of more records is not opened for one of them: its time is then taken between its first and its last."""

RECORDS_BYTES_MAX = 64 << 20

EMPTY_BATCHES_MAX = 16
"""So many batches without a record are passed over, as compaction leaves the last one of each producer."""

Read = Callable[[Callable[[], int]], Awaitable[int]]
"""Runs a function in a worker thread, few at a time."""


class RecordTimes:
    """Milliseconds since the epoch by (topic id, partition, offset), the last ones asked for."""

    def __init__(self, read: Read) -> None:
        self._read = read
        self._known: OrderedDict[tuple[bytes, int, int], int] = OrderedDict()

    async def at(self, partition: Partition, offset: int) -> int:
        """The timestamp of the first record at or after `offset`; -1 when there is none.

        :raises Refused: KAFKA_STORAGE_ERROR.
        """
        key = partition.topic_id, partition.index, offset
        known = self._known.get(key)
        if known is not None:
            self._known.move_to_end(key)
            return known
        found, place = -1, offset
        for _ in range(EMPTY_BATCHES_MAX):
            slices = partition.read(place, bytes_max=1, end=partition.high_watermark, at_least_one=True)
            if not slices:
                return -1
            piece = slices[0]
            try:
                found = await self._read(partial(_time_in, piece, offset))
            except (Corrupt, StorageFailed, DecodeError) as why:
                if isinstance(why, DecodeError):
                    return -1
                raise partition.unreadable(why) from why
            if found >= 0 or piece.next_offset <= place:
                break
            place = piece.next_offset  # compaction has left nothing of that batch, or nothing from the offset on
        if found >= 0:
            self._known[key] = found
            if len(self._known) > REMEMBERED_MAX:
                self._known.popitem(last=False)
        return found


def _time_in(piece: Slice, offset: int) -> int:
    """Reads the disk: for a worker thread."""
    data = piece.load()
    for at, header in read_headers(data):
        if header.last_offset < offset or not header.count:
            continue
        if header.log_append_time or header.base_timestamp == header.max_timestamp:
            return header.max_timestamp
        whole = header.count == header.last_offset_delta + 1 and not header.attributes & DELETE_HORIZON
        if whole and offset <= header.base_offset:
            return header.base_timestamp
        if header.count > PARSED_RECORDS_MAX:
            return _between(header, offset) if whole else header.max_timestamp
        records = read_records(data, at, bytes_max=RECORDS_BYTES_MAX)
        found = next((record.timestamp for record in records if record.offset >= offset), None)
        if found is not None:
            return found
    return -1


def _between(header: BatchHeader, offset: int) -> int:
    share = (offset - header.base_offset) / max(header.last_offset - header.base_offset, 1)
    return header.base_timestamp + int((header.max_timestamp - header.base_timestamp) * share)
