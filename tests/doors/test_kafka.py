"""The Kafka door: order of answers, limits, strangers, and peers that misbehave."""

from __future__ import annotations

import logging
import socket
import struct
from collections.abc import Iterator

import pytest
import trio

from logd.config import load
from logd.doors.listener import Guests, Listener
from logd.testing import Broker
from logd.wire.schemas.api_versions import ApiVersionsRequest
from logd.wire.schemas.fetch import FetchPartition, FetchRequest, FetchTopic
from logd.wire.schemas.list_transactions import ListTransactionsRequest
from logd.wire.schemas.metadata import MetadataRequest
from tests.raw import Peer, batch, produce_request


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    with Broker({"log.flush.mode": "group"}) as running:
        yield running


@pytest.fixture
def peer(broker: Broker) -> Iterator[Peer]:
    with Peer(broker.bootstrap) as connected:
        yield connected


def fetch_request(topic: str, offset: int, wait_ms: int) -> FetchRequest:
    part = FetchPartition(0, fetch_offset=offset, partition_max_bytes=1 << 20)
    return FetchRequest(max_wait_ms=wait_ms, min_bytes=1, topics=[FetchTopic(topic, partitions=[part])])


def test_pipelined_produce_keeps_its_order(peer: Peer) -> None:
    """Requests sent in one go are appended and answered in their order, though each waits for a flush."""
    peer.make_topic("order")
    peer.sock.sendall(b"".join(peer.frame(produce_request("order", batch(b"%d" % n)), 9) for n in range(40)))
    offsets = [peer.receive().responses[0].partition_responses[0].base_offset for _ in range(40)]
    assert offsets == list(range(40))


def test_answers_queue_behind_a_parked_one(peer: Peer, broker: Broker) -> None:
    """A request behind a long poll is answered after it, and not before."""
    peer.make_topic("parked")
    peer.send(fetch_request("parked", 0, 30_000), 11)
    peer.send(MetadataRequest([]), 9)
    with Peer(broker.bootstrap) as other:
        other.ask(produce_request("parked", batch(b"wake")), 9)
    assert peer.receive().responses[0].partitions[0].records
    assert peer.receive().topics == []


def test_refused_produce_answers_in_its_place(peer: Peer) -> None:
    """An answer that is ready at once waits for those before it."""
    peer.make_topic("mixed")
    good, bad = batch(b"x"), batch(b"y")[:-1] + b"!"
    peer.sock.sendall(b"".join(peer.frame(produce_request("mixed", records), 9) for records in (good, bad, good)))
    codes = [peer.receive().responses[0].partition_responses[0].error_code for _ in range(3)]
    assert codes == [0, 2, 0]


def test_acks_0_has_no_answer_and_a_failure_hangs_up(peer: Peer) -> None:
    """Nothing is answered with acks=0; when it fails the connection is closed, so that the client looks again."""
    peer.make_topic("none")
    peer.send(produce_request("none", batch(b"x"), acks=0), 9, answered=False)
    assert peer.ask(fetch_request("none", 0, 5000), 11).responses[0].partitions[0].high_watermark == 1
    peer.send(produce_request("absent", batch(b"x"), acks=0), 9, answered=False)
    assert peer.closed()


@pytest.mark.parametrize("pieces", [1, 3, 1000])
def test_bytes_may_come_in_any_pieces(peer: Peer, pieces: int) -> None:
    """A frame is a frame however the network cuts it."""
    data = peer.frame(ApiVersionsRequest("tests", "1"), 3)
    for at in range(0, len(data), pieces):
        peer.sock.sendall(data[at : at + pieces])
    assert peer.receive().error_code == 0


@pytest.mark.parametrize(
    ("first", "said"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "HTTP"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "TLS"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "SSH"),
        (struct.pack(">i", -1), "-1"),
        (struct.pack(">i", 0), "0"),
        (struct.pack(">i", 1 << 30), str(1 << 30)),
        (struct.pack(">ihhih", 10, 999, 0, 1, -1), "999"),
        (struct.pack(">ihhih", 10, 3, 99, 1, -1), "v99"),
        (struct.pack(">ihhih", 10, 3, 9, 1, -1), "does not decode"),
    ],
)
def test_strangers_are_hung_up_on_with_a_reason(
    broker: Broker, caplog: pytest.LogCaptureFixture, first: bytes, said: str
) -> None:
    """What is not a request that is served closes the connection, and one log line names the peer and the reason."""
    with caplog.at_level(logging.WARNING, "logd"), Peer(broker.bootstrap) as stranger:
        address = stranger.sock.getsockname()
        stranger.sock.sendall(first)
        assert stranger.closed()
    lines = [line for line in caplog.messages if f"{address[0]}:{address[1]}" in line]
    assert len(lines) == 1
    assert said in lines[0]


@pytest.mark.parametrize("pieces", [7, 11, 50_000])
def test_first_request_may_be_big(broker: Broker, peer: Peer, pieces: int) -> None:
    """kafkajs asks for the versions on its first connection only: the first words of the next may be a big Produce."""
    peer.make_topic("big")
    with Peer(broker.bootstrap) as first:
        data = first.frame(produce_request("big", batch(b"x" * 100_000)), 9)
        for piece in (data[:pieces], data[pieces:]):
            first.sock.sendall(piece)
        assert first.receive().responses[0].partition_responses[0].error_code == 0


@pytest.mark.parametrize(
    "head",
    [
        struct.pack(">hhih", 999, 0, 1, -1),
        struct.pack(">hhih", 3, 99, 1, -1),
        struct.pack(">hhih", 3, 9, 1, -2),
        b"\xff" * 10,
    ],
)
def test_first_frame_may_not_be_big_unless_it_is_a_request(broker: Broker, peer: Peer, head: bytes) -> None:
    """Before a peer has said anything sensible, it gets no room for a big frame."""
    with Peer(broker.bootstrap) as stranger:
        stranger.sock.sendall(struct.pack(">i", 100_000) + head)
        assert stranger.closed()
    assert peer.ask(MetadataRequest([]), 9).topics == []


def test_a_request_over_the_limit_is_not_read(peer: Peer) -> None:
    """``socket.request.max.bytes`` holds for a request that begins as one, too."""
    peer.sock.sendall(struct.pack(">ihhih", (100 << 20) + 1, 0, 9, 1, -1))
    assert peer.closed()


def test_a_peer_that_leaves_half_way_harms_nobody(broker: Broker, peer: Peer) -> None:
    """Half a frame, or a parked fetch, and gone: the others are served."""
    peer.make_topic("gone")
    with Peer(broker.bootstrap) as leaver:
        leaver.sock.sendall(leaver.frame(MetadataRequest([]), 9)[:7])
    with Peer(broker.bootstrap) as leaver:
        leaver.send(fetch_request("gone", 0, 60_000), 11)
        leaver.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert peer.ask(MetadataRequest([]), 9).topics == []


def test_connections_of_one_address_are_limited() -> None:
    """``max.connections.per.ip``: one too many is closed at once, and there is room again when another leaves."""
    with Broker({"max.connections.per.ip": "3"}) as small:
        peers = [Peer(small.bootstrap) for _ in range(3)]
        for one in peers:
            assert one.ask(MetadataRequest([]), 9).topics == []
        with Peer(small.bootstrap) as fourth:
            assert fourth.closed()
        peers.pop().sock.close()
        while True:
            with Peer(small.bootstrap) as again:
                again.send(MetadataRequest([]), 9)
                if not again.closed():
                    break
        for one in peers:
            one.sock.close()


def test_a_big_answer_is_whole_before_a_parked_one(peer: Peer) -> None:
    """An answer that the socket can't take at once isn't mixed with the one behind it."""
    peer.make_topic("big-first")
    for _ in range(8):
        peer.ask(produce_request("big-first", batch(b"x" * 900_000)), 9)
    big = fetch_request("big-first", 0, 0)
    big.topics[0].partitions[0].partition_max_bytes = 1 << 24
    small = produce_request("big-first", batch(b"y"))
    peer.sock.sendall(peer.frame(big, 11) + b"".join(peer.frame(small, 9) for _ in range(5)))
    assert sum(map(len, [peer.receive().responses[0].partitions[0].records])) > 7_000_000
    offsets = [peer.receive().responses[0].partition_responses[0].base_offset for _ in range(5)]
    assert offsets == [8, 9, 10, 11, 12]


def test_a_parked_answer_is_given_before_the_connection_ends(peer: Peer, broker: Broker) -> None:
    """Rubbish behind a request that waits ends the connection after that request's answer."""
    peer.make_topic("last")
    peer.sock.sendall(peer.frame(fetch_request("last", 0, 30_000), 11) + struct.pack(">ihhih", 10, 999, 0, 1, -1))
    with Peer(broker.bootstrap) as other:
        other.ask(produce_request("last", batch(b"wake")), 9)
    assert peer.receive().responses[0].partitions[0].records
    assert peer.closed()


def test_acknowledgements_are_given_before_the_connection_ends(peer: Peer) -> None:
    """What was appended and waits for its flush is acknowledged, though the next frame ends the connection."""
    peer.make_topic("acked")
    good = b"".join(peer.frame(produce_request("acked", batch(b"%d" % n)), 9) for n in range(3))
    peer.sock.sendall(good + struct.pack(">ihhih", 10, 0, 9, 1, -1))
    offsets = [peer.receive().responses[0].partition_responses[0].base_offset for _ in range(3)]
    assert offsets == [0, 1, 2]
    assert peer.closed()


def test_many_requests_behind_a_parked_one(peer: Peer, broker: Broker) -> None:
    """Whatever waits behind a long poll is answered after it, all of it, in order."""
    peer.make_topic("queue")
    peer.send(fetch_request("queue", 0, 30_000), 11)
    peer.sock.sendall(
        b"".join(
            peer.frame(produce_request("queue", batch(b"%d" % n)), 9) + peer.frame(MetadataRequest([]), 9)
            for n in range(100)
        )
    )
    with Peer(broker.bootstrap) as other:
        other.ask(produce_request("queue", batch(b"wake")), 9)
    assert peer.receive().responses[0].partitions[0].records
    for n in range(100):
        assert peer.receive().responses[0].partition_responses[0].base_offset == n + 1
        assert peer.receive().topics == []


@pytest.mark.parametrize("last", [bytes(4), b"\xff" * 4, b"\x7f" + b"\xff" * 3])
def test_a_bad_frame_behind_a_request_that_waits(broker: Broker, last: bytes) -> None:
    """What came before it is answered, then the connection is closed; nobody is left waiting."""
    with Peer(broker.bootstrap) as peer:
        peer.make_topic("behind")
    with Peer(broker.bootstrap) as peer:
        peer.sock.sendall(peer.frame(ListTransactionsRequest(), 1) + last)
        assert peer.receive().error_code == 0
        assert peer.closed()
    with Peer(broker.bootstrap) as peer:
        peer.sock.sendall(peer.frame(produce_request("behind", batch(b"x")), 9) + last)
        assert peer.receive().responses[0].partition_responses[0].error_code == 0
        assert peer.closed()


@pytest.mark.trio
async def test_sockets_have_the_sizes_that_are_set() -> None:
    """The system doubles what it is told, for its own needs (socket(7)), and gives it to what is accepted."""
    sets = ["socket.receive.buffer.bytes=60000", "socket.send.buffer.bytes=70000"]
    guests = Guests(lambda: (9, 9))
    listener = await Listener.bind("PLAINTEXT", "127.0.0.1", 0, load(sets=sets), guests, lambda sock, connection: None)
    with socket.create_connection(("127.0.0.1", listener.port)):
        await trio.lowlevel.wait_readable(listener.sock)
        accepted, _ = listener.sock.accept()
    with accepted:
        options = (socket.SO_RCVBUF, socket.SO_SNDBUF)
        sizes = [accepted.getsockopt(socket.SOL_SOCKET, option) for option in options]
    listener.close()
    assert sizes == [120_000, 140_000]
