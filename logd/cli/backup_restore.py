"""``logd-cli backup restore``: an archive back into a cluster.

First every byte of the archive is checked, then whether the cluster can take it; only then is anything made. While it
is loaded a topic keeps everything (no retention, no compaction, timestamps as they come); the committed offsets are
set when its data is there, translated to the offsets that the records got, and its own settings last: so a topic that
has all the settings of loading is what is left of a restore that was cut, and is known as such.
"""

from __future__ import annotations

import shlex
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from logd.cli.archive import DATA, ArchivedGroup, ArchivedTopic, ArchiveReader, Contents, place_of
from logd.cli.backup import checked
from logd.cli.failures import EXISTS, FAILED, NOT_FOUND, USAGE, Failure, did_you_mean, from_refused
from logd.cli.options import Settings, common_options, confirm, examples
from logd.cli.output import note, show_rows
from logd.cli.progress import Progress
from logd.cli.session import with_admin
from logd.errors import ErrorCode, Refused

if TYPE_CHECKING:
    from logd.client import Admin, TopicPartition
    from logd.client.stored import Fresh, Translation

FOREVER = str((1 << 63) - 1)
LOADING = {
    "cleanup.policy": "delete",
    "retention.ms": "-1",
    "retention.bytes": "-1",
    "compression.type": "producer",
    "message.timestamp.type": "CreateTime",
    "message.timestamp.before.max.ms": FOREVER,
    "message.timestamp.after.max.ms": FOREVER,
    "max.message.bytes": str(100 << 20),
}
"""What a topic has while it is loaded, so that every record is taken as it was and none is deleted."""
AHEAD_BYTES = 8 << 20
"""So much is read ahead of what is sent."""
ROUND_BYTES_MAX = 4 << 20
"""So much is sent at once, over all partitions."""
WITHOUT_IT = "logd-cli backup restore FILE --without-setting KEY"


@click.command(
    "restore",
    epilog=examples(
        "logd-cli backup restore nightly.backup --dry-run",
        "logd-cli backup restore nightly.backup -t orders --rename orders=orders-restored",
    ),
)
@click.argument("file", type=click.Path())
@click.option("-t", "--topic", "topics", multiple=True, help="Only this; may be repeated.")
@click.option("--rename", "renames", metavar="OLD=NEW", multiple=True, help="Restore under another name.")
@click.option("--append", is_flag=True, help="Topics that exist already get the records behind their own.")
@click.option("--again", is_flag=True, help="Topics that a restore which was cut has left are deleted, and restored.")
@click.option("--without-setting", "without", metavar="KEY", multiple=True, help="A setting to leave out.")
@click.option("--no-offsets", is_flag=True, help="Leave the groups out: committed offsets, settings.")
@click.option("--dry-run", is_flag=True, help="Check the file and the cluster, but restore nothing.")
@click.option("-y", "--yes", is_flag=True, help="With --again: do not ask for the name.")
@common_options()
@click.pass_obj
def restore(
    settings: Settings,
    file: str,
    topics: tuple[str, ...],
    renames: tuple[str, ...],
    append: bool,
    again: bool,
    without: tuple[str, ...],
    no_offsets: bool,
    dry_run: bool,
    yes: bool,
) -> None:
    """Restore topics, their settings, data and committed offsets from FILE.

    Records keep timestamps, keys, values, headers and compression; offsets are counted anew, and committed offsets
    point to the same records. Groups that do not exist get the settings they had. Nothing is done when FILE is
    damaged or a topic exists already; what was cut is begun again with --again. In a pipe: one line for each topic,
    with topic, partitions, records.
    """
    if append and again:
        raise Failure("the command line is wrong", "--append and --again exclude each other", "leave one out", USAGE)
    contents = checked(file)
    plan = Plan(contents, _chosen(contents, topics), _renamed(contents, renames), append, set(without), no_offsets)
    plan.begin_again = _begin_again(file, topics, renames, without, no_offsets)
    if again:
        plan.halves = with_admin(settings, lambda admin: _Run(admin, plan).halves())
        if plan.halves and not dry_run:
            confirm("delete what a restore that was cut has left of", plan.halves, yes, inside=False)
    with_admin(settings, lambda admin: _Run(admin, plan).run(Path(file), dry_run))
    columns = ("topic", "partitions", "records")
    rows = [
        (plan.name(topic), len(topic.ends), sum(contents.records.get((number, at), 0) for at in range(len(topic.ends))))
        for number, topic in plan.topics()
    ]
    note("all of it can be restored" if dry_run else "restored")
    show_rows(settings.output, columns, rows)


def _begin_again(
    file: str, topics: Sequence[str], renames: Sequence[str], without: Sequence[str], no_offsets: bool
) -> str:
    """The command that restores the same once more."""
    options = [("-t", topics), ("--rename", renames), ("--without-setting", without)]
    words = ["logd-cli", "backup", "restore", file, "--again"]
    words += [word for option, values in options for value in values for word in (option, value)]
    return shlex.join([*words, "--no-offsets"] if no_offsets else words)


def _chosen(contents: Contents, names: tuple[str, ...]) -> set[str]:
    known = {topic.name for topic in contents.topics}
    for name in names:
        if name not in known:
            why = did_you_mean(name, known) or f"it has {len(known)} topics, none of that name"
            raise Failure(f"topic {name!r} is not in the backup", why, "logd-cli backup verify FILE", NOT_FOUND)
    return set(names) or known


def _renamed(contents: Contents, renames: tuple[str, ...]) -> dict[str, str]:
    known = {topic.name for topic in contents.topics}
    found: dict[str, str] = {}
    for text in renames:
        old, equals, new = text.partition("=")
        if not equals or not new:
            raise Failure(f"--rename {text!r} is wrong", "it must be OLD=NEW", "--rename orders=orders-copy", USAGE)
        if old not in known:
            why = did_you_mean(old, known) or "it has no such topic"
            raise Failure(f"topic {old!r} is not in the backup", why, "logd-cli backup verify FILE", NOT_FOUND)
        found[old] = new
    return found


class Plan:
    """What is to be restored under which name."""

    def __init__(
        self,
        contents: Contents,
        chosen: set[str],
        renames: Mapping[str, str],
        append: bool,
        without: set[str],
        no_offsets: bool,
    ) -> None:
        self.contents = contents
        self.append = append
        self._chosen = chosen
        self._renames = renames
        self._without = without
        self._no_offsets = no_offsets
        self.halves: list[str] = []
        """Topics to delete first: a restore that was cut has left them."""
        self.begin_again = ""
        """What to type after one that was cut."""
        names = [self.name(topic) for _, topic in self.topics()]
        twice = {name for name in names if names.count(name) > 1}
        if twice:
            why = f"two topics would be named {min(twice)!r}"
            raise Failure("the command line is wrong", why, "choose other names with --rename", USAGE)

    def topics(self) -> Iterator[tuple[int, ArchivedTopic]]:
        """Number in the archive and topic."""
        return ((number, item) for number, item in enumerate(self.contents.topics) if item.name in self._chosen)

    def name(self, topic: ArchivedTopic) -> str:
        """The name that it gets."""
        return self._renames.get(topic.name, topic.name)

    def configs(self, topic: ArchivedTopic) -> dict[str, str]:
        """The settings that it gets in the end."""
        return {key: value for key, value in topic.configs.items() if key not in self._without}

    def groups(self) -> list[ArchivedGroup]:
        """The groups that get offsets."""
        return [] if self._no_offsets else [group for group in self.contents.groups if self.commits(group)]

    def group_configs(self, group: ArchivedGroup) -> dict[str, str]:
        """The settings that it gets, if it does not exist."""
        return {key: value for key, value in group.configs.items() if key not in self._without}

    def commits(self, group: ArchivedGroup) -> dict[TopicPartition, tuple[int, str]]:
        """Old offset and note of each partition of a group, under the new names."""
        from logd.client import TopicPartition

        return {
            TopicPartition(self._renames.get(item.topic, item.topic), item.partition): (item.offset, item.metadata)
            for item in group.commits
            if item.topic in self._chosen
        }


class _Run:
    """One run: checks, makes, loads, commits."""

    def __init__(self, admin: Admin, plan: Plan) -> None:
        self._admin = admin
        self._plan = plan
        self._made: list[str] = []
        self._new_groups: list[ArchivedGroup] = []
        self._translations: dict[TopicPartition, Translation] = {}

    async def run(self, file: Path, dry_run: bool) -> None:
        existing = await self._check_topics()
        new = [topic for _, topic in self._plan.topics() if self._plan.name(topic) not in existing]
        await self._check_groups()
        await self._create([each for each in new if self._plan.name(each) not in self._plan.halves], dry_run=True)
        if dry_run:
            return
        await self._delete()
        await self._create(new, dry_run=False)
        try:
            await self._load(file)
            for group in self._new_groups:
                await self._configure(group, dry_run=False)
            await self._commit()
            for topic in new:
                await self._settle(topic)
        except BaseException:
            self._tell(existing)
            raise

    def _tell(self, existing: set[str]) -> None:
        """What is there of a restore that fails."""
        if self._made:
            note(f"not whole: {' '.join(self._made)}; to begin again: {self._plan.begin_again}")
        if existing:
            note(f"some records may be behind those of {' '.join(sorted(existing))}; --append would send them twice")

    async def _delete(self) -> None:
        outcome = await self._admin.topics.delete(self._plan.halves) if self._plan.halves else {}
        for name, error in outcome.items():
            if error is not None:
                raise from_refused(error, f"cannot delete topic {name!r}", f"logd-cli topic delete {name}")

    # -- may it be done?

    async def halves(self) -> list[str]:
        """Those of the topics that a restore which was cut has left."""
        known = await self._admin.topics.list(internal=True)
        named = {self._plan.name(topic): topic for _, topic in self._plan.topics()}
        return [name for name, topic in named.items() if name in known and await self._is_half(name, topic)]

    async def _is_half(self, name: str, topic: ArchivedTopic) -> bool:
        """Whether it still has the settings of loading, which none has that is whole."""
        from logd.client.configs import Resource

        found = await self._admin.configs.of(Resource("topic", name))
        have = {item.name: item.value for item in found.values() if item.source == "topic"}
        return have.items() >= LOADING.items() and not self._plan.configs(topic).items() >= LOADING.items()

    async def _check_topics(self) -> set[str]:
        """Those of the topics that exist and may be appended to."""
        known = await self._admin.topics.list(internal=True)
        wanted = {self._plan.name(topic): topic for _, topic in self._plan.topics()}
        existing = sorted((wanted.keys() & known.keys()) - set(self._plan.halves))
        halves = [name for name in existing if await self._is_half(name, wanted[name])]
        if halves:
            what = f"{_topics(halves)} left of a restore that was cut"
            raise Failure(what, "there is no telling how much of the data is in there", "give --again", EXISTS)
        if existing and not self._plan.append:
            remedy = f"--rename {existing[0]}={existing[0]}-restored, or --append"
            if self._plan.halves:
                archived = [topic.name for name, topic in wanted.items() if name not in existing]
                remedy = f"leave out what is whole: --again {' '.join(f'-t {name}' for name in archived)}"
            what = f"{_topics(existing)} there"
            raise Failure(what, "nothing is restored into topics that exist already", remedy, EXISTS)
        for name in existing:
            have, need = len(known[name].partitions), len(wanted[name].ends)
            if have < need:
                why = f"it has {have} partitions, the backup {need}"
                raise Failure(f"cannot append to topic {name!r}", why, f"logd-cli topic alter {name} -p {need}", FAILED)
        return set(existing)

    async def _check_groups(self) -> None:
        for group in self._plan.groups():
            try:
                found = await self._admin.groups.describe(group.name)
            except Refused as error:
                if error.code != ErrorCode.GROUP_ID_NOT_FOUND:
                    raise
                await self._configure(group, dry_run=True)
                self._new_groups.append(group)
                continue
            if found.members:
                why = f"it has {len(found.members)} members"
                remedy = "stop them, or give --no-offsets"
                raise Failure(f"cannot restore the offsets of group {group.name!r}", why, remedy, FAILED)

    async def _configure(self, group: ArchivedGroup, *, dry_run: bool) -> None:
        """Give a group the settings it had, or let the server check that it would."""
        from logd.client.configs import Resource

        values = self._plan.group_configs(group)
        try:
            if values:
                await self._admin.configs.alter(Resource("group", group.name), values, validate_only=dry_run)
        except Refused as error:
            raise from_refused(error, f"cannot restore the settings of group {group.name!r}", WITHOUT_IT) from None

    async def _create(self, topics: list[ArchivedTopic], *, dry_run: bool) -> None:
        """Make the topics, or let the server check that it would, with their settings of the end."""
        from logd.client import NewTopic

        if not topics:
            return
        wanted = []
        for topic in topics:
            configs = self._plan.configs(topic)
            configs = configs if dry_run else configs | LOADING
            wanted.append(NewTopic(self._plan.name(topic), partitions=len(topic.ends), configs=configs))
        outcome = await self._admin.topics.create(wanted, validate_only=dry_run)
        self._made += [name for name, error in outcome.items() if error is None and not dry_run]
        for name, error in outcome.items():
            if error is not None:
                remedy = WITHOUT_IT if "CONFIG" in error.code.name else ""
                raise from_refused(error, f"cannot restore topic {name!r}", remedy)

    # -- loading

    async def _load(self, file: Path) -> None:
        from logd.client.stored import Translation

        wanted: dict[TopicPartition, list[int]] = {}
        for group in self._plan.groups():
            for at, (offset, _) in self._plan.commits(group).items():
                wanted.setdefault(at, []).append(offset)
        self._translations = {at: Translation(offsets) for at, offsets in wanted.items()}
        with file.open("rb") as opened:
            reader = ArchiveReader(file, opened)
            with Progress("restore", self._plan.contents.end.records) as progress:
                await _Loader(self._admin, self._translations, progress).run(self._batches(reader))

    def _batches(self, reader: ArchiveReader) -> Iterator[tuple[TopicPartition, Fresh]]:
        """The batches of the chosen topics, fit to be sent."""
        from logd.client import TopicPartition
        from logd.client.stored import fresh

        names = {number: self._plan.name(topic) for number, topic in self._plan.topics()}
        for block in reader.blocks():
            if block.kind != DATA:
                continue
            number, partition, batches = place_of(block)
            if number not in names:
                continue
            topic = self._plan.contents.topics[number]
            for batch in fresh(batches, topic.starts[partition], topic.ends[partition]):
                yield TopicPartition(names[number], partition), batch

    async def _settle(self, topic: ArchivedTopic) -> None:
        """Give a topic that is loaded the settings of its own."""
        configs = self._plan.configs(topic)
        values = {key: configs[key] for key in LOADING if key in configs}
        await self._admin.configs.alter_topic(self._plan.name(topic), values, LOADING.keys() - values.keys())

    async def _commit(self) -> None:
        from logd.client.group_offsets import Commit
        from logd.client.offsets import LATEST

        ends = await self._admin.offsets(dict.fromkeys(self._translations, LATEST)) if self._translations else {}
        for at, translation in self._translations.items():
            translation.ended(ends[at].offset)
        for group in self._plan.groups():
            offsets = {
                at: Commit(self._translations[at].found[offset], metadata=metadata)
                for at, (offset, metadata) in self._plan.commits(group).items()
            }
            outcome = await self._admin.groups.commit(group.name, offsets)
            failed = next((error for error in outcome.values() if error is not None), None)
            if failed is not None:
                raise from_refused(failed, f"cannot restore the offsets of group {group.name!r}")


def _topics(names: list[str]) -> str:
    return f"topic {names[0]} is" if len(names) == 1 else f"topics {', '.join(names)} are"


class _Loader:
    """Sends batches, one for each partition at a time, reading some ahead."""

    def __init__(self, admin: Admin, translations: Mapping[TopicPartition, Translation], progress: Progress) -> None:
        from logd.client.stored import StoredWriter

        self._writer = StoredWriter(admin.router)
        self._translations = translations
        self._progress = progress
        self._queues: dict[TopicPartition, deque[Fresh]] = {}
        self._size = 0

    async def run(self, batches: Iterator[tuple[TopicPartition, Fresh]]) -> None:
        for at, batch in batches:
            self._queues.setdefault(at, deque()).append(batch)
            self._size += len(batch.data)
            while self._size >= AHEAD_BYTES:
                await self._round()
        while self._queues:
            await self._round()

    async def _round(self) -> None:
        """Send the first batch of as many partitions as go into one round."""
        chosen: dict[TopicPartition, Fresh] = {}
        size = 0
        for at in list(self._queues):
            batch = self._queues[at][0]
            if chosen and size + len(batch.data) > ROUND_BYTES_MAX:
                continue
            chosen[at] = batch
            size += len(batch.data)
            self._queues[at].popleft()
            if not self._queues[at]:
                del self._queues[at]
        offsets = await self._writer.write(chosen)
        for at, batch in chosen.items():
            if at in self._translations:
                self._translations[at].written(batch.offsets, offsets[at])
            self._progress.advance(len(batch.offsets))
        self._size -= size
