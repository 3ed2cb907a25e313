"""The file that ``backup`` writes and reads: blocks one after the other, each with a checksum, a digest at the end.

Text for people first, then blocks: kind, length, CRC-32C, payload. The order is: one header, all topics, all groups
with their committed offsets, the data (whole record batches as the server stores them), one end, whose SHA-256 covers
every byte before it. So an archive that is damaged, cut short or put together anew is told before any of it is used.
Streamed both ways: no more than one block is in memory. Knows nothing of servers.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypeVar

import msgspec

from logd.errors import Corrupt, DecodeError
from logd.wire.batches import read_headers
from logd.wire.checksum import crc32c
from logd.wire.message import Buffer

MAGIC = b"logd backup 1\n"
BLOCK = struct.Struct(">cII")
PLACE = struct.Struct(">II")
HEADER, TOPIC, GROUP, DATA, END = b"H", b"T", b"G", b"D", b"E"

S = TypeVar("S", bound=msgspec.Struct)


class Head(msgspec.Struct):
    """When, of which cluster, by which program."""

    created_ms: int
    cluster: str
    program: str
    version: int = 1


class ArchivedTopic(msgspec.Struct):
    """A topic; its number is its place among the topics. `starts` and `ends` are the offsets of what was there."""

    name: str
    starts: list[int]
    ends: list[int]
    configs: dict[str, str] = {}


class ArchivedCommit(msgspec.Struct, array_like=True):
    """One committed offset."""

    topic: str
    partition: int
    offset: int
    metadata: str = ""


class ArchivedGroup(msgspec.Struct):
    """A group with what it has committed."""

    name: str
    commits: list[ArchivedCommit]
    configs: dict[str, str] = {}


class End(msgspec.Struct):
    """What the archive must hold, or it is not whole."""

    blocks: int
    records: int
    data_bytes: int
    sha256: str


class Contents(NamedTuple):
    """A whole archive but for its data; `records` by number of the topic and partition."""

    head: Head
    topics: list[ArchivedTopic]
    groups: list[ArchivedGroup]
    end: End
    records: dict[tuple[int, int], int]


class ArchiveWriter:
    """Writes one archive to an open file, in the order of the blocks."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self._blocks = 0
        self.records = 0
        self.data_bytes = 0
        self._put(MAGIC)

    def _put(self, data: Buffer) -> None:
        self._digest.update(data)
        self._file.write(data)

    def _block(self, kind: bytes, *parts: Buffer) -> None:
        checksum = crc32c(kind)
        for part in parts:
            checksum = crc32c(part, checksum)
        self._put(BLOCK.pack(kind, sum(map(len, parts)), checksum))
        for part in parts:
            self._put(part)
        self._blocks += 1

    def write(self, kind: bytes, value: msgspec.Struct) -> None:
        """A header, a topic or a group."""
        self._block(kind, msgspec.json.encode(value))

    def data(self, topic: int, partition: int, batches: list[Buffer], records: int) -> None:
        """Whole batches of one partition that follow those before."""
        self._block(DATA, PLACE.pack(topic, partition), *batches)
        self.records += records
        self.data_bytes += sum(map(len, batches))

    def finish(self) -> End:
        """Close the order: nothing may follow."""
        end = End(self._blocks, self.records, self.data_bytes, self._digest.hexdigest())
        self._block(END, msgspec.json.encode(end))
        self._file.flush()
        return end


class Block(NamedTuple):
    """One block as it was read; `position` is where it begins in the file."""

    kind: bytes
    payload: memoryview
    position: int


class ArchiveReader:
    """Reads an archive from the start. ``digest`` covers what was read, up to the block that was given last."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path = path
        self._file = file
        self._size = file.seek(0, os.SEEK_END)
        file.seek(0)
        self.digest = hashlib.sha256()
        self.position = len(MAGIC)
        if file.read(len(MAGIC)) != MAGIC:
            raise self.damaged("this is no backup of logd", 0)
        self.digest.update(MAGIC)

    @property
    def size(self) -> int:
        """Of the file, in bytes."""
        return self._size

    def damaged(self, why: str, position: int | None = None) -> Corrupt:
        """The error for something that is wrong here."""
        return Corrupt(str(self._path), self.position if position is None else position, why)

    def _take(self, size: int) -> bytes:
        data = self._file.read(size) if size <= self._size - self.position else b""
        if len(data) < size:
            raise self.damaged("the file ends in the middle of a block: it was cut short, or the block is damaged")
        self.position += size
        return data

    def blocks(self) -> Iterator[Block]:
        """Every block to the end of the file. :raises Corrupt: one is not what its checksum says."""
        while self.position < self._size:
            position = self.position
            head = self._take(BLOCK.size)
            kind, size, checksum = BLOCK.unpack(head)
            payload = self._take(size)
            if crc32c(payload, crc32c(kind)) != checksum:
                raise self.damaged(f"the checksum of a block of {size} bytes does not match", position)
            yield Block(kind, memoryview(payload), position)
            self.digest.update(head)
            self.digest.update(payload)

    def decode(self, block: Block, kind: type[S]) -> S:
        """A block that is not data, as a value."""
        try:
            return msgspec.json.decode(block.payload, type=kind)
        except msgspec.DecodeError as error:
            raise self.damaged(str(error), block.position) from None


def place_of(block: Block) -> tuple[int, int, memoryview]:
    """Number of the topic, partition, and the batches of a block of data."""
    topic, partition = PLACE.unpack_from(block.payload)
    return topic, partition, block.payload[PLACE.size :]


def verify(reader: ArchiveReader, advance: Callable[[int], None]) -> Contents:
    """Read all of it, and tell what is in it; `advance` is told the bytes as they pass.

    :raises Corrupt: it is damaged, cut short, or not in order.
    """
    head: Head | None = None
    end: End | None = None
    topics: list[ArchivedTopic] = []
    groups: list[ArchivedGroup] = []
    records: dict[tuple[int, int], int] = {}
    data_bytes = 0
    for count, block in enumerate(reader.blocks()):
        if end is not None or (head is None) != (block.kind == HEADER):
            raise reader.damaged("a block stands where none may be", block.position)
        if block.kind == HEADER:
            head = reader.decode(block, Head)
            if head.version != 1:
                raise reader.damaged(f"version {head.version} is newer than this program", block.position)
        elif block.kind == TOPIC:
            topics.append(reader.decode(block, ArchivedTopic))
        elif block.kind == GROUP:
            groups.append(reader.decode(block, ArchivedGroup))
        elif block.kind == DATA:
            data_bytes += _count(reader, block, topics, records)
        elif block.kind == END:
            end = reader.decode(block, End)
            held = End(count, sum(records.values()), data_bytes, reader.digest.hexdigest())
            if end != held:
                raise reader.damaged("the end does not fit what comes before it", block.position)
        else:
            raise reader.damaged(f"a block of unknown kind {block.kind!r}", block.position)
        advance(BLOCK.size + len(block.payload))
    if head is None or end is None:
        raise reader.damaged("the end is missing: it was cut short")
    return Contents(head, topics, groups, end, records)


def _count(
    reader: ArchiveReader, block: Block, topics: list[ArchivedTopic], records: dict[tuple[int, int], int]
) -> int:
    """Count the records of a block of data; its bytes."""
    try:
        number, partition, batches = place_of(block)
        found = sum(header.count for _, header in read_headers(batches))
    except (DecodeError, struct.error) as error:
        raise reader.damaged(str(error), block.position) from None
    if number >= len(topics) or partition >= len(topics[number].ends):
        raise reader.damaged("data of a topic that is not in the archive", block.position)
    records[number, partition] = records.get((number, partition), 0) + found
    return len(batches)
