"""Failing system calls: strace lets the n-th fsync, write, rename ... of each thread fail, for every n there is.

A short life of a server (start, topics, batches, rolls, commits, a deleted topic, stop) runs under strace with one
fault; it is then killed and started without one. Nothing acknowledged may be missing; a partition whose flush failed
must acknowledge nothing more before that start. ``on`` names one fault, such as ``fdatasync:error=EIO``. Of
``openat`` and ``pread64`` only the calls for files of the data directory count: the interpreter makes hundreds of its
own before them.

``fdatasync:error=EIO@recovery`` puts it into the second life: the first, in flush mode ``os``, is killed without a
fault, and what the second finds is recovered under strace.
"""

from __future__ import annotations

import contextlib
import random
import re
import shutil
import signal
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from tools.faults.conversation import OK, STORAGE, Gone, Told
from tools.faults.load import Load, Writer
from tools.faults.peer import Peer
from tools.faults.report import Report, Skipped, late
from tools.faults.server import NotReady, Server

CALLS = ("fdatasync", "fsync", "pwrite64", "fallocate", "rename", "unlink", "ftruncate", "openat")
RECOVERING = ("fdatasync", "fsync", "pwrite64", "pread64", "rename", "unlink", "ftruncate", "openat")
RECOVERY = "@recovery"
FILTERED = ("openat", "pread64")
FLUSHES = ("fdatasync", "fsync")
EFFECTS = ("error=EIO", "error=ENOSPC", "signal=SIGKILL", "delay_enter=300000")
SETTINGS = {
    "log.roll.ms": "40",
    "log.flush.mode": "group",
    "log.segment.delete.delay.ms": "0",
    "log.retention.check.interval.ms": "500",
    "log.flush.offset.checkpoint.interval.ms": "300",
}
INJECTED = "INJECTED"
N_MAX = 2000
MISSED_MAX = 3


def run(seed: int, rounds: int, directory: Path, on: str = "") -> Report:
    """``rounds`` faults: n counts up until a fault comes no more, then the next call or effect.

    Which thread makes which call is chance, so "no more" means that it stayed away ``MISSED_MAX`` times in a row.
    """
    if shutil.which("strace") is None:
        raise Skipped("strace is not installed (Debian: apt install strace)")
    chance, report = random.Random(seed), Report(f"calls-{on or 'all'}", seed)
    kinds = [on] if on else [f"{call}:{effect}" for call in CALLS for effect in EFFECTS]
    kinds += [] if on else [f"{call}:{effect}{RECOVERY}" for call in RECOVERING for effect in EFFECTS]
    if not on:
        chance.shuffle(kinds)
        numbers = {kind: iter(sorted(chance.sample(range(1, 40), 30))) for kind in kinds}
    else:
        numbers = {on: iter(range(seed, N_MAX))}
    own: list[str] = []
    missed: Counter[str] = Counter()
    while kinds and report.faults < rounds and not late():
        for kind in list(kinds):
            if report.faults >= rounds or late():
                break
            number = next(numbers[kind], 0)
            if kind.startswith(FILTERED) and not own:
                own = rehearse(directory, chance)
            if number and one_fault(directory, kind, number, chance, report, own):
                missed[kind] = 0
                continue
            missed[kind] += 1
            if not number or missed[kind] == MISSED_MAX:
                kinds.remove(kind)
                report.count("exhausted")
    return report


def rehearse(directory: Path, chance: random.Random) -> list[str]:
    """The files that a life without a fault opens in its data directory. Raises Skipped if strace may not trace."""
    data, trace = cleared(directory)
    with Server(
        data, settings=SETTINGS, before=["strace", "-f", "-q", "-o", str(trace), "-e", "trace=openat"]
    ) as server:
        try:
            server.start()
        except NotReady as error:
            raise Skipped(f"no server starts under strace: {error}") from error
        live(server, Load(chance))
        server.stop(5.0)
    return likely(opened(trace.read_text(errors="replace"), data))


OPENED = re.compile(r'\bopenat\([^,]*, "(?P<path>[^"]+)"')
SEGMENT = re.compile(r"(?P<place>.*/)(?P<offset>\d{20})(?P<suffix>\.[^/]+)")
BATCH, OFFSET_MAX = 5, 60


def opened(text: str, data: Path) -> set[str]:
    """The paths at or below ``data`` in a trace of openat."""
    paths = {found["path"] for found in OPENED.finditer(text)}
    return {path for path in paths if Path(path).is_relative_to(data)}


def likely(paths: Iterable[str]) -> list[str]:
    """These paths, and the same files of every other segment: when a log rolls is a matter of time."""
    out = set(paths)
    for path in paths:
        if found := SEGMENT.fullmatch(path):
            offsets = range(0, OFFSET_MAX, BATCH)
            out |= {f"{found['place']}{offset:020}{found['suffix']}" for offset in offsets}
    return sorted(out)


def cleared(directory: Path) -> tuple[Path, Path]:
    """The data directory and the file of the trace, with nothing there from the last life."""
    data, trace = directory / "data", directory / "trace"
    for leftover in (data, trace, data.with_name("data.log")):
        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink(missing_ok=True)
    return data, trace


def command(kind: str, number: int, trace: Path, own: Iterable[str]) -> list[str]:
    """What is put before the server's command, so that the ``number``-th call of each of its threads fails."""
    call, _, effect = kind.removesuffix(RECOVERY).partition(":")
    # with the quick way of strace's no signal is sent
    quick = [] if "signal" in effect else ["--seccomp-bpf", "-e", "signal=none"]
    strace = ["strace", "-f", "-q", *quick, "-y", "-o", str(trace), "-e", f"trace={call}"]
    strace += ["-e", f"inject={call}:{effect}:when={number}"]
    # strace counts only the calls that its filter by path lets through
    return strace + [word for path in own if call in FILTERED for word in ("-P", path)]


def one_fault(
    directory: Path, kind: str, number: int, chance: random.Random, report: Report, own: Iterable[str] = ()
) -> bool:
    """One life with one fault, and the next one without; whether the fault came. ``own``: the files of openat."""
    data, trace = cleared(directory)
    call, _, effect = kind.removesuffix(RECOVERY).partition(":")
    where = f"{kind}:when={number}"
    load, ended = Load(chance), False
    if kind.endswith(RECOVERY):
        with Server(data, settings={**SETTINGS, "log.flush.mode": "os"}) as server:
            server.start()
            live(server, load)
    with Server(data, settings=SETTINGS, before=command(kind, number, trace, own)) as server:
        try:
            server.start()
        except NotReady as error:
            ended = "SIGKILL" in effect  # strace was killed before it could note so
            if "SIGKILL" not in effect and "logd: " not in str(error):
                report.wrong("crashed", f"{where}: {error}")
        else:
            with contextlib.suppress(Gone, Told):
                live(server, load) if not load.writers else go_on(server, load)
            with contextlib.suppress(Exception):
                server.stop(5.0)
        server.kill()
    if not ended and not came(trace, effect):
        return False
    report.faults += 1
    report.count(call)
    check_log(data, where, report)
    if call in FLUSHES and "error" in effect:
        check_refusals(load.writers, where, report)
        for path in tried_again(trace.read_text(errors="replace")):
            report.wrong("flushed-again", f"{where}: {path}")
    recover(data, load, where, report)
    return True


FLUSHED = re.compile(r"sync\(\d+<(?P<path>[^>]*/calls-\d/\d+\.log)>\)\s*=\s*(?P<result>-?\d+)")


def tried_again(text: str) -> list[str]:
    """Files of batches that were flushed again after a flush that failed: the second one says "ok" and lies."""
    failed: set[str] = set()
    again = []
    for found in FLUSHED.finditer(text):
        if found["path"] in failed:
            again.append(found["path"])
        elif found["result"] == "-1":
            failed.add(found["path"])
    return again


def check_log(data: Path, where: str, report: Report) -> None:
    """No fault may end in a traceback: what goes wrong on a disk is expected."""
    said = data.with_name("data.log").read_text(errors="replace")
    if "Traceback" in said:
        report.wrong("traceback", f"{where}: {said[-1500:]}")


def came(trace: Path, effect: str) -> bool:
    """Whether the fault came, by what strace noted."""
    text = trace.read_text(errors="replace") if trace.exists() else ""
    if "SIGKILL" in effect:
        return killed_in_call(text)
    return INJECTED in text or "DELAYED" in text


def killed_in_call(text: str) -> bool:
    """Whether a thread was killed in a call: one that was ended by its parent was not.

    The call is in one line with its end, or in two when threads take turns.
    """
    last: dict[str, str] = {}
    for line in text.splitlines():
        thread, _, what = line.partition(" ")
        if "+++ killed by SIGKILL +++" in what and (last.get(thread, "").endswith(("= ?", "<unfinished ...>"))):
            return True
        last[thread] = what
    return False


def live(server: Server, load: Load) -> None:
    """What a server goes through in its short life. Raises Gone when it ends."""
    with Peer(server.bootstrap, timeout_s=8.0) as peer:
        load.begin(peer, "calls", 2)
        load.begin(peer, "short", 1, retention_bytes="2000", file_delete_delay_ms="0")
        load.places.pop()  # retention takes its oldest away: what is acknowledged need not be there
        kept, load.writers = load.writers, load.writers[:2]
        for turn in range(8):
            for writer in kept:
                writer.step(peer, 5)
            if turn % 2:
                load.commit(peer)
            if turn == 4:
                peer.create("gone", 1)
                peer.delete("gone")


def go_on(server: Server, load: Load) -> None:
    """What clients do with a server that has been killed, and found what it had. Raises Gone, Told."""
    with Peer(server.bootstrap, timeout_s=8.0) as peer:
        for turn in range(3):
            for writer in load.writers:
                writer.step(peer, 5)
            if turn:
                load.commit(peer)


def check_refusals(writers: list[Writer], where: str, report: Report) -> None:
    """After a failed flush a partition is offline: no acknowledgement follows a KAFKA_STORAGE_ERROR."""
    for writer in writers:
        codes = writer.told
        if STORAGE in codes and OK in codes[codes.index(STORAGE) :]:
            report.wrong("acknowledged-after-failed-flush", f"{where}: {writer.stream.place} answered {codes}")


def recover(data: Path, load: Load, where: str, report: Report) -> None:
    """Start without a fault: everything acknowledged is there, and what was not gets acknowledged once."""
    with Server(data, settings=SETTINGS) as server:
        try:
            report.longest("recovery_s_max", server.start())
            with Peer(server.bootstrap) as peer:
                if not load.writers:  # the first life ended before its first topic
                    load.begin(peer, "calls", 2)
                for writer in load.writers:
                    code = writer.step(peer, 3)
                    if code != OK:
                        report.wrong("not-recovered", f"{where}: {writer.stream.place} answers {code}")
                load.read_all(peer)
        except (Told, Gone, NotReady) as error:
            report.wrong("not-recovered", f"{where}: {error!r} {server.log_end()}")
            return
        server.signal(signal.SIGKILL)
    report.add(load.anomalies(), where)
    report.count("acknowledged", load.acknowledged)
