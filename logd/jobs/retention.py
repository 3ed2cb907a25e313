"""Retention: forget old segments and silent producers, remember the log's offsets, remove files that are due.

A stepped generator over logs: each step is short and decides on the event loop, and what it yields waits for the disk,
to be run in a worker thread before the generator goes on. The node runs it every ``log.retention.check.interval.ms``,
``logd-cli retention run`` on demand. It never looks at records and never touches a file itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

from logd.log.log import Log


class Held(Protocol):
    """A partition whose log is to be kept short."""

    @property
    def log(self) -> Log: ...

    @property
    def high_watermark(self) -> int: ...

    @property
    def last_stable_offset(self) -> int: ...


def retain(held: Held, now_ms: int, *, delete: bool) -> Iterator[Callable[[], None]]:
    """Let one log forget, but nothing of a transaction that is open; yields what a worker thread has to run.

    :param delete: False keeps old segments, for a topic whose ``cleanup.policy`` does not say ``delete``;
        what DeleteRecords has released goes all the same.
    :raises StorageFailed: the disk did; the log is offline.
    """
    log = held.log
    log.producers.expire(now_ms, log.config.producer_id_expiration_ms)
    log.segments.release_unused()
    for segment in log.segments[:-1] if delete else ():
        if not segment.max_is_known and segment.finished:
            yield segment.make_max_sure  # a full disk had no room for its index: all of it is read
            log.segments.let_go([segment])
    for segment in log.expired(now_ms, held.last_stable_offset, delete=delete) or log.segments[:1]:
        if not segment.max_is_sure and segment.finished:
            yield segment.make_max_sure  # or a wrong bit would make it old
            log.segments.let_go([segment])
    log.delete_segments(log.expired(now_ms, held.last_stable_offset, delete=delete), now_ms)
    removal = log.removal(now_ms)
    if removal is not None:
        yield removal.run


def remember(held: Held) -> Iterator[Callable[[], None]]:
    """Write what only the log knows, when it has changed; yields what a worker thread has to run.

    Until then a crash brings back the segments that were let go, and no file of theirs is removed.
    """
    job = held.log.checkpoint(held.high_watermark)
    if job is not None:
        yield job.run
        held.log.flushed(job)
