"""The computing part of compaction: find the last offset of each key, write segments anew without the rest.

A :class:`Cleaner` works on sealed files only, for one run over one log: :meth:`Cleaner.survey` reads the dirty part
and fills the key map, then :meth:`Cleaner.rewrite` is called for each group of neighbouring segments, from the start
of the log on, and leaves ``*.cleaned.*`` files beside them. It runs in a worker process (``jobs.worker``), never on
the event loop, and changes no file that the log uses; ``swap`` puts the new ones in place. The rules are Kafka's
(KIP-58, KIP-98, KIP-354, KIP-534).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Final, NamedTuple

import msgspec
import numpy as np

from logd.errors import Corrupt, DecodeError, StorageFailed
from logd.log.disk import Disk, File
from logd.log.keymap import SPAN_MAX, KeyMap, digests, slots_for
from logd.log.rewriting import Columns, columns_of, delete_horizon_ms, emptied, without
from logd.log.segment import LOG_SUFFIX, Segment
from logd.log.swap import cleaned_path
from logd.wire.batches import HEADER_BYTES, RECORDS_BYTES_MAX, BatchHeader, check_crc, read_header
from logd.wire.checksum import crc32c
from logd.wire.compression import decompress

CHUNK_BYTES: Final = 4 * 1024 * 1024
PUT_KEYS: Final = 16 * 1024
"""Keys are put into the map so many at a time."""
ABORT_MARKER: Final = 0


class Piece(msgspec.Struct, frozen=True):
    """A sealed segment of the log that is cleaned."""

    base_offset: int
    next_offset: int
    size: int


class LastBatch(msgspec.Struct, frozen=True):
    """What must stay of a producer, so that its sequences can be known from the log. ``last_offset`` -1: a marker."""

    epoch: int
    last_offset: int


class Task(msgspec.Struct, frozen=True):
    """One run over one log.

    :param pieces: the sealed segments from the start of the log on, up to ``end_offset`` or beyond.
    :param first_dirty: what is below has been cleaned before.
    :param end_offset: what is from here on must stay as it is.
    """

    directory: str
    pieces: tuple[Piece, ...]
    first_dirty: int
    end_offset: int
    now_ms: int
    delete_retention_ms: int
    index_interval_bytes: int
    map_bytes: int
    load_factor: float
    producers: dict[int, LastBatch]


class Surveyed(msgspec.Struct, frozen=True):
    """What the dirty part holds; the run will clean up to ``end_offset``, lower than asked when the map was full."""

    end_offset: int
    keys: int
    map_bytes: int


class Rewritten(msgspec.Struct, frozen=True):
    """A group of segments that was written anew, with its checksum, and what became of its records."""

    base_offset: int
    next_offset: int
    size: int
    crc: int
    bytes_before: int
    records_before: int
    records_after: int


class MapTooSmall(Exception):
    """The memory for keys does not even hold those of one batch."""


class Batch(NamedTuple):
    """A batch of a chunk that was read: its header, its bytes, and where it stands in the file."""

    header: BatchHeader
    data: memoryview
    position: int


class Opened(NamedTuple):
    """A batch with its records found. ``body`` is empty where they need not be looked at."""

    batch: Batch
    body: bytes
    columns: Columns | None


class Cleaner:
    """One run of compaction over one log."""

    def __init__(self, disk: Disk, task: Task, salt: bytes) -> None:
        self._disk = disk
        self._task = task
        self._salt = salt
        self._end_offset = min(task.end_offset, task.first_dirty + SPAN_MAX)
        self._map = KeyMap(1, task.first_dirty, 1.0)
        self._latest = task.first_dirty - 1
        self._markers: dict[int, list[tuple[int, bool]]] = {}  # of each producer: (offset, aborted), rising
        self._seen: set[int] = set()  # producers with data since their last marker

    # The dirty part

    def survey(self) -> Surveyed:
        """Read the dirty part and note the last offset of each key, until the map is full.

        :raises Corrupt: a batch is damaged.
        :raises MapTooSmall: it does not hold the keys of one batch.
        """
        task = self._task
        records = self._look_ahead()
        self._map = KeyMap(slots_for(records, task.map_bytes), task.first_dirty, task.load_factor)
        waiting = _Waiting(self._map, self._salt)
        full = False
        for batch in self._dirty():
            header = batch.header
            if not header.is_control and header.count and not self._aborted(header):
                opened = self._open(batch)
                assert opened.columns is not None
                full = not waiting.add(opened.columns, header.base_offset)
                if full:
                    break
            self._latest = header.last_offset
        waiting.put()
        if full and self._latest < task.first_dirty:
            raise MapTooSmall(
                f"{task.map_bytes} bytes hold the keys of {self._map.keys_max} records, which is less than one batch: "
                "raise log.cleaner.dedupe.buffer.size"
            )
        if not full:
            self._latest = max(self._latest, self._end_offset - 1)
        return Surveyed(self._latest + 1, self._map.count, self._map.memory_bytes)

    def _look_ahead(self) -> int:
        """Find the transaction markers of the dirty part; return how many records it has."""
        records = 0
        for batch in self._dirty():
            header = batch.header
            if header.is_control:
                marker = self._marker(batch)
                if marker is not None:
                    self._markers.setdefault(header.producer_id, []).append((header.base_offset, marker))
            else:
                records += header.count
        return records

    def _dirty(self) -> Iterator[Batch]:
        for piece in self._task.pieces:
            if piece.next_offset > self._task.first_dirty and piece.base_offset < self._end_offset:
                for chunk in self._chunks(piece):
                    for batch in chunk:
                        if batch.header.base_offset >= self._end_offset:
                            return
                        if batch.header.last_offset >= self._task.first_dirty:
                            yield batch

    def _marker(self, batch: Batch) -> bool | None:
        """Say whether a control batch aborts a transaction; None when it ends none."""
        opened = self._open(batch)
        if opened.columns is None or not opened.columns.keys:
            return None
        key = opened.columns.keys[0]
        kind = int.from_bytes(key[2:4], "big") if key is not None and len(key) >= 4 else -1
        return kind == ABORT_MARKER if kind in (0, 1) else None

    def _aborted(self, header: BatchHeader) -> bool:
        """Say whether a batch belongs to a transaction that was aborted; in the clean part none is left."""
        if not header.is_transactional or header.base_offset < self._task.first_dirty:
            return False
        for offset, aborted in self._markers.get(header.producer_id, ()):
            if offset > header.base_offset:
                return aborted
        return False

    # Writing anew

    def rewrite(self, group: list[Piece]) -> Rewritten:
        """Write the segments of ``group``, which follow each other, as one, into files of their own, flushed.

        :raises Corrupt: a batch is damaged.
        :raises StorageFailed: the disk refused.
        """
        task, disk = self._task, self._disk
        base, following = group[0].base_offset, group[-1].next_offset
        out = Segment(disk, task.directory, base, task.now_ms)
        out.path = cleaned_path(task.directory, base)
        _remove(disk, out)
        rewriting = _Rewriting(out, task.index_interval_bytes, task.now_ms)
        try:
            self._write_group(group, rewriting)
        except StorageFailed:
            with contextlib.suppress(StorageFailed):
                _remove(disk, out)  # the space may be what is missing
            raise
        size = sum(piece.size for piece in group)
        crc = file_checksum(disk, out.file, out.size)
        return Rewritten(base, following, out.size, crc, size, rewriting.records_before, rewriting.records_after)

    def _write_group(self, group: list[Piece], rewriting: _Rewriting) -> None:
        last: BatchHeader | None = None
        for piece in group:
            for chunk in self._chunks(piece):
                self._filter(chunk, rewriting)
                last = chunk[-1].header
        if rewriting.out.size == 0 and last is not None:
            rewriting.write(emptied(last), last, last.max_timestamp)  # no segment is ever empty
        rewriting.out.seal()
        rewriting.out.write_sealed()

    def _filter(self, chunk: list[Batch], rewriting: _Rewriting) -> None:
        opened = [self._looked_into(batch) for batch in chunk]
        keys = [key or b"" for one in opened if one.columns is not None for key in one.columns.keys]
        found = self._map.last_offsets(digests(keys, self._salt)) if keys else np.empty(0, np.int64)
        at = 0
        for one in opened:
            header = one.batch.header
            rewriting.records_before += header.count
            if one.columns is None:
                self._decide_whole(one, rewriting)
                continue
            last = found[at : at + header.count]
            at += header.count
            self._decide(one, one.columns, last.tolist(), rewriting)

    def _looked_into(self, batch: Batch) -> Opened:
        header = batch.header
        if header.is_control or not header.count or header.base_offset > self._latest or self._aborted(header):
            return Opened(batch, b"", None)
        return self._open(batch)

    def _decide_whole(self, one: Opened, rewriting: _Rewriting) -> None:
        """Keep or drop a batch whose records need not be looked at one by one."""
        batch = one.batch
        header = batch.header
        if header.base_offset > self._latest:
            rewriting.keep(batch)
        elif header.is_control:
            self._decide_marker(batch, rewriting)
        elif header.count == 0 and self._must_tell(header):
            self._see(header)
            rewriting.keep(batch)
        else:
            self._see(header)
            self._drop(batch, rewriting)

    def _see(self, header: BatchHeader) -> None:
        if header.is_transactional:
            self._seen.add(header.producer_id)

    def _decide_marker(self, batch: Batch, rewriting: _Rewriting) -> None:
        """A marker may go when nothing of its transaction was there in this run, and then its horizon has passed."""
        header = batch.header
        needed = header.producer_id in self._seen
        self._seen.discard(header.producer_id)
        horizon_ms = delete_horizon_ms(header)
        if needed or not header.count:
            if header.count or self._must_tell(header):
                rewriting.keep(batch)
        elif horizon_ms is None:
            opened = self._open(batch)
            assert opened.columns is not None
            horizon_ms = self._task.now_ms + self._task.delete_retention_ms
            kept = list(range(header.count))
            rewriting.write(without(header, opened.body, opened.columns, kept, horizon_ms), header, None)
            rewriting.records_after += header.count
        elif horizon_ms <= self._task.now_ms:
            self._drop(batch, rewriting)
        else:
            rewriting.keep(batch)

    def _decide(self, one: Opened, columns: Columns, last: list[int], rewriting: _Rewriting) -> None:
        """Keep the records that are the last of their key, tombstones only until their horizon."""
        header = one.batch.header
        self._see(header)
        horizon_ms = delete_horizon_ms(header)
        keeps_tombstones = horizon_ms is None or self._task.now_ms < horizon_ms
        base, latest = header.base_offset, self._latest
        kept = []
        tombstones = False
        for at, (delta, key, valued, found) in enumerate(
            zip(columns.offset_deltas, columns.keys, columns.valued, last, strict=True)
        ):
            offset = base + delta
            if offset > latest or (key is not None and offset >= found and (valued or keeps_tombstones)):
                kept.append(at)
                tombstones = tombstones or (not valued and offset <= latest)
        if not kept:
            self._drop(one.batch, rewriting)
            return
        begins = self._task.now_ms + self._task.delete_retention_ms if tombstones and horizon_ms is None else None
        if begins is None and len(kept) == header.count:
            rewriting.keep(one.batch)
            return
        rewriting.write(without(header, one.body, columns, kept, begins), header, None)
        rewriting.records_after += len(kept)

    def _drop(self, batch: Batch, rewriting: _Rewriting) -> None:
        """Drop the records of a batch, and the batch itself unless its producer or the end of the run needs it."""
        if self._must_tell(batch.header):
            rewriting.write(emptied(batch.header), batch.header, batch.header.max_timestamp)

    def _must_tell(self, header: BatchHeader) -> bool:
        if header.next_offset == self._latest + 1:
            return True  # so that the log's offsets can be told from its batches
        known = self._task.producers.get(header.producer_id)
        if known is None:
            return False
        if known.last_offset >= 0:
            return header.last_offset == known.last_offset
        return header.is_control and header.producer_epoch == known.epoch

    # Reading

    def _open(self, batch: Batch) -> Opened:
        header = batch.header
        try:
            body = bytes(decompress(header.codec, batch.data[HEADER_BYTES:], RECORDS_BYTES_MAX))
            return Opened(batch, body, columns_of(body, header.count))
        except DecodeError as cause:
            raise Corrupt(self._task.directory, batch.position, f"offset {header.base_offset}: {cause}") from cause

    def _chunks(self, piece: Piece) -> Iterator[list[Batch]]:
        """Read a segment in chunks of whole batches, checksums checked."""
        path = f"{self._task.directory}/{piece.base_offset:020d}{LOG_SUFFIX}"
        file = self._disk.open(path)
        position, wanted = 0, CHUNK_BYTES
        while position < piece.size:
            data = memoryview(self._disk.read(file, min(wanted, piece.size - position), position))
            batches, missing = _split(data, path, position)
            wanted = CHUNK_BYTES
            if batches:
                position = batches[-1].position + batches[-1].header.size
                yield batches
            elif position + missing <= piece.size and missing > len(data):
                wanted = missing
            else:
                raise Corrupt(path, position, "the segment ends inside a batch")


def _split(data: memoryview, path: str, position: int) -> tuple[list[Batch], int]:
    """Return the whole batches of ``data``, and how many bytes the first needs if there is none."""
    batches: list[Batch] = []
    at = 0
    while at + HEADER_BYTES <= len(data):
        header = read_header(data, at)
        if header.size < HEADER_BYTES or header.magic != 2 or header.last_offset_delta < 0:
            raise Corrupt(path, position + at, "a batch header is damaged")
        if at + header.size > len(data):
            return batches, header.size
        if not check_crc(data, at, header):
            raise Corrupt(path, position + at, f"the batch at offset {header.base_offset} has a wrong checksum")
        batches.append(Batch(header, data[at : at + header.size], position + at))
        at += header.size
    return batches, HEADER_BYTES


def _remove(disk: Disk, segment: Segment) -> None:
    for path in segment.paths():
        disk.remove(path)


def file_checksum(disk: Disk, file: File, size: int) -> int:
    """Return the CRC-32C of the first bytes of a file."""
    crc = 0
    for position in range(0, size, CHUNK_BYTES):
        crc = crc32c(disk.read(file, min(CHUNK_BYTES, size - position), position), crc)
    return crc


class _Waiting:
    """Keys on their way into the map."""

    def __init__(self, keys: KeyMap, salt: bytes) -> None:
        self._map = keys
        self._salt = salt
        self._keys: list[bytes] = []
        self._offsets: list[int] = []

    def add(self, columns: Columns, base_offset: int) -> bool:
        """Take the keys of a batch, or return False when there is no room for them."""
        count = len(columns.keys)
        if len(self._keys) >= PUT_KEYS or self._map.count + len(self._keys) + count > self._map.keys_max:
            self.put()
            if self._map.count + count > self._map.keys_max:
                return False
        for key, delta in zip(columns.keys, columns.offset_deltas, strict=True):
            if key is not None:
                self._keys.append(key)
                self._offsets.append(base_offset + delta)
        return True

    def put(self) -> None:
        """Put what waits into the map."""
        if self._keys:
            self._map.put(digests(self._keys, self._salt), np.array(self._offsets, np.int64))
            self._keys, self._offsets = [], []


class _Rewriting:
    """The segment that is being written, and counts."""

    def __init__(self, out: Segment, index_interval_bytes: int, now_ms: int) -> None:
        self.out = out
        self._interval_bytes = index_interval_bytes
        self._now_ms = now_ms
        self.records_before = 0
        self.records_after = 0

    def keep(self, batch: Batch) -> None:
        """Copy a batch as it is."""
        header = batch.header
        self.records_after += header.count
        self.write(batch.data, header, header.max_timestamp)

    def write(self, data: bytearray | memoryview, header: BatchHeader, max_timestamp: int | None) -> None:
        """Write a batch; ``max_timestamp`` None takes it from ``data``."""
        if max_timestamp is None:
            max_timestamp = read_header(data).max_timestamp
        self.out.append(data, header.base_offset, header.last_offset, max_timestamp, self._now_ms, self._interval_bytes)
