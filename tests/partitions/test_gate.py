"""A gate wakes those whose offset it has reached, in order, and everybody when it fails."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from logd.errors import ErrorCode, Refused
from logd.partitions.gate import Gate

pytestmark = pytest.mark.trio


async def test_advance_wakes_who_waited_for_no_more() -> None:
    """Waiters come in any order of offsets; each wakes when the gate is there."""
    gate, woken = Gate(0), []

    async def wait(offset: int) -> None:
        await gate.wait(offset)
        woken.append(offset)

    async with trio.open_nursery() as nursery:
        for offset in (5, 2, 9, 3):
            nursery.start_soon(wait, offset)
        await trio.testing.wait_all_tasks_blocked()
        gate.advance(4)
        await trio.testing.wait_all_tasks_blocked()
        assert sorted(woken) == [2, 3]
        gate.advance(9)
    assert sorted(woken) == [2, 3, 5, 9]


async def test_reached_offsets_do_not_wait() -> None:
    """What is there is there, even after a failure."""
    gate = Gate(7)
    await gate.wait(7)
    gate.fail(Refused(ErrorCode.KAFKA_STORAGE_ERROR, "gone"))
    await gate.wait(7)
    with pytest.raises(Refused):
        await gate.wait(8)


async def test_failure_wakes_all() -> None:
    """A partition that goes offline tells everybody who waits."""
    gate = Gate(0)

    async def wait() -> None:
        with pytest.raises(Refused, match="gone"):
            await gate.wait(1)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        gate.fail(Refused(ErrorCode.KAFKA_STORAGE_ERROR, "gone"))


async def test_a_cancelled_waiter_leaves_the_queue() -> None:
    """Nobody is left in the queue who does not wait any more."""
    gate = Gate(0)
    with trio.move_on_after(0):
        await gate.wait(1)
    assert not gate._parked
