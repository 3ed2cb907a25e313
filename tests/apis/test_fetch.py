"""Fetch: sessions, limits, long polls, epochs, cold data; asked as raw requests of a running broker."""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterator

import crc32c
import pytest

from logd.errors import ErrorCode
from logd.testing import Broker
from logd.wire.batches import Record, build_batch, read_header, read_records
from logd.wire.schemas.delete_topics import DeleteTopicsRequest
from logd.wire.schemas.fetch import (
    FetchPartition,
    FetchRequest,
    FetchResponse,
    FetchTopic,
    ForgottenTopic,
    PartitionData,
)
from logd.wire.schemas.list_offsets import ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic
from logd.wire.schemas.metadata import MetadataRequest, MetadataRequestTopic
from tests.raw import Peer, batch, produce_request


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    with Broker({"num.partitions": "2"}) as running:
        yield running


@pytest.fixture
def peer(broker: Broker) -> Iterator[Peer]:
    with Peer(broker.bootstrap) as connected:
        yield connected


def request(topic: str, *offsets: int, **how: object) -> FetchRequest:
    """Ask for partition 0 from the first offset, 1 from the second, and so on."""
    bytes_max = how.pop("partition_bytes", 1 << 20)
    epoch = how.pop("epoch", -1)
    parts = [
        FetchPartition(index, current_leader_epoch=epoch, fetch_offset=offset, partition_max_bytes=bytes_max)
        for index, offset in enumerate(offsets)
    ]
    topics = [FetchTopic(topic, partitions=parts)] if parts else []
    return FetchRequest(min_bytes=1, topics=topics, **{"max_wait_ms": 0, **how})


def rows(answer: FetchResponse) -> list[PartitionData]:
    return [row for topic in answer.responses for row in topic.partitions]


def values(row: PartitionData) -> list[bytes | None]:
    """The values of all records of a row."""
    found, position = [], 0
    data = bytes(row.records)
    while position < len(data):
        found += [record.value for record in read_records(data, position, bytes_max=1 << 20)]
        position += int.from_bytes(data[position + 8 : position + 12], "big") + 12
    return found


def fill(peer: Peer, topic: str, *texts: bytes, partition: int = 0) -> None:
    peer.make_topic(topic)
    for text in texts:
        answer = peer.ask(produce_request(topic, batch(text), partition=partition), 9)
        assert answer.responses[0].partition_responses[0].error_code == 0


def test_reads_from_an_offset_to_the_end(peer: Peer) -> None:
    """Batches come whole and in order from the one that holds the offset."""
    fill(peer, "plain", b"a", b"b", b"c")
    (row,) = rows(peer.ask(request("plain", 1), 11))
    assert values(row) == [b"b", b"c"]
    assert (row.high_watermark, row.last_stable_offset, row.log_start_offset) == (3, 3, 0)


def test_limits_give_one_batch_at_least(peer: Peer) -> None:
    """The first partition with data gives a batch though it is over the limits; the next ones keep to them."""
    fill(peer, "limits", b"x" * 500, b"y" * 500)
    fill(peer, "limits", b"z" * 500, partition=1)
    first, second = rows(peer.ask(request("limits", 0, 0, partition_bytes=10), 11))
    assert values(first) == [b"x" * 500]
    assert values(second) == []
    first, second = rows(peer.ask(request("limits", 0, 0, max_bytes=700), 11))
    assert values(first) == [b"x" * 500]
    assert values(second) == []


@pytest.mark.parametrize("offset", [-1, 4, 1 << 40])
def test_offsets_outside_of_the_log(peer: Peer, offset: int) -> None:
    """Before the start or behind the end: OFFSET_OUT_OF_RANGE, at once, without a long poll."""
    fill(peer, "range", b"a")
    (row,) = rows(peer.ask(request("range", offset, max_wait_ms=30_000), 11))
    assert row.error_code == ErrorCode.OFFSET_OUT_OF_RANGE


@pytest.mark.parametrize(("epoch", "code"), [(-1, 0), (0, 0), (7, ErrorCode.UNKNOWN_LEADER_EPOCH), (-5, 0)])
def test_leader_epochs_are_compared(peer: Peer, epoch: int, code: int) -> None:
    """A client that believes in another leader epoch is told (KIP-320)."""
    fill(peer, "epochs", b"a")
    (row,) = rows(peer.ask(request("epochs", 0, epoch=epoch), 11))
    assert row.error_code == code


def test_an_old_leader_epoch_is_fenced() -> None:
    """Every start raises the epoch, so that a client from before looks again."""
    with Broker() as own:
        with Peer(own.bootstrap) as before:
            fill(before, "fenced", b"a")
        own.restart()
        with Peer(own.bootstrap) as after:
            (row,) = rows(after.ask(request("fenced", 0, epoch=0), 11))
            assert row.error_code == ErrorCode.FENCED_LEADER_EPOCH


def test_who_is_fenced_is_told_who_leads() -> None:
    """From version 16 on the answer names the leader, its epoch and where it is (KIP-951): nobody asks for Metadata."""
    with Broker() as own:
        with Peer(own.bootstrap) as before:
            fill(before, "fenced", b"a")
        own.restart()
        with Peer(own.bootstrap) as after:
            (known,) = after.ask(MetadataRequest([MetadataRequestTopic(name="fenced")]), 12).topics
            wanted = request("", 0, epoch=0)
            wanted.topics[0].topic_id = known.topic_id
            for version in (15, 16, 18):
                answer = after.ask(wanted, version)
                (row,) = rows(answer)
                assert row.error_code == ErrorCode.FENCED_LEADER_EPOCH
                told = [(row.current_leader.leader_id, row.current_leader.leader_epoch)]
                led = (known.partitions[0].leader_id, known.partitions[0].leader_epoch)
                assert told == ([led] if version >= 16 else [(-1, -1)])
                where = [f"{one.host}:{one.port}" for one in answer.node_endpoints]
                assert where == ([own.bootstrap] if version >= 16 else [])


def test_long_poll_wakes_for_enough_bytes(broker: Broker, peer: Peer) -> None:
    """A fetch for many bytes sleeps through small appends and wakes when they add up."""
    fill(peer, "poll")
    waiting = request("poll", 0, max_wait_ms=30_000)
    waiting.min_bytes = 400
    peer.send(waiting, 11)

    def append() -> None:
        with Peer(broker.bootstrap) as other:
            for _ in range(3):
                other.ask(produce_request("poll", batch(b"x" * 100)), 9)

    thread = threading.Thread(target=append)
    thread.start()
    (row,) = rows(peer.receive())
    thread.join()
    assert len(values(row)) == 3


def test_deleting_a_topic_wakes_its_readers(broker: Broker, peer: Peer) -> None:
    """A parked fetch is answered when its topic goes away."""
    fill(peer, "goes")
    peer.send(request("goes", 0, max_wait_ms=30_000), 11)
    with Peer(broker.bootstrap) as other:
        other.ask(DeleteTopicsRequest(topic_names=["goes"], timeout_ms=10_000), 5)
    (row,) = rows(peer.receive())
    assert row.error_code == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION


def test_sessions_name_only_what_changed(peer: Peer) -> None:
    """KIP-227: after the first answer, only partitions with news are named."""
    fill(peer, "session", b"a")
    first = peer.ask(request("session", 0, 0, session_epoch=0), 11)
    assert first.session_id > 0
    assert len(rows(first)) == 2
    again = request("session", session_id=first.session_id, session_epoch=1)
    again.topics = [FetchTopic("session", partitions=[FetchPartition(0, fetch_offset=1, partition_max_bytes=1 << 20)])]
    assert rows(peer.ask(again, 11)) == []
    fill(peer, "session", b"b", partition=1)
    (row,) = rows(peer.ask(request("session", session_id=first.session_id, session_epoch=2), 11))
    assert (row.partition_index, values(row)) == (1, [b"b"])
    forget = request("session", session_id=first.session_id, session_epoch=3)
    forget.forgotten_topics_data = [ForgottenTopic("session", partitions=[1])]
    assert rows(peer.ask(forget, 11)) == []


def test_sessions_that_are_not_there(peer: Peer) -> None:
    """Unknown ids and wrong epochs are refused as a whole; a closed session is unknown."""
    fill(peer, "lost", b"a")
    answer = peer.ask(request("lost", session_id=12345, session_epoch=1), 11)
    assert answer.error_code == ErrorCode.FETCH_SESSION_ID_NOT_FOUND
    begun = peer.ask(request("lost", 0, session_epoch=0), 11)
    wrong = peer.ask(request("lost", session_id=begun.session_id, session_epoch=9), 11)
    assert wrong.error_code == ErrorCode.INVALID_FETCH_SESSION_EPOCH
    closed = peer.ask(request("lost", 0, session_id=begun.session_id, session_epoch=-1), 11)
    assert (closed.session_id, len(rows(closed))) == (0, 1)
    gone = peer.ask(request("lost", session_id=begun.session_id, session_epoch=1), 11)
    assert gone.error_code == ErrorCode.FETCH_SESSION_ID_NOT_FOUND


def test_topics_by_id(broker: Broker, peer: Peer) -> None:
    """From version 13 on topics are named by id; an unknown one says so."""
    fill(peer, "ids", b"a")
    ask = request("", 0)
    ask.topics[0].topic_id = bytes(15) + b"\7"
    (row,) = rows(peer.ask(ask, 13))
    assert row.error_code == ErrorCode.UNKNOWN_TOPIC_ID


def test_a_session_names_only_what_is_new_to_it(peer: Peer) -> None:
    """Of two partitions that are read from their ends, only the one that was appended to comes back; then none does."""
    peer.make_topic("news")
    peer.ask(produce_request("news", batch(b"a")), 9)
    first = peer.ask(request("news", 1, 0, session_epoch=0), 11)
    assert [row.partition_index for row in rows(first)] == [0, 1]
    session = {"session_id": first.session_id}
    assert rows(peer.ask(request("news", session_epoch=1, **session), 11)) == []
    peer.ask(produce_request("news", batch(b"b")), 9)
    news = rows(peer.ask(request("news", session_epoch=2, **session), 11))
    assert [(row.partition_index, values(row)) for row in news] == [(0, [b"b"])]
    assert rows(peer.ask(request("news", 2, session_epoch=3, **session), 11)) == []


def test_a_partition_named_twice_is_read_once(peer: Peer) -> None:
    """The last wish counts, as in Kafka."""
    fill(peer, "twice", b"a", b"b")
    asked = request("twice", 0)
    asked.topics[0].partitions.append(FetchPartition(0, fetch_offset=1, partition_max_bytes=1 << 20))
    (row,) = rows(peer.ask(asked, 11))
    assert values(row) == [b"b"]


def test_partitions_are_answered_in_the_order_in_which_they_are_named(peer: Peer) -> None:
    """So that limits fall on the last ones, a topic comes again after another one, as in Kafka."""
    fill(peer, "order-a", b"one")
    fill(peer, "order-b", b"one")
    asked = [("order-b", 1), ("order-a", 0), ("order-b", 0), ("order-a", 1)]
    topics = [
        FetchTopic(topic, partitions=[FetchPartition(index, partition_max_bytes=1 << 20)]) for topic, index in asked
    ]
    for session_epoch in (-1, 0):
        answer = peer.ask(FetchRequest(max_wait_ms=0, session_epoch=session_epoch, topics=topics), 12)
        assert [(each.topic, row.partition_index) for each in answer.responses for row in each.partitions] == asked


def test_a_session_knows_what_an_id_meant(peer: Peer) -> None:
    """A topic that goes and is made again within a session: first there is none of its name, then it has another id."""
    fill(peer, "again", b"a")
    known = peer.ask(MetadataRequest([MetadataRequestTopic(name="again")]), 12).topics[0]
    first = request("", 1, session_epoch=0)
    first.topics[0].topic_id = known.topic_id
    session = {"session_id": peer.ask(first, 13).session_id}
    peer.ask(DeleteTopicsRequest(topic_names=["again"], timeout_ms=10_000), 5)
    (row,) = rows(peer.ask(request("", session_epoch=1, **session), 13))
    assert row.error_code == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    peer.make_topic("again")
    (row,) = rows(peer.ask(request("", session_epoch=2, **session), 13))
    assert row.error_code == ErrorCode.INCONSISTENT_TOPIC_ID


@pytest.mark.parametrize("version", [8, 9, 12])
@pytest.mark.parametrize(("codec", "acks"), [(0, 1), (0, -1), (4, 1)])
def test_a_greatest_time_that_is_missing_is_worked_out(peer: Peer, version: int, codec: int, acks: int) -> None:
    """Some clients leave it at -1; it is what offsets by time are found by."""
    topic = f"timeless-{version}-{codec}-{acks}"
    peer.make_topic(topic)
    data = build_batch([Record(at, time_ms, b"k", b"v", []) for at, time_ms in enumerate((50, 90, 70))], codec=codec)
    struct.pack_into(">q", data, 35, -1)
    struct.pack_into(">I", data, 17, crc32c.crc32c(data[21:]))
    answer = peer.ask(produce_request(topic, bytes(data), acks), version)
    assert answer.responses[0].partition_responses[0].error_code == 0
    (row,) = rows(peer.ask(request(topic, 0), 11))
    assert read_header(bytes(row.records)).max_timestamp == 90
    asked = ListOffsetsRequest(-1, 0, [ListOffsetsTopic(topic, [ListOffsetsPartition(0, -1, 60)])])
    found = peer.ask(asked, 7).topics[0].partitions[0]
    assert (found.offset, found.timestamp) == (1, 90)
