"""Read records: partitions from given offsets, or as a member of a group that shares its topics out.

``async with Consumer("127.0.0.1:9092", "orders", group="billing") as consumer: async for record in consumer: ...``.
Here is what the program calls; ``fetching`` gets the records, ``reading`` hands them out, ``sharing`` knows whose
partitions they are, ``classic`` and ``modern`` speak with the group's coordinator.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import trio

from logd.client.commits import Identity, fetch_offsets
from logd.client.decoding import Received
from logd.client.errors import ClientError
from logd.client.fetching import Assigned, Fetcher
from logd.client.lifetime import Lifetime
from logd.client.membership import Member
from logd.client.metadata import TopicPartition
from logd.client.offsets import list_offsets, partitions_of
from logd.client.reading import Reader
from logd.client.routing import Router
from logd.client.settings import ClientSettings, ConsumerSettings, GroupSettings
from logd.client.sharing import PLACES, Callback, Share
from logd.errors import Refused

NO_PATTERN = 'a pattern needs the protocol "consumer", which this server or group does not speak: name the topics'


class Consumer(Lifetime):
    """Read partitions of one cluster.

    :param bootstrap: ``host:port`` (several with commas between), or a router that is open already and shared.
    :param topics: read these: all partitions, or in a group this member's share.
    :param start: "start", "end", or milliseconds since 1970. In a group only where it has no committed offset; there
        "error" makes that an error.
    :param positions: read these partitions from these offsets instead of whole topics.
    :param ends: stop before these offsets; the iteration is over when every partition has one and has reached it.
    :param group: be a member of this group; with `positions` only commit for it.
    :param pattern: in place of `topics`, a regular expression (RE2) that picks them; protocol "consumer" only.
    :param on_assigned, on_revoked, on_lost: called with partitions when they have come (before their first record),
        before they go (after their last one is done), and when they are gone already.
    """

    def __init__(
        self,
        bootstrap: str | Iterable[str] | Router,
        topics: str | Iterable[str] = (),
        *,
        start: str | int = "start",
        positions: Mapping[TopicPartition, int] | None = None,
        ends: Mapping[TopicPartition, int] | None = None,
        group: str | None = None,
        membership: GroupSettings | None = None,
        pattern: str | None = None,
        on_assigned: Callback | None = None,
        on_revoked: Callback | None = None,
        on_lost: Callback | None = None,
        settings: ConsumerSettings | None = None,
        client: ClientSettings | None = None,
    ) -> None:
        self.settings = settings or ConsumerSettings()
        self.membership = membership or GroupSettings()
        self._router = bootstrap if isinstance(bootstrap, Router) else Router(bootstrap, client)
        self._shared = isinstance(bootstrap, Router)
        self._topics = [topics] if isinstance(topics, str) else list(topics)
        self._start = start
        self._positions = dict(positions or {})
        self._ends = dict(ends or {})
        self._group = group
        self._pattern = pattern
        self._is_member = group is not None and not self._positions
        self._fetcher = Fetcher(self._router, self.settings)
        self._reader = Reader(self._fetcher, endless=self._is_member)
        self._share = Share(
            self._router,
            self._fetcher,
            self._reader,
            group=group,
            start=start,
            committed_only=self.settings.committed_only,
            settings=self.membership,
            callbacks=(on_assigned, on_revoked, on_lost),
        )
        self._being_member = trio.CancelScope()
        self._was_member = trio.Event()
        self._check()

    def _check(self) -> None:
        if self._is_member and self._ends:
            raise ValueError("ends and group exclude each other: others may read the partitions that have an end")
        if self._pattern is not None and (self._topics or not self._is_member):
            raise ValueError("a pattern takes the place of topics, and needs a group")
        if (
            isinstance(self._start, str)
            and self._start not in PLACES
            and not (self._start == "error" and self._is_member)
        ):
            raise ValueError(f'start is {self._start!r}; it takes "start", "end", a time, or in a group "error"')
        if self.membership.protocol not in ("auto", "consumer", "classic"):
            raise ValueError(f'protocol is {self.membership.protocol!r}; it takes "auto", "consumer" or "classic"')

    @asynccontextmanager
    async def _live(self) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            if not self._shared:
                await stack.enter_async_context(self._router)
            if self._is_member:
                await self._choose_member()
            else:
                await self._assign_by_hand()
            stack.callback(self._fetcher.hang_up)
            stack.callback(self._reader.close)
            async with trio.open_nursery() as nursery:
                self._fetcher.open(nursery)
                if self._is_member:
                    nursery.start_soon(self._be_member)
                if self._group is not None and self.membership.auto_commit_ms:
                    nursery.start_soon(self._share.commit_regularly)
                yield
                nursery.cancel_scope.cancel()

    async def _assign_by_hand(self) -> None:
        positions = dict(self._positions)
        if self._topics:
            positions |= await self._share.places(await partitions_of(self._router, self._topics))
        self._share.begin_at(positions, self._ends)

    # -- reading

    def __aiter__(self) -> AsyncIterator[Received]:
        return self._reader

    async def __anext__(self) -> Received:
        """The next record. :raises StopAsyncIteration: every partition has an end and it is reached."""
        return await anext(self._reader)

    async def read(self) -> list[Received]:
        """The next records of one partition, as many as came together; empty when every end is reached.

        :raises Refused: a partition is gone, its wanted offset is and `reset` is "error", or the group refuses.
        :raises DecodeError: what came is damaged.
        """
        return await self._reader.several()

    @property
    def is_finished(self) -> bool:
        """Every partition has an end and the reader is there."""
        return self._reader.is_finished

    @property
    def assignment(self) -> list[TopicPartition]:
        """The partitions that are read now, in order."""
        return sorted(self._fetcher.assigned)

    def position(self, at: TopicPartition) -> int:
        """The offset of the next record of this partition. :raises KeyError: it is not read here (now)."""
        return self._reader.position(self._one(at))

    def positions(self) -> dict[TopicPartition, int]:
        """The offset of the next record of each partition."""
        return self._share.positions()

    async def seek(self, at: TopicPartition, to: int | str) -> None:
        """Go on reading a partition at an offset, or at its "start" or "end".

        :raises KeyError: it is not read here (now).
        """
        one = self._one(at)
        if isinstance(to, str):
            found = await list_offsets(self._router, {at: PLACES[to]}, committed_only=self.settings.committed_only)
            to = found[at].offset
        else:
            await trio.lowlevel.checkpoint()
        if self._fetcher.assigned.get(at) is one:
            self._reader.move(one, to)

    def pause(self, *partitions: TopicPartition) -> None:
        """Hand out no records of these (or of any) until :meth:`resume`, and fetch none. They stay this member's."""
        for at in partitions or self._fetcher.assigned:
            self._reader.pause(self._one(at))

    def resume(self, *partitions: TopicPartition) -> None:
        """Go on with these (or with all) where they were paused."""
        for at in partitions or self._fetcher.assigned:
            self._reader.resume(self._one(at))

    def _one(self, at: TopicPartition) -> Assigned:
        one = self._fetcher.assigned.get(at)
        if one is None:
            raise KeyError(f"partition {at} is not read by this consumer now: see `assignment` and `on_assigned`")
        return one

    @property
    def paused(self) -> list[TopicPartition]:
        """The partitions that are paused, in order."""
        return sorted(at for at, one in self._fetcher.assigned.items() if one.paused)

    # -- committing

    @property
    def share(self) -> Share:
        """What a transaction commits the offsets of."""
        return self._share

    async def commit(self, offsets: Mapping[TopicPartition, int] | None = None) -> None:
        """Commit these offsets, or all of which the program was given records. Each is that of the next record to read.

        :raises CommitFailed: the partitions are not this member's any more. :raises Refused: the server's reasons.
        """
        await self._share.commit(self.positions() if offsets is None else offsets, self._router)

    async def committed(self, *partitions: TopicPartition) -> dict[TopicPartition, int]:
        """The group's committed offsets of these partitions (or of those read here); one without is left out."""
        who = Identity(self._share.identity.group)
        return await fetch_offsets(self._router, who, partitions or list(self._fetcher.assigned))

    # -- the end

    async def _wind_up(self) -> None:
        self._reader.finish()
        await self._part()

    async def _give_up(self) -> None:
        await self._part()

    async def _part(self) -> None:
        """Commit what is done and leave. When nobody can be told, the server puts the member out by its timeout."""
        if self._group is None:
            return
        with trio.move_on_after(self.membership.leave_timeout_ms / 1000) as scope, suppress(ClientError, Refused):
            scope.shield = True
            async with self._router.last_word() as router:
                await self._say_goodbye(router)

    async def _say_goodbye(self, router: Router) -> None:
        self._share.leave()
        if self.membership.auto_commit_ms:
            with trio.move_on_after(self.membership.leave_timeout_ms / 2000), suppress(ClientError, Refused):
                await self._share.commit_done(router)
        if self._share.member is not None:
            self._being_member.cancel()
            await self._was_member.wait()
            await self._share.member.leave(router)

    def rewind(self) -> None:
        """Go back to what was committed last (or to where each partition was begun): all since is handed out again."""
        self._share.rewind()

    # -- the group

    async def _choose_member(self) -> None:
        from logd.client.calls import CONSUMER_GROUP_HEARTBEAT

        protocol = self.membership.protocol
        if self._topics:
            await self._router.retry(
                lambda: partitions_of(self._router, self._topics),
                topics=self._topics,
                timeout_ms=self._router.settings.unknown_topic_timeout_ms,
            )
        if protocol == "auto":
            connection = await self._router.connection()
            protocol = "consumer" if CONSUMER_GROUP_HEARTBEAT.key in connection.versions else "classic"
        self._share.member = self._classic() if protocol == "classic" else self._modern()

    def _classic(self) -> Member:
        from logd.client.classic import ClassicMember

        assert self._group is not None
        if self._pattern is not None:
            raise ValueError(NO_PATTERN)
        return ClassicMember(self._router, self._share, self._group, self._topics, self.membership)

    def _modern(self) -> Member:
        from logd.client.modern import ModernMember

        assert self._group is not None
        return ModernMember(self._router, self._share, self._group, self._topics, self.membership, self._pattern)

    async def _be_member(self) -> None:
        member = self._share.member
        assert member is not None
        try:
            with self._being_member:
                await member.run()
                if member.declined and self._pattern is not None:
                    self._share.fail(ValueError(NO_PATTERN))
                elif member.declined:
                    member.hang_up()
                    self._share.member = member = self._classic()
                    await member.run()
        finally:
            member.hang_up()
            self._was_member.set()
