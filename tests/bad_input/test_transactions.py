"""Batches and markers of transactions that cannot be: refused, with Kafka's codes, and nothing is appended."""

from __future__ import annotations

from typing import Any

import pytest

from logd.errors import ErrorCode
from logd.testing import Broker
from tests.twin.batches import Batch

from .conftest import TOPIC
from .wire import Peer

TRANSACTIONAL = 0x10
OLD, NEW = 11, 12
"""Produce that only asks whether a partition was added, and that which adds it."""


def records(producer: tuple[int, int], sequence: int = 0, attributes: int = TRANSACTIONAL) -> bytes:
    producer_id, epoch = producer
    return bytes(Batch(attributes=attributes, producer_id=producer_id, producer_epoch=epoch, base_sequence=sequence))


def begun(peer: Peer, transactional_id: str) -> tuple[int, int]:
    """A producer with this id, as soon as there is a coordinator."""
    while True:
        body = {"transactional_id": transactional_id, "transaction_timeout_ms": 60000}
        answer = peer.ask("InitProducerId", 4, **body, producer_id=-1, producer_epoch=-1)
        if answer["error_code"] == 0:
            return answer["producer_id"], answer["producer_epoch"]
        peer.ask("FindCoordinator", 4, key_type=1, coordinator_keys=[transactional_id])


def code(answer: Any) -> ErrorCode:
    return ErrorCode(answer["error_code"])


@pytest.mark.parametrize("version", [9, OLD])
def test_a_partition_that_was_never_added(peer: Peer, version: int) -> None:
    """Clients of old hear INVALID_TXN_STATE, those that know it TRANSACTION_ABORTABLE."""
    producer = begun(peer, "never-added")
    expected = ErrorCode.TRANSACTION_ABORTABLE if version >= OLD else ErrorCode.INVALID_TXN_STATE
    answer = peer.produce(TOPIC, records(producer), version=version, transactional_id="never-added")
    assert code(answer) == expected
    assert answer["error_message"]


@pytest.mark.parametrize("version", [9, OLD, NEW])
def test_what_does_not_belong_together(peer: Peer, version: int) -> None:
    """No transactional id, that of another, one that nobody has; an epoch of the past and of the future."""
    producer_id, epoch = begun(peer, "mine")
    fenced = begun(peer, "mine")
    begun(peer, "theirs")
    assert fenced == (producer_id, epoch + 1)
    cases = [
        (None, fenced, ErrorCode.TRANSACTIONAL_ID_AUTHORIZATION_FAILED),
        ("theirs", fenced, ErrorCode.INVALID_PRODUCER_ID_MAPPING),
        ("nobody's", fenced, ErrorCode.INVALID_PRODUCER_ID_MAPPING),
        ("mine", (producer_id, epoch), ErrorCode.INVALID_PRODUCER_EPOCH),
        ("mine", (producer_id, epoch + 2), ErrorCode.INVALID_PRODUCER_EPOCH),
    ]
    for transactional_id, producer, expected in cases:
        answer = peer.produce(TOPIC, records(producer), version=version, transactional_id=transactional_id)
        assert code(answer) == expected, (transactional_id, producer)


def test_a_first_batch_that_is_not_the_first(peer: Peer) -> None:
    """With new clients each transaction begins with sequence 0."""
    producer = begun(peer, "gap")
    answer = peer.produce(TOPIC, records(producer, 3), version=NEW, transactional_id="gap")
    assert code(answer) == ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER


def test_two_producers_in_one_request(broker: Broker, peer: Peer) -> None:
    """All of it is refused."""
    one, two = begun(peer, "one"), begun(peer, "two")
    broker.create_topic("second")
    topics = [
        {"name": topic, "partition_data": [{"index": 0, "records": records(producer)}]}
        for topic, producer in ((TOPIC, one), ("second", two))
    ]
    answer = peer.ask("Produce", NEW, acks=-1, timeout_ms=10000, transactional_id="one", topic_data=topics)
    told = [code(row) for topic in answer["responses"] for row in topic["partition_responses"]]
    assert told == [ErrorCode.INVALID_PRODUCER_ID_MAPPING] * 2


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(
    ("producer", "topic", "index", "expected"),
    [
        ((-1, 0), TOPIC, 0, ErrorCode.INVALID_REQUEST),
        ((5, -1), TOPIC, 0, ErrorCode.INVALID_REQUEST),
        ((5, 0), TOPIC, 99, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION),
        ((5, 0), "absent", 0, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION),
        ((5, 0), "__consumer_offsets", 99, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION),
    ],
)
def test_markers(
    peer: Peer, version: int, producer: tuple[int, int], topic: str, index: int, expected: ErrorCode
) -> None:
    """A marker for nobody, or for a partition that is not there."""
    marker = {
        "producer_id": producer[0],
        "producer_epoch": producer[1],
        "transaction_result": True,
        "topics": [{"name": topic, "partition_indexes": [index]}],
        "coordinator_epoch": 0,
    }
    (result,) = peer.ask("WriteTxnMarkers", version, markers=[marker])["markers"]
    assert code(result["topics"][0]["partitions"][0]) == expected
