"""Administer a cluster: ``async with Admin("127.0.0.1:9092") as admin: await admin.topics.list()``.

The parts are nouns: ``topics``, ``configs``, ``groups``, ``transactions``, and ``own`` for what only logd offers.
Here are only those that concern the cluster as a whole.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager

import msgspec

from logd.client.calls import DESCRIBE_CLUSTER, DESCRIBE_LOG_DIRS
from logd.client.configs import Configs
from logd.client.errors import NotSupported, check
from logd.client.groups import Groups
from logd.client.lifetime import Lifetime
from logd.client.metadata import Broker, TopicPartition
from logd.client.offsets import FoundOffset, list_offsets
from logd.client.own import Own
from logd.client.routing import Router
from logd.client.settings import ClientSettings
from logd.client.topics import Topics
from logd.client.transaction_admin import Transactions
from logd.wire.schemas.describe_cluster import DescribeClusterRequest, DescribeClusterResponse
from logd.wire.schemas.describe_log_dirs import DescribeLogDirsRequest, DescribeLogDirsResponse


class ClusterInfo(msgspec.Struct, frozen=True):
    """A cluster at a glance. `features` are the finalized levels by name."""

    cluster_id: str
    controller_id: int
    brokers: tuple[Broker, ...]
    features: Mapping[str, int]
    is_logd: bool


class Admin(Lifetime):
    """Administer one cluster.

    :param bootstrap: ``host:port`` (several with commas between), or a router that is open already and shared.
    """

    def __init__(self, bootstrap: str | Iterable[str] | Router, *, client: ClientSettings | None = None) -> None:
        self._shared = isinstance(bootstrap, Router)
        self.router = bootstrap if isinstance(bootstrap, Router) else Router(bootstrap, client)
        self.topics = Topics(self.router)
        self.configs = Configs(self.router)
        self.groups = Groups(self.router)
        self.transactions = Transactions(self.router)
        self.own = Own(self.router, self.groups)

    @asynccontextmanager
    async def _live(self) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            if not self._shared:
                await stack.enter_async_context(self.router)
            yield

    async def cluster(self) -> ClusterInfo:
        """Who is in the cluster and who controls it."""
        metadata = await self.router.refresh([])
        cluster_id, controller = metadata.cluster_id or "", metadata.controller_id
        connection = await self.router.connection()
        try:
            answer = await connection.ask(DESCRIBE_CLUSTER, DescribeClusterRequest(), DescribeClusterResponse)
            check(answer.error_code, answer.error_message, "cluster")
            cluster_id, controller = answer.cluster_id, answer.controller_id
        except NotSupported:
            pass  # before Kafka 2.8 the metadata tells all there is
        brokers = tuple(metadata.brokers[node] for node in sorted(metadata.brokers))
        features = {name: levels[0] for name, levels in sorted(connection.finalized.items())}
        return ClusterInfo(cluster_id, controller, brokers, features, "logd.version" in connection.features)

    async def offsets(
        self, wanted: Mapping[TopicPartition, int], *, committed_only: bool = False
    ) -> dict[TopicPartition, FoundOffset]:
        """See :func:`logd.client.offsets.list_offsets`."""
        return await list_offsets(self.router, wanted, committed_only=committed_only)

    async def sizes_bytes(self) -> dict[TopicPartition, int]:
        """What each partition takes on disk, the largest replica of each."""
        metadata = await self.router.refresh([])
        found: dict[TopicPartition, int] = {}
        for node in metadata.brokers:
            request = DescribeLogDirsRequest(topics=None)
            answer = await self.router.ask(DESCRIBE_LOG_DIRS, request, DescribeLogDirsResponse, node=node)
            check(answer.error_code, None, "log directories")
            for directory in answer.results:
                for topic in directory.topics:
                    for part in topic.partitions:
                        at = TopicPartition(topic.name, part.partition_index)
                        found[at] = max(part.partition_size, found.get(at, 0))
        return found
