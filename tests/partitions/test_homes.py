"""Several data directories, of which one was away for a while, failed, or was copied: which of them has a partition."""

from __future__ import annotations

import errno
import itertools
import os
import shutil
from pathlib import Path

import pytest

from logd.errors import ErrorCode, Refused, StorageFailed
from logd.log.disk import Entry, RealDisk
from logd.log.state import pack_meta
from logd.partitions.table import PartitionTable
from tests.log.batches import batch, content
from tests.partitions.test_table import NEW, OLD, image, table

AWAY = "it is not mounted"
STARTS = itertools.count()


@pytest.fixture
def homes(tmp_path: Path) -> tuple[Path, Path, Path]:
    """Three data directories; the first one has a partition of its own, so that new ones go to the others."""
    found = tmp_path / "first", tmp_path / "second", tmp_path / "third"
    for home in found:
        home.mkdir()
    (found[0] / "other-0").mkdir()
    return found


async def begun(homes: tuple[Path, Path, Path], topic_id: bytes, away: Path | None = None) -> PartitionTable:
    """The partitions of a topic in three directories, of which one may be away."""
    others = {home: AWAY if home == away else "" for home in homes[1:]}
    partitions = table(homes[0], others=others)
    await partitions.open_all(image(topic_id, epoch=next(STARTS)))
    return partitions


@pytest.mark.trio
async def test_a_directory_that_was_away_when_its_topic_was_made_again(homes: tuple[Path, Path, Path]) -> None:
    """What it holds is of the old topic: the new one is where it was made, and is not begun anew beside it."""
    partitions = await begun(homes, OLD)
    partitions.find("t", 0).append(batch(value=b"old"))
    assert await partitions.close()
    assert (homes[1] / "t-0").exists()
    partitions = await begun(homes, NEW, away=homes[1])
    partitions.find("t", 0).append(batch(value=b"new"))
    assert await partitions.close()
    partitions = await begun(homes, NEW)
    assert content(partitions.find("t", 0).log) == [(0, b"new")]
    assert await partitions.close()
    assert (homes[1] / "t-0").exists(), "nobody knows whose it is"


@pytest.mark.trio
async def test_a_partition_that_is_away_while_an_old_one_of_its_name_is_back(homes: tuple[Path, Path, Path]) -> None:
    """It is offline until its directory is there; the old one's is not taken for its place."""
    partitions = await begun(homes, OLD)
    partitions.find("t", 0).append(batch(value=b"old"))
    assert await partitions.close()
    partitions = await begun(homes, NEW, away=homes[1])
    partitions.find("t", 0).append(batch(value=b"new"))
    assert await partitions.close()
    partitions = await begun(homes, NEW, away=homes[2])
    with pytest.raises(Refused, match="has vanished") as refused:
        partitions.find("t", 0).append(batch(value=b"lost"))
    assert refused.value.code == ErrorCode.KAFKA_STORAGE_ERROR
    await partitions.close()
    partitions = await begun(homes, NEW)
    assert content(partitions.find("t", 0).log) == [(0, b"new")]
    assert await partitions.close()


@pytest.mark.trio
@pytest.mark.parametrize(("call", "number"), [("sync_directory", errno.EIO), ("replace", errno.ENOSPC)])
@pytest.mark.parametrize("left", [False, True])
async def test_a_partition_that_could_not_be_made_in_one(
    homes: tuple[Path, Path, Path], monkeypatch: pytest.MonkeyPatch, call: str, number: int, left: bool
) -> None:
    """The failed try leaves nothing; where it must, with the topic's id or without, that hides no records later."""

    def failing(name: str) -> None:
        made = getattr(RealDisk, name)

        def call(disk: RealDisk, path: str, *rest: object, **how: object) -> None:
            if path.startswith(str(homes[1] / "t-0")):
                raise StorageFailed(path, OSError(number, os.strerror(number)))
            made(disk, path, *rest, **how)

        patched.setattr(RealDisk, name, call)

    with monkeypatch.context() as patched:
        failing(call)
        if left:
            failing("remove")
        partitions = await begun(homes, NEW)
        partitions.find("t", 0).append(batch(value=b"kept"))
        assert await partitions.close()
    assert (homes[1] / "t-0" / "partition.meta").exists() == (left and number == errno.EIO)
    assert (homes[1] / "t-0").exists() == left
    partitions = await begun(homes, NEW)
    assert content(partitions.find("t", 0).log) == [(0, b"kept")]
    assert await partitions.close()


@pytest.mark.trio
@pytest.mark.parametrize("other", ["of an older topic", "empty"])
async def test_a_directory_that_cannot_be_listed_now_beside_one_of_that_name(
    homes: tuple[Path, Path, Path], monkeypatch: pytest.MonkeyPatch, other: str
) -> None:
    """Want of descriptors hides a partition, and another has something else of its name: it is not begun anew there."""
    partitions = await begun(homes, NEW)
    partitions.find("t", 0).append(batch(value=b"kept"))
    assert await partitions.close()
    (homes[2] / "t-0").mkdir()
    if other != "empty":
        (homes[2] / "t-0" / "partition.meta").write_bytes(pack_meta(OLD))
    (homes[0] / "partitions.known").unlink()
    entries = RealDisk.entries

    def listed(disk: RealDisk, path: str) -> list[Entry]:
        if path == str(homes[1]):
            raise StorageFailed(path, OSError(errno.EMFILE, os.strerror(errno.EMFILE)))
        return entries(disk, path)

    with monkeypatch.context() as patched:
        patched.setattr(RealDisk, "entries", listed)
        partitions = await begun(homes, NEW)
        with pytest.raises(Refused, match="offline"):
            partitions.find("t", 0).append(batch(value=b"apart"))
    await partitions.open_missing()
    assert content(partitions.find("t", 0).log) == [(0, b"kept")]
    assert await partitions.close()


@pytest.mark.trio
async def test_a_partition_that_is_there_twice(homes: tuple[Path, Path, Path]) -> None:
    """Where two directories have records of it, none is served, since it may be the older one, and none is touched."""
    partitions = await begun(homes, NEW)
    partitions.find("t", 0).append(batch(value=b"one"))
    assert await partitions.close()
    shutil.copytree(homes[1] / "t-0", homes[2] / "t-0")
    partitions = await begun(homes, NEW)
    with pytest.raises(Refused, match=f"{homes[2]}/t-0.*{homes[1]} too"):
        partitions.find("t", 0).append(batch(value=b"two"))
    await partitions.close()
    shutil.rmtree(homes[1] / "t-0")
    partitions = await begun(homes, NEW)
    assert content(partitions.find("t", 0).log) == [(0, b"one")]
    assert await partitions.close()


@pytest.mark.trio
async def test_what_cannot_be_put_aside_stays(homes: tuple[Path, Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory of an older topic that has the name, where nothing can be renamed, is left whole; another serves."""
    partitions = await begun(homes, OLD)
    partitions.find("t", 0).append(batch(value=b"old"))
    assert await partitions.close()
    before = {path.name: path.read_bytes() for path in (homes[1] / "t-0").iterdir()}

    def failing(disk: RealDisk, path: str, new_path: str) -> None:
        raise StorageFailed(path, OSError(errno.EIO, "Input/output error"))

    (homes[2] / "more-0").mkdir()
    with monkeypatch.context() as patched:
        patched.setattr(RealDisk, "replace", lambda disk, path, data, sync: Path(path).write_bytes(data))
        patched.setattr(RealDisk, "rename", failing)
        partitions = await begun(homes, NEW)
        partitions.find("t", 0).append(batch(value=b"new"))
        partitions.find("t", 0).log.close(clean=False)
    assert {path.name: path.read_bytes() for path in (homes[1] / "t-0").iterdir()} == before
    partitions = await begun(homes, NEW)
    assert content(partitions.find("t", 0).log) == [(0, b"new")]
    assert await partitions.close()
