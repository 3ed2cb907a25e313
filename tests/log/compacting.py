"""Compaction of one log in the test's own thread, without a worker process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from logd.config import TopicConfig
from logd.errors import Corrupt, StorageFailed
from logd.jobs.compaction import LAG_NEVER_MS, Rules, assess, compact
from logd.jobs.worker import Bench, Outcome
from logd.log.disk import Disk
from logd.log.log import Log
from logd.wire.batches import Record, build_batch, read_headers, read_records
from tests.log.batches import append, flush

SALT = b"0123456789abcdef"
RULES = Rules(0.0, 0, LAG_NEVER_MS, 1000, 1 << 20, 0.9)


class Held(msgspec.Struct):
    """A log whose end is committed, or less of it."""

    log: Log
    stable_offset: int = -1
    config: Any = TopicConfig()

    @property
    def last_stable_offset(self) -> int:
        if self.stable_offset >= 0:
            return self.stable_offset
        self.log.transactions.committed(self.log.end_offset)
        return min(self.log.transactions.first_unstable, self.log.end_offset)


class Direct:
    """A worker that is no process."""

    def __init__(self, disk: Disk) -> None:
        self._bench = Bench(disk)

    def ask(self, order: Any) -> Outcome:
        outcome = self._bench.carry_out(order, SALT)
        failure = outcome.failure
        if failure is not None and failure.kind == "storage":
            raise StorageFailed(failure.path, OSError(failure.position, failure.text))
        if failure is not None and failure.kind == "corrupt":
            raise Corrupt(failure.path, failure.position, failure.text)
        assert failure is None, failure
        return outcome


def steps(log: Log, disk: Disk, now_ms: int = 0, **rules: Any) -> Iterator[Callable[[], None]]:
    """The steps of cleaning a log."""
    wanted = msgspec.structs.replace(RULES, **rules)
    held = Held(log)
    return compact(held, wanted, assess(held, wanted, now_ms), now_ms, Direct(disk))


def clean(log: Log, disk: Disk, now_ms: int = 0, **rules: Any) -> None:
    """Clean all that is sealed."""
    for work in steps(log, disk, now_ms, **rules):
        work()


def roll(log: Log) -> None:
    """Seal what is there and flush it."""
    if log.segments[-1].size:
        log.roll(0)
    flush(log)


def put(log: Log, *pairs: tuple[str, str | None], timestamp: int = 1000, **more: Any) -> int:
    """Append a batch of keyed records; return its base offset."""
    records = [Record(-1, timestamp, key.encode(), value and value.encode(), []) for key, value in pairs]
    return append(log, build_batch(records, **more)).base_offset


def records_of(log: Log) -> list[Record]:
    """All records, of data and markers, in the order of the log."""
    found: list[Record] = []
    offset = log.start_offset
    while offset < log.end_offset:
        slices = log.read(offset, bytes_max=10_000, end=log.end_offset)
        if not slices:
            break
        data = slices[0].load()
        for position, header in read_headers(data):
            read = read_records(data, position, bytes_max=2**24)
            assert header.count == len(read)
            found += [one for one in read if one.offset >= offset]
        assert slices[0].next_offset > offset
        offset = slices[0].next_offset
    assert [one.offset for one in found] == sorted({one.offset for one in found})
    return found


def pairs_of(log: Log) -> list[tuple[int, str, str | None]]:
    """(offset, key, value) of all records."""
    return [(one.offset, (one.key or b"").decode(), one.value and one.value.decode()) for one in records_of(log)]


def last_values(log: Log) -> dict[bytes, bytes]:
    """The last value of each key, but for those whose last is a tombstone."""
    last = {one.key or b"": one.value for one in records_of(log)}
    return {key: value for key, value in last.items() if value is not None}
