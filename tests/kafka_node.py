"""One Apache Kafka for the whole run of the tests, started when the first test asks for it."""

from __future__ import annotations

import atexit
from functools import cache

import pytest

from tools import apache_kafka

PROPERTIES = {"offsets.topic.num.partitions": "4", "auto.create.topics.enable": "false"}


@cache
def _running() -> apache_kafka.ApacheKafka:
    kafka = apache_kafka.ApacheKafka(properties=PROPERTIES, heap="384m", java_options=("-XX:TieredStopAtLevel=1",))
    kafka.start()
    atexit.register(kafka.close)
    return kafka


def kafka_bootstrap() -> str:
    """Its ``host:port``; skips the test, with the reason, where it can't be had."""
    if not apache_kafka.available():
        pytest.skip("needs Java and the jars of Apache Kafka (tools/apache_kafka.py fetch)")
    return _running().bootstrap
