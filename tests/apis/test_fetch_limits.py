"""What min_bytes and max_bytes of a Fetch mean where data is cut short, is old, or is not in memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from logd.log.disk import RealDisk
from logd.log.log import Log, LogConfig
from logd.testing import Broker
from logd.wire.schemas.create_topics import CreatableTopic, CreatableTopicConfig, CreateTopicsRequest
from logd.wire.schemas.fetch import FetchRequest
from tests.apis.test_fetch import fill, request, rows, values
from tests.log import compacting
from tests.raw import Peer, batch, produce_request

LONG_MS = 60_000
"""A wait that no test waits for: its peer gives up long before."""

MEGABYTE = 1 << 20


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    with Broker() as running:
        yield running


@pytest.fixture
def peer(broker: Broker) -> Iterator[Peer]:
    with Peer(broker.bootstrap) as connected:
        yield connected


def asking(topic: str, offset: int, min_bytes: int, **how: int) -> FetchRequest:
    wanted = request(topic, offset, max_wait_ms=LONG_MS, **how)
    wanted.min_bytes = min_bytes
    return wanted


def make(peer: Peer, topic: str, partitions: int = 1, cleanup_policy: str = "delete") -> None:
    """A topic with segments of the least size."""
    given = {"segment.bytes": str(MEGABYTE), "cleanup.policy": cleanup_policy}
    configs = [CreatableTopicConfig(name, value) for name, value in given.items()]
    made = peer.ask(CreateTopicsRequest([CreatableTopic(topic, partitions, 1, [], configs)], 10_000), 7)
    assert made.topics[0].error_code == 0


def put(peer: Peer, topic: str, size: int, partition: int = 0) -> None:
    answer = peer.ask(produce_request(topic, batch(bytes(size)), partition=partition), 9)
    assert answer.responses[0].partition_responses[0].error_code == 0


def test_batches_that_no_longer_fit_count(peer: Peer) -> None:
    """A partition with a backlog fills its limit: nobody waits for the bytes that a whole batch leaves over."""
    fill(peer, "cut", *(b"x" * 300 for _ in range(9)))
    (row,) = rows(peer.ask(asking("cut", 0, 1000, partition_bytes=1000), 11))
    assert len(values(row)) == 2


def test_no_more_is_waited_for_than_may_be_sent(peer: Peer) -> None:
    """A min_bytes over max_bytes means max_bytes, as in Kafka."""
    fill(peer, "over", b"x" * 300, b"x" * 300)
    (row,) = rows(peer.ask(asking("over", 0, 100_000, max_bytes=700), 11))
    assert len(values(row)) == 1


def test_an_older_segment_is_answered_at_once(peer: Peer) -> None:
    """Who reads far behind gets the rest of a segment, however little, without a wait."""
    make(peer, "older")
    for _ in range(3):
        put(peer, "older", 600_000)
    (row,) = rows(peer.ask(asking("older", 0, 4 * MEGABYTE, partition_bytes=8 * MEGABYTE), 11))
    assert len(bytes(row.records)) < MEGABYTE


@pytest.mark.parametrize("max_bytes", [1, MEGABYTE])
def test_what_is_not_in_memory_keeps_to_the_limit(max_bytes: int) -> None:
    """After a restart nothing is known of old segments before they are read; the answer is no larger for that."""
    partitions = 4
    with Broker() as own:
        with Peer(own.bootstrap) as before:
            make(before, "cold", partitions)
            for partition in range(partitions):
                for _ in range(4):
                    put(before, "cold", 450_000, partition)
        own.restart()
        with Peer(own.bootstrap) as after:
            found = rows(
                after.ask(request("cold", *[0] * partitions, max_bytes=max_bytes, partition_bytes=500_000), 11)
            )
        sizes = [len(bytes(row.records)) for row in found]
        assert 0 < sum(sizes) <= max(max_bytes, 460_000)
        assert sizes[0]


def test_behind_the_gap_at_a_compacted_segments_end(tmp_path: Path) -> None:
    """What is behind is answered, also where nobody knew of the gap before the disk was asked."""
    with Broker(data_dir=tmp_path) as own:
        with Peer(own.bootstrap) as before:
            make(before, "gap", cleanup_policy="compact")
        own.stop()
        disk = RealDisk()
        log = Log.open(str(tmp_path / "gap-0"), LogConfig(segment_bytes=400), clean=True, now_ms=0, disk=disk)
        compacting.put(log, ("early", "x" * 100))
        for _ in range(3):
            compacting.put(log, ("late", "x" * 100))
            compacting.roll(log)
        compacting.put(log, ("last", "x"))
        compacting.clean(log, disk)
        assert log.segments[0].next_offset == 2
        log.close()
        own.start()
        with Peer(own.bootstrap) as after:
            (row,) = rows(after.ask(request("gap", 1), 11))
            assert len(values(row)) == 1
