"""The table of (state of a group, request) -> what is answered: every code that a client can get to see."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from logd.coordinators.events import TopicsDeleted, TopicsFound
from logd.coordinators.rebalance import GroupLimits
from logd.errors import ErrorCode, Refused
from logd.wire.schemas.delete_groups import DeleteGroupsRequest, DeleteGroupsResponse
from logd.wire.schemas.leave_group import LeaveGroupResponse
from logd.wire.schemas.offset_delete import (
    OffsetDeleteRequest,
    OffsetDeleteRequestPartition,
    OffsetDeleteRequestTopic,
    OffsetDeleteResponse,
)
from logd.wire.schemas.offset_fetch import OffsetFetchRequestGroup, OffsetFetchResponseGroup
from tests.coordinators.shard import Shard

PARKED = None
OK = ErrorCode.NONE

E = ErrorCode


def missing() -> Shard:
    return Shard()


def empty() -> Shard:
    """Empty since its only member left, in generation 2."""
    shard = stable()
    shard.leave("left", ("c-1", None))
    shard.leave("left too", ("", "i"))
    return shard


def preparing() -> Shard:
    """A third member has joined; c-1 (leader) and i-2 have not again."""
    shard = stable()
    shard.join("new", version=3, client="d")
    return shard


def completing() -> Shard:
    """Generation 1: c-1 leads, i-2 is static; nobody has an assignment yet."""
    shard = Shard()
    shard.join("first", version=3)
    shard.join("second", instance="i")
    shard.advance(0)
    return shard


def stable() -> Shard:
    shard = completing()
    shard.sync("s1", "c-1", 1, assignments={"c-1": b"x"})
    shard.sync("s2", "i-2", 1, instance="i")
    return shard


STATES: dict[str, Callable[[], Shard]] = {
    "missing": missing,
    "empty": empty,
    "preparing": preparing,
    "completing": completing,
    "stable": stable,
}


def delete_offsets(shard: Shard, topic: str) -> object:
    topics = [OffsetDeleteRequestTopic(topic, [OffsetDeleteRequestPartition(0)])]
    return shard.ask("x", OffsetDeleteRequest("g", topics), 0)


REQUESTS: dict[str, Callable[[Shard], object]] = {
    "join, id first": lambda shard: shard.join("x", version=4),
    "join, old client": lambda shard: shard.join("x", version=3),
    "join, new instance": lambda shard: shard.join("x", instance="j"),
    "join, known instance": lambda shard: shard.join("x", instance="i"),
    "join, leader": lambda shard: shard.join("x", member="c-1"),
    "join, follower": lambda shard: shard.join("x", member="i-2", instance="i"),
    "join, follower changed": lambda shard: shard.join("x", member="i-2", instance="i", topics=("u",)),
    "join, wrong id for instance": lambda shard: shard.join("x", member="c-1", instance="i"),
    "join, unknown id": lambda shard: shard.join("x", member="zz"),
    "join, other protocol": lambda shard: shard.join("x", protocols=("other",)),
    "join, other kind": lambda shard: shard.join("x", kind="connect"),
    "join, no protocol": lambda shard: shard.join("x", protocols=()),
    "sync, leader": lambda shard: shard.sync("x", "c-1", 1),
    "sync, follower": lambda shard: shard.sync("x", "i-2", 1, instance="i"),
    "sync, unknown id": lambda shard: shard.sync("x", "zz", 1),
    "sync, wrong id for instance": lambda shard: shard.sync("x", "c-1", 1, instance="i"),
    "sync, old generation": lambda shard: shard.sync("x", "c-1", 0),
    "sync, other protocol": lambda shard: shard.sync("x", "c-1", 1, protocol="other"),
    "sync, other kind": lambda shard: shard.sync("x", "c-1", 1, kind="connect"),
    "heartbeat": lambda shard: shard.heartbeat("x", "c-1", 1),
    "heartbeat, unknown id": lambda shard: shard.heartbeat("x", "zz", 1),
    "heartbeat, unknown instance": lambda shard: shard.heartbeat("x", "c-1", 1, instance="zz"),
    "heartbeat, wrong id for instance": lambda shard: shard.heartbeat("x", "c-1", 1, instance="i"),
    "heartbeat, later generation": lambda shard: shard.heartbeat("x", "c-1", 9),
    "leave": lambda shard: shard.leave("x", ("c-1", None)),
    "leave, by instance": lambda shard: shard.leave("x", ("", "i")),
    "leave, unknown id": lambda shard: shard.leave("x", ("zz", None)),
    "leave, unknown instance": lambda shard: shard.leave("x", ("", "zz")),
    "leave, wrong id for instance": lambda shard: shard.leave("x", ("c-1", "i")),
    "leave, neither id nor instance": lambda shard: shard.leave("x", ("", None)),
    "commit": lambda shard: shard.commit("x", "c-1", 1, {("t", 0): 5}),
    "commit, simple": lambda shard: shard.commit("x", "", -1, {("t", 0): 5}),
    "commit, member but no generation": lambda shard: shard.commit("x", "c-1", -1, {("t", 0): 5}),
    "commit, unknown id": lambda shard: shard.commit("x", "zz", 1, {("t", 0): 5}),
    "commit, unknown id, version 8": lambda shard: shard.commit("x", "zz", 1, {("t", 0): 5}, version=8),
    "commit, old generation": lambda shard: shard.commit("x", "c-1", 0, {("t", 0): 5}),
    "commit, wrong id for instance": lambda shard: shard.commit("x", "c-1", 1, {("t", 0): 5}, instance="i"),
    "commit, negative offset": lambda shard: shard.commit("x", "c-1", 1, {("t", 0): -2}),
    "commit, metadata too long": lambda shard: shard.commit("x", "c-1", 1, {("t", 0): 5}, metadata="m" * 4097),
    "fetch": lambda shard: shard.fetch("x", OffsetFetchRequestGroup("g", topics=None)),
    "delete offsets, subscribed": lambda shard: delete_offsets(shard, "t"),
    "delete offsets, not subscribed": lambda shard: delete_offsets(shard, "u"),
    "delete group": lambda shard: shard.ask("x", DeleteGroupsRequest(["g"]), 2),
}

# What is answered in the states missing, empty, preparing, completing, stable.
TABLE: dict[str, tuple[ErrorCode | None, ...]] = {
    "join, id first": (E.MEMBER_ID_REQUIRED,) * 5,
    "join, old client": (PARKED,) * 5,
    "join, new instance": (PARKED,) * 5,
    "join, known instance": (PARKED, PARKED, PARKED, PARKED, OK),
    "join, leader": (E.UNKNOWN_MEMBER_ID, E.UNKNOWN_MEMBER_ID, PARKED, OK, PARKED),
    "join, follower": (E.UNKNOWN_MEMBER_ID, E.UNKNOWN_MEMBER_ID, PARKED, OK, OK),
    "join, follower changed": (E.UNKNOWN_MEMBER_ID, E.UNKNOWN_MEMBER_ID, PARKED, PARKED, PARKED),
    "join, wrong id for instance": (E.UNKNOWN_MEMBER_ID, E.UNKNOWN_MEMBER_ID, *(E.FENCED_INSTANCE_ID,) * 3),
    "join, unknown id": (E.UNKNOWN_MEMBER_ID,) * 5,
    "join, other protocol": (E.MEMBER_ID_REQUIRED, E.MEMBER_ID_REQUIRED, *(E.INCONSISTENT_GROUP_PROTOCOL,) * 3),
    "join, other kind": (E.MEMBER_ID_REQUIRED, E.MEMBER_ID_REQUIRED, *(E.INCONSISTENT_GROUP_PROTOCOL,) * 3),
    "join, no protocol": (E.INCONSISTENT_GROUP_PROTOCOL,) * 5,
    "sync, leader": (E.UNKNOWN_MEMBER_ID, E.UNKNOWN_MEMBER_ID, E.REBALANCE_IN_PROGRESS, OK, OK),
    "sync, follower": (E.UNKNOWN_MEMBER_ID, E.UNKNOWN_MEMBER_ID, E.REBALANCE_IN_PROGRESS, PARKED, OK),
    "sync, unknown id": (E.UNKNOWN_MEMBER_ID,) * 5,
    "sync, wrong id for instance": (E.UNKNOWN_MEMBER_ID, E.UNKNOWN_MEMBER_ID, *(E.FENCED_INSTANCE_ID,) * 3),
    "sync, old generation": (E.UNKNOWN_MEMBER_ID, E.UNKNOWN_MEMBER_ID, *(E.ILLEGAL_GENERATION,) * 3),
    "sync, other protocol": (E.UNKNOWN_MEMBER_ID, E.UNKNOWN_MEMBER_ID, *(E.INCONSISTENT_GROUP_PROTOCOL,) * 3),
    "sync, other kind": (E.UNKNOWN_MEMBER_ID, E.UNKNOWN_MEMBER_ID, *(E.INCONSISTENT_GROUP_PROTOCOL,) * 3),
    "heartbeat": (E.UNKNOWN_MEMBER_ID, E.UNKNOWN_MEMBER_ID, E.REBALANCE_IN_PROGRESS, OK, OK),
    "heartbeat, unknown id": (E.UNKNOWN_MEMBER_ID,) * 5,
    "heartbeat, unknown instance": (E.UNKNOWN_MEMBER_ID,) * 5,
    "heartbeat, wrong id for instance": (E.UNKNOWN_MEMBER_ID, E.UNKNOWN_MEMBER_ID, *(E.FENCED_INSTANCE_ID,) * 3),
    "heartbeat, later generation": (E.UNKNOWN_MEMBER_ID, E.UNKNOWN_MEMBER_ID, *(E.ILLEGAL_GENERATION,) * 3),
    "leave": (E.UNKNOWN_MEMBER_ID, E.UNKNOWN_MEMBER_ID, OK, OK, OK),
    "leave, by instance": (E.UNKNOWN_MEMBER_ID, E.UNKNOWN_MEMBER_ID, OK, OK, OK),
    "leave, unknown id": (E.UNKNOWN_MEMBER_ID,) * 5,
    "leave, unknown instance": (E.UNKNOWN_MEMBER_ID,) * 5,
    "leave, wrong id for instance": (E.UNKNOWN_MEMBER_ID, E.UNKNOWN_MEMBER_ID, *(E.FENCED_INSTANCE_ID,) * 3),
    "leave, neither id nor instance": (E.UNKNOWN_MEMBER_ID,) * 5,
    "commit": (E.GROUP_ID_NOT_FOUND, E.UNKNOWN_MEMBER_ID, OK, E.REBALANCE_IN_PROGRESS, OK),
    "commit, simple": (OK, OK, *(E.UNKNOWN_MEMBER_ID,) * 3),
    "commit, member but no generation": (OK, OK, *(E.ILLEGAL_GENERATION,) * 3),
    "commit, unknown id": (E.GROUP_ID_NOT_FOUND, *(E.UNKNOWN_MEMBER_ID,) * 4),
    "commit, unknown id, version 8": (E.ILLEGAL_GENERATION, *(E.UNKNOWN_MEMBER_ID,) * 4),
    "commit, old generation": (E.GROUP_ID_NOT_FOUND, E.UNKNOWN_MEMBER_ID, *(E.ILLEGAL_GENERATION,) * 3),
    "commit, wrong id for instance": (E.GROUP_ID_NOT_FOUND, E.UNKNOWN_MEMBER_ID, *(E.FENCED_INSTANCE_ID,) * 3),
    "commit, negative offset": (E.GROUP_ID_NOT_FOUND, E.UNKNOWN_MEMBER_ID, OK, E.REBALANCE_IN_PROGRESS, OK),
    "commit, metadata too long": (
        E.GROUP_ID_NOT_FOUND,
        E.UNKNOWN_MEMBER_ID,
        E.OFFSET_METADATA_TOO_LARGE,
        E.REBALANCE_IN_PROGRESS,
        E.OFFSET_METADATA_TOO_LARGE,
    ),
    "fetch": (OK,) * 5,
    "delete offsets, subscribed": (E.GROUP_ID_NOT_FOUND, OK, *(E.GROUP_SUBSCRIBED_TO_TOPIC,) * 3),
    "delete offsets, not subscribed": (E.GROUP_ID_NOT_FOUND, OK, OK, OK, OK),
    "delete group": (E.GROUP_ID_NOT_FOUND, OK, *(E.NON_EMPTY_GROUP,) * 3),
}

CELLS = [(name, state, code) for name, codes in TABLE.items() for state, code in zip(STATES, codes, strict=True)]


@pytest.mark.parametrize(("name", "state", "code"), CELLS, ids=lambda value: value if isinstance(value, str) else "")
def test_answer(name: str, state: str, code: ErrorCode | None) -> None:
    """Each request gets in each state exactly the code that stands in the table, or waits."""
    shard = STATES[state]()
    REQUESTS[name](shard)
    assert answered(shard) == code
    shard.machine.check()
    replayed = shard.replayed()
    assert (replayed.stored, replayed.offsets) == (shard.machine.stored, shard.machine.offsets)


def test_the_table_is_whole() -> None:
    """Every request of the table is there, in every state."""
    assert set(TABLE) == set(REQUESTS)


def answered(shard: Shard) -> ErrorCode | None:
    """The code of the answer to call x, of its first part where it has parts; None while it waits."""
    answer = shard.answers.get("x")
    if answer is None:
        return None
    if isinstance(answer, Refused):
        return answer.code
    match answer:
        case LeaveGroupResponse():
            return ErrorCode(answer.members[0].error_code)
        case DeleteGroupsResponse():
            return ErrorCode(answer.results[0].error_code)
        case OffsetDeleteResponse():
            return ErrorCode(answer.topics[0].partitions[0].error_code)
        case OffsetFetchResponseGroup():
            return ErrorCode(answer.error_code)
        case _:
            code = getattr(answer, "error_code", None)
            return ErrorCode(answer.topics[0].partitions[0].error_code if code is None else code)  # type: ignore[attr-defined]


@pytest.mark.parametrize("state", ["preparing", "completing", "stable"])
def test_a_session_that_ends(state: str) -> None:
    """In every state with members, one that stays silent is out at last, and nobody waits for ever."""
    shard = STATES[state]()
    shard.advance(1_000_000)
    shard.machine.check()
    group = shard.machine.groups["g"]
    assert not group.members
    assert group.phase.value == "Empty"
    assert not shard.deadlines.next_ms()


@pytest.mark.parametrize("protocols", [("range", "cooperative-sticky"), ("roundrobin", "range"), ("b", "a")])
def test_as_many_votes_go_the_same_way(protocols: tuple[str, str]) -> None:
    """Whoever joined first, and whichever name a member prefers: Kafka looks at them in the order of a hash map."""
    chosen = set()
    for mine in (protocols, protocols[::-1]):
        shard = Shard()
        shard.join("first", version=3, protocols=mine)
        shard.join("second", version=3, protocols=mine[::-1])
        shard.advance(0)
        chosen.add(shard.machine.groups["g"].protocol)
    assert len(chosen) == 1


@pytest.mark.parametrize("found", [False, True])
def test_a_topic_is_gone_though_its_offsets_could_not_be_deleted_at_once(found: bool) -> None:
    """A log that is full for a while keeps no offset alive that a topic made again would begin with."""
    shard = Shard()
    shard.commit("old", "", -1, {("t", 0): 100, ("t", 1): 101})
    shard.failing = True
    shard.step(TopicsFound({}) if found else TopicsDeleted(frozenset({"t"})))
    shard.advance(10_000)
    assert "t" in shard.machine.offsets.groups["g"]
    shard.failing = False
    shard.commit("new", "", -1, {("t", 0): 1})
    shard.advance(10_000)
    held = shard.machine.offsets.groups["g"]["t"]
    assert {index: committed.offset for index, committed in held.items()} == {0: 1}
    assert not shard.deadlines.next_ms()


@pytest.mark.parametrize("found", [False, True])
def test_a_topic_that_is_made_again_keeps_its_offsets(found: bool) -> None:
    """A deletion that takes several batches takes nothing that was committed after it; nor do those missed before a
    start."""
    shard = Shard(GroupLimits(sweep_records_max=2))
    shard.commit("old", "", -1, {("t", index): 100 + index for index in range(5)})
    shard.step(TopicsFound({}) if found else TopicsDeleted(frozenset({"t"})))
    shard.commit("new", "", -1, {("t", 0): 1, ("t", 4): 5})
    shard.advance(1_000)
    held = shard.machine.offsets.groups["g"]["t"]
    assert {index: committed.offset for index, committed in held.items()} == {0: 1, 4: 5}
