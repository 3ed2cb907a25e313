"""Decides what an administrative request does to the cluster: an image and a request in, changes or a refusal out.

Owns Kafka's rules for topic names, partition counts, replica assignments and leader epochs (checked against Apache
Kafka 4.3.1). Called by `cluster`, which writes the changes by compare-and-set. PURE: ids arrive with the request.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from logd.cluster.image import INTERNAL_TOPICS, Broker, Changes, Image, PartitionState, Topic
from logd.cluster.placement import place
from logd.config import Settings
from logd.config.topics import validate_topic_configs
from logd.errors import ErrorCode, Refused

TOPIC_NAME_BYTES_MAX = 249
RECORDS_PER_REQUEST_MAX = 10_000
"""Kafka's controller refuses an operation of more records than this."""

_NAME_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")


class NewTopic(msgspec.Struct, frozen=True):
    """A topic that somebody wants.

    :param num_partitions: -1 for the broker's default; -1 too when `assignments` is given.
    :param replication_factor: -1 for the broker's default; -1 too when `assignments` is given.
    :param assignments: (partition index, broker ids with the leader first), or empty.
    :param configs: settings of the topic; a null value is refused.
    """

    name: str
    num_partitions: int = -1
    replication_factor: int = -1
    assignments: Sequence[tuple[int, Sequence[int]]] = ()
    configs: Mapping[str, str | None] = {}


class NewPartitions(msgspec.Struct, frozen=True):
    """A topic that shall grow to `count` partitions; `assignments` has one list of brokers for each new one."""

    name: str
    count: int
    assignments: Sequence[Sequence[int]] | None = None


CLUSTER_METADATA = "__cluster_metadata"
"""The name of Kafka's metadata log, which no topic may take."""


class Decided(msgspec.Struct, frozen=True):
    """One answer for each thing asked, in its order, and the changes that make the answers true."""

    results: list[Topic | Refused]
    changes: Changes


def check_topic_name(name: str) -> None:
    """Raises Refused(INVALID_TOPIC_EXCEPTION) for a name that no topic can have."""
    if not name:
        wrong = "the empty string is not allowed"
    elif name in (".", ".."):
        wrong = f"'{name}' is not allowed"
    elif len(name) > TOPIC_NAME_BYTES_MAX:
        wrong = f"'{name[:30]}...' has {len(name)} characters, and {TOPIC_NAME_BYTES_MAX} are the most"
    elif not _NAME_CHARACTERS.issuperset(name):
        # as Kafka words it: suites of clients look for that
        wrong = f"'{name}' contains one or more characters other than ASCII alphanumerics, '.', '_' and '-'"
    else:
        return
    raise Refused(ErrorCode.INVALID_TOPIC_EXCEPTION, f"Topic name is invalid: {wrong}")


def create_topics(image: Image, settings: Settings, wanted: Sequence[NewTopic], ids: Sequence[bytes]) -> Decided:
    """Decide about `wanted`; `ids` has 16 fresh random bytes for each of them."""
    if sum(_asked(settings, topic) for topic in wanted) > RECORDS_PER_REQUEST_MAX:
        return Decided([_too_many()] * len(wanted), Changes())
    results: list[Topic | Refused] = []
    made: dict[str, Topic] = {}
    room = settings.partitions_max - image.partition_count
    folded = {_folded(name): name for name in image.topics}
    for topic, topic_id in zip(wanted, ids, strict=True):
        try:
            decided = _create(image, settings, topic, topic_id, folded)
            room -= len(decided.partitions)
            if room < 0:
                raise Refused(ErrorCode.POLICY_VIOLATION, _no_room(topic.name, settings))
            made[topic.name] = decided
            results.append(decided)
        except Refused as refused:
            results.append(refused)
    if sum(1 + len(topic.partitions) + len(topic.configs) for topic in made.values()) > RECORDS_PER_REQUEST_MAX:
        return Decided([result if isinstance(result, Refused) else _too_many() for result in results], Changes())
    return Decided(results, Changes(topics=tuple(made.values())))


def _asked(settings: Settings, topic: NewTopic) -> int:
    """How many partitions a wish is for, were it granted."""
    if topic.assignments:
        return len(topic.assignments)
    return settings.num_partitions if topic.num_partitions == -1 else max(topic.num_partitions, 0)


def _too_many() -> Refused:
    return Refused(
        ErrorCode.POLICY_VIOLATION,
        "Excessively large number of partitions per request: a request can make fewer than "
        f"{RECORDS_PER_REQUEST_MAX}, its topics and their configs counted too.",
    )


def _no_room(name: str, settings: Settings) -> str:
    return (
        f"Topic '{name}' would take the cluster above {settings.partitions_max} partitions; "
        "ask for fewer or raise partitions.max."
    )


def _folded(name: str) -> str:
    return name.replace(".", "_")


def _create(image: Image, settings: Settings, topic: NewTopic, topic_id: bytes, folded: Mapping[str, str]) -> Topic:
    check_topic_name(topic.name)
    if topic.name == CLUSTER_METADATA:
        raise Refused(ErrorCode.INVALID_REQUEST, f"Topic '{topic.name}' is Kafka's own and cannot be created.")
    if topic.name in image.topics:
        raise Refused(ErrorCode.TOPIC_ALREADY_EXISTS, f"Topic '{topic.name}' already exists.")
    other = folded.get(_folded(topic.name))
    if other is not None:
        raise Refused(
            ErrorCode.INVALID_TOPIC_EXCEPTION,
            f"Topic '{topic.name}' collides with existing topic: {other} (they differ only in '.' and '_').",
        )
    validate_topic_configs(topic.configs, settings)
    configs = {name: value for name, value in topic.configs.items() if value is not None}
    replicas = _assigned(image, topic) if topic.assignments else _placed(image, settings, topic)
    partitions = tuple(_partition(index, brokers) for index, brokers in enumerate(replicas))
    return Topic(topic.name, topic_id, partitions, configs, topic.name in INTERNAL_TOPICS)


def _partition(index: int, replicas: Sequence[int]) -> PartitionState:
    return PartitionState(index, replicas[0], 0, tuple(replicas), tuple(replicas))


def _placed(image: Image, settings: Settings, topic: NewTopic) -> list[tuple[int, ...]]:
    factor = settings.default_replication_factor if topic.replication_factor == -1 else topic.replication_factor
    if factor <= 0:
        raise Refused(
            ErrorCode.INVALID_REPLICATION_FACTOR,
            f"Replication factor {factor} of topic '{topic.name}' must be larger than 0, or -1 for the default value.",
        )
    count = settings.num_partitions if topic.num_partitions == -1 else topic.num_partitions
    if count <= 0:
        raise Refused(
            ErrorCode.INVALID_PARTITIONS,
            f"Number of partitions {count} of topic '{topic.name}' must be larger than 0, or -1 for the default value.",
        )
    return place(list(image.brokers.values()), count, factor)


def _assigned(image: Image, topic: NewTopic) -> list[Sequence[int]]:
    if topic.replication_factor != -1:
        raise Refused(
            ErrorCode.INVALID_REQUEST,
            f"Topic '{topic.name}' has a manual partition assignment, so its replication factor must be -1 "
            f"and not {topic.replication_factor}.",
        )
    if topic.num_partitions != -1:
        raise Refused(
            ErrorCode.INVALID_REQUEST,
            f"Topic '{topic.name}' has a manual partition assignment, so its number of partitions must be -1 "
            f"and not {topic.num_partitions}.",
        )
    found: dict[int, Sequence[int]] = {}
    for index, brokers in topic.assignments:
        if index in found:
            raise Refused(
                ErrorCode.INVALID_REPLICA_ASSIGNMENT, f"Found more than one manual assignment for partition {index}."
            )
        check_replicas(image, brokers)
        found[index] = brokers
    if sorted(found) != list(range(len(found))):
        raise Refused(
            ErrorCode.INVALID_REPLICA_ASSIGNMENT,
            f"The partitions of a manual assignment must be numbered from 0 without a gap; given: {sorted(found)}.",
        )
    return [found[index] for index in range(len(found))]


def check_replicas(image: Image, brokers: Sequence[int]) -> None:
    """Raises Refused(INVALID_REPLICA_ASSIGNMENT) for a list of brokers that no partition can lie on."""
    if not brokers:
        raise Refused(
            ErrorCode.INVALID_REPLICA_ASSIGNMENT, "The manual partition assignment includes an empty replica list."
        )
    seen: set[int] = set()
    for broker in brokers:
        if broker not in image.brokers:
            raise Refused(
                ErrorCode.INVALID_REPLICA_ASSIGNMENT,
                f"The manual partition assignment includes broker {broker}, but no such broker is registered.",
            )
        if broker in seen:
            raise Refused(
                ErrorCode.INVALID_REPLICA_ASSIGNMENT,
                f"The manual partition assignment includes the broker {broker} more than once.",
            )
        seen.add(broker)


def create_partitions(image: Image, settings: Settings, wanted: Sequence[NewPartitions]) -> Decided:
    """Decide about topics that shall grow."""
    results: list[Topic | Refused] = []
    grown: list[Topic] = []
    room = settings.partitions_max - image.partition_count
    for topic in wanted:
        try:
            decided, added = _grow(image, topic, room, settings)
            room -= added
            grown.append(decided)
            results.append(decided)
        except Refused as refused:
            results.append(refused)
    return Decided(results, Changes(topics=tuple(grown)))


def _grow(image: Image, wanted: NewPartitions, room: int, settings: Settings) -> tuple[Topic, int]:
    topic = image.topics.get(wanted.name)
    if topic is None:
        raise unknown_topic(wanted.name)
    have = len(topic.partitions)
    if wanted.count == have:
        raise Refused(ErrorCode.INVALID_PARTITIONS, f"Topic '{wanted.name}' already has {have} partition(s).")
    if wanted.count < have:
        raise Refused(
            ErrorCode.INVALID_PARTITIONS,
            f"The topic {wanted.name} currently has {have} partition(s); {wanted.count} would not be an increase.",
        )
    added = wanted.count - have
    if added > RECORDS_PER_REQUEST_MAX:
        raise Refused(
            ErrorCode.INVALID_PARTITIONS,
            f"{added} new partitions of topic '{wanted.name}' are too many; "
            f"at most {RECORDS_PER_REQUEST_MAX} can be added at once.",
        )
    if added > room:
        raise Refused(ErrorCode.POLICY_VIOLATION, _no_room(wanted.name, settings))
    replicas = _grown_replicas(image, topic, wanted, added)
    new = tuple(_partition(have + step, brokers) for step, brokers in enumerate(replicas))
    return msgspec.structs.replace(topic, partitions=topic.partitions + new), added


def _grown_replicas(image: Image, topic: Topic, wanted: NewPartitions, added: int) -> Sequence[Sequence[int]]:
    if wanted.assignments is None:
        return place(list(image.brokers.values()), added, topic.replication_factor, first=len(topic.partitions))
    if len(wanted.assignments) != added:
        raise Refused(
            ErrorCode.INVALID_REPLICA_ASSIGNMENT,
            f"Attempted to add {added} partition(s) to topic '{wanted.name}', "
            f"but {len(wanted.assignments)} assignment(s) were given.",
        )
    for brokers in wanted.assignments:
        check_replicas(image, brokers)
        if len(brokers) != topic.replication_factor:
            raise Refused(
                ErrorCode.INVALID_REPLICA_ASSIGNMENT,
                f"The manual partition assignment has {len(brokers)} replica(s), but the other partitions of "
                f"topic '{wanted.name}' have {topic.replication_factor}.",
            )
    return wanted.assignments


def delete_topics(image: Image, topic_ids: Sequence[bytes]) -> Decided:
    """Decide about deleting topics by their ids."""
    results: list[Topic | Refused] = []
    for topic_id in topic_ids:
        topic = image.topics_by_id.get(topic_id)
        results.append(topic if topic is not None else unknown_topic_id())
    gone = {result.name for result in results if isinstance(result, Topic)}
    return Decided(results, Changes(deleted=tuple(sorted(gone))))


def unknown_topic(name: str) -> Refused:
    """The refusal for a topic name that nobody has."""
    return Refused(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, f"There is no topic '{name}' on this server.")


def unknown_topic_id() -> Refused:
    """The refusal for a topic id that nobody has."""
    return Refused(ErrorCode.UNKNOWN_TOPIC_ID, "There is no topic with this id on this server.")


def register(image: Image, broker: Broker) -> Changes:
    """A node starts: it is known from now on, with an epoch of its own.

    It leads every partition of which it is the only replica, each under a new leader epoch, before its first append:
    an epoch used again after a lost tail would hide that the logs differ (KIP-320).
    """
    before = image.brokers.get(broker.id)
    known = msgspec.structs.replace(broker, epoch=before.epoch + 1 if before is not None else 1)
    raised = []
    for topic in image.topics.values():
        partitions = tuple(_raised(partition, broker.id) for partition in topic.partitions)
        if partitions != topic.partitions:
            raised.append(msgspec.structs.replace(topic, partitions=partitions))
    controller_id = broker.id if image.controller_id != broker.id else None
    return Changes(brokers=(known,), topics=tuple(raised), controller_id=controller_id)


def _raised(partition: PartitionState, broker_id: int) -> PartitionState:
    leads = partition.leader == broker_id or partition.isr == (broker_id,)
    if not leads:
        return partition
    return PartitionState(
        partition.index,
        broker_id,
        partition.leader_epoch + 1,
        partition.replicas,
        partition.isr,
        partition.partition_epoch + 1,
        partition.directories,
    )
