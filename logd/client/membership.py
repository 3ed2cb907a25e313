"""What both kinds of group members share: who they are, how they ask the coordinator, when they step out.

A member runs in the background of a consumer and tells it which partitions to take and which to give up; the consumer
is seen here as an :class:`Owner`. ``classic`` and ``modern`` hold the two protocols.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection
from typing import Protocol

from logd.client.calls import Call
from logd.client.commits import Identity, at_coordinator
from logd.client.connection import M
from logd.client.errors import ClientError, TimedOut, refused
from logd.client.metadata import TopicPartition
from logd.client.routing import Router
from logd.client.settings import GroupSettings
from logd.errors import ErrorCode, Refused
from logd.wire.message import Message

REMEDIES = {
    ErrorCode.INCONSISTENT_GROUP_PROTOCOL: "the other members use another protocol or share no assignor with this one:"
    " see GroupSettings.protocol and assignors",
    ErrorCode.UNRELEASED_INSTANCE_ID: "a running consumer has this instance id: stop it, or choose another",
    ErrorCode.FENCED_INSTANCE_ID: "another consumer with this instance id has joined: give each one of its own",
    ErrorCode.UNSUPPORTED_ASSIGNOR: "the server does not know this server_assignor",
    ErrorCode.GROUP_MAX_SIZE_REACHED: "the group is full: raise group.max.size on the server",
    ErrorCode.INVALID_SESSION_TIMEOUT: "session_timeout_ms is outside of what the server allows:"
    " group.min.session.timeout.ms to group.max.session.timeout.ms",
    ErrorCode.INVALID_REGULAR_EXPRESSION: "the pattern is not a regular expression of RE2",
    ErrorCode.GROUP_ID_NOT_FOUND: "the group is one of the classic protocol: see GroupSettings.protocol",
}


class OtherProtocol(Exception):
    """The group is one of the other protocol."""


class Owner(Protocol):
    """What a member asks of the consumer that it speaks for."""

    def owned(self) -> set[TopicPartition]:
        """What it reads now."""

    async def assign(self, partitions: Collection[TopicPartition]) -> None:
        """Begin to read these, from where the group is."""

    async def revoke(self, partitions: Collection[TopicPartition]) -> bool:
        """Wait until nobody works on these, commit, give them up. False: interrupted, nothing was given up."""

    async def lose(self) -> None:
        """Give up everything at once: it belongs to others already."""

    def interrupt(self) -> None:
        """Let a :meth:`revoke` that waits for the program return."""

    def idle_s(self) -> float:
        """How long the program has not asked for records."""

    async def returned(self) -> None:
        """Wait until the program asks for records."""

    def fail(self, error: Exception) -> None:
        """Let the program raise this: the member has ended."""


class Member(ABC):
    """One member of one group. ``identity`` is what commits are made with."""

    protocol = ""
    declined = False
    """The group speaks the other protocol, and the member may too: one of that kind is to take its place."""

    def __init__(
        self, router: Router, owner: Owner, group: str, topics: Collection[str], settings: GroupSettings
    ) -> None:
        self.identity = Identity(group, instance=settings.instance)
        self.settings = settings
        self._router = router
        self._line = router.line("group")
        self._owner = owner
        self._group = group
        self._topics = sorted(topics)

    @abstractmethod
    async def run(self) -> None:
        """Join, and stay until cancelled; when that can't be, the owner is told why and this returns."""

    @abstractmethod
    async def leave(self, router: Router) -> None:
        """Tell the coordinator that the member is gone, after :meth:`run` has ended; `router` may be a fresh one."""

    def hang_up(self) -> None:
        """Close its connections, after :meth:`run` has ended."""
        self._router.hang_up(self._line)

    def _identify(self, member_id: str, epoch: int) -> None:
        self.identity = self.identity._replace(member_id=member_id, epoch=epoch)

    @property
    def _stalled(self) -> bool:
        return self._owner.idle_s() * 1000 > self.settings.max_poll_interval_ms

    def _pause_s(self, interval_ms: int) -> float:
        """How long to wait before the next heartbeat: less when the program's time is over before."""
        left_s = self.settings.max_poll_interval_ms / 1000 - self._owner.idle_s()
        return max(0.001, min(interval_ms / 1000, left_s + 0.001))

    async def _ask(self, call: Call, request: Message, kind: type[M], *, timeout_ms: int | None = None) -> M:
        """One exchange with the coordinator, on a connection of its own: a join is held for long. No retry."""
        node = await self._router.coordinator(self._group)
        connection = await self._router.connection(node, self._line)
        try:
            return await connection.ask(call, request, kind, timeout_ms=timeout_ms)
        except TimedOut:
            connection.close()
            raise

    async def _at_coordinator(self, call: Call, request: Message, kind: type[M], timeout_ms: int | None = None) -> M:
        """As :meth:`_ask`, repeated while the coordinator moves or starts."""

        async def attempt(_node: int) -> M:
            answer = await self._ask(call, request, kind, timeout_ms=timeout_ms)
            number: int = getattr(answer, "error_code", 0)
            if number in MOVING:
                raise refused(number, None, f"group {self._group!r}")
            return answer

        return await at_coordinator(self._router, self._group, attempt)

    def _refusal(self, number: int, message: str | None = None) -> Refused:
        """The server's refusal, with what can be done about it."""
        error = refused(number, message, f"group {self._group!r}")
        remedy = REMEDIES.get(error.code)
        return Refused(error.code, f"{error.message}: {remedy}") if remedy else error

    async def _fail(self, error: Refused | ClientError) -> None:
        """For good: nothing is owned any more, and the program is told why."""
        self._identify(self.identity.member_id, -1)
        await self._owner.lose()
        self._owner.fail(error)


MOVING = frozenset(
    {
        ErrorCode.NOT_COORDINATOR,
        ErrorCode.COORDINATOR_NOT_AVAILABLE,
        ErrorCode.COORDINATOR_LOAD_IN_PROGRESS,
        ErrorCode.UNKNOWN_TOPIC_OR_PARTITION,
    }
)
"""The coordinator is another one, or not ready: ask again."""


def first_of(group: BaseExceptionGroup[Refused | ClientError]) -> Refused | ClientError:
    """The first error inside."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, Refused | ClientError)
    return error
