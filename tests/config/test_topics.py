"""The settings of a topic: defaults from the broker, and every value obeyed or refused."""

from __future__ import annotations

import pytest

from logd.config import Settings, TopicConfig, load, topic_config, validate_topic_config, with_overrides
from logd.config.topics import TOPIC_DEFINITIONS, topic_defaults, topic_shown, validate_topic_configs
from logd.config.values import LONG_MAX
from logd.errors import ErrorCode, Refused


def test_there_are_the_33_of_kafka() -> None:
    """All topic settings of Kafka 4.3, no more."""
    assert len(TOPIC_DEFINITIONS) == 33


def test_every_default_is_accepted() -> None:
    """Setting a topic's setting to the value that it has anyway is never refused."""
    defaults = topic_defaults(Settings())
    for name in TOPIC_DEFINITIONS:
        validate_topic_config(name, topic_shown(defaults, name))
    assert defaults == TopicConfig()


def test_a_topic_gets_what_the_broker_has_unless_it_says_otherwise() -> None:
    """Broker settings are a topic's defaults, hours and minutes turned to milliseconds."""
    settings = load(sets=["log.retention.minutes=2", "log.roll.hours=1", "message.max.bytes=5", "compression.type=lz4"])
    config = topic_config({"max.message.bytes": "9", "cleanup.policy": "compact, delete"}, settings)
    assert (config.retention_ms, config.segment_ms, config.max_message_bytes) == (120_000, 3_600_000, 9)
    assert (config.compression_type, config.cleanup_policy) == ("lz4", ("compact", "delete"))


def test_an_unset_flush_interval_is_never() -> None:
    """log.flush.interval.ms unset means the scheduler's interval, which is never by default."""
    assert topic_defaults(Settings()).flush_ms == LONG_MAX
    assert topic_defaults(load(sets=["log.flush.interval.ms=7"])).flush_ms == 7


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("nothing", None),
        ("retention.ms", "x"),
        ("retention.ms", None),
        ("retention.ms", "-2"),
        ("retention.ms", ""),
        ("retention.ms", "1_000"),
        ("retention.ms", "5.0"),
        ("segment.bytes", "1"),
        ("segment.bytes", "2147483648"),
        ("cleanup.policy", "keep"),
        ("compression.type", ""),
        ("min.insync.replicas", "0"),
        ("preallocate", "yes"),
        ("min.cleanable.dirty.ratio", "2"),
        ("min.cleanable.dirty.ratio", "nan"),
        ("compression.gzip.level", "0"),
        ("compression.lz4.level", "18"),
        ("compression.lz4.level", "12"),
        ("compression.zstd.level", "23"),
        ("remote.storage.enable", "true"),
        ("remote.log.copy.disable", "true"),
        ("local.retention.ms", "5"),
        ("local.retention.ms", "-3"),
        ("leader.replication.throttled.replicas", "0:1"),
    ],
)
def test_what_is_wrong_or_would_be_ignored_is_refused(name: str, value: str | None) -> None:
    """INVALID_CONFIG with a message that names the setting and the value."""
    with pytest.raises(Refused) as caught:
        validate_topic_config(name, value)
    assert caught.value.code is ErrorCode.INVALID_CONFIG
    assert name in caught.value.message
    assert (value or "") in caught.value.message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("retention.ms", " 5 "),
        ("retention.ms", "+5"),
        ("retention.bytes", "-2"),
        ("preallocate", "TRUE"),
        ("cleanup.policy", ""),
        ("cleanup.policy", "delete,delete"),
        ("min.insync.replicas", "5"),
        ("segment.bytes", "1048576"),
        ("unclean.leader.election.enable", "true"),
        ("compression.gzip.level", "-1"),
    ],
)
def test_what_kafka_accepts_and_logd_obeys_is_accepted(name: str, value: str) -> None:
    """Values at the edge that Apache Kafka 4.3.1 was seen to accept."""
    validate_topic_config(name, value)


def test_two_settings_that_contradict_are_refused() -> None:
    """A record can't have to stay uncompacted for longer than it may."""
    with pytest.raises(Refused, match=r"min.compaction.lag.ms \(10\).*max.compaction.lag.ms \(5\)"):
        validate_topic_configs({"min.compaction.lag.ms": "10", "max.compaction.lag.ms": "5"})


def test_a_stored_value_that_is_no_longer_allowed_is_left_out() -> None:
    """What an older version stored never keeps a topic from opening."""
    assert topic_config({"retention.ms": "x", "gone.setting": "1", "segment.ms": "5"}).segment_ms == 5


def test_dynamic_settings_lie_on_top_of_those_of_the_start() -> None:
    """What was set for this broker beats what was set for all; what may not change while running stays."""
    static = load(sets=["log.retention.ms=1", "num.partitions=3"])
    changed = with_overrides(
        static,
        {"log.retention.ms": "2", "log.segment.bytes": "2097152", "num.partitions": "9"},
        {"log.retention.ms": "3", "message.max.bytes": "bad"},
    )
    assert (changed.log_retention_ms, changed.log_segment_bytes, changed.num_partitions) == (3, 2_097_152, 3)
    assert changed.message_max_bytes == static.message_max_bytes
    assert with_overrides(static, {}) is static
