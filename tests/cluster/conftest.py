"""The two stores, so that every contract test runs on both, and a cluster on either."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from pytest_trio import trio_fixture

from logd.cluster.cluster import Cluster, open_cluster
from logd.cluster.image import Broker
from logd.cluster.sqlite import SqliteStore
from logd.cluster.store import MemoryStore, Store
from logd.config import Settings, load
from tests.cluster.clocks import HandClock

OpenStore = Callable[[], Awaitable[Store]]
NewCluster = Callable[..., Awaitable[Cluster]]


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture(params=["memory", "sqlite"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@trio_fixture
async def open_store(kind: str, tmp_path: Path, clock: HandClock) -> AsyncIterator[OpenStore]:
    """Open the same store again, as another node of the machine would."""
    opened: list[Store] = []
    memory = MemoryStore(clock)

    async def open_one() -> Store:
        store: Store = memory if kind == "memory" else await SqliteStore.open(tmp_path / "metadata.db", clock)
        opened.append(store)
        return store

    yield open_one
    for store in opened:
        await store.aclose()


@trio_fixture
async def store(open_store: OpenStore) -> Store:
    return await open_store()


@pytest.fixture
def new_cluster(open_store: OpenStore) -> NewCluster:
    """Make a cluster of one started node with ids that count up."""
    numbers = itertools.count(1)

    async def make(settings: Settings | None = None, *, started: bool = True) -> Cluster:
        cluster = await open_cluster(
            await open_store(),
            settings or load(),
            lambda: next(numbers).to_bytes(16, "big"),
            lambda: "cluster-one",
        )
        if started:
            await cluster.start(Broker(cluster.static_settings.node_id, "127.0.0.1", 9092))
        return cluster

    return make
