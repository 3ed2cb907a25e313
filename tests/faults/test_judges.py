"""What each kind looks at by itself, beside the history: it says so when it is given something wrong, and only then."""

from __future__ import annotations

import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tools import churn
from tools.churn import Churn, Outcome
from tools.faults import __main__ as command
from tools.faults import calls, clock, flips, full, hanging, hostile, limits, power, report
from tools.faults.conversation import OK, STORAGE, Gone, Told
from tools.faults.history import Acknowledged, Event, Polled, Read, Sent
from tools.faults.looks import until_looked
from tools.faults.report import Report, Skipped
from tools.hostile import failures

PLACE = ("t", 0)


@pytest.fixture
def found() -> Report:
    """A report that nothing has been found for."""
    return Report("a kind", 1, faults=1)


def kinds(one: Report) -> list[str]:
    """What was found."""
    return [each.kind for each in one.found]


def answers(**given: Any) -> Any:
    """A peer whose conversations return something, or raise it."""

    def say(what: Any) -> Any:
        def conversation(*how: Any) -> Any:
            if isinstance(what, Exception):
                raise what
            return what(*how) if callable(what) else what

        return conversation

    return SimpleNamespace(**{name: say(what) for name, what in given.items()})


# flips


@pytest.mark.parametrize(
    ("came", "what", "wrong"),
    [
        ({0: b"one", 2: b"two"}, "", []),
        ({0: b"one", 2: b"twp"}, "0.log bit 9", ["wrong-bytes"]),
        ({0: b"one", 2: b"two", 4: b"new"}, "0.log bit 9", ["wrong-bytes"]),
        ({0: b"one"}, "0.log bit 9", ["lost"]),
        ({0: b"one", 2: Told(STORAGE, "")}, "0.log bit 9", []),
        ({0: b"one", 2: Told(STORAGE, "")}, "", ["refused"]),
        ({0: b"one", 2: Gone("closed")}, "0.log bit 9", ["no-answer"]),
    ],
)
def test_flips_read(came: dict[int, Any], what: str, wrong: list[str], found: Report) -> None:
    """Other bytes, a batch left out in silence, a refusal of what nobody touched, no answer."""

    def batches(topic: str, partition: int, into: dict[int, bytes]) -> None:
        for base, batch in came.items():
            if isinstance(batch, Exception):
                raise batch
            into[base] = batch

    flips.look(answers(batches=batches), PLACE, {0: b"one", 2: b"two"}, what, found)
    assert kinds(found) == wrong


@pytest.mark.parametrize(
    ("code", "what", "wrong"),
    [(OK, "", []), (STORAGE, "0.log bit 9", []), (STORAGE, "", ["refused"]), (1, "0.log bit 9", ["refused"])],
)
def test_flips_append(code: int, what: str, wrong: list[str], found: Report) -> None:
    """An append is refused for damage and for nothing else."""
    flips.write(answers(produce=(code, 0)), PLACE, 1, what, found)
    assert kinds(found) == wrong


def test_flips_housekeeping(tmp_path: Path, found: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounds of housekeeping are waited for; where none ends in a server that runs, that is an anomaly."""
    looks, server = tmp_path / "looks", answers(log_end="")
    looks.write_text("3")

    def running() -> bool:
        looks.write_text(str(int(looks.read_text()) + 1))
        return True

    assert until_looked(looks, running)
    assert until_looked(looks, lambda: False) is False
    monkeypatch.setattr("tools.faults.looks.PATIENCE_S", 0)
    for server.running in (False, True):
        flips.keep_up(looks, server, found)
    assert kinds(found) == ["no-upkeep"]


# power

RECORDS = [f"w0:{number}" for number in range(3)]


def a_life() -> tuple[list[Event], dict[str, list[Event]]]:
    """What was known before a cut, and what is there after it."""
    events: list[Event] = []
    left: dict[str, list[Event]] = {}
    for topic in (power.PLAIN, power.KEYED, power.FORGETFUL, power.RUSHED):
        place = f"{topic}-0"
        for offset, value in enumerate(RECORDS):
            events += [Sent(topic, place, value), Acknowledged(place, value, offset)]
        left[topic] = [Read(place, offset, value) for offset, value in enumerate(RECORDS)]
    events.append(Polled("reader", f"{power.PLAIN}-0", 1, RECORDS[1]))
    del left[power.KEYED][:2], left[power.FORGETFUL][:2], left[power.RUSHED][1:]
    return events, left


@pytest.mark.parametrize(
    ("topic", "at", "wrong"),
    [
        (power.PLAIN, slice(2, 3), {"lost"}),
        (power.PLAIN, slice(1, 2), {"lost", "read-and-lost"}),
        (power.KEYED, slice(0, 1), {"lost"}),
        (power.FORGETFUL, slice(0, 1), set()),
    ],
)
def test_power(topic: str, at: slice, wrong: set[str], found: Report) -> None:
    """What was promised, read, or the last value of a key is missing; what retention took is not."""
    events, left = a_life()
    power.judge(events, left, "cut", found)
    assert kinds(found) == []
    del left[topic][at]
    power.judge(events, left, "cut", found)
    assert set(kinds(found)) == wrong


@pytest.mark.parametrize("topic", [power.KEYED, power.FORGETFUL, power.RUSHED])
def test_power_invents(topic: str, found: Report) -> None:
    """A record that nobody sent is an anomaly in every topic."""
    events, left = a_life()
    left[topic].append(Read(f"{topic}-0", 9, "w9:9"))
    power.judge(events, left, "cut", found)
    assert kinds(found) == ["phantom"]


# full


@pytest.mark.parametrize(
    ("values", "wrong"), [([3], []), ([2, 4], []), ([2], ["lost"]), ([], ["lost"]), ([4, 3], ["lost"])]
)
def test_full_keyed(values: list[int], wrong: list[str], found: Report) -> None:
    """A key whose last value is older than what was promised, or out of its order."""
    load: Any = SimpleNamespace(events=[Acknowledged("keyed.0-0", f"w:{number}", number) for number in (1, 3)])
    full.check_keyed(answers(values=[(number, f"w:{number}") for number in values]), load, found)
    assert kinds(found) == wrong


def test_full_clean(found: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compaction that does not go on once there is space."""
    writer: Any = SimpleNamespace(stream=SimpleNamespace(topic="keyed.0"), step=lambda *_: OK)
    peer = answers(offset=5, values=[(4, "w:4")])
    monkeypatch.setattr(full, "Peer", Standing(peer))
    server: Any = SimpleNamespace(bootstrap="", log_end=lambda: "")
    full.clean(server, SimpleNamespace(writers=[writer]), -full.CLEANED_S_MAX, found)  # type: ignore[arg-type]
    assert kinds(found) == ["not-cleaned"]


class Standing:
    """A connection to a peer of these tests."""

    def __init__(self, peer: Any) -> None:
        self._peer = peer

    def __call__(self, *_: Any) -> Standing:
        return self

    def __enter__(self) -> Any:
        return self._peer

    def __exit__(self, *_: object) -> None:
        pass


# calls


def test_calls_acknowledged(found: Report) -> None:
    """An acknowledgement after a partition said that its disk had failed."""
    stream = SimpleNamespace(place="calls-0")
    writers: Any = [SimpleNamespace(told=told, stream=stream) for told in ([OK, STORAGE, STORAGE], [STORAGE, OK])]
    calls.check_refusals(writers[:1], "there", found)
    assert kinds(found) == []
    calls.check_refusals(writers, "there", found)
    assert kinds(found) == ["acknowledged-after-failed-flush"]


def test_calls_flushed_again() -> None:
    """A second flush of a file whose first one failed."""
    one, other = ("fdatasync(5</x/calls-0/" + name + ".log>) = " for name in ("00", "07"))
    assert calls.tried_again(f"7 {one}0\n8 {one}-1 EIO\n7 {other}0\n") == []
    assert calls.tried_again(f"7 {one}-1 EIO (INJECTED)\n8 {one}0\n") == ["/x/calls-0/00.log"]


def test_calls_traceback(tmp_path: Path, found: Report) -> None:
    """A failing call that ends in a traceback."""
    for said in ("logd: the disk fails\n", "Traceback (most recent call last):\n"):
        (tmp_path / "data.log").write_text(said)
        calls.check_log(tmp_path / "data", "there", found)
    assert kinds(found) == ["traceback"]


# clock, hanging, limits


def test_clock_retention(found: Report) -> None:
    """A log that begins later than it did."""
    load: Any = SimpleNamespace(places=[("hour", 0), ("hour", 1)])
    clock.look(answers(offset=0), load, "a jump", found)
    assert kinds(found) == []
    clock.look(answers(offset=lambda topic, partition, at: partition), load, "a jump", found)
    assert kinds(found) == ["early-retention"]


def test_hanging(found: Report) -> None:
    """A record that the last stable offset does not pass."""
    watcher = hanging.Watcher.__new__(hanging.Watcher)
    watcher.seen = {"hanging-0": [(10.0, 4)]}
    passed, held_up = (hanging.Left("tx", "hanging-0", offset, 9.0) for offset in (3, 4))
    hanging._wait(watcher, [passed], 0, "past_s", found)
    assert (kinds(found), found.figures["past_s"]) == ([], 1.0)
    hanging._wait(watcher, [held_up], 0, "past_s", found)
    assert kinds(found) == ["stuck-stable-offset"]


def test_limits_refuse(found: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer that is refused for long."""
    monkeypatch.setattr(limits, "SERVED_S_MAX", 0)
    server: Any = SimpleNamespace(log_end=lambda: "")
    for code in (OK, STORAGE):
        writer = SimpleNamespace(stream=SimpleNamespace(place="limits-0"), step=lambda *_, code=code: code)
        load: Any = SimpleNamespace(writers=[writer], commit=lambda _: OK)
        limits.work(server, answers(), load, "crowd", found)
    assert kinds(found) == ["refused"]


# hostile


class Client:
    """A good client, as it is judged."""

    def __init__(self, **seen: Any) -> None:
        self.seconds = [0.001]
        self.failure = ""
        self.waits = False
        self.lost = ""
        vars(self).update(seen)

    def is_alive(self) -> bool:
        return self.waits

    def check(self) -> str:
        return self.lost


@pytest.mark.parametrize(
    ("client", "grown_kib", "wrong"),
    [
        (Client(), 0, []),
        (Client(seconds=[0.001, 1.5]), 0, ["stall"]),
        (Client(failure="closed"), 0, ["not-served"]),
        (Client(waits=True), 0, ["not-served"]),
        (Client(lost="another record at offset 3"), 0, ["lost"]),
        (Client(), hostile.GROWTH_KIB_MAX + 1, ["memory"]),
    ],
)
def test_hostile(client: Any, grown_kib: int, wrong: list[str], found: Report) -> None:
    """A good client that waits, is not served or loses records; memory that grows and stays so."""
    memory = [50_000] * 10 + [50_000 + grown_kib] * 10
    hostile.judge(client, hostile.Counter(frames=5), memory, found)
    assert kinds(found) == wrong


# The command


@pytest.mark.parametrize(
    ("faults", "wrong", "code"), [(3, [], 0), (3, ["lost"], 1), (0, [], 1), (0, ["lost"], 1), (-1, [], 3)]
)
def test_exit_code(faults: int, wrong: list[str], code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """An anomaly, and a run in which nothing was tried, are failures; a machine that cannot do it is told apart."""

    def run(seed: int, rounds: int, directory: Path) -> Report:
        if faults < 0:
            raise Skipped("no such file system")
        one = Report("kill", seed, faults)
        for each in wrong:
            one.wrong(each, "there")
        return one

    monkeypatch.setattr("tools.faults.kill.run", run)
    monkeypatch.setattr("sys.argv", ["tools.faults", "kill"])
    assert command.main() == code


def test_first_anomaly_ends_a_run(found: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    """With --first no round begins after an anomaly; without it all do."""
    monkeypatch.setattr(report, "_END", [])
    monkeypatch.setattr(report, "_FIRST", [])
    found.wrong("lost", "there")
    assert not report.late()
    report.end_at_first()
    assert not report.late()
    found.wrong("lost", "there")
    assert report.late()


def test_a_run_tells_how_far_it_is(
    found: Report, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Now and then, and each anomaly once and at once."""
    found.tell()
    assert not capsys.readouterr().err
    found.wrong("lost", "there")
    found.tell()
    found.tell()
    assert capsys.readouterr().err.count("lost: there") == 1
    monkeypatch.setattr(report, "TELL_EVERY_S", 0)
    found.tell()
    assert "faults=1" in capsys.readouterr().err


def test_a_signal_ends_a_run_with_its_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """No round begins after it; the next signal ends it at once."""
    handlers: dict[int, Any] = {}
    monkeypatch.setattr(report, "_END", [])
    monkeypatch.setattr(signal, "signal", handlers.__setitem__)
    assert not report.late()
    command.end_soon(signal.SIGTERM, None)
    assert report.late()
    assert handlers == {signal.SIGTERM: signal.default_int_handler}


# The tools beside the kit


@pytest.fixture
def churned(tmp_path: Path) -> Churn:
    """A run of groups that is over: two records in each partition were sent, and read."""
    one = Churn.__new__(Churn)
    one.directory, one.outcome, one.committed = tmp_path, Outcome(sent=2 * churn.PARTITIONS), {}
    one.topic = one.group = "churn"
    lines = [f"{index} {offset}" for index in range(churn.PARTITIONS) for offset in range(2)]
    (tmp_path / "read-1").write_text("\n".join([*lines, lines[0]]) + "\n")
    return one


def test_churn_lost(churned: Churn) -> None:
    """A record that no member read."""
    churned._judge()
    assert (churned.outcome.lost, churned.outcome.twice, churned.outcome.good) == ([], 1, True)
    file = churned.directory / "read-1"
    file.write_text(file.read_text().replace("1 0\n", ""))
    churned._judge()
    assert (churned.outcome.lost, churned.outcome.good) == ([(1, 0)], False)


def test_churn_backward(churned: Churn) -> None:
    """A committed offset that is lower than before; one that is not there, or not answered, is no answer."""
    told: list[int] = []
    place = SimpleNamespace(partition=0, offset=0)

    def answer(*_: Any) -> dict[str, Any]:
        place.offset = told.pop(0)
        return {"churn": SimpleNamespace(result=lambda _: SimpleNamespace(topic_partitions=[place]))}

    churned.admin = SimpleNamespace(list_consumer_group_offsets=answer)  # type: ignore[assignment]
    told += [4, -1, 4, 7]
    for _ in range(4):
        churned._look()
    assert churned.outcome.good
    told += [6]
    churned._look()
    assert churned.outcome.backward == ["partition 0: 7 -> 6"]
    assert not churned.outcome.good


def test_hostile_log() -> None:
    """A traceback of the server's is a failure, whatever stands around it."""
    trace = 'Traceback (most recent call last):\n  File "/x/logd/wire/codec.py", line 7, in decode\nKeyError: 3\n'
    assert list(failures("logd: a line\nanother: Error\n")) == []
    assert len(list(failures(f"a line\n{trace}a line\n{trace}"))) == 2
