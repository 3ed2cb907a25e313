"""Compaction that is hit at each system call: kill -9 of the node or of its worker, calls that fail, one at a time.

One data directory is prepared: compacted topics that were cleaned once and have become dirty again, with tombstones
that are due to go (``brief``) or have to stay (``lasting``), transactions that were aborted, an idempotent producer. A
life under strace without a fault tells every call that is made for a file of theirs while they are cleaned; each of
these sites (a call, a path, the n-th time, for every n there is) is then hit in a copy of that directory. ``on`` is an
effect such as ``signal=SIGKILL`` (of whichever process made the call) or ``error=EIO``, or a call and an effect.

A run makes several segments out of each log, and swaps them one after the other. The sites that are done are noted in
``done`` in the directory: a later run with the same seed and ``--directory`` goes on behind them.

After a start without a fault the last value of each key is there, what was deleted does not come back, nothing that was
never written or was aborted is read; a run of compaction comes to its end, and leaves what it promises.
"""

from __future__ import annotations

import contextlib
import copy
import random
import re
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from logd.wire.batches import Record, build_batch
from logd.wire.schemas.run_job import RunJobRequest
from tools.faults.calls import came, check_log, cleared
from tools.faults.conversation import DUPLICATE, OK, STORAGE, Gone, Talk, Told, produce
from tools.faults.history import COMMITTED, Acknowledged, Anomaly, Ended, Event
from tools.faults.peer import Peer, now_ms
from tools.faults.report import Report, Skipped, late
from tools.faults.server import NotReady, Server
from tools.faults.transactions import Transactor, committed_records

BRIEF, LASTING = "brief", "lasting"
CALLS = ("openat", "fallocate", "ftruncate", "pwrite64", "fdatasync", "fsync", "rename", "unlink")
EFFECTS = ("signal=SIGKILL", "error=EIO", "error=ENOSPC")
SETTINGS = {
    "log.flush.mode": "group",
    "log.cleaner.enable": "false",  # it is asked for
    "log.retention.check.interval.ms": "3600000",
    "offsets.topic.num.partitions": "1",
    "transaction.state.log.num.partitions": "1",
}
TOPIC = {
    "cleanup_policy": "compact",
    "segment_ms": "3600000",
    "segment_index_bytes": "40",  # room for the times of two segments in one
    "message_timestamp_after_max_ms": str(2**62),
}
STEP_MS = 25 * 60_000
"""Between batches, so that every third one begins a segment."""

SEGMENTS_LEFT = 3
"""Of a log that is compacted: two, and the active one."""

KEYS = 7
TURNS = 8
SITE = re.compile(
    r"\b(?P<call>" + "|".join(CALLS) + r')\((?:AT_FDCWD[^,]*, )?(?:\d+<(?P<open>[^>]+)>|"(?P<path>[^"]+)")'
)


class Site(NamedTuple):
    """Calls for one path."""

    call: str
    path: str


class Keyed:
    """What was written to one compacted topic, and what is known of it."""

    def __init__(self, name: str, producer_id: int) -> None:
        self.name = name
        self.written: dict[int, tuple[str, str | None]] = {}
        """Key and value (None: a tombstone) of each offset that was acknowledged, and committed."""
        self.unknown: dict[str, str] = {}
        """Keys by value of what was sent and never answered."""
        self.tombstones_stay = name == LASTING
        self._producer_id = producer_id
        self._sequence = 0
        self._number = 0
        self._pending: list[tuple[str, str | None]] = []

    def write(self, pairs: list[tuple[str, str | None]], timestamp: int) -> Talk:
        """Send what is owed, or these; the error code."""
        self._pending = self._pending or pairs
        self.unknown |= {value: key for key, value in self._pending if value is not None}
        records = [
            Record(at, timestamp, key.encode(), value and value.encode(), [])
            for at, (key, value) in enumerate(self._pending)
        ]
        batch = build_batch(records, producer_id=self._producer_id, producer_epoch=0, base_sequence=self._sequence)
        code, base = yield from produce(self.name, 0, bytes(batch))
        if code in (OK, DUPLICATE):
            if code == OK and base >= 0:
                self.written |= dict(enumerate(self._pending, base))
                for _, value in self._pending:
                    self.unknown.pop(value or "", None)
            self._sequence += len(self._pending)
            self._pending = []
        return code

    def some(self, chance: random.Random, *, tombstones: bool = True) -> list[tuple[str, str | None]]:
        """Values for some keys; a key may be deleted."""
        out: list[tuple[str, str | None]] = []
        for _ in range(4):
            self._number += 1
            value = f"{self.name}:{self._number}".ljust(60, ".")
            out.append((f"k{chance.randrange(KEYS)}", None if tombstones and chance.random() < 0.3 else value))
        return out


def judge(topic: Keyed, found: list[Record], cleaned_to: int = 0) -> list[Anomaly]:
    """What a reader of committed records was given, against what compaction promises.

    :param cleaned_to: below this offset nothing may be left that something else below it has replaced.
    """
    out: list[Anomaly] = []
    written = dict(topic.written)
    seen: dict[str, list[int]] = {}
    for one in found:
        key, value = (one.key or b"").decode(), None if one.value is None else one.value.decode()
        if topic.unknown.get(value or "") == key:
            written.setdefault(one.offset, (key, value))
        if written.get(one.offset) != (key, value):
            out.append(Anomaly("phantom", f"{topic.name}@{one.offset} is {key}={value}, not {written.get(one.offset)}"))
        seen.setdefault(key, []).append(one.offset)
    last = {key: offset for offset, (key, _) in sorted(written.items())}
    clean = {key: offset for offset, (key, _) in sorted(written.items()) if offset < cleaned_to}
    for key, offset in last.items():
        value, offsets = written[offset][1], seen.get(key, [])
        if offset not in offsets:
            if value is not None:
                out.append(Anomaly("lost", f"{topic.name}: {key} is at {offset} no more, but at {offsets}"))
            elif topic.tombstones_stay:
                out.append(Anomaly("tombstone-gone", f"{topic.name}: that {key} was deleted at {offset} is not told"))
            elif offsets:
                out.append(Anomaly("returned", f"{topic.name}: {key} was deleted at {offset} and is at {offsets}"))
        if replaced := [one for one in offsets if one < clean.get(key, 0)]:
            out.append(Anomaly("not-compacted", f"{topic.name}: {key} is at {replaced} and {clean[key]}"))
    offsets_found = [one.offset for one in found]
    if offsets_found != sorted(set(offsets_found)):
        out.append(Anomaly("reordered", f"{topic.name}: {offsets_found}"))
    return out


def cleaning(topics: Iterable[str]) -> Talk:
    """Have topics compacted, and wait; the error code and up to which offset, of each."""
    answer = yield RunJobRequest("compaction", [*topics], wait_ms=500), 0
    while not answer.error_code and not answer.finished:
        answer = yield RunJobRequest("compaction", job_id=answer.job_id, wait_ms=500), 0
    if answer.error_code:
        raise Told(answer.error_code, answer.error_message or "RunJob")
    return {one.topic: (one.error_code, one.next_offset) for one in answer.partitions}


def prepare(directory: Path, chance: random.Random) -> list[Keyed]:
    """Make the directory that each fault gets a copy of."""
    base = directory / "base"
    shutil.rmtree(base, ignore_errors=True)
    with Server(base, settings=SETTINGS) as server:
        server.start()
        with Peer(server.bootstrap) as peer:
            topics = []
            for name, retention in ((BRIEF, "1"), (LASTING, "86400000")):
                peer.create(name, 1, **TOPIC, delete_retention_ms=retention)
                topics.append(Keyed(name, peer.producer_id()))
            clock = now_ms()
            for topic in topics:
                clock = dirty(peer, topic, chance, clock)
            peer.hold(cleaning((BRIEF, LASTING)))
            for topic in topics:
                clock = dirty(peer, topic, chance, clock)
        if server.stop():
            raise AssertionError(f"the directory cannot be prepared: {server.log_end()}")
    return topics


def dirty(peer: Peer, topic: Keyed, chance: random.Random, clock: int) -> int:
    """Write some segments, transactions of both kinds in one and over two; the time of the next batch."""
    events: list[Event] = []
    short, committed, aborted = (
        Transactor(f"{topic.name}.{clock}.{number}", [(topic.name, 0)], events) for number in range(3)
    )
    for one in (short, committed, aborted):
        peer.hold(one.begin())
    passing = f"passing{clock}"
    for turn in range(TURNS):
        if turn % 3 == 2:
            peer.hold(short.transaction(2, turn % 2 == 1, clock))
        some = topic.some(chance)
        if turn < 2:  # one key is deleted for certain
            some.append((passing, None if turn else f"{topic.name}:{passing}"))
        if code := peer.hold(topic.write(some, clock)):
            raise Told(code, topic.name)
        for one in (committed, aborted):
            if turn == 0:
                peer.hold(one.open(2, clock))
            elif turn == TURNS // 2:  # in another segment, and another one that is written anew
                peer.hold(one.end(one is committed))
        clock += STEP_MS
    kept = {one.transaction for one in events if isinstance(one, Ended) and one.outcome == COMMITTED}
    for event in events:
        if isinstance(event, Acknowledged) and event.value.partition("/")[0] in kept:
            topic.written[event.offset] = ("k", event.value)
    return clock


def sites(directory: Path, topics: list[Keyed], calls: Iterable[str], chance: random.Random) -> Counter[Site]:
    """Every call for a file of a topic, in a life without a fault in which that is compacted, and how often."""
    found: Counter[Site] = Counter()
    for topic in topics:
        data, trace = copied(directory)
        before = ["strace", "-f", "-q", "-y", "-o", str(trace), "-e", f"trace={','.join(calls)}"]
        report = Report("rehearsal", 0)
        with Server(data, settings=SETTINGS, before=before) as server:
            try:
                server.start()
            except NotReady as error:
                raise Skipped(f"no server starts under strace: {error}") from error
            live(server, copy.deepcopy(topics), topic.name, chance, "without a fault", report)
            server.stop(5.0)
        assert not report.found, report.found
        left = len([*(data / f"{topic.name}-0").glob("*.log")])
        assert left == SEGMENTS_LEFT, f"{topic.name} has {left} segments: nothing between two that are new is seen"
        found += found_in(trace.read_text(errors="replace"), data, topic.name)
    return found


def found_in(text: str, data: Path, name: str) -> Counter[Site]:
    """The sites of a trace, for the partition of a topic."""
    place = str(data / f"{name}-0")
    found: Counter[Site] = Counter()
    for one in SITE.finditer(text):
        path = one["open"] or one["path"]
        if path == place or path.startswith(place + "/"):
            found[Site(one["call"], path)] += 1
    return found


def copied(directory: Path) -> tuple[Path, Path]:
    """A copy of what was prepared, and where a trace goes."""
    data, trace = cleared(directory)
    shutil.copytree(directory / "base", data)
    return data, trace


def run(seed: int, rounds: int, directory: Path, on: str = "") -> Report:
    """``rounds`` faults, or fewer when every site has had its own."""
    if shutil.which("strace") is None:
        raise Skipped("strace is not installed (Debian: apt install strace)")
    chance, report = random.Random(seed), Report(f"compaction-{on or 'all'}", seed)
    call, _, effect = on.rpartition(":")
    topics = prepare(directory, chance)
    known = sites(directory, topics, [call] if call else CALLS, chance)
    wanted = [(site, one) for site in sorted(known) for one in ([effect] if effect else EFFECTS)]
    noted = Noted(directory / "done")
    left = [(site, one) for site, one in wanted if (site, one) not in noted]
    chance.shuffle(left)
    places = {place(*one) for one in wanted if one in noted}
    left = [*unlike(left, places)]
    report.figures |= {"sites": len(wanted), "calls": sum(known[site] for site, _ in wanted)}
    report.figures |= {"sites_before": len(wanted) - len(left), "sites_done": 0, "sites_missed": 0}
    report.figures |= {"places": len({place(*one) for one in wanted}), "places_done": len(places)}
    for site, what in left:
        for number in range(1, known[site] + 1):  # it is counted for each thread
            if report.faults >= rounds or late():
                return report
            came_now = one_fault(directory, copy.deepcopy(topics), site, what, number, chance, report)
            report.tell()
            if not came_now:
                break
        if number == 1 and not came_now:
            report.count("sites_missed")
            report.notes.append(f"this time there was no {site.call} of {site.path}")
            continue
        noted.add(site, what)
        places.add(place(site, what))
        report.figures["places_done"] = len(places)
        report.count("sites_done")
    return report


def place(site: Site, effect: str) -> tuple[str, str, str]:
    """What a site is in whichever topic."""
    return site.call, effect, Path(site.path).name.replace(BRIEF, "").replace(LASTING, "")


def unlike(ones: list[tuple[Site, str]], places: set[tuple[str, str, str]]) -> Iterator[tuple[Site, str]]:
    """These in another order: first those that are unlike the ones before."""
    seen, later = set(places), []
    for one in ones:
        if place(*one) in seen:
            later.append(one)
            continue
        seen.add(place(*one))
        yield one
    yield from later


class Noted:
    """The sites that have had all their faults of one kind, in a file with a line for each."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lines = set(path.read_text().splitlines()) if path.exists() else set()

    def __contains__(self, one: tuple[Site, str]) -> bool:
        return _line(*one) in self._lines

    def add(self, site: Site, effect: str) -> None:
        """Note one."""
        with self._path.open("a") as file:
            print(_line(site, effect), file=file)


def _line(site: Site, effect: str) -> str:
    return f"{site.call} {effect} {site.path}"


def one_fault(
    directory: Path, topics: list[Keyed], site: Site, effect: str, number: int, chance: random.Random, report: Report
) -> bool:
    """One life with a fault and one without; whether the fault came."""
    data, trace = copied(directory)
    hit = Path(site.path).relative_to(data)
    where, name = f"{site.call}:{effect}:when={number} of {hit}", hit.parts[0].rpartition("-")[0]
    quick = [] if "signal" in effect else ["--seccomp-bpf", "-e", "signal=none"]
    before = ["strace", "-f", "-q", *quick, "-o", str(trace), "-P", site.path, "-e", f"trace={site.call}"]
    before += ["-e", f"inject={site.call}:{effect}:when={number}"]
    ended = False
    with Server(data, settings=SETTINGS, before=before) as server:
        try:
            server.start()
        except NotReady as error:
            ended = "SIGKILL" in effect
            if not ended and "logd: " not in str(error):
                report.wrong("crashed", f"{where}: {error}")
        else:
            live(server, topics, name, chance, where, report)
            if "error" in effect and not server.running:
                report.wrong("crashed", f"{where}: {server.log_end()}")
            with contextlib.suppress(Exception):
                server.stop(5.0)
        server.kill()
    if not ended and not came(trace, effect):
        return False
    report.faults += 1
    report.count(site.call)
    check_log(data, where, report)
    recover(data, topics, name, chance, where, report)
    return True


def live(server: Server, topics: list[Keyed], name: str, chance: random.Random, where: str, report: Report) -> None:
    """Compact the topic that is hit, write to both, compact once more, and read what can be read."""
    with contextlib.suppress(Gone), Peer(server.bootstrap, timeout_s=20.0) as peer:
        for _ in range(2):
            with contextlib.suppress(Told):
                peer.hold(cleaning((name,)))
            for topic in topics:
                peer.hold(topic.write(topic.some(chance, tombstones=False), now_ms()))
        for topic in topics:
            try:
                found = peer.hold(committed_records(topic.name, 0))[0]
            except Told as told:
                if told.code != STORAGE:
                    report.wrong("unreadable", f"{where}: {told}")
                continue
            report.add(judge(topic, found), f"{where}, as it goes on")


def recover(data: Path, topics: list[Keyed], name: str, chance: random.Random, where: str, report: Report) -> None:
    """Start without a fault: read, write, compact the topic that was hit to the end, read again."""
    with Server(data, settings=SETTINGS) as server:
        try:
            report.longest("recovery_s_max", server.start())
            with Peer(server.bootstrap) as peer:
                for topic in topics:
                    report.add(judge(topic, peer.hold(committed_records(topic.name, 0))[0]), f"{where}, recovered")
                clock = now_ms() + 1000 * STEP_MS
                for topic in topics:
                    for turn in range(4):
                        some = topic.some(chance, tombstones=False)
                        if (code := peer.hold(topic.write(some, clock + turn * STEP_MS))) not in (OK, DUPLICATE):
                            report.wrong("not-recovered", f"{where}: {topic.name} answers {code}")
                told = peer.hold(cleaning((name,)))
                for topic in topics:
                    code, cleaned_to = told.get(topic.name, (OK, 0))
                    if topic.name == name and (code or not cleaned_to):
                        report.wrong("not-compacted", f"{where}: {topic.name} answers {code}: {server.log_end()}")
                    found = peer.hold(committed_records(topic.name, 0))[0]
                    report.add(judge(topic, found, cleaned_to), f"{where}, compacted")
                    report.count("records_seen", len(found))
        except (Told, Gone, NotReady) as error:
            report.wrong("not-recovered", f"{where}: {error!r} {server.log_end()}")
    for leftover in data.glob("*/*.cleaned.*"):
        report.wrong("leftover", f"{where}: {leftover.relative_to(data)}")
