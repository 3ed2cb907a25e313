"""Kafka's own Java classes as subprocesses, for the tests that use them; and the marks that skip those tests."""

from __future__ import annotations

import re
import select
import shutil
import subprocess
from base64 import b64decode, b64encode
from pathlib import Path
from typing import NamedTuple

import pytest

from tools import apache_kafka

NEEDS_JAVA = [
    pytest.mark.skipif(shutil.which("java") is None, reason="java is not installed (apt install default-jre-headless)"),
    pytest.mark.skipif(
        apache_kafka.installed_libs() is None, reason="Kafka's jars are not here (python tools/apache_kafka.py fetch)"
    ),
]
NEEDS_JAVAC = [
    pytest.mark.skipif(
        shutil.which("javac") is None, reason="javac is not installed (apt install default-jdk-headless)"
    )
]
NEEDS_STREAMS = [
    *NEEDS_JAVAC,
    pytest.mark.skipif(
        apache_kafka.installed_streams() is None,
        reason="Kafka Streams' jars are not here (python tools/apache_kafka.py fetch)",
    ),
]

# A small heap and no second compiler make a tool start in half of the time.
JVM_OPTIONS = ("-Xmx128m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xshare:auto")
TOOLS = "org.apache.kafka.tools"
ALONE = {f"{TOOLS}.{name}" for name in ("consumer.ConsoleConsumer", "VerifiableProducer", "VerifiableConsumer")}
"""What counts in static fields, or ends its work in a hook of the JVM's: it can run once in a process."""


class Done(NamedTuple):
    """What a tool left."""

    code: int
    stdout: str
    stderr: str


ANSWER = re.compile(r"-?\d+ \.\S* \.\S*\n")
"""A line of ``Tools.java``: the exit code, and what was said."""
VM_OUTPUT_APART = "-XX:+DisplayVMOutputToStderr"
"""Warnings of the JVM itself, which are else written to stdout."""


class Host:
    """One JVM that runs tools one after the other (``Tools.java``): each takes a second to start, and little to work.

    It begins when it is first needed, and is ended with the session.
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def run(self, main_class: str, arguments: list[str], stdin: str, timeout_s: float) -> Done:
        """Run one to its end; raises TimeoutError."""
        process = self._process = self._process or self._begun()
        assert process.stdin is not None
        assert process.stdout is not None
        words = (main_class, stdin, *arguments)
        process.stdin.write(" ".join("." + b64encode(word.encode()).decode() for word in words) + "\n")
        process.stdin.flush()
        if not select.select([process.stdout], [], [], timeout_s)[0]:
            self.end()
            raise TimeoutError(f"{main_class} {arguments} has not ended after {timeout_s:g} s")
        if not (line := process.stdout.readline()):
            self.end()
            raise RuntimeError(f"the JVM has ended while it ran {main_class} {arguments}")
        if not ANSWER.fullmatch(line):
            self.end()  # the next tool must not be given the answer of this one
            raise RuntimeError(f"the JVM said {line!r} in place of an answer while it ran {main_class} {arguments}")
        code, *said = line.split()
        out, err = (b64decode(word[1:]).decode() for word in said)
        return Done(int(code), out, err)

    def _begun(self) -> subprocess.Popen[str]:
        libs = apache_kafka.installed_libs()
        assert libs is not None
        source = str(Path(__file__).with_name("Tools.java"))
        command = apache_kafka.java_command(source, [], libs=libs, options=[*JVM_OPTIONS, VM_OUTPUT_APART])
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def end(self) -> None:
        """End it, if it is there."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()


HOST = Host()


def java(main_class: str, *arguments: str, stdin: str = "", timeout_s: float = 100) -> Done:
    """Run a class to its end, in the JVM of all tools or, if it is not one of them, in its own.

    :param main_class: the full name, or what stands behind ``org.apache.kafka.tools.``, or the path of a source file
    """
    libs = apache_kafka.installed_libs()
    assert libs is not None
    full = main_class if main_class.startswith("kafka.") or main_class.endswith(".java") else f"{TOOLS}.{main_class}"
    if shutil.which("javac") is not None and full not in ALONE and not full.endswith(".java"):
        return HOST.run(full, [*arguments], stdin, timeout_s)
    command = apache_kafka.java_command(full, arguments, libs=libs, options=JVM_OPTIONS)
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=timeout_s, check=False)
    return Done(done.returncode, done.stdout, done.stderr)


def run_java(main_class: str, *arguments: str, stdin: str = "", timeout_s: float = 100) -> str:
    """The same for what must work: return its stdout, fail with all that it said when it fails."""
    done = java(main_class, *arguments, stdin=stdin, timeout_s=timeout_s)
    assert done.code == 0, f"{main_class} {arguments} failed:\n{done.stdout}\n{done.stderr}"
    return done.stdout
