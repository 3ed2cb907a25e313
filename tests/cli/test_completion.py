"""What the Tab key offers, and that it asks without trio."""

from __future__ import annotations

import os
import pty
import select
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from logd.cli.completion import topic_names
from logd.cli.main import main
from logd.cli.options import Settings
from logd.cli.topics import describe as topic_describe
from logd.testing import Broker
from tests.cli.conftest import Cli, environment, eventually

HEAVY = {"trio", "rich", "numpy", "asyncio", "cramjam"}


def completed(bootstrap: str, words: str) -> tuple[list[str], set[str]]:
    """What is offered after `words`, and the modules that were loaded for it."""
    code = (
        "import sys, atexit\n"
        "atexit.register(lambda: print(*sys.modules, file=sys.stderr))\n"
        "from logd.cli.main import main\n"
        "main()"
    )
    count = str(len(words.split(" ")) - 1)
    asked = {"_LOGD_CLI_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": count}
    variables = environment(bootstrap) | asked
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=variables, check=True)
    assert "error:" not in done.stderr
    return [line.partition(",")[2] for line in done.stdout.split()], set(done.stderr.split())


def test_names_of_the_server(cli: Cli, topic: str, bootstrap: str) -> None:
    """Topics, groups, brokers and settings, as far as they begin so and are not on the line already."""
    group = f"g-{topic}"
    assert cli("group", "seek", group, topic, "--offset", "start", "-y").code == 0
    names, modules = completed(bootstrap, f"logd-cli topic describe {topic[:4]}")
    assert (topic in names, HEAVY & modules) == (True, set())
    assert topic not in completed(bootstrap, f"logd-cli topic describe {topic} {topic[:4]}")[0]
    assert completed(bootstrap, f"logd-cli group lag {group}")[0] == [group]
    assert completed(bootstrap, f"logd-cli config get topic {topic}")[0] == [topic]
    assert completed(bootstrap, f"logd-cli config get topic {topic} retention.m")[0] == ["retention.ms"]
    assert completed(bootstrap, f"logd-cli config set topic {topic} retention.m")[0] == ["retention.ms="]
    assert "default" in completed(bootstrap, "logd-cli config get broker ")[0]


def test_what_can_not_be_asked_offers_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No context of that name, or a damaged file of them: nothing is offered, and nothing is written to the line."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert completed("", "logd-cli --context none topic describe ")[0] == []
    (tmp_path / "logd").mkdir()
    (tmp_path / "logd" / "contexts.toml").write_text("contexts = 5")
    assert completed("", "logd-cli topic describe ")[0] == []
    assert completed("", "logd-cli context use ")[0] == []


def test_a_listing_without_trio(cli: Cli, topic: str, bootstrap: str) -> None:
    """`topic list` in a pipe loads neither trio nor rich."""
    code = (
        "import sys, atexit\n"
        "atexit.register(lambda: print(*sys.modules, file=sys.stderr))\n"
        "from logd.cli.main import main\n"
        "sys.argv = ['logd-cli', 'topic', 'list']\n"
        "main()"
    )
    arguments = [sys.executable, "-c", code]
    assert eventually(lambda: topic in cli("topic", "list").out)
    done = subprocess.run(arguments, capture_output=True, text=True, env=environment(bootstrap), check=True)
    assert [topic, "2", "1", "no"] in [line.split("\t") for line in done.stdout.splitlines()]
    assert HEAVY & set(done.stderr.split()) == set()


@pytest.mark.parametrize(
    "answer", [None, b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x00\x00\x00\x04\x00\x00\x00\x01"]
)
def test_a_server_that_answers_badly_offers_nothing(answer: bytes | None) -> None:
    """Refused, closed at once, another protocol, an answer cut short: no names, no error."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        if answer is None:
            listener.close()
        else:
            threading.Thread(target=_answer, args=(listener, answer), daemon=True).start()
        assert completed(f"127.0.0.1:{port}", "logd-cli topic describe ")[0] == []


def test_whoever_does_not_answer_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a resolver nor a server keeps the line: nothing is offered then."""
    released = threading.Event()
    monkeypatch.setattr("logd.cli.completion.LIMIT_S", 0.01)
    monkeypatch.setattr("logd.cli.quick.topic_names", lambda bootstrap: [str(released.wait(60))])
    context = click.Context(topic_describe, obj=Settings(given_bootstrap="127.0.0.1:1"))
    assert topic_names(context, topic_describe.params[0], "") == []
    assert not released.is_set()
    released.set()


def test_names_that_are_no_single_word(tmp_path: Path) -> None:
    """In bash whatever a group is called stands on the line as one word, and runs nothing."""
    names = ["plain-1.x_y:z", "a b", "x;touch y", "*", "$HOME", "back\\slash", "it's", "wide-\u65e5\u672c"]
    command = tmp_path / "logd-cli"
    command.write_text(
        "#!/bin/sh\necho noise >&2\ncat <<'END'\n" + "".join(f"plain,{name}\n" for name in names) + "END\n"
    )
    command.chmod(0o755)
    source = CliRunner().invoke(main, ["completion", "bash"]).stdout
    line = f"{source}\nCOMP_LINE='logd-cli group describe '; COMP_POINT=24; _logd_cli {command}\n"
    line += 'eval "set -- ${COMPREPLY[*]}"; printf \'%s\\n\' "$@"\n'
    line += f"COMPREPLY=(); COMP_LINE='logd-cli group describe plain-1.x_y:'; COMP_POINT=36; _logd_cli {command}\n"
    line += 'echo "${COMPREPLY[0]}"\n'
    done = subprocess.run(["bash", "--norc", "-c", line], capture_output=True, text=True, check=True, cwd=tmp_path)
    *words, rest = done.stdout.splitlines()
    assert (words, rest, done.stderr) == (names, "z", "")


@pytest.mark.parametrize(
    ("shell", "ready"),
    [
        (["bash", "--norc", "-i"], ""),
        (["zsh", "-f", "-i"], "autoload -U compinit; compinit -u; "),
        (["fish", "--no-config", "-i"], ""),
    ],
)
def test_in_a_real_shell(logd_broker: Broker, shell: list[str], ready: str, tmp_path: Path) -> None:
    """The script that is printed works: a topic, and a setting whose value is typed behind the `=` at once."""
    if shutil.which(shell[0]) is None:
        pytest.skip(f"{shell[0]} is not here")
    logd_broker.create_topic("orders")
    script = tmp_path / "logd-cli"
    script.write_text(f"#!{sys.executable}\nfrom logd.cli.main import main\nmain()\n")
    script.chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    variables = environment("127.0.0.1:1") | {"PATH": path, "TERM": "dumb", "HOME": str(tmp_path), "PS1": "$ "}
    master, slave = pty.openpty()
    process = subprocess.Popen(["setsid", "-c", *shell], stdin=slave, stdout=slave, stderr=slave, env=variables)
    os.close(slave)
    shown = b""

    def until(text: bytes) -> None:
        nonlocal shown
        deadline = time.monotonic() + 30
        while text not in shown:
            assert time.monotonic() < deadline, shown
            if select.select([master], [], [], 1)[0]:
                shown += os.read(master, 4096)
        shown = b""

    try:
        source = (
            "logd-cli completion fish | source" if shell[0] == "fish" else f'eval "$(logd-cli completion {shell[0]})"'
        )
        os.write(master, f"{ready}{source}; echo rea''dy\n".encode())
        until(b"ready")
        server = logd_broker.bootstrap.encode()
        os.write(master, b"logd-cli -b " + server + b" config set topic ord\tretention.m\t12345\n")
        until(b"topic 'orders': retention.ms=12345")
    finally:
        process.kill()
        process.wait()
        os.close(master)


def _answer(listener: socket.socket, answer: bytes) -> None:
    peer, _ = listener.accept()
    with peer:
        peer.recv(4096)
        peer.sendall(answer)
