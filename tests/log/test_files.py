"""Logs on a real file system: shared with Kafka's own tool, in few descriptors, and over process deaths."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from logd.log.disk import RealDisk
from logd.log.log import Log, LogConfig
from logd.wire.batches import Record, build_batch
from tests.log.batches import TOPIC_ID, append, batch, content, flush
from tools.apache_kafka import installed_libs

SMALL = LogConfig(segment_bytes=20_000, index_interval_bytes=500)


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    log = Log.create(f"{tmp_path}/t-0", TOPIC_ID, SMALL, now_ms=0)
    yield log
    log.close(clean=False)


def test_sealed_segments_are_cut_and_closed(log: Log) -> None:
    """After their flush sealed segments have no spare bytes and no open file; reading opens only a few."""
    before = open_files()
    for at in range(400):
        append(log, batch(value=bytes(300), timestamp=at))
    flush(log)
    assert len(log.segments) > 6
    for segment in log.segments[:-1]:
        assert os.stat(segment.log_path).st_size == segment.size
    assert open_files() - before <= 1
    assert len(content(log)) == 400
    assert open_files() - before <= 2 + 2 * 4
    log.segments.release_unused()
    log.segments.release_unused()
    assert open_files() - before <= 2


def test_close_does_what_a_lost_job_was_to_do(log: Log) -> None:
    """A flush job that was made and never run, as when the node stops, leaves no segment uncut behind a clean close."""
    for at in range(200):
        append(log, batch(value=bytes(300), timestamp=at))
    assert len(log.segments) > 1
    assert log.flush_job() is not None
    before = content(log)
    log.close()
    after = Log.open(log.path, SMALL, clean=True, now_ms=0)
    assert content(after) == before
    for segment in log.segments:
        assert os.stat(segment.log_path).st_size == segment.size


def test_kill_and_reopen(log: Log) -> None:
    """A copy of the files at any moment is a log with all that was written."""
    for at in range(100):
        append(log, batch(value=bytes(300), producer=1, sequence=at))
        if at % 30 == 7:
            flush(log)
    copy = f"{log.path}-copy"
    shutil.copytree(log.path, copy)
    after = Log.open(copy, SMALL, clean=False, now_ms=0)
    assert content(after) == content(log)
    after.close()
    again = Log.open(copy, SMALL, clean=True, now_ms=0)
    assert content(again) == content(log)
    again.close()


def test_empty_log_is_small(tmp_path: Path) -> None:
    """A log without records holds no descriptor and under 16 KiB of disk."""
    before = open_files()
    log = Log.create(f"{tmp_path}/t-0", TOPIC_ID, LogConfig(), now_ms=0)
    assert open_files() == before
    assert sum(one.stat().st_blocks * 512 for one in Path(log.path).iterdir()) <= 16 * 1024


def test_cold_data(log: Log) -> None:
    """What was dropped from the page cache is not resident and loads right."""
    for at in range(20):
        append(log, batch(value=b"%03d" % at * 100))
    flush(log)
    os.posix_fadvise(log.segments[-1].file.fd, 0, 0, os.POSIX_FADV_DONTNEED)
    assert [offset for offset, _ in content(log)] == list(range(20))


def test_runs_without_durable_small_files(tmp_path: Path) -> None:
    """A disk without syncs is as good for a process that dies."""
    log = Log.create(f"{tmp_path}/t-0", TOPIC_ID, SMALL, now_ms=0, disk=RealDisk(durable=False))
    append(log, batch())
    log.close()
    assert Log.open(f"{tmp_path}/t-0", SMALL, clean=True, now_ms=0).end_offset == 1


@pytest.mark.parametrize("closed", [False, True])
def test_kafkas_dump_log(log: Log, closed: bool) -> None:
    """Kafka's DumpLogSegments reads rolled and cleanly closed segments, index and time index, without a complaint."""
    libraries = installed_libs()
    if shutil.which("java") is None or libraries is None:
        pytest.skip("needs Java and the jars of Apache Kafka (python tools/apache_kafka.py fetch)")
    chance = random.Random(1)
    for at in range(150):
        times = [1000 + at * 10 + (7 * k) % 5 for k in range(3)]
        records = [Record(k, time, b"k", chance.randbytes(200), []) for k, time in enumerate(times)]
        append(log, build_batch(records, codec=at % 5, producer_id=1, producer_epoch=0, base_sequence=3 * at), epoch=at)
    flush(log)
    segments = log.segments if closed else log.segments[:-1]
    assert len(segments) >= 2
    if closed:
        log.close()
    files = ",".join(path for segment in segments for path in segment.paths())
    command = ["java", "-Xmx128m", "-cp", f"{libraries}/*", "org.apache.kafka.tools.DumpLogSegments"]
    done = subprocess.run(
        [*command, "--deep-iteration", "--files", files], capture_output=True, text=True, timeout=110, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(" isvalid: true") == sum(1 for at in range(150) if at * 3 < segments[-1].next_offset)
    for complaint in ("isvalid: false", "Mismatches", "mismatch", "Out of order", "Found timestamp", "not a valid"):
        assert complaint not in done.stdout
