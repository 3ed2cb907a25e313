"""``logd-cli log``: dump and verify segment files of a data directory; no server is asked.

May run beside a server: it only reads. Of the segment that is being written the last batch can be half there.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from logd.cli.failures import FAILED, NOT_FOUND, Failure, typed
from logd.cli.options import Settings, common_options, examples
from logd.cli.output import chosen, note, show_rows
from logd.cli.progress import Progress, file_bytes
from logd.cli.records import as_text

if TYPE_CHECKING:
    from logd.cli.segments import Expected, Fault, Found
    from logd.wire.batches import Record

CODECS = ("none", "gzip", "snappy", "lz4", "zstd")
BATCH_COLUMNS = (
    "file",
    "position",
    "bytes",
    "base_offset",
    "last_offset",
    "records",
    "epoch",
    "codec",
    "producer",
    "producer_epoch",
    "sequence",
    "kind",
    "max_timestamp",
    "crc",
)
RECORD_COLUMNS = ("file", "position", "offset", "timestamp", "key", "value", "headers")
RECORDS_BYTES_MAX = 1 << 30
FAULTS_SHOWN = 10


@click.group()
def log() -> None:
    """Look into the files of a data directory, without a server."""


def _files(paths: tuple[Path, ...]) -> list[Path]:
    from logd.cli.segments import segment_files

    found: list[Path] = []
    for path in paths:
        if not path.exists():
            remedy = f"ls {typed(str(path.parent))}; a server's directory is the data= of its first line"
            raise Failure(f"{path} can't be read", "there is no such file or directory", remedy, NOT_FOUND)
        files = segment_files(path)
        if not files:
            why = "there is no segment (00000000000000000000.log) in it or below it"
            raise Failure(
                f"nothing to read in {path}", why, "give a data directory, a partition's or a file", NOT_FOUND
            )
        found += files
    return list(dict.fromkeys(found))


@log.command("dump", epilog=examples("logd-cli log dump --records /var/lib/logd/orders-0"))
@click.argument("paths", metavar="PATH...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--records", is_flag=True, help="Show the records in the batches.")
@common_options()
@click.pass_obj
def dump(settings: Settings, paths: tuple[Path, ...], records: bool) -> None:
    """Print the batches of segment files, or of all below a directory.

    The kind of a batch is data, transaction, commit or abort: the last two are the markers that end a transaction.
    """
    faults: list[Fault] = []
    files = _files(paths)
    columns = RECORD_COLUMNS if records else BATCH_COLUMNS
    whole = chosen(settings.output) in ("table", "json")
    wanted = whole or file_bytes(sys.stdout) is not None  # else the rows themselves show that it goes on
    with Progress("reading", sum(path.stat().st_size for path in files), "B", wanted=wanted) as progress:
        rows = _dumped(files, records, faults, progress)
        if whole:
            rows = iter(list(rows))
        else:
            show_rows(settings.output, columns, rows)
    if whole:
        show_rows(settings.output, columns, rows, nothing="no batches")
    if faults:
        raise _failure(faults[0], len(faults), "verify")


def _dumped(
    files: list[Path], with_records: bool, faults: list[Fault], progress: Progress
) -> Iterator[tuple[Any, ...]]:
    """The rows of all files; what is wrong with one is put down, and the next one is read."""
    from logd.cli.segments import Fault, read_batches

    for path in files:
        try:
            for found in read_batches(path):
                yield from _record_rows(path, found) if with_records else [_batch_row(path, found)]
                progress.advance(len(found.data))
        except Fault as error:
            faults.append(error)


def _batch_row(path: Path, found: Found) -> tuple[Any, ...]:
    header = found.header
    kind = _marker(found) if header.is_control else "transaction" if header.is_transactional else "data"
    codec = CODECS[header.codec] if header.codec < len(CODECS) else header.codec
    return (
        str(path),
        found.position,
        header.size,
        header.base_offset,
        header.last_offset,
        header.count,
        header.leader_epoch,
        codec,
        header.producer_id,
        header.producer_epoch,
        header.base_sequence,
        kind,
        header.max_timestamp,
        f"{header.crc:08x}",
    )


def _marker(found: Found) -> str:
    """What a control batch says: commit or abort, or control where it ends no transaction."""
    from logd.log.markers import read_marker

    marker = read_marker(found.data, 0, found.header)
    return "control" if marker is None else "commit" if marker.committed else "abort"


def _control_row(path: Path, found: Found, record: Record) -> tuple[Any, ...]:
    """A record that the server wrote and no consumer sees: as words instead of its bytes, where it is a marker."""
    from logd.log.markers import read_marker

    marker = read_marker(found.data, 0, found.header)
    place = (str(path), found.position, record.offset, record.timestamp)
    if marker is None:
        return (*place, *_texts(record), "")
    return (*place, "commit" if marker.committed else "abort", f"coordinator epoch {marker.coordinator_epoch}", "")


def _texts(record: Record) -> tuple[str | None, str | None]:
    key, value = record.key, record.value
    return None if key is None else as_text(key), None if value is None else as_text(value)


def _record_rows(path: Path, found: Found) -> list[tuple[Any, ...]]:
    from logd.cli.segments import Fault
    from logd.errors import DecodeError
    from logd.wire.batches import read_records

    try:
        records = read_records(found.data, bytes_max=RECORDS_BYTES_MAX)
    except DecodeError as error:
        raise Fault(path, found.position, str(error)) from error
    if found.header.is_control:
        return [_control_row(path, found, record) for record in records]
    return [
        (
            str(path),
            found.position,
            record.offset,
            record.timestamp,
            *_texts(record),
            ",".join(f"{name}={as_text(value)}" for name, value in record.headers),
        )
        for record in records
    ]


@log.command("verify", epilog=examples("logd-cli log verify --records /var/lib/logd"))
@click.argument("paths", metavar="PATH...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--records", is_flag=True, help="Decompress and check every record too.")
@common_options()
@click.pass_obj
def verify(settings: Settings, paths: tuple[Path, ...], records: bool) -> int:
    """Check every batch of segment files, or of all below a directory: checksum, offsets, leader epochs.

    Prints file, batches, records, first and next offset, and what is wrong with it. The exit code is 1 when a batch
    is bad; the error names the file and the byte where it starts.
    """
    from logd.cli.segments import Expected

    rows: list[tuple[Any, ...]] = []
    faults: list[Fault] = []
    expected, directory = Expected(), None
    files = _files(paths)
    with Progress("checking", sum(path.stat().st_size for path in files), "B") as progress:
        for path in files:
            if path.parent != directory:
                expected, directory = Expected(), path.parent
            row, found = _verify_file(path, expected, records, progress)
            rows.append(row)
            faults += found
    show_rows(settings.output, ("file", "batches", "records", "start", "end", "fault"), rows)
    if faults:
        raise _failure(faults[0], len(faults), "dump")
    note(f"{len(rows)} segment{'' if len(rows) == 1 else 's'} verified: every batch is good")
    return 0


def _verify_file(
    path: Path, expected: Expected, with_records: bool, progress: Progress
) -> tuple[tuple[Any, ...], list[Fault]]:
    """The row of a file, which counts its good batches, and all that is wrong with it."""
    from logd.cli.segments import Fault, base_offset_of, check_records, read_batches

    batches = count = 0
    start = end = base_offset_of(path)
    faults: list[Fault] = []
    try:
        expected.begin(path)
        for found in read_batches(path):
            progress.advance(len(found.data))
            try:
                expected.check(path, found)
                if with_records:
                    check_records(path, found, RECORDS_BYTES_MAX)
            except Fault as error:
                faults.append(error)  # its length was right: the next batch may be good
                continue
            batches += 1
            count += found.header.count
            end = found.header.next_offset
    except Fault as error:
        faults.append(error)
    why = "; ".join(f"byte {fault.position}: {fault.why}" for fault in faults[:FAULTS_SHOWN]) or None
    return (str(path), batches, count, start, end, why), faults


def _failure(fault: Fault, count: int, verb: str) -> Failure:
    """For the first of so many faults; `verb` looks at the file in the other way."""
    from logd.cli.segments import base_offset_of

    if fault.position == 0 and base_offset_of(fault.path) < 0:
        remedy = f"give a segment, as in {fault.path.parent}/{0:020}.log, or a directory of them"
        return Failure(f"{fault.path} is no segment, or is bad from its first byte on", fault.why, remedy, FAILED)
    more = f"; {count} faults in all" if count > 1 else ""
    what = f"a batch of {fault.path} is bad at byte {fault.position}"
    return Failure(what, f"{fault.why}{more}", f"logd-cli log {verb} {typed(str(fault.path))}", FAILED)
