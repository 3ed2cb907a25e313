"""What becomes of an error: its exit code, and the words that are shown."""

from __future__ import annotations

from collections.abc import Iterable

import click
import pytest
import trio
from trio.testing import MockClock

from logd.cli.failures import INTERRUPTED, Failure, explain, show
from logd.cli.options import Settings
from logd.cli.server import Program
from logd.cli.session import client_settings, only, until_lost
from logd.client import CannotConnect, ConnectionLost, NotSupported, Router, TimedOut
from logd.client.address import Address
from logd.client.metadata import Broker, Metadata
from logd.errors import Corrupt, DecodeError, ErrorCode, Refused
from logd.testing import Broker as Served
from tests.cli.conftest import run


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Refused(ErrorCode.INVALID_CONFIG, "no"), 1),
        (Refused(ErrorCode.TOPIC_AUTHORIZATION_FAILED, "no"), 4),
        (Refused(ErrorCode.GROUP_AUTHORIZATION_FAILED, "no"), 4),
        (Refused(ErrorCode.CLUSTER_AUTHORIZATION_FAILED, "no"), 4),
        (Refused(ErrorCode.SASL_AUTHENTICATION_FAILED, "no"), 4),
        (Refused(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, "no"), 5),
        (Refused(ErrorCode.GROUP_ID_NOT_FOUND, "no"), 5),
        (Refused(ErrorCode.TOPIC_ALREADY_EXISTS, "no"), 6),
        (Refused(ErrorCode.REQUEST_TIMED_OUT, "no"), 7),
        (CannotConnect("a", "b"), 3),
        (ConnectionLost("a", "b"), 3),
        (TimedOut("a", "b"), 7),
        (NotSupported("a", "b"), 1),
        (DecodeError("a"), 1),
        (Corrupt("file", 5, "bad"), 1),
        (PermissionError(13, "Permission denied", "file"), 1),
        (Failure("a", "b", code=8), 8),
    ],
)
def test_exit_codes(error: Exception, code: int) -> None:
    """Each kind of error has its code, whichever layer it comes from."""
    failure = explain(error)
    assert failure is not None
    assert failure.code == code


def test_a_bug_of_ours_is_not_dressed_up() -> None:
    """An error that nobody expected is not explained, so that its traceback is seen."""
    assert explain(KeyError("x")) is None


def test_what_may_pass_says_so() -> None:
    """A coordinator that is not there yet is told in words, and that it is worth another try."""
    failure = explain(Refused(ErrorCode.NOT_COORDINATOR, "group 'g': NOT_COORDINATOR"))
    assert failure is not None
    assert (
        failure.why
        == "no broker answers for the group yet: the server has just started, or makes its topic (NOT_COORDINATOR)"
    )
    assert failure.remedy.startswith("try again in a moment")
    other = explain(Refused(ErrorCode.INVALID_CONFIG, "no"))
    assert other is not None
    assert other.remedy == "the server's log may say more"


def test_errors_of_several_tasks_that_are_one() -> None:
    """Ctrl-C goes before all; a pipe that two tasks find broken is broken once; others stay together."""
    broken, other = BrokenPipeError(), ValueError()
    assert isinstance(only(BaseExceptionGroup("", [other, KeyboardInterrupt()])), KeyboardInterrupt)
    inner = BaseExceptionGroup("", [broken])
    assert isinstance(only(BaseExceptionGroup("", [broken, inner])), BrokenPipeError)
    assert only(BaseExceptionGroup("", [BaseExceptionGroup("", [other])])) is other
    both = BaseExceptionGroup("", [broken, other])
    assert only(both) is both


def test_three_lines_and_no_more(capsys: pytest.CaptureFixture[str]) -> None:
    """What, why and what to type next stand on one line each, whatever the server's message holds."""
    show(Failure("what", "line one\nline two", ""))
    assert capsys.readouterr().err == "error: what\nwhy:   line one line two\n"


def test_the_name_of_a_refusal_is_shown_once() -> None:
    """The error's name stands behind the server's sentence, or in it."""
    named = explain(Refused(ErrorCode.INVALID_CONFIG, "retention.ms is wrong."))
    assert named is not None
    assert named.why == "retention.ms is wrong (INVALID_CONFIG)"
    bare = explain(Refused(ErrorCode.INVALID_CONFIG, "topic 't': INVALID_CONFIG"))
    assert bare is not None
    assert bare.why == "topic 't': INVALID_CONFIG"


def test_ctrl_c_while_a_server_starts(capsys: pytest.CaptureFixture[str]) -> None:
    """Before it listens for signals: it ends with the usual code, and without a traceback."""

    def interrupt() -> None:
        raise KeyboardInterrupt

    program = Program("logd", commands=[click.Command("serve", callback=interrupt)])
    with pytest.raises(SystemExit) as ended:
        program.main(["serve"])
    assert ended.value.code == INTERRUPTED
    assert not capsys.readouterr().err.strip()


class Gone(Router):
    """A router whose server has gone away."""

    async def refresh(self, topics: Iterable[str] | None = None, *, create: bool = False) -> Metadata:
        raise CannotConnect("cannot connect to it", "connection refused", "start it")

    async def try_refresh(self, topics: Iterable[str]) -> None:
        pass


@pytest.mark.trio
async def test_a_server_that_goes_away_is_waited_for(autojump_clock: MockClock) -> None:
    """By what only reads, for as long as --timeout says."""
    router = Gone("127.0.0.1:1", client_settings(Settings(given_timeout_s=7.0)))
    router.metadata = Metadata(brokers={0: Broker(0, Address("127.0.0.1", 1), None)})
    started = trio.current_time()
    with pytest.raises(CannotConnect):
        await until_lost(router)
    assert 7 < trio.current_time() - started < 7 + 5 + 2


@pytest.mark.parametrize("command", ["consume orders", "tail orders", "bench consume orders"])
def test_whoever_only_reads_is_told(logd_broker: Served, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    """That the server is lost ends the command with exit code 3."""

    async def lost(router: Router) -> None:
        raise CannotConnect("cannot connect to it", "connection refused", "start it")

    logd_broker.create_topic("orders")
    run(logd_broker.bootstrap, "produce", "orders", "--value", "x")
    for module in ("consume", "bench"):
        monkeypatch.setattr(f"logd.cli.{module}.until_lost", lost)
    assert run(logd_broker.bootstrap, *command.split()).code == 3
