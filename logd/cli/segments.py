"""Segment files read by a person: which there are below a path, their batches, and where one is bad.

Reads with plain file calls and never maps, so that a damaged disk gives an error and no signal. Used by `log dump`
and `log verify`; writes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from logd.errors import DecodeError
from logd.wire.batches import HEADER_BYTES, BatchHeader, check_crc, read_header

SEGMENT = re.compile(r"\d{20}\.log")
READ_BYTES = 1 << 20
BATCH_BYTES_MAX = 1 << 30


class Found(NamedTuple):
    """One batch in a file: where it starts, its header, its bytes."""

    position: int
    header: BatchHeader
    data: bytes


class Fault(Exception):
    """A batch that is not what it should be.

    :param path: the file. :param position: the byte in it where the batch starts. :param why: what is wrong.
    """

    def __init__(self, path: Path, position: int, why: str) -> None:
        super().__init__(f"{path} at byte {position}: {why}")
        self.path = path
        self.position = position
        self.why = why


def segment_files(path: Path) -> list[Path]:
    """The segments at or below a path, in order of directory and offset."""
    if path.is_dir():
        return sorted(found for found in path.rglob("*.log") if SEGMENT.fullmatch(found.name))
    return [path]


def base_offset_of(path: Path) -> int:
    """The offset that the file's name says; -1 for another name."""
    return int(path.stem) if SEGMENT.fullmatch(path.name) else -1


def read_batches(path: Path) -> Iterator[Found]:
    """The batches of a segment, up to its end or to the zeros of what is allocated and not used yet.

    :raises Fault: a batch that is cut short, or bytes that are no batch. :raises OSError: the file can't be read.
    """
    with path.open("rb") as file:
        position = 0
        while True:
            file.seek(position)
            head = file.read(HEADER_BYTES)
            if not head or not any(head):
                _expect_zeros(path, file.read, position, head)
                return
            if len(head) < HEADER_BYTES:
                raise Fault(path, position, f"{len(head)} bytes are left, less than the header of a batch")
            header = read_header(head)
            _check_header(path, position, header)
            data = head + file.read(header.size - HEADER_BYTES)
            if len(data) < header.size:
                raise Fault(path, position, f"the batch should have {header.size} bytes, {len(data)} are there")
            yield Found(position, header, data)
            position += header.size


def _check_header(path: Path, position: int, header: BatchHeader) -> None:
    if header.magic != 2:
        raise Fault(path, position, f"magic {header.magic} where 2 should stand: no batch begins here")
    if not HEADER_BYTES <= header.size <= BATCH_BYTES_MAX:
        raise Fault(path, position, f"the batch claims {header.size} bytes")


def _expect_zeros(path: Path, read: object, position: int, head: bytes) -> None:
    """Allocated and unused space is zeros to the end; anything else was a batch once."""
    assert callable(read)
    at = position + len(head)
    while data := read(READ_BYTES):
        if any(data):
            first = at + len(data) - len(data.lstrip(b"\0"))
            raise Fault(path, position, f"zeros where a batch should begin, but byte {first} is not zero")
        at += len(data)


class Expected:
    """What the next batch of a partition must be; one object for its segments in order."""

    def __init__(self) -> None:
        self._next_offset = -1
        self._epoch = -1

    def begin(self, path: Path) -> None:
        """The next batch is the first of this file."""
        base = base_offset_of(path)
        if base >= 0:
            if base < self._next_offset:
                raise Fault(path, 0, f"the segment before it ends at offset {self._next_offset}")
            self._next_offset = base

    def check(self, path: Path, found: Found) -> None:
        """:raises Fault: checksum, offsets or leader epoch are wrong."""
        header = found.header
        if not check_crc(found.data, 0, header):
            raise Fault(path, found.position, f"the checksum of the batch at offset {header.base_offset} is wrong")
        if header.base_offset < self._next_offset:
            why = f"base offset {header.base_offset} where at least {self._next_offset} must come"
            raise Fault(path, found.position, why)
        if header.last_offset_delta < 0 or header.count > header.last_offset_delta + 1:
            why = f"{header.count} records but a last offset delta of {header.last_offset_delta}"
            raise Fault(path, found.position, why)
        if header.leader_epoch < self._epoch:
            why = f"leader epoch {header.leader_epoch} after {self._epoch}: epochs never go down"
            raise Fault(path, found.position, why)
        self._next_offset = header.next_offset
        self._epoch = header.leader_epoch


def check_records(path: Path, found: Found, bytes_max: int) -> None:
    """Open the batch too. :raises Fault: its records are not what the header says."""
    from logd.wire.batches import read_records

    try:
        read_records(found.data, bytes_max=bytes_max)
    except DecodeError as error:
        raise Fault(path, found.position, str(error)) from error
