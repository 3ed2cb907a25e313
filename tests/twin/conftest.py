"""The two servers, started once for the tests of this directory."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from . import servers


@pytest.fixture(scope="session")
def both() -> Iterator[servers.Twins]:
    """A real Kafka and a logd; the tests are skipped, with the reason, where there can be no Kafka."""
    if reason := servers.missing():
        pytest.skip(reason)
    with servers.twins() as pair:
        yield pair


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say why logd was not compared with a real Kafka, if it was not."""
    if servers.missing.cache_info().currsize and servers.missing():
        terminalreporter.write_line(f"tests/twin: skipped, there is no real Kafka here: {servers.missing()}")
