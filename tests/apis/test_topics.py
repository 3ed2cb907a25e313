"""CreateTopics, DeleteTopics and CreatePartitions in every version, answered as Apache Kafka 4.3.1 answers."""

from __future__ import annotations

import pytest

from logd.apis import metadata, topics
from logd.apis.topics import CREATE_PARTITIONS, CREATE_TOPICS, DELETE_TOPICS
from logd.errors import ErrorCode
from logd.wire.message import ZERO_UUID
from logd.wire.schemas.create_partitions import (
    CreatePartitionsAssignment,
    CreatePartitionsRequest,
    CreatePartitionsTopic,
)
from logd.wire.schemas.create_topics import (
    CreatableReplicaAssignment,
    CreatableTopic,
    CreatableTopicConfig,
    CreateTopicsRequest,
)
from logd.wire.schemas.delete_topics import DeleteTopicsRequest, DeleteTopicState
from logd.wire.schemas.describe_topic_partitions import (
    DescribeTopicPartitionsRequest,
    DescribeTopicPartitionsRequestCursor,
    DescribeTopicPartitionsResponseCursor,
    TopicRequest,
)
from logd.wire.schemas.metadata import MetadataRequest, MetadataRequestTopic
from tests.apis.calls import Admin, admin, versions

METADATA, DESCRIBE_TOPIC_PARTITIONS = 3, 75

pytestmark = pytest.mark.trio
assert metadata
assert topics


def wanted(name: str, partitions: int = 1, factor: int = 1, **configs: str) -> CreatableTopic:
    """A topic to make."""
    items = [CreatableTopicConfig(key.replace("_", "."), value) for key, value in configs.items()]
    return CreatableTopic(name, partitions, factor, [], items)


async def create(node: Admin, *names: str) -> None:
    """Make topics of one partition."""
    await node.ask(CREATE_TOPICS, 7, CreateTopicsRequest([wanted(name) for name in names]))


@pytest.mark.parametrize("version", versions(CREATE_TOPICS))
async def test_create(version: int) -> None:
    """Each topic is answered on its own; v5+ tells what was made, v7 the topic's id."""
    node = await admin("num.partitions=3")
    assigned = CreatableTopic("c", -1, -1, [CreatableReplicaAssignment(0, [0]), CreatableReplicaAssignment(1, [0])])
    request = CreateTopicsRequest([wanted("a", -1, -1), wanted("b", 0), assigned, wanted("d", 1, 1, retention_ms="5")])
    answer = await node.ask(CREATE_TOPICS, version, request)
    assert [(topic.name, topic.error_code) for topic in answer.topics] == [("a", 0), ("b", 37), ("c", 0), ("d", 0)]
    assert [topic.error_message is None for topic in answer.topics] == [True, False, True, True]
    image = node.cluster.image
    assert {name: len(topic.partitions) for name, topic in image.topics.items()} == {"a": 3, "c": 2, "d": 1}
    if version >= 5:
        assert [(topic.num_partitions, topic.replication_factor) for topic in answer.topics] == [
            (3, 1),
            (-1, -1),
            (2, 1),
            (1, 1),
        ]
        assert [len(topic.configs) for topic in answer.topics] == [33, 0, 33, 33]
        (retention,) = [config for config in answer.topics[3].configs if config.name == "retention.ms"]
        assert (retention.value, retention.config_source, retention.read_only) == ("5", 1, False)
    if version >= 7:
        assert [topic.topic_id for topic in answer.topics] == [
            image.topics["a"].id,
            ZERO_UUID,
            image.topics["c"].id,
            image.topics["d"].id,
        ]


@pytest.mark.parametrize("version", versions(CREATE_TOPICS))
async def test_create_validate_only(version: int) -> None:
    """The answer is as if it were made; nothing is."""
    node = await admin()
    answer = await node.ask(CREATE_TOPICS, version, CreateTopicsRequest([wanted("a"), wanted("/")], 1000, True))
    assert [topic.error_code for topic in answer.topics] == [0, ErrorCode.INVALID_TOPIC_EXCEPTION]
    assert node.cluster.image.topics == {}


async def test_create_a_name_twice_in_one_request() -> None:
    """INVALID_REQUEST once for the name, whatever the two say; the other topic is made."""
    node = await admin()
    answer = await node.ask(CREATE_TOPICS, 7, CreateTopicsRequest([wanted("a"), wanted("b"), wanted("a", 3)]))
    assert [(topic.name, topic.error_code) for topic in answer.topics] == [("a", 42), ("b", 0)]
    assert list(node.cluster.image.topics) == ["b"]


async def test_create_nothing() -> None:
    """An empty request gets an empty answer."""
    assert (await (await admin()).ask(CREATE_TOPICS, 7, CreateTopicsRequest())).topics == []


@pytest.mark.parametrize("version", versions(DELETE_TOPICS))
async def test_delete_by_name(version: int) -> None:
    """Topics that are there go, internal ones too; the others are unknown; a name given twice deletes nothing."""
    node = await admin()
    await create(node, "a", "b", "__consumer_offsets")
    names = ["a", "none", "b", "b", "__consumer_offsets"]
    request = DeleteTopicsRequest([DeleteTopicState(name) for name in names], [], 1000)
    if version < 6:
        request = DeleteTopicsRequest([], names, 1000)
    answer = await node.ask(DELETE_TOPICS, version, request)
    assert {result.name: result.error_code for result in answer.responses} == {
        "a": 0,
        "none": ErrorCode.UNKNOWN_TOPIC_OR_PARTITION,
        "b": ErrorCode.INVALID_REQUEST,
        "__consumer_offsets": 0,
    }
    assert len(answer.responses) == 4
    assert list(node.cluster.image.topics) == ["b"]
    if version >= 5:
        assert all((result.error_message is None) == (result.error_code == 0) for result in answer.responses)


async def test_delete_by_id() -> None:
    """v6 deletes by id and tells the name; an unknown id, both, neither, and two ways at once are refused."""
    node = await admin()
    await create(node, "a", "b", "c", "d")
    ids = {name: topic.id for name, topic in node.cluster.image.topics.items()}
    states = [
        DeleteTopicState(None, ids["a"]),
        DeleteTopicState(None, bytes(15) + b"\xff"),
        DeleteTopicState(None, ZERO_UUID),
        DeleteTopicState("b", ids["b"]),
        DeleteTopicState("c"),
        DeleteTopicState(None, ids["c"]),
        DeleteTopicState(None, ids["d"]),
        DeleteTopicState(None, ids["d"]),
    ]
    answer = await node.ask(DELETE_TOPICS, 6, DeleteTopicsRequest(states, [], 1000))
    assert {(result.name, result.topic_id): result.error_code for result in answer.responses} == {
        ("a", ids["a"]): 0,
        (None, bytes(15) + b"\xff"): ErrorCode.UNKNOWN_TOPIC_ID,
        (None, ZERO_UUID): ErrorCode.INVALID_REQUEST,
        ("b", ids["b"]): ErrorCode.INVALID_REQUEST,
        ("c", ids["c"]): ErrorCode.INVALID_REQUEST,
        (None, ids["d"]): ErrorCode.INVALID_REQUEST,
    }
    assert sorted(node.cluster.image.topics) == ["b", "c", "d"]


@pytest.mark.parametrize("version", versions(DELETE_TOPICS))
async def test_delete_where_it_is_not_allowed(version: int) -> None:
    """delete.topic.enable=false: every topic is refused with the code that the version knows."""
    node = await admin("delete.topic.enable=false")
    await create(node, "a")
    request = DeleteTopicsRequest([DeleteTopicState("a")] if version >= 6 else [], [] if version >= 6 else ["a"], 1000)
    answer = await node.ask(DELETE_TOPICS, version, request)
    code = ErrorCode.TOPIC_DELETION_DISABLED if version >= 3 else ErrorCode.INVALID_REQUEST
    assert [result.error_code for result in answer.responses] == [code]
    assert "a" in node.cluster.image.topics


@pytest.mark.parametrize("version", versions(CREATE_PARTITIONS))
async def test_grow(version: int) -> None:
    """Each topic is answered on its own: grown, unknown, not larger, given twice."""
    node = await admin()
    await create(node, "a", "b", "c", "d")
    assigned = [CreatePartitionsAssignment([0]), CreatePartitionsAssignment([0])]
    request = CreatePartitionsRequest(
        [
            CreatePartitionsTopic("a", 3, None),
            CreatePartitionsTopic("b", 3, assigned),
            CreatePartitionsTopic("none", 3, None),
            CreatePartitionsTopic("c", 1, None),
            CreatePartitionsTopic("d", 2, None),
            CreatePartitionsTopic("d", 3, None),
        ],
        1000,
    )
    answer = await node.ask(CREATE_PARTITIONS, version, request)
    assert {result.name: result.error_code for result in answer.results} == {
        "a": 0,
        "b": 0,
        "none": ErrorCode.UNKNOWN_TOPIC_OR_PARTITION,
        "c": ErrorCode.INVALID_PARTITIONS,
        "d": ErrorCode.INVALID_REQUEST,
    }
    assert all((result.error_message is None) == (result.error_code == 0) for result in answer.results)
    assert {name: len(topic.partitions) for name, topic in node.cluster.image.topics.items()} == {
        "a": 3,
        "b": 3,
        "c": 1,
        "d": 1,
    }


async def test_grow_validate_only() -> None:
    """The answer is as if it were done; nothing is."""
    node = await admin()
    await create(node, "a")
    request = CreatePartitionsRequest([CreatePartitionsTopic("a", 3, None)], 1000, True)
    assert [result.error_code for result in (await node.ask(CREATE_PARTITIONS, 3, request)).results] == [0]
    assert len(node.cluster.image.topics["a"].partitions) == 1


@pytest.mark.parametrize("timeout_ms", [0, -1])
async def test_a_timeout_that_has_passed_does_nothing(timeout_ms: int) -> None:
    """REQUEST_TIMED_OUT for every topic of the request, good or bad, and nothing is changed."""
    node = await admin()
    await create(node, "a")
    before = node.cluster.image
    for key, version, request, field in (
        (CREATE_TOPICS, 7, CreateTopicsRequest([wanted("b"), wanted("/")], timeout_ms), "topics"),
        (
            DELETE_TOPICS,
            6,
            DeleteTopicsRequest([DeleteTopicState("a"), DeleteTopicState("a")], [], timeout_ms),
            "responses",
        ),
        (
            CREATE_PARTITIONS,
            3,
            CreatePartitionsRequest([CreatePartitionsTopic("a", 2, None), CreatePartitionsTopic("c", 2)], timeout_ms),
            "results",
        ),
    ):
        answers = getattr(await node.ask(key, version, request), field)
        assert [answer.error_code for answer in answers] == [ErrorCode.REQUEST_TIMED_OUT] * 2
    assert node.cluster.image is before


@pytest.mark.parametrize("version", versions(METADATA))
async def test_what_metadata_makes_is_in_its_answer(version: int) -> None:
    """Whoever asks first is told the partitions of the topic that this makes, and need not ask again."""
    node = await admin("num.partitions=3")
    answer = await node.ask(METADATA, version, MetadataRequest([MetadataRequestTopic(name=n) for n in ("new", "a/b")]))
    made, refused = sorted(answer.topics, key=lambda topic: topic.error_code)
    assert (made.name, made.error_code, [part.leader_id for part in made.partitions]) == ("new", 0, [0, 0, 0])
    assert (refused.name, refused.error_code) == ("a/b", ErrorCode.INVALID_TOPIC_EXCEPTION)
    assert list(node.cluster.image.topics) == ["new"]


async def test_a_page_ends_before_a_name_that_is_not_there() -> None:
    """As in Kafka: when a page of DescribeTopicPartitions is full, the cursor names what comes next, there or not."""
    node = await admin()
    await create(node, "a", "c")
    names = [TopicRequest(name) for name in "abc"]
    page = await node.ask(DESCRIBE_TOPIC_PARTITIONS, 0, DescribeTopicPartitionsRequest(names, 1, None))
    assert ([topic.name for topic in page.topics], page.next_cursor) == (
        ["a"],
        DescribeTopicPartitionsResponseCursor("b", 0),
    )
    cursor = DescribeTopicPartitionsRequestCursor("b", 0)
    page = await node.ask(DESCRIBE_TOPIC_PARTITIONS, 0, DescribeTopicPartitionsRequest(names, 1, cursor))
    codes = [(topic.name, topic.error_code) for topic in page.topics]
    assert (codes, page.next_cursor) == ([("b", ErrorCode.UNKNOWN_TOPIC_OR_PARTITION), ("c", 0)], None)
