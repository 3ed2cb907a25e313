"""Requests of a transaction that were held back on their way and come when it is over: with version 2, no effect."""

from __future__ import annotations

from contextlib import ExitStack
from random import Random
from typing import Any

import pytest

from logd.errors import ErrorCode
from logd.testing import Broker
from logd.wire.message import Message
from logd.wire.schemas.add_partitions_to_txn import (
    AddPartitionsToTxnRequest,
    AddPartitionsToTxnTopic,
    AddPartitionsToTxnTransaction,
)
from logd.wire.schemas.create_topics import CreatableTopic, CreateTopicsRequest
from logd.wire.schemas.describe_transactions import DescribeTransactionsRequest
from logd.wire.schemas.end_txn import EndTxnRequest
from logd.wire.schemas.fetch import FetchPartition, FetchRequest, FetchTopic
from logd.wire.schemas.find_coordinator import FindCoordinatorRequest
from logd.wire.schemas.init_producer_id import InitProducerIdRequest
from logd.wire.schemas.offset_fetch import OffsetFetchRequest, OffsetFetchRequestTopic
from logd.wire.schemas.produce import PartitionProduceData, ProduceRequest, TopicProduceData
from logd.wire.schemas.txn_offset_commit import (
    TxnOffsetCommitRequest,
    TxnOffsetCommitRequestPartition,
    TxnOffsetCommitRequestTopic,
)
from tests.raw import Peer, batch

TOPIC, GROUP, ID = "t", "g", "x"
VERSIONS = {"Produce": 12, "TxnOffsetCommit": 5, "EndTxn": 5, "AddPartitionsToTxn": 5}
TRANSACTIONS = 40
LATE_AT_ONCE = 9
READ_COMMITTED = 1


class Author:
    """Writes one transaction after the other, and keeps what it sent."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.rng = Random(6)
        self.sent: list[Message] = []
        self.producer = (-1, -1)
        self.late = 0

    def begin(self) -> None:
        for key_type, key in ((0, GROUP), (1, ID)):
            found = self.ask(FindCoordinatorRequest(key_type=key_type, coordinator_keys=[key]), 4)
            assert found.coordinators[0].error_code == 0
        answer = self.ask(InitProducerIdRequest(ID, 60_000), 5)
        assert answer.error_code == 0
        self.producer = answer.producer_id, answer.producer_epoch

    def ask(self, request: Message, version: int) -> Any:
        return self.peer.ask(request, version)

    def say(self, request: Message) -> Any:
        """Ask, and keep the request to be late another time."""
        self.sent.append(request)
        return self.ask(request, VERSIONS[type(request).__name__.removesuffix("Request")])

    def replay(self, sent: list[Message]) -> None:
        """What was held back arrives, in any order."""
        for request in self.rng.sample(sent, min(len(sent), LATE_AT_ONCE)):
            self.ask(request, VERSIONS[type(request).__name__.removesuffix("Request")])
            self.late += 1

    def where(self) -> tuple[Any, ...]:
        """The state of the transaction, once it is settled."""
        while True:
            (row,) = self.ask(DescribeTransactionsRequest([ID]), 0).transaction_states
            if not row.transaction_state.startswith("Prepare"):
                places = sorted((topic.topic, tuple(sorted(topic.partitions))) for topic in row.topics)
                return row.transaction_state, row.producer_id, row.producer_epoch, places

    def unmoved(self, spare: int = 0) -> None:
        """Let late requests come, all but the `spare` latest ones: the transaction stays as it is."""
        before = self.where()
        self.replay(self.sent[: len(self.sent) - spare])
        assert self.where() == before

    def add(self) -> None:
        topics = [AddPartitionsToTxnTopic(TOPIC, [0])]
        row = AddPartitionsToTxnTransaction(ID, *self.producer, False, topics)
        (result,) = self.say(AddPartitionsToTxnRequest([row])).results_by_transaction
        assert result.topic_results[0].results_by_partition[0].partition_error_code == 0

    def produce(self, number: int) -> None:
        producer_id, epoch = self.producer
        records = batch(
            b"%d" % number, producer_id=producer_id, producer_epoch=epoch, base_sequence=0, transactional=True
        )
        data = [TopicProduceData(TOPIC, partition_data=[PartitionProduceData(0, records)])]
        (topic,) = self.say(ProduceRequest(ID, -1, 10_000, data)).responses
        assert topic.partition_responses[0].error_code == 0

    def commit_offset(self, number: int) -> None:
        rows = [TxnOffsetCommitRequestTopic(TOPIC, [TxnOffsetCommitRequestPartition(0, number)])]
        answer = self.say(TxnOffsetCommitRequest(ID, GROUP, *self.producer, topics=rows))
        assert answer.topics[0].partitions[0].error_code == 0

    def end(self, commit: bool) -> None:
        while True:
            answer = self.say(EndTxnRequest(ID, *self.producer, commit))
            if answer.error_code != ErrorCode.CONCURRENT_TRANSACTIONS:
                break
        assert answer.error_code == 0
        self.producer = answer.producer_id, answer.producer_epoch

    def committed_offset(self) -> int:
        request = OffsetFetchRequest(GROUP, [OffsetFetchRequestTopic(TOPIC, [0])], require_stable=True)
        (topic,) = self.ask(request, 7).topics
        (row,) = topic.partitions
        assert row.error_code == 0
        return int(row.committed_offset)

    def stable(self) -> tuple[int, int]:
        """Last stable offset and high watermark of the partition."""
        partition = FetchPartition(0, fetch_offset=0, partition_max_bytes=1 << 20)
        request = FetchRequest(
            max_wait_ms=0,
            min_bytes=0,
            isolation_level=READ_COMMITTED,
            topics=[FetchTopic(TOPIC, partitions=[partition])],
        )
        (topic,) = self.ask(request, 12).responses
        (row,) = topic.partitions
        return row.last_stable_offset, row.high_watermark


@pytest.mark.parametrize("mode", ["os", "group"])
def test_late_requests_have_no_effect(mode: str) -> None:
    """Before, in and after each transaction the requests of earlier ones come again: nothing changes by them."""
    with Broker({"log.flush.mode": mode}) as broker, ExitStack() as held:
        peer = held.enter_context(Peer(broker.bootstrap))
        peer.ask(CreateTopicsRequest([CreatableTopic(TOPIC, 1, 1)]), 5)
        author = Author(peer)
        author.begin()
        last, ends = -1, 0
        for number in range(TRANSACTIONS):
            author.unmoved()
            author.add()
            author.produce(number)
            author.commit_offset(number)
            author.unmoved(spare=3)
            commit = author.rng.random() < 0.7
            author.end(commit)
            author.unmoved()
            last = number if commit else last
            ends += 2  # the record and its marker
            assert author.committed_offset() == last
            assert author.stable() == (ends, ends)
        assert author.late > TRANSACTIONS * LATE_AT_ONCE
