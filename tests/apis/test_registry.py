"""What travels with a request."""

from __future__ import annotations

import gc

import pytest

from logd.apis.registry import Parked


def test_a_parked_answer_that_nobody_awaits(recwarn: pytest.WarningsRecorder) -> None:
    """A peer that has left costs no warning of a coroutine that was never awaited."""

    async def answer() -> None:
        raise AssertionError("nobody waits")

    parked = Parked(answer, lambda: False)
    assert not parked.is_ready()
    del parked
    gc.collect()
    assert not recwarn.list
