"""Kafka's own Java classes as subprocesses, for the tests that use them; and the marks that skip those tests."""

from __future__ import annotations

import shutil
import subprocess

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

# A tool runs for a second: a small heap and no second compiler make it start in half of the time.
JVM_OPTIONS = ("-Xmx128m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xshare:auto")
TOOLS = "org.apache.kafka.tools"


def run_java(main_class: str, *arguments: str, stdin: str = "", timeout_s: float = 100) -> str:
    """Run a class to its end and return its stdout; fail with all that it said when it fails.

    :param main_class: the full name, or what stands behind ``org.apache.kafka.tools.``, or the path of a source file
    """
    libs = apache_kafka.installed_libs()
    assert libs is not None
    full = main_class if main_class.startswith("kafka.") or main_class.endswith(".java") else f"{TOOLS}.{main_class}"
    command = apache_kafka.java_command(full, arguments, libs=libs, options=JVM_OPTIONS)
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=timeout_s, check=False)
    assert done.returncode == 0, f"{main_class} {arguments} failed:\n{done.stdout}\n{done.stderr}"
    return done.stdout
