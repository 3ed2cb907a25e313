"""Peers that ask for much and read nothing cost the server next to no memory."""

from __future__ import annotations

import os
import re
import socket
from contextlib import ExitStack
from pathlib import Path

import pytest

from logd.wire.frames import request_bytes
from logd.wire.schemas.fetch import FetchPartition, FetchRequest, FetchTopic
from tests.process.server import Server
from tests.raw import Peer, batch, produce_request

READERS = 100
BATCHES = 24
GROWTH_KIB_MAX = 48 * 1024


def anonymous_kib(pid: int) -> int:
    """Memory of a process that no file backs."""
    found = re.search(r"RssAnon:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    assert found
    return int(found[1])


@pytest.mark.parametrize("restarted", [False, True])
def test_slow_readers(tmp_path: Path, restarted: bool) -> None:
    """A hundred readers that read nothing of 20 MB each leave its memory flat, also of data that it did not write."""
    options = ("--set", "log.segment.bytes=4194304", "--set", "num.partitions=1", "--set", "log.flush.mode=os")
    with Server(tmp_path / "data", *options) as server, ExitStack() as slow:
        with Peer(server.bootstrap) as peer:
            peer.make_topic("much")
            for _ in range(BATCHES):
                peer.ask(produce_request("much", batch(os.urandom(900_000))), 9)
        if restarted:
            server.stop()
            server.start()
        before = anonymous_kib(server.pid)
        host, _, port = server.bootstrap.rpartition(":")
        readers = []
        for reader in range(READERS):
            sock = slow.enter_context(socket.create_connection((host, int(port))))
            part = FetchPartition(0, fetch_offset=reader % BATCHES, partition_max_bytes=20 << 20)
            request = FetchRequest(max_wait_ms=0, max_bytes=20 << 20, topics=[FetchTopic("much", partitions=[part])])
            sock.sendall(request_bytes(1, 11, 1, "slow", request) * 8)
            readers.append(sock)
        for sock in readers:  # until each has an answer that it does not take
            sock.settimeout(60)
            assert sock.recv(1, socket.MSG_PEEK)
        with Peer(server.bootstrap, timeout_s=60) as peer:
            for _ in range(100):
                assert (
                    peer.ask(produce_request("much", batch(b"x")), 9).responses[0].partition_responses[0].error_code
                    == 0
                )
        assert anonymous_kib(server.pid) - before < GROWTH_KIB_MAX
        assert server.stop()[0] == 0
