"""Which transactions of a log are undecided, and from where on its records are not stable (KIP-98).

An :class:`OpenTransactions` belongs to the producers of one log, which tell it of every transaction that begins and
ends. A decided transaction counts as undecided until its marker lies below the high watermark: what a consumer was
given as committed must not be taken back. Synchronous and pure.
"""

from __future__ import annotations

from collections import deque
from typing import Final

NEVER: Final = 2**63 - 1
"""The first unstable offset of a log in which no transaction is open."""


class OpenTransactions:
    """The open transactions of one log by their first offset, and those whose marker is not committed yet."""

    __slots__ = ("_decided", "_open", "first_unstable")

    def __init__(self) -> None:
        self._open: dict[int, int] = {}  # first offset -> producer id; first offsets only rise
        self._decided: deque[tuple[int, int]] = deque()  # marker, first offset; in the order of the markers
        self.first_unstable = NEVER
        """The offset from which on nothing is stable, if it is below the high watermark."""

    def __len__(self) -> int:
        return len(self._open)

    def begin(self, producer_id: int, first_offset: int) -> None:
        """A transaction has written its first record."""
        self._open[first_offset] = producer_id
        if self.first_unstable == NEVER:
            self.first_unstable = first_offset

    def end(self, first_offset: int, marker_offset: int) -> int:
        """A transaction's marker was written.

        :return: the offset below which everything is decided now.
        """
        self._open.pop(first_offset, None)
        self._decided.append((marker_offset, first_offset))
        return next(iter(self._open), marker_offset + 1)

    def committed(self, high_watermark: int) -> None:
        """The high watermark has moved: markers below it count."""
        decided = self._decided
        if not decided or decided[0][0] >= high_watermark:
            return
        while decided and decided[0][0] < high_watermark:
            decided.popleft()
        first = next(iter(self._open), NEVER)
        for _, first_offset in decided:
            first = min(first, first_offset)
        self.first_unstable = first

    def replace(self, found: list[tuple[int, int]]) -> None:
        """Take these open transactions, pairs of first offset and producer id, for all there are."""
        self._open = dict(sorted(found))
        self._decided.clear()
        self.first_unstable = next(iter(self._open), NEVER)
