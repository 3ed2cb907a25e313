"""A file of record batches that begins at an offset: its bytes, and where in them a batch begins and ends.

What a :class:`~logd.log.segment.Segment` is, beneath its index and its times. It owns the open file and a map of it,
which are let go of and taken up again while readers go on, and knows which bytes are sure to be what was appended.
While it is written it grows in allocated steps; sealed, it is cut to its data, and neither open nor mapped until
somebody reads it. Python never reads the mapped bytes: headers are read with ``pread``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from struct import Struct
from typing import Final, NamedTuple
from weakref import ref

from logd.errors import Corrupt, StorageFailed
from logd.log.disk import Disk, File, Mapping
from logd.wire.batches import HEADER_BYTES, LOG_OVERHEAD_BYTES, check_crc, read_header
from logd.wire.checksum import crc32c

LOG_SUFFIX: Final = ".log"
RETIRED_SUFFIX: Final = ".retired"

GROW_BYTES_MIN: Final = 64 * 1024
GROW_BYTES_MAX: Final = 4 * 1024 * 1024
WALK_BYTES: Final = 8 * 1024
SCAN_BYTES: Final = 256 * 1024
RELATIVE_OFFSET_MAX: Final = 2**31 - 1

# Where a v2 batch holds what a walk over headers needs.
PLACE: Final = Struct(">qi")  # base offset, length, at 0
LAST_DELTA: Final = Struct(">i")  # at 23
TIMES: Final = Struct(">qq")  # base and max timestamp, at 27


class Cold(Exception):
    """The answer is not in memory: ask again in a worker thread, where the disk may be waited for."""


class BatchPlace(NamedTuple):
    """Where a batch lies in a file, in bytes, and what it spans; ``max_timestamp`` is -1 where it has none."""

    position: int
    size: int
    base_offset: int
    last_offset: int
    max_timestamp: int


class BatchFile:
    """Batches from ``base_offset`` on in the first ``size`` bytes of one file."""

    __slots__ = (
        "_disk",
        "_file",
        "_mapped",
        "_released_file",
        "_released_mapping",
        "_sure",
        "allocated",
        "base_offset",
        "checksum",
        "finished",
        "path",
        "preallocated",
        "sealed",
        "size",
        "written_from",
    )

    def __init__(self, disk: Disk, directory: str, base_offset: int) -> None:
        self._disk = disk
        self.path = f"{directory}/{base_offset:020d}"
        self.base_offset = base_offset
        self.size = 0
        self.allocated = 0
        self.preallocated = 0  # how large the file is made at once
        self.sealed = False  # nothing is appended any more
        self.finished = False  # sealed, and all of it on disk
        self.written_from = 0  # the position from which on this process wrote it
        self._sure: list[tuple[int, int]] = []  # where, below that, it was read and found well
        self.checksum: int | None = None  # of the whole file, of a compacted segment until that was looked at
        self._file: File | None = None
        self._mapped: tuple[Mapping, int] | None = None  # and how many bytes
        # What was let go and is still in use by readers is used again, or a thousand of them would pin a thousand maps.
        self._released_file: ref[File] | None = None
        self._released_mapping: tuple[ref[Mapping], int] | None = None

    # Open and mapped

    @property
    def log_path(self) -> str:
        """The file's path, with its suffix."""
        return self.path + LOG_SUFFIX

    @property
    def open_file(self) -> File | None:
        """The file, when it is open, or still is for others that read it."""
        file = self._file
        if file is None and self._released_file is not None:
            file = self._file = self._released_file()
        return file

    @property
    def file(self) -> File:
        """The open file, opened (and made, when it is the first to be written) on first use."""
        file = self.open_file
        if file is None:
            file = self._file = self._disk.open(self.log_path, create=not self.sealed)
        return file

    def mapping(self, size: int) -> Mapping:
        """Return a map of at least the first ``size`` bytes."""
        mapped = self._mapped
        if mapped is None and self._released_mapping is not None:
            mapping, mapped_bytes = self._released_mapping[0](), self._released_mapping[1]
            mapped = (mapping, mapped_bytes) if mapping is not None else None
        if mapped is None or mapped[1] < size:
            mapped_bytes = self.size if self.sealed else max(self.allocated, size)
            mapped = self._disk.map(self.file, mapped_bytes), mapped_bytes
        self._mapped = mapped  # in one step: a worker thread may be here while the loop is
        return mapped[0]

    def close(self) -> None:
        """Close and unmap, as far as nobody else uses them; the next who needs them opens again."""
        if self._file is not None:
            self._released_file = ref(self._file)
        if self._mapped is not None:
            self._released_mapping = ref(self._mapped[0]), self._mapped[1]
        self._file = None
        self._mapped = None

    def forget(self) -> None:
        """Let the files be removed without anybody having to wait but this thread; promises nothing.

        What nobody has open takes up no descriptor afterwards: thousands may be removed one after the other.
        """
        file, mapped = self._file, self._mapped
        if file is None and self._released_file is not None:
            file = self._released_file()
        mapping = mapped[0] if mapped is not None else None
        if mapping is None and self._released_mapping is not None:
            mapping = self._released_mapping[0]()
        with contextlib.suppress(StorageFailed):
            if file is not None:
                self._disk.outlive(file, mapping)
            self._disk.forget(file or self._disk.open(self.log_path), self.size)

    def retire(self) -> None:
        """Let those who still read go on while another file takes this name: the file stays open, the index is its own.

        :raises StorageFailed: the file cannot be opened.
        """
        self._file = self.file
        self.path += RETIRED_SUFFIX  # where no file is
        self.finished = False  # never closed but with its last reader

    # Its length

    def grow(self, size: int) -> None:
        """Allocate room for ``size`` more bytes, and some beyond that, so that a full disk is an error and no crash.

        :raises StorageFailed: and nothing has changed.
        """
        step = max(min(max(GROW_BYTES_MIN, self.allocated), GROW_BYTES_MAX), self.preallocated - self.allocated)
        needed = self.size + size - self.allocated
        step = max(step, (needed + GROW_BYTES_MIN - 1) // GROW_BYTES_MIN * GROW_BYTES_MIN)
        self._disk.allocate(self.file, self.allocated, step)
        self.allocated += step

    def trim(self) -> None:
        """Cut the file to its data, and flush it. Waits for the disk.

        :raises StorageFailed: the disk failed.
        """
        if self.allocated != self.size:
            self._disk.resize(self.file, self.size)
            self.allocated = self.size
        self._disk.sync(self.file)

    def cut_back(self, position: int) -> None:
        """Make ``position`` the end, to be written on from there; what was behind it is zeroed and flushed first.

        Zeroed, not cut off: readers may hold the mapped bytes. Waits for the disk.

        :raises StorageFailed: the disk failed.
        """
        file = self.file
        for start in range(position, self.allocated, SCAN_BYTES):
            self._disk.write(file, bytes(min(SCAN_BYTES, self.allocated - start)), start)
        self._disk.sync(file)
        self.size = position
        self.written_from = min(self.written_from, position)
        self._sure = [(low, min(high, position)) for low, high in self._sure if low < position]
        self.sealed = self.finished = False
        self.checksum = None

    # Whether it is what was appended

    def is_sure(self, start: int, stop: int) -> bool:
        """Say whether the bytes between two positions are known to be what was appended."""
        stop = min(stop, self.written_from)
        return start >= stop or any(low <= start and stop <= high for low, high in self._sure)

    def make_sure(self, start: int, stop: int) -> None:
        """Note that the bytes between two positions are well."""
        if self.is_sure(start, stop):
            return
        apart = []
        for low, high in self._sure:
            if low <= stop and start <= high:
                start, stop = min(start, low), max(stop, high)
            else:
                apart.append((low, high))
        self._sure = [*apart, (start, stop)]

    def check_whole(self) -> None:
        """Look once whether a compacted segment is, to the byte, what compaction wrote; waits for the disk.

        Where a batch's own checksum is wrong, that explains it, and whoever reads that batch hears so.

        :raises Corrupt: a field that no batch's checksum covers is wrong, nobody knows where.
        """
        wanted, file = self.checksum, self.file
        if wanted is None:
            return
        found = 0
        for position in range(0, self.size, SCAN_BYTES):
            found = crc32c(self._disk.read(file, min(SCAN_BYTES, self.size - position), position), found)
        if found != wanted and not self._has_bad_batch():
            raise Corrupt(self.log_path, 0, "the compacted segment is not what was written")
        self.checksum = None

    def _has_bad_batch(self) -> bool:
        try:
            for place in self.walk(0, self.size):
                data = self._disk.read(self.file, place.size, place.position)
                if len(data) < place.size or not check_crc(data, 0, read_header(data)):
                    return True
        except Corrupt:
            return True
        return False

    # Its batches

    def walk(self, start: int, stop: int) -> Iterator[BatchPlace]:
        """Yield the batches between two positions, header by header, checking lengths and that offsets can be here.

        :raises Corrupt: at a length or an offset that cannot be.
        """
        position = start
        while position < stop:
            chunk = self._disk.read(self.file, min(WALK_BYTES, stop - position), position)
            at = 0
            while at + HEADER_BYTES <= len(chunk):
                base, length = PLACE.unpack_from(chunk, at)
                size = self._checked(length, position + at)
                last = base + LAST_DELTA.unpack_from(chunk, at + 23)[0]
                if not 0 <= base - self.base_offset <= last - self.base_offset <= RELATIVE_OFFSET_MAX:
                    raise Corrupt(self.log_path, position + at, f"offsets {base} to {last} cannot be in this segment")
                yield BatchPlace(position + at, size, base, last, TIMES.unpack_from(chunk, at + 27)[1])
                at += size
            if at == 0:
                raise self._ends_early(position)
            position += at

    def last_offset_at(self, position: int) -> int:
        """Return the last offset of the batch at ``position``, -1 where no header is."""
        head = self._disk.read(self.file, HEADER_BYTES, position)
        if len(head) < HEADER_BYTES:
            return -1
        base: int = PLACE.unpack_from(head)[0]
        delta: int = LAST_DELTA.unpack_from(head, 23)[0]
        return base + delta

    def _checked(self, length: int, position: int) -> int:
        """Return the bytes of the batch at ``position`` that says it has this length."""
        size = length + LOG_OVERHEAD_BYTES
        if size < HEADER_BYTES or position + size > self.size:
            raise Corrupt(self.log_path, position, f"a batch length of {length} cannot be")
        return size

    def _read(self, size: int, position: int, wait: bool) -> bytes:
        """Return just so many bytes; raises Cold where, without ``wait``, the disk would have to be waited for."""
        if wait:
            data = self._disk.read(self.file, size, position)
            if len(data) < size:
                raise self._ends_early(position + len(data))
            return data
        found = self._disk.read_cached(self.file, size, position)
        if found is None or len(found) < size:
            raise Cold
        return found

    def _ends_early(self, position: int) -> Corrupt:
        return Corrupt(self.log_path, position, "the segment ends inside a batch")
