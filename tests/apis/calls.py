"""Calls to handlers over a real cluster in memory, through bytes in every version that is served."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

from logd.apis.registry import Call, Connection, endpoint
from logd.cluster.cluster import Cluster, open_cluster
from logd.cluster.image import Broker
from logd.cluster.store import MemoryStore
from logd.config import load
from logd.errors import Refused
from logd.wire import schemas
from logd.wire.codec import decode_exact, encode


class Admin:
    """Asks handlers as a client would: the request is encoded and decoded, and so is the answer."""

    def __init__(self, cluster: Cluster, **services: Any) -> None:
        self.cluster = cluster
        self._services: Any = SimpleNamespace(
            cluster=cluster,
            settings=cluster.static_settings,
            advertised=lambda connection, broker_id: ("there", 9999),
            **services,
        )

    async def ask(self, key: int, version: int, request: Any) -> Any:
        """The answer as a client of that version decodes it."""
        found = endpoint(key)
        assert found is not None
        decoded = decode_exact(schemas.request_class(key), version, encode(request, version))
        connection = Connection(1, "127.0.0.1:1", "127.0.0.1", 9092, "PLAINTEXT")
        call = Call(key, version, 1, "test", connection, self._services)
        try:
            answer = found.handler(call, decoded)
            if hasattr(answer, "__await__"):
                answer = await answer
        except Refused as refused:
            assert found.refuse is not None
            answer = found.refuse(decoded, version, refused)
        return decode_exact(schemas.response_class(key), version, encode(answer, version))


async def admin(*sets: str, store: MemoryStore | None = None) -> Admin:
    """A node with id 0 on an empty store."""
    numbers = itertools.count(1)
    cluster = await open_cluster(
        store or MemoryStore(), load(sets=sets), lambda: next(numbers).to_bytes(16, "big"), lambda: "c"
    )
    await cluster.start(Broker(cluster.static_settings.node_id, "127.0.0.1", 9092))
    return Admin(cluster)


def versions(key: int) -> range:
    """The versions that are served of an API."""
    facts = schemas.APIS[key]
    low, high = facts.advertised
    return range(low, high + 1)
