"""Where the cluster's metadata is kept: a small interface with two homes.

A store maps keys to bytes. It gives one consistent read, a transaction that is applied only if what it looked at is
still so, a wake-up when something changed, and leases. `MemoryStore` is the twin of `sqlite.SqliteStore` for tests
and for brokers that keep nothing; both pass the same contract tests. The store knows nothing of what the values mean.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import msgspec
import trio

ABSENT = 0


class Entry(msgspec.Struct, frozen=True):
    """One value and the version of the transaction that wrote it."""

    value: bytes
    version: int


class Snapshot(msgspec.Struct, frozen=True):
    """All entries at one version of the store (0 for a store that was never written)."""

    version: int
    entries: Mapping[str, Entry]


class Transaction(msgspec.Struct, frozen=True, kw_only=True):
    """Writes, and what must still be so for them to happen.

    :param checks: for each key the version that its entry must have; `ABSENT` when there must be none.
    """

    checks: Mapping[str, int] = {}
    puts: Mapping[str, bytes] = {}
    deletes: Sequence[str] = ()


class Lease(msgspec.Struct, frozen=True):
    """A hint that `holder` is alive until `deadline_ms` on the lease clock. Never a lock."""

    name: str
    holder: str
    deadline_ms: int


class Conflict(Exception):
    """A check of a transaction did not hold, so nothing was written. Read again and decide again."""


class StoreClosed(Exception):
    """The store was closed."""


class StoreUnusable(Exception):
    """The store can't be opened or can't be trusted. One sentence: what, where, what to do."""


class LeaseClock(Protocol):
    """Time that goes on while a machine sleeps and starts again with its boot."""

    def boot_id(self) -> str:
        """A text that differs after every boot of the machine."""
        ...

    def elapsed_ms(self) -> int:
        """Milliseconds since the boot, the time asleep included (CLOCK_BOOTTIME)."""
        ...


class Store(Protocol):
    """The metadata of a cluster."""

    async def read(self) -> Snapshot:
        """Everything, at one version."""
        ...

    async def commit(self, transaction: Transaction) -> int:
        """Apply all of `transaction` durably, or nothing; the store's new version. Raises Conflict."""
        ...

    async def changed(self, version: int) -> int:
        """Wait until the store has got past `version`; where it is now. A wake-up and no more: read again."""
        ...

    async def take_lease(self, name: str, holder: str, ttl_ms: int) -> Lease | None:
        """Take or renew the lease `name` for `holder`; None while somebody else holds it."""
        ...

    async def drop_lease(self, lease: Lease) -> None:
        """Give a lease back, if it is still the holder's."""
        ...

    async def leases(self) -> list[Lease]:
        """The leases that have not run out."""
        ...

    async def aclose(self) -> None:
        """Stop using the store; waiting calls raise StoreClosed."""
        ...


class MemoryStore:
    """A `Store` in memory. Several clusters in one process may share it."""

    def __init__(self, clock: LeaseClock | None = None) -> None:
        self._clock = clock
        self._entries: dict[str, Entry] = {}
        self._leases: dict[str, Lease] = {}
        self._version = 0
        self._moved = trio.Event()
        self._closed = False

    async def read(self) -> Snapshot:
        self._check_open()
        await trio.lowlevel.checkpoint()
        return Snapshot(self._version, dict(self._entries))

    async def commit(self, transaction: Transaction) -> int:
        self._check_open()
        await trio.lowlevel.checkpoint()
        check(transaction, self._version_of)
        self._version += 1
        for key in transaction.deletes:
            self._entries.pop(key, None)
        for key, value in transaction.puts.items():
            self._entries[key] = Entry(value, self._version)
        self._wake()
        return self._version

    async def changed(self, version: int) -> int:
        self._check_open()
        await trio.lowlevel.checkpoint()
        while self._version <= version:
            await self._moved.wait()
            self._check_open()
        return self._version

    async def take_lease(self, name: str, holder: str, ttl_ms: int) -> Lease | None:
        self._check_open()
        await trio.lowlevel.checkpoint()
        held = self._leases.get(name)
        if held is not None and held.holder != holder and held.deadline_ms > self._now_ms():
            return None
        lease = Lease(name, holder, self._now_ms() + ttl_ms)
        self._leases[name] = lease
        return lease

    async def drop_lease(self, lease: Lease) -> None:
        self._check_open()
        await trio.lowlevel.checkpoint()
        held = self._leases.get(lease.name)
        if held is not None and held.holder == lease.holder:
            del self._leases[lease.name]

    async def leases(self) -> list[Lease]:
        self._check_open()
        await trio.lowlevel.checkpoint()
        now_ms = self._now_ms()
        return [lease for lease in self._leases.values() if lease.deadline_ms > now_ms]

    async def aclose(self) -> None:
        self._closed = True
        self._wake()
        await trio.lowlevel.checkpoint()

    def _check_open(self) -> None:
        if self._closed:
            raise StoreClosed

    def _wake(self) -> None:
        self._moved.set()
        self._moved = trio.Event()

    def _version_of(self, key: str) -> int:
        entry = self._entries.get(key)
        return entry.version if entry is not None else ABSENT

    def _now_ms(self) -> int:
        assert self._clock is not None, "leases need a clock"
        return self._clock.elapsed_ms()


def check(transaction: Transaction, version_of: Callable[[str], int]) -> None:
    """Raises Conflict unless every check of `transaction` holds; shared by the stores."""
    for key, expected in transaction.checks.items():
        found = version_of(key)
        if found != expected:
            raise Conflict(f"{key} is at version {found} and not at {expected}")
