"""The data directory: one process, one format, and whether it was left clean."""

from __future__ import annotations

from pathlib import Path

import pytest

from logd.log.directory import FORMAT_NAME, DataDirectory, DirectoryUnusable
from logd.log.disk import RealDisk


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
