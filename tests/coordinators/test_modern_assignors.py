"""The server-side assignors: every partition once, only to subscribers, evenly, and with few moves."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from logd.coordinators.modern_assignors import ASSIGNORS, Share, Subscriber, assign_range, assign_uniform

A, B = b"a" * 16, b"b" * 16


def members(**topics: frozenset[bytes]) -> dict[str, Subscriber]:
    return {name: Subscriber(None, found, {}) for name, found in topics.items()}


def loads(shares: dict[str, Share]) -> list[int]:
    return sorted(sum(map(len, share.values())) for share in shares.values())


def test_range_gives_runs() -> None:
    """Each topic in runs, the first members get one more; equal topics meet in one member."""
    both = frozenset({A, B})
    shares = assign_range(members(m2=both, m1=both, m3=both), {A: 4, B: 4})
    assert shares == {
        "m1": {A: frozenset({0, 1}), B: frozenset({0, 1})},
        "m2": {A: frozenset({2}), B: frozenset({2})},
        "m3": {A: frozenset({3}), B: frozenset({3})},
    }


def test_range_puts_static_members_first() -> None:
    """Static members come in order of their instance, whatever their member ids are."""
    found = {name: Subscriber(instance, frozenset({A}), {}) for name, instance in {"x": "i1", "a": None}.items()}
    assert assign_range(found, {A: 1})["x"] == {A: frozenset({0})}


def test_uniform_moves_little() -> None:
    """A newcomer takes only what balance asks for; what a member keeps, it keeps."""
    only = frozenset({A})
    held = {"m1": {A: frozenset({0, 1, 2})}, "m2": {A: frozenset({3, 4, 5})}, "m3": {}}
    shares = assign_uniform({name: Subscriber(None, only, share) for name, share in held.items()}, {A: 6})
    assert loads(shares) == [2, 2, 2]
    assert shares["m1"][A] < held["m1"][A]
    assert shares["m2"][A] < held["m2"][A]


def test_uniform_balances_different_subscriptions() -> None:
    """Who may read one topic only gets more of it, when the others have enough elsewhere."""
    shares = assign_uniform(members(m1=frozenset({A}), m2=frozenset({A, B})), {A: 2, B: 2})
    assert shares == {"m1": {A: frozenset({0, 1})}, "m2": {B: frozenset({0, 1})}}


TOPICS = [bytes([letter]) * 16 for letter in b"abc"]
WISHES = st.dictionaries(
    st.sampled_from([f"m{number}" for number in range(6)]), st.frozensets(st.sampled_from(TOPICS)), max_size=6
)


@given(st.sampled_from(sorted(ASSIGNORS)), st.lists(WISHES, min_size=1, max_size=4), st.lists(st.integers(0, 7)))
def test_every_partition_once(name: str, rounds: list[dict[str, frozenset[bytes]]], counts: list[int]) -> None:
    """Whatever members want, one after the other: all that is wanted is given once, to someone who wants it."""
    partitions = dict(zip(TOPICS, counts, strict=False))
    held: dict[str, Share] = {}
    for wishes in rounds:
        found = {each: Subscriber(None, topics, held.get(each, {})) for each, topics in wishes.items()}
        held = ASSIGNORS[name](found, partitions)
        given_out = [
            (topic, index) for each in held for topic, indexes in held[each].items() for index in sorted(indexes)
        ]
        wanted = {topic for topics in wishes.values() for topic in topics}
        assert sorted(given_out) == sorted(
            (topic, index) for topic in wanted for index in range(partitions.get(topic, 0))
        )
        assert all(topic in wishes[each] for each in held for topic in held[each])
        assert set(held) == set(wishes)
        if name == "uniform" and len(set(wishes.values())) == 1:
            assert max(loads(held)) - min(loads(held)) <= 1
