"""The judge of what compaction leaves finds each thing that it must not do, and nothing in what it may."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from logd.wire.records import Record
from tools.faults import compaction
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
    """Each call for a file of the topic is a site; others are not."""
    trace = """7 rename("/x/brief-0/a.tmp", "/x/brief-0/a") = 0
8 fdatasync(5</x/lasting-0/0.log>) = 0
8 fdatasync(5</x/lasting-0/0.log> <unfinished ...>
7 openat(AT_FDCWD, "/x/brief-0", O_RDONLY|O_CLOEXEC) = 3
7 openat(AT_FDCWD</>, "/usr/lib/os.py", O_RDONLY|O_CLOEXEC) = 3
7 unlink("/x/__consumer_offsets-0/1.log") = 0
"""
    assert found_in(trace, Path("/x"), BRIEF) == {
        Site("rename", "/x/brief-0/a.tmp"): 1,
        Site("openat", "/x/brief-0"): 1,
    }
    assert found_in(trace, Path("/x"), LASTING) == {Site("fdatasync", "/x/lasting-0/0.log"): 2}


def test_every_site_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs that are cut short go on where the last one stopped; what was not finished of a site comes again."""
    rename, fsync = Site("rename", "/x/brief-0/a"), Site("fsync", "/x/brief-0")
    known = Counter({rename: 3, fsync: 1, Site("unlink", "/x/brief-0/b"): 1})
    tried: list[tuple[Site, int]] = []

    def one_fault(directory: Path, topics: Any, site: Site, effect: str, number: int, *rest: Any) -> bool:
        tried.append((site, number))
        rest[-1].faults += site.call != "unlink"
        return site.call != "unlink"

    monkeypatch.setattr(compaction, "prepare", lambda *_: [])
    monkeypatch.setattr(compaction, "sites", lambda *_: known)
    monkeypatch.setattr(compaction, "one_fault", one_fault)
    figures: list[dict[str, int]] = []
    while not figures or figures[-1]["sites_before"] + figures[-1]["sites_done"] < len(known) - 1:
        figures.append(compaction.run(1, 3, tmp_path, "signal=SIGKILL").figures)
        assert len(figures) < 4
    unlink = Site("unlink", "/x/brief-0/b")  # never comes, and is asked for again
    assert Counter(tried) >= Counter([(rename, 1), (rename, 2), (rename, 3), (fsync, 1), (unlink, 1)])
    assert {*tried} == {(rename, 1), (rename, 2), (rename, 3), (fsync, 1), (unlink, 1)}
    assert figures[-1]["places_done"] == 2 < figures[-1]["places"] == 3
    assert sum(one["sites_missed"] for one in figures) >= 1
    assert compaction.run(1, 3, tmp_path, "signal=SIGKILL").faults == 0
    assert compaction.run(1, 3, tmp_path, "error=EIO").faults == 3  # another effect has its own


def test_what_is_unlike_comes_first() -> None:
    """The same call for the same file of another topic waits until all other sites have had their turn."""
    one, alike, other = Site("fsync", "/x/brief-0"), Site("fsync", "/x/lasting-0"), Site("unlink", "/x/brief-0/b")
    sites = [(site, "error=EIO") for site in (one, alike, other)]
    assert [site for site, _ in compaction.unlike(sites, set())] == [one, other, alike]
    assert [site for site, _ in compaction.unlike(sites, {compaction.place(*sites[0])})] == [other, one, alike]
