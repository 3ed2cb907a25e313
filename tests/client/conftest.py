"""The two brokers that the client is tested with: logd in this process, and a real Apache Kafka where there is one."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from uuid import uuid4

import pytest

from tests.kafka_node import kafka_bootstrap


@pytest.fixture(params=["logd", "kafka"])
def bootstrap(request: pytest.FixtureRequest) -> str:
    """The ``host:port`` of a broker; each test that asks for it runs against both."""
    if request.param == "kafka":
        return kafka_bootstrap()
    address: str = request.getfixturevalue("logd_broker").bootstrap
    return address


@pytest.fixture
def unique() -> Callable[[str], str]:
    """Names that no other test has used."""
    numbers = itertools.count()
    run = uuid4().hex[:8]
    return lambda prefix: f"{prefix}-{run}-{next(numbers)}"
