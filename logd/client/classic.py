"""A member of a group of the classic protocol: join, synchronise, heartbeats, and again when the group changes.

One member leads: it decides for all with one of the assignors that every member has. One task keeps the heartbeats
going, also while the program is waited for; another does the rounds of rebalancing. Started by a consumer.
"""

from __future__ import annotations

from collections.abc import Collection

import trio

from logd.client.assignors import ASSIGNORS, COOPERATIVE, Shares
from logd.client.calls import HEARTBEAT, JOIN_GROUP, LEAVE_GROUP, SYNC_GROUP
from logd.client.commits import at_coordinator
from logd.client.errors import ClientError, TimedOut, refused
from logd.client.membership import MOVING, Member, Owner, first_of
from logd.client.metadata import TopicPartition
from logd.client.routing import Router
from logd.client.settings import GroupSettings
from logd.client.subscriptions import assignment_bytes, assignment_in, subscriber_in, subscription_bytes
from logd.errors import ErrorCode, Refused
from logd.wire.schemas.heartbeat import HeartbeatRequest, HeartbeatResponse
from logd.wire.schemas.join_group import JoinGroupRequest, JoinGroupRequestProtocol, JoinGroupResponse
from logd.wire.schemas.leave_group import LeaveGroupRequest, LeaveGroupResponse, MemberIdentity
from logd.wire.schemas.sync_group import SyncGroupRequest, SyncGroupRequestAssignment, SyncGroupResponse

PROTOCOL_TYPE = "consumer"
VERSION_WITH_IDS = 4
"""From this version on a JoinGroup without a member id is answered at once, with one."""
FIRST_ANSWER_S = 5
MISSING_PAUSE_MS = 1_000
"""How often a topic is looked for that is not there."""
OUT = frozenset({ErrorCode.UNKNOWN_MEMBER_ID, ErrorCode.ILLEGAL_GENERATION})
"""The group went on without this member: what it had belongs to others."""


class Again(Exception):
    """The round has come to nothing: begin another."""


class ClassicMember(Member):
    """See the module."""

    protocol = "classic"

    def __init__(
        self, router: Router, owner: Owner, group: str, topics: Collection[str], settings: GroupSettings
    ) -> None:
        super().__init__(router, owner, group, topics, settings)
        unknown = set(settings.assignors) - set(ASSIGNORS)
        if unknown or not settings.assignors:
            raise ValueError(f"assignors {sorted(unknown)} do not exist; choose of {', '.join(ASSIGNORS)}")
        self._cooperative = set(settings.assignors) <= COOPERATIVE
        self._changed = trio.Event()
        self._joined = trio.Event()
        self._is_out = False
        self._stepped_out = False
        self._counts: dict[str, int] | None = None
        """Leader only: the partitions by topic that the shares were made for."""
        self._generation = -1
        """The last generation that this member had partitions in."""

    async def run(self) -> None:
        """See :meth:`Member.run`."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._keep_alive)
                nursery.start_soon(self._watch_topics)
                while True:
                    self._changed = trio.Event()
                    try:
                        await self._round()
                    except Again:
                        continue
                    await self._changed.wait()
        except* (Refused, ClientError) as group:
            await self._fail(first_of(group))

    async def leave(self, router: Router) -> None:
        """See :meth:`Member.leave`. A static member stays: it comes back within the session timeout, or is put out."""
        member_id = self.identity.member_id
        if not member_id or self.settings.instance is not None:
            return
        request = LeaveGroupRequest(self._group, member_id, [MemberIdentity(member_id, None, "the consumer is closed")])
        node = await router.coordinator(self._group)
        await router.ask(LEAVE_GROUP, request, LeaveGroupResponse, node=node)

    # -- rounds

    async def _round(self) -> None:
        """One rebalance, from giving up what must be given up to reading what was got."""
        await self._prepare()
        self._pause_heartbeats()
        joined = await self._join()
        shares = await self._lead(joined) if joined.leader == joined.member_id else None
        wanted = await self._synchronise(joined, shares)
        self._generation = joined.generation_id
        self._joined.set()
        owned = self._owner.owned()
        if gone := owned - wanted:
            if not await self._owner.revoke(gone):
                raise Again
            self._changed.set()  # others wait for these: they get them in the next round
        if self._is_out:
            raise Again
        if new := wanted - owned:
            await self._owner.assign(new)

    async def _prepare(self) -> None:
        if self._is_out:
            self._is_out = False
            await self._owner.lose()
            if self._stepped_out:
                self._stepped_out = False
                await self._owner.returned()
        elif not self._cooperative and (owned := self._owner.owned()) and not await self._owner.revoke(owned):
            raise Again

    async def _join(self) -> JoinGroupResponse:
        settings = self.settings
        owned = sorted(self._owner.owned())
        data = subscription_bytes(self._topics, owned, self._generation, settings.rack)
        request = JoinGroupRequest(
            group_id=self._group,
            session_timeout_ms=settings.session_timeout_ms,
            rebalance_timeout_ms=settings.max_poll_interval_ms,
            member_id=self.identity.member_id,
            group_instance_id=settings.instance,
            protocol_type=PROTOCOL_TYPE,
            protocols=[JoinGroupRequestProtocol(name, data) for name in settings.assignors],
        )
        if self.identity.member_id or settings.instance is not None:
            limit_ms = settings.max_poll_interval_ms + self._router.settings.request_timeout_ms
            answer = await self._at_coordinator(JOIN_GROUP, request, JoinGroupResponse, limit_ms)
        else:
            answer = await at_coordinator(self._router, self._group, lambda _node: self._first_join(request))
        if answer.error_code == ErrorCode.MEMBER_ID_REQUIRED:
            self._identify(answer.member_id, -1)
            raise Again
        self._check(answer.error_code)
        self._identify(answer.member_id, answer.generation_id)
        return answer

    async def _first_join(self, request: JoinGroupRequest) -> JoinGroupResponse:
        """Ask for a member id (KIP-394). The group then waits for whoever has it: so the answer is taken even when
        this task is cancelled, by a router of its own, and the id can be given back."""
        with trio.CancelScope(shield=True) as scope:
            scope.deadline = trio.current_time() + FIRST_ANSWER_S
            async with self._router.again() as router:
                connection = await router.connection(await router.coordinator(self._group))
                if connection.version_for(JOIN_GROUP) >= VERSION_WITH_IDS:
                    answer = await connection.ask(JOIN_GROUP, request, JoinGroupResponse)
                    if answer.error_code in MOVING:
                        raise refused(answer.error_code, None, f"group {self._group!r}")
                    if answer.member_id:
                        self._identify(answer.member_id, -1)
                    return answer
        if scope.cancelled_caught:
            raise TimedOut(f"join of group {self._group!r}", f"no answer within {FIRST_ANSWER_S} s")
        return await self._ask(JOIN_GROUP, request, JoinGroupResponse, timeout_ms=request.rebalance_timeout_ms)

    async def _lead(self, joined: JoinGroupResponse) -> Shares:
        """Decide for all members."""
        members = [subscriber_in(item.member_id, item.group_instance_id, item.metadata) for item in joined.members]
        topics = sorted({topic for member in members for topic in member.topics})
        self._counts = await self._count(topics)
        if joined.skip_assignment:
            return {}
        return ASSIGNORS[joined.protocol_name or ""](members, self._counts)

    async def _synchronise(self, joined: JoinGroupResponse, shares: Shares | None) -> set[TopicPartition]:
        if shares is None:
            self._counts = None
        given = [
            SyncGroupRequestAssignment(member, assignment_bytes(share)) for member, share in (shares or {}).items()
        ]
        request = SyncGroupRequest(
            group_id=self._group,
            generation_id=joined.generation_id,
            member_id=joined.member_id,
            group_instance_id=self.settings.instance,
            protocol_type=PROTOCOL_TYPE,
            protocol_name=joined.protocol_name,
            assignments=given,
        )
        limit_ms = self.settings.max_poll_interval_ms + self._router.settings.request_timeout_ms
        answer = await self._at_coordinator(SYNC_GROUP, request, SyncGroupResponse, limit_ms)
        self._check(answer.error_code)
        return set(assignment_in(answer.assignment))

    def _check(self, number: int) -> None:
        """:raises Again: for what another round mends. :raises Refused: for the rest."""
        if number in OUT:
            self._put_out(number)
            raise Again
        if number == ErrorCode.REBALANCE_IN_PROGRESS:
            raise Again
        if number:
            raise self._refusal(number)

    def _put_out(self, number: int) -> None:
        member_id = "" if number == ErrorCode.UNKNOWN_MEMBER_ID else self.identity.member_id
        self._identify(member_id, -1)
        self._is_out = True
        self._generation = -1
        self._pause_heartbeats()
        self._owner.interrupt()
        self._changed.set()

    # -- between rounds

    def _pause_heartbeats(self) -> None:
        if self._joined.is_set():
            self._joined = trio.Event()

    async def _keep_alive(self) -> None:
        while True:
            await self._joined.wait()
            await trio.sleep(self._pause_s(self.settings.heartbeat_ms))
            if not self._joined.is_set():
                continue
            if self._stalled:
                await self._step_out()
                continue
            identity = self.identity
            request = HeartbeatRequest(self._group, identity.epoch, identity.member_id, self.settings.instance)
            answer = await self._at_coordinator(HEARTBEAT, request, HeartbeatResponse)
            if identity != self.identity or not self._joined.is_set():
                continue
            if answer.error_code in OUT:
                self._put_out(answer.error_code)
            elif answer.error_code == ErrorCode.REBALANCE_IN_PROGRESS:
                self._changed.set()
            elif answer.error_code:
                raise self._refusal(answer.error_code)

    async def _step_out(self) -> None:
        """The program has been away for too long: let others read, and come back when it does."""
        member = MemberIdentity(self.identity.member_id, self.settings.instance, "max_poll_interval_ms is over")
        request = LeaveGroupRequest(self._group, self.identity.member_id, [member])
        self._stepped_out = True
        self._put_out(ErrorCode.UNKNOWN_MEMBER_ID)
        await self._at_coordinator(LEAVE_GROUP, request, LeaveGroupResponse)

    async def _watch_topics(self) -> None:
        """The leader sees to it that new partitions are read."""
        while True:
            known = self._counts
            missing = known is not None and 0 in known.values()
            await trio.sleep((MISSING_PAUSE_MS if missing else self.settings.metadata_age_ms) / 1000)
            if known is not None and self._joined.is_set() and known is self._counts:
                try:
                    counts = await self._count(sorted(known))
                except ClientError:
                    continue
                if known is self._counts and counts != known:
                    self._changed.set()

    async def _count(self, topics: list[str]) -> dict[str, int]:
        """The number of partitions by topic; 0 for one that is not there."""
        metadata = await self._router.retry(lambda: self._router.refresh(topics))
        found = {topic: metadata.topics.get(topic) for topic in topics}
        return {topic: len(info.partitions) if info is not None else 0 for topic, info in found.items()}
