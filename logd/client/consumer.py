"""Read records: partitions from given offsets, or as a member of a group that shares its topics out.

``async with Consumer("127.0.0.1:9092", "orders", group="billing") as consumer: async for record in consumer: ...``.
Here is what the program calls, and what happens to its partitions when the group changes; ``fetching`` gets the
records, ``reading`` hands them out, ``classic`` and ``modern`` speak with the group's coordinator.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from inspect import isawaitable

import trio

from logd.client.commits import FENCED, Identity, commit_offsets, fetch_offsets
from logd.client.decoding import Received
from logd.client.errors import ClientError, CommitFailed, is_retriable
from logd.client.fetching import NO_END, Assigned, Fetcher
from logd.client.lifetime import Lifetime
from logd.client.membership import Member
from logd.client.metadata import TopicPartition
from logd.client.offsets import EARLIEST, LATEST, list_offsets, partitions_of
from logd.client.reading import Reader
from logd.client.routing import Router
from logd.client.settings import ClientSettings, ConsumerSettings, GroupSettings
from logd.errors import ErrorCode, Refused

Callback = Callable[[list[TopicPartition]], Awaitable[None] | None]
"""Told of partitions that come or go; may be async."""
PLACES = {"start": EARLIEST, "end": LATEST}
NO_PATTERN = 'a pattern needs the protocol "consumer", which this server or group does not speak: name the topics'
STALE = (ErrorCode.STALE_MEMBER_EPOCH, ErrorCode.REBALANCE_IN_PROGRESS)
"""The commit crossed a rebalance that the member takes part in: it is made again as soon as the member knows."""


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
        self._callbacks = (on_assigned, on_revoked, on_lost)
        self._is_member = group is not None and not self._positions
        self._fetcher = Fetcher(self._router, self.settings)
        self._reader = Reader(self._fetcher, endless=self._is_member)
        self._member: Member | None = None
        self._being_member = trio.CancelScope()
        self._patience = trio.CancelScope()
        self._committed: dict[TopicPartition, int] = {}
        self._base: dict[TopicPartition, int] = {}
        self._taken_away: set[TopicPartition] = set()
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
            async with trio.open_nursery() as nursery:
                self._fetcher.open(nursery)
                if self._is_member:
                    nursery.start_soon(self._be_member)
                if self._group is not None and self.membership.auto_commit_ms:
                    nursery.start_soon(self._commit_regularly)
                yield
                nursery.cancel_scope.cancel()

    async def _assign_by_hand(self) -> None:
        positions = dict(self._positions)
        if self._topics:
            positions |= await self._places(await partitions_of(self._router, self._topics))
        self._base = dict(positions)
        for at, start in positions.items():
            self._fetcher.add(at, start, self._ends.get(at, NO_END))

    async def _places(self, partitions: Collection[TopicPartition]) -> dict[TopicPartition, int]:
        """Where `start` is in these partitions."""
        start = self._start
        wanted = dict.fromkeys(partitions, PLACES[start] if isinstance(start, str) else start)
        found = await list_offsets(self._router, wanted, committed_only=self.settings.committed_only)
        positions = {at: answer.offset for at, answer in found.items()}
        late = {at: LATEST for at, offset in positions.items() if offset < 0}
        if late:  # nothing is that young: go on with what comes next
            positions |= {at: answer.offset for at, answer in (await list_offsets(self._router, late)).items()}
        return positions

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
        return {at: self._reader.position(one) for at, one in self._fetcher.assigned.items()}

    async def seek(self, at: TopicPartition, to: int | str) -> None:
        """Go on reading a partition at an offset, or at its "start" or "end".

        :raises KeyError: it is not read here (now).
        """
        one = self._one(at)
        if isinstance(to, str):
            to = (await list_offsets(self._router, {at: PLACES[to]}))[at].offset
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
    def identity(self) -> Identity:
        """Who this consumer is in its group: what a transaction commits its offsets with.

        :raises ValueError: it has no group.
        """
        if self._member is not None:
            return self._member.identity
        if self._group is None:
            raise ValueError("the consumer has no group to commit for: give it one with group=")
        return Identity(self._group)

    async def commit(self, offsets: Mapping[TopicPartition, int] | None = None) -> None:
        """Commit these offsets, or all of which the program was given records. Each is that of the next record to read.

        :raises CommitFailed: the partitions are not this member's any more. :raises Refused: the server's reasons.
        """
        await self._commit(self.positions() if offsets is None else offsets, self._router)

    async def committed(self, *partitions: TopicPartition) -> dict[TopicPartition, int]:
        """The group's committed offsets of these partitions (or of those read here); one without is left out."""
        who = Identity(self.identity.group)
        return await fetch_offsets(self._router, who, partitions or list(self._fetcher.assigned))

    async def _commit(self, offsets: Mapping[TopicPartition, int], router: Router) -> None:
        """Only what is news; in a rebalance once more under the identity that comes of it."""
        who = self.identity
        news = {at: offset for at, offset in offsets.items() if self._committed.get(at) != offset}
        if not news:
            return await trio.lowlevel.checkpoint()
        if self._is_member and who.epoch <= 0:
            raise _too_late(who)
        try:
            await commit_offsets(router, who, news)
        except CommitFailed as error:
            if error.code not in STALE or not await self._is_renewed(who):
                raise
            await commit_offsets(router, self.identity, news)
        self.committed_up_to(news)

    def work(self) -> dict[TopicPartition, int]:
        """What a transaction commits: where each partition stands of which the program was given records.

        :raises CommitFailed: some of them were of partitions that are another member's now.
        :raises ValueError: the consumer commits by itself too.
        """
        if self.membership.auto_commit_ms:
            raise ValueError("a consumer in a transaction must not commit by itself: GroupSettings(auto_commit_ms=0)")
        if self._taken_away:
            raise _too_late(self.identity)
        return {at: offset for at, offset in self.positions().items() if self._base.get(at) != offset}

    def committed_up_to(self, offsets: Mapping[TopicPartition, int]) -> None:
        """These were committed for this consumer's group by itself or in a transaction."""
        mine = {at: offset for at, offset in offsets.items() if at in self._fetcher.assigned}
        self._committed |= mine
        self._base |= mine

    def rewind(self) -> None:
        """Go back to what was committed last (or to where each partition was begun): all since is handed out again."""
        self._taken_away.clear()
        for at, one in self._fetcher.assigned.items():
            if self._base.get(at, one.position) != self._reader.position(one):
                self._reader.move(one, self._base[at])

    async def _is_renewed(self, who: Identity) -> bool:
        """Whether the member gets another epoch soon, which a commit can be made with."""
        for tries in range(10):
            await trio.sleep(self._router.backoff_s(tries))
            if self.identity != who:
                return self.identity.epoch > 0
        return False

    async def _commit_regularly(self) -> None:
        while True:
            await trio.sleep(self.membership.auto_commit_ms / 1000)
            try:
                await self._commit_done(self._router)
            except CommitFailed:
                continue  # the member learns it from the group
            except (Refused, ClientError) as error:
                if not is_retriable(error):
                    await self._fetcher.report(error)

    async def _commit_done(self, router: Router, partitions: Collection[TopicPartition] | None = None) -> None:
        assigned = self._fetcher.assigned
        chosen = assigned if partitions is None else partitions
        await self._commit({at: self._reader.done(assigned[at]) for at in chosen if at in assigned}, router)

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
        if self.membership.auto_commit_ms:
            with suppress(CommitFailed):
                await self._commit_done(router)
        if self._member is not None:
            self._being_member.cancel()
            await self._member.leave(router)

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
        self._member = self._classic() if protocol == "classic" else self._modern()

    def _classic(self) -> Member:
        from logd.client.classic import ClassicMember

        assert self._group is not None
        if self._pattern is not None:
            raise ValueError(NO_PATTERN)
        return ClassicMember(self._router, self, self._group, self._topics, self.membership)

    def _modern(self) -> Member:
        from logd.client.modern import ModernMember

        assert self._group is not None
        return ModernMember(self._router, self, self._group, self._topics, self.membership, self._pattern)

    async def _be_member(self) -> None:
        assert self._member is not None
        with self._being_member:
            await self._member.run()
            if not self._member.declined:
                return
            if self._pattern is not None:
                self.fail(ValueError(NO_PATTERN))
                return
            self._member = self._classic()
            await self._member.run()

    # what a member asks for: see membership.Owner

    def owned(self) -> set[TopicPartition]:
        """What is read now."""
        return set(self._fetcher.assigned)

    def idle_s(self) -> float:
        """How long the program has not asked for records."""
        return self._reader.idle_s(trio.current_time())

    async def returned(self) -> None:
        """Wait until the program asks for records."""
        await self._reader.returned()

    def fail(self, error: Exception) -> None:
        """Let the program raise this whenever it asks for records."""
        self._reader.failed = error
        self._fetcher.nudge()

    def interrupt(self) -> None:
        """Let :meth:`revoke` and :meth:`assign` return although they are not done."""
        self._patience.cancel()

    async def assign(self, partitions: Collection[TopicPartition]) -> None:
        """Begin to read these: from the committed offset, or where `start` says."""
        self._patience = trio.CancelScope()
        with self._patience as scope:
            starts = await self._starts(partitions)
        if scope.cancelled_caught:
            return
        self._base |= starts
        added = [
            self._fetcher.add(at, start) for at, start in sorted(starts.items()) if at not in self._fetcher.assigned
        ]
        await self._tell(0, [one.at for one in added])
        self._fetcher.start(added)

    async def _starts(self, partitions: Collection[TopicPartition]) -> dict[TopicPartition, int]:
        tries = 0
        while True:
            try:
                found = await fetch_offsets(self._router, self.identity, partitions)
                break
            except Refused as error:
                if error.code not in FENCED and not is_retriable(error):
                    raise
            await trio.sleep(self._router.backoff_s(tries))  # the member's next heartbeat tells it the news
            tries += 1
        self._committed |= found
        missing = [at for at in partitions if at not in found]
        if missing and self._start == "error":
            message = f"group {self._group!r} has no committed offset for {missing[0]}, and start is error"
            raise Refused(ErrorCode.OFFSET_OUT_OF_RANGE, message)
        return found | (await self._places(missing) if missing else {})

    async def revoke(self, partitions: Collection[TopicPartition]) -> bool:
        """Wait until the program works on none of these, commit, tell it, give them up."""
        self._patience = trio.CancelScope()
        with self._patience as scope:
            self._reader.withhold(partitions)
            await self._reader.stand_still()
        if scope.cancelled_caught:
            return False
        if self.membership.auto_commit_ms:
            with suppress(Refused, ClientError):  # others will read again what is not committed
                await self._commit_done(self._router, partitions)
        await self._tell(1, sorted(partitions))
        self._drop(partitions)
        return True

    async def lose(self) -> None:
        """Give up everything at once."""
        gone = sorted(self._fetcher.assigned)
        self._reader.withhold(gone)
        self._drop(gone)
        await self._tell(2, gone)

    def _drop(self, partitions: Iterable[TopicPartition]) -> None:
        for at in list(partitions):
            self._committed.pop(at, None)
            one = self._fetcher.assigned.get(at)
            if one is not None:
                if self._base.pop(at, one.position) != self._reader.position(one):
                    self._taken_away.add(at)
                self._fetcher.drop(at)

    async def _tell(self, which: int, partitions: list[TopicPartition]) -> None:
        callback = self._callbacks[which]
        if callback is not None and partitions:
            answer = callback(partitions)
            if isawaitable(answer):
                await answer


def _too_late(who: Identity) -> CommitFailed:
    what = f"no offset was committed in group {who.group!r}"
    why = "this consumer is not a member of the group now: it was put out, or did not read for too long"
    return CommitFailed(what, why, "read on, it joins again; do less between two reads, or raise max_poll_interval_ms")
