"""Which partition a record goes to: by its key as Kafka's Java clients do it, else in turns.

Pure but for the first turn, which the caller draws. Used by the producer only.
"""

from __future__ import annotations

from collections.abc import Callable

MASK = 0xFFFFFFFF
FACTOR = 0x5BD1E995
SEED = 0x9747B28C


def murmur2(data: bytes) -> int:
    """MurmurHash2, 32 bits, with the seed of Kafka's default partitioner; unsigned."""
    length = len(data)
    value = SEED ^ length
    whole = length & ~3
    for start in range(0, whole, 4):
        part = int.from_bytes(data[start : start + 4], "little") * FACTOR & MASK
        part = (part ^ part >> 24) * FACTOR & MASK
        value = value * FACTOR & MASK ^ part
    if length > whole:
        value = (value ^ int.from_bytes(data[whole:], "little")) * FACTOR & MASK
    value = (value ^ value >> 13) * FACTOR & MASK
    return value ^ value >> 15


def partition_for_key(key: bytes, count: int) -> int:
    """The partition of a key among `count`: the same as Kafka's Java clients choose."""
    return (murmur2(key) & 0x7FFFFFFF) % count


class Partitioner:
    """Chooses partitions. Records without a key stay on one partition until a batch of it is closed (KIP-480).

    :param draw: gives a number in ``range(n)``, for the first partition of each topic.
    """

    def __init__(self, draw: Callable[[int], int]) -> None:
        self._draw = draw
        self._current: dict[str, int] = {}

    def choose(self, topic: str, key: bytes | None, count: int) -> int:
        """The partition for a record of a topic with `count` partitions."""
        if key is not None:
            return partition_for_key(key, count)
        current = self._current.get(topic)
        if current is None or current >= count:
            current = self._current[topic] = self._draw(count)
        return current

    def batch_closed(self, topic: str, partition: int, count: int) -> None:
        """The batch that records without a key went to is on its way: go on with the next partition."""
        if self._current.get(topic) == partition:
            self._current[topic] = (partition + 1) % count
