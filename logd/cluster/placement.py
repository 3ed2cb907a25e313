"""Which brokers get the replicas of new partitions.

The `cluster` policy: leaders go round the brokers in turn, followers to the ones after the leader, racks alternating
when all brokers tell theirs. Called by `controller`. PURE: where to begin is handed in.
"""

from __future__ import annotations

from collections.abc import Sequence

from logd.cluster.image import Broker
from logd.errors import ErrorCode, Refused


def place(
    brokers: Sequence[Broker], partitions: int, replication_factor: int, *, first: int = 0
) -> list[tuple[int, ...]]:
    """Replicas for `partitions` new partitions, the leader first in each.

    :param first: the number of partitions placed before, so that a topic that grows goes on where it stopped.
    :raises Refused: INVALID_REPLICATION_FACTOR when there are fewer brokers than replicas.
    """
    if replication_factor > len(brokers):
        raise Refused(
            ErrorCode.INVALID_REPLICATION_FACTOR,
            f"Replication factor: {replication_factor} is larger than the number of brokers: {len(brokers)}. "
            f"Ask for {len(brokers)} at most.",
        )
    ring = _alternating(brokers)
    size = len(ring)
    placed = []
    for index in range(first, first + partitions):
        # A second lap shifts the followers, so that no two brokers share all of their partitions.
        shift = (index // size) % max(size - 1, 1)
        followers = [(index + 1 + (shift + step) % max(size - 1, 1)) % size for step in range(replication_factor - 1)]
        placed.append((ring[index % size], *(ring[position] for position in followers)))
    return placed


def _alternating(brokers: Sequence[Broker]) -> list[int]:
    """Broker ids in an order in which neighbours are in different racks as far as possible."""
    ordered = sorted(brokers, key=lambda broker: broker.id)
    if any(broker.rack is None for broker in ordered):
        return [broker.id for broker in ordered]
    racks: dict[str, list[int]] = {}
    for broker in ordered:
        racks.setdefault(broker.rack or "", []).append(broker.id)
    ring: list[int] = []
    while any(racks.values()):
        ring += [members.pop(0) for _, members in sorted(racks.items()) if members]
    return ring
