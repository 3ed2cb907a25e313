"""What DescribeConfigs tells of a setting: its value, where the value comes from, and what it would be otherwise.

Owns the order of sources of KIP-226: what was set on the topic, on one broker, for all brokers, at the start, and the
default. Called by the admin APIs. Pure: it works on settings that are handed in.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import IntEnum

import msgspec

from logd.config.settings import DEFAULTS, DEFINITIONS, FIXED, Settings, shown
from logd.config.topics import SYNONYMS, TOPIC_DEFINITIONS, TopicConfig, topic_shown
from logd.config.values import Definition, parse, show


class Source(IntEnum):
    """Where a value comes from, numbered as DescribeConfigs v1+ answers it."""

    TOPIC = 1
    BROKER = 2
    ALL_BROKERS = 3
    STATIC = 4
    DEFAULT = 5
    CLIENT_METRICS = 7
    GROUP = 8


class Synonym(msgspec.Struct, frozen=True):
    """One of the places that give a setting its value."""

    name: str
    value: str | None
    source: Source


class Described(msgspec.Struct, frozen=True):
    """One setting as it is told; `value` is None when unset or secret. `synonyms`: the strongest first."""

    name: str
    value: str | None
    source: Source
    read_only: bool
    definition: Definition
    synonyms: tuple[Synonym, ...]


class Layers(msgspec.Struct, frozen=True):
    """The settings of one broker by their source: `static` as started, then what was set while running."""

    static: Settings
    all_brokers: Mapping[str, str] = {}
    broker: Mapping[str, str] = {}


def _given(layers: Layers, name: str) -> list[Synonym]:
    definition = DEFINITIONS[name]
    found = []
    for values, source in (
        (layers.broker, Source.BROKER),
        (layers.all_brokers, Source.ALL_BROKERS),
        (layers.static.given, Source.STATIC),
    ):
        if name in values:
            found.append(Synonym(name, _normal(name, values[name], definition), source))
    return found


def _default(name: str) -> list[Synonym]:
    value = shown(DEFAULTS, name)
    return [] if value is None else [Synonym(name, value, Source.DEFAULT)]


def _normal(name: str, text: str, definition: Definition) -> str | None:
    """`text` as its value is written in answers ("TRUE" is true, " 5 " is 5)."""
    if definition.sensitive:
        return None
    try:
        return show(parse(name, text, definition))
    except ValueError:
        return text


def broker_synonyms(layers: Layers, names: Iterable[str]) -> list[Synonym]:
    """Of settings that stand in for each other: the defaults of the weaker ones count only beside a given value."""
    found: list[Synonym] = []
    defaults: list[Synonym] = []
    for position, name in enumerate(names):
        given = _given(layers, name)
        if position == 0:
            found += [*given, *_default(name)]
        else:
            found += given
            defaults += _default(name)
    return found + defaults if any(synonym.source is not Source.DEFAULT for synonym in found) else found


def describe_topic_defaults(defaults: TopicConfig, layers: Layers) -> tuple[Described, ...]:
    """All settings of a topic that sets nothing; `defaults` are what it gets.

    `compression.type` is the first, as from Kafka, whose others come in no order: suites of clients look at the first.
    """
    described = []
    for name, definition in sorted(TOPIC_DEFINITIONS.items(), key=lambda item: item[0] != "compression.type"):
        synonyms = tuple(broker_synonyms(layers, (broker for broker, _ in SYNONYMS.get(name, ()))))
        source = synonyms[0].source if synonyms else Source.DEFAULT
        described.append(Described(name, topic_shown(defaults, name), source, False, definition, synonyms))
    return tuple(described)


def describe_topic(
    overrides: Mapping[str, str], config: TopicConfig, defaults: tuple[Described, ...]
) -> list[Described]:
    """All settings of a topic whose own ones are `overrides` and whose effective ones are `config`.

    :param defaults: what `describe_topic_defaults` made, shared by all topics of the broker.
    """
    return [_overridden(item, config) if item.name in overrides else item for item in defaults]


def _overridden(item: Described, config: TopicConfig) -> Described:
    own = Synonym(item.name, topic_shown(config, item.name), Source.TOPIC)
    return Described(item.name, own.value, Source.TOPIC, False, item.definition, (own, *item.synonyms))


_SAME = {
    "log.retention.ms": ("log.retention.ms", "log.retention.minutes", "log.retention.hours"),
    "log.retention.minutes": ("log.retention.minutes", "log.retention.hours"),
    "log.roll.ms": ("log.roll.ms", "log.roll.hours"),
    "log.roll.jitter.ms": ("log.roll.jitter.ms", "log.roll.jitter.hours"),
    "log.flush.interval.ms": ("log.flush.interval.ms", "log.flush.scheduler.interval.ms"),
}


def describe_broker(settings: Settings, layers: Layers) -> list[Described]:
    """All settings of a broker; `settings` are the effective ones."""
    described = []
    for name, definition in DEFINITIONS.items():
        synonyms = tuple(broker_synonyms(layers, _SAME.get(name, (name,))))
        own = next((synonym.source for synonym in synonyms if synonym.name == name), Source.DEFAULT)
        value = None if definition.sensitive else shown(settings, name)
        described.append(Described(name, value, own, definition.scope == FIXED, definition, synonyms))
    return described


def describe_all_brokers(layers: Layers) -> list[Described]:
    """What was set for all brokers while running, and nothing else."""
    described = []
    for name, text in layers.all_brokers.items():
        definition = DEFINITIONS.get(name)
        if definition is not None:
            value = _normal(name, text, definition)
            synonym = Synonym(name, value, Source.ALL_BROKERS)
            described.append(Described(name, value, Source.ALL_BROKERS, False, definition, (synonym,)))
    return described
