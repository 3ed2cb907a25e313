"""The brokers of one test session, one for each distinct set of settings.

:class:`BrokerPool` starts a broker when a test first asks for its settings and lends it to one test after the other,
emptied in between. Owned by the pytest plugin; it knows nothing of pytest.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from logd.testing.broker import Broker
from logd.testing.errors import BrokerFailed

BROKERS_MAX = 4

Key = frozenset[tuple[str, str]]


class BrokerPool:
    """Running brokers, the one that was lent last at the end.

    :param directory: where each gets a directory of its own for its data; None means in memory.
    """

    def __init__(self, directory: Path | None = None) -> None:
        self._directory = directory
        self._brokers: dict[Key, Broker] = {}
        self._started = 0

    @contextmanager
    def lend(self, settings: Mapping[str, str]) -> Iterator[Broker]:
        """A broker with these settings, without topics and groups, for one test.

        A broker that a test stopped, or that failed, is given up; when it failed, its exception is raised.
        """
        key = frozenset(settings.items())
        broker = self._brokers.pop(key, None) or self._start(settings)
        try:
            yield broker
            if broker.running or broker.failed:
                broker.reset()
        except BaseException:
            self._give_up(broker)
            raise
        if broker.running:
            self._brokers[key] = broker
        else:
            broker.close()
        self._shorten()

    def close(self) -> None:
        """Stop all brokers."""
        while self._brokers:
            self._brokers.popitem()[1].close()

    def _start(self, settings: Mapping[str, str]) -> Broker:
        self._started += 1
        data_dir = None if self._directory is None else self._directory / str(self._started)
        broker = Broker(settings, data_dir)
        try:
            broker.start()
        except BaseException:
            broker.close()
            raise
        return broker

    def _shorten(self) -> None:
        while len(self._brokers) > BROKERS_MAX:
            self._brokers.pop(next(iter(self._brokers))).close()

    def _give_up(self, broker: Broker) -> None:
        """Close a broker of which nothing is expected any more; what went wrong is on its way up already."""
        with suppress(BrokerFailed):
            broker.close()
