"""What a server says when it would have much to say."""

from __future__ import annotations

import logging
import socket
from pathlib import Path

from logd.cli.server import LINES_A_SECOND, Sparing
from tests.process.server import Server


def line(text: str, second: int) -> logging.LogRecord:
    record = logging.LogRecord("logd", logging.WARNING, "", 0, text, ("x",), None)
    record.created = float(second)
    return record


def test_sparing() -> None:
    """Of one kind of line so many pass in a second; then one says how many did not; other kinds are not touched."""
    sparing = Sparing()
    passed = [sparing.filter(line("a %s", 1)) for _ in range(LINES_A_SECOND + 5)]
    assert passed == [True] * LINES_A_SECOND + [False] * 5
    assert sparing.filter(line("b %s", 1))
    later = line("a %s", 2)
    assert sparing.filter(later)
    assert later.getMessage() == "a x (and 5 more like this)"
    assert sparing.filter(again := line("a %s", 2))
    assert again.getMessage() == "a x"


def test_a_flood_of_bad_frames(tmp_path: Path) -> None:
    """A thousand bad frames do not make a thousand lines."""
    with Server(tmp_path / "data") as server:
        host, _, port = server.bootstrap.rpartition(":")
        for _ in range(1000):
            with socket.create_connection((host, int(port))) as peer:
                peer.sendall(b"\xff\xff\xff\xff")
                peer.recv(1)
        assert server.stop()[0] == 0
        lines = server.log.read_text().count("\n")
    assert 0 < lines < 1000
