"""``logd-cli retention run`` and ``compaction run``: housekeeping now, by hand or from cron.

A running server is asked to begin (RunJob, which only logd answers), and then how far it is; Ctrl-C stops it. With
``--data-dir`` the directory of a stopped server is worked on here, under its lock. What goes is printed by partition:
offsets, segments, bytes, how old.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from logd.cli.completion import topic_names
from logd.cli.failures import PARTLY_FAILED, Failure, from_refused, typed
from logd.cli.options import Settings, common_options, examples
from logd.cli.output import moment, note, show_rows
from logd.cli.progress import Progress
from logd.errors import Refused

if TYPE_CHECKING:
    from logd.client import Admin
    from logd.client.own import JobProgress, JobResult

RETENTION, COMPACTION = "retention", "compaction"
UNITS = {RETENTION: "partitions", COMPACTION: "B"}
STEPS = {RETENTION: "partition", COMPACTION: "segment"}
RETENTION_COLUMNS = ("topic", "partition", "first_offset", "next_offset", "segments", "bytes", "oldest", "newest")
COMPACTION_COLUMNS = ("topic", "partition", "first_offset", "next_offset", "segments", "bytes", "bytes_after")


@click.group()
def retention() -> None:
    """Delete what is older, or more, than the topics' settings keep."""


@click.group()
def compaction() -> None:
    """Keep the last record of each key, in topics whose cleanup.policy says compact."""


def _options(function: Any) -> Any:
    """The options of both commands."""
    choices: list[Callable[[Any], Any]] = [
        click.option(
            "-t",
            "--topic",
            "topics",
            multiple=True,
            metavar="TOPIC",
            shell_complete=topic_names,
            help="Only this; may be repeated.",
        ),
        click.option("--dry-run", is_flag=True, help="Change nothing, print what would go."),
        click.option(
            "--data-dir",
            metavar="DIR",
            type=click.Path(path_type=Path, exists=True, file_okay=False),
            help="Work on the data directory of a server that is stopped.",
        ),
        click.option(
            "--config",
            "config_file",
            metavar="FILE",
            type=click.Path(path_type=Path, exists=True, dir_okay=False),
            help="With --data-dir: the stopped server's configuration file.",
        ),
        common_options(),
        click.pass_obj,
    ]
    for choice in reversed(choices):
        function = choice(function)
    return function


@retention.command(
    "run", epilog=examples("logd-cli retention run --dry-run", "logd-cli retention run --data-dir /var/lib/logd")
)
@_options
def run_retention(
    settings: Settings, topics: tuple[str, ...], dry_run: bool, data_dir: Path | None, config_file: Path | None
) -> int:
    """Delete old segments now, by retention.ms, retention.bytes and the log start offset, as the server does.

    In a pipe: one line for each partition, with topic, partition, first offset, offset after the last, segments and
    bytes of what goes, and the times of its oldest and newest record.
    """
    done = _run(settings, RETENTION, topics, dry_run, data_dir, config_file)
    rows = [
        (*_place(one), one.segments, one.size_bytes, _time(one.oldest_ms), _time(one.newest_ms))
        for one in done
        if one.refused is None
    ]
    show_rows(settings.output, RETENTION_COLUMNS, rows, nothing="")
    size = sum(one.size_bytes for one in done)
    note(f"{'would go' if dry_run else 'gone'}: {size:,} bytes of {_partitions(len(rows))}")
    return _failures(done)


@compaction.command("run", epilog=examples("logd-cli compaction run --topic accounts"))
@_options
def run_compaction(
    settings: Settings, topics: tuple[str, ...], dry_run: bool, data_dir: Path | None, config_file: Path | None
) -> int:
    """Compact sealed segments now, however dirty. The segment that is written to is left alone, as in the server.

    In a pipe: one line for each partition, with topic, partition, first offset, offset after the last, segments, and
    bytes before and after.
    """
    done = _run(settings, COMPACTION, topics, dry_run, data_dir, config_file)
    rows = [
        (*_place(one), one.segments, one.size_bytes, None if dry_run else one.bytes_after)
        for one in done
        if one.refused is None
    ]
    show_rows(settings.output, COMPACTION_COLUMNS, rows, nothing="")
    before, after = sum(one.size_bytes for one in done), sum(one.bytes_after for one in done)
    done_to = f"{_partitions(len(rows))} compacted, {before:,} to {after:,} bytes"
    note(f"dirty: {_partitions(len(rows))}, {before:,} bytes" if dry_run else done_to)
    return _failures(done)


def _run(
    settings: Settings,
    job: str,
    topics: Sequence[str],
    dry_run: bool,
    data_dir: Path | None,
    config_file: Path | None,
) -> list[JobResult]:
    if data_dir is not None:
        from logd.cli.stopped import run_stopped

        with Progress(job, None, UNITS[job]) as progress:
            try:
                return run_stopped(job, list(topics) or None, data_dir, config_file, dry_run=dry_run, progress=progress)
            except Refused as error:
                raise from_refused(error, f"cannot run {job} on {data_dir}", f"ls {typed(str(data_dir))}") from None
    if config_file is not None:
        raise click.UsageError("--config goes with --data-dir: a running server has its own")
    from logd.cli.session import existing_topic, with_admin

    with Progress(job, None, UNITS[job]) as progress:
        told = _Told(progress)

        async def run(admin: Admin) -> list[JobResult]:
            if not await admin.own.offered():
                why = "only logd does it when it is told to, and this server is another"
                raise Failure(f"cannot run {job} now", why, "leave it to the server, which does it by itself in time")
            for name in topics:
                await existing_topic(admin, name)
            return await admin.own.run_job(job, list(topics) or None, dry_run=dry_run, progressed=told.told)

        try:
            return with_admin(settings, run)
        except KeyboardInterrupt:
            if told.job_id is not None:
                note(f"the server ends {job} after the {STEPS[job]} it is at; what is done stays done")
            raise


def _partitions(count: int) -> str:
    return f"{count} partition{'' if count == 1 else 's'}"


class _Told:
    """What the server has said of the job so far."""

    def __init__(self, progress: Progress) -> None:
        self.job_id: int | None = None
        self._progress = progress

    def told(self, news: JobProgress) -> None:
        self.job_id = news.job_id
        self._progress.reached(news.passed, news.total)


def _place(one: JobResult) -> tuple[str, int, int, int]:
    topic, _, index = one.partition.rpartition("-")
    return topic, int(index), one.first_offset, one.next_offset


def _failures(done: list[JobResult]) -> int:
    failed = [one for one in done if one.refused is not None]
    for one in failed:
        note(f"{one.partition}: {one.refused}")
    if failed:
        what = f"{len(failed)} of {len(done)} partitions were left alone"
        raise Failure(what, failed[0].refused or "", "look into the server's log", PARTLY_FAILED)
    return 0


def _time(time_ms: int) -> str | None:
    return None if time_ms < 0 else moment(time_ms, "seconds").replace("+00:00", "Z")
