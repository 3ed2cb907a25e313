"""Fetch, ListOffsets, OffsetForLeaderEpoch: what a consumer reads."""

from __future__ import annotations

import uuid
from typing import Any

from ..batches import BASE_TIMESTAMP_MS as T0
from ..batches import batch
from ..specs import Message
from ..tale import Tale, case
from .metadata import SOME_ID

ZERO = uuid.UUID(int=0)
PART_BYTES = 1 << 20


def part(index: int = 0, offset: int = 0, **more: Any) -> Message:
    return {"partition": index, "fetch_offset": offset, "partition_max_bytes": PART_BYTES, **more}


def fetch(t: Tale, version: int, *topics: tuple[str | uuid.UUID, list[Message]], **more: Any) -> Message:
    """A Fetch that does not wait. A topic is given by its full name, or by its id from v13 on."""
    rows: list[Message] = []
    for topic, partitions in topics:
        key = "topic_id" if isinstance(topic, uuid.UUID) else "topic"
        rows.append({key: topic, "partitions": partitions})
    fields = {"max_wait_ms": 0, "min_bytes": 0, "max_bytes": 10 << 20, **more}
    return t.ask("Fetch", version, topics=rows, **fields)


def _named(t: Tale, version: int, short: str) -> str | uuid.UUID:
    return t.wait_for(t.name(short), 3) if version >= 13 else t.name(short)


@case("fetch", versions="Fetch")
def fetch_plain(t: Tale, version: int) -> None:
    t.create("a", 3)
    t.produce("a", batch(b"1", b"2", b"3"), batch(b"4"), batch(b"5", b"6", codec=4))
    t.produce("a", batch(b"7"), partition=2)
    a = _named(t, version, "a")
    for offset in (0, 1, 2, 3, 4, 5, 6):
        fetch(t, version, (a, [part(0, offset)]))
    for offset in (-1, -2, 7, 2**62):
        fetch(t, version, (a, [part(0, offset)]))
    fetch(t, version, (a, [part(2), part(1), part(0)]))
    fetch(t, version, (a, [part(7), part(-1), part(0)]))
    fetch(t, version, (a, []))
    fetch(t, version)
    fetch(t, version, (a, [part(0)]), isolation_level=1)
    fetch(t, version, (a, [part(0)]), isolation_level=7)


@case("fetch-unknown", versions=(4, 7, 12, 13, 18))
def fetch_unknown(t: Tale, version: int) -> None:
    t.create("a", 3)
    unknown = [SOME_ID, ZERO] if version >= 13 else [t.name("none"), "a/b", ""]
    for topic in unknown:
        fetch(t, version, (topic, [part(0), part(1)]))
    fetch(t, version, (unknown[0], [part(0)]), (_named(t, version, "a"), [part(0)]))


@case("fetch-sizes", versions=(4, 11, 12, 16))
def fetch_sizes(t: Tale, version: int) -> None:
    """At least one batch is given, however small the limits; then whole batches up to the limits."""
    t.create("a", 3)
    data = [batch(b"x" * 500) for _ in range(4)]
    for index in range(3):
        t.produce("a", *data, partition=index)
    a = _named(t, version, "a")
    size = len(data[0])
    for most in (-1, 0, 1, size - 1, size, size + 1, 2 * size, 3 * size - 1):
        fetch(t, version, (a, [part(0, partition_max_bytes=most)]))
        fetch(t, version, (a, [part(0)]), max_bytes=most)
    for most in (1, size, size + 1, 2 * size, 5 * size):
        fetch(t, version, (a, [part(1), part(0), part(2)]), max_bytes=most)
    fetch(t, version, (a, [part(i, partition_max_bytes=1) for i in (2, 0, 1)]))
    fetch(t, version, (a, [part(0, 2, partition_max_bytes=1), part(1, 4), part(2, 3)]), max_bytes=1)


@case("fetch-epochs", versions=(9, 11, 12, 13, 18))
def fetch_epochs(t: Tale, version: int) -> None:
    """The current leader epoch fences; the last fetched epoch finds a diverging log."""
    t.create("a", 3)
    t.produce("a", batch(b"1", b"2"))
    a = _named(t, version, "a")
    for epoch in (0, 1, -1, -2, 9):
        fetch(t, version, (a, [part(0, current_leader_epoch=epoch)]))
    for last, offset in ((0, 2), (0, 1), (0, 3), (1, 2), (5, 0), (-1, 2), (-2, 0)):
        fetch(t, version, (a, [part(0, offset, last_fetched_epoch=last)]))


@case("fetch-log-start", versions=(5, 12))
def fetch_log_start(t: Tale, version: int) -> None:
    """Before the start of the log."""
    t.create("a", 3)
    t.produce("a", batch(b"1", b"2", b"3"), batch(b"4"))
    rows = [{"name": t.name("a"), "partitions": [{"partition_index": 0, "offset": 2}]}]
    t.quiet("DeleteRecords", 2, topics=rows, timeout_ms=10000)
    for offset in (0, 1, 2, 3, 4, 5):
        fetch(t, version, (t.name("a"), [part(0, offset, log_start_offset=0)]))


@case("fetch-as-replica", versions=(5, 12, 15))
def fetch_as_replica(t: Tale, version: int) -> None:
    """A replica id of a broker that does not replicate the partition."""
    t.create("a", 3)
    t.produce("a", batch(b"1", b"2"))
    who: Message = {"replica_id": 5} if version < 15 else {"replica_state": {"replica_id": 5, "replica_epoch": 1}}
    fetch(t, version, (_named(t, version, "a"), [part(0)]), **who)
    who = {"replica_id": -2} if version < 15 else {"replica_state": {"replica_id": -2, "replica_epoch": -1}}
    fetch(t, version, (_named(t, version, "a"), [part(0)]), **who)
    t.ask("ListOffsets", 6, replica_id=-1, topics=[])


@case("fetch-long-poll")
def fetch_long_poll(t: Tale) -> None:
    """A fetch that waits is answered when enough has come, or when an error is there to tell."""
    t.create("a", 3)
    a = t.name("a")
    waiting = t.another()
    rows = [{"topic": a, "partitions": [part(0)]}]
    waiting.send("Fetch", 12, max_wait_ms=20000, min_bytes=1, max_bytes=1 << 20, topics=rows)
    t.produce("a", batch(b"1"))
    t.note("one byte", waiting.receive())
    one = len(batch(b"1"))
    waiting.send("Fetch", 12, max_wait_ms=20000, min_bytes=2 * one + 1, max_bytes=1 << 20, topics=rows)
    t.produce("a", batch(b"2"))
    t.produce("a", batch(b"3"))
    t.note("more than two batches", waiting.receive())
    fetch(t, 12, (a, [part(0, 99)]), max_wait_ms=20000, min_bytes=1)
    fetch(t, 12, (a, [part(0, 3), part(9)]), max_wait_ms=50, min_bytes=1)
    fetch(t, 12, (a, [part(0, 3)]), max_wait_ms=1, min_bytes=1)
    fetch(t, 12, (a, [part(0, 0)]), max_wait_ms=1, min_bytes=1 << 30)
    fetch(t, 12, max_wait_ms=20000, min_bytes=1)


@case("fetch-twice", versions=(4, 7, 12, 13))
def fetch_twice(t: Tale, version: int) -> None:
    """A partition named twice is read once, as its last wish says."""
    t.create("a", 3)
    t.produce("a", batch(b"1"), batch(b"2"))
    a = _named(t, version, "a")
    fetch(t, version, (a, [part(0), part(1), part(0, 1)]))
    fetch(t, version, (a, [part(0, 1)]), (a, [part(0)]))
    fetch(t, version, (a, [part(0, 99), part(0)]))


@case("fetch-order-on-connection")
def fetch_order(t: Tale) -> None:
    """A parked answer holds back the answers behind it, not the appending."""
    t.create("a", 3)
    rows = [{"topic": t.name("a"), "partitions": [part(0)]}]
    line = t.another()
    line.send("Fetch", 12, max_wait_ms=20000, min_bytes=1, max_bytes=1 << 20, topics=rows)
    line.send("ApiVersions", 0)
    t.produce("a", batch(b"1"))
    t.note("first the fetch", line.receive()["responses"][0]["partitions"][0]["high_watermark"])
    t.note("then the versions", line.receive()["error_code"])


class Session:
    """A fetch session (KIP-227) on a connection."""

    def __init__(self, t: Tale, version: int) -> None:
        self.t, self.version, self.id = t, version, 0

    def ask(self, epoch: int, *topics: tuple[str | uuid.UUID, list[Message]], forget: Any = (), **more: Any) -> Message:
        key = "topic_id" if self.version >= 13 else "topic"
        gone = [{key: name, "partitions": list(indexes)} for name, indexes in forget]
        more = {"session_id": self.id, **more}
        answer = fetch(self.t, self.version, *topics, session_epoch=epoch, forgotten_topics_data=gone, **more)
        if answer and answer["session_id"]:
            self.id = answer["session_id"]
        return answer


@case("fetch-session", versions=(7, 11, 12, 13, 15, 18))
def fetch_session(t: Tale, version: int) -> None:
    """A session answers with what changed and nothing else."""
    t.create("a", 3)
    t.create("b", 3)
    t.produce("a", batch(b"1"))
    a, b = _named(t, version, "a"), _named(t, version, "b")
    s = Session(t, version)
    s.ask(0, (a, [part(0), part(1)]))
    s.ask(1)
    t.note("session id given", s.id > 0)
    s.ask(2, (a, [part(0, 1)]))
    s.ask(3)
    t.produce("a", batch(b"2"), partition=1)
    s.ask(4)
    s.ask(5, (a, [part(1, 1)]))
    s.ask(6, (b, [part(2)]))
    t.produce("b", batch(b"3"), partition=2)
    s.ask(7)
    s.ask(8, forget=[(b, [2])])
    s.ask(9, (a, [part(0, 99)]))
    s.ask(10)
    s.ask(11, (a, [part(9)]))
    s.ask(12)
    s.ask(13, forget=[(a, [9, 0, 1])])
    s.ask(14)
    s.ask(-1)
    s.ask(15)


@case("fetch-session-errors", versions=(7, 11, 12, 13, 18))
def fetch_session_errors(t: Tale, version: int) -> None:
    t.create("a", 3)
    t.produce("a", batch(b"1"))
    a = _named(t, version, "a")
    s = Session(t, version)
    s.ask(0, (a, [part(0)]))
    s.ask(5)
    s.ask(0)
    s.ask(1, session_id=s.id + 12345)
    s.ask(1, session_id=0)
    s.ask(-1, (a, [part(0)]), session_id=0)
    s.ask(-1, (a, [part(0)]))
    s.ask(1)
    s.ask(0, (a, [part(0)]), session_id=987654321)
    s.ask(-5, session_id=0)


@case("fetch-session-unknown-topic", versions=(7, 12, 13, 18))
def fetch_session_unknown(t: Tale, version: int) -> None:
    """A topic that is unknown, then is there, then is gone, within a session."""
    t.create("a", 3)
    a = _named(t, version, "a")
    s = Session(t, version)
    other = SOME_ID if version >= 13 else t.name("none")
    s.ask(0, (a, [part(0)]), (other, [part(0)]))
    s.ask(1)
    t.quiet("DeleteTopics", 5, topic_names=[t.name("a")], timeout_ms=30000)
    t.wait_gone(t.name("a"))


@case("fetch-session-made-again", versions=(7, 12, 13, 18))
def fetch_session_made_again(t: Tale, version: int) -> None:
    """A topic goes and is made again within a session, which knows what an id once meant."""
    t.create("a", 2)
    t.produce("a", batch(b"1"))
    a = t.name("a") if version < 13 else t.wait_for(t.name("a"), 2)
    s = Session(t, version)
    s.ask(0, (a, [part(0, 1), part(1)]))
    t.quiet("DeleteTopics", 5, topic_names=[t.name("a")], timeout_ms=30000)
    t.wait_gone(t.name("a"))
    s.ask(1)
    again = t.create("a", 2)
    t.produce("a", batch(b"2"))
    s.ask(2)
    s.ask(3, (a if version < 13 else again, [part(0)]))
    s.ask(4)


SPECIALS = (-1, -2, -3, -4, -5, -6, -7, -(2**63))


def offsets(t: Tale, version: int, name: str, *rows: Message, **more: Any) -> Message:
    return t.ask("ListOffsets", version, replica_id=-1, topics=[{"name": name, "partitions": list(rows)}], **more)


def at(timestamp: int, index: int = 0, **more: Any) -> Message:
    return {"partition_index": index, "timestamp": timestamp, **more}


@case("list-offsets", versions="ListOffsets")
def list_offsets(t: Tale, version: int) -> None:
    t.create("a", 3)
    t.produce(
        "a",
        batch(b"1", b"2", b"3", base_timestamp=T0, timestamp_step=10),
        batch(b"4", b"5", base_timestamp=T0 + 100, timestamp_step=50, codec=1),
        batch(b"6", base_timestamp=T0 + 40),
    )
    a = t.name("a")
    for special in SPECIALS:
        offsets(t, version, a, at(special))
        offsets(t, version, a, at(special, 1))
    for when in (0, 1, T0 - 1, T0, T0 + 5, T0 + 10, T0 + 20, T0 + 21, T0 + 100, T0 + 101, T0 + 150, T0 + 151, 2**62):
        offsets(t, version, a, at(when))
    offsets(t, version, a, at(T0, 1))
    offsets(t, version, a, at(-1, 2), at(-1, 0), at(-1, 9), at(-1, -1))
    offsets(t, version, a, at(-1, 0), at(-2, 0))
    offsets(t, version, a, at(-1), isolation_level=1)
    offsets(t, version, t.name("none"), at(-1), at(T0))
    offsets(t, version, "a/b", at(-1))
    offsets(t, version, t.name("none"), at(-7), at(-4, 1), at(-6, 2))
    offsets(t, version, a)
    t.ask("ListOffsets", version, replica_id=-1, topics=[])
    for replica in (5, -2, -3):
        row = {"name": a, "partitions": [at(-1)]}
        t.ask("ListOffsets", version, replica_id=replica, topics=[row])
    if version >= 4:
        for epoch in (0, 1, -1, -2):
            offsets(t, version, a, at(-1, current_leader_epoch=epoch), at(T0, 1, current_leader_epoch=epoch))
            offsets(t, version, a, at(-7, current_leader_epoch=epoch), at(-5, 1, current_leader_epoch=epoch))


@case("list-offsets-log-append-time", versions=(7, 11))
def list_offsets_append_time(t: Tale, version: int) -> None:
    t.create("a", 3, {"message.timestamp.type": "LogAppendTime"})
    t.produce("a", batch(b"1", b"2"), batch(b"3"))
    for when in (0, T0, 2**62):
        offsets(t, version, t.name("a"), at(when))


@case("list-offsets-no-max-time", versions=(1, 7, 11))
def list_offsets_no_max_time(t: Tale, version: int) -> None:
    """Batches whose producer left the greatest time out: it is worked out."""
    t.create("a", 3)
    for codec, start in ((0, T0), (4, T0 + 1000)):
        t.produce("a", batch(b"1", b"2", b"3", base_timestamp=start, timestamp_step=10, max_timestamp=-1, codec=codec))
    for when in (T0, T0 + 1, T0 + 20, T0 + 21, T0 + 1010, T0 + 1020, T0 + 1021, *((-3,) if version >= 7 else ())):
        offsets(t, version, t.name("a"), at(when))


@case("list-offsets-equal-times", versions=(7, 11))
def list_offsets_equal(t: Tale, version: int) -> None:
    """The earliest of several with the greatest timestamp."""
    t.create("a", 3)
    t.produce("a", batch(b"1", b"2", timestamp_step=0), batch(b"3"), batch(b"4", base_timestamp=-1))
    for when in (-3, T0):
        offsets(t, version, t.name("a"), at(when))
    t.create("b", 3)
    t.produce("b", batch(b"1", base_timestamp=-1))
    for when in (-3, 0, T0):
        offsets(t, version, t.name("b"), at(when))


@case("offset-for-leader-epoch", versions="OffsetForLeaderEpoch")
def offset_for_leader_epoch(t: Tale, version: int) -> None:
    t.create("a", 2)
    t.produce("a", batch(b"1", b"2"))
    a = t.name("a")

    def ask(name: str, *rows: tuple[int, int, int], replica: int = -1) -> None:
        partitions = [
            {"partition": index, "current_leader_epoch": current, "leader_epoch": epoch}
            for index, current, epoch in rows
        ]
        t.ask("OffsetForLeaderEpoch", version, replica_id=replica, topics=[{"topic": name, "partitions": partitions}])

    for epoch in (0, 1, 99, -1, -2):
        ask(a, (0, -1, epoch), (1, -1, epoch))
    for current in (0, 1, -2):
        ask(a, (0, current, 0))
    ask(a, (9, -1, 0), (-1, -1, 0))
    ask(t.name("none"), (0, -1, 0))
    ask("a/b", (0, -1, 0))
    ask(a, (0, -1, 0), replica=-2)
    ask(a, (0, -1, 0), replica=3)
    t.ask("OffsetForLeaderEpoch", version, topics=[])
