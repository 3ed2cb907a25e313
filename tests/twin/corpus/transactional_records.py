"""Transactions in partitions: markers that a client writes, odd Produce requests, and what readers see of them."""

from __future__ import annotations

from typing import Any

from ..batches import BASE_TIMESTAMP_MS, Batch
from ..specs import Message
from ..tale import Tale, case, produce_body
from .transactions import NEW, OLD, Actor, read

TRANSACTIONAL = 0x10
LEVELS = (0, 1)


def _described(t: Tale, topic: str, *partitions: int) -> Message:
    indexes = list(partitions or (0,))
    return t.ask("DescribeProducers", 0, topics=[{"name": topic, "partition_indexes": indexes}])


def _marker(
    producer_id: int, epoch: int, commit: bool, topic: str, *indexes: int, coordinator: int = 0, level: int = 0
) -> Message:
    return {
        "producer_id": producer_id,
        "producer_epoch": epoch,
        "transaction_result": commit,
        "topics": [{"name": topic, "partition_indexes": list(indexes)}],
        "coordinator_epoch": coordinator,
        "transaction_version": level,
    }


def _mark(t: Tale, version: int, *markers: Message) -> Message:
    if version < 2:
        markers = tuple({**one, "transaction_version": 0} for one in markers)
    return t.ask("WriteTxnMarkers", version, markers=list(markers))


@case("txn-markers", versions="WriteTxnMarkers")
def markers(t: Tale, version: int) -> None:
    """Markers from outside, as `kafka-transactions --abort` writes them: by epoch and by coordinator epoch."""
    t.create("a", 2)
    a = t.name("a")
    _mark(t, version)
    _mark(t, version, _marker(900, 3, True, a, 0, 1))
    _described(t, a, 0, 1, 7)
    for epoch, coordinator in ((3, 0), (2, 0), (3, 5), (3, 4), (4, 4), (4, 5), (4, 6), (7, 6), (6, 9)):
        _mark(t, version, _marker(900, epoch, False, a, 0, coordinator=coordinator))
        _described(t, a)
    _mark(t, version, _marker(901, 0, True, a, 0, 2), _marker(901, 1, True, a, 1), _marker(902, 0, True, a, 1))
    _mark(t, version, _marker(902, 0, True, "absent", 0))
    _mark(t, version, _marker(901, -1, True, a, 0))
    _mark(t, version, _marker(-1, 0, True, a, 0))
    _mark(t, version, _marker(903, 0, True, a))
    read(t, a, 0)


@case("txn-markers-versions")
def marker_versions(t: Tale) -> None:
    """A marker of transaction.version 2 must have a higher epoch, unless it is written again."""
    t.create("a")
    a = t.name("a")
    for level in (0, 1, 2, 3):
        one = Actor(t, t.name(f"x{level}"), level=NEW if level >= 2 else OLD)
        one.init()
        one.add((a, 0))
        one.produce(a, 0)
        producer_id, epoch = one.producer
        for marked in (epoch - 1, epoch, epoch + 1, epoch + 1, epoch + 3, epoch + 2, 32767, 32767):
            if marked >= 0:
                _mark(t, 2, _marker(producer_id, marked, False, a, 0, level=level))
                _described(t, a)
                read(t, a, 1)
        one.produce(a, 0, b"late")


@case("txn-hanging", versions=(11, 12))
def hanging(t: Tale, version: int) -> None:
    """A transaction that an operator ends while its producer goes on."""
    t.create("a")
    a = t.name("a")
    one = Actor(t, t.name("x"), level=NEW if version >= 12 else OLD)
    one.init()
    one.add((a, 0))
    one.produce(a, 0, b"one")
    _described(t, a)
    _mark(t, 1, _marker(*one.producer, False, a, 0, coordinator=99))
    _described(t, a)
    read(t, a, 1)
    one.produce(a, 0, b"two")
    read(t, a, 1)
    _described(t, a)


def _batch(producer: tuple[int, int], *values: bytes, sequence: int = 0, attributes: int = TRANSACTIONAL) -> bytes:
    return bytes(
        Batch(
            records=[(None, value) for value in values or (b"v",)],
            attributes=attributes,
            producer_id=producer[0],
            producer_epoch=producer[1],
            base_sequence=sequence,
        )
    )


def _send(t: Tale, version: int, tid: str | None, topic: str, *records: bytes, **more: Any) -> Message:
    body = produce_body(topic, records[0], transactional_id=tid, **more)
    body["topic_data"][0]["partition_data"] = [{"index": at, "records": one} for at, one in enumerate(records)]
    if version >= 13:
        meta = t.quiet("Metadata", 12, topics=[{"name": topic}], allow_auto_topic_creation=False)
        del body["topic_data"][0]["name"]
        body["topic_data"][0]["topic_id"] = meta["topics"][0]["topic_id"]
    return t.ask("Produce", version, **body)


@case("txn-produce", versions="Produce")
def produce(t: Tale, version: int) -> None:
    """What a Produce request may not mix, and what it says of a partition that was never added."""
    t.create("a", 3)
    a = t.name("a")
    one = Actor(t, t.name("x"), level=NEW if version >= 12 else OLD)
    two = Actor(t, t.name("y"), level=one.level)
    for actor in (one, two):
        actor.init()
    x = one.producer
    _send(t, version, one.tid, a, _batch(x))
    one.where()
    if version >= 12:
        one.end(False)
        x = one.producer
    _send(t, version, None, a, _batch(x))
    _send(t, version, "", a, _batch(x))
    _send(t, version, two.tid, a, _batch(x))
    _send(t, version, t.name("nobody"), a, _batch(x))
    _send(t, version, one.tid, a, _batch(one.earlier))
    _send(t, version, one.tid, a, _batch(one.later))
    _send(t, version, one.tid, a, _batch((-1, -1), sequence=-1))
    _send(t, version, one.tid, a, _batch(x), _batch(two.producer))
    one.where()
    if version < 12:
        one.add((a, 0), (a, 1))
    _send(t, version, one.tid, a, _batch(x), _batch((-1, -1), sequence=-1, attributes=0), _batch(x))
    one.where()
    _send(t, version, None, a, _batch(x, sequence=1, attributes=0))
    _send(t, version, one.tid, a, _batch(x, sequence=1, attributes=0))
    _send(t, version, one.tid, a, _batch(x, sequence=5))
    _send(t, version, one.tid, a, _batch(x, b"x", sequence=1), acks=1)
    _send(t, version, one.tid, a, _batch(x, b"x", sequence=1))
    _send(t, version, one.tid, "absent", _batch(x))
    _described(t, a, 0, 1, 2)
    one.end(True)
    _described(t, a, 0, 1, 2)
    _send(t, version, one.tid, a, _batch(x, b"x", sequence=1))
    _send(t, version, one.tid, a, _batch(x, b"x", sequence=2))
    x = one.producer
    if version < 12:
        one.add((a, 0))
    _send(t, version, one.tid, a, _batch(x, sequence=7))
    if version >= 12:  # before it, Kafka remembers the sequences that were refused above
        _send(t, version, one.tid, a, _batch(x))
    _described(t, a)
    one.end(False)
    for level in LEVELS:
        read(t, a, level)


@case("txn-sequences", versions=(11, 12))
def sequences(t: Tale, version: int) -> None:
    """A new epoch begins with 0 in every partition, and one partition does not hinder another."""
    t.create("a", 2)
    a = t.name("a")
    one = Actor(t, t.name("x"), level=NEW if version >= 12 else OLD)
    one.init()
    for commit in (True, False, True):
        if version < 12:
            one.add((a, 0), (a, 1))
        for sequence in (0, 3, 1, 2) if version >= 12 else (0, 1, 2):
            one.produce(a, 0, version=version, sequence=sequence)
            one.produce(a, 1, version=version, sequence=sequence + 1)
        one.end(commit)
        one.init(named=one.producer) if not commit else None
    _described(t, a, 0, 1)
    read(t, a, 1)


def _times(t: Tale, topic: str, version: int) -> None:
    for level in LEVELS if version >= 2 else (0,):
        for timestamp in (-1, -2, -3, 0, BASE_TIMESTAMP_MS, BASE_TIMESTAMP_MS + 1):
            if timestamp == -3 and version < 7:
                continue
            rows = [{"partition_index": 0, "timestamp": timestamp, "current_leader_epoch": -1}]
            body = {"replica_id": -1, "isolation_level": level, "topics": [{"name": topic, "partitions": rows}]}
            t.ask("ListOffsets", version, **body)


@case("txn-list-offsets", versions=(1, 2, 7, 11))
def list_offsets(t: Tale, version: int) -> None:
    """The end for a reader of committed data is where the first open transaction begins."""
    t.create("a")
    a = t.name("a")
    one, two = (Actor(t, t.name(name)) for name in ("x", "y"))
    for actor in (one, two):
        actor.init()
    one.add((a, 0))
    one.produce(a, 0, b"one")
    _times(t, a, version)
    t.produce("a", bytes(Batch(records=[(None, b"plain")])))
    two.add((a, 0))
    two.produce(a, 0, b"two")
    one.end(True)
    _times(t, a, version)
    two.end(False)
    _times(t, a, version)


@case("txn-fetch", versions="Fetch")
def fetch(t: Tale, version: int) -> None:
    """The aborted transactions of what is read: of several producers, side by side, at every offset."""
    topic_id = t.create("a")
    a = t.name("a")
    actors = [Actor(t, t.name(name)) for name in "xyz"]
    for actor in actors:
        actor.init()
    for story in ("x+ x y+ y x- z+ y- z z.", "x+ x z+ z y+ y x- z-"):
        for word in story.split():
            actor = actors["xyz".index(word[0])]
            match word[1:]:
                case "+":
                    actor.add((a, 0))
                case "":
                    actor.produce(a, 0, word.encode())
                case end:
                    actor.end(end == ".")
    name = {"topic_id": topic_id} if version >= 13 else {"topic": a}
    for level in LEVELS:
        for offset in range(14):
            rows = [{"partition": 0, "fetch_offset": offset, "partition_max_bytes": 1 << 20}]
            body = {"max_wait_ms": 0, "min_bytes": 0, "max_bytes": 1 << 20, "isolation_level": level}
            if version < 15:
                body["replica_id"] = -1
            t.ask("Fetch", version, **body, topics=[{**name, "partitions": rows}])
    actors[1].end(True)


@case("txn-delete-records")
def delete_records(t: Tale) -> None:
    """Records of an open transaction may be deleted; it is open all the same."""
    t.create("a")
    a = t.name("a")
    one = Actor(t, t.name("x"))
    one.init()
    one.add((a, 0))
    for _ in range(3):
        one.produce(a, 0)
    for offset in (1, -1):
        rows = [{"partition_index": 0, "offset": offset}]
        t.ask("DeleteRecords", 2, topics=[{"name": a, "partitions": rows}], timeout_ms=30000)
        read(t, a, 1, offset=1)
        read(t, a, 0, offset=1)
        _described(t, a)
        one.produce(a, 0)
    one.end(False)
    read(t, a, 1, offset=3)
    _described(t, a)


@case("txn-compacted", versions=(11, 12))
def compacted(t: Tale, version: int) -> None:
    """A topic whose batches are opened: keys are wanted of transactional batches too."""
    t.create("a", 2, {"cleanup.policy": "compact"})
    a = t.name("a")
    one = Actor(t, t.name("x"), level=NEW if version >= 12 else OLD)
    one.init()
    keyed = bytes(
        Batch(
            records=[(b"k", b"v")],
            attributes=TRANSACTIONAL,
            producer_id=one.producer[0],
            producer_epoch=one.producer[1],
            base_sequence=0,
        )
    )
    _send(t, version, one.tid, a, _batch(one.producer), keyed)
    if version < 12:
        one.add((a, 0), (a, 1))
    _send(t, version, one.tid, a, _batch(one.producer), keyed)
    one.where()
    one.end()
    read(t, a, 1)
