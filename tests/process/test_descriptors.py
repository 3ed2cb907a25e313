"""Few file descriptors: a flood of connections is turned away, and the logs keep what they need."""

from __future__ import annotations

import os
import socket
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from tests.process.server import Server
from tests.raw import Peer, batch, produce_request

CONNECTIONS = 200


def produce(peer: Peer, topic: str, size_bytes: int) -> int:
    """Append one batch; the error code."""
    answer = peer.ask(produce_request(topic, batch(os.urandom(size_bytes))), 9)
    code: int = answer.responses[0].partition_responses[0].error_code
    return code


def until_served(bootstrap: str) -> None:
    """Connect until the server has seen that the others have left, and serves."""
    for _ in range(1000):
        with suppress(OSError, AssertionError), Peer(bootstrap) as later:
            assert produce(later, "during", 10) == 0
            return
    raise AssertionError("it does not serve again")


@pytest.mark.parametrize("files_max", [64, 128])
def test_flood_of_connections(tmp_path: Path, files_max: int) -> None:
    """With few descriptors and many connections who is there already goes on: appends, rolls, new topics."""
    with ExitStack() as crowd, Server(tmp_path / "data", files_max=files_max) as server, Peer(server.bootstrap) as peer:
        peer.make_topic("before")
        host, _, port = server.bootstrap.rpartition(":")
        for _ in range(CONNECTIONS):
            with suppress(OSError):
                crowd.enter_context(socket.create_connection((host, int(port)), timeout=5))
        assert [produce(peer, "before", 900_000) for _ in range(6)] == [0] * 6
        peer.make_topic("during")
        assert produce(peer, "during", 10) == 0
        crowd.close()
        until_served(server.bootstrap)
        assert server.stop()[0] == 0
