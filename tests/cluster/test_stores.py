"""The contract of the metadata stores: the one in memory and the one in SQLite behave the same."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from logd.cluster.store import ABSENT, Conflict, Store, StoreClosed, Transaction
from tests.cluster.clocks import HandClock
from tests.cluster.conftest import OpenStore

pytestmark = pytest.mark.trio


async def test_a_new_store_is_empty_at_version_zero(store: Store) -> None:
    """Nothing was ever written."""
    snapshot = await store.read()
    assert (snapshot.version, dict(snapshot.entries)) == (0, {})


async def test_a_transaction_writes_all_at_one_version(store: Store) -> None:
    """What one transaction puts has its version; what it deletes is gone."""
    assert await store.commit(Transaction(puts={"a": b"1", "b": b"2"})) == 1
    assert await store.commit(Transaction(puts={"a": b"3"}, deletes=["b"])) == 2
    snapshot = await store.read()
    assert snapshot.version == 2
    assert {key: (entry.value, entry.version) for key, entry in snapshot.entries.items()} == {"a": (b"3", 2)}


@pytest.mark.parametrize("checks", [{"a": 2}, {"a": ABSENT}, {"b": 1}, {"a": 1, "b": 1}])
async def test_a_check_that_fails_writes_nothing(store: Store, checks: dict[str, int]) -> None:
    """All checks hold, or the store is as before."""
    await store.commit(Transaction(puts={"a": b"1"}))
    with pytest.raises(Conflict):
        await store.commit(Transaction(checks=checks, puts={"a": b"2", "c": b"2"}, deletes=["a"]))
    snapshot = await store.read()
    assert snapshot.version == 1
    assert list(snapshot.entries) == ["a"]


async def test_checks_that_hold_let_the_write_through(store: Store) -> None:
    """A check may ask for a version or for absence."""
    await store.commit(Transaction(puts={"a": b"1"}))
    assert await store.commit(Transaction(checks={"a": 1, "b": ABSENT}, puts={"b": b"2"})) == 2


async def test_of_two_that_race_one_wins(open_store: OpenStore) -> None:
    """Two nodes that write the same key from the same version: exactly one succeeds, each time."""
    one, two = await open_store(), await open_store()
    await one.commit(Transaction(puts={"n": b"0"}))
    won = []

    async def add(store: Store, name: str) -> None:
        done = 0
        while done < 10:
            entry = (await store.read()).entries["n"]
            value = str(int(entry.value) + 1).encode()
            try:
                await store.commit(Transaction(checks={"n": entry.version}, puts={"n": value}))
            except Conflict:
                continue
            done += 1
            won.append(name)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(add, one, "one")
        nursery.start_soon(add, two, "two")
    assert (await two.read()).entries["n"].value == b"20"
    assert sorted(set(won)) == ["one", "two"]


async def test_a_watcher_wakes_when_another_node_writes(open_store: OpenStore) -> None:
    """changed() returns once the store is past the version, whoever wrote."""
    one, two = await open_store(), await open_store()
    woken: list[int] = []

    async def watch(task_status: trio.TaskStatus[None]) -> None:
        task_status.started()
        woken.append(await one.changed(0))

    async with trio.open_nursery() as nursery:
        await nursery.start(watch)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert woken == []
        await two.commit(Transaction(puts={"a": b"1"}))
    assert woken == [1]
    assert await one.changed(0) == 1


async def test_a_lease_is_held_until_it_runs_out(open_store: OpenStore, clock: HandClock) -> None:
    """Its holder may renew it; others get it only after the deadline."""
    one, two = await open_store(), await open_store()
    lease = await one.take_lease("controller", "n1", 3_000)
    assert lease is not None
    assert lease.deadline_ms == 4_000
    assert await two.take_lease("controller", "n2", 3_000) is None
    clock.now_ms = 3_999
    renewed = await one.take_lease("controller", "n1", 3_000)
    assert renewed is not None
    assert renewed.deadline_ms == 6_999
    clock.now_ms = 6_998
    assert await two.take_lease("controller", "n2", 3_000) is None
    clock.now_ms = 6_999
    assert await two.leases() == []
    taken = await two.take_lease("controller", "n2", 3_000)
    assert taken is not None
    assert [held.holder for held in await one.leases()] == ["n2"]


async def test_a_lease_that_is_given_back_is_free(open_store: OpenStore) -> None:
    """Only its holder gives it back; after that anybody may take it."""
    one, two = await open_store(), await open_store()
    lease = await one.take_lease("l", "n1", 3_000)
    assert lease is not None
    await two.drop_lease(type(lease)(lease.name, "n2", lease.deadline_ms))
    assert await two.take_lease("l", "n2", 3_000) is None
    await one.drop_lease(lease)
    assert await two.take_lease("l", "n2", 3_000) is not None


async def test_a_closed_store_refuses(store: Store) -> None:
    """Every call after aclose raises StoreClosed; closing twice is nothing."""
    await store.aclose()
    await store.aclose()
    with pytest.raises(StoreClosed):
        await store.read()
    with pytest.raises(StoreClosed):
        await store.commit(Transaction(puts={"a": b"1"}))


async def test_closing_ends_a_watch(open_store: OpenStore) -> None:
    """A task that waits in changed() gets StoreClosed."""
    store = await open_store()
    ended: list[bool] = []

    async def watch() -> None:
        with pytest.raises(StoreClosed):
            await store.changed(0)
        ended.append(True)

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            await trio.testing.wait_all_tasks_blocked(0.01)
            await store.aclose()
    assert ended == [True]
