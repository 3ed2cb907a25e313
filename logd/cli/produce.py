"""``logd-cli produce``: lines or JSON from stdin become records."""

from __future__ import annotations

import io
import os
import sys
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING, Any

import click
import msgspec

from logd.cli.completion import topic_names
from logd.cli.failures import FAILED, PARTLY_FAILED, USAGE, Failure, explain
from logd.cli.options import Settings, common_options, examples
from logd.cli.output import is_terminal, nobody_reads, note, show_lines, show_rows
from logd.cli.places import chosen_partitions
from logd.cli.progress import Progress, file_bytes
from logd.cli.records import Draft, draft_from_json, draft_from_line
from logd.cli.session import client_settings, existing_topic, run_async
from logd.errors import ErrorCode, Refused

if TYPE_CHECKING:
    from logd.client import Acknowledged, Delivery, Producer

CODECS = ("none", "gzip", "snappy", "lz4", "zstd")
ACKS = {"all": -1, "1": 1, "0": 0}
CHUNK_BYTES = 1 << 16
LINE_BYTES_MAX = 256 << 20
"""Of a line of the input: more than any server takes, and JSON is longer than the record that it holds."""

OF_ONE_RECORD = frozenset({ErrorCode.MESSAGE_TOO_LARGE, ErrorCode.INVALID_RECORD, ErrorCode.INVALID_TIMESTAMP})
"""Refusals that say nothing about the next record: go on."""


class LineTooLong(Exception):
    """A line that goes on and on."""


class Plan(msgspec.Struct):
    """What the options of one call say."""

    topic: str
    source: str
    key: bytes | None
    separator: bytes | None
    value: bytes | None
    tombstone: bool
    headers: tuple[tuple[str, bytes | None], ...]
    partition: int | None
    keep_partitions: bool
    codec: str
    acks: int


@click.command(
    epilog=examples(
        "echo hello | logd-cli produce orders",
        "printf '42:paid\\n' | logd-cli produce orders -K :",
        "logd-cli produce orders -k 42 --tombstone",
        "logd-cli consume orders -e -o jsonl | logd-cli produce copy --from jsonl",
    )
)
@click.argument("topic", shell_complete=topic_names)
@click.option("--from", "source", type=click.Choice(["lines", "jsonl"]), default="lines", help="What stdin holds.")
@click.option("-k", "--key", help="The key of every record.")
@click.option("-K", "--key-separator", metavar="TEXT", help="Each line is key, TEXT, value; \\t is a tab.")
@click.option("--value", help="Send this one record and do not read stdin.")
@click.option("--tombstone", is_flag=True, help="Send one record with --key and no value: it deletes the key.")
@click.option("-H", "--header", "headers", metavar="NAME=VALUE", multiple=True, help="Add this; may be repeated.")
@click.option("-p", "--partition", type=click.IntRange(min=0), help="Send to this one.  [default: by key, or in turns]")
@click.option("--keep-partitions", is_flag=True, help="With --from jsonl: the partition that each line names.")
@click.option("-z", "--codec", type=click.Choice(CODECS), default="none", help="Compress batches.")
@click.option("--acks", type=click.Choice(list(ACKS)), default="all", help="Who must have a record: all, leader, none.")
@common_options()
@click.pass_obj
def produce(settings: Settings, /, **options: Any) -> int:
    """Send records to a topic.

    Each line of stdin is one, or each JSON object with --from jsonl. What `consume -o jsonl` prints,
    `produce --from jsonl` takes back. With -o, prints topic, partition, offset and timestamp of each record.
    """
    plan = _plan(**options)
    return run_async(settings, lambda: Run(settings, plan).run())


def _plan(
    topic: str,
    source: str,
    key: str | None,
    key_separator: str | None,
    value: str | None,
    tombstone: bool,
    headers: tuple[str, ...],
    partition: int | None,
    keep_partitions: bool,
    codec: str,
    acks: str,
) -> Plan:
    wrong = _contradiction(source, key, key_separator, value, tombstone, partition, keep_partitions)
    if wrong:
        raise Failure("the command line is wrong", wrong, "logd-cli produce --help", USAGE)
    separator = None if key_separator is None else os.fsencode(key_separator.replace("\\t", "\t"))
    return Plan(
        topic,
        source,
        None if key is None else os.fsencode(key),
        separator,
        None if value is None else os.fsencode(value),
        tombstone,
        tuple(_header(text) for text in headers),
        partition,
        keep_partitions,
        codec,
        ACKS[acks],
    )


def _contradiction(
    source: str,
    key: str | None,
    separator: str | None,
    value: str | None,
    tombstone: bool,
    partition: int | None,
    keep_partitions: bool,
) -> str:
    if tombstone and (key is None or value is not None):
        return "--tombstone needs --key and excludes --value"
    if separator is not None and (key is not None or value is not None or source != "lines"):
        return "--key-separator is for lines, without --key and --value"
    if separator == "":
        return "--key-separator must not be empty"
    if keep_partitions and (source != "jsonl" or partition is not None):
        return "--keep-partitions is for --from jsonl, without --partition"
    return ""


def _header(text: str) -> tuple[str, bytes | None]:
    name, equals, value = text.partition("=")
    return name, os.fsencode(value) if equals else None


async def read_lines() -> AsyncGenerator[list[bytes], None]:
    """The lines of stdin, without their ends, as many at a time as came together; the last one may lack its end.

    :raises LineTooLong: the end of a line does not come.
    """
    import trio

    begun: list[bytes] = []  # the parts of a line whose end has not come
    size, read = 0, _reader()
    # in a thread that may be left behind: a terminal or a pipe can make us wait for ever
    while data := await trio.to_thread.run_sync(read, abandon_on_cancel=True):
        *lines, rest = data.split(b"\n")
        if lines:
            lines[0] = b"".join([*begun, lines[0]])
            begun, size = [], 0
            yield lines
        begun.append(rest)
        size += len(rest)
        if size > LINE_BYTES_MAX:
            raise LineTooLong(f"it is longer than {LINE_BYTES_MAX >> 20} MiB, and no server takes such a record")
    if size:
        yield [b"".join(begun)]


def _reader() -> Callable[[], bytes]:
    """Reads some of stdin: past Python's buffer, whose lock a thread left behind would hold for ever."""
    try:
        descriptor = sys.stdin.fileno()
    except io.UnsupportedOperation:
        return lambda: sys.stdin.buffer.read(CHUNK_BYTES)
    return lambda: os.read(descriptor, CHUNK_BYTES)


class Run:
    """One run of `produce`: reads, sends, counts."""

    def __init__(self, settings: Settings, plan: Plan) -> None:
        import trio

        self._settings = settings
        self._plan = plan
        self._waiting: deque[Delivery] = deque()
        self._sent = 0
        self._line = 0
        self._failed = 0
        self._first_error: Exception | None = None
        self._bad_line: Failure | None = None
        self._rows: list[Acknowledged] = []
        self._more = trio.Event()

    async def run(self) -> int:
        import trio

        from logd.client import Admin, Producer, ProducerSettings, Router

        settings = ProducerSettings(
            acks=self._plan.acks,
            codec=self._plan.codec,
            linger_ms=5,
            delivery_timeout_ms=self._settings.timeout_ms,
        )
        async with Router(self._settings.bootstrap, client_settings(self._settings)) as router:
            async with Admin(router) as admin:
                info = await existing_topic(admin, self._plan.topic)
                chosen_partitions(info, [] if self._plan.partition is None else [self._plan.partition])
            try:
                async with Producer(router, settings) as producer, trio.open_nursery() as nursery:
                    nursery.start_soon(self._watch)
                    await self._send_all(producer)
                    await producer.flush()
                    nursery.cancel_scope.cancel()
            finally:
                self._settle()
                self._tell()
        return self._outcome()

    async def _send_all(self, producer: Producer) -> None:
        plan = self._plan
        if plan.value is not None or plan.tombstone:
            await self._send(producer, Draft(plan.value))
            return
        if sys.stdin.isatty():
            note("a line is a record; Ctrl-D on a line of its own ends the input")
        size = file_bytes(sys.stdin)
        with self._progress(size) as progress:
            await self._send_lines(producer, progress, of_bytes=size is not None)

    def _progress(self, size: int | None) -> Progress:
        """Of the bytes of a file, or of records, where nobody types them and none are shown."""
        wanted = not sys.stdin.isatty() and (self._settings.given_output is None or not is_terminal())
        return Progress("sending", size, "records" if size is None else "B", wanted=wanted)

    async def _send_lines(self, producer: Producer, progress: Progress, *, of_bytes: bool) -> None:
        async with aclosing(read_lines()) as chunks:
            try:
                async for lines in chunks:
                    for draft in self._drafts(lines):
                        await self._send(producer, draft)
                    if self._bad_line is not None or not self._can_go_on():
                        return
                    progress.advance(len(lines) + (sum(map(len, lines)) if of_bytes else 0))
            except LineTooLong as error:
                self._line += 1
                self._stop_at(str(error))
            except Refused as error:
                self._stop_at(error.message)

    def _drafts(self, lines: list[bytes]) -> Iterator[Draft]:
        """The records of these lines, up to the first that is none."""
        parse = self._parser()
        for line in lines:
            self._line += 1
            if self._plan.source == "jsonl" and not line.strip():
                continue
            try:
                draft = parse(line)
            except ValueError as error:
                return self._stop_at(str(error))
            yield draft

    def _stop_at(self, why: str) -> None:
        what = f"line {self._line} of the input can't be sent"
        self._bad_line = Failure(what, why, "correct it, and send that line and those after it")

    def _parser(self) -> Callable[[bytes], Draft]:
        if self._plan.source == "jsonl":
            return draft_from_json
        return lambda line: draft_from_line(line, self._plan.separator)

    async def _send(self, producer: Producer, draft: Draft) -> None:
        import trio

        plan = self._plan
        partition = draft.partition if plan.keep_partitions else plan.partition
        arguments: dict[str, Any] = {
            "key": draft.key if plan.key is None else plan.key,
            "partition": partition,
            "headers": (*draft.headers, *plan.headers),
            "timestamp_ms": draft.timestamp_ms,
        }
        try:
            delivery = producer.send_nowait(plan.topic, draft.value, **arguments)
        except trio.WouldBlock:
            delivery = await producer.send(plan.topic, draft.value, **arguments)
        self._waiting.append(delivery)
        self._more.set()

    async def _watch(self) -> None:
        """Count what is done as soon as it is."""
        import trio

        from logd.client import ClientError

        while True:
            await self._more.wait()
            self._more = trio.Event()
            while self._waiting:
                with suppress(ClientError, Refused):
                    await self._waiting[0].wait()
                self._settle()

    def _settle(self) -> None:
        """Count those whose outcome is known."""
        from logd.client import ClientError

        while self._waiting and self._waiting[0].done:
            try:
                found = self._waiting.popleft().outcome()
            except (ClientError, Refused) as error:
                self._failed += 1
                self._first_error = self._first_error or error
                continue
            self._sent += 1
            if self._settings.given_output is not None:
                self._rows.append(found)
        if self._rows and self._settings.given_output not in ("json", "table"):
            self._show()

    def _show(self) -> None:
        """The rows; that nobody wants to read them any more is no reason not to send what is left."""
        try:
            if self._settings.given_output == "name":  # as consume names records
                show_lines(f"{at.topic}/{at.partition}:{at.offset}" for at in self._rows)
            else:
                show_rows(self._settings.given_output, ("topic", "partition", "offset", "timestamp"), self._rows)
        except BrokenPipeError:
            nobody_reads()
        self._rows.clear()

    def _can_go_on(self) -> bool:
        error = self._first_error
        return error is None or (isinstance(error, Refused) and error.code in OF_ONE_RECORD)

    def _tell(self) -> None:
        if self._settings.given_output in ("json", "table"):
            self._show()
        unknown = len(self._waiting)
        more = f", {unknown} without an answer" if unknown else ""
        note(f"{self._sent} record{'' if self._sent == 1 else 's'} sent to topic {self._plan.topic!r}{more}")

    def _outcome(self) -> int:
        if self._bad_line is not None:
            raise self._bad_line
        if self._first_error is None:
            return 0
        failure = explain(self._first_error) or Failure("a record was not taken", str(self._first_error))
        what = f"{self._failed} of {self._failed + self._sent} records were not taken"
        code = PARTLY_FAILED if self._sent else failure.code or FAILED
        why = failure.why if isinstance(self._first_error, Refused) else f"{failure.what}: {failure.why}"
        remedy = failure.remedy or f"logd-cli topic describe {self._plan.topic}"
        if isinstance(self._first_error, Refused) and self._first_error.code == ErrorCode.MESSAGE_TOO_LARGE:
            remedy = f"logd-cli topic alter {self._plan.topic} --config max.message.bytes=BYTES"
        raise Failure(what, why, remedy, code)
