"""The broker that tests get: it is a real one, it is empty, it survives restarts, and it says what is wrong."""

from __future__ import annotations

import select
import socket

import pytest

from logd.config import BadSetting
from logd.errors import ErrorCode, Refused
from logd.testing import Broker
from logd.testing.errors import BrokerFailed, NotThereYet


def test_produce_and_read_back(logd_broker: Broker) -> None:
    """Records that a test appends are there, by partition and offset, with all their parts."""
    logd_broker.create_topic("orders", partitions=2)
    assert logd_broker.produce("orders", "one", b"two", key="k", headers=[("h", b"1")], timestamp_ms=1_000) == 0
    assert logd_broker.produce("orders", None, partition=1) == 0
    assert logd_broker.produce("orders", "three") == 2
    found = logd_broker.messages("orders")
    assert [(each.partition, each.offset, each.value) for each in found] == [
        (0, 0, b"one"),
        (0, 1, b"two"),
        (0, 2, b"three"),
        (1, 0, None),
    ]
    first = found[0]
    assert (first.topic, first.key, first.timestamp_ms, first.headers) == ("orders", b"k", 1_000, [("h", b"1")])


def test_waiting_for_records(logd_broker: Broker) -> None:
    """A test that waits for more records than come is told how many came."""
    logd_broker.create_topic("orders")
    logd_broker.produce("orders", "one")
    assert len(logd_broker.messages("orders", at_least=1)) == 1
    with pytest.raises(NotThereYet, match="1 of 2 records"):
        logd_broker.messages("orders", at_least=2, timeout_s=0.05)


def test_refusals_say_why(logd_broker: Broker) -> None:
    """What the broker refuses is raised with its code and its message."""
    logd_broker.create_topic("orders")
    with pytest.raises(Refused, match="orders") as refusal:
        logd_broker.create_topic("orders")
    assert refusal.value.code is ErrorCode.TOPIC_ALREADY_EXISTS
    with pytest.raises(Refused) as refusal:
        logd_broker.messages("nothing")
    assert refusal.value.code is ErrorCode.UNKNOWN_TOPIC_OR_PARTITION


def test_reset_takes_topics_and_groups_away(logd_broker: Broker) -> None:
    """After a reset there is no topic and no group, not even one with a living member."""
    from confluent_kafka import Consumer

    logd_broker.create_topic("orders")
    logd_broker.produce("orders", "one")
    reader = Consumer({"bootstrap.servers": logd_broker.bootstrap, "group.id": "g", "auto.offset.reset": "earliest"})
    reader.subscribe(["orders"])
    message = reader.poll(30)
    assert message is not None
    assert logd_broker.groups() == ["g"]
    logd_broker.reset()
    assert (logd_broker.topics(), logd_broker.groups()) == ({}, [])
    reader.close()


@pytest.mark.parametrize("kill", [False, True])
def test_restart_keeps_topics_and_records(logd_broker: Broker, kill: bool) -> None:
    """A restart, graceful or not, keeps the address, the topics and what was acknowledged."""
    logd_broker.create_topic("orders", partitions=3)
    logd_broker.produce("orders", "one", "two", partition=1)
    before = logd_broker.bootstrap, logd_broker.topics(), logd_broker.messages("orders")
    logd_broker.restart(kill=kill)
    assert (logd_broker.bootstrap, logd_broker.topics(), logd_broker.messages("orders")) == before
    assert logd_broker.produce("orders", "three", partition=1) == 2


@pytest.mark.logd(settings={"num.partitions": 7, "auto.create.topics.enable": False})
def test_settings_by_marker(logd_broker: Broker) -> None:
    """A marker gives the test a broker with other settings."""
    logd_broker.create_topic("orders", partitions=-1)
    assert logd_broker.topics() == {"orders": 7}


def test_who_asks_nothing_for_a_long_time() -> None:
    """The broker closes idle connections, the one of its own helper too: that one is opened again."""
    with Broker({"connections.max.idle.ms": "20"}) as broker:
        broker.create_topic("before")
        assert broker._connection is not None
        assert select.select([broker._connection._socket], [], [], 30.0)[0]  # closed
        assert broker.topics() == {"before": 1}


def test_without_pytest() -> None:
    """A broker is a context manager too; when it is closed its port and its directory are free again."""
    with Broker({"num.partitions": "2"}) as broker:
        broker.create_topic("orders", partitions=-1)
        assert broker.topics() == {"orders": 2}
        port, data = broker.port, broker.data_dir
    assert not data.exists()
    socket.create_server(("127.0.0.1", port)).close()


def test_two_brokers_do_not_meet() -> None:
    """Two brokers in one process share nothing."""
    with Broker() as one, Broker() as other:
        one.create_topic("orders")
        assert one.port != other.port
        assert other.topics() == {}


def test_bad_settings_are_refused() -> None:
    """A setting that logd does not know is refused by name."""
    with pytest.raises(BadSetting, match=r"no\.such\.setting"), Broker({"no.such.setting": "1"}):
        pass


def test_a_start_that_fails_says_why() -> None:
    """When the node cannot start, the reason is in the exception."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listener = f"PLAINTEXT://127.0.0.1:{taken.getsockname()[1]}"
        broker = Broker({"listeners": listener})
        with pytest.raises(BrokerFailed, match="did not start"):
            broker.start()
        broker.close()


def test_a_stopped_broker_says_so() -> None:
    """A broker that was stopped is not asked in vain."""
    with Broker() as broker:
        broker.stop()
        with pytest.raises(BrokerFailed, match="stopped"):
            broker.topics()
        broker.start()
        assert broker.topics() == {}
