"""CreateTopics, DeleteTopics, CreatePartitions, configs, log directories: what an administrator does."""

from __future__ import annotations

import uuid

from ..specs import Message
from ..tale import Tale, case, new_topic
from .metadata import BAD_NAMES, SOME_ID

ZERO = uuid.UUID(int=0)


def _create(t: Tale, version: int, *topics: Message, validate_only: bool = False) -> Message:
    return t.ask("CreateTopics", version, topics=list(topics), timeout_ms=30000, validate_only=validate_only)


@case("create-topics", versions="CreateTopics")
def create_topics(t: Tale, version: int) -> None:
    configs = {"retention.ms": "1000", "max.message.bytes": "2000"}
    _create(t, version, new_topic(t.name("a"), 2, 1), new_topic(t.name("b"), 1, 1, configs))
    t.wait_for(t.name("b"))
    _create(t, version, new_topic(t.name("a")))
    _create(t, version, new_topic(t.name("v"), 3), validate_only=True)
    _create(t, version)
    t.ask("Metadata", 9, topics=[{"name": t.name(x)} for x in "abv"], allow_auto_topic_creation=False)


@case("create-topics-defaults", versions=range(4, 8))
def create_topics_defaults(t: Tale, version: int) -> None:
    _create(t, version, new_topic(t.name("a"), -1, -1))
    _create(t, version, new_topic(t.name("b"), -1, 1))
    _create(t, version, new_topic(t.name("c"), 1, -1))


@case("create-topics-bad-names", versions=(2, 7))
def create_topics_bad_names(t: Tale, version: int) -> None:
    for name in BAD_NAMES[:-1]:
        _create(t, version, new_topic(name))
    t.create("x.y")
    _create(t, version, new_topic(t.name("x_y")))
    _create(t, version, new_topic("__consumer_offsets"))
    _create(t, version, new_topic("__cluster_metadata"))


@case("create-topics-bad-counts", versions=(2, 3, 4, 7))
def create_topics_bad_counts(t: Tale, version: int) -> None:
    for number, (partitions, replicas) in enumerate(
        ((0, 1), (-5, 1), (-1, 1), (1, 0), (1, -1), (1, -2), (1, 2), (1, 32767), (10**9, 1), (0, 0), (10_001, 1))
    ):
        _create(t, version, new_topic(t.name(f"n{number}"), partitions, replicas), validate_only=True)


@case("create-topics-twice-in-one")
def create_topics_twice(t: Tale) -> None:
    for replicas in (1, 3):
        _create(t, 7, new_topic(t.name("a")), new_topic(t.name("b")), new_topic(t.name("a"), 2, replicas))
    _create(t, 7, new_topic(t.name("c")), new_topic(t.name("d"), 0), new_topic("a/b"))


def _assigned(name: str, *replicas: list[int], first: int = 0, **more: object) -> Message:
    rows = [{"partition_index": first + i, "broker_ids": ids} for i, ids in enumerate(replicas)]
    fields: Message = {"num_partitions": -1, "replication_factor": -1, **more}
    return {"name": name, "assignments": rows, **fields}


@case("create-topics-assignments", versions=(2, 5, 7))
def create_topics_assignments(t: Tale, version: int) -> None:
    n = t.name
    _create(t, version, _assigned(n("a"), [0], [0]))
    _create(t, version, _assigned(n("b"), [0], [5]))
    _create(t, version, _assigned(n("c"), [0, 0]))
    _create(t, version, _assigned(n("d"), []))
    _create(t, version, _assigned(n("e"), [0], first=1))
    _create(t, version, _assigned(n("f"), [0], num_partitions=1))
    _create(t, version, _assigned(n("g"), [0], replication_factor=1))
    _create(t, version, _assigned(n("h"), [0], num_partitions=1, replication_factor=1))
    _create(t, version, _assigned(n("i"), [-1]))
    rows = [{"partition_index": 0, "broker_ids": [0]}] * 2
    _create(t, version, {"name": n("j"), "assignments": rows, "num_partitions": -1, "replication_factor": -1})
    _create(t, version, _assigned(n("k"), [0], [0, 0]))


BAD_CONFIGS = (
    {"no.such.config": "1"},
    {"retention.ms": "x"},
    {"retention.ms": "-2"},
    {"retention.ms": ""},
    {"retention.ms": None},
    {"cleanup.policy": "nonsense"},
    {"cleanup.policy": "compact,delete"},
    {"cleanup.policy": "delete,delete"},
    {"cleanup.policy": ""},
    {"compression.type": "nonsense"},
    {"compression.type": "GZIP"},
    {"min.insync.replicas": "0"},
    {"min.insync.replicas": "2"},
    {"segment.bytes": "13"},
    {"segment.bytes": "1048576"},
    {"segment.bytes": "2147483648"},
    {"max.message.bytes": "-1"},
    {"max.message.bytes": "0"},
    {"message.timestamp.type": "nonsense"},
    {"message.timestamp.type": "LogAppendTime"},
    {"min.cleanable.dirty.ratio": "1.5"},
    {"min.cleanable.dirty.ratio": "0.1"},
    {"unclean.leader.election.enable": "maybe"},
    {"preallocate": "TRUE"},
    {"flush.messages": "0"},
    {"flush.messages": "1"},
    {"flush.ms": "-1"},
    {"index.interval.bytes": "-1"},
    {"segment.index.bytes": "3"},
    {"segment.ms": "0"},
    {"message.format.version": "2.0"},
    {"message.downconversion.enable": "true"},
    {"remote.storage.enable": "false"},
    {"retention.ms": " 1000 "},
    {"retention.bytes": "-5"},
    {"segment.jitter.ms": "-1"},
    {"file.delete.delay.ms": "-1"},
    {"delete.retention.ms": "-1"},
    {"max.compaction.lag.ms": "0"},
    {"min.compaction.lag.ms": "5", "max.compaction.lag.ms": "4"},
    {"message.timestamp.before.max.ms": "-1"},
    {"compression.gzip.level": "0"},
    {"compression.gzip.level": "10"},
    {"compression.zstd.level": "99"},
    {"compression.lz4.level": "0"},
)


@case("create-topics-configs", versions=(2, 7))
def create_topics_configs(t: Tale, version: int) -> None:
    for number, configs in enumerate(BAD_CONFIGS):
        _create(t, version, new_topic(t.name(f"c{number}"), 1, 1, configs), validate_only=True)
    twice = [{"name": "retention.ms", "value": "1"}, {"name": "retention.ms", "value": "2"}]
    _create(t, version, {**new_topic(t.name("twice")), "configs": twice})


@case("delete-topics", versions="DeleteTopics")
def delete_topics(t: Tale, version: int) -> None:
    a, b = t.create("a"), t.create("b")
    old = version < 6

    def delete(*names: str) -> None:
        field = (
            {"topic_names": list(names)} if old else {"topics": [{"name": name, "topic_id": ZERO} for name in names]}
        )
        t.ask("DeleteTopics", version, timeout_ms=30000, **field)

    delete(t.name("a"), t.name("none"))
    t.wait_gone(t.name("a"))
    delete(t.name("a"))
    delete("a/b", "")
    delete()
    delete(t.name("b"), t.name("b"))
    again = t.create("a")
    t.note("made again has a new id", again != a)
    if not old:
        _delete_by_id(t, again, b)


def _delete_by_id(t: Tale, first: uuid.UUID, second: uuid.UUID) -> None:
    def delete(*topics: tuple[str | None, uuid.UUID]) -> None:
        rows = [{"name": name, "topic_id": topic_id} for name, topic_id in topics]
        t.ask("DeleteTopics", 6, timeout_ms=30000, topics=rows)

    delete((None, ZERO))
    delete((None, SOME_ID))
    delete((t.name("a"), first))
    delete((None, first), (None, first))
    delete((None, first), (t.name("a"), ZERO))
    delete((None, first), (None, SOME_ID))
    delete((None, second))


@case("create-partitions", versions="CreatePartitions")
def create_partitions(t: Tale, version: int) -> None:
    t.create("a", 2)
    t.create("b", 1)

    def more(*rows: Message, validate_only: bool = False) -> None:
        t.ask("CreatePartitions", version, topics=list(rows), timeout_ms=30000, validate_only=validate_only)

    def row(name: str, count: int, *assigned: list[int]) -> Message:
        rows = [{"broker_ids": ids} for ids in assigned] or None
        return {"name": name, "count": count, "assignments": rows}

    a, b = t.name("a"), t.name("b")
    more(row(a, 3), validate_only=True)
    for count in (2, 1, 0, -1):
        more(row(a, count))
    more(row(a, 4, [0]), row(b, 2, [0]))
    more(row(b, 3, [7]))
    more(row(b, 3, [0, 0]))
    more(row(b, 3, []))
    more({"name": b, "count": 3, "assignments": []})
    more(row(t.name("none"), 3), row("a/b", 3), row("", 3))
    more(row(b, 4), row(b, 5))
    more()
    more(row(a, 5))
    t.wait_for(a, 5)
    t.ask("Metadata", 9, topics=[{"name": a}, {"name": b}], allow_auto_topic_creation=False)


@case("delete-records", versions="DeleteRecords")
def delete_records(t: Tale, version: int) -> None:
    from ..batches import batch

    t.create("a", 2)
    t.produce("a", batch(b"1", b"2", b"3"), batch(b"4", b"5"))

    def delete(*rows: tuple[str, int, int]) -> None:
        topics = [
            {"name": name, "partitions": [{"partition_index": index, "offset": offset}]} for name, index, offset in rows
        ]
        t.ask("DeleteRecords", version, topics=topics, timeout_ms=10000)

    def bounds() -> None:
        for at in (-2, -1, -4, -3):
            rows = [{"partition_index": 0, "timestamp": at}]
            t.ask("ListOffsets", 9, replica_id=-1, topics=[{"name": t.name("a"), "partitions": rows}])

    a = t.name("a")
    delete((a, 0, 0))
    delete((a, 0, 2))
    bounds()
    delete((a, 0, 1))
    delete((a, 0, 6))
    delete((a, 0, -2))
    delete((a, 1, -1), (a, 7, 0), (a, -1, 0))
    delete((t.name("none"), 0, 0))
    delete(("a/b", 0, 0))
    delete()
    delete((a, 0, 1), (t.name("none"), 0, 0), (a, 0, 3))
    rows: list[Message] = [{"name": a, "partitions": []}, {"name": t.name("none"), "partitions": []}]
    t.ask("DeleteRecords", version, topics=rows, timeout_ms=10000)
    delete((a, 0, -1))
    bounds()
    t.create("c", 1, {"cleanup.policy": "compact"})
    delete((t.name("c"), 0, 0))


@case("describe-log-dirs", versions="DescribeLogDirs")
def describe_log_dirs(t: Tale, version: int) -> None:
    from ..batches import batch

    t.create("a", 2)
    t.produce("a", batch(b"x" * 100))
    for topics in (
        [{"topic": t.name("a"), "partitions": [0, 1]}],
        [{"topic": t.name("a"), "partitions": [1]}, {"topic": t.name("none"), "partitions": [0]}],
        [{"topic": t.name("a"), "partitions": [9]}],
        [{"topic": t.name("a"), "partitions": []}],
        [],
    ):
        t.ask("DescribeLogDirs", version, topics=topics)
    answer = t.quiet("DescribeLogDirs", version, topics=None)
    own = [topic for topic in answer["results"][0]["topics"] if topic["name"].startswith(t.slug)]
    t.note("of all, own", own)


TOPIC, BROKER, BROKER_LOGGER = 2, 4, 8


def _describe(t: Tale, version: int, kind: int, name: str, keys: list[str] | None, **more: object) -> None:
    t.ask(
        "DescribeConfigs",
        version,
        resources=[{"resource_type": kind, "resource_name": name, "configuration_keys": keys}],
        **more,
    )


@case("describe-topic-configs", versions="DescribeConfigs")
def describe_topic_configs(t: Tale, version: int) -> None:
    t.create("a", 1, {"retention.ms": "1000", "cleanup.policy": "compact"})
    _describe(t, version, TOPIC, t.name("a"), None)
    _describe(t, version, TOPIC, t.name("a"), None, include_synonyms=True)
    _describe(t, version, TOPIC, t.name("a"), ["segment.bytes"], include_synonyms=True, include_documentation=True)


@case("describe-configs-edges", versions="DescribeConfigs")
def describe_configs_edges(t: Tale, version: int) -> None:
    t.create("a")
    a = t.name("a")
    _describe(t, version, TOPIC, a, [])
    _describe(t, version, TOPIC, a, ["retention.ms", "no.such", "cleanup.policy", "retention.ms"])
    _describe(t, version, TOPIC, t.name("none"), None)
    _describe(t, version, TOPIC, "", None)
    _describe(t, version, TOPIC, "a/b", None)
    _describe(t, version, BROKER, "0", ["num.partitions", "log.retention.ms"], include_synonyms=True)
    _describe(t, version, BROKER, "", ["num.partitions"], include_synonyms=True)
    _describe(t, version, BROKER, "7", ["num.partitions"])
    _describe(t, version, BROKER, "x", ["num.partitions"])
    _describe(t, version, BROKER, "-1", ["num.partitions"])
    for kind in (0, 1, 3, 5, 8, 64, 127):
        _describe(t, version, kind, "x", None)
    for kind in (5, 8):
        rows: list[Message] = [{"resource_type": TOPIC, "resource_name": t.name("none"), "configuration_keys": None}]
        rows.append({"resource_type": kind, "resource_name": "x", "configuration_keys": None})
        t.ask("DescribeConfigs", version, resources=rows)
    t.ask("DescribeConfigs", version, resources=[])
    both = [{"resource_type": TOPIC, "resource_name": a, "configuration_keys": ["retention.ms"]}] * 2
    t.ask("DescribeConfigs", version, resources=both)


@case("describe-broker-configs", versions=(1, 4))
def describe_broker_configs(t: Tale, version: int) -> None:
    keys = ["num.partitions", "log.retention.hours", "log.retention.ms", "log.segment.bytes", "message.max.bytes"]
    keys += ["auto.create.topics.enable", "offsets.retention.minutes", "group.max.session.timeout.ms"]
    for name in ("0", ""):
        _describe(t, version, BROKER, name, keys, include_synonyms=True)


@case("alter-configs", versions="AlterConfigs")
def alter_configs(t: Tale, version: int) -> None:
    t.create("a", 1, {"retention.ms": "1000"})
    a = t.name("a")

    def alter(kind: int, name: str, configs: dict[str, str | None], validate_only: bool = False) -> None:
        rows = [{"name": key, "value": value} for key, value in configs.items()]
        resource = {"resource_type": kind, "resource_name": name, "configs": rows}
        t.ask("AlterConfigs", version, resources=[resource], validate_only=validate_only)

    def shown() -> None:
        _wait_for_configs(t)
        _describe(t, 4, TOPIC, a, ["retention.ms", "segment.ms"])

    alter(TOPIC, a, {"segment.ms": "5000"}, validate_only=True)
    shown()
    alter(TOPIC, a, {"segment.ms": "5000"})
    shown()
    alter(TOPIC, a, {"segment.ms": "x"})
    alter(TOPIC, a, {"no.such": "x"})
    alter(TOPIC, a, {"segment.ms": None})
    alter(TOPIC, t.name("none"), {"segment.ms": "1"})
    alter(TOPIC, t.name("none"), {"segment.ms": "x"})
    alter(TOPIC, t.name("none"), {"no.such": "x"})
    alter(TOPIC, "", {"segment.ms": "1"})
    alter(TOPIC, "a/b", {"segment.ms": "1"})
    alter(TOPIC, "a/b", {"no.such": "1"})
    alter(BROKER, "7", {"log.cleaner.threads": "1"})
    alter(BROKER, "x", {"log.cleaner.threads": "1"})
    alter(0, a, {"segment.ms": "1"})
    alter(99, a, {"segment.ms": "1"})
    alter(TOPIC, a, {})
    shown()
    t.ask("AlterConfigs", version, resources=[])


def _wait_for_configs(t: Tale) -> None:
    """Alterations reach Kafka's broker a little after the answer: a later creation is proof that they have."""
    t.create(f"after-{len(t.topics)}")


SET, DELETE, APPEND, SUBTRACT = range(4)


@case("incremental-alter-configs", versions="IncrementalAlterConfigs")
def incremental_alter_configs(t: Tale, version: int) -> None:
    t.create("a", 1, {"retention.ms": "1000"})
    a = t.name("a")

    def alter(*ops: tuple[int, str, str | None], kind: int = TOPIC, name: str = a, validate_only: bool = False) -> None:
        rows = [{"name": key, "config_operation": op, "value": value} for op, key, value in ops]
        resource = {"resource_type": kind, "resource_name": name, "configs": rows}
        t.ask("IncrementalAlterConfigs", version, resources=[resource], validate_only=validate_only)

    def shown() -> None:
        _wait_for_configs(t)
        _describe(t, 4, TOPIC, a, ["retention.ms", "segment.ms", "cleanup.policy"], include_synonyms=True)

    alter((SET, "segment.ms", "5000"), validate_only=True)
    alter((SET, "segment.ms", "5000"), (DELETE, "retention.ms", None), (APPEND, "cleanup.policy", "compact"))
    shown()
    alter((SUBTRACT, "cleanup.policy", "delete"))
    alter((DELETE, "retention.bytes", None))
    shown()
    alter((APPEND, "segment.ms", "1"))
    alter((SUBTRACT, "cleanup.policy", "nonsense"))
    alter((SUBTRACT, "cleanup.policy", "compact"))
    alter((APPEND, "cleanup.policy", "nonsense"))
    alter((SET, "segment.ms", None))
    alter((SET, "segment.ms", "-7"))
    alter((SET, "segment.ms", "x"))
    alter((SET, "segment.ms", "1"), (SET, "segment.ms", "2"))
    alter((9, "segment.ms", "1"))
    alter((SET, "no.such", "1"))
    alter((DELETE, "no.such", None))
    alter((SET, "segment.ms", "1"), name=t.name("none"))
    alter((SET, "segment.ms", "x"), name=t.name("none"))
    alter((SET, "no.such", "x"), name=t.name("none"))
    alter((APPEND, "segment.ms", "5"), name=t.name("none"))
    alter((SET, "segment.ms", "1"), name="")
    for name in ("", "a/b"):
        alter((SET, "no.such", "1"), name=name)
        alter((APPEND, "segment.ms", "1"), name=name)
    alter((SET, "segment.ms", "1"), kind=0)
    alter((SET, "log.cleaner.threads", "1"), kind=BROKER, name="7")
    alter((SET, "log.cleaner.threads", "1"), kind=BROKER, name="x")
    alter((SET, "node.id", "5"), kind=BROKER, name="0")
    alter((SET, "listeners", "x"), kind=BROKER, name="")
    alter()
    shown()


@case("broker-configs")
def broker_configs(t: Tale) -> None:
    """A dynamic cluster-wide default, then one of the broker, then neither."""

    def alter(op: int, name: str, value: str | None) -> None:
        rows = [{"name": "log.retention.ms", "config_operation": op, "value": value}]
        resource = {"resource_type": BROKER, "resource_name": name, "configs": rows}
        t.ask("IncrementalAlterConfigs", 1, resources=[resource])
        _wait_for_configs(t)
        for broker in ("0", ""):
            _describe(t, 4, BROKER, broker, ["log.retention.ms"], include_synonyms=True)
        _describe(t, 4, TOPIC, t.name("a"), ["retention.ms"], include_synonyms=True)

    t.create("a")
    alter(SET, "", "700000000")
    alter(SET, "0", "800000000")
    alter(DELETE, "", None)
    alter(DELETE, "0", None)


@case("background-threads")
def background_threads(t: Tale) -> None:
    """A pool of threads grows to the double and shrinks to the half of what it is; no further in one step."""

    def alter(op: int, value: str | None, name: str = "0") -> None:
        rows = [{"name": "background.threads", "config_operation": op, "value": value}]
        resource = {"resource_type": BROKER, "resource_name": name, "configs": rows}
        t.ask("IncrementalAlterConfigs", 1, resources=[resource])
        _wait_for_configs(t)
        _describe(t, 4, BROKER, "0", ["background.threads"], include_synonyms=True)

    for value in ("9", "4", "1", "9", "8", "17", "16", "0", "x"):
        alter(SET, value)
    alter(DELETE, None)
    alter(SET, "21", name="")
    alter(SET, "12", name="")
    alter(DELETE, None, name="")


@case("list-config-resources", versions="ListConfigResources")
def list_config_resources(t: Tale, version: int) -> None:
    t.create("a")
    for kinds in ([], [TOPIC], [BROKER], [16], [32], [99], [0], [TOPIC, 99]):
        answer = t.quiet("ListConfigResources", version, resource_types=kinds)
        rows = [row for row in answer["config_resources"] if row.get("resource_type") != BROKER_LOGGER]
        own = [row for row in rows if row.get("resource_type") != TOPIC or t.slug in row["resource_name"]]
        t.note(f"{kinds}", {**answer, "config_resources": own})
