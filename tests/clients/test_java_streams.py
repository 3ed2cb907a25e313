"""Kafka Streams counts words, each exactly once, while the server and the application are killed.

Skipped, with the reason, where a JDK or the jars are missing (``tools/apache_kafka.py fetch`` gets the jars).
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from random import Random
from time import monotonic
from types import TracebackType

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from tests.clients.confluent import PATIENCE_S
from tests.clients.java import JVM_OPTIONS, NEEDS_STREAMS
from tests.process.server import Server
from tools import apache_kafka

pytestmark = NEEDS_STREAMS

PARTITIONS = 2
SETTINGS = ("group.min.session.timeout.ms=1000", "group.initial.rebalance.delay.ms=0")
WORDS = [f"word{number}" for number in range(40)]
LINES, WORDS_A_LINE = 400, 5
KILLS = int(os.environ.get("LOGD_TEST_STREAMS_KILLS", "1"))  # of each; more by hand


class Application(AbstractContextManager["Application"]):
    """WordCount.java in a process of its own; what it says goes into a file beside its state."""

    def __init__(self, bootstrap: str, state: Path) -> None:
        libs = apache_kafka.installed_streams()
        assert libs is not None
        source = str(Path(__file__).with_name("WordCount.java"))
        state.mkdir(exist_ok=True)
        self._log = state / "said"
        self._command = apache_kafka.java_command(
            source,
            [bootstrap, "word-count", "lines", "counts", str(state)],
            libs=libs,
            options=(*JVM_OPTIONS, f"-Djava.io.tmpdir={state}"),
        )
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Application:
        with self._log.open("a") as said:
            self._process = subprocess.Popen(self._command, stdout=said, stderr=said)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end(signal.SIGKILL)

    def end(self, how: signal.Signals) -> None:
        """Send the signal and wait until it is gone."""
        assert self._process is not None
        if self._process.poll() is None:
            self._process.send_signal(how)
        self._process.wait(PATIENCE_S)

    def said(self) -> str:
        return self._log.read_text()[-3000:]


class Counts:
    """What a reader of committed records has seen of the application's output."""

    def __init__(self, bootstrap: str) -> None:
        self.by_word: dict[str, list[int]] = defaultdict(list)
        self.total = 0
        self._consumer = Consumer(
            {
                "bootstrap.servers": bootstrap,
                "group.id": "judge",
                "enable.auto.commit": False,
                "isolation.level": "read_committed",
                "reconnect.backoff.max.ms": 200,
            }
        )
        self._consumer.assign([TopicPartition("counts", index, 0) for index in range(PARTITIONS)])

    def read_until(self, total: int, said: Callable[[], str]) -> None:
        """Read until so many counts were seen."""
        end = monotonic() + PATIENCE_S * 3
        while self.total < total:
            assert monotonic() < end, f"{self.total} counts of {total}; the application said:\n{said()}"
            message = self._consumer.poll(0.2)
            if message is not None and message.error() is None:
                self.by_word[message.key().decode()].append(int.from_bytes(message.value(), "big"))
                self.total += 1

    def close(self) -> None:
        self._consumer.close()


def feed(source: Producer, random: Random, expected: Counter[str]) -> None:
    """Send some lines, and count their words."""
    for _ in range(LINES):
        words = random.choices(WORDS, k=WORDS_A_LINE)
        expected.update(words)
        source.produce("lines", " ".join(words))
    source.poll(0)


@pytest.mark.timeout(600)
def test_word_count_survives_kills(tmp_path: Path) -> None:
    """Every word is counted once: its counts in the output are 1, 2, 3 and so on, with nothing twice or left out."""
    expected: Counter[str] = Counter()
    random = Random(6)
    options = [argument for setting in SETTINGS for argument in ("--set", setting)]
    with Server(tmp_path / "data", *options) as server:
        topics = [NewTopic(name, PARTITIONS, 1) for name in ("lines", "counts")]
        admin = AdminClient({"bootstrap.servers": server.bootstrap})
        for made in admin.create_topics(topics).values():
            made.result(PATIENCE_S)
        source = Producer(
            {"bootstrap.servers": server.bootstrap, "enable.idempotence": True, "reconnect.backoff.max.ms": 200}
        )
        counts = Counts(server.bootstrap)
        with Application(server.bootstrap, tmp_path / "state") as application:

            def half() -> None:
                before = counts.total
                feed(source, random, expected)
                counts.read_until(before + (expected.total() - before) // 2, application.said)

            for _ in range(KILLS):
                half()
                server.kill()
                server.start()
                half()
                application.end(signal.SIGKILL)
                application.__enter__()
            feed(source, random, expected)
            assert source.flush(PATIENCE_S) == 0
            counts.read_until(expected.total(), application.said)
            application.end(signal.SIGTERM)
        counts.close()
        names = admin.list_topics(timeout=PATIENCE_S).topics
    assert {word: sorted(seen) for word, seen in counts.by_word.items()} == {
        word: list(range(1, count + 1)) for word, count in expected.items()
    }
    assert {"word-count-words-repartition", "word-count-counts-changelog"} <= set(names)
