"""Members killed, paused and started at random, for a few seconds; the long run is ``tools/churn.py``."""

from __future__ import annotations

import pytest

from logd.testing import Broker
from tools.churn import churn

SESSION_MS = 3_000

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.logd(
        settings={
            "group.min.session.timeout.ms": 1_000,
            "group.consumer.min.session.timeout.ms": SESSION_MS,
            "group.consumer.session.timeout.ms": SESSION_MS,
            "group.consumer.min.heartbeat.interval.ms": 100,
            "group.consumer.heartbeat.interval.ms": 100,
        }
    ),
]


@pytest.mark.parametrize("kinds", [["classic"], ["consumer"], ["cooperative", "consumer"]], ids="-".join)
def test_nothing_is_lost_and_no_offset_goes_backward(logd_broker: Broker, kinds: list[str]) -> None:
    """Every record is read at least once, whoever died or slept; both protocols, and a group that moves between."""
    outcome = churn(logd_broker.bootstrap, kinds, seconds=8, seed=5, session_ms=SESSION_MS)
    assert outcome.killed + outcome.paused + outcome.stopped > 0
    assert (outcome.lost, outcome.backward) == ([], [])
