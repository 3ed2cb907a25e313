"""Running `logd-cli`: in this process, and where signals or pipes matter in one of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import IO, NamedTuple

import pytest
from click.testing import CliRunner

from logd.cli.main import main
from tests.kafka_node import kafka_bootstrap

COMMAND = (sys.executable, "-c", "from logd.cli.main import main; main()")


class Ran(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def rows(self) -> list[list[str]]:
        """The lines of the output as fields."""
        return [line.split("\t") for line in self.out.splitlines()]


Cli = Callable[..., Ran]


def environment(bootstrap: str) -> dict[str, str]:
    """The environment of a command that is to ask this server."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LOGD_", "_LOGD"))}
    return kept | {"LOGD_BOOTSTRAP": bootstrap, "NO_COLOR": "1"}


def run(bootstrap: str, *arguments: str, stdin: bytes = b"") -> Ran:
    """Run a command to its end, in this process."""
    done = CliRunner(env={"LOGD_BOOTSTRAP": bootstrap, "NO_COLOR": "1", "LOGD_TRACEBACK": "1"}).invoke(
        main, arguments, input=stdin
    )
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return Ran(done.exit_code, done.stdout, done.stderr)


def eventually(ask: Callable[[], bool], limit_s: float = 15.0) -> bool:
    """Ask until it is so: Apache Kafka's broker learns of what its controller has done a moment later."""
    deadline = time.monotonic() + limit_s
    while not (found := ask()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return found


def start(bootstrap: str, *arguments: str, stdout: int | IO[bytes] = subprocess.PIPE) -> subprocess.Popen[bytes]:
    """Start a command as a process of its own."""
    pipe = subprocess.PIPE
    variables = environment(bootstrap)
    return subprocess.Popen([*COMMAND, *arguments], stdin=pipe, stdout=stdout, stderr=pipe, env=variables)


@pytest.fixture(params=["logd", "kafka"])
def bootstrap(request: pytest.FixtureRequest) -> str:
    """The ``host:port`` of a broker; each test that asks for it runs against both."""
    if request.param == "kafka":
        return kafka_bootstrap()
    address: str = request.getfixturevalue("logd_broker").bootstrap
    return address


@pytest.fixture
def cli(bootstrap: str) -> Cli:
    """Run `logd-cli` against the broker: ``cli("topic", "list")``."""
    return lambda *arguments, stdin=b"": run(bootstrap, *arguments, stdin=stdin)


@pytest.fixture
def topic(cli: Cli, request: pytest.FixtureRequest) -> str:
    """A topic with two partitions that only this test uses."""
    name = f"t{abs(hash(request.node.nodeid))}"
    assert cli("topic", "create", name, "-p", "2").code == 0
    assert eventually(lambda: cli("topic", "describe", name).code == 0)
    return name
