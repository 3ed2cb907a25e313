"""What compaction leaves: the same batches, records and markers in the files of logd and of a real Kafka's cleaner.

Each story writes the same to a topic on both servers, has both clean it, and compares the sealed segments batch by
batch. What cannot be alike is left out: producer ids, the time of day in markers and in delete horizons, and where one
segment ends and the next begins.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
)

from logd.testing import Broker
from logd.wire.batches import DELETE_HORIZON, read_headers, read_records
from tools import apache_kafka

from . import servers

PATIENCE_S = 60.0
SEGMENT_MS = 50_000
"""More than a story takes, since markers have the time of day; what is to be in another segment is later than that."""
LATER_MS = 2 * SEGMENT_MS
NEVER, NOW = "1.0", "0.0001"
CLEANING = {"log.cleaner.backoff.ms": "100", "log.retention.check.interval.ms": "3600000"}
KAFKA = {**CLEANING, "log.cleaner.enable": "true", "log.cleaner.threads": "1", "log.initial.task.delay.ms": "100"}
PROGRESS = struct.Struct(">4sIq")
CODECS = ["none", "gzip", "snappy", "lz4", "zstd"]


@dataclass
class Side:
    """One server and its topic."""

    name: str
    bootstrap: str
    data_dir: Path
    topic: str = ""
    written: int = 0
    producers: dict[tuple[Any, ...], Producer] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.admin = AdminClient({"bootstrap.servers": self.bootstrap})

    def create(self, topic: str, configs: dict[str, str]) -> None:
        self.topic, self.written, self.producers = topic, 0, {}
        config = {
            "cleanup.policy": "compact",
            "segment.ms": str(SEGMENT_MS),
            "min.cleanable.dirty.ratio": NEVER,
            **configs,
        }
        for done in self.admin.create_topics([NewTopic(topic, 1, 1, config=config)]).values():
            done.result(PATIENCE_S)

    def alter(self, **configs: str) -> None:
        set_ = AlterConfigOpType.SET
        entries = [
            ConfigEntry(name.replace("_", "."), value, incremental_operation=set_) for name, value in configs.items()
        ]
        resource = ConfigResource(ConfigResource.Type.TOPIC, self.topic, incremental_configs=entries)
        self.admin.incremental_alter_configs([resource])[resource].result(PATIENCE_S)

    def producer(self, name: str = "", **config: Any) -> Producer:
        """One for each name and configuration; transactional ones are ready."""
        key = (name, *sorted(config.items()))
        if key not in self.producers:
            settings = {"bootstrap.servers": self.bootstrap, "linger.ms": 50, "log_level": 0, **config}
            self.producers[key] = Producer(settings)
            if "transactional.id" in config:
                self.producers[key].init_transactions(PATIENCE_S)
        return self.producers[key]

    def write(self, producer: Producer, at_ms: int, *pairs: tuple[str, str | None]) -> None:
        """One batch."""
        for key, value in pairs:
            producer.produce(self.topic, value, key, partition=0, timestamp=at_ms)
        assert producer.flush(PATIENCE_S) == 0
        self.written += len(pairs)

    def end(self, producer: Producer, *, commit: bool) -> None:
        """End a transaction and wait for its marker."""
        (producer.commit_transaction if commit else producer.abort_transaction)(PATIENCE_S)
        self.written += 1
        wait_until(lambda: self.end_offset() == self.written, f"{self.name}: the marker")

    def end_offset(self) -> int:
        consumer = Consumer(
            {"bootstrap.servers": self.bootstrap, "group.id": "looks", "isolation.level": "read_uncommitted"}
        )
        try:
            return int(consumer.get_watermark_offsets(TopicPartition(self.topic, 0), PATIENCE_S)[1])
        finally:
            consumer.close()

    def delete_records(self, offset: int) -> None:
        at = TopicPartition(self.topic, 0, offset)
        self.admin.delete_records([at])[at].result(PATIENCE_S)

    def clean(self) -> None:
        """Have all that is sealed cleaned."""
        end = self.active_base()
        wait_until(self.is_sealed, f"{self.name}: sealed")  # logd does it in the background; else it takes two runs
        self.alter(min_cleanable_dirty_ratio=NOW)
        wait_until(lambda: self.cleaned_offset() >= end, f"{self.name}: cleaned to {end}")
        self.alter(min_cleanable_dirty_ratio=NEVER)

    @property
    def directory(self) -> Path:
        return self.data_dir / f"{self.topic}-0"

    def segments(self) -> list[Path]:
        return sorted(self.directory.glob(f"{'[0-9]' * 20}.log"))

    def is_sealed(self) -> bool:
        return all(path.with_suffix(".index").exists() for path in self.segments()[:-1])

    def active_base(self) -> int:
        return int(self.segments()[-1].stem)

    def cleaned_offset(self) -> int:
        own = self.directory / "partition.compaction"
        if own.exists():
            return int(PROGRESS.unpack(own.read_bytes()[: PROGRESS.size])[2])
        checkpoint = self.data_dir / "cleaner-offset-checkpoint"
        for line in checkpoint.read_text().splitlines() if checkpoint.exists() else ():
            if line.startswith(f"{self.topic} 0 "):
                return int(line.split()[2])
        return 0

    def left(self) -> list[Any]:
        """The batches before the last seal, without what differs by chance."""
        names: dict[int, int] = {-1: -1}
        told = []
        for path in self.segments()[:-1]:
            data = path.read_bytes()
            for position, header in read_headers(data):
                if header.base_offset >= self.written - 1:
                    break
                pid = names.setdefault(header.producer_id, len(names))
                by_chance = header.is_control
                horizon = bool(header.attributes & DELETE_HORIZON)
                records = [
                    (one.offset, one.key, None if by_chance else one.value, None if by_chance else one.timestamp)
                    for one in read_records(data, position, bytes_max=1 << 20)
                ]
                told.append(
                    {
                        "offsets": (header.base_offset, header.last_offset),
                        "attributes": header.attributes,
                        "producer": (pid, header.producer_epoch, header.base_sequence),
                        "base time": None if by_chance or horizon else header.base_timestamp,
                        "max time": None if by_chance else header.max_timestamp,
                        "records": records,
                    }
                )
        return told


def wait_until(ask: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not ask():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Side]]:
    if reason := servers.missing():
        pytest.skip(reason)
    ours, theirs = tmp_path_factory.mktemp("logd"), tmp_path_factory.mktemp("kafka")
    properties = {**servers.KAFKA_PROPERTIES, **KAFKA}
    with (
        Broker({**servers.LOGD_SETTINGS, **CLEANING}, data_dir=ours) as logd,
        apache_kafka.ApacheKafka(
            theirs, properties=properties, heap="256m", java_options=servers.JAVA_OPTIONS
        ) as kafka,
    ):
        data = next(theirs.rglob("cleaner-offset-checkpoint"), None) or next(theirs.rglob("meta.properties"))
        pair = [Side("logd", logd.bootstrap, ours), Side("kafka", kafka.bootstrap, data.parent)]
        yield pair
        for side in pair:
            del side.admin  # before the servers go, whose loss they would tell


Story = Callable[[Side, int], None]


def sealed(side: Side, at_ms: int) -> None:
    """Seal all that was written: a record that is much later begins the next segment."""
    side.write(side.producer("seals"), at_ms, (f"seal {at_ms}", "s"))


def codecs(side: Side, now_ms: int) -> None:
    """Batches of every codec that lose all, some and none of their records; one that loses its newest time."""
    for number, codec in enumerate(CODECS):
        producer = side.producer(codec, **{"compression.type": codec})
        for turn in range(3):
            pairs = [(f"{codec} {turn}", "v" * 200), (f"{codec}", str(turn)), ("all", f"{codec} {turn}" * 30)]
            side.write(producer, now_ms + number * 10 + turn, *pairs)
        side.write(producer, now_ms + number * 10, ("all", "1"), ("all", "2"))
    sealed(side, now_ms + LATER_MS)
    side.clean()


def tombstones(side: Side, now_ms: int) -> None:
    """Tombstones stay for the first run, with a horizon, and go with the next; those for nothing too."""
    producer = side.producer()
    side.write(producer, now_ms, ("a", "1"), ("b", "1"), ("c", None))
    side.write(producer, now_ms, ("a", None), ("d", "1"))
    side.write(producer, now_ms, ("e", None))
    sealed(side, now_ms + LATER_MS)
    side.clean()


def tombstones_gone(side: Side, now_ms: int) -> None:
    """As before, and once more after ``delete.retention.ms``."""
    tombstones(side, now_ms)
    time.sleep(0.01)
    side.write(side.producer(), now_ms + 2 * LATER_MS, ("d", None), ("f", "1"))
    sealed(side, now_ms + 3 * LATER_MS)
    side.clean()


def last_batches(side: Side, now_ms: int) -> None:
    """The last batch of each idempotent producer is kept, empty, when all its records are replaced."""
    for name in ("one", "two"):
        producer = side.producer(name, **{"enable.idempotence": True})
        for turn in range(3):
            side.write(producer, now_ms, ("k", f"{name} {turn}"), ("l", f"{name} {turn}"))
    side.write(side.producer(), now_ms, ("k", "last"), ("l", "last"))
    sealed(side, now_ms + LATER_MS)
    side.clean()
    side.write(side.producer(), now_ms + 2 * LATER_MS, ("k", "later"))
    sealed(side, now_ms + 3 * LATER_MS)
    side.clean()


def transactions(side: Side, now_ms: int) -> None:
    """Committed, aborted and empty transactions, with later records of the same keys or without."""
    first, second = (side.producer(name, **{"transactional.id": f"{side.topic} {name}"}) for name in ("t", "u"))
    for turn, (producer, commit) in enumerate([(first, True), (second, False), (first, False), (second, True)]):
        producer.begin_transaction()
        side.write(producer, now_ms, ("k", f"{turn}"), (f"own {turn}", "v"))
        side.write(producer, now_ms, ("k", f"{turn} again"), (f"gone {turn}", None))
        side.end(producer, commit=commit)
    sealed(side, now_ms + LATER_MS)
    side.clean()


def transactions_twice(side: Side, now_ms: int) -> None:
    """As before, cleaned again when all that was committed is replaced, and a third time."""
    transactions(side, now_ms)
    for turn in (1, 2):
        time.sleep(0.01)
        at_ms = now_ms + 2 * turn * LATER_MS
        side.write(side.producer(), at_ms, ("k", f"late {turn}"), *((f"own {one}", f"late {turn}") for one in range(4)))
        sealed(side, at_ms + LATER_MS)
        side.clean()


def interleaved(side: Side, now_ms: int) -> None:
    """Two transactions at the same time, one of which is aborted, across a segment's end."""
    first, second = (side.producer(name, **{"transactional.id": f"{side.topic} {name}"}) for name in ("t", "u"))
    first.begin_transaction()
    second.begin_transaction()
    side.write(first, now_ms, ("a", "first"), ("x", "first"))
    side.write(second, now_ms, ("a", "second"), ("y", "second"))
    side.write(side.producer(), now_ms + LATER_MS, ("b", "between"))
    side.write(first, now_ms + LATER_MS, ("b", "first"))
    side.write(second, now_ms + LATER_MS, ("b", "second"), ("z", None))
    side.end(first, commit=False)
    side.end(second, commit=True)
    sealed(side, now_ms + 2 * LATER_MS)
    side.clean()


def deleted_records(side: Side, now_ms: int) -> None:
    """DeleteRecords into the middle of a batch, then a run."""
    producer = side.producer()
    side.write(producer, now_ms, ("a", "1"), ("b", "1"), ("c", "1"))
    side.write(producer, now_ms, ("a", "2"), ("d", "1"))
    sealed(side, now_ms + LATER_MS)
    side.delete_records(2)
    side.clean()


def another_codec(side: Side, now_ms: int) -> None:
    """``compression.type`` changes between two runs: what is rewritten keeps its own codec."""
    producer = side.producer("z", **{"compression.type": "zstd"})
    side.write(producer, now_ms, ("a", "1" * 100), ("b", "1" * 100))
    side.write(producer, now_ms, ("a", "2" * 100), ("c", "1" * 100))
    sealed(side, now_ms + LATER_MS)
    side.alter(compression_type="lz4")
    side.write(producer, now_ms + 2 * LATER_MS, ("c", "2" * 100), ("d", "1" * 100))
    sealed(side, now_ms + 3 * LATER_MS)
    side.clean()


STORIES: list[tuple[Story, dict[str, str]]] = [
    (codecs, {}),
    (tombstones, {"delete.retention.ms": "3600000"}),
    (tombstones_gone, {"delete.retention.ms": "0"}),
    (last_batches, {}),
    (transactions, {"delete.retention.ms": "3600000"}),
    (transactions_twice, {"delete.retention.ms": "0"}),
    (interleaved, {"delete.retention.ms": "0"}),
    (deleted_records, {"cleanup.policy": "compact,delete"}),
    (another_codec, {}),
]


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("story", "configs"), STORIES, ids=[story.__name__ for story, _ in STORIES])
def test_same_is_left(sides: list[Side], story: Story, configs: dict[str, str]) -> None:
    """Both leave the same."""
    now_ms = int(time.time() * 1000) // 1000 * 1000
    left = []
    for side in sides:
        side.create(f"cleaned-{story.__name__}", configs)
        try:
            story(side, now_ms)
        finally:
            side.producers.clear()
        left.append(side.left())
    ours, theirs = left
    for mine, other in zip(ours, theirs, strict=False):
        if mine != other:
            print("ours", *ours, sep="\n")
            print("theirs", *theirs, sep="\n")
        assert mine == other
    assert ours == theirs
