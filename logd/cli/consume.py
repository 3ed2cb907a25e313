"""``logd-cli consume``: records of topics on stdout."""

from __future__ import annotations

import os
import re
import stat
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click
import msgspec

from logd.cli.completion import topic_names
from logd.cli.failures import USAGE, Failure
from logd.cli.options import FORMATS, Settings, common_options, examples
from logd.cli.output import chosen, escaped, moment, printable, to_json
from logd.cli.places import Offsets, bounds_of, chosen_partitions, resolve, stop_before, where_option
from logd.cli.progress import Progress, file_bytes
from logd.cli.records import TOKENS, as_field, as_object, as_text, compile_format
from logd.cli.session import client_settings, existing_topic, run_async, until_lost
from logd.cli.where import FORMS, START, Where

if TYPE_CHECKING:
    from logd.client import Admin, Consumer, Received, TopicPartition

Write = Callable[["Received"], bytes]


class Plan(msgspec.Struct):
    """What the options of one call say."""

    topics: tuple[str, ...]
    where: Where
    count: int | None
    stop_at_end: bool
    partitions: tuple[int, ...]
    committed_only: bool
    form: str
    write: Write
    pattern: re.Pattern[bytes] | None = None


@click.command(
    epilog=examples(
        "logd-cli consume orders --offset -10 -e",
        "logd-cli consume orders --offset @-1h -o jsonl | jq .value",
        "logd-cli consume orders -p 0 --offset 100:200 -f '%k %v\\n'",
        "logd-cli consume orders payments --grep error",
    )
)
@click.argument("topics", metavar="TOPIC...", nargs=-1, required=True, shell_complete=topic_names)
@click.option("--offset", "where", default=START, metavar="WHERE", help=f"Where to begin: {FORMS}.  [default: start]")
@click.option("-n", "--count", type=click.IntRange(min=0), help="Stop after so many records.")
@click.option("-e", "--exit", "stop_at_end", is_flag=True, help="Stop at what is the end of the log now.")
@click.option("-p", "--partition", "partitions", type=click.IntRange(min=0), multiple=True, help="Only these.")
@click.option("-f", "--format", "template", metavar="TEXT", help=f"Write each record so: {TOKENS}; \\n, \\t.")
@click.option(
    "--isolation",
    type=click.Choice(["committed", "uncommitted"]),
    default="committed",
    help="Whether open and aborted transactions are left out.",
)
@click.option("-g", "--grep", metavar="REGEX", help="Only records whose key or value matches.")
@common_options((*FORMATS, "raw"))
@click.pass_obj
def consume(settings: Settings, /, **options: Any) -> None:
    """Print the records of topics.

    Those that are there and those that come, until Ctrl-C, --count or --exit. In a pipe: one line for each record,
    with topic, partition, offset, timestamp, key, value and headers. The offset -10 is the last ten of each
    partition; 100:200 is what is there of that range, without 200; @ is a time, @-2h:@-1h what is between two.
    Times are of UTC, those that are shown too, but where a zone is written behind one, as in 2026-11-01T00:00+01:00.
    """
    plan = plan_of(settings, **options)
    run_async(settings, lambda: Run(settings, plan).run())


def plan_of(
    settings: Settings,
    *,
    topics: tuple[str, ...],
    where: str,
    count: int | None,
    stop_at_end: bool,
    partitions: tuple[int, ...],
    template: str | None,
    isolation: str,
    grep: str | None,
) -> Plan:
    """The plan for these options. :raises Failure: they contradict each other or say nothing."""
    form = chosen(settings.output)
    found = where_option(where, ranges=True)
    try:
        write = WRITERS[form] if template is None else compile_format(template)
        pattern = None if grep is None else re.compile(os.fsencode(grep))
    except ValueError as error:
        raise Failure("the command line is wrong", str(error), "logd-cli consume --help", USAGE) from None
    except re.error as error:
        why = f"--grep {grep!r} is no regular expression: {error}"
        raise Failure("the command line is wrong", why, "logd-cli consume --help", USAGE) from None
    if template is not None:
        if settings.given_output is not None:
            raise Failure("the command line is wrong", "-f and -o exclude each other", "leave one out", USAGE)
        form = "raw"
    unique = tuple(dict.fromkeys(topics))
    return Plan(unique, found, count, stop_at_end, partitions, isolation == "committed", form, write, pattern)


class Run:
    """One run of `consume`: finds the offsets, reads, writes."""

    def __init__(self, settings: Settings, plan: Plan) -> None:
        self._settings = settings
        self._plan = plan
        self._written = 0

    async def run(self) -> None:
        import trio

        from logd.client import Admin, Consumer, ConsumerSettings, Router

        settings = ConsumerSettings(committed_only=self._plan.committed_only)
        async with Router(self._settings.bootstrap, client_settings(self._settings)) as router:
            async with Admin(router) as admin:
                positions, ends = await self._bounds(admin)
            async with Consumer(router, positions=positions, ends=ends, settings=settings) as consumer:
                self._begin()
                try:
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(_until_nobody_reads)
                        nursery.start_soon(until_lost, router)
                        with self._progress(positions, ends) as progress:
                            await self._read(consumer, progress)
                        nursery.cancel_scope.cancel()
                finally:
                    self._finish()

    async def _read(self, consumer: Consumer, progress: Progress) -> None:
        while self._plan.count != 0 and (records := await consumer.read()):
            progress.advance(self._passed(records))
            if self._write(records):
                return

    def _progress(self, positions: Offsets, ends: Offsets) -> Progress:
        """Of what lies before us, where records go into a file: in a pipe the next program has the terminal."""
        self._positions = dict(positions)
        total = sum(max(end - positions[at], 0) for at, end in ends.items()) or None
        if self._plan.count is not None and self._plan.pattern is None:
            total = min(self._plan.count, total or self._plan.count)
        return Progress("reading", total, wanted=file_bytes(sys.stdout) is not None)

    def _passed(self, records: list[Received]) -> int:
        """Offsets that have been read: those that are gone, or are no records, too."""
        at, following = _place(records[0]), records[-1].offset + 1
        passed = following - self._positions.get(at, following)
        self._positions[at] = following
        return passed

    def _begin(self) -> None:
        if self._plan.form == "json":
            sys.stdout.buffer.write(b"[")

    def _finish(self) -> None:
        if self._plan.form == "json":
            sys.stdout.buffer.write(b"\n]\n" if self._written else b"]\n")
        sys.stdout.buffer.flush()

    def _write(self, records: list[Received]) -> bool:
        """Write them; whether that is enough."""
        if self._plan.pattern is not None:
            search = self._plan.pattern.search
            records = [record for record in records if search(record.value or b"") or search(record.key or b"")]
            if not records:
                return False
        if self._plan.count is not None:
            records = records[: self._plan.count - self._written]
        parts = [self._plan.write(record) for record in records]
        if self._plan.form == "json":
            text = b",\n ".join(parts)
            sys.stdout.buffer.write((b",\n " if self._written else b"\n ") + text)
        else:
            sys.stdout.buffer.write(b"".join(parts))
        sys.stdout.buffer.flush()
        self._written += len(records)
        return self._written == self._plan.count

    # -- where to begin and to stop

    async def _bounds(self, admin: Admin) -> tuple[Offsets, Offsets]:
        partitions = [
            at
            for name in self._plan.topics
            for at in chosen_partitions(await existing_topic(admin, name), self._plan.partitions)
        ]
        first, last = await bounds_of(admin, partitions, committed_only=self._plan.committed_only)
        positions = await resolve(admin, self._plan.where, first, last)
        ends = await stop_before(admin, self._plan.where, last)
        if ends is not None:
            return positions, ends
        return positions, last if self._plan.stop_at_end else {}


async def _until_nobody_reads() -> None:
    """Ends the command when the program behind the pipe ends, as in `| head -1`, though no record comes any more.

    :raises BrokenPipeError: it has.
    """
    import select

    import trio

    try:
        pipe = sys.stdout.fileno()
        if not stat.S_ISFIFO(os.fstat(pipe).st_mode):
            return
    except (OSError, ValueError):
        return
    await trio.lowlevel.wait_readable(pipe)  # an end to write to becomes so by an error alone
    look = select.poll()
    look.register(pipe, 0)
    if any(events & select.POLLERR for _, events in look.poll(0)):
        raise BrokenPipeError


def _place(record: Received) -> TopicPartition:
    from logd.client import TopicPartition

    return TopicPartition(record.topic, record.partition)


# -- how a record is written


def _tsv(record: Received) -> bytes:
    headers = ",".join(f"{escaped(name)}={as_field(value)}" for name, value in record.headers)
    place = f"{record.topic}\t{record.partition}\t{record.offset}\t{record.timestamp_ms}"
    return f"{place}\t{as_field(record.key)}\t{as_field(record.value)}\t{headers}\n".encode()


def _table(record: Received) -> bytes:
    stamp = moment(max(record.timestamp_ms, 0)).removesuffix("+00:00").replace("T", " ")
    place = f"{record.topic}/{record.partition}:{record.offset}"
    key = "-" if record.key is None else printable(as_text(record.key))
    value = "(no value)" if record.value is None else printable(as_text(record.value))
    line = f"{stamp}  {place:<20}  {key:<12}  {value}"
    for name, header in record.headers:
        line += f"  {printable(name)}={printable(as_text(header))}"
    return (line + "\n").encode()


WRITERS: dict[str, Write] = {
    "table": _table,
    "tsv": _tsv,
    "name": lambda record: f"{record.topic}/{record.partition}:{record.offset}\n".encode(),
    "json": lambda record: to_json(as_object(record)).encode(),
    "jsonl": lambda record: to_json(as_object(record)).encode() + b"\n",
    "raw": lambda record: (record.value or b"") + b"\n",
}
