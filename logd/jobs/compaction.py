"""Compaction: keep the last record of each key, for topics whose ``cleanup.policy`` says ``compact``.

Which part of a log is dirty and when it is worth cleaning (:func:`assess`), and the run itself (:func:`compact`), a
stepped generator: it decides and swaps segments on the event loop, and what it yields is run in a worker thread, where
it waits for the disk or for the worker process that does the computing. The node runs it every
``log.cleaner.backoff.ms``. The rules are Kafka's (KIP-58, KIP-354). It reads no record itself.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

import msgspec

from logd.errors import Corrupt, StorageFailed, WorkerLost
from logd.jobs.worker import Finish, Group, Outcome, Start
from logd.log.batch_file import RELATIVE_OFFSET_MAX
from logd.log.cleaner import LastBatch, Piece, Rewritten, Surveyed, Task
from logd.log.index import TIME_ENTRY_BYTES
from logd.log.log import Log
from logd.log.segment import Segment
from logd.log.swap import Exchange

if TYPE_CHECKING:
    from logd.config import Settings, TopicConfig

logger = logging.getLogger("logd.compaction")

LAG_NEVER_MS = 2**63 - 1
GROUP_SEGMENTS_MAX = 64
"""So many segments become one at once: each of them is open while that is done. The next run joins more."""


class Held(Protocol):
    """A partition whose log is to be compacted."""

    @property
    def log(self) -> Log: ...

    @property
    def last_stable_offset(self) -> int: ...

    @property
    def config(self) -> TopicConfig: ...


class Worker(Protocol):
    """Does the computing in another process; see :mod:`logd.jobs.process`."""

    def ask(self, order: Start | Group | Finish) -> Outcome: ...


class Rules(msgspec.Struct, frozen=True):
    """What a topic and its broker ask of compaction, by Kafka's names."""

    min_cleanable_dirty_ratio: float
    min_compaction_lag_ms: int
    max_compaction_lag_ms: int
    delete_retention_ms: int
    dedupe_buffer_size: int
    dedupe_buffer_load_factor: float


class Dirt(msgspec.Struct, frozen=True):
    """What there is to clean: offsets from ``first_dirty`` to ``end_offset``, and the bytes before and in them."""

    first_dirty: int
    end_offset: int
    clean_bytes: int
    dirty_bytes: int
    overdue: bool

    @property
    def ratio(self) -> float:
        """The share of dirty bytes, 0 to 1."""
        total = self.clean_bytes + self.dirty_bytes
        return self.dirty_bytes / total if total else 0.0


def rules_of(config: TopicConfig, settings: Settings) -> Rules:
    """Gather the rules for one topic."""
    return Rules(
        config.min_cleanable_dirty_ratio,
        config.min_compaction_lag_ms,
        config.max_compaction_lag_ms,
        config.delete_retention_ms,
        settings.log_cleaner_dedupe_buffer_size,
        settings.log_cleaner_io_buffer_load_factor,
    )


class Compaction:
    """The job as the node runs it: which log is the dirtiest, and cleaning it with one worker."""

    def __init__(self, worker: Worker, settings: Callable[[], Settings]) -> None:
        self._worker = worker
        self._settings = settings

    def prepare(self, held: Held) -> Callable[[], None] | None:
        """Return what is to be read from the disk before :meth:`dirtiness` can tell, None when nothing is."""
        return timestamps(held, rules_of(held.config, self._settings()))

    def dirtiness(self, held: Held, now_ms: int) -> float:
        """Return the share of a log that is dirty if it is to be cleaned now, else 0."""
        rules = rules_of(held.config, self._settings())
        dirt = assess(held, rules, now_ms)
        return dirt.ratio if due(dirt, rules) else 0.0

    def dirt(self, held: Held, now_ms: int) -> Dirt:
        """Return what there is to clean in a log now, worth it or not."""
        return assess(held, rules_of(held.config, self._settings()), now_ms)

    def clean(self, held: Held, now_ms: int, stop: Callable[[], bool] | None = None) -> Iterator[Callable[[], None]]:
        """Clean one log; see :func:`compact`."""
        rules = rules_of(held.config, self._settings())
        return compact(held, rules, assess(held, rules, now_ms), now_ms, self._worker, stop)


def first_dirty(log: Log) -> int:
    """Return the offset below which a log has been compacted."""
    return log.cleaned_offset if log.start_offset <= log.cleaned_offset <= log.end_offset else log.start_offset


def timestamps(held: Held, rules: Rules) -> Callable[[], None] | None:
    """Return what finds the times that :func:`assess` asks for on the disk, None when they are known already."""
    segments = [one for one in _sealed(held.log) if one.next_offset > first_dirty(held.log)]
    unknown = [one for one in segments if one.first_timestamp is None]
    if not segments or (rules.max_compaction_lag_ms == LAG_NEVER_MS and rules.min_compaction_lag_ms == 0):
        return None

    def find() -> None:
        for segment in unknown:
            segment.find_first_timestamp()
        if rules.min_compaction_lag_ms:
            for segment in segments:
                segment.make_max_sure()

    return find


def assess(held: Held, rules: Rules, now_ms: int) -> Dirt:
    """Say what of a log is dirty and may be cleaned now."""
    log = held.log
    start = first_dirty(log)
    end = held.last_stable_offset
    clean_bytes = dirty_bytes = 0
    oldest_ms = now_ms
    reached = start
    for segment in _sealed(log):
        if segment.next_offset <= start:
            clean_bytes += segment.size
            continue
        young = rules.min_compaction_lag_ms and _newest(segment) > now_ms - rules.min_compaction_lag_ms
        if segment.next_offset > end or young:
            break
        dirty_bytes += segment.size
        reached = segment.next_offset
        if segment.first_timestamp is not None and segment.first_timestamp >= 0:
            oldest_ms = min(oldest_ms, segment.first_timestamp)
    overdue = dirty_bytes > 0 and now_ms - oldest_ms > rules.max_compaction_lag_ms
    return Dirt(start, reached, clean_bytes, dirty_bytes, overdue)


def due(dirt: Dirt, rules: Rules) -> bool:
    """Say whether so much is dirty that it is worth cleaning, or has been for too long."""
    return dirt.dirty_bytes > 0 and (dirt.overdue or dirt.ratio > rules.min_cleanable_dirty_ratio)


def _sealed(log: Log) -> Iterator[Segment]:
    """Yield the segments from the oldest on that are sealed and on disk."""
    for segment in log.segments[:-1]:
        if not segment.finished:
            return
        yield segment


def _newest(segment: Segment) -> int:
    return segment.max_timestamp if segment.max_timestamp >= 0 else segment.changed_ms


def groups(segments: list[Segment], segment_bytes: int, index_bytes: int, interval_bytes: int) -> list[list[Piece]]:
    """Join neighbours that fit into one segment and its indexes."""
    joined: list[list[Piece]] = []
    size_bytes = 0
    for segment in segments:
        piece = Piece(segment.base_offset, segment.next_offset, segment.size)
        entries = (size_bytes + segment.size) // max(interval_bytes, 1) + len(joined[-1] if joined else ()) + 2
        if (
            joined
            and len(joined[-1]) < GROUP_SEGMENTS_MAX
            and size_bytes + segment.size <= segment_bytes
            and entries * TIME_ENTRY_BYTES <= index_bytes
            and segment.next_offset - joined[-1][0].base_offset <= RELATIVE_OFFSET_MAX
        ):
            joined[-1].append(piece)
            size_bytes += segment.size
        else:
            joined.append([piece])
            size_bytes = segment.size
    return joined


def task_of(log: Log, dirt: Dirt, rules: Rules, now_ms: int) -> Task:
    """Describe a run for the worker."""
    pieces = tuple(
        Piece(one.base_offset, one.next_offset, one.size) for one in _sealed(log) if one.base_offset < dirt.end_offset
    )
    producers = {
        one.producer_id: LastBatch(one.epoch, one.batches[-1].last_offset if one.batches else -1)
        for one in log.producers
    }
    return Task(
        log.path,
        pieces,
        dirt.first_dirty,
        dirt.end_offset,
        now_ms,
        rules.delete_retention_ms,
        log.config.index_interval_bytes,
        rules.dedupe_buffer_size,
        rules.dedupe_buffer_load_factor,
        producers,
        tuple(log.aborted.find(0, dirt.end_offset)),
    )


def _usable(log: Log) -> bool:
    return log.failure is None


def _start_is_written(log: Log) -> bool:
    """Say whether segments that were deleted stay so: else a crash brings back values whose tombstones have gone."""
    return log.checkpoints.state.start_offset >= log.segments[0].base_offset


class _Question:
    """An order to the worker and, once a worker thread has run it, the answer; ``undo`` removes what is half done."""

    def __init__(self, worker: Worker, order: Start | Group | Finish, undo: Callable[[], None] | None = None) -> None:
        self._worker = worker
        self._order = order
        self._undo = undo
        self.outcome = Outcome()

    def put(self) -> None:
        """Ask and wait."""
        try:
            self.outcome = self._worker.ask(self._order)
        except (Corrupt, StorageFailed, WorkerLost):
            if self._undo is not None:
                with suppress(StorageFailed):  # the next open removes it
                    self._undo()
            raise


def compact(
    held: Held, rules: Rules, dirt: Dirt, now_ms: int, worker: Worker, stop: Callable[[], bool] | None = None
) -> Iterator[Callable[[], None]]:
    """Clean one log; yields what a worker thread has to run. It ends early when the log changes under it.

    What is yielded must be run, up to the end: a swap that is begun and left there would be forgotten by the next.

    :param stop: asked between segments; True ends the run, and those that are clean stay so.
    :raises Corrupt: a sealed segment is damaged; nothing was changed in it.
    :raises StorageFailed: the disk did; where the log is in danger it is offline from now on.
    :raises WorkerLost: the worker process ended.
    """
    log = held.log
    if log.cleaned_offset != dirt.first_dirty > log.checkpoints.state.start_offset:
        return  # a crash now would bring back what is before it, and what is there is not clean
    question = _Question(worker, Start(task_of(log, dirt, rules, now_ms)))
    yield question.put
    surveyed = question.outcome.surveyed
    assert surveyed is not None
    done: list[Rewritten] = []
    config = log.config
    end = surveyed.end_offset
    # No name for the segments themselves: one that is replaced takes up room until nobody knows it any more.
    for group in groups(
        [one for one in _sealed(log) if one.base_offset < end],
        config.segment_bytes,
        config.segment_index_bytes,
        config.index_interval_bytes,
    ):
        if (stop is not None and stop()) or not _start_is_written(log):
            return
        question = _Question(worker, Group(group), log.discarding(group[0].base_offset))
        yield question.put
        result = question.outcome.rewritten
        assert result is not None
        if not _usable(log):
            return
        exchange = Exchange(result.base_offset, result.next_offset, result.size, result.crc)
        swap = log.begin_swap(exchange, result.dropped_markers)
        if swap is None or [one.size for one in swap.old] != [one.size for one in group]:
            yield log.discarding(result.base_offset)  # the log has changed meanwhile
            if group[-1].next_offset > log.segments[0].base_offset:
                return  # what is left of the group is not clean, and tombstones behind it must stay for it
            continue  # all of it was deleted
        yield swap.commit
        if _usable(log) and log.swap_segments(swap):
            done.append(result)
            yield swap.finish
            swap.old.clear()
        else:
            yield swap.abandon
            return
    if not _start_is_written(log):
        return
    yield log.remember_cleaned(max(end, log.checkpoints.state.start_offset))
    yield _Question(worker, Finish()).put
    _tell(log, dirt, surveyed, done)


def _tell(log: Log, dirt: Dirt, surveyed: Surveyed, done: list[Rewritten]) -> None:
    logger.info(
        "%s: compacted, dirty from offset %d to %d: %d keys, %d of %d records and %d of %d bytes stay",
        log.path.rpartition("/")[2],
        dirt.first_dirty,
        surveyed.end_offset,
        surveyed.keys,
        sum(one.records_after for one in done),
        sum(one.records_before for one in done),
        sum(one.size for one in done),
        sum(one.bytes_before for one in done),
    )
