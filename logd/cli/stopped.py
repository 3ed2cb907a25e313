"""Housekeeping on the data directory of a stopped server: opened under its lock as a node does, and closed well.

Called by ``logd-cli retention run --data-dir`` and ``compaction run --data-dir``. It serves nobody and listens nowhere.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import trio

from logd.cli.failures import FAILED, USAGE, Failure
from logd.cli.progress import EVERY_S, Progress
from logd.cli.session import only
from logd.client.own import JobResult
from logd.cluster.cluster import Cluster, open_cluster
from logd.cluster.store import StoreUnusable
from logd.config import BadSetting, Settings, load
from logd.errors import StorageFailed
from logd.jobs.retention import retain
from logd.log.directory import DataDirectories, DirectoryUnusable
from logd.node import SystemClock, hire_compaction, new_cluster_id, new_uuid, open_store, partition_table
from logd.partitions.compactor import Compactor
from logd.partitions.flusher import Flusher
from logd.partitions.housekeeping import Done, Housekeeping, Run
from logd.partitions.steady import SteadyClock

THREADS_MAX = 4


@contextmanager
def _errors_alone() -> Iterator[None]:
    """Of what a server would log only errors are of interest; whoever called is left as they were."""
    logger = logging.getLogger("logd")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


@_errors_alone()
def run_stopped(
    job: str,
    topics: list[str] | None,
    data_dir: Path,
    config_file: Path | None,
    *,
    dry_run: bool,
    progress: Progress,
) -> list[JobResult]:
    """Run a job over topics (None: all) of a stopped server.

    :raises Failure: the directory is in use or is none of logd's.
    """
    try:
        settings = load(config_file, {}, {})
        others = [path for path in settings.log_dirs[1:] if path != str(data_dir)]
        settings = load(config_file, {"log.dirs": ",".join([str(data_dir), *others])}, {})
    except BadSetting as error:
        raise Failure("the configuration can't be used", str(error), "", USAGE) from None
    if not (data_dir / "metadata.db").is_file():
        why = f"{data_dir} holds no metadata.db"
        raise Failure("that is no data directory of logd", why, "give what `logd serve --data-dir` was given", FAILED)
    try:
        return trio.run(partial(_run, settings, job, topics, dry_run, progress))
    except (DirectoryUnusable, StoreUnusable, StorageFailed) as error:
        raise _unusable(error) from None
    except BaseExceptionGroup as group:
        one = only(group)
        raise (_unusable(one) if isinstance(one, (StoreUnusable, StorageFailed)) else one) from None


def _unusable(error: BaseException) -> Failure:
    hint = "ask the running server: leave out --data-dir" if "in use" in str(error) else ""
    return Failure("the data directory can't be worked on", str(error), hint, FAILED)


async def _run(
    settings: Settings, job: str, topics: list[str] | None, dry_run: bool, progress: Progress
) -> list[JobResult]:
    data = DataDirectories.open(settings.log_dirs)
    try:
        data.first.check_clock(SystemClock().now_ms())
        store = await open_store(Path(data.path))
        try:
            cluster = await open_cluster(store, settings, new_uuid, new_cluster_id)
            data.belong_to(cluster.image.cluster_id)
            done = await _on(cluster, data, job, topics, dry_run, progress)
        finally:
            with trio.CancelScope(shield=True):
                await store.aclose()
    finally:
        data.close()
    return [_result(one) for one in done]


async def _on(
    cluster: Cluster, data: DataDirectories, job: str, topics: list[str] | None, dry_run: bool, progress: Progress
) -> list[Done]:
    clock, flusher = SystemClock(), Flusher(lambda: THREADS_MAX)
    async with trio.open_nursery() as nursery:
        await nursery.start(flusher.run)
        partitions = partition_table(data, cluster, flusher, clock)
        await partitions.open_all(cluster.image, registered=False)
        data.mark_dirty()
        steady = SteadyClock(clock, trio.current_time, data.first.noted_clock())
        compactor = Compactor(partitions, cluster, steady, partial(hire_compaction, cluster))
        try:
            await partitions.settled()
            house = Housekeeping(partitions, retain, compactor, steady)
            run = house.prepared(job, topics, dry_run=dry_run, remove_now=True)
            nursery.start_soon(_show, house, run, progress)
            await house.carry_out(run)
        finally:
            compactor.end()
        nursery.cancel_scope.cancel()
    with trio.CancelScope(shield=True):
        if await partitions.close():
            with suppress(StorageFailed):  # without the mark the next start looks closer, and no more
                data.mark_clean()
    return run.done


async def _show(house: Housekeeping, run: Run, progress: Progress) -> None:
    while True:
        await trio.sleep(EVERY_S)
        progress.reached(house.passed(run), run.total)


def _result(done: Done) -> JobResult:
    return JobResult(
        f"{done.topic}-{done.index}",
        done.first_offset,
        done.next_offset,
        done.segments,
        done.size_bytes,
        done.bytes_after,
        done.oldest_ms,
        done.newest_ms,
        done.refused.message if done.refused is not None else None,
    )
