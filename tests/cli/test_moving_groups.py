"""`group lag`, `seek`, `reset`, `delete` and `topic trim` against real brokers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from confluent_kafka import Consumer as OtherConsumer
from confluent_kafka import TopicPartition as OtherPartition

from tests.cli.conftest import Cli

OLD_MS = 1_700_000_000_000


@pytest.fixture
def filled(cli: Cli, topic: str) -> str:
    """The topic with five records in partition 0, each ten seconds younger than the one before."""
    lines = [f'{{"value":"{n}","timestamp":{OLD_MS + n * 10_000}}}\n' for n in range(5)]
    assert cli("produce", topic, "-p", "0", "--from", "jsonl", stdin="".join(lines).encode()).code == 0
    return topic


@contextmanager
def member(bootstrap: str, group: str, topic: str) -> Iterator[OtherConsumer]:
    """Another library's consumer that is in the group and has read all."""
    settings = {"bootstrap.servers": bootstrap, "group.id": group, "auto.offset.reset": "earliest"}
    other = OtherConsumer({**settings, "enable.auto.commit": False})
    try:
        other.subscribe([topic])
        assert len(other.consume(5, timeout=30)) == 5
        yield other
    finally:
        other.close()


def test_a_seek_finds_the_place(cli: Cli, filled: str) -> None:
    """Every form of place, on a group that is made by its first seek."""
    group = f"g-{filled}"
    moved = cli("group", "seek", group, filled, "--offset", "start", "--yes")
    assert (moved.code, moved.rows[0]) == (0, [group, filled, "0", "", "0", ""])
    for place, offset in (("end", 5), ("-2", 3), ("1", 1), (f"@{OLD_MS + 15_000}", 2), ("@2033-01-01T00:00Z", 5)):
        assert cli("group", "seek", group, f"{filled}/0", "--offset", place, "-y").rows[0][4] == str(offset)
    for shift, offset in (("-2", 3), ("+1", 4), ("-50", 0), ("99", 5)):
        ran = cli("group", "reset", group, f"{filled}/0", f"--shift={shift}", "-y")
        assert ran.rows[0][4] == str(offset), ran.err
    assert cli("group", "lag", group).rows[0][:6] == [group, filled, "0", "5", "5", "0"]


def test_offsets_from_a_file(cli: Cli, filled: str, tmp_path: Path) -> None:
    """With commas or tabs; a line that is wrong is told by its number and nothing is done."""
    group, file = f"g-{filled}", tmp_path / "offsets"
    file.write_text(f"{filled},0,2\n{filled},1,0\n")
    assert [row[4] for row in cli("group", "reset", group, "--from", str(file), "-y").rows] == ["2", "0"]
    ran = cli("group", "reset", group, "--from", "-", "--yes", stdin=f"{filled}\t0\t4\n".encode())
    assert ran.rows == [[group, filled, "0", "2", "4", "2"]]
    ran = cli("group", "reset", group, filled, "--from", str(file), "-y")
    assert (ran.code, "name the partitions" in ran.err) == (2, True), "what is named twice is contradictory"
    file.write_text(f"{filled},0,1\n{filled},0\n")
    ran = cli("group", "reset", group, "--from", str(file), "-y")
    assert (ran.code, "line 2" in ran.err) == (2, True)
    assert cli("group", "describe", group).rows[0][3] == "4"


@pytest.mark.parametrize(
    "data", [b"orders,0,\xb2", "orders,\u0663,1".encode(), b"a,0,1,2", b"\xff\xfe", b"x,0," + b"1" * 30]
)
def test_a_file_of_something_else(cli: Cli, filled: str, tmp_path: Path, data: bytes) -> None:
    """Bytes that are no text and digits that are none are a wrong line, with its number."""
    file = tmp_path / "offsets"
    file.write_bytes(b"orders,0,1\n" + data + b"\n")
    ran = cli("group", "reset", filled, "--from", str(file), "--dry-run")
    assert (ran.code, f"line 2 of {file} is wrong" in ran.err) == (2, True), ran.err


def test_a_dry_run_moves_nothing(cli: Cli, filled: str) -> None:
    """It shows the very lines; a wrong answer to the question moves nothing either."""
    group = f"g-{filled}"
    assert cli("group", "seek", group, filled, "--offset", "start", "-y").code == 0
    dry = cli("group", "seek", group, "--offset", "end", "--dry-run")
    assert (dry.code, dry.rows[0]) == (0, [group, filled, "0", "0", "5", "5"])
    assert cli("group", "seek", group, "--offset", "end", stdin=b"yes\n").code == 1
    nobody = cli("group", "seek", group, "--offset", "end")  # the error has lines of its own
    assert (nobody.code, nobody.err.splitlines()[-3]) == (1, "error: nothing was done")
    assert cli("group", "describe", group).rows[0][3] == "0"
    assert cli("group", "seek", group, "--offset", "end", stdin=f"{group}\n".encode()).code == 0
    assert cli("group", "describe", group).rows[0][3] == "5"


def test_forgotten_offsets_and_a_deleted_group(cli: Cli, filled: str) -> None:
    """A group forgets one topic; then it is deleted; then it is not found."""
    group = f"g-{filled}"
    assert cli("group", "seek", group, filled, "--offset", "3", "-y").code == 0
    assert len(cli("group", "reset", group, f"{filled}/1", "--forget", "-y").rows) == 1
    assert [row[2] for row in cli("group", "describe", group).rows] == ["0"]
    assert cli("group", "delete", group, "--dry-run").rows == [[group, "Empty", "0", "1"]]
    assert cli("group", "delete", group, stdin=f"{group}\n".encode()).code == 0
    for arguments in (("lag", group), ("describe", group), ("delete", group, "-y"), ("seek", group, "--offset", "end")):
        assert cli("group", *arguments).code == 5


def test_what_has_nothing_to_move(cli: Cli, filled: str) -> None:
    """Unknown topics, partitions and empty groups are exit code 5, contradictions 2; nothing is moved."""
    group = f"g-{filled}"
    assert cli("group", "seek", group, filled[:-1], "--offset", "end", "-y").code == 5
    assert cli("group", "seek", group, f"{filled}/9", "--offset", "end", "-y").code == 5
    for arguments in (
        ("--offset", "1:2"),
        ("--offset", "noon"),
        (),
        ("--offset", "end", "--shift", "1"),
        ("--shift", "x"),
    ):
        assert cli("group", "seek", group, filled, *arguments, "-y").code == 2


def test_lag_in_records_and_in_seconds(cli: Cli, filled: str) -> None:
    """Both are shown, one line for each partition or for each group; over a limit it is exit code 1."""
    group = f"g-{filled}"
    assert cli("group", "seek", group, f"{filled}/0", "--offset", "2", "-y").code == 0
    (row,) = cli("group", "lag", group).rows
    assert row[:6] == [group, filled, "0", "2", "5", "3"]
    assert float(row[6]) > 1e7
    (total,) = cli("group", "lag", group, "--total").rows
    assert (total[:4], float(total[4]) > 1e7) == ([group, "Empty", "0", "3"], True)
    assert [group, "Empty"] in [row[:2] for row in cli("group", "lag", "--total").rows]
    assert cli("group", "lag", group, "--max-lag", "3").code == 0
    late = cli("group", "lag", group, "--max-lag", "2", "--max-seconds", "60")
    assert (late.code, f"{group} is 3 records behind" in late.err) == (1, True)


def test_a_group_with_members(cli: Cli, filled: str, bootstrap: str, request: pytest.FixtureRequest) -> None:
    """logd moves it while its member runs, which reads again from there; Apache Kafka can't, and nothing is moved."""
    group = f"g-{filled}"
    with member(bootstrap, group, filled) as other:
        other.commit(offsets=[OtherPartition(filled, 0, 5)], asynchronous=False)
        refused = cli("group", "reset", group, "--offset", "start", "-y")
        assert (refused.code, "it has 1 member" in refused.err) == (1, True)
        kept = cli("group", "delete", group, "-y")
        assert (kept.code, "it has members (NON_EMPTY_GROUP)" in kept.err, "--members" in kept.err) == (1, True, True)
        ran = cli("group", "seek", group, f"{filled}/0", "--offset", "3", "-y")
        if "kafka" in request.node.callspec.id:
            assert (ran.code, "groups without members only" in ran.err) == (1, True)
            return
        assert (ran.code, ran.rows) == (0, [[group, filled, "0", "5", "3", "-2"]])
        assert "1 member fenced" in ran.err
        assert [record.offset() for record in other.consume(2, timeout=30)] == [3, 4]


def test_a_trimmed_topic(cli: Cli, filled: str) -> None:
    """What lies before the place is gone; a dry run and a wrong answer delete nothing."""
    dry = cli("topic", "trim", filled, "--offset", "2", "--dry-run")
    assert dry.rows == [[filled, "0", "0", "2", "2"], [filled, "1", "0", "0", "0"]]
    assert cli("topic", "trim", filled, "--offset", "2", stdin=b"no\n").code == 1
    assert cli("topic", "describe", filled).rows[0][6:] == ["0", "5", "5"]
    assert cli("topic", "trim", filled, "--offset", f"@{OLD_MS + 15_000}", "-p", "0", "-y").code == 0
    assert cli("topic", "describe", filled).rows[0][6:] == ["2", "5", "3"]
    assert cli("topic", "trim", filled, "--offset", "end", "-p", "7", "-y").code == 5
