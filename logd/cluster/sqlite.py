"""The metadata store in one SQLite file, shared by the nodes of one machine.

Owns the file, its WAL and its lock file; all of it mode 0600. Made by the node, used by `cluster` through
`store.Store`. Every call runs in one worker thread at a time, never on the event loop (where only the WAL's size and
time are looked at). It knows keys and bytes, not what they mean.

Theory of operation. WAL with synchronous=FULL: a commit that returned has been flushed. Both pragmas are read back,
since SQLite answers a refused one with silence. Writes begin IMMEDIATE, so that a check never reads what somebody is
about to change. SQLite 3.7.0 to 3.51.2 may corrupt a WAL that is reset while another process writes; for those
versions automatic checkpoints are off, and one flock is held round every write, checkpoint and close. The file is
never opened by other means (closing any descriptor of it would drop SQLite's POSIX locks) nor used after a fork. Each
row carries a CRC, so that a flipped bit is an error and not a wrong leader; a note beside the file tells commits that
vanish, which SQLite does not. A write that failed on its way to the disk is final: the store refuses all later ones.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import sqlite3
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import trio

from logd import threads
from logd.cluster.reached import Reached
from logd.cluster.store import (
    ABSENT,
    Entry,
    Lease,
    LeaseClock,
    Snapshot,
    StoreClosed,
    StoreUnusable,
    Transaction,
    check,
)
from logd.errors import StorageFailed

T = TypeVar("T")

APPLICATION_ID = 0x6C6F6764
"""The four letters of "logd", in the header of the file: says whose it is."""

SCHEMA_VERSION = 1
_SCHEMA = """
CREATE TABLE counter (version INTEGER NOT NULL);
INSERT INTO counter VALUES (0);
CREATE TABLE entries (key TEXT PRIMARY KEY, value BLOB NOT NULL, version INTEGER NOT NULL, crc INTEGER NOT NULL);
CREATE TABLE leases (name TEXT PRIMARY KEY, holder TEXT NOT NULL, boot TEXT NOT NULL, deadline_ms INTEGER NOT NULL);
"""

WATCH_INTERVAL_MS = 200
WATCH_LOOKS_MAX = 10
"""Looks at the files alone before the database is asked all the same: a thread hop costs more than all else that an
idle node does, and a write that leaves size and time of the WAL as they were is rare but can be."""

BUSY_TIMEOUT_S = 5.0
WAL_PAGES_MAX = 1000
"""Checkpoint when the WAL has grown past this; SQLite's own figure."""


def has_wal_reset_bug(version: tuple[int, ...]) -> bool:
    """Whether this SQLite may corrupt a WAL that several processes write to."""
    if version[:3] in ((3, 50, 7), (3, 44, 6)):
        return False
    return (3, 7, 0) <= version[:3] <= (3, 51, 2)


class SqliteStore:
    """A `Store` in a SQLite file. Make it with `open`; close it with `aclose`."""

    def __init__(self, path: Path, database: sqlite3.Connection, lock: int | None, clock: LeaseClock | None) -> None:
        self.path = path
        self._database = database
        self._lock = lock
        self._clock = clock
        self._pid = os.getpid()
        self._reached = Reached(path)
        self._thread = trio.CapacityLimiter(1)
        self._failed: StorageFailed | None = None
        self._closed = False
        self._version = 0
        self._moved = trio.Event()

    @classmethod
    async def open(cls, path: Path, clock: LeaseClock | None = None) -> SqliteStore:
        """Open the store at `path`, or make it; raises StoreUnusable with one sentence.

        :param clock: for leases; a store without one refuses them.
        """
        return await threads.run(cls._open, path, clock)

    @classmethod
    def _open(cls, path: Path, clock: LeaseClock | None) -> SqliteStore:
        try:
            _look_for_commits(path)
            _prepare_file(path)
            database = sqlite3.connect(
                path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False, cached_statements=32
            )
            database.text_factory = _text
        except (OSError, sqlite3.Error) as error:
            raise StoreUnusable(f"The metadata store {path} can't be opened: {error}; check its directory.") from error
        lock = None
        try:
            if has_wal_reset_bug(sqlite3.sqlite_version_info):
                lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            with _held(lock, path):
                _configure(database, path, lock is not None)
        except (sqlite3.Error, StorageFailed, OSError) as error:
            _abandon(database, lock)
            damaged = isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.OperationalError)
            remedy = "restore it from a backup" if damaged else "check its disk and who else uses it"
            raise StoreUnusable(f"The metadata store {path} can't be used: {error}; {remedy}.") from error
        except StoreUnusable:
            _abandon(database, lock)
            raise
        return cls(path, database, lock, clock)

    async def read(self) -> Snapshot:
        return await self._run(self._read)

    async def commit(self, transaction: Transaction) -> int:
        version = await self._run(lambda: self._write(lambda: self._apply(transaction)))
        self._version = max(self._version, version)
        self._wake()
        return version

    async def changed(self, version: int) -> int:
        await trio.lowlevel.checkpoint()
        seen = None
        while self._version <= version:
            moved, files = self._moved, self._file_states()
            written_by_others = await self._run(self._data_version)
            if written_by_others != seen:
                seen = written_by_others
                self._version = max(self._version, await self._run(self._current_version))
            else:
                await self._wait_for_writes(moved, files)
        return self._version

    async def _wait_for_writes(self, moved: trio.Event, files: object) -> None:
        """Wait until this process writes, or its files show that somebody does, but not long."""
        for _ in range(WATCH_LOOKS_MAX):
            with trio.move_on_after(WATCH_INTERVAL_MS / 1000):
                await moved.wait()
            if moved.is_set() or self._file_states() != files:
                return

    async def take_lease(self, name: str, holder: str, ttl_ms: int) -> Lease | None:
        return await self._run(lambda: self._write(lambda: self._take_lease(name, holder, ttl_ms)))

    async def drop_lease(self, lease: Lease) -> None:
        def drop() -> None:
            self._database.execute("DELETE FROM leases WHERE name = ? AND holder = ?", (lease.name, lease.holder))

        await self._run(lambda: self._write(drop))

    async def leases(self) -> list[Lease]:
        return await self._run(self._leases)

    async def aclose(self) -> None:
        if self._closed:
            await trio.lowlevel.checkpoint()
            return
        self._closed = True
        self._wake()
        with trio.CancelScope(shield=True):
            await threads.run(self._close, limiter=self._thread)

    # On the event loop

    async def _run(self, work: Callable[[], T]) -> T:
        if self._closed:
            await trio.lowlevel.checkpoint()
            raise StoreClosed
        assert os.getpid() == self._pid, "an SQLite file must not be carried over a fork"
        return await threads.run(self._guarded, work, limiter=self._thread)

    def _file_states(self) -> object:
        """What a write by any process changes; looked at and never opened."""
        try:
            found = os.stat(f"{self.path}-wal")
        except OSError:
            return None
        return found.st_ino, found.st_size, found.st_mtime_ns

    def _wake(self) -> None:
        self._moved.set()
        self._moved = trio.Event()

    # In the worker thread

    def _guarded(self, work: Callable[[], T]) -> T:
        if self._closed:
            raise StoreClosed
        try:
            return work()
        except sqlite3.Error as error:
            raise self._storage_failed(error) from error

    def _storage_failed(self, error: sqlite3.Error) -> StorageFailed:
        name = getattr(error, "sqlite_errorname", "") or ""
        number = errno.ENOSPC if name == "SQLITE_FULL" else errno.EBUSY if name.startswith("SQLITE_BUSY") else errno.EIO
        failed = StorageFailed(str(self.path), OSError(number, f"{error} ({name})"))
        if number == errno.EIO:
            self._failed = failed
        return failed

    def _write(self, work: Callable[[], T]) -> T:
        """Run `work` in one durable transaction."""
        if self._failed is not None:
            raise self._failed
        with _held(self._lock, self.path):
            self._database.execute("BEGIN IMMEDIATE")
            try:
                result = work()
                version = self._current_version()
                self._database.execute("COMMIT")
                self._reached.note(version)
            except BaseException:
                if self._database.in_transaction:
                    with contextlib.suppress(sqlite3.Error):
                        self._database.execute("ROLLBACK")
                raise
            self._checkpoint_if_due()
        return result

    def _checkpoint_if_due(self) -> None:
        if self._lock is None:
            return
        try:
            pages = os.stat(f"{self.path}-wal").st_size // 4096
        except FileNotFoundError:
            return
        if pages > WAL_PAGES_MAX:
            self._database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def _apply(self, transaction: Transaction) -> int:
        check(transaction, self._version_of)
        version = self._current_version() + 1
        self._database.execute("UPDATE counter SET version = ?", (version,))
        self._database.executemany("DELETE FROM entries WHERE key = ?", ((key,) for key in transaction.deletes))
        self._database.executemany(
            "INSERT INTO entries VALUES (?, ?, ?, ?) ON CONFLICT (key) DO UPDATE "
            "SET value = excluded.value, version = excluded.version, crc = excluded.crc",
            ((key, value, version, _crc(key, value, version)) for key, value in transaction.puts.items()),
        )
        return version

    def _read(self) -> Snapshot:
        self._database.execute("BEGIN")
        try:
            version = self._current_version()
            rows = self._database.execute("SELECT key, value, version, crc FROM entries").fetchall()
        finally:
            self._database.execute("COMMIT")
        entries = {}
        for key, value, written, crc in rows:
            if crc != _crc(key, value, written):
                raise StoreUnusable(
                    f"The metadata store {self.path} is damaged: the checksum of {key} is wrong; "
                    "restore it from a backup."
                )
            entries[key] = Entry(value, written)
        return Snapshot(version, entries)

    def _current_version(self) -> int:
        return self._integer("SELECT version FROM counter")

    def _data_version(self) -> int:
        return self._integer("PRAGMA data_version")

    def _integer(self, sql: str) -> int:
        (value,) = self._database.execute(sql).fetchone()
        return int(value)

    def _version_of(self, key: str) -> int:
        row = self._database.execute("SELECT version FROM entries WHERE key = ?", (key,)).fetchone()
        return int(row[0]) if row is not None else ABSENT

    def _take_lease(self, name: str, holder: str, ttl_ms: int) -> Lease | None:
        boot, now_ms = self._lease_time()
        row = self._database.execute("SELECT holder, boot, deadline_ms FROM leases WHERE name = ?", (name,)).fetchone()
        if row is not None and row[0] != holder and row[1] == boot and row[2] > now_ms:
            return None
        lease = Lease(name, holder, now_ms + ttl_ms)
        self._database.execute("REPLACE INTO leases VALUES (?, ?, ?, ?)", (name, holder, boot, lease.deadline_ms))
        return lease

    def _leases(self) -> list[Lease]:
        rows = self._database.execute(
            "SELECT name, holder, deadline_ms FROM leases WHERE boot = ? AND deadline_ms > ?", self._lease_time()
        )
        return [Lease(*row) for row in rows]

    def _lease_time(self) -> tuple[str, int]:
        assert self._clock is not None, "leases need a clock"
        return self._clock.boot_id(), self._clock.elapsed_ms()

    def _close(self) -> None:
        # Closing the last connection checkpoints, so the lock is held here too.
        with contextlib.suppress(StorageFailed), _held(self._lock, self.path):
            self._database.close()
        self._database.close()
        if self._lock is not None:
            os.close(self._lock)


def _text(stored: bytes) -> str:
    """A key; one that is damaged is another key, and so has a wrong checksum."""
    return stored.decode(errors="replace")


def _crc(key: str, value: bytes, version: int) -> int:
    return zlib.crc32(value, zlib.crc32(f"{key}\0{version}\0".encode()))


def _look_for_commits(path: Path) -> None:
    """Compare a store with the note of what was committed to it, before anything of it is changed.

    Read-only, since who opens it for writing cuts the WAL where it is damaged.
    """
    noted = Reached(path)
    wanted, found = noted.read(), 0
    if not wanted:
        return
    if path.exists():
        database = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=BUSY_TIMEOUT_S)
        try:
            (found,) = database.execute("SELECT version FROM counter").fetchone()
        except sqlite3.OperationalError as error:
            if "no such table" not in str(error):
                raise
        except sqlite3.DatabaseError:
            return  # who opens it says what is wrong with it
        finally:
            database.close()
    if found < wanted:
        raise StoreUnusable(
            f"The metadata store {path} is at version {found} and had reached {wanted}: what was committed since is "
            f"lost; restore it from a backup, or remove {noted.path} to go on without."
        )


def _prepare_file(path: Path) -> None:
    """Make the file readable by its owner alone, before SQLite opens it; refuse one that others may read."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        mode = path.stat().st_mode
        if mode & 0o077:
            raise StoreUnusable(
                f"The metadata store {path} has mode {mode & 0o777:o}, so that others can read it; "
                f"run chmod 600 {path} and start again."
            ) from None


def _configure(database: sqlite3.Connection, path: Path, guarded: bool) -> None:
    """Set what makes the file safe, read it back, and make or check the tables."""
    for pragma, wanted in (
        ("journal_mode = WAL", ("PRAGMA journal_mode", "wal")),
        ("synchronous = FULL", ("PRAGMA synchronous", 2)),
        *((("wal_autocheckpoint = 0", ("PRAGMA wal_autocheckpoint", 0)),) if guarded else ()),
    ):
        database.execute(f"PRAGMA {pragma}").fetchall()
        (found,) = database.execute(wanted[0]).fetchone()
        if found != wanted[1]:
            raise StoreUnusable(
                f"The metadata store {path} refuses {pragma} (it answers {found}); put it on a local file system."
            )
    (application,) = database.execute("PRAGMA application_id").fetchone()
    (schema,) = database.execute("PRAGMA user_version").fetchone()
    if (application, schema) == (0, 0):
        _make_tables(database, path)
    elif application != APPLICATION_ID:
        raise StoreUnusable(f"{path} is not a metadata store of logd; give another --metadata or --data-dir.")
    elif schema != SCHEMA_VERSION:
        raise StoreUnusable(
            f"The metadata store {path} has version {schema} and this logd reads version {SCHEMA_VERSION}; "
            "start the version of logd that wrote it."
        )
    (verdict,) = database.execute("PRAGMA integrity_check(1)").fetchone()
    if verdict != "ok":
        raise StoreUnusable(f"The metadata store {path} is damaged: {verdict}; restore it from a backup.")


def _make_tables(database: sqlite3.Connection, path: Path) -> None:
    database.execute("BEGIN IMMEDIATE")
    (made,) = database.execute("PRAGMA user_version").fetchone()
    if made == 0:
        if database.execute("SELECT count(*) FROM sqlite_master").fetchone() != (0,):
            database.execute("ROLLBACK")
            raise StoreUnusable(f"{path} is not a metadata store of logd; give another --metadata or --data-dir.")
        for statement in filter(str.strip, _SCHEMA.split(";")):
            database.execute(statement)
        database.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        database.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    database.execute("COMMIT")
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


@contextlib.contextmanager
def _held(lock: int | None, path: Path) -> Iterator[None]:
    """Hold the machine-wide lock; raises StorageFailed when another process keeps it for too long."""
    if lock is None:
        yield
        return
    step_s = 0.005
    for _ in range(int(BUSY_TIMEOUT_S / step_s)):
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            time.sleep(step_s)
    else:
        raise StorageFailed(f"{path}.lock", OSError(errno.EBUSY, "another process keeps the metadata store locked"))
    try:
        yield
    finally:
        fcntl.flock(lock, fcntl.LOCK_UN)


def _abandon(database: sqlite3.Connection, lock: int | None) -> None:
    with contextlib.suppress(sqlite3.Error):
        database.close()
    if lock is not None:
        os.close(lock)
