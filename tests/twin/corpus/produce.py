"""Produce, InitProducerId, DescribeProducers: what a producer does, and does wrong."""

from __future__ import annotations

import struct
import uuid
from typing import Any

from ..batches import BASE_TIMESTAMP_MS, Batch, batch, control_batch, old_message
from ..specs import Message
from ..tale import Tale, case, produce_body
from .metadata import SOME_ID


def _produce(t: Tale, version: int, short: str, records: bytes | None, **more: Any) -> Message:
    """Ask; from v13 a topic is named by its id."""
    body = produce_body(t.name(short), records, **more)
    if version >= 13:
        meta = t.quiet("Metadata", 12, topics=[{"name": t.name(short)}], allow_auto_topic_creation=False)
        body["topic_data"][0] = {"topic_id": meta["topics"][0]["topic_id"], **body["topic_data"][0]}
        del body["topic_data"][0]["name"]
    return t.ask("Produce", version, **body)


def _log(t: Tale, short: str, partition: int = 0) -> None:
    """Record the whole log of a partition as a consumer sees it."""
    partitions = [{"partition": partition, "fetch_offset": 0, "partition_max_bytes": 1 << 20}]
    t.ask("Fetch", 12, max_wait_ms=0, min_bytes=0, topics=[{"topic": t.name(short), "partitions": partitions}])


@case("produce", versions="Produce")
def produce(t: Tale, version: int) -> None:
    t.create("a", 2)
    for acks in (1, -1):
        _produce(t, version, "a", batch(b"one", b"two"), acks=acks)
    _produce(t, version, "a", batch(b"x", codec=1), partition=1)
    _log(t, "a")
    _log(t, "a", 1)


@case("produce-first-words", versions=(3, 9, 12))
def produce_first_words(t: Tale, version: int) -> None:
    """A connection may begin with a big Produce: not every client asks for the versions on each of its connections."""
    t.create("a")
    for size in (60_000, 70_000, 900_000):
        t.ask("Produce", version, on=t.another(), **produce_body(t.name("a"), batch(b"x" * size)))


@case("produce-acks-0", versions=(3, 8, 9, 12, 13))
def produce_acks_0(t: Tale, version: int) -> None:
    """acks=0 gets no answer; the next request's answer is the next frame."""
    t.create("a")
    body = produce_body(t.name("a"), batch(b"1"), acks=0)
    if version >= 13:
        topic_id = t.wait_for(t.name("a"))
        body["topic_data"] = [{"topic_id": topic_id, "partition_data": body["topic_data"][0]["partition_data"]}]
    t.main.send_frame(t.specs.request("Produce", version, 900, "twin", body))
    _log(t, "a")


@case("produce-acks-0-error")
def produce_acks_0_error(t: Tale) -> None:
    """An error that cannot be answered ends the connection."""
    t.create("a")
    bad = batch(b"1", crc=5)
    connection = t.another()
    connection.send_frame(t.specs.request("Produce", 9, 900, "twin", produce_body(t.name("a"), bad, acks=0)))
    t.note("closed", connection.is_closed_by_peer())
    connection = t.another()
    connection.send_frame(t.specs.request("Produce", 9, 900, "twin", produce_body(t.name("no"), batch(b"1"), acks=0)))
    t.note("closed for an unknown topic", connection.is_closed_by_peer())


def _rows(t: Tale, version: int, topic_id: uuid.UUID, short: str, indexes: list[int]) -> list[Message]:
    """One topic of a Produce request, by its name or by its id."""
    named: Message = {"topic_id": topic_id} if version >= 13 else {"name": t.name(short)}
    return [{**named, "partition_data": [{"index": index, "records": batch(b"1")} for index in indexes]}]


@case("produce-bad-acks", versions=(3, 8, 9, 12, 13))
def produce_bad_acks(t: Tale, version: int) -> None:
    t.create("a")
    for acks in (2, -2, 32767):
        _produce(t, version, "a", batch(b"1"), acks=acks)
        _produce(t, version, "a", batch(b"1"), acks=acks, partition=7)
    t.ask("Produce", version, acks=5, timeout_ms=0, topic_data=_rows(t, version, SOME_ID, "none", [0, 1]))
    t.ask("Produce", version, acks=5, timeout_ms=0, topic_data=_rows(t, version, SOME_ID, "none", []))
    _log(t, "a")


@case("produce-old-versions", versions=(0, 1, 2))
def produce_old_versions(t: Tale, version: int) -> None:
    """v0-2 are advertised (for librdkafka) and refused."""
    t.create("a")
    body = (
        struct.pack(">hi", 1, 1000) + struct.pack(">i", 1) + struct.pack(">h", len(t.name("a"))) + t.name("a").encode()
    )
    message = old_message(0, b"x")
    body += struct.pack(">iii", 1, 0, len(message)) + message
    connection = t.another()
    connection.send_frame(t.specs.request_header(0, version, 3, "twin") + body)
    t.note("closed", connection.is_closed_by_peer())


@case("produce-unknown", versions=(3, 5, 8, 12, 13))
def produce_unknown(t: Tale, version: int) -> None:
    t.create("a")
    if version < 13:
        for name in (t.name("none"), "a/b", "", "x" * 250):
            t.ask("Produce", version, **produce_body(name, batch(b"1")))
    else:
        for topic_id in (SOME_ID, uuid.UUID(int=0)):
            rows = [{"topic_id": topic_id, "partition_data": [{"index": 0, "records": batch(b"1")}]}]
            t.ask("Produce", version, acks=-1, timeout_ms=1000, topic_data=rows)
    for index in (1, -1, 2**31 - 1):
        _produce(t, version, "a", batch(b"1"), partition=index)
    t.ask("Produce", version, acks=-1, timeout_ms=1000, topic_data=[])


@case("produce-many", versions=(3, 9, 12))
def produce_many(t: Tale, version: int) -> None:
    """One bad partition does not spoil the others; the same partition twice."""
    t.create("a", 2)
    rows = [{"index": i, "records": batch(b"v")} for i in (1, 0, 5)]
    t.ask("Produce", version, acks=-1, timeout_ms=1000, topic_data=[{"name": t.name("a"), "partition_data": rows}])
    rows = [{"index": 0, "records": batch(b"bad", crc=1)}, {"index": 1, "records": batch(b"good")}]
    t.ask("Produce", version, acks=-1, timeout_ms=1000, topic_data=[{"name": t.name("a"), "partition_data": rows}])
    empty: list[Message] = []
    t.ask("Produce", version, acks=-1, timeout_ms=1000, topic_data=[{"name": t.name("a"), "partition_data": empty}])
    _log(t, "a")
    _log(t, "a", 1)


GOOD = batch(b"first", b"second")
BAD_BATCHES: dict[str, bytes] = {
    "empty": b"",
    "rubbish": b"\xff" * 100,
    "short": GOOD[:30],
    "cut": GOOD[:-1],
    "bad-crc": batch(b"x", crc=7),
    "magic-0": old_message(0, b"x"),
    "magic-1": old_message(1, b"x", b"k"),
    "magic-3": batch(b"x", magic=3),
    "magic-negative": batch(b"x", magic=-1),
    "length-too-long": batch(b"x", length=500),
    "length-too-short": batch(b"x", length=20),
    "length-0": batch(b"x", length=0),
    "length-negative": batch(b"x", length=-1),
    "two-batches": batch(b"1") + batch(b"2"),
    "no-records": batch(count=0, body=b"", last_offset_delta=0),
    "no-records-delta": batch(count=0, body=b"", last_offset_delta=-1),
    "count-1": batch(b"a", b"b", count=1),
    "count-3": batch(b"a", b"b", count=3),
    "count-negative": batch(b"a", b"b", count=-1),
    "last-delta-5": batch(b"a", b"b", last_offset_delta=5),
    "last-delta-0": batch(b"a", b"b", last_offset_delta=0),
    "last-delta-negative": batch(b"a", b"b", last_offset_delta=-1),
    "deltas-from-1": bytes(Batch(records=[(None, b"a"), (None, b"b")], offset_deltas=(1, 2), last_offset_delta=1)),
    "deltas-backward": bytes(Batch(records=[(None, b"a"), (None, b"b")], offset_deltas=(1, 0))),
    "codec-5": batch(b"x", attributes=5),
    "codec-7": batch(b"x", attributes=7),
    "control": control_batch(),
    "control-not-transactional": bytes(Batch(attributes=0x20)),
    "transactional": bytes(Batch(attributes=0x10, producer_id=5, producer_epoch=0, base_sequence=0)),
    "delete-horizon-attribute": batch(b"x", attributes=0x40),
    "unknown-attribute": batch(b"x", attributes=0x80),
    "base-offset-7": batch(b"x", base_offset=7),
    "base-offset-negative": batch(b"x", base_offset=-5),
    "leader-epoch-9": batch(b"x", leader_epoch=9),
    "timestamp-none": batch(b"x", base_timestamp=-1),
    "timestamp-0": batch(b"x", base_timestamp=0),
    "producer-without-sequence": batch(b"x", producer_id=5, producer_epoch=0),
    "producer-negative-epoch": batch(b"x", producer_id=5, producer_epoch=-1, base_sequence=0),
    "sequence-without-producer": batch(b"x", base_sequence=3),
    "producer-negative": batch(b"x", producer_id=-5, producer_epoch=0, base_sequence=0),
    "max-timestamp-lower": batch(b"x", max_timestamp=5),
    "max-timestamp-none": batch(b"a", b"b", b"c", timestamp_step=7, max_timestamp=-1),
    "max-timestamp-none-gzip": batch(b"a", b"b", timestamp_step=7, max_timestamp=-1, codec=1),
    "null-key-and-value": bytes(Batch(records=[(None, None)])),
}
UNOPENED: dict[str, bytes] = {
    "trailing": GOOD + b"\0",
    "trailing-header": GOOD + b"\0" * 12,
    "broken-gzip": batch(codec=1, body=b"nonsense"),
    "broken-zstd": batch(codec=4, body=b"nonsense"),
    "broken-snappy": batch(codec=2, body=b"nonsense"),
    "broken-lz4": batch(codec=3, body=b"nonsense"),
    "log-append-time-attribute": batch(b"x", attributes=8),
    "timestamp-negative": batch(b"x", base_timestamp=-7),
    "max-timestamp-wrong": batch(b"x", max_timestamp=BASE_TIMESTAMP_MS + 99),
    "timestamp-backward": batch(b"a", b"b", timestamp_step=-10),
    "varint-overflow": batch(body=b"\xff" * 10 + b"\x01" + b"\0" * 20),
    "record-length-beyond": batch(body=b"\x7e" + b"\0" * 8),
    "record-trailing": batch(body=bytes.fromhex("0e00000001027600") + b"\0\0"),
}
"""What only the records tell; logd does not open batches on the hot path (reliability, section 5)."""


@case("produce-bad", versions=(3, 9))
def produce_bad(t: Tale, version: int) -> None:
    """Each in a partition of its own, then the log, then a good one after it."""
    t.create("a", len(BAD_BATCHES))
    t.wait_for(t.name("a"), len(BAD_BATCHES))
    for number, (label, records) in enumerate(BAD_BATCHES.items()):
        t.note("case", label)
        _produce(t, version, "a", records, partition=number)
        _log(t, "a", number)
        _produce(t, version, "a", GOOD, partition=number)


@case("produce-unopened")
def produce_unopened(t: Tale) -> None:
    """Kafka opens each batch, refuses or corrects it; logd keeps it as it is. Both go on."""
    t.create("a", len(UNOPENED))
    for number, (label, records) in enumerate(UNOPENED.items()):
        t.quiet("Produce", 9, **produce_body(t.name("a"), records, number))
        answer = t.quiet("Produce", 9, **produce_body(t.name("a"), GOOD, number))
        t.note(f"a good one after {label}", answer["responses"][0]["partition_responses"][0]["error_code"])


@case("produce-codecs", versions=(3, 6, 7, 9))
def produce_codecs(t: Tale, version: int) -> None:
    """zstd needs v7."""
    t.create("a")
    for codec in range(5):
        _produce(t, version, "a", batch(b"v" * 100, codec=codec))
    _log(t, "a")


@case("produce-recompress")
def produce_recompress(t: Tale) -> None:
    """A topic with a compression of its own: what comes out is compressed with that."""
    for kind in ("uncompressed", "gzip", "lz4", "snappy", "zstd"):
        t.create(kind, 1, {"compression.type": kind})
        for codec in (0, 1, 4):
            _produce(t, 9, kind, batch(b"v" * 200, b"w" * 200, codec=codec, timestamp_step=5))
        offset = t.quiet(
            "Fetch",
            12,
            max_wait_ms=0,
            topics=[{"topic": t.name(kind), "partitions": [{"partition": 0, "partition_max_bytes": 9999}]}],
        )
        data = offset["responses"][0]["partitions"][0]["records"]
        t.note(kind, [attributes & 7 for attributes in _attributes(data)])


def _attributes(data: bytes) -> list[int]:
    found, at = [], 0
    while at < len(data):
        length = struct.unpack_from(">i", data, at + 8)[0]
        found.append(struct.unpack_from(">h", data, at + 21)[0])
        at += 12 + length
    return found


@case("produce-log-append-time")
def produce_log_append_time(t: Tale) -> None:
    t.create("a", 1, {"message.timestamp.type": "LogAppendTime"})
    for version in (3, 9):
        _produce(t, version, "a", batch(b"v", b"w", timestamp_step=3))
    _produce(t, 9, "a", batch(b"v", codec=4))
    _produce(t, 9, "a", batch(b"v", base_timestamp=5, attributes=8))
    _log(t, "a")


@case("produce-too-large")
def produce_too_large(t: Tale) -> None:
    t.create("a", 2, {"max.message.bytes": "1000"})
    base = len(batch(b""))
    for size in (999, 1000, 1001, 5000):
        _produce(t, 9, "a", batch(b"x" * (size - base - 2)))
    for size in (1000, 1001):
        data = batch(b"x" * (size - base - 2))
        t.note(f"{size}", len(data))
        _produce(t, 9, "a", data, partition=1)
    _produce(t, 9, "a", batch(b"x" * 5000, codec=4), partition=1)


@case("produce-compacted")
def produce_compacted(t: Tale) -> None:
    """A compacted topic wants keys."""
    t.create("a", 1, {"cleanup.policy": "compact"})
    _produce(t, 9, "a", batch(b"v"))
    _produce(t, 9, "a", bytes(Batch(records=[(b"k", b"v"), (None, b"w")])))
    _produce(t, 9, "a", bytes(Batch(records=[(b"k", b"v"), (b"l", None)])))
    _produce(t, 9, "a", bytes(Batch(records=[(b"", b"v")], codec=4)))
    _produce(t, 9, "a", bytes(Batch(records=[(None, b"v")], codec=4)))
    _log(t, "a")


@case("produce-compacted-too-large")
def produce_compacted_too_large(t: Tale) -> None:
    """The size is looked at before the records are."""
    t.create("a", 1, {"cleanup.policy": "compact", "max.message.bytes": "150"})
    _produce(t, 9, "a", batch(b"x" * 200))
    _produce(t, 9, "a", batch(b"x" * 200, codec=4))
    _produce(t, 9, "a", GOOD + GOOD)
    _produce(t, 9, "a", batch(b"x", base_offset=7))
    t.create("b", 1, {"compression.type": "gzip", "max.message.bytes": "150"})
    _produce(t, 9, "b", batch(b"x" * 200))
    _produce(t, 9, "b", batch(b"x" * 50))


@case("produce-timestamp-window")
def produce_timestamp_window(t: Tale) -> None:
    before = {"message.timestamp.before.max.ms": "1000", "message.timestamp.after.max.ms": "1000"}
    t.create("a", 1, before)
    for codec in (0, 4):
        for when in (BASE_TIMESTAMP_MS, 4_000_000_000_000, -1, 0):
            _produce(t, 9, "a", batch(b"v", b"w", base_timestamp=when, codec=codec))
    t.create("b")
    for when in (4_000_000_000_000, 2**62):
        _produce(t, 9, "b", batch(b"v", base_timestamp=when))
    late = 4_000_000_000_000 - BASE_TIMESTAMP_MS
    _produce(t, 9, "b", batch(b"v", b"w", b"x", timestamp_step=late))
    _produce(t, 7, "b", batch(b"v", b"w", timestamp_step=late))
    _produce(t, 9, "b", batch(b"v", b"w", b"x", timestamp_step=late, codec=1))
    t.create("c", 1, {"cleanup.policy": "compact", "message.timestamp.before.max.ms": "315360000000"})
    mixed = [(b"k", b"v"), (None, b"w"), (b"l", b"x")]
    for step in (late, -BASE_TIMESTAMP_MS // 2, 5):
        _produce(t, 9, "c", bytes(Batch(records=mixed, timestamp_step=step)))
    _log(t, "c")


@case("produce-opened")
def produce_opened(t: Tale) -> None:
    """Where the records are opened, what they are is checked: a wrong number of them, bytes behind, rubbish."""
    for kind in ("compact", "gzip", "before"):
        configs = {"cleanup.policy": "compact"} if kind == "compact" else {"compression.type": "gzip"}
        t.create(kind, 1, configs if kind != "before" else {"message.timestamp.before.max.ms": "315360000000"})
        for codec in (0, 4):
            for count in (1, 3):
                keyed = [(b"k", b"v"), (b"l", b"w")]
                data = bytes(Batch(records=keyed, count=count, last_offset_delta=count - 1, codec=codec))
                _produce(t, 9, kind, data)
        _produce(t, 9, kind, batch(body=b"\x7e" + b"\0" * 8))
        _produce(t, 9, kind, batch(body=bytes.fromhex("0e00000001027600") + b"\0\0"))
        _produce(t, 9, kind, batch(codec=4, body=b"nonsense"))
        _log(t, kind)


@case("produce-min-insync")
def produce_min_insync(t: Tale) -> None:
    t.create("a", 1, {"min.insync.replicas": "2"})
    for acks in (-1, 1):
        _produce(t, 9, "a", batch(b"v"), acks=acks)
    _log(t, "a")


@case("produce-internal")
def produce_internal(t: Tale) -> None:
    """Clients do not write to the coordinators' topics."""
    for version in (9, 12):
        t.ask("Produce", version, **produce_body("__consumer_offsets", bytes(Batch(records=[(b"k", b"v")]))))


def _idempotent(sequence: int, n: int = 1, producer: int = 7000, epoch: int = 0, **more: Any) -> bytes:
    values = [b"%d" % (sequence + i) for i in range(n)]
    return batch(*values, producer_id=producer, producer_epoch=epoch, base_sequence=sequence, **more)


@case("idempotent", versions=(3, 9, 12))
def idempotent(t: Tale, version: int) -> None:
    """Sequences: gap, repeat, the five remembered batches, new epochs, an unknown producer."""
    t.create("a")
    t.create("b")
    for sequence, n in ((0, 2), (2, 1), (3, 1), (2, 1), (0, 2), (5, 1), (4, 1), (5, 1), (6, 3), (0, 2), (2, 1), (3, 1)):
        _produce(t, version, "a", _idempotent(sequence, n))
    _produce(t, version, "a", _idempotent(6, 2))
    _produce(t, version, "a", _idempotent(7, 2))
    _produce(t, version, "a", _idempotent(9, 1, epoch=1))
    _produce(t, version, "a", _idempotent(0, 1, epoch=1))
    _produce(t, version, "a", _idempotent(9, 1, epoch=0))
    _produce(t, version, "a", _idempotent(0, 1, epoch=5))
    _produce(t, version, "b", _idempotent(10, 1))
    _produce(t, version, "b", _idempotent(11, 1))
    _produce(t, version, "b", _idempotent(0, 1))
    _log(t, "a")
    _log(t, "b")


@case("idempotent-wrap")
def idempotent_wrap(t: Tale) -> None:
    """Sequences wrap from 2^31 - 1 to 0."""
    t.create("a")
    top = 2**31 - 1
    for sequence, n in ((top - 2, 2), (top, 1), (0, 1), (1, 1)):
        _produce(t, 9, "a", _idempotent(sequence, n))
    t.create("b")
    for sequence, n in ((top - 1, 4), (2, 1), (top - 1, 4)):
        _produce(t, 9, "b", _idempotent(sequence, n))


@case("idempotent-two-batches")
def idempotent_two_batches(t: Tale) -> None:
    t.create("a")
    _produce(t, 9, "a", _idempotent(0) + _idempotent(1))
    _produce(t, 9, "a", _idempotent(0))


@case("init-producer-id", versions="InitProducerId")
def init_producer_id(t: Tale, version: int) -> None:
    first = t.ask("InitProducerId", version, transactional_id=None, transaction_timeout_ms=60000)
    second = t.ask("InitProducerId", version, transactional_id=None, transaction_timeout_ms=60000)
    t.note("ids differ", first["producer_id"] != second["producer_id"])
    t.ask("InitProducerId", version, transactional_id="", transaction_timeout_ms=60000)
    t.ask("InitProducerId", version, transactional_id=None, transaction_timeout_ms=0)
    t.ask("InitProducerId", version, transactional_id=None, transaction_timeout_ms=-1)
    if version >= 3:
        for producer, epoch in ((first["producer_id"], 0), (5, -1), (-1, 5), (99999, 3), (5, 32767)):
            t.ask(
                "InitProducerId",
                version,
                transactional_id=None,
                transaction_timeout_ms=60000,
                producer_id=producer,
                producer_epoch=epoch,
            )


@case("init-transactional", versions="InitProducerId")
def init_transactional(t: Tale, version: int) -> None:
    """Where no coordinator can be had (Kafka is configured so), the answer says so."""
    t.ask("InitProducerId", version, transactional_id=t.name("x"), transaction_timeout_ms=60000)
    t.ask("InitProducerId", version, transactional_id=t.name("x"), transaction_timeout_ms=0)
    t.ask("InitProducerId", version, transactional_id=t.name("x"), transaction_timeout_ms=2**31 - 1)


@case("produce-transactional-id", versions=(3, 9, 12))
def produce_transactional_id(t: Tale, version: int) -> None:
    t.create("a")
    _produce(t, version, "a", batch(b"v"), transactional_id="x")
    _produce(t, version, "a", batch(b"v"), transactional_id="")
    records = bytes(Batch(attributes=0x10, producer_id=5, producer_epoch=0, base_sequence=0))
    _produce(t, version, "a", records, transactional_id="x")


@case("describe-producers")
def describe_producers(t: Tale) -> None:
    t.create("a", 2)
    for sequence, epoch in ((0, 0), (1, 0), (0, 1)):
        t.produce("a", _idempotent(sequence, epoch=epoch))
    t.produce("a", _idempotent(0, 4, producer=7001))

    def describe(name: str, *indexes: int) -> None:
        t.ask("DescribeProducers", 0, topics=[{"name": name, "partition_indexes": list(indexes)}])

    describe(t.name("a"), 0, 1)
    describe(t.name("a"), 5, -1)
    describe(t.name("a"))
    describe(t.name("none"), 0)
    describe("a/b", 0)
    t.ask("DescribeProducers", 0, topics=[])
    t.ask("DescribeProducers", 0, topics=[{"name": t.name("a"), "partition_indexes": [0]}] * 2)
