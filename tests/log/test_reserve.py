"""Logs stop growing before a disk is full, and some of it is held against others."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from logd.errors import StorageFailed
from logd.log.bulk import STREAM_BYTES, BulkDisk
from logd.log.disk import RealDisk, occupy
from logd.log.log import Log, LogConfig
from logd.log.reserve import RESERVE_NAME, Room
from tests.log.batches import TOPIC_ID, append, batch, content, flush
from tests.log.compacting import clean, last_values, put, roll

MIB = 1 << 20


class Space:
    """A file system of 400 MiB whose free space is set by hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.free = 300 * MIB
        monkeypatch.setattr(os, "statvfs", self._told)

    def _told(self, path: str) -> Any:
        return os.statvfs_result((4096, 4096, 400 * MIB // 4096, self.free // 4096, self.free // 4096, 0, 0, 0, 0, 255))


@pytest.fixture
def space(monkeypatch: pytest.MonkeyPatch) -> Space:
    return Space(monkeypatch)


def test_growth_ends_before_the_disk_is_full(space: Space, tmp_path: Path) -> None:
    """Below the limit an append that must grow its file is refused and changes nothing; with space it goes on."""
    disk = RealDisk(room=Room(str(tmp_path), 4 * MIB))
    log = Log.create(f"{tmp_path}/t-0", TOPIC_ID, LogConfig(), now_ms=0, disk=disk)
    append(log, batch(value=bytes(50_000)))
    space.free = 4 * MIB
    append(log, batch())  # there is room in the file
    with pytest.raises(StorageFailed, match="No space"):
        append(log, batch(value=bytes(50_000)))
    flush(log)
    assert (log.end_offset, log.flushed_offset, log.failure) == (2, 2, None)
    assert len(content(log)) == 2
    space.free = 20 * MIB
    append(log, batch(value=bytes(50_000)))
    log.close()


def test_reserve_is_given_away_and_taken_again(space: Space, tmp_path: Path) -> None:
    """The reserve goes when others fill the disk, by the next flush or append, and comes back with plenty of space."""
    room = Room(str(tmp_path), 2 * MIB)
    assert room.wants()
    room.hold(occupy)
    file = tmp_path / RESERVE_NAME
    assert file.stat().st_blocks * 512 >= 2 * MIB
    assert not room.wants()
    assert Room(str(tmp_path), 2 * MIB).held
    space.free = 2 * MIB
    room.ease()
    assert file.exists()
    space.free = MIB // 2
    room.ease()
    assert not file.exists()
    space.free = 3 * MIB
    assert not room.wants()
    space.free = 6 * MIB
    assert room.wants()


def test_the_reserve_is_there_for_small_files(space: Space, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What only they tell, as that records were deleted, is written though others have filled the disk."""
    room = Room(str(tmp_path), 2 * MIB)
    room.hold(occupy)
    pwrite = os.pwrite

    def full(fd: int, data: bytes, position: int) -> int:
        if (tmp_path / RESERVE_NAME).exists():
            raise OSError(errno.ENOSPC, "No space left on device")
        return pwrite(fd, data, position)

    space.free = 0
    monkeypatch.setattr(os, "pwrite", full)
    RealDisk(room=room).replace(f"{tmp_path}/small", b"deleted", sync=True)
    assert (tmp_path / "small").read_bytes() == b"deleted"


def test_small_disks(space: Space, tmp_path: Path) -> None:
    """No more than a fortieth of a disk is kept free; 0 turns it off."""
    assert Room(str(tmp_path), 1 << 40).free_bytes_min == 10 * MIB
    off = Room(str(tmp_path), 0)
    space.free = 0
    assert off.admits(MIB)
    assert not off.wants()


@pytest.mark.parametrize("size", [100, STREAM_BYTES, 3 * STREAM_BYTES])
def test_compaction_leaves_some_room(space: Space, tmp_path: Path, size: int) -> None:
    """A compacted segment may take half of what logs leave, as it makes room in the end; more is refused."""
    disk = BulkDisk(4 * MIB)
    log = Log.create(f"{tmp_path}/t-0", TOPIC_ID, LogConfig(max_message_bytes=2**25), now_ms=0, disk=RealDisk())
    for value in ("old", "v" * size):
        put(log, ("k", value))
    roll(log)
    space.free = 2 * MIB + min(size, STREAM_BYTES) - 1
    with pytest.raises(StorageFailed, match="No space"):
        clean(log, disk)
    assert not list(tmp_path.rglob("*.cleaned.*"))
    space.free = 2 * MIB + 2 * size + 4096
    clean(log, disk)
    assert last_values(log) == {b"k": b"v" * size}
    log.close()


def test_a_reserve_that_is_half_made(space: Space, tmp_path: Path) -> None:
    """What a killed process left of it, or an earlier and smaller setting, is made whole."""
    (tmp_path / RESERVE_NAME).write_bytes(bytes(1000))
    room = Room(str(tmp_path), 2 * MIB)
    assert room.wants()
    room.hold(occupy)
    assert (tmp_path / RESERVE_NAME).stat().st_size == 2 * MIB
    assert not room.wants()
