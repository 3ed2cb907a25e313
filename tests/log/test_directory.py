"""The data directory: one process, one format, and whether it was left clean."""

from __future__ import annotations

import os
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from logd.errors import StorageFailed
from logd.log.directory import (
    CLOCK_BEHIND_MAX_MS,
    CLOCK_NAME,
    FORMAT_NAME,
    DataDirectories,
    DataDirectory,
    DirectoryUnusable,
)
from logd.log.disk import RealDisk
from tests.fakes.disks import FaultyDisk


def test_clean_marker(tmp_path: Path) -> None:
    """A directory is clean only between mark_clean and the next mark_dirty."""
    path = f"{tmp_path}/new/data"
    first = DataDirectory.open(path)
    assert not first.was_clean
    first.mark_dirty()
    first.mark_clean()
    first.close()
    second = DataDirectory.open(path)
    assert second.was_clean
    second.mark_dirty()
    second.close()
    assert not DataDirectory.open(path).was_clean


def test_second_process(tmp_path: Path) -> None:
    """Whoever comes second is told which directory and what to do."""
    first = DataDirectory.open(str(tmp_path))
    with pytest.raises(DirectoryUnusable, match="in use by another logd"):
        DataDirectory.open(str(tmp_path))
    first.close()
    DataDirectory.open(str(tmp_path))


@pytest.mark.parametrize(("content", "why"), [('{"logd_format": 99}', "format 99"), ("nonsense", "damaged")])
def test_format(tmp_path: Path, content: str, why: str) -> None:
    """A newer format, or what is no data directory, is refused and left as it is."""
    (tmp_path / FORMAT_NAME).write_text(content)
    with pytest.raises(DirectoryUnusable, match=why):
        DataDirectory.open(str(tmp_path))
    assert (tmp_path / FORMAT_NAME).read_text() == content


def test_one_cluster(tmp_path: Path) -> None:
    """A directory stays with the cluster that it was first used for."""
    directory = DataDirectory.open(str(tmp_path))
    directory.belong_to("one")
    directory.belong_to("one")
    with pytest.raises(DirectoryUnusable, match="belongs to cluster one and the metadata to cluster two"):
        directory.belong_to("two")
    directory.close()
    DataDirectory.open(str(tmp_path)).belong_to("one")


def test_time_goes_back(tmp_path: Path) -> None:
    """A clock that was set back by more than a day is told, with both times; what is noted badly tells nothing."""
    directory = DataDirectory.open(str(tmp_path))
    directory.check_clock(0)
    directory.note_clock(1_790_000_000_000)
    directory.check_clock(1_790_000_000_000 - CLOCK_BEHIND_MAX_MS)
    directory.check_clock(1_990_000_000_000)
    with pytest.raises(DirectoryUnusable, match=r"is 1970-01-01 .* in use at 2026-09-21 .*: set the clock, or"):
        directory.check_clock(0)
    note = bytearray((tmp_path / CLOCK_NAME).read_bytes())
    note[-1] ^= 1
    (tmp_path / CLOCK_NAME).write_bytes(note)
    directory.check_clock(0)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_owner(tmp_path: Path) -> None:
    """What another user has begun is refused, and nothing in it changed; an empty directory of another one is not."""
    os.chown(tmp_path, 12345, 12345)
    DataDirectory.open(str(tmp_path)).close()
    os.chown(tmp_path / FORMAT_NAME, 12345, 12345)
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(DirectoryUnusable, match=f"belongs to user 12345 .* run chown -R 0 {tmp_path}"):
        DataDirectory.open(str(tmp_path))
    assert sorted(os.listdir(tmp_path)) == before


def test_not_a_directory(tmp_path: Path) -> None:
    """A path that cannot be a directory gets one sentence."""
    (tmp_path / "file").write_text("")
    with pytest.raises(DirectoryUnusable, match="choose another"):
        DataDirectory.open(f"{tmp_path}/file/data")


def test_names_of_new_directories_are_flushed(tmp_path: Path) -> None:
    """A data directory that is made, and those above it, are in their parents when the power goes."""

    class Watched(RealDisk):
        def sync_directory(self, path: str) -> None:
            flushed.append(path)
            super().sync_directory(path)

    flushed: list[str] = []
    DataDirectory.open(str(tmp_path / "a" / "b"), disk=Watched()).close()
    assert flushed == [str(tmp_path / "a"), str(tmp_path)]
    DataDirectory.open(str(tmp_path / "a" / "b"), disk=Watched()).close()
    assert len(flushed) == 2


@pytest.mark.parametrize("mark", ["mark_dirty", "mark_clean"])
def test_one_of_several_that_cannot_be_written_to(tmp_path: Path, mark: str) -> None:
    """Of several directories one may fail, also at its marker; the first, which holds the metadata, must not."""
    paths = [str(tmp_path / name) for name in ("first", "second", "third")]
    before = DataDirectories.open(paths)
    before.mark_clean()
    before.close()
    call = "remove" if mark == "mark_dirty" else "replace"
    for at in range(3):
        disks: list[Any] = [RealDisk(), RealDisk(), RealDisk()]
        disks[at] = FaultyDisk(disks[at], call, 1)
        first, *others = (DataDirectory.open(path, disk=disk) for path, disk in zip(paths, disks, strict=True))
        both = DataDirectories(first, {one.path: one for one in others})
        with nullcontext() if at else pytest.raises(StorageFailed):
            getattr(both, mark)()
        assert disks[at].fired(call)
        both.mark_clean()
        both.close()
