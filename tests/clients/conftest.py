"""The broker that the client tests talk to: logd in this process, or whatever LOGD_TEST_BOOTSTRAP names.

Pointing the same tests at a real Apache Kafka (``tools/apache_kafka.py run``) shows that it is the server, and not
the test, that is right. Names of topics and groups are unique, so that a kept broker does no harm.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator, Mapping
from uuid import uuid4

import pytest
from confluent_kafka.admin import AdminClient, NewTopic

from tests.clients.java import HOST

NewTopicName = Callable[..., str]


@pytest.fixture(scope="session", autouse=True)
def tools_end() -> Iterator[None]:
    """The JVM of Kafka's tools ends with the session."""
    yield
    HOST.end()


@pytest.fixture
def bootstrap(request: pytest.FixtureRequest) -> str:
    """The ``host:port`` of the broker under test."""
    if external := os.environ.get("LOGD_TEST_BOOTSTRAP"):
        return external
    address: str = request.getfixturevalue("logd_broker").bootstrap
    return address


@pytest.fixture
def unique(request: pytest.FixtureRequest) -> Callable[[str], str]:
    """Names that no other test and no earlier run has used."""
    numbers = itertools.count()
    run = uuid4().hex[:8]
    return lambda prefix: f"{prefix}-{run}-{next(numbers)}"


@pytest.fixture
def admin(bootstrap: str) -> AdminClient:
    """An admin client of librdkafka."""
    return AdminClient({"bootstrap.servers": bootstrap})


@pytest.fixture
def new_topic(admin: AdminClient, unique: Callable[[str], str]) -> NewTopicName:
    """Make a topic and return its name: ``new_topic(partitions=1, configs={})``."""

    def make(partitions: int = 1, configs: Mapping[str, str] | None = None, prefix: str = "topic") -> str:
        name = unique(prefix)
        wanted = NewTopic(name, partitions, 1, config=dict(configs or {}))
        admin.create_topics([wanted])[name].result(timeout=30)
        return name

    return make
