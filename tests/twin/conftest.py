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
