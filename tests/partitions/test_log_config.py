"""What the log is told of a topic's settings."""

from __future__ import annotations

from logd.config import topic_config
from logd.partitions.table import log_config, spread


def test_jitter_takes_a_share_of_its_own_off_each_partitions_segment_age() -> None:
    """segment.ms minus a part of segment.jitter.ms, always the same for one partition, different for others."""
    config = topic_config({"segment.ms": "1000", "segment.jitter.ms": "500"})
    ages = [log_config(config, 1, spread(b"i" * 16, index)).segment_ms for index in range(50)]
    assert ages == [log_config(config, 1, spread(b"i" * 16, index)).segment_ms for index in range(50)]
    assert all(500 <= age <= 1000 for age in ages)
    assert len(set(ages)) > 25


def test_jitter_never_makes_a_segment_older_than_no_time() -> None:
    """A jitter larger than the age is bounded by it; without jitter the age is as set."""
    wild = topic_config({"segment.ms": "10", "segment.jitter.ms": "9000000"})
    assert all(1 <= log_config(wild, 1, share).segment_ms <= 10 for share in (0.0, 0.5, 1.0))
    assert log_config(topic_config({"segment.ms": "10"}), 1, 0.9).segment_ms == 10
