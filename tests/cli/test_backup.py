"""`backup` against real brokers: what comes back is what was there; a damaged archive restores nothing."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path

import pytest

from logd.cli.archive import ArchiveReader, verify
from logd.client import CannotConnect
from logd.errors import Corrupt
from tests.cli.conftest import Cli, eventually, start

OLD_MS = 1_500_000_000_000


def lines(count: int) -> bytes:
    """Records with everything that a record can have, some larger than others."""
    found = []
    for number in range(count):
        record = {
            "key": None if number % 7 == 3 else f"k{number % 5}",
            "value": None if number % 11 == 5 else "v" * (number * 37 % 3000),
            "timestamp": OLD_MS + number,
            "headers": [{"name": "n", "value": str(number)}, {"name": "empty", "value": None}],
        }
        if number % 13 == 1:
            record["value_base64"] = "/wD+gA=="
            del record["value"]
        found.append(json.dumps(record).encode())
    return b"\n".join(found) + b"\n"


def records(cli: Cli, topic: str) -> list[tuple[object, ...]]:
    """What a topic holds, but for offsets, in the order of each partition."""
    shown = [json.loads(line) for line in cli("consume", topic, "-e", "-o", "jsonl").out.splitlines()]
    shown.sort(key=lambda item: (item["partition"], item["offset"]))
    return [
        (
            item["partition"],
            item["key"],
            item.get("value"),
            item.get("value_base64"),
            item["timestamp"],
            item["headers"],
        )
        for item in shown
    ]


@pytest.fixture
def archive(cli: Cli, topic: str, tmp_path: Path) -> Path:
    """A backup of a topic with 300 records in several codecs and one group."""
    for codec, count in (("none", 100), ("zstd", 100), ("lz4", 100)):
        assert cli("produce", topic, "--from", "jsonl", "-z", codec, stdin=lines(count)).code == 0
    assert cli("config", "set", "topic", topic, "retention.ms=2000000000000", "segment.bytes=10000000").code == 0
    assert cli("group", "seek", f"g-{topic}", topic, "--offset", "-7", "-y").code == 0
    file = tmp_path / "backup"
    ran = cli("backup", "create", str(file), "-t", topic)
    assert (ran.code, "300 records" in ran.err) == (0, True), ran.err
    return file


def test_what_comes_back_is_what_was_there(cli: Cli, topic: str, archive: Path) -> None:
    """Records, settings and committed offsets; the topic that was there is not touched."""
    before = records(cli, topic)
    refused = cli("backup", "restore", str(archive))
    assert (refused.code, f"topic {topic} is there" in refused.err) == (6, True)
    copy = f"{topic}-copy"
    checked = cli("backup", "restore", str(archive), "--rename", f"{topic}={copy}", "--dry-run")
    assert (checked.code, checked.rows) == (0, [[copy, "2", "300"]]), checked.err
    assert copy not in cli("topic", "list", "-o", "name").out.splitlines()
    ran = cli("backup", "restore", str(archive), "--rename", f"{topic}={copy}")
    assert ran.code == 0, ran.err
    assert records(cli, copy) == before == records(cli, topic)
    changed = [row[:2] for row in cli("config", "get", "topic", copy, "--changed").rows]
    assert changed == [["retention.ms", "2000000000000"], ["segment.bytes", "10000000"]]
    lag = {(row[1], row[2]): row[5] for row in cli("group", "lag", f"g-{topic}").rows}
    assert [lag[copy, part] for part in "01"] == [lag[topic, part] for part in "01"] == ["7", "7"]


def test_a_topic_that_was_deleted_comes_back(cli: Cli, topic: str, archive: Path) -> None:
    """Under its own name; then once more behind its own records, when told so."""
    before = records(cli, topic)
    assert cli("topic", "delete", topic, "-y").code == 0
    assert cli("backup", "restore", str(archive)).code == 0
    assert records(cli, topic) == before
    assert cli("backup", "restore", str(archive), "--append", "--no-offsets").code == 0
    assert len(records(cli, topic)) == 600


def test_settings_of_groups_come_back(cli: Cli, topic: str, tmp_path: Path) -> None:
    """A group that is gone gets what was set for it; one that is there keeps what it has."""
    group, key, file = f"g-{topic}", "consumer.session.timeout.ms", str(tmp_path / "backup")
    get = ("config", "get", "group", group, key, "--value")
    assert cli("group", "seek", group, topic, "--offset", "end", "-y").code == 0
    assert cli("config", "set", "group", group, f"{key}=50000").code == 0
    assert cli("backup", "create", file, "-t", topic).code == 0
    assert cli("config", "set", "group", group, f"{key}=51000").code == 0
    assert eventually(lambda: cli(*get).out == "51000\n")
    copies = [f"{topic}={topic}-{number}" for number in range(4)]
    assert cli("backup", "restore", file, "--rename", copies[0]).code == 0
    assert cli(*get).out == "51000\n"
    assert cli("config", "unset", "group", group, key).code == 0
    assert cli("group", "delete", group, "-y").code == 0
    assert cli("backup", "restore", file, "--rename", copies[1], "--without-setting", key).code == 0
    assert cli("config", "get", "group", group, "--changed").out == ""
    assert cli("group", "delete", group, "-y").code == 0
    assert cli("backup", "restore", file, "--rename", copies[2], "--dry-run").code == 0
    assert cli("config", "get", "group", group, "--changed").out == ""
    assert cli("backup", "restore", file, "--rename", copies[3]).code == 0
    assert eventually(lambda: cli(*get).out == "50000\n")


def test_what_was_cut_is_begun_again(cli: Cli, topic: str, archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A restore that ends in the middle leaves a topic that is known as a half; only --again touches it."""
    before, restore = records(cli, topic), ("backup", "restore", str(archive))
    assert cli(*restore, "--again").code == 6  # whole: never deleted
    assert cli("topic", "delete", topic, "-y").code == 0

    async def cut(*_: object) -> None:
        raise CannotConnect("cannot connect to it", "it was killed", "start it")

    with monkeypatch.context() as patch:
        patch.setattr("logd.cli.backup_restore._Run._commit", cut)
        ran, renamed = cli(*restore), cli(*restore, "-t", topic, "--rename", f"{topic}={topic}-r")
    assert f"logd-cli backup restore {archive} --again -t {topic} --rename {topic}={topic}-r\n" in renamed.err
    assert (ran.code, f"not whole: {topic}; to begin again: logd-cli backup restore" in ran.err) == (3, True)
    for more in ([], ["--append"]):
        ran = cli(*restore, *more)
        assert (ran.code, f"topic {topic} is left of a restore that was cut" in ran.err) == (6, True), ran.err
        assert ran.err.endswith("try:   give --again\n")
    assert cli(*restore, "--again").code == 1  # nobody typed the name
    assert len(records(cli, topic)) == 300
    assert cli(*restore, "--again", "--dry-run").code == 0
    assert cli(*restore, "--again", "--yes").code == 0
    assert records(cli, topic) == before
    assert [row[5] for row in cli("group", "lag", f"g-{topic}").rows] == ["7", "7"]
    assert cli(*restore).err.endswith(f"--rename {topic}={topic}-restored, or --append\n")


def test_offsets_after_a_trim_point_to_the_same_record(cli: Cli, topic: str, tmp_path: Path) -> None:
    """The first record of the copy has offset 0, whatever it was; the group goes on with the same record."""
    assert cli("produce", topic, "-p", "0", stdin=b"".join(b"%d\n" % n for n in range(50))).code == 0
    assert cli("topic", "trim", topic, "--offset", "20", "-p", "0", "-y").code == 0
    assert cli("group", "seek", f"g-{topic}", f"{topic}/0", "--offset", "33", "-y").code == 0
    file, copy = str(tmp_path / "backup"), f"{topic}-copy"
    assert cli("backup", "create", file, "-t", topic).code == 0
    assert cli("backup", "restore", file, "--rename", f"{topic}={copy}").code == 0
    at = next(row[3] for row in cli("group", "lag", f"g-{topic}").rows if row[1] == copy)
    assert at == "13"
    assert cli("consume", copy, "-p", "0", "--offset", at, "-n", "1", "-f", "%v").out == "33"


def test_a_damaged_archive_restores_nothing(cli: Cli, topic: str, archive: Path, tmp_path: Path) -> None:
    """A flipped bit anywhere, an end that is missing, something behind the end: told, and no topic is made."""
    whole = archive.read_bytes()
    damaged = tmp_path / "damaged"
    copy = f"{topic}-copy"
    changed = [whole[: len(whole) * part // 7] for part in range(7)] + [whole + b"x", whole[:-1], b""]
    for position in range(0, len(whole), max(len(whole) // 20, 1)):
        changed.append(whole[:position] + bytes([whole[position] ^ 4]) + whole[position + 1 :])
    for data in changed:
        damaged.write_bytes(data)
        ran = cli("backup", "restore", str(damaged), "--rename", f"{topic}={copy}")
        assert (ran.code, "damaged" in ran.err) == (1, True), ran.err
    assert copy not in cli("topic", "list", "-o", "name").out.splitlines()


def test_blocks_in_another_order_are_no_archive(archive: Path, tmp_path: Path) -> None:
    """Each block is whole, but they were not written so: the digest tells."""
    with archive.open("rb") as file:
        blocks = [bytes(block.payload) for block in ArchiveReader(archive, file).blocks()]
    assert len(blocks) >= 5
    whole = archive.read_bytes()
    start_of_head = whole.index(blocks[0]) - 9
    cut = start_of_head + 9 + len(blocks[0])
    topic_end = cut + 9 + len(blocks[1])
    other = tmp_path / "other"
    other.write_bytes(whole[:cut] + whole[topic_end:])
    with other.open("rb") as file, pytest.raises(Corrupt):
        verify(ArchiveReader(other, file), lambda size: None)


def test_what_a_backup_holds(cli: Cli, topic: str, archive: Path) -> None:
    """`verify` shows it; a file is never overwritten unless told; - is stdout."""
    assert cli("backup", "verify", str(archive)).rows == [[topic, "2", "300", "2"]]
    assert json.loads(cli("backup", "verify", str(archive), "-o", "json").out)["records"] == 300
    assert cli("backup", "create", str(archive), "-t", topic).code == 6
    assert cli("backup", "create", str(archive), "-t", topic, "--replace", "--no-data").code == 0
    assert cli("backup", "verify", str(archive)).rows == [[topic, "2", "0", "2"]]
    assert cli("backup", "verify", str(archive) + "-not").code == 5
    assert cli("backup", "create", str(archive) + "2", "-t", topic[:-1]).code == 5
    assert not os.path.exists(str(archive) + "2")


def test_halves_of_killed_runs_go(cli: Cli, topic: str, tmp_path: Path) -> None:
    """The next backup to that name removes what a killed one left, and not what another one is writing."""
    left, held, other = (tmp_path / f".{name}.part" for name in ("backup.1", "backup.2", "other.1"))
    for path in (left, held, other):
        path.write_bytes(b"half")
    with held.open("rb") as writing:
        fcntl.flock(writing, fcntl.LOCK_EX)
        assert cli("backup", "create", str(tmp_path / "backup"), "-t", topic).code == 0
    assert sorted(tmp_path.iterdir()) == [held, other, tmp_path / "backup"]


def test_whoever_reads_the_backup_leaves(cli: Cli, topic: str, bootstrap: str) -> None:
    """A backup into a pipe that breaks is told as what it is: half of one."""
    cli("produce", topic, stdin=lines(20_000))
    with start(bootstrap, "backup", "create", "-", "-t", topic) as command:
        assert command.stdout is not None
        assert len(command.stdout.read(10)) == 10
        command.stdout.close()
        assert command.wait(60) == 1
        assert command.stderr is not None
        assert b"the backup is not whole" in command.stderr.read()


def test_a_full_disk_leaves_nothing_behind(cli: Cli, topic: str, bootstrap: str, tmp_path: Path) -> None:
    """The backup fails with the reason, and its half is removed; stdout that is full fails as well."""
    assert cli("produce", topic, stdin=b"x" * 5000 + b"\n").code == 0
    ran = cli("backup", "create", "/dev/full", "-t", topic, "--replace")
    assert (ran.code, "exists already" in ran.err) == (6, True)
    with (
        open("/dev/full", "wb") as full,
        start(bootstrap, "backup", "create", "-", "-t", topic, stdout=full) as process,
    ):
        assert process.stderr is not None
        told = process.stderr.read()
        assert (process.wait(30), b"No space left" in told) == (1, True), told
