"""``logd-cli transaction``: list, describe, abort-hanging."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from logd.cli.completion import topic_names
from logd.cli.failures import FAILED, NOT_FOUND, PARTLY_FAILED, Failure, did_you_mean, from_refused
from logd.cli.options import Amount, Settings, common_options, confirm, examples
from logd.cli.output import Thing, moment, note, show_rows, show_things
from logd.cli.places import chosen_partitions, now_ms, topic_or_partition
from logd.cli.session import existing_topic, with_admin
from logd.errors import ErrorCode, Refused
from logd.wire.transactions import NAMES

if TYPE_CHECKING:
    from logd.client import Admin, TopicPartition
    from logd.client.transaction_admin import OpenTransaction, Transaction

HELD_COLUMNS = ("topic", "partition", "producer", "epoch", "first_offset", "last_write", "age_s")
OLD_S = 900.0
"""A transaction that lives longer than this can't be one that goes on: transaction.max.timeout.ms of brokers."""


@click.group()
def transaction() -> None:
    """Show transactions, and end those that hang."""


@transaction.command("list")
@click.option(
    "--state",
    "states",
    type=click.Choice(list(NAMES.values()), case_sensitive=False),
    multiple=True,
    help="Only in this state; may be repeated.",
)
@common_options()
@click.pass_obj
def list_transactions(settings: Settings, states: tuple[str, ...]) -> None:
    """List the transactional ids of the whole cluster.

    In a pipe: one line for each, with transactional id, producer id, state, coordinator.
    """
    found = with_admin(settings, lambda admin: admin.transactions.list(states=states))
    rows = [(item.transactional_id, item.producer_id, item.state, item.coordinator) for item in found]
    show_rows(settings.output, ("transactional_id", "producer", "state", "coordinator"), rows)


@transaction.command("describe")
@click.argument("ids", metavar="TRANSACTIONAL_ID...", nargs=-1, required=True)
@common_options()
@click.pass_obj
def describe(settings: Settings, ids: tuple[str, ...]) -> None:
    """Show transactional ids: producer, state, since when, and the partitions of the open transaction.

    In a pipe: one line for each partition, with transactional id, state, topic and partition; one with the first two
    alone where no transaction is open.
    """

    async def run(admin: Admin) -> list[Transaction]:
        return [await _existing(admin, name) for name in dict.fromkeys(ids)]

    show_things(settings.output, [_shown(item) for item in with_admin(settings, run)])


async def _existing(admin: Admin, name: str) -> Transaction:
    try:
        return await admin.transactions.describe(name)
    except Refused as error:
        if error.code != ErrorCode.TRANSACTIONAL_ID_NOT_FOUND:
            raise
    known = [item.transactional_id for item in await admin.transactions.list()]
    hint = did_you_mean(name, known)
    why = f"the cluster has {len(known)}, none of that name{'; ' + hint if hint else ''}"
    raise Failure(f"transactional id {name!r} does not exist", why, "logd-cli transaction list", NOT_FOUND)


def _shown(item: Transaction) -> Thing:
    fields: dict[str, Any] = {
        "transactional_id": item.transactional_id,
        "producer": item.producer_id,
        "epoch": item.producer_epoch,
        "state": item.state,
        "coordinator": item.coordinator,
        "timeout_ms": item.timeout_ms,
        "started": _moment(item.started_ms),
        "seconds": None if item.started_ms < 0 else max(now_ms() - item.started_ms, 0) / 1000,
        "partitions": [str(at) for at in item.partitions],
    }
    rows: list[tuple[Any, ...]] = [
        (item.transactional_id, item.state, at.topic, at.partition) for at in item.partitions
    ]
    rows = rows or [(item.transactional_id, item.state, None, None)]
    return Thing(fields, [("partitions", ("transactional_id", "state", "topic", "partition"), rows)])


def _moment(time_ms: int) -> str | None:
    return None if time_ms < 0 else moment(time_ms)


@transaction.command("abort-hanging", epilog=examples("logd-cli transaction abort-hanging orders --dry-run"))
@click.argument("topics", metavar="[TOPIC[/PARTITION]]...", nargs=-1, shell_complete=topic_names)
@click.option(
    "--older",
    "older_s",
    type=Amount(min=0),
    default=OLD_S,
    show_default=True,
    metavar="SECONDS",
    help="Only those whose producer has been silent for so long.",
)
@click.option("--dry-run", is_flag=True, help="Show what would be aborted, but abort nothing.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@common_options()
@click.pass_obj
def abort_hanging(settings: Settings, topics: tuple[str, ...], older_s: float, dry_run: bool, yes: bool) -> int:
    """Abort transactions that a partition holds open and that no coordinator knows of.

    Such a transaction hides all that comes after it from readers of committed records. Looked for in all topics, or
    in those that are named; those whose producer wrote within the last --older seconds are left alone. In a pipe: one
    line for each, with topic, partition, producer id, its epoch, first offset, time of its last write, age in seconds.
    """
    found = with_admin(settings, lambda admin: _hanging(admin, topics))
    now = now_ms()
    old = [item for item in found if now - item.written_ms >= older_s * 1000]
    if len(found) > len(old):
        note(f"{len(found) - len(old)} more, younger than {older_s:g} s, left alone")
    if old and not dry_run:
        confirm("abort the hanging transactions of", sorted({str(item.at) for item in old}), yes, inside=False)
        with_admin(settings, lambda admin: _abort(admin, old))
    if not old:
        note("no transaction hangs")
    rows = [
        (
            item.at.topic,
            item.at.partition,
            item.producer_id,
            item.producer_epoch,
            item.first_offset,
            _moment(item.written_ms),
            (now - item.written_ms) / 1000,
        )
        for item in old
    ]
    show_rows(settings.output, HELD_COLUMNS, rows, nothing="")
    return 0


async def _hanging(admin: Admin, names: Sequence[str]) -> Sequence[OpenTransaction]:
    partitions: list[TopicPartition] = []
    if not names:
        found = await admin.topics.list(internal=True)
        for info in found.values():
            led = [index for index, part in info.partitions.items() if part.leader >= 0]
            partitions += chosen_partitions(info, led) if led else []
    for name in dict.fromkeys(names):
        topic, index = topic_or_partition(name)
        partitions += chosen_partitions(await existing_topic(admin, topic), [] if index is None else [index])
    return await admin.transactions.hanging(partitions)


async def _abort(admin: Admin, items: Sequence[OpenTransaction]) -> None:
    errors: list[tuple[OpenTransaction, Refused]] = []
    for item in items:
        try:
            await admin.transactions.abort(item)
            note(
                f"{item.at}: the transaction of producer {item.producer_id} from offset {item.first_offset} is aborted"
            )
        except Refused as error:
            errors.append((item, error))
    if errors:
        item, first = errors[0]
        failure = from_refused(first, f"{len(errors)} of {len(items)} transactions could not be aborted")
        code = PARTLY_FAILED if len(errors) < len(items) else failure.code or FAILED
        raise Failure(failure.what, f"{item.at}: {failure.why}", "logd-cli transaction list", code)
