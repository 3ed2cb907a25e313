"""The table of deadlines of a coordinator: PURE; the runtime's one timer task asks it what is due.

Built for deadlines that are nearly always moved further away before they come: a heartbeat re-arms its member's
session with one dictionary store. The heap keeps the older, earlier entry, and notices the move when that comes up.
Entries of deadlines that were taken back stay a while too, but never many more than there are deadlines: a thousand
transactions a second, each a quarter of an hour away from its timeout, would fill the memory.
Times are milliseconds of any clock that never goes back; the caller passes them in.
"""

from __future__ import annotations

import heapq
from collections.abc import Hashable
from itertools import count

STALE_MIN = 64
"""So many entries without a deadline are never worth a look at the heap."""


class _Deadline:
    __slots__ = ("at_ms", "event", "queued_ms")

    def __init__(self, at_ms: float, event: object) -> None:
        self.at_ms = at_ms
        self.event = event
        self.queued_ms = at_ms


class Deadlines:
    """Keys with a time and an event each. One key has one deadline."""

    def __init__(self) -> None:
        self._by_key: dict[Hashable, _Deadline] = {}
        self._heap: list[tuple[float, int, Hashable, _Deadline]] = []
        self._ticket = count()

    def __len__(self) -> int:
        return len(self._by_key)

    def __contains__(self, key: Hashable) -> bool:
        return key in self._by_key

    def arm(self, key: Hashable, at_ms: float, event: object) -> None:
        """Set or move the deadline of `key`. Moving it later is one dictionary look-up."""
        held = self._by_key.get(key)
        if held is None:
            held = self._by_key[key] = _Deadline(at_ms, event)
        else:
            held.at_ms, held.event = at_ms, event
            if at_ms >= held.queued_ms:
                return
            held.queued_ms = at_ms
        self._push(key, held)

    def disarm(self, key: Hashable) -> None:
        """Forget `key`; its heap entry goes when it comes up, or when there are too many of its kind."""
        self._by_key.pop(key, None)
        self._sweep()

    def disarm_all(self, belongs: object) -> None:
        """Forget every key that is a tuple beginning with `belongs`."""
        gone = [key for key in self._by_key if isinstance(key, tuple) and key[0] == belongs]
        for key in gone:
            del self._by_key[key]
        self._sweep()

    def next_ms(self) -> float | None:
        """When to look again: never later than the earliest deadline, sometimes earlier; None when there is none."""
        heap = self._heap
        while heap and self._by_key.get(heap[0][2]) is not heap[0][3]:
            heapq.heappop(heap)
        return heap[0][0] if heap else None

    def pop(self, now_ms: float) -> tuple[Hashable, object] | None:
        """Take out and return one deadline that has come, earliest first; None when nothing is due."""
        while self._heap and self._heap[0][0] <= now_ms:
            queued_ms, _, key, held = heapq.heappop(self._heap)
            if self._by_key.get(key) is not held or queued_ms != held.queued_ms:
                continue
            if held.at_ms <= now_ms:
                del self._by_key[key]
                return key, held.event
            held.queued_ms = held.at_ms
            self._push(key, held)
        return None

    def _sweep(self) -> None:
        """When more than half of the heap is of no use, make it anew, with one entry for each deadline."""
        if len(self._heap) <= 2 * len(self._by_key) + STALE_MIN:
            return
        self._heap.clear()
        for key, held in self._by_key.items():
            held.queued_ms = held.at_ms
            self._heap.append((held.queued_ms, next(self._ticket), key, held))
        heapq.heapify(self._heap)

    def _push(self, key: Hashable, held: _Deadline) -> None:
        heapq.heappush(self._heap, (held.queued_ms, next(self._ticket), key, held))
        self._sweep()
