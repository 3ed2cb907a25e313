"""DescribeQuorum (55), UpdateFeatures (57), UnregisterBroker (64): the nodes that make the cluster, and their levels.

One node keeps the metadata by itself: its quorum is itself, the levels of most features are the only ones that it has,
and it can't be taken out of the cluster while it is the cluster. Answered from the image; only transaction.version can
be changed. Called through the registry.
"""

from __future__ import annotations

from logd.apis.registry import Call, api
from logd.apis.versions import FEATURES
from logd.cluster.controller import CLUSTER_METADATA
from logd.cluster.image import Changes, Image
from logd.errors import ErrorCode, Refused
from logd.wire.schemas.describe_quorum import (
    DescribeQuorumRequest,
    DescribeQuorumResponse,
    DescribeQuorumResponsePartitionData,
    DescribeQuorumResponseTopicData,
    Listener,
    Node,
    ReplicaState,
)
from logd.wire.schemas.unregister_broker import UnregisterBrokerRequest, UnregisterBrokerResponse
from logd.wire.schemas.update_features import (
    FeatureUpdateKey,
    UpdatableFeatureResult,
    UpdateFeaturesRequest,
    UpdateFeaturesResponse,
)

DESCRIBE_QUORUM, UPDATE_FEATURES, UNREGISTER_BROKER = 55, 57, 64

CHANGEABLE = ("transaction.version",)
"""Features whose level may be chosen; clients do what it says."""
UPGRADE, SAFE_DOWNGRADE, UNSAFE_DOWNGRADE = 1, 2, 3
"""What UpdateFeatures may be meant for (KIP-778)."""


# DescribeQuorum


@api(DESCRIBE_QUORUM)
def describe_quorum(call: Call, request: DescribeQuorumRequest) -> DescribeQuorumResponse:
    """Versions 0-2 (KIP-595, KIP-836, KIP-853). Exactly one partition has a quorum, and only alone is it described.

    The epoch is that of the node's registration, which every start raises; the offsets are the version of the
    metadata, of which each change is one. The node's listener is the one that the client came in by.
    """
    if [(topic.topic_name, [one.partition_index for one in topic.partitions]) for topic in request.topics] != [
        (CLUSTER_METADATA, [0])
    ]:
        return _no_quorum(request)
    image = call.services.cluster.image
    leader, now_ms = image.controller_id, call.services.clock.now_ms()
    registered = image.brokers.get(leader)
    voter = ReplicaState(
        leader, log_end_offset=image.version, last_fetch_timestamp=now_ms, last_caught_up_timestamp=now_ms
    )
    quorum = DescribeQuorumResponsePartitionData(
        leader_id=leader,
        leader_epoch=registered.epoch if registered is not None else 0,
        high_watermark=image.version,
        current_voters=[voter],
    )
    return DescribeQuorumResponse(
        topics=[DescribeQuorumResponseTopicData(CLUSTER_METADATA, [quorum])],
        nodes=[Node(leader, [Listener(call.connection.listener, *call.advertised(leader))])],
    )


def _no_quorum(request: DescribeQuorumRequest) -> DescribeQuorumResponse:
    code, message = ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, f"Only {CLUSTER_METADATA}-0, asked for alone, has a quorum."
    topics = [
        DescribeQuorumResponseTopicData(
            topic.topic_name,
            [DescribeQuorumResponsePartitionData(one.partition_index, code, message) for one in topic.partitions],
        )
        for topic in request.topics
    ]
    return DescribeQuorumResponse(topics=topics)


# UpdateFeatures


def _update_features_refused(request: UpdateFeaturesRequest, version: int, refused: Refused) -> UpdateFeaturesResponse:
    return UpdateFeaturesResponse(0, refused.code, refused.message)


@api(UPDATE_FEATURES, refuse=_update_features_refused)
async def update_features(call: Call, request: UpdateFeaturesRequest) -> UpdateFeaturesResponse:
    """Versions 0-2 (KIP-584, KIP-778). All or none; transaction.version may be chosen, the others are as they are.

    A timeout is not looked at, as in Kafka. Up to version 1 each feature is told too, with Kafka's text for no error.
    """
    cluster = call.services.cluster
    for update in request.feature_updates:
        wrong = _why_not(update, call.version, cluster.image)
        if wrong is not None:
            raise Refused(
                ErrorCode.INVALID_UPDATE_VERSION,
                f"No feature was changed: level {update.max_version_level} of {update.feature!r}: {wrong}",
            )
    # of the others a later release, which may have other levels, decides by itself
    chosen = {one.feature: one.max_version_level for one in request.feature_updates if one.feature in CHANGEABLE}
    if not request.validate_only and any(level != _level(cluster.image, name) for name, level in chosen.items()):
        await cluster.change(lambda image: Changes(features={**image.features, **chosen}))
    results = [UpdatableFeatureResult(update.feature, 0, "NONE") for update in request.feature_updates]
    return UpdateFeaturesResponse(0, 0, None, results)


def _level(image: Image, feature: str) -> int:
    """The level in force: the highest, unless another was chosen."""
    return image.features.get(feature, FEATURES[feature][1])


def _why_not(update: FeatureUpdateKey, version: int, image: Image) -> str | None:
    """What is wrong with a level, or None when it is the one in force or may be chosen."""
    if version >= 1 and update.upgrade_type not in (UPGRADE, SAFE_DOWNGRADE, UNSAFE_DOWNGRADE):
        return f"the kind of update {update.upgrade_type} is unknown: give 1, upgrade, or 2 or 3, downgrade."
    if update.feature not in FEATURES:
        return f"there is no such feature here, only {', '.join(FEATURES)}."
    low, high = FEATURES[update.feature]
    level, wanted = _level(image, update.feature), update.max_version_level
    if wanted == level:
        return None
    if low <= wanted <= high and update.feature in CHANGEABLE:
        downgrade = update.allow_downgrade if version == 0 else update.upgrade_type != UPGRADE
        if (wanted < level) == downgrade:
            return None
        if downgrade:
            return f"it is no downgrade, the level in force is {level}."
        return f"it is a downgrade from {level}: ask for one, safe or unsafe."
    if low <= wanted < high:
        return f"this node works at level {high} and can't be downgraded."
    return f"this node serves levels {low} to {high}."


# UnregisterBroker


def _unregister_broker_refused(
    request: UnregisterBrokerRequest, version: int, refused: Refused
) -> UnregisterBrokerResponse:
    return UnregisterBrokerResponse(0, refused.code, refused.message)


@api(UNREGISTER_BROKER, refuse=_unregister_broker_refused)
def unregister_broker(call: Call, request: UnregisterBrokerRequest) -> UnregisterBrokerResponse:
    """Version 0 (KIP-631). Kafka takes its only, live broker out too, and every partition is without a leader then."""
    if request.broker_id not in call.services.cluster.image.brokers:
        raise Refused(ErrorCode.BROKER_ID_NOT_REGISTERED, f"No broker with id {request.broker_id} is registered.")
    raise Refused(
        ErrorCode.INVALID_REQUEST,
        f"Broker {request.broker_id} is this cluster's only node and alive: without it no partition would have a "
        "leader. Stop it instead.",
    )
