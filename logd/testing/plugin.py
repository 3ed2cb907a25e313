"""The pytest plugin ``logd``: the fixture ``logd_broker``, a marker and two ini options.

pytest loads this module in every project that has logd installed, so it imports nothing but pytest; the broker is
imported when the fixture is first used. The plugin owns the brokers it started, at most one for each distinct set
of settings, and stops them when the session ends. Tests call nothing here, they ask for the fixture.

Settings come from the ini option ``logd_settings`` (lines of ``key=value`` with Kafka's names) and, for one test,
class or module, from ``@pytest.mark.logd(settings={"num.partitions": 4})``. The ini option ``logd_data`` says where
the data lives: ``memory`` (the default; a tmpfs where there is one) or ``disk`` (pytest's temporary directory).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from logd.testing.broker import Broker
    from logd.testing.pool import BrokerPool


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the two ini options."""
    parser.addini("logd_settings", "logd: broker settings, one key=value a line, with Kafka's names", "linelist")
    parser.addini("logd_data", "logd: where the broker's data lives, memory or disk", default="memory")


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker."""
    config.addinivalue_line("markers", "logd(settings): broker settings of the logd_broker fixture for this test")


def marked_settings(lines: list[str], markers: list[pytest.Mark]) -> dict[str, str]:
    """Return the settings of one test: the ini lines, overridden by its markers, the closest one last."""
    settings: dict[str, str] = {}
    for line in lines:
        key, equals, value = line.partition("=")
        if not equals:
            raise pytest.UsageError(f"logd_settings: {line!r} is not key=value")
        settings[key.strip()] = value.strip()
    for marker in reversed(markers):
        if marker.args or marker.kwargs.keys() - {"settings"}:
            raise pytest.UsageError("pytest.mark.logd takes nothing but settings={name: value}")
        chosen: Mapping[str, object] = marker.kwargs.get("settings", {})
        settings.update((key, spelled(value)) for key, value in chosen.items())
    return settings


def spelled(value: object) -> str:
    """Return a setting's value as a settings file spells it: booleans in lower case, the rest by str."""
    return str(value).lower() if isinstance(value, bool) else str(value)


@pytest.fixture(scope="session")
def logd_pool(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerPool]:
    """Keep the brokers of the session. Ask for ``logd_broker`` instead."""
    from logd.testing.pool import BrokerPool

    where = request.config.getini("logd_data")
    if where not in ("memory", "disk"):
        raise pytest.UsageError(f"logd_data is {where!r}: it takes memory or disk")
    pool = BrokerPool(tmp_path_factory.mktemp("logd") if where == "disk" else None)
    yield pool
    pool.close()


@pytest.fixture
def logd_broker(request: pytest.FixtureRequest, logd_pool: BrokerPool) -> Iterator[Broker]:
    """Give the test a running broker without topics and groups, and take both away afterwards.

    One broker serves all tests of the session that ask for the same settings. A test that fails because the broker
    failed says so: the broker's own exception is raised when the fixture ends.
    """
    settings = marked_settings(request.config.getini("logd_settings"), list(request.node.iter_markers("logd")))
    with logd_pool.lend(settings) as broker:
        yield broker
