"""Work in other threads, where the machine has none to give for a while."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import trio
import trio.testing
from trio._core import _thread_cache

from logd import threads


@pytest.fixture
def scarce(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Has so many threads refused from now on, and trio start anew for each."""
    real, left = threading.Thread.start, [0]

    def start(thread: threading.Thread) -> None:
        if left[0]:
            left[0] -= 1
            raise RuntimeError("can't start new thread")
        real(thread)

    def refuse(count: int) -> None:
        left[0] = count
        monkeypatch.setattr(_thread_cache, "THREAD_CACHE", _thread_cache.ThreadCache())

    monkeypatch.setattr(threading.Thread, "start", start)
    monkeypatch.setattr(threads._Lack, "told_s", float("-inf"))
    return refuse


@pytest.mark.trio
async def test_waits_for_a_thread(scarce: Callable[[int], None], caplog: pytest.LogCaptureFixture) -> None:
    """What is asked for is done, once, when there is a thread; it is told once a minute, however often."""
    done: list[int] = []
    limiter = trio.CapacityLimiter(1)
    for refusals in (3, 0, 1):
        scarce(refusals)
        async with trio.open_nursery() as nursery:
            for number in range(2):
                nursery.start_soon(lambda number: threads.run(done.append, number, limiter=limiter), number)
    assert sorted(done) == [0, 0, 0, 1, 1, 1]
    assert limiter.borrowed_tokens == 0
    assert caplog.text.count("allow more processes") == 1
    threads._Lack.told_s -= threads.TELL_EVERY_S
    scarce(1)
    await threads.run(int)
    assert caplog.text.count("allow more processes") == 2


@pytest.mark.trio
async def test_what_work_raises_is_its_own() -> None:
    """An error of the work is no lack of threads, whatever it says, and the work is not done twice."""
    calls: list[str] = []

    def work() -> None:
        calls.append("called")
        raise RuntimeError("can't start new thread")

    with pytest.raises(RuntimeError, match="new thread"):
        await threads.run(work)
    assert calls == ["called"]


@pytest.mark.trio
async def test_waiting_for_a_thread_can_be_cancelled(scarce: Callable[[int], None]) -> None:
    """Nobody has to wait for what has not begun."""
    scarce(2**31)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(threads.run, int)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
