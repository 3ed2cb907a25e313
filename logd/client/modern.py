"""A member of a group of the consumer protocol (KIP-848): heartbeats, and what the server says in them.

The server decides which partitions the member is to read; the member gives up what is not in that list, then takes
what is new, and confirms with its next heartbeat. Heartbeats go on while it waits for the program to let go. Started
by a consumer.
"""

from __future__ import annotations

import math
from base64 import urlsafe_b64encode
from collections.abc import Collection
from uuid import uuid4

import trio

from logd.client.calls import CONSUMER_GROUP_HEARTBEAT
from logd.client.commits import at_coordinator
from logd.client.errors import ClientError, refused
from logd.client.membership import MOVING, Member, OtherProtocol, Owner, first_of
from logd.client.metadata import TopicPartition
from logd.client.routing import Router
from logd.client.settings import GroupSettings
from logd.errors import ErrorCode, Refused
from logd.wire.message import ZERO_UUID
from logd.wire.schemas.consumer_group_heartbeat import (
    Assignment,
    ConsumerGroupHeartbeatRequest,
    ConsumerGroupHeartbeatRequestTopicPartitions,
    ConsumerGroupHeartbeatResponse,
)

FIRST_INTERVAL_MS = 1_000
TRIES_FOR_NAMES = 3
"""A topic that is new may not be known to every broker yet."""
OTHERS = (ErrorCode.GROUP_ID_NOT_FOUND, ErrorCode.UNSUPPORTED_VERSION)
"""The group is a classic one, or the server has the protocol switched off."""
LEAVING, AWAY = -1, -2
"""Member epochs that say good-bye: for good, and (with an instance id) for a while."""


class ModernMember(Member):
    """See the module. `pattern` is a regular expression of RE2 that picks topics, instead of names."""

    protocol = "consumer"

    def __init__(
        self,
        router: Router,
        owner: Owner,
        group: str,
        topics: Collection[str],
        settings: GroupSettings,
        pattern: str | None = None,
    ) -> None:
        super().__init__(router, owner, group, topics, settings)
        self._pattern = pattern
        self._interval_ms = FIRST_INTERVAL_MS
        self._target: Assignment | None = None
        self._targeted = trio.Event()
        self._wake = trio.Event()
        self._tell_all = True
        self._confirm = False
        self._is_new = True
        self._reconciling = trio.Lock()
        self._identify(urlsafe_b64encode(uuid4().bytes)[:22].decode(), 0)

    async def run(self) -> None:
        """See :meth:`Member.run`."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._reconcile)
                try:
                    await self._beat()
                except OtherProtocol:
                    self.declined = True
                nursery.cancel_scope.cancel()
        except* (Refused, ClientError) as group:
            await self._fail(first_of(group))

    async def leave(self, router: Router) -> None:
        """See :meth:`Member.leave`. A static member comes back to its partitions within the session timeout."""
        if self.identity.epoch < 0:
            return
        request = self._request(AWAY if self.settings.instance is not None else LEAVING)
        node = await router.coordinator(self._group)
        await router.ask(CONSUMER_GROUP_HEARTBEAT, request, ConsumerGroupHeartbeatResponse, node=node)

    # -- heartbeats

    async def _beat(self) -> None:
        while True:
            if self._stalled:
                await self._step_out()
            answer = await self._heartbeat()
            if answer is not None and self._stands(answer):
                self._apply(answer)
            with trio.move_on_after(self._pause_s(self._interval_ms)):
                await self._wake.wait()
            self._wake = trio.Event()

    async def _heartbeat(self) -> ConsumerGroupHeartbeatResponse | None:
        """One heartbeat; None when the server has put the member out: then it begins anew."""

        async def attempt(_node: int) -> ConsumerGroupHeartbeatResponse:
            request = self._request(self.identity.epoch)
            self._confirm = False
            self._tell_all = True  # in the next try: what the server has heard of this one is not known
            answer = await self._ask(CONSUMER_GROUP_HEARTBEAT, request, ConsumerGroupHeartbeatResponse)
            if answer.error_code in MOVING:
                raise refused(answer.error_code, answer.error_message, f"group {self._group!r}")
            return answer

        answer = await at_coordinator(self._router, self._group, attempt)
        self._tell_all = False
        if answer.error_code in (ErrorCode.UNKNOWN_MEMBER_ID, ErrorCode.FENCED_MEMBER_EPOCH):
            await self._begin_anew()
            return None
        if answer.error_code in OTHERS and self._is_new and self.settings.protocol == "auto":
            raise OtherProtocol
        if answer.error_code:
            raise self._refusal(answer.error_code, answer.error_message)
        self._is_new = False
        return answer

    def _stands(self, answer: ConsumerGroupHeartbeatResponse) -> bool:
        """False for an answer to a member that has left meanwhile."""
        return self.identity.epoch >= 0 and answer.member_epoch > 0

    def _request(self, epoch: int) -> ConsumerGroupHeartbeatRequest:
        request = ConsumerGroupHeartbeatRequest(
            group_id=self._group,
            member_id=self.identity.member_id,
            member_epoch=epoch,
            instance_id=self.settings.instance,
        )
        if epoch < 0:
            return request
        if epoch == 0 or self._tell_all:
            settings = self.settings
            request.rack_id = settings.rack
            request.rebalance_timeout_ms = settings.max_poll_interval_ms
            request.server_assignor = settings.server_assignor
            request.subscribed_topic_regex = self._pattern
            request.subscribed_topic_names = None if self._pattern is not None else self._topics
        if epoch == 0 or self._tell_all or self._confirm:
            request.topic_partitions = self._held() if epoch else []
        return request

    def _held(self) -> list[ConsumerGroupHeartbeatRequestTopicPartitions]:
        topics: dict[str, ConsumerGroupHeartbeatRequestTopicPartitions] = {}
        known = self._router.metadata.topics
        for at in sorted(self._owner.owned()):
            topic_id = known[at.topic].id if at.topic in known else ZERO_UUID
            fresh = ConsumerGroupHeartbeatRequestTopicPartitions(topic_id=topic_id)
            topics.setdefault(at.topic, fresh).partitions.append(at.partition)
        return list(topics.values())

    def _apply(self, answer: ConsumerGroupHeartbeatResponse) -> None:
        self._identify(answer.member_id or self.identity.member_id, answer.member_epoch)
        self._interval_ms = answer.heartbeat_interval_ms or self._interval_ms
        if answer.assignment is not None:
            self._target = answer.assignment
            self._targeted.set()

    # -- what it owns

    async def _begin_anew(self) -> None:
        """All is lost; join again under the same id."""
        self._target = None
        self._owner.interrupt()
        async with self._reconciling:
            self._identify(self.identity.member_id, 0)
            self._tell_all = True
            await self._owner.lose()
        self._wake.set()

    async def _step_out(self) -> None:
        """The program has been away for too long: let others read, and come back when it does."""
        request = self._request(LEAVING)
        self._identify(self.identity.member_id, -1)
        await self._at_coordinator(CONSUMER_GROUP_HEARTBEAT, request, ConsumerGroupHeartbeatResponse)
        await self._begin_anew()
        self._identify(self.identity.member_id, -1)
        await self._owner.returned()
        self._identify(self.identity.member_id, 0)

    async def _reconcile(self) -> None:
        """Bring what is owned to what the server wants, whenever that changes; and from time to time while some topic
        of it has no name."""
        is_whole = True
        while True:
            with trio.move_on_after(math.inf if is_whole else self._interval_ms / 1000):
                await self._targeted.wait()
            is_news, self._targeted = self._targeted.is_set(), trio.Event()
            async with self._reconciling:
                target = self._target
                if target is None:
                    is_whole = True
                    continue
                wanted, is_whole = await self._partitions(target)
                if self._target is not target:
                    continue
                owned = self._owner.owned()
                if not is_news and wanted == owned:
                    continue
                if (gone := owned - wanted) and not await self._owner.revoke(gone):
                    continue
                if self._target is target and (new := wanted - owned):
                    await self._owner.assign(new)
                self._confirm = True
                self._wake.set()

    async def _partitions(self, target: Assignment) -> tuple[set[TopicPartition], bool]:
        """The partitions of an assignment by name, and whether that is all: a topic whose id nobody knows is gone, or
        so new that this broker has not heard of it."""
        ids = [topic.topic_id for topic in target.topic_partitions]
        names = await self._names(ids)
        for tries in range(TRIES_FOR_NAMES):
            if len(names) == len(set(ids)):
                break
            await trio.sleep(self._router.backoff_s(tries))
            names = await self._names(ids)
        found = {
            TopicPartition(names[topic.topic_id], index)
            for topic in target.topic_partitions
            if topic.topic_id in names
            for index in topic.partitions
        }
        return found, len(names) == len(set(ids))

    async def _names(self, ids: list[bytes]) -> dict[bytes, str]:
        return await self._router.retry(lambda: self._router.topic_names(ids))
