"""Settings of single groups, and of subscriptions to the metrics of clients: names, kinds, limits.

The resources GROUP (KIP-848) and CLIENT_METRICS (KIP-714) of the config APIs. A group's own value stands before the
broker's ``group.consumer.*`` and within the broker's limits. Used by `cluster` when they are altered, by the APIs when
they are told, and by the group coordinator. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import msgspec

from logd.config.describe import Described, Layers, Source, Synonym, broker_synonyms
from logd.config.settings import DEFAULTS, Settings, shown
from logd.config.values import Definition, Kind, Value, at_least, parse, show
from logd.errors import ErrorCode, Refused
from logd.expressions import Expression

# Groups


class GroupSetting(msgspec.Struct, frozen=True):
    """One setting of a group. Its default is the broker's ``group.`` setting of that name, and so are its limits."""

    definition: Definition

    def limits(self, name: str) -> tuple[str, str]:
        """The broker's settings that name the least and the most."""
        kind, _, rest = name.partition(".")
        return f"group.{kind}.min.{rest}", f"group.{kind}.max.{rest}"


def _int(doc: str, least: int) -> GroupSetting:
    return GroupSetting(Definition(Kind.INT, doc, "ms", at_least(least), "cluster-wide"))


GROUP_SETTINGS: dict[str, GroupSetting] = {
    "consumer.session.timeout.ms": _int("How long a member of the consumer protocol may be silent.", 1),
    "consumer.heartbeat.interval.ms": _int("How often a member of the consumer protocol is to be heard of.", 1),
    "consumer.assignment.interval.ms": _int("The least time between two assignments of a consumer group.", 0),
}
NOT_SERVED = ("share", "streams")
"""Kinds of groups whose settings Kafka has, and logd does not."""

GROUP_DEFINITIONS = {name: setting.definition for name, setting in GROUP_SETTINGS.items()}


def attribute(broker_name: str) -> str:
    """The attribute of :class:`Settings` for a broker setting."""
    return broker_name.replace(".", "_")


def check_group(configs: Mapping[str, str], settings: Settings) -> None:
    """:raises Refused: INVALID_CONFIG, for an unknown name, no number, one outside of the broker's limits, or a session
    that would end between two heartbeats.
    """
    for name, text in configs.items():
        setting = GROUP_SETTINGS.get(name)
        if setting is None:
            raise _invalid(_unknown(name))
        value = _parsed(name, text, setting.definition)
        assert isinstance(value, int)
        least, most = setting.limits(name)
        if value < getattr(settings, attribute(least)):
            raise _invalid(f"{name} must be greater than or equal to {least}")
        if value > getattr(settings, attribute(most)):
            raise _invalid(f"{name} must be less than or equal to {most}")
    session, heartbeat = "consumer.session.timeout.ms", "consumer.heartbeat.interval.ms"
    told = session in configs or heartbeat in configs
    if told and group_value(session, configs, settings) <= group_value(heartbeat, configs, settings):
        raise _invalid(f"{session} must be greater than {heartbeat}")


def _unknown(name: str) -> str:
    kind = name.partition(".")[0]
    if kind in NOT_SERVED:
        return f"{name} is a setting of {kind} groups, which logd does not serve: it would not be obeyed"
    return f"Unknown group config name: {name}; logd has {', '.join(GROUP_SETTINGS)}"


def group_value(name: str, configs: Mapping[str, str], settings: Settings) -> int:
    """What is in force for a group: its own value or the broker's, brought between the broker's limits."""
    setting = GROUP_SETTINGS[name]
    own = configs.get(name)
    value = getattr(settings, attribute(f"group.{name}")) if own is None else int(own)
    least, most = (getattr(settings, attribute(limit)) for limit in setting.limits(name))
    return int(max(least, min(value, most)))


def describe_group(configs: Mapping[str, str], settings: Settings, layers: Layers) -> list[Described]:
    """All settings of a group whose own ones are `configs`."""
    described = []
    for name, setting in GROUP_SETTINGS.items():
        broker = tuple(broker_synonyms(layers, (f"group.{name}",)))
        source = broker[0].source if broker else Source.DEFAULT
        value = shown(settings, f"group.{name}")
        synonyms = broker
        if name in configs:
            source, value = Source.GROUP, show(parse(name, configs[name], setting.definition))
            synonyms = (Synonym(name, value, source), *broker)
        described.append(Described(name, value, source, False, setting.definition, synonyms))
    return described


# Client metrics

INTERVAL_MS_MIN, INTERVAL_MS_MAX, INTERVAL_MS_DEFAULT = 100, 3_600_000, 300_000
MATCHES = (
    "client_id",
    "client_instance_id",
    "client_software_name",
    "client_software_version",
    "client_source_address",
    "client_source_port",
)
"""What of a client a pattern may be asked of."""

PATTERN_CHARS_MAX = 200
PATTERNS_KEPT_MAX = 256
"""Compiled `match` settings that are kept."""

METRICS_DEFINITIONS: dict[str, Definition] = {
    "interval.ms": Definition(Kind.INT, "How often clients push their metrics.", "ms"),
    "match": Definition(Kind.LIST, "Which clients: NAME=PATTERN, ... out of " + ", ".join(MATCHES) + "."),
    "metrics": Definition(Kind.LIST, "Prefixes of names of metrics; * is all."),
}
METRICS_DEFAULTS = {"interval.ms": str(INTERVAL_MS_DEFAULT), "match": "", "metrics": ""}


def check_client_metrics(configs: Mapping[str, str]) -> None:
    """:raises Refused: INVALID_REQUEST or INVALID_CONFIG, as Kafka has it."""
    for name, text in configs.items():
        if name not in METRICS_DEFINITIONS:
            raise Refused(ErrorCode.INVALID_REQUEST, f"Unknown client metrics configuration: {name}")
        value = _parsed(name, text, METRICS_DEFINITIONS[name])
        if name == "interval.ms":
            assert isinstance(value, int)
            if not INTERVAL_MS_MIN <= value <= INTERVAL_MS_MAX:
                raise Refused(
                    ErrorCode.INVALID_REQUEST,
                    f"Invalid value {text} for interval.ms, interval must be between {INTERVAL_MS_MIN} and "
                    f"{INTERVAL_MS_MAX} (1 hour)",
                )
        elif name == "match":
            assert isinstance(value, tuple)
            patterns(value)


@lru_cache(maxsize=PATTERNS_KEPT_MAX)
def patterns(match: tuple[str, ...]) -> Mapping[str, Expression]:
    """The patterns by what they are asked of; each costs a bounded time, to compile and to match.

    :raises Refused: INVALID_CONFIG, saying what is wrong.
    """
    found = {}
    for item in match:
        name, equals, pattern = item.partition("=")
        wrong = f"Illegal client matching pattern: {item[: 2 * PATTERN_CHARS_MAX]}"
        if not equals or name.strip() not in MATCHES:
            raise _invalid(f"{wrong}: it must be NAME=PATTERN, NAME one of {', '.join(MATCHES)}")
        if len(pattern) > PATTERN_CHARS_MAX:
            raise _invalid(f"{wrong}: a pattern may have {PATTERN_CHARS_MAX} characters")
        try:
            found[name.strip()] = Expression(pattern.strip(), of_topics=False)
        except Refused as refused:
            raise _invalid(f"{wrong}: {refused.message}") from None
    return found


def describe_client_metrics(configs: Mapping[str, str]) -> list[Described]:
    """All settings of a subscription."""
    described = []
    for name, definition in METRICS_DEFINITIONS.items():
        own = configs.get(name)
        source = Source.DEFAULT if own is None else Source.CLIENT_METRICS
        synonyms = () if own is None else (Synonym(name, own, source),)
        described.append(Described(name, own or METRICS_DEFAULTS[name], source, False, definition, synonyms))
    return described


def _parsed(name: str, text: str, definition: Definition) -> Value:
    try:
        return parse(name, text, definition)
    except ValueError as error:
        raise _invalid(str(error)) from None


def _invalid(message: str) -> Refused:
    return Refused(ErrorCode.INVALID_CONFIG, message)


assert set(METRICS_DEFAULTS) == set(METRICS_DEFINITIONS)
assert all(hasattr(DEFAULTS, attribute(f"group.{name}")) for name in GROUP_SETTINGS)
