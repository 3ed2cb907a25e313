"""Several data directories: partitions are spread, and one directory that fails takes no others with it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from logd.errors import ErrorCode
from logd.wire.schemas.create_topics import CreatableTopic, CreateTopicsRequest
from logd.wire.schemas.describe_log_dirs import DescribeLogDirsRequest
from tests.process.server import Server
from tests.raw import Peer, batch, produce_request

PARTITIONS = 6


def codes(peer: Peer, topic: str = "spread") -> list[int]:
    """Append to each partition; the error codes."""
    found = []
    for partition in range(PARTITIONS):
        answer = peer.ask(produce_request(topic, batch(b"x"), partition=partition), 9)
        found.append(answer.responses[0].partition_responses[0].error_code)
    return found


def create(peer: Peer, topic: str) -> None:
    answer = peer.ask(CreateTopicsRequest([CreatableTopic(topic, PARTITIONS, 1)], 10_000), 5)
    assert answer.topics[0].error_code == 0


@pytest.fixture
def homes(tmp_path: Path) -> list[Path]:
    return [tmp_path / name for name in ("first", "second", "third")]


@pytest.fixture
def server(homes: list[Path]) -> Iterator[Server]:
    found = Server(Path(",".join(map(str, homes))))
    found.log = homes[0].with_name("server.log")
    with found:
        with Peer(found.bootstrap) as peer:
            create(peer, "spread")
            assert codes(peer) == [0] * PARTITIONS
        yield found


def test_spread(server: Server, homes: list[Path]) -> None:
    """New partitions go where the fewest are; DescribeLogDirs tells; after a stop and a kill each is where it was."""
    assert [len(list(home.glob("spread-*"))) for home in homes] == [2, 2, 2]
    with Peer(server.bootstrap) as peer:
        results = peer.ask(DescribeLogDirsRequest(None), 2).results
        assert [(one.log_dir, len(one.topics[0].partitions)) for one in results] == [(str(home), 2) for home in homes]
    for end in (server.stop, server.kill):
        end()
        server.start()
        with Peer(server.bootstrap) as peer:
            assert codes(peer) == [0] * PARTITIONS
    assert sum(len(list(home.glob("spread-*"))) for home in homes) == PARTITIONS
    assert server.stop()[0] == 0


def test_one_fails(server: Server, homes: list[Path]) -> None:
    """With one directory unusable its partitions are refused, the others serve, new ones go elsewhere."""
    assert server.stop()[0] == 0
    lost = {int(path.name.rpartition("-")[2]) for path in homes[2].glob("spread-*")}
    shutil.move(homes[2], homes[2].with_name("aside"))
    homes[2].touch()
    server.start()
    storage = ErrorCode.KAFKA_STORAGE_ERROR
    with Peer(server.bootstrap) as peer:
        assert codes(peer) == [storage if index in lost else 0 for index in range(PARTITIONS)]
        create(peer, "later")
        assert codes(peer, "later") == [0] * PARTITIONS
        results = peer.ask(DescribeLogDirsRequest(None), 2).results
        assert [one.error_code for one in results][:2] == [0, 0]
        assert results[2].error_code == storage
    assert server.stop()[0] == 0
    homes[2].unlink()
    shutil.move(homes[2].with_name("aside"), homes[2])
    server.start()
    with Peer(server.bootstrap) as peer:
        assert codes(peer) == codes(peer, "later") == [0] * PARTITIONS
    assert server.stop()[0] == 0
