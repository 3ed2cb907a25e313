"""Contexts: named connections, what goes before what, a damaged file."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from logd.cli.contexts import Context, Contexts, load, location, save
from logd.cli.main import main


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration directory of its own."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for name in ("LOGD_BOOTSTRAP", "LOGD_CONTEXT"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def invoke(*arguments: str, **variables: str) -> Result:
    return CliRunner(env=dict(variables)).invoke(main, list(arguments))


def asked(*arguments: str, **variables: str) -> str:
    """The server that a command asks: nothing listens there."""
    return invoke(*arguments, **variables).stderr.splitlines()[0].removeprefix("error: cannot connect to ")


def test_add_use_list_remove() -> None:
    """The first one is in use until another is; a name that is taken is exit code 6, one that is not there 5."""
    assert invoke("context", "add", "near", "127.0.0.1:1").exit_code == 0
    assert invoke("context", "add", "far", "127.0.0.1:2", "--timeout", "3", "-o", "tsv").exit_code == 0
    assert invoke("context", "list").stdout == "far\tno\t127.0.0.1:2\t3.0\ttsv\nnear\tyes\t127.0.0.1:1\t\t\n"
    assert invoke("context", "add", "far", "127.0.0.1:3").exit_code == 6
    assert invoke("context", "add", "far", "127.0.0.1:3", "--replace", "--use").exit_code == 0
    assert asked("topic", "list") == "127.0.0.1:3"
    missing = invoke("context", "use", "nearr")
    assert (missing.exit_code, "did you mean 'near'" in missing.stderr) == (5, True)
    assert invoke("context", "remove", "far").exit_code == 0
    assert asked("topic", "list") == "127.0.0.1:9092"
    assert invoke("context", "use", "near").exit_code == 0
    assert asked("topic", "list") == "127.0.0.1:1"
    assert invoke("context", "use", "-").exit_code == 0
    assert load().current is None


def test_what_names_the_server() -> None:
    """`context show` tells the server that is asked, and which flag, variable or context names it."""

    def shown(*arguments: str, **variables: str) -> list[str]:
        return invoke(*arguments, "context", "show", **variables).stdout.split("\t")[:2]

    assert shown() == ["127.0.0.1:9092", "default"]
    assert invoke("context", "add", "near", "127.0.0.1:1").exit_code == 0
    assert shown() == ["127.0.0.1:1", "context near"]
    assert shown(LOGD_CONTEXT="near") == ["127.0.0.1:1", "LOGD_CONTEXT near"]
    assert shown(LOGD_BOOTSTRAP="127.0.0.1:2") == ["127.0.0.1:2", "LOGD_BOOTSTRAP"]
    assert shown("--context", "near", LOGD_BOOTSTRAP="127.0.0.1:2") == ["127.0.0.1:1", "--context near"]
    assert shown("-b", "127.0.0.1:3", LOGD_BOOTSTRAP="127.0.0.1:2") == ["127.0.0.1:3", "--bootstrap"]


def test_the_context_in_use_is_gone() -> None:
    """The file names it, and how to choose another is told."""
    save(Contexts("gone", {"near": Context("127.0.0.1:1")}))
    result = invoke("topic", "list")
    assert (result.exit_code, "says that it is in use" in result.stderr) == (5, True)
    assert "try:   logd-cli context use NAME" in result.stderr


def test_flag_then_environment_then_context() -> None:
    """--bootstrap and --context go before LOGD_BOOTSTRAP, that before LOGD_CONTEXT's server only when none is named."""
    invoke("context", "add", "one", "127.0.0.1:1")
    invoke("context", "add", "two", "127.0.0.1:2")
    assert asked("topic", "list") == "127.0.0.1:1"
    assert asked("topic", "list", LOGD_CONTEXT="two") == "127.0.0.1:2"
    assert asked("topic", "list", LOGD_BOOTSTRAP="127.0.0.1:3", LOGD_CONTEXT="two") == "127.0.0.1:3"
    assert asked("--context", "two", "topic", "list", LOGD_BOOTSTRAP="127.0.0.1:3") == "127.0.0.1:2"
    assert asked("topic", "list", "--context", "two", "-b", "127.0.0.1:4") == "127.0.0.1:4"
    assert invoke("topic", "list", "--context", "three").exit_code == 5


@pytest.mark.parametrize(
    "text",
    [
        "current = ",
        "[contexts.a]\nboot = 'x'\n",
        "contexts = 5\n",
        "\udcff",
        "[contexts.a]\nbootstrap = 'h:1'\noutput = 'xml'\n",
        "[contexts.a]\nbootstrap = 'h:1'\ntimeout_s = -1.0\n",
    ],
)
def test_a_damaged_file_is_told(text: str) -> None:
    """Its path and what is wrong; a flag that names a server works all the same."""
    location().parent.mkdir(parents=True)
    location().write_bytes(text.encode("utf-8", "surrogateescape"))
    ran = invoke("topic", "list")
    assert (ran.exit_code, str(location()) in ran.stderr) == (1, True)
    assert asked("topic", "list", "-b", "127.0.0.1:4") == "127.0.0.1:4"


def test_what_a_context_can_not_have_yet() -> None:
    """The field is named, and that there is no TLS."""
    location().parent.mkdir(parents=True)
    location().write_text("[contexts.a]\nbootstrap = 'h:1'\ntls = true\n")
    ran = invoke("topic", "list")
    assert (ran.exit_code, "`tls`" in ran.stderr, "TLS and logins are not there yet" in ran.stderr) == (1, True, True)


def test_wrong_names_and_addresses() -> None:
    """Refused before anything is written."""
    for arguments in (("a b", "h:1"), ("-x", "h:1"), ("a", "h:port"), ("", "h:1")):
        assert invoke("context", "add", "--", *arguments).exit_code == 2
    assert not location().exists()


def test_what_is_written_is_read_again() -> None:
    """Whatever the strings hold."""
    wanted = Contexts('a"b', {'a"b': Context("h:1", 1.5, "json"), "c\\\n\x7f": Context("é:1")})
    save(wanted)
    assert load() == wanted
    assert location().stat().st_mode & 0o077 == 0
