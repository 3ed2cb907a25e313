"""DescribeConfigs, AlterConfigs, IncrementalAlterConfigs and ListConfigResources, as Apache Kafka 4.3.1 answers."""

from __future__ import annotations

from typing import Any

import pytest

from logd.apis import configs
from logd.apis.configs import ALTER_CONFIGS, DESCRIBE_CONFIGS, INCREMENTAL_ALTER_CONFIGS, LIST_CONFIG_RESOURCES
from logd.cluster.controller import NewTopic
from logd.config.settings import DEFINITIONS
from logd.config.topics import topic_defaults
from logd.errors import ErrorCode
from logd.wire.schemas import alter_configs as replacing
from logd.wire.schemas import incremental_alter_configs as incremental
from logd.wire.schemas.describe_configs import DescribeConfigsRequest, DescribeConfigsResource
from logd.wire.schemas.list_config_resources import ListConfigResourcesRequest
from tests.apis.calls import Admin, admin, versions

pytestmark = pytest.mark.trio
assert configs

TOPIC, BROKER, LOGGER, METRICS, GROUP = 2, 4, 8, 16, 32
SET, DELETE, APPEND, SUBTRACT = range(4)


async def with_topic(*sets: str, **own: str) -> Admin:
    """A node with the topic "t"."""
    node = await admin(*sets)
    await node.cluster.create_topics([NewTopic("t", 1, 1, (), {k.replace("_", "."): v for k, v in own.items()})])
    return node


async def describe(node: Admin, kind: int, name: str, *keys: str, version: int = 4, synonyms: bool = True) -> Any:
    """One resource, described; no keys asks for all."""
    resource = DescribeConfigsResource(kind, name, list(keys) or None)
    request = DescribeConfigsRequest([resource], synonyms, version >= 3)
    (result,) = (await node.ask(DESCRIBE_CONFIGS, version, request)).results
    assert (result.resource_type, result.resource_name) == (kind, name)
    return result


async def alter(
    node: Admin, kind: int, name: str, *ops: tuple[str, int, str | None], version: int = 1
) -> tuple[int, str | None]:
    """Alter one resource; its code and message."""
    items = [incremental.AlterableConfig(*op) for op in ops]
    request = incremental.IncrementalAlterConfigsRequest([incremental.AlterConfigsResource(kind, name, items)])
    (result,) = (await node.ask(INCREMENTAL_ALTER_CONFIGS, version, request)).responses
    assert (result.resource_type, result.resource_name) == (kind, name)
    return result.error_code, result.error_message


async def replace(node: Admin, kind: int, name: str, *pairs: tuple[str, str | None], version: int = 2) -> int:
    """AlterConfigs for one resource; its code."""
    items = [replacing.AlterableConfig(*pair) for pair in pairs]
    request = replacing.AlterConfigsRequest([replacing.AlterConfigsResource(kind, name, items)])
    (result,) = (await node.ask(ALTER_CONFIGS, version, request)).responses
    return int(result.error_code)


async def test_named_settings_come_in_the_order_they_were_asked_for() -> None:
    """Kafka's order is that of a hash table; clients (kafkajs's tests) take the answers by their place."""
    node = await with_topic()
    asked = ("default.replication.factor", "num.partitions", "log.dirs", "no.such", "num.partitions")
    told = [config.name for config in (await describe(node, BROKER, "0", *asked)).configs]
    assert told == ["default.replication.factor", "num.partitions", "log.dirs"]
    told = [config.name for config in (await describe(node, TOPIC, "t", "retention.ms", "cleanup.policy")).configs]
    assert told == ["retention.ms", "cleanup.policy"]


@pytest.mark.parametrize("version", versions(DESCRIBE_CONFIGS))
async def test_describe_a_topic(version: int) -> None:
    """All 33 with value and source; synonyms only when asked for, type and text from v3 on."""
    node = await with_topic("log.segment.bytes=2097152", retention_ms=" 5 ", preallocate="TRUE")
    result = await describe(node, TOPIC, "t", version=version)
    assert (result.error_code, len(result.configs)) == (0, 33)
    told = {config.name: config for config in result.configs}
    assert (told["retention.ms"].value, told["retention.ms"].config_source) == ("5", 1)
    assert [(s.name, s.value, s.source) for s in told["retention.ms"].synonyms] == [("retention.ms", "5", 1)]
    assert (told["segment.bytes"].value, told["segment.bytes"].config_source) == ("2097152", 4)
    assert [(s.name, s.value, s.source) for s in told["segment.bytes"].synonyms] == [
        ("log.segment.bytes", "2097152", 4),
        ("log.segment.bytes", "1073741824", 5),
    ]
    assert [(s.name, s.value, s.source) for s in told["preallocate"].synonyms] == [
        ("preallocate", "true", 1),
        ("log.preallocate", "false", 5),
    ]
    assert (told["cleanup.policy"].value, told["cleanup.policy"].config_source) == ("delete", 5)
    assert not any(config.read_only or config.is_sensitive for config in result.configs)
    if version >= 3:
        assert (told["retention.ms"].config_type, told["cleanup.policy"].config_type) == (5, 7)
        assert "deleted" in told["retention.ms"].documentation
    plain = await describe(node, TOPIC, "t", version=version, synonyms=False)
    assert not any(config.synonyms for config in plain.configs)


async def test_the_first_setting_of_a_topic_is_that_of_kafka() -> None:
    """Kafka's order is that of a hash table; suites of clients (rdkafka-ruby, karafka) look at the first one."""
    node = await with_topic(retention_ms="5")
    result = await describe(node, TOPIC, "t")
    assert result.configs[0].name == "compression.type"


async def test_describe_some_keys() -> None:
    """Keys that are there, once each; an empty list means all."""
    node = await with_topic()
    some = await describe(node, TOPIC, "t", "retention.ms", "retention.ms", "nothing", "cleanup.policy")
    assert sorted(config.name for config in some.configs) == ["cleanup.policy", "retention.ms"]
    request = DescribeConfigsRequest([DescribeConfigsResource(TOPIC, "t", [])])
    (result,) = (await node.ask(DESCRIBE_CONFIGS, 4, request)).results
    assert len(result.configs) == 33


async def test_describe_a_broker() -> None:
    """Every setting, with what was given at the start, whether it can change, and its default."""
    node = await admin("log.retention.hours=2", "num.partitions=3")
    result = await describe(node, BROKER, "0")
    told = {config.name: config for config in result.configs}
    assert set(told) == set(DEFINITIONS)
    assert (told["num.partitions"].value, told["num.partitions"].config_source) == ("3", 4)
    assert (told["num.partitions"].read_only, told["log.retention.ms"].read_only) == (True, False)
    assert (told["log.retention.ms"].value, told["log.retention.ms"].config_source) == (None, 5)
    assert (told["listeners"].value, told["listeners"].config_source) == ("PLAINTEXT://127.0.0.1:9092", 5)
    assert told["advertised.listeners"].value == "PLAINTEXT://there:9999"
    (always,) = (await describe(node, BROKER, "")).configs
    assert (always.name, always.value, always.config_source) == ("min.insync.replicas", "1", 3)


async def test_min_insync_replicas_is_set_for_all_brokers() -> None:
    """As Kafka 4.3.1 tells it, on the cluster, the broker and every topic; confluent-kafka's own tests look for it."""
    node = await with_topic()
    for kind, name in ((BROKER, ""), (BROKER, "0"), (TOPIC, "t")):
        (told,) = (await describe(node, kind, name, "min.insync.replicas")).configs
        assert (told.value, told.config_source) == ("1", 3)
    assert [(s.value, s.source) for s in told.synonyms] == [("1", 3), ("1", 5)]
    assert await alter(node, BROKER, "", ("min.insync.replicas", SET, "2")) == (0, None)
    (told,) = (await describe(node, TOPIC, "t", "min.insync.replicas")).configs
    assert [(s.value, s.source) for s in told.synonyms] == [("2", 3), ("1", 5)]


@pytest.mark.parametrize(
    ("kind", "name", "code"),
    [
        (TOPIC, "none", ErrorCode.UNKNOWN_TOPIC_OR_PARTITION),
        (TOPIC, "a/b", ErrorCode.INVALID_TOPIC_EXCEPTION),
        (TOPIC, "", ErrorCode.INVALID_TOPIC_EXCEPTION),
        (BROKER, "9", ErrorCode.INVALID_REQUEST),
        (BROKER, "x", ErrorCode.INVALID_REQUEST),
        (BROKER, "-1", ErrorCode.INVALID_REQUEST),
        (LOGGER, "0", ErrorCode.INVALID_REQUEST),
        (METRICS, "", ErrorCode.INVALID_REQUEST),
        (GROUP, "", ErrorCode.INVALID_REQUEST),
        (0, "x", ErrorCode.INVALID_REQUEST),
        (64, "x", ErrorCode.INVALID_REQUEST),
    ],
)
async def test_describe_what_is_not_there(kind: int, name: str, code: ErrorCode) -> None:
    """Kafka's code, with a message; other resources of the request are answered."""
    node = await with_topic()
    result = await describe(node, kind, name)
    assert (result.error_code, result.configs) == (code, [])
    assert result.error_message


async def test_a_type_that_is_unknown_spoils_the_request() -> None:
    """Kafka describes nothing then, not even the others."""
    node = await with_topic()
    resources = [DescribeConfigsResource(TOPIC, "t"), DescribeConfigsResource(5, "x")]
    answer = await node.ask(DESCRIBE_CONFIGS, 4, DescribeConfigsRequest(resources))
    assert [(row.error_code, row.configs) for row in answer.results] == [(ErrorCode.INVALID_REQUEST, [])] * 2


@pytest.mark.parametrize("version", versions(INCREMENTAL_ALTER_CONFIGS))
async def test_set_and_delete(version: int) -> None:
    """A value is set, then back at its default; deleting what was not set is fine."""
    node = await with_topic()
    assert await alter(node, TOPIC, "t", ("retention.ms", SET, "5"), ("segment.ms", SET, "7"), version=version) == (
        0,
        None,
    )
    assert node.cluster.topic_config("t").retention_ms == 5
    assert await alter(node, TOPIC, "t", ("retention.ms", DELETE, "ignored"), ("nothing", DELETE, None)) == (0, None)
    assert node.cluster.image.topics["t"].configs == {"segment.ms": "7"}
    assert await alter(node, TOPIC, "t") == (0, None)


@pytest.mark.parametrize("name", ["num.partitions", "broker.id", "security.inter.broker.protocol", "nothing"])
async def test_what_can_not_be_altered_while_the_broker_runs(name: str) -> None:
    """Kafka's tools and others' look for its sentence, whether logd has the setting or not."""
    code, message = await alter(await admin(), BROKER, "0", (name, SET, "1"))
    assert code == ErrorCode.INVALID_REQUEST
    assert message is not None
    assert message.startswith(f"Cannot update these configs dynamically: [{name}]; ")


async def test_append_and_subtract() -> None:
    """A list grows from its effective value and shrinks down to nothing; what is there already is not added again."""
    node = await with_topic()
    for operation, value, after in (
        (APPEND, "compact", "delete,compact"),
        (APPEND, "compact", "delete,compact"),
        (SUBTRACT, "delete", "compact"),
        (SUBTRACT, "compact", ""),
        (SUBTRACT, "compact", ""),
        (APPEND, "delete, compact", "delete,compact"),
    ):
        assert await alter(node, TOPIC, "t", ("cleanup.policy", operation, value)) == (0, None)
        (config,) = (await describe(node, TOPIC, "t", "cleanup.policy")).configs
        assert (config.value, config.config_source) == (after, 1)


@pytest.mark.parametrize(
    ("kind", "name", "ops", "code"),
    [
        (TOPIC, "t", [("retention.ms", SET, None)], 42),
        (TOPIC, "t", [("retention.ms", APPEND, "5")], 40),
        (TOPIC, "t", [("nothing", SET, "5")], 40),
        (TOPIC, "t", [("nothing", APPEND, "5")], 40),
        (TOPIC, "t", [("cleanup.policy", APPEND, "bad")], 40),
        (TOPIC, "t", [("cleanup.policy", 9, "delete")], 42),
        (TOPIC, "t", [("retention.ms", SET, "5"), ("retention.ms", DELETE, None)], 42),
        (TOPIC, "t", [("segment.ms", SET, "5"), ("retention.ms", SET, "x")], 40),
        (TOPIC, "t", [("min.compaction.lag.ms", SET, "9"), ("max.compaction.lag.ms", SET, "8")], 40),
        (TOPIC, "t", [("remote.storage.enable", SET, "true")], 40),
        (TOPIC, "none", [("retention.ms", SET, "5")], 3),
        (TOPIC, "", [("retention.ms", SET, "5")], 42),
        (TOPIC, "a/b", [("nothing", SET, "5")], 17),
        (TOPIC, "a/b", [("retention.ms", APPEND, "5")], 40),
        (BROKER, "0", [("num.partitions", SET, "5")], 42),
        (BROKER, "", [("num.partitions", SET, "5")], 42),
        (BROKER, "0", [("nothing", SET, "5")], 42),
        (BROKER, "0", [("log.retention.ms", SET, "x")], 42),
        (BROKER, "", [("min.insync.replicas", SET, "0")], 42),
        (BROKER, "9", [("log.retention.ms", SET, "5")], 42),
        (BROKER, "x", [("log.retention.ms", SET, "5")], 42),
        (LOGGER, "0", [("root", SET, "INFO")], 42),
        (METRICS, "m", [("interval.ms", SET, "99")], 42),
        (METRICS, "m", [("interval.ms", SET, "3600001")], 42),
        (METRICS, "m", [("match", SET, "nothing")], 40),
        (METRICS, "m", [("match", SET, "foo=bar")], 40),
        (METRICS, "m", [("match", SET, "client_id=(")], 40),
        (METRICS, "m", [("bla", SET, "")], 42),
        (METRICS, "", [("interval.ms", SET, "1000")], 42),
        (GROUP, "g", [("consumer.session.timeout.ms", SET, "44999")], 40),
        (GROUP, "g", [("consumer.session.timeout.ms", SET, "60001")], 40),
        (GROUP, "g", [("consumer.session.timeout.ms", SET, "x")], 40),
        (GROUP, "g", [("consumer.heartbeat.interval.ms", SET, "1")], 40),
        (GROUP, "g", [("consumer.assignment.interval.ms", SET, "-1")], 40),
        (GROUP, "g", [("consumer.assignment.interval.ms", SET, "15001")], 40),
        (GROUP, "g", [("consumer.session.timeout.ms", APPEND, "5")], 40),
        (GROUP, "g", [("nonsense", SET, "1")], 40),
        (GROUP, "g", [("share.session.timeout.ms", SET, "50000")], 40),
        (GROUP, "g", [("streams.session.timeout.ms", SET, "50000")], 40),
        (GROUP, "", [("consumer.session.timeout.ms", SET, "50000")], 42),
        (BROKER, "0", [("group.consumer.assignment.interval.ms", SET, "20000")], 42),
        (BROKER, "0", [("group.consumer.session.timeout.ms", SET, "50000")], 42),
        (BROKER, "0", [("background.threads", SET, "4")], 42),
        (BROKER, "", [("background.threads", SET, "21")], 42),
        (BROKER, "0", [("background.threads", SET, "0")], 42),
        (64, "x", [("a", SET, "b")], 42),
    ],
)
async def test_what_can_not_be_altered(kind: int, name: str, ops: list[tuple[str, int, str | None]], code: int) -> None:
    """Kafka's code with a message; the resource keeps all that it had."""
    node = await with_topic()
    before = node.cluster.image
    found, message = await alter(node, kind, name, *ops)
    assert found == code
    assert message
    assert node.cluster.image is before


async def test_threads_change_by_half() -> None:
    """background.threads moves between half and double of what it is now, as in Kafka, and is in force at once."""
    node = await with_topic()
    for value, code in [("5", 0), ("11", 42), ("10", 0), ("20", 0), ("9", 42)]:
        assert (await alter(node, BROKER, "0", ("background.threads", SET, value)))[0] == code
    assert node.cluster.settings.background_threads == 20
    assert await alter(node, BROKER, "0", ("background.threads", DELETE, None)) == (0, None)
    assert node.cluster.settings.background_threads == 10


async def test_one_resource_refused_does_not_hinder_another() -> None:
    """Each resource changes whole or not at all; one that is named twice changes not at all."""
    node = await with_topic()
    await node.cluster.create_topics([NewTopic("u", 1, 1)])
    resource = incremental.AlterConfigsResource
    request = incremental.IncrementalAlterConfigsRequest(
        [
            resource(TOPIC, "t", [incremental.AlterableConfig("retention.ms", SET, "5")]),
            resource(TOPIC, "u", [incremental.AlterableConfig("retention.ms", SET, "6")]),
            resource(TOPIC, "t", [incremental.AlterableConfig("segment.ms", SET, "7")]),
        ]
    )
    answer = await node.ask(INCREMENTAL_ALTER_CONFIGS, 1, request)
    assert [result.error_code for result in answer.responses] == [42, 0, 42]
    assert {name: topic.configs for name, topic in node.cluster.image.topics.items()} == {
        "t": {},
        "u": {"retention.ms": "6"},
    }


async def test_validate_only() -> None:
    """Both ways of altering answer as if it were done; nothing is."""
    node = await with_topic()
    items = [incremental.AlterableConfig("retention.ms", SET, "5")]
    request = incremental.IncrementalAlterConfigsRequest([incremental.AlterConfigsResource(TOPIC, "t", items)], True)
    assert (await node.ask(INCREMENTAL_ALTER_CONFIGS, 1, request)).responses[0].error_code == 0
    pairs = [replacing.AlterableConfig("retention.ms", "5")]
    old = replacing.AlterConfigsRequest([replacing.AlterConfigsResource(TOPIC, "t", pairs)], True)
    assert (await node.ask(ALTER_CONFIGS, 2, old)).responses[0].error_code == 0
    assert node.cluster.image.topics["t"].configs == {}


async def test_dynamic_broker_settings_apply_and_are_told() -> None:
    """For all brokers, then for this one; both are told with their source, and topics without their own follow."""
    node = await with_topic()
    assert await alter(node, BROKER, "", ("log.retention.ms", SET, "6")) == (0, None)
    assert await alter(node, BROKER, "0", ("log.retention.ms", SET, "5")) == (0, None)
    (own,) = (await describe(node, BROKER, "0", "log.retention.ms")).configs
    assert (own.value, own.config_source) == ("5", 2)
    assert [(s.name, s.value, s.source) for s in own.synonyms] == [
        ("log.retention.ms", "5", 2),
        ("log.retention.ms", "6", 3),
        ("log.retention.hours", "168", 5),
    ]
    (every,) = (await describe(node, BROKER, "", "log.retention.ms")).configs
    assert (every.name, every.value, every.config_source) == ("log.retention.ms", "6", 3)
    (topic,) = (await describe(node, TOPIC, "t", "retention.ms")).configs
    assert (topic.value, topic.config_source) == ("5", 2)
    assert await alter(node, BROKER, "0", ("log.retention.ms", DELETE, None)) == (0, None)
    assert topic_defaults(node.cluster.settings).retention_ms == 6


@pytest.mark.parametrize("version", versions(ALTER_CONFIGS))
async def test_replace(version: int) -> None:
    """What is not named goes back to its default."""
    node = await with_topic(retention_ms="5", segment_ms="7")
    assert await replace(node, TOPIC, "t", ("flush.ms", "9"), ("segment.ms", "8"), version=version) == 0
    assert node.cluster.image.topics["t"].configs == {"flush.ms": "9", "segment.ms": "8"}
    assert await replace(node, TOPIC, "t", version=version) == 0
    assert node.cluster.image.topics["t"].configs == {}
    assert await replace(node, BROKER, "0", ("log.retention.ms", "9"), version=version) == 0
    assert topic_defaults(node.cluster.settings).retention_ms == 9
    assert await replace(node, BROKER, "0", version=version) == 0
    assert node.cluster.image.broker_configs == {}


@pytest.mark.parametrize(
    ("kind", "name", "pairs", "code"),
    [
        (TOPIC, "t", [("retention.ms", None)], 42),
        (TOPIC, "t", [("nothing", "1")], 40),
        (TOPIC, "none", [("retention.ms", "1")], 3),
        (TOPIC, "t", [("retention.ms", "1"), ("retention.ms", "2")], 42),
        (BROKER, "", [("num.partitions", "9")], 42),
        (BROKER, "9", [("log.retention.ms", "9")], 42),
        (0, "x", [], 42),
        (LOGGER, "0", [("root", "INFO")], 42),
    ],
)
async def test_what_can_not_be_replaced(kind: int, name: str, pairs: list[tuple[str, str | None]], code: int) -> None:
    """Kafka's code; the resource keeps all that it had."""
    node = await with_topic(retention_ms="5")
    before = node.cluster.image
    assert await replace(node, kind, name, *pairs) == code
    assert node.cluster.image is before


async def test_a_session_of_a_group_outlasts_a_heartbeat() -> None:
    """Else its members would be put out between two of them; it matters only where the broker allows such times."""
    node = await admin("group.consumer.min.session.timeout.ms=1", "group.consumer.max.heartbeat.interval.ms=99999")
    session, heartbeat = "consumer.session.timeout.ms", "consumer.heartbeat.interval.ms"
    for wrong in (session, SET, "5000"), (heartbeat, SET, "45000"):
        assert await alter(node, GROUP, "g", wrong) == (40, f"{session} must be greater than {heartbeat}")
    assert await alter(node, GROUP, "g", (session, SET, "5001")) == (0, None)
    assert await alter(node, GROUP, "g", (heartbeat, SET, "50000"), (session, SET, "50001")) == (0, None)


async def test_settings_of_a_group() -> None:
    """A group, there or not, has the broker's values until it gets its own, and the broker's as synonyms."""
    node = await with_topic()
    assert await alter(node, GROUP, "g", ("consumer.session.timeout.ms", SET, "50000")) == (0, None)
    told = {config.name: config for config in (await describe(node, GROUP, "g")).configs}
    own, other = told["consumer.session.timeout.ms"], told["consumer.heartbeat.interval.ms"]
    assert (own.value, own.config_source, own.read_only) == ("50000", 8, False)
    assert [(each.name, each.value, each.source) for each in own.synonyms] == [
        ("consumer.session.timeout.ms", "50000", 8),
        ("group.consumer.session.timeout.ms", "45000", 5),
    ]
    assert (other.value, other.config_source) == ("5000", 5)
    assert await alter(node, BROKER, "", ("group.consumer.assignment.interval.ms", SET, "500")) == (0, None)
    told = {config.name: config for config in (await describe(node, GROUP, "other")).configs}
    interval = told["consumer.assignment.interval.ms"]
    assert (interval.value, interval.config_source) == ("500", 3)


async def test_settings_of_client_metrics() -> None:
    """A subscription has three settings."""
    node = await with_topic()
    wanted = [("interval.ms", SET, "1000"), ("metrics", SET, "a.,b."), ("match", SET, "client_id=a.*")]
    assert await alter(node, METRICS, "m", *wanted) == (0, None)
    told = [
        (config.name, config.value, config.config_source) for config in (await describe(node, METRICS, "m")).configs
    ]
    assert told == [("interval.ms", "1000", 7), ("match", "client_id=a.*", 7), ("metrics", "a.,b.", 7)]
    told = [
        (config.name, config.value, config.config_source) for config in (await describe(node, METRICS, "n")).configs
    ]
    assert told == [("interval.ms", "300000", 5), ("match", "", 5), ("metrics", "", 5)]


@pytest.mark.parametrize("pattern", ["(?=a).*", "(", "((x{100}){100}){100}", "a" * 201])
async def test_patterns_of_client_metrics(pattern: str) -> None:
    """A pattern that can't be matched in bounded time is refused when it is set, and not when a client comes."""
    node = await with_topic()
    code, message = await alter(node, METRICS, "m", ("match", SET, f"client_id={pattern}"))
    assert code == ErrorCode.INVALID_CONFIG
    assert message is not None
    assert message.startswith("Illegal client matching pattern: client_id=")


async def test_list_resources() -> None:
    """v0 lists client metrics; v1 what is asked for, everything when nothing is named."""
    node = await with_topic()

    async def listed(*kinds: int, version: int = 1) -> Any:
        answer = await node.ask(LIST_CONFIG_RESOURCES, version, ListConfigResourcesRequest(list(kinds)))
        return answer.error_code, sorted((r.resource_type, r.resource_name) for r in answer.config_resources)

    assert await listed(version=0) == (0, [])
    assert await listed() == (0, [(BROKER, "0"), (TOPIC, "t")][::-1])
    assert await listed(TOPIC) == (0, [(TOPIC, "t")])
    assert await listed(BROKER) == (0, [(BROKER, "0")])
    assert await listed(METRICS, GROUP, LOGGER) == (0, [])
    assert await alter(node, GROUP, "g/1", ("consumer.session.timeout.ms", SET, "50000")) == (0, None)
    assert await alter(node, METRICS, "m", ("metrics", SET, "*")) == (0, None)
    assert await listed(METRICS, GROUP, LOGGER) == (0, [(METRICS, "m"), (GROUP, "g/1")])
    assert await listed(version=0) == (0, [(METRICS, "m")])
    assert await alter(node, GROUP, "g/1", ("consumer.session.timeout.ms", DELETE, None)) == (0, None)
    assert await listed(GROUP) == (0, [])
    assert await listed(TOPIC, 64) == (ErrorCode.UNSUPPORTED_VERSION, [])
