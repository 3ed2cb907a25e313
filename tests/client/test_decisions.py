"""The parts of the client that decide without waiting: addresses, partitions, batches, sequences, metadata."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kafka.partitioner.default import murmur2 as reference_murmur2

from logd.client.accumulator import Accumulator, Delivery
from logd.client.address import Address, parse_address, parse_addresses
from logd.client.metadata import Metadata, TopicPartition, merge
from logd.client.partitioning import Partitioner, murmur2, partition_for_key
from logd.client.sequences import Sequences
from logd.wire.schemas.metadata import (
    MetadataResponse,
    MetadataResponseBroker,
    MetadataResponsePartition,
    MetadataResponseTopic,
)

AT = TopicPartition("orders", 0)
OTHER = TopicPartition("orders", 1)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("h", Address("h", 9092)),
        ("h:1", Address("h", 1)),
        ("[::1]:7", Address("::1", 7)),
        ("::1", Address("::1", 9092)),
        (" h:65535 ", Address("h", 65535)),
    ],
)
def test_addresses_as_people_write_them(text: str, expected: Address) -> None:
    """Names, IPv4 and IPv6 are understood, and what is printed is understood again."""
    assert parse_address(text) == expected
    assert parse_address(str(expected)) == expected


@pytest.mark.parametrize("text", ["", ":9092", "h:0", "h:65536", "h:x", "h:-1", "[]:1", "kafka://h:9092"])
def test_wrong_addresses_are_refused_with_a_sentence(text: str) -> None:
    """A host that is empty or a port that can't be is a ValueError that shows how to write it."""
    with pytest.raises(ValueError, match="9092"):
        parse_address(text)


def test_lists_of_addresses() -> None:
    """Commas separate, doubles count once, and none at all is an error."""
    assert parse_addresses("a:1,b:2,,a:1") == (Address("a", 1), Address("b", 2))
    assert parse_addresses(["a:1,b:2", "c:3"])[-1] == Address("c", 3)
    with pytest.raises(ValueError, match="no server"):
        parse_addresses(" , ")


@given(st.binary(max_size=64))
def test_murmur2_is_that_of_other_clients(key: bytes) -> None:
    """A key has the hash that kafka-python, and so the Java client, gives it."""
    assert murmur2(key) == reference_murmur2(key) & 0xFFFFFFFF


@given(st.binary(max_size=32), st.integers(1, 1000))
def test_keys_stay_within_the_partitions(key: bytes, count: int) -> None:
    """A key always has the same partition, and one that exists."""
    assert 0 <= partition_for_key(key, count) < count
    assert Partitioner(lambda n: 0).choose("t", key, count) == partition_for_key(key, count)


def test_records_without_a_key_stay_until_the_batch_is_closed() -> None:
    """The partition changes with the batch and not with the record, and wraps."""
    partitioner = Partitioner(lambda n: n - 1)
    assert [partitioner.choose("t", None, 3) for _ in range(3)] == [2, 2, 2]
    partitioner.batch_closed("t", 2, 3)
    assert partitioner.choose("t", None, 3) == 0
    partitioner.batch_closed("t", 2, 3)
    assert partitioner.choose("t", None, 3) == 0


def accumulator(batch_bytes: int = 1000, linger_s: float = 0.0) -> Accumulator:
    return Accumulator(batch_bytes, linger_s, 10.0)


def put(target: Accumulator, value: bytes, at: TopicPartition = AT, now_s: float = 0.0) -> Delivery:
    return target.append(at, 0, None, value, [], now_s)


def test_a_partition_has_one_batch_under_way() -> None:
    """The next batch of a partition waits for the outcome of the one before; other partitions do not."""
    queues = accumulator()
    put(queues, b"a")
    (first,) = queues.take(0.0)
    put(queues, b"b")
    put(queues, b"c", OTHER)
    assert [batch.at for batch in queues.take(0.0)] == [OTHER]
    queues.finished(first)
    assert [batch.records[0].value for batch in queues.take(0.0)] == [b"b"]


def test_linger_waits_unless_the_batch_is_full_or_flushed() -> None:
    """A batch goes when its time has come, when it is full, or when somebody flushes."""
    queues = accumulator(batch_bytes=100, linger_s=5.0)
    put(queues, b"a")
    assert queues.take(4.9) == []
    assert queues.next_due_s() == 5.0
    put(queues, b"x" * 100)
    (full,) = queues.take(0.0)
    assert [record.value for record in full.records] == [b"a"]
    queues.finished(full)
    queues.flushing = 1
    assert [record.value for batch in queues.take(0.0) for record in batch.records] == [b"x" * 100]


def test_a_batch_that_is_put_back_goes_first() -> None:
    """A retry is never overtaken, and takes no further records once its sequence is fixed."""
    queues = accumulator()
    put(queues, b"a")
    (first,) = queues.take(0.0)
    first.producer = (7, 0, 0)
    put(queues, b"b")
    queues.put_back(first)
    assert queues.take(0.0) == [first]
    queues.put_back(first)
    put(queues, b"c")
    assert len(first.records) == 1


def test_halves_keep_order_and_deliveries() -> None:
    """A batch that is too large becomes two without sequences, and each record's delivery follows it."""
    queues = accumulator()
    deliveries = [put(queues, bytes([number])) for number in range(5)]
    (batch,) = queues.take(0.0)
    before = queues.pending_bytes
    batch.producer = (7, 1, 0x7FFFFFFF)
    first, second = batch.halves()
    assert [record.value for record in first.records + second.records] == [bytes([number]) for number in range(5)]
    assert [record.offset for record in second.records] == [0, 1, 2]
    assert (first.producer, second.producer) == (None, None)
    assert [delivery.batch for delivery in deliveries] == [first] * 2 + [second] * 3
    queues.put_back(first, second)
    queues.finished(queues.take(0.0)[0])
    queues.finished(queues.take(0.0)[0])
    assert (before > 0, queues.pending_bytes, queues.is_empty) == (True, 0, True)


def test_giving_up_gives_everything_up() -> None:
    """What is under way and what waits is returned when the producer ends, and nothing is left."""
    queues = accumulator()
    put(queues, b"a")
    queues.take(0.0)
    put(queues, b"b")
    assert len(queues.drop_all()) == 2
    assert (queues.is_empty, queues.pending_bytes) == (True, 0)


def test_sequences_count_for_each_partition_and_wrap() -> None:
    """Partitions share a producer id, count on their own, and go from 2^31-1 to 0."""
    sequences = Sequences()
    assert sequences.needs_identity(AT)
    sequences.identify(AT, (7, 0))
    assert sequences.assign(AT, 0x7FFFFFFF) == (7, 0, 0)
    assert sequences.assign(AT, 2) == (7, 0, 0x7FFFFFFF)
    assert sequences.assign(AT, 1) == (7, 0, 1)
    assert not sequences.needs_identity(OTHER)
    assert sequences.assign(OTHER, 1) == (7, 0, 0)


def test_a_spoilt_partition_gets_an_id_of_its_own() -> None:
    """After a failure one partition starts anew under a fresh id; the others keep theirs and their count."""
    sequences = Sequences()
    sequences.identify(AT, (7, 0))
    sequences.assign(AT, 5)
    sequences.assign(OTHER, 3)
    sequences.spoil(AT)
    assert (sequences.needs_identity(AT), sequences.needs_identity(OTHER)) == (True, False)
    sequences.identify(AT, (8, 0))
    assert sequences.assign(AT, 1) == (8, 0, 0)
    assert sequences.assign(OTHER, 1) == (7, 0, 3)


def test_numbers_of_a_refused_batch_are_used_again() -> None:
    """What the server did not take leaves no gap in the sequence."""
    sequences = Sequences()
    sequences.identify(AT, (7, 0))
    sequences.assign(AT, 5)
    assert sequences.assign(AT, 4) == (7, 0, 5)
    sequences.rewind(AT, 5)
    assert sequences.assign(AT, 2) == (7, 0, 5)


def answer(epoch: int, leader: int, topic_id: bytes = b"x" * 16) -> MetadataResponse:
    part = MetadataResponsePartition(partition_index=0, leader_id=leader, leader_epoch=epoch)
    topic = MetadataResponseTopic(name="orders", topic_id=topic_id, partitions=[part])
    broker = MetadataResponseBroker(node_id=leader, host="h", port=1)
    return MetadataResponse(brokers=[broker], cluster_id="c", controller_id=leader, topics=[topic])


def test_metadata_never_goes_back_to_an_older_leader() -> None:
    """A broker that lags behind does not undo what is known (KIP-320), unless the topic was made again."""
    known = merge(Metadata(), answer(5, 1), ["orders"])
    for epoch, topic_id, leader in ((4, b"x" * 16, 1), (6, b"x" * 16, 2), (0, b"y" * 16, 2)):
        found = merge(known, answer(epoch, 2, topic_id), ["orders"]).partition(AT)
        assert found is not None
        assert found.leader == leader


def test_metadata_forgets_what_it_asked_for_and_did_not_get() -> None:
    """A topic that is missing in the answer is gone; one that was not asked for stays."""
    known = merge(Metadata(), answer(5, 1), None)
    nothing = MetadataResponse(brokers=[], topics=[])
    assert "orders" in merge(known, nothing, ["bills"]).topics
    assert "orders" not in merge(known, nothing, ["orders"]).topics
    assert "orders" not in merge(known, nothing, None).topics
