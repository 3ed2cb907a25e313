"""``logd-cli why``: what is the matter with a group, topic, connection or transaction, as the broker remembers it.

logd alone keeps such a memory; against another server the commands say so, and what to ask instead.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from logd.cli.completion import group_names, topic_names
from logd.cli.failures import FAILED, NOT_FOUND, USAGE, Failure, typed
from logd.cli.groups import existing_group
from logd.cli.options import Settings, common_options, examples
from logd.cli.output import Thing, chosen, moment, note, show_rows, show_things
from logd.cli.places import now_ms
from logd.cli.session import existing_topic, with_admin
from logd.cli.where import parse_moment

if TYPE_CHECKING:
    from logd.client import Admin
    from logd.client.own import Event, Why

UNKNOWN = "unknown"
"""The kind of the finding that there is nothing of that name."""
COLUMNS = ("time", "about", "kind", "what")


@click.group()
def why() -> None:
    """What is the matter with a group, topic, connection or transaction, and what happened to it of late."""


def _command(name: str, metavar: str, example: str, complete: Any, help_text: str) -> None:
    arguments: dict[str, Any] = {"metavar": metavar, "required": False}
    if complete is not None:
        arguments["shell_complete"] = complete

    @why.command(name, help=help_text, epilog=examples(f"logd-cli why {name}", f"logd-cli why {name} {example}"))
    @click.argument("subject", **arguments)
    @click.option("-n", "--count", type=click.IntRange(min=0), default=50, show_default=True, help="Events at most.")
    @click.option("--since", metavar="@TIME", help="Only what happened since, as in @-1h.")
    @common_options()
    @click.pass_obj
    def ask(settings: Settings, subject: str | None, count: int, since: str | None) -> None:
        _show(settings, name, subject or "", count, since)


_LINES = """

    Without a name: all of them. In a pipe: one line for each finding (no time) and each event, with time, what it is
    about, kind, and a sentence.
"""
_command(
    "group",
    "[GROUP]",
    "billing --since @-1h",
    group_names,
    "Why a group does not get on: members, rebalances, commits, lag." + _LINES,
)
_command(
    "topic",
    "[TOPIC]",
    "orders",
    topic_names,
    "Why a topic does not get on: refusals, partitions that do not move." + _LINES,
)
_command(
    "connection",
    "[CONNECTION]",
    "192.0.2.7:52114",
    None,
    "Which connections are open, and why a client was refused or cut off. "
    "CONNECTION is HOST:PORT of the client, its client id, or a number." + _LINES,
)
_command(
    "transaction",
    "[TRANSACTIONAL_ID]",
    "billing-1",
    None,
    "How the transaction of an id stands, and what it holds up; who took over, what timed out or was refused." + _LINES,
)


def _show(settings: Settings, kind: str, subject: str, count: int, since: str | None) -> None:
    since_ms = -1
    if since is not None:
        try:
            since_ms = parse_moment(since, now_ms())
        except ValueError as error:
            raise Failure("the command line is wrong", f"--since: {error}", "--since @-1h", USAGE) from None
    found = with_admin(settings, lambda admin: _ask(admin, kind, subject, count, since_ms))
    events = [_row(event, kind, subject) for event in (*found.findings, *found.events)]
    if chosen(settings.output) == "json":
        show_things(settings.output, [Thing(_fields(found), ())])
    else:
        show_rows(settings.output, COLUMNS, events, name=1, nothing="")
    if not events:
        note(f"nothing is known to be wrong with {kind} {subject!r}" if subject else "nothing is known to be wrong")
    if found.forgotten and len(found.events) < count:
        note(f"{found.forgotten} older events were forgotten: the broker keeps the latest")


async def _ask(admin: Admin, kind: str, subject: str, count: int, since_ms: int) -> Why:
    if not await admin.own.offered():
        look = f"describe {typed(subject)}" if subject else "list"
        instead = "logd-cli doctor" if kind == "connection" else f"logd-cli {kind} {look}"
        what = f"cannot say why of {kind} {subject!r}" if subject else f"cannot say why of {kind}s"
        raise Failure(what, "this server keeps no memory of what happened; logd does", instead, FAILED)
    found = await admin.own.why(kind, subject, events_max=count, since_ms=since_ms)
    if subject and not found.events and all(item.kind == UNKNOWN for item in found.findings):
        if kind == "group":
            await existing_group(admin, subject)
        elif kind == "topic":
            await existing_topic(admin, subject)
        elif kind == "transaction":
            reason = "nobody has used it, or not for transactional.id.expiration.ms, and nothing of it is remembered"
            raise Failure(f"transactional id {subject!r} is not known", reason, "logd-cli transaction list", NOT_FOUND)
        elif not found.findings:
            reason = "no open connection has that address, client id or number, and nothing of it is remembered"
            raise Failure(f"connection {subject!r} is not known", reason, "logd-cli why connection", NOT_FOUND)
    return found


def _row(event: Event, kind: str, subject: str) -> tuple[str | None, str, str, str]:
    about = f"{event.subject_type} {event.subject}" if event.subject else f"{kind} {subject}".rstrip()
    return (_moment(event.time_ms), about, event.kind, event.text)


def _moment(time_ms: int | None) -> str | None:
    return None if time_ms is None else moment(time_ms)


def _fields(found: Why) -> dict[str, Any]:
    """Everything, for JSON."""

    def fields(event: Event) -> dict[str, Any]:
        return {
            "time": _moment(event.time_ms),
            "about": event.subject_type or None,
            "name": event.subject or None,
            "kind": event.kind,
            "what": event.text,
            "facts": dict(event.facts),
        }

    return {
        "findings": [fields(event) for event in found.findings],
        "events": [fields(event) for event in found.events],
        "forgotten": found.forgotten,
    }
