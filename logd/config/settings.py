"""Every setting of a broker, with its unit, default and a line of documentation.

The attribute is Kafka's name with "." written as "_"; the default is Kafka's unless the line says otherwise. Owns the
table that `load`, DescribeConfigs and docs/settings.md are made from. Handed down by the node; never changed in place:
a setting altered while the broker runs makes a new `Settings` (`with_overrides`).
"""

# Annotations are values here (the table is read from them), so no postponed evaluation.
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, get_args

import msgspec

from logd.config.values import (
    INT_MAX,
    LONG_MAX,
    Check,
    Definition,
    Kind,
    Value,
    at_least,
    between,
    one_of,
    parse,
    show,
    some_of,
)

PER_BROKER = "per-broker"
CLUSTER_WIDE = "cluster-wide"
FIXED = "read-only"
LZ4_LEVEL = 9


def _int(doc: str, unit: str = "", check: Check | None = None, scope: str = FIXED) -> Definition:
    return Definition(Kind.INT, doc, unit, check, scope)


def _short(doc: str, check: Check | None = None) -> Definition:
    return Definition(Kind.SHORT, doc, "", check)


def _long(doc: str, unit: str = "", check: Check | None = None, scope: str = FIXED, null: bool = False) -> Definition:
    return Definition(Kind.LONG, doc, unit, check, scope, null)


def _bool(doc: str, scope: str = FIXED) -> Definition:
    return Definition(Kind.BOOLEAN, doc, "", None, scope)


def _word(doc: str, *words: str, scope: str = FIXED, null: bool = False) -> Definition:
    return Definition(Kind.STRING, doc, "", one_of(*words) if words else None, scope, null)


def _list(doc: str, check: Check | None = None, scope: str = FIXED) -> Definition:
    return Definition(Kind.LIST, doc, "", check, scope)


def _directories(value: Value) -> str | None:
    assert isinstance(value, tuple)
    if value and all(value) and len(set(value)) == len(value):
        return None
    return "give one path or several different ones, with commas between them"


def _assignors(value: Value) -> str | None:
    assert isinstance(value, tuple)
    if value and set(value) <= {"uniform", "range"}:
        return None
    return "the assignors are uniform and range; give one of them or both"


def _one_replica(value: Value) -> str | None:
    return None if value == 1 else "one node keeps one replica of a partition; give 1 (replication is not built yet)"


def gzip_level(value: Value) -> str | None:
    """Kafka allows 1 to 9, and -1 for the codec's own default."""
    assert isinstance(value, int)
    return None if value == -1 or 1 <= value <= 9 else "Value must be between 1 and 9 or equal to -1"


def lz4_level(value: Value) -> str | None:
    """Kafka allows 1 to 17; logd's lz4 has one level, so any other than the default would be ignored."""
    wrong = between(1, 17)(value)
    if wrong is not None or value == LZ4_LEVEL:
        return wrong
    return f"logd's lz4 has no levels; leave this at its default of {LZ4_LEVEL}"


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of one broker. `given` maps the names that somebody set to the text they were given."""

    # Who and where
    node_id: Annotated[int, _int("The id of this broker in the cluster.", "", at_least(0))] = 0
    log_dirs: Annotated[
        tuple[str, ...], _list("The directories of all data. The first one holds the metadata too.", _directories)
    ] = ("./logd-data",)
    log_dir_free_bytes_min: Annotated[
        int,
        _long(
            "What logs leave free of the disk, at most a fortieth of it: appends that need more are refused until "
            "there is space. As much again is held in a file, given up when others fill the disk. 0: neither.",
            "bytes",
            at_least(0),
        ),
    ] = 64 * 1024 * 1024
    listeners: Annotated[
        tuple[str, ...], _list("Addresses to listen on, NAME://HOST:PORT; an empty host means every interface.")
    ] = ("PLAINTEXT://127.0.0.1:9092",)
    advertised_listeners: Annotated[
        tuple[str, ...],
        _list(
            "Addresses that clients are told, NAME://HOST:PORT. Empty on a single plain node: each client is told the "
            "host in listeners if it is a name, else the address that it connected to."
        ),
    ] = ()
    listener_security_protocol_map: Annotated[
        tuple[str, ...], _list("The protocol of each listener name, NAME:PROTOCOL. Only PLAINTEXT is built.")
    ] = ("PLAINTEXT:PLAINTEXT",)
    broker_rack: Annotated[str | None, _word("The rack of this broker, told to clients.", null=True)] = None

    # Connections
    max_connections: Annotated[
        int, _int("Connections of the whole broker at most; more are closed at once.", "", at_least(0), CLUSTER_WIDE)
    ] = INT_MAX
    max_connections_per_ip: Annotated[
        int, _int("Connections from one address at most; more are closed at once.", "", at_least(0), CLUSTER_WIDE)
    ] = INT_MAX
    connections_max_idle_ms: Annotated[int, _long("A connection without traffic is closed after this time.", "ms")] = (
        600_000
    )
    socket_listen_backlog_size: Annotated[
        int, _int("Connections that may wait to be accepted. Kafka: 50.", "", at_least(1))
    ] = 1024
    socket_receive_buffer_bytes: Annotated[
        int, _int("What the system holds for us of a connection; -1: as much as it likes. Kafka: 102400.", "bytes")
    ] = -1
    socket_send_buffer_bytes: Annotated[
        int, _int("What the system takes from us for a connection; -1: as much as it likes. Kafka: 102400.", "bytes")
    ] = -1
    socket_request_max_bytes: Annotated[int, _int("The largest request that is read.", "bytes", at_least(1))] = (
        104_857_600
    )
    socket_first_request_max_bytes: Annotated[
        int,
        _int(
            "The largest first frame of a connection that does not begin as a Kafka request does. Only logd has this.",
            "bytes",
            at_least(1024),
        ),
    ] = 65_536

    # Topics
    auto_create_topics_enable: Annotated[bool, _bool("Make a topic when a client first asks for its metadata.")] = True
    delete_topic_enable: Annotated[bool, _bool("Whether topics can be deleted.")] = True
    num_partitions: Annotated[int, _int("Partitions of a new topic that names no number.", "", at_least(1))] = 1
    default_replication_factor: Annotated[
        int, _int("Replicas of a new topic's partitions when it names no number.", "", _one_replica)
    ] = 1
    partitions_max: Annotated[
        int, _int("Partitions of all topics together at most. Only logd has this.", "", at_least(1))
    ] = 20_000
    min_insync_replicas: Annotated[
        int, _int("In-sync replicas that a write with acks=all needs.", "", at_least(1), CLUSTER_WIDE)
    ] = 1
    unclean_leader_election_enable: Annotated[
        bool, _bool("Whether a replica outside the in-sync set may lead. Without effect on one node.", CLUSTER_WIDE)
    ] = False

    # Records
    message_max_bytes: Annotated[
        int, _int("The largest batch of records that is taken.", "bytes", at_least(0), CLUSTER_WIDE)
    ] = 1_048_588
    compression_type: Annotated[
        str,
        _word(
            "How batches are stored: as the producer sent them, or in this codec.",
            "uncompressed",
            "zstd",
            "lz4",
            "snappy",
            "gzip",
            "producer",
            scope=CLUSTER_WIDE,
        ),
    ] = "producer"
    compression_gzip_level: Annotated[
        int, _int("Level of gzip, 1 to 9; -1 is its default.", "", gzip_level, CLUSTER_WIDE)
    ] = -1
    compression_lz4_level: Annotated[int, _int("Level of lz4; logd has only one.", "", lz4_level, CLUSTER_WIDE)] = (
        LZ4_LEVEL
    )
    compression_zstd_level: Annotated[
        int, _int("Level of zstd, -131072 to 22.", "", between(-131_072, 22), CLUSTER_WIDE)
    ] = 3
    log_message_timestamp_type: Annotated[
        str,
        _word(
            "Whether a record keeps its producer's time or gets the broker's.",
            "CreateTime",
            "LogAppendTime",
            scope=CLUSTER_WIDE,
        ),
    ] = "CreateTime"
    log_message_timestamp_before_max_ms: Annotated[
        int, _long("How far behind the broker's clock a record's time may be.", "ms", at_least(0), CLUSTER_WIDE)
    ] = LONG_MAX
    log_message_timestamp_after_max_ms: Annotated[
        int, _long("How far ahead of the broker's clock a record's time may be.", "ms", at_least(0), CLUSTER_WIDE)
    ] = 3_600_000
    producer_id_expiration_ms: Annotated[
        int,
        _int(
            "The state of an idempotent producer that writes nothing is forgotten after this time.",
            "ms",
            at_least(1),
            CLUSTER_WIDE,
        ),
    ] = 86_400_000

    # Segments
    log_segment_bytes: Annotated[
        int, _int("A segment of this size is full.", "bytes", at_least(1_048_576), CLUSTER_WIDE)
    ] = 1_073_741_824
    log_roll_ms: Annotated[
        int | None,
        _long("A segment of this age is closed; unset: log.roll.hours.", "ms", at_least(1), CLUSTER_WIDE, null=True),
    ] = None
    log_scrub_interval_ms: Annotated[
        int,
        _long(
            "How often all that is stored is read and checked, -1 for never. What is damaged is named in the log.",
            "ms",
            at_least(-1),
            CLUSTER_WIDE,
        ),
    ] = 24 * 3600 * 1000
    log_scrub_bytes_per_second: Annotated[
        int, _long("How fast that reads, at most.", "bytes", at_least(1024), CLUSTER_WIDE)
    ] = 8 * 1024 * 1024
    log_roll_hours: Annotated[int, _int("A segment of this age is closed.", "hours", at_least(1))] = 168
    log_roll_jitter_ms: Annotated[
        int | None,
        _long(
            "Random time taken off a segment's age limit; unset: log.roll.jitter.hours.",
            "ms",
            at_least(0),
            CLUSTER_WIDE,
            null=True,
        ),
    ] = None
    log_roll_jitter_hours: Annotated[
        int, _int("Random time taken off a segment's age limit.", "hours", at_least(0))
    ] = 0
    log_index_size_max_bytes: Annotated[
        int, _int("The size of a segment's offset index at most.", "bytes", at_least(4), CLUSTER_WIDE)
    ] = 10_485_760
    log_index_interval_bytes: Annotated[
        int, _int("One index entry for this many bytes of data.", "bytes", at_least(0), CLUSTER_WIDE)
    ] = 4096
    log_preallocate: Annotated[bool, _bool("Allocate a new segment at its full size.", CLUSTER_WIDE)] = False

    # Retention and cleaning
    log_cleanup_policy: Annotated[
        tuple[str, ...],
        _list(
            "What happens to old data: delete, compact, both, or (empty) nothing.",
            some_of("compact", "delete"),
            CLUSTER_WIDE,
        ),
    ] = ("delete",)
    log_retention_ms: Annotated[
        int | None,
        _long(
            "Data older than this is deleted, -1 for never; unset: log.retention.minutes.",
            "ms",
            at_least(-1),
            CLUSTER_WIDE,
            null=True,
        ),
    ] = None
    log_retention_minutes: Annotated[
        int | None,
        Definition(
            Kind.INT,
            "Data older than this is deleted; unset: log.retention.hours.",
            "minutes",
            at_least(-1),
            FIXED,
            True,
        ),
    ] = None
    log_retention_hours: Annotated[
        int, _int("Data older than this is deleted, -1 for never.", "hours", at_least(-1))
    ] = 168
    log_retention_bytes: Annotated[
        int,
        _long(
            "A partition keeps this much at least before its oldest segments are deleted; -1 for no limit.",
            "bytes",
            None,
            CLUSTER_WIDE,
        ),
    ] = -1
    log_retention_check_interval_ms: Annotated[
        int, _long("How often old segments are looked for.", "ms", at_least(1))
    ] = 300_000
    log_segment_delete_delay_ms: Annotated[
        int, _long("Time between taking a file out of use and removing it.", "ms", at_least(0), CLUSTER_WIDE)
    ] = 60_000
    log_cleaner_enable: Annotated[bool, _bool("Whether topics whose cleanup.policy says compact are compacted.")] = True
    log_cleaner_backoff_ms: Annotated[
        int, _long("How often logs to compact are looked for.", "ms", at_least(0), CLUSTER_WIDE)
    ] = 15_000
    log_cleaner_dedupe_buffer_size: Annotated[
        int,
        _long(
            "Memory for the keys of the log that is being compacted, 16 bytes a key; what does not fit waits for the "
            "next run.",
            "bytes",
            at_least(1024 * 1024),
            CLUSTER_WIDE,
        ),
    ] = 134_217_728
    log_cleaner_io_buffer_load_factor: Annotated[
        float,
        Definition(Kind.DOUBLE, "How full that memory may get.", "", between(0.1, 1), CLUSTER_WIDE),
    ] = 0.9
    log_cleaner_delete_retention_ms: Annotated[
        int, _long("How long compaction keeps tombstones.", "ms", at_least(0), CLUSTER_WIDE)
    ] = 86_400_000
    log_cleaner_min_cleanable_ratio: Annotated[
        float,
        Definition(
            Kind.DOUBLE,
            "The share of uncompacted data that makes a log worth compacting.",
            "",
            between(0, 1),
            CLUSTER_WIDE,
        ),
    ] = 0.5
    log_cleaner_min_compaction_lag_ms: Annotated[
        int, _long("Records stay uncompacted for this time at least.", "ms", at_least(0), CLUSTER_WIDE)
    ] = 0
    log_cleaner_max_compaction_lag_ms: Annotated[
        int, _long("Records stay uncompacted for this time at most.", "ms", at_least(1), CLUSTER_WIDE)
    ] = LONG_MAX

    # Durability
    log_flush_mode: Annotated[
        str,
        _word(
            "group: what acks=all acknowledges is on disk. os: it is in the page cache, as by default in Kafka. "
            "Only logd has this.",
            "group",
            "os",
        ),
    ] = "group"
    log_flush_interval_messages: Annotated[
        int, _long("Flush a partition after this many records.", "", at_least(1), CLUSTER_WIDE)
    ] = LONG_MAX
    log_flush_interval_ms: Annotated[
        int | None,
        _long(
            "Flush a partition when data has waited this long; unset: log.flush.scheduler.interval.ms.",
            "ms",
            None,
            CLUSTER_WIDE,
            null=True,
        ),
    ] = None
    log_flush_scheduler_interval_ms: Annotated[int, _long("How often partitions are looked at for a flush.", "ms")] = (
        LONG_MAX
    )
    background_threads: Annotated[
        int,
        _int("Threads that flush logs and write down recovery points, side by side.", "", at_least(1), CLUSTER_WIDE),
    ] = 10
    log_flush_offset_checkpoint_interval_ms: Annotated[
        int, _int("How often recovery points are written down.", "ms", at_least(1))
    ] = 60_000

    # Fetching
    fetch_max_bytes: Annotated[int, _int("The largest answer to one Fetch request.", "bytes", at_least(1024))] = (
        57_671_680
    )
    max_incremental_fetch_session_cache_slots: Annotated[int, _int("Fetch sessions kept at most.", "", at_least(0))] = (
        1000
    )
    max_request_partition_size_limit: Annotated[
        int, _int("Partitions in one answer to DescribeTopicPartitions at most.", "", at_least(1))
    ] = 2000

    # Groups
    group_initial_rebalance_delay_ms: Annotated[
        int, _int("How long a new group waits for more members. Kafka: 3000.", "ms", at_least(0))
    ] = 0
    group_min_session_timeout_ms: Annotated[
        int, _int("The shortest session timeout a member may ask for.", "ms", at_least(0))
    ] = 6_000
    group_max_session_timeout_ms: Annotated[
        int, _int("The longest session timeout a member may ask for.", "ms", at_least(0))
    ] = 1_800_000
    group_max_size: Annotated[int, _int("Members of one group at most.", "", at_least(1))] = INT_MAX
    group_consumer_assignors: Annotated[
        tuple[str, ...],
        _list("Who shares out partitions in groups of the consumer protocol; the first one unless asked.", _assignors),
    ] = ("uniform", "range")
    group_consumer_session_timeout_ms: Annotated[
        int, _int("How long a member of the consumer protocol may be silent.", "ms", at_least(1))
    ] = 45_000
    group_consumer_min_session_timeout_ms: Annotated[
        int, _int("The least that group.consumer.session.timeout.ms may come to.", "ms", at_least(1))
    ] = 45_000
    group_consumer_max_session_timeout_ms: Annotated[
        int, _int("The most that group.consumer.session.timeout.ms may come to.", "ms", at_least(1))
    ] = 60_000
    group_consumer_heartbeat_interval_ms: Annotated[
        int, _int("How often a member of the consumer protocol is to be heard of.", "ms", at_least(1))
    ] = 5_000
    group_consumer_min_heartbeat_interval_ms: Annotated[
        int, _int("The least that group.consumer.heartbeat.interval.ms may come to.", "ms", at_least(1))
    ] = 5_000
    group_consumer_max_heartbeat_interval_ms: Annotated[
        int, _int("The most that group.consumer.heartbeat.interval.ms may come to.", "ms", at_least(1))
    ] = 15_000
    group_consumer_assignment_interval_ms: Annotated[
        int,
        _int(
            "The least time between two assignments of a consumer group. Kafka: 1000.", "ms", at_least(0), CLUSTER_WIDE
        ),
    ] = 0
    group_consumer_min_assignment_interval_ms: Annotated[
        int, _int("The least that group.consumer.assignment.interval.ms may come to.", "ms", at_least(0))
    ] = 0
    group_consumer_max_assignment_interval_ms: Annotated[
        int, _int("The most that group.consumer.assignment.interval.ms may come to.", "ms", at_least(0))
    ] = 15_000
    group_consumer_migration_policy: Annotated[
        str,
        _word(
            "Which groups with members may change over: classic ones to the consumer protocol (upgrade), back "
            "(downgrade), both or none; with none, classic members do not get into groups of the consumer protocol.",
            "bidirectional",
            "upgrade",
            "downgrade",
            "disabled",
        ),
    ] = "bidirectional"
    group_consumer_max_size: Annotated[
        int, _int("Members of one group of the consumer protocol at most.", "", at_least(1))
    ] = INT_MAX
    telemetry_max_bytes: Annotated[
        int, _int("The largest push of metrics by a client, as compressed.", "bytes", at_least(1))
    ] = 1_048_576
    why_events_max_bytes: Annotated[
        int,
        _int("Memory for what happened to groups, topics and connections, for `why`.", "bytes", at_least(0)),
    ] = 4 << 20
    offset_metadata_max_bytes: Annotated[
        int, _int("The longest text committed with an offset.", "bytes", at_least(0))
    ] = 4096
    offsets_commit_timeout_ms: Annotated[int, _int("How long a commit may wait to be durable.", "ms", at_least(1))] = (
        5_000
    )
    offsets_retention_minutes: Annotated[
        int, _int("Offsets of an empty group are forgotten after this time.", "minutes", at_least(1))
    ] = 10_080
    offsets_retention_check_interval_ms: Annotated[
        int, _long("How often forgotten offsets are looked for.", "ms", at_least(1))
    ] = 600_000
    offsets_topic_num_partitions: Annotated[
        int, _int("Partitions of the topic of committed offsets. Kafka: 50.", "", at_least(1))
    ] = 16
    offsets_topic_replication_factor: Annotated[
        int, _short("Replicas of the topic of committed offsets. Kafka: 3.", _one_replica)
    ] = 1
    offsets_topic_segment_bytes: Annotated[
        int, _int("Segment size of the topic of committed offsets.", "bytes", at_least(1))
    ] = 104_857_600
    transaction_max_timeout_ms: Annotated[
        int, _int("The longest transaction.timeout.ms that a producer may ask for.", "ms", at_least(1))
    ] = 900_000
    transactional_id_expiration_ms: Annotated[
        int, _int("A transactional.id that nobody used for this time is forgotten.", "ms", at_least(1))
    ] = 604_800_000
    transaction_remove_expired_transaction_cleanup_interval_ms: Annotated[
        int, _int("How often forgotten transactional ids are looked for.", "ms", at_least(1))
    ] = 3_600_000
    add_partitions_to_txn_retry_backoff_max_ms: Annotated[
        int, _int("How long a new transaction waits for the one before it to end.", "ms", at_least(0))
    ] = 100
    transaction_state_log_num_partitions: Annotated[
        int, _int("Partitions of the topic of transactions. Kafka: 50.", "", at_least(1))
    ] = 16
    transaction_state_log_replication_factor: Annotated[
        int, _short("Replicas of the topic of transactions. Kafka: 3.", _one_replica)
    ] = 1
    transaction_state_log_min_isr: Annotated[
        int, _int("In-sync replicas that a write to the topic of transactions needs. Kafka: 2.", "", at_least(1))
    ] = 1
    transaction_state_log_segment_bytes: Annotated[
        int, _int("Segment size of the topic of transactions.", "bytes", at_least(1))
    ] = 104_857_600

    given: Mapping[str, str] = {}


def _definitions() -> dict[str, Definition]:
    found = {}
    for attribute, annotation in Settings.__annotations__.items():
        if attribute != "given":
            found[attribute.replace("_", ".")] = get_args(annotation)[1]
    return found


DEFINITIONS: dict[str, Definition] = _definitions()
DEFAULTS = Settings()
ALIASES = {"broker.id": "node.id", "log.dir": "log.dirs"}


def attribute(name: str) -> str:
    """The attribute of `Settings` that holds the setting `name`."""
    return name.replace(".", "_")


def settings_from(given: Mapping[str, str]) -> Settings:
    """Settings with the texts of `given` (names as in Kafka); raises ValueError with a sentence, KeyError(name)."""
    values = {attribute(name): parse(name, text, DEFINITIONS[name]) for name, text in given.items()}
    return Settings(**values, given=dict(given))  # type: ignore[arg-type]


def with_overrides(static: Settings, *layers: Mapping[str, str]) -> Settings:
    """`static` with the dynamic values of `layers` on top (the cluster-wide ones first, then those of one broker).

    Names that may not change while running, or whose stored value is no longer allowed, are left as they were:
    a start never fails on what another version stored.
    """
    changes: dict[str, Any] = {}
    for name, text in _merged(layers):
        definition = DEFINITIONS.get(name)
        if definition is None or definition.scope == FIXED:
            continue
        try:
            changes[attribute(name)] = parse(name, text, definition)
        except ValueError:
            continue
    return msgspec.structs.replace(static, **changes) if changes else static


def _merged(layers: tuple[Mapping[str, str], ...]) -> Iterator[tuple[str, str]]:
    merged: dict[str, str] = {}
    for layer in layers:
        merged.update(layer)
    return iter(merged.items())


def shown(settings: Settings, name: str) -> str | None:
    """The value of the setting `name` as text."""
    value: Value = getattr(settings, attribute(name))
    return show(value)
