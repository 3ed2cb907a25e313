"""Clock jumps: libfaketime turns the time of day of a running server, by a second to ten years, both ways.

Topics are kept for an hour, or for so many bytes; housekeeping looks every second. While the clock is wrong nothing
may be deleted that is not old, and what was acknowledged is there, once, in order, after the last jump.
"""

from __future__ import annotations

import random
import time
from pathlib import Path

from tools.faults.conversation import OK, Gone, Told
from tools.faults.load import Load
from tools.faults.peer import Peer, now_ms
from tools.faults.report import Report, Skipped, late
from tools.faults.server import Server

LIBRARIES = ("/usr/lib/*/faketime/libfaketimeMT.so.1", "/usr/lib64/faketime/libfaketimeMT.so.1")
JUMPS_S = (1, 30, 3600, 86_400, 30 * 86_400, 365 * 86_400, 10 * 365 * 86_400)
INVALID_TIMESTAMP = 32
LOOKS_S = 1.3
SETTINGS = {
    "log.retention.check.interval.ms": "100",
    "log.retention.ms": "3600000",
    "log.roll.ms": "300",
    "log.segment.delete.delay.ms": "0",
    "producer.id.expiration.ms": "3600000",
    "offsets.topic.num.partitions": "1",
}


def library() -> str:
    """Where libfaketime is."""
    for pattern in LIBRARIES:
        for found in sorted(Path("/").glob(pattern.lstrip("/"))):
            return str(found)
    raise Skipped("libfaketime is not installed (Debian: apt install faketime)")


def run(seed: int, rounds: int, directory: Path) -> Report:
    """``rounds`` jumps."""
    chance, report = random.Random(seed), Report("clock", seed)
    rate = directory / "time"
    jump(rate, 0)
    environment = {
        "LD_PRELOAD": library(),
        "FAKETIME_TIMESTAMP_FILE": str(rate),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    load = Load(chance)
    with Server(directory / "data", settings=SETTINGS, environment=environment) as server:
        server.start()
        with Peer(server.bootstrap) as peer:
            load.begin(peer, "hour", 2)
            load.begin(peer, "stamped", 1, message_timestamp_type="LogAppendTime", retention_ms="-1")
            write(peer, load, report)
            for _ in range(rounds):
                if late():
                    break
                offset_s = chance.choice((1, -1)) * chance.choice(JUMPS_S)
                jump(rate, offset_s)
                write(peer, load, report)
                load.commit(peer)
                time.sleep(LOOKS_S)
                write(peer, load, report)
                jump(rate, 0)
                report.faults += 1
                look(peer, load, f"a jump of {offset_s} s", report)
                if report.found:
                    break
            finish(peer, load, report)
        if server.stop() or "Traceback" in server.log_end(1 << 20):
            report.wrong("crashed", server.log_end())
    report.figures["acknowledged"] = load.acknowledged
    return report


def jump(path: Path, offset_s: int) -> None:
    """Set how far the server's time of day is from ours."""
    path.write_text(f"{offset_s:+d}\n")


def write(peer: Peer, load: Load, report: Report) -> None:
    """A batch for each partition; one whose time seems to lie in the future may be refused as such."""
    for writer in load.writers:
        for _ in range(2):
            code = writer.step(peer, 3)
            if code == INVALID_TIMESTAMP:
                report.count("refused_timestamps")
            elif code != OK:
                report.wrong("answer", f"{writer.stream.place} answers {code}")


def look(peer: Peer, load: Load, where: str, report: Report) -> None:
    """Nothing may have gone: all is younger than an hour."""
    for topic, partition in load.places:
        first = peer.offset(topic, partition, -2)
        if first:
            report.wrong("early-retention", f"{topic}-{partition} begins at {first} after {where}, at {now_ms()}")


def finish(peer: Peer, load: Load, report: Report) -> None:
    """The last batches, and the last read."""
    try:
        write(peer, load, report)
        load.read_all(peer)
    except (Gone, Told) as error:
        report.wrong("not-recovered", repr(error))
    report.add(load.anomalies())
