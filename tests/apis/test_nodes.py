"""DescribeQuorum, UpdateFeatures and UnregisterBroker in every version, answered from what is true of one node."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from logd.apis import nodes
from logd.apis.nodes import (
    DESCRIBE_QUORUM,
    SAFE_DOWNGRADE,
    UNREGISTER_BROKER,
    UNSAFE_DOWNGRADE,
    UPDATE_FEATURES,
    UPGRADE,
)
from logd.apis.versions import API_VERSIONS, FEATURES
from logd.cluster.controller import CLUSTER_METADATA
from logd.cluster.store import MemoryStore
from logd.errors import ErrorCode
from logd.wire.message import ZERO_UUID
from logd.wire.schemas.api_versions import ApiVersionsRequest
from logd.wire.schemas.describe_quorum import (
    DescribeQuorumRequest,
    DescribeQuorumRequestPartitionData,
    DescribeQuorumRequestTopicData,
)
from logd.wire.schemas.unregister_broker import UnregisterBrokerRequest
from logd.wire.schemas.update_features import FeatureUpdateKey, UpdateFeaturesRequest
from tests.apis.calls import Admin, admin, versions

pytestmark = pytest.mark.trio
assert nodes

NOW_MS = 1_790_000_000_123
METADATA = "metadata.version"
LOW, HIGH = FEATURES[METADATA]


# DescribeQuorum


async def node(store: MemoryStore | None = None) -> Admin:
    """A node with a clock."""
    cluster = (await admin(store=store)).cluster
    return Admin(cluster, clock=SimpleNamespace(now_ms=lambda: NOW_MS))


def quorum(*topics: tuple[str, list[int]]) -> DescribeQuorumRequest:
    """A request for partitions."""
    return DescribeQuorumRequest(
        [
            DescribeQuorumRequestTopicData(name, [DescribeQuorumRequestPartitionData(index) for index in indexes])
            for name, indexes in topics
        ]
    )


@pytest.mark.parametrize("version", versions(DESCRIBE_QUORUM))
async def test_describe_quorum(version: int) -> None:
    """One voter, this node; the offset is the version of the metadata, the epoch goes up with every start."""
    store = MemoryStore()
    for epoch in (1, 2):
        asked = await node(store)
        answer = await asked.ask(DESCRIBE_QUORUM, version, quorum((CLUSTER_METADATA, [0])))
        (topic,) = answer.topics
        (found,) = topic.partitions
        (voter,) = found.current_voters
        end = asked.cluster.image.version
        assert (answer.error_code, topic.topic_name, found.partition_index, found.error_code) == (
            0,
            CLUSTER_METADATA,
            0,
            0,
        )
        assert (found.leader_id, found.leader_epoch, found.high_watermark, found.observers) == (0, epoch, end, [])
        assert (voter.replica_id, voter.log_end_offset, voter.replica_directory_id) == (0, end, ZERO_UUID)
        times = (voter.last_fetch_timestamp, voter.last_caught_up_timestamp)
        assert times == ((NOW_MS, NOW_MS) if version >= 1 else (-1, -1))
        if version >= 2:
            (known,) = answer.nodes
            assert [(one.name, one.host, one.port) for one in known.listeners] == [("PLAINTEXT", "there", 9999)]


@pytest.mark.parametrize("version", versions(DESCRIBE_QUORUM))
@pytest.mark.parametrize(
    "topics",
    [
        [(CLUSTER_METADATA, [1])],
        [(CLUSTER_METADATA, [-1])],
        [(CLUSTER_METADATA, [0, 1])],
        [(CLUSTER_METADATA, [0]), ("a", [0])],
        [("a", [0])],
        [(CLUSTER_METADATA, [])],
        [],
    ],
)
async def test_describe_no_quorum(version: int, topics: list[tuple[str, list[int]]]) -> None:
    """Everything but the metadata's one partition, asked for alone, is unknown."""
    answer = await (await node()).ask(DESCRIBE_QUORUM, version, quorum(*topics))
    told = [(topic.topic_name, [one.partition_index for one in topic.partitions]) for topic in answer.topics]
    codes = {one.error_code for topic in answer.topics for one in topic.partitions}
    assert (answer.error_code, told, answer.nodes) == (0, topics, [])
    assert codes <= {ErrorCode.UNKNOWN_TOPIC_OR_PARTITION}


# UpdateFeatures


@pytest.mark.parametrize("version", versions(UPDATE_FEATURES))
@pytest.mark.parametrize("kind", [UPGRADE, SAFE_DOWNGRADE, UNSAFE_DOWNGRADE])
@pytest.mark.parametrize("timeout_ms", [1000, 0])
async def test_features_in_force(version: int, kind: int, timeout_ms: int) -> None:
    """The level that is in force may be asked for; up to version 1 each feature is told."""
    asked = await admin()
    before = asked.cluster.image
    updates = [FeatureUpdateKey(name, high, False, kind) for name, (_, high) in FEATURES.items()]
    answer = await asked.ask(UPDATE_FEATURES, version, UpdateFeaturesRequest(timeout_ms, updates))
    assert (answer.error_code, answer.error_message) == (0, None)
    assert [row.feature for row in answer.results] == (list(FEATURES) if version < 2 else [])
    assert asked.cluster.image is before


async def test_levels_that_nobody_chooses_are_not_kept() -> None:
    """The level that is in force is asked for beside one that changes: a later release must not be held to it."""
    asked = await admin()
    updates = [FeatureUpdateKey(METADATA, HIGH), FeatureUpdateKey("transaction.version", 1, False, SAFE_DOWNGRADE)]
    assert (await asked.ask(UPDATE_FEATURES, 2, UpdateFeaturesRequest(1000, updates))).error_code == 0
    assert asked.cluster.image.features == {"transaction.version": 1}


@pytest.mark.parametrize("version", versions(UPDATE_FEATURES))
@pytest.mark.parametrize("kind", [UPGRADE, SAFE_DOWNGRADE, UNSAFE_DOWNGRADE])
@pytest.mark.parametrize(
    ("feature", "level"),
    [
        (METADATA, HIGH + 1),
        (METADATA, HIGH - 1),
        (METADATA, LOW - 1),
        (METADATA, 0),
        (METADATA, -1),
        ("no.such.feature", 1),
        ("no.such.feature", 0),
        ("", 1),
    ],
)
async def test_features_refused(version: int, kind: int, feature: str, level: int) -> None:
    """Any other level and any other feature: nothing is accepted and ignored, whatever stands beside it."""
    updates = [FeatureUpdateKey(METADATA, HIGH), FeatureUpdateKey(feature, level, False, kind)]
    for order in (updates, updates[::-1]):
        answer = await (await admin()).ask(UPDATE_FEATURES, version, UpdateFeaturesRequest(1000, order))
        assert (answer.error_code, answer.results) == (ErrorCode.INVALID_UPDATE_VERSION, [])
        assert repr(feature) in answer.error_message


@pytest.mark.parametrize("kind", [0, 4, -1])
async def test_features_of_an_unknown_kind(kind: int) -> None:
    """The kind of an update must be a known one even when nothing would change."""
    request = UpdateFeaturesRequest(1000, [FeatureUpdateKey(METADATA, HIGH, False, kind)])
    answer = await (await admin()).ask(UPDATE_FEATURES, 2, request)
    assert answer.error_code == ErrorCode.INVALID_UPDATE_VERSION


@pytest.mark.parametrize("version", versions(UPDATE_FEATURES))
async def test_transaction_version_is_chosen(version: int) -> None:
    """transaction.version goes down when a downgrade is asked for, up again, and survives a restart; 0 is not told."""
    store = MemoryStore()
    asked = await admin(store=store)

    async def update(level: int, kind: int, validate_only: bool = False) -> int:
        updates = [FeatureUpdateKey("transaction.version", level, kind != UPGRADE, kind if version else UPGRADE)]
        answer = await asked.ask(UPDATE_FEATURES, version, UpdateFeaturesRequest(1000, updates, validate_only))
        return int(answer.error_code)

    async def finalized() -> int | None:
        answer = await asked.ask(API_VERSIONS, 4, ApiVersionsRequest("test", "1"))
        return {row.name: row.max_version_level for row in answer.finalized_features}.get("transaction.version")

    assert await finalized() == 2
    assert await update(1, UPGRADE) == ErrorCode.INVALID_UPDATE_VERSION
    assert await update(3, UPGRADE) == ErrorCode.INVALID_UPDATE_VERSION
    assert await update(-1, SAFE_DOWNGRADE) == ErrorCode.INVALID_UPDATE_VERSION
    if version:
        assert await update(0, SAFE_DOWNGRADE, validate_only=True) == 0
        assert await finalized() == 2
    assert await update(0, SAFE_DOWNGRADE) == 0
    assert await finalized() is None
    assert await update(1, SAFE_DOWNGRADE) == ErrorCode.INVALID_UPDATE_VERSION
    assert await update(1, UPGRADE) == 0
    asked = await admin(store=store)
    assert await finalized() == 1


# UnregisterBroker


@pytest.mark.parametrize("version", versions(UNREGISTER_BROKER))
@pytest.mark.parametrize("broker_id", [1, -1, 2**31 - 1])
async def test_unregister_unknown(version: int, broker_id: int) -> None:
    """A broker that was never here."""
    answer = await (await admin()).ask(UNREGISTER_BROKER, version, UnregisterBrokerRequest(broker_id))
    assert answer.error_code == ErrorCode.BROKER_ID_NOT_REGISTERED


async def test_unregister_itself() -> None:
    """The node that is the cluster stays registered, and says why."""
    asked = await admin()
    answer = await asked.ask(UNREGISTER_BROKER, 0, UnregisterBrokerRequest(0))
    assert answer.error_code == ErrorCode.INVALID_REQUEST
    assert "Stop it instead" in answer.error_message
    assert 0 in asked.cluster.image.brokers
