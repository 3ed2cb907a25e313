"""Requests for a topic that Metadata tells of already, while its logs are being opened."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from logd.errors import ErrorCode
from logd.log.log import Log
from logd.testing import Broker
from logd.wire.schemas.create_topics import CreatableTopic, CreateTopicsRequest
from logd.wire.schemas.fetch import FetchPartition, FetchRequest, FetchTopic
from logd.wire.schemas.list_offsets import ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic
from logd.wire.schemas.metadata import MetadataRequest, MetadataRequestTopic
from tests.raw import Peer, batch, produce_request

AGAIN = ErrorCode.NOT_LEADER_OR_FOLLOWER


@pytest.fixture
def broker() -> Iterator[Broker]:
    with Broker() as running:
        yield running


def test_who_is_too_early_is_to_come_again(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    """NOT_LEADER_OR_FOLLOWER, as Kafka says it: after "unknown" librdkafka's ListOffsets, for one, gives up."""
    busy, go_on, make = threading.Event(), threading.Event(), Log.create

    def slow(*args: Any, **how: Any) -> Log:
        busy.set()
        assert go_on.wait(30)
        return make(*args, **how)

    monkeypatch.setattr(Log, "create", slow)
    with Peer(broker.bootstrap) as maker, Peer(broker.bootstrap) as early:
        maker.send(CreateTopicsRequest([CreatableTopic("t", 1, 1)], 10_000), 7)
        assert busy.wait(10)
        (known,) = early.ask(MetadataRequest([MetadataRequestTopic(name="t")]), 12).topics
        assert known.error_code == 0
        for version in (9, 13):
            for acks in (1, -1):
                wanted = produce_request("t", batch(b"v"), acks)
                wanted.topic_data[0].topic_id = known.topic_id
                assert early.ask(wanted, version).responses[0].partition_responses[0].error_code == AGAIN
        for version in (12, 13):
            fetch = FetchRequest(
                max_wait_ms=0, min_bytes=1, topics=[FetchTopic("t", known.topic_id, [FetchPartition(0)])]
            )
            assert early.ask(fetch, version).responses[0].partitions[0].error_code == AGAIN
        offsets = ListOffsetsRequest(-1, 0, [ListOffsetsTopic("t", [ListOffsetsPartition(0, -1, -1)])])
        assert early.ask(offsets, 7).topics[0].partitions[0].error_code == AGAIN
        go_on.set()
        assert maker.receive().topics[0].error_code == 0
        assert early.ask(offsets, 7).topics[0].partitions[0].error_code == 0
