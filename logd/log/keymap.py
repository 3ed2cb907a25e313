"""Which offset is the last of each key, for millions of keys in flat memory.

Compaction's map: a hash table of open addressing in three numpy arrays, 16 bytes a slot, worked on in bulk. It knows
keys only as salted digests of 96 bits. ``cleaner`` fills it with the keys of the dirty part of a log, in rising
offsets, and asks it which records are still the last of their key. It touches no file and is bounded when made.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b
from typing import Final, TypeAlias

import numpy as np

SLOT_BYTES: Final = 16
SLOTS_MIN: Final = 1024
SPAN_MAX: Final = 2**32 - 2
"""How many offsets one map can span."""

DIGEST_BYTES: Final = 12
_DIGEST: Final = np.dtype([("head", "<u8"), ("tail", "<u4")])
_EMPTY: Final = 0
_ROOMY: Final = 0.7
"""How full the table gets where there is memory enough: fuller ones probe longer."""

Offsets: TypeAlias = np.ndarray[tuple[int], np.dtype[np.int64]]
Digests: TypeAlias = np.ndarray[tuple[int], np.dtype[np.void]]


def digests(keys: Iterable[bytes], salt: bytes) -> Digests:
    """Return the digests of keys; ``salt`` (16 bytes) is drawn anew for each map, so that nobody can aim at it."""
    joined = b"".join([blake2b(key, digest_size=DIGEST_BYTES, salt=salt).digest() for key in keys])
    return np.frombuffer(joined, _DIGEST)


def slots_for(keys: int, memory_bytes: int) -> int:
    """Return how many slots a map for at most so many keys gets, out of so many bytes."""
    wanted = max(int(keys / _ROOMY) + 1, SLOTS_MIN)
    return max(min(wanted, memory_bytes // SLOT_BYTES), 1)


class KeyMap:
    """Digest of a key -> the largest offset that was put for it, from ``base_offset`` on."""

    def __init__(self, slots: int, base_offset: int, load_factor: float) -> None:
        self.base_offset = base_offset
        self.keys_max = min(int(slots * load_factor), slots - 1)
        self.count = 0
        self._slots = np.uint64(slots)
        self._heads = np.zeros(slots, np.uint64)
        self._tails = np.zeros(slots, np.uint32)
        self._places = np.zeros(slots, np.uint32)  # offset - base offset + 1; 0 where the slot is empty

    @property
    def memory_bytes(self) -> int:
        """The size of the table."""
        return int(self._slots) * SLOT_BYTES

    def put(self, keys: Digests, offsets: Offsets) -> None:
        """Note keys; there must be room for all of them to be new, and offsets must rise, within calls and between.

        All that wait for the same slot write into it, the last one wins and those of another key go on to the next
        slot; equal keys probe the same slots side by side, so the largest offset stays.
        """
        assert self.count + len(keys) <= self.keys_max or len(keys) == 0
        heads, tails = keys["head"].astype(np.uint64), keys["tail"].astype(np.uint32)
        places = (offsets - self.base_offset + 1).astype(np.uint32)
        slots = (heads % self._slots).astype(np.intp)
        while len(slots):
            free = self._places[slots] == _EMPTY
            claimed = slots[free]
            if len(claimed):
                self._heads[claimed] = heads[free]
                self._tails[claimed] = tails[free]
                self._places[claimed] = places[free]
                self.count += len(np.unique(claimed))
            same = (self._heads[slots] == heads) & (self._tails[slots] == tails)
            self._places[slots[same]] = places[same]
            rest = ~same
            slots, heads, tails, places = slots[rest], heads[rest], tails[rest], places[rest]
            slots += 1
            slots[slots == int(self._slots)] = 0

    def last_offsets(self, keys: Digests) -> Offsets:
        """Return the offset that each key was last put with, -1 for those that never were."""
        heads, tails = keys["head"].astype(np.uint64), keys["tail"].astype(np.uint32)
        slots = (heads % self._slots).astype(np.intp)
        found = np.full(len(keys), -1, np.int64)
        waiting = np.arange(len(keys))
        while len(waiting):
            places = self._places[slots]
            same = (self._heads[slots] == heads) & (self._tails[slots] == tails) & (places != _EMPTY)
            found[waiting[same]] = places[same].astype(np.int64) + (self.base_offset - 1)
            rest = ~same & (places != _EMPTY)
            waiting, slots, heads, tails = waiting[rest], slots[rest], heads[rest], tails[rest]
            slots += 1
            slots[slots == int(self._slots)] = 0
        return found
