"""Rot in old segments is found without anybody reading them, and named by file and position."""

from __future__ import annotations

import re
import time
from pathlib import Path

from logd.wire.schemas.fetch import FetchPartition, FetchRequest, FetchTopic
from tests.process.server import PATIENCE_S, Server
from tests.process.test_damage import flip
from tests.raw import NOW_MS, Peer, batch, produce_request


def test_rot_is_found(tmp_path: Path) -> None:
    """The scrub names the damaged file and batch, once; a read refuses it; the rest is served."""
    options = ("--set", "log.scrub.interval.ms=0", "--set", "log.roll.ms=1")
    with Server(tmp_path / "data", *options) as server:
        with Peer(server.bootstrap) as peer:
            peer.make_topic("rotten")
            for number in range(4):  # segments are rolled by the time of their records
                answer = peer.ask(produce_request("rotten", batch(b"x", timestamp=NOW_MS + 1000 * number)), 9)
                assert answer.responses[0].partition_responses[0].error_code == 0
        assert server.stop()[0] == 0
        victim = sorted((tmp_path / "data" / "rotten-0").glob("*.log"))[1]
        flip(victim, 65)
        server.start()
        end = time.monotonic() + PATIENCE_S
        while "stored data is damaged" not in server.log.read_text() and time.monotonic() < end:
            time.sleep(0.1)  # until the scrub comes round
        found = re.findall(r"stored data is damaged: (\S+) at byte (\d+)", server.log.read_text())
        assert found == [(str(victim), "0")]
        with Peer(server.bootstrap) as peer:
            for offset, code in ((0, 0), (1, 56), (2, 0)):
                part = FetchPartition(0, -1, offset, -1, -1, 100)
                request = FetchRequest(max_wait_ms=0, max_bytes=100, topics=[FetchTopic("rotten", partitions=[part])])
                assert peer.ask(request, 11).responses[0].partitions[0].error_code == code
        assert server.stop()[0] == 0
