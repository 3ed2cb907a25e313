"""`config` against real brokers: every kind of resource, names that are nearly right, dry runs."""

from __future__ import annotations

import json

import pytest

from logd.config.foreign import why_absent
from logd.config.settings import ALIASES, DEFINITIONS
from tests.cli.conftest import Cli, eventually, run
from tests.kafka_node import kafka_bootstrap


def test_the_settings_of_a_topic(cli: Cli, topic: str) -> None:
    """Set, shown, listed, unset, gone."""
    assert cli("config", "set", "topic", topic, "retention.ms=1000", "max.message.bytes=2000").code == 0
    assert cli("config", "get", "topic", topic, "retention.ms").rows == [["retention.ms", "1000", "topic", "no"]]
    assert cli("config", "get", "topic", topic, "retention.ms", "--value").out == "1000\n"
    changed = [row[:2] for row in cli("config", "get", "topic", topic, "--changed").rows]
    assert changed == [["max.message.bytes", "2000"], ["retention.ms", "1000"]]
    assert ["topic", topic, "retention.ms", "1000"] in cli("config", "list", "topic").rows
    assert cli("config", "unset", "topic", topic, "retention.ms").code == 0
    shown = json.loads(cli("config", "get", "topic", topic, "retention.ms", "-o", "json").out)
    assert (shown[0]["value"], shown[0]["source"]) == ("604800000", "default")


def test_what_a_setting_means(cli: Cli, topic: str) -> None:
    """--doc brings the server's words."""
    (row,) = cli("config", "get", "topic", topic, "retention.ms", "--doc").rows
    assert len(row[4]) > 10


def test_broker_settings(cli: Cli) -> None:
    """One broker, and all of them by the name `default`."""
    node = cli("cluster", "info").rows[0][0]
    key = "log.retention.ms"

    def shown() -> list[str]:
        return cli("config", "get", "broker", node, key).rows[0][1:3]

    assert cli("config", "set", "broker", "default", f"{key}=86400000").code == 0
    assert eventually(lambda: shown() == ["86400000", "cluster"])
    assert ["broker", "default", key, "86400000"] in cli("config", "list", "broker").rows
    assert cli("config", "set", "broker", node, f"{key}=90000000").code == 0
    assert eventually(lambda: shown() == ["90000000", "broker"])
    assert cli("config", "unset", "broker", node, key).code == 0
    assert cli("config", "unset", "broker", "default", key).code == 0
    assert eventually(lambda: key not in cli("config", "list", "broker").out)


def test_group_settings(cli: Cli, topic: str) -> None:
    """A group has settings before it has members."""
    group, setting = f"g-{topic}", "consumer.session.timeout.ms"
    ran = cli("config", "set", "group", group, f"{setting}=50000")
    if "only TOPIC and BROKER" in ran.err:
        pytest.skip("the server has no settings of groups")
    assert ran.code == 0, ran.err
    assert eventually(lambda: ["group", group, setting, "50000"] in cli("config", "list", "group").rows)
    assert cli("config", "unset", "group", group, setting).code == 0


def test_every_broker_setting_of_kafka_is_known_or_explained() -> None:
    """No setting of a real broker is called unknown: logd has it, or says why it does not."""
    kafka = kafka_bootstrap()
    (node, *_) = run(kafka, "cluster", "info").rows[0]
    names = run(kafka, "config", "get", "broker", node, "-o", "name").out.split()
    assert len(names) > 300
    assert [name for name in names if name not in {*DEFINITIONS, *ALIASES} and why_absent(name) is None] == []


@pytest.mark.parametrize("bootstrap", ["logd"], indirect=True)
def test_a_setting_that_only_kafka_has_is_explained(cli: Cli) -> None:
    """The reason is the server's, and no name that happens to be near stands beside it."""
    ran = cli("config", "set", "broker", "default", "num.io.threads=16")
    assert ran.code == 1
    assert "one event loop" in ran.err
    assert "did you mean" not in ran.err


def test_names_that_are_nearly_right(cli: Cli, topic: str) -> None:
    """Topic, broker and setting are each told with the nearest names."""
    ran = cli("config", "get", "topic", topic[:-1])
    assert (ran.code, f"did you mean '{topic}'" in ran.err) == (5, True)
    ran = cli("config", "get", "topic", topic, "retention.mss")
    assert (ran.code, "did you mean 'retention.ms'" in ran.err) == (5, True)
    ran = cli("config", "set", "topic", topic, "retention.mss=5")
    assert (ran.code, "did you mean 'retention.ms'" in ran.err) == (1, True)
    assert cli("config", "get", "broker", "77").code == 5
    assert cli("config", "get", "broker", "first").code == 2


def test_a_dry_run_changes_nothing(cli: Cli, topic: str) -> None:
    """What would be refused is refused, what would be accepted is not done."""
    ran = cli("config", "set", "topic", topic, "retention.ms=5", "--dry-run")
    assert (ran.code, "would be accepted" in ran.err) == (0, True)
    assert cli("config", "set", "topic", topic, "retention.ms=soon", "--dry-run").code == 1
    assert cli("config", "get", "topic", topic, "--changed").out == ""
