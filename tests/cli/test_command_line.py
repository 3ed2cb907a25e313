"""The command line itself: help, names that are nearly right, exit codes, quick start, the reference."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from logd.cli.main import guarded, main
from logd.cli.reference import walk
from tests.cli.conftest import environment

NOWHERE = "127.0.0.1:1"
HEAVY = {"trio", "numpy", "rich", "asyncio", "cramjam", "logd.client", "logd.wire.codec", "logd.wire.message"}


def invoke(*arguments: str) -> Result:
    return CliRunner(env={"LOGD_BOOTSTRAP": NOWHERE}).invoke(main, list(arguments))


def test_an_unknown_command_names_the_nearest() -> None:
    """Three lines on stderr, nothing on stdout, exit code 2."""
    result = invoke("topc", "list")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.splitlines() == [
        "error: logd-cli has no command 'topc'",
        "why:   did you mean topic or top?",
        "try:   logd-cli topic --help",
    ]


@pytest.mark.parametrize(
    ("line", "what", "why"),
    [
        ("group seek g --to end", "logd-cli group seek has no option --to", "did you mean --offset?"),
        ("consume t --ofset end", "logd-cli consume has no option --ofset", "did you mean --offset or --exit?"),
        (
            "consume t --from-beginning",
            "logd-cli consume has no option --from-beginning",
            "did you mean --offset start?",
        ),
        ("consume --topic t", "logd-cli consume has no option --topic", "the topic is given alone"),
        (
            "topic list --command-config f",
            "logd-cli topic list has no option --command-config",
            "has no TLS and no login",
        ),
        ("context add a h:1 --tls", "logd-cli context add has no option --tls", "has no TLS and no login"),
        ("consume -t orders", "logd-cli consume has no option -t", "the topic is given alone"),
        ("group seek g -p 3 --offset end", "logd-cli group seek has no option -p", "no option is near it"),
        ("group seek -t t", "logd-cli group seek has no option -t", "the topic is given alone"),
        ("topic create --topic t", "logd-cli topic create has no option --topic", "the topic is given alone"),
        ("produce -P t", "logd-cli produce has no option -P", "no option is near it"),
        (
            "transaction describe --transactional-id t",
            "logd-cli transaction describe has no option --transactional-id",
            "id is given",
        ),
        ("tail -f orders", "the command line is wrong", "tail goes on without -f, which is a format here"),
        ("tail", "the command line is wrong", "Missing argument 'TOPIC...'"),
        ("--bootstrap-server h:1", "logd-cli has no option --bootstrap-server", "did you mean --bootstrap?"),
        ("topic list --zzz", "logd-cli topic list has no option --zzz", "no option is near it"),
        ("config get topc t", "the command line is wrong", "KIND 'topc' is none of topic, broker, group,"),
        ("config get topc t", "the command line is wrong", "client-metrics; did you mean topic?"),
        ("topic list -o jsn", "the command line is wrong", "did you mean json or jsonl?"),
        ("context create a h:1", "logd-cli context has no command 'create'", "did you mean add?"),
        ("topic ls", "logd-cli topic has no command 'ls'", "did you mean list?"),
        ("topic get t", "logd-cli topic has no command 'get'", "did you mean describe?"),
        ("groups list", "logd-cli has no command 'groups'", "did you mean group?"),
        ("completion", "the command line is wrong", "SHELL is missing; it is one of bash, zsh, fish"),
    ],
)
def test_a_word_that_is_nearly_right_or_another_tools(line: str, what: str, why: str) -> None:
    """The option that was meant is named, also where Kafka's tools call it otherwise, and the choices there are."""
    result = invoke(*line.split())
    first, second, third = result.stderr.splitlines()
    assert (result.exit_code, first, why in second, third.endswith("--help")) == (2, f"error: {what}", True, True), (
        second
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ("topic", "lst"),
        ("topic", "create"),
        ("topic", "create", "t", "--partitons", "2"),
        ("topic", "create", "t", "-p", "0"),
        ("topic", "create", "t", "-c", "retention.ms"),
        ("topic", "alter", "t"),
        ("topic", "list", "-o", "xml"),
        ("consume", "t", "--offset", "yesterday"),
        ("consume", "t", "-f", "%q"),
        ("consume", "t", "-f", "%v", "-o", "json"),
        ("produce", "t", "--tombstone"),
        ("produce", "t", "-K", ":", "-k", "key"),
        ("produce", "t", "--keep-partitions"),
        ("--bootstrap", "h:no", "topic", "list"),
        ("--bootstrap", "", "topic", "list"),
        ("why", "group", "g", "--since", "soon"),
        ("topic", "trim", "t", "--offset", "1:2"),
        ("topic", "list", "--timeout", "0"),
    ],
)
def test_a_wrong_command_line_is_exit_code_2(arguments: tuple[str, ...]) -> None:
    """Whatever is wrong, it is told in three lines, before any server is asked."""
    result = invoke(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert [line.partition(":")[0] for line in result.stderr.splitlines()] == ["error", "why", "try"]


def test_nothing_at_all_shows_the_help() -> None:
    """Without a command the help goes to stderr, and the exit code is 2."""
    result = invoke()
    assert (result.exit_code, result.stdout) == (2, "")
    assert "Usage: logd-cli" in result.stderr


@pytest.mark.parametrize("arguments", [("cluster", "info"), ("topic", "list"), ("consume", "t"), ("produce", "t")])
def test_no_server_is_exit_code_3(arguments: tuple[str, ...]) -> None:
    """A server that is not there is named, with what to do."""
    result = invoke(*arguments)
    assert (result.exit_code, result.stdout) == (3, "")
    assert "error: cannot connect to 127.0.0.1:1" in result.stderr
    assert "try:   start a server there" in result.stderr


def test_a_flag_goes_before_the_environment_wherever_it_stands() -> None:
    """`--bootstrap` wins over LOGD_BOOTSTRAP, before the noun and after the verb; the last one wins."""
    for arguments in (
        ("-b", "127.0.0.1:2", "topic", "list"),
        ("topic", "list", "-b", "127.0.0.1:2"),
        ("-b", "127.0.0.1:3", "topic", "list", "-b", "127.0.0.1:2"),
    ):
        assert "cannot connect to 127.0.0.1:2" in invoke(*arguments).stderr


def test_ctrl_c_at_a_question_is_exit_code_130(monkeypatch: pytest.MonkeyPatch) -> None:
    """As anywhere else; the end of the input there is exit code 1, with what to do."""

    def asked() -> None:
        click.prompt("name")

    def interrupt(text: str) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr("click.termui.visible_prompt_func", interrupt)
    assert guarded(asked) == 130
    monkeypatch.setattr("click.termui.visible_prompt_func", lambda text: (_ for _ in ()).throw(EOFError()))
    assert guarded(asked) == 1


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["topic", "--help"]])
def test_nobody_reads_the_help(words: list[str]) -> None:
    """A pipe that is closed is no failure, whatever is shown."""
    code = (
        "import os\nread, write = os.pipe()\nos.close(read)\nos.dup2(write, 1)\nfrom logd.cli.main import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def test_version() -> None:
    """It says its name and version."""
    assert invoke("--version").stdout.startswith("logd-cli ")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell: str) -> None:
    """Each shell gets a script that calls logd-cli back."""
    assert "_LOGD_CLI_COMPLETE" in invoke("completion", shell).stdout


@pytest.mark.parametrize("completing", [False, True])
def test_help_and_completion_import_nothing_heavy(completing: bool) -> None:
    """Neither trio nor numpy nor rich nor the client is loaded: a person is waiting for the Tab key."""
    code = (
        "import sys, atexit\n"
        "atexit.register(lambda: print(*sys.modules, file=sys.stderr))\n"
        "from logd.cli.main import guarded, main\n"
        "sys.argv = ['logd-cli', '--help']\n"
        "main()"
    )
    words = {"_LOGD_CLI_COMPLETE": "bash_complete", "COMP_WORDS": "logd-cli to", "COMP_CWORD": "1"}
    variables = environment(NOWHERE) | (words if completing else {})
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=variables, check=True)
    assert ("plain,topic" if completing else "Usage: logd-cli") in done.stdout
    assert HEAVY & set(done.stderr.split()) == set()


def commands() -> list[tuple[str, click.Command]]:
    """Every command that does something, by its path."""
    found = walk(main, click.Context(main, info_name="logd-cli"))
    return [(path, command) for path, command, _ in found if not isinstance(command, click.Group)]


def examples_of_help() -> list[str]:
    """Every command line that some help shows; of a pipe its parts."""
    lines = [line for _, command in commands() for line in (command.epilog or "").splitlines()[2:]]
    parts = [part.split(" > ")[0].strip() for line in lines for part in line.split(" | ")]
    return [part for part in parts if part.startswith("logd-cli ")]


@pytest.mark.parametrize("line", examples_of_help())
def test_examples_are_command_lines(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What help shows is understood: nothing but the server, or a file, is missing."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    words = [word.replace("kafka:9092", NOWHERE) for word in shlex.split(line)[1:]]
    words = [word.replace("/var/lib/logd", str(tmp_path)) for word in words]
    result = CliRunner(env={"LOGD_BOOTSTRAP": NOWHERE}).invoke(main, words, input="orders,0,42\n")
    nothing_there = {
        "backup restore": 5,
        "log dump": 5,
        "log verify": 5,
        "context add": 0,
        "retention run --data-dir": 1,
    }
    code = next((code for begin, code in nothing_there.items() if " ".join(words).startswith(begin)), 3)
    assert result.exit_code == code, result.stderr


def test_most_commands_have_an_example() -> None:
    """All but those that only list, show or choose."""
    plain = {"list", "show", "info", "health", "describe", "use", "remove", "delete", "verify", "bench", "completion"}
    without = {path for path, command in commands() if not command.epilog and not plain & set(path.split())}
    assert without == set()


def test_the_reference_is_up_to_date() -> None:
    """docs/cli.md is what `logd-cli reference` prints: run it again when this fails."""
    committed = Path(__file__).parents[2] / "docs" / "cli.md"
    assert committed.read_text() == invoke("reference").stdout
