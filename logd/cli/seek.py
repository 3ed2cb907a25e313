"""``logd-cli group seek`` and ``group reset``: move the committed offsets of a group.

`seek` moves any group, with members too where the server can (logd's live seek); `reset` only groups without members,
and can also forget offsets. What is to be moved where is found first (:class:`Move`), shown, and done when it is
confirmed.
"""

from __future__ import annotations

import csv
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from logd.cli.completion import group_names, topic_names
from logd.cli.failures import FAILED, NOT_FOUND, PARTLY_FAILED, USAGE, Failure, from_refused, typed
from logd.cli.groups import existing_group
from logd.cli.lag import there
from logd.cli.options import Settings, common_options, confirm, examples
from logd.cli.output import note, show_rows
from logd.cli.places import NUMBER, bounds_of, chosen_partitions, resolve, topic_or_partition, where_option
from logd.cli.session import existing_topic, with_admin
from logd.cli.where import PLACES, Where
from logd.errors import Refused

if TYPE_CHECKING:
    from logd.client import Admin, TopicPartition
    from logd.client.groups import Group

COLUMNS = ("group", "topic", "partition", "committed", "new", "moved_by")
SHIFT = re.compile(r"[+-]?[0-9]{1,18}")
LINE_SHOWN = 80


class Order(msgspec.Struct):
    """What the options of one call say; exactly one of where, shift, file and forget is given."""

    group: str
    topics: tuple[str, ...]
    where: Where | None
    shift: int | None
    file: str | None
    forget: bool
    live: bool


class Move(msgspec.Struct):
    """One partition; `before` None: nothing was committed, `after` None: nothing is to be."""

    at: Any
    before: int | None
    after: int | None


def _order(
    group: str,
    topics: tuple[str, ...],
    where: str | None,
    shift: str | None,
    file: str | None,
    forget: bool,
    live: bool,
) -> Order:
    verb = "seek" if live else "reset"
    given = [where is not None, shift is not None, file is not None, forget]
    if sum(given) != 1:
        names = "--offset, --shift and --from" if live else "--offset, --shift, --from and --forget"
        why = f"exactly one of {names} is needed"
        raise Failure(
            "the command line is wrong", why, f"logd-cli group {verb} {typed(group)} --offset @-1h --dry-run", USAGE
        )
    if shift is not None and SHIFT.fullmatch(shift) is None:
        why = f"--shift {shift!r} is no number of records"
        raise Failure("the command line is wrong", why, f"logd-cli group {verb} {typed(group)} --shift=-100", USAGE)
    if file is not None and topics:
        why = "the lines of --from name the partitions"
        remedy = f"leave out {topics[0]}, and lines of other topics"
        raise Failure("the command line is wrong", why, remedy, USAGE)
    place = None if where is None else where_option(where)
    return Order(group, topics, place, None if shift is None else int(shift), file, forget, live)


_shared = [
    click.argument("group", shell_complete=group_names),
    click.argument("topics", metavar="[TOPIC[/PARTITION]]...", nargs=-1, shell_complete=topic_names),
    click.option("--offset", "where", metavar="WHERE", help=f"Where to go: {PLACES}."),
    click.option("--shift", metavar="RECORDS", help="Go on (100) or back (-100) from the committed offset."),
    click.option("--from", "file", metavar="FILE", help="Lines of topic, partition, offset; - is stdin."),
    click.option("--dry-run", is_flag=True, help="Show what would be moved, but move nothing."),
    click.option("-y", "--yes", is_flag=True, help="Do not ask for the name."),
]


def _options(function: Any) -> Any:
    for option in reversed(_shared):
        function = option(function)
    return function


@click.command(
    "seek",
    epilog=examples(
        "logd-cli group seek billing --offset @-1h --dry-run", "logd-cli group seek billing orders/0 --shift -100"
    ),
)
@_options
@common_options()
@click.pass_obj
def seek(
    settings: Settings,
    group: str,
    topics: tuple[str, ...],
    where: str | None,
    shift: str | None,
    file: str | None,
    dry_run: bool,
    yes: bool,
) -> None:
    """Move the committed offsets of a group, also while it has members.

    All partitions of the group, or those of the named topics. Members of the group are fenced and carry on from the
    new place; a server that can't do that refuses groups with members. In a pipe: one line for each partition, with
    group, topic, partition, committed offset, new offset, and the difference.
    """
    Run(settings, _order(group, topics, where, shift, file, False, True)).run(dry_run, yes)


@click.command(
    "reset",
    epilog=examples(
        "logd-cli group reset billing --offset start",
        "printf 'orders,0,42\\n' | logd-cli group reset billing --from - --yes",
        "logd-cli group reset billing orders --forget",
    ),
)
@_options
@click.option("--forget", is_flag=True, help="Delete the offsets: members begin where their own settings say.")
@common_options()
@click.pass_obj
def reset(
    settings: Settings,
    group: str,
    topics: tuple[str, ...],
    where: str | None,
    shift: str | None,
    file: str | None,
    dry_run: bool,
    yes: bool,
    forget: bool,
) -> None:
    """Move or forget the committed offsets of a group that has no members.

    Like seek, but a group with members is refused. In a pipe: one line for each partition, with group, topic,
    partition, committed offset, new offset, and the difference.
    """
    Run(settings, _order(group, topics, where, shift, file, forget, False)).run(dry_run, yes)


class Run:
    """One run: finds the moves, shows them, does them."""

    def __init__(self, settings: Settings, order: Order) -> None:
        self._settings = settings
        self._order = order

    def run(self, dry_run: bool, yes: bool) -> None:
        order = self._order
        listed = _listed(order.file) if order.file is not None else {}
        if order.file == "-" and not (yes or dry_run):
            why = "stdin holds the offsets, so that nobody can be asked"
            raise Failure("nothing was done", why, "give --yes or --dry-run", USAGE)
        moves, members = with_admin(self._settings, lambda admin: self._look(admin, listed))
        if moves and not dry_run:
            verb = "forget offsets of group" if order.forget else "move the offsets of group"
            if members:
                note(f"{members} member{'' if members == 1 else 's'} of the group will be fenced")
            confirm(verb, [order.group], yes, inside=False)
            with_admin(self._settings, lambda admin: self._do(admin, moves, members))
        rows = [
            (
                order.group,
                move.at.topic,
                move.at.partition,
                move.before,
                move.after,
                None if move.before is None or move.after is None else move.after - move.before,
            )
            for move in moves
        ]
        show_rows(self._settings.output, COLUMNS, rows, nothing="nothing to move")

    # -- what is to be moved

    async def _look(self, admin: Admin, listed: dict[tuple[str, int], int]) -> tuple[list[Move], int]:
        group = await self._group(admin)
        members = len(group.members) if group is not None else 0
        if members:
            await self._check_active(admin, members)
        committed = await admin.groups.committed(self._order.group)
        partitions = await self._partitions(admin, group, committed, listed)
        if self._order.forget:
            return [Move(at, committed[at], None) for at in partitions if at in committed], members
        first, last = await bounds_of(admin, partitions)
        if self._order.where is not None:
            targets = await resolve(admin, self._order.where, first, last)
        else:
            targets = self._shifted(partitions, committed, first, last, listed)
        return [Move(at, committed.get(at), targets[at]) for at in partitions if at in targets], members

    async def _group(self, admin: Admin) -> Group | None:
        """The group; a new one may be given offsets when its topics are named."""
        try:
            return await existing_group(admin, self._order.group)
        except Failure as failure:
            new = self._order.topics or self._order.file
            if failure.code != NOT_FOUND or not new or self._order.forget or self._order.shift is not None:
                raise
            note(f"group {self._order.group!r} does not exist: it will be made")
            return None

    async def _check_active(self, admin: Admin, members: int) -> None:
        name = self._order.group
        have = f"it has {members} member{'' if members == 1 else 's'}"
        what = f"cannot move group {name!r}"
        if not self._order.live:
            raise Failure(
                what, have, f"stop them, or move it while they run: logd-cli group seek {typed(name)}", FAILED
            )
        if not await admin.own.offered():
            why = f"{have}, and this server can move groups without members only (logd can do it while they run)"
            raise Failure(what, why, "stop the members and try again", FAILED)

    async def _partitions(
        self,
        admin: Admin,
        group: Group | None,
        committed: dict[TopicPartition, int],
        listed: dict[tuple[str, int], int],
    ) -> list[TopicPartition]:
        if listed:
            names = [f"{topic}/{index}" for topic, index in listed]
        elif self._order.topics:
            names = list(self._order.topics)
        else:
            owned = {at for member in group.members for at in member.partitions} if group is not None else set()
            known = sorted({*committed, *owned})
            found = known if self._order.forget else await there(admin, known)
            if not found:
                name = self._order.group
                why = "it has no committed offsets" if not known else "none of its topics exists any more"
                remedy = (
                    f"name topics: logd-cli group {'seek' if self._order.live else 'reset'} {typed(name)} TOPIC ..."
                )
                raise Failure(f"group {name!r} has nothing to move", why, remedy, NOT_FOUND)
            return found
        chosen = [at for name in dict.fromkeys(names) for at in await self._named(admin, name, committed)]
        return list(dict.fromkeys(chosen))

    async def _named(self, admin: Admin, name: str, committed: dict[TopicPartition, int]) -> list[TopicPartition]:
        """A topic, or one partition of it; offsets of a topic that is gone can still be forgotten."""
        topic, index = topic_or_partition(name)
        if self._order.forget:
            gone = [at for at in committed if at.topic == topic and index in (None, at.partition)]
            if gone:
                return sorted(gone)
        return chosen_partitions(await existing_topic(admin, topic), [] if index is None else [index])

    def _shifted(
        self,
        partitions: Sequence[TopicPartition],
        committed: dict[TopicPartition, int],
        first: dict[TopicPartition, int],
        last: dict[TopicPartition, int],
        listed: dict[tuple[str, int], int],
    ) -> dict[TopicPartition, int]:
        """The new offsets for --shift and --from, within what is there."""
        targets: dict[TopicPartition, int] = {}
        for at in partitions:
            wanted = listed.get((at.topic, at.partition))
            if wanted is None:
                if at not in committed:
                    note(f"{at}: nothing is committed, so that nothing can be shifted")
                    continue
                wanted = committed[at] + (self._order.shift or 0)
            targets[at] = min(max(wanted, first[at]), last[at])
            if targets[at] != wanted:
                note(f"{at}: offset {wanted} is not there, the nearest is {targets[at]}")
        return targets

    # -- doing it

    async def _do(self, admin: Admin, moves: Sequence[Move], members: int) -> None:
        from logd.client.group_offsets import Commit

        order = self._order
        if order.forget:
            outcome = await admin.groups.forget(order.group, [move.at for move in moves])
            return self._judge(outcome, "deleted")
        targets = {move.at: Commit(move.after or 0) for move in moves}
        if order.live and await admin.own.offered():
            try:
                found = await admin.own.seek(order.group, targets)
            except Refused as error:
                remedy = f"logd-cli group describe {typed(order.group)}"
                raise from_refused(error, f"cannot move group {order.group!r}", remedy) from None
            fenced = found.members_fenced
            more = f"; {fenced} member{'' if fenced == 1 else 's'} fenced" if fenced or members else ""
            return note(f"group {order.group!r}: {_offsets(len(moves))} moved{more}")
        return self._judge(await admin.groups.commit(order.group, targets), "moved")

    def _judge(self, outcome: dict[TopicPartition, Refused | None], done: str) -> None:
        failed = {at: error for at, error in outcome.items() if error is not None}
        if not failed:
            return note(f"group {self._order.group!r}: {_offsets(len(outcome))} {done}")
        at, error = next(iter(failed.items()))
        what = f"{len(failed)} of {len(outcome)} offsets of group {self._order.group!r} were not {done}"
        failure = from_refused(error, what, f"logd-cli group describe {typed(self._order.group)}")
        code = PARTLY_FAILED if len(failed) < len(outcome) else failure.code
        raise Failure(what, f"{at}: {failure.why}", failure.remedy, code)


def _offsets(count: int) -> str:
    return "1 offset" if count == 1 else f"{count} offsets"


def _fields(line: str) -> list[str]:
    if "\t" in line:
        return line.split("\t")
    try:
        return next(csv.reader([line]), [])
    except csv.Error:
        return []


def _listed(file: str) -> dict[tuple[str, int], int]:
    """The offsets that a file holds: topic, partition, offset with commas or tabs between, as other tools write them.

    :raises Failure: a line is not of that form; nothing was done.
    """
    data = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    found: dict[tuple[str, int], int] = {}
    for number, line in enumerate(data.decode(errors="backslashreplace").split("\n"), 1):
        if not line.strip():
            continue
        fields = _fields(line)
        if len(fields) != 3 or not all(NUMBER.fullmatch(field.strip()) for field in fields[1:]):
            why = f"{line[:LINE_SHOWN]!r} is not topic, partition, offset"
            raise Failure(f"line {number} of {file} is wrong", why, "orders,0,42", USAGE)
        found[fields[0].strip(), int(fields[1])] = int(fields[2])
    if not found:
        raise Failure(f"{file} holds no offsets", "it is empty", "orders,0,42", USAGE)
    return found
