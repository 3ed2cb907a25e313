"""A consumer's share of its partitions: how they come and go, and which offsets are committed for them.

A :class:`Share` is the :class:`~logd.client.membership.Owner` that a member of a group speaks for, and the
:class:`~logd.client.transactions.Source` of a transaction. Owned by a consumer, which has what the program calls;
the positions themselves are in ``reading``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from contextlib import suppress
from inspect import isawaitable

import trio

from logd.client.commits import FENCED, Identity, commit_offsets, fetch_offsets
from logd.client.errors import ClientError, CommitFailed, is_retriable
from logd.client.fetching import NO_END, Assigned, Fetcher
from logd.client.membership import Member
from logd.client.metadata import TopicPartition
from logd.client.offsets import EARLIEST, LATEST, list_offsets
from logd.client.reading import Reader
from logd.client.routing import Router
from logd.client.settings import GroupSettings
from logd.errors import ErrorCode, Refused

Callback = Callable[[list[TopicPartition]], Awaitable[None] | None]
"""Told of partitions that come or go; may be async."""
PLACES = {"start": EARLIEST, "end": LATEST}
STALE = (ErrorCode.STALE_MEMBER_EPOCH, ErrorCode.REBALANCE_IN_PROGRESS)
"""The commit crossed a rebalance that the member takes part in: it is made again as soon as the member knows."""


class Share:
    """See the module.

    :param start: where to begin where the group has no offset: "start", "end", "error", or milliseconds since 1970.
    :param callbacks: told of partitions that have come, that are about to go, and that are gone already.
    """

    def __init__(
        self,
        router: Router,
        fetcher: Fetcher,
        reader: Reader,
        *,
        group: str | None,
        start: str | int,
        committed_only: bool,
        settings: GroupSettings,
        callbacks: tuple[Callback | None, Callback | None, Callback | None],
    ) -> None:
        self.member: Member | None = None
        """Set by the consumer before anything of the group is asked."""
        self.is_leaving = False
        """Since :meth:`leave`: no rebalance is waited for any more."""
        self._router = router
        self._fetcher = fetcher
        self._reader = reader
        self._group = group
        self._start = start
        self._committed_only = committed_only
        self._settings = settings
        self._callbacks = callbacks
        self._patience = trio.CancelScope()
        self._regular = trio.CancelScope()
        self._committing = trio.Lock()
        self._commits = 0
        self._newest: dict[TopicPartition, int] = {}
        """Of the commits that were taken, the newest one of each partition: they are counted as they are called."""
        self._committed: dict[TopicPartition, int] = {}
        self._base: dict[TopicPartition, int] = {}
        """Where a transaction that is aborted goes back to: what was committed, or where the partition was begun."""
        self._taken_away: set[TopicPartition] = set()

    @property
    def identity(self) -> Identity:
        """Who commits. :raises ValueError: there is no group."""
        if self.member is not None:
            return self.member.identity
        if self._group is None:
            raise ValueError("the consumer has no group to commit for: give it one with group=")
        return Identity(self._group)

    def positions(self) -> dict[TopicPartition, int]:
        """The offset of the next record of each partition."""
        return {at: self._reader.position(one) for at, one in self._fetcher.assigned.items()}

    def begin_at(self, positions: Mapping[TopicPartition, int], ends: Mapping[TopicPartition, int]) -> None:
        """Read these, which no group gives; without an end for ever."""
        self._base = dict(positions)
        for at, start in positions.items():
            self._fetcher.add(at, start, ends.get(at, NO_END))

    async def places(self, partitions: Collection[TopicPartition]) -> dict[TopicPartition, int]:
        """Where `start` is in these partitions."""
        start = self._start
        wanted = dict.fromkeys(partitions, PLACES[start] if isinstance(start, str) else start)
        found = await list_offsets(self._router, wanted, committed_only=self._committed_only)
        late = {at: LATEST for at, answer in found.items() if answer.offset < 0}
        if late:  # nothing is that young: go on with what comes next
            found |= await list_offsets(self._router, late, committed_only=self._committed_only)
        return {at: answer.offset for at, answer in found.items()}

    # -- offsets

    async def commit(self, offsets: Mapping[TopicPartition, int], router: Router) -> None:
        """Commit what is news of these; in a rebalance once more under the identity that comes of it."""
        who = self.identity
        news = {at: offset for at, offset in offsets.items() if self._committed.get(at) != offset}
        if not news:
            return await trio.lowlevel.checkpoint()
        if self.member is not None and who.epoch <= 0:
            raise _too_late(who)
        self._commits += 1
        number, held = self._commits, {at: self._fetcher.assigned.get(at) for at in news}
        try:
            await self._commit(who, news, number, router)
        except CommitFailed as error:
            if self.is_leaving or error.code not in STALE or not await self._is_renewed(who):
                raise
            await self._commit_again(news, held, number, router, error)

    async def _commit(self, who: Identity, news: Mapping[TopicPartition, int], number: int, router: Router) -> None:
        """One commit after the other: one that has to be tried again must not come behind a newer one."""
        async with self._committing:
            await commit_offsets(router, who, news)
            self.committed_up_to(news, number)

    async def _commit_again(
        self,
        news: Mapping[TopicPartition, int],
        held: Mapping[TopicPartition, Assigned | None],
        number: int,
        router: Router,
        error: CommitFailed,
    ) -> None:
        """Under the new identity, what is still this member's and no newer commit told of: of the rest others, or this
        one, may have committed more by now.

        :raises CommitFailed: some of the partitions were given up since, or the member is put out.
        """
        async with self._committing:
            mine = {at: offset for at, offset in news.items() if self._fetcher.assigned.get(at) is held[at]}
            left = {at: offset for at, offset in mine.items() if self._newest.get(at, 0) < number}
            if self.identity.epoch <= 0:
                raise error
            if left:
                await commit_offsets(router, self.identity, left)
                self.committed_up_to(left, number)
        if len(mine) < len(news):
            raise error

    def work(self) -> dict[TopicPartition, int]:
        """What a transaction commits: where each partition stands of which the program was given records.

        :raises CommitFailed: some of them were of partitions that are another member's now.
        :raises ValueError: the consumer commits by itself too.
        """
        if self._settings.auto_commit_ms:
            raise ValueError("a consumer in a transaction must not commit by itself: GroupSettings(auto_commit_ms=0)")
        if self._taken_away:
            raise _taken(self._taken_away, self.identity)
        return {at: offset for at, offset in self.positions().items() if self._base.get(at) != offset}

    def committed_up_to(self, offsets: Mapping[TopicPartition, int], number: int | None = None) -> None:
        """These were committed for this consumer's group by itself (`number`: by which commit), or in a transaction."""
        mine = {at: offset for at, offset in offsets.items() if at in self._fetcher.assigned}
        self._committed |= mine
        self._base |= mine
        if number is None:
            number = self._commits = self._commits + 1
        self._newest |= dict.fromkeys(mine, number)

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

    async def commit_regularly(self) -> None:
        """Commit what is done from time to time, until cancelled or :meth:`leave`."""
        with trio.CancelScope() as self._regular:
            while True:
                await trio.sleep(self._settings.auto_commit_ms / 1000)
                try:
                    await self.commit_done(self._router)
                except CommitFailed:
                    continue  # the member learns it from the group
                except (Refused, ClientError) as error:
                    if not is_retriable(error):
                        await self._fetcher.report(error)

    def leave(self) -> None:
        """The consumer is about to leave, and commits for the last time: a regular commit may hang on a dead
        connection, and the last one must not wait for it."""
        self.is_leaving = True
        self._regular.cancel()

    async def commit_done(self, router: Router, partitions: Collection[TopicPartition] | None = None) -> None:
        """Commit what the program has done in these partitions (None: in all)."""
        assigned = self._fetcher.assigned
        chosen = assigned if partitions is None else partitions
        await self.commit({at: self._reader.done(assigned[at]) for at in chosen if at in assigned}, router)

    # -- what a member asks for: see membership.Owner

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
        return found | (await self.places(missing) if missing else {})

    async def revoke(self, partitions: Collection[TopicPartition]) -> bool:
        """Wait until the program works on none of these, commit, tell it, give them up."""
        self._patience = trio.CancelScope()
        with self._patience as scope:
            self._reader.withhold(partitions)
            await self._reader.stand_still()
        if scope.cancelled_caught:
            return False
        if self._settings.auto_commit_ms:
            with suppress(Refused, ClientError):  # others will read again what is not committed
                await self.commit_done(self._router, partitions)
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
            self._newest.pop(at, None)
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


def _taken(partitions: Iterable[TopicPartition], who: Identity) -> CommitFailed:
    names = ", ".join(str(at) for at in sorted(partitions))
    what = f"no offset was committed in group {who.group!r}"
    why = f"{names} went to other members after records of it were handed out"
    return CommitFailed(what, why, "let the transaction be aborted: those members do its work again")
