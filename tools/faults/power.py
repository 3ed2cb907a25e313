"""Power cuts: a server lives on a disk that remembers every block write and flush, and loses power a hundred times.

One life is recorded (appends to several topics, rolls, retention, compaction, commits, a topic deleted), together with
how many writes the disk had seen when each acknowledgement came. Then, for each cut, the disk is made as it may have
been left at a random moment, mounted, and served: what was acknowledged before that moment is there, once, in order,
and so is what a consumer had read by then. Two of three moments are right before a flush, when most is on its way to
the disk, or right after a client was told something.
``on`` is the file system, ext4 or xfs.
"""

from __future__ import annotations

import random
import shutil
import subprocess
import time
from pathlib import Path

from tools.faults.blocks import Mounted, Recorder, make, needed
from tools.faults.conversation import Gone, Told, values_of
from tools.faults.history import (
    Acknowledged,
    Event,
    OffsetCommitted,
    OffsetFetched,
    Polled,
    Read,
    Sent,
    check,
    number_of,
)
from tools.faults.load import Load
from tools.faults.peer import Peer, Stream, now_ms
from tools.faults.report import Report, Skipped, late
from tools.faults.server import NotReady, Server

IMAGE_BYTES = {"ext4": 40 << 20, "xfs": 64 << 20}
SETTINGS = {
    "log.flush.mode": "group",
    "log.roll.ms": "60",
    "log.retention.check.interval.ms": "300",
    "log.segment.delete.delay.ms": "0",
    "log.cleaner.backoff.ms": "300",
    "log.cleaner.min.cleanable.ratio": "0.01",
    "log.flush.offset.checkpoint.interval.ms": "500",
    "offsets.topic.num.partitions": "1",
}
TURNS = 260
UNMOUNTABLE_MIN = 3
"""So many cuts, or one of twenty, may leave a file system that cannot be mounted, or is wrong by its own checker."""

KEYED, FORGETFUL, PLAIN, RUSHED = "keyed", "forgetful", "plain", "rushed"
PLAIN_PARTITIONS = 2
LARGE = 24
"""Records of a batch that spans several blocks of the file system."""


class Life:
    """What clients did, and at which moment of the disk they knew it."""

    def __init__(self, chance: random.Random) -> None:
        self.load = Load(chance)
        self.moments: list[int] = []
        self.polled: list[tuple[int, Polled]] = []
        """What a consumer was given, and the moment by which it had it."""
        self.rushed: list[Event] = []
        """What was written without a promise that it is on the disk."""

    def note(self, moment: int) -> None:
        """All that has been told up to now was known at a moment."""
        self.moments += [moment] * (len(self.load.events) - len(self.moments))

    def until(self, moment: int) -> list[Event]:
        """The history of those who lost sight of the server at a moment: what was told later is unknown."""
        promises = (Acknowledged, OffsetCommitted)
        pairs = zip(self.load.events, self.moments, strict=True)
        told = [one for one, known in pairs if known <= moment or not isinstance(one, promises)]
        return [*told, *self.rushed, *(one for known, one in self.polled if known <= moment)]


class Beside:
    """A client that reads what it can while others wait for the disk, and writes without waiting for it (acks=1)."""

    def __init__(self, peer: Peer, disk: Recorder, life: Life) -> None:
        self._peer, self._disk, self._life = peer, disk, life
        self._next = dict.fromkeys(range(PLAIN_PARTITIONS), 0)
        self._stream = Stream("rush", RUSHED, 0)
        self._times = 0

    def act(self) -> None:
        """Read whatever is new, and write one large batch every other time."""
        self._times += 1
        if self._times % 2:
            self._rush()
        for partition, at in self._next.items():
            _, data, _ = self._peer.fetch(PLAIN, partition, at)
            moment = self._disk.moment
            for offset, value in values_of(data):
                self._life.polled.append((moment, Polled("reader", f"{PLAIN}-{partition}", offset, value)))
                self._next[partition] = offset + 1

    def _rush(self) -> None:
        stream = self._stream
        values = stream.next_values(LARGE)
        self._life.rushed += [Sent(stream.name, stream.place, value) for value in values]
        self._peer.produce(stream.topic, stream.partition, stream.batch(values, now_ms()), 1)


def run(seed: int, rounds: int, directory: Path, on: str = "ext4") -> Report:
    """``rounds`` cuts of one recorded life."""
    needed()
    chance, report = random.Random(seed), Report(f"power-{on}", seed)
    base = directory / "base"
    make(base, on, IMAGE_BYTES[on])
    life = Life(chance)
    with Recorder(directory, base.read_bytes()) as disk:
        with Mounted(disk.path, directory / "live", on) as mounted:
            began = record(mounted, disk, life, directory, report)
        moments = disk.moment
        told = sorted({one for one in (*life.moments, *(one for one, _ in life.polled)) if began <= one < moments})
        flushes = [at for at in range(began, moments) if disk.writes[at] is None and disk.writes[at - 1] is not None]
        report.figures["writes"] = sum(one is not None for one in disk.writes)
        report.figures["flushes"] = sum(one is None for one in disk.writes)
    for number in range(rounds):
        if late():
            break
        moment = chance.choice((chance.randrange(began, moments), chance.choice(flushes), chance.choice(told)))
        image = disk.image(moment, chance)
        found = Report(report.kind, seed)
        try:
            with Mounted(fresh(directory / "cut", image), directory / "after", on) as mounted:
                look(mounted / "data", life.until(moment), f"cut {number} at {moment}", directory, found)
            if found.found and is_broken(directory, image, on):
                report.count("broken_file_system")
                report.notes.append(f"cut {number} at {moment}: {on} is not consistent: {found.found[0]}"[:300])
                if report.figures["broken_file_system"] > max(UNMOUNTABLE_MIN, report.faults // 20):
                    report.wrong("broken", f"{on} is not consistent after too many cuts: the kit is at fault")
                continue
        except Skipped:  # xfs cannot repair a block of its own that is torn, and says so: there is nothing to serve
            report.count("unmountable")
            if report.figures["unmountable"] > max(UNMOUNTABLE_MIN, report.faults // 20):
                raise
            continue
        report.faults += 1
        report.longest("recovery_s_max", found.figures.get("recovery_s_max", 0))
        report.count("records_seen", found.figures.get("records_seen", 0))
        for one in found.found:
            report.wrong(one.kind, one.text)
    return report


def fresh(path: Path, image: bytes | bytearray) -> Path:
    """A file with a disk, and nothing of one that was there before: a mount in another namespace may hold that."""
    path.unlink(missing_ok=True)
    path.write_bytes(image)
    return path


def is_broken(directory: Path, image: bytes | bytearray, kind: str) -> bool:
    """Whether the file system itself does not survive the cut, by its own checker after its journal was replayed.

    Then what is on it proves nothing about those who wrote to it.
    """
    path = fresh(directory / "checked", image)
    with Mounted(path, directory / "replayed", kind):
        pass
    check = {"ext4": ["e2fsck", "-f", "-n", str(path)], "xfs": ["xfs_repair", "-n", str(path)]}[kind]
    if shutil.which(check[0]) is None:
        return False
    return subprocess.run(check, capture_output=True, check=False).returncode != 0


def record(mounted: Path, disk: Recorder, life: Life, directory: Path, report: Report) -> int:
    """Let a server live; the moment from which on it may lose power."""
    load = life.load
    with Server(mounted / "data", settings=SETTINGS) as server:
        server.log = directory / "live.log"
        server.start()
        with Peer(server.bootstrap) as peer, Peer(server.bootstrap) as other:
            load.begin(peer, PLAIN, PLAIN_PARTITIONS)
            load.begin(peer, KEYED, 1, cleanup_policy="compact")
            load.begin(peer, FORGETFUL, 1, retention_bytes="3000")
            peer.create(RUSHED, 1)
            peer.meanwhile = Beside(other, disk, life).act
            began = disk.moment
            for turn in range(TURNS):
                for writer in load.writers:
                    writer.step(peer, LARGE if load.chance.random() < 0.1 else load.chance.randrange(1, 6))
                    life.note(disk.moment)
                if turn % 7 == 3:
                    load.commit(peer)
                    life.note(disk.moment)
                if turn % 40 == 20:
                    peer.create("passing", 1)
                    peer.delete("passing")
                time.sleep(0.005)
        report.figures |= {"acknowledged": load.acknowledged, "polled": len(life.polled), "rushed": len(life.rushed)}
        if not life.polled:
            report.wrong("not-read", f"the consumer was given nothing: {server.log_end()}")
        server.stop()
    life.note(disk.moment)
    return began


def look(data: Path, events: list[Event], where: str, directory: Path, report: Report) -> None:
    """Serve what the cut left, read it all, and compare."""
    calm = {"log.cleaner.enable": "false", "log.retention.check.interval.ms": "3600000"}
    with Server(data, settings={**SETTINGS, **calm}) as server:
        server.log = directory / "after.log"
        server.log.unlink(missing_ok=True)
        try:
            report.longest("recovery_s_max", server.start())
            with Peer(server.bootstrap) as peer:
                found = read(peer)
        except (NotReady, Told, Gone) as error:
            report.wrong("not-recovered", f"{where}: {error!r} {server.log_end()}")
            return
    judge(events, found, where, report)
    report.count("records_seen", sum(len(some) for some in found.values()))


def judge(events: list[Event], found: dict[str, list[Event]], where: str, report: Report) -> None:
    """Compare what was known before a cut with what is there after it, by topic."""
    plain = [one for one in events if place_of(one).startswith(PLAIN)]
    report.add(check([*plain, *found[PLAIN]]), where)
    there = {(one.partition, one.offset, one.value) for one in found[PLAIN] if isinstance(one, Read)}
    gone = [one for one in plain if isinstance(one, Polled) and (one.partition, one.offset, one.value) not in there]
    if gone:
        report.wrong("read-and-lost", f"{where}: {len(gone)} records that were read are not there: {gone[0]}")
    for topic in (FORGETFUL, RUSHED):
        sent = [one for one in events if place_of(one).startswith(topic) and isinstance(one, Sent)]
        report.add(check([*sent, *found[topic]]), where)
    keyed = [one for one in events if place_of(one).startswith(KEYED)]
    report.add(check([*(one for one in keyed if isinstance(one, Sent)), *found[KEYED]]), where)
    promised = [number_of(one.value) for one in keyed if isinstance(one, Acknowledged)]
    last = max((number_of(one.value) for one in found[KEYED] if isinstance(one, Read)), default=-1)
    if promised and last < max(promised):
        report.wrong("lost", f"{where}: {max(promised)} was promised for the key, {last} is its last value")


def read(peer: Peer) -> dict[str, list[Event]]:
    """All records of the topics, and what the group has committed."""
    found: dict[str, list[Event]] = {}
    for topic, partitions in ((PLAIN, PLAIN_PARTITIONS), (KEYED, 1), (FORGETFUL, 1), (RUSHED, 1)):
        found[topic] = [
            Read(f"{topic}-{place}", *one) for place in range(partitions) for one in peer.values(topic, place)
        ]
    found[PLAIN].append(OffsetFetched("group", f"{PLAIN}-0", peer.committed("group", PLAIN, 0)))
    return found


def place_of(event: Event) -> str:
    """The partition of an event."""
    return getattr(event, "partition", "")
