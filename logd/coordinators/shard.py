"""Puts one shard of groups together: machine, record form and limits over a journal.

Called by :mod:`front`, and imported only when there is a shard to open: a node without groups starts without this and
all that hangs on it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from logd.chronicle import Note
from logd.config.groups import group_value
from logd.coordinators.events import SettingsSeen
from logd.coordinators.machine import ShardMachine
from logd.coordinators.modern_groups import ModernLimits
from logd.coordinators.rebalance import GroupLimits
from logd.coordinators.records import from_bytes, to_bytes
from logd.coordinators.runtime import RecordForm, Runtime

if TYPE_CHECKING:
    from logd.clock import Clock
    from logd.config import Settings
    from logd.coordinators.journal import Journal
    from logd.coordinators.timer import Timer

GROUP = 32
"""The resource type of a group's settings."""

Tell = Callable[[Note, int], None]

_FORM = RecordForm(to_bytes, from_bytes)


def limits_of(settings: Settings) -> GroupLimits:
    """What the machine must obey, from the broker's settings."""
    return GroupLimits(
        size_max=settings.group_max_size,
        initial_delay_ms=settings.group_initial_rebalance_delay_ms,
        metadata_bytes_max=settings.offset_metadata_max_bytes,
        retention_ms=settings.offsets_retention_minutes * 60_000,
        sweep_every_ms=settings.offsets_retention_check_interval_ms,
    )


def modern_limits_of(settings: Settings, own: Mapping[str, str] | None = None) -> ModernLimits:
    """The same for groups of the consumer protocol, or for the one that has settings of its `own`."""
    configs = own or {}
    policy = settings.group_consumer_migration_policy
    return ModernLimits(
        session_ms=group_value("consumer.session.timeout.ms", configs, settings),
        heartbeat_ms=group_value("consumer.heartbeat.interval.ms", configs, settings),
        assignment_interval_ms=group_value("consumer.assignment.interval.ms", configs, settings),
        upgrades=policy in ("bidirectional", "upgrade"),
        downgrades=policy in ("bidirectional", "downgrade"),
        size_max=settings.group_consumer_max_size,
        assignors=settings.group_consumer_assignors,
    )


def settings_seen(settings: Settings, resources: Mapping[tuple[int, str], Mapping[str, str]]) -> SettingsSeen:
    """What the machine is told of settings; `resources` are those of an image."""
    own = {name: modern_limits_of(settings, configs) for (kind, name), configs in resources.items() if kind == GROUP}
    return SettingsSeen(limits_of(settings), modern_limits_of(settings), own)


def open_shard(
    name: str,
    journal: Journal,
    seen: SettingsSeen,
    limit_ms: int,
    timer: Timer,
    clock: Clock,
    tell: Tell,
    steady: Clock,
) -> Runtime:
    """A runtime of groups that is not loaded yet."""
    machine = ShardMachine(seen.classic, seen.modern)
    machine.handle(seen, 0)
    return Runtime(name, machine, journal, _FORM, timer, clock, limit_ms, tell=tell, steady=steady)
