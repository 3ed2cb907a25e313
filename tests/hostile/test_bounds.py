"""Requests that decode and ask for too much: refused, cut into turns, or done in part."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from logd.apis.metadata import CREATED_MAX
from logd.apis.registry import NOTES_MAX, Call, Connection
from logd.chronicle import Chronicle, Subject
from logd.errors import ErrorCode, Refused
from logd.node import SystemClock
from logd.testing.broker import Broker
from logd.wire.decoder import LARGE_ELEMENTS_MAX
from logd.wire.schemas.describe_configs import DescribeConfigsRequest, DescribeConfigsResource
from logd.wire.schemas.metadata import MetadataRequest, MetadataRequestTopic
from logd.wire.schemas.offset_fetch import OffsetFetchRequest, OffsetFetchRequestGroup
from tests.raw import Peer

BROKER_RESOURCE = 4


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    """One for all: nothing here may harm it."""
    with Broker() as one:
        yield one


@pytest.fixture
def peer(broker: Broker) -> Iterator[Peer]:
    """One that has been heard, so that its requests may be big."""
    with Peer(broker.bootstrap) as one:
        one.ask(MetadataRequest([]), 9)
        yield one


def test_too_many_elements(peer: Peer, caplog: pytest.LogCaptureFixture) -> None:
    """A request of more elements than any needs is not decoded: the connection is closed, and the log says why."""
    names = [MetadataRequestTopic(name="a") for _ in range(LARGE_ELEMENTS_MAX + 1)]
    with caplog.at_level(logging.WARNING, "logd"):
        peer.send(MetadataRequest(names, allow_auto_topic_creation=False), 9)
        assert peer.closed()
    assert "more elements in one message than it may have" in caplog.text


def test_as_many_elements_as_may_be(peer: Peer) -> None:
    """One element less is answered."""
    names = [MetadataRequestTopic(name="a") for _ in range(LARGE_ELEMENTS_MAX)]
    assert len(peer.ask(MetadataRequest(names, allow_auto_topic_creation=False), 9).topics) == 1


def test_new_topics_by_the_hundred(peer: Peer) -> None:
    """Metadata for many new topics makes a thousand of them at a time."""
    names = [MetadataRequestTopic(name=f"new-{number:04d}") for number in range(CREATED_MAX + 20)]
    for there in (CREATED_MAX, CREATED_MAX + 20):
        answer = peer.ask(MetadataRequest(names, allow_auto_topic_creation=True), 9)
        assert sum(topic.error_code == 0 for topic in answer.topics) == there


def test_refusals_are_remembered_some_of_them() -> None:
    """A request with a thousand mistakes does not push everything else out of what `why` remembers."""
    chronicle = Chronicle(1 << 20)
    services: Any = SimpleNamespace(chronicle=chronicle, clock=SystemClock())
    call = Call(1, 11, 1, "client", Connection(1, "peer:1", "here", 1, "PLAINTEXT"), services)
    for number in range(NOTES_MAX * 3):
        call.refused(Refused(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, "there is none"), topic=f"none-{number}")
    assert list(chronicle.names(Subject.TOPIC)) == [f"none-{number}" for number in range(NOTES_MAX)]


def test_repeated_resources(peer: Peer) -> None:
    """The settings of one broker, asked for a thousand times in one request, are not told a thousand times."""
    request = DescribeConfigsRequest([DescribeConfigsResource(BROKER_RESOURCE, "0") for _ in range(1000)])
    answer = peer.ask(request, 4)
    assert {row.error_code for row in answer.results} == {42}
    assert "name each of them once" in answer.results[0].error_message


def test_offsets_of_many_groups(peer: Peer) -> None:
    """Groups without offsets by the thousand: every one of them is answered, in order."""
    groups = [OffsetFetchRequestGroup(f"g{number}") for number in range(2000)]
    answer = peer.ask(OffsetFetchRequest(groups=groups), 8)
    assert [row.group_id for row in answer.groups] == [one.group_id for one in groups]
