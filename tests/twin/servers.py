"""Starts the two servers of the twin with settings that make them alike."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

from tools import apache_kafka

from .peer import Connection, address_of
from .ready import make_ready
from .specs import Specs

OFFSETS_PARTITIONS = 16
KAFKA_PROPERTIES = {
    "offsets.topic.num.partitions": str(OFFSETS_PARTITIONS),
    # Kafka 4.3 waits a second between two assignments; logd does not
    "group.consumer.assignment.interval.ms": "0",
    "transaction.state.log.num.partitions": "4",
    # logd needs no such pause: it aborts what is past its time at once
    "transaction.abort.timed.out.transaction.cleanup.interval.ms": "100",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    # the records of the corpus are old: retention would take them away in the middle of a case
    "log.initial.task.delay.ms": "3600000",
    "num.network.threads": "1",
    "num.io.threads": "2",
    "log.cleaner.enable": "false",
    "share.coordinator.state.topic.num.partitions": "1",
}
JAVA_OPTIONS = ("-XX:TieredStopAtLevel=1",)
"""Started sooner, and less of a burden beside the tests."""
LOGD_SETTINGS: Mapping[str, str] = {"node.id": "0", "log.retention.check.interval.ms": "3600000"}


@cache
def missing() -> str:
    """Why there can be no Kafka here; empty when there can. Jars that are not here yet are fetched."""
    if shutil.which("java") is None:
        return "java is not installed"
    try:
        apache_kafka.fetch_libs()
    except apache_kafka.KafkaUnavailable as unavailable:
        return str(unavailable)
    return ""


def kafka_specs() -> Specs:
    """The message specifications out of the jars that are run."""
    return Specs(next(apache_kafka.fetch_libs().glob(f"kafka-clients-{apache_kafka.VERSION}.jar")))


@dataclass(frozen=True, slots=True)
class Twins:
    """Both servers, ready."""

    specs: Specs
    kafka: tuple[str, int]
    logd: tuple[str, int]

    def connection(self, address: tuple[str, int]) -> Connection:
        return Connection(self.specs, address)


@contextmanager
def twins() -> Iterator[Twins]:
    """Start both, stop both."""
    from logd.testing import Broker

    specs = kafka_specs()
    with (
        Broker(LOGD_SETTINGS) as logd,
        apache_kafka.ApacheKafka(properties=KAFKA_PROPERTIES, heap="256m", java_options=JAVA_OPTIONS) as kafka,
    ):
        pair = Twins(specs, address_of(kafka.bootstrap), address_of(logd.bootstrap))
        for address in (pair.kafka, pair.logd):
            connection = pair.connection(address)
            make_ready(connection)
            connection.close()
        yield pair
        kafka.kill()  # an orderly stop of that many partitions takes long, and nobody reads them again
