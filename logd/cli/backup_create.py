"""``logd-cli backup create``: one archive of a cluster that goes on serving.

Committed offsets are read before the ends of the topics, and the ends before the data: so no offset of the archive
points past its data. The archive is written beside its place and moved there when it is whole.
"""

from __future__ import annotations

import fcntl
import glob
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import click

from logd import __version__
from logd.cli.archive import (
    GROUP,
    HEADER,
    TOPIC,
    ArchivedCommit,
    ArchivedGroup,
    ArchivedTopic,
    ArchiveWriter,
    Head,
)
from logd.cli.completion import topic_names
from logd.cli.failures import EXISTS, FAILED, USAGE, Failure
from logd.cli.options import Settings, common_options, examples
from logd.cli.output import nobody_reads, note, show_rows
from logd.cli.places import Offsets, bounds_of, chosen_partitions, now_ms
from logd.cli.progress import Progress, amount
from logd.cli.session import existing_topic, with_admin

if TYPE_CHECKING:
    from logd.client import Admin, TopicPartition
    from logd.client.metadata import TopicInfo
    from logd.client.stored import StoredBatch


@click.command(
    "create",
    epilog=examples("logd-cli backup create nightly.backup", "logd-cli backup create - -t orders > orders.backup"),
)
@click.argument("file", type=click.Path())
@click.option("-t", "--topic", "topics", multiple=True, shell_complete=topic_names, help="Only this; may be repeated.")
@click.option("--no-data", is_flag=True, help="Topics, settings and offsets only.")
@click.option("--replace", is_flag=True, help="A file of that name is replaced, when the new one is whole.")
@common_options()
@click.pass_obj
def create(settings: Settings, file: str, topics: tuple[str, ...], no_data: bool, replace: bool) -> None:
    """Write topics, their settings, committed offsets and data into FILE; - is stdout.

    The server goes on serving: what comes after the command began may be missing, what is in FILE fits together.
    Records of open and aborted transactions are left out.
    """
    with _opened(file, replace) as opened:
        archive = ArchiveWriter(opened)
        with_admin(settings, lambda admin: _Run(admin, archive, no_data).run(topics))
        archive.finish()
    size = amount(archive.data_bytes, "B")
    note(f"{archive.records} record{'' if archive.records == 1 else 's'} ({size}) backed up{_to(file)}")
    if file != "-" and settings.given_output is not None:
        show_rows(settings.given_output, ("file", "records", "bytes"), [(file, archive.records, archive.data_bytes)])


def _to(file: str) -> str:
    return "" if file == "-" else f" to {file}"


@contextmanager
def _opened(file: str, replace: bool) -> Iterator[BinaryIO]:
    """The file to write to; it is in its place when the body ended well, and nothing is left when it did not."""
    if file == "-":
        if sys.stdout.isatty():
            raise Failure("a backup can't go to a terminal", "it is not text", "logd-cli backup create FILE", USAGE)
        try:
            yield sys.stdout.buffer
        except BrokenPipeError:
            nobody_reads()
            why = "whoever read it has left before its end"
            raise Failure("the backup is not whole", why, "do not restore from what there is of it", FAILED) from None
        return
    path = Path(file)
    if path.exists() and not (replace and path.is_file()):
        raise Failure(f"{file} exists already", "a backup never overwrites", "give --replace, or another name", EXISTS)
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with partial.open("xb") as opened:
            fcntl.flock(opened, fcntl.LOCK_EX)
            _clear(path)
            yield opened
            opened.flush()
            os.fsync(opened.fileno())
        partial.replace(path)
    except BaseException as error:
        with suppress(OSError):
            partial.unlink()
        if isinstance(error, OSError) and not isinstance(error, BrokenPipeError):
            why = error.strerror or str(error)
            what = f"cannot write {file}"
            raise Failure(what, f"{why}; nothing was left behind", "give another place", FAILED) from None
        raise
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _clear(path: Path) -> None:
    """Remove halves that killed runs have left: those that nobody holds a lock on."""
    for half in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
        with suppress(OSError), half.open("rb") as opened:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
            half.unlink()


class _Run:
    """One run: asks, and writes what it is told."""

    def __init__(self, admin: Admin, archive: ArchiveWriter, no_data: bool) -> None:
        self._admin = admin
        self._archive = archive
        self._no_data = no_data

    async def run(self, names: Sequence[str]) -> None:
        from logd.client.errors import NotSupported

        topics = await self._topics(names)
        groups = await self._groups(set(topics))
        partitions = [at for info in topics.values() for at in chosen_partitions(info, ())]
        first, last = await bounds_of(self._admin, partitions, committed_only=True)
        cluster = await self._admin.cluster()
        self._archive.write(HEADER, Head(now_ms(), cluster.cluster_id, f"logd-cli {__version__}"))
        for info in topics.values():
            own = [at for at in partitions if at.topic == info.name]
            configs = await self._configs("topic", info.name)
            starts, ends = [first[at] for at in own], [last[at] for at in own]
            self._archive.write(TOPIC, ArchivedTopic(info.name, starts, ends, configs))
        for group in groups:
            with suppress(NotSupported):
                group.configs = await self._configs("group", group.name)
            self._archive.write(GROUP, group)
        if not self._no_data:
            await self._data(list(topics), first, last)

    async def _topics(self, names: Sequence[str]) -> dict[str, TopicInfo]:
        if names:
            return {name: await existing_topic(self._admin, name) for name in dict.fromkeys(names)}
        return await self._admin.topics.list()

    async def _groups(self, topics: set[str]) -> list[ArchivedGroup]:
        """The groups that have committed something in these topics."""
        found = []
        for item in await self._admin.groups.list():
            commits = [
                ArchivedCommit(at.topic, at.partition, commit.offset, commit.metadata)
                for at, commit in (await self._admin.groups.commits(item.group)).items()
                if at.topic in topics
            ]
            if commits:
                found.append(ArchivedGroup(item.group, commits))
        return found

    async def _configs(self, kind: str, name: str) -> dict[str, str]:
        """What was set for this topic or group itself."""
        from logd.client.configs import Resource
        from logd.errors import Refused

        try:
            found = await self._admin.configs.of(Resource(kind, name))
        except Refused:
            if kind == "topic":
                raise
            return {}
        return {item.name: item.value for item in found.values() if item.source == kind and item.value is not None}

    async def _data(self, topics: list[str], first: Offsets, last: Offsets) -> None:
        from logd.client.stored import StoredReader

        total = sum(last[at] - first[at] for at in last)
        with Progress("backup", total) as progress:
            for number, name in enumerate(topics):
                positions = {at: offset for at, offset in first.items() if at.topic == name}
                reader = StoredReader(self._admin.router, positions, {at: last[at] for at in positions})
                async for at, batches, advanced in reader.read():
                    self._write(number, at, batches)
                    progress.advance(advanced)
                self._tell(reader.skipped)

    def _write(self, number: int, at: TopicPartition, batches: list[StoredBatch]) -> None:
        if batches:
            records = sum(batch.header.count for batch in batches)
            self._archive.data(number, at.partition, [batch.data for batch in batches], records)

    def _tell(self, skipped: Mapping[TopicPartition, int]) -> None:
        for at, count in skipped.items():
            note(f"{at}: {count} offsets were deleted by retention before they could be read")
