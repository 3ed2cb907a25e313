"""ListGroups and DescribeGroups: PURE views of the groups of one shard. They change nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from logd.coordinators.group import Group, Member, Phase
from logd.errors import ErrorCode
from logd.wire.schemas.describe_groups import (
    DescribedGroup,
    DescribedGroupMember,
    DescribeGroupsRequest,
    DescribeGroupsResponse,
)
from logd.wire.schemas.list_groups import ListedGroup, ListGroupsRequest, ListGroupsResponse

CLASSIC = "classic"
DEAD = "Dead"
GROUP_NOT_FOUND_VERSION = 6
"""From DescribeGroups 6 a missing group is an error (KIP-1043); before, it was shown as a dead one."""


def list_groups(groups: Iterable[Group], request: ListGroupsRequest) -> ListGroupsResponse:
    """The groups whose state and type the filters name; an empty filter names all (KIP-518, KIP-848)."""
    states = {state.strip().lower() for state in request.states_filter}
    types = {kind.strip().lower() for kind in request.types_filter}
    if types and CLASSIC not in types:
        return ListGroupsResponse()
    return ListGroupsResponse(
        groups=[
            ListedGroup(group.group_id, group.protocol_type or "", group.phase.value, CLASSIC)
            for group in groups
            if not states or group.phase.value.lower() in states
        ]
    )


def describe_groups(
    groups: Mapping[str, Group], request: DescribeGroupsRequest, version: int
) -> DescribeGroupsResponse:
    """One answer for each group that was asked for, in that order."""
    return DescribeGroupsResponse(
        groups=[
            _missing(group_id, version) if group_id not in groups else _describe(groups[group_id])
            for group_id in request.groups
        ]
    )


def _missing(group_id: str, version: int) -> DescribedGroup:
    if version < GROUP_NOT_FOUND_VERSION:
        return DescribedGroup(group_id=group_id, group_state=DEAD)
    return DescribedGroup(
        error_code=int(ErrorCode.GROUP_ID_NOT_FOUND),
        error_message=f"Group {group_id} not found.",
        group_id=group_id,
        group_state=DEAD,
    )


def _describe(group: Group) -> DescribedGroup:
    stable = group.phase is Phase.STABLE
    return DescribedGroup(
        group_id=group.group_id,
        group_state=group.phase.value,
        protocol_type=group.protocol_type or "",
        protocol_data=(group.protocol or "") if stable else "",
        members=[_describe_member(member, group.protocol if stable else None) for member in group.members.values()],
    )


def _describe_member(member: Member, protocol: str | None) -> DescribedGroupMember:
    return DescribedGroupMember(
        member_id=member.member_id,
        group_instance_id=member.instance_id,
        client_id=member.client_id,
        client_host=member.client_host,
        member_metadata=b"" if protocol is None else member.metadata(protocol),
        member_assignment=member.assignment,
    )
