"""What an administrative request does to an image: Kafka's rules, as Apache Kafka 4.3.1 was seen to apply them."""

from __future__ import annotations

import pytest

from logd.cluster import alter
from logd.cluster.alter import Alteration, alter_configs
from logd.cluster.controller import (
    NewPartitions,
    NewTopic,
    check_topic_name,
    create_partitions,
    create_topics,
    delete_topics,
    register,
)
from logd.cluster.image import Broker, Changes, Image, Topic
from logd.cluster.placement import place
from logd.config import Settings, load
from logd.errors import ErrorCode, Refused

ONE = Image(brokers={0: Broker(0)})
THREE = Image(brokers={number: Broker(number) for number in (1, 2, 3)})


def ids(count: int) -> list[bytes]:
    """Ids that differ."""
    return [number.to_bytes(16, "big") for number in range(1, count + 1)]


def create(image: Image, *topics: NewTopic, settings: Settings | None = None) -> tuple[Image, list[Topic | Refused]]:
    """The image with the topics in it, and what was answered."""
    decided = create_topics(image, settings or load(), topics, ids(len(topics)))
    return image.apply(decided.changes, image.version + 1), decided.results


def code(result: Topic | Refused) -> ErrorCode:
    """The error code of a result."""
    return result.code if isinstance(result, Refused) else ErrorCode.NONE


def test_a_topic_gets_its_partitions_led_by_their_first_replica() -> None:
    """Every partition has a leader, epoch 0, and all of its replicas in sync."""
    image, (topic,) = create(ONE, NewTopic("t", 3, 1, (), {"retention.ms": "5"}))
    assert isinstance(topic, Topic)
    assert [(p.index, p.leader, p.leader_epoch, p.replicas, p.isr) for p in topic.partitions] == [
        (0, 0, 0, (0,), (0,)),
        (1, 0, 0, (0,), (0,)),
        (2, 0, 0, (0,), (0,)),
    ]
    assert image.topics["t"] is image.topics_by_id[ids(1)[0]] is topic
    assert (image.partition_count, topic.configs, topic.internal) == (3, {"retention.ms": "5"}, False)
    assert image.partition("t", 2) is topic.partitions[2]
    assert image.partition("t", 3) is image.partition("t", -1) is image.partition("u", 0) is None


def test_minus_one_means_the_brokers_defaults() -> None:
    """num.partitions and default.replication.factor count when a topic names no numbers."""
    _, (topic,) = create(ONE, NewTopic("t"), settings=load(sets=["num.partitions=4"]))
    assert isinstance(topic, Topic)
    assert (len(topic.partitions), topic.replication_factor) == (4, 1)


def test_the_topics_of_coordinators_are_internal() -> None:
    """A topic with the name of one of Kafka's internal topics is internal, whoever makes it."""
    image, _ = create(ONE, NewTopic("__consumer_offsets", 1, 1), NewTopic("__mine", 1, 1))
    assert [topic.internal for topic in image.topics.values()] == [True, False]


@pytest.mark.parametrize(
    ("topic", "expected", "parts"),
    [
        (NewTopic("t", 0), ErrorCode.INVALID_PARTITIONS, ["0", "'t'"]),
        (NewTopic("t", -5), ErrorCode.INVALID_PARTITIONS, ["-5", "'t'"]),
        (NewTopic("t", 1, 0), ErrorCode.INVALID_REPLICATION_FACTOR, ["0", "'t'"]),
        (NewTopic("t", 1, -2), ErrorCode.INVALID_REPLICATION_FACTOR, ["-2"]),
        (NewTopic("t", 1, 2), ErrorCode.INVALID_REPLICATION_FACTOR, ["2", "1"]),
        (NewTopic("t", 1, -1, [(0, [0])]), ErrorCode.INVALID_REQUEST, ["'t'", "-1"]),
        (NewTopic("t", -1, 1, [(0, [0])]), ErrorCode.INVALID_REQUEST, ["'t'", "-1"]),
        (NewTopic("t", -1, -1, [(1, [0])]), ErrorCode.INVALID_REPLICA_ASSIGNMENT, ["[1]"]),
        (NewTopic("t", -1, -1, [(0, [0]), (0, [0])]), ErrorCode.INVALID_REPLICA_ASSIGNMENT, ["partition 0"]),
        (NewTopic("t", -1, -1, [(0, [7])]), ErrorCode.INVALID_REPLICA_ASSIGNMENT, ["broker 7"]),
        (NewTopic("t", -1, -1, [(0, [0, 0])]), ErrorCode.INVALID_REPLICA_ASSIGNMENT, ["broker 0", "once"]),
        (NewTopic("t", -1, -1, [(0, [])]), ErrorCode.INVALID_REPLICA_ASSIGNMENT, ["empty"]),
        (NewTopic("old", 1, 1), ErrorCode.TOPIC_ALREADY_EXISTS, ["'old'"]),
        (NewTopic("a_b", 1, 1), ErrorCode.INVALID_TOPIC_EXCEPTION, ["'a_b'", "a.b"]),
        (NewTopic("t", 1, 1, (), {"nothing": "1"}), ErrorCode.INVALID_CONFIG, ["nothing"]),
        (NewTopic("t", 0, 0, (), {"retention.ms": "x"}), ErrorCode.INVALID_CONFIG, ["retention.ms", "x"]),
        (NewTopic("old", 0, 0, (), {"nothing": "1"}), ErrorCode.TOPIC_ALREADY_EXISTS, ["'old'"]),
    ],
)
def test_a_topic_that_can_not_be_made_says_why(topic: NewTopic, expected: ErrorCode, parts: list[str]) -> None:
    """Kafka's code, and a message with the field and the value; the others of the request are made."""
    image, _ = create(ONE, NewTopic("old", 1, 1), NewTopic("a.b", 1, 1))
    decided = create_topics(image, load(), [topic, NewTopic("fine", 1, 1)], ids(2))
    refused, made = decided.results
    assert isinstance(refused, Refused)
    assert refused.code is expected
    assert [part for part in parts if part not in refused.message] == []
    assert [topic.name for topic in decided.changes.topics] == ["fine"]
    assert isinstance(made, Topic)


@pytest.mark.parametrize("name", ["", ".", "..", "a" * 250, "a/b", "a\0b", "a b", "é"])
def test_names_that_no_topic_can_have(name: str) -> None:
    """INVALID_TOPIC_EXCEPTION."""
    with pytest.raises(Refused) as caught:
        check_topic_name(name)
    assert caught.value.code is ErrorCode.INVALID_TOPIC_EXCEPTION


def test_strange_characters_are_told_in_words_that_clients_look_for() -> None:
    """Suites of clients (rdkafka-ruby, karafka) match what Kafka says of such a name."""
    with pytest.raises(Refused, match=r"Topic name is invalid: '.*' contains one or more characters other than ASCII"):
        check_topic_name("[!@#]")


@pytest.mark.parametrize("name", ["a", "...", "a" * 249, "A.b_c-9", "__x"])
def test_names_that_a_topic_can_have(name: str) -> None:
    """Letters, digits, dot, underscore and dash, at most 249."""
    check_topic_name(name)


@pytest.mark.parametrize(
    ("topics", "expected"),
    [
        ([NewTopic("a", 10**9), NewTopic("b", 1), NewTopic("/", 1)], [44, 44, 44]),
        ([NewTopic("a", 6000), NewTopic("b", 6000)], [44, 44]),
        ([NewTopic("a", 10_000)], [44]),
        ([NewTopic("a", 9_999)], [0]),
        ([NewTopic("a", 9_999), NewTopic("b", 1, 2)], [0, 38]),
        ([NewTopic("a", 5000, 1, (), {"retention.ms": "5"}), NewTopic("b", 4998)], [44, 44]),
        ([NewTopic("a", 5000, 1, (), {"retention.ms": "5"}), NewTopic("b", 4997)], [0, 0]),
        ([NewTopic("a", -1, -1, [(index, [0]) for index in range(10_001)])], [44]),
    ],
)
def test_too_many_partitions_in_one_request_refuse_all_of_it(topics: list[NewTopic], expected: list[int]) -> None:
    """What one request may make is bounded as in Kafka: the partitions asked for first, then all that is written."""
    decided = create_topics(ONE, load(), topics, ids(len(topics)))
    assert [code(result) for result in decided.results] == expected
    assert bool(decided.changes) == (0 in expected)


def test_the_cluster_holds_no_more_partitions_than_the_setting_says() -> None:
    """partitions.max bounds all topics together, when created and when grown."""
    settings = load(sets=["partitions.max=5"])
    image, results = create(ONE, NewTopic("a", 3, 1), NewTopic("b", 3, 1), NewTopic("c", 1, 1), settings=settings)
    assert [code(result) for result in results] == [
        ErrorCode.NONE,
        ErrorCode.POLICY_VIOLATION,
        ErrorCode.POLICY_VIOLATION,
    ]
    (grown,) = create_partitions(image, settings, [NewPartitions("a", 6)]).results
    assert code(grown) is ErrorCode.POLICY_VIOLATION


def test_a_topic_grows_and_keeps_what_it_had() -> None:
    """New partitions are added behind the old ones, by count or by assignment."""
    image, _ = create(THREE, NewTopic("t", 2, 2))
    decided = create_partitions(image, load(), [NewPartitions("t", 4, [[3, 1], [2, 1]])])
    grown = image.apply(decided.changes, 2).topics["t"]
    assert grown.partitions[:2] == image.topics["t"].partitions
    assert [(p.index, p.leader, p.replicas) for p in grown.partitions[2:]] == [(2, 3, (3, 1)), (3, 2, (2, 1))]
    assert image.apply(decided.changes, 2).partition_count == 4


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (NewPartitions("none", 3), ErrorCode.UNKNOWN_TOPIC_OR_PARTITION),
        (NewPartitions("t", 2), ErrorCode.INVALID_PARTITIONS),
        (NewPartitions("t", 1), ErrorCode.INVALID_PARTITIONS),
        (NewPartitions("t", -1), ErrorCode.INVALID_PARTITIONS),
        (NewPartitions("t", 10**9), ErrorCode.INVALID_PARTITIONS),
        (NewPartitions("t", 3, []), ErrorCode.INVALID_REPLICA_ASSIGNMENT),
        (NewPartitions("t", 3, [[0], [0]]), ErrorCode.INVALID_REPLICA_ASSIGNMENT),
        (NewPartitions("t", 3, [[7]]), ErrorCode.INVALID_REPLICA_ASSIGNMENT),
        (NewPartitions("t", 3, [[]]), ErrorCode.INVALID_REPLICA_ASSIGNMENT),
        (NewPartitions("t", 3, [[0, 0]]), ErrorCode.INVALID_REPLICA_ASSIGNMENT),
    ],
)
def test_a_topic_that_can_not_grow_says_why(wanted: NewPartitions, expected: ErrorCode) -> None:
    """Kafka's code; nothing changes."""
    image, _ = create(ONE, NewTopic("t", 2, 1))
    decided = create_partitions(image, load(), [wanted])
    assert [code(result) for result in decided.results] == [expected]
    assert not decided.changes


def test_deleting_forgets_the_topic_by_name_and_by_id() -> None:
    """A topic of that name that is made again has another id."""
    image, _ = create(ONE, NewTopic("t", 2, 1), NewTopic("u", 1, 1))
    decided = delete_topics(image, [ids(1)[0], bytes(15) + b"\xff"])
    assert [code(result) for result in decided.results] == [ErrorCode.NONE, ErrorCode.UNKNOWN_TOPIC_ID]
    after = image.apply(decided.changes, 2)
    assert (list(after.topics), list(after.topics_by_id.values()), after.partition_count) == (
        ["u"],
        [after.topics["u"]],
        1,
    )


def test_a_start_raises_the_epoch_of_what_the_node_leads_and_of_nothing_else() -> None:
    """Every partition that this broker leads gets a new leader epoch; those of others keep theirs."""
    image, _ = create(THREE, NewTopic("t", 3, 1), NewTopic("u", -1, -1, [(0, [2])]))
    after = image.apply(register(image, Broker(1)), 2)
    assert [(p.leader, p.leader_epoch, p.partition_epoch) for p in after.topics["t"].partitions] == [
        (1, 1, 1),
        (2, 0, 0),
        (3, 0, 0),
    ]
    assert after.topics["u"] is image.topics["u"]
    assert (after.brokers[1].epoch, after.controller_id) == (1, 1)


def test_replicas_go_round_the_brokers() -> None:
    """Leaders in turn, followers on other brokers, later laps shifted."""
    placed = place(list(THREE.brokers.values()), 6, 2)
    assert [replicas[0] for replicas in placed] == [1, 2, 3, 1, 2, 3]
    assert all(len(set(replicas)) == 2 for replicas in placed)
    assert placed[:3] != placed[3:]
    assert place(list(THREE.brokers.values()), 2, 2, first=1) == placed[1:3]
    assert [sorted(replicas) for replicas in place(list(THREE.brokers.values()), 4, 3)] == [[1, 2, 3]] * 4


def test_neighbours_are_in_different_racks() -> None:
    """With racks told by all, a leader and its follower are in different ones."""
    racks = {1: "a", 2: "a", 3: "b", 4: "b"}
    placed = place([Broker(number, rack=rack) for number, rack in racks.items()], 4, 2)
    assert all(racks[leader] != racks[follower] for leader, follower in placed)


def test_no_changes_is_false() -> None:
    """So that nothing is written for nothing; setting the first id block to 0 is a change."""
    assert not Changes()
    assert Changes(producer_ids_next=0)
    assert Changes(broker_configs={None: {}})


class Compared(str):
    """A name that counts how often it is compared with another."""

    __slots__ = ()
    times = 0

    def __eq__(self, other: object) -> bool:
        Compared.times += 1
        return str.__eq__(self, other)

    __hash__ = str.__hash__


def test_many_settings_are_decided_about_in_linear_time() -> None:
    """A hundred thousand names in one request would else keep the node busy for minutes: no name is compared with all
    the others."""
    count = 500
    topics = [Alteration(2, Compared(number), [("retention.ms", 0, "1")]) for number in range(count)]
    configs = [(Compared(number), 0, "1") for number in range(count)]
    twice = Alteration(2, "t", [*configs, ("last", 0, "1"), ("last", 0, "1")])
    decided = alter_configs(Image(), Settings(), 0, [*topics, twice]).results
    assert {one.code for one in decided[:count] if one is not None} == {ErrorCode.UNKNOWN_TOPIC_OR_PARTITION}
    assert str(decided[count]) == "Error due to duplicate config keys: last is given more than once."
    assert Compared.times < 20 * count


def test_how_many_settings_a_request_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    """So many (ten thousand, as in Kafka): of one more none is changed, and what is wrong by itself is told so."""
    monkeypatch.setattr(alter, "RECORDS_PER_REQUEST_MAX", 10)
    groups = [Alteration(32, f"g{number}", [("consumer.session.timeout.ms", 0, "46000")]) for number in range(11)]
    done = alter_configs(Image(), Settings(), 0, groups[1:])
    assert (done.results, len(done.changes.resource_configs)) == ([None] * 10, 10)
    refused = alter_configs(Image(), Settings(), 0, [*groups, Alteration(2, "t", [("retention.ms", 0, "1")])])
    codes = [one.code for one in refused.results if one is not None]
    assert codes == [ErrorCode.POLICY_VIOLATION] * 11 + [ErrorCode.UNKNOWN_TOPIC_OR_PARTITION]
    assert not refused.changes
