"""Producers and aborted transactions of a log, brought back from snapshot and index files and from batch headers.

``recovery`` calls this when a directory is opened, and ``log`` after a truncation. What cannot be told from files is
told from the batches, of which only headers and markers are looked at; transaction indexes that are missing or not
what the state file says are made again from all of them, each of which is checked, and put right on the disk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from logd.errors import Corrupt, DecodeError, StorageFailed
from logd.log.aborted import TXN_INDEX_SUFFIX, AbortedIndex
from logd.log.batch_file import SCAN_BYTES
from logd.log.disk import DISK_FULL, Disk, Entry
from logd.log.epochs import Epochs
from logd.log.markers import note_marker
from logd.log.producers import Producers
from logd.log.segment import Segment
from logd.log.slices import what_is_wrong
from logd.log.state import State
from logd.wire.batches import CONTROL, HEADER_BYTES, BatchHeader, check_crc, read_header

SNAPSHOT_SUFFIX: Final = ".snapshot"
_NO_INDEX: Final = "and the index of aborted transactions is to be made again"


def restore_producers(
    disk: Disk,
    path: str,
    producers: Producers,
    snapshots: list[int],
    segments: list[Segment],
    offset: int,
    *,
    committed: int,
) -> None:
    """Bring the producer state to what it was at ``offset``: the nearest snapshot, and the headers from there on.

    :param committed: markers below it count.
    """
    start = segments[0].base_offset
    producers.clear()
    for candidate in sorted((one for one in snapshots if one <= offset), reverse=True):
        data = disk.load(f"{path}/{candidate:020d}{SNAPSHOT_SUFFIX}")
        try:
            if data is not None and producers.restore(data) == candidate:
                start = candidate
                break
        except DecodeError:
            continue
    for segment in segments:
        if start < offset and segment.size and (segment.next_offset > start or not segment.sealed):
            for header, chunk, at in _batches(disk, segment, start, offset):
                if header.producer_id >= 0:
                    note_batch(producers, None, header, chunk, at)
        producers.transactions.committed(committed)


def note_batch(
    producers: Producers, aborted: AbortedIndex | None, header: BatchHeader, data: bytes | memoryview, at: int
) -> None:
    """Take a producer's stored batch, at ``at`` in ``data``, into the state."""
    if header.attributes & CONTROL:
        note_marker(producers, aborted, header, data, at, header.base_offset)
    else:
        producers.note(header, header.base_offset, header.max_timestamp)


def _batches(disk: Disk, segment: Segment, start: int, stop: int) -> Iterator[tuple[BatchHeader, bytes, int]]:
    """Yield the batches from offset ``start`` to ``stop``: the header, and where it is; of a marker all is there."""
    position = _place(segment, start)
    while position < segment.size:
        chunk = disk.read(segment.file, min(SCAN_BYTES, segment.size - position), position)
        at = 0
        while at + HEADER_BYTES <= len(chunk):
            header = read_header(chunk, at)
            if header.size < HEADER_BYTES or header.base_offset >= stop:
                return
            if header.attributes & CONTROL and at + header.size > len(chunk) and at:
                break
            if header.last_offset >= start:
                yield header, chunk, at
            at += header.size
        if at == 0:
            return
        position += at


def _place(segment: Segment, start: int) -> int:
    """Where to look for offset ``start``: there or before it.

    After a truncation that a crash overtook, index files tell of batches that are zeros now; the end of the segment is
    not known before it has been scanned, so that no index can be made again yet.
    """
    if start <= segment.base_offset:
        return 0
    try:
        return segment.locate(start)
    except Corrupt:
        return 0


def restore_aborted(
    disk: Disk,
    path: str,
    entries: list[Entry],
    state: State,
    segments: list[Segment],
    point: int,
    has_gaps: Callable[[Segment], bool],
) -> AbortedIndex:
    """Return the aborted transactions whose markers lie from the log's start to before ``point``.

    They are taken from the index files if those are what the state file says, else from the batches.

    :param has_gaps: whether offsets may be missing in a segment.
    :raises Corrupt: one of these is damaged: then what was aborted could be taken for committed.
    """
    index = AbortedIndex()
    files = sorted(entry.name for entry in entries if entry.name.endswith(TXN_INDEX_SUFFIX))
    try:
        for name in files:
            index.load(disk.load(f"{path}/{name}") or b"", state.start_offset, point)
        if index.sum(state.start_offset, point) == state.aborted:
            return index
    except DecodeError:
        pass
    index, producers, epochs = AbortedIndex(), Producers(path), Epochs(list(state.epochs))
    for segment in segments:
        if segment.size and (segment.next_offset > state.start_offset or not segment.sealed):
            for header, data, at in _sound_batches(disk, segment, point, epochs, dense=not has_gaps(segment)):
                if header.producer_id >= 0:
                    note_batch(producers, index, header, data, at)
            producers.transactions.committed(point)
    index.forget_before(state.start_offset)
    return index


def _sound_batches(
    disk: Disk, segment: Segment, stop: int, epochs: Epochs, *, dense: bool
) -> Iterator[tuple[BatchHeader, bytes, int]]:
    """Yield all batches below offset ``stop``, and where they are in what was read. Raises Corrupt at a damaged one."""
    position, expected = 0, segment.base_offset
    end = min(stop, segment.next_offset) if segment.sealed else stop
    while position < segment.size and expected < end:
        data = disk.read(segment.file, min(SCAN_BYTES, segment.size - position), position)
        at = 0
        while at + HEADER_BYTES <= len(data) and expected < end:
            header = read_header(data, at)
            if not dense and stop <= header.base_offset and (not segment.sealed or end == stop):
                return  # behind a gap, where the epochs may be newer than what is known
            why = what_is_wrong(header, expected, epochs, dense=dense)
            if header.size > segment.size - position - at or (
                segment.sealed and header.next_offset > segment.next_offset
            ):
                why = why or f"length {header.length} and offset {header.base_offset}"
            if not why and at + header.size > len(data):
                if at:
                    break
                data = disk.read(segment.file, header.size, position)
            if why or not check_crc(data, at, header):
                raise Corrupt(segment.log_path, position + at, f"a batch with {why or 'a wrong checksum'}, {_NO_INDEX}")
            yield header, data, at
            expected = header.next_offset
            at += header.size
        if at == 0:
            break
        position += at
    if dense and segment.sealed and expected < end:
        raise Corrupt(segment.log_path, position, f"the segment ends at offset {expected}, {_NO_INDEX}")


def put_right(disk: Disk, path: str, entries: list[Entry], segments: list[Segment], index: AbortedIndex) -> None:
    """Make the index files on the disk those that ``index`` asks for; nearly always they are.

    Where a full disk has no room for one, the log serves without it, and the next open finds that it is wrong.
    """
    known = {entry.name for entry in entries if entry.name.endswith(TXN_INDEX_SUFFIX)}
    for segment in segments if known or len(index) else ():
        name = f"{segment.base_offset:020d}{TXN_INDEX_SUFFIX}"
        found = disk.load(f"{path}/{name}") if name in known else None
        wanted = index.part(segment.base_offset, segment.next_offset)
        known.discard(name)
        if (found or b"") != wanted or (found is not None and not wanted):
            try:
                segment.write_aborted(wanted)
            except StorageFailed as failure:
                if failure.cause.errno not in DISK_FULL:
                    raise
        segment.aborted = b"" if segment.finished else wanted
    for name in known:
        disk.remove(f"{path}/{name}")
