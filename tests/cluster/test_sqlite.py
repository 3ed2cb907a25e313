"""What only the SQLite store has: a file that lasts, that nobody else can read, and that is checked."""

from __future__ import annotations

import os
import random
import sqlite3
import sys
from pathlib import Path

import pytest
import trio

from logd.cluster.sqlite import SqliteStore, has_wal_reset_bug
from logd.cluster.store import Lease, StoreUnusable, Transaction
from logd.errors import StorageFailed
from tests.cluster.clocks import HandClock

pytestmark = pytest.mark.trio


async def test_what_was_committed_is_there_after_kill_9(tmp_path: Path) -> None:
    """A process commits, tells, and is killed without closing; the next one reads it."""
    path = tmp_path / "m.db"
    program = (
        "import os, sys, trio\n"
        "from pathlib import Path\n"
        "from logd.cluster.sqlite import SqliteStore\n"
        "from logd.cluster.store import Transaction\n"
        "async def main():\n"
        "    store = await SqliteStore.open(Path(sys.argv[1]))\n"
        "    await store.commit(Transaction(puts={'a': b'1'}))\n"
        "    os.kill(os.getpid(), 9)\n"
        "trio.run(main)\n"
    )
    done = await trio.run_process([sys.executable, "-c", program, str(path)], check=False)
    assert done.returncode == -9
    store = await SqliteStore.open(path)
    assert (await store.read()).entries["a"].value == b"1"
    await store.aclose()


async def test_all_files_are_their_owners_alone(tmp_path: Path) -> None:
    """Database, WAL, shared memory and lock file have mode 0600, whatever the umask."""
    before = os.umask(0)
    try:
        store = await SqliteStore.open(tmp_path / "m.db")
        await store.commit(Transaction(puts={"a": b"1"}))
    finally:
        os.umask(before)
    modes = {name: os.stat(tmp_path / name).st_mode & 0o777 for name in os.listdir(tmp_path)}
    assert {"m.db", "m.db-wal"} <= set(modes)
    assert set(modes.values()) == {0o600}
    await store.aclose()


async def test_a_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    """The sentence names the file, its mode and the remedy."""
    path = tmp_path / "m.db"
    await (await SqliteStore.open(path)).aclose()
    path.chmod(0o644)
    with pytest.raises(StoreUnusable, match=r"mode 644.*chmod 600"):
        await SqliteStore.open(path)


async def test_the_pragmas_are_in_force(tmp_path: Path) -> None:
    """WAL and FULL, read back from the connection that writes."""
    store = await SqliteStore.open(tmp_path / "m.db")
    assert store._database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert store._database.execute("PRAGMA synchronous").fetchone() == (2,)
    if has_wal_reset_bug(sqlite3.sqlite_version_info):
        assert store._database.execute("PRAGMA wal_autocheckpoint").fetchone() == (0,)
        assert store._lock is not None
    await store.aclose()


async def test_the_versions_with_the_wal_reset_bug() -> None:
    """3.7.0 to 3.51.2, but for the two that had the fix before."""
    assert [
        has_wal_reset_bug(version)
        for version in ((3, 6, 23), (3, 7, 0), (3, 40, 1), (3, 44, 6), (3, 50, 7), (3, 51, 2), (3, 51, 3))
    ] == [False, True, True, False, False, True, False]


async def test_the_wal_does_not_grow_for_ever(tmp_path: Path) -> None:
    """With automatic checkpoints off, the store makes its own."""
    store = await SqliteStore.open(tmp_path / "m.db")
    for number in range(30):
        await store.commit(Transaction(puts={f"k{number}": bytes(1 << 18)}))
    assert (tmp_path / "m.db-wal").stat().st_size < 12 << 20
    assert len((await store.read()).entries) == 30
    await store.aclose()


async def test_a_flipped_bit_in_a_value_is_told(tmp_path: Path) -> None:
    """A row whose checksum is wrong is never served."""
    path = tmp_path / "m.db"
    store = await SqliteStore.open(path)
    await store.commit(Transaction(puts={"topics/t": b"precious-value"}))
    await store.aclose()
    data = path.read_bytes()
    assert data.count(b"precious-value") == 1
    path.write_bytes(data.replace(b"precious-value", b"pracious-value"))
    store = await SqliteStore.open(path)
    with pytest.raises(StoreUnusable, match="checksum of topics/t"):
        await store.read()
    await store.aclose()


async def killed(tmp_path: Path) -> dict[str, bytes]:
    """The files of a store whose process was killed after some commits, and what it held (see :func:`found`)."""
    store = await SqliteStore.open(tmp_path / "m.db")
    for number in range(12):
        await store.commit(Transaction(puts={f"topics/t{number % 5}": b"%d" % number * 50}))
    files = kept(tmp_path)
    await store.aclose()
    return files


def kept(directory: Path) -> dict[str, bytes]:
    """The files of a store."""
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.name != "m.db-shm"}


def put(directory: Path, files: dict[str, bytes]) -> None:
    """Make a directory with the files of a store."""
    directory.mkdir()
    for name, data in files.items():
        (directory / name).write_bytes(data)
        (directory / name).chmod(0o600)


async def found(directory: Path, files: dict[str, bytes]) -> dict[str, bytes]:
    """What a store with these files holds. Raises StoreUnusable."""
    put(directory, files)
    store = await SqliteStore.open(directory / "m.db")
    try:
        return {key: entry.value for key, entry in (await store.read()).entries.items()}
    finally:
        await store.aclose()


async def test_no_flipped_bit_takes_a_commit(tmp_path: Path) -> None:
    """After a kill, with any bit of database or WAL turned over, all is there or the store is refused.

    SQLite takes a damaged WAL for one that ends there: without the note beside it topics would vanish in silence.
    """
    (tmp_path / "origin").mkdir()
    files = await killed(tmp_path / "origin")
    expected = await found(tmp_path / "whole", files)
    assert len(expected) == 5
    chance = random.Random(1)
    refused = 0
    for number in range(60):
        name = chance.choice(("m.db-wal", "m.db-wal", "m.db", "m.db.version"))
        data = bytearray(files[name])
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        directory = tmp_path / str(number)
        try:
            assert await found(directory, {**files, name: bytes(data)}) == expected
        except StoreUnusable:
            refused += 1
            assert (directory / name).read_bytes() == data, "what is damaged must stay for those who mend it"
    assert refused > 20


@pytest.mark.parametrize("gone", ["m.db", "m.db-wal"])
async def test_a_store_that_vanished_is_not_begun_anew(tmp_path: Path, gone: str) -> None:
    """The sentence says how far it was, and what to remove to go on."""
    (tmp_path / "origin").mkdir()
    files = await killed(tmp_path / "origin")
    del files[gone]
    with pytest.raises(StoreUnusable, match=r"is at version 0 and had reached 12.*remove .*m.db.version to go on"):
        await found(tmp_path / "after", files)
    del files["m.db.version"]
    (tmp_path / "after" / "m.db.version").unlink()
    assert await found(tmp_path / "again", files) == {}


@pytest.mark.parametrize("content", [b"not a database" * 100, b"SQLite format 3\x00" + bytes(range(256)) * 32])
async def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path, content: bytes) -> None:
    """One sentence, and the file keeps its bytes."""
    path = tmp_path / "m.db"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(StoreUnusable, match="can't be used"):
        await SqliteStore.open(path)
    assert path.read_bytes() == content


async def test_a_database_of_somebody_else_is_refused(tmp_path: Path) -> None:
    """A SQLite file with other tables, or of a newer logd, is not touched."""
    path = tmp_path / "m.db"
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE t (x)")
    other.commit()
    other.close()
    path.chmod(0o600)
    with pytest.raises(StoreUnusable, match="not a metadata store of logd"):
        await SqliteStore.open(path)
    newer = tmp_path / "n.db"
    await (await SqliteStore.open(newer)).aclose()
    database = sqlite3.connect(newer)
    database.execute("PRAGMA user_version = 2")
    database.close()
    with pytest.raises(StoreUnusable, match=r"version 2.*reads version 1"):
        await SqliteStore.open(newer)


async def test_a_directory_that_is_not_there_is_told(tmp_path: Path) -> None:
    """The sentence names the path."""
    with pytest.raises(StoreUnusable, match=r"none/m\.db can't be opened"):
        await SqliteStore.open(tmp_path / "none" / "m.db")


async def test_a_write_that_failed_on_the_disk_is_final(tmp_path: Path) -> None:
    """After an I/O error the store writes no more, since what reached the disk is unknown; it still reads."""
    store = await SqliteStore.open(tmp_path / "m.db")
    await store.commit(Transaction(puts={"a": b"1"}))
    real = store._database
    failing = _FailingCommit(real)
    store._database = failing  # type: ignore[assignment]
    with pytest.raises(StorageFailed):
        await store.commit(Transaction(puts={"a": b"2"}))
    store._database = real
    with pytest.raises(StorageFailed):
        await store.commit(Transaction(puts={"a": b"3"}))
    assert (await store.read()).entries["a"].value == b"1"
    await store.aclose()


class _FailingCommit:
    """A connection whose COMMIT meets a failing disk."""

    def __init__(self, real: sqlite3.Connection) -> None:
        self._real = real

    @property
    def in_transaction(self) -> bool:
        return self._real.in_transaction

    def executemany(self, sql: str, rows: object) -> object:
        return self._real.executemany(sql, rows)  # type: ignore[arg-type]

    def execute(self, sql: str, *values: object) -> sqlite3.Cursor:
        if sql == "COMMIT":
            raise sqlite3.OperationalError("disk I/O error")
        return self._real.execute(sql, *values)  # type: ignore[arg-type]


async def test_a_full_disk_is_told_and_may_pass(tmp_path: Path) -> None:
    """A commit that found no room fails alone; the next one, with room, goes through."""
    store = await SqliteStore.open(tmp_path / "m.db")
    await store.commit(Transaction(puts={"a": b"1"}))
    store._database.execute("PRAGMA max_page_count = 12")
    with pytest.raises(StorageFailed, match="full"):
        await store.commit(Transaction(puts={"b": bytes(1 << 20)}))
    store._database.execute("PRAGMA max_page_count = 100000")
    await store.commit(Transaction(puts={"b": b"2"}))
    assert sorted((await store.read()).entries) == ["a", "b"]
    await store.aclose()


async def test_leases_end_with_the_boot(tmp_path: Path) -> None:
    """A lease of an earlier boot is nobody's, whatever its deadline says."""
    clock = HandClock()
    store = await SqliteStore.open(tmp_path / "m.db", clock)
    assert await store.take_lease("l", "n1", 1 << 40) is not None
    clock.boot = "boot-2"
    assert await store.leases() == []
    assert await store.take_lease("l", "n2", 10) == Lease("l", "n2", 1_010)
    await store.aclose()
