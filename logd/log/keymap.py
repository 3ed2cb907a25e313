"""Which offset is the last of each key, for millions of keys in flat memory.

Compaction's map: a hash table of open addressing in three numpy arrays, 16 bytes a slot, worked on in bulk. It knows
keys only as digests of 96 bits, made by a function drawn anew for each run (:class:`Digester`). ``cleaner`` fills it
with the keys of the dirty part of a log, in rising offsets, and asks it which records are still the last of their key.
:class:`OffsetSet` keeps what was found out about single records. It touches no file and is bounded when made.
"""

from __future__ import annotations

from hashlib import blake2b, shake_256
from typing import Final, NamedTuple, TypeAlias

import numpy as np

from logd.log.columns import Numbers
from logd.wire.message import Buffer

SLOT_BYTES: Final = 16
SLOTS_MIN: Final = 1024
SPAN_MAX: Final = 2**32 - 2
"""How many offsets one map can span."""

KEY_WIDTHS: Final = (8, 16, 32, 64)
"""Keys are looked at in bulk with others of about their size; longer ones one by one."""
LANES: Final = 3
DIGEST_BYTES: Final = 12
_DIGEST: Final = np.dtype([("head", "<u8"), ("tail", "<u4")])
_EMPTY: Final = 0
_BIT: Final = np.array([1 << at for at in range(8)], np.uint8)
LOOK_MAX: Final = 1 << 24
"""The widest range of offsets that is looked at by bits."""
_ROOMY: Final = 0.7
"""How full the table gets where there is memory enough: fuller ones probe longer."""

Wide: TypeAlias = np.ndarray[tuple[int], np.dtype[np.uint64]]
Narrow: TypeAlias = np.ndarray[tuple[int], np.dtype[np.uint32]]
Flags: TypeAlias = np.ndarray[tuple[int], np.dtype[np.bool_]]


class Digests(NamedTuple):
    """The digests of keys: 64 bits and 32 more."""

    heads: Wide
    tails: Narrow

    def only(self, wanted: Flags) -> Digests:
        """Return some of them."""
        return Digests(self.heads[wanted], self.tails[wanted])

    def between(self, start: int, stop: int) -> Digests:
        """Return a run of them."""
        return Digests(self.heads[start:stop], self.tails[start:stop])


class Digester:
    """A random function from keys to 96 bits.

    Multilinear hashing (Lemire and Kaser, "Strongly universal string hashing is fast"): the upper half of a sum of
    32-bit words times random 64-bit factors. Two keys that were chosen without knowing the factors collide with a
    probability of 2^-32 in each of three lanes. Keys of more than 64 bytes take a salted BLAKE2b instead.
    """

    def __init__(self, salt: bytes) -> None:
        self._salt = salt
        words = KEY_WIDTHS[-1] // 4 + 2
        drawn = shake_256(salt).digest(8 * words * LANES * len(KEY_WIDTHS))
        self._factors = np.frombuffer(drawn, "<u8").astype(np.uint64).reshape(len(KEY_WIDTHS), LANES, words)

    def digests(self, data: Buffer, starts: Numbers, sizes: Numbers) -> Digests:
        """Return the digests of the keys that lie in ``data``; a negative size is that of an empty key.

        :param data: at least 64 bytes longer than where the last key begins.
        """
        octets = np.frombuffer(data, np.uint8)
        heads, tails = np.empty(len(starts), np.uint64), np.empty(len(starts), np.uint32)
        below = -(2**62)
        for width, factors in zip(KEY_WIDTHS, self._factors, strict=True):
            rows = np.flatnonzero((sizes > below) & (sizes <= width))
            if len(rows):
                heads[rows], tails[rows] = _lanes(octets, starts[rows], sizes[rows], width, factors)
            below = width
        rows = np.flatnonzero(sizes > below)
        if len(rows):
            places = zip(starts[rows].tolist(), sizes[rows].tolist(), strict=True)
            made = [
                blake2b(data[at : at + size], digest_size=DIGEST_BYTES, salt=self._salt).digest() for at, size in places
            ]
            whole = np.frombuffer(b"".join(made), _DIGEST)
            heads[rows], tails[rows] = whole["head"], whole["tail"]
        return Digests(heads, tails)


def _lanes(
    octets: np.ndarray[tuple[int], np.dtype[np.uint8]],
    starts: Numbers,
    sizes: Numbers,
    width: int,
    factors: np.ndarray[tuple[int, int], np.dtype[np.uint64]],
) -> tuple[Wide, Narrow]:
    """Hash keys of at most ``width`` bytes, filled up with zeros; the size counts as a word too."""
    within = np.arange(width)
    padded = octets[starts[:, np.newaxis] + within]
    padded[within >= sizes[:, np.newaxis]] = 0
    words = padded.view("<u4")
    lengths = np.maximum(sizes, 0).astype(np.uint64)
    made = []
    for factor in factors:
        total = factor[0] + factor[1] * lengths
        for number in range(words.shape[1]):
            total += factor[number + 2] * words[:, number].astype(np.uint64)
        made.append(total >> np.uint64(32))
    return (made[0] << np.uint64(32)) | made[1], made[2].astype(np.uint32)


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

    def put(self, keys: Digests, offsets: Numbers) -> Numbers:
        """Note keys; there must be room for all of them to be new, and offsets must rise, within calls and between.

        All that wait for the same slot write into it, the last one wins and those of another key go on to the next
        slot; equal keys probe the same slots side by side, so the largest offset stays.

        :return: the offsets, of these or earlier ones, that are not the last of their key any more; some twice.
        """
        heads, tails = keys
        assert self.count + len(heads) <= self.keys_max or len(heads) == 0
        places = (offsets - self.base_offset + 1).astype(np.uint32)
        slots = (heads % self._slots).astype(np.intp)
        lost = [places[:0]]
        while len(slots):
            before = self._places[slots]
            free = before == _EMPTY
            claimed = slots[free]
            if len(claimed):
                self._heads[claimed] = heads[free]
                self._tails[claimed] = tails[free]
                self._places[claimed] = places[free]
                self.count += int(np.count_nonzero(self._places[claimed] == places[free]))  # one won each slot
            same = (self._heads[slots] == heads) & (self._tails[slots] == tails)
            found, mine, earlier = slots[same], places[same], before[same]
            self._places[found] = mine
            lost += [mine[mine != self._places[found]], earlier[earlier != _EMPTY]]
            rest = ~same
            slots, heads, tails, places = slots[rest], heads[rest], tails[rest], places[rest]
            slots += 1
            slots[slots == int(self._slots)] = 0
        return np.concatenate(lost).astype(np.int64) + (self.base_offset - 1)

    def last_offsets(self, keys: Digests) -> Numbers:
        """Return the offset that each key was last put with, -1 for those that never were."""
        heads, tails = keys
        slots = (heads % self._slots).astype(np.intp)
        found = np.full(len(heads), -1, np.int64)
        waiting = np.arange(len(heads))
        while len(waiting):
            places = self._places[slots]
            same = (self._heads[slots] == heads) & (self._tails[slots] == tails) & (places != _EMPTY)
            found[waiting[same]] = places[same].astype(np.int64) + (self.base_offset - 1)
            rest = ~same & (places != _EMPTY)
            waiting, slots, heads, tails = waiting[rest], slots[rest], heads[rest], tails[rest]
            slots += 1
            slots[slots == int(self._slots)] = 0
        return found


class OffsetSet:
    """A set of offsets between two, one bit each; pages that nothing is put into take no memory."""

    def __init__(self, base_offset: int, span: int) -> None:
        self._base_offset = base_offset
        self._bits = np.zeros((span >> 3) + 1, np.uint8)

    def add(self, offsets: Numbers) -> None:
        """Put some in."""
        if len(offsets):
            at = offsets - self._base_offset
            np.bitwise_or.at(self._bits, at >> 3, _BIT[at & 7])

    def holds(self, offsets: Numbers) -> Flags:
        """Say of each whether it is in the set."""
        at = offsets - self._base_offset
        held: Flags = (self._bits[at >> 3] & _BIT[at & 7]) != 0
        return held

    def touches(self, bases: Numbers, end: int) -> Flags:
        """Say of each range whether any of it is in the set: from each of ``bases``, which rise, to the next, and from
        the last to ``end``. Where they lie too far apart for a look it says yes."""
        at = bases - self._base_offset
        first, stop = int(at[0]) & ~7, end - self._base_offset
        if stop - first > LOOK_MAX:
            return np.ones(len(bases), np.bool_)
        bits = np.unpackbits(self._bits[first >> 3 : (stop + 7) >> 3], count=stop - first, bitorder="little")
        touched: Flags = np.logical_or.reduceat(bits, at - first)
        return touched
