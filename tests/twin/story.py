"""Random sequences of operations, the same from the same seed, told to a server as one long tale.

What is chosen never depends on a server's own values, only on the seed and on what every right server must answer;
so two servers that differ once differ in the step where it happened.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from .batches import BASE_TIMESTAMP_MS, batch
from .corpus.groups import TWO, Member
from .tale import Tale, new_topic, produce_body

TOPICS = ("t0", "t1", "t2")
GROUPS = ("g0", "g1")
PARTITIONS = 3
CONFIGS: tuple[dict[str, str], ...] = (
    {},
    {},
    {"max.message.bytes": "150"},
    {"cleanup.policy": "compact"},
    {"message.timestamp.type": "LogAppendTime"},
)


class Story:
    """One seed's operations on one server."""

    def __init__(self, t: Tale, seed: int) -> None:
        self.t = t
        self.rng = Random(seed)
        self.alive: dict[str, int] = {}
        self.members: dict[str, list[Member]] = {group: [] for group in GROUPS}
        self.producer = 5_000_000 + seed * 100
        self.made = 0

    def tell(self, length: int) -> None:
        """Do that many operations."""
        operations: tuple[tuple[Callable[[], None], int], ...] = (
            (self.create, 4),
            (self.produce, 10),
            (self.produce_idempotent, 6),
            (self.fetch, 8),
            (self.list_offsets, 4),
            (self.delete_records, 2),
            (self.delete, 1),
            (self.grow, 1),
            (self.alter, 2),
            (self.join, 3),
            (self.heartbeat, 3),
            (self.commit, 6),
            (self.read_commits, 4),
            (self.leave, 2),
            (self.look, 2),
            (self.elect, 1),
            (self.reassign, 1),
        )
        self.create()
        for operation in self.rng.choices([one for one, _ in operations], [many for _, many in operations], k=length):
            operation()

    def topic(self) -> str:
        return self.rng.choice(TOPICS)

    def index(self) -> int:
        return self.rng.choice((0, 0, 0, 1, 2, 3))

    def create(self) -> None:
        short, partitions = self.topic(), self.rng.randint(1, PARTITIONS)
        body = new_topic(self.t.name(short), partitions, 1, self.rng.choice(CONFIGS))
        self.t.ask("CreateTopics", self.rng.randint(2, 7), topics=[body], timeout_ms=30000)
        if short not in self.alive:
            self.alive[short] = partitions
            self.t.wait_for(self.t.name(short), partitions)

    def delete(self) -> None:
        short = self.topic()
        self.t.ask("DeleteTopics", self.rng.randint(1, 5), topic_names=[self.t.name(short)], timeout_ms=30000)
        if self.alive.pop(short, None) is not None:
            self.t.wait_gone(self.t.name(short))
            self.wait_without_offsets(short)

    def wait_without_offsets(self, short: str) -> None:
        """Kafka's coordinators forget the offsets of a deleted topic a little later."""
        for group in GROUPS:
            for _ in range(3000):
                answer = self.t.quiet("OffsetFetch", 7, group_id=self.t.name(group), topics=None)
                if all(topic["name"] != self.t.name(short) for topic in answer["topics"]):
                    break

    def grow(self) -> None:
        short, count = self.topic(), self.rng.randint(1, PARTITIONS)
        row = {"name": self.t.name(short), "count": count, "assignments": None}
        self.t.ask("CreatePartitions", self.rng.randint(0, 3), topics=[row], timeout_ms=30000)
        if count > self.alive.get(short, count):
            self.alive[short] = count
            self.t.wait_for(self.t.name(short), count)

    def alter(self) -> None:
        short = self.topic()
        name, value = self.rng.choice(
            (
                ("max.message.bytes", "200"),
                ("max.message.bytes", "100000"),
                ("message.timestamp.type", "CreateTime"),
                ("retention.ms", "-1"),
                ("retention.ms", "x"),
                ("no.such", "1"),
            )
        )
        rows = [{"name": name, "config_operation": self.rng.choice((0, 0, 1)), "value": value}]
        resource = {"resource_type": 2, "resource_name": self.t.name(short), "configs": rows}
        self.t.ask("IncrementalAlterConfigs", 1, resources=[resource])
        self.made += 1
        self.t.create(f"after{self.made}")  # a later creation is proof that the alteration has arrived
        shown = {"resource_type": 2, "resource_name": self.t.name(short), "configuration_keys": None}
        self.t.ask("DescribeConfigs", 4, resources=[shown])

    def produce(self) -> None:
        values = [bytes(self.rng.choice((1, 20, 60))) for _ in range(self.rng.randint(1, 4))]
        data = batch(
            *values,
            codec=self.rng.choice((0, 0, 0, 1, 2, 3, 4)),
            base_timestamp=BASE_TIMESTAMP_MS + self.rng.randint(0, 50),
            timestamp_step=self.rng.randint(0, 5),
        )
        body = produce_body(self.t.name(self.topic()), data, self.index(), self.rng.choice((1, -1)))
        self.t.ask("Produce", self.rng.randint(7, 12), **body)

    def produce_idempotent(self) -> None:
        data = batch(
            *[b"i"] * self.rng.randint(1, 2),
            producer_id=self.producer + self.rng.randint(0, 1),
            producer_epoch=self.rng.choice((0, 0, 0, 0, 1)),
            base_sequence=self.rng.randint(0, 6),
        )
        self.t.ask("Produce", 9, **produce_body(self.t.name(self.topic()), data, self.index()))

    def fetch(self) -> None:
        rows = [
            {
                "partition": self.index(),
                "fetch_offset": self.rng.choice((0, 0, 1, 2, 3, 5, 8, 13)),
                "partition_max_bytes": self.rng.choice((1, 100_000)),
            }
        ]
        topics = [{"topic": self.t.name(self.topic()), "partitions": rows}]
        self.t.ask("Fetch", self.rng.randint(4, 12), max_wait_ms=0, min_bytes=0, max_bytes=1 << 20, topics=topics)

    def list_offsets(self) -> None:
        when = self.rng.choice((-1, -2, -4, BASE_TIMESTAMP_MS + self.rng.randint(0, 60)))
        rows = [{"partition_index": self.index(), "timestamp": when}]
        topics = [{"name": self.t.name(self.topic()), "partitions": rows}]
        self.t.ask("ListOffsets", self.rng.randint(8, 11), replica_id=-1, topics=topics)

    def delete_records(self) -> None:
        rows = [{"partition_index": self.index(), "offset": self.rng.choice((-1, 0, 1, 2, 5))}]
        topics = [{"name": self.t.name(self.topic()), "partitions": rows}]
        self.t.ask("DeleteRecords", self.rng.randint(0, 2), topics=topics, timeout_ms=10000)

    def join(self) -> None:
        """A new member; those who are there join again; the first to answer leads."""
        group = self.rng.choice(GROUPS)
        there = self.members[group]
        if len(there) >= 2:
            return
        new = Member(self.t, self.t.name(group), self.t.another(), version=5)
        if there:
            new.join(TWO)
            new.send_join(TWO)
            there[0].await_rebalance()
            there[0].join(TWO)
            new.receive_join("the new one has joined")
        else:
            new.enter(TWO)
        there.append(new)
        self.assign(there)

    def assign(self, there: list[Member]) -> None:
        there[0].sync({member.id: b"part %d" % number for number, member in enumerate(there)})
        for member in there[1:]:
            member.sync()

    def heartbeat(self) -> None:
        for member in self.members[self.rng.choice(GROUPS)]:
            member.beat(generation_id=member.generation + self.rng.choice((0, 0, 1)))

    def leave(self) -> None:
        there = self.members[self.rng.choice(GROUPS)]
        if not there:
            return
        there.pop(0).leave()
        if there:
            there[0].await_rebalance()
            there[0].join(TWO)
            self.assign(there)

    def commit(self) -> None:
        group = self.rng.choice(GROUPS)
        there = self.members[group]
        member_id, generation = (there[0].id, there[0].generation) if there else ("", -1)
        rows = [{"partition_index": self.index(), "committed_offset": self.rng.randint(0, 99)}]
        self.t.ask(
            "OffsetCommit",
            self.rng.randint(6, 9),
            group_id=self.t.name(group),
            generation_id_or_member_epoch=generation + self.rng.choice((0, 0, 0, 1)),
            member_id=member_id,
            topics=[{"name": self.t.name(self.topic()), "partitions": rows}],
        )

    def read_commits(self) -> None:
        self.t.ask("OffsetFetch", self.rng.randint(2, 7), group_id=self.t.name(self.rng.choice(GROUPS)), topics=None)

    def look(self) -> None:
        group = self.t.name(self.rng.choice(GROUPS))
        self.t.ask("DescribeGroups", self.rng.randint(0, 6), groups=[group])
        names = [{"name": self.t.name(short)} for short in TOPICS]
        self.t.ask("Metadata", self.rng.randint(4, 12), topics=names, allow_auto_topic_creation=False)

    def elect(self) -> None:
        rows = [{"topic": self.t.name(self.topic()), "partitions": [self.index(), self.index()]}]
        kind = self.rng.choice((0, 1))
        self.t.ask("ElectLeaders", self.rng.randint(0, 2), election_type=kind, topic_partitions=rows, timeout_ms=30000)

    def reassign(self) -> None:
        rows = [
            {"partition_index": self.index(), "replicas": self.rng.choice(([0], [0], [1], [0, 1], [], None))}
            for _ in range(2)
        ]
        topics = [{"name": self.t.name(self.topic()), "partitions": rows}]
        self.t.ask("AlterPartitionReassignments", self.rng.randint(0, 1), topics=topics, timeout_ms=30000)
        self.t.ask("ListPartitionReassignments", 0, topics=None, timeout_ms=30000)
