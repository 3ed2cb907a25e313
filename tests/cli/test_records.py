"""`produce` and `consume` against real brokers, and how they end: pipes, signals, limits."""

from __future__ import annotations

import json
import os
import signal

import pytest

from logd.cli import produce
from tests.cli.conftest import Cli, start


def test_lines_in_lines_out(cli: Cli, topic: str) -> None:
    """Each line is a record, the last one without its end too; an empty line is an empty record."""
    ran = cli("produce", topic, "-p", "0", stdin=b"one\n\ntwo\nthree")
    assert (ran.code, ran.out, ran.err) == (0, "", f"4 records sent to topic '{topic}'\n")
    assert cli("consume", topic, "--exit", "-o", "raw").out == "one\n\ntwo\nthree\n"


def test_a_line_that_never_ends(cli: Cli, topic: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told before it fills the memory; the lines before it are sent, and a line in many parts is put together."""
    monkeypatch.setattr(produce, "LINE_BYTES_MAX", 10_000)
    monkeypatch.setattr(produce, "CHUNK_BYTES", 1000)
    ran = cli("produce", topic, "-p", "0", stdin=b"a" * 9000 + b"\nb\n" + b"c" * 20_000)
    assert (ran.code, ran.err.splitlines()[:2]) == (
        1,
        [f"2 records sent to topic '{topic}'", "error: line 3 of the input can't be sent"],
    )
    assert cli("consume", topic, "--exit", "-f", "%S ").out == "9000 1 "


def test_keys_headers_and_tombstones(cli: Cli, topic: str) -> None:
    """Keys from the line or for all, headers with and without value, and a record that deletes its key."""
    cli("produce", topic, "-K", "\\t", "-H", "h=1", "-H", "n", "-p", "0", stdin=b"a\tone\n")
    cli("produce", topic, "-k", "b", "--value", "two", "-p", "0")
    cli("produce", topic, "-k", "b", "--tombstone", "-p", "0")
    rows = cli("consume", topic, "-e", "-f", "%k %v %S %h\\n").out.splitlines()
    assert rows == ["a one 3 h=1,n=", "b two 3 ", "b  -1 "]


@pytest.mark.parametrize("codec", ["none", "gzip", "snappy", "lz4", "zstd"])
def test_the_same_records_come_back(cli: Cli, topic: str, codec: str) -> None:
    """`consume -o jsonl` into `produce --from jsonl`: keys, values, headers, timestamps, bytes, partitions."""
    records = [
        {"key": "k", "value": "v", "headers": [{"name": "h", "value": "x"}], "timestamp": 1000, "partition": 0},
        {"key": None, "value": None, "headers": [], "timestamp": 2000, "partition": 1},
        {
            "key_base64": "/wA=",
            "value_base64": "gA==",
            "headers": [{"name": "b", "value_base64": "/w=="}],
            "timestamp": 3000,
            "partition": 1,
        },
        {
            "key": "",
            "value": "tab\t, line\n, \u00e4\u0000",
            "headers": [{"name": "n", "value": None}],
            "timestamp": 4000,
            "partition": 0,
        },
    ]
    lines = b"".join(json.dumps(record).encode() + b"\n" for record in records)
    sent = cli("produce", topic, "--from", "jsonl", "--keep-partitions", "-z", codec, stdin=lines)
    assert (sent.code, sent.err) == (0, f"4 records sent to topic '{topic}'\n")
    first = cli("consume", topic, "-e", "-o", "jsonl").out
    copy = f"{topic}-copy"
    cli("topic", "create", copy, "-p", "2")
    assert cli("produce", copy, "--from", "jsonl", "--keep-partitions", stdin=first.encode()).code == 0
    second = cli("consume", copy, "-e", "-o", "jsonl").out
    assert sorted(second.replace(copy, topic).splitlines()) == sorted(first.splitlines())
    found = sorted((json.loads(line) for line in first.splitlines()), key=lambda record: record["timestamp"])
    for record, original in zip(found, records, strict=True):
        assert {name: record[name] for name in original} == original


def test_where_reading_begins(cli: Cli, topic: str) -> None:
    """Start, end, an offset, the last ones, a range, a time."""
    lines = b"".join(b'{"value": "%d", "timestamp": %d}\n' % (n, (n + 1) * 100_000) for n in range(10))
    cli("produce", topic, "--from", "jsonl", "-p", "0", stdin=lines)
    for where, expected in {
        "start": range(10),
        "end": [],
        "7": [7, 8, 9],
        "-2": [8, 9],
        "-99": range(10),
        "2:5": [2, 3, 4],
        "8:99": [8, 9],
        ":2": [0, 1],
        "@500000": range(4, 10),
        "@1970-01-01T00:15:00Z": [8, 9],
        "@2100-01-01": [],
    }.items():
        found = cli("consume", topic, "-p", "0", "--offset", where, "-e", "-o", "raw").out.split()
        assert found == [str(number) for number in expected], where


def test_an_offset_that_is_not_there(cli: Cli, topic: str) -> None:
    """The nearest one is taken, and a note says so."""
    cli("produce", topic, "-p", "0", stdin=b"a\nb\n")
    ran = cli("consume", topic, "-p", "0", "--offset", "50", "-e")
    assert (ran.code, ran.out) == (0, "")
    assert f"{topic}/0: offset 50 is not there yet, the next one is 2" in ran.err


def test_count_ends_without_waiting(cli: Cli, topic: str) -> None:
    """So many records and no more, whatever comes together in one batch."""
    cli("produce", topic, "-p", "0", stdin=b"1\n2\n3\n4\n5\n")
    assert cli("consume", topic, "-n", "3", "-o", "raw").out.split() == ["1", "2", "3"]
    assert cli("consume", topic, "-n", "0").out == ""


def test_every_form(cli: Cli, topic: str) -> None:
    """JSON is one array, also an empty one; a name says where the record is; a line has seven fields."""
    assert json.loads(cli("consume", topic, "-e", "-o", "json").out) == []
    cli("produce", topic, "-p", "1", "-k", "a\tb", stdin=b"x\ny\n")
    assert [item["value"] for item in json.loads(cli("consume", topic, "-e", "-o", "json").out)] == ["x", "y"]
    assert cli("consume", topic, "-e", "-o", "name").out.split() == [f"{topic}/1:0", f"{topic}/1:1"]
    rows = cli("consume", topic, "-e").rows
    assert [len(row) for row in rows] == [7, 7]
    assert rows[0][4] == "a\\tb"
    assert f"{topic}/1:0" in cli("consume", topic, "-e", "-o", "table").out


def test_where_the_records_went(cli: Cli, topic: str) -> None:
    """With -o, produce prints topic, partition, offset and timestamp of each record."""
    rows = cli("produce", topic, "-p", "1", "-o", "tsv", stdin=b"a\nb\n").rows
    assert [row[:3] for row in rows] == [[topic, "1", "0"], [topic, "1", "1"]]
    assert json.loads(cli("produce", topic, "-p", "1", "-o", "json", "--value", "c").out)[0]["offset"] == 2


def test_a_bad_line_stops_with_its_number(cli: Cli, topic: str) -> None:
    """What came before it is sent, and the error says which line and why."""
    ran = cli("produce", topic, "--from", "jsonl", "-p", "0", stdin=b'{"value": "a"}\n\n{"valeu": "b"}\n')
    assert ran.code == 1
    assert "1 record sent" in ran.err
    assert "error: line 3 of the input can't be sent\nwhy:   unknown field valeu" in ran.err
    assert cli("consume", topic, "-e", "-o", "raw").out == "a\n"


def test_a_record_that_is_too_large(cli: Cli, topic: str) -> None:
    """The others are sent; exit code 8 for some, 1 for none."""
    topic += "-small"
    cli("topic", "create", topic, "-c", "max.message.bytes=1000")
    big = b"x" * 5000 + b"\n"
    ran = cli("produce", topic, "-p", "0", stdin=b"small\n" + big + b"small too\n")
    assert ran.code == 8
    assert "MESSAGE_TOO_LARGE" in ran.err
    assert cli("consume", topic, "-e", "-o", "raw").out == "small\nsmall too\n"
    ran = cli("produce", topic, stdin=big)
    assert (ran.code, ran.err.splitlines()[-1]) == (
        1,
        f"try:   logd-cli topic alter {topic} --config max.message.bytes=BYTES",
    )


def test_several_topics(cli: Cli, topic: str) -> None:
    """Topics are read together, each record with the name of its own."""
    other = f"{topic}-other"
    cli("topic", "create", other)
    cli("produce", topic, "--value", "a")
    cli("produce", other, "--value", "b")
    rows = cli("consume", topic, other, "-e").rows
    assert sorted((row[0], row[5]) for row in rows) == sorted([(topic, "a"), (other, "b")])


def test_a_reader_that_has_seen_enough(cli: Cli, topic: str, bootstrap: str) -> None:
    """When whoever reads the output leaves, as `head` does, there is no traceback and the exit code is 0."""
    cli("produce", topic, stdin=b"x" * 1000 + b"\n" + b"\n".join(b"%d" % number for number in range(50_000)))
    with start(bootstrap, "consume", topic) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert (process.stderr.read(), process.wait(30)) == (b"", 0)


def test_a_reader_that_leaves_while_nothing_comes(cli: Cli, topic: str, bootstrap: str) -> None:
    """`consume | head -1` ends with `head`, though no other record comes."""
    cli("produce", topic, "--value", "a")
    with start(bootstrap, "consume", topic, "-f", "%v\n") as command:
        assert command.stdout is not None
        assert command.stdout.readline() == b"a\n"
        command.stdout.close()
        assert command.wait(30) == 0
        assert command.stderr is not None
        assert command.stderr.read() == b""


def test_a_reader_of_the_report_that_leaves(cli: Cli, topic: str, bootstrap: str) -> None:
    """`produce -o jsonl | head -1` sends every record all the same."""
    with start(bootstrap, "produce", topic, "-o", "jsonl") as command:
        assert command.stdin is not None
        assert command.stdout is not None
        command.stdin.write(b"first\n")
        command.stdin.flush()
        assert json.loads(command.stdout.readline())["topic"] == topic
        command.stdout.close()
        command.stdin.write(b"".join(b"%d\n" % number for number in range(5000)))
        command.stdin.close()
        assert command.wait(60) == 0
        assert command.stderr is not None
        assert b"5001 records sent" in command.stderr.read()
    assert len(cli("consume", topic, "-e").rows) == 5001


def test_no_record_at_all(cli: Cli, topic: str) -> None:
    """A count of 0 is a question too: JSON is JSON, and a topic that is not there is told."""
    assert json.loads(cli("consume", topic, "-n", "0", "-o", "json").out) == []
    assert cli("consume", f"{topic}x", "-n", "0").code == 5


def test_the_tail_of_a_topic(cli: Cli, topic: str, bootstrap: str) -> None:
    """The last records of each partition, then what comes; only what matches when asked."""
    cli("produce", topic, "-p", "0", stdin=b"".join(b"%d\n" % number for number in range(20)))
    with start(bootstrap, "tail", topic, "-n", "3", "-f", "%v\\n", "--grep", "[02468]$") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"18\n"
        cli("produce", topic, stdin=b"odd 1\neven 2\n")
        assert process.stdout.readline() == b"even 2\n"
        os.kill(process.pid, signal.SIGINT)
        assert process.wait(30) == 130


def test_interrupted(cli: Cli, topic: str, bootstrap: str) -> None:
    """Ctrl-C ends a waiting consumer at once: what was read is written, no traceback, exit code 130."""
    cli("produce", topic, "--value", "a")
    with start(bootstrap, "consume", topic, "-o", "raw") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"a\n"
        os.kill(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=30)
        assert (out, err.strip(), process.returncode) == (b"", b"", 130)


def test_between_two_times(cli: Cli, topic: str) -> None:
    """What is there of that time, without its end; of a range that has no records nothing, and no waiting for more."""
    lines = b"".join(b'{"value": "%d", "timestamp": %d}\n' % (number, number * 1000) for number in range(10))
    assert cli("produce", topic, "-p", "0", "--from", "jsonl", stdin=lines).code == 0

    def between(first: int, last: int) -> list[str]:
        return cli("consume", topic, "--offset", f"@{first}:@{last}", "-f", "%v\n").out.split()

    assert between(2000, 5000) == ["2", "3", "4"]
    assert between(0, 2001) == ["0", "1", "2"]
    assert between(8500, 99_000) == ["9"]
    assert between(3000, 3000) == between(99_000, 99_000) == []
    assert cli("topic", "trim", topic, "--offset", "@1000:@2000", "-y").code == 2


def test_terminated(cli: Cli, topic: str, bootstrap: str) -> None:
    """SIGTERM ends it as Ctrl-C does: the array is closed; so it is in the background of a script, without Ctrl-C."""
    cli("produce", topic, "-p", "0", stdin=b"a\nb\n")
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # children have it too
    try:
        process = start(bootstrap, "consume", topic, "-o", "json")
    finally:
        signal.signal(signal.SIGINT, before)
    with process:
        assert process.stdout is not None
        assert process.stderr is not None
        lines = [process.stdout.readline() for _ in range(2)]
        process.terminate()
        out, err = process.stdout.read(), process.stderr.read()
        assert [record["value"] for record in json.loads(b"".join(lines) + out)] == ["a", "b"]
        assert (err.strip(), process.wait(30)) == (b"", 143)


def test_a_producer_that_waits_for_input_is_interrupted(topic: str, bootstrap: str) -> None:
    """Records that were typed are sent at once; Ctrl-C at the prompt ends it and loses none of them."""
    with start(bootstrap, "produce", topic, "-o", "name") as process:
        assert process.stdout is not None
        assert process.stdin is not None
        process.stdin.write(b"a\nb\n")
        process.stdin.flush()
        names = [process.stdout.readline().strip() for _ in range(2)]
        assert len(set(names)) == 2
        assert all(name.startswith(f"{topic}/".encode()) for name in names)
        os.kill(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=30)
        assert process.returncode == 130
        assert b"Traceback" not in err
        assert b"2 records sent" in err
