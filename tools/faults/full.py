"""Full disks: a file takes all the space, is there for a while, and goes; producers and readers never stop.

While the disk is full appends may be refused and nothing else may happen: reads are answered, nothing crashes, and
after the space is back a batch is acknowledged within seconds. Some of the topics are compacted, all the time: that may
stop, too, and has to go on. ``on`` is tmpfs, ext4 or xfs.
"""

from __future__ import annotations

import contextlib
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path

from tools.faults.blocks import Mounted, make, needed, said
from tools.faults.conversation import LATEST, OK, STORAGE, Gone, Told
from tools.faults.history import Acknowledged, number_of
from tools.faults.load import Load
from tools.faults.peer import Peer
from tools.faults.report import Report, late
from tools.faults.server import NotReady, Server

SIZES = {"tmpfs": 24 << 20, "ext4": 40 << 20, "xfs": 64 << 20}
RESUME_S_MAX = 5.0
CLEANED_S_MAX = 60.0
CLEANED = 0.25
"""After so many of the cycles it is waited until all that was there has been compacted."""

KEYED = 3
GIVEN_UP = "is not compacted until the next start"
FULL_TRIES_MAX = 400
SETTINGS = {
    "log.roll.ms": "400",
    "log.segment.delete.delay.ms": "0",
    "log.retention.bytes": "600000",
    "log.retention.check.interval.ms": "300",
    "log.cleaner.backoff.ms": "300",
    "log.cleaner.min.cleanable.ratio": "0.01",
    "log.flush.offset.checkpoint.interval.ms": "300",
    "offsets.topic.num.partitions": "1",
}


@contextlib.contextmanager
def mounted(directory: Path, kind: str) -> Iterator[Path]:
    """A small file system of a kind."""
    place = directory / "small"
    if kind == "tmpfs":
        place.mkdir(parents=True, exist_ok=True)
        said(["mount", "-t", "tmpfs", "-o", f"size={SIZES[kind]}", "none", str(place)])
        try:
            yield place
        finally:
            said(["umount", "-l", str(place)])
    else:
        make(directory / "image", kind, SIZES[kind])
        with Mounted(directory / "image", place, kind):
            yield place


def run(seed: int, rounds: int, directory: Path, on: str = "tmpfs") -> Report:
    """``rounds`` times full and free again."""
    needed()
    chance, report = random.Random(seed), Report(f"full-{on}", seed)
    load = Load(chance, record_bytes=2000)
    settings = {**SETTINGS, "log.flush.mode": chance.choice(("group", "os"))}
    report.figures |= {"cleaned": 0, "cleaned_s_max": 0.0}
    with mounted(directory, on) as place, Server(place / "data", settings=settings) as server:
        server.log = directory / "server.log"
        server.start()
        with Peer(server.bootstrap) as peer:
            begin(peer, load, "")
        for number in range(rounds):
            if late():
                break
            try:
                cycle(place, server, load, report)
            except (Gone, Told, NotReady) as error:
                report.wrong("crashed", f"cycle {number}: {error!r} {server.log_end()}")
                break
            if sum(1 for _ in load.events) > 12_000:
                check_all(server, load, report)
                load = begin_anew(server, number, chance)
        check_all(server, load, report)
        if server.running and server.stop():
            report.wrong("crashed", server.log_end())
        if "Traceback" in server.log_end(1 << 20):
            report.wrong("traceback", server.log_end())
        if GIVEN_UP in server.log_end(1 << 20):
            report.wrong("given-up", server.log_end())
    return report


def cycle(place: Path, server: Server, load: Load, report: Report) -> None:
    """Fill, see that reads go on and refusals come, free, and see how soon appends go on."""
    filler = place / "filler"
    with Peer(server.bootstrap) as peer:
        for writer in load.writers:
            writer.step(peer, 10)
        fill(filler)
        refused = 0
        for _ in range(FULL_TRIES_MAX):
            codes = [writer.step(peer, 20) for writer in load.writers]
            refused += codes.count(STORAGE)
            if wrong := set(codes) - {OK, STORAGE}:
                report.wrong("answer", f"a full disk is answered with {wrong}")
            if codes.count(STORAGE) == len(codes) and refused > 2 * len(codes):
                break
        if load.chance.random() < 0.3:
            load.commit(peer)
        for topic, partition in load.places[:3] + load.places[-KEYED:]:
            code, data, end = peer.fetch(topic, partition, peer.offset(topic, partition, -2))
            if code or (not data and end):
                report.wrong("unreadable", f"{topic}-{partition} on a full disk: error {code}, {len(data)} bytes")
        if load.chance.random() < 0.2:
            restart_full(server, report)
        filler.unlink()
        freed = time.monotonic()
        if not server.running:
            server.start()
    resume(server, load, freed, report)
    if load.chance.random() < CLEANED:
        clean(server, load, freed, report)
    if refused:
        report.faults += 1
        report.count("refused", refused)
    else:  # it proves nothing
        report.count("never_full")


def restart_full(server: Server, report: Report) -> None:
    """Kill it while the disk is full; it may refuse to start, in a sentence."""
    server.kill()
    try:
        server.start()
        report.count("started_full")
    except NotReady as error:
        report.count("refused_to_start")
        if "logd: " not in str(error) or "Traceback" in str(error):
            report.wrong("crashed", f"a start on a full disk: {error}")


def resume(server: Server, load: Load, freed: float, report: Report) -> None:
    """Have every writer acknowledged again."""
    with Peer(server.bootstrap) as peer:
        for writer in load.writers:
            while writer.step(peer, 5) != OK:
                if time.monotonic() - freed > 4 * RESUME_S_MAX:
                    report.wrong("not-resumed", f"{writer.stream.place}: {writer.told[-1]} {server.log_end()}")
                    return
                time.sleep(0.05)
    took = time.monotonic() - freed
    report.longest("resumed_s_max", took)
    if took > RESUME_S_MAX:
        report.wrong("slow", f"writing again took {took:.1f} s")


def clean(server: Server, load: Load, freed: float, report: Report) -> None:
    """Write on until nothing is left of what was in the compacted partitions: each record has been replaced."""
    writers = [one for one in load.writers if one.stream.topic.startswith("keyed")]
    with Peer(server.bootstrap) as peer:
        ends = {one.stream.topic: peer.offset(one.stream.topic, 0, LATEST) for one in writers}
        while ends:
            for writer in writers:
                writer.step(peer, 2)
            for topic, end in list(ends.items()):
                if all(offset >= end for offset, _ in peer.values(topic, 0)):
                    del ends[topic]
            if time.monotonic() - freed > CLEANED_S_MAX:
                report.wrong("not-cleaned", f"{ends}: {server.log_end()}")
                return
            time.sleep(0.05)
    report.count("cleaned")
    report.longest("cleaned_s_max", time.monotonic() - freed)


def check_keyed(peer: Peer, load: Load, report: Report) -> None:
    """The last value of a compacted key is none that is older than what was acknowledged."""
    promised: dict[str, int] = {}
    for one in load.events:
        if isinstance(one, Acknowledged) and one.partition.startswith("keyed"):
            promised[one.partition] = max(promised.get(one.partition, -1), number_of(one.value))
    for place, number in promised.items():
        found = [number_of(value) for _, value in peer.values(place.removesuffix("-0"), 0)]
        if not found or found[-1] < number or found != sorted(set(found)):
            report.wrong("lost", f"{number} was promised for the key of {place}, it has {found[-3:]}")


def check_all(server: Server, load: Load, report: Report) -> None:
    """Read everything that is kept for ever."""
    load.places = [one for one in load.places if one[0].startswith("full")]
    try:
        with Peer(server.bootstrap) as peer:
            check_keyed(peer, load, report)
            load.read_all(peer)
    except (Gone, Told) as error:
        report.wrong("unreadable", f"{error!r} {server.log_end()}")
        return
    kept = [one for one in load.events if getattr(one, "partition", "full").startswith("full")]
    load.events[:] = kept
    report.add(load.anomalies())
    report.count("acknowledged", load.acknowledged)


def begin_anew(server: Server, number: int, chance: random.Random) -> Load:
    """Other topics in place of the old: the disk is small."""
    load = Load(chance, record_bytes=2000)
    with Peer(server.bootstrap) as peer:
        for topic in peer.topics():
            if not topic.startswith("__"):
                peer.delete(topic)
        begin(peer, load, str(number))
    return load


def begin(peer: Peer, load: Load, name: str) -> None:
    """Topics that keep all, that lose what is old, and that are compacted, and their writers."""
    load.begin(peer, f"full{name}", 3, retention_bytes="-1")
    load.begin(peer, f"spill{name}", 2)
    for number in range(KEYED):
        load.begin(peer, f"keyed{name}.{number}", 1, cleanup_policy="compact")
    load.commit(peer)


def fill(path: Path) -> None:
    """Take all the space there is."""
    with path.open("wb", buffering=0) as file:
        for size in (1 << 20, 4096, 512):
            with contextlib.suppress(OSError):
                while True:
                    file.write(bytes(size))
        with contextlib.suppress(OSError):
            os.fsync(file.fileno())
