"""Batches that cannot be, and producers that lost count: refused for their partition, nothing appended."""

from __future__ import annotations

from typing import Any

import pytest

from logd.errors import ErrorCode
from logd.testing import Broker
from tests.twin.batches import BASE_TIMESTAMP_MS, Batch, batch, control_batch, old_message

from .conftest import TOPIC
from .wire import Peer

GOOD = batch(b"first", b"second")

REFUSED: dict[str, tuple[bytes | None, ErrorCode]] = {
    "null": (None, ErrorCode.INVALID_RECORD),
    "empty": (b"", ErrorCode.INVALID_RECORD),
    "shorter than a header": (GOOD[:30], ErrorCode.INVALID_RECORD),
    "cut": (GOOD[:-1], ErrorCode.INVALID_RECORD),
    "rubbish": (b"\xff" * 100, ErrorCode.CORRUPT_MESSAGE),
    "bad CRC": (batch(b"x", crc=7), ErrorCode.CORRUPT_MESSAGE),
    "magic 0": (old_message(0, b"x"), ErrorCode.INVALID_RECORD),
    "magic 1": (old_message(1, b"x", b"k"), ErrorCode.INVALID_RECORD),
    "magic 3": (batch(b"x", magic=3), ErrorCode.CORRUPT_MESSAGE),
    "magic -1": (batch(b"x", magic=-1), ErrorCode.CORRUPT_MESSAGE),
    "length over what is there": (batch(b"x", length=500), ErrorCode.INVALID_RECORD),
    "length of 2^31 - 1": (batch(b"x", length=2**31 - 1), ErrorCode.INVALID_RECORD),
    "length too small": (batch(b"x", length=20), ErrorCode.CORRUPT_MESSAGE),
    "length 0": (batch(b"x", length=0), ErrorCode.CORRUPT_MESSAGE),
    "length -1": (batch(b"x", length=-1), ErrorCode.CORRUPT_MESSAGE),
    "two batches": (batch(b"1") + batch(b"2"), ErrorCode.INVALID_RECORD),
    "bytes after the batch": (GOOD + b"\0", ErrorCode.INVALID_RECORD),
    "no records": (batch(count=0, body=b"", last_offset_delta=-1), ErrorCode.INVALID_RECORD),
    "count too small": (batch(b"a", b"b", count=1), ErrorCode.INVALID_RECORD),
    "count too big": (batch(b"a", b"b", count=3), ErrorCode.INVALID_RECORD),
    "count -1": (batch(b"a", b"b", count=-1), ErrorCode.INVALID_RECORD),
    "count 2^31 - 1": (batch(b"a", count=2**31 - 1), ErrorCode.INVALID_RECORD),
    "last offset delta too big": (batch(b"a", b"b", last_offset_delta=5), ErrorCode.INVALID_RECORD),
    "last offset delta -1": (batch(b"a", b"b", last_offset_delta=-1), ErrorCode.INVALID_RECORD),
    "base offset 7": (batch(b"x", base_offset=7), ErrorCode.INVALID_RECORD),
    "codec 5": (batch(b"x", attributes=5), ErrorCode.CORRUPT_MESSAGE),
    "codec 7": (batch(b"x", attributes=7), ErrorCode.CORRUPT_MESSAGE),
    "control batch": (control_batch(), ErrorCode.TRANSACTIONAL_ID_AUTHORIZATION_FAILED),
    "control, not transactional": (bytes(Batch(attributes=0x20)), ErrorCode.INVALID_RECORD),
    "transactional without an id": (
        bytes(Batch(attributes=0x10, producer_id=5, producer_epoch=0, base_sequence=0)),
        ErrorCode.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
    ),
    "LogAppendTime": (batch(b"x", attributes=8), ErrorCode.INVALID_TIMESTAMP),
    "producer without a sequence": (batch(b"x", producer_id=5, producer_epoch=0), ErrorCode.INVALID_RECORD),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("version", [3, 12])
def test_refused_batch(peer: Peer, name: str, version: int) -> None:
    """The partition's error says what is wrong; from version 8 on with a sentence."""
    records, code = REFUSED[name]
    answer = peer.produce(TOPIC, records, version=version)
    assert (ErrorCode(answer["error_code"]).name, answer["base_offset"]) == (code.name, -1)
    assert version < 8 or answer["error_message"]


def test_a_bad_batch_does_not_spoil_the_others(peer: Peer, broker: Broker) -> None:
    """Other partitions of the same request are appended."""
    broker.create_topic("two", 2)
    rows = [{"index": 0, "records": batch(b"bad", crc=1)}, {"index": 1, "records": batch(b"good")}]
    topics = [{"name": "two", "partition_data": rows}]
    answer = peer.ask("Produce", 9, acks=-1, timeout_ms=1000, topic_data=topics)
    codes = {row["index"]: row["error_code"] for row in answer["responses"][0]["partition_responses"]}
    assert codes == {0: ErrorCode.CORRUPT_MESSAGE, 1: 0}


@pytest.mark.parametrize("acks", [2, -2, 32767, -32768])
def test_bad_acks(peer: Peer, acks: int) -> None:
    """acks is -1, 0 or 1."""
    assert peer.produce(TOPIC, GOOD, acks=acks)["error_code"] == ErrorCode.INVALID_REQUIRED_ACKS


def test_bad_batch_that_wants_no_answer(peer: Peer) -> None:
    """acks=0 and a mistake: only the end of the connection can tell."""
    rows = [{"name": TOPIC, "partition_data": [{"index": 0, "records": batch(b"x", crc=1)}]}]
    peer.send("Produce", 9, acks=0, timeout_ms=1000, topic_data=rows)
    assert peer.is_closed_by_peer()


def test_unknown_codec_of_the_version(peer: Peer) -> None:
    """zstd came with version 7."""
    data = batch(b"x" * 50, codec=4)
    assert peer.produce(TOPIC, data, version=6)["error_code"] == ErrorCode.UNSUPPORTED_COMPRESSION_TYPE


def test_too_large(peer: Peer, broker: Broker) -> None:
    """max.message.bytes holds for the batch as it comes, and a batch of that size fits."""
    broker.create_topic("small", configs={"max.message.bytes": "200"})
    room = 200 - len(batch(b"")) - 2
    assert peer.produce("small", batch(b"x" * (room + 1)))["error_code"] == ErrorCode.MESSAGE_TOO_LARGE
    assert peer.produce("small", batch(b"x" * room))["error_code"] == 0


def test_compacted_topic_wants_keys(peer: Peer, broker: Broker) -> None:
    """The records without a key are named."""
    broker.create_topic("compacted", configs={"cleanup.policy": "compact"})
    for codec in (0, 4):
        data = bytes(Batch(records=[(b"k", b"v"), (None, b"w")], codec=codec))
        answer = peer.produce("compacted", data)
        assert answer["error_code"] == ErrorCode.INVALID_RECORD
        assert [row["batch_index"] for row in answer["record_errors"]] == [1]


OPENED = {
    "compact": {"cleanup.policy": "compact"},
    "gzip": {"compression.type": "gzip"},
    "young": {"message.timestamp.before.max.ms": "315360000000"},
}
"""Topics whose rules need the records of a batch."""


@pytest.mark.parametrize("topic", OPENED)
@pytest.mark.parametrize("codec", [2, 3, 4])
def test_what_does_not_open_where_it_must(peer: Peer, broker: Broker, codec: int, topic: str) -> None:
    """A topic whose rules need the records refuses a body that cannot be opened, and one whose numbers lie."""
    broker.create_topic(topic, configs=OPENED[topic])
    broken = peer.produce(topic, batch(codec=codec, body=b"nonsense"))
    assert broken["error_code"] == ErrorCode.CORRUPT_MESSAGE
    two = [(b"k", b"v"), (b"l", b"w")]
    for count in (1, 3):
        lying = peer.produce(topic, bytes(Batch(records=two, codec=codec, count=count, last_offset_delta=count - 1)))
        assert lying["error_code"] == ErrorCode.INVALID_RECORD
    assert peer.produce(topic, batch(body=b"\x7e" + b"\0" * 8, codec=0))["error_code"] == ErrorCode.INVALID_RECORD
    assert peer.produce(topic, bytes(Batch(records=two, codec=codec)))["error_code"] == 0


WINDOW = {"message.timestamp.before.max.ms": "1000", "message.timestamp.after.max.ms": "1000"}
LATE_MS = 4_000_000_000_000
OLD_MS = BASE_TIMESTAMP_MS


@pytest.mark.parametrize("codec", [0, 4])
@pytest.mark.parametrize(("base", "step", "named"), [(OLD_MS, 0, [0, 1]), (LATE_MS, 0, [0, 1]), (-1, OLD_MS, [1])])
def test_times_out_of_the_window(
    peer: Peer, broker: Broker, base: int, step: int, named: list[int], codec: int
) -> None:
    """message.timestamp.before.max.ms and after.max.ms: the records out of it are named (KIP-467); no time is any."""
    broker.create_topic("window", configs=WINDOW)
    answer = peer.produce("window", batch(b"x", b"y", base_timestamp=base, timestamp_step=step, codec=codec))
    assert answer["error_code"] == ErrorCode.INVALID_TIMESTAMP
    assert [row["batch_index"] for row in answer["record_errors"]] == named


@pytest.mark.parametrize("acks", [1, -1])
@pytest.mark.parametrize("version", [8, 9, 12])
def test_times_ahead_of_the_clock(peer: Peer, broker: Broker, version: int, acks: int) -> None:
    """Topics whose batches are not opened name the records as well, once the batch is refused."""
    broker.create_topic("plain")
    data = batch(b"x", b"y", b"z", timestamp_step=LATE_MS - OLD_MS)
    answer = peer.produce("plain", data, version=version, acks=acks)
    assert answer["error_code"] == ErrorCode.INVALID_TIMESTAMP
    assert [row["batch_index"] for row in answer["record_errors"]] == [1, 2]
    assert "out of range" in answer["record_errors"][0]["batch_index_error_message"]


def test_times_of_what_cannot_be_opened(peer: Peer, broker: Broker) -> None:
    """A batch that is refused for its times and cannot be opened is refused all the same, with no record named."""
    broker.create_topic("plain")
    answer = peer.produce("plain", batch(codec=4, body=b"nonsense", max_timestamp=LATE_MS))
    assert (answer["error_code"], answer["record_errors"]) == (ErrorCode.INVALID_TIMESTAMP, [])


@pytest.mark.parametrize("codec", [0, 4])
def test_a_wrong_time_beside_a_missing_key(peer: Peer, broker: Broker, codec: int) -> None:
    """All records that are wrong are named, and a wrong time gives the code."""
    broker.create_topic("both", configs={**WINDOW, "cleanup.policy": "compact"})
    records = [(None, b"v"), (b"k", b"w"), (b"l", b"x")]
    data = bytes(Batch(records=records, base_timestamp=-1, timestamp_step=OLD_MS, codec=codec))
    answer = peer.produce("both", data)
    assert answer["error_code"] == ErrorCode.INVALID_TIMESTAMP
    assert [row["batch_index"] for row in answer["record_errors"]] == [0, 1, 2]


def numbered(sequence: int, n: int = 1, epoch: int = 0, producer: int = 77) -> bytes:
    """A batch of an idempotent producer."""
    return batch(*[b"v"] * n, producer_id=producer, producer_epoch=epoch, base_sequence=sequence)


def test_sequences(peer: Peer, broker: Broker) -> None:
    """A gap and an overlap are refused; a repeat is answered with the offset of the first."""
    broker.create_topic("counted")

    def told(*arguments: Any) -> tuple[str, int]:
        answer = peer.produce("counted", numbered(*arguments))
        return ErrorCode(answer["error_code"]).name, answer["base_offset"]

    assert told(3) == ("NONE", 0)  # an unknown producer may begin anywhere
    assert told(4, 2) == ("NONE", 1)
    assert told(7) == ("OUT_OF_ORDER_SEQUENCE_NUMBER", -1)
    assert told(5) == ("OUT_OF_ORDER_SEQUENCE_NUMBER", -1)
    assert told(4, 2) == ("NONE", 1)
    assert told(3) == ("NONE", 0)
    assert told(6) == ("NONE", 3)
    assert told(7, 1, 1) == ("OUT_OF_ORDER_SEQUENCE_NUMBER", -1)  # a new epoch begins at 0
    assert told(0, 1, 1) == ("NONE", 4)
    assert told(7, 1, 0) == ("INVALID_PRODUCER_EPOCH", -1)


def test_sequence_wraps(peer: Peer, broker: Broker) -> None:
    """After 2^31 - 1 comes 0, also within a batch; a repeat across the wrap is one."""
    broker.create_topic("wrapped")
    top = 2**31 - 1
    codes = [peer.produce("wrapped", numbered(s, n))["base_offset"] for s, n in ((top - 1, 4), (2, 1), (top - 1, 4))]
    assert codes == [0, 4, 0]


def test_producer_ids(peer: Peer) -> None:
    """An empty transactional id, half an identity, a timeout out of range."""
    for fields, code in (
        ({"transactional_id": ""}, ErrorCode.INVALID_REQUEST),
        ({"transactional_id": None, "producer_id": 5}, ErrorCode.INVALID_REQUEST),
        ({"transactional_id": None, "producer_epoch": 5}, ErrorCode.INVALID_REQUEST),
        ({"transactional_id": "t", "transaction_timeout_ms": 0}, ErrorCode.INVALID_TRANSACTION_TIMEOUT),
        ({"transactional_id": "t", "transaction_timeout_ms": 2**31 - 1}, ErrorCode.INVALID_TRANSACTION_TIMEOUT),
    ):
        body = {"transaction_timeout_ms": 1000, "producer_id": -1, "producer_epoch": -1, **fields}
        assert peer.ask("InitProducerId", 5, **body)["error_code"] == code, fields


@pytest.mark.parametrize("topic", ["absent", "a/b", "", "x" * 250])
def test_unknown_topics(peer: Peer, topic: str) -> None:
    """Produce never makes a topic."""
    assert peer.produce(topic, GOOD)["error_code"] == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION


@pytest.mark.parametrize("partition", [1, -1, 2**31 - 1, -(2**31)])
def test_unknown_partitions(peer: Peer, partition: int) -> None:
    """A partition that the topic has not is unknown."""
    answer = peer.produce(TOPIC, GOOD, partition=partition)
    assert answer["error_code"] == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION


def test_internal_topics(peer: Peer) -> None:
    """Clients do not write to the coordinators' topics."""
    peer.ask("FindCoordinator", 4, key_type=0, coordinator_keys=["g"])
    answer = peer.produce("__consumer_offsets", bytes(Batch(records=[(b"k", b"v")])))
    assert answer["error_code"] == ErrorCode.INVALID_TOPIC_EXCEPTION
