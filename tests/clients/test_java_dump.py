"""Kafka's kafka-dump-log reads the files that logd wrote: they are Kafka's own formats."""

from __future__ import annotations

import re
from pathlib import Path

from logd.testing import Broker
from tests.clients.confluent import PATIENCE_S, consumer, produce, producer, take
from tests.clients.java import NEEDS_JAVA, run_java

pytestmark = NEEDS_JAVA

SEGMENT_BYTES = 1 << 20


def files(broker: Broker, topic: str, suffix: str) -> list[Path]:
    """The files of a topic's partition 0 with this suffix, the oldest first."""
    return sorted(broker.data_dir.glob(f"{topic}-0*/*{suffix}"))


def dump(file: Path, *options: str) -> str:
    """What kafka-dump-log prints of a file."""
    return run_java("DumpLogSegments", *options, "--files", str(file))


def test_segments_and_indexes(tmp_path: Path) -> None:
    """Segments that were rolled, and those of a broker that was stopped, are valid to their last byte, indexes too."""
    with Broker(data_dir=tmp_path) as broker:
        broker.create_topic("dumped", configs={"segment.bytes": str(SEGMENT_BYTES)})
        for number in range(30):
            broker.produce(
                "dumped", *[b"%06d" % number * 20] * 10, b"x" * 80_000, timestamp_ms=1_700_000_000_000 + number
            )
        broker.stop()
        logs = files(broker, "dumped", ".log")
        assert len(logs) >= 3
        offsets: list[int] = []
        for log in logs:
            printed = dump(log, "--deep-iteration", "--print-data-log")
            assert "isvalid: false" not in printed
            offsets += [int(offset) for offset in re.findall(r"^\| offset: (\d+)", printed, re.MULTILINE)]
        assert offsets == list(range(330))
        for index in files(broker, "dumped", ".index") + files(broker, "dumped", ".timeindex"):
            printed = dump(index, "--verify-index-only")
            assert not re.search(r"(?i)mismatch|invalid|out of order", printed), f"{index.name}: {printed}"


def test_transactions(tmp_path: Path) -> None:
    """Markers are what Kafka's tool calls them, and the index of aborted transactions is its own."""
    with Broker(data_dir=tmp_path) as broker:
        broker.create_topic("dumped")
        with producer(broker.bootstrap, transactional_id="dumper") as source:
            source.init_transactions(PATIENCE_S)
            for commit in (True, False, True, False):
                source.begin_transaction()
                produce(source, "dumped", [b"x"] * 3)
                (source.commit_transaction if commit else source.abort_transaction)(PATIENCE_S)
        broker.stop()
        (log,) = files(broker, "dumped", ".log")
        printed = dump(log, "--print-data-log")
        assert re.findall(r"endTxnMarker: (\w+)", printed) == ["COMMIT", "ABORT", "COMMIT", "ABORT"], printed
        (index,) = files(broker, "dumped", ".txnindex")
        printed = dump(index)
    found = re.findall(r"firstOffset: (\d+) lastOffset: (\d+) lastStableOffset: (\d+)", printed)
    assert found == [("4", "7", "8"), ("12", "15", "16")], printed


def test_committed_offsets(tmp_path: Path) -> None:
    """__consumer_offsets holds what Kafka's decoder reads: the group's metadata and its offset."""
    with Broker({"offsets.topic.num.partitions": "1"}, data_dir=tmp_path) as broker:
        broker.create_topic("orders")
        with producer(broker.bootstrap) as source:
            produce(source, "orders", [b"x"] * 7)
        with consumer(broker.bootstrap, "workers") as reader:
            reader.subscribe(["orders"])
            take(reader, 7)
            reader.commit(asynchronous=False)
        broker.stop()
        (log,) = files(broker, "__consumer_offsets", ".log")
        printed = dump(log, "--offsets-decoder")
    assert re.search(r'"group":"workers","topic":"orders","partition":0.*"offset":7', printed), printed
    assert re.search(r'"group":"workers".*"protocolType":"consumer"', printed), printed
