"""``logd-cli backup``: the noun, and `verify`; ``backup_create`` and ``backup_restore`` do the work."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from logd.cli.failures import NOT_FOUND, Failure
from logd.cli.lazy import LazyGroup
from logd.cli.options import Settings, common_options
from logd.cli.output import Thing, moment, show_things
from logd.cli.progress import Progress

if TYPE_CHECKING:
    from logd.cli.archive import Contents


@click.group(
    cls=LazyGroup,
    lazy={"create": "logd.cli.backup_create:create", "restore": "logd.cli.backup_restore:restore"},
)
def backup() -> None:
    """Copy topics, their settings, committed offsets and data into one file, and back."""


def checked(file: str) -> Contents:
    """What is in an archive, after every byte of it was checked.

    :raises Corrupt: it is damaged. :raises Failure: there is no such file, or it is no backup.
    """
    from logd.cli.archive import MAGIC, ArchiveReader, verify

    path = Path(file)
    if not path.is_file():
        remedy = "give a file: a backup is read twice, so that it can't come from a pipe"
        raise Failure(
            f"cannot read {file}", "it is no file" if path.exists() else "there is no such file", remedy, NOT_FOUND
        )
    with path.open("rb") as opened:
        if opened.read(len(MAGIC)) != MAGIC:
            remedy = "give a file that `logd-cli backup create` made"
            raise Failure(f"{file} is no backup", "it does not begin as a backup of logd does", remedy)
        reader = ArchiveReader(path, opened)
        with Progress("checking", reader.size, "B") as progress:
            return verify(reader, progress.advance)


@backup.command("verify")
@click.argument("file", type=click.Path())
@common_options()
@click.pass_obj
def verify_file(settings: Settings, file: str) -> None:
    """Check every byte of a backup, and show what is in it.

    In a pipe: one line for each topic, with topic, partitions, records, and the offsets that it had.
    """
    contents = checked(file)
    show_things(settings.output, [shown(contents)])


def shown(contents: Contents) -> Thing:
    """An archive as it is shown."""
    topics: list[dict[str, Any]] = [
        {
            "topic": topic.name,
            "partitions": len(topic.ends),
            "records": sum(contents.records.get((number, index), 0) for index in range(len(topic.ends))),
            "settings": len(topic.configs),
        }
        for number, topic in enumerate(contents.topics)
    ]
    groups: list[dict[str, Any]] = [
        {"group": group.name, "offsets": len(group.commits), "settings": len(group.configs)}
        for group in contents.groups
    ]
    fields: dict[str, Any] = {
        "created": moment(contents.head.created_ms, "seconds"),
        "cluster": contents.head.cluster,
        "program": contents.head.program,
        "records": contents.end.records,
        "data_bytes": contents.end.data_bytes,
        "sha256": contents.end.sha256,
        "topics": topics,
        "groups": groups,
    }
    tables = [
        ("topics", ("topic", "partitions", "records", "settings"), [tuple(item.values()) for item in topics]),
        ("groups", ("group", "offsets", "settings"), [tuple(item.values()) for item in groups]),
    ]
    return Thing(fields, tables)
