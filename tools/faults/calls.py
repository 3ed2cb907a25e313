"""Failing system calls: strace lets the n-th fsync, write, rename ... of each thread fail, for every n there is.

A short life of a server (start, topics, batches, rolls, commits, a deleted topic, stop) runs under strace with one
fault; it is then killed and started without one. Nothing acknowledged may be missing; a partition whose flush failed
must acknowledge nothing more before that start. ``on`` names one fault, such as ``fdatasync:error=EIO``.
"""

from __future__ import annotations

import contextlib
import random
import re
import shutil
import signal
from pathlib import Path

from tools.faults.conversation import OK, STORAGE, Gone, Told
from tools.faults.load import Load, Writer
from tools.faults.peer import Peer
from tools.faults.report import Report, Skipped, late
from tools.faults.server import NotReady, Server

CALLS = ("fdatasync", "fsync", "pwrite64", "fallocate", "rename", "unlink", "ftruncate", "openat")
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


def run(seed: int, rounds: int, directory: Path, on: str = "") -> Report:
    """``rounds`` faults: n counts up until a fault no more comes, then the next call or effect."""
    if shutil.which("strace") is None:
        raise Skipped("strace is not installed (Debian: apt install strace)")
    chance, report = random.Random(seed), Report(f"calls-{on or 'all'}", seed)
    kinds = [on] if on else [f"{call}:{effect}" for call in CALLS for effect in EFFECTS]
    if not on:
        chance.shuffle(kinds)
        numbers = {kind: iter(sorted(chance.sample(range(1, 40), 30))) for kind in kinds}
    else:
        numbers = {on: iter(range(seed, N_MAX))}
    while kinds and report.faults < rounds and not late():
        for kind in list(kinds):
            if report.faults >= rounds or late():
                break
            number = next(numbers[kind], 0)
            if not number or not one_fault(directory, kind, number, chance, report):
                kinds.remove(kind)
                report.count("exhausted")
    return report


def one_fault(directory: Path, kind: str, number: int, chance: random.Random, report: Report) -> bool:
    """One life with one fault, and the next one without; whether the fault came."""
    data, trace = directory / "data", directory / "trace"
    for leftover in (data, trace, data.with_name("data.log")):
        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink(missing_ok=True)
    call, _, effect = kind.partition(":")
    # with the quick way of strace's no signal is sent
    quick = [] if "signal" in effect else ["--seccomp-bpf", "-e", "signal=none"]
    strace = ["strace", "-f", "-q", *quick, "-y", "-o", str(trace), "-e", f"trace={call}"]
    strace += ["-e", f"inject={call}:{effect}:when={number}"]
    where = f"{kind}:when={number}"
    load = Load(chance)
    with Server(data, settings=SETTINGS, before=strace) as server:
        try:
            server.start()
        except NotReady as error:
            if "SIGKILL" not in effect and "logd: " not in str(error) and (call != "openat" or within(trace, data)):
                report.wrong("crashed", f"{where}: {error}")
        else:
            with contextlib.suppress(Gone, Told):
                live(server, load)
            with contextlib.suppress(Exception):
                server.stop(5.0)
        server.kill()
    came = hits(trace, call, effect)
    if not came:
        return False
    if call == "openat" and "SIGKILL" not in effect and not within(trace, data):
        report.count("elsewhere")  # the interpreter was not given one of its own files
        return True
    report.faults += 1
    report.count(call)
    if "Traceback" in data.with_name("data.log").read_text(errors="replace"):
        report.wrong("traceback", f"{where}: {data.with_name('data.log').read_text(errors='replace')[-1500:]}")
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


def hits(trace: Path, call: str, effect: str) -> int:
    """How often the fault came."""
    text = trace.read_text(errors="replace") if trace.exists() else ""
    if "SIGKILL" in effect:
        return len(re.findall(rf"\b{call}\(.*= \?", text))
    return text.count(INJECTED) + text.count("DELAYED")


def within(trace: Path, data: Path) -> bool:
    """Whether a call that was made to fail was one for a file of the data directory."""
    lines = trace.read_text(errors="replace").splitlines()
    return any(INJECTED in line and str(data) in line for line in lines)


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


def check_refusals(writers: list[Writer], where: str, report: Report) -> None:
    """After a failed flush a partition is offline: no acknowledgement follows a KAFKA_STORAGE_ERROR."""
    for writer in writers:
        codes = writer.told
        if STORAGE in codes and OK in codes[codes.index(STORAGE) :]:
            report.wrong("acknowledged-after-failed-flush", f"{where}: {writer.stream.place} answered {codes}")


def recover(data: Path, load: Load, where: str, report: Report) -> None:
    """Start without a fault: everything acknowledged is there, and what was not gets acknowledged once."""
    if not load.writers:
        return
    with Server(data, settings=SETTINGS) as server:
        try:
            report.longest("recovery_s_max", server.start())
            with Peer(server.bootstrap) as peer:
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
