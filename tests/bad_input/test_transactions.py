"""Batches and markers of transactions that cannot be: refused, with Kafka's codes, and nothing is appended."""

from __future__ import annotations

from typing import Any

import pytest

from logd.errors import ErrorCode
from logd.testing import Broker
from tests.twin.batches import Batch, control_batch

from .conftest import TOPIC
from .wire import Peer

MINE = "mine"
TRANSACTIONAL = 0x10
OLD, NEW = 11, 12
"""Produce that only asks whether a partition was added, and that which adds it."""
MANY = 5001
"""Partitions of each of two topics."""


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


@pytest.fixture
def mine(broker: Broker) -> None:
    """A topic that may be written to."""
    broker.create_topic(MINE)


class Actor:
    """One transactional id, whose requests anybody may send in its name."""

    def __init__(self, peer: Peer, transactional_id: str, timeout_ms: int = 60000) -> None:
        self.peer = peer
        self.id = transactional_id
        self.timeout_ms = timeout_ms
        self.producer = begun(peer, transactional_id)
        if timeout_ms != 60000:
            self.producer = self.again()

    def ask(self, api: str, version: int, **more: Any) -> Any:
        return self.peer.ask(api, version, transactional_id=self.id, **more)

    def again(self) -> tuple[int, int]:
        """A second producer with the same id begins."""
        more = {"transaction_timeout_ms": self.timeout_ms, "producer_id": -1, "producer_epoch": -1}
        while True:
            answer = self.ask("InitProducerId", 4, **more)
            if code(answer) is not ErrorCode.CONCURRENT_TRANSACTIONS:
                assert code(answer) is ErrorCode.NONE
                return answer["producer_id"], answer["producer_epoch"]

    def produce(self, who: tuple[int, int], sequence: int = 0, version: int = NEW) -> ErrorCode:
        answer = self.peer.produce(MINE, records(who, sequence), version=version, transactional_id=self.id)
        assert answer["error_message"] or not answer["error_code"]
        return code(answer)

    def add(self, who: tuple[int, int], *topics: dict[str, Any], version: int = 3) -> set[ErrorCode]:
        """Partitions as old clients add them."""
        more = {"id": self.id, "producer_id": who[0], "producer_epoch": who[1]}
        more["topics"] = list(topics) or [{"name": MINE, "partitions": [0]}]
        answer = self.peer.ask(
            "AddPartitionsToTxn",
            version,
            **{f"v3_and_below_{'transactional_id' if name == 'id' else name}": value for name, value in more.items()},
        )
        rows = [row for topic in answer["results_by_topic_v3_and_below"] for row in topic["results_by_partition"]]
        return {ErrorCode(row["partition_error_code"]) for row in rows}

    def add_offsets(self, who: tuple[int, int]) -> ErrorCode:
        return code(self.ask("AddOffsetsToTxn", 3, producer_id=who[0], producer_epoch=who[1], group_id="g"))

    def commit_offset(self, who: tuple[int, int]) -> ErrorCode:
        topics = [{"name": MINE, "partitions": [{"partition_index": 0, "committed_offset": 1}]}]
        answer = self.ask("TxnOffsetCommit", 5, group_id="g", producer_id=who[0], producer_epoch=who[1], topics=topics)
        return code(answer["topics"][0]["partitions"][0])

    def end(self, who: tuple[int, int], *, commit: bool = True, version: int = 5) -> ErrorCode:
        more = {"producer_id": who[0], "producer_epoch": who[1], "committed": commit}
        return code(self.ask("EndTxn", version, **more))

    def init(self, who: tuple[int, int]) -> ErrorCode:
        """A producer that names itself (KIP-360)."""
        more = {"transaction_timeout_ms": 60000, "producer_id": who[0], "producer_epoch": who[1]}
        return code(self.ask("InitProducerId", 4, **more))

    def where(self) -> Any:
        """The transaction, what is written and how much of it is stable, and what the group has committed."""
        (row,) = self.peer.ask("DescribeTransactions", 0, transactional_ids=[self.id])["transaction_states"]
        found = self.peer.fetch(MINE, 0)
        (group,) = self.peer.ask("OffsetFetch", 8, groups=[{"group_id": "g", "topics": None}])["groups"]
        return row, found["high_watermark"], found["last_stable_offset"], group["topics"]

    def until(self, state: str) -> None:
        while self.where()[0]["transaction_state"] != state:
            pass


@pytest.mark.parametrize("version", [9, OLD])
def test_a_partition_that_was_never_added(peer: Peer, version: int) -> None:
    """Clients of old hear INVALID_TXN_STATE, those that know it TRANSACTION_ABORTABLE."""
    producer = begun(peer, "never-added")
    expected = ErrorCode.TRANSACTION_ABORTABLE if version >= OLD else ErrorCode.INVALID_TXN_STATE
    answer = peer.produce(TOPIC, records(producer), version=version, transactional_id="never-added")
    assert code(answer) == expected
    assert answer["error_message"]
    found = peer.fetch(TOPIC, 0)
    assert (found["high_watermark"], found["last_stable_offset"]) == (1, 1)


def test_a_second_producer_with_the_same_id(mine: None, peer: Peer) -> None:
    """It aborts what the first has open; from then on the first is fenced and changes nothing.

    But for InitProducerId with its old epoch, which in Kafka too aborts whatever is open.
    """
    actor = Actor(peer, "twice")
    peer.ask("FindCoordinator", 4, key_type=0, coordinator_keys=["g"])
    first = actor.producer
    assert actor.produce(first) is ErrorCode.NONE
    second = actor.again()
    assert second[0] == first[0]
    assert second[1] > first[1]
    assert actor.produce(second) is ErrorCode.NONE
    before = actor.where()
    assert before[0]["transaction_state"] == "Ongoing"
    assert actor.produce(first, 1) is ErrorCode.INVALID_PRODUCER_EPOCH
    assert actor.add(first) == {ErrorCode.PRODUCER_FENCED}
    assert actor.add_offsets(first) is ErrorCode.PRODUCER_FENCED
    assert actor.commit_offset(first) is ErrorCode.INVALID_PRODUCER_EPOCH
    assert actor.end(first) is ErrorCode.PRODUCER_FENCED
    assert actor.end(first, version=4) is ErrorCode.PRODUCER_FENCED
    assert actor.end(first, version=1) is ErrorCode.INVALID_PRODUCER_EPOCH
    assert actor.where() == before
    assert actor.end(second) is ErrorCode.NONE


@pytest.mark.parametrize("shift", [-1, 1, 1000])
def test_an_epoch_of_the_past_and_of_the_future(mine: None, peer: Peer, shift: int) -> None:
    """Neither adds, writes, commits offsets nor ends, with a transaction open and without, nor begins anew without."""
    actor = Actor(peer, "epochs")
    peer.ask("FindCoordinator", 4, key_type=0, coordinator_keys=["g"])
    actor.producer = actor.again()
    wrong = (actor.producer[0], actor.producer[1] + shift)
    for _ in range(2):
        before = actor.where()
        assert actor.produce(wrong) is ErrorCode.INVALID_PRODUCER_EPOCH
        assert actor.add(wrong) == {ErrorCode.PRODUCER_FENCED}
        assert actor.add(wrong, version=1) == {ErrorCode.INVALID_PRODUCER_EPOCH}
        assert actor.add_offsets(wrong) is ErrorCode.PRODUCER_FENCED
        assert actor.commit_offset(wrong) is ErrorCode.INVALID_PRODUCER_EPOCH
        for version, expected in ((1, ErrorCode.INVALID_PRODUCER_EPOCH), (4, ErrorCode.PRODUCER_FENCED)):
            assert actor.end(wrong, version=version) is expected
        assert actor.end(wrong) is ErrorCode.PRODUCER_FENCED
        if before[0]["transaction_state"] != "Ongoing":
            assert actor.init(wrong) is ErrorCode.PRODUCER_FENCED
        assert actor.where() == before
        assert actor.produce(actor.producer) is ErrorCode.NONE
    assert actor.end(actor.producer) is ErrorCode.NONE


@pytest.mark.parametrize("version", [OLD, NEW])
@pytest.mark.parametrize("committed", [0, 1])
def test_a_marker_from_a_client(mine: None, peer: Peer, version: int, committed: int) -> None:
    """A control batch in Produce is refused, also by the producer in its own transaction, which is still open then."""
    actor = Actor(peer, "forger")
    assert actor.add(actor.producer) == {ErrorCode.NONE}
    assert actor.produce(actor.producer, version=version) is ErrorCode.NONE
    before = actor.where()
    producer_id, epoch = actor.producer
    for sequence in (-1, 0, 1):
        forged = control_batch(committed, producer_id=producer_id, producer_epoch=epoch, base_sequence=sequence)
        answer = peer.produce(MINE, forged, version=version, transactional_id=actor.id)
        assert code(answer) is ErrorCode.INVALID_RECORD
        assert answer["error_message"]
    assert actor.where() == before
    assert actor.end(actor.producer) is ErrorCode.NONE


@pytest.mark.parametrize(
    ("version", "expected"),
    [(1, ErrorCode.INVALID_PRODUCER_EPOCH), (4, ErrorCode.PRODUCER_FENCED), (5, ErrorCode.INVALID_TXN_STATE)],
)
def test_commit_after_the_timeout(mine: None, peer: Peer, version: int, expected: ErrorCode) -> None:
    """What was aborted for its time stays so; the producer is told that it is shut out, or of no such end."""
    actor = Actor(peer, "slow", timeout_ms=1)
    assert actor.produce(actor.producer) is ErrorCode.NONE
    actor.until("CompleteAbort")
    before = actor.where()
    assert before[1] == before[2]
    assert actor.end(actor.producer, version=version) is expected
    assert actor.produce(actor.producer, 1) is ErrorCode.INVALID_PRODUCER_EPOCH
    assert actor.where() == before


def test_over_ten_thousand_partitions(mine: None, broker: Broker, peer: Peer) -> None:
    """A transaction of so many is one like any other, added at once, then a few more, and each gets its marker."""
    names = ["first", "other"]
    for name in names:
        broker.create_topic(name, MANY)
    actor = Actor(peer, "wide")
    assert actor.add(actor.producer, *({"name": name, "partitions": [*range(MANY)]} for name in names)) == {
        ErrorCode.NONE
    }
    assert actor.produce(actor.producer, version=NEW) is ErrorCode.NONE
    row = actor.where()[0]
    assert sum(len(topic["partitions"]) for topic in row["topics"]) == 2 * MANY + 1
    assert actor.end(actor.producer) is ErrorCode.NONE
    actor.until("CompleteCommit")
    for name in names:
        rows = [{"partition_index": index, "timestamp": -1} for index in range(MANY)]
        topics = [{"name": name, "partitions": rows}]
        found = peer.ask("ListOffsets", 6, replica_id=-1, isolation_level=1, topics=topics)["topics"][0]["partitions"]
        assert {(row["error_code"], row["offset"]) for row in found} == {(0, 1)}


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
