"""The settings of a topic: all 33 of Kafka 4.3, each obeyed or refused.

Owns their table, the broker settings that give their defaults, and the check on new values. Used by the admin APIs
(check, describe) and by the partitions (`topic_config`). A value that logd would not obey is refused here, so that
nothing is accepted and then ignored; a topic's default value is always accepted.
"""

# Annotations are values here (the table is read from them), so no postponed evaluation.
from collections.abc import Mapping
from typing import Annotated, Any, get_args

import msgspec

from logd.config.settings import DEFAULTS, DEFINITIONS, LZ4_LEVEL, Settings, gzip_level, lz4_level
from logd.config.values import (
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
from logd.errors import ErrorCode, Refused


def _only(default: Value, why: str) -> Check:
    def check(value: Value) -> str | None:
        return None if value == default else why

    return check


_NO_TIERS = "logd has no tiered storage; leave this at its default"
_NO_THROTTLE = "logd has no replication to throttle; leave this empty"


def _at_least_or(least: int, why: str) -> Check:
    def check(value: Value) -> str | None:
        assert isinstance(value, int)
        return f"Value must be at least {least}" if value < least else (None if value == least else why)

    return check


def _whole(kind: Kind, doc: str, unit: str = "", check: Check | None = None) -> Definition:
    return Definition(kind, doc, unit, check, "topic")


def _word(doc: str, *words: str) -> Definition:
    return Definition(Kind.STRING, doc, "", one_of(*words), "topic")


def _bool(doc: str, check: Check | None = None) -> Definition:
    return Definition(Kind.BOOLEAN, doc, "", check, "topic")


def _list(doc: str, check: Check) -> Definition:
    return Definition(Kind.LIST, doc, "", check, "topic")


class TopicConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of one topic, defaults of the broker filled in. Times in ms, sizes in bytes."""

    cleanup_policy: Annotated[
        tuple[str, ...],
        _list(
            "What happens to old data: delete, compact, both, or (empty) nothing.",
            some_of("compact", "delete"),
        ),
    ] = ("delete",)
    compression_gzip_level: Annotated[
        int, _whole(Kind.INT, "Level of gzip, 1 to 9; -1 is its default.", "", gzip_level)
    ] = -1
    compression_lz4_level: Annotated[int, _whole(Kind.INT, "Level of lz4; logd has only one.", "", lz4_level)] = (
        LZ4_LEVEL
    )
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
        ),
    ] = "producer"
    compression_zstd_level: Annotated[
        int, _whole(Kind.INT, "Level of zstd, -131072 to 22.", "", between(-131_072, 22))
    ] = 3
    delete_retention_ms: Annotated[
        int, _whole(Kind.LONG, "How long compaction keeps tombstones.", "ms", at_least(0))
    ] = 86_400_000
    file_delete_delay_ms: Annotated[
        int, _whole(Kind.LONG, "Time between taking a file out of use and removing it.", "ms", at_least(0))
    ] = 60_000
    flush_messages: Annotated[int, _whole(Kind.LONG, "Flush a partition after this many records.", "", at_least(1))] = (
        LONG_MAX
    )
    flush_ms: Annotated[
        int, _whole(Kind.LONG, "Flush a partition when data has waited this long.", "ms", at_least(0))
    ] = LONG_MAX
    follower_replication_throttled_replicas: Annotated[
        tuple[str, ...], _list("Followers to throttle; only empty is allowed.", _only((), _NO_THROTTLE))
    ] = ()
    index_interval_bytes: Annotated[
        int, _whole(Kind.INT, "One index entry for this many bytes of data.", "bytes", at_least(0))
    ] = 4096
    leader_replication_throttled_replicas: Annotated[
        tuple[str, ...], _list("Leaders to throttle; only empty is allowed.", _only((), _NO_THROTTLE))
    ] = ()
    local_retention_bytes: Annotated[
        int, _whole(Kind.LONG, "For tiered storage; only -2 is allowed.", "bytes", _at_least_or(-2, _NO_TIERS))
    ] = -2
    local_retention_ms: Annotated[
        int, _whole(Kind.LONG, "For tiered storage; only -2 is allowed.", "ms", _at_least_or(-2, _NO_TIERS))
    ] = -2
    max_compaction_lag_ms: Annotated[
        int, _whole(Kind.LONG, "Records stay uncompacted for this time at most.", "ms", at_least(1))
    ] = LONG_MAX
    max_message_bytes: Annotated[
        int, _whole(Kind.INT, "The largest batch of records that is taken.", "bytes", at_least(0))
    ] = 1_048_588
    message_timestamp_after_max_ms: Annotated[
        int, _whole(Kind.LONG, "How far ahead of the broker's clock a record's time may be.", "ms", at_least(0))
    ] = 3_600_000
    message_timestamp_before_max_ms: Annotated[
        int, _whole(Kind.LONG, "How far behind the broker's clock a record's time may be.", "ms", at_least(0))
    ] = LONG_MAX
    message_timestamp_type: Annotated[
        str, _word("Whether a record keeps its producer's time or gets the broker's.", "CreateTime", "LogAppendTime")
    ] = "CreateTime"
    min_cleanable_dirty_ratio: Annotated[
        float,
        _whole(Kind.DOUBLE, "The share of uncompacted data that makes a log worth compacting.", "", between(0, 1)),
    ] = 0.5
    min_compaction_lag_ms: Annotated[
        int, _whole(Kind.LONG, "Records stay uncompacted for this time at least.", "ms", at_least(0))
    ] = 0
    min_insync_replicas: Annotated[
        int, _whole(Kind.INT, "In-sync replicas that a write with acks=all needs.", "", at_least(1))
    ] = 1
    preallocate: Annotated[bool, _bool("Allocate a new segment at its full size.")] = False
    remote_log_copy_disable: Annotated[
        bool, _bool("For tiered storage; only false is allowed.", _only(False, _NO_TIERS))
    ] = False
    remote_log_delete_on_disable: Annotated[
        bool, _bool("For tiered storage; only false is allowed.", _only(False, _NO_TIERS))
    ] = False
    remote_storage_enable: Annotated[
        bool, _bool("For tiered storage; only false is allowed.", _only(False, _NO_TIERS))
    ] = False
    retention_bytes: Annotated[
        int,
        _whole(Kind.LONG, "A partition keeps this much before its oldest segments are deleted; -1: no limit.", "bytes"),
    ] = -1
    retention_ms: Annotated[
        int, _whole(Kind.LONG, "Data older than this is deleted, -1 for never.", "ms", at_least(-1))
    ] = 604_800_000
    segment_bytes: Annotated[int, _whole(Kind.INT, "A segment of this size is full.", "bytes", at_least(1_048_576))] = (
        1_073_741_824
    )
    segment_index_bytes: Annotated[
        int, _whole(Kind.INT, "The size of a segment's offset index at most.", "bytes", at_least(4))
    ] = 10_485_760
    segment_jitter_ms: Annotated[
        int, _whole(Kind.LONG, "Random time taken off a segment's age limit.", "ms", at_least(0))
    ] = 0
    segment_ms: Annotated[int, _whole(Kind.LONG, "A segment of this age is closed.", "ms", at_least(1))] = 604_800_000
    unclean_leader_election_enable: Annotated[
        bool, _bool("Whether a replica outside the in-sync set may lead. Without effect on one node.")
    ] = False


TOPIC_DEFINITIONS: dict[str, Definition] = {
    attribute.replace("_", "."): get_args(annotation)[1]
    for attribute, annotation in TopicConfig.__annotations__.items()
}

# The broker settings that give a topic setting its default, the strongest first, with the factor of their unit.
SYNONYMS: dict[str, tuple[tuple[str, int], ...]] = {
    "cleanup.policy": (("log.cleanup.policy", 1),),
    "compression.gzip.level": (("compression.gzip.level", 1),),
    "compression.lz4.level": (("compression.lz4.level", 1),),
    "compression.type": (("compression.type", 1),),
    "compression.zstd.level": (("compression.zstd.level", 1),),
    "delete.retention.ms": (("log.cleaner.delete.retention.ms", 1),),
    "file.delete.delay.ms": (("log.segment.delete.delay.ms", 1),),
    "flush.messages": (("log.flush.interval.messages", 1),),
    "flush.ms": (("log.flush.interval.ms", 1), ("log.flush.scheduler.interval.ms", 1)),
    "index.interval.bytes": (("log.index.interval.bytes", 1),),
    "max.compaction.lag.ms": (("log.cleaner.max.compaction.lag.ms", 1),),
    "max.message.bytes": (("message.max.bytes", 1),),
    "message.timestamp.after.max.ms": (("log.message.timestamp.after.max.ms", 1),),
    "message.timestamp.before.max.ms": (("log.message.timestamp.before.max.ms", 1),),
    "message.timestamp.type": (("log.message.timestamp.type", 1),),
    "min.cleanable.dirty.ratio": (("log.cleaner.min.cleanable.ratio", 1),),
    "min.compaction.lag.ms": (("log.cleaner.min.compaction.lag.ms", 1),),
    "min.insync.replicas": (("min.insync.replicas", 1),),
    "preallocate": (("log.preallocate", 1),),
    "retention.bytes": (("log.retention.bytes", 1),),
    "retention.ms": (("log.retention.ms", 1), ("log.retention.minutes", 60_000), ("log.retention.hours", 3_600_000)),
    "segment.bytes": (("log.segment.bytes", 1),),
    "segment.index.bytes": (("log.index.size.max.bytes", 1),),
    "segment.jitter.ms": (("log.roll.jitter.ms", 1), ("log.roll.jitter.hours", 3_600_000)),
    "segment.ms": (("log.roll.ms", 1), ("log.roll.hours", 3_600_000)),
    "unclean.leader.election.enable": (("unclean.leader.election.enable", 1),),
}


def _default(name: str, settings: Settings) -> Value:
    for broker_name, factor in SYNONYMS[name]:
        value: Value = getattr(settings, broker_name.replace(".", "_"))
        if value is not None:
            return value * factor if factor > 1 and isinstance(value, int) and value >= 0 else value
    raise AssertionError(f"{name} has no default")


def topic_defaults(settings: Settings) -> TopicConfig:
    """What a topic that sets nothing gets on a broker with `settings`."""
    return TopicConfig(**{name.replace(".", "_"): _default(name, settings) for name in SYNONYMS})  # type: ignore[arg-type]


def topic_config(overrides: Mapping[str, str], settings: Settings = DEFAULTS) -> TopicConfig:
    """The settings of a topic whose stored ones are `overrides`; stored values that can't be read are left out."""
    defaults = topic_defaults(settings)
    changes: dict[str, Any] = {}
    for name, text in overrides.items():
        definition = TOPIC_DEFINITIONS.get(name)
        if definition is None:
            continue
        try:
            changes[name.replace(".", "_")] = parse(name, text, definition)
        except ValueError:
            continue
    return msgspec.structs.replace(defaults, **changes) if changes else defaults


def validate_topic_config(name: str, value: str | None) -> None:
    """Raises Refused(INVALID_CONFIG) when a topic can't have `name` set to `value`."""
    definition = TOPIC_DEFINITIONS.get(name)
    if definition is None:
        raise Refused(ErrorCode.INVALID_CONFIG, f"Unknown topic config name: {name}")
    if value is None:
        raise Refused(ErrorCode.INVALID_CONFIG, f"Null value not supported for topic configs: {name}")
    try:
        parse(name, value, definition)
    except ValueError as error:
        raise Refused(ErrorCode.INVALID_CONFIG, str(error)) from None


def validate_topic_configs(configs: Mapping[str, str | None], settings: Settings = DEFAULTS) -> None:
    """Raises Refused(INVALID_CONFIG) for the first of `configs` that is wrong, or for two that contradict."""
    for name, value in configs.items():
        validate_topic_config(name, value)
    config = topic_config({name: value for name, value in configs.items() if value is not None}, settings)
    if config.min_compaction_lag_ms > config.max_compaction_lag_ms:
        raise Refused(
            ErrorCode.INVALID_CONFIG,
            f"min.compaction.lag.ms ({config.min_compaction_lag_ms}) must not be greater than "
            f"max.compaction.lag.ms ({config.max_compaction_lag_ms})",
        )


def topic_shown(config: TopicConfig, name: str) -> str | None:
    """The value of the topic setting `name` as text."""
    value: Value = getattr(config, name.replace(".", "_"))
    return show(value)


assert all(broker in DEFINITIONS for names in SYNONYMS.values() for broker, _ in names)
