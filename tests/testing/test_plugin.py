"""The pytest plugin as other projects meet it: cheap to load, one broker for many tests, emptied in between."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from logd.testing.plugin import marked_settings
from tests.process.server import environment

PROJECT = """
import pytest

seen = []

def test_first(logd_broker):
    seen.append(logd_broker)
    logd_broker.create_topic("left-behind")
    logd_broker.produce("left-behind", "x")

def test_second(logd_broker):
    assert logd_broker is seen[0]
    assert logd_broker.topics() == {}

@pytest.mark.logd(settings={"num.partitions": 5})
def test_third(logd_broker):
    assert logd_broker is not seen[0]
    logd_broker.create_topic("t", partitions=-1)
    assert logd_broker.topics() == {"t": 5}

class TestIni:
    def test_ini(self, logd_broker):
        logd_broker.create_topic("t", partitions=-1)
        assert logd_broker.topics() == {"t": 3}
"""


def run_pytest(directory: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run pytest in a directory, in a process of its own."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options]
    return subprocess.run(
        command, cwd=directory, capture_output=True, text=True, timeout=100, env=environment(), check=False
    )


@pytest.mark.parametrize("where", ["memory", "disk"])
def test_in_another_project(tmp_path: Path, where: str) -> None:
    """Tests of one session share a broker, each finds it empty; ini option and marker change its settings."""
    (tmp_path / "test_project.py").write_text(PROJECT)
    ini = f"[pytest]\nlogd_data = {where}\nlogd_settings =\n  num.partitions = 3\nfilterwarnings = error\n"
    (tmp_path / "pytest.ini").write_text(ini)
    done = run_pytest(tmp_path)
    assert "4 passed" in done.stdout, done.stdout + done.stderr


def test_the_plugin_is_cheap(tmp_path: Path) -> None:
    """Loading the plugin imports none of logd's parts: every pytest run of everybody pays for it."""
    (tmp_path / "test_nothing.py").write_text(
        "import sys\n"
        "def test_nothing():\n"
        "    heavy = {'trio', 'numpy', 'logd.node', 'logd.wire', 'logd.config', 'msgspec'} & set(sys.modules)\n"
        "    assert not heavy\n"
    )
    done = run_pytest(tmp_path, "-p", "no:trio", "-p", "no:pytest_trio")
    assert "1 passed" in done.stdout, done.stdout + done.stderr


def test_closest_marker_wins() -> None:
    """Settings of a test override those of its class, which override the ini file's."""
    near = pytest.mark.logd(settings={"a": 1, "flag": True}).mark
    far = pytest.mark.logd(settings={"a": 2, "b": 3}).mark
    assert marked_settings(["a = 0", "c=4"], [near, far]) == {"a": "1", "b": "3", "c": "4", "flag": "true"}


def test_bad_ini_line() -> None:
    """An ini line that is no setting is named."""
    with pytest.raises(pytest.UsageError, match="nonsense"):
        marked_settings(["nonsense"], [])


@pytest.mark.parametrize("mark", [pytest.mark.logd({"a": 1}), pytest.mark.logd(setting={"a": 1})])
def test_a_marker_that_would_be_ignored(mark: pytest.MarkDecorator) -> None:
    """A forgotten ``settings=`` is told."""
    with pytest.raises(pytest.UsageError, match="settings="):
        marked_settings([], [mark.mark])
