"""The computing part of compaction: find the last offset of each key, write segments anew without the rest.

A :class:`Cleaner` works on sealed files only, for one run over one log: :meth:`Cleaner.survey` reads the dirty part
and fills the key map, then :meth:`Cleaner.rewrite` is called for each group of neighbouring segments, from the start
of the log on, and leaves ``*.cleaned.*`` files beside them. It runs in a worker process (``jobs.worker``), never on
the event loop, and changes no file that the log uses; ``swap`` puts the new ones in place. The rules are Kafka's
(KIP-58, KIP-98, KIP-354, KIP-534).
"""

from __future__ import annotations

import contextlib
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Final, NamedTuple, Protocol

import msgspec
import numpy as np

from logd.errors import StorageFailed
from logd.log.aborted import AbortedTransaction
from logd.log.batch_file import LOG_SUFFIX, BatchPlace
from logd.log.chunks import Background, Batch, Reader, Rows, at_once, rows_of
from logd.log.disk import Disk
from logd.log.keymap import SPAN_MAX, Digester, Digests, Flags, KeyMap, OffsetSet, slots_for
from logd.log.rewriting import Change, delete_horizon_ms, emptied, shifted, without, write_head
from logd.log.segment import Segment
from logd.log.swap import cleaned_path
from logd.wire.batches import CONTROL, HEADER_BYTES, TRANSACTIONAL, BatchHeader
from logd.wire.checksum import crc32c
from logd.wire.compression import compress
from logd.wire.message import Buffer

_NOTHING: Final = memoryview(b"")
_NOT_PLAIN: Final = CONTROL | TRANSACTIONAL
_BLANK: Final = bytes(HEADER_BYTES)
_OLDEST: Final = np.iinfo(np.int64).min
TELL_BYTES: Final = 32 * 1024 * 1024


class Tell(Protocol):
    """Called now and then with the bytes that have been read, of all pieces and in both passes."""

    def __call__(self, passed_bytes: int) -> None: ...


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
    :param aborted: all aborted transactions that began before it; those that began in the clean part too.
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
    aborted: tuple[AbortedTransaction, ...] = ()


class Surveyed(msgspec.Struct, frozen=True):
    """What the dirty part holds; the run will clean up to ``end_offset``, lower than asked when the map was full."""

    end_offset: int
    keys: int
    map_bytes: int


class Rewritten(msgspec.Struct, frozen=True):
    """A group of segments that was written anew, with its checksum, and what became of its records.

    ``dropped_markers``: the offsets of those that ended an aborted transaction and are gone.
    """

    base_offset: int
    next_offset: int
    size: int
    crc: int
    bytes_before: int
    records_before: int
    records_after: int
    dropped_markers: tuple[int, ...] = ()


class MapTooSmall(Exception):
    """The memory for keys does not even hold those of one batch."""


class Verdict(NamedTuple):
    """Which records of a batch stay: ``left`` of its rows, those that are ``kept``; whether one is a tombstone.

    ``runs``: where their bytes begin and end, neighbours in one; ``newest_delta``: their largest time delta.
    """

    rows: Rows
    place: tuple[int, int]
    left: int
    tombstone: bool
    kept: np.ndarray[tuple[int], np.dtype[np.bool_]]
    runs: tuple[list[int], list[int]]
    newest_delta: int


class Cleaner:
    """One run of compaction over one log.

    :param background: runs reads while this computes.
    :param tell: called every :data:`TELL_BYTES` with how far it is.
    """

    def __init__(
        self, disk: Disk, task: Task, salt: bytes, background: Background = at_once, tell: Tell | None = None
    ) -> None:
        self._disk = disk
        self._reader = Reader(disk, background)
        self._tell = tell
        self._passed_bytes = self._told_bytes = 0
        self._task = task
        self._digester = Digester(salt)
        self._end_offset = min(task.end_offset, task.first_dirty + SPAN_MAX)
        self._map = KeyMap(1, task.first_dirty, 1.0)
        self._gone = OffsetSet(task.first_dirty, 0)
        self._tombstones = OffsetSet(task.first_dirty, 0)
        self._latest = task.first_dirty - 1
        self._spans = _spans(task.aborted)
        self._ends = {one.last_offset for one in task.aborted}
        self._seen: set[int] = set()  # producers with data since their last marker

    # The dirty part

    def survey(self) -> Surveyed:
        """Read the dirty part and note the last offset of each key, until the map is full.

        :raises Corrupt: a batch is damaged.
        :raises MapTooSmall: it does not hold the keys of one batch.
        """
        task = self._task
        slots = slots_for(self._end_offset - task.first_dirty, task.map_bytes)
        self._map = KeyMap(slots, task.first_dirty, task.load_factor)
        span = self._end_offset - task.first_dirty
        self._gone, self._tombstones = OffsetSet(task.first_dirty, span), OffsetSet(task.first_dirty, span)
        for chunk in self._dirty():
            wanted = [one for one in chunk if _has_data(one.header) and not self._aborted(one.header)]
            if wanted and not self._note(wanted):
                if self._latest < task.first_dirty:
                    raise MapTooSmall(
                        f"{task.map_bytes} bytes hold the keys of {self._map.keys_max} records, less than one batch "
                        "has: raise log.cleaner.dedupe.buffer.size"
                    )
                break
            self._latest = chunk[-1].header.last_offset
        else:
            self._latest = max(self._latest, self._end_offset - 1)
        return Surveyed(self._latest + 1, self._map.count, self._map.memory_bytes)

    def _dirty(self) -> Iterator[list[Batch]]:
        first, end = self._task.first_dirty, self._end_offset
        for piece in self._task.pieces:
            if piece.next_offset <= first or piece.base_offset >= end:
                continue
            for chunk in self._chunks(piece):
                inside = [one for one in chunk if one.header.last_offset >= first and one.header.base_offset < end]
                if inside:
                    yield inside

    def _note(self, batches: list[Batch]) -> bool:
        """Put the keys of batches into the map; when not all find room, as many batches as do."""
        rows = rows_of(batches)
        columns = rows.columns
        keys = self._digester.digests(rows.data, columns.key_starts, columns.key_sizes)
        if self._map.count + len(rows.offsets) <= self._map.keys_max:
            self._note_rows(rows, keys, slice(None))
            return True
        for batch, (start, stop) in zip(batches, pairwise(columns.firsts.tolist()), strict=True):
            if self._map.count + stop - start > self._map.keys_max:
                return False
            self._note_rows(rows, keys, slice(start, stop))
            self._latest = batch.header.last_offset
        return True

    def _note_rows(self, rows: Rows, keys: Digests, part: slice) -> None:
        columns, offsets = rows.columns, rows.offsets[part]
        keyed = columns.key_sizes[part] >= 0
        inside = offsets >= self._task.first_dirty  # not all of a batch when DeleteRecords has cut through it
        noted = keyed & inside
        self._gone.add(self._map.put(Digests(keys.heads[part][noted], keys.tails[part][noted]), offsets[noted]))
        self._gone.add(offsets[~keyed & inside])
        self._tombstones.add(offsets[noted & (columns.value_sizes[part] < 0)])

    def _aborted(self, header: BatchHeader) -> bool:
        """Say whether a batch belongs to a transaction that was aborted."""
        if not header.is_transactional:
            return False
        firsts, lasts = self._spans.get(header.producer_id, ((), ()))
        at = bisect_right(firsts, header.base_offset) - 1
        return at >= 0 and header.base_offset < lasts[at]

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
        out.remove()
        out.file  # made now: nothing may come into it  # noqa: B018
        rewriting = _Rewriting(out, task.index_interval_bytes)
        try:
            self._write_group(group, rewriting)
        except StorageFailed:
            with contextlib.suppress(StorageFailed):
                out.remove()  # the space may be what is missing
            raise
        size = sum(piece.size for piece in group)
        counts = (rewriting.records_before, rewriting.records_after)
        return Rewritten(base, following, out.size, rewriting.crc, size, *counts, tuple(rewriting.dropped_markers))

    def _write_group(self, group: list[Piece], rewriting: _Rewriting) -> None:
        for piece in group:
            for chunk in self._chunks(piece):
                self._filter(chunk, rewriting)
        rewriting.out.seal()
        rewriting.out.write_sealed()

    def _filter(self, chunk: list[Batch], rewriting: _Rewriting) -> None:
        latest = self._latest
        with_data = [
            (header.count > 0 and header.base_offset <= latest)
            if not (header := batch.header).attributes & _NOT_PLAIN
            else self._has_old_data(header)
            for batch in chunk
        ]
        judged = [batch for batch, wants in zip(chunk, with_data, strict=True) if wants]
        touched = self._touched(judged) if judged else []
        opened = [batch for batch, wants in zip(judged, touched, strict=True) if wants]
        verdicts, opens = iter(self._judge(opened) if opened else ()), iter(touched)
        for batch, wants in zip(chunk, with_data, strict=True):
            rewriting.records_before += batch.header.count
            if not wants:
                self._decide_whole(batch, rewriting)
            elif next(opens):
                self._decide(batch, next(verdicts), rewriting)
            else:
                self._see(batch.header)
                rewriting.keep(batch)
        rewriting.flush()

    def _touched(self, batches: list[Batch]) -> list[bool]:
        """Say of each batch whether it must be opened: of the dirty part it is known where all records stay."""
        first_dirty = self._task.first_dirty
        clean = sum(batch.header.base_offset < first_dirty for batch in batches)
        if clean == len(batches):
            return [True] * clean
        bases = np.array([batch.header.base_offset for batch in batches[clean:]], np.int64)
        end = min(batches[-1].header.next_offset, self._latest + 1)
        touched: list[bool] = (self._gone.touches(bases, end) | self._tombstones.touches(bases, end)).tolist()
        return [True] * clean + touched

    def _has_old_data(self, header: BatchHeader) -> bool:
        return _has_data(header) and header.base_offset <= self._latest and not self._aborted(header)

    def _judge(self, batches: list[Batch]) -> Iterator[Verdict]:
        """Find the records that stay: the last of their key, tombstones only until their horizon."""
        rows = rows_of(batches)
        columns, offsets = rows.columns, rows.offsets
        now_ms = self._task.now_ms
        horizons = [delete_horizon_ms(batch.header) for batch in batches]
        lasting = np.repeat([horizon is None or now_ms < horizon for horizon in horizons], np.diff(columns.firsts))
        valued = columns.value_sizes >= 0
        after = offsets > self._latest
        kept = after | ((columns.key_sizes >= 0) & ~self._superseded(rows) & (valued | lasting))
        tombstones = kept & ~valued & ~after
        starts = columns.firsts[:-1]
        counts = np.add.reduceat(kept, starts, dtype=np.int64).tolist()
        some = np.logical_or.reduceat(tombstones, starts).tolist()
        runs, of_runs = _runs(rows, kept)
        newest = np.maximum.reduceat(np.where(kept, columns.time_deltas, _OLDEST), starts).tolist()
        places = pairwise(columns.firsts.tolist())
        for place, count, tombstone, (a, b), delta in zip(places, counts, some, of_runs, newest, strict=True):
            yield Verdict(rows, place, count, tombstone, kept, (runs[0][a:b], runs[1][a:b]), delta)

    def _superseded(self, rows: Rows) -> Flags:
        """Say of each record, up to the end of the run, whether a later one has its key."""
        columns, offsets = rows.columns, rows.offsets
        clean = int(np.searchsorted(offsets, self._task.first_dirty))
        stop = int(np.searchsorted(offsets, self._latest, "right"))
        superseded = np.zeros(len(offsets), np.bool_)
        if clean:
            keys = self._digester.digests(rows.data, columns.key_starts[:clean], columns.key_sizes[:clean])
            superseded[:clean] = self._map.last_offsets(keys) > offsets[:clean]
        superseded[clean:stop] = self._gone.holds(offsets[clean:stop])
        return superseded

    def _decide_whole(self, batch: Batch, rewriting: _Rewriting) -> None:
        """Keep or drop a batch whose records need not be looked at one by one."""
        header = batch.header
        if header.base_offset > self._latest:
            rewriting.keep(batch)
        elif header.is_control:
            self._decide_marker(batch, rewriting)
        else:
            self._see(header)
            if header.count == 0 and self._must_tell(header):
                rewriting.keep(batch)
            else:
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
            rows = rows_of([batch])
            everything = np.ones(header.count, np.bool_)
            newest = int(rows.columns.time_deltas.max())
            verdict = Verdict(rows, (0, header.count), header.count, True, everything, ([], []), newest)
            rewriting.reduce(batch, verdict, self._horizon())
        elif horizon_ms <= self._task.now_ms:
            self._drop(batch, rewriting)
        else:
            rewriting.keep(batch)

    def _decide(self, batch: Batch, verdict: Verdict, rewriting: _Rewriting) -> None:
        header = batch.header
        self._see(header)
        sets_horizon = verdict.tombstone and delete_horizon_ms(header) is None
        if not verdict.left:
            self._drop(batch, rewriting)
        elif verdict.left == header.count and not sets_horizon:
            rewriting.keep(batch)
        else:
            rewriting.reduce(batch, verdict, self._horizon() if sets_horizon else None)

    def _horizon(self) -> int:
        return self._task.now_ms + self._task.delete_retention_ms

    def _drop(self, batch: Batch, rewriting: _Rewriting) -> None:
        """Drop the records of a batch, and the batch itself unless its producer or the end of the run needs it."""
        if batch.header.base_offset in self._ends:
            rewriting.dropped_markers.append(batch.header.base_offset)
        if self._must_tell(batch.header):
            rewriting.write(emptied(batch.header), ())

    def _must_tell(self, header: BatchHeader) -> bool:
        if header.next_offset == self._latest + 1:
            return True  # so that the log's offsets can be told from its batches
        known = self._task.producers.get(header.producer_id)
        if known is None:
            return False
        if known.last_offset >= 0:
            return header.last_offset == known.last_offset
        return header.is_control and header.producer_epoch == known.epoch

    def _chunks(self, piece: Piece) -> Iterator[list[Batch]]:
        path = f"{self._task.directory}/{piece.base_offset:020d}{LOG_SUFFIX}"
        for chunk in self._reader.chunks(path, piece.size):
            yield chunk
            self._passed_bytes += chunk[-1].position + chunk[-1].header.size - chunk[0].position
            if self._tell is not None and self._passed_bytes - self._told_bytes >= TELL_BYTES:
                self._told_bytes = self._passed_bytes
                self._tell(self._passed_bytes)


def _runs(
    rows: Rows, kept: np.ndarray[tuple[int], np.dtype[np.bool_]]
) -> tuple[tuple[list[int], list[int]], Iterator[tuple[int, int]]]:
    """Where the bytes of records that stay begin and end, neighbours in one; and which of these runs each batch has."""
    columns = rows.columns
    firsts = columns.firsts[:-1]
    begins = kept.copy()
    begins[1:] &= ~kept[:-1]
    begins[firsts] = kept[firsts]
    lasts = kept.copy()
    lasts[:-1] &= ~kept[1:]
    lasts[columns.firsts[1:] - 1] = kept[columns.firsts[1:] - 1]
    counts = np.add.reduceat(begins, firsts, dtype=np.int64)
    of_batches = pairwise([0, *np.cumsum(counts).tolist()])
    return (columns.starts[begins].tolist(), columns.ends[lasts].tolist()), of_batches


def _has_data(header: BatchHeader) -> bool:
    return header.count > 0 and not header.is_control


def _spans(aborted: Sequence[AbortedTransaction]) -> dict[int, tuple[list[int], list[int]]]:
    """First offsets and markers of each producer's aborted transactions, which follow each other."""
    spans: dict[int, tuple[list[int], list[int]]] = {}
    for one in aborted:
        firsts, lasts = spans.setdefault(one.producer_id, ([], []))
        firsts.append(one.first_offset)
        lasts.append(one.last_offset)
    return spans


class _Rewriting:
    """The segment that is being written, and counts."""

    def __init__(self, out: Segment, index_interval_bytes: int) -> None:
        self.out = out
        self._interval_bytes = index_interval_bytes
        self._parts: list[Buffer] = []
        self._kept = _NOTHING  # neighbours, to be copied in one piece: their chunk, where they begin and end
        self._kept_start = self._kept_stop = 0
        self._changes: list[tuple[int, Change]] = []  # whose headers are to be written, and their places
        self._places: list[BatchPlace] = []
        self._size = 0  # of all of them
        self.crc = 0
        self.records_before = 0
        self.records_after = 0
        self.dropped_markers: list[int] = []

    def keep(self, batch: Batch) -> None:
        """Copy a batch as it is."""
        header, start = batch.header, batch.start
        self.records_after += header.count
        if start != self._kept_stop or batch.chunk is not self._kept:
            self._end_kept()
            self._kept, self._kept_start = batch.chunk, start
        size = header.size
        self._kept_stop = start + size
        base = header.base_offset
        self._places.append(BatchPlace(self._size, size, base, base + header.last_offset_delta, header.max_timestamp))
        self._size += size

    def _end_kept(self) -> None:
        if self._kept_stop > self._kept_start:
            self._parts.append(self._kept[self._kept_start : self._kept_stop])
            self._kept_start = self._kept_stop

    def reduce(self, batch: Batch, verdict: Verdict, horizon_ms: int | None) -> None:
        """Write what stays of a batch."""
        data, change = verdict.rows.data, without(batch.header, verdict.left, verdict.newest_delta)
        self.records_after += verdict.left
        kept: list[Buffer]
        if horizon_ms is None:
            kept = [data[a:b] for a, b in zip(*verdict.runs, strict=True)]
        else:  # each record is changed
            columns, (start, stop) = verdict.rows.columns, verdict.place
            at = np.flatnonzero(verdict.kept[start:stop]) + start
            records = zip(columns.starts[at].tolist(), columns.ends[at].tolist(), strict=True)
            change, moved = shifted(change, [bytes(data[a:b]) for a, b in records], horizon_ms)
            kept = [*moved]
        if batch.header.codec:
            kept = [compress(batch.header.codec, b"".join(kept))]
        self.write(change, kept)

    def write(self, change: Change, body: Sequence[Buffer]) -> None:
        """Write a batch anew, from its body."""
        self._end_kept()
        size = HEADER_BYTES + sum(len(part) for part in body)
        self._parts.append(_BLANK)
        self._parts += body
        self._changes.append((self._size, change))
        header = change.header
        self._places.append(BatchPlace(self._size, size, header.base_offset, header.last_offset, change.max_timestamp))
        self._size += size

    def flush(self) -> None:
        """Put together what has come since the last time, and write it."""
        self._end_kept()
        places = self._places
        if not places:
            return
        data = bytearray().join(self._parts)
        view = memoryview(data)
        sizes = {place.position: place.size for place in places}
        for position, change in self._changes:
            write_head(view[position : position + sizes[position]], change)
        self.crc = crc32c(data, self.crc)
        self.out.append_all(data, places, self._interval_bytes)
        self._parts, self._changes, self._places, self._size = [], [], [], 0
        self._kept, self._kept_start, self._kept_stop = _NOTHING, 0, 0
