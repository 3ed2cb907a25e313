"""kcat, the command-line client of librdkafka: produce, consume, groups, metadata and queries."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable

import pytest

pytestmark = pytest.mark.skipif(shutil.which("kcat") is None, reason="kcat is not installed (apt install kcat)")

Kcat = Callable[..., str]


@pytest.fixture
def kcat(bootstrap: str) -> Kcat:
    """Run kcat and return its stdout: ``kcat("-C", "-t", topic, stdin="")``."""

    def run(*arguments: str, stdin: str = "") -> str:
        command = ["kcat", "-b", bootstrap, *arguments]
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, f"{' '.join(command)} failed: {done.stderr}"
        return done.stdout

    return run


def test_produce_and_consume(kcat: Kcat, new_topic: Callable[..., str]) -> None:
    """Lines go in, and come out again up to the end of the topic."""
    topic = new_topic()
    kcat("-P", "-t", topic, stdin="one\ntwo\nthree\n")
    assert kcat("-C", "-t", topic, "-e", "-q") == "one\ntwo\nthree\n"


@pytest.mark.parametrize("codec", ["gzip", "snappy", "lz4", "zstd"])
def test_codecs(kcat: Kcat, new_topic: Callable[..., str], codec: str) -> None:
    """Compressed lines come out as they went in."""
    topic = new_topic()
    lines = "".join(f"line {number} of many that look alike\n" for number in range(300))
    kcat("-P", "-t", topic, "-z", codec, stdin=lines)
    assert kcat("-C", "-t", topic, "-e", "-q") == lines


def test_keys_headers_and_format(kcat: Kcat, new_topic: Callable[..., str]) -> None:
    """Keys and headers that were given are printed by a format, with partition and offset."""
    topic = new_topic(partitions=2)
    kcat("-P", "-t", topic, "-p", "1", "-K", ":", "-H", "a=1", "-H", "b=2", stdin="key:value\n")
    line = kcat("-C", "-t", topic, "-e", "-q", "-f", "%p %o %k %s %h\n")
    assert line == "1 0 key value a=1,b=2\n"


def test_offsets_from_the_end(kcat: Kcat, new_topic: Callable[..., str]) -> None:
    """A negative offset counts from the end, and -c limits the count."""
    topic = new_topic()
    kcat("-P", "-t", topic, stdin="".join(f"{number}\n" for number in range(10)))
    assert kcat("-C", "-t", topic, "-o", "-3", "-e", "-q") == "7\n8\n9\n"
    assert kcat("-C", "-t", topic, "-o", "2", "-c", "2", "-q") == "2\n3\n"


def test_metadata(kcat: Kcat, new_topic: Callable[..., str]) -> None:
    """The metadata lists the broker and the topic's partitions."""
    topic = new_topic(partitions=3)
    found = json.loads(kcat("-L", "-J", "-t", topic))
    (listed,) = found["topics"]
    assert (listed["topic"], len(listed["partitions"])) == (topic, 3)
    assert len(found["brokers"]) == 1


def test_group(kcat: Kcat, new_topic: Callable[..., str]) -> None:
    """A balanced consumer reads all partitions and goes on from what it committed."""
    topic = new_topic(partitions=2)
    settings = ["-X", "auto.offset.reset=earliest", "-X", "fetch.wait.max.ms=100"]
    for partition in ("0", "1"):
        kcat("-P", "-t", topic, "-p", partition, stdin="a\nb\n")
    first = kcat("-G", topic, *settings, "-c", "4", "-q", topic)
    assert sorted(first.split()) == ["a", "a", "b", "b"]
    kcat("-P", "-t", topic, "-p", "0", stdin="later\n")
    assert kcat("-G", topic, *settings, "-c", "1", "-q", topic) == "later\n"


def test_query_by_time(kcat: Kcat, new_topic: Callable[..., str]) -> None:
    """-Q turns a time into an offset: 0 for the beginning of time."""
    topic = new_topic()
    kcat("-P", "-t", topic, stdin="x\n")
    assert kcat("-Q", "-t", f"{topic}:0:1") == f"{topic} [0] offset 0\n"
    assert kcat("-Q", "-t", f"{topic}:0:-1") == f"{topic} [0] offset 1\n"
