"""A file of batches: how it grows and ends, who keeps it open, what of it is sure, and how it is walked over."""

from __future__ import annotations

from pathlib import Path

import pytest

from logd.errors import Corrupt, StorageFailed
from logd.log.batch_file import GROW_BYTES_MAX, GROW_BYTES_MIN, BatchFile
from logd.log.disk import RealDisk
from logd.wire.batches import stamp
from tests.fakes.disks import MemoryDisk
from tests.log.batches import batch

DIRECTORY = "/data/t-0"


@pytest.fixture
def file(disk: MemoryDisk) -> BatchFile:
    return BatchFile(disk, DIRECTORY, 100)


def fill(file: BatchFile, disk: MemoryDisk, base_offsets: list[int]) -> list[int]:
    """Write one batch of a record for each offset; return where each begins."""
    positions = []
    for base in base_offsets:
        data = batch()
        stamp(memoryview(data), 0, base, 0)
        file.grow(len(data))
        disk.write(file.file, data, file.size)
        positions.append(file.size)
        file.size += len(data)
    return positions


def test_it_doubles_up_to_a_step(file: BatchFile) -> None:
    """A file starts small and is doubled, up to a largest step; a batch that is larger gets its room at once."""
    seen = []
    for _ in range(9):
        file.grow(1)
        seen.append(file.allocated)
    doubled = [GROW_BYTES_MIN * 2**at for at in range(7)]
    assert seen == [*doubled, GROW_BYTES_MAX * 2, GROW_BYTES_MAX * 3]
    file.size = file.allocated
    file.grow(GROW_BYTES_MAX + 1)
    assert file.allocated == GROW_BYTES_MAX * 4 + GROW_BYTES_MIN


def test_it_is_allocated_at_once(file: BatchFile) -> None:
    """With ``preallocate`` the first step is all that the segment may take."""
    file.preallocated = 1_000_000
    file.grow(1)
    assert file.allocated == 1_000_000


def test_a_full_disk_changes_nothing(file: BatchFile, disk: MemoryDisk) -> None:
    """Where there is no room to grow, the file is as long as before, and grows once there is room."""
    disk.capacity_bytes = GROW_BYTES_MIN - 1
    with pytest.raises(StorageFailed):
        file.grow(1)
    assert file.allocated == 0
    disk.capacity_bytes = GROW_BYTES_MIN
    file.grow(1)
    assert file.allocated == GROW_BYTES_MIN


def test_trimmed_it_ends_with_its_data(file: BatchFile, disk: MemoryDisk) -> None:
    """What was allocated ahead is given back, on the disk too."""
    fill(file, disk, [100, 101])
    file.trim()
    stored = disk.names[file.log_path]
    assert stored is not None
    assert len(stored.data) == len(stored.durable) == file.size == file.allocated


def test_cut_back_it_holds_zeros(file: BatchFile, disk: MemoryDisk) -> None:
    """What is cut off is zeros on the disk, and what was sure of it is so no more; the file is written on."""
    _, second = fill(file, disk, [100, 101])
    file.written_from = file.size
    file.sealed = file.finished = True
    file.checksum = 1
    file.make_sure(0, file.size)
    end = file.size
    file.cut_back(second)
    stored = disk.names[file.log_path]
    assert stored is not None
    assert any(stored.durable[:second])
    assert not any(stored.durable[second:])
    assert (file.size, file.sealed, file.finished, file.checksum) == (second, False, False, None)
    file.written_from = end
    assert file.is_sure(0, second)
    assert not file.is_sure(0, end)


def test_what_this_process_wrote_is_sure(file: BatchFile) -> None:
    """Below what this process wrote, only what was looked at is sure; ranges that touch or lie over each other join."""
    file.written_from = 100
    assert file.is_sure(100, 200)
    assert not file.is_sure(99, 200)
    file.make_sure(0, 20)
    file.make_sure(40, 60)
    assert not file.is_sure(10, 50)
    file.make_sure(15, 40)
    assert file.is_sure(0, 60)
    file.make_sure(60, 100)
    assert file.is_sure(0, 200)


def test_closed_it_stays_with_its_readers(tmp_path: Path) -> None:
    """Who opens it again while somebody still reads it gets the same file and map, else new ones."""
    file = BatchFile(RealDisk(), str(tmp_path), 0)
    file.grow(1)
    opened, mapped = file.file, file.mapping(1)
    file.close()
    assert file.open_file is opened
    file.close()
    assert file.mapping(1) is mapped
    file.close()
    del opened, mapped
    assert file.open_file is None
    assert file.file.path == file.log_path


def test_retired_it_is_read_on(tmp_path: Path) -> None:
    """When another file takes its name it is read from the one that it had, and is closed by nobody else."""
    disk = RealDisk()
    file = BatchFile(disk, str(tmp_path), 0)
    disk.write(file.file, b"old", 0)
    file.sealed = file.finished = True
    name = file.log_path
    file.retire()
    disk.replace(name, b"new", sync=False)
    assert disk.read(file.file, 3, 0) == b"old"
    assert (file.log_path != name, file.finished) == (True, False)


def test_it_is_walked_over_by_headers(file: BatchFile, disk: MemoryDisk) -> None:
    """A walk tells where each batch lies and which offsets it has, with gaps between them."""
    positions = fill(file, disk, [100, 105, 106])
    places = list(file.walk(0, file.size))
    assert [one.position for one in places] == positions
    assert [(one.base_offset, one.last_offset) for one in places] == [(100, 100), (105, 105), (106, 106)]
    assert [file.last_offset_at(at) for at in positions] == [100, 105, 106]
    assert next(file.walk(positions[2], file.size)).base_offset == 106
    assert file.last_offset_at(file.allocated) == -1


@pytest.mark.parametrize(
    ("at", "field", "why"),
    [
        (8, b"\0\0\0\1", "a batch length of 1 cannot be"),
        (8, b"\x7f\0\0\0", "a batch length of 2130706432 cannot be"),
        (0, (99).to_bytes(8, "big"), "offsets 99 to 99 cannot be in this segment"),
        (23, b"\xff\xff\xff\xff", "offsets 101 to 100 cannot be in this segment"),
    ],
)
def test_a_walk_names_what_cannot_be(file: BatchFile, disk: MemoryDisk, at: int, field: bytes, why: str) -> None:
    """A length that no batch has and an offset that cannot be there are named, with the place of their batch."""
    _, second = fill(file, disk, [100, 101])
    disk.write(file.file, field, second + at)
    with pytest.raises(Corrupt, match=why) as corrupt:
        list(file.walk(0, file.size))
    assert (corrupt.value.path, corrupt.value.position) == (file.log_path, second)


def test_a_walk_ends_inside_no_batch(file: BatchFile, disk: MemoryDisk) -> None:
    """A piece that ends within a header is named."""
    _, second = fill(file, disk, [100, 101])
    file.size = second + 20
    with pytest.raises(Corrupt, match="ends inside a batch"):
        list(file.walk(0, file.size))
