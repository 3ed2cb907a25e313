"""The table of deadlines: what comes when, and how little moving one costs."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from logd.coordinators.deadlines import STALE_MIN, Deadlines
from logd.coordinators.timer import Timer


def fired(table: Deadlines, now_ms: float) -> list[object]:
    events = []
    while (due := table.pop(now_ms)) is not None:
        events.append(due[1])
    return events


def test_earliest_first() -> None:
    """What is due comes in the order of time, and what is not due stays."""
    table = Deadlines()
    for key, at_ms in (("b", 20), ("a", 10), ("c", 30)):
        table.arm(key, at_ms, key)
    assert table.next_ms() == 10
    assert fired(table, 20) == ["a", "b"]
    assert len(table) == 1
    assert "c" in table


def test_arming_again_replaces() -> None:
    """A key has one deadline: the last one set, later or earlier, with the last event."""
    table = Deadlines()
    table.arm("k", 10, "first")
    table.arm("k", 30, "second")
    assert fired(table, 29) == []
    table.arm("k", 25, "third")
    assert fired(table, 25) == ["third"]
    assert fired(table, 100) == []


def test_disarmed_never_fires() -> None:
    """A deadline that was taken back does not fire, and a new one of the same key does."""
    table = Deadlines()
    table.arm("k", 10, "old")
    table.disarm("k")
    table.disarm("unknown")
    assert table.next_ms() is None
    table.arm("k", 40, "new")
    assert fired(table, 30) == []
    assert fired(table, 40) == ["new"]


def test_moving_later_leaves_the_heap_alone() -> None:
    """However often a session is extended, it has one entry in the heap."""
    table = Deadlines()
    for at_ms in range(1000):
        table.arm("session", at_ms, None)
    assert len(table._heap) == 1


def test_what_was_taken_back_is_forgotten() -> None:
    """Deadlines far away that are set and taken back, as with every transaction, do not pile up."""
    table = Deadlines()
    for at_ms in range(100):
        table.arm(("session", at_ms), 1_000_000 + at_ms, at_ms)
    for round_ in range(10_000):
        table.arm("transaction", 900_000 + round_, None)
        table.disarm("transaction")
    assert len(table._heap) <= 2 * len(table) + STALE_MIN
    assert fired(table, 2_000_000) == list(range(100))


def test_moving_earlier_again_and_again_is_forgotten() -> None:
    """So with one that comes nearer each time."""
    table = Deadlines()
    for at_ms in range(10_000, 0, -1):
        table.arm("k", at_ms, at_ms)
    assert len(table._heap) <= 2 * len(table) + STALE_MIN
    assert fired(table, 10_000) == [1]


def test_owners_are_separate() -> None:
    """All deadlines of one owner go at once, and no other's."""
    table = Deadlines()
    table.arm(("a", 1), 10, "a1")
    table.arm(("b", 1), 10, "b1")
    table.disarm_all("a")
    assert fired(table, 10) == ["b1"]


@given(st.lists(st.tuples(st.integers(0, 5), st.one_of(st.none(), st.integers(0, 50)), st.integers(0, 9)), max_size=60))
def test_like_a_plain_table(steps: list[tuple[int, int | None, int]]) -> None:
    """Whatever is armed, moved and disarmed while time goes on, it fires what a plain search would find."""
    table, plain, now_ms = Deadlines(), dict[int, int](), 0
    for key, after_ms, passes_ms in steps:
        if after_ms is None:
            table.disarm(key)
            plain.pop(key, None)
        else:
            table.arm(key, now_ms + after_ms, key)
            plain[key] = now_ms + after_ms
        now_ms += passes_ms
        due = [each for each, at_ms in plain.items() if at_ms <= now_ms]
        next_ms = table.next_ms()
        assert (next_ms is None) == (not plain)
        assert next_ms is None or next_ms <= min(plain.values())
        assert sorted(fired(table, now_ms)) == sorted(due)  # type: ignore[type-var]
        for each in due:
            del plain[each]


@pytest.mark.trio
async def test_a_deadline_that_fails_ends_nothing(autojump_clock: object, caplog: pytest.LogCaptureFixture) -> None:
    """A bug in one group's step is logged, and the other groups' deadlines still come."""
    timer, fired = Timer(), trio.Event()

    def fail() -> None:
        raise RuntimeError("a bug")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(timer.run)
        timer.arm("one", "a", 10, fail)
        timer.arm("two", "b", 20, fired.set)
        await fired.wait()
        nursery.cancel_scope.cancel()
    assert "a bug" in caplog.text


@pytest.mark.trio
async def test_many_that_come_at_once_take_turns(autojump_clock: object) -> None:
    """A thousand sessions that end together, as after a start whose members are all gone, keep nobody else waiting."""
    timer, come, turns = Timer(), [], 0
    for number in range(1000):
        timer.arm("one", number, 10, lambda number=number: come.append(number))  # type: ignore[misc]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(timer.run)
        await trio.sleep(0.01)
        while len(come) < 1000:
            turns += 1
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    assert come == list(range(1000))
    assert turns >= 10


@pytest.mark.trio
async def test_a_deadline_comes_whatever_rounding_says(mock_clock: trio.testing.MockClock) -> None:
    """At the second of a deadline it is due, even where its milliseconds round to a moment later: no busy waiting."""
    now_s, after_ms = 5.187, 3000
    wakes_s = (now_s * 1000 + after_ms) / 1000
    assert wakes_s * 1000 < now_s * 1000 + after_ms, "not an example any more"
    timer, told = Timer(), trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(timer.run)
        mock_clock.jump(now_s)
        timer.arm("one", "a", after_ms, told.set)
        await trio.testing.wait_all_tasks_blocked()
        mock_clock.jump(wakes_s - now_s)
        assert trio.current_time() == wakes_s
        for _ in range(5):
            await trio.lowlevel.checkpoint()
        assert told.is_set()
        nursery.cancel_scope.cancel()
