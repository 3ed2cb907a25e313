"""Decides about changes of settings: of topics, of one broker, of all brokers, of groups, of client metrics.

Owns the rules of IncrementalAlterConfigs (KIP-339) and AlterConfigs, checked against Apache Kafka 4.3.1. Each
resource changes whole or not at all. Called by `cluster`. PURE.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from enum import IntEnum

import msgspec

from logd.cluster.controller import RECORDS_PER_REQUEST_MAX, check_topic_name
from logd.cluster.image import Changes, Image
from logd.config import Settings
from logd.config.foreign import why_absent
from logd.config.groups import (
    GROUP_DEFINITIONS,
    METRICS_DEFAULTS,
    METRICS_DEFINITIONS,
    check_client_metrics,
    check_group,
)
from logd.config.settings import DEFINITIONS, FIXED, PER_BROKER, shown
from logd.config.topics import TOPIC_DEFINITIONS, topic_defaults, topic_shown, validate_topic_configs
from logd.config.values import Definition, Kind, Value, parse
from logd.errors import ErrorCode, Refused


class Resource(IntEnum):
    """What has settings, numbered as on the wire."""

    TOPIC = 2
    BROKER = 4
    BROKER_LOGGER = 8
    CLIENT_METRICS = 16
    GROUP = 32


class Operation(IntEnum):
    """What to do with one setting, numbered as on the wire."""

    SET = 0
    DELETE = 1
    APPEND = 2
    SUBTRACT = 3


class Alteration(msgspec.Struct, frozen=True):
    """Changes wanted of one resource: (name, operation, value) each.

    :param replace: AlterConfigs: what is not named goes back to its default.
    """

    resource_type: int
    resource_name: str
    configs: Sequence[tuple[str, int, str | None]]
    replace: bool = False


class Altered(msgspec.Struct, frozen=True):
    """One answer (None: done) for each alteration, and the changes that make the answers true."""

    results: list[Refused | None]
    changes: Changes


def alter_configs(image: Image, settings: Settings, node_id: int, wanted: Sequence[Alteration]) -> Altered:
    """Decide about `wanted` on broker `node_id`; `settings` are the effective ones of the broker."""
    keys = [(alteration.resource_type, alteration.resource_name) for alteration in wanted]
    named = Counter(keys)
    results: list[Refused | None] = []
    topics: dict[str, Mapping[str, str]] = {}
    brokers: dict[int | None, Mapping[str, str]] = {}
    others: dict[tuple[int, str], Mapping[str, str]] = {}
    for alteration, key in zip(wanted, keys, strict=True):
        try:
            if named[key] > 1:
                raise _bad("Each resource must appear at most once.")
            _check_keys(alteration)
            if alteration.resource_type == Resource.TOPIC:
                topics[alteration.resource_name] = _topic(image, settings, alteration)
            elif alteration.resource_type == Resource.BROKER:
                broker_id, configs = _broker(image, settings, node_id, alteration)
                brokers[broker_id] = configs
            elif alteration.resource_type in (Resource.GROUP, Resource.CLIENT_METRICS):
                others[key] = _other(image, settings, alteration)
            else:
                raise _unknown_resource(alteration.resource_type)
            results.append(None)
        except Refused as refused:
            results.append(refused)
    changes = _changes(image, topics, brokers, others)
    if _count(image, changes) > RECORDS_PER_REQUEST_MAX:
        return Altered([_too_many() if result is None else result for result in results], Changes())
    return Altered(results, changes)


def _count(image: Image, changes: Changes) -> int:
    """How many settings change."""
    pairs = [(image.topics[topic.name].configs, topic.configs) for topic in changes.topics]
    pairs += [(_broker_configs(image, key), configs) for key, configs in changes.broker_configs.items()]
    pairs += [(image.resource_configs.get(key, {}), configs) for key, configs in changes.resource_configs.items()]
    return sum(before.get(name) != after.get(name) for before, after in pairs for name in {**before, **after})


def _too_many() -> Refused:
    return Refused(
        ErrorCode.POLICY_VIOLATION,
        f"A request can change {RECORDS_PER_REQUEST_MAX} settings, of all its resources together: send several.",
    )


def _changes(
    image: Image,
    topics: Mapping[str, Mapping[str, str]],
    brokers: Mapping[int | None, Mapping[str, str]],
    others: Mapping[tuple[int, str], Mapping[str, str]],
) -> Changes:
    changed = tuple(
        msgspec.structs.replace(image.topics[name], configs=configs)
        for name, configs in topics.items()
        if configs != image.topics[name].configs
    )
    moved = {key: configs for key, configs in brokers.items() if configs != _broker_configs(image, key)}
    known = image.resource_configs
    resources = {key: configs for key, configs in others.items() if configs != known.get(key, {})}
    return Changes(topics=changed, broker_configs=moved, resource_configs=resources)


def _bad(message: str) -> Refused:
    return Refused(ErrorCode.INVALID_REQUEST, message)


def _unknown_resource(resource_type: int) -> Refused:
    can = "TOPIC (2), BROKER (4), CLIENT_METRICS (16) and GROUP (32) can be altered"
    if resource_type == Resource.BROKER_LOGGER:
        return _bad(f"logd has no settings of resource type {Resource(resource_type).name}; only {can}.")
    return _bad(f"Unknown resource type {resource_type}; only {can}.")


def _check_keys(alteration: Alteration) -> None:
    named = Counter(name for name, _, _ in alteration.configs)
    if len(named) != len(alteration.configs):
        twice = next(name for name, times in named.items() if times > 1)
        raise _bad(f"Error due to duplicate config keys: {twice} is given more than once.")
    for name, operation, value in alteration.configs:
        if operation not in Operation.__members__.values():
            raise _bad(f"Unknown operation {operation} for {name}; use SET, DELETE, APPEND or SUBTRACT (0 to 3).")
        if value is None and operation != Operation.DELETE:
            raise _bad(f"Null value not supported for: {name}")


def _topic(image: Image, settings: Settings, alteration: Alteration) -> Mapping[str, str]:
    name = alteration.resource_name
    topic = image.topics.get(name)
    before = topic.configs if topic is not None and not alteration.replace else {}

    def default(key: str) -> str | None:
        return topic_shown(topic_defaults(settings), key)

    configs = _merge(before, alteration, TOPIC_DEFINITIONS, default)
    if not name:
        raise _bad("Default topic resources are not allowed: name a topic.")
    check_topic_name(name)
    validate_topic_configs(configs, settings)  # before the topic is missed, as Kafka does
    if topic is None:
        raise Refused(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, f"The topic '{name}' does not exist.")
    return configs


def _merge(
    before: Mapping[str, str],
    alteration: Alteration,
    definitions: Mapping[str, Definition],
    default: Callable[[str], str | None],
) -> dict[str, str]:
    """The settings after `alteration`, not yet checked."""
    after = dict(before)
    for name, operation, value in alteration.configs:
        if operation == Operation.DELETE:
            after.pop(name, None)
        elif operation == Operation.SET:
            assert value is not None
            after[name] = value
        else:
            assert value is not None
            definition = definitions.get(name)
            if definition is not None and definition.kind is not Kind.LIST:
                raise Refused(
                    ErrorCode.INVALID_CONFIG,
                    f"Can't {Operation(operation).name} to key {name} because its type is not LIST.",
                )
            has = after.get(name) if name in after else default(name) if definition is not None else None
            after[name] = _combine(has or "", value, Operation(operation))
    return after


def _combine(has: str, value: str, operation: Operation) -> str:
    items = [item.strip() for item in has.split(",")] if has else []
    for item in (item.strip() for item in value.split(",")):
        if operation is Operation.SUBTRACT and item in items:
            items.remove(item)
        elif operation is Operation.APPEND and item not in items:
            items.append(item)
    return ",".join(items)


def _other(image: Image, settings: Settings, alteration: Alteration) -> Mapping[str, str]:
    """A group, or a subscription to client metrics; neither has to be there."""
    name, group = alteration.resource_name, alteration.resource_type == Resource.GROUP
    if not name:
        raise _bad("Default group resources are not allowed." if group else "Subscription name can't be empty")
    before = image.resource_configs.get((alteration.resource_type, name), {}) if not alteration.replace else {}
    if group:
        after = _merge(before, alteration, GROUP_DEFINITIONS, lambda key: shown(settings, f"group.{key}"))
        check_group(after, settings)
    else:
        after = _merge(before, alteration, METRICS_DEFINITIONS, METRICS_DEFAULTS.get)
        check_client_metrics(after)
    return after


def _broker_configs(image: Image, broker_id: int | None) -> Mapping[str, str]:
    return image.default_broker_configs if broker_id is None else image.broker_configs.get(broker_id, {})


def broker_id_of(name: str, node_id: int) -> int | None:
    """The broker that a resource name means, None for all brokers; raises Refused for one that is not this node."""
    if not name:
        return None
    digits = name.removeprefix("-")
    if not (digits.isascii() and digits.isdigit() and len(digits) < 11):
        raise _bad(f"Broker id must be an integer, but it is: {name}")
    if int(name) != node_id:
        raise _bad(f"Unexpected broker id, expected {node_id} or empty string, but received {name}")
    return node_id


def _broker(
    image: Image, settings: Settings, node_id: int, alteration: Alteration
) -> tuple[int | None, Mapping[str, str]]:
    broker_id = broker_id_of(alteration.resource_name, node_id)
    before = {} if alteration.replace else _broker_configs(image, broker_id)
    after = _merge(before, alteration, DEFINITIONS, lambda name: shown(settings, name))
    for name, operation, _ in alteration.configs:
        if operation != Operation.DELETE or name in DEFINITIONS:
            _check_dynamic(name, broker_id)
    for name, value in after.items():
        try:
            parsed = parse(name, value, DEFINITIONS[name])
        except ValueError as error:
            raise _bad(str(error)) from None
        if name == "group.consumer.assignment.interval.ms":
            _check_interval(name, parsed, settings)
        if name == "background.threads":
            _check_threads(name, parsed, settings.background_threads)
    return broker_id, after


def _check_interval(name: str, value: Value, settings: Settings) -> None:
    assert isinstance(value, int)
    if value < settings.group_consumer_min_assignment_interval_ms:
        raise _bad(f"{name} must be greater than or equal to group.consumer.min.assignment.interval.ms")
    if value > settings.group_consumer_max_assignment_interval_ms:
        raise _bad(f"{name} must be less than or equal to group.consumer.max.assignment.interval.ms")


def _check_threads(name: str, value: Value, now: int) -> None:
    """Kafka's pools of threads grow and shrink by half at most, so that a slip of the pen does no harm (KIP-226)."""
    assert isinstance(value, int)
    if value < now // 2:
        raise _bad(f"{name}={value} should be at least half the current value {now}; go down in steps")
    if value > now * 2:
        raise _bad(f"{name}={value} should not be greater than double the current value {now}; go up in steps")


def _check_dynamic(name: str, broker_id: int | None) -> None:
    definition = DEFINITIONS.get(name)
    if definition is None:
        why = why_absent(name) or "see docs/settings.md for what it has"
        raise _bad(f"Cannot update these configs dynamically: [{name}]; logd has no such setting: {why}.")
    if definition.scope == FIXED:
        raise _bad(f"Cannot update these configs dynamically: [{name}]; set it when the broker starts.")
    if definition.scope == PER_BROKER and broker_id is None:
        raise _bad(f"Cannot update these configs at default cluster level, broker id must be specified: [{name}]")
