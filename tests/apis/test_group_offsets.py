"""OffsetCommit, OffsetFetch and OffsetDelete, byte for byte in every version, good and bad."""

from __future__ import annotations

from typing import Any

import pytest

from logd.errors import ErrorCode
from logd.wire.message import ZERO_UUID
from logd.wire.schemas.offset_commit import (
    OffsetCommitRequest,
    OffsetCommitRequestPartition,
    OffsetCommitRequestTopic,
)
from logd.wire.schemas.offset_delete import (
    OffsetDeleteRequest,
    OffsetDeleteRequestPartition,
    OffsetDeleteRequestTopic,
)
from logd.wire.schemas.offset_fetch import (
    OffsetFetchRequest,
    OffsetFetchRequestGroup,
    OffsetFetchRequestTopic,
    OffsetFetchRequestTopics,
)
from tests.apis.groups_house import House, house

COMMIT, FETCH, DELETE = 8, 9, 47
UNKNOWN = ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
UNKNOWN_ID = ErrorCode.UNKNOWN_TOPIC_ID
STRANGE = b"?" * 16


def commit(
    on: House,
    offsets: dict[tuple[str, int], int],
    *,
    group: str = "g",
    member: str = "",
    generation: int = -1,
    metadata: str | None = "",
    retention_ms: int = -1,
) -> OffsetCommitRequest:
    topics: dict[str, OffsetCommitRequestTopic] = {}
    for (name, index), offset in offsets.items():
        known = on.cluster.image.topics.get(name)
        topic_id = known.id if known is not None else STRANGE
        topic = topics.setdefault(name, OffsetCommitRequestTopic(name, topic_id))
        topic.partitions.append(OffsetCommitRequestPartition(index, offset, 4, metadata))
    return OffsetCommitRequest(group, generation, member, None, retention_ms, list(topics.values()))


def fetch(on: House, version: int, partitions: dict[str, list[int]] | None, *groups: str) -> OffsetFetchRequest:
    names = groups or ("g",)
    if version < 8:
        topics = None if partitions is None else [OffsetFetchRequestTopic(*item) for item in partitions.items()]
        return OffsetFetchRequest(names[0], topics)

    def named() -> list[OffsetFetchRequestTopics] | None:
        known = on.cluster.image.topics
        return partitions and [  # type: ignore[return-value]
            OffsetFetchRequestTopics(name, known[name].id if name in known else STRANGE, list(indexes))
            for name, indexes in partitions.items()
        ]

    return OffsetFetchRequest(groups=[OffsetFetchRequestGroup(name, topics=named()) for name in names])


def codes(answer: Any) -> list[list[int]]:
    return [[part.error_code for part in topic.partitions] for topic in answer.topics]


def told(on: House, answer: Any, version: int) -> dict[tuple[str, int], tuple[int, int, str, int]]:
    """(topic, partition) -> (offset, leader epoch, metadata, error) of the first group of an answer."""
    if version >= 8:
        (answer,) = answer.groups
    names = {topic.id: name for name, topic in on.cluster.image.topics.items()}
    return {
        (names.get(topic.topic_id, "?") if version >= 10 else topic.name, part.partition_index): (
            part.committed_offset,
            part.committed_leader_epoch,
            part.metadata,
            part.error_code,
        )
        for topic in answer.topics
        for part in topic.partitions
    }


@pytest.mark.trio
@pytest.mark.parametrize("version", range(2, 11))
async def test_commit_and_fetch(version: int) -> None:
    """What one version commits, every version of OffsetFetch tells."""
    async with house() as on:
        answer = await on.ask(COMMIT, version, commit(on, {("t", 0): 5, ("t", 1): 6, ("u", 1): 7}, metadata="m"))
        assert codes(answer) == [[0, 0], [0]]
        epoch = 4 if version >= 6 else -1
        for by in range(1, 11):
            shown = epoch if by >= 5 else -1
            got = await on.ask(FETCH, by, fetch(on, by, {"t": [0, 1], "u": [0]}))
            assert told(on, got, by) == {
                ("t", 0): (5, shown, "m", 0),
                ("t", 1): (6, shown, "m", 0),
                ("u", 0): (-1, -1, "", 0),
            }


@pytest.mark.trio
@pytest.mark.parametrize("version", range(2, 11))
async def test_fetch_all(version: int) -> None:
    """A request that names no topics gets all that is committed."""
    async with house() as on:
        await on.ask(COMMIT, 9, commit(on, {("t", 0): 5, ("u", 1): 7}))
        got = await on.ask(FETCH, version, fetch(on, version, None))
        assert {place: each[0] for place, each in told(on, got, version).items()} == {("t", 0): 5, ("u", 1): 7}
        nothing = await on.ask(FETCH, version, fetch(on, version, None, "nobody"))
        assert told(on, nothing, version) == {}


@pytest.mark.trio
async def test_fetch_many_groups() -> None:
    """From version 8 on each group has its own answer, in order."""
    async with house() as on:
        for offset, group in enumerate("abc"):
            await on.ask(COMMIT, 9, commit(on, {("t", 0): offset}, group=group))
        got = await on.ask(FETCH, 9, fetch(on, 9, {"t": [0]}, "c", "nobody", "a", ""))
        assert [(one.group_id, one.error_code, one.topics[0].partitions[0].committed_offset) for one in got.groups] == [
            ("c", 0, 2),
            ("nobody", 0, -1),
            ("a", 0, 0),
            ("", 0, -1),
        ]


@pytest.mark.trio
@pytest.mark.parametrize("version", range(2, 11))
async def test_unknown_places(version: int) -> None:
    """Topics and partitions that are not there fail one by one; the others are committed."""
    async with house() as on:
        request = commit(on, {("t", 0): 5, ("none", 0): 6, ("t", 2): 7, ("t", -1): 8})
        answer = await on.ask(COMMIT, version, request)
        topic, part = (UNKNOWN_ID, UNKNOWN) if version >= 10 else (UNKNOWN, UNKNOWN)
        got = {
            (each.topic_id == STRANGE or each.name == "none", one.partition_index): one.error_code
            for each in answer.topics
            for one in each.partitions
        }
        assert got == {(False, 0): 0, (True, 0): topic, (False, 2): part, (False, -1): part}
        fetched = await on.ask(FETCH, 8, fetch(on, 8, None))
        assert told(on, fetched, 8) == {("t", 0): (5, 4 if version >= 6 else -1, "", 0)}


@pytest.mark.trio
async def test_fetch_by_unknown_id() -> None:
    """A topic id that nobody has is told as such, beside what is known."""
    async with house() as on:
        got = await on.ask(FETCH, 10, fetch(on, 10, {"t": [0], "none": [0, 1]}))
        assert told(on, got, 10) == {
            ("t", 0): (-1, -1, "", 0),
            ("?", 0): (-1, -1, "", UNKNOWN_ID),
            ("?", 1): (-1, -1, "", UNKNOWN_ID),
        }


@pytest.mark.trio
@pytest.mark.parametrize(
    ("group", "member", "generation", "version", "code"),
    [
        ("busy", "", -1, 9, ErrorCode.UNKNOWN_MEMBER_ID),
        ("busy", "who", 1, 9, ErrorCode.UNKNOWN_MEMBER_ID),
        ("busy", "{member}", 0, 9, ErrorCode.ILLEGAL_GENERATION),
        ("busy", "{member}", 1, 9, ErrorCode.NONE),
        ("none", "who", 1, 9, ErrorCode.GROUP_ID_NOT_FOUND),
        ("none", "who", 1, 8, ErrorCode.ILLEGAL_GENERATION),
        ("none", "", -1, 2, ErrorCode.NONE),
        ("", "", -1, 9, ErrorCode.NONE),
    ],
)
async def test_who_may_commit(group: str, member: str, generation: int, version: int, code: ErrorCode) -> None:
    """Members of the generation, and anyone while the group is empty; others hear why, for every partition."""
    async with house() as on:
        id_ = await on.stable("busy")
        request = commit(
            on, {("t", 0): 5, ("t", 1): 6}, group=group, member=member.format(member=id_), generation=generation
        )
        assert codes(await on.ask(COMMIT, version, request)) == [[code, code]]


@pytest.mark.trio
async def test_a_refused_commit_names_each_reason() -> None:
    """What is not there fails for that, and the rest for what the group says."""
    async with house() as on:
        await on.stable()
        request = commit(on, {("none", 0): 1, ("t", 9): 2, ("t", 0): 3}, member="who", generation=1)
        answer = await on.ask(COMMIT, 9, request)
        got = {(each.name, one.partition_index): one.error_code for each in answer.topics for one in each.partitions}
        assert got == {("none", 0): UNKNOWN, ("t", 9): UNKNOWN, ("t", 0): ErrorCode.UNKNOWN_MEMBER_ID}


@pytest.mark.trio
@pytest.mark.parametrize(("metadata", "code"), [("m" * 4096, 0), ("m" * 4097, 12), ("ü" * 4096, 0), (None, 0)])
async def test_metadata_that_is_too_large(metadata: str | None, code: int) -> None:
    """More text than offset.metadata.max.bytes allows is OFFSET_METADATA_TOO_LARGE, and nothing is committed."""
    async with house() as on:
        assert codes(await on.ask(COMMIT, 9, commit(on, {("t", 0): 5}, metadata=metadata))) == [[code]]
        got = told(on, await on.ask(FETCH, 7, fetch(on, 7, {"t": [0]})), 7)
        assert got[("t", 0)][2] == ("" if code or metadata is None else metadata)


@pytest.mark.trio
async def test_any_offset_is_taken() -> None:
    """Negative offsets are committed as Kafka commits them: they mean something to the client alone."""
    async with house() as on:
        assert codes(await on.ask(COMMIT, 9, commit(on, {("t", 0): -2}))) == [[0]]
        assert told(on, await on.ask(FETCH, 7, fetch(on, 7, {"t": [0]})), 7)[("t", 0)][0] == -2


@pytest.mark.trio
async def test_a_commit_of_nothing() -> None:
    """A commit without topics is answered without looking at the group."""
    async with house() as on:
        answer = await on.ask(COMMIT, 9, commit(on, {}, group="none", member="who", generation=3))
        assert answer.topics == []


@pytest.mark.trio
@pytest.mark.parametrize("version", [1, 2, 7, 8, 10])
async def test_fetch_without_a_coordinator(version: int) -> None:
    """The error stands where the version has a place for it: at the partitions, the top, or the group."""
    async with house(topics=False) as on:
        got = await on.ask(FETCH, version, fetch(on, version, {"t": [0]}))
        code = ErrorCode.NOT_COORDINATOR
        if version >= 8:
            assert [(group.error_code, group.topics) for group in got.groups] == [(code, [])]
        elif version >= 2:
            assert (got.error_code, got.topics) == (code, [])
        else:
            assert told(on, got, 1) == {("t", 0): (-1, -1, "", code)}


@pytest.mark.trio
async def test_offset_delete() -> None:
    """Subscribed topics are kept, unknown ones named, the rest deleted; other kinds of busy groups are refused."""
    async with house() as on:
        member = await on.stable()
        await on.ask(COMMIT, 9, commit(on, {("t", 0): 5, ("u", 0): 6}, member=member, generation=1))
        topics = [
            OffsetDeleteRequestTopic(name, [OffsetDeleteRequestPartition(index) for index in (0, 9)])
            for name in ("t", "u", "none")
        ]
        answer = await on.ask(DELETE, 0, OffsetDeleteRequest("g", topics))
        assert answer.error_code == 0
        got = {(each.name, one.partition_index): one.error_code for each in answer.topics for one in each.partitions}
        assert got == {
            ("t", 0): ErrorCode.GROUP_SUBSCRIBED_TO_TOPIC,
            ("t", 9): UNKNOWN,
            ("u", 0): 0,
            ("u", 9): UNKNOWN,
            ("none", 0): UNKNOWN,
            ("none", 9): UNKNOWN,
        }
        left = told(on, await on.ask(FETCH, 8, fetch(on, 8, None)), 8)
        assert list(left) == [("t", 0)]
        await on.stable("other", kind="connect")
        busy = await on.ask(DELETE, 0, OffsetDeleteRequest("other", topics))
        assert (busy.error_code, busy.topics) == (ErrorCode.NON_EMPTY_GROUP, [])
        missing = await on.ask(DELETE, 0, OffsetDeleteRequest("none", topics))
        assert (missing.error_code, missing.topics) == (ErrorCode.GROUP_ID_NOT_FOUND, [])


@pytest.mark.trio
async def test_ids_are_kept() -> None:
    """The topic's id goes into the record whether the client named it or not."""
    async with house() as on:
        await on.ask(COMMIT, 5, commit(on, {("t", 0): 5}))
        topic_id = on.cluster.image.topics["t"].id
        written = [value for journal in on.journals.values() for batch in journal.batches for _, value in batch.records]
        assert topic_id != ZERO_UUID
        assert any(value is not None and value.endswith(topic_id) for value in written)


@pytest.mark.trio
@pytest.mark.parametrize("retention_ms", [2**63 - 1, -(2**63), -2, 0])
async def test_any_retention_time(retention_ms: int) -> None:
    """However long the retention time that a client asks for, a commit is answered."""
    async with house() as on:
        answer = await on.ask(COMMIT, 3, commit(on, {("t", 0): 5}, retention_ms=retention_ms))
        assert codes(answer) == [[0]]
