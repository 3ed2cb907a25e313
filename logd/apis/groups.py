"""The classic consumer group protocol on the wire: FindCoordinator (10), JoinGroup (11), Heartbeat (12),
LeaveGroup (13), SyncGroup (14), DescribeGroups (15), ListGroups (16), DeleteGroups (42).

Checks what can be checked without the group, puts the rest to the group coordinator, and gives answers the form that
their version wants. Offsets are in :mod:`group_offsets`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from logd.apis.registry import Call, api
from logd.apis.turns import breathe
from logd.coordinators.front import GroupCoordinator, Waiter
from logd.coordinators.transaction_front import TransactionCoordinator
from logd.errors import ErrorCode, Refused
from logd.wire.schemas.delete_groups import DeletableGroupResult, DeleteGroupsRequest, DeleteGroupsResponse
from logd.wire.schemas.describe_groups import DescribedGroup, DescribeGroupsRequest, DescribeGroupsResponse
from logd.wire.schemas.find_coordinator import Coordinator, FindCoordinatorRequest, FindCoordinatorResponse
from logd.wire.schemas.heartbeat import HeartbeatRequest, HeartbeatResponse
from logd.wire.schemas.join_group import JoinGroupRequest, JoinGroupResponse
from logd.wire.schemas.leave_group import LeaveGroupRequest, LeaveGroupResponse, MemberIdentity
from logd.wire.schemas.list_groups import ListGroupsRequest, ListGroupsResponse
from logd.wire.schemas.sync_group import SyncGroupRequest, SyncGroupResponse

R = TypeVar("R")

GROUP_KEY, TRANSACTION_KEY, SHARE_KEY = 0, 1, 2
SHARE_KEY_VERSION = 6
BATCHED_VERSION = 4
GROUP_OPERATIONS = 3400
"""Bits of what may be done to a group, when nobody restricts it: read, delete, describe, its configs (KIP-430)."""


def client_host(call: Call) -> str:
    """The peer's address as Kafka shows it to the group's observers."""
    peer = call.connection.peer
    host = peer.rpartition(":")[0] if ":" in peer else peer
    return "/" + host.strip("[]")


def later(waiter: Waiter, shape: Callable[[Any], R]) -> R | Awaitable[R]:
    """The shaped answer of a call: at once if it is there, else awaitable."""
    return _shaped(waiter, shape) if waiter.message is None else shape(waiter.result())


async def _shaped(waiter: Waiter, shape: Callable[[Any], R]) -> R:
    return shape(await waiter.wait())


def _same(answer: R) -> R:
    return answer


def require_group_id(group_id: str) -> None:
    """:raises Refused: INVALID_GROUP_ID for the empty id, which names no group that could have members."""
    if not group_id:
        raise Refused(ErrorCode.INVALID_GROUP_ID, "group.id is empty: set one")


# FindCoordinator


def _no_coordinator(request: FindCoordinatorRequest, version: int, refused: Refused) -> FindCoordinatorResponse:
    code = int(refused.code)
    if version < BATCHED_VERSION:
        return FindCoordinatorResponse(error_code=code, error_message=refused.message, node_id=-1, host="", port=-1)
    nobody = [Coordinator(key, -1, "", -1, code, refused.message) for key in request.coordinator_keys]
    return FindCoordinatorResponse(coordinators=nobody)


@api(10, refuse=_no_coordinator)
async def find_coordinator(call: Call, request: FindCoordinatorRequest) -> FindCoordinatorResponse:
    """Versions 0-6, for groups and transactions. Makes the topic of either on first use."""
    _check_key_type(call, request.key_type)
    services = call.services
    front = services.transactions if request.key_type == TRANSACTION_KEY else services.groups
    try:
        await front.ensure_topic()
    except Refused as refused:
        raise Refused(ErrorCode.COORDINATOR_NOT_AVAILABLE, refused.message) from refused
    await front.until_serving([request.key] if call.version < BATCHED_VERSION else request.coordinator_keys)
    if call.version < BATCHED_VERSION:
        found = _coordinator(call, front, request.key)
        return FindCoordinatorResponse(
            error_code=found.error_code,
            error_message=found.error_message if found.error_code else "NONE",
            node_id=found.node_id,
            host=found.host,
            port=found.port,
        )
    answer = FindCoordinatorResponse()
    for number, key in enumerate(request.coordinator_keys):
        answer.coordinators.append(_coordinator(call, front, key))
        await breathe(number)
    return answer


def _check_key_type(call: Call, key_type: int) -> None:
    if key_type == SHARE_KEY and call.version >= SHARE_KEY_VERSION:
        raise Refused(ErrorCode.INVALID_REQUEST, "share groups are not served by this version of logd")
    if key_type not in (GROUP_KEY, TRANSACTION_KEY):
        raise Refused(ErrorCode.INVALID_REQUEST, f"key type {key_type} is unknown: 0 is a group, 1 a transaction")


def _coordinator(call: Call, front: GroupCoordinator | TransactionCoordinator, key: str) -> Coordinator:
    broker_id = front.coordinator_of(key)
    if broker_id < 0:
        code = int(ErrorCode.COORDINATOR_NOT_AVAILABLE)
        return Coordinator(key, -1, "", -1, code, f"nobody leads the log of {key!r} now: try again")
    host, port = call.advertised(broker_id)
    return Coordinator(key, broker_id, host, port)


# Members


def _not_joined(request: JoinGroupRequest, version: int, refused: Refused) -> JoinGroupResponse:
    invalid = refused.code in (ErrorCode.INVALID_GROUP_ID, ErrorCode.INVALID_SESSION_TIMEOUT)
    member_id = request.member_id if invalid else ""
    return _join_shape(version)(
        JoinGroupResponse(error_code=int(refused.code), protocol_name=None, member_id=member_id)
    )


@api(11, refuse=_not_joined)
def join_group(call: Call, request: JoinGroupRequest) -> JoinGroupResponse | Awaitable[JoinGroupResponse]:
    """Versions 0-9. Waits until the rebalance that it belongs to has everyone."""
    require_group_id(request.group_id)
    settings = call.services.settings
    low, high = settings.group_min_session_timeout_ms, settings.group_max_session_timeout_ms
    if not low <= request.session_timeout_ms <= high:
        raise Refused(
            ErrorCode.INVALID_SESSION_TIMEOUT,
            f"session.timeout.ms {request.session_timeout_ms} is not between {low} and {high}",
        )
    if call.version == 0:
        request.rebalance_timeout_ms = request.session_timeout_ms
    waiter = call.services.groups.ask(request.group_id, request, call.version, call.client_id, client_host(call))
    return later(waiter, _join_shape(call.version))


def _join_shape(version: int) -> Callable[[JoinGroupResponse], JoinGroupResponse]:
    """Before version 7 a missing protocol is the empty string."""

    def shape(answer: JoinGroupResponse) -> JoinGroupResponse:
        if version < 7 and answer.protocol_name is None:
            answer.protocol_name = ""
        return answer

    return shape


def _not_synced(request: SyncGroupRequest, version: int, refused: Refused) -> SyncGroupResponse:
    return SyncGroupResponse(error_code=int(refused.code), protocol_type=None, protocol_name=None)


@api(14, refuse=_not_synced)
def sync_group(call: Call, request: SyncGroupRequest) -> SyncGroupResponse | Awaitable[SyncGroupResponse]:
    """Versions 0-5. From 5 on the protocol that the member believes in must be named."""
    if call.version >= 5 and (request.protocol_type is None or request.protocol_name is None):
        raise Refused(ErrorCode.INCONSISTENT_GROUP_PROTOCOL, "protocol type and name must be what JoinGroup answered")
    require_group_id(request.group_id)
    return later(call.services.groups.ask(request.group_id, request, call.version), _same)


def _no_heartbeat(request: HeartbeatRequest, version: int, refused: Refused) -> HeartbeatResponse:
    loading = refused.code == ErrorCode.COORDINATOR_LOAD_IN_PROGRESS
    return HeartbeatResponse(error_code=0 if loading else int(refused.code))


@api(12, refuse=_no_heartbeat)
def heartbeat(call: Call, request: HeartbeatRequest) -> HeartbeatResponse | Awaitable[HeartbeatResponse]:
    """Versions 0-4. While the group is being loaded every heartbeat is taken as good."""
    require_group_id(request.group_id)
    return later(call.services.groups.ask(request.group_id, request, call.version), _same)


def _not_left(request: LeaveGroupRequest, version: int, refused: Refused) -> LeaveGroupResponse:
    return LeaveGroupResponse(error_code=int(refused.code))


@api(13, refuse=_not_left)
def leave_group(call: Call, request: LeaveGroupRequest) -> LeaveGroupResponse | Awaitable[LeaveGroupResponse]:
    """Versions 0-5. One member before 3, then any number, each with an answer of its own."""
    require_group_id(request.group_id)
    if call.version < 3:
        request.members = [MemberIdentity(request.member_id)]
    waiter = call.services.groups.ask(request.group_id, request, call.version)
    return later(waiter, _left_alone if call.version < 3 else _same)


def _left_alone(answer: LeaveGroupResponse) -> LeaveGroupResponse:
    return LeaveGroupResponse(error_code=answer.error_code or answer.members[0].error_code)


# Groups


def _not_listed(request: ListGroupsRequest, version: int, refused: Refused) -> ListGroupsResponse:
    return ListGroupsResponse(error_code=int(refused.code))


@api(16, refuse=_not_listed)
async def list_groups(call: Call, request: ListGroupsRequest) -> ListGroupsResponse:
    """Versions 0-5: the groups of this node."""
    answer = ListGroupsResponse()
    for waiter in call.services.groups.ask_all(request, call.version):
        part = await waiter.wait()
        assert isinstance(part, ListGroupsResponse)
        answer.groups += part.groups
    return answer


@api(15)
async def describe_groups(call: Call, request: DescribeGroupsRequest) -> DescribeGroupsResponse:
    """Versions 0-6, in the order of the request. A group that is not there is a dead one, from 6 on an error."""
    answer = DescribeGroupsResponse()
    asked: list[tuple[str, Waiter | Refused]] = []
    for number, group_id in enumerate(request.groups):
        asked.append((group_id, _ask_one(call, group_id, DescribeGroupsRequest([group_id]))))
        await breathe(number)
    for number, (group_id, waiter) in enumerate(asked):
        await breathe(number)
        try:
            part = await _answer_of(waiter)
            assert isinstance(part, DescribeGroupsResponse)
            answer.groups += part.groups
        except Refused as refused:
            answer.groups.append(DescribedGroup(error_code=int(refused.code), group_id=group_id))
    if request.include_authorized_operations:
        for group in answer.groups:
            if group.error_code == 0:
                group.authorized_operations = GROUP_OPERATIONS
    return answer


@api(42)
async def delete_groups(call: Call, request: DeleteGroupsRequest) -> DeleteGroupsResponse:
    """Versions 0-2. Only groups without members; all of a group's offsets go with it."""
    answer = DeleteGroupsResponse()
    asked: list[tuple[str, Waiter | Refused]] = []
    for number, group_id in enumerate(dict.fromkeys(request.groups_names)):
        asked.append((group_id, _ask_one(call, group_id, DeleteGroupsRequest([group_id]))))
        await breathe(number)
    for number, (group_id, waiter) in enumerate(asked):
        await breathe(number)
        try:
            part = await _answer_of(waiter)
            assert isinstance(part, DeleteGroupsResponse)
            answer.results += part.results
        except Refused as refused:
            answer.results.append(DeletableGroupResult(group_id, int(refused.code)))
    return answer


def _ask_one(call: Call, group_id: str, request: Any) -> Waiter | Refused:
    try:
        return call.services.groups.ask(group_id, request, call.version)
    except Refused as refused:
        return refused


async def _answer_of(waiter: Waiter | Refused) -> Any:
    if isinstance(waiter, Refused):
        raise waiter
    return await waiter.wait()
