"""Retention and compaction by hand or from cron: on a running server, on a stopped one, as the examples run them."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Producer

from logd.wire.schemas.create_topics import CreatableTopic, CreatableTopicConfig, CreateTopicsRequest
from tests.process.server import Server, environment
from tests.raw import Peer, batch, produce_request

ROOT = Path(__file__).resolve().parents[2]
CLI = str(Path(sys.executable).with_name("logd-cli"))
TURNS = 6
PATIENCE_S = 60.0


def run(server: Server | None, *arguments: str) -> tuple[int, list[list[str]], str]:
    """Run logd-cli: exit code, rows, what it said on stderr."""
    address = ["--bootstrap", server.bootstrap] if server is not None else []
    done = subprocess.run(
        [CLI, *arguments[:2], *address, *arguments[2:]], capture_output=True, text=True, env=environment(), check=False
    )
    return done.returncode, [line.split("\t") for line in done.stdout.splitlines()], done.stderr


def write(server: Server) -> None:
    """Some segments for each of two topics."""
    with Peer(server.bootstrap) as peer:
        for name, configs in (("old", {"retention.bytes": "200"}), ("keys", {"cleanup.policy": "compact"})):
            settings = [CreatableTopicConfig(*one) for one in configs.items()]
            peer.ask(CreateTopicsRequest([CreatableTopic(name, 1, 1, [], settings)], 10_000), 5)
        for turn in range(TURNS):
            for name in ("old", "keys"):
                records = batch(b"v%d" % turn, key=b"k", timestamp=time.time_ns() // 1_000_000)
                answer = peer.ask(produce_request(name, records), 9)
                assert answer.responses[0].partition_responses[0].error_code == 0
            time.sleep(0.03)  # segments are rolled by the records' own time


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    options = ("--set", "log.roll.ms=5", "--set", "log.retention.check.interval.ms=3600000")
    with Server(tmp_path / "data", *options, "--set", "log.cleaner.enable=false") as found:
        write(found)
        yield found


def test_running_server(server: Server) -> None:
    """A dry run says what goes and changes nothing; the run takes just that, and a second one nothing."""
    code, would_go, said = run(server, "retention", "run", "--dry-run")
    assert (code, [row[:2] for row in would_go]) == (0, [["old", "0"]])
    assert "would go" in said
    assert run(server, "retention", "run", "--topic", "old")[1] == would_go
    assert run(server, "retention", "run")[1] == []
    code, dirty, _ = run(server, "compaction", "run", "--dry-run")
    assert (code, [row[:3] for row in dirty], dirty[0][6]) == (0, [["keys", "0", "0"]], "")
    _, done, _ = run(server, "compaction", "run")
    assert done[0][:3] == dirty[0][:3]
    assert int(done[0][3]) >= int(dirty[0][3])  # the last segment may have been rolled by its age meanwhile
    assert int(done[0][6]) < int(done[0][5])
    # the same with what was rolled since; then nothing is left
    assert any(run(server, "compaction", "run")[1] == [] for _ in range(3))
    assert server.stop()[0] == 0


def test_stopped_server(server: Server, tmp_path: Path) -> None:
    """The same on the directory of a stopped server, whose files go at once; a running one's is refused."""
    data = ("--data-dir", str(tmp_path / "data"))
    code, rows, said = run(None, "retention", "run", *data)
    assert (code, rows) == (1, [])
    assert "in use" in said
    assert server.stop()[0] == 0
    code, would_go, said = run(None, "retention", "run", "--dry-run", *data)
    assert (code, [row[:2] for row in would_go]) == (0, [["old", "0"]]), said
    segments = len(list((tmp_path / "data" / "old-0").glob("*.log")))
    assert run(None, "retention", "run", *data)[1] == would_go
    assert len(list((tmp_path / "data" / "old-0").glob("*.log"))) == segments - int(would_go[0][4])
    before, after = run(None, "compaction", "run", *data)[1][0][5:]
    assert int(after) < int(before)
    assert run(None, "retention", "run", "--data-dir", str(tmp_path))[0] == 1
    server.start()
    with Peer(server.bootstrap) as peer:
        answer = peer.ask(produce_request("old", batch(b"after")), 9)
        assert answer.responses[0].partition_responses[0].base_offset == TURNS


def test_what_an_open_transaction_holds_is_not_told_as_gone(server: Server) -> None:
    """Retention takes nothing from the first record of an open transaction on, and neither run says that it does."""
    producer = Producer({"bootstrap.servers": server.bootstrap, "transactional.id": "open", "log_level": 0})
    producer.init_transactions(PATIENCE_S)
    producer.begin_transaction()
    time.sleep(0.03)  # the segment is rolled by the record's own time
    producer.produce("old", b"open", timestamp=time.time_ns() // 1_000_000)
    assert producer.flush(PATIENCE_S) == 0
    with Peer(server.bootstrap) as peer:
        for _ in range(TURNS):
            time.sleep(0.03)
            peer.ask(produce_request("old", batch(b"later", key=b"k", timestamp=time.time_ns() // 1_000_000)), 9)
    would_go = run(server, "retention", "run", "--topic", "old", "--dry-run")[1]
    assert int(would_go[0][3]) <= TURNS
    assert run(server, "retention", "run", "--topic", "old")[1] == would_go
    assert run(server, "retention", "run", "--topic", "old")[1] == []
    producer.abort_transaction(PATIENCE_S)
    assert int(run(server, "retention", "run", "--topic", "old")[1][0][3]) > TURNS


def test_unknown_topic(server: Server) -> None:
    """A topic that is not there is named, with the exit code of what was not found."""
    code, _, said = run(server, "retention", "run", "--topic", "nosuch")
    assert code == 5
    assert "nosuch" in said


def test_cron_lines(server: Server) -> None:
    """Every line of the example crontab, the commented ones too, is a command that the command line takes."""
    lines = [line.lstrip("# ") for line in (ROOT / "config/logd.cron").read_text().splitlines()]
    commands = [line.split(maxsplit=6)[6] for line in lines if " logd logd-cli " in line]
    assert len(commands) >= 4
    for command in commands:
        words = shlex.split(command)[1:]
        if "--data-dir" in words:
            words = [*words[:2], "--help"]
        if "--topic" in words:
            words[words.index("--topic") + 1] = "old"
        assert run(server, *words)[0] == 0, command


@pytest.mark.parametrize("job", ["retention", "compaction"])
def test_systemd_units(server: Server, job: str, tmp_path: Path) -> None:
    """What a timer's service runs works, and systemd finds nothing wrong with either."""
    service, timer = ROOT / f"config/logd-{job}.service", ROOT / f"config/logd-{job}.timer"
    started = next(line for line in service.read_text().splitlines() if line.startswith("ExecStart="))
    assert run(server, *shlex.split(started.partition("=")[2])[1:])[0] == 0
    assert f"Unit={service.name}" in timer.read_text()
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not here: the units' syntax is not checked")
    for unit in (ROOT / "config/logd.service", service, timer):
        text = unit.read_text().replace("/opt/logd/.venv/bin/", f"{Path(sys.executable).parent}{os.sep}")
        (tmp_path / unit.name).write_text(text)
    calendar = next(line for line in timer.read_text().splitlines() if line.startswith("OnCalendar="))
    command = ["systemd-analyze", "calendar", calendar.partition("=")[2]]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
