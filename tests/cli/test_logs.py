"""`log dump` and `log verify` on files made by hand: good ones, damaged ones, and every bit of a batch."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from logd.cli import segments
from logd.cli.main import main
from logd.log.markers import build_marker
from logd.wire.batches import Record, build_batch, stamp


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def batch(base: int, count: int = 2, epoch: int = 0, codec: int = 0) -> bytes:
    records = [Record(base + index, 1000 + index, b"k", b"value %d" % index) for index in range(count)]
    return bytes(build_batch(records, base_offset=base, leader_epoch=epoch, codec=codec))


def segment(directory: Path, base: int, *parts: bytes) -> Path:
    directory.mkdir(exist_ok=True)
    path = directory / f"{base:020d}.log"
    path.write_bytes(b"".join(parts))
    return path


def test_good_segments(tmp_path: Path) -> None:
    """A data directory is searched; the unused zeros at the end of a file are no fault; exit code 0."""
    segment(tmp_path / "t-0", 0, batch(0), batch(2, codec=4))
    segment(tmp_path / "t-0", 4, batch(4, epoch=3), bytes(5000))
    segment(tmp_path / "t-1", 0)
    result = invoke("log", "verify", tmp_path, "--records", "-o", "tsv")
    assert result.exit_code == 0, result.stderr
    rows = [line.split("\t")[1:] for line in result.stdout.splitlines()]
    assert rows == [["2", "4", "0", "4", ""], ["1", "2", "4", "6", ""], ["0", "0", "0", "0", ""]]
    assert "3 segments verified: every batch is good" in result.stderr


@pytest.mark.parametrize(
    ("second", "why"),
    [
        (batch(2)[:-1], "the batch should have"),
        (batch(2)[:40], "40 bytes are left, less than the header"),
        (batch(1), "base offset 1 where at least 2 must come"),
        (batch(2, epoch=0), "leader epoch 0 after 5"),
        (batch(2, epoch=5)[:16] + b"\1" + batch(2, epoch=5)[17:], "magic 1 where 2 should stand"),
        (batch(2, epoch=5)[:8] + b"\0\0\0\5" + batch(2, epoch=5)[12:], "the batch claims 17 bytes"),
        (bytes(100) + b"x" + bytes(100), "byte 178 is not zero"),
    ],
)
def test_a_bad_batch_is_named(tmp_path: Path, second: bytes, why: str) -> None:
    """The error names the file, the byte where the batch starts and what is wrong with it; exit code 1."""
    first = batch(0, epoch=5)
    path = segment(tmp_path, 0, first, second)
    result = invoke("log", "verify", path, "-o", "tsv")
    assert result.exit_code == 1
    assert f"a batch of {path} is bad at byte {len(first)}" in result.stderr
    assert why.replace("178", str(len(first) + 100)) in result.stderr


def test_every_flipped_bit_is_found(tmp_path: Path) -> None:
    """Whichever bit of a batch between two others is wrong, verify says so."""
    first, middle, last = batch(0, epoch=1), batch(2, 1, epoch=1), batch(3, epoch=1)
    path = segment(tmp_path, 0, first, middle, last)
    unseen = []
    for bit in range(len(middle) * 8):
        damaged = bytearray(middle)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(first + bytes(damaged) + last)
        if invoke("log", "verify", path).exit_code != 1:
            unseen.append(bit)
    assert unseen == []


def test_a_segment_that_begins_before_the_last_one_ends(tmp_path: Path) -> None:
    """Segments of a partition are checked against each other too."""
    segment(tmp_path, 0, batch(0, 5))
    second = segment(tmp_path, 3, batch(3))
    result = invoke("log", "verify", tmp_path)
    assert result.exit_code == 1
    assert f"a batch of {second} is bad at byte 0" in result.stderr


def test_all_bad_files_are_told(tmp_path: Path) -> None:
    """One bad file does not hide another: each has its row, and the error says how many more there are."""
    for index in range(3):
        segment(tmp_path / f"t-{index}", 0, batch(0)[:-1] if index else batch(0))
    result = invoke("log", "verify", tmp_path, "-o", "tsv")
    assert result.exit_code == 1
    assert [bool(line.split("\t")[5]) for line in result.stdout.splitlines()] == [False, True, True]
    assert "2 faults in all" in result.stderr


def test_a_bad_batch_does_not_hide_the_next(tmp_path: Path) -> None:
    """Every bad batch of a file is named; the good ones between and after them are counted."""
    bad = bytearray(batch(2))
    bad[-1] ^= 1
    worse = bytearray(batch(6))
    worse[-1] ^= 1
    path = segment(tmp_path, 0, batch(0), bytes(bad), batch(4), bytes(worse), batch(8))
    result = invoke("log", "verify", path, "-o", "tsv")
    assert result.exit_code == 1
    _, batches, records, start, end, why = result.stdout.strip().split("\t")
    assert (batches, records, start, end) == ("3", "6", "0", "10")
    assert why.count("checksum") == 2
    assert f"is bad at byte {len(batch(0))}" in result.stderr


def test_dump_shows_batches_and_records(tmp_path: Path) -> None:
    """Batches with their place, offsets and codec; records with what is in them; all that is good before a bad one."""
    path = segment(tmp_path, 0, batch(0, codec=3), batch(2)[:-1])
    batches = invoke("log", "dump", path, "-o", "tsv")
    assert batches.exit_code == 1
    assert batches.stdout.splitlines()[0].split("\t")[1:8] == [
        "0",
        str(len(batch(0, codec=3))),
        "0",
        "1",
        "2",
        "0",
        "lz4",
    ]
    records = invoke("log", "dump", path, "--records", "-o", "tsv")
    assert records.stdout.splitlines()[1].split("\t")[2:6] == ["1", "1001", "k", "value 1"]
    assert "is bad at byte" in records.stderr


def test_dump_writes_while_it_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No dump is held in memory: what was read before the disk failed is printed."""
    path = segment(tmp_path, 0, *(batch(2 * number) for number in range(3000)))
    read = segments.read_batches

    def failing(source: Path) -> Iterator[segments.Found]:
        for number, found in enumerate(read(source)):
            if number == 2500:
                raise OSError(errno.EIO, "Input/output error")
            yield found

    monkeypatch.setattr(segments, "read_batches", failing)
    result = invoke("log", "dump", path, "-o", "tsv")
    assert (result.exit_code, len(result.stdout.splitlines())) == (1, 2000)
    assert "Input/output error" in result.stderr


def test_dump_reads_markers(tmp_path: Path) -> None:
    """Markers say commit or abort, and by the word of which coordinator; other control records show their bytes."""
    markers = [build_marker(7, 1, committed=committed, coordinator_epoch=5, now_ms=1000) for committed in (True, False)]
    for offset, marker in enumerate(markers):
        stamp(marker, 0, offset, 0)
    other = build_batch([Record(2, 1000, b"\0\0\0\3", b"v")], base_offset=2, control=True)
    path = segment(tmp_path, 0, *map(bytes, (*markers, other)))
    batches = invoke("log", "dump", path, "-o", "tsv")
    assert [line.split("\t")[11] for line in batches.stdout.splitlines()] == ["commit", "abort", "control"]
    records = invoke("log", "dump", path, "--records", "-o", "tsv")
    found = [line.split("\t")[4:6] for line in records.stdout.splitlines()]
    assert found[:2] == [["commit", "coordinator epoch 5"], ["abort", "coordinator epoch 5"]]
    assert found[2][1] == "v"


def test_what_is_not_there(tmp_path: Path) -> None:
    """A path that does not exist, or holds no segment, is exit code 5."""
    for path in (tmp_path / "absent", tmp_path):
        assert invoke("log", "verify", path).exit_code == 5


def test_what_to_try_is_something_else(tmp_path: Path) -> None:
    """Each of the two commands sends on to the other one; a file that is no segment is told as that."""
    bad, other = tmp_path / f"{0:020}.log", tmp_path / "partition.meta"
    bad.write_bytes(b"hello\n")
    other.write_bytes(b"hello\n")
    for verb, then in (("dump", "verify"), ("verify", "dump")):
        assert invoke("log", verb, bad).stderr.endswith(f"try:   logd-cli log {then} {bad}\n")
        ran = invoke("log", verb, other)
        assert (ran.exit_code, f"{other} is no segment" in ran.stderr) == (1, True)
        assert ran.stderr.endswith(f"try:   give a segment, as in {bad}, or a directory of them\n")
