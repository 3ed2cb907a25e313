"""The judge of what compaction leaves finds each thing that it must not do, and nothing in what it may."""

from __future__ import annotations

from pathlib import Path

import pytest

from logd.wire.records import Record
from tools.faults.compaction import BRIEF, LASTING, Keyed, Site, found_in, judge

WRITTEN = {0: ("a", "1"), 1: ("b", "2"), 2: ("a", "3"), 3: ("b", None), 4: ("c", "4"), 5: ("a", "5")}
ALL = [0, 1, 2, 3, 4, 5]
LEFT = [3, 4, 5]


def topic(name: str = BRIEF) -> Keyed:
    one = Keyed(name, 1)
    one.written = dict(WRITTEN)
    one.unknown = {"6": "c"}
    return one


def records(offsets: list[int]) -> list[Record]:
    def value(offset: int) -> bytes | None:
        text = WRITTEN[offset][1]
        return None if text is None else text.encode()

    return [Record(offset, 0, WRITTEN[offset][0].encode(), value(offset)) for offset in offsets]


@pytest.mark.parametrize("offsets", [ALL, [1, 2, 3, 4, 5], [0, 3, 4, 5], LEFT, [4, 5]])
def test_lawful(offsets: list[int]) -> None:
    """All, some of what was replaced, none of it; a tombstone that may go."""
    assert judge(topic(), records(offsets)) == []


def test_unanswered() -> None:
    """What was sent and not answered may be there or not, and counts where it is."""
    last = Record(9, 0, b"c", b"6")
    assert judge(topic(), [*records(LEFT), last], 9) == []
    assert [one.kind for one in judge(topic(), [*records(LEFT), last], 10)] == ["not-compacted"]


@pytest.mark.parametrize(
    ("kind", "name", "offsets"),
    [
        ("lost", BRIEF, [0, 3, 4]),
        ("lost", LASTING, [3, 5]),
        ("returned", BRIEF, [1, 4, 5]),
        ("tombstone-gone", LASTING, [4, 5]),
        ("reordered", BRIEF, [4, 3, 5]),
    ],
)
def test_unlawful(kind: str, name: str, offsets: list[int]) -> None:
    """A last value that is gone, a deleted key that is back, a deletion that nobody hears of, a wrong order."""
    assert [one.kind for one in judge(topic(name), records(offsets))] == [kind]


def test_what_was_never_written() -> None:
    """Another value at an offset, or an aborted one, is a phantom."""
    assert [one.kind for one in judge(topic(), [*records(LEFT), Record(7, 0, b"c", b"aborted")])] == ["phantom"]


def test_what_compaction_left_undone() -> None:
    """What was replaced below the end of the clean part has to be gone."""
    assert [one.kind for one in judge(topic(), records(ALL), 3)] == ["not-compacted"]
    assert judge(topic(), records(ALL), 2) == []


def test_sites() -> None:
    """Each call for a file of the topics is a site; others are not."""
    trace = """7 rename("/x/brief-0/a.tmp", "/x/brief-0/a") = 0
8 fdatasync(5</x/lasting-0/0.log>) = 0
8 fdatasync(5</x/lasting-0/0.log> <unfinished ...>
7 openat(AT_FDCWD, "/x/brief-0", O_RDONLY|O_CLOEXEC) = 3
7 openat(AT_FDCWD</>, "/usr/lib/os.py", O_RDONLY|O_CLOEXEC) = 3
7 unlink("/x/__consumer_offsets-0/1.log") = 0
"""
    assert found_in(trace, Path("/x")) == {
        Site("rename", "/x/brief-0/a.tmp"): 1,
        Site("fdatasync", "/x/lasting-0/0.log"): 2,
        Site("openat", "/x/brief-0"): 1,
    }
