"""Puts one shard of groups together: machine, record form and limits over a journal.

Called by :mod:`front`, and imported only when there is a shard to open: a node without groups starts without this and
all that hangs on it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from logd.coordinators.machine import ShardMachine
from logd.coordinators.modern_groups import ModernLimits
from logd.coordinators.rebalance import GroupLimits
from logd.coordinators.records import from_bytes, to_bytes
from logd.coordinators.runtime import RecordForm, Runtime

if TYPE_CHECKING:
    from logd.chronicle import Note
    from logd.clock import Clock
    from logd.config import Settings
    from logd.coordinators.journal import Journal
    from logd.coordinators.timer import Timer

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


def modern_limits_of(settings: Settings) -> ModernLimits:
    """The same for groups of the consumer protocol; times are brought between their least and their most."""
    return ModernLimits(
        session_ms=_between(
            settings.group_consumer_session_timeout_ms,
            settings.group_consumer_min_session_timeout_ms,
            settings.group_consumer_max_session_timeout_ms,
        ),
        heartbeat_ms=_between(
            settings.group_consumer_heartbeat_interval_ms,
            settings.group_consumer_min_heartbeat_interval_ms,
            settings.group_consumer_max_heartbeat_interval_ms,
        ),
        size_max=settings.group_consumer_max_size,
        assignors=settings.group_consumer_assignors,
    )


def _between(value: int, least: int, most: int) -> int:
    return max(least, min(value, most))


def open_shard(
    name: str, journal: Journal, settings: Settings, timer: Timer, clock: Clock, tell: Callable[[Note, int], None]
) -> Runtime:
    """A runtime of groups that is not loaded yet."""
    machine = ShardMachine(limits_of(settings), modern_limits_of(settings))
    return Runtime(name, machine, journal, _FORM, timer, clock, settings.offsets_commit_timeout_ms, tell=tell)
