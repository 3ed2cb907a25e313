"""What all tests share: their order, and the line that repeats a failed check of ``tools/test`` at the end."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

WITH_SERVERS = {"clients", "process", "testing", "twin"}
BROKERS = {"logd_broker", "bootstrap"}


settings.register_profile("logd", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("logd")  # a test is not wrong because the machine is busy


def pytest_configure() -> None:
    """Let signals reach what tests start: a shell's background jobs ignore Ctrl-C, those of nohup SIGHUP."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda _number, _frame: None)  # a handler is not inherited, unlike SIG_IGN


@pytest.fixture
def nothing_held() -> Iterator[None]:
    """Producers that an exception still holds go with their test: they would look for the server after its end."""
    yield
    gc.collect()


def drives_a_server(item: pytest.Item) -> bool:
    """True for a test after which a broker may go on living in this process, or that takes long to start one."""
    return bool(WITH_SERVERS & set(item.path.parts) or BROKERS & set(getattr(item, "fixturenames", ())))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run what needs no server first: it is quick to fail, and measures memory without brokers in other threads."""
    items.sort(key=drives_a_server)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say just before the closing line which of the other checks failed, if ``tools/test`` ran them."""
    if failed := os.environ.get("LOGD_TEST_FAILED"):
        terminalreporter.section("other checks", red=True)
        terminalreporter.line(f"FAILED: {failed} (their output stands above the tests')", red=True)
