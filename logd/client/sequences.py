"""Producer ids and sequence numbers of an idempotent producer (KIP-98), for each partition.

All partitions start with one producer id. When the outcome of a batch stays unknown its sequence is spoilt, and only
that partition goes on under a fresh id: the others keep theirs, so that their retries stay recognisable. A plain
object; the producer asks the server for ids.
"""

from __future__ import annotations

from logd.client.metadata import TopicPartition

SEQUENCE_MASK = 0x7FFFFFFF
"""Sequences wrap to 0 after 2^31-1."""

Identity = tuple[int, int]
"""(producer id, epoch)."""


class Sequences:
    """Hands out (producer id, epoch, first sequence) for batches."""

    def __init__(self) -> None:
        self.shared: Identity | None = None
        self._own: dict[TopicPartition, Identity] = {}
        self._next: dict[TopicPartition, int] = {}
        self._spoilt: set[TopicPartition] = set()

    def needs_identity(self, at: TopicPartition) -> bool:
        """Whether an id must be fetched and given to :meth:`identify` before the next batch."""
        return at in self._spoilt or (self.shared is None and at not in self._own)

    def identify(self, at: TopicPartition, identity: Identity) -> None:
        """A fresh id from the server: for all when it is the first, else for this partition."""
        if self.shared is None:
            self.shared = identity
        else:
            self._own[at] = identity
        self._next[at] = 0
        self._spoilt.discard(at)

    def restart(self, identity: Identity) -> None:
        """Every partition begins anew under this identity: a transactional producer has a new epoch."""
        self.shared = identity
        self._own.clear()
        self._next.clear()
        self._spoilt.clear()

    def assign(self, at: TopicPartition, count: int) -> tuple[int, int, int]:
        """The identity and the first of `count` sequence numbers of a batch."""
        identity = self._own.get(at) or self.shared
        assert identity is not None
        assert at not in self._spoilt
        first = self._next.get(at, 0)
        self._next[at] = (first + count) & SEQUENCE_MASK
        return *identity, first

    def rewind(self, at: TopicPartition, first: int) -> None:
        """The last batch was refused as a whole: its numbers, from `first` on, are free again."""
        self._next[at] = first

    def spoil(self, at: TopicPartition) -> None:
        """A batch failed for good: its numbers may or may not be used up."""
        self._spoilt.add(at)
