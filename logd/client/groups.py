"""Consumer groups from the administrator's side: list, describe, committed offsets, delete.

A part of :class:`logd.client.admin.Admin`. Knows the classic protocol and the one of KIP-848 and shows both alike.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import partial
from typing import TypeVar

import msgspec

from logd.client.calls import CONSUMER_GROUP_DESCRIBE, DELETE_GROUPS, DESCRIBE_GROUPS, LIST_GROUPS, OFFSET_FETCH
from logd.client.commits import at_coordinator
from logd.client.errors import check, is_retriable
from logd.client.group_offsets import Commit, Outcomes, commit, commits_in, forget
from logd.client.metadata import TopicPartition
from logd.client.routing import Router
from logd.client.subscriptions import assignment_in
from logd.errors import ErrorCode, Refused
from logd.wire.schemas import consumer_group_describe, describe_groups
from logd.wire.schemas.delete_groups import DeleteGroupsRequest, DeleteGroupsResponse
from logd.wire.schemas.list_groups import ListGroupsRequest, ListGroupsResponse
from logd.wire.schemas.offset_fetch import OffsetFetchRequest, OffsetFetchRequestGroup, OffsetFetchResponse

T = TypeVar("T")


class ListedGroup(msgspec.Struct, frozen=True):
    """A group as a listing shows it; `state` and `type` are empty when the server is too old to tell."""

    group: str
    type: str
    state: str
    protocol: str


class Member(msgspec.Struct, frozen=True):
    """One member and what it is to read."""

    member_id: str
    instance_id: str | None
    client_id: str
    host: str
    partitions: tuple[TopicPartition, ...]


class Group(msgspec.Struct, frozen=True):
    """A group in full; `assignor` is the strategy that spreads the partitions."""

    group: str
    type: str
    state: str
    assignor: str
    coordinator: int
    members: tuple[Member, ...]


class Groups:
    """What an administrator does to groups."""

    def __init__(self, router: Router) -> None:
        self._router = router

    async def list(self) -> list[ListedGroup]:
        """The groups of all brokers, by name. Every broker must answer; one that has just begun is given time."""
        metadata = await self._router.refresh([])
        found: dict[str, ListedGroup] = {}
        for node in metadata.brokers:
            for item in (await self._router.retry(partial(self._list, node))).groups:
                kind = item.group_type.lower()
                found[item.group_id] = ListedGroup(item.group_id, kind, item.group_state, item.protocol_type)
        return [found[name] for name in sorted(found)]

    async def _list(self, node: int) -> ListGroupsResponse:
        answer = await self._router.ask(LIST_GROUPS, ListGroupsRequest(), ListGroupsResponse, node=node)
        check(answer.error_code, None, "list of groups")
        return answer

    async def describe(self, group: str) -> Group:
        """One group.

        :raises Refused: GROUP_ID_NOT_FOUND when there is no such group.
        """

        async def attempt(node: int) -> Group:
            found = await self._describe_classic(group, node)
            if found is not None:
                return found
            found = await self._describe_modern(group, node)
            if found is None:
                raise Refused(ErrorCode.GROUP_ID_NOT_FOUND, f"group {group!r} does not exist")
            return found

        return await self.at_coordinator(group, attempt)

    async def at_coordinator(self, group: str, action: Callable[[int], Awaitable[T]]) -> T:
        """Do it at the group's coordinator, and again at the new one when it has moved."""

        return await at_coordinator(self._router, group, action)

    async def _describe_classic(self, group: str, node: int) -> Group | None:
        request = describe_groups.DescribeGroupsRequest(groups=[group])
        answer = await self._router.ask(DESCRIBE_GROUPS, request, describe_groups.DescribeGroupsResponse, node=node)
        item = answer.groups[0]
        if item.error_code == ErrorCode.GROUP_ID_NOT_FOUND or item.group_state == "Dead":
            return None
        check(item.error_code, item.error_message, f"group {group!r}")
        members = tuple(_classic_member(member) for member in item.members)
        return Group(group, "classic", item.group_state, item.protocol_data, node, members)

    async def _describe_modern(self, group: str, node: int) -> Group | None:
        connection = await self._router.connection(node)
        if CONSUMER_GROUP_DESCRIBE.key not in connection.versions:
            return None
        request = consumer_group_describe.ConsumerGroupDescribeRequest(group_ids=[group])
        kind = consumer_group_describe.ConsumerGroupDescribeResponse
        item = (await connection.ask(CONSUMER_GROUP_DESCRIBE, request, kind)).groups[0]
        if item.error_code == ErrorCode.GROUP_ID_NOT_FOUND:
            return None
        check(item.error_code, item.error_message, f"group {group!r}")
        members = tuple(_modern_member(member) for member in item.members)
        return Group(group, "consumer", item.group_state, item.assignor_name, node, members)

    async def committed(self, group: str) -> dict[TopicPartition, int]:
        """The committed offset of every partition that the group has one for; empty for an unknown group."""
        return {at: item.offset for at, item in (await self.commits(group)).items()}

    async def commits(self, group: str) -> dict[TopicPartition, Commit]:
        """What the group has committed, with what its members noted; empty for an unknown group."""

        async def attempt(node: int) -> dict[TopicPartition, Commit]:
            request = OffsetFetchRequest(
                group_id=group,
                topics=None,
                groups=[OffsetFetchRequestGroup(group_id=group, topics=None)],
            )
            return commits_in(group, await self._router.ask(OFFSET_FETCH, request, OffsetFetchResponse, node=node))

        return await self.at_coordinator(group, attempt)

    async def commit(self, group: str, offsets: Mapping[TopicPartition, Commit]) -> Outcomes:
        """Set offsets of a group without members, which is made when it does not exist; None for each that was set.

        A group that has members answers UNKNOWN_MEMBER_ID for each.
        """

        async def attempt(node: int) -> Outcomes:
            found = await commit(self._router, node, group, offsets)
            moved = next((error for error in found.values() if error is not None and is_retriable(error)), None)
            if moved is not None:
                raise moved
            return found

        return await self.at_coordinator(group, attempt)

    async def forget(self, group: str, partitions: Iterable[TopicPartition]) -> Outcomes:
        """Delete committed offsets; None for each that is gone.

        :raises Refused: there is no such group.
        """
        wanted = list(partitions)
        return await self.at_coordinator(group, lambda node: forget(self._router, node, group, wanted))

    async def delete(self, groups: Iterable[str]) -> dict[str, Refused | None]:
        """Delete groups that have no members, with their offsets; None for each that was deleted."""
        outcome: dict[str, Refused | None] = {}
        for group in groups:
            try:
                outcome[group] = await self.at_coordinator(group, partial(self._delete, group))
            except Refused as error:
                outcome[group] = error
        return outcome

    async def _delete(self, group: str, node: int) -> None:
        request = DeleteGroupsRequest(groups_names=[group])
        answer = await self._router.ask(DELETE_GROUPS, request, DeleteGroupsResponse, node=node)
        check(answer.results[0].error_code, None, f"group {group!r}")


def _classic_member(member: describe_groups.DescribedGroupMember) -> Member:
    host = member.client_host.removeprefix("/")
    partitions = assignment_in(member.member_assignment)
    return Member(member.member_id, member.group_instance_id, member.client_id, host, partitions)


def _modern_member(member: consumer_group_describe.Member) -> Member:
    partitions = tuple(
        TopicPartition(item.topic_name, index)
        for item in member.assignment.topic_partitions
        for index in item.partitions
    )
    return Member(
        member.member_id, member.instance_id, member.client_id, member.client_host.removeprefix("/"), partitions
    )
