"""A consumer's commits when they cross a rebalance, or each other: no offset of a group may go backward."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

import pytest
import trio
import trio.testing

from logd.client import sharing
from logd.client.commits import Identity, not_committed
from logd.client.errors import CommitFailed
from logd.client.fetching import Fetcher
from logd.client.membership import Member
from logd.client.metadata import TopicPartition
from logd.client.reading import Reader
from logd.client.routing import Router
from logd.client.settings import ConsumerSettings, GroupSettings
from logd.client.sharing import Share
from logd.errors import ErrorCode

pytestmark = pytest.mark.trio

A, B = TopicPartition("t", 0), TopicPartition("t", 1)
Deed = Callable[[], Awaitable[None]]


class Silent(Member):
    """A member that tells nobody anything."""

    async def run(self) -> None:
        await trio.sleep_forever()

    async def leave(self, router: Router) -> None:
        await trio.lowlevel.checkpoint()


class Stage:
    """A share with two partitions, and a group that keeps what reaches it.

    `first` is done with the first commit before it is judged; when it changes the epoch, the commit is refused.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        router = Router("127.0.0.1:1")
        self.fetcher = Fetcher(router, ConsumerSettings())
        callbacks = (None, None, None)
        self.share = Share(
            router,
            self.fetcher,
            Reader(self.fetcher, endless=True),
            group="g",
            start="start",
            committed_only=True,
            settings=GroupSettings(auto_commit_ms=0),
            callbacks=callbacks,
        )
        self.member = self.share.member = Silent(router, self.share, "g", ["t"], GroupSettings())
        self.renew(1)
        for at in (A, B):
            self.fetcher.add(at, 0)
        self.offsets: dict[TopicPartition, int] = {}
        self.first: Deed | None = None
        monkeypatch.setattr(sharing, "commit_offsets", self.take)

    def renew(self, epoch: int) -> None:
        self.member.identity = Identity("g", "m", epoch)

    async def take(self, router: Router, who: Identity, offsets: Mapping[TopicPartition, int]) -> None:
        first, self.first = self.first, None
        if first is not None:
            await first()
        else:
            await trio.lowlevel.checkpoint()
        if who != self.member.identity:
            raise not_committed(who, ErrorCode.STALE_MEMBER_EPOCH, "t/0")
        self.offsets |= offsets

    async def commit(self, **offsets: int) -> None:
        await self.share.commit({at: offsets[name] for name, at in (("a", A), ("b", B)) if name in offsets}, ROUTER)

    async def commit_two(self) -> None:
        """A commit of both partitions, and a newer one of the first while that is under way."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: self.commit(a=100, b=100))
            await trio.testing.wait_all_tasks_blocked()
            await self.commit(a=150)


ROUTER = Router("127.0.0.1:1")


async def test_what_was_given_up_is_not_committed_again(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    """A commit that crossed a rebalance is made again for what the member still has. Whoever reads the rest now may
    have committed more of it."""
    on = Stage(monkeypatch)

    async def rebalance() -> None:
        on.fetcher.drop(A)
        on.renew(2)
        on.offsets[A] = 200

    on.first = rebalance
    with pytest.raises(CommitFailed) as caught:
        await on.commit(a=100, b=100)
    assert caught.value.code is ErrorCode.STALE_MEMBER_EPOCH
    assert on.offsets == {A: 200, B: 100}


async def test_what_came_back_is_another_share(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    """Somebody else had the partition in between, and this member begins where that one ended."""
    on = Stage(monkeypatch)

    async def rebalance() -> None:
        on.fetcher.drop(A)
        on.renew(3)
        on.offsets[A] = 200
        on.fetcher.add(A, 200)

    on.first = rebalance
    with pytest.raises(CommitFailed):
        await on.commit(a=100)
    assert on.offsets == {A: 200}


async def test_a_newer_commit_is_not_undone(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    """While one commit waits for the new epoch, another is made with it."""
    on = Stage(monkeypatch)

    async def rebalance() -> None:
        on.renew(2)

    on.first = rebalance
    await on.commit_two()
    assert on.offsets == {A: 150, B: 100}


async def test_a_newer_commit_behind_one_that_was_taken_is_made_again(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    """It waited for the older one, and only then came the rebalance: who called it is not told that all is well."""
    on = Stage(monkeypatch)

    async def rebalance() -> None:
        on.renew(2)

    async def away() -> None:
        await trio.sleep(5)
        on.first = rebalance

    on.first = away
    await on.commit_two()
    assert on.offsets == {A: 150, B: 100}


@pytest.mark.parametrize("waits_s", [(1, 2), (2, 1)])
async def test_the_newer_of_two_that_are_made_again_counts(
    waits_s: tuple[int, int], monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    """Both crossed the same rebalance, and whichever learns of the new epoch first is made again first."""
    on, waits = Stage(monkeypatch), iter(waits_s)
    monkeypatch.setattr(Router, "backoff_s", lambda router, tries: next(waits))

    async def rebalance() -> None:
        await trio.sleep(5)
        on.renew(2)

    on.first = rebalance
    await on.commit_two()
    assert on.offsets == {A: 150, B: 100}


async def test_commits_do_not_overtake_each_other(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    """One that has to be tried again, since the coordinator is away, lets a newer one wait."""
    on = Stage(monkeypatch)

    async def away() -> None:
        await trio.sleep(5)

    on.first = away
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: on.commit(a=100))
        await trio.testing.wait_all_tasks_blocked()
        await on.commit(a=150)
    assert on.offsets == {A: 150}


async def test_who_was_put_out_meanwhile_commits_nothing(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    """A group that nobody is a member of would take the offsets of anybody."""
    on = Stage(monkeypatch)

    async def away() -> None:
        await trio.sleep(5)
        on.member.identity = Identity("g")
        raise not_committed(Identity("g", "m", 2), ErrorCode.UNKNOWN_MEMBER_ID, "t/1")

    async def rebalance() -> None:
        on.renew(2)
        on.first = away

    on.first = rebalance
    async with trio.open_nursery() as nursery:

        async def other() -> None:
            with pytest.raises(CommitFailed):
                await on.commit(b=100)

        nursery.start_soon(other)
        with pytest.raises(CommitFailed):
            await on.commit(a=100)
    assert on.offsets == {}


async def test_the_last_commit_waits_for_no_regular_one(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    """One that a dead connection holds up is given up when the consumer leaves, which says its last on another."""
    on = Stage(monkeypatch)
    on.first = trio.sleep_forever
    async with trio.open_nursery() as nursery:
        nursery.start_soon(on.share.commit_regularly)
        await trio.testing.wait_all_tasks_blocked()
        on.share.leave()
        with trio.fail_after(1):
            await on.share.commit_done(ROUTER)
        nursery.cancel_scope.cancel()
    assert on.offsets == {A: 0, B: 0}
