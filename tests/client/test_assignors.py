"""How a classic group's leader shares partitions out: every partition once, evenly, with few moves."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from logd.client.assignors import Shares, Subscriber, assign_range, assign_roundrobin, assign_sticky
from logd.client.metadata import TopicPartition
from logd.client.subscriptions import assignment_bytes, assignment_in, subscriber_in, subscription_bytes

TOPICS = ("a", "b")


def members(*subscriptions: str) -> list[Subscriber]:
    """m0, m1, ..., each with the topics whose letters are in its subscription."""
    return [Subscriber(f"m{number}", frozenset(topics)) for number, topics in enumerate(subscriptions)]


def parts(topic: str, *indexes: int) -> list[TopicPartition]:
    return [TopicPartition(topic, index) for index in indexes]


def test_range() -> None:
    """Each topic in runs; the first members get one more; named instances come first."""
    found = assign_range(members("ab", "ab", "b"), {"a": 3, "b": 4})
    assert found == {
        "m0": parts("a", 0, 1) + parts("b", 0, 1),
        "m1": parts("a", 2) + parts("b", 2),
        "m2": parts("b", 3),
    }
    named = [Subscriber("m0", frozenset("a")), Subscriber("m1", frozenset("a"), instance="z")]
    assert assign_range(named, {"a": 1}) == {"m0": [], "m1": parts("a", 0)}


def test_roundrobin() -> None:
    """All partitions in turns, over those who want them."""
    found = assign_roundrobin(members("ab", "a"), {"a": 3, "b": 2})
    assert found == {"m0": [*parts("a", 0, 2), *parts("b", 0, 1)], "m1": parts("a", 1)}


def next_round(group: list[Subscriber], shares: Shares, generation: int) -> list[Subscriber]:
    """The members as they join again with what they were given."""
    return [
        Subscriber(one.member_id, one.topics, tuple(shares.get(one.member_id, ())), generation, one.instance)
        for one in group
    ]


def settled(group: list[Subscriber], counts: dict[str, int]) -> Shares:
    """What comes out when nothing moves any more."""
    for generation in range(1, 10):
        shares = assign_sticky(group, counts)
        again = next_round(group, shares, generation)
        if again == [*next_round(group, {one.member_id: list(one.owned) for one in group}, generation)]:
            return shares
        group = again
    raise AssertionError("the group does not settle")


def test_what_moves_waits_for_a_round() -> None:
    """A partition that goes to a new member is given to nobody until the old one has let it go (KIP-429)."""
    group = [*next_round(members("a"), {"m0": parts("a", 0, 1, 2, 3)}, 1), Subscriber("m1", frozenset("a"))]
    first = assign_sticky(group, {"a": 4})
    assert first == {"m0": parts("a", 0, 1), "m1": []}
    assert assign_sticky(next_round(group, first, 2), {"a": 4}) == {"m0": parts("a", 0, 1), "m1": parts("a", 2, 3)}


def test_an_old_claim_yields_to_a_newer_one() -> None:
    """A member that was away and still believes to own a partition does not get it; nobody does while both claim it."""
    group = [
        Subscriber("m0", frozenset("a"), tuple(parts("a", 0)), 3),
        Subscriber("m1", frozenset("a"), tuple(parts("a", 0)), 5),
    ]
    assert assign_sticky(group, {"a": 1}) == {"m0": [], "m1": []}


@given(st.lists(st.sampled_from(["a", "b", "ab"]), min_size=1, max_size=6), st.integers(0, 9), st.integers(0, 9))
def test_everything_is_shared_evenly(subscriptions: list[str], a: int, b: int) -> None:
    """By each assignor every partition that somebody wants has one owner, who wants it; sticky shares of members who
    want the same differ by at most one, and stay as they are when nothing changes."""
    counts = {"a": a, "b": b}
    group = members(*subscriptions)
    wanted = sorted(
        TopicPartition(topic, index)
        for topic in TOPICS
        for index in range(counts[topic])
        if any(topic in one.topics for one in group)
    )
    for shares in (assign_range(group, counts), assign_roundrobin(group, counts), settled(group, counts)):
        assert sorted(at for share in shares.values() for at in share) == wanted
        assert all(at.topic in one.topics for one in group for at in shares[one.member_id])
    sizes = [len(shares[one.member_id]) for one in group if one.topics == {"a", "b"}]
    assert max(sizes, default=0) - min(sizes, default=0) <= 1
    assert settled(next_round(group, shares, 1), counts) == shares


@given(st.integers(1, 5), st.integers(1, 5), st.integers(0, 20))
def test_a_change_moves_no_more_than_it_must(before: int, after: int, count: int) -> None:
    """When members come or go, those who stay keep all that is not above an even share."""
    shares = settled(members(*["a"] * before), {"a": count})
    now = settled(next_round(members(*["a"] * after), shares, 1), {"a": count})
    least = count // after
    for member, share in now.items():
        kept = set(share) & set(shares.get(member, []))
        assert len(kept) >= min(least, len(shares.get(member, [])))


def test_words_of_members() -> None:
    """What members say over the wire is understood; what can't be read is nothing."""
    owned = parts("a", 1, 2)
    said = subscriber_in("m", "i", subscription_bytes(["a", "b"], owned, 7, "rack"))
    assert said == Subscriber("m", frozenset("ab"), tuple(owned), 7, "i")
    assert list(assignment_in(assignment_bytes(owned))) == owned
    assert subscriber_in("m", None, b"\x00") == Subscriber("m", frozenset())
    assert assignment_in(b"\x00\x01\xff\xff\xff") == ()
