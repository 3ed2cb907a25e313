"""Transactions: producers that begin, add, write, commit offsets and end, by the book and out of turn.

What a coordinator does by itself after an answer (markers, then Complete) is waited for with :meth:`Actor.settle`, so
that both servers are asked in the same state.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..batches import Batch, control_batch
from ..specs import Message
from ..tale import Tale, case, produce_body
from .groups import Member

NOBODY = (-1, -1)
SETTLED = ("Empty", "Ongoing", "CompleteCommit", "CompleteAbort")
TRANSACTIONAL = 0x10
OLD, NEW = 0, 2
"""transaction.version of a client: with EndTxn 5 and Produce 12, or without."""
END = {OLD: 4, NEW: 5}
PRODUCE = {OLD: 11, NEW: 12}
EPOCHS, WINDOW = 32767, 217
"""How many epochs a producer id has for producers, and how many of them are asked for at once: a divisor."""


@dataclass(slots=True)
class Actor:
    """One producer with a transactional id."""

    t: Tale
    tid: str
    producer: tuple[int, int] = NOBODY
    sequences: dict[tuple[str, int], int] | None = None
    level: int = OLD

    def init(self, version: int = 4, *, named: tuple[int, int] | None = None, timeout_ms: int = 60000) -> Message:
        """Begin, as nobody or as the one who is named."""
        self.settle()
        more = {} if named is None else {"producer_id": named[0], "producer_epoch": named[1]}
        answer = self.t.ask(
            "InitProducerId", version, transactional_id=self.tid, transaction_timeout_ms=timeout_ms, **more
        )
        if answer.get("error_code") == 0:
            self.take(answer)
        self.settle()
        return answer

    def take(self, answer: Message) -> None:
        self.producer = answer["producer_id"], answer["producer_epoch"]
        self.sequences = {}

    def settle(self) -> None:
        """Wait until the coordinator has ended what it was told to end."""
        while True:
            answer = self.t.quiet("DescribeTransactions", 0, transactional_ids=[self.tid])
            row = answer["transaction_states"][0]
            if row["error_code"] == 105 or row["transaction_state"] in SETTLED:
                return

    def where(self) -> Message:
        """Ask, recorded, where the transaction stands."""
        self.settle()
        return self.t.ask("DescribeTransactions", 0, transactional_ids=[self.tid])

    def add(
        self, *places: tuple[str, int], version: int = 3, who: tuple[int, int] | None = None, tid: str | None = None
    ) -> Message:
        """AddPartitionsToTxn as clients ask it."""
        self.settle()
        producer_id, epoch = who or self.producer
        return self.t.ask(
            "AddPartitionsToTxn",
            version,
            v3_and_below_transactional_id=self.tid if tid is None else tid,
            v3_and_below_producer_id=producer_id,
            v3_and_below_producer_epoch=epoch,
            v3_and_below_topics=topics_of(places),
        )

    def add_offsets(self, group: str, version: int = 3, who: tuple[int, int] | None = None) -> Message:
        self.settle()
        producer_id, epoch = who or self.producer
        body = {"transactional_id": self.tid, "producer_id": producer_id, "producer_epoch": epoch, "group_id": group}
        return self.t.ask("AddOffsetsToTxn", version, **body)

    def produce(
        self,
        topic: str,
        partition: int = 0,
        *values: bytes,
        version: int | None = None,
        who: tuple[int, int] | None = None,
        sequence: int | None = None,
        tid: str | None = None,
    ) -> Message:
        """Write a transactional batch."""
        self.settle()
        producer_id, epoch = who or self.producer
        known = self.sequences if self.sequences is not None else {}
        at = known.get((topic, partition), 0) if sequence is None else sequence
        records = bytes(
            Batch(
                records=[(None, value) for value in values or (b"v",)],
                attributes=TRANSACTIONAL,
                producer_id=producer_id,
                producer_epoch=epoch,
                base_sequence=at,
            )
        )
        body = produce_body(topic, records, partition, transactional_id=self.tid if tid is None else tid)
        answer = self.t.ask("Produce", PRODUCE[self.level] if version is None else version, **body)
        rows = [row for each in answer.get("responses", ()) for row in each["partition_responses"]]
        if rows and rows[0]["error_code"] == 0 and who is None and sequence is None:
            known[topic, partition] = at + len(values or (b"v",))
        return answer

    def offsets(
        self, group: str, topic: str, offset: int, *, version: int = 3, who: tuple[int, int] | None = None, **more: Any
    ) -> Message:
        """TxnOffsetCommit of one partition."""
        self.settle()
        producer_id, epoch = who or self.producer
        rows = [{"partition_index": 0, "committed_offset": offset, "committed_metadata": "m"}]
        return self.t.ask(
            "TxnOffsetCommit",
            version,
            **{
                "transactional_id": self.tid,
                "group_id": group,
                "producer_id": producer_id,
                "producer_epoch": epoch,
                "topics": [{"name": topic, "partitions": rows}],
                **more,
            },
        )

    def end(
        self,
        commit: bool = True,
        *,
        version: int | None = None,
        who: tuple[int, int] | None = None,
        tid: str | None = None,
    ) -> Message:
        """EndTxn; from version 5 on the answer says who comes next."""
        self.settle()
        producer_id, epoch = who or self.producer
        version = END[self.level] if version is None else version
        answer = self.t.ask(
            "EndTxn",
            version,
            transactional_id=self.tid if tid is None else tid,
            producer_id=producer_id,
            producer_epoch=epoch,
            committed=commit,
        )
        if version >= 5 and answer.get("error_code") == 0:
            self.take(answer)
        self.settle()
        return answer

    @property
    def earlier(self) -> tuple[int, int]:
        """The producer with the epoch before."""
        return self.producer[0], self.producer[1] - 1

    @property
    def later(self) -> tuple[int, int]:
        """The producer with an epoch that nobody has yet."""
        return self.producer[0], self.producer[1] + 1


def topics_of(places: tuple[tuple[str, int], ...]) -> list[Message]:
    """Partitions by topic, in order."""
    topics: dict[str, list[int]] = {}
    for topic, index in places:
        topics.setdefault(topic, []).append(index)
    return [{"name": topic, "partitions": indexes} for topic, indexes in topics.items()]


def read(t: Tale, topic: str, isolation: int, *, offset: int = 0, version: int = 12) -> Message:
    """Everything that can be read of a partition, and how far."""
    rows = [{"partition": 0, "fetch_offset": offset, "partition_max_bytes": 1 << 20}]
    body = {"max_wait_ms": 0, "min_bytes": 0, "max_bytes": 1 << 20, "isolation_level": isolation}
    t.ask("Fetch", version, **body, topics=[{"topic": topic, "partitions": rows}])
    rows = [{"partition_index": 0, "timestamp": -1}]
    return t.ask(
        "ListOffsets", 6, replica_id=-1, isolation_level=isolation, topics=[{"name": topic, "partitions": rows}]
    )


def committed(t: Tale, group: str, *, stable: bool = False) -> Message:
    """What a group has committed."""
    return t.ask("OffsetFetch", 7, group_id=group, topics=None, require_stable=stable)


# InitProducerId


@case("txn-init", versions="InitProducerId")
def init(t: Tale, version: int) -> None:
    """A new id, again, timeouts that may not be, and a producer that names itself (from 3 on)."""
    one = Actor(t, t.name("x"))
    for timeout_ms in (0, -1, 900_001, 2**31 - 1):
        one.init(version, timeout_ms=timeout_ms)
    one.init(version)
    one.where()
    one.init(version, timeout_ms=900_000)
    one.where()
    if version < 3:
        return
    one.init(version, named=one.producer)
    one.init(version, named=one.earlier)
    one.init(version, named=one.later)
    one.init(version, named=(one.producer[0] + 1000, 0))
    one.init(version, named=(one.producer[0], -1))
    one.init(version, named=(-1, one.producer[1]))
    one.init(version)
    one.init(version, named=one.earlier)
    other = Actor(t, t.name("y"))
    other.init(version, named=(4711, 3))
    other.where()


@case("txn-fence", versions="InitProducerId")
def fence(t: Tale, version: int) -> None:
    """A second producer with the same id: the open transaction is aborted first, then the epoch is another's."""
    t.create("a")
    one, two = Actor(t, t.name("x")), Actor(t, t.name("x"))
    one.init(version)
    one.add((t.name("a"), 0))
    one.produce(t.name("a"))
    two.init(version)
    two.where()
    two.init(version)
    two.where()
    one.add((t.name("a"), 0))
    one.produce(t.name("a"))
    one.end()
    if version >= 3:
        one.init(version, named=one.producer)
    two.add((t.name("a"), 0))
    two.produce(t.name("a"))
    two.end()
    two.where()
    read(t, t.name("a"), 1)
    read(t, t.name("a"), 0)


@case("txn-recover", versions=(3, 5))
def recover(t: Tale, version: int) -> None:
    """A producer that names itself while its own transaction is open (KIP-360)."""
    t.create("a")
    one = Actor(t, t.name("x"))
    one.init(version)
    one.add((t.name("a"), 0))
    mine = one.producer
    one.init(version, named=mine)
    one.where()
    one.init(version, named=mine)
    one.where()
    one.init(version, named=mine)
    one.init(version, named=one.producer)
    one.where()


# AddPartitionsToTxn


@case("txn-add", versions=(0, 1, 2, 3))
def add(t: Tale, version: int) -> None:
    t.create("a", 2)
    a = t.name("a")
    one = Actor(t, t.name("x"))
    one.add((a, 0), version=version, who=(5, 0))
    one.init()
    one.add((a, 0), version=version, who=(one.producer[0] + 1000, 0))
    one.add((a, 0), version=version, who=one.later)
    one.add((a, 0), version=version, who=one.earlier)
    one.add((a, 0), version=version, tid="")
    one.add((a, 0), version=version, tid=t.name("nobody"))
    one.add((a, 0), (a, 2), (t.name("no"), 0), version=version)
    one.where()
    one.add((t.name("no"), 0), version=version)
    one.add(version=version)
    one.where()
    one.add((a, 0), version=version)
    one.where()
    one.add((a, 0), (a, 1), version=version)
    one.add((a, 1), version=version)
    one.where()
    one.add((a, 0), version=version, who=one.later)
    one.end(False)
    one.where()
    one.add((a, 1), version=version)
    one.where()


@case("txn-add-batched", versions=(4, 5))
def add_batched(t: Tale, version: int) -> None:
    """As brokers ask: any number of transactions, to add or only to look."""
    t.create("a", 2)
    a = t.name("a")
    one, two = Actor(t, t.name("x")), Actor(t, t.name("y"))
    one.init()
    two.init()

    def ask(*rows: tuple[str, tuple[int, int], bool, tuple[tuple[str, int], ...]]) -> None:
        asked = [
            {
                "transactional_id": tid,
                "producer_id": producer[0],
                "producer_epoch": producer[1],
                "verify_only": verify,
                "topics": topics_of(places),
            }
            for tid, producer, verify, places in rows
        ]
        t.ask("AddPartitionsToTxn", version, transactions=asked)

    ask((one.tid, one.producer, True, ((a, 0),)))
    ask((one.tid, one.producer, False, ((a, 0),)), (two.tid, two.producer, False, ((a, 0), (a, 1))))
    one.where()
    two.where()
    ask((one.tid, one.producer, True, ((a, 0), (a, 1))), (two.tid, two.producer, True, ((a, 0), (a, 1))))
    ask((one.tid, one.later, True, ((a, 0),)), (one.tid, two.producer, True, ((a, 0),)))
    ask((one.tid, one.later, False, ((a, 0),)))
    ask((one.tid, two.producer, False, ((a, 0),)))
    ask((t.name("nobody"), one.producer, True, ((a, 0),)))
    ask((t.name("nobody"), one.producer, False, ((a, 0),)))
    ask(("", one.producer, True, ((a, 0),)), ("", one.producer, False, ((a, 0),)))
    ask((one.tid, one.producer, False, ((a, 0), (a, 7), (t.name("no"), 0))))
    ask((one.tid, one.producer, True, ((a, 0), (t.name("no"), 0))))


# AddOffsetsToTxn


@case("txn-add-offsets", versions="AddOffsetsToTxn")
def add_offsets(t: Tale, version: int) -> None:
    one = Actor(t, t.name("x"))
    one.add_offsets(t.name("g"), version, (5, 0))
    one.init()
    one.add_offsets(t.name("g"), version, one.later)
    one.add_offsets(t.name("g"), version, (one.producer[0] + 1000, 0))
    one.add_offsets("", version)
    one.add_offsets(t.name("g"), version)
    one.add_offsets(t.name("g"), version)
    one.where()
    one.end()
    one.where()


# EndTxn


@case("txn-end", versions="EndTxn")
def end(t: Tale, version: int) -> None:
    """Commit and abort in every state that can be waited for, and again, and by others."""
    t.create("a")
    place = (t.name("a"), 0)
    one = Actor(t, t.name("x"))
    one.end(version=version, who=(5, 0))
    one.end(version=version, who=(5, 0), tid="")
    one.init()
    for commit in (True, False):
        one.end(commit, version=version)
        one.where()
    for commit in (True, False):
        one.add(place)
        began = one.producer
        one.end(commit, version=version, who=one.later)
        one.end(commit, version=version, who=one.earlier)
        one.end(commit, version=version, who=(one.producer[0] + 1000, 0))
        one.where()
        one.end(commit, version=version)
        one.where()
        now = one.producer
        one.end(commit, version=version, who=began)
        one.end(not commit, version=version, who=began)
        one.where()
        one.producer = now
        one.end(True, version=version)
        one.where()
        one.end(False, version=version)
        one.where()
        one.end(False, version=version, who=began)
        one.where()
    read(t, t.name("a"), 0)


# TxnOffsetCommit


@case("txn-offsets", versions="TxnOffsetCommit")
def offsets(t: Tale, version: int) -> None:
    """Offsets count when the transaction commits, and are unstable before."""
    t.create("a")
    a, group = t.name("a"), t.name("g")
    one = Actor(t, t.name("x"), level=NEW if version >= 5 else OLD)
    one.offsets(group, a, 1, version=version, who=(5, 0))
    one.init()
    one.offsets(group, t.name("no"), 1, version=version)
    one.offsets("", a, 1, version=version)
    one.offsets(group, a, 1, version=version, who=one.later)
    if version < 5:
        one.offsets(group, a, 1, version=version)
        one.add_offsets(group)
    for commit, offset in ((True, 3), (False, 5), (True, 7)):
        if version < 5:
            one.add_offsets(group)
        one.offsets(group, a, offset, version=version)
        committed(t, group)
        committed(t, group, stable=True)
        one.offsets(group, a, offset + 1, version=version)
        one.offsets(group, t.name("no"), offset, version=version)
        one.where()
        one.end(commit)
        committed(t, group, stable=True)
    one.offsets(group, a, 9, version=version, who=one.earlier)
    committed(t, group, stable=True)
    t.ask("OffsetDelete", 0, group_id=group, topics=[{"name": a, "partitions": [{"partition_index": 0}]}])
    committed(t, group)


@case("txn-offsets-odd", versions="TxnOffsetCommit")
def offsets_odd(t: Tale, version: int) -> None:
    """Topics without partitions, and one that is named twice."""
    t.create("a", 2)
    one = Actor(t, t.name("x"), level=NEW if version >= 5 else OLD)
    one.init()

    def row(index: int) -> Message:
        return {"partition_index": index, "committed_offset": 3, "committed_metadata": None}

    named: list[tuple[str, list[Message]]] = [("a", []), ("a", [row(0)]), ("no", [row(0)]), ("a", [row(1), row(9)])]
    for who in (one.producer, (5, 0)):
        for some in (named, named[:1], []):
            topics = [{"name": t.name(name), "partitions": rows} for name, rows in some]
            one.offsets(t.name("g"), "", 3, version=version, who=who, topics=topics)


@case("txn-offsets-members", versions=(3, 4, 5))
def offsets_of_members(t: Tale, version: int) -> None:
    """The fences of a classic group: member, generation, instance (KIP-447)."""
    t.create("a")
    a, group = t.name("a"), t.name("g")
    one = Actor(t, t.name("x"), level=NEW if version >= 5 else OLD)
    one.init()
    one.add_offsets(group)
    one.offsets(group, a, 1, version=version, generation_id=3, member_id="who")
    member = Member(t, group, t.another())
    member.enter()
    member.sync({member.id: b"all"})
    one.offsets(group, a, 1, version=version)
    one.offsets(group, a, 2, version=version, generation_id=member.generation, member_id=member.id)
    one.offsets(group, a, 3, version=version, generation_id=member.generation + 1, member_id=member.id)
    one.offsets(group, a, 4, version=version, generation_id=member.generation - 1, member_id=member.id)
    one.offsets(group, a, 5, version=version, generation_id=member.generation, member_id="who")
    one.offsets(group, a, 6, version=version, generation_id=-1, member_id=member.id)
    one.offsets(group, a, 7, version=version, generation_id=member.generation, member_id="")
    one.offsets(
        group, a, 8, version=version, generation_id=member.generation, member_id=member.id, group_instance_id="i"
    )
    committed(t, group)
    committed(t, group, stable=True)
    one.end()
    committed(t, group, stable=True)
    member.leave()
    t.ask("DeleteGroups", 2, groups_names=[group])
    committed(t, group)


@case("txn-offsets-deleted")
def offsets_deleted(t: Tale) -> None:
    """A group that is deleted takes its pending offsets along; the transaction ends all the same."""
    t.create("a")
    a, group = t.name("a"), t.name("g")
    one = Actor(t, t.name("x"), level=NEW)
    one.init()
    one.offsets(group, a, 1, version=5)
    one.end()
    one.offsets(group, a, 2, version=5)
    t.ask("DeleteGroups", 2, groups_names=[group])
    committed(t, group, stable=True)
    one.end()
    one.where()
    committed(t, group, stable=True)


# Records of transactions


@case("txn-records", versions=(3, 8, 10, 11, 12))
def records(t: Tale, version: int) -> None:
    """Batches of a transaction: added or not, in and out of order, then read with both isolation levels."""
    t.create("a", 2)
    a = t.name("a")
    one = Actor(t, t.name("x"), level=NEW if version >= 12 else OLD)
    one.produce(a, version=version, who=(5, 0))
    one.init()
    one.produce(a, version=version, who=one.later)
    one.produce(a, version=version, tid=t.name("y"))
    for commit in (True, False, True):
        if version < 12:
            one.produce(a, version=version)
            one.add((a, 0))
        one.produce(a, 0, b"one", version=version)
        one.produce(a, 0, b"two", b"three", version=version)
        one.produce(a, 0, b"four", version=version, sequence=9)
        one.produce(a, 0, b"two", b"three", version=version, sequence=1)
        one.produce(a, 1, b"elsewhere", version=version)
        one.where()
        read(t, a, 1)
        read(t, a, 0)
        one.end(commit)
        read(t, a, 1)
        read(t, a, 1, version=4)
        one.produce(a, 0, b"late", version=version, who=one.earlier, sequence=0)
    read(t, a, 0)
    read(t, a, 1, offset=2)


@case("txn-two-producers", versions=(11, 12))
def two_producers(t: Tale, version: int) -> None:
    """The last stable offset is the first open transaction's; the aborted list tells of both."""
    t.create("a")
    a = t.name("a")
    one, two = (Actor(t, t.name(name), level=NEW if version >= 12 else OLD) for name in ("x", "y"))
    for actor in (one, two):
        actor.init()
        actor.add((a, 0))
        actor.produce(a, 0, actor.tid.encode()[-1:])
    t.produce("a", bytes(Batch(records=[(None, b"plain")])))
    read(t, a, 1)
    two.end(False)
    read(t, a, 1)
    one.produce(a, 0, b"more")
    one.end()
    read(t, a, 1)
    two.add((a, 0))
    two.produce(a, 0, b"again")
    read(t, a, 1, offset=3)
    two.end(False)
    for offset in range(8):
        read(t, a, 1, offset=offset)


# Looking


@case("txn-list", versions="ListTransactions")
def list_transactions(t: Tale, version: int) -> None:
    """Every filter, alone and together; ids of other cases are kept out by the producer ids."""
    t.create("a")
    actors = [Actor(t, t.name(name)) for name in ("one", "two", "three.b")]
    for actor in actors:
        actor.init()
        t.ask("DescribeTransactions", 0, transactional_ids=[actor.tid])
    actors[1].add((t.name("a"), 0))
    actors[2].add((t.name("a"), 0))
    actors[2].end()
    mine = [actor.producer[0] for actor in actors]

    def ask(**more: Any) -> None:
        t.ask("ListTransactions", version, **{"state_filters": [], "producer_id_filters": mine, **more})

    ask()
    ask(state_filters=["Ongoing"])
    ask(state_filters=["Ongoing", "Empty", "Ongoing"])
    ask(state_filters=["CompleteCommit", "NoSuchState", "ongoing", "NoSuchState"])
    ask(state_filters=["Dead"])
    ask(state_filters=["PrepareEpochFence", ""])
    ask(producer_id_filters=mine[:2])
    ask(producer_id_filters=[999_999_999])
    if version >= 1:
        for duration_ms in (-1, -5, 0, 3_600_000):
            ask(duration_filter=duration_ms, state_filters=["Ongoing", "Empty"])
    if version >= 2:
        for pattern in (None, "", ".*", ".*one", "one", ".*-t.*", "[", ".*three\\.b", "(?i).*ONE"):
            ask(transactional_id_pattern=pattern)


@case("txn-describe")
def describe_transactions(t: Tale) -> None:
    t.create("a", 3)
    t.create("b")
    one = Actor(t, t.name("x"))
    one.init(timeout_ms=54321)
    one.add((t.name("b"), 0), (t.name("a"), 2), (t.name("a"), 0))
    t.ask("DescribeTransactions", 0, transactional_ids=[])
    t.ask("DescribeTransactions", 0, transactional_ids=["", one.tid, t.name("nobody")])


# Coordinators


@case("txn-topic-deleted")
def topic_deleted(t: Tale) -> None:
    """A topic that goes away in the middle does not keep its transaction from ending."""
    t.create("a")
    t.create("b")
    one = Actor(t, t.name("x"))
    one.init()
    one.add((t.name("a"), 0), (t.name("b"), 0))
    one.produce(t.name("b"))
    t.ask("DeleteTopics", 5, topic_names=[t.name("a")], timeout_ms=30000)
    t.wait_gone(t.name("a"))
    one.end()
    one.where()
    read(t, t.name("b"), 1)


# The last epoch


def wear_out(t: Tale, actor: Actor, timeout_ms: int) -> None:
    """Begin again and again, many requests at once, until no epoch is left that a producer may have."""
    connection = t.another()
    for _ in range(0, EPOCHS, WINDOW):
        for _ in range(WINDOW):
            connection.send("InitProducerId", 4, transactional_id=actor.tid, transaction_timeout_ms=timeout_ms)
        answers = [connection.receive() for _ in range(WINDOW)]
    actor.take(answers[-1])
    t.note("the last epoch", actor.producer[1])


@case("txn-worn-out")
def worn_out(t: Tale) -> None:
    """A transaction that times out in the last epoch goes over to a producer id that nobody had."""
    t.create("a")
    a = t.name("a")
    actor = Actor(t, t.name("x"), level=NEW)
    wear_out(t, actor, 1000)
    actor.produce(a)
    while "CompleteAbort" not in str(t.quiet("DescribeTransactions", 0, transactional_ids=[actor.tid])):
        pass
    old = actor.producer
    actor.where()
    actor.produce(a)
    actor.end(True, who=old)
    actor.end(False, who=old)
    actor.where()
    actor.init()
    actor.where()
    actor.produce(a)
    actor.end()
    actor.where()
    read(t, a, 1)


@case("txn-too-late", versions="EndTxn")
def too_late(t: Tale, version: int) -> None:
    """Commit, abort, write and commit offsets after the timeout; then begin again as the one who was."""
    t.create("a")
    a = t.name("a")
    for commit in (True, False):
        actor = Actor(t, t.name(f"x{commit}"), level=NEW if version >= 5 else OLD)
        actor.init(timeout_ms=1)
        if version < 5:
            actor.add((a, 0))
        else:
            actor.produce(a)
        while "CompleteAbort" not in str(t.quiet("DescribeTransactions", 0, transactional_ids=[actor.tid])):
            pass
        mine = actor.producer
        actor.add((a, 0))
        actor.produce(a, sequence=1)
        actor.offsets(t.name("g"), a, 1, version=5 if version >= 5 else 3)
        actor.end(commit, version=version)
        actor.init(named=mine)
        actor.where()
    read(t, a, 1)


@case("txn-marker-of-a-client", versions=(11, 12))
def marker_of_a_client(t: Tale, version: int) -> None:
    """A control batch by the producer of the open transaction itself."""
    t.create("a")
    a = t.name("a")
    actor = Actor(t, t.name("x"), level=NEW if version >= 12 else OLD)
    actor.init()
    actor.add((a, 0))
    actor.produce(a)
    for kind in (0, 1):
        for sequence in (-1, 0, 1):
            producer_id, epoch = actor.producer
            forged = control_batch(kind, producer_id=producer_id, producer_epoch=epoch, base_sequence=sequence)
            t.ask("Produce", version, **produce_body(a, forged, transactional_id=actor.tid))
    read(t, a, 1)
    actor.where()
    actor.produce(a)
    actor.end()
    read(t, a, 1)
