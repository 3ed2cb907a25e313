"""The map of keys: it says of each key what a dict would say, and stays in its bounds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from logd.log.columns import PADDING, Numbers
from logd.log.keymap import SLOT_BYTES, SLOTS_MIN, Digester, Digests, KeyMap, OffsetSet, slots_for

SALT = bytes(range(16))


def digests_of(keys: list[bytes], salt: bytes = SALT) -> Digests:
    sizes = np.array([len(key) for key in keys], np.int64)
    return Digester(salt).digests(b"".join(keys) + PADDING, np.cumsum(sizes) - sizes, sizes)


def numbers(values: list[int]) -> Numbers:
    return np.array(values, np.int64)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.binary(max_size=3), max_size=30), max_size=10), st.integers(0, 2**40), st.integers(1, 40))
def test_says_what_a_dict_says(puts: list[list[bytes]], base: int, spare: int) -> None:
    """Keys put in bulk, many of them twice, into a table with little or much room: the last offset of each stays."""
    told: dict[bytes, int] = {}
    keys = KeyMap(len({key for put in puts for key in put}) + 31 + spare, base, 1.0)
    offset = base
    for put in puts:
        offsets = list(range(offset, offset + len(put)))
        if keys.count + len(put) > keys.keys_max:
            break
        keys.put(digests_of(put), numbers(offsets))
        told.update(zip(put, offsets, strict=True))
        offset += len(put)
    assert keys.count == len(told)
    asked = [*told, b"never"]
    assert keys.last_offsets(digests_of(asked)).tolist() == [*told.values(), -1]


def test_the_widest_span() -> None:
    """Offsets up to 2^32 - 2 behind the base are kept as they are."""
    keys = KeyMap(10, 5_000_000_000, 0.9)
    far = 5_000_000_000 + 2**32 - 2
    keys.put(digests_of([b"a", b"b"]), numbers([5_000_000_000, far]))
    assert keys.last_offsets(digests_of([b"a", b"b"])).tolist() == [5_000_000_000, far]


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 16, 17, 32, 63, 64, 65, 1000])
def test_digests_tell_keys_apart(size: int) -> None:
    """Keys that differ in one byte, in length, or by zeros at their end have different digests; equal ones the same."""
    key = bytes(at % 251 for at in range(size))
    others = [key + b"\0", key + b"\0\0", key + b"x", *(key[:at] + b"\xff" + key[at + 1 :] for at in range(size))]
    found = digests_of([key, *others, key])
    pairs = list(zip(found.heads.tolist(), found.tails.tolist(), strict=True))
    assert pairs[0] == pairs[-1]
    assert len(set(pairs)) == len(others) + 1
    assert digests_of([key], bytes(16)).heads.tolist() != [pairs[0][0]] or size == 0


def test_digests_spread() -> None:
    """Counted keys spread over all bits, so that the table probes little."""
    found = digests_of([b"key-%09d" % at for at in range(4000)])
    for bits in (found.heads, found.tails.astype(np.uint64)):
        for bit in range(0, 32, 5):
            ones = int(((bits >> np.uint64(bit)) & np.uint64(1)).sum())
            assert 1700 < ones < 2300
    assert len(np.unique(found.heads % np.uint64(4001))) > 2300


def test_room() -> None:
    """A map is made for the records that there are, and never larger than its memory."""
    assert slots_for(10, 1 << 30) == SLOTS_MIN
    assert 7 << 20 < slots_for(5 << 20, 1 << 30) < 8 << 20
    assert slots_for(1 << 40, 1 << 20) * SLOT_BYTES == 1 << 20
    full = KeyMap(1 << 16, 0, 0.9)
    assert full.memory_bytes == 1 << 20
    full.put(digests_of([b"%d" % at for at in range(full.keys_max)]), numbers(list(range(full.keys_max))))
    assert full.count == full.keys_max
    assert full.last_offsets(digests_of([b"17", b"none"])).tolist() == [17, -1]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.binary(max_size=2), max_size=30), max_size=10), st.integers(0, 2**40))
def test_tells_what_is_superseded(puts: list[list[bytes]], base: int) -> None:
    """What is put tells the offsets that are not the last of their key any more: in all, all but the last of each."""
    keys = KeyMap(1000, base, 0.9)
    gone: set[int] = set()
    last: dict[bytes, int] = {}
    offset = base
    for put in puts:
        offsets = list(range(offset, offset + len(put)))
        gone.update(keys.put(digests_of(put), numbers(offsets)).tolist())
        last.update(zip(put, offsets, strict=True))
        offset += len(put)
        assert gone == set(range(base, offset)) - set(last.values())


@settings(max_examples=100, deadline=None)
@given(st.sets(st.integers(0, 200)), st.lists(st.integers(0, 200), min_size=1, unique=True), st.integers(0, 2**40))
def test_offset_set(members: set[int], places: list[int], base: int) -> None:
    """It holds what was put in, and says of ranges whether any of it is in them."""
    held = OffsetSet(base, 201)
    held.add(numbers([base + one for one in members for _ in range(2)]))
    assert held.holds(numbers([base + one for one in range(201)])).tolist() == [one in members for one in range(201)]
    bases = sorted(places)
    ends = [*bases[1:], 201]
    wanted = [any(a <= one < b for one in members) for a, b in zip(bases, ends, strict=True)]
    assert held.touches(numbers([base + one for one in bases]), base + 201).tolist() == wanted


def test_offset_set_of_far_offsets() -> None:
    """Ranges that are too wide for a look by bits may hold anything."""
    held = OffsetSet(0, 2**30)
    held.add(numbers([2**30 - 1]))
    assert held.holds(numbers([0, 2**30 - 1])).tolist() == [False, True]
    assert held.touches(numbers([0, 2**29]), 2**30).tolist() == [True, True]
    assert held.touches(numbers([2**30 - 9, 2**30 - 2]), 2**30).tolist() == [False, True]
