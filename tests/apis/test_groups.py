"""The group APIs, byte for byte in every version: forms, and the rows of bad input that concern groups."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing

from logd.config import Settings
from logd.errors import ErrorCode
from logd.wire.message import Message
from logd.wire.schemas import APIS
from logd.wire.schemas.consumer_group_heartbeat import ConsumerGroupHeartbeatRequest
from logd.wire.schemas.delete_groups import DeleteGroupsRequest
from logd.wire.schemas.describe_groups import DescribeGroupsRequest
from logd.wire.schemas.find_coordinator import FindCoordinatorRequest
from logd.wire.schemas.heartbeat import HeartbeatRequest
from logd.wire.schemas.leave_group import LeaveGroupRequest, MemberIdentity
from logd.wire.schemas.list_groups import ListGroupsRequest
from logd.wire.schemas.offset_delete import OffsetDeleteRequest
from logd.wire.schemas.sync_group import SyncGroupRequest, SyncGroupRequestAssignment
from tests.apis.groups_house import house, join

FIND, JOIN, BEAT, LEAVE, SYNC, DESCRIBE, LIST, DELETE, OFFSET_DELETE = 10, 11, 12, 13, 14, 15, 16, 42, 47
CONSUMER_BEAT = 68


def versions(key: int) -> range:
    low, high = APIS[key].advertised
    return range(low, high + 1)


def each(key: int) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("version", versions(key))


@pytest.mark.trio
@each(FIND)
async def test_find_coordinator(version: int) -> None:
    """It is found at once, in every version, under the address that is advertised; the topic is made for it."""
    async with house(topics=False) as on:
        request = FindCoordinatorRequest("g", 0) if version < 4 else FindCoordinatorRequest("", 0, ["g", ""])
        answer = await on.ask(FIND, version, request)
        found = [answer] if version < 4 else answer.coordinators
        assert [(one.error_code, one.node_id, one.host, one.port) for one in found] == [(0, 0, "reach.me", 9000)] * len(
            found
        )
        assert "__consumer_offsets" in on.cluster.image.topics
        assert (await on.ask(BEAT, 4, HeartbeatRequest("g", 1, "m"))).error_code == ErrorCode.UNKNOWN_MEMBER_ID


@pytest.mark.trio
@pytest.mark.parametrize(
    ("version", "kind", "code"),
    [
        (5, 2, ErrorCode.INVALID_REQUEST),
        (6, 2, ErrorCode.INVALID_REQUEST),
        (1, 3, ErrorCode.INVALID_REQUEST),
        (6, -1, ErrorCode.INVALID_REQUEST),
    ],
)
async def test_no_coordinator(version: int, kind: int, code: ErrorCode) -> None:
    """Share groups have none yet, other kinds of key never; the answer says so for each key."""
    async with house() as on:
        request = FindCoordinatorRequest("k", kind) if version < 4 else FindCoordinatorRequest("", kind, ["k", "l"])
        answer = await on.ask(FIND, version, request)
        found = [answer] if version < 4 else answer.coordinators
        assert [(one.error_code, one.node_id, one.host, one.port) for one in found] == [(code, -1, "", -1)] * len(found)
        assert all(one.error_message for one in found)


@pytest.mark.trio
@each(JOIN)
async def test_join(version: int) -> None:
    """From version 4 on an id comes first; then the group of one is complete."""
    async with house() as on:
        answer = await on.ask(JOIN, version, join())
        if version >= 4:
            assert answer.error_code == ErrorCode.MEMBER_ID_REQUIRED
            assert answer.protocol_name == (None if version >= 7 else "")
            assert (answer.generation_id, answer.members) == (-1, [])
            answer = await on.ask(JOIN, version, join(member=answer.member_id))
        assert (answer.error_code, answer.generation_id, answer.protocol_name) == (0, 1, "range")
        assert answer.leader == answer.member_id
        assert answer.member_id.startswith("app-")
        assert [member.member_id for member in answer.members] == [answer.member_id]


@pytest.mark.trio
@each(SYNC)
async def test_sync(version: int) -> None:
    """The leader's assignment comes back; from version 5 on the protocol must be named."""
    async with house() as on:
        member = (await on.ask(JOIN, 3, join())).member_id
        given = [SyncGroupRequestAssignment(member, b"mine")]
        request = SyncGroupRequest("g", 1, member, None, "consumer", "range", given)
        answer = await on.ask(SYNC, version, request)
        assert (answer.error_code, answer.assignment) == (0, b"mine")
        if version >= 5:
            assert (answer.protocol_type, answer.protocol_name) == ("consumer", "range")
            unnamed = await on.ask(SYNC, version, SyncGroupRequest("g", 1, member))
            assert unnamed.error_code == ErrorCode.INCONSISTENT_GROUP_PROTOCOL


@pytest.mark.trio
@each(BEAT)
async def test_heartbeat(version: int) -> None:
    """A member is heard; another generation is not."""
    async with house() as on:
        member = await on.stable()
        assert (await on.ask(BEAT, version, HeartbeatRequest("g", 1, member))).error_code == 0
        stale = await on.ask(BEAT, version, HeartbeatRequest("g", 0, member))
        assert stale.error_code == ErrorCode.ILLEGAL_GENERATION


@pytest.mark.trio
@each(LEAVE)
async def test_leave(version: int) -> None:
    """One member at the top before version 3, any number in a list from then on; unknown ones are named as such."""
    async with house() as on:
        member = await on.stable()
        unknown = ErrorCode.UNKNOWN_MEMBER_ID
        if version < 3:
            assert (await on.ask(LEAVE, version, LeaveGroupRequest("g", "who"))).error_code == unknown
            assert (await on.ask(LEAVE, version, LeaveGroupRequest("g", member))).error_code == 0
            assert (await on.ask(LEAVE, version, LeaveGroupRequest("none", member))).error_code == unknown
            return
        members = [MemberIdentity("who", None), MemberIdentity(member, None), MemberIdentity("", "i")]
        answer = await on.ask(LEAVE, version, LeaveGroupRequest("g", members=members))
        assert answer.error_code == 0
        assert [one.error_code for one in answer.members] == [unknown, 0, unknown]
        missing = await on.ask(LEAVE, version, LeaveGroupRequest("none", members=members))
        assert (missing.error_code, [one.error_code for one in missing.members]) == (0, [unknown] * 3)


@pytest.mark.trio
@each(LIST)
async def test_list_groups(version: int) -> None:
    """All groups of all shards, filtered by state and type where the version has filters."""
    async with house() as on:
        for group in ("g", "h", "i"):
            await on.stable(group)
        await on.ask(JOIN, 9, join("empty"))
        answer = await on.ask(LIST, version, ListGroupsRequest())
        assert sorted(group.group_id for group in answer.groups) == ["empty", "g", "h", "i"]
        if version >= 4:
            states = await on.ask(LIST, version, ListGroupsRequest(["eMPTY "]))
            assert [(group.group_id, group.group_state) for group in states.groups] == [("empty", "Empty")]
        if version >= 5:
            types = await on.ask(LIST, version, ListGroupsRequest([], ["consumer"]))
            assert types.groups == []
            classic = await on.ask(LIST, version, ListGroupsRequest(["Stable"], ["Classic", "share"]))
            assert {group.group_type for group in classic.groups} == {"classic"}
            assert len(classic.groups) == 3


@pytest.mark.trio
@each(DESCRIBE)
async def test_describe_groups(version: int) -> None:
    """In the order of the request; a missing group is dead, from version 6 on an error; operations on demand."""
    async with house() as on:
        member = await on.stable()
        request = DescribeGroupsRequest(["none", "g", ""], version >= 3)
        answer = await on.ask(DESCRIBE, version, request)
        missing, live, nameless = answer.groups
        code = ErrorCode.GROUP_ID_NOT_FOUND if version >= 6 else ErrorCode.NONE
        assert (missing.error_code, missing.group_state) == (code, "Dead")
        assert (nameless.error_code, nameless.group_state) == (code, "Dead")
        assert (live.group_state, live.protocol_type, live.protocol_data) == ("Stable", "consumer", "range")
        (described,) = live.members
        assert (described.member_id, described.client_id, described.client_host) == (member, "app", "/10.0.0.7")
        assert described.member_assignment == b"x"
        if version >= 3:
            assert live.authorized_operations == 3400


@pytest.mark.trio
@each(DELETE)
async def test_delete_groups(version: int) -> None:
    """Each group once: one without members goes, one with members stays, a missing one is named."""
    async with house() as on:
        await on.stable()
        await on.ask(JOIN, 9, join("empty"))
        answer = await on.ask(DELETE, version, DeleteGroupsRequest(["g", "empty", "none", "empty"]))
        assert [(one.group_id, one.error_code) for one in answer.results] == [
            ("g", ErrorCode.NON_EMPTY_GROUP),
            ("empty", ErrorCode.NONE),
            ("none", ErrorCode.GROUP_ID_NOT_FOUND),
        ]


NAMELESS: dict[str, tuple[int, int, Message]] = {
    "JoinGroup": (JOIN, 9, join("")),
    "SyncGroup": (SYNC, 4, SyncGroupRequest("")),
    "Heartbeat": (BEAT, 4, HeartbeatRequest("")),
    "LeaveGroup": (LEAVE, 5, LeaveGroupRequest("")),
    "OffsetDelete": (OFFSET_DELETE, 0, OffsetDeleteRequest("")),
}


@pytest.mark.trio
@pytest.mark.parametrize("name", NAMELESS)
async def test_the_empty_group_id(name: str) -> None:
    """What needs members refuses the empty group id with INVALID_GROUP_ID."""
    key, version, request = NAMELESS[name]
    async with house() as on:
        assert (await on.ask(key, version, request)).error_code == ErrorCode.INVALID_GROUP_ID


@pytest.mark.trio
@pytest.mark.parametrize("session_ms", [-1, 0, 5_999, 1_800_001, 2**31 - 1])
async def test_session_timeouts_out_of_range(session_ms: int) -> None:
    """A session timeout that the broker does not allow is INVALID_SESSION_TIMEOUT, and tells back the member id."""
    async with house() as on:
        answer = await on.ask(JOIN, 9, join(member="me", session_ms=session_ms))
        assert (answer.error_code, answer.member_id) == (ErrorCode.INVALID_SESSION_TIMEOUT, "me")
        assert on.groups.ask_all(ListGroupsRequest())[0].result().groups == []  # type: ignore[attr-defined]


@pytest.mark.trio
async def test_too_many_members() -> None:
    """While a group rebalances, as many as group.max.size may join, whoever comes first; the others are out."""
    async with house(Settings(group_max_size=3)) as on:
        member = await on.stable()
        codes: list[int] = []

        async def joins() -> None:
            codes.append((await on.ask(JOIN, 3, join())).error_code)

        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(joins)
            await trio.testing.wait_all_tasks_blocked()
            assert codes == [ErrorCode.GROUP_MAX_SIZE_REACHED] * 2
            assert (await on.ask(JOIN, 3, join(member=member))).error_code == ErrorCode.GROUP_MAX_SIZE_REACHED
        assert sorted(codes) == [0, 0, 0, ErrorCode.GROUP_MAX_SIZE_REACHED, ErrorCode.GROUP_MAX_SIZE_REACHED]


@pytest.mark.trio
@pytest.mark.parametrize(
    ("key", "version", "request_"),
    [(JOIN, 9, join()), (SYNC, 4, SyncGroupRequest("g", 1, "m")), (LEAVE, 5, LeaveGroupRequest("g"))],
)
async def test_before_there_is_a_coordinator(key: int, version: int, request_: Any) -> None:
    """Who did not ask for the coordinator first hears NOT_COORDINATOR, and nothing is made."""
    async with house(topics=False) as on:
        assert (await on.ask(key, version, request_)).error_code == ErrorCode.NOT_COORDINATOR
        assert (await on.ask(BEAT, 4, HeartbeatRequest("g"))).error_code == ErrorCode.NOT_COORDINATOR
        described = (await on.ask(DESCRIBE, 6, DescribeGroupsRequest(["g"]))).groups
        assert [group.error_code for group in described] == [ErrorCode.NOT_COORDINATOR]
        deleted = (await on.ask(DELETE, 2, DeleteGroupsRequest(["g"]))).results
        assert [one.error_code for one in deleted] == [ErrorCode.NOT_COORDINATOR]
        assert (await on.ask(LIST, 5, ListGroupsRequest())).groups == []
        wrong = [ConsumerGroupHeartbeatRequest("g", "m", 0), ConsumerGroupHeartbeatRequest("g", "m", 1)]
        wrong[1].server_assignor = "sticky"
        assert [(await on.ask(CONSUMER_BEAT, 1, one)).error_code for one in wrong] == [
            ErrorCode.INVALID_REQUEST,  # whoever coordinates it: its form is wrong
            ErrorCode.UNSUPPORTED_ASSIGNOR,
        ]
        right = ConsumerGroupHeartbeatRequest("g", "m", 1)
        assert (await on.ask(CONSUMER_BEAT, 1, right)).error_code == ErrorCode.NOT_COORDINATOR
        assert not on.cluster.image.topics


@pytest.mark.trio
async def test_while_answers_wait_for_the_disk() -> None:
    """An answer that is not committed is not given, and later ones queue behind it."""
    async with house() as on:
        for journal in on.journals.values():
            journal.held = True
        got: list[int] = []

        async def lists() -> None:
            got.append(len((await on.ask(LIST, 5, ListGroupsRequest())).groups))

        async def joins() -> None:
            got.append((await on.ask(JOIN, 9, join())).error_code)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(joins)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(lists)
            await trio.testing.wait_all_tasks_blocked()
            assert got == []
            for journal in on.journals.values():
                journal.commit()
        assert sorted(got) == [1, ErrorCode.MEMBER_ID_REQUIRED]
