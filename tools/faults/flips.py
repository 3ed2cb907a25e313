"""Bit flips: a server is stopped or killed, one bit in a file of each partition is turned over, and all is read again.

Each partition takes one flip a start, in a file whose kind comes from the seed, so that a start tries dozens. What is
served must be, batch for batch, what was served before; what is not served must be refused with an error. Housekeeping
looks at it, before anybody reads or after, and something is appended to each partition. The fields of a batch header
that the checksum does not cover (base offset, length, epoch) are aimed at as a kind of their own, and so are the length
in the segment that is written to, which tells where the next batch begins, and the epoch of its last batch.
"""

from __future__ import annotations

import random
import shutil
import time
from pathlib import Path

from tools.faults.conversation import OK, STORAGE, Gone, Told
from tools.faults.load import Load
from tools.faults.looks import COMMAND, NAMED_BY, until_looked
from tools.faults.peer import Peer, Stream, now_ms
from tools.faults.report import Report, late
from tools.faults.server import NotReady, Server

PARTITIONS = 40
TOPIC, COMPACTED = "flips", "flipped-keys"
BATCHES = (".log", "recent", "uncovered", "length", "epoch")
KINDS = (
    ".log",
    "recent",
    "uncovered",
    "length",
    "epoch",
    ".index",
    ".timeindex",
    ".snapshot",
    "partition.state",
    "partition.meta",
    "compaction",
)
NODE_FILES = (
    "format.json",
    ".clean-shutdown",
    ".lock",
    "metadata.db",
    "metadata.db-wal",
    "metadata.db.version",
    "partitions.known",
)
NOTED_S = 2.5
LENGTH, EPOCH = range(8, 12), range(12, 16)
"""Where a batch says how long it is, and under which leader it was written."""

SETTINGS = {
    "log.flush.mode": "group",
    "log.roll.ms": "15",
    "log.index.interval.bytes": "200",
    "log.cleaner.backoff.ms": "1",
    "log.cleaner.min.cleanable.ratio": "0.01",
    "log.flush.offset.checkpoint.interval.ms": "200",
}
Seen = dict[tuple[str, int], dict[int, bytes]]


def run(seed: int, rounds: int, directory: Path) -> Report:
    """``rounds`` flips, some dozens to a start."""
    chance = random.Random(seed)
    report = Report("flips", seed)
    template = directory / "template"
    places = fill(template, chance, report)
    killed = directory / "killed"
    seen = kill(template, killed, places, report)
    templates = [(template, served(template, places, directory / "data")), (killed, seen)]
    while report.faults < rounds and not late():
        templates.reverse()
        source, seen = templates[0]
        data = copied(source, directory / "data")
        if chance.random() < 0.5:
            (data / ".clean-shutdown").unlink(missing_ok=True)
        # what a recovery reads is what came after its recovery point
        kinds = KINDS if source == template else (*KINDS, *["recent"] * len(KINDS))
        flipped = flip_partitions(data, kinds, places, chance, min(rounds - report.faults, len(places)), report)
        compare(data, seen, flipped, chance, report)
    for number in range(max(4, rounds // 40)):
        if late():
            break
        node_flip(*templates[number % 2], directory / "data", chance, report)
    return report


def copied(source: Path, data: Path) -> Path:
    """A copy of a data directory in place of another."""
    shutil.rmtree(data, ignore_errors=True)
    shutil.copytree(source, data)
    return data


def kill(template: Path, killed: Path, places: list[tuple[str, int]], report: Report) -> Seen:
    """Make a directory whose server was killed: two seconds after the last write, so that all is known as flushed.

    Returns what it served by then.
    """
    one_segment = {
        "log.cleaner.enable": "false",
        "log.roll.ms": "3600000",
        "log.flush.offset.checkpoint.interval.ms": "60000",  # what is flushed is told by the note of each second
    }
    with Server(copied(template, killed), settings={**SETTINGS, **one_segment}) as server:
        server.start()
        with Peer(server.bootstrap) as peer:
            producer_id = peer.producer_id()
            for place in places:
                stream = Stream("k", *place, producer_id, 60)
                for _ in range(8):
                    code, _ = peer.produce(*place, stream.batch(stream.next_values(5), now_ms()))
                    stream.taken(5)
                    if code != OK:
                        report.wrong("refused", f"{place} answers {code}: {server.log_end()}")
            time.sleep(NOTED_S)
            seen = {place: peer.batches(*place) for place in places}
        server.kill()
    return seen


def fill(data: Path, chance: random.Random, report: Report) -> list[tuple[str, int]]:
    """Make the data directory that is damaged again and again: several segments, epochs, snapshots, compaction."""
    load = Load(chance, record_bytes=60)
    with Server(data, settings={**SETTINGS, "log.flush.mode": "os"}) as server:  # a stop flushes
        for start in range(3):
            server.start()
            with Peer(server.bootstrap) as peer:
                if not start:
                    load.begin(peer, TOPIC, PARTITIONS)
                    load.begin(peer, COMPACTED, PARTITIONS // 4, cleanup_policy="compact")
                for writer in load.writers:
                    for _ in range(12):
                        if writer.step(peer, chance.randrange(1, 12)) != OK:
                            report.wrong("refused", f"{writer.stream.place} refuses: {server.log_end()}")
                load.commit(peer)
            if server.stop():
                report.wrong("crashed", server.log_end())
    return load.places


def served(source: Path, places: list[tuple[str, int]], data: Path) -> Seen:
    """What a server on a copy of this directory serves."""
    with Server(copied(source, data), settings={**SETTINGS, "log.cleaner.enable": "false"}) as server:
        server.start()
        with Peer(server.bootstrap) as peer:
            seen = {place: peer.batches(*place) for place in places}
        server.stop()
    return seen


def flip_partitions(
    data: Path, kinds: tuple[str, ...], places: list[tuple[str, int]], chance: random.Random, count: int, report: Report
) -> dict[tuple[str, int], str]:
    """Turn over one bit for each of so many partitions; what was done to which."""
    done = {}
    for topic, partition in chance.sample(places, count):
        kind = chance.choice(kinds)
        log = data / f"{topic}-{partition}"
        found = sorted(path for path in log.iterdir() if belongs(path, kind) and has_data(path))
        if kind in ("recent", "length", "epoch") or (
            kind == "uncovered" and chance.random() < 0.5
        ):  # the one that is written to
            found = found[-1:]
        if not found:
            kind, found = ".log", sorted(path for path in log.glob("*.log") if has_data(path))
        path = chance.choice(found)
        size = path.stat().st_size if kind != "recent" else sum(map(len, batches_of(path)))
        uncovered = kind in ("uncovered", "length", "epoch")
        at = outside_the_checksum(path, chance, kind) if uncovered else chance.randrange(size)
        done[topic, partition] = f"{path.name} bit {flip(path, at, chance)}"
        report.faults += 1
        report.count(kind.strip("."))
    return done


def has_data(path: Path) -> bool:
    """Whether there is anything in a file; batches, in a segment."""
    return path.stat().st_size > 0 and (path.suffix != ".log" or bool(batches_of(path)))


def belongs(path: Path, kind: str) -> bool:
    """Whether a file is of a kind."""
    return path.name.endswith(".log" if kind in BATCHES else kind)


def outside_the_checksum(path: Path, chance: random.Random, kind: str) -> int:
    """A byte of a random batch's base offset, length, epoch, magic or checksum, or of its length alone.

    Or of the epoch of the last batch: what comes behind another tells that its epoch can't be.
    """
    sizes = [len(one) for one in batches_of(path)]
    if kind == "epoch":
        return sum(sizes[:-1]) + chance.choice(EPOCH)
    return sum(sizes[: chance.randrange(len(sizes))]) + chance.choice(LENGTH if kind == "length" else range(21))


def batches_of(path: Path) -> list[bytes]:
    """The batches of a segment, without the zeros behind them."""
    data = path.read_bytes()
    found, at = [], 0
    while at + 61 <= len(data) and data[at : at + 12] != bytes(12):
        size = 12 + int.from_bytes(data[at + 8 : at + 12], "big")
        found.append(data[at : at + size])
        at += size
    return found


def flip(path: Path, at: int, chance: random.Random) -> int:
    """Turn over one bit of a byte; which, counted from the start of the file."""
    data = bytearray(path.read_bytes())
    bit = chance.randrange(8)
    data[at] ^= 1 << bit
    path.write_bytes(data)
    return at * 8 + bit


def compare(data: Path, seen: Seen, flipped: dict[tuple[str, int], str], chance: random.Random, report: Report) -> None:
    """Serve a damaged directory and look at every batch that comes; housekeeping is the first to look, or the last."""
    calm = {"log.cleaner.enable": "false", "log.retention.check.interval.ms": "1"}
    looks = data.with_name("looks")
    looks.unlink(missing_ok=True)
    with Server(data, settings={**SETTINGS, **calm}, environment={NAMED_BY: str(looks)}, main=COMMAND) as server:
        try:
            server.start()
        except NotReady as error:
            report.wrong("no-start", f"{error}; {flipped}")
            return
        try:
            if chance.random() < 0.5:
                keep_up(looks, server, report)
            with Peer(server.bootstrap) as peer:
                for place, before in seen.items():
                    look(peer, place, before, flipped.get(place, ""), report)
                keep_up(looks, server, report)
                producer_id = peer.producer_id()
                for place in seen:
                    write(peer, place, producer_id, flipped.get(place, ""), report)
        except Gone as gone:
            report.wrong("crashed", f"{gone}; {flipped}: {server.log_end()}")
            return
        if server.stop() or "Traceback" in server.log_end(1 << 20):
            report.wrong("crashed", server.log_end())
        server.log.unlink()


def keep_up(looks: Path, server: Server, report: Report) -> None:
    """Wait until housekeeping has looked at everything, which must not end by what it meets."""
    if until_looked(looks, lambda: server.running):
        report.count("looks")
    elif server.running:
        report.wrong("no-upkeep", f"housekeeping comes to no end: {server.log_end()}")


def look(peer: Peer, place: tuple[str, int], before: dict[int, bytes], what: str, report: Report) -> None:
    """Read one partition: each batch as it was, and none left out in silence."""
    name = f"{place[0]}-{place[1]} ({what})"
    came: dict[int, bytes] = {}
    refused = False
    try:
        peer.batches(*place, came)
    except Told as told:
        refused = True
        report.count("refused")
        if not what:
            report.wrong("refused", f"{name}, which nobody touched: {told}")
    except Gone as gone:
        report.wrong("no-answer", f"{name}: {gone}")
        return
    for base, batch in came.items():
        if before.get(base) != batch:
            report.wrong("wrong-bytes", f"{name} at {base}")
    if refused:
        return
    report.count("unharmed")
    if missing := sorted(set(before) - set(came)):
        report.wrong("lost", f"{name}: batches at {missing[:5]} are left out in silence")


def write(peer: Peer, place: tuple[str, int], producer_id: int, what: str, report: Report) -> None:
    """Append to a partition: it is taken, or refused for what is wrong with it."""
    code, _ = peer.produce(*place, Stream("after", *place, producer_id, 60).batch(["after:0"], now_ms()))
    report.count("appended", code == OK)
    if code not in (OK, *((STORAGE,) if what else ())):
        report.wrong("refused", f"{place[0]}-{place[1]} ({what or 'which nobody touched'}) answers {code} to an append")


def node_flip(source: Path, seen: Seen, data: Path, chance: random.Random, report: Report) -> None:
    """Turn over a bit of what belongs to the whole node: it refuses to start, or serves what it served."""
    copied(source, data)
    found = [data / name for name in NODE_FILES if (data / name).exists() and (data / name).stat().st_size]
    path = chance.choice(found)
    what = f"{path.name} bit {flip(path, chance.randrange(path.stat().st_size), chance)}"
    report.faults += 1
    report.count(path.name)
    with Server(data, settings={**SETTINGS, "log.cleaner.enable": "false"}) as server:
        try:
            server.start()
        except NotReady as error:
            report.count("no_start")
            if "Traceback" in str(error) or "logd: " not in str(error):
                report.wrong("crashed", f"{what}: {error}")
            return
        with Peer(server.bootstrap) as peer:
            for place, before in list(seen.items())[::7]:
                look(peer, place, before, what, report)
        server.stop()
