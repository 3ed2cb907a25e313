"""A broker with one topic that has a record in it, which must be there afterwards."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from logd.testing import Broker
from tests.twin.batches import batch

from .wire import Peer, still_serves

TOPIC = "kept"


@pytest.fixture
def broker(logd_broker: Broker) -> Iterator[Broker]:
    """The broker; when the test is over it serves others, and what was acknowledged is there."""
    logd_broker.create_topic(TOPIC)
    first = Peer(logd_broker)
    assert first.produce(TOPIC, batch(b"kept"))["base_offset"] == 0
    first.close()
    yield logd_broker
    still_serves(logd_broker, TOPIC, 1)


@pytest.fixture
def peer(broker: Broker) -> Iterator[Peer]:
    """A connection that does what it should not."""
    one = Peer(broker)
    yield one
    one.close()
