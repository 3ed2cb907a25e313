"""The real disk: what it must do on the file system that the tests run on; shared parts run on the memory twin too."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue
from types import FrameType, SimpleNamespace
from typing import Any

import pytest

from logd.errors import StorageFailed
from logd.log.disk import (
    _MINCORE,
    DISK_FULL,
    FORGET_BYTES,
    PAGE_BYTES,
    Closer,
    Disk,
    File,
    PageMapping,
    RealDisk,
    lock_file,
)
from logd.log.retention import Removal
from logd.log.segment import Segment
from tests.fakes.disks import MemoryDisk


@pytest.fixture(params=["real", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Disk, str]:
    """A disk and an empty directory on it."""
    disk: Disk = RealDisk() if request.param == "real" else MemoryDisk()
    disk.make_directory(f"{tmp_path}/d")
    return disk, f"{tmp_path}/d"


@pytest.fixture
def small_tmpfs(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs of one megabyte."""
    where = tmp_path / "small"
    where.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", where], capture_output=True, check=False)
    if made.returncode:
        pytest.skip("cannot mount a tmpfs: run the tests as root")
    yield where
    subprocess.run(["umount", "-l", where], check=True)


def test_write_read_map(place: tuple[Disk, str]) -> None:
    """What is written is read and seen through a map made before; a read ends with the file."""
    disk, path = place
    file = disk.open(f"{path}/a", create=True)
    disk.allocate(file, 0, 8192)
    mapping = disk.map(file, 8192)
    disk.write(file, b"hello", 4094)
    assert bytes(mapping.view[4094:4099]) == b"hello"
    assert mapping.resident(4000, 4200)
    assert disk.read(file, 100, 8190) == b"\0\0"
    assert disk.read_cached(file, 5, 4094) == b"hello"
    assert disk.data_after(file, 0) is not None


def test_allocate_and_resize(place: tuple[Disk, str]) -> None:
    """Allocated bytes are zeros; a file can be cut and grown, and what was cut does not come back."""
    disk, path = place
    file = disk.open(f"{path}/a", create=True)
    disk.allocate(file, 0, 100)
    disk.write(file, b"x" * 100, 0)
    disk.resize(file, 50)
    disk.allocate(file, 50, 50)
    assert disk.read(file, 200, 0) == b"x" * 50 + bytes(50)


def test_replace_rename_remove(place: tuple[Disk, str]) -> None:
    """Small files are replaced whole; what is not there is None, and removing it is no failure."""
    disk, path = place
    assert disk.load(f"{path}/a") is None
    disk.replace(f"{path}/a", b"longer", sync=True)
    disk.replace(f"{path}/a", b"one", sync=False)
    assert disk.load(f"{path}/a") == b"one"
    disk.rename(f"{path}/a", f"{path}/b")
    disk.sync_directory(path)
    assert [(one.name, one.size) for one in disk.entries(path)] == [("b", 3)]
    disk.remove(f"{path}/b")
    disk.remove(f"{path}/b")
    assert disk.entries(path) == []
    with pytest.raises(StorageFailed):
        disk.open(f"{path}/b")
    with pytest.raises(StorageFailed) as failed:
        disk.rename(f"{path}/b", f"{path}/c")
    assert isinstance(failed.value.cause, FileNotFoundError)


def test_file_stays_open_while_somebody_has_it(tmp_path: Path) -> None:
    """The descriptor is closed with the last user and not before."""
    disk = RealDisk()
    file = disk.open(f"{tmp_path}/a", create=True)
    held: list[File] = [file]
    fd = file.fd
    del file
    os.fstat(fd)
    held.clear()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_residency_of_many_pages(tmp_path: Path) -> None:
    """A range longer than one question to the kernel; pages that were dropped are not resident."""
    disk = RealDisk()
    file = disk.open(f"{tmp_path}/a", create=True)
    size = 20 * 1024 * 1024
    disk.write(file, bytes(size), 0)
    mapping = disk.map(file, size)
    assert isinstance(mapping, PageMapping)
    assert mapping.resident(0, size)
    assert mapping.resident(size - 1, size)
    disk.sync(file)
    os.posix_fadvise(file.fd, 0, size, os.POSIX_FADV_DONTNEED)
    if disk.read_cached(file, 10, size // 2) is None:
        assert not mapping.resident(0, size)
    assert disk.read(file, 10, size // 2) == bytes(10)


def test_two_nodes_ask_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two nodes in one process, each in a thread of its own, neither takes the other's answer for its own."""
    size = 2 * PAGE_BYTES
    mappings = []
    for disk, data in ((RealDisk(), bytes(size)), (RealDisk(), b"")):
        file = disk.open(f"{tmp_path}/{len(data)}", create=True)
        disk.write(file, data, 0)
        disk.resize(file, size)
        mappings.append(disk.map(file, size))
    written, empty = mappings
    asked = []

    def mincore(*question: object) -> int:
        answer: int = _MINCORE(*question)
        asked.append(question)
        if len(asked) == 1:  # the other thread has its turn while this one is in the kernel
            assert not empty.resident(0, size)
        return answer

    monkeypatch.setattr("logd.log.disk._MINCORE", mincore)
    assert written.resident(0, size)
    assert len(asked) == 2


def test_what_is_cached_in_part(tmp_path: Path) -> None:
    """A page that is in the cache and the next one that is not: the disk would be waited for, so nothing is given."""
    disk = RealDisk()
    file = disk.open(f"{tmp_path}/a", create=True)
    disk.write(file, b"x" * 4096 * 64, 0)
    disk.sync(file)
    os.posix_fadvise(file.fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.posix_fadvise(file.fd, 0, 0, os.POSIX_FADV_RANDOM)  # no reading ahead
    disk.read(file, 4096, 7 * 4096)
    assert disk.read_cached(file, 12, 8 * 4096 - 10) in (None, b"x" * 12)
    assert disk.read_cached(file, 10, 8 * 4096 - 10) in (None, b"x" * 10)


def test_failed_growth_is_cut_back(tmp_path: Path) -> None:
    """A file that cannot grow is as long as before."""
    disk = RealDisk()
    file = disk.open(f"{tmp_path}/a", create=True)
    disk.allocate(file, 0, 4096)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, hard))
    try:
        with pytest.raises(StorageFailed):
            disk.allocate(file, 4096, 1 << 20)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert os.fstat(file.fd).st_size == 4096


def test_in_memory_growth_takes_no_pages(small_tmpfs: Path) -> None:
    """On tmpfs growing costs nothing, and a write that finds no page left is refused, with all before it there."""
    disk = RealDisk()
    file = disk.open(f"{small_tmpfs}/a", create=True)
    disk.allocate(file, 0, 4 << 20)
    assert os.fstat(file.fd).st_size == 4 << 20
    assert os.fstat(file.fd).st_blocks == 0
    disk.write(file, b"x" * 4096, 0)
    with pytest.raises(StorageFailed) as refused:
        disk.write(file, b"y" * (2 << 20), 4096)
    assert refused.value.cause.errno in DISK_FULL
    assert disk.read(file, 4096, 0) == b"x" * 4096


def test_lock(tmp_path: Path) -> None:
    """A second holder is refused until the first lets go."""
    first = lock_file(f"{tmp_path}/lock")
    assert first is not None
    assert lock_file(f"{tmp_path}/lock") is None
    del first
    assert lock_file(f"{tmp_path}/lock") is not None


def test_not_durable_leaves_out_the_syncs_of_small_files(tmp_path: Path) -> None:
    """For a temporary data directory."""
    disk = RealDisk(durable=False)
    disk.replace(f"{tmp_path}/a", b"x", sync=True)
    disk.sync_directory(f"{tmp_path}/absent")
    assert disk.load(f"{tmp_path}/a") == b"x"


def test_forgets_what_is_cached(tmp_path: Path) -> None:
    """What was let go is read again from the disk, by those who have the file open too."""
    disk = RealDisk()
    file = disk.open(str(tmp_path / "a"), create=True)
    content = os.urandom(3 * FORGET_BYTES + 5)
    disk.write(file, content, 0)
    disk.sync(file)
    disk.forget(file, len(content))
    if disk.map(file, len(content)).resident(0, len(content)):
        pytest.skip("a file system in memory has nothing to let go")
    assert disk.read(file, len(content), 0) == content


def test_closing_a_removed_file_is_left_to_another_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last user of a removed file, and of a map of it, lets go of it without its blocks being freed meanwhile."""
    closer, closed = own_closer(monkeypatch)
    disk, path = RealDisk(), str(tmp_path / "f")
    file = disk.open(path, create=True)
    disk.write(file, bytes(PAGE_BYTES), 0)
    mapping = disk.map(file, PAGE_BYTES)
    number = os.fstat(file.fd).st_ino
    disk.outlive(file, mapping)
    disk.remove(path)
    del file
    view = mapping.view[10:20]
    del mapping
    assert closer._owed.empty(), "somebody may still read from the map"
    assert bytes(view) == bytes(10)
    assert _open_inodes().count(number) == 2  # ours, and that of the map
    del view
    assert closed.get(timeout=30) is not threading.current_thread()
    assert _open_inodes().count(number) == 0


@pytest.mark.parametrize("moment", [1, 2, 3])
def test_two_last_users_at_once(monkeypatch: pytest.MonkeyPatch, moment: int) -> None:
    """Where two let go in two threads at the same moment one of them is the last: no descriptor is closed twice.

    The other goes before the so manieth line of what happens when the first one does.
    """
    closer, _ = own_closer(monkeypatch)
    put: list[int] = []
    monkeypatch.setattr(closer, "_owed", SimpleNamespace(put=put.append))
    monkeypatch.setattr(closer, "_thread", threading.current_thread())

    class User:
        pass

    first, others, lines = User(), [User()], [0]
    closer.outlive(7, [first, *others])

    def trace(frame: FrameType, event: str, arg: object) -> Any:
        if frame.f_code.co_name != "gone":
            return None
        lines[0] += event == "line"
        if lines[0] == moment:
            others.clear()
        return trace

    sys.settrace(trace)
    del first
    sys.settrace(None)
    others.clear()
    assert put == [7]


def test_a_file_that_closes_with_an_error_keeps_no_other_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """Closing may tell of a disk that failed; the descriptor is gone all the same, and the thread goes on."""
    closer, closed = own_closer(monkeypatch)
    bad, good = (os.open(os.devnull, os.O_RDONLY) for _ in range(2))
    close = os.close

    def fail(fd: int) -> None:
        close(fd)
        if fd == bad:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "close", fail)

    class User:
        pass

    for fd in (bad, good):
        closer.outlive(fd, [User()])
        assert closed.get(timeout=30).name == "logd close"


def test_the_closing_thread_outlives_a_clock_that_leaps(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sleep that fails, as below a library that turns the clock, ends it no more than a close does."""
    closer, closed = own_closer(monkeypatch)

    def fail(seconds: float) -> None:
        if threading.current_thread().name == "logd close":
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr("time.sleep", fail)

    class User:
        pass

    for _ in range(2):
        closer.outlive(os.open(os.devnull, os.O_RDONLY), [User()])
        assert closed.get(timeout=5).name == "logd close"


def own_closer(monkeypatch: pytest.MonkeyPatch) -> tuple[Closer, SimpleQueue[threading.Thread]]:
    """A closer for one test, which waits for nothing, and the threads in which it has closed something."""
    closed: SimpleQueue[threading.Thread] = SimpleQueue()
    close = os.close

    def noted(fd: int) -> None:
        close(fd)
        if threading.current_thread().name == "logd close":
            closed.put(threading.current_thread())

    closer = Closer()
    monkeypatch.setattr("logd.log.disk._CLOSER", closer)
    monkeypatch.setattr("logd.log.disk.OUTLIVE_S", 0.0)
    monkeypatch.setattr(os, "close", noted)
    return closer, closed


def test_removing_many_files_takes_few_descriptors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Retention that takes hundreds of segments at once, none of which is read, leaves descriptors for others."""
    most = [0]

    class Counting(RealDisk):
        def remove(self, path: str) -> None:
            most[0] = max(most[0], len(_open_inodes()))
            super().remove(path)

    disk = Counting()
    segments = []
    for base in range(50):
        segment = Segment(disk, str(tmp_path), base, 0)
        disk.write(segment.file, b"some", 0)
        segment.sealed = segment.finished = True
        segment.size = 4
        segment.close()
        segments.append(segment)
    before = len(_open_inodes())
    Removal(segments).run()
    assert not os.listdir(tmp_path)
    assert most[0] <= before + 2


def _open_inodes() -> list[int]:
    found = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found.append(os.stat(f"/proc/self/fd/{name}").st_ino)
    return found


def test_names_without_a_file(tmp_path: Path) -> None:
    """A link that leads nowhere, as an editor's lock is one, keeps nobody from listing a directory."""
    (tmp_path / "file").touch()
    (tmp_path / "inside").mkdir()
    (tmp_path / ".#file").symlink_to("somebody@somewhere.4711:1")
    (tmp_path / "ring").symlink_to("ring")
    found = {one.name: one.is_directory for one in RealDisk().entries(str(tmp_path))}
    assert found == {"file": False, "inside": True}


def test_map_of_a_file_that_was_cut(tmp_path: Path) -> None:
    """A file that somebody has made shorter cannot be mapped, which is the disk's failure."""
    disk = RealDisk()
    file = disk.open(str(tmp_path / "f"), create=True)
    disk.write(file, b"short", 0)
    with pytest.raises(StorageFailed, match="shorter"):
        disk.map(file, 6)
