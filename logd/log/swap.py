"""Putting compacted segments in place of the old ones, so that a crash at any moment leaves the one or the other.

The new files lie beside the old as ``<base offset>.cleaned.log`` and so on, flushed. :meth:`Swap.commit` names them in
``partition.compaction``, which is the decision: from then on an open of the directory carries the swap out
(:func:`settle`). :meth:`Swap.rename` puts them in place, a short step on the event loop; :meth:`Swap.finish` removes
what they replace. The same file keeps how far the log has been cleaned. Readers of old segments go on: their files
stay open until they are done.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from struct import Struct
from struct import error as StructError
from typing import Final, NamedTuple

import msgspec

from logd.errors import DecodeError, StorageFailed
from logd.log.batch_file import LOG_SUFFIX, SCAN_BYTES
from logd.log.disk import DISK_FULL, Disk, Entry, File
from logd.log.index import TIME_ENTRY_BYTES
from logd.log.segment import INDEX_SUFFIX, SUFFIXES, TIME_INDEX_SUFFIX, Segment
from logd.wire.checksum import crc32c

COMPACTION_NAME: Final = "partition.compaction"
CLEANED_SUFFIX: Final = ".cleaned"
_PROGRESS: Final = Struct(">4sIqbqqqI")
_SUM: Final = Struct(">qqI")
_MAGIC: Final = b"LCP1"
_CRC_FROM: Final = 8
_DIGITS: Final = 20


class Exchange(msgspec.Struct, frozen=True, gc=False):
    """A new segment for all that begin at ``base_offset`` or later and before ``next_offset``."""

    base_offset: int
    next_offset: int
    size: int
    crc: int


Sums = dict[int, tuple[int, int]]
"""Compacted segments by base offset: the size of each, and the checksum of all of it."""

ANYWHERE: Final = -1
"""Among them, in place of an offset: others that begin below the size are compacted too, and nobody knows which, until
runs have come so far."""


class Progress(msgspec.Struct, frozen=True):
    """What ``partition.compaction`` says: below ``cleaned_offset`` the log is clean; the swap that is under way.

    ``sums`` tells what a compacted segment must be: its gaps are lawful, so that nothing else would show a base offset
    that is wrong, which no batch's own checksum covers.
    """

    cleaned_offset: int = 0
    exchange: Exchange | None = None
    sums: Sums = {}


def pack_progress(progress: Progress) -> bytes:
    """Return the content of ``partition.compaction``."""
    swap = progress.exchange or Exchange(0, 0, 0, 0)
    under_way = progress.exchange is not None
    fields = (swap.base_offset, swap.next_offset, swap.size, swap.crc)
    out = bytearray(_PROGRESS.pack(_MAGIC, 0, progress.cleaned_offset, under_way, *fields))
    for base_offset, sums in sorted(progress.sums.items()):
        out += _SUM.pack(base_offset, *sums)
    out[4:8] = crc32c(memoryview(out)[_CRC_FROM:]).to_bytes(4, "big")
    return bytes(out)


def parse_progress(data: bytes) -> Progress:
    """Read ``partition.compaction``; raises DecodeError."""
    try:
        magic, crc, cleaned, under_way, *fields = _PROGRESS.unpack(data[: _PROGRESS.size])
        sums = {base: (size, sum_) for base, size, sum_ in _SUM.iter_unpack(data[_PROGRESS.size :])}
    except StructError as cause:
        raise DecodeError(f"a partition.compaction file of {len(data)} bytes") from cause
    if magic != _MAGIC or crc != crc32c(memoryview(data)[_CRC_FROM:]):
        raise DecodeError("not a partition.compaction file, or a damaged one")
    return Progress(cleaned, Exchange(*fields) if under_way else None, sums)


def after(sums: Sums, exchange: Exchange) -> Sums:
    """Return the sums when an exchange has been carried out."""
    kept = {base: one for base, one in sums.items() if not exchange.base_offset <= base < exchange.next_offset}
    return {**kept, exchange.base_offset: (exchange.size, exchange.crc)}


def cleaned_path(directory: str, base_offset: int) -> str:
    """Return the path, without suffix, of a new segment that is not in place yet."""
    return f"{directory}/{base_offset:020d}{CLEANED_SUFFIX}"


class Settled(NamedTuple):
    """What :func:`settle` found: how far the log is clean, whether it may have gaps, whether files have changed."""

    cleaned_offset: int
    compacted: bool
    changed: bool
    sums: Sums


class Swap:
    """One exchange of a group of segments of one log. ``dropped``: the markers that are not in the new one."""

    def __init__(
        self,
        disk: Disk,
        path: str,
        exchange: Exchange,
        old: list[Segment],
        cleaned_offset: int,
        fail: Callable[[StorageFailed], None],
        dropped: list[int],
        sums: Sums | None = None,
    ) -> None:
        self._disk = disk
        self._path = path
        self._fail = fail
        self.sums = sums or {}
        """Those before the exchange."""
        self._cleaned_offset = cleaned_offset
        self.exchange = exchange
        self.old = old
        self.dropped = dropped
        self._pinned: list[File] = []
        self.new = Segment.found(disk, path, exchange.base_offset, exchange.size, old[-1].changed_ms)
        self.new.next_offset = exchange.next_offset
        self.new.sealed = self.new.finished = True
        self.new.checksum = exchange.crc

    def commit(self) -> None:
        """Decide for the new files; waits for the disk.

        :raises StorageFailed: the old ones stay, and as far as the disk allows it nothing is left of the new.
        """
        try:
            self._commit()
        except StorageFailed:
            with contextlib.suppress(StorageFailed):
                self.abandon()
            raise

    def _commit(self) -> None:
        self._pinned = [segment.file for segment in self.old]  # now: later there must be no lack of descriptors
        final, self.new.path = self.new.path, cleaned_path(self._path, self.exchange.base_offset)
        self._disk.sync_directory(self._path)  # the names of the new files
        times = self._disk.load(self.new.path + TIME_INDEX_SUFFIX) or b""
        self.new.read_max_timestamp(len(times) // TIME_ENTRY_BYTES * TIME_ENTRY_BYTES)
        self.new.path = final
        _write(self._disk, self._path, Progress(self._cleaned_offset, self.exchange, self.sums))

    def rename(self) -> Segment:
        """Put the new files in place, now, and return the segment; on the event loop.

        :raises StorageFailed: the next open carries it out.
        """
        for segment in self.old:
            segment.retire()
        source = cleaned_path(self._path, self.exchange.base_offset)
        for suffix in (INDEX_SUFFIX, TIME_INDEX_SUFFIX):
            _put_in_place(self._disk, source + suffix, self.new.path + suffix)
        self._disk.rename(source + LOG_SUFFIX, self.new.path + LOG_SUFFIX)
        self._pinned.clear()
        return self.new

    def finish(self) -> None:
        """Remove what was replaced; waits for the disk.

        :raises StorageFailed: the log is offline; the next open does it.
        """
        try:
            self._disk.sync_directory(self._path)
            for segment in self.old:
                segment.forget()
                if segment.base_offset != self.exchange.base_offset:
                    _remove(self._disk, self._path, segment.base_offset)
            self.new.write_aborted(self.new.aborted)
            self._disk.sync_directory(self._path)
        except StorageFailed as failure:
            self._fail(failure)
            raise
        _write(self._disk, self._path, Progress(self._cleaned_offset, None, after(self.sums, self.exchange)))

    def abandon(self) -> None:
        """Decide against the new files and remove them, first, since their space may be what is missing.

        Without them a decision for them is void. Waits for the disk.
        """
        discard(self._disk, self._path, self.exchange.base_offset)
        _write(self._disk, self._path, Progress(self._cleaned_offset, None, self.sums))


def discard(disk: Disk, path: str, base_offset: int) -> None:
    """Remove the files of a new segment that will not be put in place; waits for the disk."""
    for suffix in SUFFIXES:
        disk.remove(cleaned_path(path, base_offset) + suffix)


def _put_in_place(disk: Disk, source: str, final: str) -> None:
    """Rename an index of a new segment. Where a full disk had no room for it, it is made again from the data."""
    try:
        disk.rename(source, final)
    except StorageFailed as failure:
        if not isinstance(failure.cause, FileNotFoundError):
            raise
        disk.remove(final)


def remember_cleaned(disk: Disk, path: str, cleaned_offset: int, sums: Sums) -> None:
    """Write down how far a log has been cleaned; waits for the disk."""
    _write(disk, path, Progress(cleaned_offset, None, sums))


def settle(disk: Disk, path: str, entries: list[Entry]) -> Settled:
    """Carry out or undo what a crash left half done, before the segments of a directory are looked at."""
    names = {entry.name for entry in entries}
    progress = Progress()
    if COMPACTION_NAME in names:
        try:
            progress = parse_progress(disk.load(f"{path}/{COMPACTION_NAME}") or b"")
        except DecodeError:
            progress = Progress(sums={ANYWHERE: (_behind_all(names), 0)})  # all is cleaned again
    changed = progress.exchange is not None
    sums = progress.sums
    if progress.exchange is not None:
        if _carry_out(disk, path, progress.exchange, names):
            disk.sync_directory(path)
            _remove_replaced(disk, path, progress.exchange, names)
            disk.sync_directory(path)
            sums = after(sums, progress.exchange)
        try:
            _write(disk, path, Progress(progress.cleaned_offset, None, sums))
        except StorageFailed as failure:
            if failure.cause.errno not in DISK_FULL:
                raise  # on a full disk the old one stays: carried out again it changes nothing
    for name in names:
        if name[_DIGITS:].startswith(CLEANED_SUFFIX + "."):
            disk.remove(f"{path}/{name}")
            changed = True
    return Settled(progress.cleaned_offset, COMPACTION_NAME in names, changed, sums)


def unknown_below(sums: Sums) -> int:
    """Return the offset below which any segment may be compacted, whatever is known."""
    return sums.get(ANYWHERE, (0, 0))[0]


def _behind_all(names: set[str]) -> int:
    return 1 + max((int(name[:_DIGITS]) for name in names if _is_log(name)), default=0)


def _is_log(name: str) -> bool:
    digits = name[:_DIGITS]
    return name == digits + LOG_SUFFIX and digits.isdigit() and len(digits) == _DIGITS


def _carry_out(disk: Disk, path: str, exchange: Exchange, names: set[str]) -> bool:
    """Put the new files in place; say whether they are there at all."""
    source, final = cleaned_path(path, exchange.base_offset), f"{path}/{exchange.base_offset:020d}"
    if _is_new(disk, source + LOG_SUFFIX, exchange):
        disk.rename(source + LOG_SUFFIX, final + LOG_SUFFIX)
    elif not _is_new(disk, final + LOG_SUFFIX, exchange):
        return False
    for suffix in (INDEX_SUFFIX, TIME_INDEX_SUFFIX):
        if (source + suffix).rpartition("/")[2] in names:
            disk.rename(source + suffix, final + suffix)
        else:
            disk.remove(final + suffix)  # whose it is cannot be told; it is made again from the data
    return True


def _is_new(disk: Disk, log_path: str, exchange: Exchange) -> bool:
    try:
        file = disk.open(log_path)
    except StorageFailed as failure:
        if isinstance(failure.cause, FileNotFoundError):
            return False
        raise
    crc = 0
    for position in range(0, exchange.size, SCAN_BYTES):
        crc = crc32c(disk.read(file, min(SCAN_BYTES, exchange.size - position), position), crc)
    return crc == exchange.crc and not disk.read(file, 1, exchange.size)


def _remove_replaced(disk: Disk, path: str, exchange: Exchange, names: set[str]) -> None:
    for name in names:
        if _is_log(name) and exchange.base_offset < int(name[:_DIGITS]) < exchange.next_offset:
            _remove(disk, path, int(name[:_DIGITS]))


def _remove(disk: Disk, path: str, base_offset: int) -> None:
    for suffix in reversed(SUFFIXES):
        disk.remove(f"{path}/{base_offset:020d}{suffix}")


def _write(disk: Disk, path: str, progress: Progress) -> None:
    disk.replace(f"{path}/{COMPACTION_NAME}", pack_progress(progress), sync=True)
    disk.sync_directory(path)
