"""The disk of the compaction worker: what it writes and reads past the page cache is what the ordinary one sees."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from logd.errors import StorageFailed
from logd.log.bulk import BUFFERS, STREAM_BYTES, BulkDisk
from logd.log.chunks import CHUNK_BYTES, Reader
from logd.log.disk import PAGE_BYTES, RealDisk
from tests.log.batches import batch

STEP = 1_000_003


def _content(size: int) -> bytes:
    return (os.urandom(STEP) * (size // STEP + 1))[:size]


def _write(disk: BulkDisk, path: str, content: bytes) -> None:
    file = disk.open(path, create=True)
    disk.allocate(file, 0, 1 << 16)
    for at in range(0, len(content), STEP):
        disk.allocate(file, at + 1, STEP)
        disk.write(file, content[at : at + STEP], at)
    disk.resize(file, len(content))
    disk.sync(file)


@pytest.mark.parametrize(
    "size", [0, 1, PAGE_BYTES, STREAM_BYTES - 1, STREAM_BYTES, STREAM_BYTES + 1, 3 * STREAM_BYTES + 12_345]
)
def test_writes_and_reads_all(tmp_path: Path, size: int) -> None:
    """Files of any size are what was written, cached or not, and end where they should."""
    disk, path, content = BulkDisk(), str(tmp_path / "a"), _content(size)
    _write(disk, path, content)
    file = disk.open(path)
    os.posix_fadvise(file.fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.pread(file.fd, 1, size // 2)  # some pages are cached
    room = memoryview(bytearray(size + 2 * PAGE_BYTES))
    whole = len(room) & -PAGE_BYTES
    assert disk.read_into(file, room[:whole], 0) == size
    assert bytes(room[:size]) == content == (tmp_path / "a").read_bytes()


def test_a_second_file_is_its_own(tmp_path: Path) -> None:
    """Files that are written one after the other, the first of them never ended, share nothing."""
    disk = BulkDisk()
    left = disk.open(str(tmp_path / "left"), create=True)
    disk.allocate(left, 0, 1)
    disk.write(left, b"x" * (STREAM_BYTES + 1), 0)
    content = _content(2 * STREAM_BYTES + 1)
    _write(disk, str(tmp_path / "b"), content)
    assert (tmp_path / "b").read_bytes() == content


def test_small_files_are_written_as_ever(tmp_path: Path) -> None:
    """A file that was not allocated is there without a flush."""
    disk = BulkDisk()
    disk.replace(str(tmp_path / "c"), b"small", sync=False)
    assert disk.load(str(tmp_path / "c")) == b"small"


@pytest.mark.parametrize("when", ["write", "sync"])
def test_a_failed_write_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    """What fails in the background is told by a later write or by the flush."""
    disk = BulkDisk()
    file = disk.open(str(tmp_path / "d"), create=True)
    disk.allocate(file, 0, 1)

    def fail(*_: Any) -> int:
        raise OSError(errno.ENOSPC, "no room")

    monkeypatch.setattr(os, "pwrite", fail)
    disk.write(file, bytes(STREAM_BYTES), 0)
    ask: dict[str, Callable[[], None]] = {
        "write": lambda: disk.write(file, bytes(BUFFERS * STREAM_BYTES), STREAM_BYTES),
        "sync": lambda: disk.sync(file),
    }
    with pytest.raises(StorageFailed, match="no room"):
        ask[when]()


def test_a_device_that_wants_it_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where writing or reading past the cache is refused, it goes through the cache."""
    real_write, real_read = os.pwrite, os.preadv
    disk, path, content = BulkDisk(), str(tmp_path / "e"), _content(2 * STREAM_BYTES + 77)
    refused = []

    def is_direct(fd: int) -> bool:
        flags = Path(f"/proc/self/fdinfo/{fd}").read_text().split("flags:")[1].split()[0]
        return bool(int(flags, 8) & os.O_DIRECT)

    def write(fd: int, data: Any, position: int) -> int:
        if is_direct(fd):
            refused.append("write")
            raise OSError(errno.EINVAL, "alignment")
        return real_write(fd, data, position)

    def read(fd: int, rooms: Any, position: int, flags: int = 0) -> int:
        if is_direct(fd):
            refused.append("read")
            raise OSError(errno.EINVAL, "alignment")
        return real_read(fd, rooms, position, flags)

    monkeypatch.setattr(os, "pwrite", write)
    monkeypatch.setattr(os, "preadv", read)
    _write(disk, path, content)
    file = disk.open(path)
    os.posix_fadvise(file.fd, 0, 0, os.POSIX_FADV_DONTNEED)
    room = memoryview(bytearray((len(content) + 2 * PAGE_BYTES) & -PAGE_BYTES))
    assert disk.read_into(file, room, 0) == len(content)
    assert bytes(room[: len(content)]) == content
    if refused:  # else the file system that the tests run on knows no such files
        assert refused == ["write", "read"]


@pytest.mark.parametrize("disk", [BulkDisk(), RealDisk()], ids=["bulk", "real"])
@pytest.mark.parametrize("value_bytes", [10_000, CHUNK_BYTES + 100])
def test_chunks_hold_all_batches(tmp_path: Path, disk: RealDisk, value_bytes: int) -> None:
    """Batches are found in a segment that is read in chunks, those larger than a chunk too, none behind its end."""
    count = 1 + 3 * CHUNK_BYTES // value_bytes
    one = batch(value=b"v" * value_bytes)
    made = b"".join(at.to_bytes(8, "big") + one[8:] for at in range(count))
    (tmp_path / "f").write_bytes(made + b"more")
    found = []
    for chunk in Reader(disk).chunks(str(tmp_path / "f"), len(made)):
        found += [(each.header.base_offset, bytes(each.data)) for each in chunk]
    assert [offset for offset, _ in found] == list(range(count))
    assert b"".join(data for _, data in found) == made
